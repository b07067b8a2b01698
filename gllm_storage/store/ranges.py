"""Reads many slices of many objects concurrently.

Slices of one object that lie close to each other are read by one request. All slices of one object are of the same version:
if the object is replaced in the meantime, all of its slices are read again. An error of one object does not end the others.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gllm_storage.concurrency.stop import Stop, running_stop, stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import note_attempts
from gllm_storage.store.download import READ_CHUNK, Download, ended_early, ranges_ignored
from gllm_storage.store.reader import ObjectChangedError, RangesIgnoredError, ReadInterruptedError, replaced_too_often
from gllm_storage.store.retry import RESTART, RetryPolicy
from gllm_storage.store.transfer import Transfer, part_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.reader import ObjectReader

T = TypeVar("T")
Slice = tuple[int | None, int | None]
"""Start and end, with the meaning of a Python slice: None and negative numbers are allowed."""
Range = tuple[str, Slice]
"""A path, and a slice of the object there."""

_REPLACED = "the object was replaced"
_LARGE = 2**20
"""Ranges of so many bytes on average are read by two workers first. Smaller ones are all round trip, and need the most."""
DEFAULT_GAP = 64 * 2**10
"""The longest gap in bytes between two ranges of one request: to read it takes less time than a second request."""


@dataclass(frozen=True)
class Span:
    """One range to read, and the requested ranges within it.

    Attributes:
        start: Offset of the first byte.
        end: Offset behind the last byte.
        parts: Number, start and end of each requested range.
    """

    start: int
    end: int
    parts: tuple[tuple[int, int, int], ...]


def coalesced(ranges: Iterable[tuple[int, int]], max_gap: int, max_size: int) -> list[Span]:
    """Combine ranges that lie close to each other into spans.

    Args:
        ranges: Start and end of each requested range; none is empty.
        max_gap: The most bytes between two ranges of one span.
        max_size: The most bytes of a span. A requested range that is larger becomes a span of its own.

    Returns:
        The spans, ordered by their starts.
    """
    spans: list[Span] = []
    for start, end, number in sorted((start, end, number) for number, (start, end) in enumerate(ranges)):
        last = spans[-1] if spans else None
        together = 0 if last is None else max(last.end, end) - last.start
        if last is not None and start <= last.end + max_gap and (end <= last.end or together <= max_size):
            spans[-1] = Span(last.start, max(last.end, end), (*last.parts, (number, start, end)))
        else:
            spans.append(Span(start, end, ((number, start, end),)))
    return spans


class ViewSink:
    """Receives one range of an object in a buffer of the caller.

    Args:
        start: Offset in the object of the buffer's first byte.
        view: The buffer.
    """

    def __init__(self, start: int, view: memoryview) -> None:
        self._start = start
        self._view = view

    def buffer_at(self, offset: int, length: int) -> memoryview:
        """The place of these bytes in the caller's buffer."""
        return self._view[offset - self._start : offset - self._start + length]

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Store bytes at an offset of the object."""
        if isinstance(data, memoryview) and data.obj is self._view.obj:
            return  # the reader received them in the place that `buffer_at` returned
        self._view[offset - self._start : offset - self._start + len(data)] = data


def read_into(reader: ObjectReader, version: ObjectInfo, start: int, target: memoryview, transfer: Transfer) -> None:
    """Fill a buffer with bytes of one version of an object.

    Args:
        reader: Reads the object.
        version: The version.
        start: Offset of the first byte.
        target: The buffer.
        transfer: The operation, the settings, the progress, and the stop.

    Raises:
        ObjectChangedError: If the object was replaced by another version.
        ObjectNotFoundError: If the object was deleted.
        StorageError: If the range cannot be read.
    """
    version = dataclasses.replace(version, checksum=None)  # it is of the complete object, and cannot verify a range
    with reader.translated():
        Download(reader, version, ViewSink(start, target), transfer).fetch_range(start, len(target))


class RangeStream:
    """One range of one version of an object, received in the thread that reads it, and into its buffers.

    An answer that ended early is continued by another request, as often as the settings allow.

    Args:
        reader: Reads the object.
        version: The version.
        start: Offset of the first byte.
        length: Number of bytes.
        transfer: The operation, the settings, and the stop.

    Attributes:
        position: Offset of the next byte.
        end: Offset behind the last byte.
    """

    def __init__(self, reader: ObjectReader, version: ObjectInfo, start: int, length: int, transfer: Transfer) -> None:
        self.position = start
        self.end = start + length
        self._reader = reader
        self._version = version
        self._transfer = transfer
        self._policy = RetryPolicy(transfer.settings.max_attempts)
        self._pieces: Generator[bytes | memoryview, None, None] | None = None
        self._begun_at = start
        self._failures = 0
        self._is_intact = True  # the answer goes on at `position`
        self._rest = memoryview(b"")
        self._target = self._given = self._rest

    def fill(self, target: memoryview) -> None:
        """Fill a buffer with the next bytes. It must not reach behind the end of the range.

        Raises:
            ObjectChangedError: If the object was replaced by another version.
            ObjectNotFoundError: If the object was deleted.
            StorageError: If the bytes cannot be read.
            TransferStopped: If the stop of this stream, or that of this thread, is set.
        """
        stop, outer = self._transfer.stop, running_stop()
        if outer is not None:
            outer.on_set(stop.set)
        try:
            with self._reader.translated(), stopped_by(stop):
                if not self._is_intact:
                    self._end_answer()
                self._is_intact = False  # until nothing can interrupt it between a piece and its `position`
                self._fill(target)
                self._is_intact = True
        finally:
            if outer is not None:
                outer.forget(stop.set)
            # The suspended reader still refers to them: the caller could not resize its bytearray.
            for view in (self._target, self._given):
                view.release()

    def skip(self, length: int) -> None:
        """Receive bytes and discard them."""
        self.fill(memoryview(bytearray(length)))

    def close(self) -> None:
        """Discard the rest of the answer."""
        self._transfer.stop.set()
        self._end_answer()

    def _fill(self, target: memoryview) -> None:
        done, size = 0, len(target)
        while done < size:
            if self._rest:
                count = min(len(self._rest), size - done)
                target[done : done + count] = self._rest[:count]
                self._rest = self._rest[count:]
            else:
                self._target = target[done:]
                piece = self._next_piece()
                if not isinstance(piece, memoryview) or piece.obj is not target.obj:
                    self._rest = memoryview(piece)
                    continue
                count = len(piece)  # the reader received it in its place
                piece.release()
            done += count
            self.position += count
        if self.position == self.end:
            self._end_answer()

    def _place(self, most: int) -> memoryview:
        self._given = self._target[:most]
        return self._given

    def _next_piece(self) -> bytes | memoryview:
        """The next bytes; after an answer that ended early, those of another one."""
        while True:
            self._transfer.stop.check()
            if self._pieces is None:
                self._begun_at = self.position
                place: Any = self._place if self._reader.asks_for_places else None
                self._pieces = self._reader.read(self._version, self.position, self.end - self.position, place)
            try:
                piece = next(self._pieces, None)
            except ReadInterruptedError as error:
                self._failed(error)
            except RangesIgnoredError as error:
                raise ranges_ignored(self._transfer.details) from error
            else:
                if piece and len(piece) <= self.end - self.position:
                    return piece
                if piece:
                    raise ObjectChangedError
                if piece is None:
                    received = self.position - self._begun_at
                    self._failed(ended_early(self._transfer.details, received, self.end - self._begun_at))

    def _failed(self, broken: ReadInterruptedError) -> None:
        """Wait before the next attempt, or raise the cause after the last one; as `Download`."""
        self._end_answer()
        self._failures = 0 if self.position - self._begun_at >= READ_CHUNK else self._failures + 1
        cause = broken.__cause__ or broken
        if self._failures == self._policy.limit:
            note_attempts(cause, self._failures)
            raise cause from cause.__cause__
        self._policy.again(self._transfer.details, max(1, self._failures), cause, stop=self._transfer.stop)

    def _end_answer(self) -> None:
        pieces, self._pieces = self._pieces, None
        self._rest = memoryview(b"")
        if pieces is not None:
            pieces.close()


@dataclass(eq=False)
class ObjectSlices:
    """The slices to read of one object, and their contents.

    Attributes:
        reader: Reads the object.
        transfer: The operation, the settings, the progress, and the stop.
        slices: Start and end of each slice.
        max_gap: The most bytes between two slices that are read by one request.
        results: The contents, in the order of the slices.
        error: The failure, if the object could not be read.
    """

    reader: ObjectReader
    transfer: Transfer
    slices: Sequence[Slice]
    max_gap: int = DEFAULT_GAP
    results: list[bytes] = field(default_factory=list)
    error: Exception | None = None
    planned: int = 0
    """Bytes that the tasks of `begin` read."""
    _large_spans: list[tuple[Span, io.BytesIO]] = field(default_factory=list)

    @property
    def _part_size(self) -> int:
        return self.transfer.settings.part_size

    def begin(self) -> list[Callable[[], None]]:
        """Read all slices by one request if that is possible; otherwise send a HEAD request. `finish` follows.

        Returns:
            The tasks that read the slices, to be run concurrently; none if they are read. A task raises
            `ObjectChangedError` if the object was replaced by another version.

        Raises:
            StorageError: If the request fails; `ObjectNotFoundError` if there is no object.
        """
        self.results = [b""] * len(self.slices)
        self._large_spans, self.planned = [], 0
        with self.reader.translated():
            if self._read_at_once():
                return []
        version = self.reader.head()
        tasks: list[Callable[[], None]] = []
        spans = self._spans(version.size)
        if not spans and version.size and any(start is not None and start >= version.size for start, _ in self.slices):
            return [partial(self._read_span, version, Span(0, 1, ()))]  # confirms the size: the store may state a wrong one
        self.planned = sum(span.end - span.start for span in spans)
        for span in spans:
            if span.end - span.start <= self._part_size:
                tasks.append(partial(self._read_span, version, span))
            else:
                tasks += self._parts_of(version, span)
        return tasks

    def finish(self) -> None:
        """Distribute the spans that were read in several parts, after all tasks have ended."""
        for span, content in self._large_spans:
            self._distribute(span, content.getvalue())
        self._large_spans = []

    def outcomes(self) -> list[bytes] | list[Exception]:
        """The contents, in the order of the slices; or the failure, once for each slice."""
        return self.results if self.error is None else [self.error] * len(self.slices)

    def _spans(self, size: int) -> list[Span]:
        ranges = [slice(*each).indices(size)[:2] for each in self.slices]
        wanted = [number for number, (start, end) in enumerate(ranges) if start < end]
        spans = coalesced([ranges[number] for number in wanted], self.max_gap, self._part_size)
        return [
            Span(span.start, span.end, tuple((wanted[number], start, end) for number, start, end in span.parts))
            for span in spans
        ]

    def _read_at_once(self) -> bool:
        """Read all slices by one request, without a HEAD request before.

        Returns:
            False if the slices need more than one request, or the reader cannot do it.
        """
        if not self.slices:
            return False
        first, last = self.slices[0]
        if len(self.slices) == 1 and last is None and first is not None and -self._part_size <= first < 0:
            found = self.reader.read_at_once(first, None)
            self.results = self.results if found is None else [found[1]]
            return found is not None
        span = self._only_span()
        found = None if span is None else self.reader.read_at_once(span.start, span.end)
        if span is None or found is None:
            return False
        self._distribute(span, found[1])
        return True

    def _only_span(self) -> Span | None:
        """The span of all slices, if it is not larger than a part and known without the size of the object; or None."""
        ranges = [(start, end) for start, end in self.slices if start is not None and end is not None and 0 <= start < end]
        spans = coalesced(ranges, self.max_gap, self._part_size)
        is_one = len(ranges) == len(self.slices) and len(spans) == 1 and spans[0].end - spans[0].start <= self._part_size
        return spans[0] if is_one else None

    def _read_span(self, version: ObjectInfo, span: Span) -> None:
        content = io.BytesIO(bytes(span.end - span.start))  # `getvalue` returns them without a copy
        with content.getbuffer() as view:
            read_into(self.reader, version, span.start, view, self.transfer)
        self._distribute(span, content.getvalue())

    def _parts_of(self, version: ObjectInfo, span: Span) -> list[Callable[[], None]]:
        content = io.BytesIO(bytes(span.end - span.start))
        self._large_spans.append((span, content))
        return [
            partial(self._read_part, version, span.start, content, offset, length)
            for offset, length in part_ranges(span.end - span.start, self._part_size)
        ]

    def _read_part(self, version: ObjectInfo, start: int, content: io.BytesIO, offset: int, length: int) -> None:
        with content.getbuffer() as view, view[offset : offset + length] as part:
            read_into(self.reader, version, start + offset, part, self.transfer)

    def _distribute(self, span: Span, content: bytes) -> None:
        for number, start, end in span.parts:
            first, last = start - span.start, end - span.start
            is_all = first == 0 and last >= len(content)
            self.results[number] = content if is_all else content[first:last]


def ranges_of(paths: list[str], starts: Any, ends: Any) -> list[Range]:
    """Pair the arguments of fsspec's `cat_ranges`.

    Args:
        paths: The paths.
        starts: One start for each path, or one for all.
        ends: One end for each path, or one for all.

    Raises:
        TypeError: If `paths` is not a list.
        ValueError: If the numbers of paths, starts and ends differ.
    """
    if not isinstance(paths, list):
        raise TypeError(f"paths must be a list, not {type(paths).__name__}")
    first = list(starts) if isinstance(starts, Iterable) else [starts] * len(paths)
    last = list(ends) if isinstance(ends, Iterable) else [ends] * len(paths)
    if not len(paths) == len(first) == len(last):
        raise ValueError(f"there are {len(paths)} paths, {len(first)} starts and {len(last)} ends")
    return list(zip(paths, zip(first, last, strict=True), strict=True))


def read_ranges(
    ranges: Sequence[Range], slices_of: Callable[[str, list[Slice]], ObjectSlices], workers: int, stop: Stop
) -> list[bytes | Exception]:
    """Read ranges of many objects.

    Args:
        ranges: The ranges.
        slices_of: Makes the `ObjectSlices` of a path.
        workers: The most requests at a time.
        stop: Cancels the reads.

    Returns:
        For each range its content, or the exception, in the order of the ranges.

    Raises:
        TransferStopped: If the reads were cancelled.
    """
    numbers: dict[str, list[int]] = {}
    for number, (path, _) in enumerate(ranges):
        numbers.setdefault(path, []).append(number)
    found: dict[int, bytes | Exception] = {}
    objects: dict[str, ObjectSlices] = {}
    for path, of_path in numbers.items():
        try:
            objects[path] = slices_of(path, [ranges[number][1] for number in of_path])
        except Exception as error:  # noqa: BLE001 - returned for each range of this object
            found.update(dict.fromkeys(of_path, error))
    _read_all(list(objects.values()), workers, stop)
    for path, each in objects.items():
        found.update(zip(numbers[path], each.outcomes(), strict=True))
    return [found[number] for number in range(len(ranges))]


def read_slice(wanted: ObjectSlices) -> bytes:
    """Read the only slice of an object.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        StorageError: If the slice cannot be read.
        TransferStopped: If the transfer was cancelled.
    """
    _read_all([wanted], wanted.transfer.settings.max_concurrency, wanted.transfer.stop)
    if wanted.error is not None:
        raise wanted.error
    return wanted.results[0]


def _read_all(objects: Sequence[ObjectSlices], workers: int, stop: Stop) -> None:
    """Read the slices of all objects; repeat this for objects that were replaced in the meantime."""
    attempt = 0
    while True:
        attempt += 1
        objects = _read_once(objects, workers, stop)
        if not objects:
            return
        if attempt == RESTART.limit:
            break
        for each in objects[1:]:
            RESTART.report(each.transfer.details, attempt, _REPLACED, "restart")
        RESTART.again(objects[0].transfer.details, attempt, _REPLACED, "restart", stop)
    for each in objects:
        each.error = replaced_too_often(each.transfer.details, attempt)


def _read_once(objects: Sequence[ObjectSlices], workers: int, stop: Stop) -> list[ObjectSlices]:
    """Read the slices of all objects once.

    Returns:
        The objects that were replaced in the meantime.
    """
    changed: list[ObjectSlices] = []
    begun = _run_concurrently([partial(_begin, each) for each in objects], workers, stop)
    tasks = [partial(_run_task, each, task, changed) for each, rest in zip(objects, begun, strict=True) for task in rest]
    _run_concurrently(tasks, workers, stop, paced=sum(each.planned for each in objects) >= len(tasks) * _LARGE)
    for each in objects:
        each.finish()
    return [each for each in objects if each in changed and each.error is None]


def _begin(each: ObjectSlices) -> list[Callable[[], None]]:
    try:
        return each.begin()
    except Exception as error:  # noqa: BLE001 - kept as the outcome of this object
        each.error = error
        return []


def _run_task(each: ObjectSlices, task: Callable[[], None], changed: list[ObjectSlices]) -> None:
    if each.error is not None or each in changed:
        return
    try:
        task()
    except ObjectChangedError:
        changed.append(each)
    except Exception as error:  # noqa: BLE001 - kept as the outcome of this object
        each.error = error


def _run_concurrently(tasks: Sequence[Callable[[], T]], workers: int, stop: Stop, *, paced: bool = False) -> list[T]:
    if len(tasks) > 1:
        return run_all(tasks, workers, stop, paced=paced)
    with stopped_by(stop):
        return [task() for task in tasks]
