"""`S3File`: an object opened for reading in ranges or for writing as a whole."""

from __future__ import annotations

import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Self

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.s3.boto import ObjectChangedError

if TYPE_CHECKING:
    from types import TracebackType


class S3File(_S3File):  # type: ignore[misc]  # s3fs publishes no types
    """An open object.

    Reading is pinned to the version that was there at `open`. Writing goes to an unnamed local temporary file, and the
    object appears when the file is closed, whole; when the block ends in an exception, or the handle is dropped, nothing
    appears. Mode ``"xb"`` fails at `open` if the object is there, and at `close` if it came meanwhile.
    """

    _spool: Any = None

    def _fetch_range(self, start: int, end: int) -> bytes:
        if start >= end:
            return b""
        try:
            return self.fs.read_range(self.path, start, end, etag=self.details["ETag"])  # type: ignore[no-any-return]
        except ObjectChangedError as error:
            raise FileExpired(filename=self.details["name"], e_tag=self.details["ETag"]) from error

    def _initiate_upload(self) -> None:
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - closed by commit or discard

    def _upload_chunk(self, final: bool = False) -> bool:
        self.buffer.seek(0)
        shutil.copyfileobj(self.buffer, self._spool)
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Make the object of what was written."""
        try:
            self._spool.flush()
            self.fs.put_open_file(
                self._spool.fileno(),
                self.path,
                mode="create" if "x" in self.mode else "overwrite",
                **self.s3_additional_kwargs,
            )
        finally:
            self.discard()

    def discard(self) -> None:
        """Forget what was written."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None and self.mode != "rb":
            self._give_up()
        self.close()

    def __del__(self) -> None:
        # AbstractBufferedFile would commit here, which publishes what an exception or a lost reference left half written.
        if not getattr(self, "closed", True) and getattr(self, "mode", "rb") != "rb":
            self._give_up()

    def _give_up(self) -> None:
        self.discard()
        self.closed = True
