"""A filesystem of the library on a dictionary, which records its reads and fails where a test requires it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError
from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.info import ObjectInfo, Stored
from gllm_storage.store.port import ObjectStore
from gllm_storage.store.reader import ObjectChangedError, ObjectReader

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterator

    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.port import UploadRequest
    from gllm_storage.store.reader import Memory

KIB = 2**10
MIB = 2**20
CHUNK = 64 * KIB


@dataclass
class Shelf:
    """The store, with the content of all buckets.

    Attributes:
        settings: Transfer settings.
        objects: Content of each object by ``bucket/key``.
        reads: Start and length of each read, in bytes.
        heads: Number of HEAD requests.
        before_read: Called with the start of each read, in the reading thread; it may raise.
        held_up: If set, reads wait until this event is set or the read is cancelled.
        under_way: Reads that are not finished.
        breaks: Where answers end early; each place ends one.
        delay: Seconds for each piece of 64 KiB, as of a distant store.
    """

    settings: TransferSettings
    objects: dict[str, bytes] = field(default_factory=dict)
    reads: list[tuple[int, int]] = field(default_factory=list)
    heads: int = 0
    before_read: Callable[[int], object] | None = None
    held_up: threading.Event | None = None
    under_way: int = 0
    breaks: list[int] = field(default_factory=list)
    delay: float = 0.0

    @property
    def bytes_read(self) -> int:
        """Total number of requested bytes."""
        return sum(length for _, length in self.reads)


class ShelfStore(ObjectStore):
    """One bucket of the store."""

    provider: ClassVar[str] = "shelf"

    def __init__(self, shelf: Shelf, bucket: str) -> None:
        self.shelf = shelf
        self.bucket = bucket

    @property
    def settings(self) -> TransferSettings:
        return self.shelf.settings

    def url(self, key: str) -> str:
        return f"shelf://{self.bucket}/{key}"

    def upload(self, request: UploadRequest) -> Stored:
        content = request.source.read_at(0, request.source.size)
        self.shelf.objects[f"{self.bucket}/{request.key}"] = content
        return Stored(self.url(request.key), len(content))

    def open_reader(self, key: str, operation: str = "read") -> ShelfReader:
        return ShelfReader(self.shelf, f"{self.bucket}/{key}", self.details(key, operation))

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        self.shelf.heads += 1
        return self.open_reader(key, operation).head()

    def delete(self, key: str) -> None:
        self.info(key, "delete")
        del self.shelf.objects[f"{self.bucket}/{key}"]

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for name in sorted(self.shelf.objects):
            if name.startswith(f"{self.bucket}/{prefix}"):
                yield self.open_reader(name.removeprefix(f"{self.bucket}/"), "list").head()


@dataclass(frozen=True)
class ShelfReader(ObjectReader):
    """One object of the store."""

    shelf: Shelf
    name: str
    details: ErrorDetails

    def head(self) -> ObjectInfo:
        if self.name not in self.shelf.objects:
            raise ObjectNotFoundError(f"{self.details.url} is not there", self.details)
        content = self.shelf.objects[self.name]
        return ObjectInfo(self.details.url, len(content), etag=str(hash(content)))

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: Memory | None = None,
    ) -> Generator[bytes | memoryview, None, None]:
        shelf = self.shelf
        shelf.reads.append((start, length))
        shelf.under_way += 1
        try:
            if shelf.before_read is not None:
                shelf.before_read(start)
            while shelf.held_up is not None and not shelf.held_up.wait(0.01):
                check_stop()
            if self.head() != version:
                raise ObjectChangedError
            content = shelf.objects[self.name]
            for offset in range(start, start + length, CHUNK):
                if shelf.breaks and offset <= shelf.breaks[0] < offset + CHUNK:
                    yield from placed(content[offset : shelf.breaks.pop(0)], buffer)
                    return
                if shelf.delay:
                    time.sleep(shelf.delay)
                    check_stop()
                yield from placed(content[offset : min(offset + CHUNK, start + length)], buffer)
        finally:
            shelf.under_way -= 1

    def translated(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def placed(piece: bytes, buffer: Memory | None) -> Iterator[bytes | memoryview]:
    """A piece in the places that the caller of `ObjectReader.read` gives for it."""
    if buffer is None or isinstance(buffer, memoryview):
        yield piece
        return
    while piece:
        place = buffer(len(piece))
        count = len(place)
        place[:] = piece[:count]
        yield place
        piece = piece[count:]


class ShelfFileSystem(StoreFileSystem):
    """The filesystem of the store."""

    provider: ClassVar[str] = "shelf"
    scheme: ClassVar[str] = "shelf"
    protocol: Any = ("shelf",)
    cachable = False

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        self.shelf = shelf

    def bucket_store(self, bucket: str) -> ShelfStore:
        return ShelfStore(self.shelf, bucket)
