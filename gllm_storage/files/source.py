"""Where the bytes of an upload come from: a local file (`LocalSource`), or memory."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Protocol

from gllm_storage.files.local_files import SourceChangedError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from gllm_storage.errors import ErrorDetails, StorageError


class Source(Protocol):
    """Bytes to be uploaded, which any thread may read at any offset, again and again."""

    @property
    def size(self) -> int:
        """How many there are."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` of them.

        Raises:
            StorageError: If they cannot be read.
        """

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer with those from an offset on.

        Raises:
            StorageError: If they cannot be read.
        """

    def require_unchanged(self) -> None:
        """Check, where that can be told, that they are the same as when the source was made.

        Raises:
            StorageError: If they are not.
        """

    def changed(self) -> StorageError:
        """The error for bytes that changed while they were read."""


class MemorySource:
    """Bytes in memory.

    Args:
        data: The bytes. They are not copied: what is done to a buffer while it is sent is found out by its checksum.
        details: What the upload is about, for errors.

    Raises:
        TypeError: If `data` is no buffer.
        BufferError: If its bytes are not in one piece, in their order.
    """

    def __init__(self, data: ReadableBuffer, details: ErrorDetails) -> None:
        self._data = data
        self._view = bytes_of(data)
        self._details = details

    @property
    def size(self) -> int:
        """How many there are."""
        return len(self._view)

    def read_at(self, offset: int, length: int) -> bytes:
        """Some of them, as an object of their own."""
        if isinstance(self._data, bytes) and (offset, length) == (0, self.size):
            return self._data
        return bytes(self._view[offset : offset + length])

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill a buffer with those from an offset on."""
        view[:] = self._view[offset : offset + len(view)]

    def view_at(self, offset: int, length: int) -> memoryview:
        """Some of them, where they are."""
        return self._view[offset : offset + length]

    def require_unchanged(self) -> None:
        """Nothing tells without reading them."""

    def changed(self) -> StorageError:
        """The error for bytes that changed while they were read."""
        return SourceChangedError(
            f"{self._details.operation} of {self._details.url}: the buffer was written to while it was sent, so nothing was "
            "stored. Write to another one, or wait",
            self._details,
        )


def bytes_of(data: ReadableBuffer) -> memoryview:
    """The bytes of a buffer, where they are, whatever its items are.

    Raises:
        TypeError: If it is no buffer.
        BufferError: If its bytes are not in one piece, in their order.
    """
    view = memoryview(data)
    if not view.c_contiguous:
        raise BufferError("only a C-contiguous buffer can be written; make one by .copy()")
    if view.format == "B" and view.ndim == 1:
        return view
    return pickle.PickleBuffer(view).raw()  # memoryview.cast knows neither big-endian nor structured items


def is_immutable(view: memoryview) -> bool:
    """Whether nobody can change the bytes of a view, so that they need not be copied to be kept."""
    return isinstance(view.obj, bytes)
