"""Names that are objects and folders, markers of empty folders, and missing buckets, on the filesystems of each provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import BucketNotFoundError, StorageError
from tests.rig import BUCKET, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Servers
    from tests.rig import Rig

CLOUDS = ("ministack", "gcs-fake", "azurite")
ON_CLOUDS = pytest.mark.parametrize("store", CLOUDS)


def mark(rig: Rig, key: str) -> None:
    """Make an empty folder marker ``…/``, as the consoles of the clouds do."""
    rig.second.put(f"{key}/", b"")


@ON_CLOUDS
def test_object_and_folder(store: str, servers: Servers) -> None:
    """A name that is an object and a prefix is a file and a folder."""
    rig = server_rig(store, servers.get(store))
    rig.second.put(rig.key("a"), b"object")
    rig.second.put(rig.key("a/b"), b"below")
    filesystem, path = rig.client().filesystem, f"{BUCKET}/{rig.key('a')}"
    assert filesystem.isfile(path)
    assert filesystem.isdir(path)
    assert filesystem.info(path)["type"] == "file"
    assert not filesystem.isdir(f"{path}/b")
    assert not filesystem.isdir(f"{path}/absent")


def test_both_in_memory() -> None:
    """The same in memory."""
    from gllm_storage import MemoryStorageClient

    filesystem: Any = MemoryStorageClient({"bucket_name": "both"}).filesystem
    filesystem.pipe({"/both/a": b"object", "/both/a/b": b"below"})
    assert filesystem.isfile("/both/a")
    assert filesystem.isdir("/both/a")
    assert filesystem.info("/both/a")["type"] == "file"
    assert filesystem.isdir("/both")
    assert not filesystem.isdir("/both/a/b")


def test_read_block_in_memory() -> None:
    """`read_block`, which asks a file for its size, works in memory."""
    from gllm_storage import MemoryStorageClient

    filesystem: Any = MemoryStorageClient({"bucket_name": "blocks"}).filesystem
    filesystem.pipe_file("/blocks/a", b"one\ntwo\nthree\n")
    assert filesystem.read_block("/blocks/a", 0, 5, delimiter=b"\n") == b"one\ntwo\n"
    assert filesystem.read_block("/blocks/a", 4, None) == b"two\nthree\n"


@ON_CLOUDS
def test_empty_folder(store: str, servers: Servers) -> None:
    """An empty folder that is a marker does not list itself, and exists."""
    rig = server_rig(store, servers.get(store))
    mark(rig, rig.key("empty"))
    mark(rig, rig.key("outer"))
    rig.second.put(rig.key("outer/file"), b"file")
    filesystem, root = rig.client().filesystem, f"{BUCKET}/{rig.prefix}"
    assert filesystem.ls(f"{root}/empty", detail=False) == []
    assert [each["name"] for each in filesystem.ls(f"{root}/outer/", detail=True)] == [f"{root}/outer/file"]
    assert sorted(each.rstrip("/") for each in filesystem.ls(root, detail=False)) == [f"{root}/empty", f"{root}/outer"]
    assert {each["type"] for each in filesystem.ls(root, detail=True)} == {"directory"}
    assert filesystem.isdir(f"{root}/empty")
    assert filesystem.exists(f"{root}/empty")
    assert filesystem.info(f"{root}/empty")["type"] == "directory"
    assert filesystem.glob(f"{root}/outer/*") == [f"{root}/outer/file"]
    assert [names for *_, names in filesystem.walk(f"{root}/empty")] in ([], [[]])


def test_hierarchical_folder(servers: Servers) -> None:
    """An empty folder of a hierarchical namespace on Azure, a blob with a mark in its metadata, is a folder."""
    rig = server_rig("azurite", servers.get("azurite"))
    second: Any = rig.second
    second.container.upload_blob(rig.key("folder"), b"", metadata={"hdi_isfolder": "true"})
    filesystem, path = rig.client().filesystem, f"{BUCKET}/{rig.key('folder')}"
    assert filesystem.info(path)["type"] == "directory"
    assert filesystem.isdir(path)
    assert filesystem.exists(path)
    assert not filesystem.isfile(path)
    assert filesystem.ls(path) == []
    assert not rig.client().file_exists("folder")


@ON_CLOUDS
def test_missing_bucket(store: str, servers: Servers) -> None:
    """A missing bucket raises one class, which is an OSError and a StorageError, from each method."""
    rig = server_rig(store, servers.get(store))
    filesystem = rig.client().filesystem
    acts: list[Callable[[], object]] = [
        lambda: filesystem.ls("no-such-bucket/folder"),
        lambda: filesystem.info("no-such-bucket/a"),
        lambda: filesystem.open("no-such-bucket/a"),
        lambda: filesystem.cat_file("no-such-bucket/a"),
        lambda: filesystem.pipe_file("no-such-bucket/a", b"x"),
        lambda: filesystem.cp_file("no-such-bucket/a", f"{BUCKET}/b"),
    ]
    for act in acts:
        with pytest.raises(BucketNotFoundError) as raised:
            act()
        assert isinstance(raised.value, FileNotFoundError)
        assert isinstance(raised.value, StorageError)
        assert raised.value.filename.startswith(f"{rig.scheme}://no-such-bucket")
    assert not filesystem.exists("no-such-bucket/a")
    assert not filesystem.isdir("no-such-bucket/a")


@ON_CLOUDS
def test_remove_list_with_folders(store: str, servers: Servers) -> None:
    """`rm` takes what `find(withdirs=True)` gives: a folder vanishes with the last object below it."""
    rig = server_rig(store, servers.get(store))
    for key in ("a", "b/c", "b/d/e"):
        rig.second.put(rig.key(key), b"content")
    filesystem, root = rig.client().filesystem, f"{BUCKET}/{rig.prefix}"
    filesystem.rm([*filesystem.find(root), f"{root}/b", f"{root}/b/d"])
    assert rig.keys() == []
    with pytest.raises(FileNotFoundError):
        filesystem.rm([f"{root}/b", f"{root}/x"])


def test_generation(servers: Servers) -> None:
    """`info` and `exists` of a generation, by the path of a version-aware filesystem."""
    from gllm_storage.gcs.filesystem import GCSFileSystem  # it imports gcsfs

    rig = server_rig("gcs-fake", servers.get("gcs-fake"))
    filesystem: Any = GCSFileSystem(
        token="anon",
        endpoint_url=rig.config["endpoint_url"],
        version_aware=True,
        skip_instance_cache=True,
    )
    rig.second.put(rig.key("a"), b"content")
    path = f"{BUCKET}/{rig.key('a')}"
    generation = filesystem.info(path)["generation"]
    assert filesystem.info(f"{path}#{generation}")["size"] == 7
    assert filesystem.info(path, generation=generation)["generation"] == generation
    assert filesystem.exists(f"{path}#{generation}")
    assert filesystem.isfile(f"{path}#{generation}")
    assert not filesystem.exists(f"{path}#1")
    assert filesystem.cat_file(f"{path}#{generation}") == b"content"
    with filesystem.open(f"{path}#{generation}") as file:
        assert file.read() == b"content"
