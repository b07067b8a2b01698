"""Files that are open for reading. They read one version of the object: the current one at `open`.

A file keeps the store and the key, and makes an `ObjectReader` for each fetch. So it can be pickled, and used after a fork:
no connection crosses to another process. The pickle holds the version and the position. Opened again in another process, the
file sends no request until the first read, which fails if the version is gone.

Threads may share a file. DuckDB, for one, calls `seek` and `read` in each thread, and relies on the interpreter's lock to
keep the two together. So a read takes its range and moves the position before anything blocks and lets other threads run;
if the read fails, the position moves back. The end of a line is unknown before it was read, so `readline` leaves a `_Claim`
on the position: a read of another thread waits for the claim to end, unless a `seek` came in between.
"""

from __future__ import annotations

import io
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError, Remedy, StorageError, StorageUnavailableError
from gllm_storage.filesystem.read_ahead import ReadAhead, Source
from gllm_storage.store.ranges import RangeStream, read_into
from gllm_storage.store.reader import ObjectChangedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore

T = TypeVar("T")

_CACHE_OPTIONS = {"cache_type", "cache_options"}
_LINE = 8 * 2**10
"""Bytes that `readline` reads first; each further read is twice as long."""
_LONG_LINE = 2**17
"""The most bytes that `readline` reads at a time: so few that they stay in memory, because the next line may begin there."""
_STREAM_PARTS = 8
"""The most bytes of a request for sequential reads, in parts."""


class _Claim:
    """The position of a file while a line is read from there, in the thread that made the claim."""

    def __init__(self) -> None:
        self._owner = os.getpid(), threading.get_ident()
        self._ended = threading.Lock()
        self._ended.acquire()

    def wait(self) -> bool:
        """Wait until the line was read.

        Returns:
            False, at once, if that would be in vain: in a forked child, or in a signal handler of the thread that reads.
        """
        pid, thread = self._owner
        if pid != os.getpid() or thread == threading.get_ident():
            return False
        with self._ended:
            return True

    def end(self) -> None:
        """Let the waiting threads go on."""
        self._ended.release()


