"""``mv -r``: a source file is deleted when its copy is complete, and never before its other names were read."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import storage_client_from_url
from gllm_storage.errors import FolderError
from gllm_storage.folders import execution, other_names
from gllm_storage.folders.entries import LocalFolder, StoredFolder
from gllm_storage.folders.transfer import Options, transfer
from tests.unit.folders.conftest import stored, write

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.folders.entries import Entry, Folder
    from gllm_storage.folders.execution import FolderResult
    from gllm_storage.folders.other_names import LocalMove
    from gllm_storage.fsspec_client import FsspecStorageClient

DIRECTIONS = ("local to store", "file to store", "file to local", "file to file")


def end(path: Path) -> StoredFolder:
    """A folder of the provider ``file``."""
    client: Any = storage_client_from_url("file:///")
    return StoredFolder(client.store, f"{str(path).strip('/')}/", "files")


def moved(source: Path, client: FsspecStorageClient, copy: Path, direction: str, **options: Any) -> FolderResult:
    """Move a folder, as ``mv -r`` does."""
    copy.mkdir(exist_ok=True)
    one: Folder = LocalFolder(str(source), "files") if direction.startswith("local") else end(source)
    targets: dict[str, Folder] = {
        "store": StoredFolder(client.store, "m/"),
        "local": LocalFolder(str(copy)),
        "file": end(copy),
    }
    given: dict[str, Any] = {"everything": True, "removes": True, "learns": False, "on_error": "collect", **options}
    return transfer(one, targets[direction.rpartition(" ")[2]], Options(**given))


def arrived(client: FsspecStorageClient, copy: Path) -> dict[str, bytes]:
    """The files at the target."""
    found = {key.removeprefix("m/"): client.open(key, "rb").read() for key in stored(client)}
    return found or {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}


def hard_links(folder: Path) -> None:
    """Two files with three names, and one of its own."""
    write(folder / "a", b"first")
    os.link(folder / "a", folder / "sub-z")
    os.link(folder / "a", folder / "z")
    write(folder / "m", b"other")


def model_cache(folder: Path) -> None:
    """The layout of the cache of Hugging Face, with a link to a link."""
    write(folder / "blobs" / "abc", b"weights")
    write(folder / "snapshots" / "r" / "note", b"note")
    (folder / "snapshots" / "r" / "model.bin").symlink_to("../../blobs/abc")
    (folder / "alias").symlink_to("snapshots/r/model.bin")
    (folder / "zz").symlink_to("alias")


@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize(("direction", "make"), list(itertools.product(DIRECTIONS, [hard_links, model_cache])))
def test_other_names(  # noqa: PLR0917 - fixtures and cases
    client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str, make: Any, batch: int
) -> None:
    """Hard links, and links to files of the source, all arrive."""
    monkeypatch.setattr(execution, "_BATCH_FILES", batch)
    make(tmp_path / "run")
    before = {
        str(path.relative_to(tmp_path / "run")): path.read_bytes()
        for path in (tmp_path / "run").rglob("*")
        if path.is_file()
    }
    moved(tmp_path / "run", client, tmp_path / "copy", direction)
    assert arrived(client, tmp_path / "copy") == before
    assert not [path for path in (tmp_path / "run").rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_link_that_fails(client: FsspecStorageClient, tmp_path: Path, direction: str) -> None:
    """A file stays if a link to it could not be moved; other files are moved."""
    model_cache(tmp_path / "run")
    client.upload(b"other", "m/snapshots/r/model.bin")
    write(tmp_path / "copy" / "snapshots" / "r" / "model.bin", b"other")
    with pytest.raises(FolderError, match=r"blobs/abc was not moved, because another name of this file"):
        moved(tmp_path / "run", client, tmp_path / "copy", direction, exclusive=True)
    assert (tmp_path / "run" / "snapshots" / "r" / "model.bin").read_bytes() == b"weights"
    assert not (tmp_path / "run" / "snapshots" / "r" / "note").exists()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_changed_name(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str) -> None:
    """A file with several names that changes after its copy is not deleted."""
    hard_links(tmp_path / "run")
    deleted, rewritten = other_names.LocalMove._delete, iter([True])

    def rewritten_first(move: LocalMove, file: Entry) -> Exception | None:
        if next(rewritten, False):
            (tmp_path / "run" / "a").write_bytes(b"newer")
        return deleted(move, file)

    monkeypatch.setattr(other_names.LocalMove, "_delete", rewritten_first)
    if direction == "file to file":  # these are renamed
        assert moved(tmp_path / "run", client, tmp_path / "copy", direction).transferred == 4
        assert os.path.samefile(tmp_path / "copy" / "a", tmp_path / "copy" / "z")
        return
    with pytest.raises(FolderError, match="changed after the plan was made, so it was not deleted"):
        moved(tmp_path / "run", client, tmp_path / "copy", direction)
    assert {path.read_bytes() for path in (tmp_path / "run").iterdir()} == {b"newer"}
