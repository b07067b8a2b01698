"""`fetch`: a version on this machine, complete and verified, in one step.

The files go to a directory beside the destination, with the digest in its name. So a fetch that is run again goes on with
the files that are there, and after a verification of each one the directory gets its name by one rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import os
from itertools import islice
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.errors import (
    IntegrityError,
    ObjectNotFoundError,
    Remedy,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from gllm_storage.files.names import FoldedClashes, fold_of_disk
from gllm_storage.files.source import local_errors
from gllm_storage.store.port import ReadItem
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.catalog import Version, resolved, version_of
from gllm_storage.versions.layout import hex_of, model_of
from gllm_storage.versions.stored_tree import stored_tree
from gllm_storage.versions.verification import is_local, local_paths, not_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fsspec.callbacks import Callback

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.stored_tree import StoredTree
    from gllm_storage.versions.tree import TreeFile

_OPERATION = "fetch"
_BATCH = 256
"""Files that are downloaded side by side before the next ones begin."""
_ATTEMPTS = 3
"""How often a fetch begins again because its version was moved to another directory."""


def fetch(
    client: CloudStorageClient,
    model: str,
    name: str,
    local_dir: str | os.PathLike[str],
    *,
    include: str | Sequence[str] | None = None,
    callback: Callback | None = None,
) -> Version:
    """Download a version. The directory appears complete and verified, or not at all.

    After an interruption, a second call goes on with the files that are complete.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest.
        local_dir: The directory to make; its parent is created.
        include: Patterns of the paths to download, such as ``"*.safetensors"``; ``*`` also matches ``/``. None downloads
            all files.
        callback: Receives the number of bytes of all files, and the bytes as they arrive or are found.

    Returns:
        The version.

    Raises:
        ValueError: If the path or the name is not valid, or no file matches `include`.
        FileExistsError: If the directory exists.
        FileNotFoundError: If the version does not exist, or was deleted, also while it was fetched
            (`ObjectNotFoundError`).
        RuntimeError: If a file or the manifest is damaged (`IntegrityError`) or of a later format, or two names are one on
            the disk, as those that differ only in case may be (`UnsupportedOperationError`); if another process fetches to
            the same directory (`StorageUnavailableError`); or if a request or the disk fails (`StorageError`). The directory
            does not exist then.

    Example:
        >>> fetch(client, "models/llama-ft", "latest", "./local").name
        'v3'
    """
    place = model_of(client, model)
    target = os.path.abspath(os.fspath(local_dir))
    _require_absent(target)
    patterns = [include] if isinstance(include, str) else include
    manifest = resolved(place, name, _OPERATION)
    for attempt in range(_ATTEMPTS):
        try:
            _Fetch(place, manifest, target, patterns, Progress(callback)).run()
        except ObjectNotFoundError as error:
            manifest = _manifest_after(place, name, manifest, error, is_last=attempt + 1 == _ATTEMPTS)
        else:
            break
    return version_of(place, manifest)


class _Fetch:
    """One fetch of one version from one directory of the store."""

    def __init__(
        self, model: Model, manifest: Manifest, target: str, patterns: Sequence[str] | None, progress: Progress
    ) -> None:
        self._model = model
        self._manifest = manifest
        self._target = target
        self._patterns = patterns
        self._progress = progress
        self._details = model.store.details(model.data(manifest.place), _OPERATION)
        folder, base = os.path.split(target)
        self._temporary = os.path.join(folder, f".{base}.{hex_of(manifest.digest)[:16]}.gllm-fetch")

    def run(self) -> None:
        with stored_tree(self._model, self._manifest, _OPERATION) as tree:
            files, size = self._counted(tree)
            if not files:
                raise ValueError(f"{self._details.url} has no file that matches {self._patterns!r}")
            self._progress.expect(size)
            with self._locked():
                self._require_names(tree)
                self._remove_others(tree)
                chosen = self._chosen(tree)
                while batch := list(islice(chosen, _BATCH)):
                    self._download(batch)
                self._put_into_place()

    def _chosen(self, tree: StoredTree) -> Iterator[TreeFile]:
        return (each for each in tree if self._is_chosen(each))

    def _counted(self, tree: StoredTree) -> tuple[int, int]:
        files = size = 0
        for each in self._chosen(tree):
            files, size = files + 1, size + each.size
        return files, size

    def _require_names(self, tree: StoredTree) -> None:
        """Check that the disk can hold all names.

        Raises:
            UnsupportedOperationError: If two of them are one there, as those that differ only in case may be.
        """
        fold = fold_of_disk(self._temporary)
        if fold is None:
            return
        with contextlib.closing(FoldedClashes(fold)) as clashes:
            for each in self._chosen(tree):
                other = clashes.find(each.path, ours=True)
                if other is not None:
                    raise UnsupportedOperationError(
                        f"{self._details.url} cannot be fetched to {self._target!r}: {other!r} and {each.path!r} are one "
                        "file or folder on that disk",
                        self._details,
                        Remedy.CASE_SENSITIVE_DISK,
                    )

    def _is_chosen(self, file: TreeFile) -> bool:
        return self._patterns is None or any(fnmatch.fnmatchcase(file.path, each) for each in self._patterns)

    def _download(self, batch: Sequence[TreeFile]) -> None:
        """Download the files that are not there with their content.

        Raises:
            IntegrityError: If a file in the store has another content.
            StorageError: If a request or the disk fails.
        """
        missing = [each for each in batch if is_local(self._temporary, each) is not None]
        self._progress(sum(each.size for each in batch) - sum(each.size for each in missing))
        if not missing:
            return
        folder = self._model.data(self._manifest.place)
        items = [ReadItem(folder + each.path, self._watch, self._path(each.path)) for each in missing]
        self._model.store.read_many(items, Stop(running_stop()))
        for each in missing:
            if is_local(self._temporary, each) is not None:
                os.unlink(self._path(each.path))
                details = self._model.store.details(folder + each.path, _OPERATION)
                raise IntegrityError(
                    f"{details.url} does not have the SHA-256 that the manifest of version {self._manifest.version!r} names",
                    details,
                )

    @contextlib.contextmanager
    def _watch(self) -> Iterator[Progress]:
        yield Progress(self._progress)

    def _path(self, path: str) -> str:
        return os.path.join(self._temporary, *path.split("/"))

    def _remove_others(self, tree: StoredTree) -> None:
        """Remove the files of an earlier fetch, of other files or killed."""
        with local_errors("write", self._temporary, self._details):
            for each in local_paths(self._temporary):
                if os.path.islink(self._path(each)):  # a download would replace the file that the link leads to
                    os.unlink(self._path(each))
            for each in not_in(self._chosen(tree), local_paths(self._temporary)):
                os.unlink(self._path(each))
            for parent, _, _ in os.walk(self._temporary, topdown=False):
                if parent != self._temporary:
                    with contextlib.suppress(OSError):  # a folder with files
                        os.rmdir(parent)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the temporary directory, and keep other processes out of it. The lock ends with the process.

        Raises:
            StorageUnavailableError: If another process has the lock.
            StorageError: If the path is a link, or the directory cannot be made.
        """
        # The process that had the lock may have given the directory its name: then the lock is not one of this path.
        while not _is_at(fd := self._open_and_lock(), self._temporary):
            os.close(fd)
        try:
            yield
        finally:
            os.close(fd)

    def _open_and_lock(self) -> int:
        with local_errors("write", self._temporary, self._details):
            os.makedirs(self._temporary, exist_ok=True)
            fd = os.open(self._temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StorageUnavailableError(
                f"{self._details.url}: another process fetches it to {self._target!r}", self._details, Remedy.REPEAT
            ) from error
        return fd

    def _put_into_place(self) -> None:
        with local_errors("write", self._target, self._details):
            _require_absent(self._target)
            os.rename(self._temporary, self._target)
            fd = os.open(os.path.dirname(self._target), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _require_absent(target: str) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "The directory exists; name another one, or remove it", target)


def _manifest_after(model: Model, name: str, manifest: Manifest, error: ObjectNotFoundError, *, is_last: bool) -> Manifest:
    """The manifest to go on with after a file was not found: the version may be in another directory now.

    Raises:
        ObjectNotFoundError: If the version was deleted.
        IntegrityError: If it still names the directory in which the file is missing.
    """
    found = resolved(model, manifest.digest if name == manifest.digest else manifest.version, _OPERATION)
    if found.digest != manifest.digest:
        details = model.store.details(model.key("versions", manifest.version), _OPERATION)
        raise ObjectNotFoundError(f"{details.url} was replaced while it was fetched", details) from error
    if is_last or found.place == manifest.place:
        raise IntegrityError(f"a file of version {manifest.version!r} is missing: {error.message}", error.details) from error
    return found
