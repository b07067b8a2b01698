"""Clients of Azure Blob Storage, with an account key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.peers.base import FsspecPeer, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_THREADS = 16
_AT_ONCE = 8


def connection_string(endpoint: Endpoint) -> str:
    """The connection string of an endpoint."""
    scheme = endpoint.url.partition(":")[0]
    return (
        f"DefaultEndpointsProtocol={scheme};AccountName={endpoint.access_key};AccountKey={endpoint.secret_key};"
        f"BlobEndpoint={endpoint.url};"
    )


class Adlfs(FsspecPeer):
    """The defaults of adlfs."""

    how = {
        "upload": "`fs.put_file`",
        "download": "`fs.get_file`",
        "upload_many": "`fs.put(list, list)`",
        "download_many": "`fs.get(list, list)`",
    }
    put_options = {"overwrite": True}

    def __init__(self, endpoint: Endpoint) -> None:
        import adlfs  # the other peer does not need it

        super().__init__(endpoint)
        self.filesystem = adlfs.AzureBlobFileSystem(connection_string=connection_string(endpoint))


class AzureSdk(Peer):
    """Microsoft's own client."""

    how = {
        "upload": f"`blob.upload_blob(file, max_concurrency={_AT_ONCE})`",
        "download": f"`blob.download_blob(max_concurrency={_AT_ONCE}).readinto(file)`",
        "upload_many": f"`blob.upload_blob` in {_THREADS} threads",
        "download_many": f"`blob.download_blob().readinto(file)` in {_THREADS} threads",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        from azure.storage.blob import BlobServiceClient  # the other peer does not need it

        super().__init__(endpoint)
        service: Any = BlobServiceClient.from_connection_string(connection_string(endpoint))
        self.container = service.get_container_client(endpoint.bucket)

    def upload(self, path: str, key: str) -> None:
        self._upload(path, key, _AT_ONCE)

    def download(self, key: str, path: str) -> None:
        self._download(key, path, _AT_ONCE)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self._upload(each[0], each[1], 1), transfers))

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self._download(each[1], each[0], 1), transfers))

    def _upload(self, path: str, key: str, at_once: int) -> None:
        with open(path, "rb") as file:
            self.container.get_blob_client(key).upload_blob(file, overwrite=True, max_concurrency=at_once)

    def _download(self, key: str, path: str, at_once: int) -> None:
        with open(path, "wb") as file:
            self.container.get_blob_client(key).download_blob(max_concurrency=at_once).readinto(file)
