"""This library."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

# The client imports these modules on first use. The import is not a part of the jobs.
import boto3  # noqa: F401

import gllm_storage.s3.client
import gllm_storage.s3.connection
import gllm_storage.s3.http.client
from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_THREADS = 16
_BY_FILESYSTEM = {"upload_many", "download_many", "read", "read_at", "write"}


class Ours(Peer):
    """The verbs of the client; its filesystem for `open` and for many files."""

    how = {
        "upload": "`client.upload_file`",
        "download": "`client.download_file`",
        "upload_many": "`S3FileSystem.put(list, list)`",
        "download_many": "`S3FileSystem.get(list, list)`",
        "upload_small": "`client.upload_file`",
        "exists": "`client.file_exists`",
        "download_small": "`client.download_file`",
        "read": '`client.open(key, "rb")`, no options',
        "read_at": '`client.open(key, "rb")`, no options',
        "write": '`client.open(key, "wb")`',
        "upload_exclusive": "`client.upload_file(…, check_conflict=True)`",
        "upload_small_exclusive": "`client.upload_file(…, check_conflict=True)`",
    }

    options: ClassVar[dict[str, str]] = {}

    @classmethod
    def load(cls, verb: str) -> None:
        if verb in _BY_FILESYSTEM:
            import_module("gllm_storage.s3.filesystem")

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        config = {
            **self.options,
            "bucket_name": endpoint.bucket,
            "endpoint_url": endpoint.url,
            "region_name": endpoint.region,
            "aws_access_key_id": endpoint.access_key,
            "aws_secret_access_key": endpoint.secret_key,
        }
        if not endpoint.stores:
            # The server does not enforce preconditions, so after a probe the client would refuse exclusive creates.
            config["conditional_writes"] = "enforced"
        self.client: Any = gllm_storage.s3.client.S3StorageClient(config)

    def upload(self, path: str, key: str) -> None:
        self.client.upload_file(path, key)

    def download(self, key: str, path: str) -> None:
        self.client.download_file(key, path)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        self.client.filesystem.put([path for path, _ in transfers], [self._path(key) for _, key in transfers])

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        self.client.filesystem.get([self._path(key) for _, key in transfers], [path for path, _ in transfers])

    def upload_small(self, path: str, key: str) -> None:
        self.client.upload_file(path, key)

    def exists(self, key: str) -> bool:
        found: bool = self.client.file_exists(key)
        return found

    def download_small(self, key: str, path: str) -> None:
        self.client.download_file(key, path)

    def read(self, key: str, step: int) -> int:
        total = 0
        with self.client.open(key, "rb") as file:
            while block := file.read(step):
                total += len(block)
        return total

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        total = 0
        with self.client.open(key, "rb") as file:
            for offset in offsets:
                file.seek(offset)
                total += len(file.read(size))
        return total

    def write(self, key: str, block: bytes, count: int) -> None:
        with self.client.open(key, "wb") as file:
            for _ in range(count):
                file.write(block)

    def upload_exclusive(self, path: str, key: str) -> None:
        self.client.upload_file(path, key, check_conflict=True)

    def upload_small_exclusive(self, path: str, key: str) -> None:
        self.client.upload_file(path, key, check_conflict=True)

    def _path(self, key: str) -> str:
        return f"{self.endpoint.bucket}/{key}"


class OursInThreads(Ours):
    """The verbs of the client in threads, as in code that does not use the bulk calls."""

    how = {
        "upload_many": f"`client.upload_file` in {_THREADS} threads",
        "download_many": f"`client.download_file` in {_THREADS} threads",
    }

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.upload_small(*each), transfers))

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.download_small(each[1], each[0]), transfers))


class OursUnsigned(Ours):
    """Without signed bodies over http, as the CRT sends them, and this library to a server that checks their CRC."""

    options: ClassVar[dict[str, str]] = {"sign_bodies": "never"}
    how = {
        "upload": '`client.upload_file`, `sign_bodies="never"`',
        "upload_many": '`S3FileSystem.put(list, list)`, `sign_bodies="never"`',
        "write": '`client.open(key, "wb")`, `sign_bodies="never"`',
    }


class OursUnchecked(Ours):
    """`check_conflict=False`, with which `check_conflict=True` is compared."""

    how = {
        "upload_exclusive": "`client.upload_file(…, check_conflict=False)`",
        "upload_small_exclusive": "`client.upload_file(…, check_conflict=False)`",
    }

    def upload_exclusive(self, path: str, key: str) -> None:
        self.client.upload_file(path, key)

    def upload_small_exclusive(self, path: str, key: str) -> None:
        self.client.upload_file(path, key)
