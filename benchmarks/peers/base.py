"""`Peer`: the methods that the jobs call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.layout import Endpoint

Transfer = tuple[str, str]
"""A local path and a key."""


class Peer:
    """A library or program that does the jobs.

    The module imports the package of the peer, so that the time of a job does not include the import. The constructor makes
    the client, which is a part of the job.

    Attributes:
        how: The API call for each verb. The peer does not run jobs with a verb that is neither here nor in `cannot`.
        cannot: The reason for each verb that the package lacks.
        warms: Whether a second job in the same process can be faster than the first.
        tries: Whether a warm process does a small job first.
        serial: Does the job ``serial`` by itself, if it is not None. The argument is a file with the content of an object.
    """

    how: ClassVar[Mapping[str, str]] = {}
    cannot: ClassVar[Mapping[str, str]] = {}
    warms: ClassVar[bool] = True
    tries: ClassVar[bool] = True
    serial: Callable[[str], None] | None = None

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
        """Whether an object exists."""
        raise NotImplementedError

    def download_small(self, key: str, path: str) -> None:
        """Download a small object to a file."""
        raise NotImplementedError

    def read(self, key: str, step: int) -> int:
        """Read an object from its beginning to its end; returns the number of bytes."""
        raise NotImplementedError

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        """Read `size` bytes at each offset; returns the number of bytes."""
        raise NotImplementedError

    def write(self, key: str, block: bytes, count: int) -> None:
        """Write an object of `count` times `block`."""
        raise NotImplementedError

    def upload_exclusive(self, path: str, key: str) -> None:
        """Upload a file exclusively: it is an error if the object exists."""
        raise NotImplementedError

    def upload_small_exclusive(self, path: str, key: str) -> None:
        """Upload a small file exclusively."""
        raise NotImplementedError


def read_file(path: str) -> bytes:
    """The content of a small file."""
    with open(path, "rb") as file:
        return file.read()


def write_file(path: str, content: bytes | memoryview) -> None:
    """Write a small file."""
    with open(path, "wb") as file:
        file.write(content)


class FsspecPeer(Peer):
    """A filesystem of fsspec.

    Attributes:
        filesystem: The filesystem, which the constructor of the peer makes.
        put_options: Arguments of each upload.
    """

    filesystem: Any
    put_options: ClassVar[Mapping[str, bool]] = {}

    def upload(self, path: str, key: str) -> None:
        self.filesystem.put_file(path, self._path(key), **self.put_options)

    def download(self, key: str, path: str) -> None:
        self.filesystem.get_file(self._path(key), path)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        paths, keys = [path for path, _ in transfers], [self._path(key) for _, key in transfers]
        self.filesystem.put(paths, keys, **self.put_options)

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        self.filesystem.get([self._path(key) for _, key in transfers], [path for path, _ in transfers])

    def _path(self, key: str) -> str:
        return f"{self.endpoint.bucket}/{key}"
