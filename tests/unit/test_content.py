"""Sources of `upload`: paths, buffers and binary file objects."""

from __future__ import annotations

import array
import bz2
import contextlib
import gzip
import io
import mmap
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import StorageError, get_storage_client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.fsspec_client import FsspecStorageClient

CONTENT = os.urandom(3 * 2**20 + 7)


class OwnPath:
    """A path object that is not a `Path`."""

    def __init__(self, path: object) -> None:
        self._path = str(path)

    def __fspath__(self) -> str:
        return self._path


class BytesPath(OwnPath):
    """A path object whose path is bytes."""

    def __fspath__(self) -> Any:
        return os.fsencode(self._path)


class Pipe:
    """A file object with `read` alone, which gives less than requested."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self._rest = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        return self._rest.read(min(size, 1000) if size > 0 else 1000)


@pytest.fixture
def client(request: pytest.FixtureRequest) -> FsspecStorageClient:
    made: Any = get_storage_client("memory", {"bucket_name": request.node.name[:60]})
    return made  # type: ignore[no-any-return]  # its type is only known at run time


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "source").write_bytes(CONTENT)
    return tmp_path / "source"


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


SOURCES: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": lambda path: path,
    "PurePath": PurePosixPath,
    "PathLike": OwnPath,
    "PathLike-bytes": BytesPath,
    "bytes": lambda _: CONTENT,
    "bytearray": lambda _: bytearray(CONTENT),
    "memoryview": lambda _: memoryview(b"--" + CONTENT)[2:],
    "array": lambda _: array.array("B", CONTENT),
    "mmap": _mapped,
    "file": lambda path: path.open("rb"),
    "unbuffered": lambda path: path.open("rb", buffering=0),
    "BytesIO": lambda _: io.BytesIO(CONTENT),
    "read": lambda _: Pipe(),
    "NamedTemporaryFile": lambda _: _filled(tempfile.NamedTemporaryFile()),  # noqa: SIM115 - the test reads it
    "SpooledTemporaryFile": lambda _: _filled(tempfile.SpooledTemporaryFile(max_size=10)),  # noqa: SIM115 - likewise
    "gzip": lambda path: _compressed(path, gzip),
    "bz2": lambda path: _compressed(path, bz2),
}


def _filled(file: Any) -> Any:
    file.write(CONTENT)
    file.seek(0)
    return file


def _compressed(path: Path, codec: Any) -> Any:
    packed = path.with_name("packed")
    packed.write_bytes(codec.compress(CONTENT))
    return codec.open(packed, "rb")


@contextlib.contextmanager
def opened(make: Callable[[Path], Any], path: Path) -> Iterator[Any]:
    """The source that `make` makes; it is closed at the end, if it can be closed."""
    with contextlib.ExitStack() as stack:
        source = make(path)
        if hasattr(source, "close"):
            stack.callback(source.close)
        yield source


@pytest.mark.parametrize("kind", SOURCES)
def test_source(client: FsspecStorageClient, path: Path, kind: str) -> None:
    """The bytes that the source gives are stored, and a file object stays open, at its end."""
    with opened(SOURCES[kind], path) as source:
        _check_source(client, source, kind)


def _check_source(client: FsspecStorageClient, source: Any, kind: str) -> None:
    moved: list[int] = []
    client.upload(source, "a", callback=moved.append)
    assert client.filesystem.cat_file(client.url("a")) == CONTENT
    assert sum(moved) == len(CONTENT)
    if kind not in {"array", "mmap"} and hasattr(source, "read"):
        assert source.read(10) == b""


@pytest.mark.parametrize("kind", ["file", "unbuffered", "BytesIO", "NamedTemporaryFile", "gzip"])
def test_from_position(client: FsspecStorageClient, path: Path, kind: str) -> None:
    """A file object is read from its current position."""
    with opened(SOURCES[kind], path) as source:
        source.read(1000)
        client.upload(source, "a")
    assert client.filesystem.cat_file(client.url("a")) == CONTENT[1000:]


def test_pipe(client: FsspecStorageClient) -> None:
    """The read end of a pipe is a source."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"through a pipe")
    os.close(write_end)
    with os.fdopen(read_end, "rb") as file:
        client.upload(file, "a")
    assert client.filesystem.cat_file(client.url("a")) == b"through a pipe"


