"""Objects on every store: by URL, by the files of `open`, in listings and through the fsspec filesystem."""

from __future__ import annotations

import dataclasses
import gc
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import fsspec
import google_crc32c
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from fsspec import AbstractFileSystem
from fsspec.callbacks import Callback

from gllm_storage import (
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    ObjectExistsError,
    ObjectInfo,
    ObjectNotFoundError,
)
from gllm_storage.info import url_in_listing
from gllm_storage.store.checksums import crc64nvme, encode
from tests.conftest import make_rig
from tests.rig import MIB, TRAITS

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.rig import Rig

KEYS = [
    "with space + plus.bin",
    "100% %41%2F.bin",
    "a#b?c.bin",
    "a[0-9]*.bin",
    "it's & so~.bin",
    "step=100/a=b;c,d.bin",
    "ünïcödé/模型 🤗.bin",
    'back\\slash "{a}|<b>^`.bin',
    "~/.hidden@home!$(1):2",
    "c\u0327 is not \u00e7",
]
CONTENT = bytes(range(256)) * 1000
BLOCK = 5 * MIB
OPENED_BY_URL = ["ministack", "ceph", "file", "memory"]
SERVERS = [name for name, traits in TRAITS.items() if traits.has_buckets and not traits.in_process]


def by_url(rig: Rig, client: FsspecStorageClient, url: str, mode: str = "rb") -> Any:
    """Open a URL as pandas does.

    s3fs then opens URLs of S3, and needs a server. moto runs in this process and answers boto3 only: the client opens.
    """
    if rig.traits.in_process and rig.traits.has_buckets:
        return client.open(url, mode)
    return fsspec.open(url, mode, **client.storage_options).open()


def content_of(handle: Any) -> bytes:
    with handle:
        content: bytes = handle.read()
    return content


def paths_of(rig: Rig, listed: Iterator[ObjectInfo]) -> list[str]:
    start = f"{rig.scheme}://{rig.base}{rig.prefix}/"
    return [each.url.removeprefix(start) for each in listed]


# url


def test_url_before_and_after_upload(rig: Rig, tmp_path: Path) -> None:
    """`url` returns the URL that an upload returns, before and after the object exists."""
    client = rig.client()
    url = client.url("v3/model.bin")
    assert url == f"{rig.scheme}://{rig.base}{rig.prefix}/v3/model.bin"
    (tmp_path / "source.bin").write_bytes(CONTENT)
    assert client.upload_file(tmp_path / "source.bin", "v3/model.bin") == url
    assert client.url("v3/model.bin") == client.url(url) == url


# open


def test_seek_and_read(rig: Rig) -> None:
    """A file seeks and reads at any position, as a file in memory does."""
    rig.second.put(rig.key("model.bin"), CONTENT)
    client, wanted = rig.client(), io.BytesIO(CONTENT)
    with client.open("model.bin", block_size=10_000) as handle:
        for offset, whence, length in ((70_000, 0, 10), (-5, 2, 100), (0, 0, 1), (9_000, 1, 30_000), (0, 2, 1), (3, 0, -1)):
            assert handle.seek(offset, whence) == wanted.seek(offset, whence)
            assert handle.read(length) == wanted.read(length)
            assert handle.tell() == wanted.tell()


def test_text_encoding(rig: Rig) -> None:
    """Text is written and read with the given encoding and line endings."""
    client = rig.client()
    with client.open("notes.txt", "w", encoding="latin-1", newline="\r\n") as handle:
        handle.write("Größe: 1 µm\nzweite Zeile\n")
    assert rig.second.get(rig.key("notes.txt")) == "Größe: 1 µm\r\nzweite Zeile\r\n".encode("latin-1")
    with client.open("notes.txt", "r", encoding="latin-1") as handle:
        assert list(handle) == ["Größe: 1 µm\n", "zweite Zeile\n"]


