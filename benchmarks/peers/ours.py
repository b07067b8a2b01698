"""This library."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.peers.base import Peer
from gllm_storage import get_storage_client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer


def config_of(endpoint: Endpoint) -> dict[str, str]:
    """The config of a client of an S3 endpoint."""
    config = {
        "bucket_name": endpoint.bucket,
        "endpoint_url": endpoint.url,
        "region_name": endpoint.region,
        "aws_access_key_id": endpoint.access_key,
        "aws_secret_access_key": endpoint.secret_key,
    }
    if endpoint.ca:
        config["ca_bundle"] = endpoint.ca
    return config


class Ours(Peer):
    """The verbs of the client. Downloads are not synced, as those of no peer are."""

    how = {
        "upload": "`client.upload_file`",
        "download": '`client.download_file`, `fsync="false"`',
        "upload_many": "`client.upload_dir`",
        "download_many": '`client.download_dir`, `fsync="false"`',
        "upload_small": "`client.upload_file`",
        "exists": "`client.file_exists`",
        "download_small": '`client.download_file`, `fsync="false"`',
        "serial": '`client.upload_file`, `file_exists`, `download_file`, `fsync="false"`',
        "read": '`client.open(key, "rb")`, no options',
        "read_at": '`client.open(key, "rb")`, no options',
        "write": '`client.open(key, "wb")`',
        "upload_exclusive": "`client.upload_file(…, check_conflict=True)`",
        "upload_small_exclusive": "`client.upload_file(…, check_conflict=True)`",
        "first": "`get_storage_client(…).file_exists`",
        "first_chain": "`get_storage_client(…).file_exists`",
    }

    provider: ClassVar[str] = "s3"
    options: ClassVar[dict[str, str]] = {"fsync": "false"}

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.client: Any = get_storage_client(self.provider, {**self.config(), **self.options})

    def config(self) -> dict[str, str]:
        """The config without `options`."""
        # nulls3 does not enforce preconditions, so after a probe the client would refuse exclusive creates.
        return config_of(self.endpoint) | ({} if self.endpoint.stores else {"conditional_writes": "enforced"})

    def upload(self, path: str, key: str) -> None:
        self.client.upload_file(path, key)

    def download(self, key: str, path: str) -> None:
        self.client.download_file(key, path)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        if not hasattr(self.client, "upload_dir"):  # an earlier release
            self.client.filesystem.put([path for path, _ in transfers], [self._path(key) for _, key in transfers])
            return
        folder, prefix = os.path.dirname(transfers[0][0]), transfers[0][1].rpartition("/")[0]
        names = [os.path.basename(path) for path, _ in transfers]
        some = {} if len(names) == len(os.listdir(folder)) else {"files": names}
        # To a new folder: files that are there already would not be sent again.
        self.client.upload_dir(folder, f"{prefix}/{uuid.uuid4().hex}", **some)

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        if not hasattr(self.client, "download_dir"):  # an earlier release
            self.client.filesystem.get([self._path(key) for _, key in transfers], [path for path, _ in transfers])
            return
        folder, prefix = os.path.dirname(transfers[0][0]), transfers[0][1].rpartition("/")[0]
        self.client.download_dir(prefix, folder, files=[os.path.basename(path) for path, _ in transfers])

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


class OursSynced(Ours):
    """The defaults: a download is on the disk when the call returns."""

    options: ClassVar[dict[str, str]] = {}
    how = {
        "download": "`client.download_file`",
        "download_many": "`client.download_dir`",
    }


class OursUnsigned(Ours):
    """Without signed bodies over http, as the CRT sends them, and this library to a server that checks their CRC."""

    options: ClassVar[dict[str, str]] = {"sign_bodies": "never"}
    how = {
        "upload": '`client.upload_file`, `sign_bodies="never"`',
        "upload_many": '`client.upload_dir`, `sign_bodies="never"`',
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


class Command(Peer):
    """The command line."""

    how = {"first": "`gllm-storage exists URL`", "first_chain": "`gllm-storage exists URL`"}


_ON_CLOUDS = {
    "upload": "`client.upload_file`",
    "download": '`client.download_file`, `fsync="false"`',
    "upload_many": "`client.upload_dir`",
    "download_many": '`client.download_dir`, `fsync="false"`',
}


class OursOnGCS(Ours):
    """The client of GCS, without credentials."""

    provider: ClassVar[str] = "gcs"
    how = _ON_CLOUDS

    def config(self) -> dict[str, str]:
        given = {"bucket_name": self.endpoint.bucket, "endpoint_url": self.endpoint.url, "anonymous": "true"}
        return given | ({"ca_bundle": self.endpoint.ca} if self.endpoint.ca else {})


class OursOnAzure(Ours):
    """The client of Azure, with an account key."""

    provider: ClassVar[str] = "azure"
    how = _ON_CLOUDS

    def config(self) -> dict[str, str]:
        given = {
            "container_name": self.endpoint.bucket,
            "endpoint_url": self.endpoint.url,
            "account_name": self.endpoint.access_key,
            "account_key": self.endpoint.secret_key,
        }
        return given | ({"ca_bundle": self.endpoint.ca} if self.endpoint.ca else {})
