"""`ObjectReader`: how a provider reads an object, and what may come in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Generator

    from gllm_storage.info import ObjectInfo


class ObjectChangedError(Exception):
    """The object was replaced while it was being read."""


class ReadInterruptedError(Exception):
    """The answer to a read ended or broke; the cause says how. The read is tried again, and at last the cause raised."""


class RangesIgnoredError(Exception):
    """The server answered a ranged read with the whole object."""


class ObjectReader(Protocol):
    """One object, as a provider reads it."""

    def head(self) -> ObjectInfo:
        """What is there now: its size, its checksum, and what pins this version.

        Raises:
            StorageError: If it cannot be told; `ObjectNotFoundError` if there is nothing.
        """

    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: memoryview | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        """Bytes of that version, and of no other; `start` 0 with the whole size is the whole object.

        The caller counts them: an answer that ends early is asked for again.

        Args:
            version: What `head` said.
            start: Where in the object they begin.
            length: How many there are.
            buffer: Where they may be put, one after the other, and again from its beginning when it is full; so what was
                given before is gone when more is asked for.

        Yields:
            The bytes as they come.

        Raises:
            ObjectChangedError: If another version is there, or the answer is of another one.
            RangesIgnoredError: If the answer is the whole object, and a range was asked for.
            ReadInterruptedError: If the answer came and then broke.
            Exception: What the SDK raises, after all retries, where there is no answer.
        """

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise our errors in place of the SDK's."""


class WholeAnswer(Protocol):
    """An answer that is the whole object, and of which nothing but the headers was read yet."""

    @property
    def version(self) -> ObjectInfo:
        """What `ObjectReader.head` would say of it."""

    def chunks(self, buffer: memoryview | None) -> Generator[bytes | memoryview, None, None]:
        """All of the object; as `ObjectReader.read`."""

    def close(self) -> None:
        """Have done with it; what was not read of it does not come any more."""


@runtime_checkable
class BeginsAtOnce(Protocol):
    """An `ObjectReader` that need not look at an object before it reads the whole."""

    def begin(self) -> WholeAnswer | None:
        """Ask for the version that is there.

        Returns:
            None where `ObjectReader.head` has to say what there is, or why it is not to be had.

        Raises:
            Exception: What the SDK raises, after all retries.
        """
