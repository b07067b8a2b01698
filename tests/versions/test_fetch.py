"""`fetch` and `verify`: complete and verified, or not at all."""

from __future__ import annotations

import fcntl
import json
import os
import tracemalloc
import unicodedata
from collections.abc import Callable  # noqa: TC003 - in a variable of the module
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from fsspec.callbacks import Callback

from gllm_storage import LocalStorageClient
from gllm_storage.errors import (
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from gllm_storage.versions import fetching
from gllm_storage.versions.aliases import set_alias
from gllm_storage.versions.catalog import resolve
from gllm_storage.versions.deletion import delete_version
from gllm_storage.versions.fetching import fetch
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.verification import verify
from tests.versions.support import MODEL, new_client, read_bytes, store_bytes, write_folder

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.versions.catalog import Version
    from gllm_storage.versions.layout import Model

FILES = {"config.json": b"{}", "weights/1.bin": b"\x01" * 5000, "weights/2.bin": b"\x02" * 5000, "empty": b""}


@pytest.fixture(params=["memory", "file"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecStorageClient:
    if request.param == "memory":
        return new_client()
    return LocalStorageClient({"root": str(tmp_path / "store")})


@pytest.fixture
def version(client: FsspecStorageClient, tmp_path: Path) -> Version:
    return publish(client, write_folder(tmp_path / "out", FILES), MODEL, version="v3")


def content(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
@pytest.mark.usefixtures("version")
def test_longest_name(client: FsspecStorageClient, tmp_path: Path, name: str) -> None:
    """A destination may have the longest name of the disk."""
    fetch(client, MODEL, "v3", tmp_path / name)
    assert content(tmp_path / name) == FILES


@pytest.mark.parametrize("change", [str.upper, lambda digest: digest[:19], lambda digest: f"{digest}0"])
def test_wrong_digest(client: FsspecStorageClient, version: Version, tmp_path: Path, change: Callable[[str], str]) -> None:
    """A text that looks like a digest is judged by the rule for digests, not by the one for names."""
    with pytest.raises(ValueError, match="is not a digest: 'sha256:' and 64"):
        fetch(client, MODEL, change(version.digest), tmp_path / "local")
    assert hash(version) == hash(resolve(client, MODEL, version.digest))


def test_digits_alone(client: FsspecStorageClient, version: Version, tmp_path: Path) -> None:
    """The digits of a digest may be a name; if they are none, the error tells how a digest begins."""
    with pytest.raises(ObjectNotFoundError, match="a digest begins with 'sha256:'"):
        fetch(client, MODEL, version.digest[7:], tmp_path / "local")


@pytest.mark.parametrize(("path", "told"), [("", "is empty"), ("a\0b", "no path of this machine")])
@pytest.mark.usefixtures("version")
def test_wrong_directory(client: FsspecStorageClient, path: str, told: str) -> None:
    """A text that names no directory, as a variable that is not set, is refused; `verify` does not call it a wrong copy."""
    calls: list[Callable[[], object]] = [
        lambda: fetch(client, MODEL, "v3", path),
        lambda: fetch(client, MODEL, "v3", cache=path),
        lambda: verify(client, MODEL, "v3", path),
        lambda: publish(client, path, MODEL, version="v4"),
        lambda: client.upload_dir(path, "copy"),
        lambda: client.download_dir(MODEL, path),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=told):
            call()


@pytest.mark.parametrize("include", [5, [5], b"*", [None]])
@pytest.mark.usefixtures("version")
def test_wrong_include(client: FsspecStorageClient, tmp_path: Path, include: Any) -> None:
    """Patterns of another type are refused before anything is made."""
    with pytest.raises(ValueError, match="include"):
        fetch(client, MODEL, "v3", tmp_path / "local", include=include)
    assert not (tmp_path / "local").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.usefixtures("version")
def test_appears_at_end(client: FsspecStorageClient, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A destination that appears at the last moment is a FileExistsError, too, and stays as it is."""
    real, local = os.rename, tmp_path / "local"

    def rename(source: str, target: str) -> None:
        if target == str(local):
            write_folder(local, {"f": b"x"}) if kind == "folder" else local.write_bytes(b"x")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(FileExistsError, match="The directory exists"):
        fetch(client, MODEL, "v3", local)
    assert local.is_file() or content(local) == {"f": b"x"}


@pytest.mark.parametrize("by", ["name", "alias", "digest"])
def test_fetched_directory(client: FsspecStorageClient, version: Version, tmp_path: Path, by: str) -> None:
    """A version, found by its name, an alias or its digest, is on this machine with all its files."""
    set_alias(client, MODEL, "latest", "v3")
    name = {"name": "v3", "alias": "latest", "digest": version.digest}[by]
    target = tmp_path / "new" / "local"
    assert fetch(client, MODEL, name, target) == version
    assert content(target) == FILES
    assert os.listdir(tmp_path / "new") == ["local"]
    assert verify(client, MODEL, name, target) == verify(client, MODEL, name) == version


@pytest.mark.usefixtures("version")
def test_some_files(client: FsspecStorageClient, tmp_path: Path) -> None:
    """Patterns choose files of a version; a pattern that matches none is refused."""
    fetch(client, MODEL, "v3", tmp_path / "a", include="*.bin")
    fetch(client, MODEL, "v3", tmp_path / "b", include=["config.json", "weights/1*"])
    assert set(content(tmp_path / "a")) == {"weights/1.bin", "weights/2.bin"}
    assert set(content(tmp_path / "b")) == {"config.json", "weights/1.bin"}
    with pytest.raises(ValueError, match="has no file that matches"):
        fetch(client, MODEL, "v3", tmp_path / "c", include="*.pt")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    "patterns",
    [["1.bin", "config.json"], ["/weights/1.bin", "/config.json"], ["weights/", "*.json"], ["{1.bin,*.json}"], ["**"]],
    ids=str,
)
def test_patterns_as_folders(client: FsspecStorageClient, tmp_path: Path, patterns: list[str]) -> None:
    """A pattern means the same for `fetch` as for `upload_dir`."""
    out = write_folder(tmp_path / "out", FILES)
    publish(client, out, MODEL, version="v1")
    client.upload_dir(out, "copy", include=patterns)
    copied = {info.url.removeprefix(f"{client.url('copy')}/") for info in client.list_files("copy")}
    fetch(client, MODEL, "v1", tmp_path / "local", include=patterns)
    assert set(content(tmp_path / "local")) == copied
    with pytest.raises(ValueError, match="stands alone"):
        fetch(client, MODEL, "v1", tmp_path / "other", include=["a]"])


@pytest.mark.usefixtures("version")
def test_existing_destination(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A destination that exists is not touched, whatever it is."""
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "folder", "link"):
        with pytest.raises(FileExistsError):
            fetch(client, MODEL, "v3", tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"mine"


def partial_folder(version: Version, target: Path) -> Path:
    return target.parent / f".{target.name}.{version.digest[7:23]}.gllm-fetch"


def test_resumed_fetch(
    client: FsspecStorageClient, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted fetch has left is kept if it is right, and replaced or removed if not."""
    left = partial_folder(version, tmp_path / "local")
    write_folder(left, {"weights/1.bin": FILES["weights/1.bin"], "weights/2.bin": b"\x03" * 5000, "other/junk": b"x"})
    (left / "config.json").symlink_to(tmp_path / "out" / "config.json")
    asked: list[str] = []
    read_many = client.store.read_many

    def watch(items: Any, *args: Any, **options: Any) -> Any:
        asked.extend(each.key.rpartition("-0/")[2] for each in items)
        return read_many(items, *args, **options)

    monkeypatch.setattr(client.store, "read_many", watch)
    fetch(client, MODEL, "v3", tmp_path / "local")
    assert sorted(asked) == ["config.json", "empty", "weights/2.bin"]
    assert content(tmp_path / "local") == FILES
    assert not (tmp_path / "local" / "other").exists()
    assert not (tmp_path / "local" / "config.json").is_symlink()


@pytest.mark.parametrize("include", [None, "weights/*"])
def test_progress(client: FsspecStorageClient, version: Version, tmp_path: Path, include: str | None) -> None:
    """A callback receives the bytes of the files once, whether they arrive or are found."""
    left = partial_folder(version, tmp_path / "resumed")
    write_folder(left, {"weights/1.bin": FILES["weights/1.bin"]})
    for target in ("new", "resumed"):
        callback = Callback()
        fetch(client, MODEL, "v3", tmp_path / target, include=include, callback=callback)
        assert callback.value == callback.size == (10_000 if include else version.size)


def test_second_process(client: FsspecStorageClient, version: Version, tmp_path: Path) -> None:
    """Of two processes that fetch to one directory, the second one is told."""
    left = partial_folder(version, tmp_path / "local")
    left.mkdir()
    fd = os.open(left, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        with pytest.raises(StorageUnavailableError, match="another process fetches"):
            fetch(client, MODEL, "v3", tmp_path / "local")
    finally:
        os.close(fd)
    fetch(client, MODEL, "v3", tmp_path / "local")


def test_renamed_meanwhile(
    client: FsspecStorageClient, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a directory that got its name meanwhile does not count: another process may work in a new one."""
    target = tmp_path / "local"
    left, flock = partial_folder(version, target), fcntl.flock
    third: list[int] = []

    def late(fd: int, operation: int) -> None:
        if not third:  # the first process ends, its directory is moved away, and a third process begins
            left.rename(tmp_path / "moved")
            write_folder(left, {"weights/2.bin": FILES["weights/2.bin"]})
            third.append(os.open(left, os.O_RDONLY))
            flock(third[0], fcntl.LOCK_EX)
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(StorageUnavailableError, match="another process fetches"):
        fetch(client, MODEL, "v3", target, include="config.json")
    assert content(left) == {"weights/2.bin": FILES["weights/2.bin"]}
    assert not target.exists()
    os.close(third[0])
    fetch(client, MODEL, "v3", target)
    assert content(target) == FILES


def test_link_as_partial_folder(client: FsspecStorageClient, version: Version, tmp_path: Path) -> None:
    """A link in the place of the temporary directory is refused, and the folder behind it is not touched."""
    precious = write_folder(tmp_path / "precious", {"mine": b"mine"})
    partial_folder(version, tmp_path / "local").symlink_to(precious)
    with pytest.raises(StorageError, match="gllm-fetch"):
        fetch(client, MODEL, "v3", tmp_path / "local")
    assert content(precious) == {"mine": b"mine"}


@pytest.mark.parametrize(
    ("paths", "fold", "is_refused"),
    [
        (("Model/a.bin", "model/a.bin"), str.casefold, True),
        (("Model/a.bin", "model/b.bin"), str.casefold, True),
        (("a.txt", "A.txt"), str.casefold, True),
        (("a.txt", "b.txt"), str.casefold, False),
        (("\u00e9", "e\u0301"), partial(unicodedata.normalize, "NFC"), True),
        (("a.txt", "A.txt"), None, False),
    ],
)
def test_twins_on_a_disk(  # noqa: PLR0917 - a table
    client: FsspecStorageClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    paths: tuple[str, str],
    fold: Callable[[str], str] | None,
    is_refused: bool,
) -> None:
    """Two names that are one on the disk are refused before anything is downloaded, unless only one is chosen."""
    publish(client, write_folder(tmp_path / "out", {each: each.encode() for each in paths}), MODEL, version="v1")
    monkeypatch.setattr(fetching, "fold_of_disk", lambda _: fold)
    if not is_refused:
        fetch(client, MODEL, "v1", tmp_path / "local")
        assert set(content(tmp_path / "local")) == set(paths)
        return
    monkeypatch.setattr(client.store, "read_many", None)
    with pytest.raises(UnsupportedOperationError, match=r"are one file or folder.*Choose a directory on a disk"):
        fetch(client, MODEL, "v1", tmp_path / "local")
    assert not (tmp_path / "local").exists()
    monkeypatch.undo()
    fetch(client, MODEL, "v1", tmp_path / "local", include=paths[0])


@pytest.mark.slow
def test_memory_of_many_files(tmp_path: Path) -> None:
    """`fetch` and `verify` hold the names of one folder, not those of all files."""
    client = new_client()
    out = write_folder(
        tmp_path / "out", {f"{folder:03}/{number:03}-{'x' * 150}": b"" for folder in range(60) for number in range(50)}
    )
    publish(client, out, MODEL, version="v1")
    tracemalloc.start()
    try:
        fetch(client, MODEL, "v1", tmp_path / "local")
        verify(client, MODEL, "v1", tmp_path / "local")
        assert tracemalloc.get_traced_memory()[1] < 1_300_000  # 1.8 MB if all names are held
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("added", ["b-c", "b/x", "a", "z", "b.bin"])
def test_unordered_listing(client: FsspecStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, added: str) -> None:
    """A store that lists folder by folder, as SeaweedFS does: an added file is found, and no other one is named."""
    files = {"b/c": b"1", "b/d": b"2", "b0": b"3", "b-a": b"4"}
    version = publish(client, write_folder(tmp_path / "out", files), MODEL, version="v1")
    list_keys = client.store.list_keys
    monkeypatch.setattr(client.store, "list_keys", lambda prefix: sorted(list_keys(prefix), key=lambda key: key.split("/")))
    assert verify(client, MODEL, "v1") == version
    store_bytes(client.store, version.url.removeprefix(client.store.url("")) + added, b"")
    with pytest.raises(IntegrityError, match=rf": '{added}' is added\. Delete the version"):
        verify(client, MODEL, "v1")


def test_many_differences(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A message names the first files, and the number of the others."""
    publish(client, write_folder(tmp_path / "out", {f"{number:02}": b"" for number in range(20)}), MODEL, version="v1")
    with pytest.raises(IntegrityError, match=r"'04' is missing, and 16 more$"):
        verify(client, MODEL, "v1", write_folder(tmp_path / "other", {"x": b""}))


def change(model: Model, key: str, edit: Callable[[bytes], bytes]) -> None:
    store_bytes(model.store, key, edit(read_bytes(model.store, key)))


def edit_json(**fields: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | fields).encode()


def swap(model: Model, one: str, two: str) -> None:
    first, second = read_bytes(model.store, one), read_bytes(model.store, two)
    store_bytes(model.store, one, second)
    store_bytes(model.store, two, first)


def rename(model: Model, key: str, other: str) -> None:
    store_bytes(model.store, other, read_bytes(model.store, key))
    model.store.delete(key)


def without_last_line(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:-1])


ONE, TWO, THREE = (f"weights/{number}.bin" for number in (1, 2, 3))
ZERO = "00" * 32
OF_FILES: dict[str, Callable[[Model, str], object]] = {
    "changed file": lambda model, data: change(model, data + ONE, lambda old: b"\x09" + old[1:]),
    "truncated shard": lambda model, data: change(model, data + ONE, lambda old: old[:-1]),
    "missing file": lambda model, data: model.store.delete(data + ONE),
    "added file": lambda model, data: store_bytes(model.store, data + THREE, b""),
    "renamed file": lambda model, data: rename(model, data + ONE, data + THREE),
    "swapped files": lambda model, data: swap(model, data + ONE, data + TWO),
}
OF_LISTS: dict[str, Callable[[Model, str], object]] = {
    "missing tree list": lambda model, tree: model.store.delete(tree),
    "truncated tree list": lambda model, tree: change(model, tree, lambda old: old[:-10]),
    "tree list without a file": lambda model, tree: change(model, tree, without_last_line),
}
OF_MANIFESTS: dict[str, Callable[[bytes], bytes]] = {
    "damaged manifest": lambda old: old[:-10],
    "manifest with another digest": edit_json(digest=f"sha256:{ZERO}", place=f"{ZERO}-0"),
    "manifest with another tree list": edit_json(tree_sha256=ZERO),
    "manifest of another version": edit_json(version="v4"),
}


def tamper(model: Model, place: str, kind: str) -> None:
    if kind in OF_FILES:
        OF_FILES[kind](model, model.data(place))
    elif kind in OF_LISTS:
        OF_LISTS[kind](model, model.tree(place))
    else:
        change(model, model.key("versions", "v3", "99999998.json"), OF_MANIFESTS[kind])


@pytest.mark.parametrize("kind", [*OF_FILES, *OF_LISTS, *OF_MANIFESTS])
def test_tampered_version(client: FsspecStorageClient, version: Version, tmp_path: Path, kind: str) -> None:
    """`verify` and `fetch` find every change; a file that was added is not fetched."""
    model = model_of(client, MODEL)
    tamper(model, f"{version.digest[7:]}-0", kind)
    with pytest.raises(IntegrityError):
        verify(client, MODEL, "v3")
    if kind == "added file":
        fetch(client, MODEL, "v3", tmp_path / "local")
        assert content(tmp_path / "local") == FILES
        return
    with pytest.raises(IntegrityError) as caught:
        fetch(client, MODEL, "v3", tmp_path / "local")
    assert not (tmp_path / "local").exists()
    left = partial_folder(version, tmp_path / "local")
    assert (str(left) in str(caught.value)) == left.exists() == (kind in OF_FILES)


def test_swapped_tree_list(client: FsspecStorageClient, version: Version, tmp_path: Path) -> None:
    """A tree list and a manifest that agree with each other, and not with the digest, are found."""
    other = publish(client, write_folder(tmp_path / "other", {**FILES, "config.json": b"[]"}), MODEL, version="v4")
    model = model_of(client, MODEL)
    of_other = json.loads(read_bytes(client.store, model.key("versions", "v4", "99999998.json")))
    change(
        model,
        model.key("versions", "v3", "99999998.json"),
        edit_json(**{name: of_other[name] for name in ("tree_sha256", "tree_size", "size")}),
    )
    tree = read_bytes(client.store, model.tree(f"{other.digest[7:]}-0"))
    store_bytes(client.store, model.tree(f"{version.digest[7:]}-0"), tree)
    with pytest.raises(IntegrityError, match="not those of the digest"):
        fetch(client, MODEL, "v3", tmp_path / "local")


@pytest.mark.parametrize("kind", ["changed", "missing", "added", "renamed", "truncated", "link"])
def test_tampered_copy(client: FsspecStorageClient, version: Version, tmp_path: Path, kind: str) -> None:
    """`verify` finds every change of a local copy, and names the file."""
    target = tmp_path / "local"
    assert fetch(client, MODEL, "v3", target) == version
    file = target / "weights" / "1.bin"
    if kind == "changed":
        file.write_bytes(b"\x09" + file.read_bytes()[1:])
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-1])
    elif kind == "missing":
        file.unlink()
    elif kind == "renamed":
        file.rename(target / "weights" / "3.bin")
    elif kind == "added":
        (target / "weights" / "3.bin").write_bytes(b"")
    else:
        file.rename(tmp_path / "1.bin")
        file.symlink_to(tmp_path / "1.bin")
    with pytest.raises(IntegrityError, match=r"weights/[13]\.bin"):
        verify(client, MODEL, "v3", target)


@pytest.mark.usefixtures("version")
def test_later_format(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A manifest of a later format is refused with the advice to update."""
    model = model_of(client, MODEL)
    change(model, model.key("versions", "v3", "99999998.json"), edit_json(format=2))
    with pytest.raises(UnsupportedOperationError, match="Update gllm-storage"):
        fetch(client, MODEL, "v3", tmp_path / "local")


def test_version_deleted_meanwhile(
    client: FsspecStorageClient, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader whose version is deleted while it fetches is told so, and nothing appears."""
    read_many = client.store.read_many
    model = model_of(client, MODEL)

    def delete_first(*args: Any, **options: Any) -> Any:
        delete_version(client, MODEL, "v3")
        client.store.delete(model.data(f"{version.digest[7:]}-0") + "config.json")
        return read_many(*args, **options)

    monkeypatch.setattr(client.store, "read_many", delete_first)
    with pytest.raises(ObjectNotFoundError, match="'v3' that was deleted"):
        fetch(client, MODEL, "v3", tmp_path / "local")
    assert not (tmp_path / "local").exists()


def test_store_without_checksums(client: FsspecStorageClient, version: Version) -> None:
    """`verify` with `read=False` reads the files of a store that has no checksums, and finds a change."""
    assert verify(client, MODEL, "v3", read=False) == version
    tamper(model_of(client, MODEL), f"{version.digest[7:]}-0", "changed file")
    with pytest.raises(IntegrityError, match=r"weights/1\.bin"):
        verify(client, MODEL, "v3", read=False)
