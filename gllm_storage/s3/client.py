"""`S3StorageClient`: Amazon S3 and everything that speaks its protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict  # noqa: UP035 - the documented signatures say Dict

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.paths import Location, split_url
from gllm_storage.s3.settings import S3Settings
from gllm_storage.settings import describe, fsspec_configuration, parse_config

if TYPE_CHECKING:
    from gllm_storage.s3.connection import S3Connection
    from gllm_storage.s3.filesystem import S3FileSystem
    from gllm_storage.store.port import ObjectStore


class S3StorageClient(FsspecStorageClient):
    """AWS S3 and S3-compatible storage client implementation.

    This class implements the CloudStorageClient interface for AWS S3 and other S3-compatible storage providers like MinIO.

    Files up to `multipart_threshold` are uploaded by a single PutObject, larger ones in parts, side by side. With
    ``check_conflict=True`` the request that makes the object visible (PutObject or CompleteMultipartUpload) carries
    ``If-None-Match: *``, so that S3 rejects the upload atomically if the key exists, at any size. A HeadObject before it
    saves the bytes of an upload that would be rejected. If an endpoint enforces the precondition on PutObject only, files
    up to 5 GiB are uploaded by one PutObject; above that size the HeadObject is the only check, and a
    `NonAtomicWriteWarning` says so. If it enforces neither, the call is refused before anything is written.
    """

    provider: ClassVar[str] = "s3"
    settings_class = S3Settings

    def __init__(self, config: Dict[str, str]) -> None:  # noqa: UP006 - as documented
        """Initialize the S3 storage client.

        Args:
            config: S3 configuration parameters, all strings:

                - bucket_name: Name of the S3 bucket. The only one that is required.
                - prefix: Optional prefix (folder) within the bucket.
                - endpoint_url: Optional endpoint URL for S3-compatible services.
                - region_name, profile_name: As for boto3.
                - aws_access_key_id, aws_secret_access_key, aws_session_token: Credentials; without them boto3's own chain
                  (environment, configuration files, roles) is used.
                - anonymous: ``"true"`` for unsigned requests to public buckets.
                - addressing_style: ``"auto"``, ``"path"`` or ``"virtual"``. Default: boto3's.
                - ca_bundle: Path of a file with the CA certificates to trust.
                - server_side_encryption, sse_kms_key_id, storage_class: For what is stored.
                - requester_pays: ``"true"`` to pay for requests to others' buckets.
                - expected_bucket_owner: Account id that must own the bucket.
                - multipart_threshold: Larger files go in parts, side by side. Default ``"16MiB"``; ``"5GB"`` sends a single
                  PutObject up to that size.
                - part_size: Of uploads and ranged reads, at least ``"5MiB"``. Default ``"8MiB"``.
                - max_concurrency: Parts of one file at a time. Default ``"10"``.
                - connect_timeout, read_timeout: Default ``"10s"``, ``"60s"``.
                - max_attempts: How often a request is sent in all. Default ``"5"``.
                - memory_limit: What all transfers of the process together hold in memory; at least `part_size`. Default
                  ``"128MiB"``.
                - engine: ``"auto"`` (default) sends the hot requests straight to a socket, where nothing speaks against it;
                  ``"boto3"`` sends all through boto3.
                - sign_bodies: Whether the bodies of requests over http are signed: ``"auto"`` (default) until the store has
                  shown that it checks their CRC-64/NVME, ``"always"``, or ``"never"``.
                - conditional_writes: What ``check_conflict=True`` trusts. ``"auto"`` (default) finds out once per endpoint
                  and bucket, with a small object beside the first target; ``"enforced"`` trusts the endpoint without asking;
                  ``"best-effort"`` accepts a check that can race where the endpoint can do nothing.

        Raises:
            ValueError: If required configuration parameters are missing, or any is unknown or wrong: one error that names
                all mistakes.
        """
        super().__init__(config)
        self._connection: PerProcess[S3Connection] = PerProcess(self._make_connection)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``s3://bucket/prefix`` stands for.

        Raises:
            ValueError: If it is no URL.
        """
        bucket, _, prefix = split_url(url)[1].partition("/")
        return {"bucket_name": bucket, "prefix": prefix} if prefix else {"bucket_name": bucket}

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch, dask and `fsspec.open` need beside a URL; s3fs takes it. It holds the config's secrets."""
        return self.settings.storage_options()

    def read_config(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        """Read the config; see `FsspecStorageClient.read_config`.

        Raises:
            ValueError: If it is wrong.
        """
        self.settings = parse_config(S3Settings, self.provider, config)
        return Location("s3", f"{self.settings.bucket_name}/", self.settings.prefix, aliases=("s3a",))

    def make_store(self) -> ObjectStore:
        """Make the store of the verbs, without s3fs and aiohttp, whose import takes longer than most verbs."""
        return self._connection.get().store(self.settings.bucket_name)

    def make_filesystem(self) -> S3FileSystem:
        """Make the filesystem, which shares the connection of the verbs."""
        from gllm_storage.s3.filesystem import S3FileSystem  # noqa: PLC0415 - it imports s3fs and aiohttp

        filesystem = S3FileSystem(**self._options(), skip_instance_cache=True)
        filesystem.connection = self._connection.get()
        return filesystem

    def _make_connection(self) -> S3Connection:
        from gllm_storage.s3.connection import connection_of  # noqa: PLC0415 - it imports botocore

        return connection_of(self._options())

    def _options(self) -> dict[str, Any]:
        """The options of the filesystem, over those of fsspec's own configuration."""
        return {**fsspec_configuration("s3", "s3a"), **self.settings.filesystem_options()}

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
