"""Files that are open for writing: their content appears when they are closed, complete, or not at all."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import opcode
import os
import sys
from typing import IO, TYPE_CHECKING, Any, Self, cast

from gllm_storage.errors import ErrorDetails, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType

    from _typeshed import ReadableBuffer

    from gllm_storage.info import Stored
    from gllm_storage.store.port import ObjectWriter


_logger = logging.getLogger(__name__)
_VARARGS = inspect.CO_VARARGS
_EXITS = frozenset({"__exit__", "__aexit__"})
_CALLS_EXIT = opcode.opmap["WITH_EXCEPT_START"]
"""The instruction of a ``with`` statement that calls ``__exit__`` with an exception; not used for an exit without one."""


def is_create(mode: str) -> bool:
    """Whether fsspec's `mode` of `put_file` and `pipe_file` requests an exclusive create.

    Raises:
        ValueError: If it is neither ``"overwrite"`` nor ``"create"``.
    """
    if mode not in {"overwrite", "create"}:
        raise ValueError(f"mode must be 'overwrite' or 'create', not {mode!r}")
    return mode == "create"


class Unwinding:
    """Whether a file that is closed now is closed by the ``__exit__`` of a block that failed.

    `fsspec.open`, pandas, pyarrow and `io.TextIOWrapper` close a file at the end of a ``with`` block and do not tell it
    whether the block failed. A file that publishes then stores a truncated object under its name. The stack tells: the
    nearest ``__exit__`` on it was called with the exception, and the exception was not being handled when the file was
    opened.

    Both conditions are needed. A program that saves its state in an ``except`` block opens and closes a file while an
    exception is handled, and no ``__exit__`` is on the stack. One that saves its state in an ``__exit__`` of its own opens
    the file while the exception is handled. `sys.exception` alone would discard both files.

    An ``__exit__`` that is written in C has no frame, such as that of `io.TextIOWrapper`. But the ``with`` statement that
    called it is at the instruction ``WITH_EXCEPT_START``.

    Create an instance when the file is opened. It refers to the exceptions that are handled at that time, and so to their
    frames; `forget` ends that.
    """

    def __init__(self) -> None:
        self._handled = sys.exception()

    def failure(self, file: object) -> BaseException | None:
        """The exception of the block whose end closes the file; None if the caller closes it for another reason.

        Args:
            file: The file. The ``__exit__`` of its own `fsspec.core.OpenFile` ends the block that opened the file, so it
                counts also if the exception was being handled at the beginning of the block, and was raised again.
        """
        current = sys.exception()
        if current is None:
            return None
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - documented, for CPython
        while frame is not None:
            if frame.f_code.co_name in _EXITS:
                failure = _argument_of(frame)
                is_own = _is_open_file_of(frame, file)
                return failure if is_own or not self._was_handled(failure) else None
            if frame.f_lasti >= 0 and frame.f_code.co_code[frame.f_lasti] == _CALLS_EXIT:
                return None if self._was_handled(current) else current
            frame = frame.f_back
        return None

    def forget(self) -> None:
        """Drop the references, when the file is closed."""
        self._handled = None

    def _was_handled(self, failure: BaseException | None) -> bool:
        return any(each is failure for each in _with_contexts(self._handled))


def _argument_of(frame: FrameType) -> BaseException | None:
    """The exception that an ``__exit__`` was called with."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount + bool(frame.f_code.co_flags & _VARARGS)]
    given = [frame.f_locals[name] for name in names if name in frame.f_locals]
    for each in given:
        for value in each if isinstance(each, tuple) else (each,):
            if isinstance(value, BaseException):
                return value
    return None


def _is_open_file_of(frame: FrameType, file: object) -> bool:
    # The module lacks its names while another thread imports it.
    open_file = getattr(sys.modules.get("fsspec.core"), "OpenFile", None)
    owner: Any = frame.f_locals.get("self")
    return open_file is not None and isinstance(owner, open_file) and any(each is file for each in owner.fobjects)


def _with_contexts(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that were being handled when it was raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__context__


class AtomicWriter(io.BufferedIOBase):
    """A file object over an `ObjectWriter`: `close` publishes, an exception in a ``with`` block discards.

    `close` discards as well, and logs a warning, if the end of a ``with`` block that failed calls it; see `Unwinding`.

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
        publish_on_error: Whether `close` publishes also at the end of a ``with`` block that failed, if the block is not
            the file's own.
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
        publish_on_error: bool = False,
    ) -> None:
        self.path = self.name = path
        self.mode = mode
        self.fs = fs
        self.autocommit = autocommit
        self.publish_on_error = publish_on_error
        self.stored: Stored | None = None
        """The stored object, after `close` or `commit`; None before, and for layers above the object's own bytes."""
        self._pid = os.getpid()
        self._on_commit = on_commit
        self._writer = writer
        self._unwinding = None if publish_on_error else Unwinding()
        self._is_dropped = False
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
        """Publish the content, unless `commit` will; discard it at the end of a ``with`` block that failed.

        Raises:
            FileExistsError: If the file was opened exclusively, and another writer has created it since.
            StorageError: If it cannot be published.
        """
        if self._is_dropped:
            self.drop()
        elif self._is_block_failing():
            self.discard()
        elif self.autocommit:
            self._publish()
        else:
            super().close()

    def _is_block_failing(self) -> bool:
        if not self._open or self.closed or self._unwinding is None or self._pid != os.getpid():
            return False
        failure = self._unwinding.failure(self)
        if failure is not None:
            _logger.warning("%s was closed after %s: nothing was stored", self.path, type(failure).__name__)
        return failure is not None

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
        self._end()
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
        self._end()
        try:
            self.stored = self._writer.commit()
            if self._on_commit is not None:
                self._on_commit()
        finally:
            super().close()

    def _end(self) -> None:
        self._open = False
        if self._unwinding is not None:
            self._unwinding.forget()

    def _require_own_process(self) -> None:
        if self._pid != os.getpid():
            raise StorageError(
                f"{self.path} was opened for writing by process {self._pid}, from which this process was forked: it can "
                "neither write nor close it. Open it in this process",
                ErrorDetails(url=self.path, operation="write"),
            )

    def _dealloc_warn(self, _: object) -> None:
        """Called by an `io.TextIOWrapper` or `io.BufferedWriter` that is dropped unclosed, before it closes this file."""
        self._is_dropped = True

    def __reduce_ex__(self, _: object) -> Any:
        raise _not_picklable(self.path)

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

    def __reduce_ex__(self, _: object) -> Any:
        raise _not_picklable(self._file.path)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.drop()


def _not_picklable(path: str) -> TypeError:
    return TypeError(
        f"{path} is open for writing, and cannot be pickled or copied: only this file knows what was written. Pickle the "
        "URL, and open the file in the process that writes it"
    )


class _CompressingWriter:
    """An `ObjectWriter` that compresses into a file."""

    def __init__(self, file: AtomicWriter, codec: str) -> None:
        from fsspec.compression import compr  # fsspec takes 50 ms to import

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
    codec = _inferred(path) if compression == "infer" else compression
    if codec is not None:
        file = AtomicWriter(_CompressingWriter(file, codec), path, publish_on_error=file.publish_on_error)
    return file if "b" in mode else AtomicTextWriter(file, **text)


def _inferred(path: str) -> str | None:
    """The compression that the extension of a path names."""
    from fsspec.utils import infer_compression  # fsspec takes 50 ms to import

    codec: str | None = infer_compression(path)
    return codec