class VersionFile:
    """A mixin for a file class with the attributes of fsspec's, placed before it: reads one version, with read-ahead.

    It does not import fsspec; `filesystem.object_file.FsspecFile` is the mixin for fsspec's own classes.

    Args:
        fs: The filesystem. It opens the file again after unpickling.
        path: ``bucket/key``.
        version: The version to read.
        store: The store of the object.
        key: The key of the object.
        block_size: The most bytes of a block that is fetched ahead; at most the part size, which is the default.
        **options: ``cache_type`` and ``cache_options`` choose one of fsspec's caches in place of `ReadAhead`; it uses
            `block_size` in its own way. All options are passed to the file class.

    Raises:
        ValueError: If `block_size` is negative.
    """

    fs: Any
    path: str
    loc: int
    size: int
    closed: bool
    cache: Any

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
            raise ValueError(f"block_size={block_size} is negative")
        self.version = version
        self._store = store
        self._key = key
        self._given = {"block_size": block_size, **options}
        self._source: Source | None = None
        self._ahead: PerProcess[ReadAhead] | None = None
        self._of_cache = PerProcess(threading.RLock)  # fsspec's caches are not made for threads
        self._claim: _Claim | None = None
        reads_ahead = not _CACHE_OPTIONS & options.keys()
        shown: Any = block_size or getattr(fs, "default_block_size", None)
        below: Any = super()
        below.__init__(
            fs, path, "rb", block_size=shown, size=version.size, **({"cache_type": "none"} if reads_ahead else {}), **options
        )
        if reads_ahead:
            settings = store.settings
            most = min(block_size or settings.part_size, settings.part_size)
            # Not a method of this file: the threads that fetch would keep the file alive.
            fetch, stream = partial(_fetch_version, store, key, version), partial(_stream_of, store, key, version)
            streamed = block_size or _STREAM_PARTS * settings.part_size
            self._source = Source(fetch, stream, version.size, settings, most, streamed)
            self._ahead = PerProcess(partial(ReadAhead, self._source))

    def read(self, length: int | None = -1) -> bytes:
        """Read bytes from the position on.

        Args:
            length: The most bytes to read; all remaining bytes if negative or None.

        Returns:
            The bytes; fewer than `length` only at the end of the object.

        Raises:
            ValueError: If the file is closed.
            OSError: If the object was replaced since the file was opened, on S3 (s3fs's `FileExpired`).
            StorageUnavailableError: If the object was replaced since the file was opened, on other stores.
            ObjectNotFoundError: If the object was deleted.
            StorageError: If the object cannot be read for another reason.
        """
        self._require_open()
        return self._read_next(-1 if length is None else int(length), self._read_range) or b""

    def readinto(self, b: Any) -> int:
        """Read bytes into a buffer.

        Args:
            b: A writable, C-contiguous buffer.

        Returns:
            The number of bytes; fewer than the size of the buffer only at the end of the object.

        Raises:
            Exception: As `read`.
        """
        self._require_open()
        target = memoryview(b).cast("B")
        return self._read_next(len(target), partial(self._read_range_into, target)) or 0

    def readinto1(self, b: Any) -> int:
        """As `readinto`."""
        return self.readinto(b)

    def readuntil(self, char: bytes = b"\n", blocks: int | None = None) -> bytes:
        """Read up to and including a separator; all remaining bytes if there is none.

        Args:
            char: The separator, of one byte or more.
            blocks: Bytes to read at a time; by default 8 KiB at first, and more for long lines.

        Raises:
            Exception: As `read`.
        """
        return self._read_until(char, blocks, None)

    def readline(self, size: int | None = -1, /) -> bytes:
        r"""Read up to and including a ``\n``; all remaining bytes if there is none.

        Args:
            size: The most bytes to read; no limit if negative or None.

        Raises:
            Exception: As `read`.
        """
        return self._read_until(b"\n", None, None if size is None or size < 0 else size)

    def readlines(self, hint: int | None = -1, /) -> list[bytes]:
        r"""All remaining lines, each with its ``\n``.

        Args:
            hint: Stop after the line with which this number of bytes is reached; no limit if None, 0 or negative.

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
        """Move the position. Behind the end of the object, reads return no bytes.

        Args:
            loc: Offset in bytes.
            whence: Where the offset counts from: 0 the start, 1 the position, 2 the end.

        Returns:
            The new position.

        Raises:
            ValueError: If the position would be negative, if `whence` is not 0, 1 or 2, or if the file is closed.
        """
        self._require_open()
        if whence not in {io.SEEK_SET, io.SEEK_CUR, io.SEEK_END}:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        if whence == io.SEEK_CUR:
            self._settle()
        position = int(loc) + (self.size if whence == io.SEEK_END else self.loc if whence == io.SEEK_CUR else 0)
        if position < 0:
            raise ValueError("Seek before start of file")
        self._claim = None
        self.loc = position
        return position

    def tell(self) -> int:
        """The position in bytes.

        Raises:
            ValueError: If the file is closed.
        """
        self._require_open()
        self._settle()
        return self.loc

    def write(self, _: Any, /) -> int:
        """Refuse to write.

        Raises:
            io.UnsupportedOperation: Always. It is an `OSError` and a `ValueError`.
        """
        raise io.UnsupportedOperation(f"{self.version.url} is open for reading, not for writing")

    def _settle(self) -> _Claim | None:
        """Wait until the position is known: no other thread reads a line from it.

        Returns:
            The claim on the position for which it would be vain to wait, if there is one.
        """
        while (claim := self._claim) is not None and claim.wait():
            pass
        return claim

    # The interpreter lets other threads run, and signal handlers, where a function is called and where a loop begins again
    # (`eval_breaker` in CPython's ceval.c). So statements without a call in between are one step, and need no lock: a thread
    # would wait for it between `seek` and `read`. Each method below that moves the position does so in one step.

    def _take(self, length: int) -> tuple[int, int]:
        """The range of a read at the position, which moves behind it; to the end of the object if the length is negative."""
        while True:
            settled = self._settle()
            # One step from here: threads that read the position before one of them has moved it would get the same bytes.
            start, size = self.loc, self.size
            end = size if length < 0 or start + length > size else start + length
            if self._claim is settled:
                if end > start:
                    self.loc = end
                return start, end

    def _read_next(self, length: int, read: Callable[[int, int], T]) -> T | None:
        """Read the range at the position; None if it is empty."""
        start, end = self._take(length)
        if start >= end:
            return None
        try:
            return read(start, end)
        except BaseException as error:
            self._put_back(start, end)
            if isinstance(error, ObjectChangedError):
                raise self._replaced() from error
            raise

    def _put_back(self, start: int, end: int) -> None:
        """Move the position back after a failed read, unless another thread has moved it since."""
        if self.loc == end:
            self.loc = start

    def _read_range(self, start: int, end: int) -> bytes:
        if self._ahead is None:
            with self._of_cache.get():
                read: bytes = self.cache._fetch(start, end)  # noqa: SLF001 - the method that fsspec's files call
                return read
        ahead = self._ahead.get()
        with ahead.lock:
            return ahead.read(start, end)

    def _read_range_into(self, target: memoryview, start: int, end: int) -> int:
        if self._ahead is None:
            target[: end - start] = self._read_range(start, end)
            return end - start
        ahead = self._ahead.get()
        with ahead.lock:
            ahead.read_into(start, target[: end - start])
        return end - start

    def _read_until(self, separator: bytes, step: int | None, most: int | None) -> bytes:
        self._require_open()
        claim = _Claim()
        while True:
            settled = self._settle()
            # One step from here, as in `_take`.
            if self._claim is settled:
                self._claim = claim
                position = start = self.loc
                break
        try:
            try:
                found = self._find(start, separator, step, most)
            except ObjectChangedError as error:
                raise self._replaced() from error
            position = start + len(found)
        finally:
            if self._claim is claim:
                self._claim = None
                self.loc = position
            claim.end()
        return found

    def _find(self, start: int, separator: bytes, step: int | None, most: int | None) -> bytes:
        """The bytes from an offset up to and including the separator, or to the end; at most `most` bytes."""
        end = self.size if most is None else min(self.size, start + most)
        found = bytearray()
        wanted = step or min(_LINE, getattr(self, "blocksize", _LINE))
        while (first := start + len(found)) < end:
            searched = max(0, len(found) - len(separator) + 1)
            last = min(first + wanted, end)
            found += self._read_range(first, last)
            at = found.find(separator, searched)
            if at >= 0:
                del found[at + len(separator) :]
                self._step_back(last, start + len(found))
                break
            wanted = step or min(2 * wanted, _LONG_LINE)
        return bytes(found)

    def _step_back(self, end: int, position: int) -> None:
        if self._ahead is not None:
            ahead = self._ahead.get()
            with ahead.lock:
                ahead.step_back(end, position)

    def _require_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def _fetch_range(self, start: int, end: int) -> bytes:
        """Read a range for one of fsspec's caches.

        Raises:
            Exception: As `read`.
        """
        if start >= end:
            return b""
        content = io.BytesIO(bytes(end - start))  # `getvalue` returns them without a copy
        try:
            with content.getbuffer() as target:
                _fetch_version(self._store, self._key, self.version, start, target, None)
        except ObjectChangedError as error:
            raise self._replaced() from error
        return content.getvalue()

    def _replaced(self) -> Exception:
        """The error for an object that was replaced or deleted. GCS and Azure give the same answer for both; this asks."""
        try:
            self._store.info(self._key, "read")
        except ObjectNotFoundError as gone:
            return gone
        except StorageError:
            pass  # unknown whether replaced or deleted; this version cannot be read in either case
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
    """Fill a buffer with bytes of one version of an object. Each call makes a reader, so that none crosses a fork."""
    read_into(store.open_reader(key), version, start, target, store.transfer(key, "read", stop=stop))


def _stream_of(store: ObjectStore, key: str, version: ObjectInfo, start: int, length: int, stop: Stop) -> RangeStream:  # noqa: PLR0917 - as `_fetch_version`
    """A stream of bytes of one version of an object."""
    return RangeStream(store.open_reader(key), version, start, length, store.transfer(key, "read", stop=stop))


def _reopened(fs: Any, path: str, version: ObjectInfo, position: int, given: dict[str, Any]) -> Any:
    """Open the same version again after unpickling, without a request."""
    file = fs.open_version(path, version, **given)
    file.loc = position
    return file
