"""`S3FileSystem`: s3fs's, with our data path below the methods that carry promises."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.asyn import sync, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from s3fs.core import S3FileSystem as _S3FileSystem

from gllm_storage.concurrency.interrupt import task_of_call
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ObjectExistsError, StorageError
from gllm_storage.files.target import atomic_target
from gllm_storage.filesystem.lists import is_collected
from gllm_storage.s3.connection import BODY_SIGNING, ENGINES, Connection, Connections, pool_size, require_one_of
from gllm_storage.s3.errors import translated
from gllm_storage.s3.multipart import Receipt
from gllm_storage.s3.plan import S3TransferSettings, check_transfer_settings, settings_of_call
from gllm_storage.s3.requests import S3Requests, info_from_head
from gllm_storage.s3.s3fs.files import S3File, S3Writer
from gllm_storage.s3.s3fs.inherited import in_our_words
from gllm_storage.s3.s3fs.lists import ManyObjects, with_content_type
from gllm_storage.s3.s3fs.moves import MovingMethods
from gllm_storage.s3.s3fs.options import SharedInstances, client_options_of, require_known
from gllm_storage.s3.store import S3Store
from gllm_storage.store.checksums import WRITE_ID
from gllm_storage.store.download import download_object
from gllm_storage.store.port import Destination

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager

    from gllm_storage.filesystem.writing import WritableFile
    from gllm_storage.info import ObjectInfo


VerbOptions = tuple[Connection, dict[str, Any], S3TransferSettings]
"""How to reach the store, parameters of all requests, and how objects are moved."""

_ONLY_S3FS_S = {"blocksize", "requester_pays"}
"""Arguments of writes that are no parameters of S3's."""
_OF_READERS = {"cache_options", "cache_type", "fill_cache", "size"}
"""Arguments of `open` that say nothing where a file is written."""


