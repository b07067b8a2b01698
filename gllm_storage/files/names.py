"""Names that are different, and one on a disk that ignores case or Unicode normalisation (macOS, Windows, FAT)."""

from __future__ import annotations

import contextlib
import os
import secrets
import unicodedata
from typing import TYPE_CHECKING

from gllm_storage.files.scratch import scratch_error
from gllm_storage.paths import require_local

if TYPE_CHECKING:
    from collections.abc import Callable

    Fold = Callable[[str], str]

_SAVED_AFTER = 10_000


def local_directory(name: str, path: str | os.PathLike[str]) -> str:
    """The path of an argument that names a directory of this machine.

    Args:
        name: The argument.
        path: Its value.

    Raises:
        TypeError: If it is not a text or a path object.
        ValueError: If it is a URL, begins with ``~/``, is empty, as a variable that is not set, or is a text that no path
            can have.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} is a str or a path object, not {type(path).__name__}")
    text = os.fsdecode(os.fspath(path))
    if not text:
        raise ValueError(f"{name} is empty; name a directory, such as './out', or '.' for the current one")
    if "\0" in text or not _is_encodable(text):
        raise ValueError(f"{name} {text!r} has a character that no path of this machine can have")
    return require_local(name, text)


def _is_encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


class FoldedClashes:
    """Finds different paths that are one on a disk, among paths in key order. The paths are on the disk, not in memory.

    Args:
        fold: The text that such paths have in common.
    """

    def __init__(self, fold: Fold) -> None:
        import sqlite3  # not in every Python, and few disks need it

        self._fold = fold
        self._error = sqlite3.Error
        self._database = sqlite3.connect("")  # a temporary file, which SQLite deletes
        self._database.execute("CREATE TABLE names (folded TEXT PRIMARY KEY, name TEXT, ours INTEGER) WITHOUT ROWID")
        self._folders: list[str] = []
        self._added = 0

    def find(self, path: str, *, ours: bool) -> str | None:
        """Add the next path, and its folders.

        Args:
            path: The path.
            ours: Whether this is a path of the transfer. Two other paths do not count.

        Returns:
            An earlier path, or a folder of one, which differs from this path or its folder; None if there is none.

        Raises:
            StorageError: If the disk for temporary files is full or fails.
        """
        *folders, _ = path.split("/")
        known = 0
        while known < min(len(self._folders), len(folders)) and self._folders[known] == folders[known]:
            known += 1
        self._folders = folders
        names = ["/".join(folders[:count]) for count in range(known + 1, len(folders) + 1)]
        try:
            return next((found for each in (*names, path) if (found := self._other(each, ours=ours)) is not None), None)
        except self._error as error:
            raise scratch_error(error) from error

    def _other(self, name: str, *, ours: bool) -> str | None:
        folded = self._fold(name)
        self._database.execute("INSERT OR IGNORE INTO names VALUES (?, ?, ?)", (folded, name, ours))
        self._added += 1
        if not self._added % _SAVED_AFTER:
            self._database.commit()
        found, is_ours = self._database.execute("SELECT name, ours FROM names WHERE folded = ?", (folded,)).fetchone()
        return None if found == name or not (ours or is_ours) else str(found)

    def close(self) -> None:
        """Delete the paths."""
        self._database.close()


def fold_of_disk(folder: str) -> Fold | None:
    """How the disk of a folder folds names: tried with an empty file, which is removed.

    Args:
        folder: The folder. If it does not exist, the nearest one above it counts.

    Returns:
        None if all names differ there, or if no file can be made.
    """
    while not os.path.isdir(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder)
    name = f".gllm-{secrets.token_hex(8)}-"
    path = os.path.join(folder, f"{name}é")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError:
        return None
    try:
        ignores_case = os.path.exists(os.path.join(folder, f"{name.upper()}é"))
        ignores_form = os.path.exists(os.path.join(folder, f"{name}{unicodedata.normalize('NFD', 'é')}"))
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return fold_of(ignores_case=ignores_case, ignores_form=ignores_form)


def fold_of(*, ignores_case: bool, ignores_form: bool) -> Fold | None:
    """The fold of a disk.

    Args:
        ignores_case: Whether names that differ only in case are one.
        ignores_form: Whether names that differ only in Unicode normalisation are one.
    """
    if ignores_case and ignores_form:
        return _without_case_and_form
    if ignores_case:
        return str.casefold
    return _without_form if ignores_form else None


def _without_form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _without_case_and_form(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
