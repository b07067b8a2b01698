"""`Pace`: how many parts of one transfer are in progress at a time.

A distant server needs many connections. On a fast network a few connections use the machine fully, and more of them cost
time: their threads compete for Python's global lock, and their buffers no longer fit into a processor's cache. Measured on
two processors and a server that costs next to nothing, with 10 and with 2 parts at a time: 1 GiB downloaded in 0.50 and
0.44 s, uploaded in 0.50 and 0.44 s, read from an open file in 0.54 and 0.42 s, with 0.69 and 0.43 s of CPU.

So `Pace` begins with the most parts that the settings allow, and measures in rounds of several parts:

1. A rate below 768 MiB/s: use the most parts again.
2. A higher rate: try half as many for one round.
3. If that trial reached less than 90 % of the rate before it, return to the number before it, and never go below again.

The round after each change is not judged, because its parts were started with the old number.

`Width` begins from the other side, for the transfers that `run_all` runs: with two workers, and it adds workers while they
wait. Workers that wait for the network use little of the processor; those that use much of it are as fast as the machine,
and further ones would only take Python's lock from them. With TLS this is most of the cost: 1 GiB downloaded by 10 and by 2
workers took 2.1 and 1.4 s, with 2.3 and 1.3 s of CPU. Where the store is 20 ms away, there are 16 workers after 50 ms.
Workers that use more than a processor are tried with half their number, down to one: with a server on the same two
processors, 1 GiB over https took one worker 1.1 s and two workers 1.3 s, and over http one 1.4 s and two 0.9 s.
"""

from __future__ import annotations

import time

_FAST = 768 * 2**20
"""Bytes per second above which fewer parts at a time are tried."""
_MIN_PARTS = 2
_ENOUGH = 0.9
"""The share of the earlier rate that a trial with fewer parts must reach."""
_IDLE = 0.05
_WAITING = 0.25
"""The shares of its time for which a worker uses a processor below which four or two times as many workers are allowed."""
_BUSY = 0.9
"""Processors that all workers use above which fewer workers are tried."""
_FEWEST_TASKS = 4
"""How many tasks decide a trial, at least: the ends of fewer ones come by chance."""


class Pace:
    """Chooses the number of parts in progress from the measured rate. Not locked: use it under a lock of the caller.

    Args:
        most: The most parts at a time.
        part_size: Bytes of a part.
    """

    def __init__(self, most: int, part_size: int) -> None:
        self.width = most
        """How many parts may be in progress now."""
        self._most = most
        self.part_size = part_size
        self._least = min(most, _MIN_PARTS)
        self._before_trial: tuple[int, float] | None = None  # width, and bytes per second; None if no trial runs
        self._width_changed = False  # the parts of this round were started with the old width
        self.begin_anew()

    def begin_anew(self) -> None:
        """Discard the measurement of this round: the caller paused, or moved to another place of the object."""
        # A trial is as long as a round of the most parts: the parts that were started before it complete within it, and one
        # or two slow parts do not decide it.
        self._round_parts = self.width if self._before_trial is None else self._most
        self._round_bytes = 0
        self._round_start = time.perf_counter()

    def moved(self, size: int) -> None:
        """Record that so many more bytes were moved, and perhaps change `width`."""
        self._round_bytes += size
        if self._round_bytes < self._round_parts * self.part_size:
            return
        rate = self._round_bytes / max(time.perf_counter() - self._round_start, 1e-9)
        if self._width_changed:
            self._width_changed = False
        else:
            self._judge(rate)
        self.begin_anew()

    def _judge(self, rate: float) -> None:
        before, self._before_trial = self._before_trial, None
        if before is not None and rate < before[1] * _ENOUGH:
            self._least = before[0]
            self._set_width(before[0])
        elif rate < _FAST:
            self._set_width(self._most)
        elif self.width > self._least:
            self._before_trial = self.width, rate
            self._set_width(max(self._least, self.width // 2))

    def _set_width(self, width: int) -> None:
        self._width_changed = width != self.width
        self.width = width


class Width:
    """Chooses the number of workers from their use of the processor. Not locked: use it under a lock of the caller.

    The time of the workers counts, and not that of the process, whose other threads may be busy with their own work.

    Args:
        most: The most workers.
    """

    def __init__(self, most: int) -> None:
        self.width = min(most, _MIN_PARTS)
        """How many workers may run now."""
        self.most = most
        self._before_trial: tuple[int, float] | None = None  # width, and tasks per second
        self._least = 1
        self._begin_round(0.0, unjudged=self.width)  # the first tasks make the connections

    def observe(self, seconds: float, cpu: float, workers: int) -> None:
        """Add workers if those that run wait most of the time.

        Args:
            seconds: The time since the last observation.
            cpu: The time of the processor that the workers have used since then, in seconds.
            workers: How many workers ran.
        """
        if self._before_trial is not None or not seconds or not workers:
            return
        use = cpu / seconds / workers
        if use < _IDLE:
            self.width = min(self.most, self.width * 4)
        elif use < _WAITING:
            self.width = min(self.most, self.width * 2)

    def ended(self, cpu: float) -> None:
        """Record the end of a task, and perhaps try fewer workers, or end such a trial.

        Args:
            cpu: The time of the processor that all workers have used from their start until now, in seconds.
        """
        self._tasks += 1
        if self._tasks == 0:
            self._begin_round(cpu)
        if self._tasks < max(_FEWEST_TASKS, self.width):
            return
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rate, use, width = self._tasks / seconds, (cpu - self._cpu) / seconds, self.width
        before, self._before_trial = self._before_trial, None
        if before is not None and rate < before[1] * _ENOUGH:
            self.width = self._least = before[0]
        elif use > _BUSY and self.width > self._least:
            self._before_trial = self.width, rate
            self.width = max(self._least, self.width // 2)
        # The tasks that began with the old width say nothing about the new one.
        self._begin_round(cpu, unjudged=0 if self.width == width else width)

    def _begin_round(self, cpu: float, *, unjudged: int = 0) -> None:
        self._tasks, self._cpu, self._start = -unjudged, cpu, time.perf_counter()
