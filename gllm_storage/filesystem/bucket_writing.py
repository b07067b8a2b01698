"""`WritingMethods`: objects that appear whole, or not at all; and deleting one."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.concurrency.workers import Stop, run_all, running_stop
from gllm_storage.files.source import MemorySource
from gllm_storage.files.spool import SpooledObject
from gllm_storage.filesystem.bucket_base import OF_FILES, BucketBase
from gllm_storage.filesystem.opening import is_create
from gllm_storage.filesystem.writing import AtomicWriter, WritableFile
from gllm_storage.store.port import Destination

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

_OF_OPEN = frozenset({"block_size", "compression", "encoding", "errors", "newline"})


class WritingMethods(BucketBase):
    """`put_file`, `pipe_file`, files that are open for writing, and `rm_file`."""

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Upload a local file.

        Args:
            lpath: The local file.
            rpath: Where to put it: ``bucket/key``, or a URL.
            callback: Told the size, and the bytes as they are sent.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: What the object gets beside its content, as the provider's filesystem takes it.

        Raises:
            ValueError: If `mode` is something else, or `rpath` names no object.
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        exclusive, options = self._write_options(is_create(mode), kwargs)
        self._upload(os.fspath(lpath), rpath, callback, Stop(), exclusive=exclusive, options=options)

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        exclusive, options = self._write_options(is_create(mode), kwargs)
        if os.path.isdir(lpath):  # noqa: ASYNC240 - a recursive put names folders, too, which buckets do not have
            return
        told = callback or DEFAULT_CALLBACK
        await self._in_thread(
            lambda stop: self._upload(os.fspath(lpath), rpath, told, stop, exclusive=exclusive, options=options)
        )

    def _upload(
        self, lpath: str, rpath: str, callback: Callback, stop: Stop, *, exclusive: bool, options: Mapping[str, Any]
    ) -> None:
        bucket, key = self._place(rpath)
        transfer = self._transfer(bucket, key, "upload", callback, stop)
        Destination(bucket, key, transfer, exclusive, options).take_file(self.store, lpath)
        self._forget_listings(rpath)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store some bytes.

        Args:
            path: The object.
            value: Its content: the bytes of any buffer.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: What the object gets beside its content, as the provider's filesystem takes it; or as for `open`.

        Raises:
            ValueError: If `mode` is something else, or `path` names no object.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If it cannot be stored; nothing was changed then, and nothing is left behind.
        """
        below: Any = self
        if below._intrans or _OF_OPEN & kwargs.keys():  # noqa: SLF001 - fsspec's own
            super().pipe_file(path, value, mode, **kwargs)
            return
        bucket, key = self._place(path)
        given = {name: each for name, each in kwargs.items() if name not in OF_FILES or name == "acl"}
        exclusive, options = self._write_options(is_create(mode), given)
        destination = Destination(bucket, key, self._transfer(bucket, key, "upload"), exclusive, options)
        destination.take(self.store, MemorySource(value, destination.transfer.details))
        self._forget_listings(path)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        await self._in_thread(lambda _: self.pipe_file(path, value, mode, **kwargs))

    def _open_writer(self, bucket: str, key: str, mode: str, kwargs: dict[str, Any]) -> AtomicWriter:
        exclusive, options = self._write_options(mode == "xb", kwargs)
        destination = Destination(bucket, key, self._transfer(bucket, key, "upload"), exclusive, options)
        details = self._error_details(bucket, key, "open")
        content = SpooledObject(partial(destination.take, self.store), self.store.settings, destination.transfer.details)
        if exclusive:
            self.store.require_creates(bucket, key, details)
        return AtomicWriter(self._published(content, f"{bucket}/{key}"), details.url, mode, fs=self)

    @contextlib.contextmanager
    def _published(self, content: AbstractContextManager[WritableFile], path: str) -> Iterator[WritableFile]:
        """A file whose content becomes an object when the block ends well, which listings do not know yet."""
        with content as file:
            yield file
        self._forget_listings(path)

    def rm_file(self, path: str, **_: Any) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
        run_all([partial(self.store.delete, *self._place(path))], 1, Stop(running_stop()))
        self._forget_listings(path)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._in_thread(lambda _: self.rm_file(path))
