"""S3 over https through a proxy with CONNECT: by boto3; failures of the proxy are errors of the network."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from gllm_storage import StorageUnavailableError
from gllm_storage.errors import Remedy
from tests.promises.faulty import MINISTACK_HTTPS, NAME, PREVIOUS, behind_proxy, content_of
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

CONTENT = content_of(100_000)
ANSWERS = {
    "connects": b"HTTP/1.1 200 Connection established\r\n\r\n",
    "denies": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    "wants-password": b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n",
    "no-gateway": b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
    "hangs-up": b"",
}


@contextlib.contextmanager
def connect_proxy(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Run a proxy that forwards connections after CONNECT, if its answer is 200. Yields its URL and the requests."""
    asked: list[bytes] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = client.recv(2**14)
            asked.append(head.partition(b"\r\n")[0])
            if b" 200 " not in answer:
                client.sendall(answer)
                return
            host, _, port = head.split()[1].decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(answer)
                back = threading.Thread(target=pump, args=(server, client), daemon=True)
                back.start()
                pump(client, server)
                back.join(PATIENCE)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(autouse=True)
def _no_exceptions(monkeypatch: pytest.MonkeyPatch, no_waits: None) -> None:
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_connect(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfers through a proxy are right, and each of their connections goes through it."""
    (tmp_path / "source").write_bytes(CONTENT)
    with behind_proxy(MINISTACK_HTTPS, servers) as faulty, connect_proxy(ANSWERS["connects"]) as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)
        client = faulty.client(multipart_threshold="1KiB")
        assert not client.file_exists(NAME)
        client.upload_file(tmp_path / "source", NAME, check_conflict=True)
        faulty.assert_holds(CONTENT)
        assert client.download_file(NAME, tmp_path / "copy").read_bytes() == CONTENT
        with client.open(NAME, "rb") as file:
            assert file.read() == CONTENT
        assert set(asked) == {f"CONNECT {faulty.proxy.url.removeprefix('https://')} HTTP/1.0".encode()} or set(asked) == {
            f"CONNECT {faulty.proxy.url.removeprefix('https://')} HTTP/1.1".encode()
        }


@pytest.mark.parametrize("fault", [name for name in ANSWERS if name != "connects"])
def test_proxy_fails(fault: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that does not connect is an error of the network; no local file changes, and nothing is sent to the store."""
    (tmp_path / "local").write_bytes(PREVIOUS)
    with behind_proxy(MINISTACK_HTTPS, servers) as faulty, connect_proxy(ANSWERS[fault]) as (url, asked):
        monkeypatch.setenv("HTTPS_PROXY", url)
        client = faulty.client(max_attempts="2")
        for call in (
            lambda: client.download_file(NAME, tmp_path / "local"),
            lambda: client.upload_file(tmp_path / "local", NAME),
            lambda: client.file_exists(NAME),
        ):
            with pytest.raises(StorageUnavailableError) as caught:
                call()
            assert caught.value.remedy is Remedy.CHECK_NETWORK
        assert faulty.proxy.requests == []
        assert len(asked) < 20
    assert (tmp_path / "local").read_bytes() == PREVIOUS
    assert [path.name for path in tmp_path.iterdir()] == ["local"]
