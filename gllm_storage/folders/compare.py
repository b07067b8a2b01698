"""Whether two files are equal: by size and checksum, never by the clock.

Two files of one size are equal if a checksum of one algorithm is known of both and is the same. Known checksums come from
the index; others, from a HEAD request for an object, and from the content of a local file. If the two ends have no
algorithm in common even then, as an object of a store without checksums, the file counts as different.
"""

from __future__ import annotations

import base64
import os
import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import AccessDeniedError, ErrorDetails, ObjectNotFoundError, StorageError
from gllm_storage.files.source import open_source
from gllm_storage.folders.entries import StoredFolder, state_of
from gllm_storage.folders.index import LOCAL, Known, is_settled, text_of_path
from gllm_storage.store.checksums import CHECKSUM, checksum_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.folders.entries import Entry, Folder
    from gllm_storage.folders.index import Facts

ALGORITHM = "crc64nvme"
"""The algorithm of checksums that are computed without a need for another one: 18 GiB/s on one core."""
COPY = "copy"
"""In place of an algorithm: the value is common to an object without a checksum and to its copies."""
_REQUESTS = 32
"""HEAD requests at a time."""
_MD5 = re.compile(r"[0-9a-f]{32}")
"""The ETag of an object that went to S3 in one request. One that only looks so differs from every MD5."""

Values = dict[str, str]
"""Checksums of one file: values by algorithms."""


class Checksums:
    """The checksums of the files of one folder.

    Args:
        folder: The folder.
        index: Remembers checksums.
        stop: Cancels the requests.
    """

    def __init__(self, folder: Folder, index: Facts, stop: Stop) -> None:
        self.local = folder.local
        self._store = folder if isinstance(folder, StoredFolder) else None
        self._index = index
        self._stop = stop
        self._place = LOCAL if self.local is not None else folder.place

    def known(self, entries: Sequence[Entry]) -> list[Values]:
        """The checksums in the index, for each file."""
        names = [self._name(each.path) for each in entries]
        states = {name: each.state for name, each in zip(names, entries, strict=True) if each.state is not None}
        found = self._index.find(self._place, states)
        return [found.get(name, {}) for name in names]

    def remember(self, found: Iterable[tuple[Entry, str]]) -> None:
        """Put checksums into the index."""
        known = [Known(self._name(each.path), each.state, checksum) for each, checksum in found if each.state is not None]
        self._index.remember(self._place, known)

    def ask(self, entries: Sequence[Entry], *, compares_locally: bool = False) -> list[Values]:
        """Send HEAD requests for objects, many at a time, and remember the answers.

        Args:
            entries: The objects.
            compares_locally: Whether they are compared with files of this machine, which have all algorithms.
        """
        tasks = [partial(self._head, each, compares_locally=compares_locally) for each in entries]
        found = run_all(tasks, _REQUESTS, self._stop) if entries else []
        answers = zip(entries, found, strict=True)
        self.remember((each, f"{name}:{value}") for each, values in answers for name, value in values.items())
        return found

    def compute(self, entries: Sequence[Entry], algorithms: Sequence[str]) -> list[Values]:
        """Read local files, some at a time, and remember their checksums.

        Args:
            entries: The files.
            algorithms: One for each file.

        Returns:
            Nothing for a file that is in another state now.
        """
        found = self._read_all(entries, algorithms)
        return [{} if read is None else {name: read.value} for name, read in zip(algorithms, found, strict=True)]

    def learn(self, entries: Sequence[Entry], algorithms: Sequence[str]) -> list[str | None]:
        """As `compute`, for checksums that count later, too.

        Returns:
            The checksums, with their algorithms; None also for a file that may change again in its state.
        """
        found = zip(algorithms, self._read_all(entries, algorithms), strict=True)
        return [f"{name}:{read.value}" if read is not None and read.lasting else None for name, read in found]

    def _read_all(self, entries: Sequence[Entry], algorithms: Sequence[str]) -> list[_Read | None]:
        tasks = [partial(self._read, *each) for each in zip(entries, algorithms, strict=True)]
        found = run_all(tasks, os.cpu_count() or 1, self._stop) if tasks else []
        answers = zip(entries, algorithms, found, strict=True)
        self.remember((each, f"{name}:{read.value}") for each, name, read in answers if read is not None and read.lasting)
        return found

    def _name(self, path: str) -> str:
        if self.local is not None:
            return text_of_path(self.local.local_path(path))
        return "" if self._store is None else self._store.store.shown_url(self._store.key(path))

    def _head(self, entry: Entry, *, compares_locally: bool) -> Values:
        folder = self._store
        if folder is None:
            return {}
        try:
            info = folder.store.info(folder.key(entry.path), "check")
        except (ObjectNotFoundError, AccessDeniedError):
            return {}
        if (info.size, info.etag) != (entry.size, entry.state):
            return {}
        md5 = _md5_of(info.etag)
        # A checksum in the metadata may be of another content: a client that replaces an object can carry them along.
        prefers_md5 = compares_locally and CHECKSUM in (info.metadata or {}) and info.kms_key is None
        if info.checksum is not None and not (prefers_md5 and md5):
            name, _, value = info.checksum.partition(":")
            return {name: value}
        return {} if md5 is None else {"md5": md5}

    def _read(self, entry: Entry, algorithm: str) -> _Read | None:
        if self.local is None:
            return None
        path, began = self.local.local_path(entry.path), time.time_ns()
        try:
            with open_source(path, ErrorDetails("file", path, "check")) as source:
                status = source.status()
                if state_of(status) != entry.state or source.size != entry.size:
                    return None
                value = checksum_of(source.read_at, source.size, algorithm)
                if state_of(source.status()) != entry.state:
                    return None
        except (FileNotFoundError, StorageError):
            return None
        return _Read(value, is_settled(status.st_mtime_ns, status.st_ctime_ns, began))


