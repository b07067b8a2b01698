"""The files of a folder, local or in a store, in the order of their keys.

Both kinds of folders list their files in the order of their names in UTF-8, as stores do. So two listings are compared as
they arrive, and neither is ever in memory completely.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.scratch import scratch_error
from gllm_storage.files.source import local_error
from gllm_storage.files.target import is_temporary
from gllm_storage.folders.filters import Filter
from gllm_storage.folders.index import LOCAL

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from gllm_storage.store.port import ObjectStore

LINKS = ("follow", "files", "skip", "refuse")
"""Policies for symbolic links of a local folder."""
_SORTED = 4096
"""The objects of a listing that are sorted in memory: 2 MiB, and five pages. So most folders of a store whose listings have
another order are listed once."""
_path = attrgetter("path")


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
        is_loop: Whether it is a link to one of its parent folders, and so contains nothing new.
    """

    path: str
    error: Exception
    is_loop: bool = False


class Chosen(Protocol):
    """Decides which files take part: a `Filter`, or a `FileList`."""

    def takes(self, path: str) -> bool:
        """Whether a file takes part."""

    def takes_folder(self, path: str) -> bool:
        """Whether files of a folder may take part."""


class StoreClient(Hashable, Protocol):
    """A client, which can be pickled."""

    @property
    def store(self) -> ObjectStore:
        """Its store."""


class Folder(Protocol):
    """One end of a transfer."""

    @property
    def place(self) -> str:
        """The service that holds the folder, as `ObjectStore.place`."""

    @property
    def url(self) -> str:
        """The folder, for messages; without credentials."""

    @property
    def local(self) -> LocalFolder | None:
        """The folder of this machine that holds the files; None if they are in a store elsewhere."""

    def as_target(self) -> Folder:
        """The same folder, to be changed: links to folders are not followed."""

    def entries(self, chosen: Chosen) -> Iterator[Entry | Problem]:
        """The files that take part, in the order of their paths in UTF-8.

        Raises:
            StorageError: If the folder cannot be listed.
        """


@dataclass(frozen=True)
class _Level:
    """A local folder that is being listed.

    Attributes:
        identity: Its device and inode.
        start: The beginning of the paths of its files.
        content: What is in it and was not listed yet, with whether each is a folder, in the order of the paths.
    """

    identity: tuple[int, int]
    start: str
    content: Iterator[tuple[bool, os.DirEntry[str]]]


