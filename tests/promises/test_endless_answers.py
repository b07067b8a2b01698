"""Answers without an end, or in an unknown form: an error after a bounded time, number of bytes and number of requests."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import StorageError
from gllm_storage.http import wire
from gllm_storage.store import answers
from gllm_storage.testing import no_waits
from tests.servers.hostile import CLOUDS, Asked, Hostile, Reply, client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient

MIB = 2**20
QUICK = {"read_timeout": "1s", "max_attempts": "1", "min_throughput": "1KiB"}
HEAD = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\nx-ms-blob-type: BlockBlob\r\n'


class Desk:
    """A server and one client of it. Tests replace the server's answers."""

    def __init__(self, cloud: str, server: Hostile) -> None:
        self.cloud = cloud
        self.server = server
        self.client: FsspecStorageClient = client_of(cloud, server.url, **QUICK)

    def serve(self, answer: Callable[[Asked], Reply]) -> None:
        self.server.answer = answer
        self.server.asked.clear()
        self.server.sent = 0


@pytest.fixture(scope="module")
def desks() -> Iterator[dict[str, Desk]]:
    """The desk of each cloud."""
    with no_waits(), contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for module in (answers, wire):
            patch.setattr(module, "COMPLETION_PATIENCE", 2)
        yield {cloud: Desk(cloud, stack.enter_context(Hostile(lambda _: Reply(404)))) for cloud in CLOUDS}


@pytest.fixture(params=CLOUDS)
def desk(request: pytest.FixtureRequest, desks: dict[str, Desk]) -> Desk:
    """A desk of any cloud."""
    return desks[request.param]


def _for_ever(first: bytes, then: bytes, pause: float = 0.0) -> Callable[[Asked], Reply]:
    def chunks() -> Iterator[bytes]:
        yield first
        while True:
            yield then
            time.sleep(pause)

    return lambda _: Reply(raw=chunks())


ENDLESS = {
    "interim": _for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 64),
    "processing": _for_ever(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 64),
    "headers": _for_ever(HEAD, b"x-header: value\r\n" * 64),
    "header": _for_ever(HEAD + b"x-header: ", b"v" * 1024),
    "trailers": _for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x-trailer: value\r\n" * 64),
    "chunk-size": _for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1" * 1024),
    "extension": _for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x" * 1024),
    "error": _for_ever(b"HTTP/1.1 403 Forbidden\r\n\r\n", b"<Error>" + b"x" * 2**16),
    "chunked-error": _for_ever(
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    ),
    "server-error": _for_ever(b"HTTP/1.1 503 Busy\r\nContent-Length: 99999999999\r\n\r\n", b"x" * 2**16),
    "redirect": _for_ever(b"HTTP/1.1 301 Moved\r\nLocation: http://x/\r\n\r\n", b"x" * 2**16),
    "slow-head": _for_ever(HEAD + b"x-header: ", b"v", 0.3),
    "slow-error": _for_ever(b"HTTP/1.1 403 Forbidden\r\n\r\n", b"x", 0.3),
    "slow-trailer": _for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"x", 0.3),
}

