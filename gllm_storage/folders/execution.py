"""The execution of a plan: files move in batches, many at a time, and deletions come last.

A file that is in another state than the plan says is not transferred: it is a failure. So is a deletion of a file that was
replaced since.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, FolderError, ObjectNotFoundError, Remedy, StorageError, ends_all
from gllm_storage.folders.batches import batches_of
from gllm_storage.folders.distribution import Distribution
from gllm_storage.folders.entries import Entry, LocalFolder, StoredFolder, files_of, folders_of, may_be_one_time
from gllm_storage.folders.mover import Mover, NotBegunError, Progresses, changed, unlinked
from gllm_storage.folders.other_names import LocalMove
from gllm_storage.folders.plan import in_order, merged
from gllm_storage.folders.records import Records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from gllm_storage.folders.entries import Folder
    from gllm_storage.folders.index import ChecksumIndex
    from gllm_storage.folders.mover import Manner, Result
    from gllm_storage.folders.plan import Plan, Step
    from gllm_storage.store.port import ObjectStore

_BATCH_FILES = 4000
"""Files that are transferred together; a batch begins when the last file of the one before has ended."""
_DELETED_TOGETHER = 1000
"""Files of one DeleteObjects request."""
_BATCH_BYTES = 2**30
_KEPT_FAILURES = 1000
_SHOWN_FAILURES = 20
_DELETIONS = 16
"""Single deletions at a time."""


@dataclass(frozen=True)
class Outcome:
    """The outcome for one file.

    Attributes:
        action: ``"transferred"``, ``"deleted"`` or ``"failed"``.
        path: Its path below the folder.
        size: Its size in bytes.
        error: The reason of a failure.
    """

    action: str
    path: str
    size: int
    error: str | None = None


@dataclass
class FolderResult:
    """The result of a transfer of a folder.

    Attributes:
        plan: The plan. ``plan.steps("skip")`` lists the files that were equal.
        transferred: Number of transferred files.
        transferred_bytes: Their bytes.
        deleted: Number of deleted files.
        failed: Number of files that failed.
        not_begun: Number of files that were not transferred or deleted because another one failed before.
    """

    plan: Plan
    transferred: int = 0
    transferred_bytes: int = 0
    deleted: int = 0
    failed: int = 0
    not_begun: int = 0
    _records: Records[Sequence[Any]] = field(default_factory=lambda: Records(tuple, tuple), repr=False)

    @property
    def skipped(self) -> int:
        """Number of files that were equal, and so not transferred."""
        return self.plan.skipped

    @property
    def skipped_bytes(self) -> int:
        """The bytes of the skipped files."""
        return self.plan.skipped_bytes

    def outcomes(self, *actions: str) -> Iterator[Outcome]:
        """The outcomes; skipped files are in ``plan.steps("skip")``.

        Args:
            *actions: The actions of `Outcome` to list; all without any.
        """
        for record in self._records:
            if not actions or record[0] in actions:
                yield Outcome(*record)

    def add(self, action: str, file: Entry, error: Exception | None = None) -> None:
        """Add the outcome for a file."""
        self._records.add((action, file.path, file.size, None if error is None else str(error)))
        if action == "transferred":
            self.transferred += 1
            self.transferred_bytes += file.size
        elif action == "deleted":
            self.deleted += 1
        else:
            self.failed += 1

    def __str__(self) -> str:
        return (
            f"{self.transferred} files transferred ({self.transferred_bytes} bytes), {self.skipped} equal, "
            f"{self.deleted} deleted, {self.failed} failed, {self.not_begun} not begun"
        )


class Execution:
    """Runs one plan.

    Args:
        plan: The plan.
        source: The source; None for a plan that only deletes.
        target: The target.
        manner: How it is run.
        index: Remembers checksums.
        stop: Cancels everything.
        takes_all: Whether no filter leaves files of a deletion out. Then markers of empty folders are deleted everywhere in
            the target, and otherwise only above the files that were deleted.
    """

    def __init__(
        self,
        plan: Plan,
        source: Folder | None,
        target: Folder,
        manner: Manner,
        *,
        index: ChecksumIndex,
        stop: Stop,
        takes_all: bool = False,
    ) -> None:
        self._takes_all = takes_all
        self._plan = plan
        self._target = target
        self._manner = manner
        self._index = index
        self._stop = stop
        self._mover = None if source is None else Mover(source, target, manner, index, stop)
        self._result = FolderResult(plan)
        self._failures: list[tuple[str, Exception]] = []
        self._ends_all = False
        self._kept = 0
        """Files that were not deleted because of failures before."""

    def run(self) -> FolderResult:
        """Run the plan.

        Raises:
            FolderError: If files failed. Everything else was done, or nothing more if `Manner.on_error` is ``"stop"``.
        """
        self._manner.began(self._plan)
        for each in self._plan.problems:
            self._fail(Entry(each.path, 0), each.error)
        Progresses(self._manner.callback).expect(self._plan.transfers)
        if self._mover is not None and self._plan.transfers:
            self._transfer(self._mover)
        if self._failures or self._result.not_begun:
            self._kept = self._plan.deletions
            self._result.not_begun += self._kept
        else:
            self._delete()
        if self._failures or self._result.not_begun:
            raise self._error()
        return self._result

    def _transfer(self, mover: Mover) -> None:
        steps = self._plan.steps("transfer")
        if self._manner.executor is not None:
            Distribution(self._manner.executor, mover, self._index, self).run(steps)
            return
        if self._manner.removes and mover.source.local is not None:
            LocalMove(mover, mover.source.local, _batches, self).run(steps)
            return
        for batch in _batches(steps):
            self.record(batch, [NotBegunError()] * len(batch) if self.must_end else mover.move(batch))

    def record(self, batch: Sequence[Step], results: Sequence[Result]) -> None:
        """Note the outcomes of a batch."""
        for step, result in zip(batch, results, strict=True):
            if result is None:
                self._note("transferred", step.file)
            elif isinstance(result, NotBegunError):
                self._result.not_begun += 1
            else:
                self._fail(step.file, result)

    @property
    def must_end(self) -> bool:
        """Whether no further file may begin."""
        return self._ends_all or (bool(self._failures) and self._manner.on_error == "stop")

    def _note(self, action: str, file: Entry, error: Exception | None = None) -> None:
        self._result.add(action, file, error)
        self._manner.report(action, file, error)

    def _fail(self, file: Entry, error: Exception) -> None:
        self._note("failed", file, error)
        self._ends_all |= ends_all(error)
        if len(self._failures) < _KEPT_FAILURES:
            self._failures.append((file.path, error))

    def _error(self) -> FolderError:
        result = self._result
        shown = "; ".join(f"{path!r}: {_without_repeat(error)}" for path, error in self._failures[:_SHOWN_FAILURES])
        more = f"; and {result.failed - _SHOWN_FAILURES} more" if result.failed > _SHOWN_FAILURES else ""
        kept = f", and so {self._kept} files were not deleted" if self._kept else ""
        where = f"{self._plan.source} to {self._plan.target}" if self._plan.source else f"{self._plan.target}"
        failed = "1 file" if result.failed == 1 else f"{result.failed} files"
        counts = f"{failed} failed, {result.transferred} were transferred, {result.not_begun} not begun"
        needs_executor = any(getattr(each, "remedy", None) is Remedy.NEW_EXECUTOR for _, each in self._failures)
        error = FolderError(
            f"{where}: {counts}{kept}: {shown}{more}",
            ErrorDetails(url=self._plan.target, operation="transfer"),
            Remedy.NEW_EXECUTOR if needs_executor else Remedy.REPEAT,
            self._failures,
        )
        error.result = result
        error.__cause__ = self._failures[0][1] if self._failures else None
        return error

    # ------------------------------------------------------------------ deletions

    def _delete(self) -> None:
        """Delete the files that are still in the state of the plan."""
        if not self._plan.deletions:
            return
        if self._manner.lists_again:
            for file in in_order(self._delete_unchanged):
                self._fail(file, changed(f"{self._target.url.rstrip('/')}/{file.path}", "so it was not deleted"))
        else:
            for batch in batches_of(self._plan.steps("delete"), _DELETED_TOGETHER, _BATCH_BYTES):
                self._delete_batch([step.file for step in batch])
        if self._target.local is not None:
            if not self._manner.keeps_folders:
                self._remove_folders(self._target.local)
        elif isinstance(self._target, StoredFolder) and not (self._plan.source or self._failures):
            self._delete_markers(self._target)

    def _delete_unchanged(self) -> list[Entry]:
        """List the target again, and delete the files of the plan; those that are gone need nothing.

        Returns:
            The files that are in another state now.
        """
        replaced: list[Entry] = []
        waiting: list[Entry] = []
        planned = (step.file for step in self._plan.steps("delete"))
        for file, found in merged(planned, files_of(self._target)):
            if file is None or found is None:
                continue
            (waiting if _is_unchanged(file, found) else replaced).append(file)
            if len(waiting) == _DELETED_TOGETHER:
                self._delete_batch(waiting)
                waiting = []
        self._delete_batch(waiting)
        return replaced

    def _delete_batch(self, files: Sequence[Entry]) -> None:
        if not files or self.must_end:
            self._result.not_begun += len(files)
            return
        target = self._target
        if isinstance(target, StoredFolder):
            self._delete_objects(files, target)
        elif isinstance(target, LocalFolder):
            for file in files:
                self._settle(file, unlinked(target.local_path(file.path)))

    def _delete_objects(self, files: Sequence[Entry], target: StoredFolder) -> None:
        store = target.store
        try:
            transfer = store.transfer(target.prefix, "delete", None, Stop(self._stop))
            keys = [target.key(each.path) for each in files]
            run_all([partial(store.delete_many, keys, transfer)], 1, transfer.stop)  # as in `_delete_markers`
        except (StorageError, OSError) as error:  # one by one, to learn which of them failed
            if ends_all(error):
                self._fail(files[0], error)
                self._result.not_begun += len(files) - 1
                return
            results = run_all([partial(_deleted, store, target.key(each.path)) for each in files], _DELETIONS, self._stop)
            for file, problem in zip(files, results, strict=True):
                self._settle(file, problem)
            return
        for file in files:
            self._settle(file, None)

    def _delete_markers(self, target: StoredFolder) -> None:
        """Delete the markers of folders that became empty, which consoles and other tools have made."""
        above = None if self._takes_all else self._folders_above(target)
        if markers := target.empty_markers(above):
            transfer = target.store.transfer(target.prefix, "delete", None, Stop(self._stop))
            # In a thread, for which `run_all` waits after Ctrl-C: the request must not take effect after this call.
            run_all([partial(target.store.delete_many, markers, transfer)], 1, transfer.stop)

    def _folders_above(self, target: StoredFolder) -> set[str]:
        """The folders of the files that were deleted, as keys of markers."""
        deleted = (target.key(each.path) for each in self._result.outcomes("deleted"))
        return {folder for key in deleted for folder in folders_of(key) if folder.startswith(target.prefix)}

    def _settle(self, file: Entry, error: Exception | None) -> None:
        if error is None:
            self._note("deleted", file)
        else:
            self._fail(file, error)

    def _remove_folders(self, target: LocalFolder) -> None:
        """Remove the folders that became empty."""
        tried = ""
        for outcome in self._result.outcomes("deleted"):
            folder = os.path.dirname(outcome.path)
            while folder and folder != tried:
                tried = folder
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(target.local_path(folder))
                folder = os.path.dirname(folder)
        if not self._plan.source and isinstance(self._target, StoredFolder) and self._target.prefix:
            with contextlib.suppress(OSError):
                os.rmdir(target.path)


def _batches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    return batches_of(steps, _BATCH_FILES, _BATCH_BYTES)


def _without_repeat(error: Exception) -> str:
    """An error, without the advice to repeat the call: the `FolderError` says that once, for all files."""
    repeats = {Remedy.REPEAT, Remedy.REPEAT_NOW, Remedy.NEW_EXECUTOR}
    return error.describe(None) if isinstance(error, StorageError) and error.remedy in repeats else str(error)


def _is_unchanged(planned: Entry, found: Entry) -> bool:
    if (planned.state, planned.size) != (found.state, found.size):
        return False
    return planned.state is not None or may_be_one_time(planned.modified_ns, found.modified_ns)


def _deleted(store: ObjectStore, key: str) -> Exception | None:
    try:
        store.delete(key)
    except ObjectNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - each file's failure is a result
        return error
    return None
