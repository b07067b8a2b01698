"""`fetch`: a version on this machine, complete and verified, in one step.

The files go to a directory beside the destination, with the digest in its name. So a fetch that is run again goes on with
the files that are there, and after a verification of each one the directory gets its name by one rename. With a cache, the
files come from there; see `versions.cache`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    IntegrityError,
    ObjectNotFoundError,
    Remedy,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from gllm_storage.files.names import FoldedClashes, fold_of_disk, local_directory
from gllm_storage.files.source import local_error, local_errors
from gllm_storage.folders.filters import Filter
from gllm_storage.local.mounts import own_name
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.cache import Cache, cache_folder, remove_others
from gllm_storage.versions.catalog import Version, resolved, version_of
from gllm_storage.versions.downloading import Downloads, batches
from gllm_storage.versions.layout import hex_of, is_digest, model_of
from gllm_storage.versions.stored_tree import stored_tree
from gllm_storage.versions.tree import TreeDigest
from gllm_storage.versions.verification import is_local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fsspec.callbacks import Callback

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.versions.cache import Lease
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.stored_tree import StoredTree
    from gllm_storage.versions.tree import TreeFile

_OPERATION = "fetch"
_ATTEMPTS = 3
"""How often a fetch begins again because its version was moved to another directory."""
_LONGEST_BASE = 128
"""The most bytes of the name of a destination that the name of its temporary directory repeats. Disks permit 255 bytes."""
_OCCUPIED = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}


def fetch(
    client: CloudStorageClient,
    model: str,
    name: str,
    local_dir: str | os.PathLike[str] | None = None,
    *,
    include: str | Sequence[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    callback: Callback | None = None,
) -> Version:
    """Download a version. The directory appears complete and verified, or not at all.

    After an interruption, a second call goes on with the bytes that have arrived.

    Processes of one machine that name the same cache download each file once. With a cache, `local_dir` may be left out: the
    `path` of the result is a directory in the cache to read from. A version that is named by its digest needs no request
    if the cache has its files.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest.
        local_dir: The directory to make; its parent is created. None makes none: `cache` is needed then.
        include: Patterns of the paths to download, as for `upload_dir` and in rclone: ``"*.safetensors"`` matches in any
            folder, ``"/config.json"`` at the top only, ``"weights/**"`` a folder, ``"*.{bin,txt}"`` one of two. None
            downloads all files.
        cache: The directory of a cache, made if it does not exist. The SHA-256 of each file that is taken from it is
            computed, and a damaged one is downloaded again. The files of `local_dir` share their blocks with those of the
            cache where the disk can do that (XFS, Btrfs); otherwise they are hard links that cannot be written, or copies if
            this process could write to them nevertheless, as root can, or if the cache is on another disk.
        callback: Receives the number of bytes of all files, and the bytes as they arrive or are found.

    Returns:
        The version; its `path` is the local directory.

    Raises:
        ValueError: If the path, the name or a pattern is not valid, no file matches `include`, `local_dir` or `cache` is a
            URL or empty, or neither of them is given, or the cache is `local_dir`, or in it.
        FileExistsError: If the directory exists.
        FileNotFoundError: If the version does not exist, or was deleted, also while it was fetched
            (`ObjectNotFoundError`).
        RuntimeError: If a file or the manifest is damaged (`IntegrityError`) or of a later format, or two names are one on
            the disk, as those that differ only in case may be (`UnsupportedOperationError`); if another process fetches to
            the same directory (`StorageUnavailableError`); or if a request or the disk fails (`StorageError`). The directory
            does not exist then.

    Examples:
        >>> fetch(client, "models/llama-ft", "latest", "./local").name
        'v3'
        >>> path = fetch(client, "models/llama-ft", "latest", cache="./cache").path
    """
    if local_dir is None and cache is None:
        raise ValueError("fetch needs local_dir or cache: a directory for the files")
    place = model_of(client, model)
    target = "" if local_dir is None else os.path.abspath(local_directory("local_dir", local_dir))
    if target:
        _require_absent(target)
        _require_other_place(target, cache)
    chosen = Filter.of([include] if isinstance(include, str) else include)
    opened = None if cache is None else Cache(cache, place.store.details(place.prefix, _OPERATION))
    known = opened.manifest(place, name) if opened is not None and is_digest(name) else None
    manifest = known or resolved(place, name, _OPERATION)
    with _remains_named(_temporary_of(target, manifest)):
        for attempt in range(_ATTEMPTS):
            try:
                path = _Fetch(place, manifest, target, chosen, Progress(callback), opened).run()
            except ObjectNotFoundError as error:
                manifest = _manifest_after(place, name, manifest, error, is_last=attempt + 1 == _ATTEMPTS)
            else:
                break
    return replace(version_of(place, manifest), path=path)


@dataclass(frozen=True)
class _Fetch:
    """One fetch of one version from one directory of the store. Its `target` is empty if only the cache gets the files."""

    model: Model
    manifest: Manifest
    target: str
    chosen: Filter
    progress: Progress
    cache: Cache | None

    @cached_property
    def _details(self) -> ErrorDetails:
        return self.model.store.details(self.model.data(self.manifest.place), _OPERATION)

    @cached_property
    def _downloads(self) -> Downloads:
        return Downloads(self.model, self.manifest, self.progress)

    @cached_property
    def _temporary(self) -> str:
        return _temporary_of(self.target, self.manifest)

    def run(self) -> str:
        """Fetch; returns the path of the directory."""
        with self._opened() as (tree, lease):
            files, size = self._counted(tree)
            if not files:
                patterns = [each.pattern for each in self.chosen.rules if each.takes]
                raise ValueError(
                    f"{self._details.url} has no file that matches {patterns!r}; the files of a folder are 'folder/**'"
                )
            self.progress.expect(size)
            if lease is not None and not self.target:
                return self._directory_of(lease)
            with self._locked():
                self._require_names(tree)
                with local_errors("write", self._temporary, self._details):
                    remove_others(self._temporary, lambda: self._chosen(tree))
                with contextlib.closing(batches(self._chosen(tree))) as groups:
                    for batch in groups:
                        self._fill(batch, lease)
                self._put_into_place()
        return self.target

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[StoredTree, Lease | None]]:
        """The list of the files; with a cache, the version is held there meanwhile."""
        if self.cache is None:
            with stored_tree(self.model, self.manifest, _OPERATION) as tree:
                yield tree, None
        else:
            with self.cache.lease(self.model, self.manifest, _OPERATION) as lease:
                yield lease.tree, lease

    def _directory_of(self, lease: Lease) -> str:
        digest = TreeDigest()
        with contextlib.closing(batches(self._chosen(lease.tree))) as groups:
            for batch in groups:
                found = self._obtained(batch, lease)
                if any(each.sha256 not in found for each in batch):
                    raise lease.read_only()
                for each in batch:
                    digest.add(each)
        return lease.directory(digest.value(), lambda: self._chosen(lease.tree))

    def _obtained(self, files: Sequence[TreeFile], lease: Lease) -> set[str]:
        """Let the cache have the contents of files; returns the SHA-256 of those that it has."""
        reported = 0

        def download(missing: Sequence[TreeFile], path_of: Callable[[TreeFile], str]) -> None:
            nonlocal reported
            reported += sum(each.size for each in missing)
            self._downloads.fetch(missing, path_of)

        found = lease.obtain(files, download)
        self.progress(sum(each.size for each in files if each.sha256 in found) - reported)
        return found

    def _chosen(self, tree: StoredTree) -> Iterator[TreeFile]:
        return (each for each in tree if self.chosen.takes(each.path))

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
                        f"{self._details.url} cannot be fetched to {self.target!r}: {other!r} and {each.path!r} are one "
                        "file or folder on that disk",
                        self._details,
                        Remedy.CASE_SENSITIVE_DISK,
                    )

    def _fill(self, batch: Sequence[TreeFile], lease: Lease | None) -> None:
        """Bring files that are not there with their content to the temporary directory.

        Raises:
            IntegrityError: If a file in the store has another content.
            StorageError: If a request or the disk fails.
        """
        stop = Stop(running_stop())
        kinds = run_all([partial(is_local, self._temporary, each) for each in batch], os.cpu_count() or 1, stop)
        missing = [each for each, kind in zip(batch, kinds, strict=True) if kind is not None]
        self.progress(sum(each.size for each in batch) - sum(each.size for each in missing))
        if lease is not None:
            found = self._obtained(missing, lease)
            cached = [each for each in missing if each.sha256 in found]
            if cached:
                run_all([partial(lease.place, each, self._path(each)) for each in cached], os.cpu_count() or 1, stop)
            missing = [each for each in missing if each.sha256 not in found]
        if missing:
            self._downloads.fetch(missing, self._path)

    def _path(self, file: TreeFile) -> str:
        return os.path.join(self._temporary, *file.path.split("/"))

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
                f"{self._details.url}: another process fetches it to {self.target!r}", self._details, Remedy.REPEAT
            ) from error
        return fd

    def _put_into_place(self) -> None:
        _require_absent(self.target)
        try:
            os.rename(self._temporary, self.target)
        except OSError as error:
            if error.errno in _OCCUPIED:  # it appeared since the check
                _require_absent(self.target)
            raise local_error("write", self.target, error, self._details) from error
        with local_errors("write", self.target, self._details):
            fd = os.open(os.path.dirname(self.target), os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _temporary_of(target: str, manifest: Manifest) -> str:
    folder, base = os.path.split(target)
    if len(os.fsencode(base)) > _LONGEST_BASE:
        base = hashlib.sha256(os.fsencode(base)).hexdigest()
    return os.path.join(folder, f".{base}.{hex_of(manifest.digest)[:16]}{own_name(folder)}.gllm-fetch")


@contextlib.contextmanager
def _remains_named(temporary: str) -> Iterator[None]:
    """Say where the files are that have arrived, if the version is damaged: a second call alone may not help then."""
    try:
        yield
    except IntegrityError as error:
        if not os.path.isdir(temporary):
            raise
        remains = f"the files that have arrived are in {temporary!r}"
        raise IntegrityError(f"{error.message}; {remains}", error.details) from error


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _require_absent(target: str) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "The directory exists; name another one, or remove it", target)


def _require_other_place(target: str, cache: str | os.PathLike[str] | None) -> None:
    """Check that a cache is not at the destination, or in it: the destination would exist, then.

    Raises:
        ValueError: If it is.
    """
    if cache is None:
        return
    real, folder = os.path.realpath(cache_folder(cache)), os.path.realpath(target)
    if os.path.commonpath((real, folder)) == folder:
        raise ValueError(f"cache {os.fspath(cache)!r} is local_dir, or in it; name a directory beside {target!r}")


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
        message = f"a file of version {manifest.version!r} is missing: {error.message}"
        raise IntegrityError(message, error.details, Remedy.DELETE_VERSION) from error
    return found
