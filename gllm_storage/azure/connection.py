"""`AzureConnection`: one account, its credentials, and the SDK's clients for it. `connection_of` makes it from options."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import inspect
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import requests

from gllm_storage.azure.account import AzureAccount
from gllm_storage.azure.errors import unusable_account
from gllm_storage.azure.listing import check_answer
from gllm_storage.azure.requests import AzureRequests
from gllm_storage.azure.sender import Sender
from gllm_storage.azure.store import AzureStore
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.adapter import DirectAdapter, keep_headers
from gllm_storage.settings import (
    TransferSettings,
    count,
    disk_options,
    duration,
    flag,
    limit_options,
    read_option,
    size,
    warn_if_insecure,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from azure.storage.blob import BlobServiceClient

POOL_SIZE = 100
"""Connections that stay open. A connection above that number is closed after use, and urllib3 logs a warning."""


@dataclass
class Checks:
    """The checks of content that an endpoint has shown.

    Attributes:
        crc64: Whether the answer to a Put Block has stated the CRC-64 of the block; None before the first answer. Emulators
            ignore or refuse a CRC-64.
    """

    crc64: bool | None = None


@dataclass(frozen=True)
class AzureConnection:
    """How to reach an account. It may be shared by threads and used in a forked child.

    Attributes:
        account: The account and its credentials.
        settings: Part sizes, concurrency and attempts.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or to continue.
        access_tier: ``"hot"``, ``"cool"``, ``"cold"`` or ``"archive"``; None for the account's default.
        ca_bundle: Path of a file with the CA certificates to trust.
        verify_tls: Whether TLS certificates are verified.
        sse_customer_key: Key of the caller that encrypts and decrypts all blobs: 32 bytes in base64.
        checks: The checks that the endpoint has shown.
    """

    account: AzureAccount
    settings: TransferSettings
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    access_tier: str | None = None
    ca_bundle: str | None = None
    verify_tls: bool = True
    sse_customer_key: str | None = field(default=None, repr=False)
    checks: Checks = field(default_factory=Checks, init=False, repr=False, compare=False)
    _session: PerProcess[requests.Session] = field(init=False, repr=False, compare=False)
    _service: PerProcess[BlobServiceClient] = field(init=False, repr=False, compare=False)
    _sender: PerProcess[Sender] = field(init=False, repr=False, compare=False)
    pool_size: ClassVar[int] = POOL_SIZE

    def __post_init__(self) -> None:
        """Prepare the client, which is made on first use."""
        object.__setattr__(self, "_session", PerProcess(self._make_session))
        object.__setattr__(self, "_service", PerProcess(self._make_service))
        object.__setattr__(self, "_sender", PerProcess(self._make_sender))

    def store(self, container: str) -> AzureStore:
        """The store of a container. Sends no request."""
        return AzureStore(AzureRequests(self, container))

    @property
    def service(self) -> BlobServiceClient:
        """The SDK's client of this process. Threads may share it.

        Raises:
            StorageError: If the SDK cannot read the connection string or the account key.
        """
        return self._service.get()

    @property
    def sender(self) -> Sender:
        """The sender of this process. Threads share it.

        Raises:
            StorageError: If the connection string or the account key cannot be read.
        """
        return self._sender.get()

    @property
    def session(self) -> requests.Session:
        """The session of this process, for requests that do not go over direct connections."""
        return self._session.get()

    @property
    def key_headers(self) -> dict[str, str]:
        """The headers of requests for blobs that the customer key encrypts; as `key_options`."""
        if self.sse_customer_key is None:
            return {}
        return {
            "x-ms-encryption-key": self.sse_customer_key,
            "x-ms-encryption-key-sha256": self._digest_of_key(),
            "x-ms-encryption-algorithm": "AES256",
        }

    def _digest_of_key(self) -> str:
        key = base64.b64decode(str(self.sse_customer_key))
        return base64.b64encode(hashlib.sha256(key).digest()).decode()

    @property
    def key_options(self) -> dict[str, Any]:
        """The arguments of the SDK's methods for blobs that the customer key encrypts.

        https://learn.microsoft.com/azure/storage/blobs/encryption-customer-provided-keys
        """
        if self.sse_customer_key is None:
            return {}
        from azure.storage.blob import CustomerProvidedEncryptionKey  # takes 0.2 s to import

        return {"cpk": CustomerProvidedEncryptionKey(self.sse_customer_key, self._digest_of_key())}

    def close(self) -> None:
        """Close the idle connections of this process; the next request opens new ones."""
        for made in (self._session.peek(), self._sender.peek()):
            if made is not None:
                made.close()

    @property
    def verify(self) -> bool | str:
        """The argument ``verify`` of requests: a file with certificates, or whether certificates are verified."""
        named = self.ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        return self.verify_tls and (named or True)

    def _make_session(self) -> requests.Session:
        adapter = DirectAdapter(
            connect_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            min_throughput=self.settings.min_throughput,
            pool_size=POOL_SIZE,
        )
        session = requests.Session()
        session.auth = keep_headers
        for scheme in ("https://", "http://"):
            session.mount(scheme, adapter)
        return session

    def _make_sender(self) -> Sender:
        try:
            sender = Sender(self)
        except ValueError as error:
            raise unusable_account(error, self.account.endpoint_url or "az://") from error
        self._require_https(sender.url)
        return sender

    def _require_https(self, url: str) -> None:
        if self.sse_customer_key and not url.startswith("https:"):
            raise unusable_account(ValueError("sse_customer_key needs https"), url)

    def _make_service(self) -> BlobServiceClient:
        from azure.core.pipeline.transport import RequestsTransport  # with the SDK
        from azure.storage.blob import BlobServiceClient  # takes 0.2 s to import

        transport = RequestsTransport(
            session=self._session.get(),
            connection_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            connection_verify=self.verify,
        )
        # The SDK waits 15 s after a first failure. It sends a request once, and AzureRequests.send repeats it.
        once = {"retry_total": 0, "retry_connect": 0, "retry_read": 0, "retry_status": 0}
        try:
            client: BlobServiceClient = self._make(BlobServiceClient, self._identity(), transport=transport, **once)
        except ValueError as error:
            raise unusable_account(error, self.account.endpoint_url or "az://") from error
        # requests would read the environment anew for each request, which takes 0.3 ms.
        session = self._session.get()
        session.proxies = requests.utils.get_environ_proxies(client.url)
        session.trust_env = False
        self._require_https(client.url)
        return client

    def make_async_client(self) -> Any:
        """Make a client for adlfs's own methods.

        Raises:
            ValueError: If the SDK cannot read the connection string or the account key.
        """
        from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient  # imports aiohttp
        from azure.storage.blob.aio import ExponentialRetry  # imports aiohttp

        # adlfs retries only by the SDK. The waits of the SDK begin at 15 s.
        policy = ExponentialRetry(
            initial_backoff=0, increment_base=2, random_jitter_range=1, retry_total=self.settings.max_attempts - 1
        )
        part = max(self.settings.part_size, 2**20)
        sizes = {"max_single_get_size": part, "max_chunk_get_size": part}
        return self._make(AsyncBlobServiceClient, self._identity(asynchronous=True), retry_policy=policy, **sizes)

    def _make(self, client_class: Any, identity: Any, **more: Any) -> Any:
        options: dict[str, Any] = {
            **more,
            "connection_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "raw_request_hook": check_stop,
            "raw_response_hook": check_answer,
            "permit_redirects": False,  # Azure never redirects; the SDK would send the request to any host
        }
        if self.ca_bundle or not self.verify_tls:
            options["connection_verify"] = self.ca_bundle or False
        if self.account.uses_identity:
            return client_class(self.account.endpoint_url, credential=identity, **options)
        return client_class.from_connection_string(self.account.as_connection_string(), **options)

    def _identity(self, *, asynchronous: bool = False) -> Any:
        """The credential object for the SDK's client; None if the account has credentials of its own."""
        if not self.account.uses_identity:
            return None
        if self.account.credential is not None:
            return token_credential(self.account.credential, asynchronous=asynchronous)
        if asynchronous:
            from azure.identity import aio as identity  # imports aiohttp
        else:
            from azure import identity  # type: ignore[no-redef]  # takes 0.3 s to import
        if self.account.principal:
            return identity.ClientSecretCredential(*self.account.principal)
        return identity.DefaultAzureCredential()


