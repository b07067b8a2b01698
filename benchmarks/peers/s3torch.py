"""s3torchconnector: the client below its datasets and checkpoints."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TYPE_CHECKING, Any

from benchmarks.layout import MIB
from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer


def _stand_in_for_torch() -> None:
    """Replace torch by an empty module if it is not installed.

    s3torchconnector uses torch for the version in its user agent, and as base of its datasets, which are not measured. The
    replacement makes its import cheaper, never more expensive.
    """
    if importlib.util.find_spec("torch"):
        return
    torch: Any = ModuleType("torch")
    utils: Any = ModuleType("torch.utils")
    data: Any = ModuleType("torch.utils.data")
    torch.__version__, torch.utils, utils.data = "0", utils, data
    data.Dataset = data.IterableDataset = object
    sys.modules.update({"torch": torch, "torch.utils": utils, "torch.utils.data": data})


_stand_in_for_torch()

from s3torchconnector import S3ClientConfig, S3ReaderConstructor  # noqa: E402 - torch first
from s3torchconnector._s3client import S3Client  # noqa: E402 - torch first
from s3torchconnectorclient import S3Exception  # noqa: E402 - torch first

_BLOCK = 8 * MIB
_THREADS = 16


class S3TorchConnector(Peer):
    """Readers and writers of `S3Client`. Credentials come from the environment."""

    how = {
        "upload": "`client.put_object().write`, blocks of 8 MiB",
        "download": "`client.get_object().read`, blocks of 8 MiB, written by Python",
        "upload_many": f"`client.put_object().write` in {_THREADS} threads",
        "download_many": f"`client.get_object().read` in {_THREADS} threads",
        "upload_small": "`client.put_object().write`",
        "exists": "`client.head_object`",
        "download_small": "`client.get_object().read`",
        "read": "`client.get_object()`, the sequential reader",
        "read_at": "`client.get_object(reader_constructor=S3ReaderConstructor.range_based(buffer_size=0))`",
        "write": "`client.put_object()`",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        config = S3ClientConfig(force_path_style=True)
        self.client: Any = S3Client(endpoint.region, endpoint=endpoint.url, s3client_config=config)

    def upload(self, path: str, key: str) -> None:
        with open(path, "rb") as file, self.client.put_object(self.endpoint.bucket, key) as writer:
            while block := file.read(_BLOCK):
                writer.write(block)

    def download(self, key: str, path: str) -> None:
        with open(path, "wb") as file, self.client.get_object(self.endpoint.bucket, key) as reader:
            while block := reader.read(_BLOCK):
                file.write(block)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.upload(*each), transfers))

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.download(each[1], each[0]), transfers))

    def upload_small(self, path: str, key: str) -> None:
        self.upload(path, key)

    def exists(self, key: str) -> bool:
        try:
            self.client.head_object(self.endpoint.bucket, key)
        except S3Exception:
            return False
        return True

    def download_small(self, key: str, path: str) -> None:
        self.download(key, path)

    def read(self, key: str, step: int) -> int:
        total = 0
        with self.client.get_object(self.endpoint.bucket, key) as reader:
            while block := reader.read(step):
                total += len(block)
        return total

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        total = 0
        ranged = S3ReaderConstructor.range_based(buffer_size=0)
        with self.client.get_object(self.endpoint.bucket, key, reader_constructor=ranged) as reader:
            for offset in offsets:
                reader.seek(offset)
                total += len(reader.read(size))
        return total

    def write(self, key: str, block: bytes, count: int) -> None:
        with self.client.put_object(self.endpoint.bucket, key) as writer:
            for _ in range(count):
                writer.write(block)
