"""`copy_version`: a version in another model, of the same bucket or of another provider, with its digest.

The copy is published as a local directory is (`publisher`), so it appears completely or not at all, and goes on after an
interruption. Within one provider the store copies the files; otherwise each one passes through a temporary file.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import OURS, IntegrityError, ObjectNotFoundError
from gllm_storage.files.source import open_source
from gllm_storage.store.transfer import Progress
from gllm_storage.versions.catalog import Version, require_same, resolved, version_of
from gllm_storage.versions.layout import (
    model_of,
    require_atomic,
    require_name,
    require_outside,
    require_short,
    require_short_name,
)
from gllm_storage.versions.local_tree import HashedSource
from gllm_storage.versions.publisher import Publisher, new_manifest
from gllm_storage.versions.register import enter
from gllm_storage.versions.reuse import Earlier
from gllm_storage.versions.stored_file import Content, holds, sha256_of_source
from gllm_storage.versions.stored_tree import stored_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.stored_tree import StoredTree
    from gllm_storage.versions.tree import TreeFile

_OPERATION = "copy"
_SCRATCH = 2 * 2**30
"""The most bytes of files that are in temporary files at a time; a larger file is alone."""


def copy_version(
    client: CloudStorageClient,
    model: str,
    name: str,
    target_client: CloudStorageClient,
    target_model: str,
    *,
    version: str | None = None,
    callback: Callback | None = None,
) -> Version:
    """Copy a version to another model: completely, or not at all. Digest and metadata stay.

    Within one provider the store copies the files itself, if it has a checksum of them that the list of files has, too
    (CRC-64/NVME: not GCS), and on Azure within one client only. Other files pass through this machine: in temporary files of
    2 GiB at a time, or one larger file. Files that are there already are kept, so a copy that is run again goes on.

    Args:
        client: The client of the store with the version.
        model: The path of the model, as for `publish`.
        name: The name of a version or of an alias, or a digest.
        target_client: The client of the store of the copy.
        target_model: The path of the model that receives the version.
        version: The name of the copy; that of the version by default.
        callback: Receives the number of bytes of all files, and the bytes as they are copied or found.

    Returns:
        The copy.

    Raises:
        ValueError: If a path or a name is not valid, or the key of a file would be longer than 1024 bytes in the target.
        FileNotFoundError: If the version does not exist, or was deleted, also while it was copied (`ObjectNotFoundError`).
        FileExistsError: If the target has this version with other files or metadata, or the name is that of an alias, or
            differs from another name only in case (`ObjectExistsError`).
        RuntimeError: If a file or the manifest is damaged (`IntegrityError`) or of a later format
            (`UnsupportedOperationError`); if the target cannot create exclusively (`ConflictCheckUnsupportedError`); or if a
            request fails (`StorageError`).

    Examples:
        >>> copy_version(client, "models/llama-ft", "latest", client, "released/llama", version="1.0").name
        '1.0'
    """
    source, target = model_of(client, model), model_of(target_client, target_model)
    manifest = resolved(source, name, _OPERATION)
    new_name = manifest.version if version is None else require_name(version)
    require_short_name(target, new_name)
    require_atomic(target, _OPERATION)
    with stored_tree(source, manifest, _OPERATION) as files:
        for file in files:
            require_short(target, file.path)
        tree = _CopiedTree(source, manifest, files)
        copy = new_manifest(target, tree, new_name, manifest.metadata)
        require_outside(target)
        enter(target, new_name, "version", _OPERATION)
        progress = Progress(callback)
        progress.expect(manifest.size)
        return version_of(target, _Copier(target, tree, copy, progress).run())


@dataclass(frozen=True, eq=False)
class _CopiedFile:
    """A file of the version."""

    model: Model
    manifest: Manifest
    entry: TreeFile

    @property
    def content(self) -> Content:
        return Content.of(self.entry)

    @property
    def key(self) -> str:
        return self.model.data(self.manifest.place) + self.entry.path

    @contextlib.contextmanager
    def opened(self, details: ErrorDetails) -> Iterator[HashedSource]:
        """The content, from a temporary file.

        Raises:
            ObjectNotFoundError: If the version was deleted.
            IntegrityError: If the file is damaged or missing.
            StorageError: If it cannot be read.
        """
        store = self.model.store
        transfer = store.transfer(self.key, "download")
        with store.scratch(transfer.details) as scratch:
            try:
                store.fetch(self.key, scratch, transfer)
            except ObjectNotFoundError as error:
                raise self._missing(error) from error
            with open_source(scratch.temporary, details) as source:
                if source.size != self.entry.size or sha256_of_source(source) != self.entry.sha256:
                    raise self.changed(details)
                yield HashedSource(source, self.content)

    def changed(self, details: ErrorDetails) -> IntegrityError:
        del details
        found = self.model.store.details(self.key, _OPERATION)
        return IntegrityError(
            f"{found.url} does not have the SHA-256 that the manifest of version {self.manifest.version!r} names", found
        )

    def _missing(self, error: ObjectNotFoundError) -> IntegrityError:
        """The error for a file that is missing although its version is there.

        Raises:
            ObjectNotFoundError: If the version was deleted meanwhile.
        """
        require_same(self.model, self.manifest, _OPERATION)
        return IntegrityError(f"a file of version {self.manifest.version!r} is missing: {error.message}", error.details)


class _CopiedTree:
    """The files of the version, as `Publisher` reads them."""

    def __init__(self, model: Model, manifest: Manifest, files: StoredTree) -> None:
        self.model = model
        self.manifest = manifest
        self._files = files
        self.digest = manifest.digest
        self.files = manifest.files
        self.size = manifest.size
        self.list_path = files.path
        self.list_size = manifest.tree_size
        self.list_sha256 = manifest.tree_sha256

    def batches(self, count: int, details: ErrorDetails) -> Iterator[list[_CopiedFile]]:
        """The files, at most so many, and so many bytes, at a time."""
        del details
        batch: list[_CopiedFile] = []
        size = 0
        for entry in self._files:
            if batch and (len(batch) == count or size + entry.size > _SCRATCH):
                yield batch
                batch, size = [], 0
            batch.append(_CopiedFile(self.model, self.manifest, entry))
            size += entry.size
        if batch:
            yield batch

    def __iter__(self) -> Iterator[TreeFile]:
        return iter(self._files)


class _Copier(Publisher):
    """A publisher of files that are in a store already."""

    def __init__(self, model: Model, tree: _CopiedTree, manifest: Manifest, progress: Progress) -> None:
        super().__init__(model, tree, manifest, progress)
        self._copied = tree

    @contextlib.contextmanager
    def _reusable(self) -> Iterator[Earlier]:
        source, target = self._copied.model.store, self._store
        if source is target:
            earlier = Earlier(self._copied.model)
        elif source.provider == target.provider and target.replaces_at_once:
            earlier = _InOtherBucket(self._copied.model, target)
        else:
            yield Earlier(self._model)  # no files: each one passes through this machine
            return
        earlier.add(self._copied.manifest.place, self._copied)
        yield earlier


class _InOtherBucket(Earlier):
    """The files of the version, which the store may copy to another bucket.

    Args:
        model: The model of the version.
        target: The store of the copy. A copy must replace an object atomically, since it is not exclusive.
    """

    def __init__(self, model: Model, target: ObjectStore) -> None:
        super().__init__(model)
        self._target = target

    def copy(self, content: Content, key: str) -> bool:
        """Copy a file to the target. Returns False if it is not there with its content: then it passes through this machine.

        So does each file of a store without a checksum that the tree list has, such as GCS: its content must be read once.
        """
        store, source = self._model.store, self._keys.get(content.sha256)
        if source is None:
            return False
        with contextlib.suppress(*OURS):
            info = store.info(source, _OPERATION)
            if info.size == content.size and content.agrees(info.checksum):
                store.copy(source, self._target, key, store.transfer(source, _OPERATION))
                return holds(self._target, key, content)
        return False
