"""`PartStream`: a multipart upload whose parts are sent while more is being written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.workers import Background
from gllm_storage.errors import StorageError
from gllm_storage.files.source import MemorySource, is_immutable
from gllm_storage.files.spool import Spool
from gllm_storage.s3.body import FileSection, ViewSection
from gllm_storage.s3.plan import MAX_PUT
from gllm_storage.store import checksums
from gllm_storage.store.transfer import MAX_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.files.source import Source
    from gllm_storage.s3.multipart import Body, MultipartUpload
    from gllm_storage.s3.upload import Upload

_DOUBLES_AFTER = 950


def part_size_of(number: int, first: int) -> int:
    """Bytes in a part of a stream whose size nobody knows: it doubles after each 950 parts, up to S3's 5 GiB.

    From 8 MiB on, the first 7.4 GiB are in such parts, and up to 51.9 GiB none has more than 32 MiB. 10,000 parts hold
    9.8 TiB then, and 7.1 TiB from 5 MiB on: more than the 5 TiB that an object may have, or most stores let it.

    Args:
        number: Number of the part, from 1.
        first: Size of the first.
    """
    return min(first << (number - 1) // _DOUBLES_AFTER, MAX_PUT)


class PartStream:
    """The parts of a stream. Each is sent by a thread of its own as soon as it is full; too many at a time are waited for.

    A part that is being filled is in memory if the process's budget has room for it, and else in a temporary file.

    Args:
        multipart: Sends the parts.
        upload: What they are of.
        part_size: Bytes in the first of them.
    """

    def __init__(self, multipart: MultipartUpload, upload: Upload, part_size: int) -> None:
        self._multipart = multipart
        self._upload = upload
        self._settings = upload.transfer.settings
        self._stop = upload.transfer.stop
        self._part_size = part_size
        self._filling: Spool | None = None
        self._begun = 0
        self._sent: dict[int, _Sent] = {}
        self._in_memory: set[int] = set()
        self._is_aborted = False
        self._crew = Background(self._settings.max_concurrency, self._stop, self._abort, part_size)

    def begin(self, collected: Source) -> None:
        """Begin the upload, and write what was collected before.

        Raises:
            StorageError: If that cannot be read.
            Exception: What the SDK raises.
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
            Exception: What the SDK raised, when it sent this or another part.
        """
        self._crew.check()  # small writes would go on for long before they hear of a part that failed
        while len(view):
            view = view[self._take_some(view) :]

    def finish(self) -> Completion:
        """Send the last part, and wait for all; the object is not made yet.

        Raises:
            Exception: What the SDK raised, when it sent a part.
        """
        self._send_filled()
        self._crew.finish()
        sent = [self._sent[number] for number in range(1, self._begun + 1)]
        whole = checksums.fold_crc64nvme((each.checksum, each.size) for each in sent)
        return Completion(self._multipart, [each.part for each in sent], whole, self._abort)

    def discard(self) -> None:
        """End what is under way, and leave nothing in the store. May be called by any thread, and again."""
        self._crew.end()
        self._abort()

    def forget(self) -> None:
        """Give back the memory or the disk; nobody may be writing."""
        filling, self._filling = self._filling, None
        if filling is not None:
            filling.close()

    def _take_some(self, view: memoryview) -> int:
        """Take the beginning of what is written, up to the end of a part; how much that was."""
        size = self._next_size()
        if self._filling is None and len(view) >= size:
            self._send_view(view[:size])
            return size
        if self._filling is None:
            self._filling = self._new_spool(size)
        length = min(len(view), size - self._filling.size)
        self._filling.write(view[:length])
        if self._filling.size == size:
            self._send_filled()
        return length

    def _next_size(self) -> int:
        if self._begun == MAX_PARTS:
            details = self._upload.transfer.details
            what = f"{details.operation} of {details.url}"
            raise StorageError(f"{what}: it has {MAX_PARTS} parts, the most that S3 takes. Set a larger part_size", details)
        return part_size_of(self._begun + 1, self._part_size)

    def _new_spool(self, size: int) -> Spool:
        """Where the next part is filled."""
        limit, details = self._settings.memory_limit, self._upload.transfer.details
        while not memory_budget().try_hold(size, limit, size):
            mine = len(self._in_memory)
            if not mine or 2 * size > limit:
                return Spool(limit, size, 0, details)  # others have the memory, for as long as they like
            self._crew.wait_until(partial(self._has_fewer_than, mine))
        return Spool(limit, size, size, details, held=size)

    def _has_fewer_than(self, count: int) -> bool:
        return len(self._in_memory) < count

    def _send_view(self, view: memoryview) -> None:
        """Send what the caller holds, without a copy if he cannot change it any more."""
        budget = memory_budget()
        budget.acquire(len(view), self._settings.memory_limit, self._stop)
        try:
            kept = view if is_immutable(view) else memoryview(bytes(view))
        except BaseException:
            budget.release(len(view))
            raise
        self._send_beside(_Part(kept))

    def _send_filled(self) -> None:
        filled, self._filling = self._filling, None
        if filled is not None:
            self._send_beside(_Part(memoryview(filled.send()) if filled.in_memory else filled))

    def _send_beside(self, part: _Part) -> None:
        self._begun += 1
        if part.in_memory:
            self._in_memory.add(self._begun)
        try:
            self._crew.start(partial(self._send, self._begun, part))
        except BaseException:
            part.release()
            raise

    def _send(self, number: int, part: _Part) -> None:
        try:
            self._stop.check()
            body, checksum = part.body(self._upload)
            sent = self._multipart.send_part(number, body, checksum)
            self._sent[number] = _Sent(sent, checksum, part.size)
        finally:
            part.release()
            self._in_memory.discard(number)

    def _abort(self) -> None:
        """Abort the upload, once; requests that are still under way do so when they end."""
        if not self._is_aborted:
            self._is_aborted = True
            self._multipart.discard()


@dataclass(frozen=True)
class Completion:
    """The last step of a stream, as `S3Write` takes an engine and the upload that it begins.

    Attributes:
        multipart: The upload.
        parts: What it wants to know of its parts.
        checksum: CRC of the whole.
        discard: Aborts it.
    """

    multipart: MultipartUpload
    parts: list[dict[str, Any]]
    checksum: int
    discard: Callable[[], None]

    @property
    def committing(self) -> bool:
        """Whether the request that makes the object visible may have been sent."""
        return self.multipart.committing

    def begin_upload(self, *_: Any) -> Completion:
        """It is begun, and all but the end of it is done."""
        return self

    def send(self) -> None:
        """Make an object of the parts.

        Raises:
            Exception: What the SDK raises.
        """
        self.multipart.complete(self.parts, self.checksum)


@dataclass(frozen=True)
class _Sent:
    part: dict[str, Any]
    checksum: int
    size: int


class _Part:
    """Bytes that are on their way: in memory, which counts as in flight, or in a temporary file."""

    def __init__(self, content: memoryview | Spool) -> None:
        self._content = content
        self._is_released = False
        self.size = content.size if isinstance(content, Spool) else len(content)

    @property
    def in_memory(self) -> bool:
        """Whether they are."""
        return not isinstance(self._content, Spool)

    def body(self, upload: Upload) -> tuple[Body, int]:
        """A request's body and its CRC."""
        stop = upload.transfer.stop
        if not isinstance(self._content, Spool):
            return ViewSection(self._content, stop), checksums.crc64nvme(self._content)
        source = self._content.source()
        return FileSection(source, 0, self.size, stop), checksums.crc_of(source.read_at, self.size)

    def release(self) -> None:
        """Give back the memory or the disk, once."""
        if self._is_released:
            return
        self._is_released = True
        if isinstance(self._content, Spool):
            self._content.close()
        else:
            memory_budget().release(self.size)
