"""Limits on the answers that urllib3 reads: for boto3, and for GCS and Azure where there are no direct connections.

`guarded_pools` replaces urllib3's connections by connections that apply the limits of `store.limits`, and the
bandwidth of the running transfer.
"""

from __future__ import annotations

import contextlib
import functools
import io
import time
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

from gllm_storage.concurrency.bandwidth import running_bandwidth
from gllm_storage.store.limits import COMPLETION_PATIENCE, MAX_ERROR, MAX_LINES, MalformedHTTPError, Throughput

if TYPE_CHECKING:
    from collections.abc import Mapping

_READS = frozenset({"GET", "HEAD"})
_BUFFER = 2**16
_FIRST_REDIRECT = 300
_NOT_MODIFIED = 304


class _MalformedAnswerError(MalformedHTTPError, HTTPException):
    """urllib3 treats an `HTTPException` as a broken connection, and closes it."""


def require_known_coding(headers: Mapping[str, str]) -> None:
    """Check the transfer coding of an answer: http.client would return the framing of an unknown one as content.

    Args:
        headers: Their names in any case, if the mapping ignores it.

    Raises:
        MalformedHTTPError: If the body is coded otherwise than in chunks.
    """
    coding = headers.get("Transfer-Encoding")
    if coding is not None and coding.strip().lower() not in {"chunked", "identity"}:
        raise _MalformedAnswerError(f"the Transfer-Encoding of the answer is {coding[:80]!r}")


class _PacedIO(io.RawIOBase):
    """The bytes of a socket, measured."""

    def __init__(self, raw: Any, pace: Throughput) -> None:
        self._raw = raw
        self.pace = pace
        self._begun = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        bandwidth = running_bandwidth()
        if bandwidth is not None:
            buffer = memoryview(buffer)[: bandwidth.piece]
        began = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        if self._begun:
            self.pace.add(time.monotonic() - began, count or 0)
        self._begun = True
        if bandwidth is not None and count:
            bandwidth.take(count)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Interim:
    """A socket from which botocore reads the lines of an interim answer (100 Continue), byte by byte.

    Bytes that a server sends after its last answer are read here, too, if they arrive after urllib3 has looked for them.
    """

    def __init__(self, sock: Any, pace: Throughput) -> None:
        self._sock = sock
        self._pace = pace

    def makefile(self, *args: Any) -> Any:
        return _InterimIO(self._sock.makefile(*args), self._pace)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _InterimIO(_PacedIO):
    """The bytes of an interim answer, measured and limited."""

    _count = 0

    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        self._count += count or 0
        if not count and self._count:  # botocore would read the end of the connection for ever
            raise ConnectionResetError("the connection was closed in the middle of an interim answer")
        if self._count > MAX_LINES:
            raise _MalformedAnswerError(f"the answer has more than {MAX_LINES} bytes of headers or trailers")
        return count


class _LimitedReader(io.BufferedReader):
    """A reader of an answer that bounds the lines of its framing.

    Attributes:
        lines: Bytes of lines since the last content.
        in_head: Whether the lines are the head of an answer.
    """

    lines = 0
    in_head = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        if self.in_head and self.lines + len(line) and not line.endswith(b"\n") and len(line) != size:
            # http.client takes the end of the connection for the end of the headers: an answer without some of them.
            raise ConnectionResetError("the connection was closed in the middle of the headers")
        self.lines += len(line)
        if self.lines > MAX_LINES:
            raise _MalformedAnswerError(f"the answer has more than {MAX_LINES} bytes of headers or trailers")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        self.lines = 0
        return super().read(size)

    def readinto(self, buffer: Any, /) -> int:
        self.lines = 0
        return super().readinto(buffer)

    def read1(self, size: int = -1, /) -> bytes:
        self.lines = 0
        return super().read1(size)


@functools.cache
def _guarded_response(response_class: Any, least: float, seconds: float | None) -> Any:
    """A class of http.client's answers that applies the limits."""

    class Response(response_class):  # type: ignore[misc]  # the class is a parameter
        fp: Any

        def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self._reads = kwargs.get("method") in _READS
            self._paced = _PacedIO(sock.makefile("rb", 0), Throughput(least, seconds))
            self.fp.close()
            self.fp = _LimitedReader(self._paced, _BUFFER)

        def begin(self) -> None:
            reader = self.fp
            reader.in_head = True
            super().begin()
            reader.in_head = False
            if self.status >= _FIRST_REDIRECT and self.status != _NOT_MODIFIED and self.fp is not None:
                self._keep_beginning()
            elif not self._reads:
                self._paced.pace = Throughput(least, seconds and seconds * COMPLETION_PATIENCE)

        def _keep_beginning(self) -> None:
            """Replace the body of an error by its beginning: what a broken or endless one says is in the status."""
            body = b""
            with contextlib.suppress(OSError, HTTPException, ValueError):
                while len(body) < MAX_ERROR and (more := self.read1(MAX_ERROR - len(body))):
                    body += more
            if self.fp is not None:  # not read to its end: the connection cannot be used again
                self.fp.close()
                self.will_close = True
            self.fp, self.length, self.chunked = io.BytesIO(body), len(body), False
            del self.headers["Transfer-Encoding"], self.headers["Content-Length"]
            self.headers["Content-Length"] = str(len(body))

    return Response


def _guarded(connection_class: Any, least: float, seconds: float | None) -> Any:
    """A class of connections whose answers apply the limits."""

    class Connection(connection_class):  # type: ignore[misc]  # the class is a parameter
        response_class = _guarded_response(connection_class.response_class, least, seconds)

        def send(self, data: Any) -> None:
            bandwidth = running_bandwidth()
            if bandwidth is None or not (data and isinstance(data, (bytes, bytearray, memoryview))):
                super().send(data)
                return
            for piece in bandwidth.paced([data]):
                super().send(piece)

        def _handle_expect_response(self, message_body: Any) -> None:  # of botocore
            sock: Any = vars(self)["sock"]
            self.sock = _Interim(sock, Throughput(least, seconds))
            try:
                super()._handle_expect_response(message_body)
            finally:
                self.sock = sock

        def getresponse(self) -> Any:
            given: Any = self.response_class
            if isinstance(given, functools.partial):  # of botocore, if the answer came instead of "100 Continue"
                guarded = _guarded_response(given.func, least, seconds)
                self.response_class = functools.partial(guarded, *given.args, **given.keywords)
            return super().getresponse()

    return Connection


def guarded_pools(
    least: float,
    seconds: float | None,
    pools: Mapping[str, type[urllib3.HTTPConnectionPool]] | None = None,
) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Classes of connection pools whose connections apply the limits of this module.

    Args:
        least: The fewest bytes per second of an answer; 0 for no limit.
        seconds: The time over which they are counted; None for no limit.
        pools: The classes to derive them from, by scheme; urllib3's if None.
    """
    pools = pools or {"http": urllib3.HTTPConnectionPool, "https": urllib3.HTTPSConnectionPool}
    found: dict[str, type[urllib3.HTTPConnectionPool]] = {}
    for scheme, pool in pools.items():
        connection = getattr(pool, "ConnectionCls", HTTPSConnection if scheme == "https" else HTTPConnection)
        found[scheme] = type(f"Guarded{pool.__name__}", (pool,), {"ConnectionCls": _guarded(connection, least, seconds)})
    return found
