"""A process that runs one job with one peer: ``python -m benchmarks.worker PEER``, with a `Task` on standard input.

It prints one line of JSON: the figures, or with ``--describe`` instead of a task the abilities of the peer.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from benchmarks.layout import Task
from benchmarks.peers import PEERS, load_peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.peers.base import Peer

_SEED = 20261125


def describe(name: str) -> dict[str, Any]:
    """The abilities of a peer; or the reason, if it cannot be imported."""
    try:
        peer = load_peer(name)
    except ImportError as error:
        return {"name": name, "missing": f"cannot be imported: {error}"}
    return {
        "name": name,
        "version": version(PEERS[name].distribution),
        "how": dict(peer.how),
        "cannot": dict(peer.cannot),
    }


def work(peer_class: type[Peer], task: Task) -> dict[str, Any]:
    """Run a job.

    Returns:
        The figures.

    Raises:
        RuntimeError: If the peer moved another number of bytes than requested.
    """
    do = _JOBS[task.verb]
    peer_class.load(task.verb)
    cpu, start = _cpu_seconds(), time.perf_counter()
    figures = do(peer_class(task.endpoint), task) or {}
    figures.update(wall=time.perf_counter() - start, cpu=_cpu_seconds() - cpu, peak_rss=_peak_rss())
    _check(task)
    return figures


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


def _check(task: Task) -> None:
    if task.verb not in {"download", "download_many", "download_small"}:
        return
    indices = range(task.count) if task.verb == "download_many" else [None]
    for index in indices:
        got = os.path.getsize(task.layout.downloaded(task.size, index))
        if got != task.size:
            raise RuntimeError(f"downloaded {got} bytes instead of {task.size}")


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
    return {"per_call_us": took[len(took) // 2] * 1e6, "per_call_p90_us": took[len(took) * 9 // 10] * 1e6}


def _upload_small(peer: Peer, task: Task) -> dict[str, Any]:
    path = task.layout.file(task.size)
    return _each(task, lambda index: peer.upload_small(path, task.layout.uploaded(task.size, index)))


def _upload_small_exclusive(peer: Peer, task: Task) -> dict[str, Any]:
    path = task.layout.file(task.size)
    return _each(task, lambda index: peer.upload_small_exclusive(path, task.layout.uploaded(task.size, index)))


def _exists(peer: Peer, task: Task) -> dict[str, Any]:
    key = task.layout.key(task.size)

    def ask(_: int) -> None:
        if not peer.exists(key):
            raise RuntimeError("reports an existing object as missing")

    return _each(task, ask)


def _download_small(peer: Peer, task: Task) -> dict[str, Any]:
    key, path = task.layout.key(task.size), task.layout.downloaded(task.size)
    return _each(task, lambda _: peer.download_small(key, path))


_JOBS: dict[str, Callable[[Peer, Task], dict[str, Any] | None]] = {
    "upload": _upload,
    "download": _download,
    "upload_many": _upload_many,
    "download_many": _download_many,
    "upload_small": _upload_small,
    "exists": _exists,
    "download_small": _download_small,
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
