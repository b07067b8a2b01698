"""Clients of Google Cloud Storage, without credentials."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from benchmarks.layout import MIB
from benchmarks.peers.base import FsspecPeer, Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_THREADS = 16
_CHUNK = 32 * MIB
_PROJECT = "bench"


class Gcsfs(FsspecPeer):
    """The defaults of gcsfs."""

    how = {
        "upload": "`fs.put_file`",
        "download": "`fs.get_file`",
        "upload_many": "`fs.put(list, list)`",
        "download_many": "`fs.get(list, list)`",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        # Otherwise it asks Google's own API for the kind of the bucket, over gRPC, whatever the endpoint.
        os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
        import gcsfs  # after the setting

        super().__init__(endpoint)
        options = {"token": "anon", "project": _PROJECT, "endpoint_url": endpoint.url}
        self.filesystem = gcsfs.GCSFileSystem(**options)


class GoogleSdk(Peer):
    """Google's own client, without optional checksums."""

    how = {
        "upload": "`blob.upload_from_filename`",
        "download": "`transfer_manager.download_chunks_concurrently`, threads",
        "upload_many": f"`blob.upload_from_filename` in {_THREADS} threads",
        "download_many": f"`blob.download_to_filename` in {_THREADS} threads",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        from google.auth.credentials import AnonymousCredentials  # the other peer does not need it
        from google.cloud import storage

        super().__init__(endpoint)
        anonymous: Any = AnonymousCredentials  # untyped
        options = {"api_endpoint": endpoint.url}
        client: Any = storage.Client(project=_PROJECT, credentials=anonymous(), client_options=options)
        self.bucket = client.bucket(endpoint.bucket)

    def upload(self, path: str, key: str) -> None:
        self.bucket.blob(key).upload_from_filename(path, checksum=None)

    def download(self, key: str, path: str) -> None:
        from google.cloud.storage import transfer_manager

        blob = self.bucket.blob(key)
        transfer_manager.download_chunks_concurrently(
            blob, path, chunk_size=_CHUNK, worker_type=transfer_manager.THREAD, crc32c_checksum=False
        )

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.upload(*each), transfers))

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.bucket.blob(each[1]).download_to_filename(each[0], checksum=None), transfers))
