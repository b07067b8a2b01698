"""`AzureStorageClient`: Azure Blob Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict  # noqa: UP035 - the documented signatures say Dict

from gllm_storage.azure.settings import AzureSettings
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.paths import Location, split_url
from gllm_storage.settings import describe, parse_config, require_extra

if TYPE_CHECKING:
    from gllm_storage.azure.filesystem import AzureBlobFileSystem
    from gllm_storage.fsspec_client import ObjectStore

_ALIASES = ("abfs", "abfss", "azure")
_ACCOUNT_HOSTS = (".dfs.core.windows.net", ".blob.core.windows.net")


class AzureStorageClient(FsspecStorageClient):
    """Azure Blob Storage client, for block blobs in accounts with and without a hierarchical namespace.

    It needs the extra: ``pip install 'gllm-storage[azure]'``.
    """

    provider: ClassVar[str] = "azure"
    settings_class = AzureSettings

    def __init__(self, config: Dict[str, str]) -> None:  # noqa: UP006 - as documented
        """Initialize the Azure storage client.

        Args:
            config: Configuration parameters, all strings:

                - container_name: Name of the container.
                - prefix: Optional prefix (folder) within the container.
                - account_name: The storage account. This or connection_string is required, or one of
                  ``AZURE_STORAGE_ACCOUNT_NAME`` and ``AZURE_STORAGE_CONNECTION_STRING`` in the environment.
                - connection_string: Names account, endpoint and credentials at once.
                - account_key, or sas_token, or tenant_id with client_id and client_secret: Credentials. Without any, those
                  of the environment are used (``AZURE_STORAGE_ACCOUNT_KEY``, ``AZURE_STORAGE_SAS_TOKEN``), or else
                  azure-identity's ``DefaultAzureCredential``.
                - anonymous: ``"true"`` for requests without credentials to public containers.
                - endpoint_url: URL of the account, where it is not ``https://ACCOUNT.blob.core.windows.net``.
                - ca_bundle: Path of a file with the CA certificates to trust.
                - access_tier: ``"hot"``, ``"cool"``, ``"cold"`` or ``"archive"``, for what is stored.
                - multipart_threshold: Larger files go in blocks, side by side. Default ``"16MiB"``.
                - part_size: Of blocks and ranged reads. Default ``"8MiB"``.
                - max_concurrency: Blocks of one file at a time. Default ``"10"``.
                - connect_timeout, read_timeout: Default ``"10s"``, ``"60s"``.
                - max_attempts: How often a request is sent in all. Default ``"5"``.

        Raises:
            ValueError: If required configuration parameters are missing, or any is unknown or wrong: one error that names
                all mistakes.
            ImportError: If the extra is not installed.
        """
        require_extra("azure", "adlfs", "azure.storage.blob")
        super().__init__(config)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``az://container/prefix`` or ``abfs://container@account.dfs.core.windows.net/prefix`` stands for.

        Raises:
            ValueError: If it is no URL.
        """
        place, _, prefix = split_url(url)[1].partition("/")
        container, _, host = place.partition("@")
        config = {"container_name": container}
        if host:
            account = next((host.removesuffix(each) for each in _ACCOUNT_HOSTS if host.endswith(each)), "")
            if not account:
                raise ValueError(
                    f"{url!r}: {host!r} is no account; write ACCOUNT.dfs.core.windows.net, or use az://container"
                )
            config["account_name"] = account
        return {**config, "prefix": prefix} if prefix else config

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch, dask and `fsspec.open` need beside a URL; adlfs takes it. It holds the config's secrets."""
        return self.settings.storage_options()

    def _configure(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        self.settings = parse_config(AzureSettings, self.provider, config)
        place = f"{self.settings.container_name}/"
        account = self.settings.account().name
        others = tuple(f"{self.settings.container_name}@{account}{host}/" for host in _ACCOUNT_HOSTS) if account else ()
        # Azurite makes a "/" of a "\\"; what Azure does is not documented.
        return Location("az", place, self.settings.prefix, aliases=_ALIASES, other_bases=others, forbidden="\\")

    def _make_filesystem(self) -> AzureBlobFileSystem:
        from gllm_storage.azure.filesystem import AzureBlobFileSystem  # noqa: PLC0415 - it imports adlfs and the SDK

        try:
            return AzureBlobFileSystem(**self.settings.filesystem_options(), skip_instance_cache=True)
        except ValueError as error:  # the SDK's answer to a connection string or key that it cannot read
            details = ErrorDetails("azure", f"az://{self.settings.container_name}", "connection")
            raise StorageError(
                f"azure connection failed: {error}. Check the account and its credentials", details
            ) from error

    def _store(self) -> ObjectStore:
        from gllm_storage.store.bucket_objects import BucketObjects  # noqa: PLC0415 - the client's module loads no SDK

        return BucketObjects(self.filesystem.store, self.settings.container_name, self.provider, self._location.scheme)

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
