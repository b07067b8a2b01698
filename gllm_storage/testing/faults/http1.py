"""The part of HTTP/1.1 that a proxy needs, and the names of requests to S3, GCS and Azure."""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 64 * 1024
# How a body ends: after so many bytes, with a last chunk, or with the connection.
Framing = int | Literal["chunked", "eof"]


class Wire:
    """A socket with a read buffer. Reading past a peer's FIN raises ConnectionError."""

    def __init__(self, sock: socket.socket) -> None:
        with suppress(OSError):  # the peer may be gone already; the first read will say so
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        """Send all of the bytes."""
        self.sock.sendall(data)

    def read_some(self, limit: int) -> bytes:
        """Between 1 and `limit` bytes, or b"" at the end."""
        if not self._buffer:
            return self.sock.recv(limit)
        data = bytes(self._buffer[:limit])
        del self._buffer[:limit]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """All up to and with `mark`, or b"" when the peer closed before a first byte."""
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > PIECE:
                raise ValueError(f"not HTTP: no {mark!r} in the first {len(self._buffer)} bytes")
            if not (data := self.sock.recv(PIECE)):
                if self._buffer:
                    raise ConnectionError("the peer closed within a head")
                return b""
            self._buffer += data
        data = bytes(self._buffer[: end + len(mark)])
        del self._buffer[: end + len(mark)]
        return data

    def stale(self) -> bool:
        """Whether an idle connection was closed by the peer, or has bytes that answer no request."""
        try:
            self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return bool(self._buffer)
        except OSError:
            return True
        return True

    def close(self, *, reset: bool) -> None:
        """Close the connection, by RST or by FIN."""
        if isinstance(self.sock, ssl.SSLSocket) and not reset:
            with suppress(OSError, ValueError):  # it raises because it does not wait for the client's close_notify
                self.sock.settimeout(0)
                self.sock.unwrap()
        with suppress(OSError):
            if reset:  # lingering for 0 seconds turns the close into an RST
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:  # sends the FIN even where a forked child holds a copy of the socket
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


