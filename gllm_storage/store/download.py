"""Downloads: one version of the object, complete and verified; or an error, and the local file is unchanged.

An object may be replaced while its ranges are read, and ranges of two versions would make a file that never existed. So
`ObjectReader.head` returns one version, and every range is *pinned* to it: the request carries its ETag or version, and the
reader raises `ObjectChangedError` if the store has another one. That ends all ranges, and the download starts again with the
new version, as often as `RESTART` allows.

A body that ends early keeps its bytes, and the next request asks for the rest only. The SDKs do not repeat this: for them, a
request is complete when its headers have arrived.

CRCs are computed range by range, as the bytes arrive, and combined at the end, so that verification costs no second pass.
Other checksums are computed from the target. Content that does not match is downloaded once more before `IntegrityError`.
"""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import IntegrityError, Remedy, StorageError, StorageUnavailableError, note_attempts, timed
from gllm_storage.files.target import MemoryTarget
from gllm_storage.store import checksums
from gllm_storage.store.reader import (
    ObjectChangedError,
    ObjectReader,
    RangesIgnoredError,
    ReadInterruptedError,
    replaced_too_often,
)
from gllm_storage.store.retry import RESTART, RetryPolicy
from gllm_storage.store.transfer import part_ranges, range_size_for

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.partial import PartialFile
    from gllm_storage.files.target import Sink, Target
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.reader import FullAnswer
    from gllm_storage.store.transfer import Transfer

READ_CHUNK = 2**18
"""Bytes of an answer that are read at a time. If the connection breaks within a chunk, the bytes of that chunk are lost."""
_CORRUPTIONS = 2
"""The most attempts at a download whose content does not match its checksum."""


def ranges_ignored(details: ErrorDetails) -> StorageError:
    """The error for an endpoint that answers a ranged read with the complete object."""
    message = f"{details.operation} of {details.url}: the endpoint ignores the Range header"
    return StorageError(message, details, Remedy.DOWNLOAD_INSTEAD)


def ended_early(details: ErrorDetails, received: int, length: int) -> ReadInterruptedError:
    """The failure of an answer that ended before its length, without an error of the connection."""
    broken = ReadInterruptedError()
    broken.__cause__ = StorageUnavailableError(
        f"{details.operation} of {details.url}: the connection ended after {received} of {length} bytes", details
    )
    return broken


class _GetFirstReader(ObjectReader):
    """A reader that sends a GET request for the complete object where `ObjectReader.head` would send a HEAD request.

    For a small object the round trip is most of the time, and HEAD and GET are two of them. But the headers of a GET answer
    hold the same facts. So `head` sends a GET request and reads its headers only. If the object has at most one part, the
    answer is kept, and the next `read`, which is of the complete object, returns its body: one request in all, and one
    answer cannot mix two versions. If the object is larger, the answer is closed, and pinned ranges follow.

    A restart calls `head` again, which closes an answer that is still kept.

    Args:
        reader: Reads the object.
        transfer: The stop, and the part size.
    """

    def __init__(self, reader: ObjectReader, transfer: Transfer) -> None:
        self._reader = reader
        self._transfer = transfer
        self._answer: FullAnswer | None = None

    def head(self) -> ObjectInfo:
        """The current version. If the object is small, the next `read` uses the same answer."""
        self.close()
        with stopped_by(self._transfer.stop):
            answer = self._begin()
            if answer is None:
                return self._reader.head()
        self._answer = answer
        if answer.version.size > self._transfer.settings.part_size:
            self.close()  # wastes the part of the body that has arrived in the socket's buffer: about 100 KiB
        return answer.version

    def _begin(self) -> FullAnswer | None:
        with self._reader.translated():
            return self._reader.begin()

    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: memoryview | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        """As `ObjectReader.read`; the first call returns the body of the answer that `head` kept."""
        answer, self._answer = self._answer, None
        return self._reader.read(version, start, length, buffer) if answer is None else _body_of(answer, buffer)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise errors of this library in place of the SDK's."""
        return self._reader.translated()

    def close(self) -> None:
        """Close the answer that is kept, if there is one."""
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()


