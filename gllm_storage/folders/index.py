"""An index of checksums in the user's cache folder, so that a second sync reads no file and sends no HEAD request.

It remembers two facts: checksums of an object by store, URL and ETag, and checksums of a local file by path, size, times and
inode. A listing and `stat` give these keys again. A checksum that is not in the index, or not certain, is computed anew;
so the index may be deleted at any time, and nothing depends on it but speed.

An object may have several checksums, each of another algorithm: after a copy from Amazon S3 to Google Cloud Storage both
objects have the checksum of the source as well, although the store of the copy computes another one.

- **Several processes** use one SQLite file. Each waits up to 10 s for the other's write; when that is over, it goes on
  without the index.
- **A damaged file**, or one with another table, is deleted and made anew.
- **A filesystem without a time of change.** On images such as squashfs, and on FAT, the ctime is the mtime, in seconds. An
  image of other files, made with the same times and mounted at the same place, has the same sizes, times and inodes. So a
  file whose two times are one, in whole seconds, is not remembered.
- **A file that changed while it was new.** The clock of a filesystem has ticks: 4 to 10 ms on Linux, 2 s on FAT. A file
  that changed twice within a tick has the same times before and after, so a checksum counts only if the file was already
  older than a tick when it was read.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Mapping

_logger = logging.getLogger("gllm_storage.folders")

_FILE = "checksums-1.sqlite"
"""The number is that of the format: another version of this library with another format uses another file."""
_WAIT_SECONDS = 10.0
_TICK_NS = 20_000_000
_COARSE_TICK_NS = 2_000_000_000
_LARGE = 2**28
"""Bytes, of about a million files; above them, old checksums are forgotten."""
_KEPT_SECONDS = 365 * 24 * 3600
_BATCH = 500
"""SQLite permits 999 variables in a statement by default before version 3.32."""
_TABLE = """
CREATE TABLE IF NOT EXISTS checksums (
    place TEXT NOT NULL, name TEXT NOT NULL, algorithm TEXT NOT NULL, state TEXT NOT NULL, value TEXT NOT NULL,
    added INTEGER NOT NULL, PRIMARY KEY (place, name, algorithm)
) WITHOUT ROWID
"""
LOCAL = "local"
"""The place of local files. Other facts about them have a place that begins with this word."""
_SECOND = 1_000_000_000


def index_file() -> str:
    """The file of the index: in ``$GLLM_STORAGE_CACHE``, or else in ``gllm_storage`` in the user's cache folder."""
    folder = os.environ.get("GLLM_STORAGE_CACHE")
    if not folder:
        caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        folder = os.path.join(caches, "gllm_storage")
    return os.path.join(folder, _FILE)


def text_of_path(path: str) -> str:
    """The text that stands for a local path in the index, which holds only UTF-8."""
    if path.isascii():
        return path
    encoded = os.fsencode(path)
    try:
        return encoded.decode()
    except UnicodeDecodeError:
        return f"bytes:{encoded.hex()}"


def is_settled(modified_ns: int, changed_ns: int, read_at_ns: int) -> bool:
    """Whether a file was older than a tick of its filesystem's clock when it was read.

    Args:
        modified_ns: Its time of modification, in nanoseconds since 1970.
        changed_ns: Its time of change (ctime).
        read_at_ns: When the read began.
    """
    tick = _COARSE_TICK_NS if not modified_ns % 1_000_000_000 else _TICK_NS
    return max(modified_ns, changed_ns) + tick < read_at_ns


def is_new(modified_ns: int, changed_ns: int, now_ns: int) -> bool:
    """Whether a file changed within the last tick of a fine clock, as `is_settled`. A time in the future does not count."""
    return 0 <= now_ns - max(modified_ns, changed_ns) <= _TICK_NS


def _shows_changes(place: str, state: str) -> bool:
    """Whether a change of a file changes its state.

    Args:
        place: As in `ChecksumIndex.find`.
        state: The state; of a local file its size, times and inode, as `entries.state_of` makes it.
    """
    if place.partition(" ")[0] != LOCAL:
        return True
    size_and_mtime, _, ctime = state.rpartition("-")[0].rpartition("-")
    return not size_and_mtime.endswith(f"-{ctime}") or int(ctime) % _SECOND != 0


@dataclass(frozen=True)
class Known:
    """A checksum of one state of a file or object.

    Attributes:
        name: Path or URL.
        state: As in `Entry.state`.
        checksum: As in `ObjectInfo.checksum`.
    """

    name: str
    state: str
    checksum: str


