"""`StreamedObject`: an S3 object that is on its way to the store while it is being written."""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from gllm_storage.concurrency.stop import TransferStopped
from gllm_storage.errors import StorageError
from gllm_storage.files.source import bytes_of
from gllm_storage.files.spool import spool_of
from gllm_storage.s3.errors import translated
from gllm_storage.s3.multipart import MultipartUpload
from gllm_storage.s3.part_stream import PartStream
from gllm_storage.s3.upload import S3Write
from gllm_storage.store.checksums import WRITE_ID
from gllm_storage.store.create import write_object

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from _typeshed import ReadableBuffer

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.s3.multipart import BotoEngine
    from gllm_storage.s3.upload import Upload


@dataclass(frozen=True)
class StreamPlan:
    """How a stream goes.

    Attributes:
        upload: What to write, without its content.
        engine: Sends the parts.
        head: HeadObject of the object: its user metadata, or None if it is not there.
        upload_whole: Stores what is too small to go in parts.
        write_id: The write-id of the object.
        exclusive: Whether to fail if the object exists.
        part_size: Bytes in the first parts.
        small: Up to so many bytes do not go in parts.
    """

    upload: Upload
    engine: BotoEngine
    head: Callable[[], Mapping[str, str] | None]
    upload_whole: Callable[[Source], None]
    write_id: str
    exclusive: bool
    part_size: int
    small: int

    def parts(self) -> PartStream:
        """The parts of the stream."""
        metadata = {**self.upload.metadata, WRITE_ID: self.write_id}
        return PartStream(MultipartUpload(self.engine, self.upload, metadata), self.upload, self.part_size)


class StreamedObject:
    """A file to be written, which becomes an object when the block ends well.

    Up to a size it is collected, and uploaded as a local file would be. Behind it, it is sent in parts while it is written.

    What was sent is gone. So nothing can be sent twice: a stream is completed once, and where S3 asks for all parts again
    (409 ConditionalRequestConflict), only the writer can do that.

    Args:
        plan: How it goes.
    """

    def __init__(self, plan: StreamPlan) -> None:
        self._plan = plan
        self._details: ErrorDetails = plan.upload.transfer.details
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._written = 0
        self._failure: Exception | None = None
        self._is_over = False
        self._collected = spool_of(plan.upload.transfer.settings, self._details, plan.small)
        self._parts: PartStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._pid != os.getpid():
            return  # it is another process's
        if kind is not None:
            self.discard()
            return
        with self._all_or_nothing():
            self._publish()
            self._is_over = True
            self._collected.close()

    def write(self, data: ReadableBuffer) -> int:
        """Write some bytes.

        Raises:
            StorageError: If a part could not be sent; nothing is stored then, whatever is done now.
        """
        view = bytes_of(data)
        with self._all_or_nothing():
            self._take(view)
            self._written += len(view)
        return len(view)

    def tell(self) -> int:
        """How much was written."""
        return self._written

    def seekable(self) -> bool:
        """Never: what was written may be gone."""
        return False

    def seek(self, *_: int) -> int:
        """Never.

        Raises:
            OSError: Always.
        """
        raise io.UnsupportedOperation("seek is only available in read mode: what was written is on its way to the store")

    def discard(self) -> None:
        """Take it back: end what is under way, and leave nothing in the store."""
        if self._pid != os.getpid() or self._is_over:
            return
        self._is_over = True
        if self._parts is not None:
            self._parts.discard()
        with self._lock:  # whoever is still writing has been told to end
            self._forget()

    @contextlib.contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Let nothing be written after a failure. After an interruption nobody knows what was taken of the last write."""
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                raise self._error("was taken back, and cannot be written any more")
            try:
                with translated(self._details):
                    yield
            except BaseException as error:
                self._give_up(error)
                raise

    def _give_up(self, error: BaseException) -> None:
        if self._is_over and isinstance(error, TransferStopped):
            raise self._error("was taken back while it was written") from error
        self._is_over = True
        self._failure = error if isinstance(error, Exception) else self._error("was interrupted, and nothing was stored")
        if self._parts is not None:
            self._parts.discard()
        self._forget()

    def _error(self, what: str) -> StorageError:
        return StorageError(f"{self._details.operation} of {self._details.url}: it {what}", self._details)

    def _take(self, view: memoryview) -> None:
        if self._parts is None:
            if self._collected.size + len(view) <= self._plan.small:
                self._collected.write(view)
                return
            self._parts = self._plan.parts()
            _begun.add(self)
            self._parts.begin(self._collected.source())
            self._collected.close()
        self._parts.write(view)

    def _publish(self) -> None:
        if self._parts is None:
            self._plan.upload_whole(self._collected.source())
            return
        write_object(
            S3Write(self._parts.finish(), self._plan.upload, self._plan.head),
            exclusive=self._plan.exclusive,
            look_first=False,  # it was at `open`, and by now there is nothing left to spare
            attempts=1,
            write_id=self._plan.write_id,
        )

    def _forget(self) -> None:
        self._collected.close()
        if self._parts is not None:
            self._parts.forget()


_begun: weakref.WeakSet[StreamedObject] = weakref.WeakSet()
"""Streams that the store knows of."""


def _discard_begun() -> None:
    """Leave no uploads open behind a program that ends without having closed its files."""
    for each in list(_begun):
        each.discard()


atexit.register(_discard_begun)
