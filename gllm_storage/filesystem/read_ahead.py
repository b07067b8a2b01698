"""`ReadAhead`: the cache of one open file. It requests bytes ahead of sequential reads, and widens small random reads.

The reads so far decide how much is fetched:

- **Sequential.** Reads of which each begins where the one before ended, or at most 64 KiB behind it, form a *run*. From the
  third read of a run on, more bytes are requested than the caller reads: at most as many as the run has read so far, or
  twice as many if it reads 256 KiB or more at a time. The gaps of a run are useless bytes as well: in total at most 64 KiB,
  and a sixteenth of the bytes that it read.

  - *Near.* While the caller waits little for the store, its own thread receives them, directly into the caller's buffer, or
    into a block of 256 KiB that serves short reads: a `RangeStream`. Nothing is copied, and no threads compete for Python's
    lock: 1 GiB over https takes 1.0 s, where ten threads took 2.6 s.
  - *Distant.* When `Width` finds that the caller mostly waits, threads fetch blocks of up to a part's size ahead of it, at
    most `max_concurrency` of them.
- **Random.** Any other read fetches the requested bytes only. But a read of less than 64 KiB fetches the 128 KiB around
  them, because a read of a footer, a directory or a header is mostly followed by reads nearby. A widened read far from the
  one before counts as wasted, one nearby makes up for it; after eight wasted ones, small reads are not widened any more.

Checkpoints decided the details. `torch.load` of 50 tensors sent 102 requests, one by one, while each gap and each look into
the directory at the end of the archive ended the run:

- The header of an archive's member begins 16 bytes behind the member before it. So a run may have gaps.
- A read of less than 64 KiB elsewhere does not end the run.
- A larger one begins another run. A distributed checkpoint is read in the order of the tensors' names, ``layer.2`` after
  ``layer.19``: back and forth between a few runs. So a file keeps four runs with the blocks ahead of them, and each can be
  continued. Without this, 50 tensors of 210 MB cost 330 MB. The blocks of a run are discarded when half of the memory limit
  was read elsewhere.
- Blocks are not fetched where another run began, because the file was read from there already.
- A read elsewhere, of bytes that a run will probably read soon, receives all bytes of the run up to them.
- The first read of a run fetches ahead if the run before was one of long reads. When blocks were discarded unread, this is
  not done any more, nor are twice as many bytes fetched ahead.

All blocks count in the memory budget of the process. When it is full, fewer bytes are read ahead, or none. One small block
per file is kept in any case, and does not count: it is as small as the buffer that any operating system keeps for a file.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.width import Width
from gllm_storage.concurrency.workers import run_all, start
from gllm_storage.store.transfer import part_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.concurrency.budget import MemoryBudget
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.ranges import RangeStream

_KIB = 2**10
_SMALL_READ = 64 * _KIB
"""Reads of fewer bytes are widened."""
_SMALL_BLOCK = 128 * _KIB
"""Bytes that a widened read fetches."""
_SMALL_BLOCKS = 8
"""The most small blocks that a file keeps."""
_WIDENINGS = 8
"""How many small reads far from the read before are widened, before small reads are not widened any more."""
_MIN_RUN_READS = 2
"""How many reads must have continued a run before blocks are fetched ahead."""
_MAX_GAP = 64 * _KIB
"""The most bytes between two reads of a run; and in all of its gaps, in addition to the share of the bytes that it read."""
_GAP_SHARE = 16
"""One of so many bytes of a run may be in its gaps."""
_LONG_READ = 256 * _KIB
"""A run whose reads are as long as this on average fetches twice as many bytes ahead."""
_MAX_RUNS = 4
"""The most runs that a file keeps."""
_STREAM_MEMORY = 4 * 2**20
"""Bytes that a stream counts in the memory budget: the system receives about as many before they are read."""
_IDLE_SECONDS = 10.0
"""How long an answer may wait for its reader. Servers close a connection that takes no bytes for some time."""
_OBSERVED_SECONDS = 0.05
"""Over how much time of fetching the use of the processor is judged."""
_POLL_SECONDS = 0.2
"""How often a waiting thread checks whether its work was cancelled."""


@dataclass(frozen=True)
class Source:
    """One version of an object, to be read.

    Attributes:
        fetch: Fills a buffer with the bytes from an offset on; the stop cancels it. Raises if the bytes cannot be read.
        stream: Makes a stream of a number of bytes from an offset on.
        size: Size of the object in bytes.
        settings: Part size, concurrency and memory limit.
        block_size: The most bytes of a block that is fetched ahead. Requested bytes are fetched in parts of `part_size`.
        stream_size: The most bytes of a stream that were not requested.
    """

    fetch: Callable[[int, memoryview, Stop], None]
    stream: Callable[[int, int, Stop], RangeStream]
    size: int
    settings: TransferSettings
    block_size: int
    stream_size: int

    @property
    def ahead(self) -> int:
        """The most bytes of a block that is fetched ahead, such that four of them fit into the memory limit."""
        settings = self.settings
        return max(1, min(self.block_size, max(_SMALL_BLOCK, (settings.memory_limit - settings.part_size) // 4)))


class _Memory:
    """A buffer that counts in the memory budget until `give_back`.

    Args:
        size: Size in bytes.
        held: How many of the bytes are held in the budget; 0 for a buffer that does not count.
    """

    def __init__(self, size: int, held: int) -> None:
        self.buffer = bytearray(size)
        self.counted = held > 0
        self._budget: MemoryBudget = memory_budget()
        self._held = [held]

    @classmethod
    def take(cls, size: int, limit: int, reserve: int) -> _Memory | None:
        """A buffer that counts, or None if the budget is full; arguments as in `MemoryBudget.try_hold`."""
        return cls(size, size) if memory_budget().try_hold(size, limit, reserve) else None

    def give_back(self) -> None:
        """Return the bytes to the budget, once.

        Two threads may call this at the same time, and the garbage collector may call it in the middle of another call,
        which could hold a lock. So no lock protects the bytes: they are an item of a list, and `pop` is atomic.
        """
        try:
            held = self._held.pop()
        except IndexError:
            return
        self._budget.let_go(held)


class _Block:
    """A range of the object in memory. Its bytes have arrived, are being fetched, or could not be fetched.

    Args:
        start: Offset of the first byte.
        size: Number of bytes.
        memory: Memory for the bytes.
        small: Whether the block stays when a run ends: it belongs to a widened read, not to a run.

    Attributes:
        cost: The seconds that a thread took to fetch it, and the time of the processor that it used.
    """

    def __init__(self, start: int, size: int, memory: _Memory, *, small: bool) -> None:
        self.start = start
        self.end = start + size
        self.memory = memory
        self.view = memoryview(memory.buffer)[:size]
        self.small = small
        self.stop = Stop()
        self.error: BaseException | None = None
        self.cost = 0.0, 0.0
        self.done = threading.Event()
        self._begun = False
        self._dropped = False

    def fill(self, fetch: Callable[[int, memoryview, Stop], None]) -> None:
        """Fetch the bytes, in a thread of its own. A failure is kept, and raised by `wait`."""
        self._begun = True
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            fetch(self.start, self.view, self.stop)
            self.cost = time.perf_counter() - began, time.thread_time() - cpu
        except BaseException as error:  # noqa: BLE001 - raised by `wait`
            self.error = error
        finally:
            self.done.set()
            if self._dropped:
                self.memory.give_back()

    def wait(self) -> None:
        """Wait until the bytes have arrived.

        Raises:
            Exception: The failure of the fetch.
            TransferStopped: If the work of this thread was cancelled.
        """
        while not self.done.wait(_POLL_SECONDS):
            check_stop()
        if self.error is not None:
            raise self.error

    def drop(self) -> None:
        """Discard the block. Its memory is returned now, or by the thread that still writes to it when that ends."""
        self._dropped = True
        if not self._begun or self.done.is_set():
            self.memory.give_back()
        else:
            self.stop.set()


_Fetch = tuple[int, int, _Block | None]
"""What the reading thread fetches: start, end, and block. Without a block, the bytes go directly to the caller's buffer."""