VERBS: dict[str, Callable[[FsspecStorageClient, Path], object]] = {
    "exists": lambda client, _: client.file_exists("a"),
    "list": lambda client, _: list(client.list_files()),
    "download": lambda client, folder: client.download_file("a", folder / "a"),
    "upload": lambda client, folder: client.upload_file(folder / "source", "a"),
    "delete": lambda client, _: client.delete_file("a"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENDLESS)
def test_endless(desk: Desk, kind: str, tmp_path: Path) -> None:
    """Each verb fails, soon, and after some MiB at most."""
    (tmp_path / "source").write_bytes(b"content")
    desk.serve(ENDLESS[kind])
    began = time.monotonic()
    for name, verb in VERBS.items():
        desk.server.sent = 0
        with contextlib.suppress(StorageError, FileNotFoundError):
            # A HEAD request has no body: its status is the answer.
            assert verb(desk.client, tmp_path) is None or name in {"delete", "exists"}, name
        assert desk.server.sent < 64 * MIB, name
    assert time.monotonic() - began < 60
    assert not (tmp_path / "a").exists()


def _with_content(asked: Asked, first: bytes, rest: Iterator[bytes]) -> Reply:
    """A HEAD request is answered; a GET gets a body of the test."""
    headers = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT", "x-ms-blob-type": "BlockBlob"}
    if asked.method == "HEAD":
        return Reply(200, b"x" * 4096, headers)
    if "/storage/v1/b/" in asked.path and "alt" not in asked.query:
        return Reply(body=b'{"kind": "storage#object", "name": "a", "generation": "1", "size": "4096", "etag": "e"}')

    ranged = "range" in asked.headers or "x-ms-range" in asked.headers
    head = HEAD.replace(b"200 OK", b"206 Partial\r\nContent-Range: bytes 0-4095/4096") if ranged else HEAD

    def chunks() -> Iterator[bytes]:
        yield head + first
        yield from rest

    return Reply(raw=chunks())


def _trickle() -> Iterator[bytes]:
    while True:
        yield b"x"
        time.sleep(0.3)


@pytest.mark.parametrize("framing", [b"Content-Length: 4096\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n1000\r\n"])
def test_slow_content(desk: Desk, framing: bytes, tmp_path: Path) -> None:
    """One byte at a time is less than the least throughput; the message names the setting."""
    desk.serve(lambda asked: _with_content(asked, framing, _trickle()))
    began = time.monotonic()
    with pytest.raises(StorageError) as caught:
        desk.client.download_file("a", tmp_path / "a")
    assert time.monotonic() - began < 40
    assert "min_throughput" in str(caught.value)


def _completing(spaces: int) -> Callable[[Asked], Reply]:
    """The answers to an upload in parts, of which the last one begins with spaces, 0.3 s after each other."""

    def document() -> Iterator[bytes]:
        yield HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
        for _ in range(spaces):
            yield b"1\r\n \r\n"
            time.sleep(0.3)
        result = b'<CompleteMultipartUploadResult><Key>a</Key><ETag>"e-3"</ETag></CompleteMultipartUploadResult>'
        yield b"%x\r\n%s\r\n0\r\n\r\n" % (len(result), result)

    def answer(asked: Asked) -> Reply:
        if asked.method == "HEAD":
            return Reply(200, b"x" * 11 * MIB, {"ETag": '"e-3"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})
        if asked.method == "POST" and "uploads" in asked.query:
            return Reply(body=b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>")
        if asked.method == "POST":
            return Reply(raw=document())
        return Reply(204 if asked.method == "DELETE" else 200, headers={"ETag": '"e"'})

    return answer


@pytest.mark.slow
@pytest.mark.parametrize("cloud", ["direct", "boto3"])
def test_slow_completion(cloud: str, tmp_path: Path) -> None:
    """A store may send spaces for longer than the read timeout while it completes an upload, but not for ever."""
    (tmp_path / "source").write_bytes(b"x" * 11 * MIB)
    sizes = {"part_size": "5MiB", "multipart_threshold": "5MiB"}
    with Hostile(_completing(6)) as server:
        client = client_of(cloud, server.url, **QUICK, **sizes)
        assert client.upload_file(tmp_path / "source", "a").endswith("/a")
    with pytest.MonkeyPatch.context() as patch, Hostile(_completing(10**6)) as server:
        for module in (answers, wire):
            patch.setattr(module, "COMPLETION_PATIENCE", 2)
        client = client_of(cloud, server.url, **QUICK, **sizes)
        server.answer = _failing_head(server.answer)
        began = time.monotonic()
        with pytest.raises(StorageError):
            client.upload_file(tmp_path / "source", "a")
        assert time.monotonic() - began < 20


def _failing_head(answer: Callable[[Asked], Reply]) -> Callable[[Asked], Reply]:
    return lambda asked: Reply(404) if asked.method == "HEAD" else answer(asked)


@pytest.mark.parametrize("coding", ["gzip, chunked", "x-unknown", "chunked, chunked", "CHUNKED;q=1", "deflate"])
def test_unknown_coding(desk: Desk, coding: str, tmp_path: Path) -> None:
    """A body in an unknown transfer coding is an error, not content; and the direct engine stays in use."""
    framing = f"Transfer-Encoding: {coding}\r\n\r\n".encode()
    desk.serve(lambda asked: _with_content(asked, framing, iter([b"1000\r\n" + b"x" * 4096 + b"\r\n0\r\n\r\n"])))
    calls: list[Callable[[], Any]] = [
        lambda: desk.client.download_file("a", tmp_path / "a"),
        lambda: list(desk.client.list_files()),
        lambda: desk.client.filesystem.cat_file("bucket/a"),
        lambda: desk.client.filesystem.cat(["bucket/a", "bucket/b"]),
    ]
    for call in calls:
        with pytest.raises(StorageError, match=r"Transfer-Encoding|not XML|not JSON|speak"):
            call()
    assert not (tmp_path / "a").exists()
    if desk.cloud == "direct":
        store: Any = desk.client.store
        assert store.connection.client.refusal is None


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_total_timeout(cloud: str, verb: str, tmp_path: Path) -> None:
    """A verb ends after `total_timeout`, whatever it waits for; the message names the setting."""
    (tmp_path / "source").write_bytes(b"content")

    def silent() -> Iterator[bytes]:
        yield HEAD
        time.sleep(8)

    with Hostile(lambda _: Reply(raw=silent())) as server:
        client = client_of(cloud, server.url, read_timeout="3s", max_attempts="9", total_timeout="1s")
        began = time.monotonic()
        with pytest.raises(StorageError, match="total_timeout"):
            VERBS[verb](client, tmp_path)
        assert time.monotonic() - began < 30
