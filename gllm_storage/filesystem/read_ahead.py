"""`ReadAhead`: the cache of one open file. It fetches blocks ahead of sequential reads, and widens small random reads.

The reads so far decide how much is fetched:

- **Sequential.** Reads of which each begins where the one before ended form a *run*. From the third read of a run on,
  threads fetch blocks ahead of the caller: at most as many bytes as the run has read so far, and at most `max_concurrency`
  blocks of a part's size. So when a run ends, the useless bytes are never more than the bytes that it read.
- **Random.** Any other read fetches the requested bytes only. But a read of less than 64 KiB fetches the 128 KiB around
  them, because a read of a footer, a directory or a header is mostly followed by reads nearby. A widened read far from the
  one before counts as wasted, one nearby makes up for it; after eight wasted ones, small reads are not widened any more.

All blocks count in the memory budget of the process. When it is full, fewer bytes are read ahead, or none. One small block
per file is kept in any case, and does not count: it is as small as the buffer that any operating system keeps for a file.
"""

from __future__ import annotations

import contextlib
import io
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.pace import Pace
from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.workers import run_all, start
from gllm_storage.store.transfer import part_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.concurrency.budget import MemoryBudget
    from gllm_storage.settings import TransferSettings

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
_POLL_SECONDS = 0.2
"""How often a waiting thread checks whether its work was cancelled."""


