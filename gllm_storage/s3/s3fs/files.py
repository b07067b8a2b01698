"""`S3File` and `S3Writer`: objects that are open, as s3fs has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.filesystem.reading import VersionFile
from gllm_storage.filesystem.writing import AtomicWriter

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from gllm_storage.filesystem.writing import WritableFile
    from gllm_storage.s3.multipart import Receipt


class S3File(VersionFile, _S3File):  # type: ignore[misc]  # s3fs publishes no types
    """An object, open for reading; pinned to the version that was there at `open`."""

    def _replaced(self) -> Exception:
        expired: Exception = FileExpired(filename=self.path, e_tag=self.version.etag)
        return expired


class S3Writer(AtomicWriter):
    """An object, open for writing, which tells what s3fs's files tell, too.

    Args:
        published: As for `AtomicWriter`.
        path: As for `AtomicWriter`.
        mode: As for `AtomicWriter`.
        receipt: Told what became of the object.
        blocksize: What s3fs would take for the size of a part; to be looked at only.
        fs: As for `AtomicWriter`.
        autocommit: As for `AtomicWriter`.
    """

    def __init__(
        self,
        published: AbstractContextManager[WritableFile],
        path: str,
        mode: str,
        receipt: Receipt,
        *,
        blocksize: int,
        fs: Any,
        autocommit: bool,
    ) -> None:
        super().__init__(published, path, mode, fs=fs, autocommit=autocommit)
        self.blocksize = blocksize
        self._receipt = receipt
        self._is_discarded = False

    @property
    def version_id(self) -> str | None:
        """The version that was stored, where the filesystem is aware of versions; None before, and where nobody knows."""
        if not self.fs.version_aware or self._receipt.answer is None:
            return None
        version: str | None = self._receipt.answer.get("VersionId")
        return version

    def discard(self) -> None:
        """Take back what was written."""
        self._is_discarded = True
        super().discard()

    def commit(self) -> None:
        """As `AtomicWriter.commit`.

        Raises:
            FileExistsError: If the file was opened exclusively, and somebody else made it meanwhile.
            StorageError: If it cannot be published.
            ValueError: If it was not closed, or was discarded.
        """
        if self._is_discarded:
            raise ValueError(f"{self.path} was discarded, and cannot be committed any more")
        super().commit()
