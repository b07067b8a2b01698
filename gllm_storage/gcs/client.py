"""`GCSStorageClient`: Google Cloud Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.errors import ErrorDetails
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.gcs.settings import GCSSettings
from gllm_storage.paths import Location, split_url
from gllm_storage.settings import describe, fsspec_configuration, parse_config, require_extra

if TYPE_CHECKING:
    from gllm_storage.gcs.connection import GCSConnection
    from gllm_storage.gcs.filesystem import GCSFileSystem
    from gllm_storage.gcs.store import GCSStore


class GCSStorageClient(FsspecStorageClient):
    """Google Cloud Storage client.

    It needs the extra: ``pip install '.[gcs]'``.

    Examples:
        >>> client = GCSStorageClient({"bucket_name": "models", "prefix": "team-a"})
        >>> client.url("v3/model.safetensors")
        'gs://models/team-a/v3/model.safetensors'
    """

    provider: ClassVar[str] = "gcs"
    settings_class = GCSSettings

    def __init__(self, config: Dict[str, str]) -> None:
        """Initialize the GCS storage client.

        Args:
            config: Configuration parameters, all strings:

                - bucket_name: Name of the bucket. The only one that is required.
                - prefix: Optional prefix (folder) within the bucket.
                - project: The project, for requester_pays.
                - token: Path of a key file, or ``"anon"``, ``"cloud"`` (the account of the machine) or
                  ``"google_default"``. Default: the first of the default credentials, gcsfs's saved tokens, the account of
                  the machine, and anonymous requests that works.
                - anonymous: ``"true"`` for requests without credentials to public buckets.
                - endpoint_url: URL of the store, without a path. Default: Google's, or ``STORAGE_EMULATOR_HOST``.
                - ca_bundle: Path of a file with the CA certificates to trust.
                - verify_tls: ``"false"`` accepts any TLS certificate, with a warning. Default ``"true"``.
                - requester_pays: ``"true"`` if `project` pays for requests to buckets of other owners.
                - storage_class, kms_key_name: Of the stored objects.
                - sse_customer_key: Key of the caller that encrypts and decrypts all objects: 32 bytes in base64.
                - multipart_threshold: Larger files are sent by a resumable upload. Default ``"16MiB"``.
                - part_size: Size of its chunks, and of ranged reads; a multiple of 256 KiB. Default ``"16MiB"``.
                - max_concurrency: Ranges of one object that are read at a time. Default ``"16"``.
                - connect_timeout, read_timeout: Default ``"10s"``, ``"60s"``.
                - max_attempts: The most attempts at a request. Default ``"5"``.
                - publish_on_error: ``"true"`` lets `close` of a written file publish also at the end of a ``with`` block
                  that failed. Default ``"false"``: nothing is stored then.
                - fsync: Whether a downloaded file is on the disk when the call returns; without it, a power cut can leave
                  zeros under its name. Default ``"true"``.
                - sync_source: Whether the dirty pages of a file are written to the disk before its upload, so that a write
                  by mmap meanwhile is noticed. Default ``"false"``.
                - min_throughput: The fewest bytes per second of an answer, averaged over each read_timeout. Default
                  ``"1KiB"``; ``"0"`` for no limit.
                - total_timeout: The most time of one verb, such as ``"10m"``. Default: no limit.

        Raises:
            ValueError: If required configuration parameters are missing, or any is unknown or wrong: one error that names
                all mistakes.
            ImportError: If the extra is not installed.
        """
        require_extra("gcs", "google.auth", "requests")
        super().__init__(config)
        self._connection: PerProcess[GCSConnection] = PerProcess(self._make_connection)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``gs://bucket/prefix`` stands for.

        Raises:
            ValueError: If it is not a URL.
        """
        bucket, _, prefix = split_url(url)[1].partition("/")
        return {"bucket_name": bucket, "prefix": prefix} if prefix else {"bucket_name": bucket}

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options that pandas, torch, dask and `fsspec.open` need beside a URL; gcsfs takes them."""
        return self.settings.storage_options()

    def read_config(self, config: Dict[str, str]) -> Location:
        """Read the config."""
        self.settings = parse_config(GCSSettings, self.provider, config)
        return Location("gs", f"{self.settings.bucket_name}/", self.settings.prefix, aliases=("gcs",), exact=True)

    def make_store(self) -> GCSStore:
        """The store of the verbs."""
        return self._connection.get().store(self.settings.bucket_name)

    def make_filesystem(self) -> GCSFileSystem:
        """The filesystem, on the connection of the verbs.

        Raises:
            ImportError: If gcsfs is not installed.
            AccessDeniedError: If the credentials cannot be read.
        """
        require_extra("gcs", "gcsfs")
        from gllm_storage.gcs.errors import translated
        from gllm_storage.gcs.filesystem import GCSFileSystem  # it imports gcsfs

        with translated(ErrorDetails("gcs", f"gs://{self.settings.bucket_name}", "connection")):
            return GCSFileSystem(
                **self.settings.filesystem_options(), connection=self._connection.get(), skip_instance_cache=True
            )

    def _make_connection(self) -> GCSConnection:
        from gllm_storage.gcs.connection import connection_of  # it imports google-auth and requests

        return connection_of({**fsspec_configuration("gs", "gcs"), **self.settings.filesystem_options()})

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
