"""`Distribution`: the batches of a transfer on an executor, each until its result is there.

A batch whose worker died is given to another one, at most `_ATTEMPTS` times in all. If the executor accepts no more work,
the files of the batches without a result are failures, one by one: nothing is lost, and the next call transfers only the
missing files.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gllm_storage.concurrency.stop import TransferStopped
from gllm_storage.errors import ErrorDetails, Remedy, StorageError
from gllm_storage.folders import batches
from gllm_storage.folders.batches import FORMAT, Batch, Here, Moved, batches_of, run_batch
from gllm_storage.folders.mover import NotBegunError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Executor, Future

    from gllm_storage.folders.index import ChecksumIndex, Known
    from gllm_storage.folders.mover import Mover, Result
    from gllm_storage.folders.plan import Step

BATCH_FILES = 200
BATCH_BYTES = 2**26
"""64 MiB: the most that a dead worker costs, unless one file is larger."""
_ATTEMPTS = 3
_WAITING = 512
"""Batches that an executor has at a time, if it does not tell its number of workers: two each for 256 machines."""
_FACTS = 4000
"""Checksums that the index receives at a time: a commit waits for the disk, 16 ms here."""
_POLL_SECONDS = 0.5
_STOP_SECONDS = 10.0
"""How long a cancelled call waits for the batches that run already."""


class Recorder(Protocol):
    """Notes the outcomes of the files: an `Execution`."""

    @property
    def must_end(self) -> bool:
        """Whether no further file may begin."""

    def record(self, batch: Sequence[Step], results: Sequence[Result]) -> None:
        """Note the outcomes of a batch."""


class Distribution:
    """Runs the batches of one transfer.

    Args:
        executor: Runs them.
        mover: Transfers the files.
        index: Remembers the checksums that the workers learned.
        recorder: Notes the outcomes.
    """

    def __init__(self, executor: Executor, mover: Mover, index: ChecksumIndex, recorder: Recorder) -> None:
        self._executor = executor
        self._mover = mover
        self._index = index
        self._recorder = recorder
        self._runner = Here(mover)
        workers = getattr(executor, "_max_workers", None)  # of the executors of the standard library, and of loky's
        self._most = 2 * workers if isinstance(workers, int) and workers > 0 else _WAITING
        self._running: dict[Future[Moved], tuple[Batch, int]] = {}
        self._learned: list[tuple[str, Known]] = []

    def run(self, steps: Iterable[Step]) -> None:
        """Transfer files.

        Args:
            steps: The steps of a plan.

        Raises:
            StorageError: If the executor runs nothing, or its workers cannot import this library; nothing was transferred.
        """
        self._require_workers()
        if self._mover.target.local is not None:
            with contextlib.suppress(OSError):  # each file tells
                os.makedirs(self._mover.target.local.path, exist_ok=True)
        try:
            for batch in batches_of(steps, BATCH_FILES, BATCH_BYTES):
                while len(self._running) >= self._most:
                    self._collect()
                self._submit(Batch(self._runner, tuple(batch)), 1)
            while self._running:
                self._collect()
        except TransferStopped:
            self._cancel()
            # A thread that is interrupted stops the batches of the other threads, which may end before it.
            if (cause := self._interruption()) is not None:
                raise cause from None
            raise
        except BaseException:
            self._cancel()
            raise
        finally:
            self._remember()

    def _interruption(self) -> BaseException | None:
        """The exception that interrupted a thread, such as Ctrl-C in a callback."""
        errors = [each.exception() for each in self._running if each.done() and not each.cancelled()]
        return next((each for each in errors if each and not isinstance(each, (Exception, TransferStopped))), None)

    def _require_workers(self) -> None:
        try:
            # A function of Python itself, which workers without this library can call.
            future = self._executor.submit(pkgutil.resolve_name, f"{batches.__name__}:FORMAT")
            try:
                while not future.done():
                    wait([future], _POLL_SECONDS)
                    self._mover.stop.check()
            except BaseException:
                future.cancel()
                raise
            if (found := future.result()) != FORMAT:
                raise ImportError(f"they have {found!r}, this process {FORMAT!r}")  # noqa: TRY301 - the error of an older one
        except Exception as error:  # engines have exceptions of their own for workers that do not start
            raise _lost(error, self._mover.target.url, "nothing was transferred") from error

    def _submit(self, batch: Batch, attempt: int) -> None:
        if self._recorder.must_end:
            self._not_begun(batch)
            return
        try:
            future = self._executor.submit(run_batch, batch)
        except Exception as error:  # noqa: BLE001 - such as a broken pool, or a client whose config cannot be pickled
            self._fail(batch, error)
            return
        self._running[future] = batch, attempt

    def _collect(self) -> None:
        """Wait until at least one batch has ended, and note the outcomes."""
        wait(self._running, _POLL_SECONDS, FIRST_COMPLETED)
        for future in [each for each in self._running if each.done()]:  # `wait` overlooks those that `shutdown` cancelled
            self._settle(future)
        self._mover.stop.check()
        if self._recorder.must_end:
            for future in [each for each in self._running if each.cancel()]:
                self._not_begun(self._running.pop(future)[0])

    def _settle(self, future: Future[Moved]) -> None:
        batch, attempt = self._running[future]
        try:
            moved = future.result()
        except Exception as error:  # noqa: BLE001 - engines have exceptions of their own for a worker that died
            del self._running[future]
            if attempt < _ATTEMPTS or self._recorder.must_end:
                self._submit(batch.repeated, attempt + 1)
            else:
                self._fail(batch, error)
            return
        del self._running[future]
        if (problem := _problem_of(moved, len(batch.steps))) is not None:
            self._fail(batch, TypeError(problem))
            return
        if moved.host:
            moved = self._checked(batch, moved)
        self._recorder.record(batch.steps, moved.results)

    def _checked(self, batch: Batch, moved: Moved) -> Moved:
        """The result of a batch of another process, after a look at the local files that it says it has written."""
        local = self._mover.target.local
        results = list(moved.results)
        for number, step in enumerate(batch.steps):
            if results[number] is not None:
                continue
            status = None if local is None else local.status(step.file.path)
            if local is not None and (status is None or status.st_size != step.file.size):
                results[number] = _elsewhere(local.local_path(step.file.path), moved.host)
            else:
                self._mover.report(step)
        self._learned += moved.learned
        if len(self._learned) >= _FACTS:
            self._remember()
        return replace(moved, results=results)

    def _remember(self) -> None:
        """Put the checksums that the workers learned into the index."""
        learned, self._learned = self._learned, []
        for place in {place for place, _ in learned}:
            self._index.remember(place, [known for where, known in learned if where == place])

    def _not_begun(self, batch: Batch) -> None:
        self._recorder.record(batch.steps, [NotBegunError()] * len(batch.steps))

    def _fail(self, batch: Batch, error: Exception) -> None:
        target = self._mover.target.url.rstrip("/")
        failures = [_lost(error, f"{target}/{step.file.path}", "the file may be missing") for step in batch.steps]
        self._recorder.record(batch.steps, failures)

    def _cancel(self) -> None:
        """Cancel the waiting batches, end those that run in this process, and wait for the rest, for some time."""
        self._mover.stop.set()
        wait([future for future in self._running if not future.cancel()], _STOP_SECONDS)


def _problem_of(moved: object, files: int) -> str | None:
    """Why a result cannot be that of a batch, such as of an executor that returns another object."""
    if not isinstance(moved, Moved):
        return f"it returned {type(moved).__name__!r} in place of the outcomes of {files} files"
    if len(moved.results) != files or not all(each is None or isinstance(each, Exception) for each in moved.results):
        return f"it returned other outcomes than those of {files} files"
    return None


def _lost(error: Exception, url: str, consequence: str) -> StorageError:
    """The error for work that the executor did not do."""
    details = ErrorDetails(url=url, operation="transfer")
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, (ImportError, AttributeError)):
        message = f"the workers of the executor cannot import gllm_storage ({reason}); {consequence}"
        lost = StorageError(message, details, Remedy.INSTALL_ON_WORKERS)
    else:
        lost = StorageError(f"the executor did not do its work ({reason}); {consequence}", details, Remedy.NEW_EXECUTOR)
    lost.__cause__ = error
    return lost


def _elsewhere(path: str, host: str) -> StorageError:
    details = ErrorDetails("file", path, "transfer")
    return StorageError(
        f"a worker on {host} has written {path}, which this machine does not have", details, Remedy.SHARE_FOLDER
    )
