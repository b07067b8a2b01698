"""What a peer is asked to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.layout import Endpoint

Transfer = tuple[str, str]
"""A local path and a key."""


class Peer:
    """One way to do the jobs.

    Its module imports its package, so that a job's time is without the import. Its constructor makes the client, which is
    part of the job.

    Attributes:
        how: The API that each verb is done with. What is not here, nor in `cannot`, is not asked of this peer.
        cannot: Why it lacks a verb.
    """

    how: ClassVar[Mapping[str, str]] = {}
    cannot: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def load(cls, verb: str) -> None:
        """Import what only some verbs need, for which the clock does not run yet either."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def upload(self, path: str, key: str) -> None:
        """Upload a file."""
        raise NotImplementedError

    def download(self, key: str, path: str) -> None:
        """Download an object to a file."""
        raise NotImplementedError

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        """Upload many files."""
        raise NotImplementedError

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        """Download many objects to files."""
        raise NotImplementedError

    def upload_small(self, path: str, key: str) -> None:
        """Upload a small file."""
        raise NotImplementedError

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        raise NotImplementedError

    def download_small(self, key: str, path: str) -> None:
        """Download a small object to a file."""
        raise NotImplementedError

    def read(self, key: str, step: int) -> int:
        """Read an object from its begin to its end; returns the bytes read."""
        raise NotImplementedError

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        """Read `size` bytes at each offset; returns the bytes read."""
        raise NotImplementedError

    def write(self, key: str, block: bytes, count: int) -> None:
        """Write `block` so many times to one object."""
        raise NotImplementedError

    def upload_exclusive(self, path: str, key: str) -> None:
        """Upload a file unless the object is there."""
        raise NotImplementedError

    def upload_small_exclusive(self, path: str, key: str) -> None:
        """Upload a small file unless the object is there."""
        raise NotImplementedError


def read_file(path: str) -> bytes:
    """A small file's content."""
    with open(path, "rb") as file:
        return file.read()


def write_file(path: str, content: bytes | memoryview) -> None:
    """Write a small file."""
    with open(path, "wb") as file:
        file.write(content)
