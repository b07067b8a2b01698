"""`pipe_file`: bytes that become an object without a file between, on every store."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from gllm_storage.errors import ErrorDetails, ObjectExistsError
from gllm_storage.files import spool
from gllm_storage.files.source import MemorySource
from tests.conftest import make_rig
from tests.promises.s3.faulty import content_of
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

    monkeypatch.setattr(spool, "tempfile", SimpleNamespace(TemporaryFile=refuse))


@pytest.mark.usefixtures("_no_files")
@pytest.mark.parametrize("size", [0, 1, 100_000, 5 * MIB, 11 * MIB + 1])
@pytest.mark.parametrize("mode", ["overwrite", "create"])
def test_bytes_of_any_size_are_stored_without_a_temporary_file(size: int, mode: str, bucket_rig: Rig) -> None:
    content = content_of(size)
    client = bucket_rig.client(**SMALL_PARTS)
    client.filesystem.pipe_file(client.url("a"), content, mode=mode)
    assert bucket_rig.second.get(bucket_rig.key("a")) == content
    assert bucket_rig.open_uploads() == []


@pytest.mark.usefixtures("_no_files")
def test_a_small_file_is_written_without_a_temporary_file(bucket_rig: Rig) -> None:
    with bucket_rig.client().open("a", "wb") as file:
        file.write(b"some")
        file.write(b" bytes")
    assert bucket_rig.second.get(bucket_rig.key("a")) == b"some bytes"


def test_a_create_of_what_is_there_is_refused_and_sends_nothing(bucket_rig: Rig) -> None:
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
def test_the_bytes_of_any_buffer_are_stored(name: str, how: str, bucket_rig: Rig) -> None:
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
def test_what_is_no_buffer_in_one_piece_is_refused(value: Any, error: type[Exception], bucket_rig: Rig) -> None:
    client = bucket_rig.client()
    with pytest.raises(error):
        client.filesystem.pipe_file(client.url("a"), value)
    with pytest.raises(error), client.open("a", "wb") as file:
        file.write(value)
    assert bucket_rig.keys() == []


def test_what_is_piped_within_a_transaction_is_stored_at_its_end(bucket_rig: Rig) -> None:
    client = bucket_rig.client()
    with client.filesystem.transaction:
        client.filesystem.pipe_file(client.url("a"), b"some")
        assert bucket_rig.keys() == []
    assert bucket_rig.keys() == ["a"]


def test_what_is_piped_can_be_compressed_as_what_is_written(bucket_rig: Rig) -> None:
    client = bucket_rig.client()
    client.filesystem.pipe_file(client.url("a.gz"), b"some", compression="gzip")
    with client.filesystem.open(client.url("a.gz"), compression="gzip") as file:
        assert file.read() == b"some"


@pytest.mark.parametrize("data", [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789")], ids=type)
def test_a_source_in_memory_reads_as_a_file_does(data: Any) -> None:
    source = MemorySource(data, ErrorDetails("fake", "fake://a", "upload"))
    assert source.size == 10
    assert source.read_at(0, 10) == b"0123456789"
    assert source.read_at(3, 4) == b"3456"
    assert bytes(source.view_at(3, 4)) == b"3456"
    source.require_unchanged()
    assert "fake://a" in str(source.changed())


def test_bytes_in_memory_are_not_copied() -> None:
    content = content_of(100)
    assert MemorySource(content, ErrorDetails()).read_at(0, 100) is content
