"""Bodies of requests and answers: sections of a source, their checksum headers, and the bodies that boto3 returns."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from botocore.exceptions import ClientError

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import TransferStopped
from gllm_storage.files.source import CHUNK, MemorySource
from gllm_storage.s3.errors import (
    DIGEST_CODES,
    UnreadableAnswerError,
    attempts_of_answer,
    code_of,
    is_repeated,
    set_attempts,
    status_of,
)
from gllm_storage.store import checksums
from gllm_storage.store.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.reader import Memory

_logger = logging.getLogger(__name__)

_BAD_REQUEST = 400
_CHECKSUM_REFUSALS = {"InvalidArgument", "InvalidRequest", "NotImplemented", "UnsupportedHeader", "XNotImplemented"}


class _CallbackFailed(TransferStopped):
    """Carries the exception of a progress callback out of the request that reads a body.

    The request must not be sent again: botocore wraps an `Exception`, and an `OSError` looks like a broken connection.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Section(io.RawIOBase):
    """A body that can be sent again.

    Args:
        length: Its length in bytes.
        stop: Cancels the request.
        progress: Receives the bytes as they are sent; a byte that is sent again is not counted again.
    """

    def __init__(self, length: int, stop: Stop, progress: Callable[[int], None] | None = None) -> None:
        self._length = length
        self._stop = stop
        self._position = 0
        self._progress = progress
        self._is_sending = False
        self._reported = 0

    def __len__(self) -> int:
        return self._length

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: botocore goes back to the start when it tries again."""
        return True

    def tell(self) -> int:
        """The position within the section."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move within the section."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = max(0, min(self._length, start + offset))
        return self._position

    def begin_sending(self) -> None:
        """Count the reads from here on as progress. Those before were for the signature."""
        self._is_sending = True

    def _count(self) -> None:
        """Report the bytes of the reads before this one."""
        if self._is_sending and self._progress is not None and self._position > self._reported:
            try:
                self._progress(self._position - self._reported)
            except Exception as error:  # whatever the callback raises: botocore would take it for its own
                raise _CallbackFailed(error) from error
            self._reported = self._position


