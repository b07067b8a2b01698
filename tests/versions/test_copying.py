"""`copy_version`: a version in another model or store, with its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fsspec.callbacks import Callback

from gllm_storage import LocalStorageClient
from gllm_storage.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError, StorageUnavailableError
from gllm_storage.versions import copying
from gllm_storage.versions.aliases import set_alias
from gllm_storage.versions.catalog import list_versions, resolve, resolved
from gllm_storage.versions.copying import copy_version
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.layout import model_of, place_of
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.register import enter
from gllm_storage.versions.stored_tree import stored_tree
from gllm_storage.versions.verification import verify
from tests.versions.support import MODEL, digest_of, keys_of, new_client, store_bytes, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient

FILES = {"config.json": b"{}", "weights/1.bin": b"\x01" * 100_000, "weights/2.bin": b"\x02" * 100_000}
DATA = f"data/{place_of(digest_of(FILES), 0)}"


@pytest.fixture
def client(tmp_path: Path) -> FsspecStorageClient:
    """A store in memory with the version v1."""
    client = new_client()
    publish(client, write_folder(tmp_path / "out", FILES), MODEL, version="v1", metadata={"step": 1})
    return client


@pytest.fixture(params=["same", "memory", "file"])
def target(request: pytest.FixtureRequest, client: FsspecStorageClient, tmp_path: Path) -> FsspecStorageClient:
    """The client of the copy: of the same store, of one of the same provider, of another provider."""
    if request.param == "same":
        return client
    return new_client() if request.param == "memory" else LocalStorageClient({"root": str(tmp_path / "store")})


def test_copy(client: FsspecStorageClient, target: FsspecStorageClient) -> None:
    """The copy has the digest, the metadata and all files; a second call finds it there."""
    set_alias(client, MODEL, "latest", "v1")
    copy = copy_version(client, MODEL, "latest", target, "released/llama")
    assert (copy.name, copy.digest, copy.metadata) == ("v1", digest_of(FILES), {"step": 1})
    assert verify(target, "released/llama", "v1") == copy
    assert copy_version(client, MODEL, copy.digest, target, "released/llama") == copy
    assert keys_of(model_of(target, "released/llama"), "marks/") == []


def test_progress(client: FsspecStorageClient, target: FsspecStorageClient) -> None:
    """A callback receives all bytes once, whether they are copied or found."""
    for version in ("v1", "v1", "v2"):
        callback = Callback()
        copy_version(client, MODEL, "v1", target, "released/llama", version=version, callback=callback)
        assert callback.value == callback.size == sum(map(len, FILES.values()))


def test_new_name(client: FsspecStorageClient, target: FsspecStorageClient) -> None:
    """A copy may have another name, also in the same model."""
    assert copy_version(client, MODEL, "v1", target, MODEL, version="v2").name == "v2"
    assert verify(target, MODEL, "v2").digest == digest_of(FILES)


def test_other_content(client: FsspecStorageClient, target: FsspecStorageClient, tmp_path: Path) -> None:
    """A version of the same name with other files is not replaced."""
    other = publish(target, write_folder(tmp_path / "other", {"f": b"1"}), "released/llama", version="v1")
    with pytest.raises(ObjectExistsError, match="other files"):
        copy_version(client, MODEL, "v1", target, "released/llama")
    assert resolve(target, "released/llama", "v1") == other


@pytest.mark.parametrize("damage", ["changed", "truncated", "missing"])
def test_damaged_source(client: FsspecStorageClient, target: FsspecStorageClient, damage: str) -> None:
    """A damaged or missing file of the version is an error, and the copy does not appear."""
    key = model_of(client, MODEL).key(f"{DATA}/weights/1.bin")
    if damage == "missing":
        client.store.delete(key)
    else:
        store_bytes(client.store, key, b"\x03" * (100_000 if damage == "changed" else 5))
    with pytest.raises(IntegrityError, match=r"1\.bin|is missing"):
        copy_version(client, MODEL, "v1", target, "released/llama")
    assert list(list_versions(target, "released/llama")) == []


def test_deleted_meanwhile(
    client: FsspecStorageClient, target: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says that the version was deleted while it was copied."""

    def deleting(*args: object) -> None:
        enter(*args)  # type: ignore[arg-type]  # the arguments of the original
        delete_version(client, MODEL, "v1")
        client.store.delete(model_of(client, MODEL).key(f"{DATA}/weights/1.bin"))

    monkeypatch.setattr(copying, "enter", deleting)
    with pytest.raises(ObjectNotFoundError, match="was deleted"):
        copy_version(client, MODEL, "v1", target, "released/llama")


def test_resumed(client: FsspecStorageClient, target: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that failed goes on with the files that are there."""
    opened: list[str] = []
    original = copying._CopiedFile.opened

    def failing(self: copying._CopiedFile, details: object) -> object:
        opened.append(self.entry.path)
        if self.entry.path == "weights/2.bin" and opened.count(self.entry.path) == 1:
            raise StorageUnavailableError("down")
        return original(self, details)  # type: ignore[arg-type]  # the arguments of the original

    monkeypatch.setattr(copying._CopiedFile, "opened", failing)
    with pytest.raises(StorageUnavailableError):
        copy_version(client, MODEL, "v1", target, "released/llama")
    there = keys_of(model_of(target, "released/llama"), "data/")
    before = len(opened)
    copy_version(client, MODEL, "v1", target, "released/llama")
    assert len(opened) - before == len(FILES) - len(there)


def test_scratch_is_bounded(client: FsspecStorageClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that pass through this machine at a time are few bytes, or one file."""
    monkeypatch.setattr(copying, "_SCRATCH", 150_000)
    model, sizes = model_of(client, MODEL), list[list[int]]()
    manifest = resolved(model, "v1", "test")
    with stored_tree(model, manifest, "test") as files:
        for batch in copying._CopiedTree(model, manifest, files).batches(1000, files.details):
            sizes.append([each.entry.size for each in batch])
    assert sizes == [[2, 100_000], [100_000]]