def test_text_byte_order_mark(rig: Rig) -> None:
    """Text begins with the byte order mark of its encoding, and has it once."""
    client = rig.client()
    for encoding in ("utf-8-sig", "utf-16"):
        with client.open("notes.txt", "w", encoding=encoding) as handle:
            handle.write("one\n")
            handle.write("two\n")
        assert rig.second.get(rig.key("notes.txt")) == "one\ntwo\n".encode(encoding)


def test_write_published_at_close(rig: Rig) -> None:
    """The object appears when the file is closed, and replaces the previous one."""
    client = rig.client()
    for content in (CONTENT, b"", b"short"):
        before = [(each.url, each.etag) for each in client.list_files()]
        with client.open("model.bin", "wb") as handle:
            handle.write(content[:1])
            handle.write(content[1:])
            assert [(each.url, each.etag) for each in client.list_files()] == before
        assert rig.second.get(rig.key("model.bin")) == content
    assert rig.keys() == ["model.bin"]


def test_write_of_several_blocks(rig: Rig) -> None:
    """A file of several blocks is stored completely, and no multipart upload stays open."""
    content = os.urandom(BLOCK + MIB)
    with rig.client().open("model.bin", "wb", block_size=BLOCK) as handle:
        for start in range(0, len(content), MIB):
            handle.write(content[start : start + MIB])
    assert rig.second.get(rig.key("model.bin")) == content
    assert rig.open_uploads() == []


def _write_half(client: FsspecStorageClient, path: str, mode: str) -> None:
    half = "half" if "b" not in mode else b"half"
    with client.open(path, mode, block_size=BLOCK) as handle:
        handle.write(half * BLOCK)  # four blocks
        handle.write(half)
        raise ZeroDivisionError


def test_exception_in_write(rig: Rig) -> None:
    """An exception while a file is written stores nothing and keeps the previous object."""
    client = rig.client()
    rig.second.put(rig.key("old.bin"), b"old")
    ways = [("new.bin", "wb"), ("new.bin", "w"), ("old.bin", "wb"), ("old.bin", "w")]
    if rig.traits.creates_small:
        ways.append(("new.bin", "xb"))
    for path, mode in ways:
        with pytest.raises(ZeroDivisionError):
            _write_half(client, path, mode)
        assert rig.keys() == ["old.bin"], mode
        assert rig.second.get(rig.key("old.bin")) == b"old", mode
    assert rig.open_uploads() == []


def test_dropped_file(rig: Rig) -> None:
    """A file that is garbage collected without close stores nothing."""
    client = rig.client()
    for mode in ("wb", "xb", "w") if rig.traits.creates_small else ("wb", "w"):
        handle = client.open("model.bin", mode)
        handle.write("half" if mode == "w" else b"half")
        del handle
        gc.collect()
        assert rig.keys() == [], mode
    assert rig.open_uploads() == []


def test_exclusive_open(creating_rig: Rig) -> None:
    """Mode `xb` creates an object once; the second open of the same object is refused."""
    rig, client = creating_rig, creating_rig.client()
    for path, content in (("model.bin", CONTENT), ("empty.bin", b"")):
        with client.open(path, "xb") as handle:
            handle.write(content)
        with pytest.raises(ObjectExistsError):
            client.open(path, "xb")
        assert rig.second.get(rig.key(path)) == content
    assert rig.keys() == ["empty.bin", "model.bin"]


def test_exclusive_open_overtaken(creating_rig: Rig) -> None:
    """Mode `xb` does not replace an object that another client stored before close."""
    rig, client = creating_rig, creating_rig.client()
    for path, content in (("model.bin", b"ours"), ("empty.bin", b"")):
        handle = client.open(path, "xb")
        handle.write(content)
        rig.second.put(rig.key(path), b"theirs")
        with pytest.raises(ObjectExistsError):
            handle.close()
        assert rig.second.get(rig.key(path)) == b"theirs"
    assert rig.keys() == ["empty.bin", "model.bin"]


def test_exclusive_open_unsupported(careless_rig: Rig) -> None:
    """Mode `xb` is refused, and nothing is stored, if the store cannot create exclusively."""
    with pytest.raises(ConflictCheckUnsupportedError):
        careless_rig.client().open("model.bin", "xb")
    assert careless_rig.keys() == []


