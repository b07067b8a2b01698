"""`S3File` and `S3Writer`: open objects with the attributes of s3fs's files."""

from __future__ import annotations

from typing import Any

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.filesystem.reading import VersionFile
from gllm_storage.filesystem.writing import AtomicWriter


class S3File(VersionFile, _S3File):  # type: ignore[misc]  # s3fs publishes no types
    """An object that is open for reading, pinned to the version at `open`."""

    def _replaced(self) -> Exception:
        expired: Exception = FileExpired(filename=self.path, e_tag=self.version.etag)
        return expired


class S3Writer(AtomicWriter):
    """An object that is open for writing.

    Args:
        *args: As for `AtomicWriter`.
        blocksize: The size of a part, as an attribute that s3fs's files have.
        **kwargs: As for `AtomicWriter`.
    """

    def __init__(self, *args: Any, blocksize: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.blocksize = blocksize
        self._discarded = False

    @property
    def version_id(self) -> str | None:
        """The stored version, if the filesystem is aware of versions; None before the file is closed."""
        return self.stored.version if self.fs.version_aware and self.stored else None

    def discard(self) -> None:
        """Discard the content."""
        self._discarded = True
        super().discard()

    def commit(self) -> None:
        """Publish the content; as `AtomicWriter.commit`.

        Raises:
            FileExistsError: If the file was opened exclusively, and another writer has created it since.
            StorageError: If it cannot be published.
            ValueError: If the file was not closed, or was discarded.
        """
        if self._discarded:
            raise ValueError(f"{self.path} was discarded, and cannot be committed any more")
        super().commit()
