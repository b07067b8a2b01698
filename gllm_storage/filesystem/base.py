"""`BucketFileSystem`: what our filesystems on buckets share, on top of fsspec's own class for the provider.

The methods that carry promises go through a `BucketStore`, which each provider has: uploads, downloads, looks, deletes.
fsspec calls each of them in two ways, as a plain method and as a coroutine; both are here, once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from gllm_storage.errors import StorageError
from gllm_storage.filesystem.bucket_base import OF_FILES, OF_READERS
from gllm_storage.filesystem.bucket_looking import LookingMethods
from gllm_storage.filesystem.bucket_reading import ReadingMethods
from gllm_storage.filesystem.bucket_writing import WritingMethods
from gllm_storage.filesystem.lists import ManyMethods
from gllm_storage.filesystem.reading import ObjectFile

if TYPE_CHECKING:
    from gllm_storage.info import ObjectInfo


class BucketFileSystem(ManyMethods, LookingMethods, ReadingMethods, WritingMethods):
    """Mixed into one of fsspec's asynchronous filesystems, before it.

    `put_file`, `get_file`, `pipe_file`, `cat_file`, `put`, `get`, `pipe`, `cat`, `info`, `exists`, `isfile`, `isdir`,
    `rm_file` and `open` go through the store: exclusive creates that hold at any size, downloads
    that are whole and verified, errors in our words, always asked from the store. The rest is the filesystem's own, with
    listings that are always fresh.
    """

    appends: ClassVar[bool] = False
    """Whether the provider's filesystem can append to an object. gcsfs replaces it instead; Azure appends to blobs of a kind
    of their own only."""

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if "a" in mode and not self.appends:
            details = self._error_details(*self._place(path), "open")
            raise StorageError(f"{details.url} cannot be appended to here. Write it anew, or write another object", details)
        if mode not in {"rb", "wb", "xb"} or (mode == "rb" and self._is_of_version(kwargs)):
            below: Any = super()
            return below._open(path, mode, block_size, **kwargs)  # noqa: SLF001 - fsspec's own
        if mode != "rb" and self._names_version(path, kwargs):
            raise ValueError(f"{path!r} names a version, which cannot be written")
        bucket, key = self._place(path)
        given = {name: kwargs.pop(name) for name in OF_FILES if kwargs.get(name) is not None}
        kwargs = {name: value for name, value in kwargs.items() if name not in OF_FILES}
        if mode != "rb":
            kwargs |= {"acl": given["acl"]} if "acl" in given else {}
            writer = self._open_writer(bucket, key, mode, kwargs)
            writer.autocommit = given.get("autocommit", True)
            return writer
        of_reader = {name: given[name] for name in OF_READERS if name in given}
        return self._open_reader(path, self.store.info(bucket, key, "open"), block_size, **of_reader)

    def _open_reader(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> Any:
        """Open an object for reading."""
        return ObjectFile(self, path, version, block_size=block_size, **options)
