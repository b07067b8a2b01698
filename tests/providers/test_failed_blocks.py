"""Tools that write by URL publish nothing after an exception: the object stays as it was, on every provider."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import pickle
import zipfile
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.core import OpenFile
from fsspec.registry import _registry as loaded
from fsspec.registry import known_implementations

from gllm_storage import register_filesystems
from tests.conftest import make_rig
from tests.rig import SMALL_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rig import Rig

BEFORE = b"the object before"
TABLE = pa.table({"a": [1, 2, 3]})


@pytest.fixture(params=["memory", "file", "ministack", "gcs-fake", "azurite"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return make_rig(request.param, request)


@pytest.fixture
def cloud_urls() -> Iterator[None]:
    """Register the filesystems, and restore fsspec's registry."""
    before, known = dict(loaded), dict(known_implementations)
    register_filesystems()
    yield
    loaded.clear()
    loaded.update(before)
    known_implementations.clear()
    known_implementations.update(known)


class Failure(Exception):  # noqa: N818 - it fails in the tests
    """The failure of a block."""


class Unwritable:
    """An object that cannot be written, neither as text nor by pickle."""

    def __str__(self) -> str:
        raise Failure

    def __reduce__(self) -> Any:
        raise Failure


def frame() -> pd.DataFrame:
    return pd.DataFrame({"a": ["x" * 100] * 2000 + [Unwritable()]})


def binary(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "wb") as file:
        file.write(b"half")
        raise Failure


def large(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "wb") as file:
        file.write(bytes(12 * 2**20))
        raise Failure


def text(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "w") as file:
        file.write("half")
        raise Failure


def exclusive(fs: Any, path: str) -> None:
    with contextlib.closing(fs.open(f"{path}-new", "xb")) as file:
        file.write(b"half")
        raise Failure


def own_block(fs: Any, path: str) -> None:
    with fs.open(path, "wb") as file:
        file.write(b"half")
        raise Failure


def own_text_gzip(fs: Any, path: str) -> None:
    with contextlib.closing(fs.open(path, "wt", compression="gzip")) as file:
        file.write("half")
        raise Failure


def parquet_writer(fs: Any, path: str) -> None:
    with pq.ParquetWriter(path, TABLE.schema, filesystem=pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs))) as writer:
        writer.write_table(TABLE)
        raise Failure


def csv(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "w") as file:
        frame().to_csv(file)


def arrays(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "wb") as file:
        np.savez(file, a=np.zeros(10), b=np.array([Unwritable()], dtype=object))


def archive(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "wb") as file, zipfile.ZipFile(file, "w") as written:
        written.writestr("a", bytes(10**6))
        raise Failure


def pickled(fs: Any, path: str) -> None:
    with OpenFile(fs, path, "wb") as file:
        pickle.dump([bytes(10**6), Unwritable()], file)


def caught_in_transaction(fs: Any, path: str) -> None:
    with fs.transaction, OpenFile(fs, path, "wb") as file:
        file.write(b"half")
        raise Failure


PROGRAMS = [
    binary, large, text, exclusive, own_block, own_text_gzip, parquet_writer, csv, arrays, archive, pickled,
    caught_in_transaction,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: str(each.__name__))
