"""`ReadAhead`: what one process keeps of an object that it reads: blocks ahead of the caller, and small ones around him.

How much is fetched follows from how the caller reads:

- A read that begins where the one before ended is part of a *run*. From the third read of a run on, blocks ahead of it are
  fetched side by side in threads, as many bytes as the run has read so far, up to `max_concurrency` blocks of a part's size.
  So what was fetched in vain, when a run ends, is never more than what it has read.
- Any other read fetches just what it asked for; only one of less than 64 KiB fetches 128 KiB around it, because whoever
  reads a few bytes of a footer, a directory or a header mostly reads their neighbours next. Where that proves wrong, it
  fetches what was asked for, too.

All that is kept is counted in the memory budget of the process. Where there is no room, less is kept, or nothing.
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
_SMALL_BLOCKS = 8
"""How many of them a file keeps."""
_PATIENCE = 8
"""How many small reads in places of their own are widened in vain before small reads are left as they are."""
_RUN = 2
"""How many reads must each have begun where the one before had ended, until something is fetched ahead."""
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Source:
    """One version of an object.

    Attributes:
        fetch: Fills a buffer with the bytes from an offset on, unless the stop ends it; raises what fails.
        size: Its size in bytes.
        settings: How objects are moved.
        block_size: The most bytes of a block; what a caller asks for is fetched in parts, whatever this is.
    """

    fetch: Callable[[int, memoryview, Stop], None]
    size: int
    settings: TransferSettings
    block_size: int

    @property
    def ahead(self) -> int:
        """The most bytes of a block that is fetched ahead: several must fit into the memory."""
        settings = self.settings
        return max(1, min(self.block_size, max(_SMALL_BLOCK, (settings.memory_limit - settings.part_size) // 4)))


class _Memory:
    """A buffer that counts in the budget until it is given back.

    Args:
        size: Its size in bytes.
        held: How many of them count.
    """

    def __init__(self, size: int, held: int) -> None:
        self.buffer = bytearray(size)
        self.counted = held > 0
        self._budget: MemoryBudget = memory_budget()
        self._held = [held]

    @classmethod
    def take(cls, size: int, limit: int, reserve: int) -> _Memory | None:
        """A buffer, if there is room for it."""
        return cls(size, size) if memory_budget().try_hold(size, limit, reserve) else None

    def give_back(self) -> None:
        """Count it no more. Two threads may both come here, and also one that is interrupted by the garbage collector."""
        try:
            held = self._held.pop()
        except IndexError:
            return
        self._budget.let_go(held)


class _Block:
    """Some bytes of the object, which are there, or on their way, or not to be had.

    Args:
        start: Where in the object they begin.
        size: How many there are.
        memory: Where they are put.
        small: Whether it is one of those that stay when the caller goes elsewhere.
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
        """Fetch the bytes; what fails is for whoever wants them."""
        self._begun = True
        try:
            fetch(self.start, self.view, self.stop)
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads
            self.error = error
        finally:
            self.done.set()
            if self._dropped:
                self.memory.give_back()

    def wait(self) -> None:
        """Wait until the bytes are there.

        Raises:
            Exception: Why they are not to be had.
            TransferStopped: If the work of this thread was given up.
        """
        while not self.done.wait(_LOOK_SECONDS):
            check_stop()
        if self.error is not None:
            raise self.error

    def drop(self) -> None:
        """Want the bytes no more. The memory is given back now, or by the thread that still writes to it."""
        self._dropped = True
        if not self._begun or self.done.is_set():
            self.memory.give_back()
        else:
            self.stop.set()


