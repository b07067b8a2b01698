"""`AzureStorageClient`: Azure Blob Storage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Dict

from gllm_storage.azure.account import ACCOUNT_HOSTS
from gllm_storage.azure.settings import FORBIDDEN, AzureSettings
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.paths import Location, split_url
from gllm_storage.settings import describe, fsspec_configuration, parse_config, require_extra

if TYPE_CHECKING:
    from gllm_storage.azure.connection import AzureConnection
    from gllm_storage.azure.filesystem import AzureBlobFileSystem
    from gllm_storage.azure.store import AzureStore

_PROTOCOLS = ("abfs", "az", "abfss")
"""Those of adlfs's class, in its order: fsspec configures it under these names."""
_ALIASES = ("abfs", "abfss", "azure")


class AzureStorageClient(FsspecStorageClient):
    """Azure Blob Storage client, for block blobs in accounts with and without a hierarchical namespace.

    It needs the extra: ``pip install '.[azure]'``.
    """

    provider: ClassVar[str] = "azure"
    settings_class = AzureSettings

    def __init__(self, config: Dict[str, str]) -> None:
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
                - endpoint_url: URL of the account, if it is not ``https://ACCOUNT.blob.core.windows.net``.
                - ca_bundle: Path of a file with the CA certificates to trust.
                - verify_tls: ``"false"`` accepts any TLS certificate, with a warning. Default ``"true"``.
                - sse_customer_key: Key of the caller that encrypts and decrypts all objects: 32 bytes in base64. It needs
                  https. Default: none.
                - access_tier: ``"hot"``, ``"cool"``, ``"cold"`` or ``"archive"``, for stored objects.
                - multipart_threshold: Larger files are sent in blocks, several at a time. Default ``"16MiB"``.
                - part_size: Size of a block and of a ranged read. Default ``"8MiB"``.
                - max_concurrency: Blocks of one file at a time. Default ``"16"``.
                - connect_timeout, read_timeout: Default ``"10s"``, ``"60s"``.
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

        Raises:
            ValueError: If required configuration parameters are missing, or any is unknown or wrong: one error that names
                all mistakes.
            ImportError: If the extra is not installed.

        Examples:
            >>> client = AzureStorageClient({"container_name": "models", "account_name": "acme", "anonymous": "true"})
            >>> client.url("v3/model.safetensors")
            'az://models/v3/model.safetensors'
        """
        require_extra("azure", "adlfs", "azure.storage.blob")
        super().__init__(config)
        self._connection: PerProcess[AzureConnection] = PerProcess(self._make_connection)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config for ``az://container/prefix`` or ``abfs://container@account.dfs.core.windows.net/prefix``.

        Raises:
            ValueError: If it is not a URL, or names an unknown host.
        """
        place, _, prefix = split_url(url)[1].partition("/")
        container, _, host = place.partition("@")
        if place.endswith(ACCOUNT_HOSTS) and not host:  # abfs://account.dfs.core.windows.net/container/prefix
            host, (container, _, prefix) = place, prefix.partition("/")
        config = {"container_name": container}
        if host:
            account = next((host.removesuffix(each) for each in ACCOUNT_HOSTS if host.endswith(each)), "")
            if not account:
                raise ValueError(
                    f"{url!r}: {host!r} is not an account; write ACCOUNT.dfs.core.windows.net, or use az://container"
                )
            config["account_name"] = account
        return {**config, "prefix": prefix} if prefix else config

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options for pandas, torch, dask and `fsspec.open`, beside a URL; adlfs accepts them. They hold secrets."""
        return self.settings.storage_options()

    def read_config(self, config: Dict[str, str]) -> Location:
        """Read the config into `settings`.

        Raises:
            ValueError: If the config is wrong.
        """
        self.settings = parse_config(AzureSettings, self.provider, config)
        place = f"{self.settings.container_name}/"
        account = self.settings.account().name
        name = self.settings.container_name
        forms = ("{name}@{account}{host}/", "{account}{host}/{name}/") if account else ()
        others = tuple(form.format(name=name, account=account, host=host) for host in ACCOUNT_HOSTS for form in forms)
        return Location(
            "az",
            place,
            self.settings.prefix,
            aliases=_ALIASES,
            other_bases=others,
            forbidden=FORBIDDEN,
            exact=True,
            resolves_dots=True,
        )

    def make_store(self) -> AzureStore:
        """Make the store of the verbs. It needs no adlfs.

        Raises:
            StorageError: If the account cannot be used.
        """
        return self._connection.get().store(self.settings.container_name)

    def make_filesystem(self) -> AzureBlobFileSystem:
        """Make the fsspec filesystem, on the connection of the verbs.

        Raises:
            StorageError: If the account cannot be used.
        """
        from gllm_storage.azure.errors import unusable_account
        from gllm_storage.azure.filesystem import AzureBlobFileSystem  # imports adlfs

        options, connection = self.settings.filesystem_options(), self._connection.get()
        try:
            return AzureBlobFileSystem(**options, connection=connection, skip_instance_cache=True)
        except ValueError as error:  # the connection string or the key cannot be read
            raise unusable_account(error, f"az://{self.settings.container_name}") from error

    def _make_connection(self) -> AzureConnection:
        from gllm_storage.azure.connection import connection_of
        from gllm_storage.azure.errors import unusable_account

        try:
            # fsspec merges its configuration below the options of the filesystem as well, for adlfs's protocols.
            return connection_of({**fsspec_configuration(*_PROTOCOLS), **self.settings.filesystem_options()})
        except ValueError as error:
            raise unusable_account(error, f"az://{self.settings.container_name}") from error

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
