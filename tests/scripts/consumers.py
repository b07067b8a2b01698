"""Count the requests that libraries send through the filesystem: python -m tests.scripts.consumers.

Each consumer reads or writes on Ceph, by its own API, through a proxy that logs all requests and delays each answer. The
table has the number of requests, the longest chain of requests of which each began after the one before had ended, and the
bytes of the answers' bodies, or of the requests' bodies where that is more. Without a delay, concurrent requests to a fast
server may not overlap, and would count as serial; on a busy machine, a long delay such as 300 ms shows the chain.

torch, dask, zarr and duckdb are not in the extra ``test``: a consumer whose library is missing is left out.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import json
import os
import pickle
import random
import struct
import sys
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
from safetensors.numpy import save

from gllm_storage import register_filesystems
from gllm_storage.testing.faults import Delay, Fault, FaultProxy, Match, RequestLog
from tests.servers.ceph import ceph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BUCKET = "consumers"
ROOT = f"s3://{BUCKET}"
TENSORS = 50
TENSOR = 2**20  # float32: 4 MiB
_MB = 10**6


def longest_chain(requests: Sequence[RequestLog]) -> int:
    """The most requests of which each began after the one before had ended."""
    chain, end = 0, float("-inf")
    for each in sorted(requests, key=lambda each: each.ended or each.began):
        if each.began >= end:
            chain, end = chain + 1, each.ended or each.began
    return chain


@dataclass(frozen=True)
class Cost:
    """What a consumer cost."""

    requests: int
    serial: int
    megabytes: float
    operations: str

    @classmethod
    def of(cls, requests: Sequence[RequestLog]) -> Cost:
        """The cost of these requests."""
        count: dict[str, int] = {}
        for each in requests:
            count[each.operation] = count.get(each.operation, 0) + 1
        size = max(sum(each.response_bytes for each in requests), sum(each.body_bytes for each in requests))
        shown = ", ".join(f"{number} {name}" for name, number in count.items())
        return cls(len(requests), longest_chain(requests), size / _MB, shown)

    def __str__(self) -> str:
        return f"{self.requests} | {self.serial} | {self.megabytes:.1f} | {self.operations}"


# ---- consumers: each has a function that makes its objects, without the proxy, and one that is measured


def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def _tensors() -> Any:
    import torch

    return {f"layer.{number}.weight": torch.randn(TENSOR) for number in range(TENSORS)}


def _make_checkpoint(put: Callable[[str, bytes], object]) -> None:
    import torch

    file = io.BytesIO()
    torch.save(_tensors(), file)
    put("model.pt", file.getvalue())


def _torch_load() -> None:
    import torch

    with fsspec.open(f"{ROOT}/model.pt", "rb") as file:
        assert len(torch.load(file)) == TENSORS


def _torch_save() -> None:
    import torch

    with fsspec.open(f"{ROOT}/saved.pt", "wb") as file:
        torch.save(_tensors(), file)


def _make_distributed(put: Callable[[str, bytes], object]) -> None:
    import torch.distributed.checkpoint as dcp

    with tempfile.TemporaryDirectory() as folder:
        dcp.save(_tensors(), checkpoint_id=folder, no_dist=True)
        for each in Path(folder).iterdir():
            put(f"ck/{each.name}", each.read_bytes())


def _distributed_load(names: Callable[[int], bool] = lambda _: True) -> None:
    import torch
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    wanted = {f"layer.{number}.weight": torch.zeros(TENSOR) for number in range(TENSORS) if names(number)}
    dcp.load(wanted, storage_reader=FsspecReader(f"{ROOT}/ck"), no_dist=True)
    assert all(each.any() for each in wanted.values())


def _distributed_part() -> None:
    _distributed_load(lambda number: number % 5 == 0)


def _distributed_save() -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    writer = FsspecWriter(f"{ROOT}/ck-saved", sync_files=False)
    dcp.save(_tensors(), storage_writer=writer, no_dist=True)


def _table(rows: int) -> pa.Table:
    chance = np.random.default_rng(rows)
    return pa.table({f"c{number}": chance.random(rows) for number in range(9)})


def _make_parquet(put: Callable[[str, bytes], object]) -> None:
    for name, rows in (("data.parquet", 450_000), *((f"parts/{number}.parquet", 20_000) for number in range(4))):
        file = io.BytesIO()
        pq.write_table(_table(rows), file, row_group_size=150_000)
        put(name, file.getvalue())


def _pandas_columns() -> None:
    assert len(pd.read_parquet(f"{ROOT}/data.parquet", columns=["c2", "c5"], storage_options={})) == 450_000


def _arrow_columns() -> None:
    with fsspec.open(f"{ROOT}/data.parquet", "rb") as file:
        assert len(pq.read_table(file, columns=["c2", "c5"])) == 450_000


def _pandas_folder() -> None:
    assert len(pd.read_parquet(f"{ROOT}/parts", storage_options={})) == 80_000


def _dask_folder() -> None:
    import dask.dataframe as dd

    assert len(dd.read_parquet(f"{ROOT}/parts", storage_options={}).compute()) == 80_000


def _duckdb() -> None:
    import duckdb

    con = duckdb.connect()
    con.register_filesystem(fsspec.filesystem("s3"))
    found = con.execute(f"select avg(c3), count(*) from '{ROOT}/data.parquet'").fetchall()  # noqa: S608 - no input
    assert found[0][1] == 450_000


def _make_csv(put: Callable[[str, bytes], object]) -> None:
    table = _table(50_000).to_pandas()
    text = table.to_csv(index=False).encode()
    put("data.csv", text)
    put("data.csv.gz", gzip.compress(text, 1))


def _csv() -> None:
    assert len(pd.read_csv(f"{ROOT}/data.csv", storage_options={})) == 50_000


def _csv_head() -> None:
    assert len(pd.read_csv(f"{ROOT}/data.csv", nrows=10, storage_options={})) == 10


def _gzip() -> None:
    with fsspec.open(f"{ROOT}/data.csv.gz", "rb", compression="gzip") as file:
        assert sum(1 for _ in file) == 50_001


def _make_arrays(put: Callable[[str, bytes], object]) -> None:
    arrays = {f"a{number}": np.random.default_rng(number).random(2**18) for number in range(10)}
    archive, array = io.BytesIO(), io.BytesIO()
    np.savez(archive, allow_pickle=False, **arrays)
    np.save(array, arrays["a1"])
    put("a.npz", archive.getvalue())
    put("a.npy", array.getvalue())
    put("a.pickle", pickle.dumps(arrays))
    put("a.safetensors", save(arrays))


def _npz() -> None:
    with fsspec.open(f"{ROOT}/a.npz", "rb") as file, np.load(file) as found:
        assert sum(len(found[name]) for name in found) == 10 * 2**18


def _npy() -> None:
    with fsspec.open(f"{ROOT}/a.npy", "rb") as file:
        assert len(np.load(file)) == 2**18


def _pickle() -> None:
    with fsspec.open(f"{ROOT}/a.pickle", "rb") as file:
        assert len(pickle.load(file)) == 10


def _safetensors(names: Sequence[int]) -> None:
    with fsspec.open(f"{ROOT}/a.safetensors", "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name in names:
            start, end = header[f"a{name}"]["data_offsets"]
            file.seek(8 + length + start)
            assert len(file.read(end - start)) == end - start


def _read_block() -> None:
    fs, position = fsspec.filesystem("s3"), 0
    for _ in range(10):
        found = fs.read_block(f"{ROOT}/data.csv", position, 500_000, b"\n")
        assert found.endswith(b"\n")
        position += 500_000


def _zarr() -> None:
    import zarr

    array = zarr.create_array(f"{ROOT}/z", shape=(1000, 1000), chunks=(250, 250), dtype="f8", overwrite=True)
    array[:] = 1
    assert np.sum(np.asarray(zarr.open_array(f"{ROOT}/z", mode="r")[:])) == 1000 * 1000


def _make_nothing(_: Callable[[str, bytes], object]) -> None:
    pass


def _sequential() -> None:
    with fsspec.open(f"{ROOT}/model.pt", "rb") as file:
        while file.read(2**20):
            pass


def _random_reads() -> None:
    chance = random.Random(1)
    with fsspec.open(f"{ROOT}/model.pt", "rb") as file:
        for _ in range(50):
            file.seek(chance.randrange(file.size - 2**20))
            file.read(2**20)


CONSUMERS: dict[str, tuple[str, Callable[[Callable[[str, bytes], object]], None], Callable[[], None]]] = {
    "torch.load, 210 MB": ("torch", _make_checkpoint, _torch_load),
    "torch.save, 210 MB": ("torch", _make_nothing, _torch_save),
    "distributed load, 210 MB": ("torch", _make_distributed, _distributed_load),
    "distributed load, 10 of 50": ("torch", _make_distributed, _distributed_part),
    "distributed save, 210 MB": ("torch", _make_nothing, _distributed_save),
    "sequential, 210 MB": ("torch", _make_checkpoint, _sequential),
    "50 random reads of 1 MiB": ("torch", _make_checkpoint, _random_reads),
    "pandas, 2 of 9 columns": ("pandas", _make_parquet, _pandas_columns),
    "arrow, 2 of 9 columns": ("pyarrow", _make_parquet, _arrow_columns),
    "pandas, folder of 4 files": ("pandas", _make_parquet, _pandas_folder),
    "dask, 4 files": ("dask", _make_parquet, _dask_folder),
    "duckdb, 1 of 9 columns": ("duckdb", _make_parquet, _duckdb),
    "pandas, CSV": ("pandas", _make_csv, _csv),
    "pandas, 10 rows of a CSV": ("pandas", _make_csv, _csv_head),
    "gzip, lines": ("gzip", _make_csv, _gzip),
    "read_block, 10 of 500 kB": ("fsspec", _make_csv, _read_block),
    "numpy, 10 arrays of an npz": ("numpy", _make_arrays, _npz),
    "numpy, npy": ("numpy", _make_arrays, _npy),
    "pickle, 21 MB": ("pickle", _make_arrays, _pickle),
    "safetensors, 1 of 10": ("safetensors", _make_arrays, lambda: _safetensors([7])),
    "safetensors, 10 of 10": ("safetensors", _make_arrays, lambda: _safetensors(range(10))),
    "zarr, write and read 16 chunks": ("zarr", _make_nothing, _zarr),
}


@contextmanager
def _environment(url: str, key: str, secret: str) -> Iterator[None]:
    given = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(given)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.scripts.consumers", description=__doc__.partition("\n")[0])
    parser.add_argument("consumers", nargs="*", help="parts of their names; all by default")
    parser.add_argument("--delay-ms", type=int, default=50, help="the delay of each answer")
    parser.add_argument("--s3fs", action="store_true", help="measure s3fs instead")
    parser.add_argument("--show", action="store_true", help="print each request")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    with tempfile.TemporaryDirectory() as folder, ceph(Path(folder)) as server, FaultProxy(server.endpoint_url) as proxy:
        direct = boto3.client(
            "s3",
            endpoint_url=server.endpoint_url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
        )
        direct.create_bucket(Bucket=BUCKET)
        if given.s3fs:
            fsspec.register_implementation("s3", s3fs.S3FileSystem, clobber=True)
        else:
            register_filesystems()
        print("| consumer | requests | in series | MB | requests by name |\n|---|---|---|---|---|")
        made: set[Any] = set()
        for name, (library, make, use) in CONSUMERS.items():
            is_wanted = not given.consumers or any(each in name for each in given.consumers)
            if not is_wanted or importlib.util.find_spec(library) is None:
                continue
            if make not in made:
                make(lambda key, content: direct.put_object(Bucket=BUCKET, Key=key, Body=content))
                made.add(make)
            with _environment(proxy.url, server.access_key, server.secret_key):
                requests = _measured(use, proxy, given.delay_ms / 1000)
            print(f"| {name} | {Cost.of(requests)} |", flush=True)
            if given.show:
                _print_requests(requests)


def _measured(use: Callable[[], None], proxy: FaultProxy, delay: float) -> list[RequestLog]:
    filesystem = fsspec.filesystem("s3", skip_instance_cache=True)
    filesystem.clear_instance_cache()
    fsspec.filesystem("s3").exists(ROOT)  # connects
    proxy.clear()
    proxy.inject(Fault(Match(), Delay(delay), times=None))
    use()
    return proxy.requests


def _print_requests(requests: Sequence[RequestLog]) -> None:
    first = requests[0].began
    for each in requests:
        times = f"{each.began - first:8.3f} {(each.ended or each.began) - first:8.3f}"
        wanted = each.headers.get("range", "")
        print(f"{times} {each.operation:22} {each.path} {wanted} {each.status} {each.response_bytes}", file=sys.stderr)


if __name__ == "__main__":
    main()
