"""`open_content`: a source of everything that a caller may upload: a path, a buffer, or a binary file object."""

from __future__ import annotations

import contextlib
import io
import os
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import StorageError
from gllm_storage.files.source import CHUNK, MemorySource, complete_source, local_errors, open_source
from gllm_storage.files.spool import spool_of
from gllm_storage.paths import require_local

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.store.transfer import Transfer

_TEXT = "an open text file cannot be uploaded: its bytes are unknown. Open it in binary mode ('rb')"


def local_path(value: Any, verb: str) -> str:
    """The path of a local file as a text.

    Args:
        value: A text, or a path object.
        verb: The method that takes other values, for the message.

    Raises:
        TypeError: If it is something else, such as bytes.
        ValueError: If it is a URL, or begins with ``~/``.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"the local path must be a str or a path object, not {type(value).__name__}; {verb}")
    return require_local("the local path", _text_of(value))


def open_content(value: Any, transfer: Transfer) -> AbstractContextManager[Source]:
    """Open the content of an upload.

    Args:
        value: The path of a file (a text or a path object); bytes or another buffer; or a binary file object, which is read
            from its current position to its end. A regular file that is at its beginning is read in place; everything else
            is copied into memory or a temporary file first, since parts are sent at once, and again after a failure.
        transfer: The upload.

    Raises:
        TypeError: If it is none of these, such as a text file.
        ValueError: If it is a URL, or a path that begins with ``~/``.
        FileNotFoundError: If the path names no file.
        StorageError: If the file cannot be read.
    """
    if isinstance(value, (str, os.PathLike)):
        path = require_local("the local path", _text_of(value))
        return open_source(path, transfer.details, sync=transfer.settings.sync_source)
    buffer = _buffer_of(value)
    if buffer is not None:
        return contextlib.nullcontext(MemorySource(buffer, transfer.details))
    if isinstance(value, io.TextIOBase):
        raise TypeError(_TEXT)
    if not callable(getattr(value, "read", None)):
        raise TypeError(
            f"cannot upload {type(value).__name__}: pass a path, bytes or another buffer, or a binary file object"
        )
    fd = _fd_at_start(value)
    return _open_copy(value, transfer) if fd is None else _open_in_place(value, fd, transfer)


def _text_of(value: str | os.PathLike[str]) -> str:
    return value if isinstance(value, str) else os.fsdecode(os.fspath(value))


def _buffer_of(value: Any) -> memoryview | None:
    try:
        return memoryview(value)
    except TypeError:
        return None


def _fd_at_start(file: Any) -> int | None:
    """The descriptor of a regular file that is read in place; None if the file object may give other bytes than the file.

    ``fileno`` alone is not enough: `gzip.GzipFile` has the descriptor of the compressed file.
    """
    raw = file if isinstance(file, io.FileIO) else getattr(file, "raw", None)
    if not isinstance(raw, io.FileIO) or raw.closed or not raw.readable() or not raw.seekable():
        return None
    if file.tell():
        return None
    if file.writable():
        file.flush()
    return raw.fileno()


@contextlib.contextmanager
def _open_in_place(file: Any, fd: int, transfer: Transfer) -> Iterator[Source]:
    own = os.dup(fd)  # the caller may close the file while threads of a cancelled upload still read
    try:
        name, sync = str(getattr(file, "name", "<file>")), transfer.settings.sync_source
        with complete_source(own, name, transfer.details, sync=sync) as source:
            yield source
            file.seek(source.size)  # as if it had been read
    finally:
        os.close(own)


@contextlib.contextmanager
def _open_copy(file: Any, transfer: Transfer) -> Iterator[Source]:
    spool = spool_of(transfer.settings, transfer.details)
    try:
        while data := _read(file, transfer.details):
            transfer.stop.check()
            spool.write(data)
        yield spool.source()
    finally:
        spool.close()


def _read(file: Any, details: ErrorDetails) -> bytes:
    with local_errors("read", str(getattr(file, "name", "<file object>")), details):
        data = file.read(CHUNK)
    if isinstance(data, str):
        raise TypeError(_TEXT)
    if data is None:
        raise StorageError(f"{details.operation} of {details.url}: the file object has no data at the moment", details)
    return bytes(data)
