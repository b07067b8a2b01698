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


class MemoryFileSystem(SyncStoreFileSystem, _MemoryFileSystem):
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
            return _Reader(store.content(key, store.details(key, "open")).getvalue(), self, path)
        if kwargs.get("data") is not None:  # the complete content, as fsspec's own `pipe_file` gives it
            return super(SyncStoreFileSystem, self)._open(path, mode, block_size, **kwargs)
        return super()._open(path, mode, block_size, **kwargs)

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """An object or a folder. A name that is both is an object here, as on the clouds; `isdir` is True, too.

        Raises:
            FileNotFoundError: If there is neither.
        """
        name = self._strip_protocol(path)
        if name in self.store and not path.endswith("/"):
            entry: dict[str, Any] = self._listed(name)
            return entry
        found: dict[str, Any] = super().info(path, **kwargs)
        return found

    def isdir(self, path: str) -> bool:
        """Whether there is a folder of this name, beside an object or not."""
        name = self._strip_protocol(path)
        return not name or name in self.pseudo_dirs or any(each.startswith(f"{name}/") for each in tuple(self.store))

    def _listed(self, name: str) -> dict[str, Any]:
        content = self.store[name]
        created = content.created.timestamp()
        return {"name": name, "size": len(content.getvalue()), "type": "file", "created": created}


class _Reader(io.BytesIO):
    """The content of an object, with the attributes that fsspec's methods expect of a file, such as `read_block`."""

    mode = "rb"

    def __init__(self, content: bytes, fs: MemoryFileSystem, path: str) -> None:
        super().__init__(content)
        self.size = len(content)
        self.fs = fs
        self.path = self.name = path

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.getvalue(), self.fs, self.path, self.tell())


def _reopened(content: bytes, fs: MemoryFileSystem, path: str, position: int) -> _Reader:
    file = _Reader(content, fs, path)
    file.seek(position)
    return file
