"""Keys that end with ``/`` below a folder: recursive methods take them along, or refuse them; they never leave them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import StorageError
from tests.conftest import make_rig
from tests.rig import server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers
    from tests.rig import Rig

CONTENTS = {"": b"", "a": b"a", "b": b"b", "e/": b"", "sub/": b"content", "sub/in": b"in"}
"""A folder with its marker, a file, an empty folder, and a key that ends with a slash and has content."""


@pytest.fixture(params=["ministack", "ceph", "azurite", "gcs-fake"])
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each cloud, and for S3 both kinds of servers."""
    return make_rig(request.param, request)


@pytest.fixture
def tree(rig: Rig) -> tuple[Any, str]:
    """The filesystem, and the path of a folder ``x`` with `CONTENTS`."""
    for name, content in CONTENTS.items():
        rig.second.put(rig.key(f"x/{name}"), content)
    return rig.client().filesystem, f"{rig.base}{rig.key('x')}"


def contents(rig: Rig, folder: str) -> dict[str, bytes]:
    keys = rig.keys()
    found = [each for each in keys if each.startswith(f"{folder}/")]
    return {each.removeprefix(f"{folder}/"): rig.second.get(rig.key(each)) for each in found}


@pytest.mark.parametrize("end", ["", "/"])
def test_rm_all(rig: Rig, tree: tuple[Any, str], end: str) -> None:
    """A recursive `rm` leaves no key."""
    fs, path = tree
    fs.rm(f"{path}{end}", recursive=True)
    assert rig.keys() == []


def test_copy_all(rig: Rig, tree: tuple[Any, str]) -> None:
    """A recursive `copy` takes all keys along, with their content."""
    fs, path = tree
    fs.copy(path, f"{path}2", recursive=True)
    assert contents(rig, "x2") == contents(rig, "x") == CONTENTS


def test_mv_all(rig: Rig, tree: tuple[Any, str]) -> None:
    """A recursive `mv` takes all keys along, and leaves none."""
    fs, path = tree
    fs.mv(path, f"{path}2", recursive=True)
    assert contents(rig, "x2") == CONTENTS
    assert contents(rig, "x") == {}


def test_find_names(tree: tuple[Any, str]) -> None:
    """`find` names the keys exactly, so that `cat_file` reads each."""
    fs, path = tree
    assert {name: fs.cat_file(name) for name in fs.find(path)} == {
        f"{path}/{name}": content for name, content in CONTENTS.items()
    }


@pytest.mark.parametrize("end", ["", "/"])
def test_get_refuses(tree: tuple[Any, str], tmp_path: Path, end: str) -> None:
    """A recursive `get` raises an error with the URL of a key with content, and downloads nothing."""
    fs, path = tree
    with pytest.raises(StorageError, match="ends with '/' and has 7 bytes") as raised:
        fs.get(f"{path}{end}", str(tmp_path / "local"), recursive=True)
    assert raised.value.details.url.endswith("x/sub/")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == []


def test_get_markers(rig: Rig, tree: tuple[Any, str], tmp_path: Path) -> None:
    """Empty keys with a slash become folders."""
    fs, path = tree
    rig.second.put(rig.key("x/sub/"), b"")
    fs.get(path, str(tmp_path / "local"), recursive=True)
    found = {str(each.relative_to(tmp_path)): each.is_dir() for each in tmp_path.rglob("*")}
    assert found == {
        "local": True,
        "local/a": False,
        "local/b": False,
        "local/e": True,
        "local/sub": True,
        "local/sub/in": False,
    }


def test_maxdepth(rig: Rig, tree: tuple[Any, str], tmp_path: Path) -> None:
    """With `maxdepth`, `rm`, `mv`, `copy` and `get` leave deeper keys where they are."""
    fs, path = tree
    deep = {name: CONTENTS[name] for name in ("e/", "sub/", "sub/in")}
    fs.get(f"{path}/", f"{tmp_path}/local/", recursive=True, maxdepth=1)
    assert sorted(each.name for each in tmp_path.rglob("*") if each.is_file()) == ["a", "b"]
    fs.copy(f"{path}/", f"{path}2/", recursive=True, maxdepth=1)
    assert contents(rig, "x2").keys() - {""} == {"a", "b"}
    fs.mv(f"{path}/", f"{path}3/", recursive=True, maxdepth=1)
    assert contents(rig, "x3").keys() - {""} == {"a", "b"}
    rig.second.put(rig.key("x/a"), b"a")
    rig.second.put(rig.key("x/b"), b"b")
    fs.rm(path, recursive=True, maxdepth=1)
    assert {name: content for name, content in contents(rig, "x").items() if name} == deep


def test_rm_hierarchical(servers: Servers) -> None:
    """A recursive `rm` deletes the folders of a hierarchical namespace on Azure, which are blobs with a mark."""
    rig = server_rig("azurite", servers.get("azurite"))
    container: Any = rig.microsoft.container
    for name in ("f", "f/g", "f/empty"):
        container.upload_blob(rig.key(name), b"", metadata={"hdi_isfolder": "true"})
    rig.second.put(rig.key("f/g/a"), b"a")
    fs, path = rig.client().filesystem, f"{rig.base}{rig.key('f')}"
    assert [name.removeprefix(path) for name in fs.find(path)] == ["/g/a"]
    deleted = [name.removeprefix(path) for name in fs.rm(path, recursive=True)]
    assert (deleted[-2:], sorted(deleted)) == (["/g", ""], ["", "/empty", "/g", "/g/a"])
    assert rig.keys() == []


def test_rmdir_not_empty(servers: Servers) -> None:
    """`rmdir` and `rm` without `recursive` delete no container with blobs on Azure."""
    rig = server_rig("azurite", servers.get("azurite"))
    rig.second.put(rig.key("a"), b"a")
    fs = rig.client().filesystem
    for delete in (fs.rmdir, fs.rm):
        with pytest.raises(OSError, match="not empty"):
            delete(rig.base.strip("/").partition("/")[0])
    assert rig.keys() == ["a"]
