"""Which names a transfer refuses before anything moves.

- A name that leads out of the target folder (``..``), or that the target cannot have: an empty segment, a null character, a
  segment longer than the disk permits; in a store, a key that `gllm_storage.paths` refuses.
- A file that is also a folder: ``a`` beside ``a/b``. A store can hold both, a disk cannot, and a folder that holds both
  could not be downloaded again.
- Two names that are one on the target's disk (`gllm_storage.files.names`).
"""

from __future__ import annotations

import os

from gllm_storage.paths import is_plain, validate_key

_LONGEST_SEGMENT = 255
"""Bytes: of nearly all filesystems."""


def problem_of_local_name(path: str) -> str | None:
    """Why a path below a folder cannot be a file of this machine; None if it can.

    Args:
        path: The path below the folder, with ``/``.
    """
    if is_plain(path, _LONGEST_SEGMENT):
        return None
    for segment in path.split("/"):
        if segment in {"", ".", ".."}:
            return f"its segment {segment!r} leads to another file"
        if "\0" in segment:
            return "it contains a null character"
        if len(os.fsencode(segment)) > _LONGEST_SEGMENT:
            return f"a segment is longer than {_LONGEST_SEGMENT} bytes"
    return None


def problem_of_key(key: str, forbidden: str = "") -> str | None:
    """Why a text cannot be a key; None if it can.

    Args:
        key: The text.
        forbidden: As `ObjectStore.forbidden`.
    """
    for each in forbidden:
        if each in key:
            return f"remote path {key!r} contains {each!r}, which this store does not keep unchanged"
    try:
        validate_key(key)
    except ValueError as error:
        return str(error)
    return None


class FileFolderClashes:
    """Finds files that are also folders, among paths in key order.

    ``a`` and ``a/b`` are not neighbours: ``a-b`` is between them. But all paths that begin with ``a`` follow each other, so
    the files that are a beginning of the current path are a stack.
    """

    def __init__(self) -> None:
        self._beginnings: list[tuple[str, bool]] = []

    def find(self, path: str, *, ours: bool) -> str | None:
        """Add the next path.

        Args:
            path: The path.
            ours: Whether the source has it. Two paths that only the target has do not count.

        Returns:
            An earlier path that is a folder of this one; None if there is none.
        """
        while self._beginnings and not path.startswith(self._beginnings[-1][0]):
            self._beginnings.pop()
        found = None
        if self._beginnings:
            folders = (each for each, is_ours in self._beginnings if (ours or is_ours) and path.startswith(f"{each}/"))
            found = next(folders, None)
        self._beginnings.append((path, ours))
        return found
