"""Files that are open for reading, and slices, on real servers: their content, and their cost in requests."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
from typing import TYPE_CHECKING, Any

import fsspec.caching
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from safetensors.numpy import save

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.errors import ObjectNotFoundError, StorageError
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.testing.faults import Answer, Delay, DropResponse, FlipBit, TruncateBody
from tests.conftest import make_rig
from tests.promises.faulty import CEPH, CLOUDS, MINISTACK, NAME, Faulty, behind_proxy, no_waits
from tests.rig import MIB
from tests.threads import in_threads, read_in
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers
    from tests.rig import Rig

KIB = 2**10
SIZE = 7 * MIB + 12_345
CONTENT = random.Random(0).randbytes(SIZE)
STORES = ["moto", "ministack", "ministack-tls", "ceph", "rclone", "azurite", "gcs-fake", "fake-gcs-server"]


@pytest.fixture(params=STORES)
def bucket_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store with buckets."""
    return make_rig(request.param, request)


@pytest.fixture(params=CLOUDS, ids=str)
def faulty(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """Stores behind a proxy that counts requests."""
    no_waits(monkeypatch)
    with behind_proxy(request.param, servers) as each:
        yield each


@pytest.fixture(autouse=True)
def _nothing_is_held() -> Iterator[None]:
    yield
    eventually(lambda: not memory_budget().taken)  # requests may still be running when a file is closed


def client_of(faulty: Faulty, part_size: str = "5MiB") -> Any:
    return faulty.client(part_size=part_size, multipart_threshold=part_size)


def reads_of(faulty: Faulty) -> list[int]:
    """Return the number of bytes of each answer to a read so far."""
    return [entry.response_bytes for entry in faulty.sent(faulty.cloud.read)]


# ---- content


def test_file_as_in_memory(bucket_rig: Rig) -> None:
    """An open file reads and seeks as a file in memory does."""
    bucket_rig.second.put(bucket_rig.key("a"), CONTENT)
    chance, expected = random.Random(3), io.BytesIO(CONTENT)
    with bucket_rig.client(part_size="5MiB", max_concurrency="3").open("a", "rb") as file:
        for _ in range(40):
            size = chance.choice([-1, 10, 5000, 70_000, 900_000, 6 * MIB])
            offset = chance.choice([None, None, None, chance.randrange(SIZE), SIZE - 10])
            if offset is not None:
                assert file.seek(offset) == expected.seek(offset)
            assert file.read(size) == expected.read(size)
            assert file.readline() == expected.readline()
            target, other = bytearray(abs(size)), bytearray(abs(size))
            assert (file.readinto(target), target) == (expected.readinto(other), other)
            assert file.tell() == expected.tell()


def test_slices(bucket_rig: Rig) -> None:
    """A slice of an object equals the same slice of its bytes."""
    for name, content in (("a", CONTENT), ("empty", b"")):
        bucket_rig.second.put(bucket_rig.key(name), content)
    client = bucket_rig.client(part_size="5MiB")
    filesystem, bounds = client.filesystem, [None, 0, 7, 100_000, -1, -9000, SIZE - 1, SIZE, SIZE + 5, -SIZE - 5]
    slices = [(start, end) for start in bounds for end in bounds]
    for name, content in (("a", CONTENT), ("empty", b"")):
        path = client.url(name)
        found = filesystem.cat_ranges([path] * len(slices), [start for start, _ in slices], [end for _, end in slices])
        assert found == [content[start:end] for start, end in slices]
    for start, end in [*((100, end) for end in bounds), (SIZE, SIZE + 1), (SIZE + 1, SIZE + 3), (-9000, None), (6, 6 * MIB)]:
        assert filesystem.cat_file(client.url("a"), start, end) == CONTENT[start:end], (start, end)


SMALL = bytes(range(50))
ANYWHERE = [None, 0, 3, 49, 50, 51, 1000, -1, -50, -51, -1000]


@pytest.fixture(params=[*STORES, "file", "memory"])
def any_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store."""
    return make_rig(request.param, request)


def test_small_slices(any_rig: Rig) -> None:
    """All slices of a small object and of an empty one equal those of bytes, whichever method reads them."""
    client = any_rig.client()
    filesystem = client.filesystem
    slices = [(start, end) for start in ANYWHERE for end in ANYWHERE]
    for name, content in (("a", SMALL), ("empty", b"")):
        path = client.url(name)
        filesystem.pipe_file(path, content)
        starts, ends = [start for start, _ in slices], [end for _, end in slices]
        expected = [content[start:end] for start, end in slices]
        assert filesystem.cat_ranges([path] * len(slices), starts, ends) == expected
        few = slices if any_rig.name in {"file", "memory", "gcs-fake"} else slices[::7]  # servers take a while
        for start, end in few:
            assert filesystem.cat_file(path, start, end) == content[start:end], (start, end)
            assert filesystem.read_bytes(path, start, end) == content[start:end], (start, end)
            assert filesystem.cat([path], start=start, end=end) == {filesystem._strip_protocol(path): content[start:end]}
        for offset, length in ((0, 10), (49, 10), (50, 10), (60, 10), (10, 0)):
            assert filesystem.read_block(path, offset, length) == content[offset : offset + length]


_OF_GZIP: dict[str, dict[str, Any]] = {
    "s3": {"ContentEncoding": "gzip"},
    "gcs": {"content_encoding": "gzip"},
    "azure": {"content_settings": {"content_encoding": "gzip"}},
}


def test_gzip_encoded(bucket_rig: Rig, tmp_path: Path) -> None:
    """Reads, slices and downloads of an object with ``Content-Encoding: gzip`` return the stored bytes."""
    client = bucket_rig.client()
    filesystem, path = client.filesystem, client.url("a")
    stored = gzip.compress(random.Random(1).randbytes(50_000) + bytes(50_000))
    filesystem.pipe_file(path, stored, **_OF_GZIP[bucket_rig.provider])
    assert filesystem.cat_file(path) == stored
    assert client.download_file("a", tmp_path / "a").read_bytes() == stored
    for start, end in ((0, 10), (1000, 2000), (-10, None), (None, -10), (len(stored), None)):
        assert filesystem.cat_file(path, start, end) == stored[start:end]
    assert filesystem.cat_ranges([path] * 2, [0, 30_000], [10, 30_010]) == [stored[:10], stored[30_000:30_010]]
    with client.open("a", "rb") as file:
        assert file.seek(100) == 100
        assert file.read(10) == stored[100:110]
        file.seek(0)
        assert file.read() == stored
    with filesystem.open(path, "rb", compression="gzip") as file:
        assert file.read() == gzip.decompress(stored)


def test_pickled_file(faulty: Faulty) -> None:
    """A pickled file reads on in the same version of the object, and unpickling sends no request."""
    faulty.put(CONTENT)
    with client_of(faulty).open(NAME, "rb", block_size=MIB) as file:
        file.read(1000)
        sent = len(faulty.proxy.requests)
        with pickle.loads(pickle.dumps(file)) as again:
            assert again.tell() == 1000
            assert len(faulty.proxy.requests) == sent
            assert again.read(5000) == CONTENT[1000:6000]
            faulty.put(CONTENT[::-1])
            with pytest.raises((OSError, StorageError), match=r"replaced|Etag"):
                again.read()
        assert file.tell() == 1000


def test_s3fs_defaults(request: pytest.FixtureRequest) -> None:
    """The filesystem uses a cache of fsspec only if the caller chose it; the default of s3fs does not count."""
    rig = make_rig("moto", request)
    rig.second.put(rig.key("a"), CONTENT)
    url = rig.client().url("a")
    cache = fsspec.caching.ReadAheadCache
    for options, is_ours in (({}, True), ({"default_cache_type": "readahead"}, False), ({"default_block_size": 1000}, True)):
        filesystem = S3FileSystem(**options)
        with filesystem.open(url, "rb") as file:
            assert isinstance(file, s3fs.S3File)
            assert isinstance(file.cache, cache) is not is_ours
            assert file.blocksize == options.get("default_block_size", s3fs.S3FileSystem.default_block_size)
            assert file.info()["size"] == file.details["size"] == SIZE
            assert file.read(10) == CONTENT[:10]


# ---- cost in requests


def test_sequential_read(faulty: Faulty) -> None:
    """A sequential read sends few requests and receives each byte once."""
    faulty.put(CONTENT * 3)
    with client_of(faulty).open(NAME, "rb") as file:
        assert b"".join(iter(lambda: file.read(MIB), b"")) == CONTENT * 3
    assert sum(reads_of(faulty)) == 3 * SIZE
    assert len(reads_of(faulty)) <= 16


def test_random_reads(faulty: Faulty) -> None:
    """Random reads send at most one request each and receive no more than the requested bytes."""
    faulty.put(CONTENT)
    chance = random.Random(0)
    with client_of(faulty).open(NAME, "rb") as file:
        for _ in range(60):
            offset = chance.randrange(SIZE - 64 * KIB)
            file.seek(offset)
            assert file.read(64 * KIB) == CONTENT[offset : offset + 64 * KIB]
    assert len(reads_of(faulty)) <= 60
    assert sum(reads_of(faulty)) <= 60 * 64 * KIB


def test_one_tensor(faulty: Faulty) -> None:
    """The header and one tensor of a safetensors file cost two requests."""
    import numpy as np

    tensors = {f"layer.{number}": np.full((100_000,), number, dtype=np.float32) for number in range(20)}
    faulty.put(save(tensors))
    with client_of(faulty).open(NAME, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        start, end = header["layer.7"]["data_offsets"]
        file.seek(8 + length + start)
        assert np.array_equal(np.frombuffer(file.read(end - start), dtype=np.float32), tensors["layer.7"])
    assert len(reads_of(faulty)) == 2
    assert sum(reads_of(faulty)) == 128 * KIB + 400_000


def test_one_parquet_column(faulty: Faulty) -> None:
    """One column of a Parquet file is read without the others."""
    chance = random.Random(0)
    columns = {f"c{number}": [chance.random() for _ in range(60_000)] for number in range(10)}
    stored = io.BytesIO()
    pq.write_table(pa.table(columns), stored, row_group_size=20_000)
    faulty.put(stored.getvalue())
    client = client_of(faulty)
    with client.open(NAME, "rb") as file:
        found = pq.read_table(file, columns=["c4"], pre_buffer=False)
    assert found.column("c4").to_pylist() == columns["c4"]
    size = len(stored.getvalue())
    assert sum(reads_of(faulty)) <= 128 * KIB + 2 * size / 10
    before = sum(reads_of(faulty))
    frame = pd.read_parquet(client.url(NAME), columns=["c4"], filesystem=client.filesystem)
    assert list(frame["c4"]) == columns["c4"]
    assert sum(reads_of(faulty)) - before <= 2 * 128 * KIB + 2 * size / 10


# ---- faults


BROKEN = [TruncateBody(1000), TruncateBody(0, reset=True), DropResponse(), Answer(503, "SlowDown")]


@pytest.mark.parametrize("action", BROKEN, ids=str)
def test_passing_fault(faulty: Faulty, action: Any) -> None:
    """A passing fault during read-ahead does not reach the caller."""
    faulty.put(CONTENT)
    faulty.inject(faulty.cloud.read, action, skip=2, times=2)
    with client_of(faulty).open(NAME, "rb") as file:
        assert b"".join(iter(lambda: file.read(MIB), b"")) == CONTENT


def test_lasting_fault(faulty: Faulty) -> None:
    """A lasting fault is raised by the read that needs the missing bytes, and reading can continue afterwards."""
    faulty.put(CONTENT)
    faulty.inject(faulty.cloud.read, DropResponse(), skip=2, times=None)
    read = bytearray()
    with client_of(faulty).open(NAME, "rb") as file:
        with pytest.raises(StorageError) as caught:
            read_on(file, MIB, read)
        assert caught.value.operation == "read"
        assert read == CONTENT[: len(read)]
        assert len(read) == file.tell() == 2 * MIB
        faulty.proxy.clear()
        assert file.read() == CONTENT[2 * MIB :]


def read_on(file: Any, size: int, read: bytearray) -> None:
    while piece := file.read(size):
        read += piece


@pytest.mark.parametrize("size", [10_000, MIB, -1])
def test_replaced_object(faulty: Faulty, size: int) -> None:
    """An object that is replaced during read-ahead is an error, and never a mix of two versions."""
    faulty.put(CONTENT)
    with client_of(faulty).open(NAME, "rb") as file:
        read = bytearray().join(file.read(100_000) for _ in range(5))
        faulty.put(CONTENT[::-1])
        with pytest.raises((OSError, StorageError), match=r"replaced|Etag"):
            read_on(file, size, read)
        assert CONTENT.startswith(read)


def test_deleted_object(faulty: Faulty) -> None:
    """An object that is deleted while it is open raises FileNotFoundError."""
    faulty.put(CONTENT)
    client = client_of(faulty)
    with client.open(NAME, "rb") as file:
        file.read(10)
        assert client.delete_file(NAME)
        with pytest.raises(FileNotFoundError):
            file.read()


@pytest.mark.parametrize("size", [1000, 4 * MIB])
def test_requests_of_download(faulty: Faulty, size: int, tmp_path: Path) -> None:
    """A download of an object that is not larger than a part is one request, on each cloud."""
    faulty.put_with_checksum(CONTENT[:size])
    client = client_of(faulty)
    faulty.proxy.clear()
    client.download_file(NAME, tmp_path / "local")
    assert (tmp_path / "local").read_bytes() == CONTENT[:size]
    assert [entry.operation for entry in faulty.proxy.requests] == [faulty.cloud.read]


@pytest.mark.parametrize("verb", ["cat_file", "slice", "download", "open"])
def test_missing_object(faulty: Faulty, verb: str, tmp_path: Path) -> None:
    """A missing object costs one request, whose answer says so; with both engines."""

    def call(client: FsspecStorageClient) -> object:
        if verb == "download":
            return client.download_file(NAME, tmp_path / "local")
        if verb == "open":
            return client.open(NAME, "rb")
        return client.filesystem.cat_file(client.url(NAME), *((0, 10) if verb == "slice" else ()))

    engines: list[dict[str, str]] = [{"engine": "auto"}, {"engine": "boto3"}] if faulty.cloud.provider == "s3" else [{}]
    for engine in engines:
        client = faulty.client(**engine)
        with pytest.raises(ObjectNotFoundError):
            client.open(NAME, "rb")  # after which the bucket is known
        faulty.proxy.clear()
        with pytest.raises(ObjectNotFoundError):
            call(client)
        assert len(faulty.proxy.requests) == 1


@pytest.mark.parametrize("method", ["read", "readinto", "readline"])
def test_threads_seek(faulty: Faulty, method: str) -> None:
    """Threads that share a file on a slow store, and seek before each read, get the bytes of their own positions."""
    faulty.put(CONTENT)
    faulty.inject(faulty.cloud.read, Delay(0.01), times=None)
    with client_of(faulty).open(NAME, "rb") as file:

        def work(number: int) -> None:
            chance = random.Random(number)
            for _ in range(5):
                start = chance.randrange(SIZE)
                found, expected = read_in(file, method, start, chance.choice([10, 100_000]), CONTENT)
                assert found == expected

        in_threads(8, work)


def test_duckdb(faulty: Faulty) -> None:
    """DuckDB, whose threads share a file, counts and adds all rows of a Parquet file on a slow store."""
    import duckdb

    rows = 100_000
    stored = io.BytesIO()
    pq.write_table(
        pa.table({f"c{column}": range(column, rows + column) for column in range(4)}), stored, row_group_size=5000
    )
    faulty.put(stored.getvalue())
    faulty.inject(faulty.cloud.read, Delay(0.005), times=None)
    client = client_of(faulty)
    con = duckdb.connect(config={"threads": 8})
    con.register_filesystem(client.filesystem)
    for _ in range(3):
        url = client.url(NAME)
        found = con.execute("select count(*), sum(c0), sum(c3), count(c1) from read_parquet(?)", [url]).fetchall()
        total = rows * (rows - 1) // 2
        assert found == [(rows, total, total + 3 * rows, rows)]


# ---- slices on S3, by one request


@pytest.fixture(params=[CEPH, MINISTACK], ids=str)
def s3_faulty(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """S3 servers behind a proxy."""
    no_waits(monkeypatch)
    with behind_proxy(request.param, servers) as faulty:
        yield faulty


@pytest.mark.parametrize(
    ("start", "end"), [(0, 10), (5000, 100_000), (SIZE - 10, SIZE + 10), (SIZE + 1, SIZE + 5), (-404, None)]
)
def test_one_slice(s3_faulty: Faulty, start: int, end: int | None) -> None:
    """A slice costs one request."""
    s3_faulty.put(CONTENT)
    client = s3_faulty.client()
    assert client.filesystem.cat_file(client.url(NAME), start, end) == CONTENT[start:end]
    assert [entry.operation for entry in s3_faulty.proxy.requests] == ["GetObject"]
    assert client.filesystem.cat_ranges([client.url(NAME)], [start], [end]) == [CONTENT[start:end]]
    assert [entry.operation for entry in s3_faulty.proxy.requests] == ["GetObject"] * 2


def test_nearby_slices(s3_faulty: Faulty) -> None:
    """Slices that are near each other cost one request."""
    s3_faulty.put(CONTENT)
    client = s3_faulty.client()
    starts = [number * 20_000 for number in range(10)]
    found = client.filesystem.cat_ranges([client.url(NAME)] * 10, starts, [start + 100 for start in starts])
    assert found == [CONTENT[start : start + 100] for start in starts]
    assert [entry.operation for entry in s3_faulty.proxy.requests] == ["GetObject"]


def test_slice_of_missing_object(s3_faulty: Faulty) -> None:
    """A slice of a missing object is an ObjectNotFoundError."""
    client = s3_faulty.client()
    with pytest.raises(ObjectNotFoundError):
        client.filesystem.cat_file(client.url(NAME), 0, 10)
    (found,) = client.filesystem.cat_ranges([client.url(NAME)], 0, 10)
    assert isinstance(found, ObjectNotFoundError)


@pytest.mark.parametrize(
    "action", [TruncateBody(1000), TruncateBody(0, reset=True), DropResponse(), CEPH.answer(503)], ids=str
)
def test_passing_fault_in_slice(s3_faulty: Faulty, action: Any) -> None:
    """A passing fault during the read of a slice does not reach the caller."""
    s3_faulty.put(CONTENT)
    s3_faulty.inject("GetObject", action, times=3)
    client = s3_faulty.client()
    assert client.filesystem.cat_file(client.url(NAME), 10, 50_000) == CONTENT[10:50_000]


def test_wrong_answer_to_slice(s3_faulty: Faulty) -> None:
    """An answer without the requested range is discarded, and the slice is read again."""
    s3_faulty.put(CONTENT)
    client = s3_faulty.client()
    etag = ("ETag", f'"{client.info(NAME).etag}"')
    for header in (
        (),
        (("Content-Range", f"bytes 0-9/{SIZE}"),),
        (("Content-Range", "bytes 10-19/12"),),
        (("Content-Range", "x"),),
    ):
        s3_faulty.inject("GetObject", Answer(206, body=b"0123456789", headers=(etag, *header)))
        assert client.filesystem.cat_file(client.url(NAME), 10, 20) == CONTENT[10:20]


def test_flipped_bit_in_slice(s3_faulty: Faulty) -> None:
    """A flipped bit in a slice is not detected, because stores have no checksums of ranges."""
    s3_faulty.put(CONTENT)
    s3_faulty.inject("GetObject", FlipBit(at=5))
    client = s3_faulty.client()
    assert client.filesystem.cat_file(client.url(NAME), 10, 20) != CONTENT[10:20]
