"""Settings of the provider ``azure``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gllm_storage.azure.account import AzureAccount
from gllm_storage.paths import clean_prefix
from gllm_storage.settings import (
    ConfigError,
    TransferSettings,
    choice,
    count,
    customer_key,
    disk_options_of,
    duration,
    endpoint,
    existing_file,
    flag,
    limit_options_of,
    require_one_trust,
    require_server,
    setting,
    size,
    size_or_zero,
    text,
)

_CONTAINER = re.compile(r"\$root|\$web|\$logs|[a-z0-9](?:-?[a-z0-9]){2,62}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
FORBIDDEN = "\\"
"""Azurite turns a backslash into a slash. The behaviour of Azure is not documented."""
_MIB = 2**20
MAX_BLOCK = 4000 * _MIB
"""The largest block, in bytes: https://learn.microsoft.com/rest/api/storageservices/put-block"""
MAX_SINGLE = 256 * _MIB
"""The largest file that is sent by one Put Blob, in bytes. Azure accepts 5000 MiB, but the content is held in memory."""


def _container(value: str) -> str:
    if not _CONTAINER.fullmatch(value):
        raise ValueError("is not a container name: 3 to 63 lower-case letters, digits and single '-'")
    return value


def _account(value: str) -> str:
    if not _ACCOUNT.fullmatch(value):
        raise ValueError("is not an account name: 3 to 24 lower-case letters and digits")
    return value


def _connection_string(value: str) -> str:
    parts = dict(part.split("=", 1) for part in text(value).strip(";").split(";") if "=" in part)
    if not {name.lower() for name in parts} & {"accountname", "blobendpoint", "usedevelopmentstorage"}:
        raise ValueError("must be a connection string with AccountName or BlobEndpoint")
    return value


def _sas_token(value: str) -> str:
    if "sig=" not in value:  # the SDK would use it as an account key
        raise ValueError("is not a shared access signature: it needs sig=…")
    return value


def _part_size(value: str) -> int:
    if not _MIB <= size(value) <= MAX_BLOCK:
        raise ValueError("must be between 1MiB and 4000MiB, Azure's limit for a block")
    return size(value)


def _threshold(value: str) -> int:
    if size(value) > MAX_SINGLE:
        raise ValueError("must be at most 256MiB: the content of one request is held in memory")
    return size(value)


@dataclass(frozen=True)
class AzureSettings:
    """Settings of an Azure container. `AzureStorageClient` describes each."""

    container_name: str = setting(_container)
    prefix: str = setting(clean_prefix, default="")
    account_name: str | None = setting(_account, default=None)
    connection_string: str | None = setting(_connection_string, default=None, secret=True)
    account_key: str | None = setting(text, default=None, secret=True)
    sas_token: str | None = setting(_sas_token, default=None, secret=True)
    tenant_id: str | None = setting(text, default=None)
    client_id: str | None = setting(text, default=None)
    client_secret: str | None = setting(text, default=None, secret=True)
    anonymous: bool = setting(flag, default=False)
    endpoint_url: str | None = setting(endpoint, default=None)
    ca_bundle: str | None = setting(existing_file, default=None)
    verify_tls: bool = setting(flag, default=True)
    sse_customer_key: str | None = setting(customer_key, default=None, secret=True)
    access_tier: str | None = setting(choice("hot", "cool", "cold", "archive"), default=None)
    multipart_threshold: int = setting(_threshold, natural=int, default=16 * _MIB)
    part_size: int = setting(_part_size, natural=int, default=8 * _MIB)
    max_concurrency: int = setting(count, default=16)
    connect_timeout: float = setting(duration, default=10.0)
    read_timeout: float = setting(duration, default=60.0)
    max_attempts: int = setting(count, default=5)
    publish_on_error: bool = setting(flag, default=False)
    fsync: bool = setting(flag, default=True)
    sync_source: bool = setting(flag, default=False)
    min_throughput: int = setting(size_or_zero, default=TransferSettings.min_throughput)
    total_timeout: float | None = setting(duration, default=None)

    def __post_init__(self) -> None:
        """Check the keys together.

        Raises:
            ValueError: If there is no account, or keys contradict each other.
        """
        # Azurite has the account where Azure has the container.
        if urlsplit(self.endpoint_url or "").path.strip("/") != self.account_name:
            require_server("azure", self.endpoint_url, self.container_name, ())
        given = self._credentials()
        if self.connection_string and (given or self.account_name or self.endpoint_url or self.anonymous):
            raise ConfigError(
                "azure config: connection_string names account, endpoint and credentials; leave out account_name, "
                "endpoint_url, anonymous and other credentials",
                ("connection_string", "account_name", "endpoint_url", "anonymous", *given),
            )
        if len(given) > 1:
            raise ConfigError(f"azure config: {' and '.join(given)} contradict each other; give one", given)
        if self.anonymous and given:
            raise ConfigError(
                f"azure config: anonymous='true' contradicts {given[0]}; leave one out", ("anonymous", given[0])
            )
        principal = (self.tenant_id, self.client_id, self.client_secret)
        if any(principal) != all(principal):
            raise ConfigError(
                "azure config: tenant_id, client_id and client_secret go together; one is missing",
                ("tenant_id", "client_id", "client_secret"),
            )
        if not (self.connection_string or self.account_name or AzureAccount.is_in_environment()):
            raise ConfigError(
                "azure config: missing key 'account_name' or 'connection_string' (or set AZURE_STORAGE_ACCOUNT_NAME or "
                "AZURE_STORAGE_CONNECTION_STRING in the environment)",
                ("account_name", "connection_string"),
            )
        if self.sse_customer_key and (self.endpoint_url or "").startswith("http://"):
            raise ConfigError(
                "azure config: sse_customer_key needs an endpoint_url with https", ("sse_customer_key", "endpoint_url")
            )
        require_one_trust("azure", self.ca_bundle, verify_tls=self.verify_tls)

    def _credentials(self) -> list[str]:
        names = ("account_key", "sas_token", "client_secret")
        return [name for name in names if getattr(self, name)]

    def account(self) -> AzureAccount:
        """The account and its credentials; the environment adds the missing settings."""
        return AzureAccount.resolve(
            account_name=self.account_name,
            connection_string=self.connection_string,
            account_key=self.account_key,
            sas_token=self.sas_token,
            principal=(self.tenant_id, self.client_id, self.client_secret)
            if self.tenant_id and self.client_id and self.client_secret
            else None,
            anonymous=self.anonymous,
            endpoint_url=self.endpoint_url,
        )

    def storage_options(self) -> dict[str, Any]:
        """The options for `fsspec.open`, which adlfs's filesystem accepts as well."""
        return {
            **self.account().adlfs_options(),
            "max_concurrency": self.max_concurrency,
            "connection_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "use_listings_cache": False,
        }

    def filesystem_options(self) -> dict[str, Any]:
        """The options for `AzureBlobFileSystem`, which has some that adlfs does not know."""
        options = {
            **self.storage_options(),
            "endpoint_url": self.endpoint_url,
            "ca_bundle": self.ca_bundle,
            "verify_tls": None if self.verify_tls else False,
            "sse_customer_key": self.sse_customer_key,
            "access_tier": self.access_tier,
            "multipart_threshold": self.multipart_threshold,
            "part_size": self.part_size,
            "max_attempts": self.max_attempts,
            "publish_on_error": self.publish_on_error or None,
            **disk_options_of(self),
            **limit_options_of(self),
        }
        return {name: value for name, value in options.items() if value is not None}
