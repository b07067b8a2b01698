"""Files that are open for reading, and are fsspec's: the classes of `filesystem.reading` that import fsspec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec.caching import BaseCache
from fsspec.spec import AbstractBufferedFile

from gllm_storage.filesystem.reading import VersionFile

if TYPE_CHECKING:
    from gllm_storage.concurrency.fork import PerProcess
    from gllm_storage.filesystem.read_ahead import ReadAhead, Source


class ParallelCache(BaseCache):
    """The `ReadAhead` of a file with the interface of fsspec's caches. A forked child begins with an empty one.

    Args:
        source: The version of the object.
        of_process: The `ReadAhead` of the file.
    """

    name = "parallel"

    def __init__(self, source: Source, of_process: PerProcess[ReadAhead]) -> None:
        super().__init__(source.block_size, self._fetch, source.size)
        self._of_process = of_process

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        first, last, _ = slice(start, stop).indices(self.size)
        ahead = self._of_process.get()
        with ahead.lock:
            return ahead.read(first, last) if first < last else b""

    def close(self) -> None:
        """Discard all blocks and cancel their fetches."""
        ahead = self._of_process.get()
        with ahead.lock:
            ahead.close()


class FsspecFile(VersionFile):
    """A mixin for a file class of fsspec, placed before it; see `VersionFile`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self._source is not None and self._ahead is not None:
            self.cache = ParallelCache(self._source, self._ahead)


class ObjectFile(FsspecFile, AbstractBufferedFile):
    """An object that is open for reading, pinned to the version that was current at `open`."""
