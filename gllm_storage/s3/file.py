"""`S3File`: an object opened for reading in ranges."""

from __future__ import annotations

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.s3.boto import ObjectChangedError


class S3File(_S3File):  # type: ignore[misc]  # s3fs publishes no types
    """An object, open for reading; pinned to the version that was there at `open`."""

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        try:
            return self.fs.read_range(self.path, start, end, etag=self.details["ETag"])  # type: ignore[no-any-return]
        except ObjectChangedError as error:
            raise FileExpired(filename=self.details["name"], e_tag=self.details["ETag"]) from error
