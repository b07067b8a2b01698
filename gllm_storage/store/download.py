"""The download: whole, one version of the object, verified; or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import IntegrityError, Remedy, StorageError, StorageUnavailableError, note_attempts, timed
from gllm_storage.files.target import MemoryTarget, atomic_target
from gllm_storage.store import checksums
from gllm_storage.store.reader import ObjectChangedError, ObjectReader, RangesIgnoredError, ReadInterruptedError
from gllm_storage.store.retry import RESTART, RetryPolicy
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Generator

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.target import Sink, Target
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.reader import FullAnswer
    from gllm_storage.store.transfer import Transfer

READ_CHUNK = 2**18
"""Bytes of an answer that are taken at a time; what a chunk that breaks off had brought is lost."""
_CORRUPTIONS = 2
"""How often a download is attempted whose content does not match the checksum."""


class _SmallAtOnce(ObjectReader):
    """Reads an object of one part by the request that also tells its version: a look before would be as slow as that.

    Args:
        reader: Reads the object.
        transfer: What stops it, and how large a part is.
    """

    def __init__(self, reader: ObjectReader, transfer: Transfer) -> None:
        self._reader = reader
        self._transfer = transfer
        self._answer: FullAnswer | None = None

    def head(self) -> ObjectInfo:
        """What is there now; if it is small, the next `read` is of the same answer."""
        self.close()
        answer = self._begin()
        if answer is None:
            return self._reader.head()
        self._answer = answer
        if answer.version.size > self._transfer.settings.part_size:
            self.close()  # what came of the body meanwhile is what a connection takes unread, some 100 KiB
        return answer.version

    def _begin(self) -> FullAnswer | None:
        with stopped_by(self._transfer.stop), self._reader.translated():
            return self._reader.begin()

    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: memoryview | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        """The first time, of the answer that `head` kept, and so of the whole; as `ObjectReader.read`."""
        answer, self._answer = self._answer, None
        return self._reader.read(version, start, length, buffer) if answer is None else _all_of(answer, buffer)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise our errors in place of the SDK's."""
        return self._reader.translated()

    def close(self) -> None:
        """Read no answer that is still kept."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


def _all_of(answer: FullAnswer, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
    with contextlib.closing(answer):
        yield from answer.chunks(buffer)


@dataclass(frozen=True)
class Download:
    """One version of one object to be read.

    Attributes:
        reader: Reads the object.
        version: What `ObjectReader.head` said.
        sink: Where the bytes go.
        transfer: What it is about, who watches, and what stops it.
    """

    reader: ObjectReader
    version: ObjectInfo
    sink: Sink
    transfer: Transfer

    def fetch(self) -> int:
        """Read the whole content, in ranges side by side.

        Returns:
            Its CRC, if the version has one; otherwise 0.

        Raises:
            ObjectChangedError: If the object was replaced meanwhile.
            Exception: What the SDK raises, after all retries.
        """
        settings, size = self.transfer.settings, self.version.size
        if not size:
            return 0
        try:
            if size <= settings.part_size:
                return self._fetch_range(0, size)
            in_parts = dataclasses.replace(self, transfer=self.transfer.attempt())
            part_size = part_size_for(size, settings.part_size)
            ranges = part_ranges(size, part_size)
            tasks = [partial(in_parts._fetch_range, *each) for each in ranges]  # noqa: SLF001 - its own
            found = run_all(tasks, settings.max_concurrency, in_parts.transfer.stop, part_size)
        except RangesIgnoredError:
            return self._fetch_range(0, size, resume=False)
        crcs = zip(found, (length for _, length in ranges), strict=True)
        return checksums.fold(crcs, self.algorithm) if self.algorithm else 0

    @property
    def algorithm(self) -> str | None:
        """The version's checksum, if it can be computed of ranges as they come."""
        algorithm = (self.version.checksum or "").partition(":")[0]
        return algorithm if algorithm in checksums.FOLDABLE else None

    def fetch_range(self, start: int, length: int) -> None:
        """Read one range, which is not taken for the whole object.

        Raises:
            ObjectChangedError: If the object was replaced meanwhile.
            StorageError: If the endpoint ignores ranges.
            Exception: What the SDK raises, after all retries.
        """
        try:
            self._fetch_range(start, length)
        except RangesIgnoredError as error:
            details = self.transfer.details
            raise StorageError(
                f"{details.operation} of {details.url}: the endpoint ignores the Range header",
                details,
                Remedy.DOWNLOAD_INSTEAD,
            ) from error

    def _fetch_range(self, start: int, length: int, *, resume: bool = True) -> int:
        """Read a range; where an answer breaks off, what came is kept, and reading goes on behind it.

        Returns:
            Its CRC, as `fetch`.

        Args:
            start: Where in the object it begins.
            length: Its length in bytes.
            resume: Whether the endpoint can go on in the middle. If not, each try begins anew.
        """
        policy = RetryPolicy(self.transfer.settings.max_attempts)
        received = failures = crc = 0
        while True:
            self.transfer.stop.check()
            more, read_crc, broken = self._read_on(start + received, length - received, crc)
            if broken is None:
                break
            if resume:
                received, crc = received + more, read_crc
            # SDKs try a request again, but not the reading of an answer's body. A try that got on does not count.
            failures = 0 if resume and more >= READ_CHUNK else failures + 1
            cause = broken.__cause__ or broken
            if failures == policy.limit:
                note_attempts(cause, failures)
                raise cause from cause.__cause__
            policy.again(self.transfer.details, max(1, failures), cause, stop=self.transfer.stop)
        self.transfer.progress(length)
        return read_crc

    def _read_on(self, start: int, length: int, crc: int) -> tuple[int, int, ReadInterruptedError | None]:
        """How many bytes came, the CRC that goes on with them, and why no more came, if some are missing."""
        received, algorithm = 0, self.algorithm
        buffer = self.sink.buffer_at(start, length) or memoryview(bytearray(min(length, READ_CHUNK)))
        try:
            reading = self.reader.read(self.version, start, length, buffer)
            with stopped_by(self.transfer.stop), contextlib.closing(reading) as chunks:
                for chunk in chunks:
                    self.transfer.stop.check()
                    if received + len(chunk) > length:
                        raise ObjectChangedError
                    self.sink.write_at(start + received, chunk)
                    if algorithm is not None:
                        crc = checksums.update(chunk, crc, algorithm)
                    received += len(chunk)
        except ReadInterruptedError as error:
            return received, crc, None if received == length else error
        if received == length:
            return received, crc, None
        details = self.transfer.details
        broken = ReadInterruptedError()
        broken.__cause__ = StorageUnavailableError(
            f"{details.operation} of {details.url}: the connection ended after {received} of {length} bytes", details
        )
        return received, crc, broken


