"""The tree list of a version, as the store has it: read as a stream, and only if it is the list that the manifest names."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gllm_storage.errors import ObjectNotFoundError, Remedy
from gllm_storage.files.source import open_source
from gllm_storage.versions.catalog import require_same
from gllm_storage.versions.stored_file import sha256_of_source
from gllm_storage.versions.tree import TreeDigest, damaged, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.errors import ErrorDetails, IntegrityError
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile


@dataclass(frozen=True)
class StoredTree:
    """The files of a version, in the order of the UTF-8 bytes of their paths. Each iteration reads the list anew.

    Attributes:
        path: The local file with the list.
        details: The operation, for errors.
    """

    path: str
    details: ErrorDetails

    def __iter__(self) -> Iterator[TreeFile]:
        with open(self.path, "rb") as lines:
            yield from read_tree(lines, self.details)


@contextlib.contextmanager
def stored_tree(model: Model, manifest: Manifest, operation: str) -> Iterator[StoredTree]:
    """The files of a version.

    Args:
        model: The model.
        manifest: The manifest of the version.
        operation: The operation, for errors.

    Raises:
        ObjectNotFoundError: If the list is missing because the version was deleted meanwhile.
        IntegrityError: If the list is missing, or not the one that the manifest names, or not of its digest.
        UnsupportedOperationError: If a later version of this library wrote it.
        StorageError: If a request fails.
    """
    key = model.tree(manifest.place)
    details = model.store.details(key, operation)
    transfer = model.store.transfer(key, "download")
    with model.store.scratch(details) as target:
        try:
            model.store.fetch(key, target, transfer)
        except ObjectNotFoundError as error:
            require_same(model, manifest, operation)
            raise _damaged(details, "the list of the files of a version is missing") from error
        yield checked_tree(target.temporary, manifest, details)


def checked_tree(path: str, manifest: Manifest, details: ErrorDetails) -> StoredTree:
    """The files in a local copy of the list.

    Raises:
        IntegrityError: If it is not the list that the manifest names, or not of its digest.
        UnsupportedOperationError: If a later version of this library wrote it.
        StorageError: If it cannot be read.
    """
    with open_source(path, details) as source:
        if (source.size, sha256_of_source(source)) != (manifest.tree_size, manifest.tree_sha256):
            raise _damaged(details, "it is not the list that the manifest names")
    tree = StoredTree(path, details)
    _require_digest(tree, manifest)
    return tree


def _require_digest(tree: StoredTree, manifest: Manifest) -> None:
    digest = TreeDigest()
    for file in tree:
        try:
            digest.add(file)
        except ValueError as error:
            raise _damaged(tree.details, str(error)) from error
    if (digest.value(), digest.files, digest.size) != (manifest.digest, manifest.files, manifest.size):
        raise _damaged(tree.details, "its files are not those of the digest in the manifest")


def _damaged(details: ErrorDetails, cause: str) -> IntegrityError:
    return damaged(replace(details, remedy=Remedy.DELETE_VERSION), cause)
