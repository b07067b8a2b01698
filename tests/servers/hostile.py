"""A server with answers of the test's own, in any form: `Hostile`; and clients of it for the three clouds.

No real server answers like this, so the tests of hostile answers cannot use one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from gllm_storage import AzureStorageClient, GCSStorageClient, S3StorageClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from gllm_storage.fsspec_client import FsspecStorageClient

BUCKET = "bucket"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        method: HTTP method.
        path: The path, percent-decoded.
        query: Names and values of the query.
        headers: Names in lower case.
        body: The body.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Reply:
    """An answer.

    Attributes:
        status: HTTP status.
        body: The body.
        headers: Headers beside Content-Length, which is added if there is none and no Transfer-Encoding.
        raw: Chunks to send instead of all that.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    raw: Iterable[bytes] | None = None

    def chunks(self, *, bodiless: bool) -> Iterable[bytes]:
        """The bytes of the answer."""
        if self.raw is not None:
            return self.raw
        names = {name.lower() for name in self.headers}
        headers = dict(self.headers)
        if not names & {"content-length", "transfer-encoding"}:
            headers["Content-Length"] = str(len(self.body))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {self.status} Answer\r\n{lines}\r\n".encode("utf-8", "surrogateescape")
        return [head + (b"" if bodiless else self.body)]


class Hostile:
    """A server on 127.0.0.1. Enter it as a context manager.

    Args:
        answer: Makes the answer to a request; it may be replaced at any time.
    """

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._sockets.append(sock)
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock, sock.makefile("rb") as reader:
            while line := reader.readline():
                asked = _request(line.decode("latin-1"), reader, sock)
                self.asked.append(asked)
                reply = self.answer(asked)
                for chunk in reply.chunks(bodiless=asked.method == "HEAD"):
                    sock.sendall(chunk)
                    self.sent += len(chunk)
                if reply.raw is not None or _ends(reply):
                    sock.shutdown(socket.SHUT_WR)
                    return


def _ends(reply: Reply) -> bool:
    """Whether the client cannot know where the answer ends."""
    given = next((value for name, value in reply.headers.items() if name.lower() == "content-length"), None)
    encoded = any(name.lower() == "transfer-encoding" for name in reply.headers)
    return encoded or (given is not None and given != str(len(reply.body)))


def _request(line: str, reader: Any, sock: socket.socket) -> Asked:
    method, target, _ = line.split(" ", 2)
    headers: dict[str, str] = {}
    while (text := reader.readline().decode("latin-1").strip()) != "":
        name, _, value = text.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("expect"):
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if headers.get("transfer-encoding"):
        body = b""
        while size := int(reader.readline().partition(b";")[0], 16):
            body += reader.read(size)
            reader.readline()
        while reader.readline().strip():
            pass
    else:
        body = reader.read(int(headers.get("content-length", 0)))
    url = urlsplit(target)
    return Asked(method, unquote(url.path), dict(parse_qsl(url.query, keep_blank_values=True)), headers, body)


def client_of(cloud: str, url: str, **config: str) -> FsspecStorageClient:
    """A client of a server: of the cloud ``"direct"`` or ``"boto3"`` (both S3), ``"gcs"`` or ``"azure"``."""
    common = {"bucket_name": BUCKET, "max_attempts": "2", "connect_timeout": "5s", "read_timeout": "5s", **config}
    if cloud == "gcs":
        return GCSStorageClient({"anonymous": "true", "endpoint_url": url, **common})
    if cloud == "azure":
        common["container_name"] = common.pop("bucket_name")
        return AzureStorageClient(
            {"account_name": "account", "account_key": _KEY, "endpoint_url": f"{url}/account", **common}
        )
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    engine = "auto" if cloud == "direct" else cloud
    return S3StorageClient({"endpoint_url": url, "engine": engine, **keys, **common})


CLOUDS = ("direct", "boto3", "gcs", "azure")