@dataclass(frozen=True)
class _Read:
    """A checksum of a local file, and whether it lasts as long as the state of the file."""

    value: str
    lasting: bool


def may_be_md5(etag: str) -> bool:
    """Whether an ETag may be the MD5 of the content, so that a local file can be compared with it."""
    return _MD5.fullmatch(etag) is not None


def _md5_of(etag: str | None) -> str | None:
    return base64.b64encode(bytes.fromhex(etag)).decode() if etag is not None and may_be_md5(etag) else None


def differences(source: Checksums, target: Checksums, pairs: Sequence[tuple[Entry, Entry]]) -> list[str | None]:
    """Why the files of pairs differ.

    Args:
        source: The checksums of the source.
        target: The checksums of the target.
        pairs: Files of the source and of the target with one path each.

    Returns:
        For each pair ``"size"``, ``"checksum"`` or ``"unknown"``; None if both files are equal.
    """
    found: list[str | None] = ["size" if one.size != other.size else None for one, other in pairs]
    open_pairs = [number for number, (one, other) in enumerate(pairs) if one.size == other.size and one.size]
    comparison = _Comparison(source, target, [pairs[number] for number in open_pairs])
    for number, reason in zip(open_pairs, comparison.reasons(), strict=True):
        found[number] = reason
    return found


class _Comparison:
    """Compares pairs of files of one size."""

    def __init__(self, source: Checksums, target: Checksums, pairs: Sequence[tuple[Entry, Entry]]) -> None:
        self._sides = source, target
        self._entries = [one for one, _ in pairs], [other for _, other in pairs]
        self._values = source.known(self._entries[0]), target.known(self._entries[1])

    def reasons(self) -> list[str | None]:
        """As `differences`."""
        for side in (0, 1):  # objects first: a local file is read for the algorithm that the object has
            if self._sides[side].local is None:
                self._ask(side)
        for side in (0, 1):
            if self._sides[side].local is not None:
                self._compute(side)
        return [_reason(one, other) for one, other in zip(*self._values, strict=True)]

    def _ask(self, side: int) -> None:
        # Any checksum of the object serves a local file, which has all algorithms.
        other_is_local = self._sides[1 - side].local is not None
        known = [values.keys() - {COPY} for values in self._values[side]]
        wanted = [number for number in self._undecided() if not (other_is_local and known[number])]
        entries = [self._entries[side][number] for number in wanted]
        answers = self._sides[side].ask(entries, compares_locally=other_is_local)
        for number, values in zip(wanted, answers, strict=True):
            self._values[side][number] = {**values, **self._values[side][number]}

    def _compute(self, side: int) -> None:
        other_is_local = self._sides[1 - side].local is not None
        computable = [[name for name in values if name != COPY] for values in self._values[1 - side]]
        wanted = [number for number in self._undecided() if other_is_local or computable[number]]
        algorithms = [next(iter(computable[number]), ALGORITHM) for number in wanted]
        answers = self._sides[side].compute([self._entries[side][number] for number in wanted], algorithms)
        for number, values in zip(wanted, answers, strict=True):
            self._values[side][number] = {**self._values[side][number], **values}

    def _undecided(self) -> list[int]:
        pairs = zip(*self._values, strict=True)
        return [number for number, (one, other) in enumerate(pairs) if not one.keys() & other.keys()]


def _reason(one: Values, other: Values) -> str | None:
    common = one.keys() & other.keys()
    if not common:
        return "unknown"
    return None if all(one[name] == other[name] for name in common) else "checksum"