class FileSection(_Section):
    """A section of a local file as the body of a request. It is read while it is sent.

    Args:
        source: The file, or another source.
        offset: Offset of the section in bytes.
        length: Length of the section in bytes.
        stop: Cancels the request.
        crc: The CRC-64/NVME of the section, from an earlier pass over it; None if there was none.
        progress: Receives the bytes as they are sent.
    """

    def __init__(
        self,
        source: Source,
        offset: int,
        length: int,
        stop: Stop,
        *,
        crc: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        super().__init__(length, stop, progress)
        self._source = source
        self._offset = offset
        self._expected = crc
        self._crc = 0
        self._crc_end = 0

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, as awscrt does, with which botocore signs if it is installed."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes.

        Raises:
            StorageError: If the file has changed, or its content differs from that of the earlier pass. This is checked
                before the last bytes are returned, so that the request stays incomplete and the server stores nothing.
            TransferStopped: If the transfer was cancelled.
        """
        self._stop.check()
        self._count()
        left = self._length - self._position
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._source.read_at(self._offset + self._position, wanted)
        self._add_to_crc(data)
        self._position += wanted
        if wanted and self._position == self._length:
            self._source.require_unchanged()
            self._require_same_content()
        return data

    def _add_to_crc(self, data: bytes) -> None:
        if self._expected is None:
            return
        if not self._position:
            self._crc = self._crc_end = 0
        if self._position == self._crc_end:
            self._crc = checksums.update(data, self._crc, "crc64nvme")
            self._crc_end += len(data)

    def _require_same_content(self) -> None:
        """Compare both passes: a write by mmap need not change the modification time."""
        if self._crc_end == self._length and self._expected not in {None, self._crc}:
            raise self._source.changed()


class ViewSection(_Section):
    """Bytes in memory as the body of a request. A read returns a view, without a copy.

    Args:
        view: The bytes, in one buffer or several.
        stop: Cancels the request.
        progress: Receives the bytes as they are sent.
    """

    def __init__(
        self, view: memoryview | Sequence[memoryview], stop: Stop, progress: Callable[[int], None] | None = None
    ) -> None:
        self._views = [view] if isinstance(view, memoryview) else view
        super().__init__(sum(map(len, self._views)), stop, progress)

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer, as awscrt does, with which botocore signs if it is installed."""
        data = self._next(len(buffer))
        buffer[: len(data)] = data  # no check of the stop: awscrt prints every exception of this method
        return len(data)

    def read(self, size: int | None = -1) -> Any:
        """Read the next bytes: a view of at most `size` bytes, or the rest as bytes without `size`.

        Raises:
            TransferStopped: If the transfer was cancelled.
        """
        self._stop.check()
        self._count()
        if size is None or size < 0:
            return b"".join(iter(partial(self._next, len(self)), b""))  # moto and other listeners read so, and expect bytes
        return self._next(size)

    def _next(self, size: int) -> memoryview:
        start = self._position
        for view in self._views:
            if start < len(view):
                data = view[start : start + size]
                self._position += len(data)
                return data
            start -= len(view)
        return memoryview(b"")


@dataclass
class ChecksumHeaders:
    """Remembers which digests of a body an endpoint accepts or demands. The first request of each operation finds out.

    Every body carries a digest: ``x-amz-checksum-…``, or Content-MD5 if the endpoint refuses that header. Servers of before
    2022 demand Content-MD5 in buckets with Object Lock; they get both.

    Attributes:
        limit: The most attempts of a request, for the report of a refused one.
        accepted: Whether an operation accepts the headers, by the name of boto3's method; unknown ones are missing.
        demand_md5: The operations of which the endpoint has demanded Content-MD5.
    """

    limit: int
    accepted: dict[str, bool] = field(default_factory=dict)
    demand_md5: set[str] = field(default_factory=set)

    def call(
        self, operation: Callable[..., Any], checksum: Mapping[str, str], details: ErrorDetails, **parameters: Any
    ) -> Any:
        """Call an operation with checksum parameters, or with other ones if the endpoint refuses them.

        Args:
            operation: A method of a boto3 client.
            checksum: The checksum parameters; empty if there are none.
            details: The operation, for the report of a refused request.
            **parameters: The other parameters.

        Returns:
            The result of the operation.

        Raises:
            Exception: Any other exception of the operation.
        """
        name = operation.__name__
        body: Any = parameters.get("Body")
        digests = self.digests(name, checksum, body)
        try:
            answer = operation(**parameters, **digests)
        except ClientError as error:
            if not self._refused(name, digests, body, error):
                raise
            RetryPolicy(self.limit).report(details, attempts_of_answer(error), error, wait=0.0)
            if hasattr(body, "seek"):
                body.seek(0)  # the refused request has read it; without this an empty or cut body would be stored
            try:
                return operation(**parameters, **self.digests(name, checksum, body))
            except ClientError as second:
                if is_repeated(error):  # then an earlier request may have been carried out, and that counts: `is_refusal`
                    set_attempts(second, attempts_of_answer(error) + attempts_of_answer(second))
                raise
        if not self.accepted.get(name) and digests.keys() & checksum.keys():
            self.accepted[name] = True
        return answer

    def digests(self, name: str, checksum: Mapping[str, str], body: Any) -> dict[str, str]:
        """The digests that a request of an operation carries: parameters of boto3."""
        refused = self.accepted.get(name) is False
        found = {} if refused else dict(checksum)
        if body is not None and (refused or name in self.demand_md5):
            found["ContentMD5"] = md5_of(body)
        return found

    def _refused(self, name: str, digests: Mapping[str, str], body: Any, error: ClientError) -> bool:
        """Whether the request was refused because of its digests; the next one then carries others.

        If the operation has accepted a checksum before, a refusal has another reason.
        """
        code = code_of(error)
        if body is not None and "ContentMD5" not in digests and _demands_md5(error):
            _logger.info("the endpoint demands Content-MD5 of %s (%s)", name, code)
            self.demand_md5.add(name)
            return True
        # If another part was refused meanwhile, False is recorded already; this part is sent again as well.
        if not digests or set(digests) == {"ContentMD5"} or self.accepted.get(name) or code not in _CHECKSUM_REFUSALS:
            return False
        instead = "with Content-MD5 instead" if body is not None else "without them"
        _logger.warning("the endpoint refuses checksums on %s (%s); requests go %s", name, code, instead)
        self.accepted[name] = False
        return True


def _demands_md5(error: ClientError) -> bool:
    message = str(error.response.get("Error", {}).get("Message") or "").lower()
    return code_of(error) == "MissingContentMD5" or (
        status_of(error) == _BAD_REQUEST and "content-md5" in message and code_of(error) not in DIGEST_CODES
    )


def md5_of(body: Any) -> str:
    """MD5 of a body, as Content-MD5 has it. A file is read from its position, and moved back there."""
    digest = hashlib.md5(usedforsecurity=False)
    for data in _pieces_of(body):
        digest.update(data)
    return base64.b64encode(digest.digest()).decode()


def crc64nvme_of(body: Any) -> str:
    """CRC-64/NVME of a body, encoded; as `md5_of`."""
    crc = 0
    for data in _pieces_of(body):
        crc = checksums.update(data, crc, "crc64nvme")
    return checksums.encode(crc)


def _pieces_of(body: Any) -> Iterator[Any]:
    if not hasattr(body, "read"):
        yield bytes(body)
        return
    start = body.tell()
    while data := body.read(CHUNK):
        yield data
    body.seek(start)


Body: TypeAlias = bytes | ViewSection | FileSection
"""The body of a request."""

_SHARE = 4
"""A part of at most 1/4 of the memory limit is in memory while it is sent; a larger one is read from the file meanwhile."""
_buffers: PerProcess[list[bytearray]] = PerProcess(list)


def begin_sending(body: object) -> None:
    """Tell a body that the request is signed, and is sent now."""
    if isinstance(body, _Section):
        body.begin_sending()


@contextlib.contextmanager
def body_of(
    source: Source,
    offset: int,
    length: int,
    settings: TransferSettings,
    stop: Stop,
    *,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Body, int]]:
    """A section of a source as the body of a request, and its CRC-64/NVME.

    If the section fits into memory, it is read once, so that the CRC is that of the sent bytes even if the file changes. A
    larger section is read twice; a server that knows the checksum header compares the sent bytes with the CRC.

    Args:
        source: The source.
        offset: Offset of the section in bytes.
        length: Length of the section in bytes.
        settings: The memory limit.
        stop: Cancels the request, and the wait for memory.
        progress: Receives the bytes of the section as they are sent.

    Yields:
        The body and the CRC. The memory of the body is reused after the block.

    Raises:
        StorageError: If the source cannot be read, or has changed.
        TransferStopped: If the transfer was cancelled.
        Exception: The exception of `progress`.
    """
    try:
        if length <= CHUNK:
            data = source.read_at(offset, length)
            yield data, checksums.crc64nvme(data)
        elif isinstance(source, MemorySource):
            view = source.view_at(offset, length)
            yield ViewSection(view, stop, progress), checksums.crc64nvme(view)
        elif length <= settings.memory_limit // _SHARE:
            limit = settings.memory_limit
            with in_flight(length, limit, stop), _buffer(length, limit) as view:
                source.read_into(offset, view)
                yield ViewSection(view, stop, progress), checksums.crc64nvme(view)
        else:
            checksum = checksums.crc_of(source.read_at, length, start=offset)
            yield FileSection(source, offset, length, stop, crc=checksum, progress=progress), checksum
    except _CallbackFailed as failed:
        raise failed.error from failed.error.__cause__


