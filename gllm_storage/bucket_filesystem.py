"""`BucketFileSystem`: what our filesystems on buckets share, on top of fsspec's own class for the provider.

The methods that carry promises go through a `BucketStore`, which each provider has: uploads, downloads, looks, deletes.
fsspec calls each of them in two ways, as a plain method and as a coroutine; both are here, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.asyn import get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.bucket_store import Destination, StreamingStore
from gllm_storage.errors import BucketNotFoundError, ErrorDetails, ObjectNotFoundError, StorageError
from gllm_storage.local_files import open_source
from gllm_storage.opening import AtomicOpening, is_create
from gllm_storage.parallel import Stop, running_stop, stopped_by
from gllm_storage.process import PerProcess
from gllm_storage.ranges import DEFAULT_GAP, ObjectSlices, ranges_of, read_into, read_ranges, read_slice
from gllm_storage.reading import ObjectFile
from gllm_storage.sources import MemorySource
from gllm_storage.spool import SpooledObject
from gllm_storage.transfer import Progress, Transfer, download_object, read_object
from gllm_storage.writer import AtomicWriter, WritableFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from gllm_storage.bucket_store import BucketStore
    from gllm_storage.objects import ObjectInfo
    from gllm_storage.ranges import Range, Slice

_OF_READERS = ("cache_type", "cache_options", "fill_cache")
_OF_FILES = (*_OF_READERS, "autocommit", "size", "acl")
_OF_OPEN = frozenset({"block_size", "compression", "encoding", "errors", "newline"})


class BucketFileSystem(AtomicOpening):
    """Mixed into one of fsspec's asynchronous filesystems, before it.

    `put_file`, `get_file`, `pipe_file`, `cat_file`, `info`, `exists`, `isfile`, `isdir`, `rm_file`, `open` and the methods
    of the verbs go through the store: exclusive creates that hold at any size, downloads that are whole and verified, errors
    in our words, always asked from the store. The rest is the filesystem's own, with listings that are always fresh.
    """

    provider: ClassVar[str]
    """Name of the provider, for errors."""
    scheme: ClassVar[str]
    """Scheme of the URLs."""
    appends: ClassVar[bool] = False
    """Whether the provider's filesystem can append to an object. gcsfs replaces it instead; Azure appends to blobs of a kind
    of their own only."""
    protocol: tuple[str, ...]
    store: BucketStore
    version_aware: bool
    _pid: int  # fsspec's: the process that made the instance
    _loop: Any

    def _attach(self, store: BucketStore) -> None:
        """Finish the construction."""
        self.store = store
        workers = store.settings.max_concurrency
        self._threads: PerProcess[ThreadPoolExecutor] = PerProcess(
            lambda: ThreadPoolExecutor(workers, thread_name_prefix="gllm-storage-async")
        )

    @property
    def loop(self) -> Any:
        """The event loop of this process. In a forked child, what had been made in the parent is made anew."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loop = get_loop()
            self._after_fork()
        below: Any = super()
        return below.loop

    def _after_fork(self) -> None:
        """Forget connections of the parent; each provider's filesystem has its own."""

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Upload a local file.

        Args:
            lpath: The local file.
            rpath: Where to put it: ``bucket/key``, or a URL.
            callback: Told the size, and the bytes as they are sent.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: What the object gets beside its content, as the provider's filesystem takes it.

        Raises:
            ValueError: If `mode` is something else, or `rpath` names no object.
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        exclusive, options = self._write_options(is_create(mode), kwargs)
        self._upload(os.fspath(lpath), rpath, callback, Stop(), exclusive=exclusive, options=options)

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        exclusive, options = self._write_options(is_create(mode), kwargs)
        if os.path.isdir(lpath):  # noqa: ASYNC240 - a recursive put names folders, too, which buckets do not have
            return
        told = callback or DEFAULT_CALLBACK
        await self._in_thread(
            lambda stop: self._upload(os.fspath(lpath), rpath, told, stop, exclusive=exclusive, options=options)
        )

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        """Download an object: whole, one version of it, verified against its checksum, or not at all.

        Args:
            rpath: The object: ``bucket/key``, or a URL.
            lpath: Where to put it. What is there is replaced when the download is complete.
            callback: Told the size, and the bytes as they arrive.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; what was at `lpath` is as it was.
        """
        self._download(rpath, os.fspath(lpath), callback, Stop())

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        if os.path.isdir(lpath):  # noqa: ASYNC240 - a recursive get names folders, too
            return
        told = callback or DEFAULT_CALLBACK
        await self._in_thread(lambda stop: self._download(rpath, os.fspath(lpath), told, stop))

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback = DEFAULT_CALLBACK) -> None:
        """As `put_file`."""
        self._upload(lpath, rpath, callback, Stop(), exclusive=exclusive, options={})

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback = DEFAULT_CALLBACK) -> None:
        """As `get_file`."""
        self._download(rpath, lpath, callback, Stop())

    def object_info(self, path: str) -> ObjectInfo:
        """What the store knows of an object now.

        Raises:
            ObjectNotFoundError: If there is no such object; a prefix of others is none.
            StorageError: If it cannot be told.
        """
        return self.store.info(*self._place(path), "info")

    def object_exists(self, path: str) -> bool:
        """Whether there is such an object now; a prefix of others is none.

        Raises:
            StorageError: If it cannot be told.
        """
        try:
            self.store.info(*self._place(path), "exists")
        except ObjectNotFoundError:
            return False
        return True

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """All objects whose path begins with ``bucket/…``, in key order.

        Raises:
            StorageError: If listing fails.
        """
        yield from self.store.list(*self._split(path))

    def iter_folder(self, path: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind ``bucket/…``: objects, and URLs of folders, which end with ``/``; in their order.

        Raises:
            StorageError: If listing fails.
        """
        yield from self.store.list_folder(*self._split(path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What fsspec wants to know of an object, a prefix or a bucket; always asked from the store.

        Raises:
            ObjectNotFoundError: If there is neither object nor prefix.
            StorageError: If it cannot be told.
        """
        bucket, key = self._split(path)
        key = key.rstrip("/")
        if not key:
            if bucket:
                self.store.require_bucket(bucket, self._error_details(bucket, "", "info"), recently=False)
            return self._directory(bucket)
        try:
            return self.store.entry(bucket, key)
        except ObjectNotFoundError:
            if self.store.is_prefix(bucket, f"{key}/"):
                return self._directory(f"{bucket}/{key}")
            raise

    async def _info(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self._is_of_version(kwargs):
            below: Any = super()
            of_version: dict[str, Any] = await below._info(path, *args, **kwargs)  # noqa: SLF001 - fsspec's own
            return of_version
        found: dict[str, Any] = await self._in_thread(lambda _: self.info(path))
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is an object, a prefix or a bucket now.

        Raises:
            StorageError: If it cannot be told.
        """
        return self._type(path) is not None

    async def _exists(self, path: str, **_: Any) -> bool:
        return await self._type_later(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether there is an object now.

        Raises:
            StorageError: If it cannot be told.
        """
        return self._type(path) == "file"

    async def _isfile(self, path: str) -> bool:
        return await self._type_later(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether there is a prefix or a bucket now.

        Raises:
            StorageError: If it cannot be told.
        """
        return self._type(path) == "directory"

    async def _isdir(self, path: str) -> bool:
        return await self._type_later(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, BucketNotFoundError):
            return None

    async def _type_later(self, path: str) -> str | None:
        try:
            return str((await self._info(path))["type"])
        except (FileNotFoundError, BucketNotFoundError):
            return None

    def rm_file(self, path: str, **_: Any) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        self.store.delete(*self._place(path))
        self._forget_listings(path)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._in_thread(lambda _: self.rm_file(path))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store some bytes.

        Args:
            path: The object.
            value: Its content: the bytes of any buffer.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: What the object gets beside its content, as the provider's filesystem takes it; or as for `open`.

        Raises:
            ValueError: If `mode` is something else, or `path` names no object.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If it cannot be stored; nothing was changed then, and nothing is left behind.
        """
        below: Any = self
        if below._intrans or _OF_OPEN & kwargs.keys():  # noqa: SLF001 - fsspec's own
            super().pipe_file(path, value, mode, **kwargs)
            return
        bucket, key = self._place(path)
        given = {name: each for name, each in kwargs.items() if name not in _OF_FILES or name == "acl"}
        exclusive, options = self._write_options(is_create(mode), given)
        destination = Destination(bucket, key, self._transfer(bucket, key, "upload"), exclusive, options)
        destination.take(self.store, MemorySource(value, destination.transfer.details))
        self._forget_listings(path)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        await self._in_thread(lambda _: self.pipe_file(path, value, mode, **kwargs))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read an object: one version, verified; or a slice of it, which the provider's filesystem reads by one request.

        Args:
            path: The object.
            start: First byte; counted from the end if negative.
            end: Byte before which it ends; counted from the end if negative.
            **kwargs: What names another version than the current one goes to the provider's filesystem.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If the content does not match its checksum.
            StorageError: If it cannot be read.
        """
        if self._is_left_to_provider(start, end, kwargs):
            found: bytes = sync(self.loop, self._cat_file, path, start=start, end=end, **kwargs)
            return found
        return self._read(path, start, end, Stop(running_stop()))

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if self._is_left_to_provider(start, end, kwargs):
            below: Any = super()
            read: bytes = await below._cat_file(path, start=start, end=end, **kwargs)  # noqa: SLF001 - fsspec's own
            return read
        found: bytes = await self._in_thread(lambda stop: self._read(path, start, end, stop))
        return found

    def _is_left_to_provider(self, start: int | None, end: int | None, kwargs: Mapping[str, Any]) -> bool:
        """Whether one answer is all there is to read: it is of one version, and needs no look before."""
        is_slice = start is not None and end is not None and 0 <= start < end <= start + self.store.settings.part_size
        return is_slice or self._is_of_version(kwargs)

    def _read(self, path: str, start: int | None, end: int | None, stop: Stop) -> bytes:
        bucket, key = self._place(path)
        transfer = self._transfer(bucket, key, "read", stop=stop)
        reader = self.store.reader(bucket, key, transfer.details)
        if start is None and end is None:
            return read_object(reader, transfer)
        return read_slice(ObjectSlices(reader, transfer, [(start, end)]))

    def cat_ranges(  # noqa: PLR0917 - fsspec's signature
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Read ranges of objects: neighbours by one request, all those of an object of one version, and side by side.

        Args:
            paths: The object of each range.
            starts: First byte of each, or of all; counted from the end if negative.
            ends: Byte before which each ends, or all; counted from the end if negative.
            max_gap: How many bytes may lie between two ranges of an object that are read by one request; 64 KiB if None.
            on_error: ``"return"`` gives an exception in place of what cannot be read; ``"raise"`` raises the first.
            batch_size: The most requests to be under way, if that is less than `max_concurrency`.
            **kwargs: What names another version than the current one goes to the provider's filesystem.

        Returns:
            What was read, in the order of `paths`; cut where the object ends.

        Raises:
            TypeError: If `paths` is no list.
            ValueError: If there are not as many starts or ends as paths, or `max_gap` is negative.
            Exception: What `cat_file` raises, if `on_error` says so.
        """
        if self._is_of_version(kwargs):
            found: list[bytes | Exception] = sync(
                self.loop, self._cat_ranges, paths, starts, ends, max_gap, batch_size, on_error, **kwargs
            )
            return found
        return self._read_ranges(ranges_of(paths, starts, ends), max_gap, batch_size, on_error, Stop(running_stop()))

    async def _cat_ranges(  # noqa: PLR0917 - fsspec's signature
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        if self._is_of_version(kwargs):
            below: Any = super()
            of_versions: list[bytes | Exception] = await below._cat_ranges(  # noqa: SLF001 - fsspec's own
                paths, starts, ends, max_gap, batch_size, on_error, **kwargs
            )
            return of_versions
        ranges = ranges_of(paths, starts, ends)
        found: list[bytes | Exception] = await self._in_thread(
            lambda stop: self._read_ranges(ranges, max_gap, batch_size, on_error, stop)
        )
        return found

    def _read_ranges(
        self, ranges: list[Range], max_gap: int | None, batch_size: int | None, on_error: str, stop: Stop
    ) -> list[bytes | Exception]:
        most = self.store.settings.max_concurrency
        workers = min(most, batch_size) if batch_size and batch_size > 0 else most
        gap = DEFAULT_GAP if max_gap is None else max_gap
        if gap < 0:
            raise ValueError(f"max_gap must be at least 0, not {gap}")
        found = read_ranges(ranges, partial(self._slices_of, gap, stop), workers, stop)
        failed = next((each for each in found if isinstance(each, Exception)), None)
        if failed is not None and on_error != "return":
            raise failed
        return found

    def _slices_of(self, max_gap: int, stop: Stop, path: str, slices: list[Slice]) -> ObjectSlices:
        bucket, key = self._place(path)
        transfer = self._transfer(bucket, key, "read", stop=stop)
        return ObjectSlices(self.store.reader(bucket, key, transfer.details), transfer, slices, max_gap)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if "a" in mode and not self.appends:
            details = self._error_details(*self._place(path), "open")
            raise StorageError(f"{details.url} cannot be appended to here. Write it anew, or write another object", details)
        if mode not in {"rb", "wb", "xb"} or self._is_of_version(kwargs):
            below: Any = super()
            return below._open(path, mode, block_size, **kwargs)  # noqa: SLF001 - fsspec's own
        bucket, key = self._place(path)
        given = {name: kwargs.pop(name) for name in _OF_FILES if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in _OF_FILES}
        if mode != "rb":
            kwargs |= {"acl": given["acl"]} if "acl" in given else {}
            writer = self._open_writer(bucket, key, mode, block_size, kwargs)
            writer.autocommit = given.get("autocommit", True)
            return writer
        of_reader = {name: given[name] for name in _OF_READERS if name in given}
        return self._open_reader(path, self.store.info(bucket, key, "open"), block_size, **of_reader)

    def _open_writer(self, bucket: str, key: str, mode: str, block_size: int | None, kwargs: dict[str, Any]) -> AtomicWriter:
        exclusive, options = self._write_options(mode == "xb", kwargs)
        destination = Destination(bucket, key, self._transfer(bucket, key, "upload"), exclusive, options)
        details = self._error_details(bucket, key, "open")
        if isinstance(self.store, StreamingStore):
            content = self.store.open_stream(destination, block_size)
        else:
            content = SpooledObject(partial(destination.take, self.store), self.store.settings, destination.transfer.details)
        if exclusive:
            self.store.require_creates(bucket, key, details)
        return AtomicWriter(self._published(content, f"{bucket}/{key}"), details.url, mode, fs=self)

    def _open_reader(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> Any:
        """Open an object for reading."""
        return ObjectFile(self, path, version, block_size=block_size, **options)

    @contextlib.contextmanager
    def _published(self, content: AbstractContextManager[WritableFile], path: str) -> Iterator[WritableFile]:
        """A file whose content becomes an object when the block ends well, which listings do not know yet."""
        with content as file:
            yield file
        self._forget_listings(path)

    def read_version(self, path: str, version: ObjectInfo, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (not included) of one version of an object.

        Raises:
            ObjectChangedError: If the object is another version now.
            ObjectNotFoundError: If it was deleted.
            StorageError: If it cannot be read.
        """
        found = io.BytesIO(bytes(end - start))  # gives out its bytes without a copy, as a bytearray does not
        with found.getbuffer() as target:
            self.read_version_into(path, version, start, target, Stop(running_stop()))
        return found.getvalue()

    def read_version_into(self, path: str, version: ObjectInfo, start: int, target: memoryview, stop: Stop) -> None:
        """Fill a buffer with bytes of one version of an object, from an offset on, unless it is stopped.

        Raises:
            Exception: As `read_version`.
        """
        bucket, key = self._place(path)
        transfer = self._transfer(bucket, key, "read", stop=stop)
        read_into(self.store.reader(bucket, key, transfer.details), version, start, target, transfer)

    def _upload(
        self, lpath: str, rpath: str, callback: Callback, stop: Stop, *, exclusive: bool, options: Mapping[str, Any]
    ) -> None:
        bucket, key = self._place(rpath)
        transfer = self._transfer(bucket, key, "upload", callback, stop)
        with open_source(lpath, transfer.details) as source:
            transfer.progress.expect(source.size)
            self.store.upload(source, bucket, key, transfer, exclusive=exclusive, options=options)
        transfer.progress.finish()
        self._forget_listings(rpath)

    def _download(self, rpath: str, lpath: str, callback: Callback, stop: Stop) -> None:
        bucket, key = self._place(rpath)
        transfer = self._transfer(bucket, key, "download", callback, stop)
        download_object(self.store.reader(bucket, key, transfer.details), lpath, transfer)

    def _write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read the further arguments of a write: whether it is exclusive after all, and the store's options.

        Raises:
            TypeError: If there is one that nobody knows.
        """
        return exclusive, kwargs

    def _is_of_version(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a version other than the current one may be meant, which we leave to the provider's filesystem."""
        return bool(self.version_aware or kwargs.get("version_id") or kwargs.get("generation"))

    def _forget_listings(self, path: str) -> None:
        below: Any = self
        below.invalidate_cache(path)

    def _directory(self, name: str) -> dict[str, Any]:
        return {"name": name, "type": "directory", "size": 0}

    def _transfer(
        self, bucket: str, key: str, operation: str, callback: Callback = DEFAULT_CALLBACK, stop: Stop | None = None
    ) -> Transfer:
        return Transfer(
            self._error_details(bucket, key, operation),
            self.store.settings,
            progress=Progress(callback),
            stop=stop or Stop(running_stop()),
        )

    def _error_details(self, bucket: str, key: str, operation: str) -> ErrorDetails:
        return ErrorDetails(self.provider, f"{self.scheme}://{bucket}/{key}".rstrip("/"), operation)

    def _split(self, path: str) -> tuple[str, str]:
        """Bucket and key of a path or URL; a key is taken as it is, whatever characters it holds."""
        bucket, _, key = self._without_protocol(path).partition("/")
        return bucket, key

    def _place(self, path: str) -> tuple[str, str]:
        bucket, key = self._split(path)
        if not (bucket and key):
            raise ValueError(f"{path!r} names no object: it needs a bucket and a key")
        return bucket, key

    def _without_protocol(self, path: str) -> str:
        """Like `_strip_protocol`, which would take a trailing ``/`` off."""
        start = next((f"{name}://" for name in self.protocol if path.startswith(f"{name}://")), "")
        return path.removeprefix(start).lstrip("/")

    async def _in_thread(self, work: Callable[[Stop], Any]) -> Any:
        """Run blocking work beside the event loop, on whichever loop runs; when the task is cancelled, so is the work."""
        stop = Stop()

        def run() -> Any:
            stop.check()
            with stopped_by(stop):
                return work(stop)

        future = asyncio.get_running_loop().run_in_executor(self._threads.get(), run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait([future])  # what was begun is taken back before the task ends
            future.exception()  # asyncio complains of failures that nobody looked at
            raise
