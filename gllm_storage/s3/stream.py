"""`StreamedWriter`: writes an S3 object of unknown size, and sends its parts while it is written.

Content up to `multipart_threshold` (at least one part) is collected, and `commit` uploads it by one PutObject, like a local
file. When more is written, a multipart upload begins, and each part is sent by a thread as soon as it is full. An exclusive
create on an endpoint that is not Amazon's collects up to `exclusive_put_limit`, since only PutObject is atomic there.

- *Memory.* The caller may take hours to fill a part, or never return. So a part that is being filled is in memory only if
  the budget of the process has room for it at once, and in a temporary file otherwise. Full parts are in flight.
- *Part sizes.* S3 accepts 10,000 parts, so parts grow with the stream: see `part_size_of`.
- *One attempt.* A part is freed when the store has it, so the upload is completed once. If S3 answers 409
  ConditionalRequestConflict, which requires all parts again, the commit fails, and only the caller can repeat it.
- *All or nothing.* After a failure every further call raises the same error. An interruption is a failure as well, because
  it is unknown how many bytes of the last `write` were accepted.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import io
import os
import threading
import weakref
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import TransferStopped
from gllm_storage.concurrency.workers import Background
from gllm_storage.errors import Remedy, StorageError
from gllm_storage.files.source import MemorySource, bytes_of, is_immutable
from gllm_storage.files.spool import Spool, memory_of, spool_of
from gllm_storage.s3.body import FileSection, ViewSection
from gllm_storage.s3.errors import translated
from gllm_storage.s3.multipart import MultipartUpload
from gllm_storage.s3.settings import MAX_PUT
from gllm_storage.s3.upload import S3Write
from gllm_storage.store import checksums
from gllm_storage.store.create import new_write_id, write_object
from gllm_storage.store.retry import RetryPolicy
from gllm_storage.store.transfer import MAX_PARTS

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterator, Sequence

    from _typeshed import ReadableBuffer

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.info import Stored
    from gllm_storage.s3.body import Body
    from gllm_storage.s3.upload import S3Upload
    from gllm_storage.store.port import UploadRequest

_ONCE = RetryPolicy(limit=1)


class StreamedWriter:
    """An `ObjectWriter` that sends parts while it is written.

    Args:
        upload: The upload; its source is not read.
        upload_complete: Uploads a request with its content, if that is too small for parts.
        collect: The most bytes that are collected for `upload_complete`, in memory or in a temporary file; by default
            `multipart_threshold`, at least one part.
        on_parts: Called when more is written, before the first part is sent.
    """

    def __init__(
        self,
        upload: S3Upload,
        upload_complete: Callable[[UploadRequest], Stored],
        collect: int = 0,
        on_parts: Callable[[], None] | None = None,
    ) -> None:
        self._upload = upload
        self._upload_complete = upload_complete
        self._details: ErrorDetails = upload.request.details
        self._small = max(upload.settings.multipart_threshold, upload.plan.part_size, collect)
        self._on_parts = on_parts
        self._write_id = new_write_id()
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._written = 0
        self._failure: Exception | None = None
        self._ended = False
        self._collected = spool_of(upload.settings, self._details, self._small)
        self._parts: PartStream | None = None

    def write(self, data: ReadableBuffer) -> int:
        """Write the bytes of a buffer.

        Raises:
            StorageError: If a part could not be sent, or the writer was discarded. Nothing is stored then, and every further
                call raises the same error.
        """
        view = bytes_of(data)
        with self._all_or_nothing():
            self._accept(view)
            self._written += len(view)
        return len(view)

    def tell(self) -> int:
        """The number of written bytes."""
        return self._written

    def seekable(self) -> bool:
        """False: written bytes may have been sent already."""
        return False

    def seek(self, *_: int) -> int:
        """Refuse.

        Raises:
            OSError: Always.
        """
        raise io.UnsupportedOperation("seek is only available in read mode: written parts are sent to the store at once")

    def commit(self) -> Stored:
        """Send the last part, and complete the object.

        Raises:
            ObjectExistsError: If the request is exclusive, and the object exists.
            StorageError: If the object cannot be stored; nothing was changed then.
        """
        with self._all_or_nothing():
            stored = self._publish()
            self._ended = True
            self._collected.close()
        return stored

    def discard(self) -> None:
        """Cancel the write, and leave nothing in the store. May be called by any thread, and again.

        Does nothing after `commit`, or in a forked child, where the upload is the parent's.
        """
        if self._pid != os.getpid() or self._ended:
            return
        self._ended = True
        if self._parts is not None:
            self._parts.discard()
        with self._lock:  # another thread may be in `write`; it ends soon, because its parts are stopped
            self._free()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """A context for one write: a failure in it, or an interruption, discards the object and makes later writes fail."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise self._error("was discarded, and cannot be written any more")
            try:
                with translated(self._details):
                    yield
            except BaseException as error:
                self._fail(error)
                raise

    def _fail(self, error: BaseException) -> None:
        if self._ended and isinstance(error, TransferStopped):
            raise self._error("was discarded while it was written") from error
        self._ended = True
        self._failure = error if isinstance(error, Exception) else self._error("was interrupted, and nothing was stored")
        if self._parts is not None:
            self._parts.discard()
        self._free()

    def _error(self, cause: str) -> StorageError:
        return StorageError(f"{self._details.operation} of {self._details.url}: the object {cause}", self._details)

    def _accept(self, view: memoryview) -> None:
        if self._parts is None:
            if self._collected.size + len(view) <= self._small:
                self._collected.write(view)
                return
            if self._on_parts is not None:
                self._on_parts()
            self._parts = self._new_parts()
            _unfinished.add(self)
            self._parts.begin(self._collected.source())
            self._collected.close()
        self._parts.write(view)

    def _new_parts(self) -> PartStream:
        upload = self._upload
        multipart = MultipartUpload(upload, upload.metadata(self._write_id), upload.request.transfer.stop)
        return PartStream(multipart, upload, upload.plan.part_size)

    def _publish(self) -> Stored:
        request = self._upload.request
        if self._parts is None:
            return self._upload_complete(dataclasses.replace(request, source=self._collected.source()))
        stored = write_object(
            S3Write(self._upload, self._parts.finish()),
            exclusive=request.exclusive,
            head_first=False,  # `open` has sent one; now it could not save any bytes
            policy=_ONCE,
            write_id=self._write_id,
        )
        return self._upload.require_size(stored, self._written)

    def _free(self) -> None:
        self._collected.close()
        if self._parts is not None:
            self._parts.free()