class S3FileSystem(MovingMethods, ManyObjects, _S3FileSystem, metaclass=SharedInstances):  # type: ignore[misc]  # s3fs has no types
    """s3fs's filesystem with the promises of this library.

    It stands in for `s3fs.S3FileSystem`, whose cache of instances it shares: docs/s3fs.md lists what is otherwise. What
    `BucketFileSystem` names goes through boto3, and so do copies and deletes; the rest is s3fs's, with listings that are
    always fresh.

    Args:
        multipart_threshold: Files of more bytes than this are uploaded in parts.
        part_size: Bytes in a part and in a ranged read, at least 5 MiB.
        memory_limit: Bytes of content that all transfers of the process hold in memory at a time, at least one part.
        conditional_writes: ``"auto"``, ``"enforced"`` or ``"best-effort"``; see `S3TransferSettings`.
        engine: ``"auto"`` or ``"boto3"``; see `Connection`.
        sign_bodies: ``"auto"``, ``"always"`` or ``"never"``; see `BodySigning`.
        **options: s3fs's options.

    Raises:
        TypeError: If there is an option that nobody knows.
        ValueError: If a size is impossible.
    """

    provider: ClassVar[str] = "s3"
    scheme: ClassVar[str] = "s3"
    appends: ClassVar[bool] = True
    store: S3Store

    def __init__(
        self,
        *args: Any,
        multipart_threshold: int = S3TransferSettings.multipart_threshold,
        part_size: int = S3TransferSettings.part_size,
        memory_limit: int = S3TransferSettings.memory_limit,
        conditional_writes: str = S3TransferSettings.conditional_writes,
        engine: str = "auto",
        sign_bodies: str = "auto",
        **options: Any,
    ) -> None:
        require_known(options, S3FileSystem)
        # An entry of a listing that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        batch_size = options.pop("batch_size", None)  # s3fs documents it, and would hand it to its session
        super().__init__(*args, **options)
        self.batch_size = batch_size
        retries = self.config_kwargs.get("retries", {})
        self.transfer = check_transfer_settings(
            S3TransferSettings(
                multipart_threshold=multipart_threshold,
                part_size=part_size,
                max_concurrency=self.max_concurrency,
                max_attempts=retries.get("total_max_attempts", S3TransferSettings.max_attempts),
                memory_limit=memory_limit,
                conditional_writes=conditional_writes,
            )
        )
        require_one_of("engine", engine, ENGINES)
        require_one_of("sign_bodies", sign_bodies, BODY_SIGNING)
        self.connections = Connections(self._connection(engine, sign_bodies))
        _, parameters, settings = self.options_of_verbs()
        self.use(S3Store(S3Requests(self.connections, parameters), settings))

    def options_of_verbs(self) -> VerbOptions:
        """What its store was made of."""
        return self.connections.connection, {**self.s3_additional_kwargs, **self.req_kw}, self.transfer

    def use(self, store: S3Store) -> None:
        """Go through another store, which was made of the same options, and may have its boto3 client already."""
        self.transfer = store.settings
        self.requests = store.requests
        self.connections = store.requests.connections
        self._attach(store)

    def _after_fork(self) -> None:
        self._s3 = None
        self._set_session_lock = asyncio.Lock()
        if self._session_is_owned:
            self.session = None

    def _connection(self, engine: str, sign_bodies: str) -> Connection:
        """The same connection as s3fs makes, for boto3."""
        profile, of_session = client_options_of(None if self._session_is_owned else self.session)
        given = {
            "aws_access_key_id": None if self.anon else self.key,
            "aws_secret_access_key": None if self.anon else self.secret,
            "aws_session_token": None if self.anon else self.token,
            "endpoint_url": self.endpoint_url,
        }
        given = {name: value for name, value in given.items() if value is not None}
        client_options = {**of_session, **self.client_kwargs, **given}
        client_options.setdefault("use_ssl", self.use_ssl)
        return Connection(
            client_options=client_options,
            config_options=self.config_kwargs,
            profile_name=self.kwargs.get("profile") or profile,
            anonymous=bool(self.anon),
            pool_size=pool_size(self.max_concurrency),
            engine=engine,
            sign_bodies=sign_bodies,
        )

    def _open_reader(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> S3File:
        # s3fs's own defaults are not asked for by anybody; ours are better (notes in `read_ahead`).
        if "default_cache_type" in self.storage_options:
            options.setdefault("cache_type", self.default_cache_type)
        if "default_block_size" in self.storage_options:
            block_size = block_size or self.default_block_size
        given = {"fill_cache": self.default_fill_cache, "requester_pays": self.requester_pays, **options}
        return S3File(self, path, version, block_size=block_size, **given)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode in {"wb", "xb"}:
            return self._open_to_write(path, mode, block_size, kwargs)
        if mode == "rb" and self._asks_otherwise(kwargs):
            return _S3FileSystem._open(self, path, mode, block_size, **kwargs)  # noqa: SLF001 - past our own
        return super()._open(path, mode, block_size, **kwargs)

    def _open_to_write(self, path: str, mode: str, block_size: int | None, kwargs: dict[str, Any]) -> S3Writer:
        """Open an object for writing; of a filesystem that is aware of versions, too, whose promises are the same."""
        if self._names_version(path, kwargs):
            raise ValueError(f"{path!r} names a version, which cannot be written")
        bucket, key = self._place(path)
        autocommit = bool(kwargs.pop("autocommit", True))
        given = {name: value for name, value in kwargs.items() if name not in _OF_READERS}
        exclusive, options = self._write_options(mode == "xb", given)
        destination = Destination(bucket, key, self._transfer(bucket, key, "upload"), exclusive, options)
        details, receipt = self._error_details(bucket, key, "open"), Receipt()
        content = self.store.noting(receipt).open_stream(destination, block_size)
        if exclusive:
            self.store.require_creates(bucket, key, details)
        return S3Writer(
            self._published_version(content, bucket, key, receipt),
            details.url,
            mode,
            receipt,
            blocksize=block_size or self.default_block_size,
            fs=self,
            autocommit=autocommit,
        )

    @contextlib.contextmanager
    def _published_version(
        self, content: AbstractContextManager[WritableFile], bucket: str, key: str, receipt: Receipt
    ) -> Iterator[WritableFile]:
        """As `_published`; which version it became is looked up where the answer was lost."""
        with self._published(content, f"{bucket}/{key}") as file:
            yield file
        if not self.version_aware or receipt.answer is not None:
            return
        with contextlib.suppress(StorageError):  # it is stored
            found = self.requests.head(bucket, key, "upload")
            metadata = info_from_head(found, "").metadata or {}
            if metadata.get(WRITE_ID) == receipt.write_id:
                receipt.answer = found

    def _asks_otherwise(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a file is to be read by requests with further parameters, such as a key of the caller's own."""
        payer = kwargs.get("requester_pays")
        shape = self.requests.client.meta.service_model.operation_model("GetObject").input_shape
        parameters = shape.members.keys() if shape else set()
        return (payer is not None and bool(payer) != bool(self.requester_pays)) or bool(parameters & kwargs.keys())

    def _write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        settings_of_call(self.transfer, kwargs)  # refused before anything is looked at, or sent
        payer = {"RequestPayer": "requester"} if kwargs.get("requester_pays") else {}
        return exclusive, {**payer, **{name: value for name, value in kwargs.items() if name not in _ONLY_S3FS_S}}

    def _is_left_to_provider(self, start: int | None, end: int | None, kwargs: Mapping[str, Any]) -> bool:  # noqa: ARG002 - not by range
        return self._is_of_version(kwargs)  # boto3 reads all else: whoever listens to its events must see every request

    def _directory(self, name: str) -> dict[str, Any]:
        versions = {} if "/" in name else {"VersionId": None}
        return {**super()._directory(name), "StorageClass": "DIRECTORY", **versions}

    def put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """As `BucketFileSystem.put_file`, with the content type that the file's name suggests."""
        super().put_file(lpath, rpath, callback, mode, **with_content_type(lpath, kwargs))

    async def _put_file(
        self, lpath: str, rpath: str, callback: Callback = DEFAULT_CALLBACK, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        await super()._put_file(lpath, rpath, callback, mode, **with_content_type(lpath, kwargs))

    def pipe_file(  # fsspec's name is `value`, and s3fs's is `data`
        self, path: str, value: bytes | None = None, mode: str = "overwrite", *, data: bytes | None = None, **kwargs: Any
    ) -> None:
        """As `BucketFileSystem.pipe_file`; the content may be called `data`, as s3fs does.

        Raises:
            TypeError: If there is no content, or two.
            ValueError: If `mode` is something else, or `path` names no object.
            ObjectExistsError: If `mode` is ``"create"`` and the object exists.
            StorageError: If it cannot be stored; nothing was changed then, and nothing is left behind.
        """
        super().pipe_file(path, _the_content(value, data), mode, **kwargs)

    async def _pipe_file(
        self, path: str, value: bytes | None = None, mode: str = "overwrite", *, data: bytes | None = None, **kwargs: Any
    ) -> None:
        await super()._pipe_file(path, _the_content(value, data), mode, **kwargs)

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """As `BucketFileSystem.get_file`; of a version that ``version_id`` or the path names.

        Its ranges are of ``chunksize`` bytes then, and ``max_concurrency`` of them are read at a time, if these are given.

        Raises:
            ValueError: If a version is named, and the filesystem is not aware of them; or ranges cannot be so.
            ObjectNotFoundError: If the object, or that version of it, does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; what was at `lpath` is as it was.
        """
        if self._names_version(rpath, kwargs):
            sync(self.loop, self._get_file, rpath, lpath, callback, **kwargs)
        else:
            self._download_as_told(rpath, lpath, callback, Stop(), kwargs)

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        if is_collected(rpath, lpath):
            return
        if not self._names_version(rpath, kwargs):
            if os.path.isdir(lpath):  # noqa: ASYNC240 - a recursive get names folders, too
                return
            told = callback or DEFAULT_CALLBACK
            await self._in_thread(lambda stop: self._download_as_told(rpath, lpath, told, stop, kwargs))
            return
        details = self._error_details(*self._place(rpath), "download")
        with task_of_call(), atomic_target(os.fspath(lpath), details) as target:
            await _S3FileSystem._get_file(self, rpath, target.temporary, callback or DEFAULT_CALLBACK, **kwargs)  # noqa: SLF001 - past our own

    def _download_as_told(self, rpath: str, lpath: str, callback: Callback, stop: Stop, kwargs: Mapping[str, Any]) -> None:
        settings = settings_of_call(self.transfer, kwargs, least=1)
        bucket, key = self._place(rpath)
        transfer = dataclasses.replace(self._transfer(bucket, key, "download", callback, stop), settings=settings)
        download_object(self.store.reader(bucket, key, transfer.details), os.fspath(lpath), transfer)

    def _names_version(self, path: str, kwargs: Mapping[str, Any]) -> bool:
        """Whether a certain version is meant.

        Raises:
            ValueError: If one is, and the filesystem is not aware of them.
        """
        version_id = kwargs.get("version_id")
        if version_id and not self.version_aware:
            raise ValueError(f"version_id={version_id!r} needs a filesystem that was made with version_aware=True")
        return bool(version_id or self.split_path(path)[2])

    def info(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As `BucketFileSystem.info`; of a version of the object where the filesystem is aware of them.

        Raises:
            ObjectNotFoundError: If there is neither object nor prefix.
            StorageError: If it cannot be told.
        """
        if self._is_of_version(kwargs):
            of_version: dict[str, Any] = sync(self.loop, self._info, path, *args, **kwargs)
            return of_version
        found = super().info(path)
        # s3fs answers with these names, too, where it has listed the object before.
        return found if found["type"] == "directory" else {"Key": found["name"], "Size": found["size"], **found}

    def touch(self, path: str, truncate: bool = True, data: bytes | None = None, **kwargs: Any) -> Any:
        """Create an empty object.

        Args:
            path: The object.
            truncate: Whether to replace one that is there. False creates exclusively, as ``mode="create"`` of `pipe_file`.
            data: Its content, if it is not to be empty.
            **kwargs: Parameters of PutObject.

        Returns:
            What S3 answered, such as the ``VersionId``, where it replaced what was there.

        Raises:
            ValueError: If the object exists and `truncate` is False; it is as it was. Or if `path` names a version.
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
                raise ValueError(f"{error}. S3 cannot give it a new time only") from error
        bucket, key = self._place(path)
        parameters = {**self.requests.parameters("PutObject"), **options, "Bucket": bucket, "Key": key, "Body": data}
        with translated(self._error_details(bucket, key, "touch")):
            # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
            (answer,) = run_all([lambda: self.requests.client.put_object(**parameters)], 1, stop)
        self._forget_listings(path)
        return answer

    async def _call_s3(self, method: str, *akwarglist: Any, **kwargs: Any) -> Any:
        """Where s3fs's own methods ask S3."""
        name = kwargs.get("Key") or kwargs.get("Prefix") or ""
        with in_our_words(self._error_details(kwargs.get("Bucket", ""), name, method)):
            return await super()._call_s3(method, *akwarglist, **kwargs)

    call_s3 = sync_wrapper(_call_s3)

    def _split(self, path: str) -> tuple[str, str]:
        path = self._without_protocol(path)
        if path.endswith("/"):  # which s3fs would take off
            bucket, key, _ = self.split_path(path.rstrip("/"))
            return (bucket, f"{key}/") if key else (bucket, "")
        bucket, key, _ = self.split_path(path)
        return bucket, key


S3FileSystem._cache = _S3FileSystem._cache  # noqa: SLF001 - so that clear_instance_cache of s3fs's class clears ours


def _the_content(value: bytes | None, data: bytes | None) -> bytes:
    content = data if value is None else value
    if content is None or (value is not None and data is not None):
        raise TypeError("pipe_file takes the content as value, or as data")
    return content