# info


def test_info(rig: Rig, tmp_path: Path) -> None:
    """`info` returns URL, size, ETag, time, checksum and metadata of the object."""
    client, begun = rig.client(), datetime.now(tz=UTC)
    (tmp_path / "source.bin").write_bytes(CONTENT)
    info = client.info(client.upload_file(tmp_path / "source.bin", "model.bin"))
    assert type(info) is ObjectInfo
    assert (info.url, info.size) == (client.url("model.bin"), len(CONTENT))
    assert info.etag
    assert '"' not in info.etag
    assert info.last_modified is not None
    assert info.last_modified.tzinfo is not None
    assert abs(info.last_modified - begun) < timedelta(minutes=5)
    # moto is used as Amazon, which keeps the checksum itself; moto does not support this algorithm.
    ours = f"crc64nvme:{encode(crc64nvme(CONTENT))}" if rig.server else None
    assert info.checksum == (f"crc32c:{encode(google_crc32c.value(CONTENT), 'crc32c')}" if rig.provider == "gcs" else ours)
    assert info.metadata is not None
    assert all(isinstance(text, str) for entry in info.metadata.items() for text in entry)
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.size = 0  # type: ignore[misc]  # frozen: it raises


def test_etag_of_new_version(rig: Rig) -> None:
    """A new version of an object has another ETag, even with the same size and time."""
    client, etags = rig.client(), set()
    for content in (b"first", b"other", b"third"):  # of equal size, written within a moment
        rig.second.put(rig.key("model.bin"), content)
        etags.add(client.info("model.bin").etag)
    assert len(etags) == 3


# list_files


def test_listing_by_prefix(rig: Rig) -> None:
    """A listing is recursive, in key order, of all keys that begin with the given string."""
    # "." and "-" sort before "/", "0" sorts after it: the order of keys differs from the order of a folder walk.
    paths = sorted(["v3-old.bin", "v3.bin", "v3/a.bin", "v3/a/b/c.bin", "v3/z.bin", "v30/x.bin", "V3/x.bin", "ä.bin"])
    for path in reversed(paths):
        rig.second.put(rig.key(path), path.encode())
    client = rig.client()
    in_order = list if rig.traits.ordered else sorted
    listed = client.list_files()
    assert isinstance(listed, Iterator)
    assert in_order(paths_of(rig, listed)) == paths
    for prefix in ("v3", "v3/", "v3/a", "v3/a/", "v", "none", "none/"):
        assert in_order(paths_of(rig, client.list_files(prefix))) == [path for path in paths if path.startswith(prefix)]
    assert paths_of(rig, client.list_files(f"/{rig.prefix}/v3/")) == paths_of(rig, client.list_files("v3/"))
    assert paths_of(rig, client.list_files(client.url("v30") + "/")) == ["v30/x.bin"]
    for each in client.list_files():
        known = client.info(each.url)
        assert (each.size, each.etag) == (known.size, known.etag)
        assert each.last_modified is not None
        assert each.last_modified.tzinfo is not None


def test_empty_listing(rig: Rig) -> None:
    """A listing of a prefix without objects is empty."""
    assert list(rig.client().list_files()) == []


def test_listing_without_prefix(rig: Rig) -> None:
    """A client without a prefix lists the complete store."""
    rig.second.put(rig.key("model.bin"), CONTENT)
    whole = rig.client(prefix="")
    assert rig.client().url("model.bin") in {each.url for each in whole.list_files()}
    assert paths_of(rig, whole.list_files(rig.prefix)) == ["model.bin"]


@pytest.mark.slow
def test_listing_of_many_objects(request: pytest.FixtureRequest) -> None:
    """A listing contains all of more than a thousand objects, in order."""
    rig = make_rig("ceph", request)
    paths = [f"{number:04}.bin" for number in range(1001)]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda path: rig.second.put(rig.key(path), b""), paths):
            pass
    assert paths_of(rig, rig.client().list_files()) == paths


# list_folder


