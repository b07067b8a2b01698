"""`S3File` and `S3Appender`: open objects that are s3fs's files, or have one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from s3fs.core import S3File as _S3File
from s3fs.utils import FileExpired

from gllm_storage.filesystem.object_file import FsspecFile
from gllm_storage.info import Stored
from gllm_storage.s3.files import ClientFile, S3Writer

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class S3File(FsspecFile, _S3File):
    """An object that is open for reading, pinned to the version at `open`."""

    def _replaced(self) -> Exception:
        expired: Exception = FileExpired(filename=self.path, e_tag=self.version.etag)
        return expired


S3File.register(ClientFile)  # so that a file is equal to its pickled copy, which the filesystem opens


class S3Appender(S3Writer):
    """An object to which a file of s3fs appends. Nothing is appended after an exception, or if the file is dropped.

    Args:
        file: The file of s3fs. Other attributes than those of `S3Writer` are its own.
        *args: As for `S3Writer`, without the writer.
        **kwargs: As for `S3Writer`.
    """

    def __init__(self, file: _S3File, *args: Any, **kwargs: Any) -> None:
        self._file = file
        super().__init__(_Appending(file), *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_file" not in vars(self):
            raise AttributeError(name)
        return getattr(self._file, name)


class _Appending:
    """An `ObjectWriter` over a file of s3fs."""

    def __init__(self, file: _S3File) -> None:
        self._file = file
        # s3fs publishes from the finalizer as well, which may run before the one of `S3Appender`.
        file._unclosable = True  # fsspec's flag, which its `close` obeys

    def write(self, data: ReadableBuffer) -> int:
        return int(self._file.write(data))

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def commit(self) -> Stored:
        self._file._unclosable = False
        self._file.close()
        return Stored(f"s3://{self._file.path}", self.tell())

    def discard(self) -> None:
        self._file.closed = True
        self._file.discard()