_DOUBLES_AFTER = 950


def part_size_of(number: int, first: int) -> int:
    """Bytes in a part of a stream. The size doubles after each 950 parts, up to 5 GiB, the most that S3 accepts.

    The 10,000 parts of an upload must hold an object of unknown size, up to the 5 TiB that most stores allow. With a first
    part of 8 MiB they hold 9.8 TiB; with the smallest, 5 MiB, 7.1 TiB. Streams of usual sizes keep small parts: with 8 MiB,
    parts have 8 MiB in the first 7.4 GiB, and at most 32 MiB in the first 51.9 GiB.

    Args:
        number: Number of the part, from 1.
        first: Bytes in the first part.
    """
    return min(first << (number - 1) // _DOUBLES_AFTER, MAX_PUT)


class PartStream:
    """The parts of a stream. Each is sent by a thread as soon as it is full; at most `max_concurrency` at a time.

    Args:
        multipart: The multipart upload.
        upload: The upload that it belongs to.
        part_size: Bytes in the first part.
    """

    def __init__(self, multipart: MultipartUpload, upload: S3Upload, part_size: int) -> None:
        self._multipart = multipart
        self._details = upload.request.details
        self._settings = upload.settings
        self._stop = upload.request.transfer.stop
        self._part_size = part_size
        self._filling: Spool | _Gathered | None = None
        self._begun = 0
        self._sent: dict[int, _Sent] = {}
        self._in_memory: set[int] = set()
        self._is_aborted = False
        self._team = Background(self._settings.max_concurrency, self._stop, self._abort)

    def begin(self, collected: Source) -> None:
        """Begin the multipart upload with the content that was collected before.

        Raises:
            StorageError: If the collected content cannot be read.
            Exception: Any exception of the SDK.
        """
        self._multipart.create()
        for offset in range(0, collected.size, self._part_size):
            length = min(self._part_size, collected.size - offset)
            if isinstance(collected, MemorySource):
                self.write(collected.view_at(offset, length))
            else:
                self.write(memoryview(collected.read_at(offset, length)))

    def write(self, view: memoryview) -> None:
        """Write some bytes.

        Raises:
            StorageError: If there are too many parts, or the disk is full.
            Exception: The exception of the SDK with which this or an earlier part failed.
        """
        self._team.check()  # report a failed part now: many small writes may follow before the next part is full
        while len(view):
            view = view[self._accept_some(view) :]

    def finish(self) -> _Completion:
        """Send the last part, and wait until all parts are sent. The object does not exist yet.

        Returns:
            The step that completes the upload.

        Raises:
            Exception: The exception of the SDK with which a part failed.
        """
        self._send_filled()
        self._team.finish()
        _spare.get().clear()
        sent = [self._sent[number] for number in range(1, self._begun + 1)]
        crc = checksums.fold_crc64nvme((each.checksum, each.size) for each in sent)
        size = sum(each.size for each in sent)
        return _Completion(self._multipart, [each.part for each in sent], crc, size, self._abort)

    def discard(self) -> None:
        """Stop the requests in progress, and abort the upload. May be called by any thread, and again."""
        self._team.end()
        self._abort()

    def free(self) -> None:
        """Free the memory or the temporary file of the last part. No thread may be in `write`."""
        _spare.get().clear()
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.close()

    def _accept_some(self, view: memoryview) -> int:
        """Accept bytes up to the end of the current part; returns their number."""
        size = self._next_size()
        if self._filling is None and len(view) >= size:
            self._send_view(view[:size])
            return size
        if self._filling is None:
            self._filling = self._new_part(size, view)
        length = min(len(view), size - self._filling.size)
        self._filling.write(view[:length])
        if self._filling.size == size:
            self._send_filled()
        return length

    def _next_size(self) -> int:
        if self._begun == MAX_PARTS:
            details = self._details
            message = f"{details.operation} of {details.url}: the object has more than {MAX_PARTS} parts, the limit of S3"
            raise StorageError(message, details, Remedy.LARGER_PARTS)
        return part_size_of(self._begun + 1, self._part_size)

    def _new_part(self, size: int, first: memoryview) -> Spool | _Gathered:
        """The next part, which begins with these bytes: in memory if the budget has room, else in a temporary file.

        If parts of this stream are in flight, it waits for one of them to end, and asks again. If other transfers have the
        memory, it does not wait: they may keep it for any time.
        """
        limit, details = self._settings.memory_limit, self._details
        while not memory_budget().try_hold(size, limit, size):
            _spare.get().clear()
            in_flight = len(self._in_memory)
            if not in_flight or 2 * size > limit:
                return Spool(limit, size, 0, details)
            self._team.wait_until(partial(self._has_fewer_than, in_flight))
        return _Gathered(size) if _is_kept(first) else Spool(limit, size, size, details, held=size, memory=_spare_memory())

    def _has_fewer_than(self, count: int) -> bool:
        return len(self._in_memory) < count

    def _send_view(self, view: memoryview) -> None:
        """Send a part of the caller's buffer; without a copy if the buffer is immutable."""
        budget = memory_budget()
        budget.acquire(len(view), self._settings.memory_limit, self._stop)
        try:
            kept = view if is_immutable(view) else memoryview(bytes(view))
        except BaseException:
            budget.release(len(view))
            raise
        self._send_beside(_Part([kept]))

    def _send_filled(self) -> None:
        filled, self._filling = self._filling, None
        if filled is not None:
            self._send_beside(_Part(_full(filled)))

    def _send_beside(self, part: _Part) -> None:
        self._begun += 1
        if part.in_memory:
            self._in_memory.add(self._begun)
        try:
            self._team.start(partial(self._send, self._begun, part))
        except BaseException:
            part.release()
            raise

    def _send(self, number: int, part: _Part) -> None:
        try:
            self._stop.check()
            body, checksum = part.body(self._stop)
            sent = self._multipart.send_part(number, body, checksum)
            self._sent[number] = _Sent(sent, checksum, part.size)
        finally:
            part.release()
            self._in_memory.discard(number)

    def _abort(self) -> None:
        """Abort the upload, once. A part that a stalled server still holds aborts it again when its request ends."""
        if not self._is_aborted:
            self._is_aborted = True
            self._multipart.discard()


@dataclass(frozen=True)
class _Completion:
    """The last request of a stream, after its parts were sent, as an `Attempt` for `S3Write`.

    Attributes:
        multipart: The upload.
        parts: The results of `MultipartUpload.send_part`, in the order of the parts.
        crc: CRC-64/NVME of the complete content.
        size: Size of the complete content in bytes.
        discard: Aborts the upload.
    """

    multipart: MultipartUpload
    parts: list[dict[str, Any]]
    crc: int
    size: int
    discard: Callable[[], None]

    @property
    def committing(self) -> bool:
        """Whether the request that makes the object visible may have been sent."""
        return self.multipart.committing

    def send(self) -> Stored:
        """Complete the upload.

        Raises:
            Exception: Any exception of the SDK.
        """
        return self.multipart.complete(self.parts, self.crc, self.size)


@dataclass(frozen=True)
class _Sent:
    """A part that the store has."""

    part: dict[str, Any]
    checksum: int
    size: int


_KEPT = 2**18
"""Bytes of a write from which on they are kept as they are, if they are immutable."""


def _is_kept(view: memoryview) -> bool:
    return len(view) >= _KEPT and is_immutable(view)


def _full(filled: Spool | _Gathered) -> Sequence[memoryview] | Spool:
    """The content of a part that is to be sent."""
    if isinstance(filled, _Gathered):
        return filled.send()
    return [filled.send()] if filled.in_memory else filled


class _Gathered:
    """A part that is being filled, of the caller's own bytes: long immutable ones are not copied.

    The copy would cost more than the checksum and the encryption: 2.3 instead of 1.3 s of CPU for 1 GiB. A piece of a larger
    object is copied, because it would keep the object in memory; unless it fills the part, which is sent at once.

    Args:
        held: The most bytes, which are held in the budget already.
    """

    def __init__(self, held: int) -> None:
        self._held = held
        self._pieces: list[memoryview | bytearray] = []
        self.size = 0

    def write(self, view: memoryview) -> None:
        """Add bytes."""
        last = self._pieces[-1] if self._pieces else None
        fills = self.size + len(view) == self._held
        if _is_kept(view) and (fills or len(view) == memoryview(view.obj).nbytes):
            self._pieces.append(view)
        elif isinstance(last, bytearray):
            last += view
        else:
            self._pieces.append(bytearray(view))
        self.size += len(view)

    def send(self) -> list[memoryview]:
        """Hand out the content. Its bytes are in flight now: the caller releases them."""
        memory_budget().send_held(self.size)
        memory_budget().let_go(self._held - self.size)
        self._held = 0
        return [memoryview(each) for each in self._pieces]

    def close(self) -> None:
        """Discard the content."""
        self._pieces = []
        memory_budget().let_go(self._held)
        self._held = 0


class _Part:
    """A full part that is being sent: in memory, which counts as in flight, or in a temporary file."""

    def __init__(self, content: Sequence[memoryview] | Spool) -> None:
        self._content = content
        self._is_released = False
        self.size = content.size if isinstance(content, Spool) else sum(map(len, content))

    @property
    def in_memory(self) -> bool:
        """Whether the bytes are in memory."""
        return not isinstance(self._content, Spool)

    def body(self, stop: Stop) -> tuple[Body, int]:
        """The body of the request, and its CRC-64/NVME."""
        if not isinstance(self._content, Spool):
            crc = 0
            for each in self._content:
                crc = checksums.update(each, crc, "crc64nvme")
            return ViewSection(self._content, stop), crc
        source = self._content.source()
        return FileSection(source, 0, self.size, stop), checksums.crc_of(source.read_at, self.size)

    def release(self) -> None:
        """Free the memory or the temporary file, once."""
        if self._is_released:
            return
        self._is_released = True
        if isinstance(self._content, Spool):
            self._content.close()
            return
        memory, spare = memory_of(self._content[0]), _spare.get()
        if memory is not None and len(memory) <= _SPARE_SIZE and len(spare) < _SPARE:
            spare.append(memory)
        memory_budget().release(self.size)


_SPARE = 2
"""The most parts whose memory waits for the next part: new memory costs 0.4 s of CPU per GiB, for page faults.

They do not count in the budget, so they are few and small, and a stream that finds the budget full gives them up.
"""
_SPARE_SIZE = 8 * 2**20
"""The most bytes of such a part, those of a part by default."""
_spare: PerProcess[list[mmap.mmap]] = PerProcess(list)


def _spare_memory() -> mmap.mmap | None:
    with contextlib.suppress(IndexError):
        return _spare.get().pop()
    return None


_unfinished: weakref.WeakSet[StreamedWriter] = weakref.WeakSet()
"""Writers with an open multipart upload."""


def _discard_unfinished() -> None:
    """Abort the open uploads of a program that ends without closing its files."""
    for each in list(_unfinished):
        each.discard()


atexit.register(_discard_unfinished)
