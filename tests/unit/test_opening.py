"""`open` and `pipe_file` of a filesystem, with fsspec's compression and transactions, and transfers of folders."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import ConflictCheckUnsupportedError, ObjectExistsError
from gllm_storage.files.target import is_temporary

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Rig

LINES = "step,loss\n" * 1000


def path_of(rig: Rig, remote_path: str) -> str:
    """Return the path of an object in the client's filesystem."""
    return rig.base + rig.key(remote_path)


@pytest.mark.parametrize("compression", ["gzip", "bz2", "xz"])
def test_compression(compression: str, rig: Rig) -> None:
    """Text that is written with compression is stored compressed and read back."""
    client = rig.client()
    with client.open("log.csv", "w", compression=compression) as file:
        file.write(LINES)
    assert len(rig.second.get(rig.key("log.csv"))) < len(LINES)
    with client.open("log.csv", "r", compression=compression) as file:
        assert file.read() == LINES


def _fail_half_way(file: Any, mode: str) -> None:
    file.write(b"half" if "b" in mode else "half")
    raise ZeroDivisionError


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "gzip"])
@pytest.mark.parametrize("mode", ["w", "wb", "x", "xb"])
def test_exception_in_a_block(mode: str, options: dict[str, str], creating_rig: Rig) -> None:
    """An exception inside the block stores nothing."""
    file = creating_rig.client().filesystem.open(path_of(creating_rig, "a"), mode, **options)
    with pytest.raises(ZeroDivisionError), file:
        _fail_half_way(file, mode)
    assert creating_rig.keys() == []


