"""`S3File`: an object opened for reading, as s3fs has it."""

from __future__ import annotations

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.reading import VersionFile


class S3File(VersionFile, _S3File):  # type: ignore[misc]  # s3fs publishes no types
    """An object, open for reading; pinned to the version that was there at `open`."""

    def _replaced(self) -> Exception:
        expired: Exception = FileExpired(filename=self.path, e_tag=self.version.etag)
        return expired
