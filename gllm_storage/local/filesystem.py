"""`LocalStoreFileSystem`: fsspec's local filesystem with complete files and exclusive creates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec.implementations.local import LocalFileSystem

from gllm_storage.filesystem.sync import SyncStoreFileSystem
from gllm_storage.local.store import LocalStore, translated
from gllm_storage.settings import TransferSettings, disk_options

if TYPE_CHECKING:
    from gllm_storage.store.port import ObjectStore


class LocalStoreFileSystem(SyncStoreFileSystem, LocalFileSystem):
    """fsspec's local filesystem, whose files are written by a `LocalStore`.

    Not called LocalFileSystem: pyarrow compares the class name, and would write with its own filesystem instead.
    """

    def root_store(self) -> ObjectStore:
        """The store of all absolute paths."""
        return LocalStore("/", TransferSettings(**disk_options(self.storage_options)))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode == "rb":
            store, key = self.place(path)
            store.info(key, "open")  # fsspec would wait at a named pipe
            with translated(store.details(key, "open")):
                return super()._open(path, mode, block_size, **kwargs)
        return super()._open(path, mode, block_size, **kwargs)
