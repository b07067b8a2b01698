"""The cache of `fetch`: the files of versions on one machine, downloaded once for all its processes.

::

    CACHEDIR.TAG                    marks the directory as a cache, for programs that make backups
    lock                            held by a fetch that begins, or exclusively by `prune_cache`
    files/5f/<SHA-256>              a content; it gets this name when its SHA-256 was compared, and is read-only
    versions/<digest>/
        lock                        held exclusively by the process that downloads, or makes a folder
        used                        held by each running fetch; its modification time is that of the last use
        tree.jsonl                  the list of the files, as in the store
        <hash of the URL>.json      the manifest of the version, as the model at that URL has it
        incoming/<SHA-256>          a content that is being downloaded; the next process goes on with it
        incoming.<machine>/…        the same, on a disk that machines share; see `local.mounts.own_name`
        folders/<digest>/…          a complete directory to read from, or one with some files of the version
    versions/<random>.pruned/       a version that `prune_cache` is removing, or was when it was killed

The locks are those of `flock`: the kernel releases them when a process ends, however it ends. On a disk that machines share,
they may not exclude the processes of other machines. So each machine has its own files there until they are complete, and
renames them; if two machines download the same content, the second rename replaces a file by an equal one.

A content is trusted by its bytes alone: each fetch computes the SHA-256 of each file that it takes from the cache, and
downloads a damaged one again. Nothing waits for the disk, since a power cut does no more than a damaged disk.

`prune_cache` removes versions that no fetch holds, and then the files that no version needs. A fetch registers its version
before it looks for a file, so the files that it finds stay.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import OURS, ErrorDetails, IntegrityError, Remedy, StorageError, UnsupportedOperationError
from gllm_storage.files.names import local_directory
from gllm_storage.files.source import local_errors, open_source
from gllm_storage.files.target import atomic_target, copy
from gllm_storage.local.mounts import caches_names, own_name
from gllm_storage.versions.entries import Manifest, decode_entry, encode_entry
from gllm_storage.versions.layout import hex_of, require_count, require_period, time_before
from gllm_storage.versions.stored_tree import StoredTree, checked_tree, stored_tree
from gllm_storage.versions.verification import difference, local_paths, not_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile

    Download = Callable[[Sequence[TreeFile], Callable[[TreeFile], str]], None]

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# The cache of gllm-storage. See https://bford.info/cachedir/\n"
_TAG_NAME = "CACHEDIR.TAG"
_HEX = re.compile(r"[0-9a-f]{64}")
_READ_ONLY = 0o444
_FICLONE = 0x40049409
"""The request of Linux that makes a file share the blocks of another one until either is written."""
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}
_NOT_IN_KERNEL = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM, errno.ETXTBSY}
_COPIED_AT_ONCE = 2**26
_FIRST_PAUSE = 0.005
_LAST_PAUSE = 0.1
_LOCK, _USED, _TREE, _INCOMING = "lock", "used", "tree.jsonl", "incoming"
_PRUNED = ".pruned"
_BLOCK = 512
"""Bytes of a block as `os.stat` counts them."""


@dataclass(frozen=True)
class CachedVersion:
    """A version in a cache.

    Attributes:
        digest: The digest of the version.
        names: The version's URL and name in each store that it was fetched from, such as ``"s3://b/models/llama-ft v3"``.
        files: Number of its files that the cache has; equal contents count once.
        size: Size of these files in bytes, and of the bytes of others that an interrupted fetch has left. Versions may
            share files.
        used: When a fetch last used it.
        path: The complete directory to read from, if there is one.
    """

    digest: str
    names: tuple[str, ...]
    files: int
    size: int
    used: dt.datetime
    path: str | None


class Cache:
    """The cache in one directory.

    Args:
        folder: The directory; made by the first fetch.
        details: The operation, for errors.

    Raises:
        ValueError: If the directory is a URL, or empty.
        StorageError: If the directory cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str], details: ErrorDetails) -> None:
        self.folder = cache_folder(folder)
        self.details = details
        self.is_read_only = False
        """Whether this process may not write to the cache. It takes the files that are there."""
        with local_errors("write", self.folder, details):
            self._make()

    def _make(self) -> None:
        try:
            os.makedirs(os.path.join(self.folder, "files"), exist_ok=True)
            os.makedirs(os.path.join(self.folder, "versions"), exist_ok=True)
            if not os.path.exists(tag := self._path(_TAG_NAME)):
                _write(tag, _TAG)
            os.close(os.open(self._path(_LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        except OSError as error:
            if error.errno not in _NOT_WRITABLE or not os.path.isdir(self._path("versions")):
                raise
            self.is_read_only = True

    def _path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def file(self, sha256: str) -> str:
        """The path of a content."""
        return self._path("files", sha256[:2], sha256)

    def version(self, digest: str) -> str:
        """The path of the directory of a version."""
        return self._path("versions", hex_of(digest))

    def manifest(self, model: Model, digest: str) -> Manifest | None:
        """The manifest of a version that was fetched from this model before. Sends no request.

        Raises:
            StorageError: If the cache cannot be read.
        """
        path = os.path.join(self.version(digest), _name_of(model))
        with local_errors("read", path, self.details):
            found = _manifest_in(path)
        return found[1] if found is not None and found[0] == _url_of(model) and found[1].digest == digest else None

    @contextlib.contextmanager
    def lease(self, model: Model, manifest: Manifest, operation: str) -> Iterator[Lease]:
        """Hold a version, so that nothing of it is pruned. Its list of files is read from the cache, or from the store.

        Raises:
            IntegrityError: If the list is missing in the store, or damaged.
            UnsupportedOperationError: If a later version of this library wrote it.
            StorageError: If a request or the disk fails.
        """
        with contextlib.ExitStack() as stack:
            tree = self._held_tree(stack, model, manifest)
            if tree is None:
                found = stack.enter_context(stored_tree(model, manifest, operation))
                if not self.is_read_only:
                    self._add(stack, model, manifest, found)
                tree = found
            yield Lease(self, manifest, tree)

    def _held_tree(self, stack: contextlib.ExitStack, model: Model, manifest: Manifest) -> StoredTree | None:
        """Hold a version, and return its list of files; None if the cache does not have it, or a damaged one."""
        folder = self.version(manifest.digest)
        with local_errors("write", folder, self.details), self._registering():
            if not os.path.isfile(os.path.join(folder, _TREE)):
                return None
            self._hold(stack, folder)
            if not self.is_read_only and self.manifest(model, manifest.digest) != manifest:
                self._write_manifest(model, manifest)
        with contextlib.suppress(IntegrityError):
            return checked_tree(os.path.join(folder, _TREE), manifest, self.details)
        return None

    def _add(self, stack: contextlib.ExitStack, model: Model, manifest: Manifest, tree: StoredTree) -> None:
        folder = self.version(manifest.digest)
        with local_errors("write", folder, self.details), self._registering():
            os.makedirs(folder, exist_ok=True)
            self._write_manifest(model, manifest)
            with open(tree.path, "rb") as lines:
                _write(os.path.join(folder, _TREE), lines.read())
            self._hold(stack, folder)

    def _write_manifest(self, model: Model, manifest: Manifest) -> None:
        path = os.path.join(self.version(manifest.digest), _name_of(model))
        _write(path, _url_of(model).encode() + b"\n" + encode_entry(manifest))

    def _hold(self, stack: contextlib.ExitStack, folder: str) -> None:
        fd = stack.enter_context(self.locked(os.path.join(folder, _USED), fcntl.LOCK_SH))
        if fd is not None:
            with contextlib.suppress(PermissionError):
                os.utime(fd)

    @contextlib.contextmanager
    def _registering(self) -> Iterator[None]:
        with self.locked(self._path(_LOCK), fcntl.LOCK_SH):
            yield

    @contextlib.contextmanager
    def locked(self, path: str, kind: int) -> Iterator[int | None]:
        """Hold a lock. It ends with the process.

        Yields:
            The descriptor of the file; None if this process may not write to the cache, and the file does not exist.

        Raises:
            OSError: If the filesystem has no locks.
        """
        flags = os.O_RDONLY if self.is_read_only else os.O_RDWR | os.O_CREAT
        try:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if not self.is_read_only:
                raise
            yield None
            return
        try:
            _wait_for(fd, kind)
            yield fd
        finally:
            os.close(fd)


class Lease:
    """A version in a cache, of which nothing is pruned.

    Args:
        cache: The cache.
        manifest: The manifest of the version.
        tree: The files.
    """

    def __init__(self, cache: Cache, manifest: Manifest, tree: StoredTree) -> None:
        self.tree = tree
        self.cache = cache
        self._folder = cache.version(manifest.digest)
        self._details = cache.details
        self._own = own_name(cache.folder)
        self._shares_blocks = True

    def obtain(self, files: Iterable[TreeFile], download: Download) -> set[str]:
        """Download the contents that the cache does not have. Of several processes, one does it, and the others wait.

        Args:
            files: The files.
            download: Downloads and verifies files; see `Downloads.fetch`.

        Returns:
            The SHA-256 of each content that the cache has now. All of them, unless the cache is read-only.

        Raises:
            StorageError: If a request or the disk fails.
        """
        pending = {each.sha256: each for each in files}
        found = set(pending)
        while wrong := self._differences(list(pending.values())):
            if self.cache.is_read_only:
                return found.difference(wrong)
            with self._working():
                mine = [pending[each] for each, kind in wrong.items() if self._is_wrong(pending[each], kind)]
                # A process that was killed may have left complete ones.
                missing = [each for each in mine if difference(self._incoming(each), each) is not None]
                if missing:
                    download(missing, self._incoming)
                for each in mine:
                    self._admit(each)
            # The others were downloaded by another process, which may have been one that the disk deceived.
            admitted = {each.sha256 for each in mine}
            pending = {each: pending[each] for each in wrong if each not in admitted}
        return found

    def _differences(self, files: Sequence[TreeFile]) -> dict[str, str]:
        tasks = [partial(difference, self.cache.file(each.sha256), each) for each in files]
        kinds = run_all(tasks, os.cpu_count() or 1, Stop(running_stop())) if tasks else []
        return {each.sha256: kind for each, kind in zip(files, kinds, strict=True) if kind is not None}

    def _is_wrong(self, file: TreeFile, kind: str) -> bool:
        """Whether a content is still missing or damaged. One that was missing is not read: see `obtain`."""
        path = self.cache.file(file.sha256)
        return not os.path.lexists(path) or (kind != "missing" and difference(path, file) is not None)

    def _incoming(self, file: TreeFile) -> str:
        return os.path.join(self._incoming_folder, file.sha256)

    @property
    def _incoming_folder(self) -> str:
        return os.path.join(self._folder, f"{_INCOMING}{self._own}")

    def _admit(self, file: TreeFile) -> None:
        source, path = self._incoming(file), self.cache.file(file.sha256)
        with local_errors("write", path, self._details):
            os.chmod(source, _READ_ONLY)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            os.replace(source, path)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        path = os.path.join(self._folder, _LOCK)
        with contextlib.ExitStack() as stack:
            with local_errors("write", path, self._details):
                stack.enter_context(self.cache.locked(path, fcntl.LOCK_EX))
                os.makedirs(self._incoming_folder, exist_ok=True)
            yield

    def place(self, file: TreeFile, path: str) -> None:
        """Give a file of the cache another name, outside of the cache.

        Both share their blocks until one is written, if the disk can do that. Otherwise they are one read-only file, if
        this process may not write to it; or else a copy. So a program that writes to the file does not damage the cache.

        Raises:
            StorageError: If the disk is full or fails.
        """
        source = self.cache.file(file.sha256)
        with local_errors("write", path, self._details):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _unlink(path)
            if self._shares_blocks:
                self._shares_blocks = _reflink(source, path)
            if self._shares_blocks or (not _may_write(source) and _link(source, path)):
                return
        self._copy(source, path)

    def _copy(self, source: str, path: str) -> None:
        with open_source(source, self._details) as content, atomic_target(path, self._details, durable=False) as target:
            with target.errors():
                is_copied = _copied_by_kernel(source, target.fd)
            if not is_copied:
                copy(content, target, check_stop)

    def directory(self, digest: str, files: Callable[[], Iterable[TreeFile]]) -> str:
        """The directory in the cache that has exactly some files of the version; it appears complete. `obtain` them before.

        Args:
            digest: The digest of these files.
            files: The files, in the order of the tree; called several times.

        Returns:
            The path.

        Raises:
            StorageError: If the disk is full or fails, or the cache is read-only and does not have the directory.
        """
        target = os.path.join(self._folder, "folders", hex_of(digest))
        if _is_folder(target) and self._is_exact(target, files):
            return target
        if self.cache.is_read_only:
            raise self.read_only("a directory with these files")
        with self._working(), local_errors("write", target, self._details):
            if not _is_folder(target):
                _unlink(target)
                temporary = f"{target}{self._own}.new"
                self._fill(temporary, files)
                try:
                    os.rename(temporary, target)
                except OSError as error:
                    if not (self._own and error.errno in {errno.EEXIST, errno.ENOTEMPTY}):
                        raise
                    shutil.rmtree(temporary)  # another machine has made the directory meanwhile
            elif not self._is_exact(target, files):
                self._fill(target, files)
        return target

    def read_only(self, missing: str = "the files") -> StorageError:
        """The error for a cache that lacks something, and to which this process may not write."""
        message = f"{self._details.operation} of {self._details.url}: this process may not write to the cache "
        return StorageError(
            f"{message}{self.cache.folder!r}, which does not have {missing}", self._details, Remedy.WRITABLE_CACHE
        )

    def _is_exact(self, folder: str, files: Callable[[], Iterable[TreeFile]]) -> bool:
        is_right = all(self._is_right(folder, each) for each in files())
        return is_right and not any(not_in(files(), local_paths(folder)))

    def _is_right(self, folder: str, file: TreeFile) -> bool:
        path = os.path.join(folder, *file.path.split("/"))
        with contextlib.suppress(OSError):  # missing, or something else is in the place of its folder
            if os.path.samestat(os.stat(path, follow_symlinks=False), os.stat(self.cache.file(file.sha256))):
                return True
        return difference(path, file) is None

    def _fill(self, folder: str, files: Callable[[], Iterable[TreeFile]]) -> None:
        """Make a directory have exactly some files. Each is replaced at once: other processes may read the directory."""
        if not _is_folder(folder):
            _unlink(folder)
        os.makedirs(folder, exist_ok=True)
        remove_others(folder, files)
        between = os.path.join(self._incoming_folder, "link")
        for each in files():
            if self._is_right(folder, each):
                continue
            path = os.path.join(folder, *each.path.split("/"))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _unlink(between)
            if not _link(self.cache.file(each.sha256), between):
                self._copy(self.cache.file(each.sha256), between)
            os.replace(between, path)


def remove_others(folder: str, files: Callable[[], Iterable[TreeFile]]) -> None:
    """Remove from a directory all links, and all files that are not in a tree, and the folders that are empty then.

    Raises:
        OSError: If the disk fails.
    """
    for each in local_paths(folder):
        if os.path.islink(path := os.path.join(folder, each)):  # a download would replace the file that the link leads to
            os.unlink(path)
    for each in not_in(files(), local_paths(folder)):
        os.unlink(os.path.join(folder, each))
    for parent, _, _ in os.walk(folder, topdown=False):
        if parent != folder:
            with contextlib.suppress(OSError):  # a folder with files
                os.rmdir(parent)


def cache_folder(cache: str | os.PathLike[str]) -> str:
    """The absolute path of the directory of a cache.

    Raises:
        TypeError: If it is not a text or a path object.
        ValueError: If it is a URL, or empty, as a variable that is not set.
    """
    return os.path.abspath(local_directory("cache", cache))


def list_cache(cache: str | os.PathLike[str]) -> list[CachedVersion]:
    """The versions in a cache, the one that was used last first.

    Args:
        cache: The directory of the cache.

    Raises:
        ValueError: If the directory is a URL, or empty.
        FileNotFoundError: If there is no cache in the directory.
        RuntimeError: If the cache cannot be read (`StorageError`).

    Examples:
        >>> [each.names for each in list_cache("./cache")]
        [('memory://.../models/llama-ft v3',)]
    """
    return _versions(_existing(cache, "list"))


def prune_cache(
    cache: str | os.PathLike[str],
    *,
    older_than: dt.timedelta | None = None,
    max_size: int | None = None,
    dry_run: bool = False,
    one_machine: bool = False,
) -> list[CachedVersion]:
    """Remove versions from a cache, and the files that no other version in the cache needs.

    A version that a running fetch holds stays. A program that still reads from a directory in the cache is not noticed: it
    counts as used when the last `fetch` returned the directory.

    Args:
        cache: The directory of the cache.
        older_than: Removes versions that no fetch has used for so long.
        max_size: Removes the files of interrupted fetches, and then the versions that were not used for the longest time,
            until the files have at most so many bytes.
        dry_run: Whether to remove nothing, and to return the versions that would be removed.
        one_machine: Whether no other machine uses the cache. Needed on a disk that machines share, such as NFS, where a
            fetch of another machine may not be noticed.

    Returns:
        The removed versions.

    Raises:
        ValueError: If the directory is a URL, or empty; or if a limit is negative, or of another type.
        FileNotFoundError: If there is no cache in the directory.
        RuntimeError: If the cache is on a disk such as NFS, and `one_machine` is not set (`UnsupportedOperationError`); or
            if a file cannot be removed (`StorageError`).

    Examples:
        >>> removed = prune_cache("./cache", older_than=dt.timedelta(days=30), max_size=200 * 2**30)
        >>> removed
        []
    """
    if older_than is not None:
        require_period("older_than", older_than)
    if max_size is not None:
        require_count("max_size", max_size)
    found = _existing(cache, "prune")
    if caches_names(found.folder) and not one_machine:
        raise UnsupportedOperationError(
            f"prune of {found.folder!r}: machines may share its disk, and a fetch of another machine may not be noticed",
            found.details,
            Remedy.ONE_MACHINE_CACHE,
        )
    with local_errors("write", found.folder, found.details):
        if found.is_read_only:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), found.folder)
        with found.locked(os.path.join(found.folder, _LOCK), fcntl.LOCK_EX):  # no fetch registers meanwhile
            removed, interrupted = _removable(found, older_than, max_size)
            if not dry_run:
                for each in removed:
                    _take_away(found, found.version(each.digest))
                for each in interrupted:
                    for folder in _incoming_folders(found, each.digest):
                        _take_away(found, folder)
                _sweep(found)
    return removed


def _existing(cache: str | os.PathLike[str], operation: str) -> Cache:
    folder = cache_folder(cache)
    if not os.path.isfile(os.path.join(folder, _TAG_NAME)):
        raise FileNotFoundError(errno.ENOENT, "There is no cache of published versions", folder)
    return Cache(folder, ErrorDetails(url=folder, operation=operation))


def _digests(cache: Cache) -> list[str]:
    return [f"sha256:{each}" for each in os.listdir(os.path.join(cache.folder, "versions")) if _HEX.fullmatch(each)]


def _versions(cache: Cache) -> list[CachedVersion]:
    with local_errors("read", cache.folder, cache.details):
        found = [_version(cache, each) for each in _digests(cache)]
    return sorted(filter(None, found), key=lambda each: each.used, reverse=True)


def _version(cache: Cache, digest: str) -> CachedVersion | None:
    """A version; None if `prune_cache` has removed it meanwhile."""
    folder = cache.version(digest)
    with contextlib.suppress(FileNotFoundError):
        manifests = [_manifest_in(os.path.join(folder, each)) for each in os.listdir(folder) if each.endswith(".json")]
        names = sorted(f"{url} {manifest.version}" for url, manifest in filter(None, manifests))
        sizes = _contents(cache, digest).values()
        size = sum(sizes) + _size_of_incoming(cache, digest)
        path = os.path.join(folder, _USED)
        used = dt.datetime.fromtimestamp(os.stat(path if os.path.exists(path) else folder).st_mtime, tz=dt.UTC)
        path = os.path.join(folder, "folders", hex_of(digest))
        return CachedVersion(digest, tuple(names), len(sizes), size, used, path if os.path.isdir(path) else None)
    return None


def _size_of_incoming(cache: Cache, digest: str) -> int:
    """Size of the contents of a version that were not downloaded completely, in bytes."""
    size = 0
    for folder in _incoming_folders(cache, digest):
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for each in entries:
                with contextlib.suppress(FileNotFoundError):  # it is complete now
                    found = each.stat(follow_symlinks=False)
                    size += max(
                        found.st_size, _BLOCK * found.st_blocks
                    )  # a full disk leaves blocks behind the end of a file
    return size


def _incoming_folders(cache: Cache, digest: str) -> list[str]:
    """The folders of contents that are being downloaded: one, or one for each machine."""
    folder = cache.version(digest)
    with contextlib.suppress(FileNotFoundError):
        return [os.path.join(folder, each) for each in os.listdir(folder) if each.partition(".")[0] == _INCOMING]
    return []


def _contents(cache: Cache, digest: str) -> dict[bytes, int]:
    """The contents of a version that the cache has: SHA-256 and size.

    Raises:
        UnsupportedOperationError: If a later version of this library wrote the list of its files.
    """
    found: dict[bytes, int] = {}
    for each in _needed(cache, digest):
        with contextlib.suppress(FileNotFoundError):
            found[each] = os.stat(cache.file(each.hex())).st_size
    return found


def _needed(cache: Cache, digest: str) -> Iterator[bytes]:
    """The SHA-256 of each file of a version, also of those that a running fetch may add at this moment; see `_contents`."""
    tree = StoredTree(os.path.join(cache.version(digest), _TREE), cache.details)
    with contextlib.suppress(IntegrityError, FileNotFoundError):  # the next fetch of the version gets its list anew
        for each in tree:
            yield bytes.fromhex(each.sha256)


def _removable(
    cache: Cache, older_than: dt.timedelta | None, max_size: int | None
) -> tuple[list[CachedVersion], list[CachedVersion]]:
    """The versions to remove, and those of which only the incomplete files are removed.

    The versions that were not used for the longest time are first.
    """
    versions = _versions(cache)
    held = {each.digest for each in versions if _is_held(cache, each)}
    oldest = None if older_than is None else time_before(dt.datetime.now(tz=dt.UTC), older_than)
    incoming = {each.digest: _size_of_incoming(cache, each.digest) for each in versions}
    kept: set[bytes] = set()
    size, is_full, removable, others = 0, False, [], []
    for each in sorted(versions, key=lambda each: each.digest not in held):  # those that are held, and then by their use
        contents = _contents(cache, each.digest)
        more = sum(length for content, length in contents.items() if content not in kept)
        more += incoming[each.digest] if each.digest in held else 0
        is_full = is_full or (max_size is not None and size + more > max_size)
        if each.digest not in held and (is_full or (oldest is not None and each.used < oldest)):
            removable.append(each)
        else:
            size += more
            kept.update(contents)
            others.append(each)
    interrupted: list[CachedVersion] = []
    for each in others:
        more = incoming[each.digest]
        if each.digest in held or not more:
            continue
        is_full = is_full or (max_size is not None and size + more > max_size)
        if not is_full:
            size += more
        else:
            # Of a version without any complete file, nothing is left then.
            (interrupted if each.files else removable).append(each)
    removable.sort(key=lambda each: each.used)
    return removable, interrupted[::-1]


def _is_held(cache: Cache, version: CachedVersion) -> bool:
    """Whether a fetch holds a version. Under the lock of the cache: a fetch that begins waits for it."""
    fd = os.open(os.path.join(cache.version(version.digest), _USED), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _is_folder(path: str) -> bool:
    """Whether a path is a folder, and not a link to one: the cache does not own files behind a link."""
    return os.path.isdir(path) and not os.path.islink(path)


def _unlink(path: str) -> None:
    """Remove a file or a link, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _take_away(cache: Cache, folder: str) -> None:
    """Let a folder of a version vanish in one step, which a kill cannot divide; `_sweep` removes its files."""
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, os.path.join(cache.folder, "versions", secrets.token_hex(8) + _PRUNED))


def _sweep(cache: Cache) -> None:
    """Remove the contents that no version needs, and the folders that were taken away, also by a killed `prune_cache`."""
    versions = os.path.join(cache.folder, "versions")
    for folder in _folders_in(versions):
        if folder.endswith(_PRUNED):
            shutil.rmtree(folder)
    needed: set[bytes] = set()
    for each in _digests(cache):
        needed.update(_needed(cache, each))
    for folder in _folders_in(os.path.join(cache.folder, "files")):
        for name in os.listdir(folder):
            if _HEX.fullmatch(name) and bytes.fromhex(name) not in needed:
                os.unlink(os.path.join(folder, name))


def _folders_in(folder: str) -> list[str]:
    """The folders in a folder of the cache: other programs may leave files there, such as ``.DS_Store``."""
    paths = (os.path.join(folder, each) for each in os.listdir(folder))
    return [each for each in paths if _is_folder(each)]


def _name_of(model: Model) -> str:
    return f"{hashlib.sha256(_url_of(model).encode()).hexdigest()}.json"


def _url_of(model: Model) -> str:
    return model.store.url(model.prefix)


def _manifest_in(path: str) -> tuple[str, Manifest] | None:
    """The URL of the model and the manifest that a file holds; None if it is missing or damaged."""
    try:
        with open(path, "rb") as file:
            url, _, data = file.read().partition(b"\n")
    except FileNotFoundError:
        return None
    with contextlib.suppress(*OURS, UnicodeDecodeError):  # or of a later version of the library
        entry = decode_entry(data, ErrorDetails(url=path, operation="read"))
        if isinstance(entry, Manifest):
            return url.decode(), entry
    return None


def _write(path: str, data: bytes) -> None:
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    with open(temporary, "wb") as file:
        file.write(data)
    os.replace(temporary, path)


def _wait_for(fd: int, kind: int) -> None:
    """Wait for a lock; the wait ends with the transfer of this thread.

    Raises:
        OSError: If the filesystem has no locks.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            check_stop()
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)
        else:
            return


def _copied_by_kernel(source: str, fd: int) -> bool:
    """Copy a file without reading it into this process: 0.4 s of the processor for a GiB, and not 3 s.

    Returns:
        False if the kernel cannot, as between some filesystems.

    Raises:
        OSError: If the disk is full or fails.
    """
    if not hasattr(os, "copy_file_range"):
        return False
    with open(source, "rb") as content:
        left = os.fstat(content.fileno()).st_size
        try:
            while left:
                check_stop()
                copied = os.copy_file_range(content.fileno(), fd, min(left, _COPIED_AT_ONCE))
                if not copied:
                    return False
                left -= copied
        except OSError as error:
            if error.errno not in _NOT_IN_KERNEL:
                raise
            return False
    return True


def _may_write(path: str) -> bool:
    """Whether this process may write to a file in spite of its mode, as root can."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def _link(source: str, path: str) -> bool:
    """Give a file a second name. Returns False if that is not possible here, as on two filesystems."""
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return False
    return True


def _reflink(source: str, path: str) -> bool:
    """Make a new file that shares the blocks of another one. Returns False if the filesystem cannot do that."""
    with open(source, "rb") as content, open(path, "xb") as file:
        try:
            fcntl.ioctl(file, _FICLONE, content.fileno())
        except OSError:
            os.unlink(path)
            return False
    return True
