"""Records of any number: in memory if they are few, in a temporary file if they are many."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_IN_MEMORY = 2**23
"""Bytes: the records of about 60 000 files."""

_AT_ONCE = 2**18
"""Bytes of records that are read at a time."""

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Records:
    """A list of records that spills to disk. First it is written, then it is read, by one thread at a time."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, prefix="gllm-storage-")  # noqa: SIM115 - closed by `close`
        self._count = 0

    def add(self, record: dict[str, Any]) -> None:
        """Add a record of texts, numbers and None, which are left out."""
        kept = {name: value for name, value in record.items() if value is not None}
        self._file.write(f"{_encode(kept)}\n".encode())
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        position = 0
        while True:
            self._file.seek(position)  # another iteration, or `add`, may have moved it
            lines = self._file.readlines(_AT_ONCE)
            self._file.seek(0, 2)
            if not lines:
                return
            position += sum(map(len, lines))
            yield from map(json.loads, lines)

    def close(self) -> None:
        """Delete the records."""
        self._file.close()

    def __del__(self) -> None:
        self._file.close()
