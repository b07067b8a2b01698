"""Bodies of requests and answers: sections of a source to send, their checksum headers, and boto3's bodies to read."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from botocore.exceptions import ClientError

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.files.source import CHUNK, MemorySource
from gllm_storage.s3.errors import DIGEST_CODES, code_of
from gllm_storage.store import checksums
from gllm_storage.store.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.settings import TransferSettings

_logger = logging.getLogger(__name__)

_CHECKSUM_REFUSALS = {"InvalidArgument", "InvalidRequest", "NotImplemented", "UnsupportedHeader", "XNotImplemented"}


class FileSection(io.RawIOBase):
    """A section of a local file as a request's body, read as it is sent.

    Args:
        source: The file, or what stands for one.
        offset: Where the section begins.
        length: Its length in bytes.
        stop: Ends the request when set.
    """

    def __init__(self, source: Source, offset: int, length: int, stop: Stop) -> None:
        self._source = source
        self._offset = offset
        self._length = length
        self._stop = stop
        self._position = 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: botocore goes back to the start when it tries again."""
        return True

    def tell(self) -> int:
        """Position within the section."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the section."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, min(self._length, start + offset))
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read on into a buffer: awscrt, by which botocore signs where it is installed, reads so."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read on.

        Raises:
            StorageError: If the file changed. It is looked at before the last byte leaves, so that the server is left with
                an incomplete request and stores nothing.
        """
        self._stop.check()
        left = self._length - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._source.read_at(self._offset + self._position, wanted)
        self._position += wanted
        if wanted and self._position == self._length:
            self._source.require_unchanged()
        return data


class ViewSection(io.RawIOBase):
    """Bytes in memory as a request's body, of which no copies are made: a read gives a view of them.

    Args:
        view: The bytes.
        stop: Ends the request when set.
    """

    def __init__(self, view: memoryview, stop: Stop) -> None:
        self._view = view
        self._stop = stop
        self._position = 0

    def __len__(self) -> int:
        return len(self._view)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: botocore goes back to the start when it tries again."""
        return True

    def tell(self) -> int:
        """Position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self)}[whence]
        self._position = max(0, min(len(self), start + offset))
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read on into a buffer: awscrt, by which botocore signs where it is installed, reads so."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data  # without a look at the stop: awscrt prints whatever is raised here
        return len(data)

    def read(self, size: int | None = -1) -> Any:
        """Read on: bytes, if it is all that is left that is wanted, and a view of some of them else."""
        self._stop.check()
        if size is None or size < 0:
            return bytes(self._next(len(self)))  # moto, and others who listen to botocore, know no views
        return self._next(size)

    def _next(self, size: int) -> memoryview:
        data = self._view[self._position : self._position + size]
        self._position += len(data)
        return data


@dataclass
class ChecksumHeaders:
    """Which operations of an endpoint take ``x-amz-checksum-…``; found out by the first request that carries it."""

    accepted: dict[str, bool] = field(default_factory=dict)

    def call(self, operation: Callable[..., Any], checksum: Mapping[str, str], **parameters: Any) -> Any:
        """Call an operation with checksum parameters, or without them where the endpoint does not know them."""
        name = operation.__name__
        if self.accepted.get(name) is False:
            return operation(**parameters)
        try:
            answer = operation(**parameters, **checksum)
        except ClientError as error:
            # Another part's refusal may have come first, and be remembered already.
            if not checksum or self.accepted.get(name) or code_of(error) not in _CHECKSUM_REFUSALS:
                raise
            body: Any = parameters.get("Body")
            if hasattr(body, "seek"):
                body.seek(0)  # it has been read, and what is left would be stored
            answer = operation(**parameters)
            _logger.warning("the endpoint refuses checksums on %s (%s); going on without", name, code_of(error))
            self.accepted[name] = False
            return answer
        self.accepted[name] = True
        return answer


Body: TypeAlias = bytes | ViewSection | FileSection
"""The body of a request."""

_SHARE = 4
"""A part is held in memory while it is sent if it takes no more than this fraction of the limit; a larger part is read while
it is sent."""
_buffers = threading.local()


@contextlib.contextmanager
def body_of(source: Source, offset: int, length: int, settings: TransferSettings, stop: Stop) -> Iterator[tuple[Body, int]]:
    """A section of a source as the body of a request, and its CRC-64/NVME.

    A small section is read into memory, so that the sent bytes are those of the CRC.
    """
    if length <= CHUNK:
        data = source.read_at(offset, length)
        yield data, checksums.crc64nvme(data)
    elif isinstance(source, MemorySource):
        view = source.view_at(offset, length)
        yield ViewSection(view, stop), checksums.crc64nvme(view)
    elif length <= settings.memory_limit // _SHARE:
        with in_flight(length, settings.memory_limit, stop):
            view = _buffer(length)
            source.read_into(offset, view)
            yield ViewSection(view, stop), checksums.crc64nvme(view)
    else:
        checksum = checksums.crc_of(source.read_at, length, start=offset)
        yield FileSection(source, offset, length, stop), checksum


def _buffer(length: int) -> memoryview:
    """Memory of this thread, which its next part uses again: new memory costs page faults."""
    if len(getattr(_buffers, "memory", b"")) < length:
        _buffers.memory = bytearray(length)
    return memoryview(_buffers.memory)[:length]


def send_intact(send: Callable[[], Any], body: Body, limit: int, details: ErrorDetails) -> Any:
    """Send a body, and again if it arrived with another digest, which botocore does not do.

    Args:
        send: Sends the request, with its own retries.
        body: The body; it is rewound.
        limit: The most attempts.
        details: The operation, for the report.

    Returns:
        The answer.

    Raises:
        botocore.exceptions.ClientError: The last refusal; its ``RetryAttempts`` count the requests of all attempts.
        Exception: Any other exception of `send`.
    """
    attempt = requests = 0
    while True:
        attempt += 1
        try:
            return send()
        except ClientError as error:
            metadata: Any = error.response["ResponseMetadata"]
            requests += int(metadata.get("RetryAttempts", 0)) + 1
            metadata["RetryAttempts"] = requests - 1
            if code_of(error) not in DIGEST_CODES or attempt >= limit:
                raise
            RetryPolicy(limit).report(details, attempt, error, "corruption", wait=0.0)
        if not isinstance(body, bytes):
            body.seek(0)


class BotoBody:
    """The body of boto3's GetObject, with the interface of the direct client's `Body`.

    Args:
        body: botocore's ``StreamingBody``.
    """

    def __init__(self, body: Any) -> None:
        self._body = body

    def iter_chunks(self, chunk_size: int = 2**18, buffer: memoryview | None = None) -> Iterator[bytes]:  # noqa: ARG002
        """Pieces of the body; botocore uses memory of its own instead of `buffer`."""
        yield from self._body.iter_chunks(chunk_size)

    def read(self, *args: Any) -> bytes:
        """The complete body."""
        content: bytes = self._body.read(*args)
        return content

    def close(self) -> None:
        """Close the connection, unless the complete body was read."""
        self._body.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
