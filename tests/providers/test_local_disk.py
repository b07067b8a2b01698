"""This machine's end of a transfer, on all providers: sources without a true size or written by mmap, and `fsync`."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import FsspecStorageClient, StorageError, get_storage_client
from gllm_storage.azure import AzureBlobFileSystem
from gllm_storage.files.source import LocalSource, SourceChangedError
from gllm_storage.gcs import GCSFileSystem
from gllm_storage.local.filesystem import LocalStoreFileSystem
from gllm_storage.local.store import LocalStore
from gllm_storage.memory.filesystem import MemoryFileSystem
from gllm_storage.s3 import S3FileSystem
from gllm_storage.settings import MIB
from tests.conftest import make_rig

if TYPE_CHECKING:
    from collections.abc import Callable

STORES = ["file", "memory", "moto", "ministack", "gcs-fake", "azurite"]
SIZELESS = "/proc/version"


@pytest.mark.parametrize("name", STORES)
def test_sizeless_file(name: str, request: pytest.FixtureRequest) -> None:
    """A file in /proc has the size 0, and is stored with its content by each verb and method."""
    assert os.stat(SIZELESS).st_size == 0
    client = make_rig(name, request).client()
    filesystem: Any = client.filesystem
    client.upload_file(SIZELESS, "verb")
    with open(SIZELESS, "rb") as file:
        client.upload(file, "object")
    filesystem.put_file(SIZELESS, client.url("put_file"))
    filesystem.put([SIZELESS, SIZELESS], [client.url("put"), client.url("put-2")])
    for each in ("verb", "object", "put_file", "put", "put-2"):
        with client.open(each) as stored:
            assert stored.read() == Path(SIZELESS).read_bytes()


def test_sizeless_foreign(tmp_path: Path) -> None:
    """A foreign filesystem gets the content as well, although it opens the file by itself."""
    FsspecStorageClient({"url": f"file://{tmp_path}"}).upload_file(SIZELESS, "a")
    assert (tmp_path / "a").read_bytes() == Path(SIZELESS).read_bytes()


def test_sizeless_object(tmp_path: Path) -> None:
    """A local store gives the content of such a file, or refuses."""
    store = LocalStore("/proc")
    store.download("version", str(tmp_path / "a"), store.transfer("version", "download"))
    assert (tmp_path / "a").read_bytes() == Path(SIZELESS).read_bytes()
    with pytest.raises(StorageError, match="behind its size"):
        store.read("version", store.transfer("version", "read"))


@pytest.mark.parametrize(
    ("name", "config", "at"),
    [
        pytest.param("ministack", {"memory_limit": "16MiB", "multipart_threshold": "64MiB"}, 2, id="ministack"),
        pytest.param("ministack", {"memory_limit": "16MiB", "multipart_threshold": "64MiB"}, 3, id="ministack, while sent"),
        pytest.param("gcs-fake", {"multipart_threshold": "1MiB", "part_size": "1MiB"}, 2, id="gcs-fake"),
        pytest.param("azurite", {"multipart_threshold": "1MiB", "part_size": "1MiB"}, 2, id="azurite"),
    ],
)
def test_mapped_file(
    name: str,
    config: dict[str, str],
    at: int,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file that is written by mmap between two passes over it is refused, although its modification time stays."""
    rig = make_rig(name, request)
    path = request.getfixturevalue("tmp_path") / "source"
    path.write_bytes(os.urandom(5 * MIB))
    reads = 0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[5] ^= 1  # the page is dirty from now on
        before = path.stat().st_mtime_ns

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def read(self: LocalSource, offset: int, *rest: Any) -> Any:
                nonlocal reads
                reads += not offset
                if reads == at and not offset:
                    mapped[5] ^= 1
                return real(self, offset, *rest)

            return read

        monkeypatch.setattr(LocalSource, "read_at", counted(LocalSource.read_at))
        monkeypatch.setattr(LocalSource, "read_into", counted(LocalSource.read_into))
        with pytest.raises(SourceChangedError):
            rig.client(**config).upload_file(path, "a")
        assert path.stat().st_mtime_ns == before
    assert reads >= at
    assert rig.keys() == []


