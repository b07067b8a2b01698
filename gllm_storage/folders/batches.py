"""`Batch`: files that are transferred together, by a worker of an executor: a thread, a process, or another machine.

A batch is a value. In another process it opens the two folders anew, from the configs of their clients, which a pickle
contains with their credentials; no repr shows them. The batch can run any number of times: engines such as Dask and Ray run
it again if a worker dies, without a word to anybody. So each run compares first. If the first file is at the target with
the content of the source, all files are compared, and only the missing ones are transferred.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from gllm_storage.concurrency.fork import PerProcess, this_process
from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import ErrorDetails, Remedy, StorageError
from gllm_storage.folders.entries import StoredFolder
from gllm_storage.folders.mover import Mover

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gllm_storage.folders.entries import Folder
    from gllm_storage.folders.index import Known
    from gllm_storage.folders.mover import Manner, Result
    from gllm_storage.folders.plan import Step

FORMAT = "gllm-storage batches 1"
"""The number changes when the workers of an earlier release can no longer run batches."""


@dataclass(frozen=True)
class Moved:
    """The result of a batch.

    Attributes:
        results: For each file its outcome.
        host: The machine of the worker; empty if the worker was a thread of the calling process.
        learned: Checksums, with their places.
    """

    results: list[Result]
    host: str = ""
    learned: list[tuple[str, Known]] = field(default_factory=list)


class Runner(Protocol):
    """Runs batches: a `Here`, which becomes an `Elsewhere` by pickling."""

    def run(self, steps: Sequence[Step], *, again: bool) -> Moved:
        """Transfer files.

        Args:
            steps: The steps of a plan.
            again: Whether some files may have been transferred already.
        """


@dataclass(frozen=True)
class Batch:
    """Files that are transferred together.

    Attributes:
        runner: The folders, and how files are transferred.
        steps: The files.
        again: Whether the batch was given to a worker before, which may have transferred some files.
    """

    runner: Runner
    steps: tuple[Step, ...]
    again: bool = False

    @property
    def repeated(self) -> Batch:
        """The batch, to be run again."""
        return replace(self, again=True)


def run_batch(batch: Batch) -> Moved:
    """Run a batch, in the process of the worker."""
    return batch.runner.run(batch.steps, again=batch.again)


class Here:
    """Runs batches in this process, with the clients of the caller.

    Args:
        mover: Transfers the files.
    """

    def __init__(self, mover: Mover) -> None:
        self._mover = mover
        self._packed: bytes | None = None

    def run(self, steps: Sequence[Step], *, again: bool) -> Moved:
        """As `Runner.run`."""
        with _alone(self._mover):
            return Moved(_missing_moved(self._mover, steps) if again else self._mover.move(steps))

    def __reduce__(self) -> tuple[type[Elsewhere], tuple[bytes]]:
        if self._packed is None:
            mover = self._mover
            if mover.stop.bandwidth is not None:  # as in subinterpreters, the workers of another ThreadPoolExecutor
                raise ValueError("bandwidth is given, and workers outside this interpreter cannot share a limit")
            manner = mover.manner.portable
            places = _place(mover.source), _place(mover.target)
            self._packed = pickle.dumps((mover.source, mover.target, manner, places))
        return Elsewhere, (self._packed,)


class Elsewhere:
    """Runs batches in another process than the caller's.

    Args:
        packed: A pickle of the folders. It is opened when a batch runs: an exception before that would end the process.
    """

    def __init__(self, packed: bytes) -> None:
        self._packed = packed

    def run(self, steps: Sequence[Step], *, again: bool) -> Moved:
        """As `Runner.run`; nothing but a `BaseException` is raised."""
        learned, host = _Learned(), socket.gethostname() or "another machine"
        try:
            mover = _opened(self._packed, learned, host)
            with _alone(mover):
                again = again or mover.arrived(steps[:1])[0]
                results = _missing_moved(mover, steps) if again else mover.move(steps)
        except Exception as error:  # noqa: BLE001 - an executor hands only some of the exceptions back
            results = [error] * len(steps)
        return Moved([_portable(each) for each in results], host, learned.facts)


def _opened(packed: bytes, learned: _Learned, host: str) -> Mover:
    """The mover of the worker.

    Raises:
        StorageError: If a folder is not the one that the caller has.
    """
    opened: tuple[Folder, Folder, Manner, tuple[str, str]] = pickle.loads(packed)  # noqa: S301 - of the batch, a pickle itself
    source, target, manner, places = opened
    for folder, place in zip((source, target), places, strict=True):
        details = ErrorDetails(url=folder.url, operation="transfer")
        if (found := _place(folder)) != place:
            raise StorageError(
                f"a worker on {host} would use {folder.url} at {found!r}, which the calling process has at {place!r}",
                details,
                Remedy.SAME_STORE,
            )
        if folder.local is not None and not os.path.isdir(folder.local.path):
            raise StorageError(f"a worker on {host} has no folder {folder.local.path}", details, Remedy.SHARE_FOLDER)
    return Mover(source, target, manner, learned, Stop())


def _place(folder: Folder) -> str:
    """The place of a folder; with this process, if the folder is in its memory."""
    in_process = isinstance(folder, StoredFolder) and folder.store.is_in_process
    return f"{folder.place} of process {this_process()}" if in_process else folder.place


_one_call: PerProcess[threading.Lock] = PerProcess(threading.Lock)


def _alone(mover: Mover) -> contextlib.AbstractContextManager[object]:
    """Let one batch run at a time in this process if a store serves only one thread."""
    stores = [each.store for each in (mover.source, mover.target) if isinstance(each, StoredFolder)]
    return contextlib.nullcontext() if all(store.serves_threads for store in stores) else _one_call.get()


def _missing_moved(mover: Mover, steps: Sequence[Step]) -> list[Result]:
    there = mover.arrived(steps)
    results = iter(mover.move([step for step, is_there in zip(steps, there, strict=True) if not is_there]))
    return [None if is_there else next(results) for is_there in there]


def _portable(result: Result) -> Result:
    """The same outcome, or a description of it if the exception does not survive a pickle."""
    try:
        return result if type(pickle.loads(pickle.dumps(result))) is type(result) else _described(result)  # noqa: S301 - made here
    except Exception:  # noqa: BLE001 - whatever the methods of the exception raise
        return _described(result)


def _described(result: Result) -> StorageError:
    return StorageError(f"{type(result).__name__}: {result}")


class _Learned:
    """The checksums that a worker has learned, for the index of the caller."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], dict[str, str]] = {}
        self.facts: list[tuple[str, Known]] = []
        self._lock = threading.Lock()

    def find(self, place: str, states: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """As `Facts.find`."""
        with self._lock:
            found = {name: self._values.get((place, name, state)) for name, state in states.items()}
        return {name: dict(values) for name, values in found.items() if values}

    def remember(self, place: str, known: Iterable[Known]) -> None:
        """As `Facts.remember`."""
        with self._lock:
            for each in known:
                algorithm, _, value = each.checksum.partition(":")
                self._values.setdefault((place, each.name, each.state), {})[algorithm] = value
                self.facts.append((place, each))


def batches_of(steps: Iterable[Step], files: int, size: int) -> Iterator[list[Step]]:
    """Divide the steps of a plan.

    Args:
        steps: The steps.
        files: The most files of a batch.
        size: The most bytes of a batch that has several files.
    """
    batch: list[Step] = []
    total = 0
    for step in steps:
        if batch and (len(batch) == files or total + step.file.size > size):
            yield batch
            batch, total = [], 0
        batch.append(step)
        total += step.file.size
    if batch:
        yield batch
