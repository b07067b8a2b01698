"""Transfers between folders of which one lies in the other change no file that they read, whatever the URLs are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import storage_client_from_url
from gllm_storage.errors import FolderError
from gllm_storage.folders.entries import StoredFolder
from gllm_storage.folders.transfer import Options, transfer
from gllm_storage.memory.store import MemoryStore
from tests.unit.folders.conftest import stored

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.folders import FolderResult
    from gllm_storage.fsspec_client import FsspecStorageClient

REFUSED = "one folder lies in the other, and files of the source would be replaced or deleted"
NESTED = ["a/x", "a/b/x", "a/b/b/x"]


class OtherName(MemoryStore):
    """The same objects, under another URL: as an S3 store at another name of its endpoint."""

    place = "memory of another name"

    def url(self, key: str) -> str:
        return f"memory://other-name/{key}"


@pytest.fixture(params=["memory", "file"])
def nested(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    """A client with files whose content is their name."""
    made: Any = (
        storage_client_from_url(f"file://{tmp_path}/store") if request.param == "file" else request.getfixturevalue("client")
    )
    for key in NESTED:
        made.upload(key.encode(), key)
    found: FsspecStorageClient = made
    return found


def everything(source: StoredFolder, target: StoredFolder, **options: Any) -> FolderResult:
    """Transfer as ``cp -r`` and ``mv -r``."""
    return transfer(source, target, Options(everything=True, on_error="collect", **options))


def content(client: FsspecStorageClient) -> dict[str, str]:
    """The content of each key."""
    return {key: client.open(key, "rb").read().decode() for key in stored(client)}


def other_name(client: FsspecStorageClient, prefix: str) -> StoredFolder:
    """A folder of a client in memory under another URL."""
    found = vars(client.store)
    return StoredFolder(OtherName(found["_filesystem"], found["_base"].rstrip("/")), prefix)


@pytest.mark.parametrize("removes", [False, True], ids=["cp", "mv"])
def test_upwards(nested: FsspecStorageClient, removes: bool) -> None:
    """A target that is also a source is refused before anything moves; other targets above the source are not."""
    store = nested.store
    with pytest.raises(FolderError, match=f"{REFUSED}, such as 'x'; nothing was changed"):
        everything(StoredFolder(store, "a/b/"), StoredFolder(store, "a/"), removes=removes)
    assert content(nested) == {key: key for key in NESTED}
    result = everything(StoredFolder(store, "a/b/"), StoredFolder(store, ""), removes=removes)
    assert result.transferred == 2
    assert {key: name for key, name in content(nested).items() if not key.startswith("a/")} == {
        "x": "a/b/x",
        "b/x": "a/b/b/x",
    }


def test_moved_version(nested: FsspecStorageClient) -> None:
    """``mv -r`` does not move a file that was replaced after the plan was made."""
    store = nested.store
    replace = lambda _plan: nested.upload(b"other content", "a/b/x")  # noqa: E731 - short
    with pytest.raises(FolderError, match="changed after the plan was made, so it was not moved") as caught:
        everything(StoredFolder(store, "a/"), StoredFolder(store, "c/"), removes=True, began=replace)
    assert str(caught.value).count("Repeat the call") == 1
    assert content(nested) == {"c/x": "a/x", "c/b/b/x": "a/b/b/x", "a/b/x": "other content"}


def test_delete_by_other_name(client: FsspecStorageClient) -> None:
    """`sync_dir` with `delete` keeps its source where the target is the same store under another URL."""
    for key in ("a/b/y", "a/b/z", "a/old"):
        client.upload(key.encode(), key)
    before = stored(client)
    for source, target in (("a/b/", "a/"), ("a/", "a/b/"), ("", "a/")):
        with pytest.raises(FolderError, match=REFUSED):
            transfer(StoredFolder(client.store, source), other_name(client, target), Options(), delete=True)
        with pytest.raises(FolderError, match=REFUSED):
            transfer(other_name(client, source), StoredFolder(client.store, target), Options(), delete=True)
    assert stored(client) == before


def test_replaced_by_other_name(client: FsspecStorageClient) -> None:
    """A file of the source is not replaced under another URL; ``mv`` does not delete the only object."""
    for key in NESTED:
        client.upload(key.encode(), key)
    for removes in (False, True):
        with pytest.raises(FolderError, match=REFUSED):
            everything(StoredFolder(client.store, "a/b/"), other_name(client, "a/"), removes=removes)
    with pytest.raises(FolderError, match=REFUSED):
        everything(StoredFolder(client.store, "a/"), other_name(client, "a/"), removes=True)
    with pytest.raises(FolderError, match=REFUSED):
        transfer(StoredFolder(client.store, "a/b/"), other_name(client, "a/"), Options())
    assert content(client) == {key: key for key in NESTED}


def test_mirror(client: FsspecStorageClient) -> None:
    """Another store with the same keys is a target, also of deletions and of ``mv``."""
    other: Any = storage_client_from_url("memory://mirror-of-overlap")
    for key in NESTED:
        client.upload(key.encode(), key)
        other.upload(key.upper().encode(), key)
    result = transfer(StoredFolder(client.store, "a/b/"), StoredFolder(other.store, "a/"), Options(), delete=True)
    assert (result.transferred, result.deleted) == (2, 1)
    everything(StoredFolder(client.store, "a/"), StoredFolder(other.store, "a/"), removes=True)
    assert content(other) == {key: key for key in NESTED}
    assert stored(client) == set()
