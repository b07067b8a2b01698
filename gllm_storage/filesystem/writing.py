"""Files that are open for writing: their content appears when they are closed, complete, or not at all."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from typing import IO, TYPE_CHECKING, Any, Self, cast

from fsspec.compression import compr
from fsspec.transaction import Transaction
from fsspec.utils import infer_compression

from gllm_storage.errors import ErrorDetails, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from _typeshed import ReadableBuffer

    from gllm_storage.info import Stored
    from gllm_storage.store.port import ObjectWriter


_logger = logging.getLogger(__name__)


def is_create(mode: str) -> bool:
    """Whether fsspec's `mode` of `put_file` and `pipe_file` requests an exclusive create.

    Raises:
        ValueError: If it is neither ``"overwrite"`` nor ``"create"``.
    """
    if mode not in {"overwrite", "create"}:
        raise ValueError(f"mode must be 'overwrite' or 'create', not {mode!r}")
    return mode == "create"


class AtomicWriter(io.BufferedIOBase):
    """A file object over an `ObjectWriter`: `close` publishes, an exception in a ``with`` block discards.

    An object that is dropped without `close` is discarded, and a warning is logged, because the caller would otherwise not
    learn that nothing was stored.

    The file belongs to the process that opened it. A forked child that drops its copy, when it ends at the latest, neither
    publishes nor discards.

    Args:
        writer: Receives the bytes.
        path: The URL, for messages.
        mode: ``"wb"`` or ``"xb"``; a readable attribute, as other files have it.
        fs: The filesystem; likewise.
        autocommit: Whether `close` publishes. If not, `commit` publishes or `discard` discards: fsspec's transactions.
        on_commit: Called after the object was published.
    """

    def __init__(
        self,
        writer: ObjectWriter,
        path: str = "a file",
        mode: str = "wb",
        *,
        fs: Any = None,
        autocommit: bool = True,
        on_commit: Callable[[], object] | None = None,
    ) -> None:
        self.path = self.name = path
        self.mode = mode
        self.fs = fs
        self.autocommit = autocommit
        self.stored: Stored | None = None
        """The stored object, after `close` or `commit`; None before, and for layers above the object's own bytes."""
        self._pid = os.getpid()
        self._on_commit = on_commit
        self._writer = writer
        self._open = True

    def writable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Whether `seek` works; not if parts are sent to the store while the file is written."""
        return self._writer.seekable()

    def write(self, data: ReadableBuffer) -> int:
        """Write the bytes of a buffer.

        Returns:
            Their number.

        Raises:
            ValueError: If the file is closed.
            StorageError: If they cannot be stored; then nothing is stored, whatever is written afterwards.
        """
        if not self._open or self.closed:
            raise ValueError("write to closed file")
        self._require_own_process()
        return self._writer.write(data)

    def tell(self) -> int:
        """The position in bytes."""
        return self._writer.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position.

        Raises:
            OSError: If the file is not `seekable`.
        """
        return self._writer.seek(offset, whence)

    def flush(self) -> None:
        """Do nothing: no reader sees the content before `close`."""

    def close(self) -> None:
        """Publish the content, unless `commit` will.

        Raises:
            FileExistsError: If the file was opened exclusively, and another writer has created it since.
            StorageError: If it cannot be published.
        """
        if self.autocommit:
            self._publish()
        else:
            super().close()

    def commit(self) -> None:
        """Publish the content, unless it was discarded.

        Raises:
            FileExistsError: If the file was opened exclusively, and another writer has created it since.
            StorageError: If it cannot be published.
            ValueError: If the file was not closed: layers above may hold unwritten bytes.
        """
        if self._open and not self.closed:
            self.discard()
            raise ValueError(f"{self.path} was not closed before the end of its transaction: nothing was stored")
        self._publish()

    def discard(self) -> None:
        """Discard the content."""
        if self._pid != os.getpid() or not self._open:
            return
        self._open = False
        try:
            self._writer.discard()
        finally:
            super().close()

    def drop(self) -> None:
        """Discard the content because the last reference to the file is gone, and log a warning."""
        if self._open and self._pid == os.getpid():
            _logger.warning("%s was opened for writing and dropped unclosed: nothing was stored", self.path)
            self.discard()

    def _publish(self) -> None:
        if not self._open:
            return
        self._require_own_process()
        self._open = False
        try:
            self.stored = self._writer.commit()
            if self._on_commit is not None:
                self._on_commit()
        finally:
            super().close()

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            raise StorageError(
                f"{self.path} was opened for writing by process {self._pid}, from which this process was forked: it can "
                "neither write nor close it. Open it in this process",
                ErrorDetails(url=self.path, operation="write"),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        if hasattr(self, "_open"):
            self.drop()


class AtomicTextWriter(io.TextIOWrapper):
    """Text over a binary file that discards after an exception.

    `io.TextIOWrapper` would close the binary file instead, and so publish the half that was written.

    Args:
        file: The binary file.
        **options: ``encoding``, ``errors``, ``newline``, as for the built-in `open`.
    """

    def __init__(self, file: AtomicWriter, **options: Any) -> None:
        # io.TextIOWrapper writes no byte order mark into a file that is not seekable: its position might be in the middle.
        # This file is at its start, so it claims to be seekable for this moment.
        vars(file)["seekable"] = lambda: True
        try:
            super().__init__(cast("IO[bytes]", file), **options)
        finally:
            del vars(file)["seekable"]
        self._file = file

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._file.discard()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.drop()


class _CompressingWriter:
    """An `ObjectWriter` that compresses into a file."""

    def __init__(self, file: AtomicWriter, codec: str) -> None:
        self._file = file
        self._compressor = compr[codec](file, mode="w")

    def write(self, data: ReadableBuffer) -> int:
        return int(self._compressor.write(data))

    def tell(self) -> int:
        return int(self._compressor.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._compressor.seek(offset, whence))

    def seekable(self) -> bool:
        return bool(self._compressor.seekable())

    def commit(self) -> Any:
        try:
            self._compressor.close()
        except BaseException:
            self._file.discard()
            raise
        self._file.close()
        return self._file.stored

    def discard(self) -> None:
        with contextlib.suppress(Exception):  # the compressor writes its last bytes, which are discarded below
            self._compressor.close()
        self._file.discard()


def open_layers(  # noqa: PLR0917 - the arguments of fsspec's `open`
    open_below: Callable[..., Any],
    path: str,
    mode: str,
    block_size: int | None,
    cache_options: dict[str, Any] | None,
    compression: str | None,
    **kwargs: Any,
) -> Any:
    """Open a file by fsspec's `open`, but with text and compression layers that discard after an exception.

    fsspec's own layers would close the file below after an exception, which publishes it, or never.

    Args:
        open_below: fsspec's `open` of the filesystem; its ``_open`` gives an `AtomicWriter` for ``"wb"`` and ``"xb"``.
        path: The file.
        mode: ``"rb"``, ``"r"``, ``"wb"``, ``"w"``, ``"xb"``, ``"x"``, ….
        block_size: Bytes to read at a time.
        cache_options: For reading.
        compression: Such as ``"gzip"``, or ``"infer"`` to use the file's extension.
        **kwargs: ``encoding``, ``errors`` and ``newline`` for text; the rest goes to `open_below`.
    """
    if not set("wx") & set(mode):
        return open_below(path, mode, block_size, cache_options, compression, **kwargs)
    text = {name: kwargs.pop(name) for name in ("encoding", "errors", "newline") if name in kwargs}
    binary = mode.replace("t", "").replace("b", "") + "b"
    file: AtomicWriter = open_below(path, binary, block_size, cache_options, **kwargs)
    codec = infer_compression(path) if compression == "infer" else compression
    if codec is not None:
        file = AtomicWriter(_CompressingWriter(file, codec), path)
    return file if "b" in mode else AtomicTextWriter(file, **text)


class AtomicTransaction(Transaction):  # type: ignore[misc]  # fsspec publishes no types
    """fsspec's transaction, which ends also if a commit fails: older releases of fsspec then defer all later writes."""

    def complete(self, commit: bool = True) -> None:
        """Publish all files, in the order in which they were opened, or discard them.

        Args:
            commit: Whether to publish.

        Raises:
            Exception: The exception of the first file that cannot be published; the files after it are discarded.
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
                filesystem._transaction = None  # noqa: SLF001 - as fsspec's own does
            mine.fs = None