PROVIDERS: dict[str, dict[str, str]] = {
    "s3": {"bucket_name": "models", "anonymous": "true"},
    "gcs": {"bucket_name": "models", "anonymous": "true"},
    "azure": {"container_name": "models", "account_name": "acc", "anonymous": "true"},
    "file": {"root": "/models"},
    "memory": {},
    "fsspec": {"url": "ftp://127.0.0.1/models"},
}


@pytest.mark.parametrize("provider", [each for each in PROVIDERS if each != "fsspec"])
def test_disk_settings(provider: str) -> None:
    """Each provider has `fsync` and `sync_source`, and its filesystem as well."""
    for config, expected in (({}, (True, False)), ({"fsync": "false", "sync_source": "true"}, (False, True))):
        client: Any = get_storage_client(provider, PROVIDERS[provider] | config)
        filesystem = client.filesystem
        store = filesystem.place("/else/a")[0] if hasattr(filesystem, "place") else filesystem.bucket_store("models")
        for each in (client.store.settings, store.settings):
            assert (each.fsync, each.sync_source) == expected


def test_disk_settings_of_foreign(tmp_path: Path) -> None:
    """The settings do not reach the foreign filesystem; a wrong one is refused."""
    client = FsspecStorageClient({"url": f"file://{tmp_path}", "fsync": "false", "auto_mkdir": "true"})
    assert not client.store.settings.fsync
    assert client.storage_options == {"auto_mkdir": "true"}
    with pytest.raises(ValueError, match="fsync='x' must be 'true' or 'false'"):
        FsspecStorageClient({"url": f"file://{tmp_path}", "fsync": "x"})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (S3FileSystem, {"anon": True}),
        (GCSFileSystem, {"token": "anon"}),
        (AzureBlobFileSystem, {"account_name": "acc", "anon": True}),
        (LocalStoreFileSystem, {}),
        (MemoryFileSystem, {}),
    ],
)
@pytest.mark.parametrize("value", [False, "false", "0"])
def test_disk_options(kind: Any, options: dict[str, Any], value: Any) -> None:
    """The options of the filesystems turn `fsync` off, also as the strings of fsspec's configuration."""
    filesystem = kind(**options, fsync=value, skip_instance_cache=True)
    store = filesystem.place("/models/a")[0] if hasattr(filesystem, "place") else filesystem.bucket_store("models")
    assert not store.settings.fsync

    def make() -> None:
        made = kind(**options, fsync="x", skip_instance_cache=True)
        made.place("/models/a")  # the local filesystems make their store on first use

    with pytest.raises(ValueError, match="fsync"):
        make()


@pytest.mark.parametrize(("fsync", "folders"), [("true", ["0", "1", "2"]), ("false", [])])
def test_bulk_syncs(
    fsync: str, folders: list[str], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bulk download synchronizes each file and each folder once, or nothing; a file that cannot be written is an error."""
    client = make_rig("ministack", request).client(fsync=fsync)
    filesystem: Any = client.filesystem
    contents = {client.url(f"{number:03}"): os.urandom(100 + number) for number in range(200)}
    filesystem.pipe(contents)
    found: dict[str, list[str]] = {"fsync": [], "fdatasync": []}
    for name, names in found.items():
        real = getattr(os, name)

        def spy(fd: int, real: Callable[[int], None] = real, names: list[str] = names) -> None:
            names.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
            real(fd)

        monkeypatch.setattr(os, name, spy)
    paths = [tmp_path / str(number % 3) / f"{number:03}" for number in range(200)]
    filesystem.get(list(contents), [str(each) for each in paths])
    assert [each.read_bytes() for each in paths] == list(contents.values())
    assert sorted(each for each in found["fsync"] if each in "012") == folders
    assert len(found["fdatasync"]) == (200 if folders else 0)
    paths[7].unlink()
    os.mkfifo(paths[7])
    with pytest.raises(StorageError, match="not a regular file"):
        filesystem.get(list(contents), [str(each) for each in paths])
    assert not [each for each in tmp_path.rglob("*") if each.name.startswith(".")]