@dataclass(frozen=True)
class Source:
    """One version of an object, to be read.

    Attributes:
        fetch: Fills a buffer with the bytes from an offset on; the stop cancels it. Raises if the bytes cannot be read.
        size: Size of the object in bytes.
        settings: Part size, concurrency and memory limit.
        block_size: The most bytes of a block that is fetched ahead. Requested bytes are fetched in parts of `part_size`.
    """

    fetch: Callable[[int, memoryview, Stop], None]
    size: int
    settings: TransferSettings
    block_size: int

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
    """

    def __init__(self, start: int, size: int, memory: _Memory, *, small: bool) -> None:
        self.start = start
        self.end = start + size
        self.memory = memory
        self.view = memoryview(memory.buffer)[:size]
        self.small = small
        self.stop = Stop()
        self.error: BaseException | None = None
        self.done = threading.Event()
        self._begun = False
        self._dropped = False

    def fill(self, fetch: Callable[[int, memoryview, Stop], None]) -> None:
        """Fetch the bytes. A failure is kept, and raised by `wait`."""
        self._begun = True
        try:
            fetch(self.start, self.view, self.stop)
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
        self._position = -1  # end of the last read
        self._run_bytes = 0
        self._paced_bytes = 0  # bytes of the run that were reported to the pace
        self._run_reads = 0  # reads that continued the run
        self._ahead_until = -1  # end of the blocks that were fetched ahead
        self._pace = Pace(source.settings.max_concurrency, source.ahead)
        self._widenings = _WIDENINGS
        self._is_near = False
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
        if block is not None and start == self._position and end <= self._current_until:  # the shortcut
            self._run_bytes += end - start
            self._run_reads += 1
            self._position = end
            return bytes(block.view[start - block.start : end - block.start])
        block = self._block_at(start)
        if block and end <= block.end and block.done.is_set() and not block.error:  # one copy, where `read_into` needs two
            with self._reset_on_error():
                self._prepare(start, end)
            self._current, self._current_until = block, min(block.end, end + _SMALL_READ)
            return bytes(block.view[start - block.start : end - block.start])
        found = io.BytesIO(bytes(end - start))  # `getvalue` returns them without a copy
        with found.getbuffer() as target:
            self.read_into(start, target)
        return found.getvalue()

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill a buffer with bytes of the object.

        Args:
            start: Offset of the first byte.
            target: The buffer; it must not reach behind the end of the object.

        Raises:
            Exception: As `read`.
        """
        with self._reset_on_error():
            fetches = self._prepare(start, start + len(target))
            direct = {first: last for first, last, block in fetches if block is None}
            for first, last, block in fetches:
                if block is None:
                    self._fetch(first, target[first - start : last - start])
                else:
                    block.stop = Stop(running_stop())
                    block.fill(self._source.fetch)
                    block.wait()  # raises a failure at once, before the other fetches are waited for
            self._copy(start, target, direct)
            self._trim()

    @contextlib.contextmanager
    def _reset_on_error(self) -> Iterator[None]:
        """After an exception, Ctrl-C included, cancel all fetches and discard all blocks, so that the next read works."""
        self._current = None
        try:
            yield
        except BaseException:
            self.reset()
            raise

    def step_back(self, position: int) -> None:
        """Record that the caller used the last read only up to a position, and continues there, as after a line's end."""
        if self._position > position:
            back = min(self._run_bytes, self._position - position)
            self._run_bytes -= back
            self._paced_bytes = min(self._paced_bytes, self._run_bytes)
            self._position = position

    def reset(self) -> None:
        """Discard all blocks, cancel their fetches, and forget the run."""
        blocks, self._blocks = self._blocks, []
        self._current = None
        for block in blocks:
            block.drop()
        self._give_back_spare()
        self._position = self._ahead_until = -1
        self._run_bytes = self._paced_bytes = self._run_reads = 0
        self._pace.begin_anew()

    def _prepare(self, start: int, end: int) -> list[tuple[int, int, _Block | None]]:
        """Decide on the fetches of this read, and let threads fetch the blocks ahead of it.

        Returns:
            The fetches of this thread: start, end, and block. Without a block, the bytes go directly to the caller's buffer.
        """
        self._track(start, end)
        gaps = list(self._gaps(start, end))
        fetches = [(first, last, self._block_around(first, last)) for first, last in gaps]
        self._fetch_ahead(end, busy=any(block is None for _, _, block in fetches))
        is_in_run = self._run_reads >= _MIN_RUN_READS and self._ahead_until < self._source.size
        self._give_back_spare(keep=1 if is_in_run else 0)
        return fetches

    def _track(self, start: int, end: int) -> None:
        """Record a read as part of the run, or as the start of a new one, and discard the blocks before it."""
        block = self._block_at(start)
        if start == self._position:
            self._run_bytes += end - start
            self._run_reads += 1
            self._pace.moved(self._run_bytes - self._paced_bytes)
            self._paced_bytes = self._run_bytes
        elif block is None:
            self._run_bytes = self._paced_bytes = end - start
            self._pace.begin_anew()
            self._run_reads = 0
            self._ahead_until = -1
            self._forget(lambda each: not each.small)
        elif block.small:
            self._widenings = min(_WIDENINGS, self._widenings + 1)
            self._blocks.remove(block)
            self._blocks.append(block)  # `_trim` drops the first ones first
        self._is_near = abs(start - self._position) <= _SMALL_BLOCK
        self._position = end
        self._forget(lambda each: not each.small and each.end <= start)

    def _forget(self, is_unwanted: Callable[[_Block], bool]) -> None:
        if not any(map(is_unwanted, self._blocks)):
            return
        unwanted = [block for block in self._blocks if is_unwanted(block)]
        self._blocks = [block for block in self._blocks if block not in unwanted]
        for block in unwanted:
            if block.done.is_set():
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

    def _block_around(self, start: int, end: int) -> _Block | None:
        """A new block that begins with a range, or surrounds it; None if the range alone is to be fetched."""
        length, remaining = end - start, self._source.size - start
        is_small = length < min(_SMALL_READ, self._source.block_size)
        if self._run_reads < _MIN_RUN_READS:
            return self._small_block(start, end) if is_small else None
        wanted = min(max(length, self._step()), remaining)
        block = self._add(start, wanted, "ahead") if length < wanted <= self._source.ahead else None
        if block is None and is_small:
            return self._add(start, min(_SMALL_BLOCK, self._source.block_size, remaining), "small")
        return block

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

    def _step(self) -> int:
        """Size of the next block of this run: a quarter of the bytes to fetch ahead, so that four fetches run."""
        return min(max(self._run_bytes // 4, min(_SMALL_BLOCK, self._source.ahead)), self._source.ahead)

    def _fetch_ahead(self, position: int, *, busy: bool) -> None:
        """Let threads fetch the blocks behind a position, if the caller is in a run.

        Args:
            position: End of the current read.
            busy: Whether this thread fetches bytes into no block; that counts as one part in progress.
        """
        if self._run_reads < _MIN_RUN_READS or self._position == self._source.size:
            return
        source, step = self._source, self._step()
        most = position + min(self._run_bytes, self._pace.width * source.ahead)
        if self._ahead_until >= position and self._ahead_until + step > most:
            return
        frontier = position
        while (block := self._block_at(frontier)) is not None:
            frontier = block.end
        under_way = busy + sum(not each.done.is_set() for each in self._blocks)
        while frontier < source.size and frontier + step <= most and under_way < self._pace.width:
            added = self._add(frontier, min(step, source.size - frontier), "ahead")
            if added is None or not self._start(added):
                return
            frontier = added.end
            under_way += 1
        self._ahead_until = frontier

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

    def _fetch(self, start: int, target: memoryview) -> None:
        """Fetch bytes directly into the caller's buffer, in concurrent parts if they are more than one part."""
        source, stop = self._source, Stop(running_stop())
        if len(target) <= source.settings.part_size:
            source.fetch(start, target, stop)
            return
        tasks = [
            partial(source.fetch, start + offset, target[offset : offset + length], stop)
            for offset, length in part_ranges(len(target), source.settings.part_size)
        ]
        run_all(tasks, source.settings.max_concurrency, stop)

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