def download_object(reader: ObjectReader, path: str, transfer: Transfer) -> None:
    """Download an object: whole, one version of it, verified, or not at all.

    Args:
        reader: Reads the object.
        path: The local file that it replaces when it is complete.
        transfer: What it is about, who watches, and what stops it.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        IntegrityError: If its content does not match its checksum, twice.
        StorageError: If the download fails; what was at `path` is as it was.
    """
    with atomic_target(path, transfer.details) as target:
        _download(reader, target, transfer)
    transfer.progress.finish()


def read_object(reader: ObjectReader, transfer: Transfer) -> bytes:
    """Read an object.

    Args:
        reader: Reads the object.
        transfer: What it is about, who watches, and what stops it.

    Returns:
        One version of it, verified.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        IntegrityError: If the content does not match its checksum, twice.
        StorageError: If it cannot be read.
    """
    memory = MemoryTarget()
    _download(reader, memory, transfer)
    return memory.getvalue()


def _download(reader: ObjectReader, target: Target, transfer: Transfer) -> None:
    attempt = corruptions = 0
    with timed(), contextlib.closing(_SmallAtOnce(reader, transfer)) as at_once:
        while True:
            attempt += 1
            download = Download(at_once, at_once.head(), target, transfer.attempt())
            transfer.progress.expect(download.version.size)
            target.allocate(download.version.size)
            try:
                with reader.translated():
                    crc = download.fetch()
                _verify(download, target, crc)
            except ObjectChangedError as error:
                if attempt == RESTART.limit:
                    raise replaced_too_often(transfer.details, attempt) from error
                RESTART.again(transfer.details, attempt, "the object was replaced", "restart", transfer.stop)
            except IntegrityError as error:
                corruptions += 1
                if corruptions == _CORRUPTIONS or attempt == RESTART.limit:
                    raise
                RESTART.again(transfer.details, attempt, error.message, "corruption", transfer.stop)
            else:
                return


def replaced_too_often(details: ErrorDetails, attempts: int) -> StorageUnavailableError:
    """The error for an object that was replaced during each attempt to read it."""
    return StorageUnavailableError(
        f"{details.operation} of {details.url}: the object was replaced during each of {attempts} attempts to read it",
        details,
        Remedy.REPEAT,
    )


def _verify(download: Download, target: Target, crc: int) -> None:
    """Compare what was taken with the checksum that the store, or our metadata, keeps."""
    if download.version.checksum is None:
        return
    algorithm, expected = download.version.checksum.split(":", 1)
    if download.algorithm is not None:
        found = checksums.encode(crc, algorithm)
    else:
        found = checksums.checksum_of(target.read_at, download.version.size, algorithm)
    if found != expected:
        details = download.transfer.details
        raise IntegrityError(
            f"{details.operation} of {details.url}: the content has {algorithm} {found}, but the stored checksum is "
            f"{expected}; the received bytes were discarded",
            details,
            Remedy.REPORT_DAMAGE,
        )
