"""File objects that read one version of an object: the one that was there when they were opened."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.caching import BaseCache
from fsspec.spec import AbstractBufferedFile

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError, Remedy, StorageError, StorageUnavailableError
from gllm_storage.filesystem.read_ahead import ReadAhead, Source
from gllm_storage.store.ranges import read_into
from gllm_storage.store.reader import ObjectChangedError

if TYPE_CHECKING:
    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore

_CACHE_OPTIONS = {"cache_type", "cache_options"}
_LINE = 8 * 2**10
_LONG_LINE = 2**20


class ParallelCache(BaseCache):  # type: ignore[misc]  # fsspec publishes no types
    """`ReadAhead` where fsspec's files have their cache. A forked child has one of its own.

    Args:
        source: The object.
    """

    name = "parallel"

    def __init__(self, source: Source) -> None:
        super().__init__(source.block_size, self._fetch, source.size)
        self.of_process: PerProcess[ReadAhead] = PerProcess(partial(ReadAhead, source))

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        first, last, _ = slice(start, stop).indices(self.size)
        ahead = self.of_process.get()
        with ahead.lock:
            return ahead.read(first, last) if first < last else b""

    def close(self) -> None:
        """Keep nothing, and let nothing be on its way."""
        ahead = self.of_process.get()
        with ahead.lock:
            ahead.reset()


class VersionFile:
    """Mixed into one of fsspec's files, before it: reads of one version, ahead of the caller.

    Args:
        fs: The filesystem; it opens the file again after pickling.
        path: ``bucket/key``.
        version: The version to read.
        store: The store of the object.
        key: The key of the object.
        block_size: The most bytes that one request fetches of what was not asked for yet; never more than a part's.
        **options: ``cache_type`` and ``cache_options``, if one of fsspec's own caches is wanted, which then goes by
            `block_size`; and what else the file below takes.

    Raises:
        ValueError: If `block_size` is negative.
    """

    fs: Any
    path: str
    loc: int
    size: int
    closed: bool

    def __init__(
        self,
        fs: Any,
        path: str,
        version: ObjectInfo,
        store: ObjectStore,
        key: str,
        *,
        block_size: int | None = None,
        **options: Any,
    ) -> None:
        if block_size is not None and block_size < 0:
            raise ValueError(f"block_size must not be negative, and is {block_size}")
        self.version = version
        self._store = store
        self._key = key
        self._given = {"block_size": block_size, **options}
        self._ahead: PerProcess[ReadAhead] | None = None
        is_ours = not _CACHE_OPTIONS & options.keys()
        shown: Any = block_size or getattr(fs, "default_block_size", None)
        below: Any = super()
        below.__init__(
            fs, path, "rb", block_size=shown, size=version.size, **({"cache_type": "none"} if is_ours else {}), **options
        )
        if is_ours:
            settings = store.settings
            most = min(block_size or settings.part_size, settings.part_size)
            # Not a method of this file, which would keep it alive.
            fetch = partial(_fetch_version, store, key, version)
            self.cache = ParallelCache(Source(fetch, version.size, settings, most))
            self._ahead = self.cache.of_process

    def read(self, length: int | None = -1) -> bytes:
        """Read bytes.

        Args:
            length: How many; all that remain, if negative or None.

        Raises:
            ValueError: If the file is closed.
            OSError: If the object was replaced since it was opened (`FileExpired` on S3).
            StorageError: If it cannot be read; `StorageUnavailableError` if it was replaced, and is not on S3.
            ObjectNotFoundError: If it was deleted.
        """
        self._require_open()
        if self._ahead is None:
            below: Any = super()
            read: bytes = below.read(length)
            return read
        ahead = self._ahead.get()
        with ahead.lock:
            start, end = self._range(-1 if length is None else int(length))
            if start >= end:
                return b""
            try:
                found = ahead.read(start, end)
            except ObjectChangedError as error:
                raise self._replaced() from error
            self.loc = end
            return found

    def readinto(self, b: Any) -> int:
        """Read bytes into a buffer.

        Returns:
            How many; fewer than it holds at the end of the object only.

        Raises:
            Exception: As `read`.
        """
        self._require_open()
        if self._ahead is None:
            below: Any = super()
            return int(below.readinto(b))
        target = memoryview(b).cast("B")
        ahead = self._ahead.get()
        with ahead.lock:
            start, end = self._range(len(target))
            if start >= end:
                return 0
            try:
                ahead.read_into(start, target[: end - start])
            except ObjectChangedError as error:
                raise self._replaced() from error
            self.loc = end
            return end - start

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Read up to a separator, and the separator; or all that remains, if it does not come.

        Args:
            char: The separator, of one byte or more.
            blocks: How many bytes to look at in each go.

        Raises:
            Exception: As `read`.
        """
        return self._read_until(char, blocks, None)

    def readline(self, size: int | None = -1, /) -> bytes:
        r"""Read up to a ``\n``, and that; or all that remains.

        Args:
            size: The most bytes to read, if not negative.

        Raises:
            Exception: As `read`.
        """
        return self._read_until(b"\n", None, None if size is None or size < 0 else size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        r"""All lines that remain, each with its ``\n``.

        Args:
            hint: Stop after the line with which so many bytes are read.

        Raises:
            Exception: As `read`.
        """
        if hint is None or hint <= 0:
            return io.BytesIO(self.read()).readlines()
        lines: list[bytes] = []
        total = 0
        while total < hint and (line := self.readline()):
            lines.append(line)
            total += len(line)
        return lines

    def seek(self, loc: int, whence: int = 0) -> int:
        """Move the position; behind the end is nothing to read.

        Raises:
            ValueError: If it would be before the start, if `whence` is none of 0, 1 and 2, or if the file is closed.
        """
        self._require_open()
        below: Any = super()
        return int(below.seek(loc, whence))

    def tell(self) -> int:
        """The position.

        Raises:
            ValueError: If the file is closed.
        """
        self._require_open()
        return self.loc

    def write(self, _: Any, /) -> int:
        """Not in a file that is open for reading.

        Raises:
            io.UnsupportedOperation: Always; it is an `OSError` and a `ValueError`.
        """
        raise io.UnsupportedOperation(f"{self.version.url} is open for reading, and cannot be written to")

    def _range(self, length: int) -> tuple[int, int]:
        return self.loc, self.size if length < 0 else min(self.size, self.loc + length)

    def _read_until(self, separator: bytes, step: int | None, most: int | None) -> bytes:
        self._require_open()
        start, found = self.loc, bytearray()
        wanted = step or min(_LINE, getattr(self, "blocksize", _LINE))
        while piece := self.read(wanted if most is None else min(wanted, most - len(found))):
            looked_at = max(0, len(found) - len(separator) + 1)
            found += piece
            at = found.find(separator, looked_at)
            if at >= 0:
                self._step_back(start + at + len(separator))
                return bytes(found[: at + len(separator)])
            wanted = step or min(2 * wanted, _LONG_LINE)
        return bytes(found)

    def _step_back(self, position: int) -> None:
        self.loc = position
        if self._ahead is not None:
            ahead = self._ahead.get()
            with ahead.lock:
                ahead.step_back(position)

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _fetch_range(self, start: int, end: int) -> bytes:
        """For fsspec's caches."""
        if start >= end:
            return b""
        content = io.BytesIO(bytes(end - start))  # gives out its bytes without a copy, as a bytearray does not
        try:
            with content.getbuffer() as target:
                _fetch_version(self._store, self._key, self.version, start, target, None)
        except ObjectChangedError as error:
            raise self._replaced() from error
        return content.getvalue()

    def _replaced(self) -> Exception:
        """What to raise when the object is another version now, or, as GCS and Azure do not tell apart, gone."""
        try:
            self._store.info(self._key, "read")
        except ObjectNotFoundError as gone:
            return gone
        except StorageError:
            pass  # this version at least is not to be had
        return StorageUnavailableError(
            f"read of {self.version.url}: the object was replaced since it was opened",
            ErrorDetails(self._store.provider, self.version.url, "read"),
            Remedy.OPEN_AGAIN,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.fs, self.path, self.version, self.loc, self._given)


def _fetch_version(  # noqa: PLR0917 - called by `functools.partial`, front to back
    store: ObjectStore, key: str, version: ObjectInfo, start: int, target: memoryview, stop: Stop | None
) -> None:
    """Fill a buffer with bytes of one version of an object. Each call makes a reader, which therefore survives a fork."""
    read_into(store.open_reader(key), version, start, target, store.transfer(key, "read", stop=stop))


def _reopened(fs: Any, path: str, version: ObjectInfo, position: int, given: dict[str, Any]) -> Any:
    """Open the same version again, without a look: the first read finds out whether it is still there."""
    file = fs.open_version(path, version, **given)
    file.loc = position
    return file


class ObjectFile(VersionFile, AbstractBufferedFile):  # type: ignore[misc]  # fsspec publishes no types
    """An object, open for reading; pinned to the version that was there at `open`."""
