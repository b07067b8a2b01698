"""`MemoryStore`: fsspec's store in the memory of this process."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.implementations.memory import MemoryFile

from gllm_storage.concurrency.bandwidth import pace, running_bandwidth
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError
from gllm_storage.files.source import CHUNK
from gllm_storage.info import ObjectInfo, ObjectProperties, Stored, aware
from gllm_storage.settings import TransferSettings
from gllm_storage.store.create import exists_error
from gllm_storage.store.port import ObjectStore, ObjectWriter, UploadRequest, guess_content_type
from gllm_storage.store.reader import ObjectChangedError, ObjectReader

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from fsspec.implementations.memory import MemoryFileSystem

    from gllm_storage.files.source import Source
    from gllm_storage.store.transfer import Transfer


_KEPT = ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control", "metadata")


class MemoryStore(ObjectStore):
    """The objects of a bucket in a dictionary of fsspec's `MemoryFileSystem`.

    Each upload puts a new object into the dictionary, so that readers of the previous object go on with it.

    Args:
        filesystem: The filesystem that has the dictionary.
        bucket: The first segment of every path; empty for the store of all paths.
        settings: The settings of transfers.
    """

    provider: ClassVar[str] = "memory"
    creates_exclusively: ClassVar[bool] = True
    is_in_process = True

    def __init__(
        self,
        filesystem: MemoryFileSystem,
        bucket: str = "",
        settings: TransferSettings = TransferSettings(),  # noqa: B008 - frozen
    ) -> None:
        self._filesystem = filesystem
        self._base = f"{bucket}/" if bucket else ""
        self._settings = settings

    @property
    def settings(self) -> TransferSettings:
        """The settings of transfers."""
        return self._settings

    def url(self, key: str) -> str:
        """``memory://bucket/key``."""
        return f"memory://{self._base}{key}"

    def upload(self, request: UploadRequest) -> Stored:
        """Copy the source into memory."""
        source, transfer = request.source, request.transfer
        if request.exclusive and self._name(request.key) in self._objects:
            raise exists_error(request.details)  # only for speed: `publish` decides
        content = self.new_content(request.key)
        for offset in range(0, source.size, CHUNK):
            transfer.stop.check()
            content.write(source.read_at(offset, min(CHUNK, source.size - offset)))
            transfer.progress(min(CHUNK, source.size - offset))
            pace(min(CHUNK, source.size - offset))
        source.require_unchanged()
        return self.publish(request, content)

    def options_of(self, properties: ObjectProperties, details: ErrorDetails) -> Mapping[str, Any]:
        """Keep the headers and the metadata of an object.

        Raises:
            UnsupportedOperationError: If there are other properties, which have no meaning in memory.
        """
        self.require_properties(properties, details, *_KEPT)
        return {"properties": properties}

    def with_content_type(self, key: str, source: Source, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the guessed content type to properties without one."""
        given = options.get("properties") or ObjectProperties()
        guessed = None if given.content_type else guess_content_type(key, source)
        return {"properties": dataclasses.replace(given, content_type=guessed)} if guessed else options

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Copy an object with its properties."""
        kept = getattr(self.content(key, transfer.details), "gllm_properties", None)
        options = {"properties": kept, **(options or {})} if kept and isinstance(target, MemoryStore) else options
        super().copy(key, target, target_key, transfer, options)

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy an object with its properties."""
        kept = getattr(self.content(key, transfer.details), "gllm_properties", None)
        options = {"properties": kept} if kept else {}
        self.copy_through(key, self, target_key, transfer, options, exclusive=exclusive, version=version)

    def open_writer(self, request: UploadRequest) -> ObjectWriter:
        """Write a new object."""
        return _MemoryWriter(self, request)

    def new_content(self, key: str) -> MemoryFile:
        """An object that is not published."""
        return MemoryFile(self._filesystem, self._name(key))

    def publish(self, request: UploadRequest, content: MemoryFile) -> Stored:
        """Put a new object into the dictionary.

        Raises:
            ObjectExistsError: If the request is exclusive, and the object exists.
        """
        name = self._name(request.key)
        content.seek(0)
        content.gllm_properties = request.options.get("properties")
        if not request.exclusive:
            self._objects[name] = content
        # dict.setdefault with a string key is atomic in CPython: of many threads, one finds its own object there.
        elif self._objects.setdefault(name, content) is not content:
            raise exists_error(request.details)
        return Stored.of(self._info(request.key, content))

    def open_reader(self, key: str, operation: str = "read") -> ObjectReader:
        """Reads only the object that `head` saw."""
        return _MemoryReader(self, key, operation)

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts about an object."""
        return self._info(key, self.content(key, self.details(key, operation)))

    def delete(self, key: str) -> None:
        """Remove an object from the dictionary."""
        if self._objects.pop(self._name(key), None) is None:
            raise _not_found(self.details(key, "delete"))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order."""
        base = self._name("")
        for name in sorted(self._objects):
            content = self._objects.get(name)
            if content is not None and name.startswith(base + prefix):
                yield self._info(name.removeprefix(base), content)

    def content(self, key: str, details: ErrorDetails) -> MemoryFile:
        """The object of a key.

        Raises:
            ObjectNotFoundError: If there is none.
        """
        content = self._objects.get(self._name(key))
        if content is None:
            raise _not_found(details)
        return content

    @property
    def _objects(self) -> dict[str, MemoryFile]:
        objects: dict[str, MemoryFile] = self._filesystem.store
        return objects

    def _name(self, key: str) -> str:
        return f"/{self._base}{key}"

    def _info(self, key: str, content: MemoryFile) -> ObjectInfo:
        # Not `content.size`, which asks for the buffer: a BytesIO copies its content then if another thread reads it.
        size = len(content.getvalue())
        return ObjectInfo(
            url=self.url(key),
            size=size,
            # An upload makes a new object, and its time of creation is fine enough to distinguish it from the previous
            # one. fsspec's own files grow in place.
            etag=f"{content.created.timestamp():.6f}-{size:x}-{id(content):x}",
            last_modified=aware(content.modified),
            **_facts(content),
        )


class _MemoryWriter:
    """An `ObjectWriter` on a new object."""

    def __init__(self, store: MemoryStore, request: UploadRequest) -> None:
        self._store = store
        self._request = request
        self._content = store.new_content(request.key)
        self.write, self.tell = self._content.write, self._content.tell
        self.seek, self.seekable = self._content.seek, self._content.seekable

    def commit(self) -> Stored:
        return self._store.publish(self._request, self._content)

    def discard(self) -> None:
        """Nothing of it is in the dictionary."""


class _MemoryReader(ObjectReader):
    """Reads one object."""

    def __init__(self, store: MemoryStore, key: str, operation: str) -> None:
        self._store = store
        self._key = key
        self._details = store.details(key, operation)

    def head(self) -> ObjectInfo:
        return self._store.info(self._key, self._details.operation)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - the bytes are in memory already
    ) -> Generator[bytes | memoryview, None, None]:
        content = self._store.content(self._key, self._details).getvalue()
        if self.head().etag != version.etag:
            raise ObjectChangedError
        view, bandwidth = memoryview(content)[start : start + length], running_bandwidth()
        yield from [view] if bandwidth is None else bandwidth.paced([view])

    def translated(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _facts(content: MemoryFile) -> dict[str, Any]:
    """The kept properties, as fields of `ObjectInfo`; fsspec's own files have none."""
    kept = getattr(content, "gllm_properties", None)
    given = kept.given() if kept else {}
    return {**given, "metadata": given.get("metadata", {})}


def _not_found(details: ErrorDetails) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"{details.url} does not exist (memory {details.operation})", details)
