"""s3fs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import s3fs

from benchmarks.peers.base import FsspecPeer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint


class S3fs(FsspecPeer):
    """The defaults of s3fs, except that random reads use no cache: each would read 50 MiB ahead."""

    how = {
        "upload": "`fs.put_file`",
        "download": "`fs.get_file`",
        "upload_many": "`fs.put(list, list)`",
        "download_many": "`fs.get(list, list)`",
        "upload_small": "`fs.put_file`",
        "exists": "`fs.exists`",
        "download_small": "`fs.get_file`",
        "read": '`fs.open(path, "rb")`',
        "read_at": '`fs.open(path, "rb", cache_type="none")`',
        "write": '`fs.open(path, "wb")`',
        "serial": "`fs.put_file`, `fs.exists`, `fs.get_file`",
        "first": "`fs.exists`",
        "first_chain": "`fs.exists`",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.filesystem = s3fs.S3FileSystem(
            key=endpoint.access_key,
            secret=endpoint.secret_key,
            endpoint_url=endpoint.url,
            client_kwargs={"region_name": endpoint.region, "verify": endpoint.ca},
            config_kwargs={
                "s3": {"addressing_style": "path"},
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
        )

    upload_small = FsspecPeer.upload
    download_small = FsspecPeer.download

    def exists(self, key: str) -> bool:
        found: bool = self.filesystem.exists(self._path(key))
        return found

    def read(self, key: str, step: int) -> int:
        total = 0
        with self.filesystem.open(self._path(key), "rb") as file:
            while block := file.read(step):
                total += len(block)
        return total

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        total = 0
        with self.filesystem.open(self._path(key), "rb", cache_type="none") as file:
            for offset in offsets:
                file.seek(offset)
                total += len(file.read(size))
        return total

    def write(self, key: str, block: bytes, count: int) -> None:
        with self.filesystem.open(self._path(key), "wb") as file:
            for _ in range(count):
                file.write(block)