@dataclass
class Body:
    """A body still on the wire. Chunks are taken apart and put together again, so faults count in plain bytes."""

    wire: Wire
    framing: Framing
    _trailers: bytes = field(default=b"", init=False)

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        """The content, in pieces of at most `limit` bytes."""
        if self.framing == "eof":
            while piece := self.wire.read_some(limit):
                yield piece
        elif self.framing == "chunked":
            while size := int(self.wire.read_until(b"\r\n").partition(b";")[0], 16):
                yield from self._exactly(size, limit)
                self.wire.read_until(b"\r\n")
            while (line := self.wire.read_until(b"\r\n")) not in {b"\r\n", b""}:
                self._trailers += line
        else:
            yield from self._exactly(self.framing, limit)

    def _exactly(self, size: int, limit: int) -> Iterator[bytes]:
        while size:
            if not (piece := self.wire.read_some(min(size, limit))):
                raise ConnectionError("the peer closed within a body")
            size -= len(piece)
            yield piece

    def framed(self, piece: bytes) -> bytes:
        """A piece as it goes over the wire."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.framing == "chunked" else piece

    def end(self) -> bytes:
        """The bytes behind the last piece."""
        return b"0\r\n" + self._trailers + b"\r\n" if self.framing == "chunked" else b""


class Head:
    """The first line and the headers of a message, kept as the bytes they came in."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.first, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        self.headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            known = self.headers.get(name.lower())
            self.headers[name.lower()] = value.strip() if known is None else f"{known}, {value.strip()}"

    @property
    def keep_alive(self) -> bool:
        """Whether another message may follow on the connection."""
        connection = self.headers.get("connection", "").lower()
        return "close" not in connection and ("HTTP/1.1" in self.first or "keep-alive" in connection)

    def without(self, header: str) -> bytes:
        """The bytes of the head, without one header."""
        prefix = header.lower().encode() + b":"
        return b"\r\n".join(line for line in self.raw.split(b"\r\n") if not line.lower().startswith(prefix))

    def framing(self, without_length: Framing) -> Framing:
        """How the body ends; `without_length` if no header says."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            return "chunked"
        length = self.headers.get("content-length")
        return without_length if length is None else int(length)


def response_framing(head: Head, method: str) -> Framing:
    """How the answer's body ends; a HEAD's answer has none, whatever its Content-Length says."""
    if method == "HEAD" or status_of(head) in {204, 304}:
        return 0
    return head.framing("eof")


def status_of(head: Head) -> int:
    """HTTP status of an answer."""
    return int(head.first.split(" ")[1])


def made_answer(status: int, code: str, body: bytes | None, headers: tuple[tuple[str, str], ...]) -> tuple[bytes, bytes]:
    """The head and the body of an answer that the proxy makes: an S3 error document unless a body is given."""
    if body is None:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code>'
            "<Message>made by the fault proxy</Message><RequestId>FAULT</RequestId></Error>"
        ).encode()
    reason = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Made"
    given = (
        headers
        if "content-type" in {name.lower() for name, _ in headers}
        else (("Content-Type", "application/xml"), *headers)
    )
    lines = [f"HTTP/1.1 {status} {reason}", f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in given)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"), body


# (method, sub-resources in the query, is there a key) to operation. Other sub-resources (acl, tagging...) are "Other".
_OPERATIONS = {
    ("PUT", frozenset[str](), True): "PutObject",
    ("GET", frozenset[str](), True): "GetObject",
    ("HEAD", frozenset[str](), True): "HeadObject",
    ("DELETE", frozenset[str](), True): "DeleteObject",
    ("POST", frozenset({"uploads"}), True): "CreateMultipartUpload",
    ("PUT", frozenset({"uploadId"}), True): "UploadPart",
    ("POST", frozenset({"uploadId"}), True): "CompleteMultipartUpload",
    ("DELETE", frozenset({"uploadId"}), True): "AbortMultipartUpload",
    ("GET", frozenset({"uploadId"}), True): "ListParts",
    ("GET", frozenset({"uploads"}), False): "ListMultipartUploads",
    ("GET", frozenset({"list-type"}), False): "ListObjectsV2",
    ("POST", frozenset({"delete"}), False): "DeleteObjects",
    ("HEAD", frozenset[str](), False): "HeadBucket",
    ("PUT", frozenset[str](), False): "CreateBucket",
}
# Parameters that refine an operation without making it another one.
_REFINEMENTS = {"x-id", "versionid", "partnumber", "max-parts", "part-number-marker", "prefix", "delimiter", "max-keys"}
_REFINEMENTS |= {"max-uploads", "key-marker", "upload-id-marker", "encoding-type", "continuation-token", "start-after"}
_REFINEMENTS |= {"fetch-owner"}


def operation_of(method: str, path: str, query: str, headers: dict[str, str]) -> str:
    """The operation of a request: of Google's JSON API, of Azure's, or of S3 in path style."""
    names = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    if "/storage/v1/" in path:
        return _google_operation(method, path, query, headers)
    if "x-ms-version" in headers:
        return _azure_operation(method, path, query)
    bucket, _, key = path[1:].partition("/")
    resources = frozenset(
        name for name in names if name.lower() not in _REFINEMENTS and not name.lower().startswith(("response-", "x-amz-"))
    )
    operation = _OPERATIONS.get((method, resources, bool(key)), "Other") if bucket else "Other"
    if "x-amz-copy-source" in headers:
        return {"PutObject": "CopyObject", "UploadPart": "UploadPartCopy"}.get(operation, operation)
    return operation


_UPLOAD_TYPES = {"media": "UploadMedia", "multipart": "UploadMultipart", "resumable": "ResumableStart"}


def _google_operation(method: str, path: str, query: str, headers: dict[str, str]) -> str:
    given = dict(parse_qsl(query, keep_blank_values=True))
    if path.startswith("/upload/"):
        return _google_upload(method, given, headers.get("content-range", ""))
    bucket, _, rest = path.partition("/storage/v1/b")[2].strip("/").partition("/")
    named = {"": "BucketsGet" if bucket else "BucketsList", "o": "ObjectsList", "storageLayout": "GetStorageLayout"}
    if rest in named:
        return named[rest]
    get = "ObjectsGetMedia" if given.get("alt") == "media" else "ObjectsGet"
    post = "ObjectsCompose" if rest.endswith("/compose") else "ObjectsRewrite" if "/rewriteTo/" in rest else "Other"
    return {"GET": get, "DELETE": "ObjectsDelete", "PATCH": "ObjectsPatch", "POST": post}.get(method, "Other")


def _google_upload(method: str, given: dict[str, str], content_range: str) -> str:
    if "upload_id" not in given:
        return _UPLOAD_TYPES.get(given.get("uploadType", ""), "Other")
    if method == "DELETE":
        return "ResumableCancel"
    span, _, total = content_range.removeprefix("bytes ").partition("/")
    if span == "*":
        return "ResumableStatus"
    return "ResumableFinal" if total.isdigit() and span.endswith(f"-{int(total) - 1}") else "ResumableChunk"


_AZURE_BLOB_OPERATIONS = {
    ("PUT", ""): "PutBlob",
    ("PUT", "block"): "PutBlock",
    ("PUT", "blocklist"): "PutBlockList",
    ("GET", "blocklist"): "GetBlockList",
    ("PUT", "metadata"): "SetBlobMetadata",
    ("GET", ""): "GetBlob",
    ("HEAD", ""): "HeadBlob",
    ("DELETE", ""): "DeleteBlob",
}


def _azure_operation(method: str, path: str, query: str) -> str:
    _, _, rest = path[1:].partition("/")  # the account
    _, _, blob = rest.partition("/")
    comp = dict(parse_qsl(query, keep_blank_values=True)).get("comp", "")
    if blob:
        return _AZURE_BLOB_OPERATIONS.get((method, comp), "Other")
    if comp == "list":
        return "ListBlobs"
    return "GetContainerProperties" if method in {"GET", "HEAD"} else "Other"
