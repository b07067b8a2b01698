"""`ClientFiles`: the files of a client's `open`, without s3fs.

s3fs takes 0.3 s to import, together with aiohttp and aiobotocore: longer than most jobs of a new process. Files read and
write by the store, and need none of them. So a client opens its files here, and only their attribute `fs` is s3fs's
filesystem, which is made when it is used.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.filesystem.reading import ObjectFile
from gllm_storage.filesystem.writing import AtomicWriter
from gllm_storage.s3.settings import MAX_PUT, MIN_PART, settings_of_call
from gllm_storage.store.port import nothing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.settings import S3TransferSettings
    from gllm_storage.s3.store import S3Store

_BLOCK_SIZE = 50 * 2**20
"""s3fs's ``default_block_size``, which its files show as `blocksize`."""
_ONLY_S3FS = {"blocksize", "requester_pays"}
"""Arguments of writes that are not parameters of S3's."""
_OF_READERS = {"cache_options", "cache_type", "fill_cache", "size"}
"""Arguments of `open` that say nothing when a file is written."""
_READS = frozenset({"rb", "r", "rt"})
_WRITES = frozenset({"wb", "w", "wt", "xb", "x", "xt"})
_TO_READ = frozenset(
    {"block_size", "cache_options", "cache_type", "compression", "encoding", "errors", "fill_cache", "newline"}
)
_OF_S3FS = frozenset({"autocommit", "version_id"})


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


def open_writer(  # noqa: PLR0917 - fsspec's arguments of `open`
    made: type[S3Writer], fs: Any, path: str, mode: str, block_size: int | None, kwargs: dict[str, Any]
) -> S3Writer:
    """Open an object for writing.

    Args:
        made: The class of the file.
        fs: The filesystem.
        path: ``bucket/key``.
        mode: ``"wb"`` or ``"xb"``.
        block_size: The bytes of a part.
        kwargs: The further arguments of `open`, as s3fs takes them.

    Raises:
        ValueError: If the arguments ask for impossible parts.
        ConflictCheckUnsupportedError: If the mode is ``"xb"``, and the endpoint cannot create exclusively.
    """
    autocommit = bool(kwargs.pop("autocommit", True))
    given = {name: value for name, value in kwargs.items() if name not in _OF_READERS}
    exclusive, options = fs.write_options(mode == "xb", _with_block_size(given, block_size))
    bucket, key = fs._place(path)  # noqa: SLF001 - both filesystems are ours
    store: S3Store = fs.bucket_store(bucket)
    transfer = store.transfer(key, "upload")
    if exclusive:
        store.require_create(key)  # before there is a writer to discard
    writer = store.open_writer(store.request(key, nothing(transfer.details), transfer, exclusive, options))
    return made(
        writer,
        store.url(key),
        mode,
        blocksize=block_size or fs.default_block_size,
        fs=fs,
        autocommit=autocommit,
        on_commit=partial(fs._forget_listings, path),  # noqa: SLF001 - as above
        publish_on_error=store.settings.publish_on_error,
    )