def test_folder_listing(rig: Rig) -> None:
    """The listing of a folder contains its objects and folders, but not the content of these folders."""
    paths = ["v3-old.bin", "v3.bin", "v3/a.bin", "v3/a/b/c.bin", "v3/a/d.bin", "v3/z.bin", "v30/x.bin", "ä/b"]
    for path in paths:
        rig.second.put(rig.key(path), path.encode())
    client = rig.client()
    top = client.url("x").removesuffix("x")

    def names(folder: str) -> list[str]:
        return [url_in_listing(each).removeprefix(top) for each in client.list_folder(folder)]

    assert names("") == ["v3-old.bin", "v3.bin", "v3/", "v30/", "ä/"]
    assert names("v3") == names("v3/") == names(f"/{rig.prefix}/v3") == ["v3/a.bin", "v3/a/", "v3/z.bin"]
    assert names(f"{top}v3/a") == ["v3/a/b/", "v3/a/d.bin"]
    assert names("v") == names("none") == []
    assert [each.size for each in client.list_folder("v30") if isinstance(each, ObjectInfo)] == [len("v30/x.bin")]


@pytest.mark.slow
@pytest.mark.parametrize("store", ["ceph", "gcs-fake"])
def test_folder_listing_of_many(store: str, request: pytest.FixtureRequest) -> None:
    """The listing of a folder contains all of more than a thousand folders, in order."""
    rig = make_rig(store, request)
    paths = [f"{number:04}/{name}" for number in range(1003) for name in ("a", "b")]
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda path: rig.second.put(rig.key(path), b""), paths):
            pass
    client = rig.client()
    assert [*client.list_folder()] == [client.url(f"{number:04}/a").removesuffix("a") for number in range(1003)]


@pytest.mark.parametrize("rig", SERVERS, indirect=True)
def test_folder_listing_no_bucket(rig: Rig) -> None:
    """The listing of a folder in a missing bucket raises BucketNotFoundError."""
    bucket = "container_name" if rig.provider == "azure" else "bucket_name"
    with pytest.raises(BucketNotFoundError):
        list(rig.client(**{bucket: "no-such-bucket-anywhere"}).list_folder())


# Keys


def test_key_round_trip(rig: Rig, tmp_path: Path) -> None:
    """A key with unusual characters works in every verb, in URLs and for another client."""
    keys = [path for path in KEYS if rig.traits.backslashes or "\\" not in path]
    client, source, copy = rig.client(), tmp_path / "source.bin", tmp_path / "copy.bin"
    for path in keys:
        content = path.encode()
        source.write_bytes(content)
        url = client.upload_file(source, path)
        assert url == f"{rig.scheme}://{rig.base}{rig.prefix}/{path}"
        assert rig.second.get(rig.key(path)) == content
        assert content_of(by_url(rig, client, url)) == content
        assert content_of(client.open(url)) == content
        assert client.download_file(url, copy).read_bytes() == content
        assert client.file_exists(url)
    assert rig.keys() == sorted(keys)
    assert paths_of(rig, client.list_files()) == sorted(keys)
    for path in keys:
        assert client.delete_file(client.url(path))
    assert rig.keys() == []


def test_key_of_other_client(rig: Rig) -> None:
    """An object with unusual characters in its key, written by another client or by URL, is read and listed."""
    keys = [path for path in KEYS if rig.traits.backslashes or "\\" not in path]
    client = rig.client()
    for path in keys:
        with by_url(rig, client, client.url(path), "wb") as handle:
            handle.write(b"by URL")
        assert rig.second.get(rig.key(path)) == b"by URL"
        rig.second.put(rig.key(path), path.encode())
        assert content_of(client.open(path)) == path.encode()
        assert client.info(path).size == len(path.encode())
    assert rig.keys() == sorted(keys)
    assert [(each.url, each.size) for each in client.list_files()] == [
        (client.url(path), len(path.encode())) for path in sorted(keys)
    ]