@dataclass(eq=False)
class _Run:
    """Reads of which each continues the one before.

    Attributes:
        start: Start of the first read.
        end: End of the last read.
        trusted: Whether blocks are fetched ahead from the first read on.
        reads: How many reads continued the run.
        gaps: Bytes between the reads.
        ahead_until: End of the bytes that were requested ahead.
        allowed: End of the bytes that may be requested now.
        fetched_at: When bytes were last fetched for it.
        left: Bytes that the file had read when the caller read elsewhere.
        stream: The answer from which the next bytes come, if the reading thread receives them itself.
        memory: What the stream counts in the memory budget.
    """

    start: int
    end: int
    trusted: bool = False
    reads: int = 0
    gaps: int = 0
    ahead_until: int = -1
    allowed: int = 0
    fetched_at: float = field(default_factory=time.perf_counter)
    left: int = 0
    stream: RangeStream | None = None
    memory: _Memory | None = None

    @property
    def size(self) -> int:
        """Bytes that were read."""
        return self.end - self.start - self.gaps

    @property
    def is_proven(self) -> bool:
        """Whether enough reads continued the run to fetch blocks ahead, and did not skip more than they read."""
        return self.reads >= _MIN_RUN_READS and self.gaps <= self.size

    @property
    def has_long_reads(self) -> bool:
        """Whether the reads are long on average; the few short ones between members of an archive do not count much."""
        return self.size >= (self.reads + 1) * _LONG_READ

    @property
    def gives_trust(self) -> bool:
        """Whether the next run fetches ahead from its first read on: this one did, and its reads are long."""
        return self.ahead_until >= 0 and self.has_long_reads

    def continues(self, start: int) -> bool:
        """Whether a read from an offset on continues the run."""
        gap = start - self.end
        return 0 <= gap <= _MAX_GAP and self.gaps + gap <= _MAX_GAP + self.size // _GAP_SHARE

    def add(self, start: int, end: int) -> None:
        """Record a read that continues the run."""
        self.gaps += start - self.end
        self.reads += 1
        self.end = end

    @property
    def next(self) -> int:
        """Offset of the first byte that was not received."""
        return self.end if self.stream is None else max(self.end, self.stream.position)

    def streams(self, position: int, most_skipped: int) -> bool:
        """Whether its stream goes on at an offset, or at most so many bytes before it."""
        stream = self.stream
        return stream is not None and 0 <= position - stream.position <= most_skipped and position < stream.end

    def close(self) -> None:
        """Close the stream."""
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.close()
        self.give_back()

    def give_back(self) -> None:
        """Return the memory of the stream to the budget, unless the stream goes on."""
        memory = self.memory
        if memory is not None and (self.stream is None or self.stream.position == self.stream.end):
            self.memory = None
            memory.give_back()


