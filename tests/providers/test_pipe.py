"""`pipe_file` stores bytes as an object without a temporary file, on every store."""

from __future__ import annotations

import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gllm_storage.errors import ErrorDetails, ObjectExistsError
from gllm_storage.files.source import MemorySource
from gllm_storage.files.spool import Spool
from tests.conftest import make_rig
from tests.promises.faulty import content_of
from tests.rig import MIB, SMALL_PARTS

if TYPE_CHECKING:
    from tests.rig import Rig

STORES = ["ceph", "moto", "azurite", "gcs-fake"]


@pytest.fixture(params=STORES)
def bucket_rig(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider with buckets, and one in this process."""
    return make_rig(request.param, request)


@pytest.fixture
def _no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(Spool, "_fd", refuse)


@pytest.mark.usefixtures("_no_files")
@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * MIB, 11 * MIB + 1])
@pytest.mark.parametrize("mode", ["overwrite", "create"])
def test_pipe_of_any_size(size: int, mode: str, bucket_rig: Rig) -> None:
    """`pipe_file` stores bytes of any size without a temporary file."""
    content = content_of(size)
    client = bucket_rig.client(**SMALL_PARTS)
    client.filesystem.pipe_file(client.url("a"), content, mode=mode)
    assert bucket_rig.second.get(bucket_rig.key("a")) == content
    assert bucket_rig.open_uploads() == []


@pytest.mark.usefixtures("_no_files")
def test_small_write(bucket_rig: Rig) -> None:
    """A small file is written without a temporary file."""
    with bucket_rig.client().open("a", "wb") as file:
        file.write(b"some")
        file.write(b" bytes")
    assert bucket_rig.second.get(bucket_rig.key("a")) == b"some bytes"


def test_create_existing(bucket_rig: Rig) -> None:
    """Mode `create` is refused for an existing object, which keeps its content."""
    client = bucket_rig.client()
    bucket_rig.second.put(bucket_rig.key("a"), b"theirs")
    with pytest.raises(ObjectExistsError):
        client.filesystem.pipe_file(client.url("a"), b"ours", mode="create")
    assert bucket_rig.second.get(bucket_rig.key("a")) == b"theirs"


BUFFERS = {
    "bytearray": bytearray(b"some bytes"),
    "memoryview": memoryview(b"xsome bytesx")[1:-1],
    "array": array.array("d", [1.0, 2.0]),
    "numpy": np.arange(6, dtype=">i4").reshape(2, 3),
    "structured": np.zeros(3, dtype=[("a", "i4"), ("b", "f8")]),
    "empty": np.empty((0, 3)),
    "scalar": np.float64(1.5),
}


@pytest.mark.parametrize("name", BUFFERS)
@pytest.mark.parametrize("how", ["pipe", "write"])
def test_buffers(name: str, how: str, bucket_rig: Rig) -> None:
    """The bytes of any contiguous buffer are stored."""
    buffer: Any = BUFFERS[name]
    client = bucket_rig.client()
    if how == "pipe":
        client.filesystem.pipe_file(client.url("a"), buffer)
    else:
        with client.open("a", "wb") as file:
            assert file.write(buffer) == memoryview(buffer).nbytes
            assert file.tell() == memoryview(buffer).nbytes
    assert bucket_rig.second.get(bucket_rig.key("a")) == memoryview(buffer).tobytes()


@pytest.mark.parametrize(
    ("value", "error"), [("text", TypeError), (np.zeros((4, 4))[:, 1], BufferError)], ids=["str", "gaps"]
)
def test_invalid_buffer(value: Any, error: type[Exception], bucket_rig: Rig) -> None:
    """A value that is not a contiguous buffer is refused, and nothing is stored."""
    client = bucket_rig.client()
    with pytest.raises(error):
        client.filesystem.pipe_file(client.url("a"), value)
    with pytest.raises(error), client.open("a", "wb") as file:
        file.write(value)
    assert bucket_rig.keys() == []


def test_pipe_in_transaction(bucket_rig: Rig) -> None:
    """`pipe_file` in a transaction stores the object at the end of the transaction."""
    client = bucket_rig.client()
    with client.filesystem.transaction:
        client.filesystem.pipe_file(client.url("a"), b"some")
        assert bucket_rig.keys() == []
    assert bucket_rig.keys() == ["a"]


def test_pipe_compressed(bucket_rig: Rig) -> None:
    """`pipe_file` compresses the content, as `open` does."""
    client = bucket_rig.client()
    client.filesystem.pipe_file(client.url("a.gz"), b"some", compression="gzip")
    with client.filesystem.open(client.url("a.gz"), compression="gzip") as file:
        assert file.read() == b"some"


@pytest.mark.parametrize("data", [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789")], ids=type)
def test_memory_source(data: Any) -> None:
    """A source in memory returns the bytes at an offset, as a source file does."""
    source = MemorySource(data, ErrorDetails("fake", "fake://a", "upload"))
    assert source.size == 10
    assert source.read_at(0, 10) == b"0123456789"
    assert source.read_at(3, 4) == b"3456"
    assert bytes(source.view_at(3, 4)) == b"3456"
    source.require_unchanged()
    assert "fake://a" in str(source.changed())


def test_memory_source_uncopied() -> None:
    """A source in memory returns all of its bytes without a copy."""
    content = content_of(100)
    assert MemorySource(content, ErrorDetails()).read_at(0, 100) is content
