"""A process that runs one job with one peer: ``benchmarks.worker.main``, with a `Task` on standard input.

It prints one line of JSON: the figures, or with ``--describe`` instead of a task the abilities of the peer. It imports
little: the cost of its own modules is in the figures of the complete process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.layout import KIB, TRIAL, TRIALS, Layout, Task
from benchmarks.peers import entry_of, load_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.base import Peer

_SEED = 20261125


def describe(name: str) -> dict[str, Any]:
    """The abilities of a peer; or the reason, if it cannot be imported."""
    from importlib.metadata import version  # a measured process does not need it

    try:
        peer = load_peer(name)
    except ImportError as error:
        return {"missing": f"cannot be imported: {error}"}
    distribution = entry_of(name).distribution
    return {
        "version": version(distribution) if distribution else "",
        "how": dict(peer.how),
        "cannot": dict(peer.cannot),
        "warms": peer.warms,
    }


def work(peer_class: type[Peer], task: Task) -> dict[str, Any]:
    """Run a job.

    Returns:
        The figures.

    Raises:
        RuntimeError: If the peer read another number of bytes than requested.
    """
    do = _JOBS[task.verb]
    peer = peer_class(task.endpoint)
    if task.warm and peer.tries:
        do(peer, _small(task))
    cpu, start = _cpu_seconds(), time.perf_counter()
    figures = do(peer, task) or {}
    figures.update(wall=time.perf_counter() - start, cpu=_cpu_seconds() - cpu, peak_rss=_peak_rss())
    return figures


def _small(task: Task) -> Task:
    """A small task of the same kind, with files of its own."""
    layout = _TrialLayout(task.layout.folder, task.layout.prefix)
    small = replace(task, layout=layout, count=min(task.count, TRIALS) if task.count > 1 else 1)
    many = task.count > 1 and task.verb != "read_at"
    small = replace(small, size=TRIAL) if task.count == 1 and task.size > TRIAL else small
    os.makedirs(os.path.dirname(layout.downloaded(small.size, 0 if many else None)), exist_ok=True)
    return small


class _TrialLayout(Layout):
    """A layout with other downloads, so that the measured files are new."""

    def downloaded(self, size: int, index: int | None = None) -> str:
        return self.tried(size, index)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak_rss() -> int:
    """Peak RSS in bytes: the larger of this process and its largest child.

    For this process it is not `ru_maxrss`, which is inherited over exec: it begins with the memory of the parent process.
    """
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            own = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return max(own, children)


def _expect(got: int, wanted: int) -> None:
    if got != wanted:
        raise RuntimeError(f"read {got} bytes instead of {wanted}")


def _upload(peer: Peer, task: Task) -> None:
    peer.upload(task.layout.file(task.size), task.layout.uploaded(task.size))


def _download(peer: Peer, task: Task) -> None:
    peer.download(task.layout.key(task.size), task.layout.downloaded(task.size))


def _upload_many(peer: Peer, task: Task) -> None:
    names = [(task.layout.file(task.size, index), task.layout.uploaded(task.size, index)) for index in range(task.count)]
    peer.upload_many(names)


def _download_many(peer: Peer, task: Task) -> None:
    names = [(task.layout.downloaded(task.size, index), task.layout.key(task.size, index)) for index in range(task.count)]
    peer.download_many(names)


def _read(peer: Peer, task: Task) -> None:
    _expect(peer.read(task.layout.key(task.size), task.step), task.size)


def _read_at(peer: Peer, task: Task) -> dict[str, Any]:
    import random

    source = random.Random(_SEED)  # noqa: S311 - the same offsets for all peers
    offsets = [source.randrange(task.size - task.step) for _ in range(task.count)]
    _expect(peer.read_at(task.layout.key(task.size), offsets, task.step), task.count * task.step)
    return {"bytes_asked": task.count * task.step}


def _write(peer: Peer, task: Task) -> None:
    peer.write(task.layout.uploaded(task.size), os.urandom(task.step), task.size // task.step)


def _upload_exclusive(peer: Peer, task: Task) -> None:
    peer.upload_exclusive(task.layout.file(task.size), task.layout.uploaded(task.size))


def _each(task: Task, call: Callable[[int], object]) -> dict[str, Any]:
    """Time each of `task.count` calls. The median is reported, because the first call also connects."""
    took = []
    for index in range(task.count):
        start = time.perf_counter()
        call(index)
        took.append(time.perf_counter() - start)
    took.sort()
    return {"per_call_us": took[len(took) // 2] * 1e6}


def _upload_small(peer: Peer, task: Task) -> dict[str, Any]:
    path = task.layout.file(task.size)
    return _each(task, lambda index: peer.upload_small(path, task.layout.uploaded(task.size, index)))


def _upload_small_exclusive(peer: Peer, task: Task) -> dict[str, Any]:
    path = task.layout.file(task.size)
    return _each(task, lambda index: peer.upload_small_exclusive(path, task.layout.uploaded(task.size, index)))


def _require(peer: Peer, key: str) -> None:
    if not peer.exists(key):
        raise RuntimeError("reports an existing object as missing")


def _exists(peer: Peer, task: Task) -> dict[str, Any]:
    key = task.layout.key(task.size)
    return _each(task, lambda _: _require(peer, key))


def _download_small(peer: Peer, task: Task) -> dict[str, Any]:
    key = task.layout.key(task.size)
    return _each(task, lambda index: peer.download_small(key, task.layout.downloaded(task.size, index)))


def _serial(peer: Peer, task: Task) -> None:
    """Three calls each time: a small object up, exists, and an object of the task's size down."""
    if peer.serial is not None:
        peer.serial(task.layout.file(task.size, 0))
        return
    file, key = task.layout.file(KIB), task.layout.key(task.size)
    for index in range(task.count):
        peer.upload_small(file, task.layout.uploaded(KIB, index))
        _require(peer, key)
        peer.download_small(key, task.layout.downloaded(task.size, index))


_JOBS: dict[str, Callable[[Peer, Task], dict[str, Any] | None]] = {
    "upload": _upload,
    "download": _download,
    "upload_many": _upload_many,
    "download_many": _download_many,
    "upload_small": _upload_small,
    "exists": _exists,
    "download_small": _download_small,
    "serial": _serial,
    "read": _read,
    "read_at": _read_at,
    "write": _write,
    "upload_exclusive": _upload_exclusive,
    "upload_small_exclusive": _upload_small_exclusive,
}


def main() -> None:
    """Run the command line."""
    name, *options = sys.argv[1:]
    result = describe(name) if options else work(load_peer(name), Task.from_dict(json.load(sys.stdin)))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
