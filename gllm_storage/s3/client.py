"""`S3StorageClient`: Amazon S3 and everything that speaks its protocol."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Dict  # noqa: UP035 - the documented signatures say Dict

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.paths import Location, split_url
from gllm_storage.s3.settings import S3Settings
from gllm_storage.settings import describe, parse_config

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import ObjectStore
    from gllm_storage.s3.filesystem import S3FileSystem, VerbOptions
    from gllm_storage.s3.store import S3Store


class S3StorageClient(FsspecStorageClient):
    """AWS S3 and S3-compatible storage client implementation.

    This class implements the CloudStorageClient interface for AWS S3 and other S3-compatible storage providers like MinIO.
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
        # The verbs need no filesystem: to import s3fs and aiohttp takes longer than most of what they do.
        self._s3: PerProcess[S3Store] = PerProcess(self._make_store)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``s3://bucket/prefix`` stands for.

        Raises:
            ValueError: If it is no URL.
        """
        bucket, _, prefix = split_url(url)[1].partition("/")
        return {"bucket_name": bucket, "prefix": prefix} if prefix else {"bucket_name": bucket}

    def upload_file(self, local_path: str | Path, remote_path: str, check_conflict: bool = False) -> str:
        """Upload a file to S3 storage.

        Files up to `multipart_threshold` go in a single PutObject, larger ones in parts, side by side. With
        `check_conflict=True` the request that makes the object visible (PutObject or CompleteMultipartUpload) carries
        ``If-None-Match: *``, so that S3 rejects the upload atomically if the key exists, at any size. A HeadObject before
        saves the bytes where the conflict can be seen early. Where an endpoint enforces the condition on PutObject only,
        files up to 5 GiB go in one PutObject; above that the HeadObject is all there is, and a `NonAtomicWriteWarning` says
        so. Where it enforces neither, the call is refused before anything is written.

        Args:
            local_path: Path to the local file to upload.
            remote_path: Path in S3 where the file should be saved. If a relative path is provided, it will be appended to
                the prefix; one that begins with ``/`` is taken from the bucket's root.
            check_conflict: When True, prevent overwriting an existing remote key. Defaults to False.

        Returns:
            S3 URI for the uploaded file (s3://{bucket_name}/{full_remote_path}).

        Raises:
            ValueError: If the remote path is impossible.
            FileNotFoundError: If the local file does not exist.
            FileExistsError: If check_conflict is True and the remote key already exists (`ObjectExistsError`).
            RuntimeError: If the upload fails (`StorageError`); nothing was changed then, and nothing is left behind.
        """
        return super().upload_file(local_path, remote_path, check_conflict)

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch, dask and `fsspec.open` need beside a URL; s3fs takes it. It holds the config's secrets."""
        return self.settings.storage_options()

    def _configure(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        self.settings = parse_config(S3Settings, self.provider, config)
        return Location("s3", f"{self.settings.bucket_name}/", self.settings.prefix, aliases=("s3a",))

    def _make_filesystem(self) -> S3FileSystem:
        from gllm_storage.s3.filesystem import S3FileSystem  # noqa: PLC0415 - it imports s3fs and botocore

        filesystem = S3FileSystem(**self.settings.filesystem_options(), skip_instance_cache=True)
        if filesystem.options_of_verbs() == self._options_of_verbs():
            filesystem.use(self._s3.get())
        return filesystem

    def _make_store(self) -> S3Store:
        from gllm_storage.s3.connection import Connections  # noqa: PLC0415 - the client's module loads no SDK
        from gllm_storage.s3.requests import S3Requests  # noqa: PLC0415 - as above
        from gllm_storage.s3.store import S3Store  # noqa: PLC0415 - as above

        connection, parameters, settings = self._options_of_verbs()
        return S3Store(S3Requests(Connections(connection), parameters), settings)

    def _options_of_verbs(self) -> VerbOptions:
        return self.settings.connection(), self.settings.parameters(), self.settings.transfer()

    @cached_property
    def _is_configured_by_fsspec(self) -> bool:
        from gllm_storage.fsspec_config import fsspec_configures  # noqa: PLC0415 - as above

        return fsspec_configures("s3", "s3a")

    def _store(self) -> ObjectStore:
        from gllm_storage.store.bucket_objects import BucketObjects  # noqa: PLC0415 - as above

        # What fsspec's configuration adds, only the filesystem knows; and both must speak to the same server.
        store = self.filesystem.store if self._is_configured_by_fsspec else self._s3.get()
        return BucketObjects(store, self.settings.bucket_name, self.provider, self._location.scheme)

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
