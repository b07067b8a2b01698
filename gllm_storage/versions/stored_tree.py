"""The tree list of a version, as the store has it: read as a stream, and only if it is the list that the manifest names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gllm_storage.errors import ObjectNotFoundError
from gllm_storage.files.source import open_source
from gllm_storage.versions.stored_file import sha256_of_source
from gllm_storage.versions.tree import TreeDigest, damaged, read_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile


@contextlib.contextmanager
def stored_tree(model: Model, manifest: Manifest, operation: str) -> Iterator[Iterator[TreeFile]]:
    """The files of a version, in the order of their paths.

    Args:
        model: The model.
        manifest: The manifest of the version.
        operation: The operation, for errors.

    Raises:
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
            raise damaged(details, "the list of the files of a version is missing") from error
        with open_source(target.temporary, details) as source:
            if (source.size, sha256_of_source(source)) != (manifest.tree_size, manifest.tree_sha256):
                raise damaged(details, "it is not the list that the manifest names")
        with open(target.temporary, "rb") as lines:
            _require_digest(lines, manifest, details)
            lines.seek(0)
            yield read_tree(lines, details)


def _require_digest(lines: Iterator[bytes], manifest: Manifest, details: ErrorDetails) -> None:
    digest = TreeDigest()
    for file in read_tree(lines, details):
        try:
            digest.add(file)
        except ValueError as error:
            raise damaged(details, str(error)) from error
    if (digest.value(), digest.files, digest.size) != (manifest.digest, manifest.files, manifest.size):
        raise damaged(details, "its files are not those of the digest in the manifest")
