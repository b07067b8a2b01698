"""multi-storage-client, with its Rust client switched on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import multistorageclient
import multistorageclient.providers.s3  # the package would import it when it makes the first client

from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_WORKERS = 64


class MultiStorageClient(Peer):
    """`StorageClient` from a config. `open` does not download the complete object first, which is the default."""

    how = {
        "upload": "`client.upload_file`, `rust_client`",
        "download": "`client.download_file`, `rust_client`",
        "upload_many": f"`client.upload_files(max_workers={_WORKERS})`, `rust_client`",
        "download_many": f"`client.download_files(max_workers={_WORKERS})`, `rust_client`",
        "upload_small": "`client.upload_file`, `rust_client`",
        "exists": "`client.is_file`",
        "download_small": "`client.download_file`, `rust_client`",
        "read": '`client.open(path, "rb", prefetch_file=False)`, `rust_client`',
        "read_at": '`client.open(path, "rb", prefetch_file=False)`, `rust_client`',
        "write": '`client.open(path, "wb")`, `rust_client`',
    }

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        keys = {"access_key": endpoint.access_key, "secret_key": endpoint.secret_key}
        options = {
            "base_path": endpoint.bucket,
            "endpoint_url": endpoint.url,
            "region_name": endpoint.region,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            "rust_client": {"allow_http": True},
            **({"verify": endpoint.ca} if endpoint.ca else {}),
        }
        profile = {
            "storage_provider": {"type": "s3", "options": options},
            "credentials_provider": {"type": "S3Credentials", "options": keys},
        }
        config = multistorageclient.StorageClientConfig.from_dict({"profiles": {"bench": profile}}, profile="bench")
        self.client: Any = multistorageclient.StorageClient(config)

    def upload(self, path: str, key: str) -> None:
        self.client.upload_file(key, path)

    def download(self, key: str, path: str) -> None:
        self.client.download_file(key, path)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        self.client.upload_files([key for _, key in transfers], [path for path, _ in transfers], max_workers=_WORKERS)

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        self.client.download_files([key for _, key in transfers], [path for path, _ in transfers], max_workers=_WORKERS)

    def upload_small(self, path: str, key: str) -> None:
        self.client.upload_file(key, path)

    def exists(self, key: str) -> bool:
        found: bool = self.client.is_file(key)
        return found

    def download_small(self, key: str, path: str) -> None:
        self.client.download_file(key, path)

    def read(self, key: str, step: int) -> int:
        total = 0
        with self.client.open(key, "rb", prefetch_file=False) as file:
            while block := file.read(step):
                total += len(block)
        return total

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        total = 0
        with self.client.open(key, "rb", prefetch_file=False) as file:
            for offset in offsets:
                file.seek(offset)
                total += len(file.read(size))
        return total

    def write(self, key: str, block: bytes, count: int) -> None:
        with self.client.open(key, "wb") as file:
            for _ in range(count):
                file.write(block)
