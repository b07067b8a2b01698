"""`ClientFiles`: the files of a client's `open`, without s3fs and fsspec.

s3fs takes 0.3 s to import, together with aiohttp and aiobotocore: longer than most jobs of a new process. fsspec, which
imports asyncio, takes 0.05 s: as long as 50 MiB over https. Files read and write by the store, and need none of them. So a
client opens its files here, and only their attribute `fs` is s3fs's filesystem, which is made when it is used.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from gllm_storage.filesystem.reading import VersionFile
from gllm_storage.filesystem.writing import AtomicWriter, open_layers
from gllm_storage.paths import NOT_TO_OPEN, require_no_slash
from gllm_storage.s3.settings import MAX_PUT, MIN_PART, settings_of_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.concurrency.fork import PerProcess
    from gllm_storage.filesystem.read_ahead import ReadAhead, Source
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
_OF_TEXT = ("encoding", "errors", "newline")


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
    made: type[S3Writer],
    fs: Any,
    store: S3Store,
    key: str,
    mode: str,
    block_size: int | None,
    kwargs: dict[str, Any],
    on_commit: Callable[[], object] | None = None,
) -> S3Writer:
    """Open an object for writing.

    Args:
        made: The class of the file.
        fs: The filesystem.
        store: The store of the object.
        key: The key of the object.
        mode: ``"wb"`` or ``"xb"``.
        block_size: The bytes of a part.
        kwargs: The further arguments of `open`, as s3fs takes them.
        on_commit: Called after the object was published.

    Raises:
        ValueError: If the arguments ask for impossible parts.
        ConflictCheckUnsupportedError: If the mode is ``"xb"``, and the endpoint cannot create exclusively.
    """
    autocommit = bool(kwargs.pop("autocommit", True))
    given = {name: value for name, value in kwargs.items() if name not in _OF_READERS}
    exclusive, options = fs.write_options(mode == "xb", _with_block_size(given, block_size))
    return made(
        store.writer_of(key, exclusive=exclusive, options=options),
        store.url(key),
        mode,
        blocksize=block_size or fs.default_block_size,
        fs=fs,
        autocommit=autocommit,
        on_commit=on_commit,
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


class _FileOfClient(_OfClient, io.IOBase):
    """A file that is open for reading, with the attributes of fsspec's `AbstractBufferedFile`, but without its import.

    Args:
        files: Makes the filesystem.
        path: ``bucket/key``.
        mode: ``"rb"``.
        block_size: The size that the file shows; one of fsspec's caches fetches as much.
        size: Size of the object in bytes.
        cache_type: The name of one of fsspec's caches; ``"none"`` if the file reads without it.
        cache_options: The arguments of that cache.
        **kwargs: The further arguments of `open`.
    """

    DEFAULT_BLOCK_SIZE = 5 * 2**20
    """As fsspec's, for code that asks for it."""
    _ahead: PerProcess[ReadAhead] | None = None
    _source: Source | None = None
    _fetch_range: Callable[[int, int], bytes]

    def __init__(  # noqa: PLR0917 - fsspec's arguments
        self,
        files: ClientFiles,
        path: str,
        mode: str,
        block_size: int,
        size: int,
        cache_type: str = "readahead",
        cache_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.fs = files
        self.path = path
        self.mode = mode
        self.blocksize = block_size
        self.size = size
        self.kwargs = kwargs
        self.loc = 0
        self.autocommit = True
        self.start = self.end = None
        self._details: Any = None
        self._cache: Any = None
        if cache_type != "none":
            from fsspec.core import caches  # fsspec takes 50 ms to import

            self._cache = caches[cache_type](block_size, self._fetch_range, size, **(cache_options or {}))

    # `isinstance` asks for this attribute. So it holds also if a program imports fsspec, or s3fs, after it opened the file.
    @property  # type: ignore[misc]  # nobody sets it
    def __class__(self) -> Any:
        """The class of the file, which counts as a subclass of fsspec's and s3fs's classes where these are imported."""
        for module, name in (("fsspec.spec", "AbstractBufferedFile"), ("s3fs.core", "S3File")):
            # The module lacks its names while another thread imports it.
            theirs = getattr(sys.modules.get(module), name, None)
            if theirs is not None:
                theirs.register(type(self))
        return type(self)

    @property
    def cache(self) -> Any:
        """What the file reads through, as one of fsspec's caches; None after `close`."""
        if self._cache is None and self._source is not None and self._ahead is not None and not self.closed:
            from gllm_storage.filesystem.object_file import ParallelCache  # it imports fsspec

            self._cache = ParallelCache(self._source, self._ahead)
        return self._cache

    @property
    def details(self) -> Any:
        """The object as the filesystem's `info` describes it."""
        if self._details is None:
            self._details = self.fs.info(self.path)
        return self._details

    @property
    def full_name(self) -> str:
        """The URL of the object."""
        return str(self.fs.unstrip_protocol(self.path))

    def info(self) -> Any:
        """As `details`.

        Raises:
            ValueError: If the file is closed.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self.details

    def readable(self) -> bool:
        """Whether the file is open."""
        return not self.closed

    def seekable(self) -> bool:
        """Whether the file is open."""
        return not self.closed

    def writable(self) -> bool:
        """Never."""
        return False

    def commit(self) -> None:
        """Do nothing: fsspec calls this for files that were written."""

    def discard(self) -> None:
        """Do nothing: as `commit`."""

    def close(self) -> None:
        """Discard the blocks that were read ahead, and cancel their fetches."""
        if self.closed:
            return
        try:
            if self._ahead is not None:
                ahead = self._ahead.get()
                with ahead.lock:
                    ahead.close()
        finally:
            self._cache = None
            super().close()

    def __hash__(self) -> int:
        from fsspec.utils import tokenize  # fsspec takes 50 ms to import

        return int(tokenize(self.details), 16)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, type(self)) and hash(self) == hash(other))


class ClientFile(VersionFile, _FileOfClient):
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


class ClientFiles:
    """Opens the objects of a client. The filesystem of the client does all the rest.

    Args:
        store: The store of the client.
        filesystem: Returns the filesystem of the client.
    """

    default_block_size = _BLOCK_SIZE

    def __init__(self, store: S3Store, filesystem: Callable[[], Any]) -> None:
        self._store = store
        self.filesystem = filesystem

    @staticmethod
    def opens(mode: str, options: Mapping[str, Any]) -> bool:
        """Whether files of a mode, with these arguments of `open`, need nothing of s3fs."""
        return options.keys() <= _TO_READ if mode in _READS else mode in _WRITES and not _OF_S3FS & options.keys()

    def open(  # fsspec's signature
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open an object; see `StoreFileSystem.open`.

        Args:
            path: ``bucket/key``.
            mode: One of those for which `opens` returns True.
            block_size: Bytes to read at a time, or the bytes of a part.
            cache_options: For reading.
            compression: Such as ``"gzip"``, or ``"infer"`` to use the key's extension.
            **kwargs: ``encoding``, ``errors`` and ``newline`` for text; the rest are s3fs's arguments.

        Raises:
            FileNotFoundError: If the object is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive and the object exists.
            StorageError: If the store refuses or cannot be reached.
            ValueError: If the key ends with ``/``.
        """
        require_no_slash(path, NOT_TO_OPEN)
        if mode not in _READS:
            return open_layers(self._open_to_write, path, mode, block_size, cache_options, compression, **kwargs)
        text = {name: kwargs.pop(name) for name in _OF_TEXT if name in kwargs}
        given = {"cache_options": cache_options, **kwargs}
        options = {name: value for name, value in given.items() if value is not None}
        version = self._store.info(self._key(path), "open")
        file = _decompressed(self.open_version(path, version, block_size, **options), path, compression)
        return file if "b" in mode else io.TextIOWrapper(file, **text)

    def open_version(self, path: str, version: ObjectInfo, block_size: int | None, **options: Any) -> ClientFile:
        """Open one version of an object for reading. Sends no request."""
        return ClientFile(self, path, version, self._store, self._key(path), block_size=block_size, **options)

    def write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read s3fs's arguments of writes; see `put_parameters`.

        Raises:
            ValueError: If they ask for impossible parts.
        """
        return exclusive, put_parameters(self._store.settings, kwargs)

    @staticmethod
    def _strip_protocol(path: str) -> str:
        """The path that fsspec would open; the client compares it with the key that the caller names exactly."""
        return path.rstrip("/")

    def _open_to_write(
        self, path: str, mode: str, block_size: int | None, _: dict[str, Any] | None, **kwargs: Any
    ) -> S3Writer:
        return open_writer(ClientWriter, self, self._store, self._key(path), mode, block_size, kwargs)

    def _key(self, path: str) -> str:
        key = path[len(self._store.bucket) + 1 :]  # an access point has slashes
        if not key:
            raise ValueError(f"{path!r} is not the path of an object: it needs a bucket and a key")
        return key


def _decompressed(file: ClientFile, path: str, compression: str | None) -> Any:
    """A file with fsspec's compression above it.

    Raises:
        ValueError: If fsspec does not know the compression.
    """
    if compression is None:
        return file
    from fsspec.compression import compr  # fsspec takes 50 ms to import
    from fsspec.core import get_compression  # as above

    return compr[get_compression(path, compression)](file, mode="r")