class Facts(Protocol):
    """Remembers checksums: a `ChecksumIndex`, or the facts that a worker has learned."""

    def find(self, place: str, states: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """As `ChecksumIndex.find`."""

    def remember(self, place: str, known: Iterable[Known]) -> None:
        """As `ChecksumIndex.remember`."""


class ChecksumIndex:
    """The index. Any thread may use it; a failure is logged once, and then the index is empty.

    Args:
        path: The file; None for an index that remembers nothing.
        pause: Seconds between two writes: a write waits for the disk two or three times. Meanwhile other processes do not
            see the new checksums, and a kill loses them. By default each call writes.
    """

    def __init__(self, path: str | None, pause: float = 0.0) -> None:
        self._path = path
        self._pause = pause
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, str, str, str, str, int]] = []
        self._written = time.monotonic()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0

    def find(self, place: str, states: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """The checksums that are known.

        Args:
            place: `LOCAL`, or `ObjectStore.place`.
            states: The states of files or objects, by path or URL.

        Returns:
            By path or URL: the values of the checksums by their algorithms. Nothing is there about another state.
        """
        names, found = [name for name, state in states.items() if _shows_changes(place, state)], dict[str, dict[str, str]]()
        self._write()

        def look(connection: sqlite3.Connection) -> None:
            for start in range(0, len(names), _BATCH):
                some = names[start : start + _BATCH]
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    f"SELECT name, algorithm, state, value FROM checksums WHERE place = ? AND name IN ({marks})",  # noqa: S608 - only marks
                    (place, *some),
                )
                for name, algorithm, state, value in rows:
                    if state == states[name]:
                        found.setdefault(name, {})[algorithm] = value

        self._use(look)
        return found

    def remember(self, place: str, known: Iterable[Known]) -> None:
        """Remember checksums; one of an older state with the same algorithm is forgotten."""
        now = int(time.time())
        rows = [
            (place, each.name, algorithm, each.state, value, now)
            for each in known
            if _shows_changes(place, each.state)
            for algorithm, _, value in [each.checksum.partition(":")]
        ]

        with self._lock:
            self._waiting += rows
            is_due = time.monotonic() - self._written >= self._pause
        if is_due:
            self._write()

    def _write(self) -> None:
        """Write the waiting checksums."""
        with self._lock:
            rows, self._waiting = self._waiting, []
            self._written = time.monotonic()

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO checksums VALUES (?, ?, ?, ?, ?, ?)", rows)

        if rows:
            self._use(write)

    def forget(self, place: str, names: Iterable[str]) -> None:
        """Forget all checksums of files or objects.

        Args:
            place: As in `find`.
            names: Their paths or URLs.
        """
        rows = [(place, name) for name in names]
        self._write()

        def delete(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("DELETE FROM checksums WHERE place = ? AND name = ?", rows)

        self._use(delete)

    def close(self) -> None:
        """Write the waiting checksums, and close the file."""
        self._write()
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                _close(self._connection)
            self._connection = None

    def _use(self, action: Callable[[sqlite3.Connection], None]) -> None:
        with self._lock:
            if self._path is None:
                return
            try:
                import sqlite3  # not in every Python
            except ImportError:
                self._path = None
                return
            try:
                try:
                    action(self._opened(self._path))
                except sqlite3.DatabaseError as error:
                    if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                        raise
                    self._delete(self._path, error)
                    action(self._opened(self._path))
            except (sqlite3.Error, OSError) as error:
                _logger.warning(
                    "the index of checksums %s cannot be used (%s); checksums are computed anew", self._path, error
                )
                self._path = None

    def _opened(self, path: str) -> sqlite3.Connection:
        if self._connection is None or self._pid != os.getpid():  # SQLite's connections do not survive a fork
            import sqlite3  # as in `_use`

            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=_WAIT_SECONDS, check_same_thread=False)
            self._pid = os.getpid()
            self._connection.execute(_TABLE)
            if os.path.getsize(path) > _LARGE:
                with self._connection:
                    self._connection.execute("DELETE FROM checksums WHERE added < ?", (int(time.time()) - _KEPT_SECONDS,))
        return self._connection

    def _delete(self, path: str, error: Exception) -> None:
        _logger.warning("the index of checksums %s is damaged (%s) and is made anew", path, error)
        if self._connection is not None:
            _close(self._connection)
            self._connection = None
        for name in (path, f"{path}-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _close(connection: sqlite3.Connection) -> None:
    import sqlite3  # not in every Python

    with contextlib.suppress(sqlite3.Error):  # such as a full disk: lost checksums are computed anew
        connection.close()


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Whether the file is damaged, or has a table with other columns; not whether it is locked, or cannot be opened."""
    return "malformed" in str(error) or getattr(error, "sqlite_errorname", "") == "SQLITE_ERROR"
