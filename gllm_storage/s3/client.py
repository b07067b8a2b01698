"""`S3StorageClient`: the storage client for Amazon S3 and compatible services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.paths import Location, split_bucket, split_url
from gllm_storage.s3.settings import S3Settings
from gllm_storage.settings import describe, fsspec_configuration, parse_config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fsspec import AbstractFileSystem

    from gllm_storage.s3.connection import S3Connection
    from gllm_storage.s3.files import ClientFiles
    from gllm_storage.s3.filesystem import S3FileSystem
    from gllm_storage.store.port import ObjectStore


class S3StorageClient(FsspecStorageClient):
    """AWS S3 and S3-compatible storage client implementation.

    This class implements the CloudStorageClient interface for AWS S3 and other S3-compatible storage providers like MinIO.

    Files up to `multipart_threshold` are uploaded by one PutObject, larger files in parallel parts.

    With ``check_conflict=True`` the request that makes the object visible (PutObject or CompleteMultipartUpload) carries
    ``If-None-Match: *``: S3 rejects it atomically if the key exists, at any size. A HeadObject before the upload avoids
    sending a file that would be rejected. Some compatible services enforce this precondition on PutObject only. There, files
    up to 5 GiB are uploaded by one PutObject; for larger files the HeadObject is the only check, and a
    `NonAtomicWriteWarning` is issued. If a service enforces the precondition on neither operation, the call is refused
    before anything is written.

    Examples:
        >>> client = S3StorageClient({"bucket_name": "models", "endpoint_url": "https://minio.example.com"})
        >>> client.upload_file("model.safetensors", "v3/model.safetensors", check_conflict=True)
    """

    provider: ClassVar[str] = "s3"
    settings_class = S3Settings

    def __init__(self, config: Dict[str, str]) -> None:
        """Initialize the S3 storage client. No request is sent.

        Args:
            config: S3 configuration parameters, all strings:

                - bucket_name: Name of the bucket. Required.
                - prefix: Key prefix of all names, such as ``"team/models"``. Default: none.
                - endpoint_url: URL of an S3-compatible service. Default: Amazon's for the region.
                - region_name: Region of the bucket. Default: as for boto3.
                - profile_name: Profile of the AWS configuration files. Default: as for boto3.
                - aws_access_key_id: Access key. Default: boto3's chain (environment, configuration files, roles).
                - aws_secret_access_key: Secret of the access key.
                - aws_session_token: Session token of temporary credentials.
                - anonymous: ``"true"`` sends unsigned requests, for public buckets. Default ``"false"``.
                - addressing_style: ``"auto"``, ``"path"`` or ``"virtual"``. Default: as for boto3.
                - ca_bundle: Path of a file with the CA certificates to trust. Default: as for boto3.
                - verify_tls: ``"false"`` accepts any TLS certificate, with a warning. Default ``"true"``.
                - server_side_encryption: Encryption of new objects, such as ``"aws:kms"``. Default: the bucket's.
                - sse_kms_key_id: KMS key of new objects. Default: the bucket's.
                - sse_customer_key: Key of the caller that encrypts and decrypts all objects (SSE-C): 32 bytes in base64. The
                  client then reads only objects with this key. Default: none.
                - storage_class: Storage class of new objects, such as ``"STANDARD_IA"``. Default ``"STANDARD"``.
                - requester_pays: ``"true"`` pays for requests to buckets of other accounts. Default ``"false"``.
                - expected_bucket_owner: Account id; requests fail if another account owns the bucket. Default: not checked.
                - multipart_threshold: Size above which a file is uploaded in parts, at most ``"5GiB"``. Default ``"16MiB"``.
                - part_size: Size of a part and of a ranged read, ``"5MiB"`` to ``"5GiB"``. Default ``"8MiB"``.
                - max_concurrency: The most parts of one file at a time. Default ``"16"``.
                - connect_timeout: Time to connect to the server. Default ``"10s"``.
                - read_timeout: Time without a byte from the server. Default ``"60s"``.
                - max_attempts: How often a request is sent at most. Default ``"5"``.
                - publish_on_error: ``"true"`` lets `close` of a written file publish also at the end of a ``with`` block
                  that failed. Default ``"false"``: nothing is stored then.
                - fsync: Whether a downloaded file is on the disk when the call returns; without it, a power cut can leave
                  zeros under its name. Default ``"true"``.
                - sync_source: Whether the dirty pages of a file are written to the disk before its upload, so that a write
                  by mmap meanwhile is noticed. Default ``"false"``.
                - min_throughput: The fewest bytes per second of an answer, averaged over each read_timeout. Default
                  ``"1KiB"``; ``"0"`` for no limit.
                - total_timeout: The most time of one verb, such as ``"10m"``. Default: no limit.
                - memory_limit: The most content that all transfers of the process hold in memory at a time; at least
                  `part_size`. Default ``"128MiB"``.
                - engine: ``"auto"`` sends frequent requests directly over a socket if possible; ``"boto3"`` sends all
                  requests through boto3. Default ``"auto"``.
                - sign_bodies: Whether bodies of requests over http are signed: ``"auto"`` (until the server has shown that
                  it checks their CRC-64/NVME), ``"always"`` or ``"never"``. Default ``"auto"``.
                - conditional_writes: Whether the endpoint enforces preconditions, for ``check_conflict=True``: ``"auto"``
                  (a probe with a small object, once per bucket and process), ``"enforced"`` (no probe), or
                  ``"best-effort"`` (a check that can race, if the endpoint enforces nothing). Default ``"auto"``.
                - exclusive_put_limit: The largest file that ``check_conflict=True`` sends in one PutObject to an endpoint
                  that is not Amazon's, at most ``"5GiB"``. A larger one goes in parts; two writers at the same moment can
                  then both succeed, if the endpoint's check is not atomic. Default 5 GiB minus 5 MiB.

        Raises:
            ValueError: If a required parameter is missing, or a parameter is unknown or wrong. The message names all
                mistakes.
        """
        super().__init__(config)
        self._connection: PerProcess[S3Connection] = PerProcess(self._make_connection)
        self._files: PerProcess[ClientFiles] = PerProcess(self._make_files)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config of a URL: ``s3://bucket/prefix`` gives `bucket_name` and `prefix`.

        Raises:
            ValueError: If the text is not a URL.
        """
        bucket, prefix = split_bucket(split_url(url)[1])
        return {"bucket_name": bucket, "prefix": prefix} if prefix else {"bucket_name": bucket}

    @property
    def storage_options(self) -> dict[str, Any]:
        """The ``storage_options`` of pandas, dask and `fsspec.open` for the client's URLs, with the secrets of the config.

        s3fs accepts them as well.

        Examples:
            >>> pandas.read_parquet(client.url("data.parquet"), storage_options=client.storage_options)
        """
        return self.settings.storage_options()

    def read_config(self, config: Dict[str, str]) -> Location:
        """Parse the config; see `FsspecStorageClient.read_config`.

        Raises:
            ValueError: If a parameter is missing, unknown or wrong.
        """
        self.settings = parse_config(S3Settings, self.provider, config)
        return Location("s3", f"{self.settings.bucket_name}/", self.settings.prefix, aliases=("s3a",), exact=True)

    def make_store(self) -> ObjectStore:
        """The store of the verbs. It does not import s3fs and aiohttp: that takes longer than most verbs."""
        return self._connection.get().store(self.settings.bucket_name)

    def make_filesystem(self) -> S3FileSystem:
        """A filesystem that shares the connection of the verbs."""
        from gllm_storage.s3.filesystem import S3FileSystem  # it imports s3fs and aiohttp

        filesystem = S3FileSystem(**self._options(), skip_instance_cache=True)
        filesystem.connection = self._connection.get()
        return filesystem

    def filesystem_to_open(self, mode: str, options: Mapping[str, Any]) -> AbstractFileSystem:
        """A filesystem that imports neither s3fs nor aiohttp, unless a file needs something of s3fs."""
        from gllm_storage.s3.files import ClientFiles

        made = self._filesystem.peek()
        is_in_transaction = made is not None and made._intrans  # noqa: SLF001 - fsspec's own
        if is_in_transaction or self._has_own_filesystem() or not ClientFiles.opens(mode, options):
            return self.filesystem
        return self._files.get()

    def _make_files(self) -> ClientFiles:
        from gllm_storage.s3.files import ClientFiles

        return ClientFiles(self._connection.get().store(self.settings.bucket_name), lambda: self.filesystem)

    def _has_own_filesystem(self) -> bool:
        """Whether a subclass, or fsspec's own configuration, makes another filesystem than the settings of the client."""
        if type(self).make_filesystem is not S3StorageClient.make_filesystem:
            return True
        return not fsspec_configuration("s3", "s3a").keys() <= self.settings.filesystem_options().keys()

    def _make_connection(self) -> S3Connection:
        from gllm_storage.s3.connection import connection_of  # it imports botocore

        return connection_of(self._options())

    def _options(self) -> dict[str, Any]:
        """The options of the filesystem; they override those of fsspec's own configuration."""
        return {**fsspec_configuration("s3", "s3a"), **self.settings.filesystem_options()}

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