class LocalFolder:
    """A folder of this machine.

    Args:
        path: The folder.
        links: How symbolic links below it are treated: ``"follow"`` takes the file or folder behind them, ``"files"`` only
            files, ``"skip"`` leaves them out, and for ``"refuse"`` each is a problem.

    Raises:
        ValueError: If the policy is unknown.
    """

    def __init__(self, path: str, links: str = "follow") -> None:
        if links not in LINKS:
            raise ValueError(f"links={links!r}: it must be one of {', '.join(map(repr, LINKS))}")
        self.path = os.path.abspath(path)
        self._start = self.path if self.path.endswith("/") else f"{self.path}/"
        self.links = links
        self._is_target = False

    @property
    def place(self) -> str:
        """The place of local files."""
        return LOCAL

    def as_target(self) -> LocalFolder:
        """As `Folder.as_target`.

        What is behind a link belongs to another folder: deletions must not reach it. Names that no file of a source can
        have, dangling links, pipes and devices are left out, so that they do not stop a transfer that does not need them.
        """
        target = LocalFolder(self.path)
        target._is_target = True
        return target

    @property
    def url(self) -> str:
        """The path."""
        return self.path

    @property
    def local(self) -> LocalFolder:
        """This folder."""
        return self

    def local_path(self, path: str) -> str:
        """The path on this machine of a path below the folder."""
        if os.sep == "/":
            return f"{self._start}{path}"
        return os.path.join(self.path, *path.split("/"))

    def entries(self, chosen: Chosen) -> Iterator[Entry | Problem]:
        """As `Folder.entries`; none if the folder does not exist, or if the path names no folder.

        Temporary files of this library are left out.
        """
        try:
            status = os.stat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._error(self.path, error) from error
        if stat.S_ISDIR(status.st_mode):
            yield from self._below(chosen)

    def file_in_place(self) -> str | None:
        """The file that has the name of this folder, or of one above it, so that the folder cannot be made."""
        path = self.path
        while True:
            try:
                return None if stat.S_ISDIR(os.stat(path).st_mode) else path
            except (FileNotFoundError, NotADirectoryError):
                path = os.path.dirname(path)
            except OSError:  # the listing, or the first write, says more
                return None

    def status(self, path: str) -> os.stat_result | None:
        """The facts that the file system has about a file now; None if it does not exist or is not a regular file."""
        try:
            status = os.stat(self.local_path(path))
        except OSError:
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def state(self, path: str) -> str | None:
        """The state of a file now; None if it does not exist or is not a regular file."""
        status = self.status(path)
        return None if status is None else state_of(status)

    def _below(self, chosen: Chosen) -> Iterator[Entry | Problem]:
        # A stack, not a recursion: a path may have more folders than Python has frames.
        levels: list[_Level] = []
        problem = self._enter("", levels)
        if problem is not None:
            yield problem
        while levels:
            level = levels[-1]
            is_folder, each = next(level.content, (False, None))
            if each is None:
                levels.pop()
                continue
            path = f"{level.start}{each.name}"
            if not self._takes(path, each, chosen, is_folder=is_folder):
                continue
            problem = self._problem(path, each)
            if problem is None and is_folder:
                problem = self._enter(path, levels)
            elif problem is None:
                yield self._entry(path, each)
            if problem is not None:
                yield problem

    def _enter(self, folder: str, levels: list[_Level]) -> Problem | None:
        """Put a folder on top of the levels; its problem if it cannot be read, or is one of them."""
        where = self.local_path(folder) if folder else self.path
        try:
            status = os.stat(where)
            current = (status.st_dev, status.st_ino)
            with os.scandir(where) as scanned:
                found = [(self._is_folder(each), each) for each in scanned]
        except OSError as error:
            return Problem(folder, self._error(where, error))
        if any(current == level.identity for level in levels):
            return Problem(folder, self._refused(where, "it is a link to one of its parent folders"), is_loop=True)
        # A folder's files have a slash behind its name, which counts for the order of their paths.
        found.sort(key=lambda pair: f"{pair[1].name}/" if pair[0] else pair[1].name)
        levels.append(_Level(current, f"{folder}/" if folder else "", iter(found)))
        return None

    def _takes(self, path: str, each: os.DirEntry[str], chosen: Chosen, *, is_folder: bool) -> bool:
        if (each.name.startswith(".") and is_temporary(each.name)) or self._is_left_out(path, each, is_folder=is_folder):
            return False
        return chosen.takes_folder(path) if is_folder else chosen.takes(path)

    def _is_folder(self, each: os.DirEntry[str]) -> bool:
        try:
            return each.is_dir(follow_symlinks=self.links == "follow" and not self._is_target)
        except OSError:  # such as a link to itself: `_entry` says so
            return False

    def _is_left_out(self, path: str, each: os.DirEntry[str], *, is_folder: bool) -> bool:
        if not self._is_target:
            return each.is_symlink() and (self.links == "skip" or (self.links == "files" and _leads_to_folder(each)))
        return not _is_utf8(path) or not (is_folder or _is_file(each))

    def _problem(self, path: str, each: os.DirEntry[str]) -> Problem | None:
        if not _is_utf8(path):
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
        found = local_error("read", path, error, ErrorDetails("file", self.path, "list"))
        found.__cause__ = error
        return found

    def _refused(self, path: str, reason: str) -> StorageError:
        return StorageError(f"{path!r} cannot take part: {reason}", ErrorDetails("file", self.path, "list"))


