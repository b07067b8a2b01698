"""Files of a client's `open`, which do not need s3fs: they look like those of the client's filesystem."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import fsspec
import fsspec.caching
import fsspec.config
import pytest
import s3fs
from fsspec.spec import AbstractBufferedFile

from gllm_storage import ExactKey, ObjectExistsError, S3StorageClient
from tests.conftest import make_rig

if TYPE_CHECKING:
    from tests.rig import Rig

NAME = "a.txt"
CONTENT = b"first\nsecond\n"
INTERNAL = {
    *("acl", "append_block", "mpu", "part_max", "part_min", "parts", "read_kw", "req_kw", "retries"),
    "s3_additional_kwargs",
}
"""Attributes of s3fs's file that serve its own requests."""


@pytest.fixture
def rig(request: pytest.FixtureRequest) -> Rig:
    """A bucket with one object."""
    rig = make_rig("ministack", request)
    rig.client().upload(CONTENT, NAME, metadata={"step": "7"})
    return rig


def test_attributes(rig: Rig) -> None:
    """A file that is read has the public attributes of s3fs's file."""
    client = rig.client()
    with client.open(NAME) as file, client.filesystem.open(client.url(NAME)) as other:
        assert isinstance(file, AbstractBufferedFile)
        assert isinstance(file, s3fs.S3File)
        assert file.fs is file.s3 is client.filesystem
        assert {name for name in dir(other) if not name.startswith("_")} - INTERNAL <= {*dir(file)}
        for name in ("path", "mode", "size", "blocksize", "full_name", "bucket", "key", "version_id", "fill_cache"):
            assert getattr(file, name) == getattr(other, name), name
        assert file.info() == other.info() == file.details
        assert file.metadata() == other.metadata()
        assert file.getxattr("step") == "7"
        assert file.url().partition("?")[0] == other.url().partition("?")[0]
        assert (str(file), hash(file)) == (str(other), hash(other))


def test_pickled(rig: Rig) -> None:
    """A pickled file reads on."""
    with rig.client().open(NAME) as file:
        file.readline()
        with pickle.loads(pickle.dumps(file)) as again:
            assert (again.read(), again) == (b"second\n", file)


def test_written(rig: Rig) -> None:
    """A file that is written has the attributes of the filesystem's."""
    client = rig.client()
    with client.open("b", "wb", block_size=6 * 2**20, ContentType="a/b") as file:
        assert file.write(CONTENT) == len(CONTENT)
        assert (file.fs, file.blocksize, file.path) == (client.filesystem, 6 * 2**20, client.url("b"))
    assert (file.version_id, file.stored.size) == (None, len(CONTENT))
    assert client.info("b").content_type == "a/b"
    with pytest.raises(ObjectExistsError), client.open("b", "xb") as file:
        file.write(b"other")
    with pytest.raises(ValueError, match="two sizes"):
        client.open("c", "wb", block_size=6 * 2**20, chunksize=7 * 2**20)


def test_in_transaction(rig: Rig) -> None:
    """A file that a client writes in a transaction of its filesystem appears at the end of the transaction."""
    client = rig.client()
    with client.filesystem.transaction:
        with client.open("b", "wb") as file:
            file.write(CONTENT)
        assert not client.file_exists("b")
    assert client.file_exists("b")


def test_arguments_of_s3fs(rig: Rig) -> None:
    """Modes and arguments that only s3fs knows work as in the filesystem."""
    client = rig.client()
    with client.open(NAME, "ab") as file:
        file.write(b"third\n")
    with client.open(NAME, ResponseContentType="a/b") as file:
        assert file.read() == CONTENT + b"third\n"
    with client.open(NAME, cache_type="readahead") as file:
        assert isinstance(file.cache, fsspec.caching.ReadAheadCache)
        assert file.readlines() == [b"first\n", b"second\n", b"third\n"]
    for mode in ("rb", "wb"):
        with pytest.raises(ValueError, match="version"):
            client.open(NAME, mode, version_id="1")
    with client.open("b", "wb", autocommit=False) as file:
        file.write(CONTENT)
    assert not client.file_exists("b")
    file.commit()
    assert client.file_exists("b")


def test_configuration(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The options of fsspec's own configuration hold for files of the client."""
    configured: dict[str, Any] = {"default_cache_type": "readahead"}
    monkeypatch.setitem(fsspec.config.conf, "s3", configured)
    with rig.client().open(NAME) as file:
        assert isinstance(file.cache, fsspec.caching.ReadAheadCache)


def test_version_in_key(rig: Rig) -> None:
    """A key that looks like a path with a version names itself."""
    client = rig.client()
    key = ExactKey(f"{rig.key(NAME)}?versionId=1")
    with client.open(key, "wb") as file:
        file.write(b"other")
    assert (client.open(key).read(), client.open(NAME).read()) == (b"other", CONTENT)


def test_other_filesystem() -> None:
    """A subclass with another filesystem opens files by that."""

    class InMemory(S3StorageClient):
        def make_filesystem(self) -> Any:
            return fsspec.filesystem("memory")

    client = InMemory({"bucket_name": "models"})
    with client.open("other-filesystem", "wb") as file:
        file.write(CONTENT)
    assert client.filesystem.cat_file("models/other-filesystem") == CONTENT
    client.filesystem.rm("models", recursive=True)
