"""What our filesystems share of fsspec's face: `AtomicOpening` for writing, `FilesAndFolders` for putting and getting."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import IO, TYPE_CHECKING, Any, cast

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.compression import compr
from fsspec.transaction import Transaction
from fsspec.utils import infer_compression, isfilelike

from gllm_storage.filesystem.writing import AtomicTextWriter, AtomicWriter

if TYPE_CHECKING:
    from collections.abc import Iterator


def is_create(mode: str) -> bool:
    """Whether fsspec's `mode` of `put_file` and `pipe_file` asks for an exclusive create.

    Raises:
        ValueError: If it is neither ``"overwrite"`` nor ``"create"``.
    """
    if mode not in {"overwrite", "create"}:
        raise ValueError(f"mode must be 'overwrite' or 'create', not {mode!r}")
    return mode == "create"


class AtomicTransaction(Transaction):  # type: ignore[misc]  # fsspec publishes no types
    """fsspec's transaction, which ends also where a commit fails: older releases of fsspec then defer all later writes."""

    def complete(self, commit: bool = True) -> None:
        """Publish all files, in the order in which they were opened, or take them back.

        Args:
            commit: Whether to publish.

        Raises:
            Exception: What the first file raises that cannot be published; those after it are taken back.
        """
        mine: Any = self
        filesystem, files = mine.fs, list(mine.files)
        mine.files.clear()
        try:
            while commit and files:
                files.pop(0).commit()
        finally:
            for each in files:
                each.discard()
            if filesystem is not None:
                filesystem._intrans = False  # noqa: SLF001 - as fsspec's own does
                filesystem._transaction = None  # noqa: SLF001 - as above
            mine.fs = None


class AtomicOpening:
    """Mixed into a filesystem whose `_open` gives an `AtomicWriter` for ``"wb"`` and ``"xb"``.

    Text and compression are put on top here, because fsspec's own layers would close a file below an exception, or never.
    """

    transaction_type = AtomicTransaction

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file, as fsspec's filesystems do; what is written appears at the close, whole, or not at all.

        Args:
            path: The file.
            mode: ``"rb"``, ``"r"``, ``"wb"``, ``"w"``, ``"xb"``, ``"x"``, ….
            block_size: Bytes to read at a time.
            cache_options: For reading.
            compression: Such as ``"gzip"``, or ``"infer"`` to go by the name.
            **kwargs: ``encoding``, ``errors`` and ``newline`` for text; the rest goes to the filesystem.

        Raises:
            FileNotFoundError: If the file is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive and the file exists.
            StorageError: If the store refuses or cannot be reached.
        """
        below: Any = super()
        if not set("wx") & set(mode):
            return below.open(path, mode, block_size, cache_options, compression, **kwargs)
        text = {name: kwargs.pop(name) for name in ("encoding", "errors", "newline") if name in kwargs}
        binary = mode.replace("t", "").replace("b", "") + "b"
        file: AtomicWriter = below.open(path, binary, block_size, cache_options, **kwargs)
        codec = infer_compression(path) if compression == "infer" else compression
        if codec is not None:
            file = AtomicWriter(_compressed(file, codec), path)
        return file if "b" in mode else AtomicTextWriter(file, **text)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store some bytes.

        Args:
            path: The file.
            value: Its content.
            mode: ``"overwrite"``, or ``"create"`` to fail if the file exists, atomically.
            **kwargs: As for `open`.

        Raises:
            ValueError: If `mode` is something else.
            FileExistsError: If `mode` is ``"create"`` and the file exists.
            StorageError: If it cannot be stored; nothing was changed then.
        """
        with self.open(path, "xb" if is_create(mode) else "wb", **kwargs) as file:
            file.write(value)


class FilesAndFolders:
    """Mixed into a filesystem that has `store_file` and `fetch_file`: fsspec's `put_file` and `get_file` on top of them.

    fsspec's recursive `put` and `get` name folders, too, which the verbs refuse.
    """

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **_: Any
    ) -> None:
        """Store a copy of a local file.

        Args:
            lpath: The local file.
            rpath: Its name in the store; folders are made.
            callback: Told the size, and the bytes as they are copied.
            mode: ``"overwrite"``, or ``"create"`` to fail if the file exists, atomically.

        Raises:
            ValueError: If `mode` is something else.
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `mode` is ``"create"`` and the file exists.
            StorageError: If it cannot be stored; nothing was changed then.
        """
        below: Any = self
        exclusive = is_create(mode)
        if os.path.isdir(lpath):
            below.makedirs(rpath, exist_ok=True)
            return
        below.store_file(os.fspath(lpath), rpath, exclusive=exclusive, callback=callback)

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        """Copy a stored file to a local one, which is whole or as it was.

        Raises:
            ObjectNotFoundError: If there is no such file.
            StorageError: If it cannot be copied.
        """
        below: Any = self
        if isfilelike(lpath):
            with below.open(rpath, "rb") as file:
                shutil.copyfileobj(file, cast("IO[bytes]", lpath))
        elif below.isdir(rpath):
            os.makedirs(lpath, exist_ok=True)
        else:
            below.fetch_file(rpath, os.fspath(lpath), callback=callback)


@contextlib.contextmanager
def _compressed(file: Any, compression: str) -> Iterator[IO[bytes]]:
    with file, compr[compression](file, mode="w") as compressing:
        yield compressing