class ReadAhead:
    """The cache of one open file. Its methods must be called under its `lock`.

    Args:
        source: The version of the object that the file reads.
    """

    def __init__(self, source: Source) -> None:
        self.lock = threading.RLock()
        self._source = source
        self._blocks: list[_Block] = []
        self._spare: list[_Memory] = []
        self._runs: list[_Run] = []  # the last one is that of the last read
        self._aside: _Run | None = None  # small reads elsewhere, which become a run when they are proven
        self._last = -1  # end of the last read
        self._bytes = 0  # that all runs have read
        self._is_generous = True  # until blocks were fetched in vain
        self._width = Width(source.settings.max_concurrency, first=1)
        self._fetching = 0.0, 0.0  # seconds, and those of the processor, which `_width` has not seen yet
        self._cpu = 0.0  # seconds of the processor, in all
        self._judged = 0  # bytes that `_width` has seen
        self._widenings = _WIDENINGS
        self._is_near = False
        self._is_reading = False
        self._closes = False
        # The shortcut of `read`: sequential reads up to this offset need nothing but a copy from this block.
        self._current: _Block | None = None
        self._current_until = 0

    def read(self, start: int, end: int) -> bytes:
        """Read bytes of the object.

        Args:
            start: Offset of the first byte.
            end: Offset behind the last byte; not behind the end of the object.

        Raises:
            Exception: Any exception of `Source.fetch`; all blocks are discarded then.
            TransferStopped: If the work of this thread was cancelled; likewise.
        """
        block = self._current
        if block is not None and block.start <= start == self._runs[-1].end and end <= self._current_until:  # the shortcut
            copied = bytes(block.view[start - block.start : end - block.start])
            if block is self._current:  # otherwise a signal handler has read elsewhere
                self._runs[-1].add(start, end)
                self._last = end
            return copied
        if self._is_reading:
            beside = bytearray(end - start)
            self._request(start, memoryview(beside))
            return bytes(beside)
        with self._reading():
            run, fetches = self._prepare(start, end)
            block = self._block_at(start)  # not before: `_prepare` may drop blocks
            if block and end <= block.end and block.done.is_set() and not block.error:  # one copy, where `_fill` needs two
                if end == self._runs[-1].end:
                    is_alone = self._width.width == 1  # nothing is to be fetched ahead
                    self._current = block
                    self._current_until = block.end if is_alone else min(block.end, end + _SMALL_READ)
                return bytes(block.view[start - block.start : end - block.start])
            found = io.BytesIO(bytes(end - start))  # `getvalue` returns them without a copy
            with found.getbuffer() as target:
                self._fill(start, target, run, fetches)
        return found.getvalue()

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill a buffer with bytes of the object.

        Args:
            start: Offset of the first byte.
            target: The buffer; it must not reach behind the end of the object.

        Raises:
            Exception: As `read`.
        """
        if self._is_reading:
            self._request(start, target)
            return
        with self._reading():
            self._fill(start, target, *self._prepare(start, start + len(target)))

    def _fill(self, start: int, target: memoryview, run: _Run | None, fetches: list[_Fetch]) -> None:
        """Fill a buffer by the fetches that `_prepare` returned, and from the blocks."""
        direct = {first: last for first, last, block in fetches if block is None}
        for first, last, block in fetches:
            if block is None:
                self._fetch(run, first, target[first - start : last - start])
            else:
                self._fetch(run, block.start, block.view)
                block.done.set()
        for each in self._runs:
            each.give_back()  # its stream has ended, or was expected only
        self._copy(start, target, direct)
        self._trim()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """After an exception, Ctrl-C included, cancel all fetches and discard all blocks, so that the next read works.

        A signal handler may read the same file in the middle of a read, which waits until the handler returns: the lock does
        not keep its own thread out. Such a read finds `_is_reading`, requests its bytes, and changes nothing.
        """
        self._is_reading, self._current = True, None
        try:
            yield
        except BaseException:
            self.reset()
            raise
        finally:
            self._is_reading = False
        if self._closes:
            self.close()

    def step_back(self, end: int, position: int) -> None:
        """Record that the caller used the last read only up to a position, and continues there, as after a line's end.

        Args:
            end: End of the last read. Nothing happens if another thread has read since.
            position: The position.
        """
        if end != self._last:
            return
        for each in (*self._runs[-1:], self._aside):
            if each is not None and each.end == end:
                each.end = position
        self._last = position

    def close(self) -> None:
        """Discard all blocks and cancel their fetches: now, or after the read in which a signal handler closes the file."""
        self._closes = self._is_reading
        if not self._closes:
            self.reset()

    def reset(self) -> None:
        """Discard all blocks, cancel their fetches, and forget the runs."""
        blocks, self._blocks = self._blocks, []
        self._current = None
        for block in blocks:
            block.drop()
        self._give_back_spare()
        for run in self._runs:
            run.close()
        self._runs, self._aside = [], None
        self._last = -1

    def _prepare(self, start: int, end: int) -> tuple[_Run | None, list[_Fetch]]:
        """Decide on the fetches of this read, and let threads fetch the blocks ahead of it.

        Returns:
            The run, if bytes are fetched ahead for it, and the fetches of this thread.
        """
        run = self._track(start, end)
        if run is not None and not (run.is_proven or run.trusted):
            run = None
        fetches = [(first, last, self._block_around(first, last, run)) for first, last in list(self._gaps(start, end))]
        if run is not None:
            run.allowed = run.end + self._times(run) * (run.size if run.trusted else run.size - (end - start))
            if self._width.width > 1:
                self._fetch_ahead(run, busy=any(block is None for _, _, block in fetches))
        self._give_back_spare(keep=1 if run is not None and end < self._source.size else 0)
        return run, fetches

    def _track(self, start: int, end: int) -> _Run | None:
        """Record a read, and discard the blocks before it.

        Returns:
            The run that it continues or begins; None for a small read elsewhere.
        """
        block = self._block_at(start)
        if block is not None and block.small:
            self._widenings = min(_WIDENINGS, self._widenings + 1)
            self._blocks.remove(block)
            self._blocks.append(block)  # `_trim` drops the first ones first
        self._is_near, self._last = abs(start - self._last) <= _SMALL_BLOCK, end
        run = next((each for each in reversed(self._runs) if each.continues(start)), None)
        if run is not None:
            run.add(start, end)
        elif self._runs and end - start < _SMALL_READ:
            run = self._run_aside(start, end)
            if run is None:
                return None
        else:
            run = _Run(start, end, trusted=self._is_generous and bool(self._runs) and self._runs[-1].gives_trust)
        self._bytes += end - start
        if self._bytes - self._judged >= self._source.ahead:
            self._judged = self._bytes
            self._width.ended(self._cpu)
        self._use(run)
        self._forget(lambda each: not each.small and run.start < each.end <= start)
        return run

    def _run_aside(self, start: int, end: int) -> _Run | None:
        """Record a small read elsewhere. Returns a run if enough such reads followed each other."""
        aside = self._aside
        if aside is None or start != aside.end:
            self._aside = _Run(start, end)
            return None
        aside.add(start, end)
        if not aside.is_proven:
            return None
        self._aside = None
        return aside

    def _use(self, run: _Run) -> None:
        """Make a run the last one, and drop those that are not expected to continue, with the blocks ahead of them."""
        if not self._runs or run is not self._runs[-1]:
            if self._runs:
                self._runs[-1].left = self._bytes
            self._runs = [*(each for each in self._runs if each is not run), run]
        for each in [*self._runs[:-1]]:
            if each.start <= run.start < each.end or run.start <= each.start < run.end:
                self._drop(each)  # the caller reads these bytes again
            elif len(self._runs) > _MAX_RUNS or self._bytes - each.left > self._source.settings.memory_limit // 2:
                self._is_generous = not self._drop(each) and self._is_generous

    def _drop(self, run: _Run) -> bool:
        """Forget a run, and discard the bytes ahead of it. Returns whether there were any."""
        self._runs.remove(run)
        was_streamed = run.stream is not None and run.stream.position < run.stream.end
        run.close()
        last = self._runs[-1]
        unread = [
            each
            for each in self._blocks
            if not each.small and run.end <= each.start < run.ahead_until and not last.start <= each.start < last.ahead_until
        ]
        self._forget(unread.__contains__)
        return was_streamed or bool(unread)

    def _forget(self, is_unwanted: Callable[[_Block], bool]) -> None:
        if not any(map(is_unwanted, self._blocks)):
            return
        unwanted = [block for block in self._blocks if is_unwanted(block)]
        self._blocks = [block for block in self._blocks if block not in unwanted]
        for block in unwanted:
            if block.done.is_set():
                self._observe(*block.cost)
                self._spare.append(block.memory)  # for the next block: new memory costs page faults
            else:
                block.drop()

    def _give_back_spare(self, keep: int = 0) -> None:
        while len(self._spare) > keep:
            self._spare.pop(0).give_back()

    def _gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that are in no block."""
        while start < end:
            block = self._block_at(start)
            if block is None:
                stop = min([each.start for each in self._blocks if each.start > start] + [end])
                yield start, min(stop, end)
                start = stop
            else:
                start = block.end

    def _block_at(self, position: int) -> _Block | None:
        for block in self._blocks:
            if block.start <= position < block.end:
                return block
        return None

    def _block_around(self, start: int, end: int, run: _Run | None) -> _Block | None:
        """A new block that begins with a range, or surrounds it; None if the range alone is to be fetched."""
        length, remaining = end - start, self._source.size - start
        before = self._run_before(start, end, run)
        if before is not None:
            return self._add(before.next, end - before.next, "ahead")
        is_small = length < min(_SMALL_READ, self._source.block_size)
        if run is None:
            return self._small_block(start, end) if is_small else None
        step = self._step()
        if run.streams(start, _MAX_GAP) or self._may_stream(run):
            step = min(step, _LONG_READ)
        ahead = min([each.start for each in self._blocks if each.start >= end and not each.small] + [self._source.size])
        wanted = min(max(length, step), ahead - start)
        block = self._add(start, wanted, "ahead") if length < wanted <= self._source.ahead else None
        if block is None and is_small:
            return self._add(start, min(_SMALL_BLOCK, self._source.block_size, remaining), "small")
        return block

    def _run_before(self, start: int, end: int, run: _Run | None) -> _Run | None:
        """A run that will probably read this range of another read soon, and the bytes before it."""
        for each in self._runs:
            stream, skipped = each.stream, start - each.next
            until = min(each.allowed, self._bound(each)) if stream is None or stream.position == stream.end else stream.end
            is_near = 0 < skipped <= self._source.ahead - (end - start) and start < until
            if is_near and each is not run and self._width.width == 1:
                return each
        return None

    def _small_block(self, start: int, end: int) -> _Block | None:
        self._widenings = min(_WIDENINGS, self._widenings + 1) if self._is_near else max(0, self._widenings - 1)
        if not self._widenings:
            return None
        size = min(_SMALL_BLOCK, max(self._source.block_size, end - start), self._source.size)
        before = start % (size // 2) if size > 1 else 0
        first = min(start - before, self._source.size - size)
        if end > first + size:
            first = end - size
        return self._add(first, size, "small")

    def _add(self, start: int, size: int, kind: Literal["ahead", "small"]) -> _Block | None:
        memory = self._memory(size, kind)
        if memory is None:
            return None
        block = _Block(start, size, memory, small=kind == "small")
        self._blocks.append(block)
        return block

    def _memory(self, size: int, kind: Literal["ahead", "small"]) -> _Memory | None:
        settings = self._source.settings
        if kind == "ahead":
            if self._spare and len(self._spare[-1].buffer) >= size:
                return self._spare.pop()
            # Leave an eighth of the limit to the small blocks of other files: a few KiB save each of them many requests.
            return _Memory.take(size, settings.memory_limit, settings.part_size + settings.memory_limit // 8)
        # If the budget is full, a small block does not count. `_trim` leaves a file one of these.
        return _Memory.take(size, settings.memory_limit, settings.part_size) or _Memory(size, 0)

    def _trim(self) -> None:
        """Drop the least recently used small blocks: eight are kept, and of those that do not count, one."""
        smalls = [block for block in self._blocks if block.small]
        uncounted = [block for block in smalls if not block.memory.counted]
        for block in {*smalls[:-_SMALL_BLOCKS], *uncounted[:-1]}:
            self._blocks.remove(block)
            block.drop()

    def _times(self, run: _Run) -> int:
        """How many bytes are fetched ahead for each byte that the run read."""
        return 2 if self._is_generous and run.has_long_reads else 1

    def _step(self) -> int:
        """Size of the next block of the run: half of the bytes to fetch ahead, so that two fetches run at first."""
        run = self._runs[-1]
        return min(max(self._times(run) * run.size // 2, min(_SMALL_BLOCK, self._source.ahead)), self._source.ahead)

    def _fetch_ahead(self, run: _Run, *, busy: bool) -> None:
        """Let threads fetch the blocks behind the end of a run, several at a time: when half of them were read.

        Args:
            run: The run.
            busy: Whether this thread fetches bytes into no block; that counts as one part in progress.
        """
        source, step, position = self._source, self._step(), run.end
        bound = self._bound(run)
        most = min(run.allowed, position + self._width.width * source.ahead)
        if position == bound or run.ahead_until - position > (most - position) // 2:
            return
        frontier = position if run.stream is None else max(position, run.stream.end)
        if max(frontier, run.ahead_until) + step > most:
            return
        while (block := self._block_at(frontier)) is not None:
            frontier = block.end
        under_way = busy + sum(not each.done.is_set() for each in self._blocks)
        while frontier < bound and frontier + step <= most and under_way < self._width.width:
            added = self._add(frontier, min(step, bound - frontier), "ahead")
            if added is None or not self._start(added):
                return
            frontier = run.ahead_until = added.end
            under_way += 1

    def _bound(self, run: _Run) -> int:
        """The end of the bytes that a run may fetch: the start of another run, or the end of the object."""
        return min([each.start for each in self._runs if each.start >= run.end] + [self._source.size])

    def _start(self, block: _Block) -> bool:
        """Let a new thread fetch a block. Returns False if the interpreter refuses new threads."""
        # One thread per block: it ends by itself, so that nothing has to shut it down. It refers to the block only, not to
        # this object, so that a file without other references is collected although fetches are in progress.
        thread = threading.Thread(target=block.fill, args=(self._source.fetch,), name="gllm-storage-ahead", daemon=True)
        if start(thread):
            return True
        self._blocks.remove(block)
        block.drop()
        return False

    def _fetch(self, run: _Run | None, start: int, target: memoryview) -> None:
        """Fetch bytes: those of a stream in this thread, others by `_request`.

        Args:
            run: The run, if bytes may be requested ahead for it.
            start: Offset of the first byte.
            target: The buffer.
        """
        if len(target) > self._source.settings.part_size:
            self._request(start, target)
            return
        began, cpu = time.perf_counter(), time.thread_time()
        while target:
            stream = self._stream_at(run, start, start + len(target))
            count = len(target) if stream is None else min(len(target), stream.end - start)
            if stream is None:
                self._request(start, target)
            else:
                stream.fill(target[:count])
            start, target = start + count, target[count:]
        if run is not None:
            run.fetched_at = time.perf_counter()
            self._observe(run.fetched_at - began, time.thread_time() - cpu)

    def _request(self, start: int, target: memoryview) -> None:
        """Request bytes in this thread, or in concurrent parts if they are more than one part."""
        source, stop = self._source, Stop(running_stop())
        if len(target) <= source.settings.part_size:
            source.fetch(start, target, stop)
            return
        parts = [
            (offset, target[offset : offset + length])
            for offset, length in part_ranges(len(target), source.settings.part_size)
        ]
        try:
            tasks = [partial(source.fetch, start + offset, view, stop) for offset, view in parts]
            run_all(tasks, source.settings.max_concurrency, stop, paced=True)
        finally:
            # A thread that ends after its last part still refers to all of them: the caller could not resize its bytearray.
            for _, view in parts:
                with contextlib.suppress(BufferError):  # after a failure, a thread may still receive bytes
                    view.release()

    def _stream_at(self, run: _Run | None, start: int, end: int) -> RangeStream | None:
        """A stream that goes on with a range, or a new one; None if there is to be none beyond the range."""
        run = next((each for each in self._runs if each is not run and each.next == start), run)
        if run is None:
            return None
        stream = run.stream
        if time.perf_counter() - run.fetched_at > _IDLE_SECONDS:  # a slow reader: it would not read an answer to its end
            if stream is not None and run.ahead_until == stream.end:
                run.ahead_until = end
            run.close()
            return None
        if stream is not None and run.streams(start, _MAX_GAP):
            if start > stream.position:
                stream.skip(start - stream.position)
            return stream
        until = min(self._bound(run), run.allowed, start + self._source.stream_size)
        if until <= end or not self._may_stream(run):
            return None
        if stream is not None:
            stream.close()
        run.stream, run.ahead_until = self._source.stream(start, until - start, Stop()), until
        return run.stream

    def _may_stream(self, run: _Run) -> bool:
        """Whether the thread that reads receives the bytes of a run: while it waits little, and the budget has room."""
        if self._width.width > 1 or run.memory is not None:
            return self._width.width == 1
        settings = self._source.settings
        reserve = settings.part_size + settings.memory_limit // 8
        if memory_budget().try_hold(_STREAM_MEMORY, settings.memory_limit, reserve):
            run.memory = _Memory(0, _STREAM_MEMORY)
        return run.memory is not None

    def _observe(self, seconds: float, cpu: float) -> None:
        """Let `Width` judge how long a thread took to fetch bytes, and how much of it was the time of the processor."""
        self._cpu += cpu
        seconds, cpu = self._fetching[0] + seconds, self._fetching[1] + cpu
        if seconds >= _OBSERVED_SECONDS:
            self._width.observe(seconds, cpu, 1)
            seconds = cpu = 0.0
        self._fetching = seconds, cpu

    def _copy(self, start: int, target: memoryview, fetched: dict[int, int]) -> None:
        """Fill a buffer from the blocks.

        Args:
            start: Offset of the buffer's first byte.
            target: The buffer.
            fetched: Ranges that were fetched into the buffer directly: their ends by their starts.
        """
        position, end = start, start + len(target)
        while position < end:
            if position in fetched:
                position = fetched[position]
                continue
            block = self._block_at(position)
            if block is None:
                raise AssertionError(f"no block holds byte {position}, and it was not fetched directly")
            block.wait()
            stop = min(end, block.end, *(each for each in fetched if each > position))
            target[position - start : stop - start] = block.view[position - block.start : stop - block.start]
            position = stop
