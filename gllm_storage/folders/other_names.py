"""The move of local files that have other names: symbolic links, and hard links.

A source is deleted when its copy is complete. But the deletion, or the renaming, of a file breaks the links to it, and gives
its hard links another time of change, by which they look changed. So these names are copied first, and deleted when all of
them were copied. Then follow the files that have one name.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from gllm_storage.errors import ErrorDetails, Remedy, StorageError
from gllm_storage.folders.entries import is_same_but_for_ctime
from gllm_storage.folders.mover import NotBegunError, changed, unlinked
from gllm_storage.folders.plan import Step
from gllm_storage.folders.records import Records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gllm_storage.folders.distribution import Recorder
    from gllm_storage.folders.entries import Entry, LocalFolder
    from gllm_storage.folders.mover import Mover, Result

    Batches = Callable[[Iterable[Step]], Iterator[list[Step]]]


class LocalMove:
    """Moves the files of a folder of this machine.

    Args:
        mover: Transfers the files.
        source: The folder.
        batches: Divides the files into batches.
        recorder: Notes the outcomes.
    """

    def __init__(self, mover: Mover, source: LocalFolder, batches: Batches, recorder: Recorder) -> None:
        self._mover = mover
        self._source = source
        self._batches = batches
        self._recorder = recorder
        self._kept: set[str | None] = set()
        """The states of files of which a name could not be copied: they stay, so that it can be copied later."""
        self._freed: set[str | None] = set()
        """The states of files of which a name was deleted."""

    def run(self, steps: Iterable[Step]) -> None:
        """Move files.

        Args:
            steps: The steps of a plan.
        """
        linked, others = Records(Step.fields, Step.of_fields), Records(Step.fields, Step.of_fields)
        for step in steps:
            (linked if self._has_other_names(step.file.path) else others).add(step)
        copied = self._copy(linked)
        for batch in self._batches(copied):
            self._recorder.record(batch, [self._kept_back(step.file) or self._delete(step.file) for step in batch])
        for batch in self._batches(others):
            results = [self._kept_back(step.file) for step in batch]
            free = [step for step, problem in zip(batch, results, strict=True) if problem is None]
            answers = iter(self._moved(free, self._mover))
            self._recorder.record(batch, [problem or next(answers) for problem in results])

    def _has_other_names(self, path: str) -> bool:
        try:
            status = os.lstat(self._source.local_path(path))
        except OSError:  # its transfer says so
            return False
        # A hard link can be renamed: then it is another name of the file at the target.
        return stat.S_ISLNK(status.st_mode) or (status.st_nlink > 1 and not self._mover.renames)

    def _copy(self, linked: Iterable[Step]) -> Records[Step]:
        """Copy files; those that were copied."""
        copied, copier = Records(Step.fields, Step.of_fields), self._mover.copier()
        for batch in self._batches(linked):
            for step, problem in zip(batch, self._moved(batch, copier), strict=True):
                if problem is None:
                    copied.add(step)
                    continue
                self._kept.add(step.file.state)
                self._recorder.record([step], [problem])
        return copied

    def _moved(self, batch: Sequence[Step], mover: Mover) -> list[Result]:
        return [NotBegunError()] * len(batch) if self._recorder.must_end else mover.move(batch)

    def _kept_back(self, file: Entry) -> Exception | None:
        if file.state not in self._kept:
            return None
        path = self._source.local_path(file.path)
        return StorageError(
            f"{path} was not moved, because another name of this file could not be copied",
            ErrorDetails("file", path, "move"),
            Remedy.REPEAT,
        )

    def _delete(self, file: Entry) -> Exception | None:
        """Delete a name of a file; a symbolic link can go in any case, since the file behind it stays."""
        path = self._source.local_path(file.path)
        if not os.path.islink(path):
            state = self._source.state(file.path)
            if state != file.state and not (file.state in self._freed and is_same_but_for_ctime(state, file.state)):
                return changed(path, "so it was not deleted")
            self._freed.add(file.state)
        return unlinked(path)
