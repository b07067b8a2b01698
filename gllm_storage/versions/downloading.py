"""Downloads of the files of a version to this machine: verified, and going on after a kill, also within a large file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import threading
from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import IntegrityError, Remedy
from gllm_storage.files.partial import PartialFile
from gllm_storage.files.source import CHUNK, local_errors
from gllm_storage.store.download import resume_object
from gllm_storage.store.port import ReadItem
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.verification import difference

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from gllm_storage.store.reader import ObjectReader
    from gllm_storage.store.transfer import Transfer
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile

_AT_A_TIME = 4
"""Large files that are downloaded side by side, each by several connections."""
_MOST_FILES = 256
_MOST_BYTES = 2**32
_PAUSE_SECONDS = 0.01


def batches(files: Iterable[TreeFile]) -> Generator[list[TreeFile], None, None]:
    """The files in groups that are downloaded side by side, before the next group begins."""
    batch: list[TreeFile] = []
    size = 0
    for each in files:
        batch.append(each)
        size += each.size
        if len(batch) == _MOST_FILES or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Downloads:
    """Downloads files of one version.

    Args:
        model: The model.
        manifest: The manifest of the version.
        progress: Receives the bytes as they arrive or are found.
    """

    def __init__(self, model: Model, manifest: Manifest, progress: Progress) -> None:
        self._store = model.store
        self._folder = model.data(manifest.place)
        self._manifest = manifest
        self._progress = progress

    def fetch(self, files: Sequence[TreeFile], path_of: Callable[[TreeFile], str]) -> None:
        """Download files, and compare the SHA-256 of each. No other process may write to the paths meanwhile.

        A large file that is at its path in part goes on from there.

        Args:
            files: The files.
            path_of: The local path of a file. A file that is there is replaced.

        Raises:
            ObjectNotFoundError: If a file is missing in the store.
            IntegrityError: If a file in the store has another content.
            StorageError: If a request or the disk fails.
        """
        small = [each for each in files if not self._is_large(each)]
        if small:
            self._fetch_small(small, path_of)
        tasks = [partial(self._fetch_large, each, path_of(each)) for each in files if self._is_large(each)]
        if tasks:
            run_all(tasks, _AT_A_TIME, Stop(running_stop()))

    def _is_large(self, file: TreeFile) -> bool:
        # A foreign filesystem downloads a complete file by itself, and may have no ranges.
        return file.size > self._store.settings.part_size and not self._store.names_targets

    def _fetch_small(self, files: Sequence[TreeFile], path_of: Callable[[TreeFile], str]) -> None:
        stop = Stop(running_stop())
        items = [ReadItem(self._folder + each.path, self._watch, path_of(each)) for each in files]
        self._store.read_many(items, stop)
        found = run_all([partial(difference, path_of(each), each) for each in files], os.cpu_count() or 1, stop)
        for file, kind in zip(files, found, strict=True):
            if kind is not None:
                os.unlink(path_of(file))
                raise self._damaged(file)

    @contextlib.contextmanager
    def _watch(self) -> Iterator[Progress]:
        yield Progress(self._progress)

    def _fetch_large(self, file: TreeFile, path: str) -> None:
        stop = Stop(running_stop())
        progress = Progress(self._progress)
        progress.expect(file.size)
        key = self._folder + file.path
        reader, transfer = self._store.open_reader(key), self._store.transfer(key, "download", progress, stop)
        with local_errors("write", path, transfer.details):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _unlink_unless_own(path)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            target = PartialFile(
                fd, path, transfer.details, size=file.size, sha256=file.sha256, step=transfer.settings.part_size
            )
            while True:
                earlier = target.received
                progress(earlier)
                if self._sha256_of_arriving(reader, target, transfer) == file.sha256:
                    target.finish(durable=transfer.settings.fsync)
                    return
                target.clear()
                if not earlier:  # otherwise the bytes of an earlier process may be wrong: a power cut, or a damaged object
                    os.unlink(path)
                    raise self._damaged(file)
        finally:
            os.close(fd)

    def _sha256_of_arriving(self, reader: ObjectReader, target: PartialFile, transfer: Transfer) -> str:
        """Download the missing bytes. Their SHA-256 is computed meanwhile, behind the ranges."""
        ended = threading.Event()

        def download() -> str:
            resume_object(reader, target, transfer)
            ended.set()
            return ""

        _, found = run_all([download, lambda: _sha256_behind(target, ended)], 2, transfer.stop)
        return found

    def _damaged(self, file: TreeFile) -> IntegrityError:
        details = self._store.details(self._folder + file.path, "fetch")
        return IntegrityError(
            f"{details.url} does not have the SHA-256 that the manifest of version {self._manifest.version!r} names",
            details,
            Remedy.DELETE_VERSION,
        )


def _unlink_unless_own(path: str) -> None:
    """Unlink a file that has another name too, as in a cache, or that this process may not write.

    A fetch with a cache makes such files. A download that wrote to one would write to the file of the cache.

    Raises:
        OSError: If the folder cannot be written.
    """
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or not os.access(path, os.W_OK):
            os.unlink(path)


def _sha256_behind(target: PartialFile, ended: threading.Event) -> str:
    """SHA-256 of a file that is being downloaded, hexadecimal."""
    digest, position, times = hashlib.sha256(), 0, target.times_cleared
    while True:
        check_stop()
        had_ended = ended.is_set()
        until = target.arrived_until(position)
        data = target.read_at(position, max(0, min(CHUNK, until - position)))
        if target.times_cleared != times:
            digest, position, times = hashlib.sha256(), 0, target.times_cleared
        elif data:
            digest.update(data)
            position += len(data)
        elif had_ended:
            return digest.hexdigest()
        else:
            ended.wait(_PAUSE_SECONDS)
