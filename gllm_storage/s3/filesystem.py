"""`S3FileSystem`: s3fs's, with our data path below the methods that carry promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any

from fsspec.asyn import get_loop
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from s3fs.core import S3FileSystem as _S3FileSystem

from gllm_storage.errors import BucketNotFoundError, ErrorDetails, ObjectNotFoundError
from gllm_storage.local_files import open_source, source_of
from gllm_storage.opening import AtomicOpening, is_create
from gllm_storage.process import PerProcess
from gllm_storage.s3.connection import Connection, Connections
from gllm_storage.s3.errors import not_found
from gllm_storage.s3.file import S3File
from gllm_storage.s3.parallel import Stop, stopped_by
from gllm_storage.s3.plan import TransferSettings, check_transfer_settings
from gllm_storage.s3.requests import S3Requests
from gllm_storage.s3.store import S3Store
from gllm_storage.s3.transfer import Transfer, no_progress
from gllm_storage.writer import AtomicWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gllm_storage.objects import ObjectInfo


_FILE_OPTIONS = ("cache_type", "cache_options", "autocommit", "size", "fill_cache", "acl")


class S3FileSystem(AtomicOpening, _S3FileSystem):  # type: ignore[misc]  # s3fs publishes no types
    """s3fs's filesystem with the promises of this library.

    `put_file`, `get_file`, `info`, `exists`, `rm_file` and `object_info`, `iter_objects` go through boto3: exclusive
    creates that hold at any size, downloads that are whole and verified, errors in our words. The rest is s3fs's, with
    listings that are always fresh.

    Args:
        multipart_threshold: Files of more bytes than this are uploaded in parts.
        part_size: Bytes in a part and in a ranged read, at least 5 MiB.
        conditional_writes: ``"auto"``, ``"enforced"`` or ``"best-effort"``; see `TransferSettings`.
        **options: s3fs's options.

    Raises:
        ValueError: If a size is impossible.
    """

    _pid: int  # fsspec's: the process that made the instance

    def __init__(
        self,
        *args: Any,
        multipart_threshold: int = TransferSettings.multipart_threshold,
        part_size: int = TransferSettings.part_size,
        conditional_writes: str = TransferSettings.conditional_writes,
        **options: Any,
    ) -> None:
        # An entry of a listing that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        super().__init__(*args, **options)
        self.transfer = check_transfer_settings(
            TransferSettings(
                multipart_threshold=multipart_threshold,
                part_size=part_size,
                max_concurrency=self.max_concurrency,
                max_attempts=self.config_kwargs.get("retries", {}).get("total_max_attempts", TransferSettings.max_attempts),
                conditional_writes=conditional_writes,
            )
        )
        self.connections = Connections(self._connection())
        parameters = {**self.s3_additional_kwargs, **self.req_kw}
        self.requests = S3Requests(self.connections, parameters)
        self.store = S3Store(self.requests, self.transfer)
        self._threads: PerProcess[ThreadPoolExecutor] = PerProcess(
            lambda: ThreadPoolExecutor(self.max_concurrency, thread_name_prefix="gllm-storage-async")
        )

    @property
    def loop(self) -> Any:
        """The event loop of this process. In a forked child, what s3fs had made in the parent is made anew."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loop = get_loop()
            self._s3 = None
            self._set_session_lock = asyncio.Lock()
            if self._session_is_owned:
                self.session = None
        return super().loop

    def _connection(self) -> Connection:
        """The same connection as s3fs makes, for boto3."""
        given = {
            "aws_access_key_id": None if self.anon else self.key,
            "aws_secret_access_key": None if self.anon else self.secret,
            "aws_session_token": None if self.anon else self.token,
            "endpoint_url": self.endpoint_url,
        }
        client_options = {**self.client_kwargs, **{name: value for name, value in given.items() if value is not None}}
        client_options.setdefault("use_ssl", self.use_ssl)
        return Connection(
            client_options=client_options,
            config_options=self.config_kwargs,
            profile_name=self.kwargs.get("profile"),
            anonymous=bool(self.anon),
            pool_size=max(10, 2 * self.max_concurrency),
        )

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Upload a local file.

        Args:
            lpath: The local file.
            rpath: Where to put it: ``bucket/key`` or ``s3://bucket/key``.
            callback: Told the size, and the bytes as they are sent.
            mode: ``"overwrite"``, or ``"create"`` to fail if the object exists, atomically.
            **kwargs: Further parameters of PutObject and CreateMultipartUpload, such as ``ContentType`` or ``Metadata``.

        Raises:
            ValueError: If `mode` is something else, or `rpath` names no object.
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        self._store(os.fspath(lpath), rpath, is_create(mode), callback, kwargs, stop=Stop())

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        exclusive = is_create(mode)
        if os.path.isdir(lpath):  # noqa: ASYNC240 - as s3fs does: a recursive put names folders, too, which S3 does not have
            return
        await self._in_thread(lambda stop: self._store(os.fspath(lpath), rpath, exclusive, callback, kwargs, stop=stop))

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        """Download an object: whole, one version of it, verified against its checksum, or not at all.

        Args:
            rpath: The object: ``bucket/key`` or ``s3://bucket/key``.
            lpath: Where to put it. What is there is replaced when the download is complete.
            callback: Told the size, and the bytes as they arrive.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; what was at `lpath` is as it was.
        """
        self._fetch(rpath, os.fspath(lpath), callback, Stop())

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        if os.path.isdir(lpath):  # noqa: ASYNC240 - as s3fs does: a recursive get names folders, too
            return
        await self._in_thread(lambda stop: self._fetch(rpath, os.fspath(lpath), callback, stop))

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool) -> None:
        """As `put_file`."""
        self._store(lpath, rpath, exclusive, DEFAULT_CALLBACK, {}, stop=Stop())

    def fetch_file(self, rpath: str, lpath: str) -> None:
        """As `get_file`."""
        self._fetch(rpath, lpath, DEFAULT_CALLBACK, Stop())

    def object_info(self, path: str) -> ObjectInfo:
        """What the store knows of an object now.

        Raises:
            ObjectNotFoundError: If there is no such object; a prefix of others is none.
            StorageError: If it cannot be told.
        """
        return self.requests.info(*self._place(path))

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """All objects whose path begins with ``bucket/…``, in key order.

        Raises:
            StorageError: If listing fails.
        """
        bucket, _, prefix = self._strip_prefix(path).partition("/")
        yield from self.requests.list(bucket, prefix)

    def object_exists(self, path: str) -> bool:
        """Whether there is such an object now; a prefix of others is none.

        Raises:
            StorageError: If it cannot be told.
        """
        try:
            self.requests.head(*self._place(path), "exists")
        except ObjectNotFoundError:
            return False
        return True

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What fsspec wants to know of an object, a prefix or a bucket; always asked from the store.

        Raises:
            ObjectNotFoundError: If there is neither object nor prefix.
            StorageError: If it cannot be told.
        """
        bucket, key = self._split(path)
        if not key:
            if bucket:
                self.requests.require_bucket(bucket, ErrorDetails("s3", f"s3://{bucket}", "info"), recently=False)
            return _directory(bucket)
        try:
            answer = self.requests.head(bucket, key, "info", checksums=True)
        except ObjectNotFoundError:
            if self.requests.is_prefix(bucket, key.rstrip("/") + "/"):
                return _directory(f"{bucket}/{key}")
            raise
        return {
            "name": f"{bucket}/{key}",
            "type": "file",
            "size": answer["ContentLength"],
            "ETag": answer["ETag"],
            "LastModified": answer.get("LastModified", ""),
            "StorageClass": answer.get("StorageClass", "STANDARD"),
            "VersionId": answer.get("VersionId"),
            "ContentType": answer.get("ContentType"),
            "metadata": dict(answer.get("Metadata", {})),
        }

    async def _info(self, path: str, *args: Any, version_id: str | None = None, **kwargs: Any) -> dict[str, Any]:
        if version_id is not None or self.version_aware:
            of_version: dict[str, Any] = await super()._info(path, *args, version_id=version_id, **kwargs)
            return of_version
        found: dict[str, Any] = await self._in_thread(lambda _: self.info(path))
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is an object, a prefix or a bucket now.

        Raises:
            StorageError: If it cannot be told.
        """
        try:
            self.info(path)
        except (FileNotFoundError, BucketNotFoundError):
            return False
        return True

    async def _exists(self, path: str) -> bool:
        found: bool = await self._in_thread(lambda _: self.exists(path))
        return found

    def rm_file(self, path: str, **_: Any) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        bucket, key = self._place(path)
        self.requests.head(bucket, key, "delete")  # DeleteObject answers 204 for what never was
        self.requests.delete(bucket, key)
        self.invalidate_cache(path)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._in_thread(lambda _: self.rm_file(path))

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode not in {"rb", "wb", "xb"} or kwargs.get("version_id") or self.version_aware:
            return super()._open(path, mode, block_size, **kwargs)
        if not kwargs.get("autocommit", True) and mode != "rb":
            return super()._open(path, mode, block_size, **kwargs)
        bucket, key = self._place(path)
        options = {name: kwargs.pop(name, None) for name in _FILE_OPTIONS}
        if mode != "rb":
            transfer = self._transfer(bucket, key, "open")
            if mode == "xb":
                self.store.require_creates(bucket, key, transfer.details)
            parameters = {**kwargs, "ACL": options["acl"] or None}
            return AtomicWriter(self._published(bucket, key, mode == "xb", parameters), transfer.details.url)
        if self.info(path)["type"] == "directory":
            raise not_found(ErrorDetails("s3", f"s3://{bucket}/{key}", "open"))
        options["cache_type"] = options["cache_type"] or self.default_cache_type
        given = {name: value for name, value in options.items() if value is not None}
        return S3File(self, path, mode, block_size=block_size or self.default_block_size, **given)

    @contextlib.contextmanager
    def _published(self, bucket: str, key: str, exclusive: bool, parameters: Mapping[str, Any]) -> Iterator[IO[bytes]]:
        """An unnamed local temporary file, whose content becomes the object when the block ends well."""
        with tempfile.TemporaryFile() as spool:
            yield spool
            spool.flush()
            transfer = self._transfer(bucket, key, "upload")
            source = source_of(spool.fileno(), "<what was written>", transfer.details)
            self.store.upload(source, bucket, key, transfer, exclusive=exclusive, parameters=parameters)
        self.invalidate_cache(f"{bucket}/{key}")

    async def _pipe_file(self, path: str, data: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        await self._in_thread(lambda _: self.pipe_file(path, data, mode, **kwargs))

    def read_range(self, path: str, start: int, end: int, *, etag: str) -> bytes:
        """Bytes ``start`` to ``end`` (not included) of one version of an object.

        Raises:
            ObjectChangedError: If the object is another version now.
            ObjectNotFoundError: If it was deleted.
            StorageError: If it cannot be read.
        """
        return self.store.read_range(*self._place(path), start, end, etag)

    def _store(
        self, lpath: str, rpath: str, exclusive: bool, callback: Callback, parameters: Mapping[str, Any], *, stop: Stop
    ) -> None:
        bucket, key = self._place(rpath)
        transfer = self._transfer(bucket, key, "upload", callback, stop)
        with open_source(lpath, transfer.details) as source:
            transfer.expect(source.size)
            self.store.upload(source, bucket, key, transfer, exclusive=exclusive, parameters=parameters)
        self.invalidate_cache(rpath)

    def _fetch(self, rpath: str, lpath: str, callback: Callback, stop: Stop) -> None:
        bucket, key = self._place(rpath)
        self.store.download(bucket, key, lpath, self._transfer(bucket, key, "download", callback, stop))

    def _transfer(
        self, bucket: str, key: str, operation: str, callback: Callback = DEFAULT_CALLBACK, stop: Stop | None = None
    ) -> Transfer:
        details = ErrorDetails("s3", f"s3://{bucket}/{key}", operation)
        return Transfer(details, self.transfer, progress=_progress(callback), expect=callback.set_size, stop=stop or Stop())

    def _split(self, path: str) -> tuple[str, str]:
        bucket, key, _ = self.split_path(path)
        return bucket, key

    def _place(self, path: str) -> tuple[str, str]:
        bucket, key = self._split(path)
        if not key:
            raise ValueError(f"{path!r} names no object: it needs a bucket and a key")
        return bucket, key

    def _strip_prefix(self, path: str) -> str:
        """Like `_strip_protocol`, which would take a trailing ``/`` off."""
        return next((path.removeprefix(f"{name}://") for name in self.protocol if path.startswith(f"{name}://")), path)

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


def _directory(name: str) -> dict[str, Any]:
    return {"name": name, "type": "directory", "size": 0, "StorageClass": "DIRECTORY"}


def _progress(callback: Callback) -> Callable[[int], None]:
    """Make an fsspec callback, which adds up without a lock, safe to be told from many threads."""
    if callback is DEFAULT_CALLBACK:
        return no_progress
    lock = threading.Lock()

    def progress(moved: int) -> None:
        with lock:
            callback.relative_update(moved)

    return progress
