"""`S3FileSystem`: s3fs's filesystem on the stores of this library."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import os
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import s3fs.core
from botocore.exceptions import ClientError
from fsspec.asyn import sync, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from s3fs.core import S3FileSystem as _S3FileSystem
from s3fs.errors import translate_boto_error

from gllm_storage.concurrency.interrupt import task_of_call
from gllm_storage.concurrency.loops import OfLoop, takes_work
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, ObjectExistsError
from gllm_storage.files.target import atomic_target
from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.s3.connection import S3Connection, connection_of, send_digests
from gllm_storage.s3.errors import translated
from gllm_storage.s3.files import S3Writer, open_writer, put_parameters
from gllm_storage.s3.listing import buckets_of, pages_of
from gllm_storage.s3.s3fs.errors import translated_s3fs
from gllm_storage.s3.s3fs.files import S3Appender, S3File
from gllm_storage.s3.s3fs.options import SharedInstances, client_options_of, natural_options, require_known
from gllm_storage.s3.settings import S3TransferSettings, settings_of_call
from gllm_storage.store import checksums

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.store import S3Store


class S3FileSystem(StoreFileSystem, _S3FileSystem, metaclass=SharedInstances):
    """s3fs's filesystem with the promises of this library.

    It replaces `s3fs.S3FileSystem`, whose cache of instances it shares: docs/s3fs.md lists the differences. Listings are
    never cached.

    Args:
        multipart_threshold: Files of more bytes than this are uploaded in parts. Default 16 MiB.
        part_size: Bytes in a part and in a ranged read, at least 5 MiB. Default 8 MiB.
        memory_limit: Bytes of content that all transfers of the process hold in memory at a time. Default 128 MiB.
        conditional_writes: ``"auto"``, ``"enforced"`` or ``"best-effort"``; see `S3TransferSettings`.
        exclusive_put_limit: Exclusive creates of at most this many bytes go in one PutObject, on endpoints that are not
            Amazon's. Default 5 GiB minus 5 MiB.
        fsync: Whether downloaded files are on the disk when the call returns. Default True; see `TransferSettings`.
        sync_source: Whether files are written to the disk before their upload. Default False; see `TransferSettings`.
        engine: ``"auto"`` or ``"boto3"``; see `Endpoint`.
        sign_bodies: ``"auto"``, ``"always"`` or ``"never"``; see `BodySigning`.
        publish_on_error: Whether a written file appears also if other code closes it at the end of a block that failed.
        min_throughput: The fewest bytes per second of an answer, averaged over each read timeout. Default 1024; 0 for no
            limit.
        total_timeout: The most seconds of one verb of a client. Default None, for no limit.
        **options: s3fs's options.

    Raises:
        TypeError: If an option is unknown.
        ValueError: If a value is impossible.

    Examples:
        >>> fs = S3FileSystem(endpoint_url="https://minio.example.com", key="…", secret="…")
    """

    provider: ClassVar[str] = "s3"
    scheme: ClassVar[str] = "s3"
    appends: ClassVar[bool] = True
    upstream: ClassVar[bool] = True
    connection: S3Connection
    """The endpoint; the verbs of a client share it."""
    _s3 = OfLoop()
    _s3creator = OfLoop(close=lambda creator: creator.__aexit__(None, None, None))
    _set_session_lock = OfLoop(lambda _: asyncio.Lock())

    def __init__(
        self,
        *args: Any,
        multipart_threshold: int = S3TransferSettings.multipart_threshold,
        part_size: int = S3TransferSettings.part_size,
        memory_limit: int = S3TransferSettings.memory_limit,
        conditional_writes: str = S3TransferSettings.conditional_writes,
        exclusive_put_limit: int = S3TransferSettings.exclusive_put_limit,
        fsync: bool = S3TransferSettings.fsync,
        sync_source: bool = S3TransferSettings.sync_source,
        engine: str = "auto",
        sign_bodies: str = "auto",
        publish_on_error: bool = False,
        min_throughput: int = S3TransferSettings.min_throughput,
        total_timeout: float | None = S3TransferSettings.total_timeout,
        **options: Any,
    ) -> None:
        require_known(options, S3FileSystem)
        options = natural_options(options)
        # An entry that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        batch_size = options.pop("batch_size", None)  # s3fs documents it, and would pass it on to its session
        super().__init__(*args, **options)
        self.batch_size = batch_size
        self.connection = connection_of(
            {
                **self._options_of_s3fs(),
                "multipart_threshold": multipart_threshold,
                "part_size": part_size,
                "memory_limit": memory_limit,
                "conditional_writes": conditional_writes,
                "exclusive_put_limit": exclusive_put_limit,
                "fsync": fsync,
                "sync_source": sync_source,
                "engine": engine,
                "sign_bodies": sign_bodies,
                "publish_on_error": publish_on_error,
                "min_throughput": min_throughput,
                "total_timeout": total_timeout,
            }
        )

    def _options_of_s3fs(self) -> dict[str, Any]:
        """The options as s3fs understood them, for `connection_of`."""
        profile, of_session = client_options_of(None if self._session_is_owned else self.session)
        return {
            "anon": self.anon,
            "key": self.key,
            "secret": self.secret,
            "token": self.token,
            "endpoint_url": self.endpoint_url,
            "use_ssl": self.use_ssl,
            "profile": self.kwargs.get("profile") or profile,
            "client_kwargs": {**of_session, **self.client_kwargs},
            "config_kwargs": self.config_kwargs,
            "s3_additional_kwargs": self.s3_additional_kwargs,
            "requester_pays": bool(self.req_kw),
            "max_concurrency": self.max_concurrency,
        }

    @staticmethod
    def close_session(loop: Any, s3: Any) -> None:
        """Close s3fs's session, also on a loop that the caller runs.

        Args:
            loop: The loop that the session belongs to.
            s3: s3fs's maker of clients.
        """
        if takes_work(loop) and not loop.is_running():
            asyncio.run_coroutine_threadsafe(s3.__aexit__(None, None, None), loop)
        else:
            _S3FileSystem.close_session(loop, s3)

    def bucket_store(self, bucket: str) -> S3Store:
        """The store of a bucket."""
        return self.connection.store(bucket)

    @property
    def async_workers(self) -> int:
        """Coroutines that work at a time."""
        return self.connection.settings.max_concurrency

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """An object as s3fs describes it.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If the request fails.
        """
        store = self.bucket_store(bucket)
        answer = store.requests.head(key, "info", checksums=True)
        name = f"{bucket}/{key}"
        return {
            "Key": name,  # s3fs answers with these two names if it has listed the object before
            "Size": answer["ContentLength"],
            "name": name,
            "type": "file",
            "size": answer["ContentLength"],
            "ETag": answer["ETag"],
            "LastModified": answer.get("LastModified", ""),
            "StorageClass": answer.get("StorageClass", "STANDARD"),
            "VersionId": answer.get("VersionId"),
            "ContentType": answer.get("ContentType"),
            "metadata": dict(answer.get("Metadata", {})),
        }

    def directory(self, name: str) -> dict[str, Any]:
        """A prefix or bucket as s3fs describes it."""
        versions = {} if "/" in name else {"VersionId": None}
        return {**super().directory(name), "StorageClass": "DIRECTORY", **versions}

    def write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read s3fs's arguments of writes; see `put_parameters`.

        Raises:
            ValueError: If they ask for impossible parts.
        """
        return exclusive, put_parameters(self.connection.settings, kwargs)

    def after_fork(self) -> None:
        """Drop s3fs's client of the parent process."""
        self._s3 = None
        self._set_session_lock = asyncio.Lock()
        if self._session_is_owned:
            self.session = None

    async def set_session(self, refresh: bool = False, kwargs: Mapping[str, Any] = MappingProxyType({})) -> Any:
        """Connect s3fs's own client, which sends the requests of s3fs's own methods."""
        client = await super().set_session(refresh, kwargs)
        send_digests(client)
        return client

    _connect = set_session
    connect = sync_wrapper(set_session)

    def open_version(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> S3File:
        """Open one version of an object for reading. Sends no request."""
        # s3fs's defaults were not requested by the caller; those of `read_ahead` are better.
        if "default_cache_type" in self.storage_options:
            options.setdefault("cache_type", self.default_cache_type)
        if "default_block_size" in self.storage_options:
            block_size = block_size or self.default_block_size
        given = {"fill_cache": self.default_fill_cache, "requester_pays": self.requester_pays, **options}
        bucket, key = self._place(path)
        return S3File(self, path, version, self.bucket_store(bucket), key, block_size=block_size, **given)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode in {"wb", "xb"}:
            return self._open_to_write(path, mode, block_size, kwargs)
        if mode == "rb" and self._asks_otherwise(kwargs):
            return _S3FileSystem._open(self, path, mode, block_size, **kwargs)  # noqa: SLF001 - s3fs's own reader
        if mode == "ab":
            return self._open_to_append(path, block_size, **kwargs)
        return super()._open(path, mode, block_size, **kwargs)

    def _open_to_write(self, path: str, mode: str, block_size: int | None, kwargs: dict[str, Any]) -> S3Writer:
        if self._names_version(path, kwargs):
            raise ValueError(f"{path!r} names a version, which cannot be written")
        bucket, key = self._place(path)
        told = partial(self._forget_listings, path)
        return open_writer(S3Writer, self, self.bucket_store(bucket), key, mode, block_size, kwargs, told)

    def _open_to_append(self, path: str, block_size: int | None, *, autocommit: bool = True, **kwargs: Any) -> S3Appender:
        file = _S3FileSystem._open(self, path, "ab", block_size, **kwargs)  # noqa: SLF001 - s3fs's own writer
        bucket, key = self._place(path)
        store = self.bucket_store(bucket)
        return S3Appender(
            file,
            store.url(key),
            "ab",
            blocksize=file.blocksize,
            fs=self,
            autocommit=autocommit,
            publish_on_error=store.settings.publish_on_error,
        )

    def _asks_otherwise(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a file is read by requests with further parameters, such as a customer's encryption key."""
        payer = kwargs.get("requester_pays")
        other_payer = payer is not None and bool(payer) != bool(self.requester_pays)
        return other_payer or bool(self.connection.members("GetObject").keys() & kwargs.keys())

    def pipe_file(  # fsspec's name is `value`, and s3fs's is `data`
        self, path: str, value: bytes | None = None, mode: str = "overwrite", *, data: bytes | None = None, **kwargs: Any
    ) -> None:
        """Store bytes; see `StoreFileSystem.pipe_file`. The content may be called `data`, as in s3fs.

        Raises:
            TypeError: If there is no content, or two.
            ValueError: If `mode` is something else, or `path` is not the path of an object.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If it cannot be stored; nothing was changed then, and nothing is left behind.
        """
        super().pipe_file(path, _the_content(value, data), mode, **kwargs)

    async def _pipe_file(
        self, path: str, value: bytes | None = None, mode: str = "overwrite", *, data: bytes | None = None, **kwargs: Any
    ) -> None:
        await super()._pipe_file(path, _the_content(value, data), mode, **kwargs)

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Download an object; see `StoreFileSystem.get_file`. ``version_id``, or the path, may name a version of it.

        ``chunksize`` and ``max_concurrency`` are the bytes of a range and the number of ranges at a time, for this call.

        Raises:
            ValueError: If a version is named, and the filesystem is not aware of them; or ranges are impossible.
            ObjectNotFoundError: If the object, or that version of it, does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; the local file is unchanged then.
        """
        if self._names_version(rpath, kwargs):
            sync(self.loop, self._get_file, rpath, lpath, callback, **kwargs)
        else:
            super().get_file(rpath, lpath, callback, **kwargs)

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        if not self._names_version(rpath, kwargs):
            await super()._get_file(rpath, lpath, callback, **kwargs)
            return
        details = self._error_details(*self._place(rpath), "download")
        durable = self.connection.settings.fsync
        with task_of_call(), atomic_target(os.fspath(lpath), details, durable=durable) as target:
            await _S3FileSystem._get_file(self, rpath, target.temporary, callback or DEFAULT_CALLBACK, **kwargs)  # noqa: SLF001 - s3fs's own download

    def _download(self, rpath: str, lpath: str, callback: Callback, stop: Stop, kwargs: Mapping[str, Any]) -> None:
        settings = settings_of_call(self.connection.settings, kwargs, least=1)
        bucket, key = self._place(rpath)
        store = self.bucket_store(bucket)
        transfer = dataclasses.replace(store.transfer(key, "download", callback, stop), settings=settings)
        store.download(key, os.fspath(lpath), transfer)

    def _names_version(self, path: str, kwargs: Mapping[str, Any]) -> bool:
        """Whether a version is named.

        Raises:
            ValueError: If it is, and the filesystem is not aware of versions.
        """
        version_id = kwargs.get("version_id")
        if version_id and not self.version_aware:
            raise ValueError(f"version_id={version_id!r} needs a filesystem that was made with version_aware=True")
        return bool(version_id or self.split_path(path)[2])

    def info(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """An object, a prefix or a bucket; of a version of the object if the filesystem is aware of them.

        Raises:
            ObjectNotFoundError: If neither an object nor a prefix exists.
            StorageError: If the request fails.
        """
        if self._is_of_version(kwargs):
            of_version: dict[str, Any] = sync(self.loop, self._info, path, *args, **kwargs)
            return of_version
        return super().info(path)

    def touch(self, path: str, truncate: bool = True, data: bytes | None = None, **kwargs: Any) -> Any:
        """Create an empty object.

        Args:
            path: The object.
            truncate: Whether to replace an existing object. False creates exclusively, as ``mode="create"`` of `pipe_file`.
            data: Its content, instead of nothing.
            **kwargs: Parameters of PutObject.

        Returns:
            The answer of S3, with the ``VersionId`` for example, if an existing object may be replaced.

        Raises:
            ValueError: If the object exists and `truncate` is False; it was not changed. Or if `path` names a version.
            StorageError: If it cannot be stored.
        """
        return self._write_small(path, data or b"", Stop(running_stop()), kwargs, truncate=truncate)

    async def _touch(self, path: str, truncate: bool = True, data: bytes | None = None, **kwargs: Any) -> Any:
        return await self._in_thread(lambda stop: self._write_small(path, data or b"", stop, kwargs, truncate=truncate))

    def _write_small(self, path: str, data: bytes, stop: Stop, options: Mapping[str, Any], *, truncate: bool) -> Any:
        if self.split_path(path)[2]:
            raise ValueError(f"{path!r} names a version, which cannot be written")
        if not truncate:
            try:
                return self.pipe_file(path, data, mode="create", **options)
            except ObjectExistsError as error:
                raise ValueError(f"{error.message}. S3 cannot change the time alone") from error
        bucket, key = self._place(path)
        connection = self.connection
        parameters = {**connection.parameters("PutObject"), **options, "Bucket": bucket, "Key": key, "Body": data}
        given = any(name.startswith(("Checksum", "ContentMD5")) for name in options)
        checksum = {} if given else {"ChecksumCRC64NVME": checksums.encode(checksums.crc64nvme(data))}
        details = self._error_details(bucket, key, "touch")
        put = partial(connection.checksum_headers.call, connection.client.put_object, checksum, details, **parameters)
        with translated(details):
            # In a thread: Ctrl-C, which interrupts the main thread, must not leave the request in progress.
            (answer,) = run_all([put], 1, stop)
        self._forget_listings(path)
        return answer

    def _copy_object(self, path1: str, path2: str, options: Mapping[str, Any]) -> None:
        version_id = self.split_path(path1)[2]
        if self.split_path(path2)[2]:
            raise ValueError(f"{path2!r} names a version, which cannot be written")
        above = {"in_parts_above": s3fs.core.MANAGED_COPY_THRESHOLD}
        super()._copy_object(path1, path2, {**options, **above, **({"version_id": version_id} if version_id else {})})

    async def _remove_buckets(self, buckets: list[str], *, recursive: bool) -> None:
        for bucket in buckets:
            if recursive and await self._is_bucket_versioned(bucket):
                await self._rm_versioned_bucket_contents(bucket)
        await super()._remove_buckets(buckets, recursive=recursive)

    async def _bulk_delete(self, pathlist: list[str], **_: Any) -> list[str]:
        places = [self._place(path) for path in pathlist]
        deleted: list[str] = await self._in_thread(lambda stop: self._delete_objects(places, stop))
        return deleted

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        """The requests of s3fs's own methods."""
        name = kwargs.get("Key") or kwargs.get("Prefix") or ""
        with translated_s3fs(self._error_details(kwargs.get("Bucket", ""), name, method)):
            return await super()._call_s3(method, *akwarglist, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    async def _lsbuckets(self, refresh: bool = False) -> list[dict[str, Any]]:
        """As s3fs's own, with the checks of `buckets_of`."""
        cached: list[dict[str, Any]] | None = None if refresh else self.dircache.get("")
        if cached is not None:
            return cached
        if self.anon:
            return []  # S3 does not list buckets to anonymous callers
        with translated_s3fs(ErrorDetails(self.provider, "s3://", "list")):
            try:
                found = await self._in_thread(lambda _: buckets_of(self.connection.client))
            except ClientError as error:
                raise translate_boto_error(error) from error
        of_fsspec = {"Size": 0, "StorageClass": "BUCKET", "size": 0, "type": "directory"}
        files = [{**each, **of_fsspec, "Key": each["Name"], "name": each["Name"]} for each in found]
        for each in files:
            del each["Name"]
        self.dircache[""] = files
        return files

    async def _list_pages(self, method: str, **kwargs: Any) -> AsyncGenerator[dict[str, Any], None]:
        """The pages of the listings of s3fs's own methods, with the checks of `pages_of`."""
        bucket, operation = kwargs["Bucket"], "".join(each.capitalize() for each in method.split("_"))
        details = self._error_details(bucket, str(kwargs.get("Prefix") or ""), "list")
        pages = pages_of(self.connection.client, {**self.connection.parameters(operation), **kwargs}, method)
        while True:
            with translated_s3fs(details):
                try:
                    page = await self._in_thread(lambda _: next(pages, None))
                except ClientError as error:
                    raise translate_boto_error(error) from error
            if page is None:
                return
            yield page

    async def _iterdir(
        self, bucket: str, max_items: int | None = None, delimiter: str = "/", prefix: str = "", versions: bool = False
    ) -> AsyncGenerator[dict[str, Any], None]:
        """As s3fs's own, whose earlier releases request the pages by a paginator that ends without an error."""
        if versions and not self.version_aware:
            raise ValueError("versions cannot be specified if the filesystem is not version aware")
        method, entries = ("list_object_versions", "Versions") if self.version_aware else ("list_objects_v2", "Contents")
        most = {} if max_items is None else {"MaxKeys": 2 * max_items}
        left = math.inf if max_items is None else max_items
        parameters = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter, **self.req_kw, **most}
        async with contextlib.aclosing(self._list_pages(method, **parameters)) as pages:
            async for page in pages:
                for each in page.get("CommonPrefixes", []):
                    found = {"Key": each["Prefix"][:-1], "Size": 0, "StorageClass": "DIRECTORY", "type": "directory"}
                    self._fill_info(found, bucket, versions=False)
                    yield found
                for found in page.get(entries, []):
                    if left <= 0:
                        return
                    left -= 1
                    if not self.version_aware or found.get("IsLatest") or versions:
                        found.update(type="file", size=found["Size"])
                        self._fill_info(found, bucket, versions=versions)
                        yield found
                if left <= 0:
                    return

    def _split(self, path: str) -> tuple[str, str]:
        path = self._without_protocol(path)
        stripped = path.rstrip("/")
        bucket, key, _ = self.split_path(stripped)  # which would remove the slashes
        slashes = path[len(stripped) :]
        return bucket, f"{key}{slashes}" if key else slashes[1:]


S3FileSystem._cache = _S3FileSystem._cache  # noqa: SLF001 - so that clear_instance_cache of s3fs's class clears ours


def _the_content(value: bytes | None, data: bytes | None) -> bytes:
    content = data if value is None else value
    if content is None or (value is not None and data is not None):
        raise TypeError("pipe_file takes the content as value, or as data")
    return content
