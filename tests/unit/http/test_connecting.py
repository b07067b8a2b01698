"""Connecting to servers that are silent, refuse, or have several addresses, and cancelling it."""

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
from gllm_storage.http.connecting import Server
from gllm_storage.http.wire import CannotConnectError, Connection
from gllm_storage.s3.filesystem import S3FileSystem
from tests.unit.s3.http.scripted import KEYS, OK, ScriptedServer, open_sockets, wait
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 30.0
NEVER = 600.0
SYN_SENT = "02"


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server with a full queue: the kernel drops further connection requests."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # more than the queue of any kernel holds for a backlog of 0
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def tls() -> ssl.SSLContext:
    """The TLS context of a client."""
    context = ssl.create_default_context()
    trustme.CA().configure_trust(context)
    return context


def connecting(port: int) -> int:
    """The number of sockets of this machine that wait for the port to accept their connection."""
    lines = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    return sum(fields[2] == f"0100007F:{port:04X}" and fields[3] == SYN_SENT for fields in lines)


class Attempt:
    """An attempt to connect, in a thread, which can be cancelled."""

    def __init__(self, server: Server) -> None:
        self.stop = Stop()
        self.ended_by: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(server,), daemon=True)
        self._thread.start()

    def _run(self, server: Server) -> None:
        try:
            with stopped_by(self.stop):
                Connection(server)
        except BaseException as error:  # noqa: BLE001 - checked by the test
            self.ended_by.append(error)

    def end(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


def test_stop_while_connecting(silent: int) -> None:
    """Connecting to a silent server ends when the transfer is cancelled."""
    before, others = open_sockets(), connecting(silent)
    attempt = Attempt(Server("http", "127.0.0.1", silent, NEVER, NEVER))
    eventually(lambda: connecting(silent) == others + 1)
    attempt.stop.set()
    attempt.end()
    assert [type(each) for each in attempt.ended_by] == [TransferStopped]
    assert open_sockets() <= before


def test_stop_during_handshake(tls: ssl.SSLContext) -> None:
    """Waiting for a TLS handshake ends when the transfer is cancelled."""
    heard = threading.Event()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def listen() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1)  # the client has begun the handshake
                heard.set()
                while peer.recv(2**16):
                    pass

        server = threading.Thread(target=listen, daemon=True)
        server.start()
        attempt = Attempt(Server("https", "127.0.0.1", listener.getsockname()[1], NEVER, NEVER, tls))
        assert heard.wait(SECONDS)
        attempt.stop.set()
        attempt.end()
        server.join(SECONDS)  # the server has seen the end of the connection
        assert not server.is_alive()
    assert [type(each) for each in attempt.ended_by] == [TransferStopped]


def test_stop_before_connecting() -> None:
    """A cancelled transfer does not connect."""
    with ScriptedServer(OK) as server:
        stop = Stop()
        stop.set()
        with stopped_by(stop), pytest.raises(TransferStopped):
            Connection(Server("http", "127.0.0.1", server.port, SECONDS, SECONDS))


def test_connect_timeout(silent: int, tls: ssl.SSLContext) -> None:
    """Connecting to a silent server ends after the timeout."""
    with pytest.raises(CannotConnectError) as caught:
        Connection(Server("http", "127.0.0.1", silent, 0.05, NEVER))
    assert isinstance(caught.value.__cause__, TimeoutError)
    with ScriptedServer(wait) as server, pytest.raises(CannotConnectError) as caught:
        Connection(Server("https", "127.0.0.1", server.port, 0.05, NEVER, tls))
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a host name are tried."""
    with ScriptedServer(OK) as server, socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()
        closed.close()
        inet = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        found: list[Any] = [(*inet, refusing), (*inet, ("127.0.0.1", server.port))]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        Connection(Server("http", "store.example", 80, SECONDS, SECONDS)).close()
        eventually(lambda: server.connections == 1)


def test_cancelled_upload(silent: int, tmp_path: Path) -> None:
    """A cancelled upload does not wait for a silent server."""
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
def test_ctrl_c_while_connecting(action: str, silent: int, tmp_path: Path) -> None:
    """Ctrl-C does not wait for a silent server."""
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