@contextlib.contextmanager
def _buffer(length: int, limit: int) -> Iterator[memoryview]:
    """Memory that a later part reuses: fresh memory costs a page fault for every 4 KiB.

    All threads share the buffers. A buffer of each thread would stay outside the memory budget: 100 uploads at the same time
    left 100 of them.

    Args:
        length: Bytes of the part.
        limit: The most bytes of buffers to keep.
    """
    buffers, memory = _buffers.get(), bytearray()
    with contextlib.suppress(IndexError):
        while len(memory) < length:  # smaller ones are dropped
            memory = buffers.pop()
    if len(memory) < length:
        memory = bytearray(length)
    try:
        yield memoryview(memory)[:length]
    finally:
        if sum(map(len, buffers)) + len(memory) <= limit:
            buffers.append(memory)


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
            requests += attempts_of_answer(error)
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

    def iter_chunks(self, chunk_size: int = 2**18, buffer: Memory | None = None) -> Iterator[bytes]:  # noqa: ARG002 - botocore has its own
        """Pieces of the body; botocore uses memory of its own instead of `buffer`."""
        try:
            yield from self._body.iter_chunks(chunk_size)
        except ValueError as error:  # a checksum, or a length, in the headers that cannot be parsed
            raise UnreadableAnswerError(f"its answer cannot be parsed: {error}") from error

    def read(self, *args: Any) -> bytes:
        """The complete body."""
        try:
            content: bytes = self._body.read(*args)
        except ValueError as error:
            raise UnreadableAnswerError(f"its answer cannot be parsed: {error}") from error
        return content

    def close(self) -> None:
        """Close the connection, unless the complete body was read."""
        self._body.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)
