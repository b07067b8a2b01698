"""Records of any number: in memory if they are few, in a temporary file if they are many."""

from __future__ import annotations

import contextlib
import json
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar

from gllm_storage.files.scratch import scratch_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_IN_MEMORY = 8192
"""The most values in memory: a step of a plan is about 600 bytes, and as many as its path."""
_BLOCK = 1024
"""Values of one line of the file. The encoder of JSON takes five times as long for as many lines of one value."""

_encode = json.JSONEncoder(separators=(",", ":")).encode

T = TypeVar("T")


class Records(Generic[T]):
    """A list that spills to disk. First it is written, then it is read, by one thread at a time.

    Args:
        pack: Gives the fields of a value, texts, numbers and None, for the disk.
        unpack: Gives a value of its fields.
    """

    def __init__(self, pack: Callable[[T], Sequence[Any]], unpack: Callable[[list[Any]], T]) -> None:
        self._pack = pack
        self._unpack = unpack
        self._recent: list[T] = []
        self._file: IO[bytes] | None = None
        self._spilled = 0

    def add(self, value: T) -> None:
        """Add a value.

        Raises:
            StorageError: If the disk for temporary files is full or fails.
        """
        self._recent.append(value)
        if len(self._recent) >= _IN_MEMORY:
            try:
                self._spill()
            except OSError as error:
                raise scratch_error(error) from error

    def _spill(self) -> None:
        if self._file is None:
            import tempfile

            self._file = tempfile.TemporaryFile(prefix="gllm-storage-")  # noqa: SIM115 - closed by `close`
        for start in range(0, len(self._recent), _BLOCK):
            fields = list(map(self._pack, self._recent[start : start + _BLOCK]))
            self._file.write(f"{_encode(fields)}\n".encode())
        self._spilled += len(self._recent)
        self._recent.clear()

    def __len__(self) -> int:
        return self._spilled + len(self._recent)

    def __iter__(self) -> Iterator[T]:
        position = 0
        while self._file is not None:
            self._file.seek(position)  # another iteration, or `add`, may have moved it
            line = self._file.readline()
            self._file.seek(0, 2)
            if not line:
                break
            position += len(line)
            yield from map(self._unpack, json.loads(line))
        yield from self._recent

    def close(self) -> None:
        """Delete the records."""
        self._recent.clear()
        if self._file is not None:
            with contextlib.suppress(OSError):  # what is not written yet is written: the disk may be full
                self._file.close()

    def __del__(self) -> None:
        self.close()