def test_in_memory(
    program: Callable[[Any, str], None], caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    """A failed block changes nothing, whichever tool writes."""
    require_unchanged(program, make_rig("memory", request))
    assert program is own_block or "/a" in caplog.text


@pytest.mark.parametrize("program", [binary, large, text, exclusive, parquet_writer], ids=lambda each: str(each.__name__))
def test_stores(program: Callable[[Any, str], None], rig: Rig) -> None:
    """A failed block changes nothing, on each provider, and leaves no upload open."""
    require_unchanged(program, rig)


def require_unchanged(program: Callable[[Any, str], None], rig: Rig) -> None:
    """Run a program that fails to replace an object."""
    rig.second.put(rig.key("a"), BEFORE)
    fs = rig.client(**SMALL_PARTS if rig.provider == "s3" else {}).filesystem
    with pytest.raises(Failure):
        program(fs, f"{rig.base}{rig.key('a')}")
    gc.collect()
    assert rig.keys() == ["a"]
    assert rig.second.get(rig.key("a")) == BEFORE
    assert not rig.open_uploads()


def to_csv(url: str, options: dict[str, Any]) -> None:
    frame().to_csv(url, storage_options=options)


def to_csv_gzip(url: str, options: dict[str, Any]) -> None:
    frame().to_csv(url, storage_options=options, compression="gzip")


def to_csv_zip(url: str, options: dict[str, Any]) -> None:
    frame().to_csv(url, storage_options=options, compression="zip")


def to_pickle(url: str, options: dict[str, Any]) -> None:
    frame().to_pickle(url, storage_options=options)


def to_pickle_xz(url: str, options: dict[str, Any]) -> None:
    frame().to_pickle(url, storage_options=options, compression="xz")


def to_parquet(url: str, options: dict[str, Any]) -> None:
    frame().to_parquet(url, storage_options=options)


def of_fsspec(url: str, options: dict[str, Any]) -> None:
    with fsspec.open(url, "wt", compression="gzip", **options) as file:
        file.write("half")
        raise Failure


def parquet_of_fsspec(url: str, options: dict[str, Any]) -> None:
    fs, path = fsspec.url_to_fs(url, **options)
    with pq.ParquetWriter(path, TABLE.schema, filesystem=fs) as writer:
        writer.write_table(TABLE)
        raise Failure


BY_URL = [to_csv, to_csv_gzip, to_csv_zip, to_pickle, to_pickle_xz, to_parquet, of_fsspec, parquet_of_fsspec]


@pytest.mark.usefixtures("cloud_urls")
@pytest.mark.parametrize(
    ("program", "store"),
    [*((each, "ministack") for each in BY_URL), (to_csv, "gcs-fake"), (of_fsspec, "azurite")],
)
def test_url(program: Callable[[str, dict[str, Any]], None], store: str, request: pytest.FixtureRequest) -> None:
    """Libraries that open a URL by fsspec change nothing if they fail, whatever they raise."""
    rig = make_rig(store, request)
    rig.second.put(rig.key("a"), BEFORE)
    with pytest.raises((Failure, pa.ArrowException)):
        program(f"{rig.scheme}://{rig.base}{rig.key('a')}", rig.client().storage_options)
    gc.collect()
    assert rig.keys() == ["a"]
    assert rig.second.get(rig.key("a")) == BEFORE


@pytest.mark.usefixtures("cloud_urls")
@pytest.mark.parametrize("store", ["ministack", "gcs-fake", "azurite"])
def test_setting(store: str, request: pytest.FixtureRequest) -> None:
    """The storage option `publish_on_error` publishes as far as the block came."""
    rig = make_rig(store, request)
    url, options = f"{rig.scheme}://{rig.base}{rig.key('a')}", rig.client().storage_options
    with contextlib.suppress(Failure), fsspec.open(url, "wb", publish_on_error=True, **options) as file:
        file.write(b"half")
        raise Failure
    assert rig.second.get(rig.key("a")) == b"half"


def test_simplecache(request: pytest.FixtureRequest) -> None:
    """``simplecache::`` writes a local file, and uploads it whatever happened: a documented limit."""
    rig = make_rig("ministack", request)
    cached = fsspec.filesystem("simplecache", fs=rig.client().filesystem)
    with contextlib.suppress(Failure), OpenFile(cached, f"{rig.base}{rig.key('a')}", "wb") as file:
        file.write(b"half")
        raise Failure
    assert rig.second.get(rig.key("a")) == b"half"


@pytest.mark.parametrize("mode", ["ab", "a"])
@pytest.mark.parametrize("size", [100, 6 * 2**20])
def test_failed_append(mode: str, size: int, request: pytest.FixtureRequest) -> None:
    """A failed append to an S3 object changes nothing, nor does one that is dropped; a complete one appends."""
    rig = make_rig("ministack", request)
    before = os.urandom(size) if mode == "ab" else b"x" * size
    rig.second.put(rig.key("a"), before)
    fs, path = rig.client().filesystem, f"{rig.base}{rig.key('a')}"
    more: Any = b"more" if mode == "ab" else "more"
    for opened in (fs.open, lambda *where: OpenFile(fs, *where)):
        with contextlib.suppress(Failure), opened(path, mode) as file:
            file.write(more)
            raise Failure
    dropped = fs.open(path, mode)
    dropped.write(more)
    del dropped
    gc.collect()
    assert rig.second.get(rig.key("a")) == before
    assert not rig.open_uploads()
    with fs.open(path, mode) as file:
        file.write(more)
    assert rig.second.get(rig.key("a")) == before + b"more"


@pytest.mark.parametrize("mode", ["wb", "w", "xb", "x"])
def test_pickle(mode: str, rig: Rig) -> None:
    """An open writer cannot be pickled, and the message names its URL; the filesystem's `OpenFile` can."""
    client = rig.client()
    with client.open("a", mode) as file, pytest.raises(TypeError, match=r"/a is open for writing, and cannot be pickled"):
        pickle.dumps(file)
    assert rig.second.get(rig.key("a")) == b""
    opened = OpenFile(client.filesystem, f"{rig.base}{rig.key('b')}", "w")
    with opened as text_file:
        assert isinstance(text_file, io.TextIOWrapper)
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(text_file)
        assert pickle.loads(pickle.dumps(opened)).path == opened.path


def test_pickle_of_append(request: pytest.FixtureRequest) -> None:
    """A file that appends cannot be pickled either."""
    rig = make_rig("ministack", request)
    with rig.client().open("a", "ab") as file, pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(file)
