"""Which files of a target are not files of their own: links to files, and other names of source files.

A link to a file in the target is kept, and the file behind it is replaced. So two paths may be one file, and a transfer
would replace a file that it reads, or write one file twice.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from gllm_storage.folders.entries import state_of

if TYPE_CHECKING:
    from gllm_storage.folders.entries import Entry, Folder
    from gllm_storage.folders.plan import Plan


class TargetLinks:
    """Finds links in the target to files that a plan reads, or writes under another name.

    Args:
        source: The source.
        target: The target.
        moves: Whether a source file may be another name (a hard link) of its target: the move only removes the source.
    """

    def __init__(self, source: Folder, target: Folder, *, moves: bool = False) -> None:
        self._source = source.local
        self._target = target.local
        self._moves = moves
        self._roots = [
            (f"{os.path.realpath(folder.path).rstrip('/')}/", name)
            for folder, name in ((self._target, "target"), (self._source, "source"))
            if folder is not None
        ]
        self._paths: dict[str, str] = {}
        self._read: dict[str, str] = {}

    def problem(self, file: Entry) -> str | None:
        """Why a source file must not be written to its path in the target; None if it may.

        Args:
            file: The source file.
        """
        if self._target is None:
            return None
        where = self._target.local_path(file.path)
        try:
            status = os.lstat(where)
            if stat.S_ISLNK(status.st_mode):
                return self._problem_of_link(file.path, where)
        except (OSError, ValueError):  # such as a missing file, or an impossible name
            return None
        is_same = self._source is not None and state_of(status) == file.state
        return "source and target are the same file" if is_same and not self._moves else None

    def _problem_of_link(self, path: str, link: str) -> str | None:
        real = os.path.realpath(link)
        for root, name in self._roots:
            if real.startswith(root):
                return f"it is a link in the target to {real.removeprefix(root)!r} in the {name}, which would be changed"
        other = self._paths.setdefault(real, path)
        if other != path:
            return f"it is a link in the target to the same file as {other!r}"
        if self._source is not None:
            self._read[state_of(os.stat(link))] = path
        return None

    def links_to_sources(self, plan: Plan) -> dict[str, str]:
        """The targets that are links to source files outside the folder of the source, to which links lead there, too.

        Args:
            plan: The plan, with all its steps.

        Returns:
            The reasons, by paths.
        """
        steps = plan.steps("transfer", "skip") if self._read else ()
        return {
            self._read[step.file.state]: f"it is a link in the target to the file of {step.file.path!r} in the source"
            for step in steps
            if step.file.state in self._read
        }
