"""The description of a running server for tests, and the result if a server is not installed."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest


@dataclass(frozen=True)
class S3Server:
    """A running S3 server.

    Attributes:
        name: Name of the server: "ministack", "ceph", "rclone", "reject", "seaweedfs", "juicefs" or "moto-server".
        endpoint_url: `http(s)://127.0.0.1:PORT`, for path-style addressing.
        access_key: The access key.
        secret_key: The secret of the access key.
        ca_bundle: The PEM file with the CA certificate of an https endpoint; None for http.
        pids: The server's processes, for the tests that kill them.
        configuration: The file with the configuration of Ceph's tools.
    """

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str
    ca_bundle: str | None = None
    pids: tuple[int, ...] = ()
    configuration: str = ""


@dataclass(frozen=True)
class GCSServer:
    """A running server of Google's JSON API, which takes anonymous requests.

    Attributes:
        name: Name of the server: "gcs-fake" or "fake-gcs-server".
        endpoint_url: `http://127.0.0.1:PORT`.
        pids: The server's processes.
    """

    name: str
    endpoint_url: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class AzureServer:
    """A running server of Azure's protocol.

    Attributes:
        name: "azurite".
        endpoint_url: `http://127.0.0.1:PORT/ACCOUNT`.
        account_name: The account.
        account_key: Its key.
        pids: The server's processes.
    """

    name: str
    endpoint_url: str
    account_name: str
    account_key: str
    pids: tuple[int, ...] = ()

    @property
    def connection_string(self) -> str:
        """The connection string with the account, its key and the endpoint."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={self.account_name};AccountKey={self.account_key};"
            f"BlobEndpoint={self.endpoint_url};"
        )


Server = S3Server | GCSServer | AzureServer
T_co = TypeVar("T_co", bound=Server, covariant=True)
ServerFactory = Callable[[Path], AbstractContextManager[T_co]]


class ServerUnavailableError(RuntimeError):
    """A program is missing; the message names it and the command that installs it."""


@contextmanager
def require(factory: ServerFactory[T_co], directory: Path) -> Iterator[T_co]:
    """Run a server for a fixture. If it is not installed, skip the test, or fail it under CI=true.

    An installed server that does not start is always a failure.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(factory(directory))
        except ServerUnavailableError as why:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(why))
        yield server
