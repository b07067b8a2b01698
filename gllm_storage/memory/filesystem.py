"""`MemoryFileSystem`: fsspec's memory filesystem with exclusive creates that hold among threads."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from fsspec.implementations.memory import MemoryFileSystem as _MemoryFileSystem

from gllm_storage.filesystem.sync import SyncStoreFileSystem
from gllm_storage.memory.store import MemoryStore
from gllm_storage.settings import TransferSettings, disk_options

if TYPE_CHECKING:
    from gllm_storage.store.port import ObjectStore


class MemoryFileSystem(SyncStoreFileSystem, _MemoryFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """fsspec's memory filesystem, whose objects are written by a `MemoryStore`.

    It shares fsspec's dictionary, so that other libraries open its ``memory://`` URLs in this process.
    """

    def root_store(self) -> ObjectStore:
        """The store of all paths."""
        return MemoryStore(self, settings=TransferSettings(**disk_options(self.storage_options)))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode == "rb":
            store, key = MemoryStore(self), self._strip_protocol(path).lstrip("/")
            # fsspec returns the stored object itself, whose position all readers would share.
            return io.BytesIO(store.content(key, store.details(key, "open")).getvalue())
        if kwargs.get("data") is not None:  # the complete content, as fsspec's own `pipe_file` gives it
            return super(SyncStoreFileSystem, self)._open(path, mode, block_size, **kwargs)
        return super()._open(path, mode, block_size, **kwargs)

    def _rm(self, path: str) -> None:
        self.rm_file(path)
