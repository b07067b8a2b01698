"""Where downloaded bytes go."""

from __future__ import annotations

import io
from typing import Protocol


class Sink(Protocol):
    """Where downloaded bytes go."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes at an offset of the object; any thread may give them."""

    def buffer_at(self, offset: int, length: int) -> memoryview | None:
        """Where such bytes may be put before they are given, and need not be copied then; None if there is no such place."""


class Target(Sink, Protocol):
    """Where a whole object goes, to be read back and compared with its checksum."""

    def allocate(self, size: int) -> None:
        """Make room for so many bytes; what is there already is worth nothing."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes as they were taken."""


class MemoryTarget:
    """An object in memory."""

    def __init__(self) -> None:
        self.allocate(0)

    def allocate(self, size: int) -> None:
        """Make room for so many bytes."""
        self._buffer = io.BytesIO(bytes(size))  # gives out its bytes without a copy, as a bytearray does not

    def buffer_at(self, offset: int, length: int) -> None:
        """None: its buffer gives out its bytes without a copy only while nobody else holds it."""

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Take bytes at an offset of the object."""
        with self._buffer.getbuffer() as view:
            view[offset : offset + len(data)] = data

    def read_at(self, offset: int, length: int) -> bytes:
        """Bytes as they were taken."""
        with self._buffer.getbuffer() as view:
            return bytes(view[offset : offset + length])

    def getvalue(self) -> bytes:
        """What was taken."""
        return self._buffer.getvalue()
