"""The hashes of local files that were published before, so that an unchanged file is not read again.

They are in the index of `gllm_storage.folders.index`, under its rules: hashes count for one state of a file (size, times and
inode), and are remembered only if the file was already older than a tick of its filesystem's clock when the read began. They
have a place of their own there: a sync derives checksums of copies from equal CRCs, which would not do for SHA-256.

SQLite does not notice a changed bit in a value, so each value contains a check of itself, of its path and of its state.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import threading
import time
from typing import TYPE_CHECKING

from gllm_storage.folders.entries import state_of
from gllm_storage.folders.index import ChecksumIndex, Known, index_file, is_settled, text_of_path
from gllm_storage.versions.stored_file import Content

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PLACE = "local hashes"
_HASHES = "sha256,crc64nvme,crc32c"
"""In place of an algorithm."""
_SECONDS = 1.0
"""Time between two writes: a publisher that is killed loses no more, and a million small files take few transactions."""


class HashIndex:
    """The hashes that are remembered. Any thread may use it; an index that cannot be used is empty.

    Args:
        index: The index.
    """

    def __init__(self, index: ChecksumIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._learned: list[Known] = []
        self._written = time.monotonic()

    def find(self, files: Mapping[str, os.stat_result]) -> dict[str, Content]:
        """The contents that are known.

        Args:
            files: The states of files, by their paths.

        Returns:
            By path. A file of which nothing certain is known is not there.
        """
        states = {_name(path): state_of(status) for path, status in files.items()}
        values = self._index.find(_PLACE, states)
        found = {}
        for path, status in files.items():
            name = _name(path)
            content = _content_of(name, status, values.get(name, {}).get(_HASHES, ""))
            if content is not None:
                found[path] = content
        return found

    def learn(self, path: str, before: os.stat_result, after: os.stat_result, began_ns: int, content: Content) -> None:
        """Remember the hashes of a file that was read, if they are certain.

        Args:
            path: The path.
            before: The state of the open file when the read began.
            after: The state when it was complete.
            began_ns: When it began, in nanoseconds since 1970.
            content: The hashes.
        """
        is_certain = state_of(before) == state_of(after) and before.st_size == content.size
        if not is_certain or not is_settled(before.st_mtime_ns, before.st_ctime_ns, began_ns):
            return
        name = _name(path)
        known = Known(name, state_of(before), f"{_HASHES}:{_value_of(name, state_of(before), content)}")
        with self._lock:
            self._learned.append(known)
            is_due = time.monotonic() - self._written > _SECONDS
        if is_due:
            self.write()

    def forget(self, path: str) -> None:
        """Forget the hashes of a file that has another content."""
        name = _name(path)
        with self._lock:
            self._learned = [each for each in self._learned if each.name != name]
        self._index.forget(_PLACE, [name])

    def write(self) -> None:
        """Write the hashes that were learned since the last time."""
        with self._lock:
            learned, self._learned = self._learned, []
            self._written = time.monotonic()
        self._index.remember(_PLACE, learned)


@contextlib.contextmanager
def hash_index() -> Iterator[HashIndex]:
    """The index of this user; new hashes are written at the end, also after an error."""
    with contextlib.closing(ChecksumIndex(index_file())) as index:
        hashes = HashIndex(index)
        try:
            yield hashes
        finally:
            hashes.write()


def _name(path: str) -> str:
    return text_of_path(os.path.abspath(path))


def _value_of(name: str, state: str, content: Content) -> str:
    hashes = f"{content.sha256} {content.crc64nvme} {content.crc32c}"
    check = hashlib.sha256(f"{name}\0{state}\0{hashes}".encode()).digest()[:12]
    return f"{hashes} {base64.b64encode(check).decode()}"


def _content_of(name: str, status: os.stat_result, value: str) -> Content | None:
    """The content that a value states; None if the value is missing or damaged."""
    hashes = value.split(" ")[:-1]
    if len(hashes) != len(_HASHES.split(",")):
        return None
    content = Content(status.st_size, *hashes)
    return content if value == _value_of(name, state_of(status), content) else None