def put_parameters(settings: S3TransferSettings, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an upload for s3fs's arguments of writes: parameters of PutObject, ``chunksize``, ``max_concurrency``.

    Raises:
        ValueError: If they ask for impossible parts.
    """
    settings_of_call(settings, kwargs)  # refused before any request is sent
    payer = {"RequestPayer": "requester"} if kwargs.get("requester_pays") else {}
    return {**payer, **{name: value for name, value in kwargs.items() if name not in _ONLY_S3FS}}


def _with_block_size(options: dict[str, Any], block_size: int | None) -> dict[str, Any]:
    """The options of a write, with the block size of `open` as the size of its parts."""
    if block_size is None:
        return options
    wanted = options.get("chunksize")
    if wanted is not None and wanted != block_size:
        raise ValueError(f"block_size={block_size!r} and chunksize={wanted!r} are two sizes of one part; leave one out")
    if not MIN_PART <= block_size <= MAX_PUT:
        raise ValueError(f"Block size must be >=5MB, and at most 5 GiB, not {block_size} bytes")
    return {**options, "chunksize": block_size}


class _OfClient:
    """A mixin for files whose filesystem is made when it is used."""

    _files: ClientFiles

    @property
    def fs(self) -> Any:
        """The client's filesystem. It imports s3fs."""
        return self._files.filesystem()

    @fs.setter
    def fs(self, files: ClientFiles) -> None:
        self._files = files


class ClientWriter(_OfClient, S3Writer):
    """An object that a client has opened for writing."""

    version_id = None
    """None: the filesystem of a client is not aware of versions."""


class ClientFile(_OfClient, ObjectFile):
    """An object that a client has opened for reading, with the public attributes of s3fs's files.

    It is pickled with the client's filesystem, which opens it again.
    """

    version_id = None
    """None: the filesystem of a client is not aware of versions."""

    def __init__(self, files: ClientFiles, path: str, version: ObjectInfo, store: S3Store, key: str, **options: Any) -> None:
        self.bucket = store.bucket
        self.key = key
        self.fill_cache = options.get("fill_cache", True)
        super().__init__(files, path, version, store, key, **options)

    def __str__(self) -> str:
        return f"<File-like object S3FileSystem, {self.path}>"  # as fsspec's, which would make `fs` for it

    __repr__ = __str__

    @property
    def s3(self) -> Any:
        """The client's filesystem, as `fs`."""
        return self.fs

    def metadata(self, refresh: bool = False, **kwargs: Any) -> Any:
        """The user metadata of the object; see `s3fs.S3FileSystem.metadata`.

        Raises:
            StorageError: If the request fails.
        """
        return self.fs.metadata(self.path, refresh, **kwargs)

    def getxattr(self, xattr_name: str, **kwargs: Any) -> Any:
        """One value of the user metadata; see `s3fs.S3FileSystem.getxattr`.

        Raises:
            StorageError: If the request fails.
        """
        return self.fs.getxattr(self.path, xattr_name, **kwargs)

    def setxattr(self, copy_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Change the user metadata of the object; see `s3fs.S3FileSystem.setxattr`.

        Raises:
            StorageError: If the request fails.
        """
        return self.fs.setxattr(self.path, copy_kwargs=copy_kwargs, **kwargs)

    def url(self, **kwargs: Any) -> Any:
        """A presigned URL; see `s3fs.S3FileSystem.url`."""
        return self.fs.url(self.path, **kwargs)

    def _replaced(self) -> Exception:
        from s3fs.utils import FileExpired  # it imports aiohttp and aiobotocore

        expired: Exception = FileExpired(filename=self.path, e_tag=self.version.etag)
        return expired


class ClientFiles(StoreFileSystem):
    """Opens the objects of a client. The filesystem of the client does all the rest.

    Args:
        store: The store of the client.
        filesystem: Returns the filesystem of the client.
    """

    provider: ClassVar[str] = "s3"
    scheme: ClassVar[str] = "s3"
    protocol = ("s3", "s3a")
    cachable = False
    default_block_size = _BLOCK_SIZE

    def __init__(self, store: S3Store, filesystem: Callable[[], Any]) -> None:
        super().__init__(asynchronous=True)  # it needs no loop: no coroutine of it is called
        self._store = store
        self.filesystem = filesystem

    @staticmethod
    def opens(mode: str, options: Mapping[str, Any]) -> bool:
        """Whether files of a mode, with these arguments of `open`, need nothing of s3fs."""
        return options.keys() <= _TO_READ if mode in _READS else mode in _WRITES and not _OF_S3FS & options.keys()

    def bucket_store(self, bucket: str) -> S3Store:
        """The store of the client, whose bucket is the only one."""
        del bucket
        return self._store

    def write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read s3fs's arguments of writes; see `put_parameters`.

        Raises:
            ValueError: If they ask for impossible parts.
        """
        return exclusive, put_parameters(self._store.settings, kwargs)

    def open_version(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> ClientFile:
        """Open one version of an object for reading. Sends no request."""
        # The module lacks its names while another thread imports it.
        file_class = getattr(sys.modules.get("s3fs.core"), "S3File", None)
        if file_class is not None:
            file_class.register(ClientFile)  # for callers that test the class; it is a subclass of `abc.ABC`
        _, key = self._place(path)
        return ClientFile(self, path, version, self._store, key, block_size=block_size, **options)

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        if mode == "rb":
            return super()._open(path, mode, block_size, **kwargs)
        return open_writer(ClientWriter, self, path, mode, block_size, kwargs)

    def _split(self, path: str) -> tuple[str, str]:
        bucket = self._store.bucket  # an access point has slashes
        return bucket, self._without_protocol(path)[len(bucket) + 1 :]