def token_credential(credential: Any, *, asynchronous: bool) -> Any:
    """A credential object in the form that a client of the SDK takes. adlfs's users pass asynchronous ones.

    Args:
        credential: A credential of azure-identity or of the caller, synchronous or asynchronous; others are returned.
        asynchronous: Whether the client is asynchronous.
    """
    get_token = getattr(credential, "get_token", None)
    if get_token is None or inspect.iscoroutinefunction(get_token) == asynchronous:
        return credential
    return _Awaitable(credential) if asynchronous else _Blocking(credential)


class _Awaitable:
    """A synchronous token credential for the SDK's asynchronous client."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> Any:
        return await asyncio.to_thread(self._credential.get_token, *scopes, **options)

    async def close(self) -> None:
        """The caller closes the credential."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _Blocking:
    """An asynchronous token credential for the SDK's synchronous client; its connections are of fsspec's event loop."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    def get_token(self, *scopes: str, **options: Any) -> Any:
        from fsspec.asyn import get_loop, sync  # the verbs need no fsspec otherwise

        return sync(get_loop(), self._credential.get_token, *scopes, **options)


def connection_of(options: Mapping[str, Any]) -> AzureConnection:
    """The connection that options describe. The client and the filesystem both make theirs here.

    Args:
        options: The options of `AzureBlobFileSystem`: adlfs's names, and those of this library. Others are ignored. Numbers
            and booleans may be strings, as fsspec's configuration files have them. The environment names the account and
            the credentials if the options do not.

    Raises:
        ValueError: If no account is named, or a value is impossible.
    """
    given = {name: value for name, value in options.items() if value is not None}
    host = given.get("account_host")
    tenant, client, secret = (given.get(name) for name in ("tenant_id", "client_id", "client_secret"))
    account = AzureAccount.resolve(
        account_name=given.get("account_name"),
        connection_string=given.get("connection_string"),
        account_key=given.get("account_key"),
        sas_token=given.get("sas_token"),
        principal=(tenant, client, secret) if tenant and client and secret else None,
        anonymous=read_option(given, "anon", flag, False),
        endpoint_url=given.get("endpoint_url") or (f"https://{host}" if host else None),
        credential=given.get("credential"),
    )
    verify_tls = read_option(given, "verify_tls", flag, True)
    warn_if_insecure("azure", verify_tls=verify_tls)
    return AzureConnection(
        account=account,
        settings=TransferSettings(
            multipart_threshold=read_option(given, "multipart_threshold", size, TransferSettings.multipart_threshold),
            part_size=read_option(given, "part_size", size, TransferSettings.part_size),
            max_concurrency=read_option(given, "max_concurrency", count, TransferSettings.max_concurrency),
            max_attempts=read_option(given, "max_attempts", count, TransferSettings.max_attempts),
            publish_on_error=read_option(given, "publish_on_error", flag, TransferSettings.publish_on_error),
            **disk_options(given),
            **limit_options(given),
        ),
        connect_timeout=read_option(given, "connection_timeout", duration, AzureConnection.connect_timeout),
        read_timeout=read_option(given, "read_timeout", duration, AzureConnection.read_timeout),
        access_tier=given.get("access_tier"),
        ca_bundle=given.get("ca_bundle"),
        verify_tls=verify_tls,
        sse_customer_key=given.get("sse_customer_key"),
    )
