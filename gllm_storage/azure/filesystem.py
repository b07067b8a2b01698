"""`AzureBlobFileSystem`: adlfs's, with our data path below the methods that carry promises."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from adlfs import AzureBlobFileSystem as _AzureBlobFileSystem
from fsspec.asyn import sync

from gllm_storage.azure.account import AzureAccount
from gllm_storage.azure.connection import AzureConnections, Connection
from gllm_storage.azure.requests import AzureRequests
from gllm_storage.azure.store import AzureStore
from gllm_storage.bucket_filesystem import BucketFileSystem
from gllm_storage.transfer import TransferSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

_PATIENCE = 0.5
_IGNORED = frozenset({"batch_size", "chunksize", "delimiter", "max_concurrency", "timeout"})
"""Arguments of adlfs that only say how fast."""


class AzureBlobFileSystem(BucketFileSystem, _AzureBlobFileSystem):  # type: ignore[misc]  # adlfs publishes no types
    """adlfs's filesystem with the promises of this library.

    What `BucketFileSystem` names goes through azure-storage-blob; the rest is adlfs's, with listings that are always fresh.

    Args:
        account_name: The account.
        connection_string: What names account, endpoint and credentials instead.
        account_key: Its key.
        sas_token: A shared access signature.
        tenant_id: With `client_id` and `client_secret`: a service principal.
        client_id: As above.
        client_secret: As above.
        anon: Whether to send no credentials.
        account_host: Host of the account, where that is not ``ACCOUNT.blob.core.windows.net``.
        endpoint_url: URL of the account, likewise.
        ca_bundle: Path of a file with the CA certificates to trust.
        access_tier: Where blobs are kept: ``"hot"``, ``"cool"``, ``"cold"``, ``"archive"``.
        multipart_threshold: Files of more bytes than this are uploaded in blocks.
        part_size: Bytes in a block and in a ranged read.
        max_concurrency: How many blocks of one file are under way at a time. adlfs's default here is 2500.
        max_attempts: How often a request is sent in all.
        connection_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or go on.
        **options: adlfs's further options.

    Raises:
        ValueError: If no account is named, or the connection string is malformed.
    """

    provider: ClassVar[str] = "azure"
    scheme: ClassVar[str] = "az"

    def __init__(
        self,
        account_name: str | None = None,
        account_key: str | None = None,
        connection_string: str | None = None,
        *,
        sas_token: str | None = None,
        tenant_id: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        anon: bool | None = None,
        account_host: str | None = None,
        endpoint_url: str | None = None,
        ca_bundle: str | None = None,
        access_tier: str | None = None,
        multipart_threshold: int = TransferSettings.multipart_threshold,
        part_size: int = TransferSettings.part_size,
        max_concurrency: int | None = None,
        max_attempts: int = TransferSettings.max_attempts,
        connection_timeout: float | None = None,
        read_timeout: float | None = None,
        **options: Any,
    ) -> None:
        if options.pop("credential", None) is not None:
            raise ValueError(
                "credential objects cannot be used here: give account_key, sas_token, connection_string or tenant_id, "
                "client_id and client_secret, or nothing, for azure-identity's DefaultAzureCredential"
            )
        if account_host and not endpoint_url:
            endpoint_url = f"https://{account_host}"
        self.account = AzureAccount.resolve(
            account_name=account_name,
            connection_string=connection_string,
            account_key=account_key,
            sas_token=sas_token,
            principal=(tenant_id, client_id, client_secret) if tenant_id and client_id and client_secret else None,
            anonymous=bool(anon),
            endpoint_url=endpoint_url,
        )
        settings = TransferSettings(
            multipart_threshold=multipart_threshold,
            part_size=part_size,
            max_concurrency=max_concurrency or TransferSettings.max_concurrency,
            max_attempts=max_attempts,
        )
        self.connections = AzureConnections(
            Connection(
                account=self.account,
                connect_timeout=connection_timeout or 10.0,
                read_timeout=read_timeout or 60.0,
                max_attempts=max_attempts,
                max_put=multipart_threshold,
                part_size=part_size,
                ca_bundle=ca_bundle,
            )
        )
        # An entry of a listing that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        # anon=True: adlfs would make credentials of its own here, from an environment that may mean another account.
        super().__init__(
            account_name=self.account.name,
            account_key=self.account.account_key,
            anon=True,
            max_concurrency=settings.max_concurrency,
            **options,
        )
        self._close_with_patience()
        self.connection_string, self.sas_token = self.account.connection_string, self.account.sas_token
        self.anon = self.account.anonymous
        self._attach(AzureStore(AzureRequests(self.connections), settings, access_tier))

    def do_connect(self) -> None:
        """Make adlfs's client, of the same account and with the same credentials as ours."""
        self.service_client = self.connections.connection.make_async_client()
        self.account_url = self.service_client.url

    def _after_fork(self) -> None:
        self.do_connect()

    def _close_with_patience(self) -> None:
        """Replace the finalizer of adlfs, which holds the instance for ever, and in a forked child waits for ever.

        It is not kept anywhere but in the registry of `weakref.finalize`.
        """
        registry: Mapping[Any, Any] = getattr(weakref.finalize, "_registry", {})
        for finalizer in list(registry):
            known = finalizer.peek()
            if known and known[0] is self and known[1] is sync:
                finalizer.detach()
        weakref.finalize(self, _close, self._loop, self.service_client)

    def _write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read adlfs's arguments of writes.

        Raises:
            TypeError: If there is one that nobody knows.
        """
        given = {name: value for name, value in kwargs.items() if name not in _IGNORED and value is not None}
        exclusive = not given.pop("overwrite", True) or exclusive
        content: Any = given.pop("content_settings", {})
        options = {"metadata": given.pop("metadata", None), "content": _as_dict(content)}
        if given:
            raise TypeError(f"unknown arguments: {', '.join(sorted(given))}")
        return exclusive, options

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A path without its scheme, as it is otherwise: adlfs would take ``#`` and ``?`` of a key for parts of a URL."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = str(path)
        start = next((f"{name}://" for name in cls.protocol if path.startswith(f"{name}://")), "")
        path = path.removeprefix(start)
        container, at, rest = path.partition("@")
        if start and at and "/" not in container:  # abfs://container@account.dfs.core.windows.net/key
            path = "/".join([container, *rest.split("/")[1:]])
        return path.strip("/")


def _as_dict(content: Any) -> dict[str, Any]:
    fields = content if isinstance(content, dict) else vars(content)
    return {name: value for name, value in fields.items() if value is not None and name != "content_md5"}


def _close(loop: Any, client: Any) -> None:
    """Close adlfs's client, for a moment at most: where its loop does not run any more, nobody can."""
    if loop is None or not loop.is_running():
        return
    with contextlib.suppress(Exception):  # at the interpreter's end, nobody could do anything about it
        sync(loop, client.close, timeout=_PATIENCE)
