"""Connecting: to servers that do not answer, that refuse, or that have several addresses; and giving it up meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.http.connecting import Server
from gllm_storage.s3.http.wire import CannotConnectError, Connection
from tests.unit.s3.http.scripted import KEYS, OK, ScriptedServer, open_sockets, wait
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30.0
NEVER = 600.0
SYN_SENT = "02"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes no more connections: the kernel drops what asks for one."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # one more than there is room for, whatever the kernel makes of 0
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def tls() -> ssl.SSLContext:
    """What a client trusts."""
    context = ssl.create_default_context()
    trustme.CA().configure_trust(context)
    return context


def connecting(port: int) -> int:
    """How many sockets of this machine wait for a server to take their connection."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return sum(fields[2] == f"0100007F:{port:04X}" and fields[3] == SYN_SENT for fields in lines)


class Attempt:
    """A connection that is being made in a thread, and may be given up."""

    def __init__(self, server: Server) -> None:
        self.stop = Stop()
        self.ended_by: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(server,), daemon=True)
        self._thread.start()

    def _run(self, server: Server) -> None:
        try:
            with stopped_by(self.stop):
                Connection(server)
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.ended_by.append(error)

    def end(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def test_waiting_for_a_server_that_does_not_answer_ends_when_the_transfer_is_given_up(silent: int) -> None:
    before, others = open_sockets(), connecting(silent)
    attempt = Attempt(Server("http", "127.0.0.1", silent, NEVER, NEVER))
    eventually(lambda: connecting(silent) == others + 1)
    attempt.stop.set()
    attempt.end()
    assert [type(each) for each in attempt.ended_by] == [TransferStopped]
    assert open_sockets() <= before


def test_a_handshake_that_does_not_come_ends_when_the_transfer_is_given_up(tls: ssl.SSLContext) -> None:
    heard = threading.Event()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1)  # it has begun to say hello
                heard.set()
                while peer.recv(2**16):
                    pass

        server = threading.Thread(target=listen, daemon=True)
        server.start()
        attempt = Attempt(Server("https", "127.0.0.1", listener.getsockname()[1], NEVER, NEVER, tls))
        assert heard.wait(SECONDS)
        attempt.stop.set()
        attempt.end()
        server.join(SECONDS)  # it has seen the end of the connection
        assert not server.is_alive()
    assert [type(each) for each in attempt.ended_by] == [TransferStopped]


def test_who_gave_up_before_does_not_connect() -> None:
    with ScriptedServer(OK) as server:
        stop = Stop()
        stop.set()
        with stopped_by(stop), pytest.raises(TransferStopped):
            Connection(Server("http", "127.0.0.1", server.port, SECONDS, SECONDS))


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(silent: int, tls: ssl.SSLContext) -> None:
    with pytest.raises(CannotConnectError) as caught:
        Connection(Server("http", "127.0.0.1", silent, 0.05, NEVER))
    assert isinstance(caught.value.__cause__, TimeoutError)
    with ScriptedServer(wait) as server, pytest.raises(CannotConnectError) as caught:
        Connection(Server("https", "127.0.0.1", server.port, 0.05, NEVER, tls))
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(OK) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()
        closed.close()
        inet = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found: list[Any] = [(*inet, refusing), (*inet, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        Connection(Server("http", "store.example", 80, SECONDS, SECONDS)).close()
        eventually(lambda: server.connections == 1)


def test_a_cancelled_upload_does_not_wait_for_a_server_that_does_not_answer(silent: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    filesystem = S3FileSystem(
        key=KEYS["aws_access_key_id"],
        secret=KEYS["aws_secret_access_key"],
        endpoint_url=f"http://127.0.0.1:{silent}",
        client_kwargs={"region_name": "us-east-1"},
        config_kwargs={"connect_timeout": NEVER},
        skip_instance_cache=True,
    )
    others = connecting(silent)

    async def upload() -> None:
        task = asyncio.ensure_future(filesystem._put_file(str(tmp_path / "file"), "bucket/key"))
        await asyncio.to_thread(eventually, lambda: connecting(silent) == others + 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, SECONDS)

    asyncio.run(upload())
    eventually(lambda: connecting(silent) == others)


@pytest.mark.parametrize("action", ["upload", "create", "download"])
def test_ctrl_c_does_not_wait_for_a_server_that_does_not_answer(action: str, silent: int, tmp_path: Path) -> None:
    local = tmp_path / "file"
    local.write_bytes(b"before")
    config = {
        **KEYS,
        "bucket_name": "models",
        "endpoint_url": f"http://127.0.0.1:{silent}",
        "region_name": "us-east-1",
        "connect_timeout": f"{NEVER}s",
        "conditional_writes": "enforced",
    }
    job = {"provider": "s3", "config": config, "action": action, "local": str(local), "remote": "model.bin"}
    command = [sys.executable, "-m", "tests.scripts.transfer", json.dumps(job)]
    others = connecting(silent)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        try:
            eventually(lambda: child.poll() is not None or connecting(silent) == others + 1)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=SECONDS)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGINT, errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert local.read_bytes() == b"before"