class ReadAhead:
    """Reads one version of an object for one file object. Use it under its lock.

    Args:
        source: The object.
    """

    def __init__(self, source: Source) -> None:
        self.lock = threading.RLock()
        self._source = source
        self._blocks: list[_Block] = []
        self._spare: list[_Memory] = []
        self._position = -1
        self._run = 0
        self._counted = 0  # bytes of the run that the pace knows of
        self._reads_of_run = 0
        self._frontier = -1
        self._pace = Pace(source.settings.max_concurrency, source.ahead)
        self._patience = _PATIENCE
        self._is_near = False
        self._at_hand: _Block | None = None  # what the next small reads are in
        self._calm_until = 0  # up to there is nothing to decide

    def read(self, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (not included), which must all be within the object.

        Raises:
            Exception: What `Source.fetch` raises. What was kept or on its way is given up then.
        """
        block = self._at_hand
        if block is not None and start == self._position and end <= self._calm_until:  # all that a small read costs
            self._run += end - start
            self._reads_of_run += 1
            self._position = end
            return bytes(block.view[start - block.start : end - block.start])
        block = self._block_at(start)
        if block and end <= block.end and block.done.is_set() and not block.error:  # no need to copy twice
            with self._undisturbed():
                self._prepare(start, end)
            self._at_hand, self._calm_until = block, min(block.end, end + _SMALL_READ)
            return bytes(block.view[start - block.start : end - block.start])
        found = io.BytesIO(bytes(end - start))  # gives out its bytes without a copy, as a bytearray does not
        with found.getbuffer() as target:
            self.read_into(start, target)
        return found.getvalue()

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill a buffer with the bytes from an offset on, which must all be within the object.

        Raises:
            Exception: What `Source.fetch` raises. What was kept or on its way is given up then.
        """
        with self._undisturbed():
            fetches = self._prepare(start, start + len(target))
            straight = {first: last for first, last, block in fetches if block is None}
            for first, last, block in fetches:
                if block is None:
                    self._fetch(first, target[first - start : last - start])
                else:
                    block.stop = Stop(running_stop())
                    block.fill(self._source.fetch)
                    block.wait()  # what failed, or Ctrl-C, is not to wait for what else is on its way
            self._copy(start, target, straight)
            self._trim()

    @contextlib.contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """After Ctrl-C, or anything else that is not as it should be, nothing goes on, and the next read begins anew."""
        self._at_hand = None
        try:
            yield
        except BaseException:
            self.reset()
            raise

    def step_back(self, position: int) -> None:
        """The caller wanted what he read only up to here; he reads on from here."""
        if self._position > position:
            back = min(self._run, self._position - position)
            self._run -= back
            self._counted = min(self._counted, self._run)
            self._position = position

    def reset(self) -> None:
        """Keep nothing, and let nothing be on its way."""
        blocks, self._blocks = self._blocks, []
        self._at_hand = None
        for block in blocks:
            block.drop()
        self._give_back_spare()
        self._position = self._frontier = -1
        self._run = self._counted = self._reads_of_run = 0
        self._pace.begin_anew()

    def _prepare(self, start: int, end: int) -> list[tuple[int, int, _Block | None]]:
        """Decide what this read fetches, and have fetched what may be read next.

        Returns:
            What this thread has to fetch: from where to where, and into which block; into none goes straight to the caller.
        """
        self._follow(start, end)
        gaps = list(self._gaps(start, end))
        fetches = [(first, last, self._block_around(first, last)) for first, last in gaps]
        self._fetch_ahead(end, busy=any(block is None for _, _, block in fetches))
        is_in_run = self._reads_of_run >= _RUN and self._frontier < self._source.size
        self._give_back_spare(but=1 if is_in_run else 0)
        return fetches

    def _follow(self, start: int, end: int) -> None:
        """See whether the read goes on where the last one ended, and forget what lies behind."""
        block = self._block_at(start)
        if start == self._position:
            self._run += end - start
            self._reads_of_run += 1
            self._pace.moved(self._run - self._counted)
            self._counted = self._run
        elif block is None:
            self._run = self._counted = end - start
            self._pace.begin_anew()
            self._reads_of_run = 0
            self._frontier = -1
            self._forget(lambda each: not each.small)
        elif block.small:
            self._patience = min(_PATIENCE, self._patience + 1)
            self._blocks.remove(block)
            self._blocks.append(block)  # the last to be dropped
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
                self._spare.append(block.memory)  # the next block goes there: new memory costs page faults
            else:
                block.drop()

    def _give_back_spare(self, but: int = 0) -> None:
        while len(self._spare) > but:
            self._spare.pop(0).give_back()

    def _gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What of a range no block holds."""
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
        """A block that holds a range and what may be wanted with it; None if it is better fetched as it is."""
        length, remaining = end - start, self._source.size - start
        is_small = length < min(_SMALL_READ, self._source.block_size)
        if self._reads_of_run < _RUN:
            return self._small_block(start, end) if is_small else None
        wanted = min(max(length, self._step()), remaining)
        block = self._add(start, wanted, "ahead") if length < wanted <= self._source.ahead else None
        if block is None and is_small:
            return self._add(start, min(_SMALL_BLOCK, self._source.block_size, remaining), "small")
        return block

    def _small_block(self, start: int, end: int) -> _Block | None:
        self._patience = min(_PATIENCE, self._patience + 1) if self._is_near else max(0, self._patience - 1)
        if not self._patience:
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
            # Not all of it: a file that is read in small pieces needs but little, and badly.
            return _Memory.take(size, settings.memory_limit, settings.part_size + settings.memory_limit // 8)
        # Without room, one that does not count: such a buffer every file has, as those of the operating system do.
        return _Memory.take(size, settings.memory_limit, settings.part_size) or _Memory(size, 0)

    def _trim(self) -> None:
        """Drop the small blocks that were not used for longest: some are enough, and one is of those that do not count."""
        smalls = [block for block in self._blocks if block.small]
        uncounted = [block for block in smalls if not block.memory.counted]
        for block in {*smalls[:-_SMALL_BLOCKS], *uncounted[:-1]}:
            self._blocks.remove(block)
            block.drop()

    def _step(self) -> int:
        """Bytes of a block to be fetched in this run: a quarter of what it may fetch ahead, so that four are under way."""
        return min(max(self._run // 4, min(_SMALL_BLOCK, self._source.ahead)), self._source.ahead)

    def _fetch_ahead(self, position: int, *, busy: bool) -> None:
        """Let threads fetch what comes next.

        Args:
            position: Where it comes.
            busy: Whether this thread has something to fetch that goes into no block.
        """
        if self._reads_of_run < _RUN or self._position == self._source.size:
            return
        source, step = self._source, self._step()
        most = position + min(self._run, self._pace.width * source.ahead)
        if self._frontier >= position and self._frontier + step > most:
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
        self._frontier = frontier

    def _start(self, block: _Block) -> bool:
        """Let a thread fetch a block; whether one could be had."""
        # A thread for each: it ends by itself, so there is none to be ended. It knows the block, and not the file.
        thread = threading.Thread(target=block.fill, args=(self._source.fetch,), name="gllm-storage-ahead", daemon=True)
        if start(thread):
            return True
        self._blocks.remove(block)
        block.drop()
        return False

    def _fetch(self, start: int, target: memoryview) -> None:
        """Fetch straight to the caller; what is large, in parts side by side."""
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
        """Fill a buffer from the blocks, apart from what was fetched straight to it: ends by starts."""
        position, end = start, start + len(target)
        while position < end:
            if position in fetched:
                position = fetched[position]
                continue
            block = self._block_at(position)
            if block is None:
                raise AssertionError("what no block holds was fetched")
            block.wait()
            stop = min(end, block.end, *(each for each in fetched if each > position))
            target[position - start : stop - start] = block.view[position - block.start : stop - block.start]
            position = stop
