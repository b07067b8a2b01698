"""`GCSStorageClient`: Google Cloud Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict  # noqa: UP035 - the documented signatures say Dict

from gllm_storage.errors import AccessDeniedError, ErrorDetails
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.gcs.settings import GCSSettings
from gllm_storage.paths import Location, split_url
from gllm_storage.settings import describe, parse_config, require_extra

if TYPE_CHECKING:
    from gllm_storage.fsspec_client import ObjectStore
    from gllm_storage.gcs.filesystem import GCSFileSystem


class GCSStorageClient(FsspecStorageClient):
    """Google Cloud Storage client.

    It needs the extra: ``pip install 'gllm-storage[gcs]'``.
    """

    provider: ClassVar[str] = "gcs"
    settings_class = GCSSettings

    def __init__(self, config: Dict[str, str]) -> None:  # noqa: UP006 - as documented
        """Initialize the GCS storage client.

        Args:
            config: Configuration parameters, all strings:

                - bucket_name: Name of the bucket. The only one that is required.
                - prefix: Optional prefix (folder) within the bucket.
                - project: The project, for requester_pays.
                - token: Path of a key file, or ``"anon"``, ``"cloud"`` (the machine's own account) or ``"google_default"``.
                  Without it gcsfs tries the default credentials, the machine's account, and then none.
                - anonymous: ``"true"`` for requests without credentials to public buckets.
                - endpoint_url: URL of the store, without a path. Default: Google's, or ``STORAGE_EMULATOR_HOST``.
                - ca_bundle: Path of a file with the CA certificates to trust.
                - requester_pays: ``"true"`` for `project` to pay for requests to others' buckets.
                - storage_class, kms_key_name: For what is stored.
                - multipart_threshold: Larger files go by a resumable upload. Default ``"16MiB"``.
                - part_size: Of its chunks, and of ranged reads; a multiple of 256 KiB. Default ``"16MiB"``.
                - max_concurrency: Ranges of one object that are read at a time. Default ``"10"``.
                - connect_timeout, read_timeout: Default ``"10s"``, ``"60s"``.
                - max_attempts: How often a request is sent in all. Default ``"5"``.

        Raises:
            ValueError: If required configuration parameters are missing, or any is unknown or wrong: one error that names
                all mistakes.
            ImportError: If the extra is not installed.
        """
        require_extra("gcs", "gcsfs")
        super().__init__(config)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``gs://bucket/prefix`` stands for.

        Raises:
            ValueError: If it is no URL.
        """
        bucket, _, prefix = split_url(url)[1].partition("/")
        return {"bucket_name": bucket, "prefix": prefix} if prefix else {"bucket_name": bucket}

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch, dask and `fsspec.open` need beside a URL; gcsfs takes it."""
        return self.settings.storage_options()

    def _configure(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        self.settings = parse_config(GCSSettings, self.provider, config)
        return Location("gs", f"{self.settings.bucket_name}/", self.settings.prefix, aliases=("gcs",))

    def _make_filesystem(self) -> GCSFileSystem:
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415 - of the extra

        from gllm_storage.gcs.filesystem import GCSFileSystem  # noqa: PLC0415 - it imports gcsfs

        try:
            return GCSFileSystem(**self.settings.filesystem_options(), skip_instance_cache=True)
        except (GoogleAuthError, ValueError, KeyError, OSError) as error:  # a key file that is none
            details = ErrorDetails("gcs", f"gs://{self.settings.bucket_name}", "connection")
            raise AccessDeniedError(
                f"gcs connection failed: {type(error).__name__}: {error}. Check token and the default credentials", details
            ) from error

    def _store(self) -> ObjectStore:
        from gllm_storage.store.bucket_objects import BucketObjects  # noqa: PLC0415 - the client's module loads no SDK

        return BucketObjects(self.filesystem.store, self.settings.bucket_name, self.provider, self._location.scheme)

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
