"""`S3FileSystem`: s3fs's, with our data path below the methods that carry promises."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from s3fs.core import S3FileSystem as _S3FileSystem

from gllm_storage.bucket_filesystem import BucketFileSystem
from gllm_storage.s3.connection import Connection, Connections
from gllm_storage.s3.file import S3File
from gllm_storage.s3.plan import S3TransferSettings, check_transfer_settings
from gllm_storage.s3.requests import S3Requests
from gllm_storage.s3.store import S3Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.objects import ObjectInfo


class S3FileSystem(BucketFileSystem, _S3FileSystem):  # type: ignore[misc]  # s3fs publishes no types
    """s3fs's filesystem with the promises of this library.

    What `BucketFileSystem` names goes through boto3; the rest is s3fs's, with listings that are always fresh.

    Args:
        multipart_threshold: Files of more bytes than this are uploaded in parts.
        part_size: Bytes in a part and in a ranged read, at least 5 MiB.
        conditional_writes: ``"auto"``, ``"enforced"`` or ``"best-effort"``; see `S3TransferSettings`.
        **options: s3fs's options.

    Raises:
        ValueError: If a size is impossible.
    """

    provider: ClassVar[str] = "s3"
    scheme: ClassVar[str] = "s3"
    appends: ClassVar[bool] = True

    def __init__(
        self,
        *args: Any,
        multipart_threshold: int = S3TransferSettings.multipart_threshold,
        part_size: int = S3TransferSettings.part_size,
        conditional_writes: str = S3TransferSettings.conditional_writes,
        **options: Any,
    ) -> None:
        # An entry of a listing that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        super().__init__(*args, **options)
        retries = self.config_kwargs.get("retries", {})
        self.transfer = check_transfer_settings(
            S3TransferSettings(
                multipart_threshold=multipart_threshold,
                part_size=part_size,
                max_concurrency=self.max_concurrency,
                max_attempts=retries.get("total_max_attempts", S3TransferSettings.max_attempts),
                conditional_writes=conditional_writes,
            )
        )
        self.connections = Connections(self._connection())
        requests = S3Requests(self.connections, {**self.s3_additional_kwargs, **self.req_kw})
        self.requests = requests
        self._attach(S3Store(requests, self.transfer))

    def _after_fork(self) -> None:
        self._s3 = None
        self._set_session_lock = asyncio.Lock()
        if self._session_is_owned:
            self.session = None

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

    def _open_reader(self, path: str, version: ObjectInfo, block_size: int | None, **caching: Any) -> S3File:
        caching.setdefault("cache_type", self.default_cache_type)
        return S3File(self, path, version, block_size=block_size or self.default_block_size, **caching)

    def _is_left_to_provider(self, start: int | None, end: int | None, kwargs: Mapping[str, Any]) -> bool:  # noqa: ARG002 - not by range
        return self._is_of_version(kwargs)  # boto3 reads all else: whoever listens to its events must see every request

    def _directory(self, name: str) -> dict[str, Any]:
        return {**super()._directory(name), "StorageClass": "DIRECTORY"}

    def _split(self, path: str) -> tuple[str, str]:
        path = self._without_protocol(path)
        if path.endswith("/"):  # which s3fs would take off
            bucket, key, _ = self.split_path(path.rstrip("/"))
            return (bucket, f"{key}/") if key else (bucket, "")
        bucket, key, _ = self.split_path(path)
        return bucket, key