def _body_of(answer: FullAnswer, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
    try:
        yield from answer.chunks(buffer)
    finally:
        answer.close()


@dataclass(frozen=True)
class Download:
    """One attempt to read one version of an object.

    Attributes:
        reader: Reads the object.
        version: The result of `ObjectReader.head`.
        sink: Receives the bytes.
        transfer: The operation, the settings, the progress, and the stop.
    """

    reader: ObjectReader
    version: ObjectInfo
    sink: Sink
    transfer: Transfer

    def fetch(self) -> int:
        """Read the complete content, in concurrent ranges if it has more than one part.

        Returns:
            The CRC of the content if the version has a CRC to compare with; otherwise 0.

        Raises:
            ObjectChangedError: If the object was replaced in the meantime.
            Exception: The SDK's exception, after all retries.
        """
        settings, size = self.transfer.settings, self.version.size
        if not size:
            return 0
        if size <= settings.part_size:
            try:
                return self._fetch_range(0, size)
            except RangesIgnoredError:
                return self._fetch_range(0, size, resume=False)
        return self.fetch_ranges(part_ranges(size, range_size_for(size, settings)))

    def fetch_ranges(self, ranges: Sequence[tuple[int, int]]) -> int:
        """Read some ranges concurrently, or the complete content if the endpoint ignores the Range header.

        Args:
            ranges: Offset and length of each range.

        Returns:
            As `fetch`, if the ranges are the complete content.

        Raises:
            ObjectChangedError: If the object was replaced in the meantime.
            Exception: The SDK's exception, after all retries.
        """
        in_parts = dataclasses.replace(self, transfer=self.transfer.attempt())
        tasks = [partial(in_parts._fetch_range, *each) for each in ranges]  # noqa: SLF001 - of the same class
        try:
            found = run_all(tasks, self.transfer.settings.max_concurrency, in_parts.transfer.stop, paced=True)
        except RangesIgnoredError:
            return self._fetch_range(0, self.version.size, resume=False)
        crcs = zip(found, (length for _, length in ranges), strict=True)
        return checksums.fold(crcs, self.algorithm) if self.algorithm else 0

    @property
    def algorithm(self) -> str | None:
        """The algorithm of the version's checksum, if that can be computed range by range; otherwise None."""
        algorithm = (self.version.checksum or "").partition(":")[0]
        return algorithm if algorithm in checksums.FOLDABLE else None

    def fetch_range(self, start: int, length: int) -> None:
        """Read one range of the object.

        Args:
            start: Offset of the first byte.
            length: Number of bytes.

        Raises:
            ObjectChangedError: If the object was replaced in the meantime.
            StorageError: If the endpoint ignores the Range header.
            Exception: The SDK's exception, after all retries.
        """
        try:
            self._fetch_range(start, length)
        except RangesIgnoredError as error:
            raise ranges_ignored(self.transfer.details) from error

    def _fetch_range(self, start: int, length: int, *, resume: bool = True) -> int:
        """Read a range. After an answer that ended early, request only the bytes that are missing.

        Args:
            start: Offset of the first byte.
            length: Number of bytes.
            resume: Whether the endpoint serves the rest of a range. If not, each attempt begins at `start`.

        Returns:
            The CRC of the range, as in `fetch`.
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
            # An attempt that received a chunk does not count: on a bad line, a large range may need many of them.
            failures = 0 if resume and more >= READ_CHUNK else failures + 1
            cause = broken.__cause__ or broken
            if failures == policy.limit:
                note_attempts(cause, failures)
                raise cause from cause.__cause__
            policy.again(self.transfer.details, max(1, failures), cause, stop=self.transfer.stop)
        self.transfer.progress(length)
        return read_crc

    def _read_on(self, start: int, length: int, crc: int) -> tuple[int, int, ReadInterruptedError | None]:
        """Read the rest of a range by one request.

        Returns:
            The number of bytes, the CRC continued over them, and the reason if the answer ended early.
        """
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
        return received, crc, ended_early(self.transfer.details, received, length)


def fetch_object(reader: ObjectReader, target: Target, transfer: Transfer) -> None:
    """Download an object: complete, one version of it, and verified.

    Args:
        reader: Reads the object.
        target: Receives the content. After an error it holds bytes that do not count.
        transfer: The operation, the settings, the progress, and the stop.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        IntegrityError: If the content does not match its checksum, twice.
        StorageError: If the download fails.
    """
    attempt = corruptions = 0
    with timed(), contextlib.closing(_GetFirstReader(reader, transfer)) as get_first:
        while True:
            attempt += 1
            download = Download(get_first, get_first.head(), target, transfer.attempt())
            transfer.accept(download.version)
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


def resume_object(reader: ObjectReader, target: PartialFile, transfer: Transfer) -> None:
    """Download the bytes of an object that a partial file does not have yet.

    The checksum of the store is not compared: the caller knows the SHA-256 of the content, and compares it.

    Args:
        reader: Reads the object.
        target: Receives the bytes. After an error the next call goes on with it.
        transfer: The operation, the settings, the progress, and the stop.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        IntegrityError: If the object has another size.
        StorageError: If the download fails.
    """
    attempt = 0
    most = range_size_for(target.size, transfer.settings)
    with timed():
        while target.missing(most):
            attempt += 1
            version = dataclasses.replace(reader.head(), checksum=None)
            if version.size != target.size:
                details = transfer.details
                raise IntegrityError(
                    f"{details.operation} of {details.url}: the object has {version.size} bytes instead of {target.size}",
                    details,
                    Remedy.REPORT_DAMAGE,
                )
            try:
                with reader.translated():
                    Download(reader, version, target, transfer.attempt()).fetch_ranges(target.missing(most))
            except ObjectChangedError as error:
                if attempt == RESTART.limit:
                    raise replaced_too_often(transfer.details, attempt) from error
                target.clear()
                RESTART.again(transfer.details, attempt, "the object was replaced", "restart", transfer.stop)


def read_object(reader: ObjectReader, transfer: Transfer) -> bytes:
    """Read an object into memory.

    Args:
        reader: Reads the object.
        transfer: The operation, the settings, the progress, and the stop.

    Returns:
        The complete, verified content of one version.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        IntegrityError: If the content does not match its checksum, twice.
        StorageError: If the object cannot be read.
    """
    memory = MemoryTarget()
    fetch_object(reader, memory, transfer)
    return memory.getvalue()


def _verify(download: Download, target: Target, crc: int) -> None:
    """Compare the received content with the checksum that the store, or the object's metadata, holds.

    Raises:
        IntegrityError: If they differ.
    """
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
