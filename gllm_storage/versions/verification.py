"""`verify`: compares a version in the store, or a copy of it on this machine, with its manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, IntegrityError, Remedy
from gllm_storage.files.names import local_directory
from gllm_storage.files.source import local_errors, open_source
from gllm_storage.versions.catalog import Version, require_same, resolved, version_of
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.stored_file import Content, holds, listed_files, sha256_of, sha256_of_source
from gllm_storage.versions.stored_tree import stored_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile

_OPERATION = "verify"
_AT_A_TIME = 256
"""Files that are compared side by side before the next ones begin."""
_NAMED = 5
"""The most differences that a message names."""


@dataclass
class _Differences:
    """The files that are not as the manifest says: their number, and the first ones for the message."""

    count: int = 0
    named: list[str] = field(default_factory=list)

    def add(self, path: str, kind: str) -> None:
        self.count += 1
        if len(self.named) < _NAMED:
            self.named.append(f"{path!r} is {kind}")

    def join(self, others: _Differences) -> None:
        self.count += others.count
        self.named = (self.named + others.named)[:_NAMED]

    def __str__(self) -> str:
        more = self.count - len(self.named)
        return ", ".join(self.named) + (f", and {more} more" if more else "")


class _OutOfOrderError(Exception):
    """Some stores list the keys of a folder in another order than that of their bytes."""


def verify(
    client: CloudStorageClient,
    model: str,
    name: str,
    local_dir: str | os.PathLike[str] | None = None,
    *,
    read: bool = True,
) -> Version:
    """Compare all files of a version with its manifest.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest.
        local_dir: A copy of the version on this machine, as `fetch` makes it; None compares the files in the store.
        read: Whether the files in the store are read. If not, the CRC-64 that the store has of each file is compared, by one
            HEAD request. A file without one is read nevertheless: on GCS, in local folders and in memory that is each file.

    Returns:
        The version, if every file is there with its content, and no other file.

    Raises:
        ValueError: If the path or the name is not valid, or `local_dir` is a URL or empty.
        FileNotFoundError: If the version does not exist, or was deleted, also while it was verified (`ObjectNotFoundError`);
            or if `local_dir` does not exist.
        NotADirectoryError: If `local_dir` is a file.
        RuntimeError: If a file is missing, changed or added, or the manifest or the list of the files is damaged
            (`IntegrityError`, which names the first files); or if a request fails (`StorageError`).

    Examples:
        >>> verify(client, "models/llama-ft", "v3").name
        'v3'
    """
    folder = "" if local_dir is None else local_directory("local_dir", local_dir)
    place = model_of(client, model)
    if folder:
        os.scandir(folder).close()
    manifest = resolved(place, name, _OPERATION)
    found = _Differences()
    with stored_tree(place, manifest, _OPERATION) as tree:
        if local_dir is None:
            folder = place.data(manifest.place)
            _compare(tree, lambda file: _is_stored(place, folder + file.path, file, read=read), found)
            _find_added_files(place, manifest.place, tree, found)
        else:
            _compare(tree, lambda file: is_local(folder, file), found)
            with local_errors("read", folder, tree.details):
                for path in not_in(tree, local_paths(folder)):
                    found.add(path, "added")
    if found.count:
        if local_dir is None:
            require_same(place, manifest, _OPERATION)
        details = place.store.details(place.data(manifest.place), _OPERATION)
        where = details.url if local_dir is None else repr(folder)
        remedy = Remedy.DELETE_VERSION if local_dir is None else None
        raise IntegrityError(f"{where} is not version {manifest.version!r}: {found}", details, remedy)
    return version_of(place, manifest)


def is_local(folder: str, file: TreeFile) -> str | None:
    """The difference between a local file and a file of a tree: its kind, or None if they are equal.

    A symbolic link is not followed: the copy of a version has none, and it may lead out of the directory.
    """
    return difference(os.path.join(folder, *file.path.split("/")), file)


def difference(path: str, file: TreeFile) -> str | None:
    """The difference between a local file and the content of a file of a tree; as `is_local`."""
    if not os.path.lexists(path):
        return "missing"
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) != file.size:
        return "changed"
    with open_source(path, ErrorDetails(url=path, operation=_OPERATION)) as source:
        return None if sha256_of_source(source) == file.sha256 else "changed"


def local_paths(folder: str, path: str = "") -> Iterator[str]:
    """The relative paths of everything below a folder that is not a folder itself, in the order of their bytes.

    Holds the names of one folder of each depth. A folder that does not exist has none.
    """
    try:
        with os.scandir(os.path.join(folder, path)) as entries:
            names = sorted(os.fsencode(each.name) + b"/" * each.is_dir(follow_symlinks=False) for each in entries)
    except FileNotFoundError:
        return
    for name in names:
        below = path + os.fsdecode(name)
        if below.endswith("/"):
            yield from local_paths(folder, below)
        else:
            yield below


def not_in(files: Iterable[TreeFile], paths: Iterable[str]) -> Iterator[str]:
    """The paths that are not in a tree. Both must be in the order of their bytes.

    Raises:
        _OutOfOrderError: If the paths are not.
    """
    expected = (each.path.encode() for each in files)
    current, last = next(expected, None), b""
    for path in paths:
        name = os.fsencode(path)
        if name <= last:
            raise _OutOfOrderError
        last = name
        while current is not None and current < name:
            current = next(expected, None)
        if current != name:
            yield path


def _is_stored(model: Model, key: str, file: TreeFile, *, read: bool) -> str | None:
    if not read:
        return None if holds(model.store, key, Content.of(file)) else "missing or changed"
    try:
        return None if sha256_of(model.store, key) == file.sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except IntegrityError:
        return "changed"


def _compare(tree: Iterable[TreeFile], compare: Callable[[TreeFile], str | None], found: _Differences) -> None:
    files = iter(tree)
    while batch := list(islice(files, _AT_A_TIME)):
        kinds = run_all([partial(compare, each) for each in batch], os.cpu_count() or 1, Stop(running_stop()))
        for file, kind in zip(batch, kinds, strict=True):
            if kind is not None:
                found.add(file.path, kind)


def _find_added_files(model: Model, place: str, tree: Iterable[TreeFile], found: _Differences) -> None:
    def stored() -> Iterator[str]:
        return (path for path, _ in listed_files(model, place))

    added = _Differences()
    try:
        for path in not_in(tree, stored()):
            added.add(path, "added")
    except _OutOfOrderError:
        expected, added = {each.path for each in tree}, _Differences()
        for path in stored():
            if path not in expected:
                added.add(path, "added")
    found.join(added)
