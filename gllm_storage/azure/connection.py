"""Making the Azure SDK's clients: one for each filesystem and process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from azure.core.exceptions import ServiceRequestError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobServiceClient

from gllm_storage.azure.errors import SDK_ERRORS, UnreadableAnswerError, is_broken, is_transient
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import OURS
from gllm_storage.store.http import StoppingAdapter
from gllm_storage.store.retry import with_retries

if TYPE_CHECKING:
    from collections.abc import Callable

    from azure.storage.blob import BlobClient, ContainerClient

    from gllm_storage.azure.account import AzureAccount
    from gllm_storage.errors import ErrorDetails

T = TypeVar("T")

POOL_SIZE = 100
"""How many connections are kept open; those above are closed after use, with a warning in urllib3's log for each."""
_GARBLED = (AttributeError, KeyError, TypeError, ValueError)
"""What the SDK raises when an answer lacks a header that it counts on."""


@dataclass(frozen=True)
class Connection:
    """How to reach a store.

    Attributes:
        account: Which one, and with which credentials.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or go on.
        max_attempts: How often a request is sent in all.
        max_put: Bytes that go in one Put Blob.
        part_size: Bytes that are read at a time.
        ca_bundle: Path of a file with the CA certificates to trust.
    """

    account: AzureAccount
    connect_timeout: float
    read_timeout: float
    max_attempts: int
    max_put: int
    part_size: int
    ca_bundle: str | None = None

    def make_client(self) -> BlobServiceClient:
        """A new client, for use by threads.

        Raises:
            ValueError: If the connection string or the URL is malformed.
        """
        session = requests.Session()
        for scheme in ("https://", "http://"):
            session.mount(scheme, StoppingAdapter(pool_connections=2, pool_maxsize=POOL_SIZE))
        transport = RequestsTransport(
            session=session,
            connection_timeout=self.connect_timeout,
            read_timeout=self.read_timeout,
            connection_verify=self.ca_bundle or True,
        )
        # The SDK waits 15 s and more after a first failure, which makes 40 s of two. with_retries waits up to 0.1 s first.
        none = {"retry_total": 0, "retry_connect": 0, "retry_read": 0, "retry_status": 0}
        client: BlobServiceClient = self._make(BlobServiceClient, self._identity(), transport=transport, **none)
        return client

    def make_async_client(self) -> Any:
        """A new client, for adlfs's own methods.

        Raises:
            ValueError: If the connection string or the URL is malformed.
        """
        from azure.storage.blob.aio import BlobServiceClient as AsyncBlobServiceClient  # noqa: PLC0415 - imports aiohttp
        from azure.storage.blob.aio import ExponentialRetry  # noqa: PLC0415 - as above

        # adlfs knows of no tries but the SDK's, whose own waits begin at 15 s.
        policy = ExponentialRetry(
            initial_backoff=0, increment_base=2, random_jitter_range=1, retry_total=self.max_attempts - 1
        )
        return self._make(AsyncBlobServiceClient, self._identity(asynchronous=True), retry_policy=policy)

    def _make(self, client_class: Any, identity: Any, **more: Any) -> Any:
        options: dict[str, Any] = {
            **more,
            "connection_timeout": self.connect_timeout,
            "read_timeout": self.read_timeout,
            "raw_request_hook": check_stop,
            "max_single_put_size": self.max_put,
            "max_single_get_size": max(self.part_size, 2**20),
            "max_chunk_get_size": max(self.part_size, 2**20),
        }
        if self.ca_bundle:
            options["connection_verify"] = self.ca_bundle
        if self.account.uses_identity:
            return client_class(self.account.endpoint_url, credential=identity, **options)
        return client_class.from_connection_string(self.account.as_connection_string(), **options)

    def _identity(self, *, asynchronous: bool = False) -> Any:
        """Credentials of azure-identity, where they are wanted."""
        if not self.account.uses_identity:
            return None
        if asynchronous:
            from azure.identity import aio as identity  # noqa: PLC0415 - imports aiohttp
        else:
            from azure import identity  # type: ignore[no-redef]  # noqa: PLC0415 - takes 0.3 s to import
        if self.account.principal:
            return identity.ClientSecretCredential(*self.account.principal)
        return identity.DefaultAzureCredential()


class AzureConnections:
    """The client of a filesystem, made once in each process on first use.

    Args:
        connection: How to reach the store.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._client: PerProcess[BlobServiceClient] = PerProcess(connection.make_client)

    def container(self, container: str) -> ContainerClient:
        """A client of a container. It may be shared by threads."""
        return self._client.get().get_container_client(container)

    def blob(self, container: str, blob: str) -> BlobClient:
        """A client of a blob. It may be shared by threads."""
        return self._client.get().get_blob_client(container, blob)

    def call(self, request: Callable[[], T], details: ErrorDetails, *, again_if_broken: bool = True) -> T:
        """Send a request, and send it again after an error that may pass.

        Args:
            request: Sends it by the SDK.
            details: What it is about, for the log.
            again_if_broken: Whether the breaking of an answer's body is such an error; of a download's the SDK takes care.

        Raises:
            AzureError: The last one.
            UnreadableAnswerError: If the answer is no answer of Azure.
        """

        def passes(error: Exception) -> bool:
            return is_transient(error) or (again_if_broken and is_broken(error))

        return with_retries(lambda: _readable(request), passes, details, self.connection.max_attempts)


def _readable(request: Callable[[], T]) -> T:
    try:
        return request()
    except (*SDK_ERRORS, *OURS):
        raise
    except OSError as error:  # such as a ca_bundle that is not there any more
        raise ServiceRequestError(str(error)) from error
    except _GARBLED as error:
        raise UnreadableAnswerError(f"{type(error).__name__}: {error}") from error