@pytest.mark.parametrize("rig", [name for name, traits in TRAITS.items() if traits.any_key], indirect=True)
def test_object_below_object(rig: Rig, tmp_path: Path) -> None:
    """An object `model` may exist beside an object `model/part`."""
    client = rig.client()
    for path in ("model", "model/part", "model/part/of"):
        (tmp_path / "source.bin").write_bytes(path.encode())
        client.upload_file(tmp_path / "source.bin", path)
    for path in ("model", "model/part", "model/part/of"):
        assert client.info(path).size == len(path)
        assert content_of(client.open(path)) == path.encode()
        assert rig.second.get(rig.key(path)) == path.encode()
    assert client.delete_file("model")
    assert not client.file_exists("model")
    assert rig.keys() == ["model/part", "model/part/of"]


# Other libraries


@pytest.mark.parametrize("rig", OPENED_BY_URL, indirect=True)
def test_pandas_and_pyarrow(rig: Rig, tmp_path: Path) -> None:
    """Tables of pandas and pyarrow are written and read by URL or through the filesystem."""
    client, frame = rig.client(), pd.DataFrame({"step": [1, 2, 3], "loss": [0.5, 0.25, 0.125]})
    frame.to_parquet(tmp_path / "log.parquet")
    url = client.upload_file(tmp_path / "log.parquet", "run 1/log.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(url, storage_options=client.storage_options), frame)
    with fsspec.open(url, **client.storage_options) as handle:
        assert pq.read_table(handle).column_names == ["step", "loss"]
    path = url.removeprefix(f"{rig.scheme}://")
    assert pq.read_table(path, filesystem=client.filesystem).to_pandas().equals(frame)

    pq.write_table(pa.Table.from_pandas(frame), path.replace("run 1", "run 2"), filesystem=client.filesystem)
    with fsspec.open(client.url("run 3/log.csv"), "w", **client.storage_options) as handle:
        frame.to_csv(handle, index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(rig.second.get(rig.key("run 2/log.parquet")))), frame)
    assert rig.second.get(rig.key("run 3/log.csv")).startswith(b"step,loss\n1,0.5\n")


@pytest.mark.parametrize("rig", OPENED_BY_URL, indirect=True)
def test_safetensors(rig: Rig, tmp_path: Path) -> None:
    """A safetensors file is loaded by its URL."""
    client, weights = rig.client(), {"layer.weight": np.arange(1000, dtype=np.float32).reshape(10, 100)}
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    url = client.upload_file(tmp_path / "model.safetensors", "model.safetensors")
    with fsspec.open(url, **client.storage_options) as handle:
        loaded = safetensors.numpy.load(handle.read())
    assert np.array_equal(loaded["layer.weight"], weights["layer.weight"])


# The filesystem


def test_filesystem_promises(creating_rig: Rig, tmp_path: Path) -> None:
    """The filesystem creates exclusively, downloads completely and raises the errors of the verbs."""
    rig, client = creating_rig, creating_rig.client()
    filesystem, path = client.filesystem, f"{rig.base}{rig.prefix}/model.bin"
    source, copy = tmp_path / "source.bin", tmp_path / "copy.bin"
    source.write_bytes(CONTENT)
    assert isinstance(filesystem, AbstractFileSystem)
    assert client.filesystem is filesystem

    filesystem.put_file(str(source), path, mode="create")
    source.write_bytes(b"other")
    with pytest.raises(ObjectExistsError):
        filesystem.put_file(str(source), path, mode="create")
    with pytest.raises(ValueError, match="mode"):
        filesystem.put_file(str(source), path, mode="append")
    assert filesystem.info(path)["size"] == len(CONTENT)
    assert filesystem.info(path)["type"] == "file"
    filesystem.get_file(path, str(copy))
    assert copy.read_bytes() == CONTENT

    filesystem.rm_file(path)
    assert rig.keys() == []
    with pytest.raises(FileNotFoundError):
        filesystem.info(path)
    with pytest.raises(ObjectNotFoundError):
        filesystem.rm_file(path)
    with pytest.raises(ObjectNotFoundError):
        filesystem.get_file(path, str(copy))
    assert copy.read_bytes() == CONTENT


