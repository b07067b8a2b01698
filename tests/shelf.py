"""A filesystem of ours on a store that is a dictionary, which counts what is read from it and fails where a test says so."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.asyn import AsyncFileSystem

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError
from gllm_storage.filesystem.base import BucketFileSystem
from gllm_storage.info import ObjectInfo
from gllm_storage.store.reader import ObjectChangedError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator

    from gllm_storage.settings import TransferSettings

KIB = 2**10
MIB = 2**20
CHUNK = 64 * KIB


@dataclass
class Shelf:
    """The store.

    Attributes:
        settings: How objects are moved.
        objects: Content by ``bucket/key``.
        reads: Start and length of each read.
        heads: How often an object was looked at.
        before_read: Called with the start of each read, in the thread that reads; it may raise.
        held_up: If it is there, reads wait for it, or for being given up.
        under_way: Reads that are not finished.
    """

    settings: TransferSettings
    objects: dict[str, bytes] = field(default_factory=dict)
    reads: list[tuple[int, int]] = field(default_factory=list)
    heads: int = 0
    before_read: Callable[[int], object] | None = None
    held_up: threading.Event | None = None
    under_way: int = 0

    @property
    def bytes_read(self) -> int:
        """Bytes that were asked for in all."""
        return sum(length for _, length in self.reads)

    def info(self, bucket: str, key: str, operation: str) -> ObjectInfo:
        """Look at an object."""
        self.heads += 1
        return ShelfReader(self, f"{bucket}/{key}", ErrorDetails("shelf", f"shelf://{bucket}/{key}", operation)).head()

    def reader(self, bucket: str, key: str, details: ErrorDetails) -> ShelfReader:
        """Read an object."""
        return ShelfReader(self, f"{bucket}/{key}", details)


@dataclass(frozen=True)
class ShelfReader:
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
        buffer: memoryview | None = None,  # noqa: ARG002 - as `ObjectReader`
    ) -> Generator[bytes, None, None]:
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
                yield content[offset : min(offset + CHUNK, start + length)]
        finally:
            shelf.under_way -= 1

    def translated(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class ShelfFileSystem(BucketFileSystem, AsyncFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """The filesystem."""

    provider: ClassVar[str] = "shelf"
    scheme: ClassVar[str] = "shelf"
    protocol: Any = ("shelf",)
    version_aware = False
    cachable = False

    def __init__(self, shelf: Shelf) -> None:
        super().__init__()
        store: Any = shelf
        self._attach(store)

    def _is_left_to_provider(self, *_: Any) -> bool:
        return False  # there is none
