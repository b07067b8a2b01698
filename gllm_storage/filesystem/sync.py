"""`SyncStoreFileSystem`: the base of the local and memory filesystems, which write by a store."""

from __future__ import annotations

import errno
import os
import shutil
from typing import IO, TYPE_CHECKING, Any, cast

from fsspec import AbstractFileSystem
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.utils import isfilelike, read_block

from gllm_storage.files.durability import folders_synced_once
from gllm_storage.files.source import open_source
from gllm_storage.filesystem.lists import listed
from gllm_storage.filesystem.transaction import AtomicTransaction
from gllm_storage.filesystem.writing import AtomicWriter, is_create, open_layers
from gllm_storage.paths import require_no_slash

if TYPE_CHECKING:
    from gllm_storage.store.port import ObjectStore


class SyncStoreFileSystem(AbstractFileSystem):
    """A synchronous fsspec filesystem whose files are written, copied and deleted by a store.

    A provider puts this class in front of fsspec's class, which lists and reads, and implements `root_store`. Content
    appears when a file is closed, complete or not at all, and exclusive creates hold.
    """

    transaction_type = AtomicTransaction
    _intrans: bool
    _client_store: ObjectStore | None = None
    _root_store: ObjectStore | None = None

    # ------------------------------------------------------------------ for providers to implement

    def root_store(self) -> ObjectStore:
        """The store of all paths. Called once, on first use."""
        raise NotImplementedError

    # ------------------------------------------------------------------ stores

    def use_store(self, store: ObjectStore) -> None:
        """Use the store of a client for the paths in it; other paths are in the root store.

        Args:
            store: The store.
        """
        self._client_store = store

    def place(self, path: str) -> tuple[ObjectStore, str]:
        """The store of a path, and the key in it.

        Args:
            path: A path or URL.
        """
        require_no_slash(path)
        if self._root_store is None:
            self._root_store = self.root_store()
        url = self._root_store.url(self._strip_protocol(path).lstrip("/"))
        store = self._client_store
        if store is None or not url.startswith(store.url("")):
            store = self._root_store
        return store, url.removeprefix(store.url(""))

    # ------------------------------------------------------------------ fsspec's methods

    def open(  # fsspec's signature
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file, as fsspec's filesystems do; written content appears at `close`, complete, or not at all.

        Args:
            path: The file.
            mode: ``"rb"``, ``"r"``, ``"wb"``, ``"w"``, ``"xb"``, ``"x"``, ….
            block_size: As fsspec's class takes it.
            cache_options: As fsspec's class takes them.
            compression: Such as ``"gzip"``, or ``"infer"`` to use the file's extension.
            **kwargs: ``encoding``, ``errors`` and ``newline`` for text; the rest goes to fsspec's class.

        Raises:
            FileNotFoundError: If the file is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive and the file exists.
            StorageError: If the file cannot be opened.
            ValueError: If the path ends with ``/``.
        """
        require_no_slash(os.fspath(path))
        return open_layers(super().open, path, mode, block_size, cache_options, compression, **kwargs)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode not in {"wb", "xb"}:
            return super()._open(path, mode, block_size, **kwargs)
        store, key = self.place(path)
        return AtomicWriter(
            store.writer_of(key, exclusive=mode == "xb"),
            store.url(key),
            mode,
            fs=self,
            autocommit=kwargs.get("autocommit", True),
            publish_on_error=store.settings.publish_on_error,
        )

    def put(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``put``; each folder is synchronized once."""
        with folders_synced_once():
            super().put(*args, **kwargs)

    def get(self, rpath: Any, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``get``; each folder is synchronized once.

        Raises:
            ValueError: If the path of a file ends with ``/``.
        """
        self._refuse_files(rpath)
        with folders_synced_once():
            super().get(rpath, *args, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read a file, or a slice of it, with the meaning of a Python slice.

        Args:
            path: The file.
            start: First byte; counted from the end if negative.
            end: Byte before which the slice ends; counted from the end if negative.
            **kwargs: As for `open`.

        Raises:
            FileNotFoundError: If the file does not exist.
            StorageError: If it cannot be read.
        """
        require_no_slash(path)
        with self.open(path, "rb", **kwargs) as file:
            if start is None and end is None:
                content: bytes = file.read()
                return content
            first, last, _ = slice(start, end).indices(file.seek(0, os.SEEK_END))
            file.seek(first)
            found: bytes = file.read(max(0, last - first))
            return found

    def read_block(self, fn: str, offset: int, length: int | None, delimiter: bytes | None = None) -> bytes:
        """Read a block, from and to a delimiter if one is given; see fsspec's method.

        Args:
            fn: The file.
            offset: First byte.
            length: Number of bytes; to the end if None.
            delimiter: The block begins and ends behind one.

        Raises:
            FileNotFoundError: If the file does not exist.
            StorageError: If it cannot be read.
        """
        with self.open(fn, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            remaining = max(0, size - offset)
            found: bytes = read_block(file, offset, remaining if length is None else min(length, remaining), delimiter)
            return found

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Store a copy of a local file.

        Args:
            lpath: The local file; for a folder, which a recursive `put` names as well, a folder is made.
            rpath: Its path in the store; folders are made.
            callback: Receives the size in bytes, and the bytes as they are copied.
            mode: ``"overwrite"``, or ``"create"`` to fail if the file exists, atomically.

        Raises:
            ValueError: If `mode` is something else.
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `mode` is ``"create"`` and the file exists.
            StorageError: If the copy fails; nothing was changed then.
        """
        exclusive = is_create(mode)
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        store, key = self.place(rpath)
        transfer = store.transfer(key, "upload", callback)
        with open_source(os.fspath(lpath), transfer.details, sync=store.settings.sync_source) as source:
            transfer.progress.expect(source.size)
            store.upload(store.request(key, source, transfer, exclusive))
        transfer.progress.finish()

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        """Copy a stored file to a local one, which is then complete or unchanged.

        Args:
            rpath: The file in the store; for a folder, which a recursive `get` names as well, a folder is made.
            lpath: The local file, or a file object.
            callback: Receives the size in bytes, and the bytes as they are copied.

        Raises:
            ObjectNotFoundError: If the file does not exist.
            StorageError: If the copy fails.
        """
        if isfilelike(lpath):
            with self.open(rpath, "rb") as file:
                shutil.copyfileobj(file, cast("IO[bytes]", lpath))
        elif self.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
        else:
            store, key = self.place(rpath)
            store.download(key, os.fspath(lpath), store.transfer(key, "download", callback))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store bytes.

        Args:
            path: The file.
            value: Its content: the bytes of any buffer.
            mode: ``"overwrite"``, or ``"create"`` to fail if the file exists, atomically.
            **kwargs: As for `open`.

        Raises:
            ValueError: If `mode` is something else.
            ObjectExistsError: If `mode` is ``"create"`` and the file exists.
            StorageError: If the bytes cannot be stored; nothing was changed then.
        """
        with self.open(path, "xb" if is_create(mode) else "wb", **kwargs) as file:
            file.write(value)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """A file or a folder as fsspec's class describes it; a path that ends with ``/`` names a folder only.

        Raises:
            FileNotFoundError: If there is nothing.
        """
        found: dict[str, Any] = super().info(path, **kwargs)
        if isinstance(path, str) and path.endswith("/") and found["type"] == "file":
            raise FileNotFoundError(errno.ENOTDIR, "a file, not a folder", path)
        return found

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Whether there is a file or a folder; only a folder for a path that ends with ``/``."""
        exists = bool(super().exists(path, **kwargs))
        return exists and not (isinstance(path, str) and path.endswith("/") and not self.isdir(path))

    def isfile(self, path: str) -> bool:
        """Whether there is a file; False for a path that ends with ``/``."""
        return not (isinstance(path, str) and path.endswith("/")) and bool(super().isfile(path))

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Delete files, and with `recursive` folders.

        Raises:
            ValueError: If a path of a file ends with ``/``.
            FileNotFoundError: If there is nothing.
        """
        self._refuse_files(path)
        super().rm(path, recursive=recursive, maxdepth=maxdepth)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file.

        Raises:
            ValueError: If the path of the file ends with ``/``.
            FileNotFoundError: If there is nothing.
        """
        self._refuse_files([path1, path2])
        super().cp_file(path1, path2, **kwargs)

    def copy(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        """Copy files, as fsspec's class; a path of a file that ends with ``/`` is a ValueError."""
        self._refuse_files(path1)
        super().copy(path1, path2, *args, **kwargs)

    def mv(self, path1: Any, path2: Any, **kwargs: Any) -> None:
        """Move files, as fsspec's class; a path of a file that ends with ``/`` is a ValueError."""
        self._refuse_files(path1)
        super().mv(path1, path2, **kwargs)

    def pipe(self, path: Any, value: bytes | None = None, **kwargs: Any) -> None:
        """Store bytes, as fsspec's class.

        Raises:
            ValueError: If a path ends with ``/``.
        """
        for each in [path] if isinstance(path, str) else path:
            require_no_slash(each)
        super().pipe(path, value, **kwargs)

    def cat(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """The content of files, as fsspec's class; a path of a file that ends with ``/`` is a ValueError."""
        self._refuse_files(path)
        return super().cat(path, *args, **kwargs)

    def _refuse_files(self, paths: Any) -> None:
        for each in listed(paths):
            if each.endswith("/") and super().isfile(each):
                require_no_slash(each)

    def rm_file(self, path: str) -> None:
        """Delete a file.

        Raises:
            ObjectNotFoundError: If the file does not exist; a folder is not a file.
            StorageError: If the file cannot be deleted.
        """
        store, key = self.place(path)
        store.delete(key)
