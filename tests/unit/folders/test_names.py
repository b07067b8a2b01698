"""Names that are refused before anything moves."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import FolderError
from gllm_storage.files.names import FoldedClashes, fold_of, fold_of_disk
from gllm_storage.folders import plan
from gllm_storage.folders.names import FileFolderClashes

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient


ESCAPING = ["../out.bin", "a/../../out.bin", "a//b", "/etc/passwd", "./a", "a/./b", "long" * 64, "nul\0"]
TWINS = {"case": ("Model.bin", "model.bin"), "folder": ("A/x", "a/y"), "form": ("caf\u00e9", "cafe\u0301")}


@pytest.mark.parametrize("name", ESCAPING)
def test_escaping_name(client: FsspecStorageClient, tmp_path: Path, name: str) -> None:
    """A remote name that would leave the local folder, or that no disk has, is refused, and nothing is written."""
    client.upload(b"good", "v1/good.bin")
    client.filesystem.store[f"/{client.store.url('').removeprefix('memory://')}v1/{name}"] = client.filesystem.store[
        f"/{client.store.url('').removeprefix('memory://')}v1/good.bin"
    ]
    with pytest.raises(FolderError) as caught:
        client.download_dir("v1", tmp_path / "target")
    assert repr(name) in str(caught.value)
    assert not (tmp_path / "target").exists()
    assert client.download_dir("v1", tmp_path / "target", files=["good.bin"]).transferred == 1


@pytest.mark.parametrize("between", ["", "a-b", "a.b", "a!"])
def test_file_and_folder(client: FsspecStorageClient, tmp_path: Path, between: str) -> None:
    """A file that is also a folder is refused, even if other names are between them."""
    for name in filter(None, ["a", "a/b", between]):
        client.upload(b"content", f"v1/{name}")
    with pytest.raises(FolderError, match="'a/b': 'a' is a file and would be a folder"):
        client.download_dir("v1", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_many_folders(client: FsspecStorageClient, tmp_path: Path) -> None:
    """Folders in folders may be more than the frames that Python has."""
    client.upload(b"content", f"v1/{'a/' * 500}b")
    assert client.copy_dir("v1", "v2", exclude=["*.tmp"]).transferred == 1
    assert client.download_dir("v1", tmp_path / "target", include=["b"]).transferred == 1
    assert client.delete_dir("v2", exclude=["*.tmp"]).deleted == 1
    folder = tmp_path / "source"
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in [folder.name, *["d"] * 1200]:
            os.mkdir(name, dir_fd=descriptor)
            below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))
    finally:
        os.close(descriptor)
    try:
        with pytest.raises(FolderError, match="bytes long in UTF-8; the limit is 1024"):
            client.upload_dir(folder, "v3", exclude=["*.tmp"])
    finally:
        subprocess.run(["rm", "-r", folder], check=True)  # pytest's own removal is a recursion


def test_folder_in_target(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A file cannot replace an empty folder of the target, or one with files."""
    client.upload(b"content", "v1/a")
    (tmp_path / "target" / "a").mkdir(parents=True)
    with pytest.raises(FolderError, match="it is a folder in the target"):
        client.download_dir("v1", tmp_path / "target")


@pytest.mark.parametrize("twins", TWINS.values(), ids=TWINS.keys())
def test_twins(client: FsspecStorageClient, tmp_path: Path, twins: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that one disk cannot hold both are refused there, and transferred elsewhere."""
    for name in twins:
        client.upload(b"content", f"v1/{name}")
    assert client.download_dir("v1", tmp_path / "target").transferred == 2
    monkeypatch.setattr(plan, "fold_of_disk", lambda _: fold_of(ignores_case=True, ignores_form=True))
    with pytest.raises(FolderError, match="on the disk of the target it is the same as"):
        client.download_dir("v1", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_twin_of_target(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is one with a name of the target is refused: a deletion of the second would delete the first."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "Model.bin").write_bytes(b"old")
    client.upload(b"content", "v1/model.bin")
    monkeypatch.setattr(plan, "fold_of_disk", lambda _: fold_of(ignores_case=True, ignores_form=False))
    with pytest.raises(FolderError, match=r"the same as 'Model.bin'"):
        client.sync_dir(client.url("v1"), tmp_path / "target", delete=True)
    assert (tmp_path / "target" / "Model.bin").read_bytes() == b"old"


def test_excluded_twin(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is one with a file of the target is refused also if the filter leaves that file out."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "Model.bin").write_bytes(b"old")
    client.upload(b"content", "v1/model.bin")
    monkeypatch.setattr(plan, "fold_of_disk", lambda _: fold_of(ignores_case=True, ignores_form=False))
    for options in ({"include": ["model.bin"]}, {"exclude": ["Model.bin"]}, {"files": ["model.bin"]}):
        with pytest.raises(FolderError, match=r"the same as 'Model.bin'"):
            client.download_dir("v1", tmp_path / "target", **options)  # type: ignore[arg-type]  # an option by its name
    (tmp_path / "target" / "Model.bin").rename(tmp_path / "target" / "other.bin")
    result = client.sync_dir(client.url("v1"), tmp_path / "target", delete=True, include=["model.bin"])
    assert (result.transferred, result.deleted) == (1, 0)


def test_fold_of_this_disk(tmp_path: Path) -> None:
    """The probe finds how the disk compares names, and leaves nothing behind."""
    (tmp_path / "Probe").touch()
    found = fold_of_disk(str(tmp_path / "missing" / "folder"))
    assert (found is None) == (not (tmp_path / "PROBE").exists())
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".gllm")] == []


def test_impossible_key(client: FsspecStorageClient, local: Path) -> None:
    """A local name that no URL can have is refused before anything is sent."""
    (local / "a::b").touch()
    (local / "long").mkdir()
    with pytest.raises(FolderError, match=r"'a::b': .* contains '::'"):
        client.upload_dir(local, "v1")
    assert list(client.list_files()) == []


def test_many_clashes() -> None:
    """The stack of beginnings stays short, however many paths there are."""
    clashes = FileFolderClashes()
    assert not any(clashes.find(f"{number:06}.bin", ours=True) for number in range(10_000))
    assert len(clashes._beginnings) == 1


def test_many_folded() -> None:
    """Twins are found far from each other."""
    clashes = FoldedClashes(str.casefold)
    assert not any(clashes.find(f"Folder/{number:06}.bin", ours=True) for number in range(30_000))
    assert clashes.find("folder/000001.BIN", ours=True) == "Folder"
    clashes.close()
