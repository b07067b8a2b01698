"""`StoreFileSystem`: an fsspec filesystem on object stores.

It is complete by itself: a provider that has a store (`gllm_storage.store.port`) gets `open`, `ls`, `put`, `get`, `cat`,
`cp`, `rm` and the rest from it. S3, GCS and Azure put it in front of s3fs's, gcsfs's and adlfs's classes, which add the
methods and options that only they have.

fsspec calls each operation in two ways, as a method and as a coroutine (``put_file`` and ``_put_file``). Both run the same
blocking code of the store; a coroutine runs it in a thread, which its cancellation stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec.asyn
from fsspec.asyn import AsyncFileSystem, get_loop, sync
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.core import has_magic

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.interrupt import ending_its_tasks, run_interruptible, task_of_call
from gllm_storage.concurrency.loops import DaemonPool, loop_of_caller, loop_to_hand_to
from gllm_storage.concurrency.stop import Stop, running_stop, stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    OURS,
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    ObjectNotFoundError,
    Remedy,
    StorageError,
)
from gllm_storage.files.source import MemorySource, open_source
from gllm_storage.filesystem.lists import Pair, Watched, listed, plan_copy, plan_get, plan_put
from gllm_storage.filesystem.object_file import ObjectFile
from gllm_storage.filesystem.transaction import AtomicTransaction
from gllm_storage.filesystem.writing import AtomicWriter, is_create, open_layers
from gllm_storage.paths import NOT_TO_OPEN, require_no_slash
from gllm_storage.store.port import ReadItem, UploadItem, unwatched, url_of_bucket
from gllm_storage.store.ranges import DEFAULT_GAP, ObjectSlices, ranges_of, read_ranges, read_slice

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.store.ranges import Range, Slice

OF_READERS = ("cache_type", "cache_options", "fill_cache")
"""Arguments of `open` that only readers know."""
OF_FILES = (*OF_READERS, "autocommit", "size", "acl")
"""Arguments of `open` that say nothing of the object's content."""
_ASYNC_WORKERS = 10
_OF_OPEN = frozenset({"block_size", "compression", "encoding", "errors", "newline"})


