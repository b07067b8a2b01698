"""`verify`: compares a version in the store, or a copy of it on this machine, with its manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, IntegrityError
from gllm_storage.files.source import open_source
from gllm_storage.versions.catalog import Version, resolved, version_of
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.stored_file import Content, holds, sha256_of, sha256_of_source
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


@dataclass(frozen=True)
class Difference:
    """A file that is not as the manifest says.

    Attributes:
        path: The path relative to the directory of the version.
        kind: ``"missing"``, ``"changed"`` or ``"added"``.
    """

    path: str
    kind: str


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
        read: Whether the files in the store are read. If not, the checksums that the store has of them are compared, by one
            HEAD request for each file; a file without such a checksum is read nevertheless.

    Returns:
        The version, if every file is there with its content, and no other file.

    Raises:
        ValueError: If the path or the name is not valid.
        FileNotFoundError: If the version does not exist (`ObjectNotFoundError`).
        RuntimeError: If a file is missing, changed or added, or the manifest or the list of the files is damaged
            (`IntegrityError`, which names the first files); or if a request fails (`StorageError`).

    Example:
        >>> verify(client, "models/llama-ft", "v3").name
        'v3'
    """
    place = model_of(client, model)
    manifest = resolved(place, name, _OPERATION)
    found: list[Difference] = []
    there: Iterator[str]
    with stored_tree(place, manifest, _OPERATION) as files:
        if local_dir is None:
            folder = place.data(manifest.place)
            found += _differences(files, lambda file: _is_stored(place, folder + file.path, file, read=read))
            there = (key.removeprefix(folder) for key in place.store.list_keys(folder) if not key.endswith("/"))
        else:
            folder = os.fspath(local_dir)
            found += _differences(files, lambda file: is_local(folder, file))
            there = local_paths(folder)
    with stored_tree(place, manifest, _OPERATION) as files:
        found += _added(there, files)
    if found:
        details = place.store.details(place.data(manifest.place), _OPERATION)
        where = details.url if local_dir is None else repr(folder)
        named = ", ".join(f"{each.path!r} is {each.kind}" for each in found[:_NAMED])
        more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        raise IntegrityError(f"{where} is not version {manifest.version!r}: {named}{more}", details)
    return version_of(place, manifest)


def is_local(folder: str, file: TreeFile) -> str | None:
    """The difference between a local file and a file of a tree: its kind, or None if they are equal.

    A symbolic link is not followed: the copy of a version has none, and it may lead out of the directory.
    """
    path = os.path.join(folder, *file.path.split("/"))
    if not os.path.lexists(path):
        return "missing"
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) != file.size:
        return "changed"
    with open_source(path, ErrorDetails(url=path, operation=_OPERATION)) as source:
        return None if sha256_of_source(source) == file.sha256 else "changed"


def local_paths(folder: str) -> Iterator[str]:
    """The relative paths of everything below a folder that is not a folder itself."""
    for parent, folders, names in os.walk(folder):
        links = [each for each in folders if os.path.islink(os.path.join(parent, each))]
        for name in [*names, *links]:
            yield os.path.relpath(os.path.join(parent, name), folder).replace(os.sep, "/")


def _is_stored(model: Model, key: str, file: TreeFile, *, read: bool) -> str | None:
    if not read:
        return None if holds(model.store, key, Content.of(file)) else "missing or changed"
    try:
        return None if sha256_of(model.store, key) == file.sha256 else "changed"
    except FileNotFoundError:
        return "missing"
    except IntegrityError:
        return "changed"


def _differences(files: Iterator[TreeFile], compare: Callable[[TreeFile], str | None]) -> Iterator[Difference]:
    while batch := list(islice(files, _AT_A_TIME)):
        kinds = run_all([partial(compare, each) for each in batch], os.cpu_count() or 1, Stop(running_stop()))
        for file, kind in zip(batch, kinds, strict=True):
            if kind is not None:
                yield Difference(file.path, kind)


def _added(there: Iterable[str], files: Iterator[TreeFile]) -> Iterator[Difference]:
    expected = {each.path for each in files}
    return (Difference(path, "added") for path in there if path not in expected)
