"""`ObjectReader`: how a provider reads one object, pinned to one version."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Protocol

from gllm_storage.errors import Remedy, StorageError, StorageUnavailableError
from gllm_storage.store.retry import RESTART

if TYPE_CHECKING:
    from collections.abc import Generator

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo


_WITHOUT_SIZE = frozenset({"delete", "exists"})
"""Operations that ask whether there is an object, and not for its size."""


Memory = memoryview | Callable[[int], memoryview]
"""Memory for the pieces of a body: a buffer that they share, or a function that returns the place of the next piece, at
most as long as the given number of bytes."""


class ObjectChangedError(Exception):
    """The object was replaced while it was read."""


class ReadInterruptedError(Exception):
    """The body of an answer ended early or broke. The read is tried again, and at last the cause of this error raised."""


class RangesIgnoredError(Exception):
    """The server answered a ranged read with the complete object."""


def lengths_differ(details: ErrorDetails, stated: int, found: int) -> StorageError:
    """The error for an object whose size, in a HEAD answer or the like, is not the length of its content.

    Args:
        details: The operation.
        stated: The stated size in bytes.
        found: The length in bytes in the answer to a GET request for the same version.
    """
    what = f"the store states {stated} bytes, and sends {found} bytes of the same version"
    return StorageError(f"{details.operation} of {details.url}: {what}", details, Remedy.CHECK_ENDPOINT)


def replaced_too_often(details: ErrorDetails, attempts: int) -> StorageUnavailableError:
    """The error for an object that was replaced during each attempt to read it."""
    return StorageUnavailableError(
        f"{details.operation} of {details.url}: the object was replaced during each of {attempts} attempts to read it",
        details,
        Remedy.REPEAT,
    )


class FullAnswer(Protocol):
    """An answer with the complete object, of which only the headers have been read."""

    @property
    def version(self) -> ObjectInfo:
        """The version of the answer; the same facts as `ObjectReader.head`."""

    def chunks(self, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
        """The complete content; as `ObjectReader.read`."""

    def close(self) -> None:
        """Discard the rest of the body."""


class ObjectReader(ABC):
    """Reads one object. A provider implements `head`, `read` and `translated`; the rest saves requests where it can."""

    asks_for_places: ClassVar[bool] = False
    """Whether the `buffer` of `read` may be a function: see `Memory`. It saves a copy of each piece."""

    @abstractmethod
    def head(self) -> ObjectInfo:
        """HEAD request: size, checksum, and the ETag or version that pins the following reads.

        Raises:
            StorageError: If the request fails; `ObjectNotFoundError` if there is no object.
        """

    @abstractmethod
    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: memoryview | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        """Bytes of that version and of no other; `start` 0 with the full size means the complete object.

        The caller counts the bytes: it requests the rest of an answer that ends early.

        Args:
            version: The result of `head`.
            start: Offset of the first byte.
            length: Number of bytes.
            buffer: Memory for the bytes, filled again and again from its beginning; a yielded view is valid until the next
                one is requested. None: the reader uses memory of its own.

        Yields:
            The bytes as they arrive.

        Raises:
            ObjectChangedError: If the object, or the answer, is of another version.
            RangesIgnoredError: If the answer is the complete object, and a range was requested.
            ReadInterruptedError: If the body of the answer broke.
            Exception: The SDK's exception after all retries, if no answer arrives.
        """

    @abstractmethod
    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise errors of this library in place of the SDK's."""

    def begin(self) -> FullAnswer | None:
        """Read the current version without a HEAD request before.

        Returns:
            None if the reader cannot, or if `head` has to say why there is nothing.

        Raises:
            Exception: The SDK's exception after all retries.
        """
        return None

    def read_at_once(self, start: int, end: int | None) -> tuple[ObjectInfo, bytes] | None:  # noqa: ARG002 - for readers that can
        """A slice of the current version by one request.

        Args:
            start: First byte; counted from the end if negative, and then without `end`.
            end: Byte before which the slice ends.

        Returns:
            The version and the slice, cut where the object ends; None if the reader cannot, or if the answer broke off or
            is not a slice.

        Raises:
            Exception: The SDK's exception after all retries.
        """
        return None


def measured(head: Callable[[], ObjectInfo], reader: ObjectReader, details: ErrorDetails) -> ObjectInfo:
    """A HEAD request whose size counts: some stores state 0 where a GET request returns content.

    Args:
        head: Sends the HEAD request.
        reader: Confirms a size of 0 by a GET request for that version.
        details: The operation.

    Raises:
        StorageUnavailableError: If the object was replaced between the two requests again and again.
        StorageError: If a request fails, or if the object is not empty.
    """
    attempt = 0
    while True:
        attempt += 1
        version = head()
        try:
            if version.size or details.operation in _WITHOUT_SIZE or _is_empty(reader, version):
                return version
        except ObjectChangedError as error:
            if attempt == RESTART.limit:
                raise replaced_too_often(details, attempt) from error
        RESTART.again(details, attempt, "the object was replaced", "restart")


def _is_empty(reader: ObjectReader, version: ObjectInfo) -> bool:
    try:
        with reader.translated(), contextlib.closing(reader.read(version, 0, 0)) as content:
            return not any(content)
    except ReadInterruptedError:
        return False
    except StorageError as error:
        # Refused, as for an archived object: its facts can be read, and its content cannot.
        if error.status is None or error.retryable:
            raise
        return True