class StoreFileSystem(AsyncFileSystem):
    """An fsspec filesystem whose objects are in stores, one store for each bucket.

    A provider's class sets `provider`, `scheme` and `protocol`, and implements `bucket_store`. Exclusive creates hold at any
    size, downloads are complete and verified, errors are those of `gllm_storage.errors`, and nothing is cached: each answer
    comes from the store.

    Examples:
        >>> class ShelfFileSystem(StoreFileSystem):
        ...     provider = scheme = protocol = "shelf"
        ...
        ...     def bucket_store(self, bucket):
        ...         return ShelfStore(bucket)
    """

    provider: ClassVar[str]
    """Name of the provider, for errors."""
    scheme: ClassVar[str]
    """Scheme of the URLs."""
    appends: ClassVar[bool] = False
    """Whether ``open(path, "ab")`` of the class below appends to an object."""
    upstream: ClassVar[bool] = False
    """Whether a class below lists, makes and removes folders by itself, as s3fs, gcsfs and adlfs do."""
    version_aware: bool = False
    transaction_type = AtomicTransaction
    protocol: Any
    _pid: int  # fsspec's: the process that made the instance
    _loop: Any

    def __init__(self, *args: Any, **options: Any) -> None:
        own = None if options.get("asynchronous") else loop_of_caller(fsspec.asyn.loop[0])
        if own is not None and options.get("loop") is None:
            options["loop"] = own
        super().__init__(*args, **options)

    # ------------------------------------------------------------------ for providers to implement or adapt

    def bucket_store(self, bucket: str) -> ObjectStore:
        """The store of a bucket. A provider implements it; it sends no request."""
        raise NotImplementedError

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """An object as `info` returns it. A provider adds the fields that its users know.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If the request fails.
        """
        info = self.bucket_store(bucket).info(key)
        return {
            "name": f"{bucket}/{key}",
            "type": "file",
            "size": info.size,
            "ETag": info.etag,
            "LastModified": info.last_modified,
            "metadata": dict(info.metadata or {}),
        }

    def directory(self, name: str) -> dict[str, Any]:
        """A prefix or bucket as `info` returns it."""
        return {"name": name, "type": "directory", "size": 0}

    def write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read the further arguments of a write.

        Args:
            exclusive: Whether the caller requests an exclusive create.
            kwargs: The further arguments.

        Returns:
            Whether the write is exclusive after all, and the options of its `UploadRequest`.

        Raises:
            TypeError: If an argument is unknown.
        """
        return exclusive, kwargs

    def translated_upstream(self, path: Any, operation: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002 - for errors
        """Raise errors of this library in place of those of the class below."""
        return contextlib.nullcontext()

    def after_fork(self) -> None:
        """Drop connections of the parent process, in a forked child."""

    def open_version(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> Any:
        """Open one version of an object for reading. Sends no request."""
        store, key = self.store_to_read(path)
        return ObjectFile(self, path, version, store, key, block_size=block_size, **options)

    def store_to_read(self, path: str, options: Mapping[str, Any] = MappingProxyType({})) -> tuple[ObjectStore, str]:
        """The store that reads an object, and the key there. A provider whose stores read named versions replaces this.

        Args:
            path: The object.
            options: The further arguments of the read, which may name a version.

        Raises:
            ValueError: If `path` is not the path of an object.
        """
        del options
        bucket, key = self._place(path)
        return self.bucket_store(bucket), key

    # ------------------------------------------------------------------ paths, threads

    @property
    def loop(self) -> Any:
        """The event loop of this process. In a forked child the parent's loop and connections are replaced."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loop = get_loop()
            self.after_fork()
        return loop_to_hand_to(super().loop)

    @property
    def async_workers(self) -> int:
        """Coroutines that work at a time; each may use `max_concurrency` threads more."""
        return _ASYNC_WORKERS

    @property
    def _threads(self) -> DaemonPool:
        made: PerProcess[DaemonPool] = PerProcess(partial(DaemonPool, self.async_workers, "gllm-storage-async"))
        pools: PerProcess[DaemonPool] = self.__dict__.setdefault("_pools", made)
        return pools.get()

    def _is_of_version(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a version other than the current one may be meant, which the class below handles."""
        return bool(self.version_aware or kwargs.get("version_id") or kwargs.get("generation"))

    def _names_version(self, path: str, kwargs: Mapping[str, Any]) -> bool:
        """Whether a path or an argument names a version."""
        if kwargs.get("version_id") or kwargs.get("generation"):
            return True
        return self.upstream and bool(self.split_path(path)[2])

    def _refuse_slashes(self, paths: Any) -> None:
        """Refuse keys that end with several slashes, in lists: fsspec would remove them, and name another object."""
        for each in listed(paths):
            if self._without_protocol(each).endswith("//"):
                raise ValueError(f"{each!r} ends with several '/'; the methods of one object take such a key, as cat_file")

    async def _require_exact(self, paths: Any, *, recursive: bool) -> None:
        """Refuse paths of lists that fsspec would take for an object of another name, because it removes slashes at the end.

        Raises:
            ValueError: If a path ends with several slashes; or with one, and there is no folder, but an object without it.
        """
        self._refuse_slashes(paths)
        for each in listed(paths):
            if each.endswith("/") and not has_magic(each):
                await self._in_thread(partial(self._refuse_other, each, recursive))

    def _refuse_other(self, path: str, recursive: bool, _: Stop) -> None:
        bucket, key = self._split(path)
        other = key.rstrip("/")
        store = self.bucket_store(bucket) if other else None
        if store is None or (recursive and store.is_prefix(key)):
            return
        with contextlib.suppress(ObjectNotFoundError, BucketNotFoundError):
            store.info(other)
            require_no_slash(path, f"is not the object {other!r}")

    def _forget_listings(self, path: str) -> None:
        self.invalidate_cache(path)

    def _error_details(self, bucket: str, key: str, operation: str) -> ErrorDetails:
        url = f"{self.scheme}://{bucket}/{key}"
        return ErrorDetails(self.provider, url if key else url_of_bucket(url), operation)

    def _split(self, path: str) -> tuple[str, str]:
        """Bucket and key of a path or URL; the key is taken as it is, whatever characters it has."""
        bucket, _, key = self._without_protocol(path).partition("/")
        return bucket, key

    def _place(self, path: str) -> tuple[str, str]:
        bucket, key = self._split(path)
        if not (bucket and key):
            raise ValueError(f"{path!r} is not the path of an object: it needs a bucket and a key")
        return bucket, key

    def _without_protocol(self, path: str) -> str:
        """Like `_strip_protocol`, which would also remove a trailing ``/``."""
        protocols = (self.protocol,) if isinstance(self.protocol, str) else self.protocol
        start = next((f"{name}://" for name in protocols if path.startswith(f"{name}://")), "")
        return path.removeprefix(start).lstrip("/")

    async def _in_thread(self, work: Callable[[Stop], Any]) -> Any:
        """Run blocking work beside the event loop, on whichever loop runs; a cancellation of the task stops the work."""
        stop = Stop()

        def run() -> Any:
            stop.check()
            with stopped_by(stop):
                return work(stop)

        with task_of_call():
            future = asyncio.wrap_future(self._threads.submit(run))
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.wait([future])  # the work cleans up before the task ends
                future.exception()  # asyncio complains of exceptions that were not retrieved
                raise

    # ------------------------------------------------------------------ open

    def open(  # fsspec's signature
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open an object, as fsspec's filesystems do; written content appears at `close`, complete, or not at all.

        Args:
            path: The object: ``bucket/key``, or a URL.
            mode: ``"rb"``, ``"r"``, ``"wb"``, ``"w"``, ``"xb"``, ``"x"``, ….
            block_size: Bytes to read at a time.
            cache_options: For reading.
            compression: Such as ``"gzip"``, or ``"infer"`` to use the key's extension.
            **kwargs: ``encoding``, ``errors`` and ``newline`` for text; the rest are the provider's options.

        Raises:
            FileNotFoundError: If the object is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive and the object exists.
            StorageError: If the store refuses or cannot be reached.
            ValueError: If the key ends with ``/``, which fsspec would remove: `cat_file` and `pipe_file` take such keys.
        """
        require_no_slash(path if isinstance(path, str) and self._split(path)[1] else "", NOT_TO_OPEN)
        return open_layers(super().open, path, mode, block_size, cache_options, compression, **kwargs)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if "a" in mode and not self.appends:
            details = self._error_details(*self._place(path), "open")
            raise StorageError(f"{details.url}: this provider cannot append to an object", details, Remedy.WRITE_NEW_OBJECT)
        if mode not in {"rb", "wb", "xb"} or (mode == "rb" and self._is_left_to_upstream(kwargs)):
            return super()._open(path, mode, block_size, **kwargs)
        if mode != "rb" and self._names_version(path, kwargs):
            raise ValueError(f"{path!r} names a version, which cannot be written")
        given = {name: kwargs.pop(name) for name in OF_FILES if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in OF_FILES}
        if mode != "rb":
            kwargs |= {"acl": given["acl"]} if "acl" in given else {}
            return self._open_writer(path, mode, kwargs, autocommit=given.get("autocommit", True))
        of_reader = {name: given[name] for name in OF_READERS if name in given}
        store, key = self.store_to_read(path, kwargs)
        return self.open_version(path, store.info(key, "open"), block_size, **of_reader)

    def _open_writer(self, path: str, mode: str, kwargs: dict[str, Any], *, autocommit: bool) -> AtomicWriter:
        bucket, key = self._place(path)
        exclusive, options = self.write_options(mode == "xb", kwargs)
        store = self.bucket_store(bucket)
        return AtomicWriter(
            store.writer_of(key, exclusive=exclusive, options=options),
            store.url(key),
            mode,
            fs=self,
            autocommit=autocommit,
            on_commit=partial(self._forget_listings, path),
            publish_on_error=store.settings.publish_on_error,
        )

    # ------------------------------------------------------------------ put, pipe

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Upload a local file.

        Args:
            lpath: The local file.
            rpath: The object: ``bucket/key``, or a URL.
            callback: Receives the size in bytes, and the bytes as they are sent.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: Properties of the object, as the provider's filesystem takes them.

        Raises:
            ValueError: If `mode` is something else, or `rpath` is not the path of an object.
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        self._upload(lpath, rpath, callback, Stop(running_stop()), mode=mode, kwargs=kwargs)

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        if os.path.isdir(lpath):  # a recursive put names folders as well, which buckets do not have
            is_create(mode)
            return
        told = callback or DEFAULT_CALLBACK
        await self._in_thread(lambda stop: self._upload(lpath, rpath, told, stop, mode=mode, kwargs=kwargs))

    def _upload(self, lpath: str, rpath: str, callback: Callback, stop: Stop, *, mode: str, kwargs: dict[str, Any]) -> None:
        path = os.fspath(lpath)
        exclusive, options = self.write_options(is_create(mode), kwargs)
        bucket, key = self._place(rpath)
        store = self.bucket_store(bucket)
        transfer = store.transfer(key, "upload", callback, stop)
        with open_source(path, transfer.details, sync=store.settings.sync_source) as source:
            transfer.progress.expect(source.size)
            store.upload(store.request(key, source, transfer, exclusive, options))
        transfer.progress.finish()
        self._forget_listings(rpath)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        """Store bytes.

        Args:
            path: The object.
            value: Its content: the bytes of any buffer.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: Properties of the object, as the provider's filesystem takes them; or as for `open`.

        Raises:
            ValueError: If `mode` is something else, or `path` is not the path of an object.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If it cannot be stored; nothing was changed then, and nothing is left behind.
        """
        exclusive = is_create(mode)
        if self._intrans or _OF_OPEN & kwargs.keys():
            with self.open(path, "xb" if exclusive else "wb", **kwargs) as file:
                file.write(value)
            return
        bucket, key = self._place(path)
        given = {name: each for name, each in kwargs.items() if name not in OF_FILES or name == "acl"}
        exclusive, options = self.write_options(exclusive, given)
        store = self.bucket_store(bucket)
        transfer = store.transfer(key, "upload")
        store.upload(store.request(key, MemorySource(value, transfer.details), transfer, exclusive, options))
        self._forget_listings(path)

    async def _pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        await self._in_thread(lambda _: self.pipe_file(path, value, mode, **kwargs))

    # ------------------------------------------------------------------ get, cat

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Download an object: complete, one version of it, verified against its checksum, or not at all.

        Args:
            rpath: The object: ``bucket/key``, or a URL.
            lpath: The local file. It is replaced when the download is complete.
            callback: Receives the size in bytes, and the bytes as they arrive.
            **kwargs: As the provider's filesystem takes them.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; the local file is unchanged then.
        """
        self._download(rpath, lpath, callback, Stop(running_stop()), kwargs)

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        if os.path.isdir(lpath):  # a recursive get names folders as well
            return
        told = callback or DEFAULT_CALLBACK
        await self._in_thread(lambda stop: self._download(rpath, lpath, told, stop, kwargs))

    def _download(self, rpath: str, lpath: str, callback: Callback, stop: Stop, kwargs: Mapping[str, Any]) -> None:
        store, key = self.store_to_read(rpath, kwargs)
        store.download(key, os.fspath(lpath), store.transfer(key, "download", callback, stop))

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read an object: one version, verified; or a slice of it.

        Args:
            path: The object.
            start: First byte; counted from the end if negative.
            end: Byte before which the slice ends; counted from the end if negative.
            **kwargs: A version other than the current one.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If the content does not match its checksum.
            StorageError: If it cannot be read.
        """
        if self._is_left_to_upstream(kwargs):
            found: bytes = sync(self.loop, self._cat_file, path, start=start, end=end, **kwargs)
            return found
        return self._read(path, start, end, Stop(running_stop()), kwargs)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if self._is_left_to_upstream(kwargs):
            with self.translated_upstream(path, "read"):
                read: bytes = await super()._cat_file(path, start=start, end=end, **kwargs)
                return read
        found: bytes = await self._in_thread(lambda stop: self._read(path, start, end, stop, kwargs))
        return found

    def _is_left_to_upstream(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether the class below reads, because a version other than the current one may be meant."""
        return self.upstream and self._is_of_version(kwargs)

    def _read(self, path: str, start: int | None, end: int | None, stop: Stop, kwargs: Mapping[str, Any]) -> bytes:
        store, key = self.store_to_read(path, kwargs)
        transfer = store.transfer(key, "read", stop=stop)
        if start is None and end is None:
            return store.read(key, transfer)
        return read_slice(ObjectSlices(store.open_reader(key), transfer, [(start, end)]))

    def cat_ranges(
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
            max_gap: The most bytes between two ranges of an object that one request reads; 64 KiB if None.
            on_error: ``"return"`` puts an exception into the result; ``"raise"`` raises the first one.
            batch_size: The most requests at a time, if that is less than `max_concurrency`.
            **kwargs: A version other than the current one, which the class below reads.

        Returns:
            The ranges, in the order of `paths`; cut where the object ends.

        Raises:
            TypeError: If `paths` is not a list.
            ValueError: If there are not as many starts or ends as paths, or `max_gap` is negative.
            Exception: The exceptions of `cat_file`, if `on_error` is ``"raise"``.
        """
        if self._is_of_version(kwargs):
            found: list[bytes | Exception] = sync(
                self.loop, self._cat_ranges, paths, starts, ends, max_gap, batch_size, on_error, **kwargs
            )
            return found
        return self._read_ranges(ranges_of(paths, starts, ends), max_gap, batch_size, on_error, Stop(running_stop()))

    async def _cat_ranges(
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
            of_versions: list[bytes | Exception] = await super()._cat_ranges(
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
        gap = DEFAULT_GAP if max_gap is None else max_gap
        if gap < 0:
            raise ValueError(f"max_gap must be at least 0, not {gap}")
        if not ranges:
            return []
        named = next((path for path, *_ in ranges if isinstance(path, str)), None)  # each wrong path has an error of its own
        most = 1 if named is None else self.bucket_store(self._split(named)[0]).settings.max_concurrency
        workers = min(most, batch_size) if batch_size and batch_size > 0 else most
        found = read_ranges(ranges, partial(self._slices_of, gap, stop), workers, stop)
        failed = next((each for each in found if isinstance(each, Exception)), None)
        if failed is not None and on_error != "return":
            raise failed
        return found

    def _slices_of(self, max_gap: int, stop: Stop, path: str, slices: list[Slice]) -> ObjectSlices:
        store, key = self.store_to_read(path)
        return ObjectSlices(store.open_reader(key), store.transfer(key, "read", stop=stop), slices, max_gap)

    # ------------------------------------------------------------------ lists of objects: a plan, and its execution

    def put(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``put``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._put, *args, **kwargs)

    async def _put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        batch_size: int | None = None,  # noqa: ARG002 - fsspec's; the store decides how many go at a time
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        self._refuse_slashes(rpath)
        pairs = await plan_put(self, lpath, rpath, recursive=recursive, maxdepth=maxdepth)
        callback.set_size(len(pairs))
        exclusive = is_create(kwargs.pop("mode", "overwrite"))
        watched = Watched(callback)
        places = [self._place(target) for _, target in pairs]
        items = []
        of_item, options = self.write_options(exclusive, kwargs)
        for (source, target), (bucket, key) in zip(pairs, places, strict=True):
            path = os.fspath(source)
            sync = self.bucket_store(bucket).settings.sync_source
            opened = partial(open_source, path, sync=sync)
            watch = watched.of(source, target)
            items.append(UploadItem(key, opened, watch, of_item, options, None if sync else path))
        await self._in_thread(lambda stop: self._upload_many(places, items, stop))
        self._forget_all(target for _, target in pairs)

    def get(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``get``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._get, *args, **kwargs)

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("batch_size", None)  # fsspec's; the store decides how many go at a time
        if self._is_of_version(kwargs):
            if isinstance(rpath, str) and self._names_version(rpath, {}):
                rpath, lpath = [rpath], [_target_of(rpath, lpath)]  # fsspec takes the ``?`` of a path for a pattern
            async with ending_its_tasks():
                await super()._get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs)
            return
        await self._require_exact(rpath, recursive=recursive)
        pairs = await plan_get(self, rpath, lpath, recursive=recursive, maxdepth=maxdepth)
        folders = [source for source, target in pairs if source.endswith("/") and os.path.isdir(target)]
        await self._in_thread(lambda stop: self._require_markers(folders, stop))
        pairs = [pair for pair in pairs if not os.path.isdir(pair[1])]
        callback.set_size(len(pairs))
        watched = Watched(callback)
        places = [self._place(source) for source, _ in pairs]
        items = [
            ReadItem(key, watched.of(source, target), os.fspath(target))
            for (source, target), (_, key) in zip(pairs, places, strict=True)
        ]
        await self._in_thread(lambda stop: self._read_many(places, items, stop))

    def _require_markers(self, paths: list[str], stop: Stop) -> None:
        """Refuse objects with content in place of a folder's marker: their content would be lost.

        Raises:
            StorageError: If the key of an object with content ends with ``/``.
        """

        def require(path: str) -> None:
            bucket, key = self._place(path)
            store = self.bucket_store(bucket)
            with contextlib.suppress(ObjectNotFoundError):
                size = store.info(key, "download").size
                if size:
                    details = store.details(key, "download")
                    message = f"{details.url} ends with '/' and has {size} bytes: it cannot become a file below a folder"
                    raise StorageError(message, details, Remedy.GET_ALONE)

        if paths:
            workers = self.bucket_store(self._split(paths[0])[0]).settings.max_concurrency
            run_all([partial(require, path) for path in paths], workers, stop)

    def cat(self, *args: Any, **kwargs: Any) -> Any:
        """As fsspec's ``cat``; Ctrl-C ends it."""
        return run_interruptible(self.loop, self._cat, *args, **kwargs)

    async def _cat(
        self,
        path: Any,
        recursive: bool = False,
        on_error: str = "raise",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        await self._require_exact(path, recursive=recursive)
        if kwargs or self._is_of_version(kwargs) or (isinstance(path, str) and not recursive):
            async with ending_its_tasks():
                return await super()._cat(path, recursive=recursive, on_error=on_error, batch_size=batch_size, **kwargs)
        paths = await self._paths_to_read(path, recursive=recursive)
        places = [self._place(each) for each in paths]
        items = [ReadItem(key, unwatched) for _, key in places]
        contents = await self._in_thread(lambda stop: self._read_many(places, items, stop, on_error="return"))
        found = dict(zip(paths, contents, strict=True))
        if on_error == "raise":
            for each in contents:
                if isinstance(each, Exception):
                    raise each
        kept = {name: each for name, each in found.items() if on_error != "omit" or not isinstance(each, Exception)}
        # fsspec's rule: one named file that exists is returned as its content.
        return kept[path] if isinstance(path, str) and list(kept) == [self._strip_protocol(path)] else kept

    async def _paths_to_read(self, path: Any, *, recursive: bool) -> list[str]:
        """The paths that `cat` reads, by fsspec's rules; a path of a list is among them whether the object exists or not."""
        paths: list[str] = await self._expand_path(path, recursive=recursive)
        return paths

    async def _expand_path(self, path: Any, *args: Any, **kwargs: Any) -> list[str]:
        """As the class below; a path that names a version is that version, and its ``?`` is not a pattern.

        Raises:
            FileNotFoundError: If there is nothing at the paths, or not the version at the only path.
        """
        paths = listed(path)
        versions = {self._strip_protocol(each) for each in paths if self.version_aware and self._names_version(each, {})}
        if not versions:
            expanded: list[str] = await super()._expand_path(path, *args, **kwargs)
            return expanded
        if isinstance(path, str) and not await self._exists(path):
            raise not_there(self._error_details(*self._split(path), "read"))
        others = [each for each in paths if self._strip_protocol(each) not in versions]
        found = await super()._expand_path(others, *args, **kwargs) if others else []
        return sorted({*versions, *found})

    def pipe(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``pipe``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._pipe, *args, **kwargs)

    async def _pipe(self, path: Any, value: bytes | None = None, batch_size: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002 - as in `_put`
        if not isinstance(path, (str, Mapping)):
            raise TypeError(f"pipe takes a path or a dict of contents by path, not {type(path).__name__}")
        values: Mapping[str, Any] = {path: value} if isinstance(path, str) else path
        await self._in_thread(lambda stop: self._pipe_values(values, kwargs, stop))

    def _pipe_values(self, values: Mapping[str, Any], kwargs: dict[str, Any], stop: Stop) -> None:
        if self._intrans or len(values) == 1 or _OF_OPEN & kwargs.keys():
            for path, value in values.items():
                self.pipe_file(path, value, **kwargs)
            return
        given = {name: each for name, each in kwargs.items() if name != "mode" and (name not in OF_FILES or name == "acl")}
        exclusive, options = self.write_options(is_create(kwargs.get("mode", "overwrite")), given)
        places = [self._place(path) for path in values]
        items = []
        for place, value in zip(places, values.values(), strict=True):
            source = MemorySource(
                value, self._error_details(*place, "upload")
            )  # a wrong value is refused before any is sent
            items.append(UploadItem(place[1], partial(_opened, source), unwatched, exclusive, options))
        self._upload_many(places, items, stop)
        self._forget_all(values)

    def _upload_many(self, places: Sequence[tuple[str, str]], items: Sequence[UploadItem], stop: Stop) -> None:
        for bucket, numbers in _by_bucket(places).items():
            self.bucket_store(bucket).upload_many([items[number] for number in numbers], stop)

    def _read_many(
        self, places: Sequence[tuple[str, str]], items: Sequence[ReadItem], stop: Stop, on_error: str = "raise"
    ) -> list[Any]:
        found: dict[int, Any] = {}
        for bucket, numbers in _by_bucket(places).items():
            contents = self.bucket_store(bucket).read_many([items[number] for number in numbers], stop, on_error=on_error)
            found.update(zip(numbers, contents, strict=True))
        return [found[number] for number in range(len(items))]

    def _forget_all(self, paths: Any) -> None:
        if not (self._intrans or self.dircache):
            return
        for path in paths:
            self._forget_listings(path)

    # ------------------------------------------------------------------ copy, move, delete

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy an object; an existing target is replaced.

        Args:
            path1: The source object.
            path2: The target object.
            **kwargs: Options of the provider's copies.

        Raises:
            ValueError: If an exclusive copy is requested.
            ObjectNotFoundError: If the source object does not exist, or a path names no object.
            StorageError: If the copy fails; nothing was changed then, and nothing is left behind.
        """
        # In a thread: Ctrl-C, which interrupts the main thread, must not leave the request in progress.
        run_all([partial(self._copy_object, path1, path2, kwargs)], 1, Stop(running_stop()))

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        await self._in_thread(lambda _: self._copy_object(path1, path2, kwargs))

    def _copy_object(self, path1: str, path2: str, options: Mapping[str, Any]) -> None:
        bucket, key = self._place_of_copy(path1)
        target_bucket, target_key = self._place_of_copy(path2)
        if is_create(options.get("mode", "overwrite")):
            raise ValueError("mode='create': cp_file replaces its target; use copy_file(…, check_conflict=True) of a client")
        source, target = self.bucket_store(bucket), self.bucket_store(target_bucket)
        transfer = source.transfer(key, "copy")
        source.copy(key, target, target_key, transfer, {name: each for name, each in options.items() if name != "mode"})
        self._forget_listings(path2)

    def _place_of_copy(self, path: str) -> tuple[str, str]:
        bucket, key = self._split(path)
        if not (bucket and key):  # a recursive copy names the bucket as well, and skips paths that do not exist
            details = self._error_details(bucket, "", "copy")
            raise ObjectNotFoundError(f"{path!r} is not the path of an object: it needs a bucket and a key", details)
        return bucket, key

    def copy(
        self,
        path1: str | list[str],
        path2: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy objects, as fsspec's filesystems do; existing targets are replaced.

        Args:
            path1: One path or several; with ``*`` and the like for all matches.
            path2: The target: an object, a folder, or a target for each source.
            recursive: Whether to copy the objects below a path.
            maxdepth: How deep, with `recursive`.
            on_error: ``"ignore"`` skips sources that do not exist, the default with `recursive`; or ``"raise"``.
            **kwargs: As for `cp_file`.

        Raises:
            FileNotFoundError: If there is nothing to copy.
            StorageError: If a copy fails; earlier copies stay.
        """
        kwargs.pop("batch_size", None)
        pairs = sync(self.loop, self._plan_copy, path1, path2, recursive=recursive, maxdepth=maxdepth)
        self._copy_pairs(pairs, Stop(running_stop()), kwargs, lenient=_is_lenient(on_error, recursive=recursive))

    async def _copy(
        self,
        path1: str | list[str],
        path2: str | list[str],
        recursive: bool = False,
        on_error: str | None = None,
        maxdepth: int | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - as in `_put`
        **kwargs: Any,
    ) -> None:
        pairs = await self._plan_copy(path1, path2, recursive=recursive, maxdepth=maxdepth)
        lenient = _is_lenient(on_error, recursive=recursive)
        await self._in_thread(lambda stop: self._copy_pairs(pairs, stop, kwargs, lenient=lenient))

    def mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """Move objects: copy all of them, and then delete the sources.

        Args:
            path1: As for `copy`.
            path2: As for `copy`.
            recursive: As for `copy`.
            maxdepth: As for `copy`.
            **kwargs: As for `cp_file`.

        Raises:
            ObjectNotFoundError: If there is nothing to move.
            StorageError: If a copy fails, and then nothing was deleted; or if a source cannot be deleted.
        """
        kwargs.pop("batch_size", None)
        if self._strip_protocol(path1) != self._strip_protocol(path2):
            pairs = sync(self.loop, self._plan_copy, path1, path2, recursive=recursive, maxdepth=maxdepth)
            self._move_pairs(path1, pairs, Stop(running_stop()), kwargs, lenient=recursive)

    async def _mv(self, path1: Any, path2: Any, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        kwargs.pop("batch_size", None)
        if self._strip_protocol(path1) != self._strip_protocol(path2):
            pairs = await self._plan_copy(path1, path2, recursive=recursive, maxdepth=maxdepth)
            await self._in_thread(lambda stop: self._move_pairs(path1, pairs, stop, kwargs, lenient=recursive))

    async def _plan_copy(self, path1: Any, path2: Any, *, recursive: bool, maxdepth: int | None) -> list[Pair]:
        await self._require_exact(path1, recursive=recursive)
        self._refuse_slashes(path2)
        return await plan_copy(self, path1, path2, recursive=recursive, maxdepth=maxdepth)

    def _copy_pairs(self, pairs: list[Pair], stop: Stop, options: Mapping[str, Any], *, lenient: bool) -> list[Pair]:
        """Copy side by side; returns the pairs that were copied."""

        def copy(source: str, target: str) -> bool:
            try:
                self._copy_object(source, target, options)
            except FileNotFoundError as error:  # a folder, which buckets do not have
                if not lenient or isinstance(error, BucketNotFoundError):
                    raise
                return False
            return True

        if not pairs:
            return []
        workers = self.bucket_store(self._split(pairs[0][0])[0]).settings.max_concurrency
        done = run_all([partial(copy, *pair) for pair in pairs], workers, stop)
        return [pair for pair, copied in zip(pairs, done, strict=True) if copied]

    def _move_pairs(self, path1: Any, pairs: list[Pair], stop: Stop, options: Mapping[str, Any], *, lenient: bool) -> None:
        copied = self._copy_pairs(pairs, stop, options, lenient=lenient)
        if not copied:
            details = self._error_details(*self._split(str(path1)), "move")
            raise ObjectNotFoundError(f"{details.url} is not an object; recursive=True moves the objects below it", details)
        targets = {self._split(target) for _, target in copied}
        self._delete_objects([place for source, _ in copied if (place := self._split(source)) not in targets], stop)

    def rm_file(self, path: str, **_: Any) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        bucket, key = self._place(path)
        # In a thread: Ctrl-C, which interrupts the main thread, must not leave the request in progress.
        run_all([partial(self.bucket_store(bucket).delete, key)], 1, Stop(running_stop()))
        self._forget_listings(path)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._in_thread(lambda _: self.rm_file(path))

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Delete objects, all objects below a prefix, or buckets.

        Args:
            path: One path or several; with ``*`` and the like for all matches.
            recursive: Whether to delete the objects below a path, and buckets with their content.
            maxdepth: How deep, with `recursive`.
            **kwargs: Options of the class below.

        Returns:
            The paths of the deleted objects.

        Raises:
            ObjectNotFoundError: If there is nothing at one of the paths; nothing was deleted then.
            OSError: If a bucket is not empty, and `recursive` was not requested.
            StorageError: If one cannot be deleted.
        """
        return run_interruptible(self.loop, self._rm, path, recursive=recursive, maxdepth=maxdepth, **kwargs)

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,  # noqa: ARG002 - as in `_put`
        maxdepth: int | None = None,
        **_: Any,
    ) -> Any:
        await self._require_exact(path, recursive=recursive)
        places = await self._places_to_delete(path, maxdepth, recursive=recursive)
        deleted: list[str] = await self._in_thread(
            lambda stop: self._delete_objects([place for place in places if place[1]], stop)
        )
        await self._remove_buckets([bucket for bucket, key in places if not key], recursive=recursive)
        return deleted

    async def _remove_buckets(self, buckets: list[str], *, recursive: bool) -> None:  # noqa: ARG002 - for versioned buckets
        for bucket in buckets:
            await self._rmdir(bucket)

    async def _places_to_delete(
        self, path: str | list[str], maxdepth: int | None, *, recursive: bool
    ) -> list[tuple[str, str]]:
        places: dict[tuple[str, str], None] = {}  # a set that keeps the order
        paths = [path] if isinstance(path, str) else list(path)
        # A list that `find(withdirs=True)` gave names folders as well, which vanish with the last object below them.
        folders = {name for each in paths for name in _folders_of(self._strip_protocol(each))} if len(paths) > 1 else set()
        for each in paths:
            named = self._split(self._strip_protocol(each).rstrip("/"))  # gcsfs keeps the slash
            try:
                found = await self._places_at(self._strip_protocol(each), maxdepth, recursive=recursive)
            except ObjectNotFoundError:
                if self._strip_protocol(each).rstrip("/") not in folders:
                    raise
                continue
            is_folder = each.endswith("/") and bool(named[1])  # then the object of that name is not meant
            places.update(dict.fromkeys(place for place in found if not (is_folder and place == named)))
        return list(places)

    async def _places_at(self, path: str, maxdepth: int | None, *, recursive: bool) -> list[tuple[str, str]]:
        """Bucket and key of the objects that `rm` of a path deletes; of a bucket also the bucket itself, at the end."""
        if has_magic(path):
            matches = await self._glob(path)
            if not recursive or maxdepth == 1:
                return [self._split(each) for each in matches]
            deeper = None if maxdepth is None else maxdepth - 1
            below = [await self._places_at(each, deeper, recursive=True) for each in matches]
            return [place for places in below for place in places]
        bucket, key = self._split(path)
        found = await self._places_below(path, maxdepth) if recursive else []
        if not key:
            return [*found, (bucket, "")]
        if (bucket, key) not in found and await self._in_thread(lambda _: self._may_exist(path, unknown=not found)):
            found.append((bucket, key))
        if not found:
            raise not_there(self._error_details(bucket, key, "delete"))
        return found

    async def _places_below(self, path: str, maxdepth: int | None) -> list[tuple[str, str]]:
        return [self._split(each) for each in await self._find(path, maxdepth=maxdepth)]

    def _may_exist(self, path: str, *, unknown: bool) -> bool:
        bucket, key = self._place(path)
        try:
            self.bucket_store(bucket).info(key, "delete")
        except (ObjectNotFoundError, BucketNotFoundError):
            return False
        except AccessDeniedError:  # credentials may permit writes and deletes, but no reads
            return unknown
        return True

    def _delete_objects(self, places: list[tuple[str, str]], stop: Stop) -> list[str]:
        """Delete objects; one that does not exist any more is not an error."""
        for bucket, numbers in _by_bucket(places).items():
            store = self.bucket_store(bucket)
            keys = [places[number][1] for number in numbers]
            # In a thread: Ctrl-C, which interrupts the main thread, must not leave a request in progress.
            run_all([partial(store.delete_many, keys, store.transfer("", "delete", stop=stop))], 1, stop)
        paths = [f"{bucket}/{key}" for bucket, key in places]
        self._forget_all(paths)
        return paths

    # ------------------------------------------------------------------ info, listings

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """An object, a prefix or a bucket as fsspec describes it; always requested from the store.

        Raises:
            ObjectNotFoundError: If neither an object nor a prefix exists.
            StorageError: If the request fails.
        """
        bucket, key = self._split(path)
        if not key.rstrip("/"):
            if bucket:
                self.bucket_store(bucket).require_bucket("info", recently=False)
            return self.directory(bucket)
        if key.endswith("/"):
            if self._is_folder(bucket, key[:-1]):
                return self.directory(f"{bucket}/{key[:-1]}")
            raise not_there(self._error_details(bucket, key, "info"))
        try:
            found = self.entry(bucket, key)
        except ObjectNotFoundError:
            if self._is_folder(bucket, key):
                return self.directory(f"{bucket}/{key}")
            raise
        if found["type"] == "file" and not found["size"]:
            self.bucket_store(bucket).info(key)  # some stores state 0 where there is content, which this refuses
        return found

    async def _info(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self._is_left_to_upstream(kwargs):
            of_version: dict[str, Any] = await super()._info(path, *args, **kwargs)
            return of_version
        found: dict[str, Any] = await self._in_thread(lambda _: self.info(path, **kwargs))
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Whether an object, a prefix or a bucket exists now.

        Raises:
            StorageError: If the request fails.
        """
        return self._type(path) is not None

    async def _exists(self, path: str, **_: Any) -> bool:
        return await self._type_of(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether an object exists now.

        Raises:
            StorageError: If the request fails.
        """
        return self._type(path) == "file"

    async def _isfile(self, path: str) -> bool:
        return await self._type_of(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether a prefix or a bucket exists now; a name may be an object and a prefix at the same time.

        Raises:
            StorageError: If the request fails.
        """
        bucket, key = self._split(path)
        if not key.rstrip("/"):
            return self._type(path) == "directory"
        try:
            return self._is_folder(bucket, key.removesuffix("/"))
        except BucketNotFoundError:
            return False

    async def _isdir(self, path: str) -> bool:
        found: bool = await self._in_thread(lambda _: self.isdir(path))
        return found

    def _is_folder(self, bucket: str, key: str) -> bool:
        """Whether there are objects below a key, or the marker of a folder."""
        return self.bucket_store(bucket).is_prefix(f"{key}/")

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, BucketNotFoundError):
            return None

    async def _type_of(self, path: str) -> str | None:
        try:
            return str((await self._info(path))["type"])
        except (FileNotFoundError, BucketNotFoundError):
            return None

    async def _ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.upstream:
            return await self._ls_of_upstream(path, *args, **kwargs)
        detail = args[0] if args else kwargs.get("detail", True)
        found = await self._in_thread(lambda _: self._entries(path))
        return found if detail else [each["name"] for each in found]

    async def _ls_of_upstream(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """The listing of the class below, without the marker of the folder itself, which would be its own child.

        Raises:
            BucketNotFoundError: If the bucket does not exist.
            ObjectNotFoundError: If there is nothing at the path.
        """
        try:
            with self.translated_upstream(path, "list"):
                found = await super()._ls(path, *args, **kwargs)
        except FileNotFoundError as error:
            if isinstance(error, OURS):
                raise
            bucket, key = self._split(path)
            if bucket:
                await self._in_thread(lambda _: self.bucket_store(bucket).require_bucket("list", recently=False))
            raise not_there(self._error_details(bucket, key.rstrip("/"), "list")) from error
        own = self._strip_protocol(path).rstrip("/")
        if not own or not isinstance(found, list):
            return found
        if not any(own == each.rstrip("/") for each in found if isinstance(each, str)):  # no names, or none of itself
            return [each for each in found if isinstance(each, str) or not _is_marker_of(own, each)]
        if own in found and await self._isfile(own) and not await self._isdir(own):
            return found
        return [each for each in found if each.rstrip("/") != own]

    def _entries(self, path: str) -> list[dict[str, Any]]:
        """The objects and folders directly in a folder; or the object of that path."""
        bucket, key = self._split(path)
        key = key.rstrip("/")
        store = self.bucket_store(bucket)
        root = store.url("")
        entries = []
        for each in store.list_folder(f"{key}/" if key else ""):
            if isinstance(each, str):
                entries.append(self.directory(f"{bucket}/{each.removeprefix(root).rstrip('/')}"))
            else:
                entries.append(_listed(f"{bucket}/{each.url.removeprefix(root)}", each))
        if entries or not key:
            return entries
        return [self.entry(bucket, key)]

    async def _find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if self.upstream:
            with self.translated_upstream(path, "list"):
                names = await super()._find(path, *args, **kwargs)
            bucket = self._split(path)[0]
            if not names and bucket and not has_magic(bucket):
                await self._in_thread(lambda _: self.bucket_store(bucket).require_bucket("list", recently=False))
            return names
        if args or kwargs.keys() - {"detail"}:
            return await super()._find(path, *args, **kwargs)
        found = await self._in_thread(lambda _: self._objects_below(path))
        return {each["name"]: each for each in found} if kwargs.get("detail") else [each["name"] for each in found]

    def _objects_below(self, path: str) -> list[dict[str, Any]]:
        bucket, key = self._split(path)
        key = key.rstrip("/")
        store = self.bucket_store(bucket)
        root = store.url("")
        below = [_listed(f"{bucket}/{each.url.removeprefix(root)}", each) for each in store.list(f"{key}/" if key else "")]
        if key and not below:
            with contextlib.suppress(ObjectNotFoundError):
                return [self.entry(bucket, key)]
        return below

    async def _mkdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        if self.upstream:
            with self.translated_upstream(path, "mkdir"):
                await super()._mkdir(path, *args, **kwargs)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        if self.upstream:
            with self.translated_upstream(path, "mkdir"):
                await super()._makedirs(path, exist_ok=exist_ok)

    async def _rmdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        if self.upstream:
            with self.translated_upstream(path, "rmdir"):
                await super()._rmdir(path, *args, **kwargs)

    # gcsfs and adlfs bind these two names to their own coroutines.

    def mkdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Make a bucket, if `path` is one; prefixes need not be made. As the class below.

        Raises:
            FileExistsError: If the bucket exists.
            StorageError: If it cannot be made.
        """
        sync(self.loop, self._mkdir, path, *args, **kwargs)

    def rmdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Remove an empty bucket. As the class below.

        Raises:
            FileNotFoundError: If the bucket does not exist.
            OSError: If it is not empty.
            StorageError: If it cannot be removed.
        """
        sync(self.loop, self._rmdir, path, *args, **kwargs)


def not_there(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for a path at which there is neither an object nor a folder."""
    return ObjectNotFoundError(f"{details.url} does not exist ({details.provider} {details.operation})", details)


def _folders_of(path: str) -> Iterator[str]:
    """The folders above a path."""
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _is_marker_of(path: str, entry: Mapping[str, Any]) -> bool:
    """Whether a listed entry is the folder that was listed."""
    name = str(entry["name"])
    return name.rstrip("/") == path and (name != path or entry["type"] == "directory")


def _is_lenient(on_error: str | None, *, recursive: bool) -> bool:
    return recursive if on_error is None else on_error == "ignore"


def _by_bucket(places: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    """The numbers of the places in each bucket."""
    found: dict[str, list[int]] = {}
    for number, (bucket, _) in enumerate(places):
        found.setdefault(bucket, []).append(number)
    return found


def _target_of(path: str, target: Any) -> str:
    """The local file of a download of one object; by fsspec's rules, in a folder it has the name of the object."""
    local = os.fspath(target)
    is_folder = local.endswith(("/", os.sep)) or os.path.isdir(local)
    return os.path.join(local, path.rpartition("/")[2]) if is_folder else local


def _opened(source: Source, _: ErrorDetails) -> contextlib.AbstractContextManager[Source]:
    return contextlib.nullcontext(source)


def _listed(name: str, info: ObjectInfo) -> dict[str, Any]:
    return {"name": name, "type": "file", "size": info.size, "ETag": info.etag, "LastModified": info.last_modified}
