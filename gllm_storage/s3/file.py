"""`S3File`: an object opened for reading in ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.transfer import ObjectChangedError

if TYPE_CHECKING:
    from gllm_storage.objects import ObjectInfo
    from gllm_storage.s3.filesystem import S3FileSystem


class S3File(_S3File):  # type: ignore[misc]  # s3fs publishes no types
    """An object, open for reading; pinned to the version that was there at `open`."""

    def __init__(self, fs: S3FileSystem, path: str, version: ObjectInfo, **options: Any) -> None:
        self.version = version
        super().__init__(fs, path, "rb", size=version.size, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        try:
            return self.fs.read_version(self.path, self.version, start, end)  # type: ignore[no-any-return]
        except ObjectChangedError as error:
            raise FileExpired(filename=self.path, e_tag=self.version.etag) from error