@pytest.mark.parametrize("mode", ["w", "wb"])
def test_dropped_file(mode: str, rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is dropped unclosed stores nothing and logs a warning."""
    file = rig.client().filesystem.open(path_of(rig, "a"), mode)
    file.write("half" if mode == "w" else b"half")
    del file
    gc.collect()
    assert rig.keys() == []
    assert "dropped unclosed: nothing was stored" in caplog.text


def test_transaction(rig: Rig) -> None:
    """A transaction stores all files at its end."""
    filesystem = rig.client().filesystem
    with filesystem.transaction:
        for name in ("a", "b"):
            with filesystem.open(path_of(rig, name), "wb") as file:
                file.write(name.encode())
        assert [key for key in rig.keys() if not is_temporary(key)] == []  # noqa: SIM118 - a method of the rig
    assert rig.keys() == ["a", "b"]
    assert rig.second.get(rig.key("b")) == b"b"


def test_exception_in_transaction(rig: Rig) -> None:
    """An exception inside a transaction stores nothing."""
    filesystem = rig.client().filesystem

    def fail() -> None:
        with filesystem.transaction:
            with filesystem.open(path_of(rig, "a"), "wb") as file:
                file.write(b"whole")
            with filesystem.open(path_of(rig, "b"), "wb") as file:
                _fail_half_way(file, "wb")

    with pytest.raises(ZeroDivisionError):
        fail()
    assert rig.keys() == []


def test_create_in_transaction(creating_rig: Rig) -> None:
    """An exclusive create inside a transaction is decided at its end."""
    filesystem = creating_rig.client().filesystem

    def create() -> None:
        with filesystem.transaction:
            with filesystem.open(path_of(creating_rig, "a"), "xb") as file:
                file.write(b"ours")
            creating_rig.second.put(creating_rig.key("a"), b"theirs")

    with pytest.raises(ObjectExistsError):
        create()
    assert creating_rig.second.get(creating_rig.key("a")) == b"theirs"


@pytest.mark.parametrize(("mode", "options"), [("wb", {}), ("w", {}), ("w", {"compression": "gzip"})], ids=str)
def test_open_file_in_transaction(mode: str, options: dict[str, str], creating_rig: Rig) -> None:
    """A transaction does not store a file that was not closed."""
    filesystem = creating_rig.client().filesystem
    opened = []

    def forget_to_close() -> None:
        with filesystem.transaction:
            opened.append(filesystem.open(path_of(creating_rig, "a"), mode, **options))
            opened[0].write(b"some" if "b" in mode else "some")

    with pytest.raises(ValueError, match="not closed"):
        forget_to_close()
    assert creating_rig.keys() == []
    with suppress(ValueError):
        opened[0].close()
    assert creating_rig.keys() == []


def test_after_failed_transaction(creating_rig: Rig) -> None:
    """Writes after a failed transaction are stored."""
    filesystem = creating_rig.client().filesystem
    creating_rig.second.put(creating_rig.key("b"), b"theirs")

    def fail() -> None:
        with filesystem.transaction:
            for name, mode in (("a", "wb"), ("c", "wb")):
                with filesystem.open(path_of(creating_rig, name), mode) as file:
                    file.write(b"ours")
            creating_rig.client().delete_file("b")
            with filesystem.open(path_of(creating_rig, "b"), "xb") as file:
                file.write(b"ours")
            creating_rig.second.put(creating_rig.key("b"), b"theirs")
            with filesystem.open(path_of(creating_rig, "d"), "wb") as file:
                file.write(b"ours")

    with pytest.raises(ObjectExistsError):
        fail()
    assert [key for key in creating_rig.keys() if not is_temporary(key)] == ["a", "b", "c"]  # noqa: SIM118 - not a dict
    filesystem.pipe_file(path_of(creating_rig, "e"), b"later")
    assert creating_rig.second.get(creating_rig.key("e")) == b"later"


@pytest.mark.parametrize(("start", "end"), [(None, None), (0, 10), (5, None), (-7, None), (3, -3), (0, 10**9)])
def test_slices_of_cat_file(start: int | None, end: int | None, rig: Rig) -> None:
    """`cat_file` takes a start and an end as slices of bytes do."""
    content = LINES.encode()
    rig.second.put(rig.key("a"), content)
    assert rig.client().filesystem.cat_file(path_of(rig, "a"), start, end) == content[start:end]


def test_exclusive_pipe_file(creating_rig: Rig) -> None:
    """`pipe_file` creates an object exclusively with `mode="create"`."""
    filesystem = creating_rig.client().filesystem
    filesystem.pipe_file(path_of(creating_rig, "a"), b"first", mode="create")
    with pytest.raises(ObjectExistsError):
        filesystem.pipe_file(path_of(creating_rig, "a"), b"second", mode="create")
    assert creating_rig.second.get(creating_rig.key("a")) == b"first"
    filesystem.pipe_file(path_of(creating_rig, "a"), b"third")
    assert creating_rig.second.get(creating_rig.key("a")) == b"third"


def test_unsupported_create(careless_rig: Rig) -> None:
    """`pipe_file` and `open` refuse exclusive creates on a store without preconditions."""
    filesystem = careless_rig.client().filesystem
    with pytest.raises(ConflictCheckUnsupportedError):
        filesystem.pipe_file(path_of(careless_rig, "a"), b"first", mode="create")
    with pytest.raises(ConflictCheckUnsupportedError):
        filesystem.open(path_of(careless_rig, "a"), "xb")
    assert careless_rig.keys() == []


@pytest.mark.parametrize("call", ["put_file", "pipe_file"])
def test_unknown_mode(call: str, rig: Rig, tmp_path: Path) -> None:
    """An unknown mode is refused."""
    (tmp_path / "a").write_bytes(b"a")
    filesystem = rig.client().filesystem
    first, second = (str(tmp_path / "a"), path_of(rig, "a")) if call == "put_file" else (path_of(rig, "a"), b"a")
    with pytest.raises(ValueError, match="craete"):
        getattr(filesystem, call)(first, second, mode="craete")
    assert rig.keys() == []


@pytest.mark.parametrize("kind", ["memory", "file", "ministack", "ceph"])
def test_folder_round_trip(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A folder that is uploaded and downloaded keeps its structure."""
    from tests.conftest import make_rig

    rig = make_rig(kind, request)
    for name in ("x/a", "x/y/b"):
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(name)
    filesystem = rig.client().filesystem
    filesystem.put(f"{tmp_path}/here/", path_of(rig, "there/"), recursive=True)
    assert rig.keys() == ["there/x/a", "there/x/y/b"]
    filesystem.get(path_of(rig, "there/"), f"{tmp_path}/back/", recursive=True)
    assert (tmp_path / "back" / "x" / "y" / "b").read_text() == "x/y/b"
