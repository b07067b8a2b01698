"""The tree of a local directory: its files are hashed first, since the digest names the place where they will be stored.

The tree list is written to a temporary file, and to a second one the state of each file when it was hashed (size, times,
inode, CRC32C), so that the upload can tell a file that changed since. Both are read as streams. They have no names, so they
are gone with the process, however it ends. A file whose hashes are in the index is not read (`HashIndex`).

A write through `mmap` to a page that is dirty already changes neither the times nor the size. So the bytes that an upload
reads are compared with the hash as well (`HashedSource`), and so is the checksum of the store.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import os
import stat
import struct
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import Remedy
from gllm_storage.files.source import CHUNK, SourceChangedError, local_errors, not_a_file, open_source
from gllm_storage.files.target import scratch_target
from gllm_storage.store.checksums import combine_crc64nvme, crc64nvme, encode, update
from gllm_storage.versions.hash_index import HashIndex, hash_index
from gllm_storage.versions.layout import require_path
from gllm_storage.versions.stored_file import Content
from gllm_storage.versions.tree import TreeDigest, TreeFile, read_tree, tree_header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import LocalSource

_STATE = struct.Struct("<5q")
_CRC32C = struct.Struct("<I")
_AT_A_TIME = 256
"""Files that are hashed side by side before the next ones begin."""


class HashedSource:
    """The content of a hashed file, which compares the bytes that are read with the hash.

    The CRC of each range that is read is combined with those of the ranges beside it. So an upload that reads all bytes
    once, in any order and by any thread, fails before it publishes them. If it reads some of them again, after a failed
    request, the CRC of the sent content may remain unknown: `is_complete` is False then.

    Args:
        source: The file.
        content: The content that was hashed.
    """

    def __init__(self, source: LocalSource, content: Content) -> None:
        self._source = source
        self._expected = content.crc64nvme
        self._lock = threading.Lock()
        self._by_start: dict[int, tuple[int, int]] = {}
        self._by_end: dict[int, tuple[int, int]] = {}
        self._count = 0
        self.path = source.path
        self.is_complete = False
        """Whether the CRC of all bytes was compared, each of which was read once."""
        if not source.size:
            self._compare(0)

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._source.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Read exactly `length` bytes.

        Raises:
            SourceChangedError: If these are the last bytes that were missing, and the content is not the hashed one.
            StorageError: If the file ends before, or cannot be read.
        """
        data = self._source.read_at(offset, length)
        self._add(offset, crc64nvme(data), length)
        return data

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer; as `read_at`."""
        self._source.read_into(offset, view)
        self._add(offset, crc64nvme(view), len(view))

    def require_unchanged(self) -> None:
        """Check that size and modification time are those of the opened file.

        Raises:
            SourceChangedError: If one of them differs.
        """
        self._source.require_unchanged()

    def changed(self) -> SourceChangedError:
        """The error for content that changed while it was read."""
        return self._source.changed()

    def _add(self, start: int, crc: int, length: int) -> None:
        if not length:
            return
        end = start + length
        with self._lock:
            self.is_complete = False
            self._count += length
            if start in self._by_end:
                before, crc_before = self._by_end.pop(start)
                self._by_start.pop(before, None)
                start, crc = before, combine_crc64nvme(crc_before, crc, end - start)
            if end in self._by_start:
                behind, crc_behind = self._by_start.pop(end)
                self._by_end.pop(behind, None)
                end, crc = behind, combine_crc64nvme(crc, crc_behind, behind - end)
            self._by_start[start], self._by_end[end] = (end, crc), (start, crc)
            if (start, end) == (0, self.size):
                self._compare(crc)

    def _compare(self, crc: int) -> None:
        if encode(crc) != self._expected:
            raise self.changed()
        self.is_complete = self._count == self.size  # not if bytes were read twice: the first or the second ones were sent
        self._by_start.clear()
        self._by_end.clear()
        self._count = 0


@dataclass(frozen=True)
class LocalFile:
    """A file of the directory.

    Attributes:
        entry: The line of the tree list.
        path: The local path.
        state: The state of the file when it was hashed.
        content: The content when it was hashed.
        hashes: Forgets the hashes of the file if they are not of its content.
    """

    entry: TreeFile
    path: str
    state: bytes
    content: Content
    hashes: HashIndex = field(repr=False, compare=False)

    @contextlib.contextmanager
    def opened(self, details: ErrorDetails) -> Iterator[HashedSource]:
        """The content, if the file did not change since it was hashed, and does not until the end of the block.

        Raises:
            SourceChangedError: If the file changed.
            StorageError: If the file cannot be read, or was removed.
        """
        try:
            with contextlib.ExitStack() as stack:
                with local_errors("read", self.path, details):
                    source = stack.enter_context(open_source(self.path, details))
                self._require_state(source, details)
                yield HashedSource(source, self.content)
                source.require_unchanged()
                self._require_state(source, details)
        except SourceChangedError:
            self.hashes.forget(self.path)
            raise

    def _require_state(self, source: LocalSource, details: ErrorDetails) -> None:
        with local_errors("read", self.path, details):
            found = _state_of(os.stat(self.path))
        if found != self.state:
            raise source.changed()

    def changed(self, details: ErrorDetails) -> SourceChangedError:
        """The error for a file that was stored with other bytes than it had when it was hashed."""
        self.hashes.forget(self.path)
        return SourceChangedError(
            f"{details.operation} of {details.url}: local file {self.path!r} changed after it was hashed, so nothing was "
            "published",
            details,
            Remedy.FINISH_WRITING,
        )


@dataclass(frozen=True)
class LocalTree:
    """The tree of a local directory.

    Attributes:
        folder: The directory.
        digest: The digest of the tree.
        files: Number of files.
        size: Size of all files in bytes.
        list_path: The temporary file with the tree list.
        list_size: Its size in bytes.
        list_sha256: Its SHA-256, hexadecimal.
        states_path: The temporary file with the states of the files.
        hashes: The index of the hashes.
    """

    folder: str
    digest: str
    files: int
    size: int
    list_path: str
    list_size: int
    list_sha256: str
    states_path: str
    hashes: HashIndex

    def batches(self, count: int, details: ErrorDetails) -> Iterator[list[LocalFile]]:
        """The files, so many at a time.

        Args:
            count: The most files of a batch.
            details: The operation, for errors.
        """
        with open(self.list_path, "rb") as lines, open(self.states_path, "rb") as states:
            entries = read_tree(lines, details)
            while batch := [self._file(each, states) for each in itertools.islice(entries, count)]:
                yield batch

    def _file(self, entry: TreeFile, states: BinaryIO) -> LocalFile:
        state, (crc32c,) = states.read(_STATE.size), _CRC32C.unpack(states.read(_CRC32C.size))
        content = Content(entry.size, entry.sha256, entry.crc64nvme, encode(crc32c, "crc32c"))
        return LocalFile(entry, _local_path(self.folder, entry.path), state, content, self.hashes)


@contextlib.contextmanager
def hashed_tree(folder: str, details: ErrorDetails, require: Callable[[str], str] = str) -> Iterator[LocalTree]:
    """Hash all files of a directory, on all cores; those that the index knows are not read.

    Symbolic links to files are followed. Empty folders are not part of a version.

    Args:
        folder: The directory.
        details: The operation, for errors.
        require: Checks a path before the file is read, and raises a `ValueError`, or returns the path.

    Raises:
        FileNotFoundError: If the directory does not exist.
        NotADirectoryError: If the path names a file.
        ValueError: If the directory has no file, or the name of a file cannot be part of a key.
        SourceChangedError: If a file changes while it is read.
        StorageError: If a file cannot be read, or is a symbolic link to a folder or a special file.
    """
    if not os.path.exists(folder):
        raise FileNotFoundError(errno.ENOENT, "No such directory to publish", folder)
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, "Only a directory can be published", folder)
    with scratch_target(details) as lines, scratch_target(details) as states, hash_index() as hashes:
        paths = map(require, _paths_in(folder, "", details))
        tree = _hash_into((lines.temporary, states.temporary), folder, paths, hashes, details)
        hashes.write()
        if not tree.files:
            raise ValueError(f"directory {folder!r} has no file: there is nothing to publish")
        yield tree


def _hash_into(
    scratch: tuple[str, str], folder: str, paths: Iterator[str], hashes: HashIndex, details: ErrorDetails
) -> LocalTree:
    digest, list_hash = TreeDigest(), hashlib.sha256()
    list_path, states_path = scratch
    with open(list_path, "wb") as lines, open(states_path, "wb") as states:

        def write(line: bytes) -> None:
            lines.write(line)
            list_hash.update(line)

        write(tree_header())
        while batch := list(itertools.islice(paths, _AT_A_TIME)):
            for path, (content, state) in zip(batch, _contents(folder, batch, hashes, details), strict=True):
                entry = TreeFile(path, content.size, content.sha256, content.crc64nvme)
                digest.add(entry)
                write(entry.line())
                states.write(state + _CRC32C.pack(int.from_bytes(base64.b64decode(content.crc32c))))
        size = lines.tell()
    found = list_hash.hexdigest()
    return LocalTree(folder, digest.value(), digest.files, digest.size, list_path, size, found, states_path, hashes)


def _contents(
    folder: str, paths: Sequence[str], hashes: HashIndex, details: ErrorDetails
) -> Iterator[tuple[Content, bytes]]:
    """The contents and the states of files."""
    files = {each: _local_path(folder, each) for each in paths}
    statuses = {}
    for local in files.values():
        with contextlib.suppress(OSError):  # `_hash_file` says so
            statuses[local] = os.stat(local)
    known = hashes.find(statuses)
    tasks = [partial(_hash_file, local, hashes, details) for local in files.values() if local not in known]
    hashed = iter(run_all(tasks, os.cpu_count() or 1, Stop(running_stop())) if tasks else [])
    for local in files.values():
        yield (known[local], _state_of(statuses[local])) if local in known else next(hashed)


def _hash_file(local: str, hashes: HashIndex, details: ErrorDetails) -> tuple[Content, bytes]:
    sha256, crc, crc32c = hashlib.sha256(), 0, 0
    began = time.time_ns()
    # A file that was removed since the listing is not the missing directory that `FileNotFoundError` stands for.
    with local_errors("read", local, details), open_source(local, details) as source:
        state, before = _state_of(os.stat(local)), source.status()
        for offset in range(0, source.size, CHUNK):
            check_stop()
            data = source.read_at(offset, min(CHUNK, source.size - offset))
            sha256.update(data)
            crc = update(data, crc, "crc64nvme")
            crc32c = update(data, crc32c, "crc32c")
        source.require_unchanged()
        content = Content(source.size, sha256.hexdigest(), encode(crc), encode(crc32c, "crc32c"))
        hashes.learn(local, before, source.status(), began, content)
        return content, state


def _local_path(folder: str, path: str) -> str:
    return os.path.join(folder, *path.split("/"))


def _paths_in(folder: str, path: str, details: ErrorDetails) -> Iterator[str]:
    """The relative paths of all files, in the order of their UTF-8 bytes. Holds the names of one folder of each depth."""
    local = os.path.join(folder, path)
    with local_errors("read", local, details), os.scandir(local) as entries:
        found = list(entries)
    for name in sorted(_sorted_by(each, details) for each in found):
        text = path + name.decode()
        if text.endswith("/"):
            yield from _paths_in(folder, text, details)
        else:
            yield _publishable(folder, text)


def _publishable(folder: str, path: str) -> str:
    """The path, if a file of a version can have it.

    Raises:
        ValueError: If not.
    """
    try:
        return require_path(path)
    except ValueError as error:
        local = _local_path(folder, path)
        raise ValueError(f"local file {local!r} cannot be published: {error}. Rename it, or leave it out") from error


def _sorted_by(entry: os.DirEntry[str], details: ErrorDetails) -> bytes:
    """The name of an entry; that of a folder ends with a slash, as in the paths of its files."""
    try:
        name = entry.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"local file {entry.path!r} cannot be published: its name is not UTF-8. Rename it, or leave it out"
        ) from error
    with local_errors("read", entry.path, details):  # such as a link that leads nowhere, or to itself
        is_folder = entry.is_dir()
        is_file = not is_folder and stat.S_ISREG(entry.stat().st_mode)
    if is_folder and entry.is_symlink():
        raise not_a_file(entry.path, "a symbolic link to a directory", details)
    if not (is_folder or is_file):
        raise not_a_file(entry.path, "not a regular file", details)
    return name + b"/" * is_folder


def _state_of(status: os.stat_result) -> bytes:
    return _STATE.pack(
        status.st_size, status.st_mtime_ns, status.st_ctime_ns, _signed(status.st_ino), _signed(status.st_dev)
    )


def _signed(number: int) -> int:
    return number & (2**63 - 1)