def test_filesystem_create_refused(careless_rig: Rig, tmp_path: Path) -> None:
    """`put_file` with mode `create` is refused if the store cannot create exclusively."""
    rig = careless_rig
    (tmp_path / "source.bin").write_bytes(CONTENT)
    with pytest.raises(ConflictCheckUnsupportedError):
        rig.client().filesystem.put_file(str(tmp_path / "source.bin"), f"{rig.base}{rig.prefix}/model.bin", mode="create")
    assert rig.keys() == []


def test_directories(rig: Rig) -> None:
    """The root, a bucket and a prefix of objects are directories of the filesystem."""
    rig.second.put(rig.key("a/b.bin"), b"b")
    filesystem, top = rig.client().filesystem, f"{rig.base}{rig.prefix}"
    places = [top, f"{top}/", f"{top}/a", f"{top}/a/", f"{rig.scheme}://{top}/a/"]
    places += [f"{rig.scheme}://", f"{rig.scheme}://{rig.base}"] if rig.traits.has_buckets else []
    assert {place: filesystem.info(place)["type"] for place in places} == dict.fromkeys(places, "directory")
    assert [filesystem.isdir(place) for place in places] == [True] * len(places)
    assert (filesystem.isfile(f"{top}/a/b.bin"), filesystem.isdir(f"{top}/a/b.bin")) == (True, False)
    assert not filesystem.exists(f"{top}/a/c.bin")
    assert not filesystem.isfile(f"{top}/a")


def test_progress(rig: Rig, tmp_path: Path) -> None:
    """A callback receives the size and all bytes of an upload and of a download."""
    (tmp_path / "source.bin").write_bytes(CONTENT)
    client, up, down = rig.client(), Callback(), Callback()
    url = client.upload_with_progress(tmp_path / "source.bin", "model.bin", up)
    assert url == client.url("model.bin")
    assert client.download_with_progress("model.bin", tmp_path / "copy.bin", down) == tmp_path / "copy.bin"
    assert [(each.size, each.value) for each in (up, down)] == [(len(CONTENT), len(CONTENT))] * 2
    if rig.traits.creates_small:
        with pytest.raises(ObjectExistsError):
            client.upload_with_progress(tmp_path / "source.bin", "model.bin", Callback(), check_conflict=True)


@pytest.mark.parametrize("rig", SERVERS, indirect=True)
def test_fsspec_calls(rig: Rig, tmp_path: Path) -> None:
    """The methods of fsspec work, and see the writes of other clients at once."""
    filesystem, top = rig.client().filesystem, f"{rig.base}{rig.prefix}"
    for path in ("one.bin", "sub/two.bin"):
        (tmp_path / "local" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "local" / path).write_bytes(path.encode())

    filesystem.put(str(tmp_path / "local") + "/", f"{top}/put", recursive=True)
    assert rig.keys() == ["put/one.bin", "put/sub/two.bin"]
    filesystem.get(f"{top}/put/", str(tmp_path / "got"), recursive=True)
    assert (tmp_path / "got" / "sub" / "two.bin").read_bytes() == b"sub/two.bin"

    assert sorted(filesystem.ls(f"{top}/put", detail=False)) == [f"{top}/put/one.bin", f"{top}/put/sub"]
    assert filesystem.find(top) == [f"{top}/put/one.bin", f"{top}/put/sub/two.bin"]
    assert filesystem.exists(f"{top}/put/one.bin")
    assert filesystem.exists(f"{top}/put/sub")
    assert not filesystem.exists(f"{top}/put/three.bin")
    rig.second.put(rig.key("put/three.bin"), b"three")
    assert filesystem.exists(f"{top}/put/three.bin")
    assert f"{top}/put/three.bin" in filesystem.ls(f"{top}/put", detail=False)
    assert f"{top}/put/three.bin" in filesystem.find(top)
    assert filesystem.cat_file(f"{top}/put/three.bin") == b"three"

    filesystem.rm(f"{top}/put", recursive=True)
    assert rig.files() == []
    if rig.name == "juicefs":  # it keeps the emptied folders
        return
    assert not filesystem.exists(f"{top}/put")
    assert filesystem.find(top) == []