class StoredFolder:
    """A folder in a store: the objects whose keys begin with a prefix.

    Where the store is a folder of this machine, its files are listed as those of a `LocalFolder`: their state includes the
    time of change (ctime), which an ETag of the store does not.

    Args:
        store: The store.
        prefix: The prefix; empty, or with a slash at its end.
        links: As in `LocalFolder`, where the store is a folder of this machine.
        client: The client of the store. A pickle has the client in place of the store, and so its config, with the
            credentials that this contains.
    """

    def __init__(self, store: ObjectStore, prefix: str, links: str = "follow", client: StoreClient | None = None) -> None:
        self._client = client
        self.store = store
        self.prefix = prefix
        self.sorts = False
        """Whether `entries` sorts the listing, on the disk: for a store whose listings have another order."""
        folder = store.local_folder(prefix)
        self._local = None if folder is None else LocalFolder(folder, links)

    @property
    def place(self) -> str:
        """The place of the store."""
        return self.store.place

    def as_target(self) -> StoredFolder:
        """As `Folder.as_target`."""
        target = StoredFolder(self.store, self.prefix, client=self._client)
        target._local = None if self._local is None else self._local.as_target()
        return target

    def __getstate__(self) -> dict[str, Any]:
        if self._client is None:
            raise TypeError(f"{self.url} has no client, which a pickle would have in place of the store")
        return {name: value for name, value in vars(self).items() if name != "store"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._client = _shared(state["_client"])
        self.store = self._client.store

    @property
    def url(self) -> str:
        """The URL of the folder."""
        url = self.store.details(self.prefix, "list").url
        return url if url.endswith("/") else f"{url}/"

    @property
    def local(self) -> LocalFolder | None:
        """The folder of this machine, if the store is one."""
        return self._local

    def key(self, path: str) -> str:
        """The key of a path below the folder."""
        return f"{self.prefix}{path}"

    def entries(self, chosen: Chosen) -> Iterator[Entry | Problem]:
        """As `Folder.entries`. Folder markers are left out."""
        if self._local is not None:
            return self._local.entries(chosen)
        return in_key_order(self._listed(chosen)) if self.sorts else self._in_order(chosen)

    def _in_order(self, chosen: Chosen) -> Iterator[Entry]:
        """The listing of a store that lists in key order. A short one is sorted, whatever the order of the store."""
        listed, before = self._listed(chosen), None
        first = sorted(islice(listed, _SORTED), key=_path)
        for each in chain(first, listed):
            if each.path == before:  # a store that lists a key twice
                continue
            if before is not None and each.path < before:  # texts have the order of their bytes in UTF-8
                raise UnorderedError(self)
            before = each.path
            yield each

    def empty_markers(self, among: Container[str] | None = None) -> list[str]:
        """The keys of folder markers, which have no content, with nothing below them but such markers.

        Args:
            among: Only these keys; the other markers stay, and so do those above them. None for all.

        Raises:
            StorageError: If the folder cannot be listed.
        """
        markers = [key for key in self.store.list_keys(self.prefix) if key.endswith("/")]
        empty = {key for key in markers if among is None or key in among}
        for key in markers if empty else ():
            if key not in empty:
                empty.difference_update(folders_of(key))
        start = self.store.url("")
        # The second listing has the sizes. It comes after the first one: a key that got content in between is kept.
        for info in self.store.list(self.prefix) if empty else ():
            key = info.url.removeprefix(start)
            if info.size or not key.endswith("/"):
                empty.difference_update(folders_of(key))
        return sorted(empty)

    def _listed(self, chosen: Chosen) -> Iterator[Entry]:
        start = self.store.url(self.prefix)
        for info in self.store.list(self.prefix):
            path = info.url.removeprefix(start)
            if not info.size and (not path or path.endswith("/")):
                continue
            if chosen.takes(path):
                yield Entry(path, info.size, nanoseconds(info.last_modified), info.etag, info.version)


def files_of(folder: Folder) -> Iterator[Entry]:
    """All files of a folder that can be listed, in key order.

    Raises:
        StorageError: If the folder cannot be listed.
    """
    return (each for each in folder.entries(Filter()) if not isinstance(each, Problem))


def folders_of(key: str) -> Iterator[str]:
    """The keys of the markers of the folders that hold a key; a key that ends with a slash is its own marker, too."""
    return (key[: position + 1] for position, character in enumerate(key) if character == "/")


@lru_cache(maxsize=16)
def _kept(client: StoreClient) -> StoreClient:
    return client


def _shared(client: StoreClient) -> StoreClient:
    """The first of equal clients, with its connections."""
    try:
        return _kept(client)
    except TypeError:  # an option of the config cannot be hashed
        return client


class UnorderedError(Exception):
    """The store lists its objects in another order than that of their keys, as SeaweedFS does: `StoredFolder.sorts` helps.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: StoredFolder) -> None:
        super().__init__(f"{folder.url} is not listed in the order of the keys")
        self.folder = folder


def in_key_order(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Sort files by their paths in UTF-8, in a temporary file.

    Raises:
        StorageError: If that cannot be written.
    """
    import sqlite3  # not in every Python, and few stores need it

    with contextlib.closing(sqlite3.connect("")) as database:
        try:
            database.execute("CREATE TABLE entries (path BLOB PRIMARY KEY, size, modified_ns, state, version) WITHOUT ROWID")
            rows = ((each.path.encode(), each.size, each.modified_ns, each.state, each.version) for each in entries)
            database.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", rows)
            database.commit()
        except sqlite3.Error as error:
            raise scratch_error(error) from error
        for path, *facts in database.execute("SELECT * FROM entries ORDER BY path"):
            yield Entry(path.decode(), *facts)


class FileList:
    """The files of a list take part.

    Args:
        paths: Their paths below the folder.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = frozenset(paths)
        self._folders = {path[:cut] for path in self.paths for cut in range(len(path)) if path[cut] == "/"}

    def takes(self, path: str) -> bool:
        """Whether the list has a file."""
        return path in self.paths

    def takes_folder(self, path: str) -> bool:
        """Whether the list has files of a folder."""
        return not path or path in self._folders


def _leads_to_folder(each: os.DirEntry[str]) -> bool:
    try:
        return each.is_dir()
    except OSError:  # such as a link to itself
        return False


def _is_file(each: os.DirEntry[str]) -> bool:
    try:
        return each.is_file()
    except OSError:  # such as a link to itself
        return False


def _is_utf8(path: str) -> bool:
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


_SECOND = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def nanoseconds(moment: datetime | None) -> int | None:
    """A time in nanoseconds since 1970, exactly."""
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND * 1000


def moment_of(modified_ns: int | None) -> datetime | None:
    """The time that `nanoseconds` converted."""
    return None if modified_ns is None else _EPOCH + timedelta(microseconds=modified_ns // 1000)


def may_be_one_time(one: int | None, other: int | None) -> bool:
    """Whether two answers about the time of a file may be of one state: one may be in seconds only, or not known."""
    if one is None or other is None:
        return True
    return one == other or (not (one % _SECOND and other % _SECOND) and abs(one - other) < _SECOND)


def state_of(status: os.stat_result) -> str:
    """Identifies a state of a local file: whatever changes its content, even with the old time, changes this text."""
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def is_same_but_for_ctime(state: str | None, other: str | None) -> bool:
    """Whether two states of `state_of` differ in the time of change at most.

    A file gets another time of change if another of its names (a hard link) is deleted or renamed.
    """
    if state is None or other is None:
        return False
    (one, _, inode), (two, _, other_inode) = state.rsplit("-", 2), other.rsplit("-", 2)
    return (one, inode) == (two, other_inode)
