"""`diff`: the files in which two versions of a model differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.versions.catalog import resolved
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.stored_tree import stored_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile

_OPERATION = "diff"


@dataclass(frozen=True)
class Change:
    """A file that is not the same in two versions.

    Attributes:
        path: The path relative to the directory of the version.
        kind: ``"added"``, ``"removed"`` or ``"changed"``.
        old_size: The size in bytes in the old version; None if it is not there.
        new_size: The size in bytes in the new version; None if it is not there.
    """

    path: str
    kind: str
    old_size: int | None
    new_size: int | None


def diff(client: CloudStorageClient, model: str, old: str, new: str) -> Iterator[Change]:
    """The files in which two versions differ, in the order of the UTF-8 bytes of their paths. Reads no file.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        old: The name of a version or of an alias, or a digest.
        new: The same.

    Raises:
        ValueError: If the path or a name is not valid.
        FileNotFoundError: If the version does not exist (`ObjectNotFoundError`).
        RuntimeError: If a manifest or a list of files is damaged (`IntegrityError`) or of a later format
            (`UnsupportedOperationError`), or a request fails (`StorageError`).

    Examples:
        >>> list(diff(client, "models/llama-ft", "v3", "latest"))
        []
    """
    place = model_of(client, model)
    manifests = [resolved(place, each, _OPERATION) for each in (old, new)]
    return _between(place, *manifests)


def _between(model: Model, old: Manifest, new: Manifest) -> Iterator[Change]:
    with stored_tree(model, old, _OPERATION) as before, stored_tree(model, new, _OPERATION) as after:
        yield from _changes(iter(before), iter(after))


def _changes(before: Iterator[TreeFile], after: Iterator[TreeFile]) -> Iterator[Change]:
    one, two = next(before, None), next(after, None)
    while one or two:
        if one and two and one.path == two.path:
            if one.sha256 != two.sha256:
                yield Change(one.path, "changed", one.size, two.size)
            one, two = next(before, None), next(after, None)
        elif one and (two is None or one.path.encode() < two.path.encode()):
            yield Change(one.path, "removed", one.size, None)
            one = next(before, None)
        elif two:
            yield Change(two.path, "added", None, two.size)
            two = next(after, None)
