"""`Width`: how many parts of one transfer are in progress at a time.

A distant server needs many connections. On a fast network a few connections use the machine fully, and more of them cost
time: their threads compete for Python's global lock, and their buffers no longer fit into a processor's cache. Measured on
two processors, over TLS, and a server that costs next to nothing: 1 GiB downloaded by 10 and by 2 workers took 2.1 and
1.4 s, with 2.3 and 1.3 s of CPU; read from an open file by 10 threads and by the caller's own 2.6 and 1.0 s, with 1.8 and
0.9 s.

So `Width` begins with few workers, and adds workers while they wait. Workers that wait for the network use little of the
processor; those that use much of it are as fast as the machine, and further ones would only take Python's lock from them.
Where the store is 20 ms away, there are 16 workers after 50 ms. Workers that use more than a processor are tried with half
their number, down to one: with a server on the same two processors, 1 GiB over https took one worker 1.1 s and two workers
1.3 s, and over http one 1.4 s and two 0.9 s.
"""

from __future__ import annotations

import time

_ENOUGH = 0.9
"""The share of the earlier rate that a trial with fewer workers must reach."""
_WAITING = 0.25
"""A worker waits if it uses a processor for a smaller share of its time. Then there may be as many workers as use half a
processor for each of the workers now: at least twice as many."""
_LEAST_USE = 0.01
_BUSY = 0.9
"""Processors that all workers use above which fewer workers are tried."""
_FEWEST_TASKS = 4
"""How many tasks decide a trial, at least: the ends of fewer ones come by chance."""


class Width:
    """Chooses the number of workers from their use of the processor. Not locked: use it under a lock of the caller.

    The time of the workers counts, and not that of the process, whose other threads may be busy with their own work.

    Args:
        most: The most workers.
        first: How many run at first.
    """

    def __init__(self, most: int, first: int = 2) -> None:
        self.width = min(most, first)
        """How many workers may run now."""
        self._most = most
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
        use = max(cpu / seconds / workers, _LEAST_USE)
        if use < _WAITING:
            self.width = min(self._most, int(self.width * 2 * _WAITING / use))

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
