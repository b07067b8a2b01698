"""Request bodies for `requests`, on GCS and Azure, that end in the middle when their transfer is cancelled.

`requests` sends a body of type `bytes` by one call, which nothing can interrupt. On a slow line it would still be sent long
after Ctrl-C, and the request would then take effect: an object would appear after the call had failed.

A `SourceBody` is also read while it is sent, so that an upload needs memory for one piece, whatever the size of the request.

Nor does `requests` notice that a server answered before it had received the complete body: urllib3 ignores the closed
connection and reads the answer. If that is a success, the store has a part of the content only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.store import checksums
from gllm_storage.store.answers import guarded_pools, require_known_coding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.files.source import Source
    from gllm_storage.store.transfer import Transfer

_SUCCESS = range(200, 300)
_PIECE = 2**18
"""Bytes that are sent between two checks."""


class StoppableBody:
    """A request body that is sent in pieces of 256 KiB. It can be sent again, from the start.

    Args:
        data: The content.

    Raises:
        TransferStopped: From the iterator, if the transfer of this thread was cancelled.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.sent = 0
        """Bytes of the last request that were sent."""

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        self.sent = 0
        for start in range(0, len(self._data), _PIECE):
            check_stop()
            piece = self._data[start : start + _PIECE]
            yield piece
            self.sent += len(piece)  # reached only if the piece was sent


class SameContent:
    """Checks that the sent bytes are those of the pass that computed the checksum: a file may change between both.

    Args:
        source: The source.
        part: Offset and length of the checksummed part.
        crc: The CRC.
        algorithm: One of `checksums.FOLDABLE`.
    """

    def __init__(self, source: Source, part: tuple[int, int], crc: int, algorithm: str) -> None:
        self._source = source
        self._seen, self._end = part[0], sum(part)
        self._expected = crc
        self._algorithm = algorithm
        self._crc = 0

    def __call__(self, offset: int, piece: bytes) -> None:
        """See a piece before it is sent. Bytes that are sent again do not count again.

        Raises:
            StorageError: If it is the last piece, and the content has changed; a write by mmap need not change the
                modification time.
        """
        end = offset + len(piece)
        if end > self._seen:
            self._crc = checksums.update(memoryview(piece)[self._seen - offset :], self._crc, self._algorithm)
            self._seen = end
        if end == self._end:
            self._source.require_unchanged()
            if self._crc != self._expected:
                raise self._source.changed()


class Unchanged:
    """Checks that the source of a body was not written to, where the store itself compares the bytes with a checksum.

    Args:
        source: The source.
        part: Offset and length of the body in the source.
    """

    def __init__(self, source: Source, part: tuple[int, int]) -> None:
        self._source = source
        self._end = sum(part)

    def __call__(self, offset: int, piece: bytes) -> None:
        """See a piece before it is sent.

        Raises:
            StorageError: If it is the last piece, and the source was written to.
        """
        if offset + len(piece) == self._end:
            self._source.require_unchanged()


class SourceBody:
    """A request body that is read from a source in pieces of 256 KiB. It can be sent again, from the start.

    Args:
        source: The source.
        offset: Offset of the first byte.
        length: Number of bytes; at least 1 without texts around it.
        check: Sees each piece before it is sent.
        around: Bytes before and behind the content.

    Raises:
        StorageError: From the iterator, if the source cannot be read, or has changed. The request stays incomplete then, and
            the server stores nothing.
        TransferStopped: From the iterator, if the transfer of this thread was cancelled.
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        length: int,
        check: SameContent | Unchanged,
        around: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self._source = source
        self._offset = offset
        self._end = offset + length
        self._check = check
        self._head, self._tail = around
        self.sent = 0
        """Bytes of the last request that were sent."""

    def __len__(self) -> int:
        return len(self._head) + self._end - self._offset + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        self.sent = 0
        for piece in self._pieces():
            yield piece
            self.sent += len(piece)  # reached only if the piece was sent

    def _pieces(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        for start in range(self._offset, self._end, _PIECE):
            check_stop()
            length = min(_PIECE, self._end - start)
            piece = self._source.read_at(start, length)
            self._check(start, piece)
            yield piece
        if self._tail:
            yield self._tail


@contextlib.contextmanager
def body_in_flight(
    source: Source,
    part: tuple[int, int],
    transfer: Transfer,
    check: SameContent | Unchanged,
    around: tuple[bytes, bytes] = (b"", b""),
) -> Iterator[SourceBody]:
    """A `SourceBody` between two texts, counted in the memory budget of the process while the block sends it.

    The body needs memory for a piece only. But the kernel and proxies buffer the sent bytes, and of 100 requests that share
    a slow line, some run into their timeouts.

    Raises:
        TransferStopped: If the transfer was cancelled while it waited for memory of the budget.
    """
    with in_flight(part[1], transfer.settings.memory_limit, transfer.stop):
        yield SourceBody(source, *part, check, around)


class StoppingAdapter(HTTPAdapter):
    """An adapter of `requests` that sends bodies of more than 256 KiB as `StoppableBody`, and limits answers.

    Args:
        min_throughput: The fewest bytes per second of an answer; 0 for no limit.
        read_timeout: The time over which they are counted, in seconds.
        **options: As for `HTTPAdapter`.
    """

    def __init__(self, *, min_throughput: int = 0, read_timeout: float | None = None, **options: Any) -> None:
        self._limits = (min_throughput, read_timeout)
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """As the base class, with connections that apply the limits."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = guarded_pools(*self._limits)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """As the base class, with connections that apply the limits."""
        manager: Any = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request.

        Args:
            request: The request. Its ``Content-Length`` is set already, so the body is not sent in chunked encoding.
            *args: As in `HTTPAdapter.send`.
            **kwargs: As in `HTTPAdapter.send`.

        Raises:
            TransferStopped: If the transfer of this thread was cancelled while the body was sent.
            MalformedHTTPError: If the transfer coding of the answer is unknown.
            requests.ConnectionError: If the server answered success before it had received the complete body.
        """
        body: Any = request.body
        if isinstance(body, bytes) and len(body) > _PIECE:
            body = request.body = StoppableBody(body)  # type: ignore[assignment]  # requests takes any iterable
        response = super().send(request, *args, **kwargs)
        require_known_coding(response.headers)
        is_counted = isinstance(body, (SourceBody, StoppableBody)) and response.status_code in _SUCCESS
        if is_counted and body.sent < len(body):
            response.close()
            raise requests.ConnectionError(
                f"the server answered HTTP {response.status_code} after {body.sent} of {len(body)} bytes of the request"
            )
        return response
