"""A store that reports success before it has received the complete body, on every cloud and by both engines of S3."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import get_storage_client
from gllm_storage.errors import StorageError, StorageUnavailableError
from gllm_storage.testing import no_waits
from tests.rig import MIB
from tests.unit.s3.http.scripted import KEYS, ScriptedServer, header
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.s3.http.scripted import Peer

SIZE = 24 * MIB
"""More than the buffers of the loopback device hold: some of the body is unsent when the server stops reading."""
READ = 4 * MIB
LARGE = {"multipart_threshold": "64MiB", "max_attempts": "2", "read_timeout": "1s", "connect_timeout": "1s"}
"""The sockets of the SDKs have the timeout of connections while a body is sent."""
STORED = json.dumps({"kind": "storage#object", "name": "x", "generation": "1", "size": str(SIZE)}).encode()
CONFIGS: dict[str, tuple[str, dict[str, str], bytes]] = {
    "s3-auto": ("s3", {"engine": "auto"}, b"200 OK"),
    "s3-boto3": ("s3", {"engine": "boto3"}, b"200 OK"),
    "gcs": ("gcs", {"token": "anon", "bucket_name": "models"}, b"200 OK"),
    "azure": ("azure", {"account_name": "account", "account_key": "a2V5", "container_name": "models"}, b"201 Created"),
}


def early(answer: bytes, then: str, end: threading.Event) -> Callable[[Peer], None]:
    """A server that reads 4 MiB of an upload and reports success; it knows no object."""

    def serve(peer: Peer) -> None:
        if not peer.head.startswith((b"PUT", b"POST")):
            peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        if header(peer.head, "expect"):
            peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        left = READ
        while left > 0:
            left -= len(peer.socket.recv(min(left, 2**16)))
        peer.send(answer)
        if then == "closes":
            peer.close()
        elif then == "drains":
            while peer.socket.recv(2**16):
                pass
        else:
            end.wait(PATIENCE)  # keeps the connection, and reads nothing more

    return serve


@pytest.fixture(params=CONFIGS)
def serving(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Any]]:
    """Makes a client of a store of each kind that reports success early."""
    provider, config, status = CONFIGS[request.param]
    body = STORED if provider == "gcs" else b""
    headers = b"" if provider == "gcs" else b'ETag: "e"\r\nLast-Modified: Sat, 28 Nov 2026 10:00:00 GMT\r\n'
    answer = b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body)
    with contextlib.ExitStack() as stack, no_waits():

        def made(then: str) -> Any:
            end = threading.Event()
            server = stack.enter_context(ScriptedServer(early(answer, then, end), reads_bodies=False))
            stack.callback(end.set)
            url = f"{server.url}/account" if provider == "azure" else server.url
            of_s3 = {"bucket_name": "models", "region_name": "us-east-1", **KEYS} if provider == "s3" else {}
            return get_storage_client(provider, {"endpoint_url": url, **of_s3, **config, **LARGE})

        yield made


@pytest.mark.parametrize("then", ["closes", "stops"])
def test_upload(serving: Callable[[str], Any], tmp_path: Path, then: str) -> None:
    """An upload that the store did not receive completely is not a success, whatever the store says."""
    (tmp_path / "file").write_bytes(bytes(SIZE))
    with pytest.raises(StorageUnavailableError):
        serving(then).upload_file(tmp_path / "file", "x")


@pytest.mark.parametrize("serving", ["s3-auto"], indirect=True)
def test_rest_is_discarded(serving: Callable[[str], Any], tmp_path: Path) -> None:
    """The direct client notices an early answer even if the server goes on to read."""
    (tmp_path / "file").write_bytes(bytes(SIZE))
    with pytest.raises(StorageUnavailableError):
        serving("drains").upload_file(tmp_path / "file", "x")


@pytest.mark.parametrize("count", [1, 3])
def test_pipe(serving: Callable[[str], Any], count: int) -> None:
    """The same for bytes, one object or a list."""
    client = serving("closes")
    with pytest.raises(StorageError):
        client.filesystem.pipe({f"models/x{number}": bytes(SIZE) for number in range(count)})
