"""Paths that end with slashes: they name exactly that key, or are refused; never the object of another name."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import make_rig
from tests.rig import TRAITS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.rig import Rig

RIGS = ["memory", "file", "ministack", "ceph", "azurite", "gcs-fake"]
KEEPING = [name for name in RIGS if name != "azurite" and TRAITS[name].any_key and name != "memory"]
"""Stores that keep a key with slashes at its end."""
OTHER = b"the object of another name"

READS: dict[str, Callable[[Any, str, Path], object]] = {
    "cat_file": lambda fs, path, _: fs.cat_file(path),
    "cat": lambda fs, path, _: fs.cat(path),
    "cat-list": lambda fs, path, _: fs.cat([path])[path],
    "cat_ranges": lambda fs, path, _: fs.cat_ranges([path], [0], [5], on_error="raise"),
    "open": lambda fs, path, _: fs.open(path).read(),
    "head": lambda fs, path, _: fs.head(path),
    "get": lambda fs, path, local: fs.get(path, str(local)),
    "get_file": lambda fs, path, local: fs.get_file(path, str(local)),
    "cp_file": lambda fs, path, _: fs.cp_file(path, f"{path.rstrip('/')}-copy"),
    "copy": lambda fs, path, _: fs.copy(path, f"{path.rstrip('/')}-copy"),
    "mv": lambda fs, path, _: fs.mv(path, f"{path.rstrip('/')}-copy"),
    "rm_file": lambda fs, path, _: fs.rm_file(path),
    "rm": lambda fs, path, _: fs.rm(path),
    "rm-r": lambda fs, path, _: fs.rm(path, recursive=True),
    "info": lambda fs, path, _: fs.info(path)["size"],
    "size": lambda fs, path, _: fs.size(path),
}


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each provider, and for S3 both kinds of servers."""
    return make_rig(request.param, request)


def filesystem_of(rig: Rig, name: str) -> tuple[Any, str]:
    client = rig.client()
    path = f"{rig.base}{rig.key(name)}" if rig.provider != "memory" else f"/{rig.base}{rig.key(name)}"
    return client.filesystem, path


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_never_another(rig: Rig, tmp_path: Path, slashes: str) -> None:
    """With an object ``w/t`` alone, each method refuses ``w/t/`` and ``w/t//``, and changes nothing."""
    rig.second.put(rig.key("w/t"), OTHER)
    fs, path = filesystem_of(rig, "w/t")
    for name, read in READS.items():
        local = tmp_path / name
        try:
            found = read(fs, f"{path}{slashes}", local)
        except (ValueError, OSError):
            pass
        else:
            assert found in (None, [], {}), name
        assert not local.is_file(), name
        assert (rig.keys(), rig.second.get(rig.key("w/t"))) == (["w/t"], OTHER), name
    assert not fs.exists(f"{path}{slashes}")
    assert not fs.isfile(f"{path}{slashes}")
    assert fs.isfile(path)


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_writes_never_another(rig: Rig, tmp_path: Path, slashes: str) -> None:
    """No write to ``w/t/`` replaces ``w/t``."""
    rig.second.put(rig.key("w/t"), OTHER)
    fs, path = filesystem_of(rig, "w/t")
    (tmp_path / "file").write_bytes(b"new")
    writes: list[Callable[[], object]] = [
        lambda: fs.pipe_file(f"{path}{slashes}", b"new"),
        lambda: fs.pipe({f"{path}{slashes}": b"new"}),
        lambda: fs.put_file(str(tmp_path / "file"), f"{path}{slashes}"),
        lambda: fs.open(f"{path}{slashes}", "wb").close(),
        lambda: fs.cp_file(path, f"{path}{slashes}"),
    ]
    for write in writes:
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            write()
        assert rig.second.get(rig.key("w/t")) == OTHER


@pytest.mark.parametrize("rig", KEEPING, indirect=True)
def test_exactly_that_key(rig: Rig, tmp_path: Path) -> None:
    """With the objects ``t``, ``t/`` and ``t//``, the methods of one object use the named one."""
    for slashes in ("", "/", "//"):
        rig.second.put(rig.key(f"w/t{slashes}"), f"t{slashes}".encode())
    fs, path = filesystem_of(rig, "w/t")
    for slashes in ("", "/", "//"):
        content = f"t{slashes}".encode()
        assert fs.cat_file(f"{path}{slashes}") == content
        assert fs.cat_ranges([f"{path}{slashes}"], [0], [9]) == [content]
        fs.get_file(f"{path}{slashes}", str(tmp_path / "local"))
        assert (tmp_path / "local").read_bytes() == content
        fs.cp_file(f"{path}{slashes}", f"{path}-copy{slashes}")
        assert rig.second.get(rig.key(f"w/t-copy{slashes}")) == content
    fs.rm_file(f"{path}//")
    assert rig.keys() == ["w/t", "w/t-copy", "w/t-copy/", "w/t-copy//", "w/t/"]
    fs.rm_file(f"{path}/")
    assert rig.second.get(rig.key("w/t")) == b"t"


def test_folder_with_slash(rig: Rig, tmp_path: Path) -> None:
    """One slash names a folder where fsspec takes folders, also if an object has its name."""
    rig.second.put(rig.key("w/d/x"), b"x")
    fs, path = filesystem_of(rig, "w/d")
    assert fs.isdir(f"{path}/")
    assert fs.exists(f"{path}/")
    fs.get(f"{path}/", f"{tmp_path}/got/", recursive=True)
    assert (tmp_path / "got" / "x").read_bytes() == b"x"
    fs.copy(f"{path}/", f"{path}2/", recursive=True)
    beside = rig.traits.any_key and rig.provider != "memory"  # fsspec's memory filesystem refuses the folder then
    if beside:
        rig.second.put(rig.key("w/d"), OTHER)
    fs.rm(f"{path}/", recursive=True)
    assert rig.keys() == [*(["w/d"] if beside else []), "w/d2/x"]
