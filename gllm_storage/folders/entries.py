"""The files of a folder, local or in a store, in the order of their keys.

Both kinds of folders list their files in the order of their names in UTF-8, as stores do. So two listings are compared as
they arrive, and neither is ever in memory completely.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.source import local_error
from gllm_storage.files.target import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.folders.filters import Filter
    from gllm_storage.store.port import ObjectStore

LINKS = ("follow", "skip", "refuse")
"""Policies for symbolic links of a local folder."""


@dataclass(frozen=True)
class Entry:
    """A file of a folder.

    Attributes:
        path: Its path below the folder, with ``/``.
        size: Size in bytes.
        modified_ns: Time of the last change, in nanoseconds since 1970; None if the store does not tell.
        state: Identifies this state of the file: the ETag of an object, or size, times and inode of a local file. None if
            nothing identifies it.
        version: The store's id of this version, if it has one.
    """

    path: str
    size: int
    modified_ns: int | None = None
    state: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class Problem:
    """A file or folder that cannot take part.

    Attributes:
        path: Its path below the folder.
        error: The reason.
    """

    path: str
    error: Exception


class Folder(Protocol):
    """One end of a transfer."""

    @property
    def url(self) -> str:
        """The folder, for messages; without credentials."""

    def entries(self, chosen: Filter) -> Iterator[Entry | Problem]:
        """The files that a filter takes, in the order of their paths in UTF-8.

        Raises:
            StorageError: If the folder cannot be listed.
        """


class LocalFolder:
    """A folder of this machine.

    Args:
        path: The folder.
        links: How symbolic links below it are treated: ``"follow"`` takes the file or folder behind them, ``"skip"`` leaves
            them out, and for ``"refuse"`` each is a problem.

    Raises:
        ValueError: If the policy is unknown.
    """

    def __init__(self, path: str, links: str = "follow") -> None:
        if links not in LINKS:
            raise ValueError(f"links={links!r}: it must be one of {', '.join(map(repr, LINKS))}")
        self.path = os.path.abspath(path)
        self.links = links

    @property
    def url(self) -> str:
        """The path."""
        return self.path

    def local_path(self, path: str) -> str:
        """The path on this machine of a path below the folder."""
        return os.path.join(self.path, *path.split("/"))

    def entries(self, chosen: Filter) -> Iterator[Entry | Problem]:
        """As `Folder.entries`. Temporary files of this library are left out."""
        try:
            status = os.stat(self.path)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        except OSError as error:
            raise self._error(self.path, error) from error
        yield from self._below("", chosen, ())

    def _below(self, folder: str, chosen: Filter, parents: tuple[tuple[int, int], ...]) -> Iterator[Entry | Problem]:
        where = self.local_path(folder) if folder else self.path
        try:
            status = os.stat(where)
            current = (status.st_dev, status.st_ino)
            if current in parents:
                raise OSError(errno.ELOOP, "it is a link to one of its parent folders")
            with os.scandir(where) as scanned:
                found = [(self._is_folder(each), each) for each in scanned]
        except OSError as error:
            yield Problem(folder, self._error(where, error))
            return
        start = f"{folder}/" if folder else ""
        # A folder's files have a slash behind its name, which counts for the order of their paths.
        for is_folder, each in sorted(found, key=lambda pair: os.fsencode(f"{pair[1].name}/" if pair[0] else pair[1].name)):
            path = f"{start}{each.name}"
            if is_temporary(each.name) or (self.links == "skip" and each.is_symlink()):
                continue
            if not (chosen.takes_folder(path) if is_folder else chosen.takes(path)):
                continue
            if (problem := self._problem(path, each)) is not None:
                yield problem
            elif is_folder:
                yield from self._below(path, chosen, (*parents, current))
            else:
                yield self._entry(path, each)

    def _is_folder(self, each: os.DirEntry[str]) -> bool:
        return each.is_dir(follow_symlinks=self.links == "follow")

    def _problem(self, path: str, each: os.DirEntry[str]) -> Problem | None:
        try:
            path.encode()
        except UnicodeEncodeError:
            return Problem(path, self._refused(each.path, "its name is not UTF-8, so that no key can be made of it"))
        if self.links == "refuse" and each.is_symlink():
            return Problem(path, self._refused(each.path, "it is a symbolic link"))
        return None

    def _entry(self, path: str, each: os.DirEntry[str]) -> Entry | Problem:
        try:
            status = each.stat()
        except OSError as error:
            return Problem(path, self._error(each.path, error))
        if not stat.S_ISREG(status.st_mode):
            return Problem(path, self._refused(each.path, "it is neither a file nor a folder"))
        return Entry(path, status.st_size, status.st_mtime_ns, state_of(status))

    def _error(self, path: str, error: OSError) -> StorageError:
        return local_error("read", path, error, ErrorDetails("file", self.path, "list"))

    def _refused(self, path: str, reason: str) -> StorageError:
        return StorageError(f"{path!r} cannot take part: {reason}", ErrorDetails("file", self.path, "list"))


class StoredFolder:
    """A folder in a store: the objects whose keys begin with a prefix.

    Args:
        store: The store.
        prefix: The prefix; empty, or with a slash at its end.
    """

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix

    @property
    def url(self) -> str:
        """The URL of the folder."""
        return self.store.url(self.prefix)

    def key(self, path: str) -> str:
        """The key of a path below the folder."""
        return f"{self.prefix}{path}"

    def entries(self, chosen: Filter) -> Iterator[Entry | Problem]:
        """As `Folder.entries`. Folder markers are left out."""
        start = self.store.url(self.prefix)
        before = b""
        for info in self.store.list(self.prefix):
            path = info.url.removeprefix(start)
            if not info.size and (not path or path.endswith("/")):
                continue
            if (name := path.encode()) <= before:
                raise self._unordered(info.url)
            before = name
            if chosen.takes(path):
                changed = info.last_modified
                yield Entry(path, info.size, None if changed is None else int(changed.timestamp() * 1e9), info.etag, info.version)

    def _unordered(self, url: str) -> StorageError:
        details = self.store.details(self.prefix, "list")
        return StorageError(f"{url}: the store lists its objects in another order than that of their keys", details)


def state_of(status: os.stat_result) -> str:
    """Identifies a state of a local file: whatever changes its content, even with the old time, changes this text."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