def test_unflushed(client: FsspecStorageClient, tmp_path: Path) -> None:
    """Bytes that a file object has not written to the disk are part of the content."""
    with (tmp_path / "new").open("w+b") as file:
        file.write(b"not on the disk")
        file.seek(0)
        file.write(b"NOT")
        file.seek(0)
        client.upload(file, "a")
    assert client.filesystem.cat_file(client.url("a")) == b"NOT on the disk"


def test_own_object(client: FsspecStorageClient) -> None:
    """An open object of a store is a source."""
    client.upload(CONTENT, "a")
    with client.open("a") as file:
        client.upload(file, "b")
    assert client.filesystem.cat_file(client.url("b")) == CONTENT


def test_exclusive(client: FsspecStorageClient) -> None:
    """`check_conflict` holds for every kind of source."""
    client.upload(Pipe(b"first"), "a", check_conflict=True)
    for source in (b"second", Pipe(b"second"), io.BytesIO(b"second")):
        with pytest.raises(FileExistsError):
            client.upload(source, "a", check_conflict=True)
    assert client.filesystem.cat_file(client.url("a")) == b"first"


REFUSED: dict[str, Callable[[Path], Any]] = {
    "text file": lambda path: path.open(encoding="latin-1"),
    "StringIO": lambda _: io.StringIO("text"),
    "None": lambda _: None,
    "int": lambda _: 5,
    "list": lambda _: [b"a"],
    "dict": lambda _: {},
    "read of text": lambda _: Texts(),
}


class Texts:
    """A file object that is not an `io.TextIOBase`, and gives text."""

    def read(self, _: int = -1) -> str:
        return "text"


@pytest.mark.parametrize("kind", REFUSED)
def test_refused(client: FsspecStorageClient, path: Path, kind: str) -> None:
    """Everything else is a TypeError, and nothing is stored."""
    with opened(REFUSED[kind], path) as source, pytest.raises(TypeError, match=r"binary|buffer"):
        client.upload(source, "a")
    assert not client.file_exists("a")


@pytest.mark.parametrize(
    "source", [b"content", bytearray(b"c"), io.BytesIO(b"c"), 5, None], ids=lambda each: type(each).__name__
)
def test_upload_file_refuses(client: FsspecStorageClient, source: Any) -> None:
    """`upload_file` takes paths alone, and names the method that takes the rest; so do the verbs with a progress."""
    with pytest.raises(TypeError, match="`upload` takes bytes"):
        client.upload_file(source, "a")
    with pytest.raises(TypeError, match="`upload` takes bytes"):
        client.upload_with_progress(source, "a", None)
    with pytest.raises(TypeError, match="local path"):
        client.download_file("a", source)


@pytest.mark.parametrize("kind", ["PurePath", "PathLike", "PathLike-bytes"])
def test_upload_file_paths(client: FsspecStorageClient, path: Path, kind: str) -> None:
    """`upload_file` and `download_file` take every path object."""
    client.upload_file(SOURCES[kind](path), "a")
    target = SOURCES[kind](path.with_name("copy"))
    assert client.download_file("a", target) == path.with_name("copy")
    assert path.with_name("copy").read_bytes() == CONTENT


class Broken:
    """A file object whose second read fails."""

    def __init__(self, second: Any) -> None:
        self._second = second
        self._reads = 0

    def read(self, _: int = -1) -> bytes | None:
        self._reads += 1
        if self._reads == 1:
            return b"first"
        if isinstance(self._second, BaseException):
            raise self._second
        return None


@pytest.mark.parametrize("second", [OSError(5, "Input/output error"), None], ids=["OSError", "no-data"])
def test_broken_source(client: FsspecStorageClient, second: Any) -> None:
    """A file object that cannot be read to its end is a StorageError, and nothing is stored."""
    with pytest.raises(StorageError):
        client.upload(Broken(second), "a")
    assert not client.file_exists("a")


def test_wrong_properties() -> None:
    """Properties of another type, and unknown ones, are a TypeError that says what is meant."""
    client: Any = get_storage_client("memory", {"bucket_name": "models"})
    with pytest.raises(TypeError, match="ObjectProperties, not dict"):
        client.upload(b"x", "a", properties={"content_type": "text/plain"})
    with pytest.raises(TypeError, match="'content_typ'; did you mean 'content_type'"):
        client.upload(b"x", "a", content_typ="text/plain")
    assert not client.file_exists("a")
