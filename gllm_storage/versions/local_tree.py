"""The tree of a local directory: its files are hashed first, since the digest names the place where they will be stored.

The tree list is written to a temporary file, and beside it the state of each file when it was hashed (size, times, inode),
so that the upload can tell a file that changed since. Both are read as streams.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import stat
import struct
import tempfile
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.files.source import CHUNK, local_errors, not_a_file, open_source
from gllm_storage.store.checksums import encode, update
from gllm_storage.versions.layout import require_path
from gllm_storage.versions.tree import TreeDigest, TreeFile, read_tree, tree_header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import LocalSource

_STATE = struct.Struct("<5q")
_AT_A_TIME = 256
"""Files that are hashed side by side before the next ones begin."""


@dataclass(frozen=True)
class LocalFile:
    """A file of the directory.

    Attributes:
        entry: The line of the tree list.
        path: The local path.
        state: The state of the file when it was hashed.
    """

    entry: TreeFile
    path: str
    state: bytes

    @contextlib.contextmanager
    def opened(self, details: ErrorDetails) -> Iterator[LocalSource]:
        """The content, if the file did not change since it was hashed, and does not until the end of the block.

        Raises:
            FileNotFoundError: If the file was removed.
            SourceChangedError: If the file changed.
            StorageError: If the file cannot be read.
        """
        with open_source(self.path, details) as source:
            if _state_of(os.stat(self.path)) != self.state:
                raise source.changed()
            yield source
            source.require_unchanged()
            if _state_of(os.stat(self.path)) != self.state:
                raise source.changed()


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
    """

    folder: str
    digest: str
    files: int
    size: int
    list_path: str
    list_size: int
    list_sha256: str

    def batches(self, count: int, details: ErrorDetails) -> Iterator[list[LocalFile]]:
        """The files, so many at a time.

        Args:
            count: The most files of a batch.
            details: The operation, for errors.
        """
        with open(self.list_path, "rb") as lines, open(_states_path(self.list_path), "rb") as states:
            entries = read_tree(lines, details)
            while batch := [self._file(each, states.read(_STATE.size)) for each in itertools.islice(entries, count)]:
                yield batch

    def _file(self, entry: TreeFile, state: bytes) -> LocalFile:
        return LocalFile(entry, os.path.join(self.folder, *entry.path.split("/")), state)


@contextlib.contextmanager
def hashed_tree(folder: str, details: ErrorDetails) -> Iterator[LocalTree]:
    """Hash all files of a directory, on all cores.

    Symbolic links to files are followed. Empty folders are not part of a version.

    Args:
        folder: The directory.
        details: The operation, for errors.

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
    with tempfile.TemporaryDirectory(prefix="gllm-storage-") as scratch:
        tree = _hash_into(os.path.join(scratch, "tree.jsonl"), folder, details)
        if not tree.files:
            raise ValueError(f"directory {folder!r} has no file: there is nothing to publish")
        yield tree


def _hash_into(list_path: str, folder: str, details: ErrorDetails) -> LocalTree:
    digest, list_hash = TreeDigest(), hashlib.sha256()
    paths = _paths_in(folder, "", details)
    with open(list_path, "wb") as lines, open(_states_path(list_path), "wb") as states:

        def write(line: bytes) -> None:
            lines.write(line)
            list_hash.update(line)

        write(tree_header())
        while batch := list(itertools.islice(paths, _AT_A_TIME)):
            tasks = [partial(_hash_file, folder, each, details) for each in batch]
            for entry, state in run_all(tasks, os.cpu_count() or 1, Stop(running_stop())):
                digest.add(entry)
                write(entry.line())
                states.write(state)
        size = lines.tell()
    return LocalTree(folder, digest.value(), digest.files, digest.size, list_path, size, list_hash.hexdigest())


def _hash_file(folder: str, path: str, details: ErrorDetails) -> tuple[TreeFile, bytes]:
    sha256, crc = hashlib.sha256(), 0
    local = os.path.join(folder, *path.split("/"))
    with open_source(local, details) as source:
        state = _state_of(os.stat(local))
        for offset in range(0, source.size, CHUNK):
            check_stop()
            data = source.read_at(offset, min(CHUNK, source.size - offset))
            sha256.update(data)
            crc = update(data, crc, "crc64nvme")
        source.require_unchanged()
        return TreeFile(path, source.size, sha256.hexdigest(), encode(crc)), state


def _paths_in(folder: str, path: str, details: ErrorDetails) -> Iterator[str]:
    """The relative paths of all files, in the order of their UTF-8 bytes. Holds the names of one folder of each depth."""
    local = os.path.join(folder, path)
    with local_errors("read", local, details), os.scandir(local) as entries:
        found = list(entries)
    for name in sorted(_sorted_by(each, path, details) for each in found):
        text = path + name.decode()
        if text.endswith("/"):
            yield from _paths_in(folder, text, details)
        else:
            yield require_path(text)


def _sorted_by(entry: os.DirEntry[str], path: str, details: ErrorDetails) -> bytes:
    """The name of an entry; that of a folder ends with a slash, as in the paths of its files."""
    try:
        name = entry.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the name of {path + entry.name!r} is not UTF-8") from error
    if entry.is_dir():
        if entry.is_symlink():
            raise not_a_file(entry.path, "a symbolic link to a directory", details)
        return name + b"/"
    if not stat.S_ISREG(entry.stat().st_mode):
        raise not_a_file(entry.path, "not a regular file", details)
    return name


def _state_of(status: os.stat_result) -> bytes:
    return _STATE.pack(
        status.st_size, status.st_mtime_ns, status.st_ctime_ns, _signed(status.st_ino), _signed(status.st_dev)
    )


def _signed(number: int) -> int:
    return number & (2**63 - 1)


def _states_path(list_path: str) -> str:
    return f"{list_path}.states"
