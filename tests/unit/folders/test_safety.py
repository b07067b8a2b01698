"""A transfer of a folder deletes and replaces nothing that the caller did not mean."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import storage_client_from_url
from gllm_storage.errors import FolderError
from gllm_storage.folders import Plan, RemoteFolder
from gllm_storage.folders.entries import StoredFolder
from gllm_storage.folders.transfer import Options, transfer
from gllm_storage.memory.store import MemoryStore
from gllm_storage.paths import possible_models
from gllm_storage.versions import publish, set_alias, verify
from gllm_storage.versions.layout import Model, place_of, slot_name
from tests.unit.folders.conftest import stored, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder that only a link in another folder leads to."""
    write(tmp_path / "precious" / "sub" / "x", b"precious")
    (tmp_path / "copy").mkdir()
    os.symlink(tmp_path / "precious", tmp_path / "copy" / "link")
    write(tmp_path / "copy" / "extra", b"extra")
    return tmp_path / "precious"


def disk(folder: Path) -> FsspecStorageClient:
    """A client of a folder."""
    made: Any = storage_client_from_url(f"file://{folder}")
    client: FsspecStorageClient = made
    return client


@pytest.mark.parametrize("verb", ["sync", "sync file", "delete_dir", "saved plan", "check"])
def test_delete_keeps_links(client: FsspecStorageClient, local: Path, tmp_path: Path, precious: Path, verb: str) -> None:
    """Deletions do not reach the files behind a link in the target."""
    client.upload_dir(local, "v1")
    copy, url = tmp_path / "copy", client.url("v1")
    if verb == "sync":
        client.sync_dir(url, copy, delete=True)
    elif verb == "sync file":
        client.sync_dir(url, f"file://{copy}", delete=True)
    elif verb == "delete_dir":
        disk(tmp_path).delete_dir("copy")
    elif verb == "saved plan":
        client.sync_dir(url, copy, delete=True, dry_run=True).plan.save(tmp_path / "plan")
        client.apply_plan(Plan.load(tmp_path / "plan"))
    else:
        client.apply_plan(client.check_dir(url, copy))
    assert (precious / "sub" / "x").read_bytes() == b"precious"
    assert (copy / "link").is_symlink()
    assert not (copy / "extra").exists()


@pytest.mark.parametrize("target", ["copy", "file"])
@pytest.mark.parametrize("run", ["at once", "check"])
def test_no_write_behind_links(client: FsspecStorageClient, tmp_path: Path, precious: Path, target: str, run: str) -> None:
    """A file that a link in the target would put into another folder is refused."""
    client.upload(b"new", "v1/link/sub/x")
    where = tmp_path / "copy" if target == "copy" else f"file://{tmp_path}/copy"
    plan = client.check_dir(client.url("v1"), where, links="skip")
    with pytest.raises(FolderError, match="'link' is a symbolic link in the target"):
        client.apply_plan(plan) if run == "check" else client.sync_dir(client.url("v1"), where)
    assert (precious / "sub" / "x").read_bytes() == b"precious"


@pytest.mark.parametrize("force", [False, True], ids=["refused", "force"])
@pytest.mark.parametrize("verb", ["upload_dir", "copy_dir", "sync_dir", "cp", "mv", "dry run", "saved plan", "check"])
def test_object_as_folder(client: FsspecStorageClient, local: Path, tmp_path: Path, verb: str, force: bool) -> None:
    """No verb makes a folder beside an object of its name; ``force`` permits it."""
    client.upload_dir(local, "v1")
    given: dict[str, Any] = {"force": force}
    plan = client.check_dir(client.url("v1"), client.url("v2"))
    plan.save(tmp_path / "plan")
    client.upload(b"object", "v2")
    plain = partial(Options, everything=True, learns=False, on_error="collect", force=force)
    ends = StoredFolder(client.store, "v1/"), StoredFolder(client.store, "v2/")
    calls: dict[str, Callable[[], object]] = {
        "upload_dir": lambda: client.upload_dir(local, "v2", **given),
        "copy_dir": lambda: client.copy_dir("v1", "v2", **given),
        "sync_dir": lambda: client.sync_dir(client.url("v1"), client.url("v2"), **given),
        "cp": lambda: transfer(*ends, plain()),
        "mv": lambda: transfer(*ends, plain(removes=True)),
        "dry run": lambda: transfer(*ends, plain(dry_run=True)),
        "saved plan": lambda: client.apply_plan(Plan.load(tmp_path / "plan"), **given),
        "check": lambda: client.apply_plan(plan, **given),
    }
    before = stored(client)
    if force:
        calls[verb]()
        assert ("v2/a.bin" in stored(client)) == (verb != "dry run")
        return
    with pytest.raises(FolderError, match="v2 is an object; nothing was changed"):
        calls[verb]()
    assert stored(client) == before


def test_deletions_beside_object(client: FsspecStorageClient, local: Path) -> None:
    """A plan that only deletes runs also beside an object of the folder's name: it adds nothing."""
    client.upload_dir(local, "v1")
    client.upload(b"object", "v1")
    assert client.apply_plan(client.delete_dir("v1", dry_run=True).plan).deleted == 3
    assert stored(client) == {"v1"}


LINKED: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "source": ({"s/a": "AAAA", "s/b": "BBBB", "d/x": "X"}, {"d/a": "s/b"}),
    "equal sibling of source": ({"s/a": "AAAA", "s/b": "BBBB", "d/b": "BBBB"}, {"d/a": "s/b"}),
    "new in source": ({"s/a": "AAAA", "d/x": "X"}, {"d/a": "s/new"}),
    "sibling": ({"s/a": "NEW!", "s/b": "old2", "d/b": "old2"}, {"d/a": "d/b"}),
    "extra": ({"s/a": "NEW!", "d/b": "old2"}, {"d/a": "d/b"}),
    "common": ({"s/a": "NEW!", "s/b": "two", "o/x": "old"}, {"d/a": "o/x", "d/b": "o/x"}),
    "linked source": ({"s/a": "AAAA", "o/f": "ffff", "d/x": "X"}, {"s/l": "o/f", "d/a": "o/f"}),
    "chain": ({"s/a": "AAAA", "s/b": "BBBB", "d/x": "X"}, {"o": "s", "d/a": "o/b"}),
}  # fmt: skip


def laid_out(folder: Path, case: str) -> dict[str, bytes]:
    """Make the files and links of a case of `LINKED`; the content of the files."""
    files, links = LINKED[case]
    for name, content in files.items():
        write(folder / name, content.encode())
    for name, leads_to in links.items():
        (folder / name).parent.mkdir(exist_ok=True)
        os.symlink(folder / leads_to, folder / name)
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def run_onto_links(folder: Path, case: str, run: str) -> None:
    """Transfer the folder ``s`` of a case of `LINKED` to ``d``."""
    client, source, target = disk(folder), folder / "s", f"file://{folder}/d"
    if run == "sync":
        client.sync_dir(source, target, delete=True)
    elif run == "plan":
        links = {folder / name: folder / leads_to for name, leads_to in LINKED[case][1].items() if name.startswith("d/")}
        for link in links:
            link.unlink()
        plan = client.sync_dir(source, target, dry_run=True).plan
        for link, leads_to in links.items():
            os.symlink(leads_to, link)
        client.apply_plan(plan)
    else:
        whole = StoredFolder(client.store, "s/", "files" if run == "mv" else "follow")
        given = Options(everything=True, removes=run == "mv", on_error="collect")
        transfer(whole, StoredFolder(client.store, "d/"), given)


@pytest.mark.parametrize(
    ("case", "run"),
    [
        *((case, "cp") for case in LINKED),
        *((case, "sync") for case in ("source", "common", "linked source")),
        ("source", "mv"),
        ("sibling", "mv"),
        ("source", "plan"),
        ("linked source", "plan"),
    ],
)
def test_links_to_files_in_use(tmp_path: Path, case: str, run: str) -> None:
    """A link in the target to a file that is also read, or written, under another name is refused."""
    before = laid_out(tmp_path, case)
    with pytest.raises(FolderError, match=r"'[ab]': .*link in the target"):
        run_onto_links(tmp_path, case, run)
    now = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()}
    # cp -r and mv -r do what can be done.
    assert set(before.values()) - {b"old", b"old2", b"X"} <= set(now.values())
    if run in {"sync", "plan"}:
        assert now.items() >= before.items()


def test_link_to_sibling(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A download refuses a link to a sibling that would be replaced, and keeps one whose file is equal."""
    client.upload(b"NEW!", "m/latest.bin")
    client.upload(b"old2", "m/v2.bin")
    write(tmp_path / "m" / "v2.bin", b"old2")
    os.symlink("v2.bin", tmp_path / "m" / "latest.bin")
    with pytest.raises(FolderError, match=r"'latest.bin'.*link in the target"):
        client.download_dir("m", tmp_path / "m")
    assert (tmp_path / "m" / "v2.bin").read_bytes() == b"old2"
    client.upload(b"old2", "m/latest.bin")
    assert client.download_dir("m", tmp_path / "m", size_only=True).skipped == 2


def test_link_to_other_file(client: FsspecStorageClient, tmp_path: Path) -> None:
    """A link to a file outside both folders is kept, and the file behind it is replaced."""
    client.upload(b"new", "m/a")
    write(tmp_path / "big" / "a", b"old")
    (tmp_path / "m").mkdir()
    os.symlink(tmp_path / "big" / "a", tmp_path / "m" / "a")
    assert client.download_dir("m", tmp_path / "m").transferred == 1
    assert (tmp_path / "big" / "a").read_bytes() == b"new"
    assert (tmp_path / "m" / "a").is_symlink()


@pytest.mark.parametrize("kind", ["local", "file", "memory"])
def test_file_in_the_way(client: FsspecStorageClient, tmp_path: Path, kind: str) -> None:
    """A file in the place of a folder is refused before anything moves, also if a filter leaves it out."""
    write(tmp_path / "s" / "a" / "b", b"new")
    write(tmp_path / "s" / "first", b"first")
    client.upload_dir(tmp_path / "s", "s")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a").write_bytes(b"kept")
    client.upload(b"kept", "m/a")
    target = {"local": tmp_path / "m", "file": f"file://{tmp_path}/m", "memory": client.url("m")}[kind]
    filters: list[dict[str, Any]] = [{"exclude": ["/a"]}, {"include": ["/a/**", "/first"]}, {"files": ["a/b", "first"]}]
    for chosen in filters:
        with pytest.raises(FolderError, match=r"nothing was changed: 'a/b'.*'a' is a file"):
            client.sync_dir(client.url("s"), str(target), **chosen)
    assert not (tmp_path / "m" / "first").exists()
    assert stored(client) == {"s/a/b", "s/first", "m/a"}


@pytest.mark.parametrize("kind", ["dangling", "itself", "pipe", "latin-1"])
def test_other_names_in_target(client: FsspecStorageClient, local: Path, tmp_path: Path, kind: str) -> None:
    """What no file of the source can be does not stop a transfer, and is kept."""
    client.upload_dir(local, "v1")
    write(tmp_path / "copy" / "extra", b"extra")
    bad = tmp_path / "copy" / (os.fsdecode(b"bad\xff") if kind == "latin-1" else "bad")
    if kind == "pipe":
        os.mkfifo(bad)
    elif kind == "latin-1":
        bad.write_bytes(b"x")
    else:
        os.symlink("missing" if kind == "dangling" else "bad", bad)
    result = client.sync_dir(client.url("v1"), tmp_path / "copy", delete=True)
    assert (result.transferred, result.deleted) == (3, 1)
    assert os.path.lexists(bad)


def test_check_follows_links(client: FsspecStorageClient, local: Path) -> None:
    """`check_dir` compares linked folders in both directions."""
    os.symlink(local / "b", local / "link")
    client.upload_dir(local, "v1")
    assert client.check_dir(local, client.url("v1")).is_empty
    assert client.check_dir(client.url("v1"), local).is_empty
    assert client.check_dir(client.url("v1"), f"file://{local}").is_empty


@pytest.mark.parametrize("empty", [[], (), iter(())], ids=["list", "tuple", "iterator"])
def test_empty_include(client: FsspecStorageClient, local: Path, empty: Any) -> None:
    """An empty list of patterns, or of files, takes no file; None takes all."""
    client.upload_dir(local, "v1")
    assert client.delete_dir("v1", include=empty).deleted == 0
    assert client.delete_dir("v1", files=[]).deleted == 0
    assert client.upload_dir(local, "v2", include=empty).transferred == 0
    client.upload(b"extra", "v1/extra")
    assert client.sync_dir(local, client.url("v1"), include=empty, delete=True).deleted == 0
    assert len(stored(client)) == 4
    assert client.delete_dir("v1", include=None, exclude=None, rules=None).deleted == 4


def test_rules_beside_empty_include(client: FsspecStorageClient, local: Path) -> None:
    """Rules still take files beside an empty list of patterns."""
    assert client.upload_dir(local, "v1", include=[], rules=["+ *.txt"]).transferred == 1


OTHER_OPTIONS: list[dict[str, Any]] = [
    {"include": ["a"]}, {"exclude": ["a"]}, {"rules": []}, {"files": ["a"]}, {"links": "skip"}, {"size_only": True},
]  # fmt: skip


@pytest.mark.parametrize("options", OTHER_OPTIONS, ids=str)
def test_apply_options(client: FsspecStorageClient, local: Path, options: dict[str, Any]) -> None:
    """`apply_plan` refuses options that it cannot keep, since the plan has decided."""
    client.upload_dir(local, "v1")
    plan = client.delete_dir("v1", dry_run=True).plan
    with pytest.raises(TypeError, match=next(iter(options))):
        client.apply_plan(plan, **options)
    assert len(stored(client)) == 3


def test_apply_dry_run(client: FsspecStorageClient, local: Path) -> None:
    """`apply_plan` with `dry_run` changes nothing."""
    client.upload_dir(local, "v1")
    plan = client.delete_dir("v1", dry_run=True).plan
    assert client.apply_plan(plan, dry_run=True).deleted == 0
    assert len(stored(client)) == 3
    assert client.apply_plan(plan, content_type="x/y").deleted == 3


@pytest.mark.parametrize("options", [{"links": "skip"}, {"size_only": True}, {"content_type": "x/y"}], ids=str)
def test_delete_options(client: FsspecStorageClient, options: dict[str, Any]) -> None:
    """`delete_dir` refuses options that mean nothing to it."""
    with pytest.raises(TypeError, match=next(iter(options))):
        client.delete_dir("v1", **options)


def test_delete_missing_file(client: FsspecStorageClient, local: Path) -> None:
    """A file of a list that does not exist is a failure of `delete_dir`."""
    client.upload_dir(local, "v1")
    with pytest.raises(FolderError, match=r"'nothing': .*no such file"):
        client.delete_dir("v1", files=["a.bin", "nothing"])
    assert len(stored(client)) == 3


@pytest.mark.parametrize("saved", [False, True])
def test_check_of_empty_source(client: FsspecStorageClient, local: Path, tmp_path: Path, saved: bool) -> None:
    """The plan of `check_dir` with an empty source deletes nothing."""
    client.upload_dir(local, "v1")
    (tmp_path / "empty").mkdir()
    plan = client.check_dir(tmp_path / "empty", client.url("v1"))
    assert plan.deletions == 3
    if saved:
        plan.save(tmp_path / "plan")
        plan = Plan.load(tmp_path / "plan")
    with pytest.raises(FolderError, match="the source has no files, so nothing was deleted"):
        client.apply_plan(plan)
    assert len(stored(client)) == 3


@pytest.mark.parametrize("saved", [False, True])
def test_check_of_equal_files(client: FsspecStorageClient, local: Path, tmp_path: Path, saved: bool) -> None:
    """A plan that only deletes runs if files of the source were equal."""
    client.upload_dir(local, "v1")
    client.upload(b"extra", "v1/extra")
    plan = client.check_dir(local, client.url("v1"))
    if saved:
        plan.save(tmp_path / "plan")
        plan = Plan.load(tmp_path / "plan")
        assert (plan.skipped, plan.skipped_bytes) == (3, 17)
    assert client.apply_plan(plan).deleted == 1


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_name_since(client: FsspecStorageClient, tmp_path: Path, kind: str) -> None:
    """A saved plan makes no folder of a name that is a file of the target since."""
    target = client if kind == "memory" else disk(tmp_path)
    write(tmp_path / "source" / "x" / "y", b"y")
    plan = target.sync_dir(tmp_path / "source", target.url("v1"), dry_run=True).plan
    target.upload(b"file", "v1/x")
    with pytest.raises(FolderError, match="'x/y': 'x' is a file and would be a folder"):
        target.apply_plan(plan)
    assert stored(target) & {"v1/x", "v1/x/y"} == {"v1/x"}


def test_plan_of_other_endpoint(
    client: FsspecStorageClient, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan does not run on a bucket of the same name at another endpoint."""
    client.upload_dir(local, "v1")
    up = client.sync_dir(local, client.url("v2"), dry_run=True).plan
    delete = client.delete_dir("v1", dry_run=True).plan
    delete.save(tmp_path / "plan")
    assert json.loads((tmp_path / "plan").read_text().splitlines()[0])["target_place"] == "memory"
    monkeypatch.setattr(MemoryStore, "place", "memory of another host")
    for plan in (up, delete, Plan.load(tmp_path / "plan")):
        with pytest.raises(FolderError, match="this client has that of 'memory of another host'"):
            client.apply_plan(plan)
    assert len(stored(client)) == 3


def test_markers(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`delete_dir` deletes the markers of folders that became empty; with a filter, only above the files that it deleted."""
    client.upload_dir(local, "v1")
    markers = {"v1/", "v1/b/", "v1/b/c/", "v1/e/", "v10/"}
    listed, delete = MemoryStore.list_keys, MemoryStore.delete

    def with_markers(self: MemoryStore, prefix: str = "") -> Iterator[str]:
        return iter(sorted({*listed(self, prefix), *(key for key in markers if key.startswith(prefix))}))

    def delete_marker(self: MemoryStore, key: str) -> None:
        markers.remove(key) if key.endswith("/") else delete(self, key)

    monkeypatch.setattr(MemoryStore, "list_keys", with_markers)
    monkeypatch.setattr(MemoryStore, "delete", delete_marker)
    client.delete_dir("v1", include=["*.txt"])
    assert markers == {"v1/", "v1/b/", "v1/b/c/", "v1/e/", "v10/"}
    client.delete_dir("v1", files=["b/c.bin"])
    assert markers == {"v1/", "v1/b/", "v1/b/c/", "v1/e/", "v10/"}
    client.upload(b"", "v1/b/c/x")
    client.delete_dir("v1", files=["b/c/x"])
    assert markers == {"v1/", "v1/e/", "v10/"}
    client.delete_dir("v1")
    assert markers == {"v10/"}


@pytest.mark.parametrize("options", [{"files": ["x.tmp"]}, {"include": ["*.tmp"]}, {"exclude": ["*/", "y"]}], ids=str)
def test_content_behind_slash(client: FsspecStorageClient, options: dict[str, Any]) -> None:
    """`delete_dir` with a filter keeps an object with content whose key ends with a slash, and markers elsewhere."""
    keys = {"d/x.tmp": b"x", "d/y": b"y", "d/keep/": b"DATA", "d/empty/": b""}
    for number, (key, content) in enumerate(keys.items()):
        client.upload(content, f"upload{number}")
        objects: Any = vars(client.store)["_filesystem"].store  # no path can name such a key
        start = f"/{client.store.url('').removeprefix('memory://')}"
        objects[f"{start}{key}"] = objects.pop(f"{start}upload{number}")
    assert client.delete_dir("d", **options).deleted == 1
    assert stored(client) == {"d/y", "d/keep/", "d/empty/"}


def test_key_listed_twice(client: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that lists a key twice has it once: `sync_dir` does not delete a file that is equal."""
    client.upload_dir(local, "v1")
    listed = MemoryStore.list
    twice = lambda store, prefix="": (each for info in listed(store, prefix) for each in (info, info))  # noqa: E731 - short
    monkeypatch.setattr(MemoryStore, "list", twice)
    result = client.sync_dir(local, client.url("v1"), delete=True)
    assert (result.deleted, result.skipped) == (0, 3)
    assert client.copy_dir("v1", "v2").transferred == 3
    assert client.delete_dir("v2").deleted == 3


def test_folders_of_disk(local: Path) -> None:
    """`delete_dir` of a folder on a disk removes the folders that became empty."""
    client = disk(local.parent)
    client.delete_dir(local.name, exclude=["*.txt"])
    assert sorted(path.name for path in local.iterdir()) == ["d.txt"]
    client.delete_dir(local.name)
    assert not local.exists()


# ---------------------------------------------------------------- published versions


@pytest.fixture(params=["memory", "file"])
def published(request: pytest.FixtureRequest, tmp_path: Path, local: Path) -> FsspecStorageClient:
    """A client with a published model."""
    found: FsspecStorageClient = disk(tmp_path / "store") if request.param == "file" else request.getfixturevalue("client")
    publish(found, local, "models/m", version="v1")
    set_alias(found, "models/m", "latest", "v1")
    return found


def refused(call: Any) -> None:
    """Check that a call is refused because of a published version."""
    with pytest.raises(FolderError, match="published versions would be deleted or replaced") as caught:
        call()
    assert "nothing was changed" in str(caught.value)


def test_model_is_kept(published: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """Deletions and replacements in a published model are refused, with each verb."""
    url, before = published.url("models/m"), stored(published)
    refused(lambda: published.delete_dir("models"))
    refused(lambda: published.delete_dir("/"))
    refused(lambda: published.delete_dir("models/m", dry_run=True))
    refused(lambda: published.delete_dir("models/m/versions"))
    refused(lambda: published.delete_dir("models/m/versions/v1"))
    refused(lambda: published.sync_dir(local, url, delete=True))
    refused(lambda: published.apply_plan(published.check_dir(local, url)))
    (log,) = (key for key in before if "/versions/" in key)
    write(tmp_path / "other" / log.rpartition("/")[2], b"replaced")
    refused(lambda: published.upload_dir(tmp_path / "other", "models/m/versions/v1"))
    assert stored(published) == before
    assert verify(published, "models/m", "v1").digest


def test_model_on_disk(client: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """The model in a store of this machine is also kept where its folder is named as a local one."""
    publish(disk(tmp_path / "store"), local, "models/m", version="v1")
    client.upload_dir(local, "v1")
    refused(lambda: client.sync_dir(client.url("v1"), tmp_path / "store" / "models", delete=True))


def test_force(published: FsspecStorageClient) -> None:
    """With `force`, a model is deleted."""
    saved = published.delete_dir("models/m", dry_run=True, force=True).plan
    refused(lambda: published.apply_plan(saved))
    assert published.apply_plan(saved, force=True).failed == 0
    assert stored(published) == set()


@pytest.mark.parametrize("removes", [False, True], ids=["cp", "mv"])
def test_into_model(published: FsspecStorageClient, removes: bool) -> None:
    """``cp -r`` and ``mv -r`` replace no file of a published version, and may add files, as `upload_dir` does."""
    (data,) = {key.partition("a.bin")[0] for key in stored(published) if "/data/" in key and key.endswith("a.bin")}
    published.upload(b"other", "elsewhere/a.bin")
    target = StoredFolder(published.store, data)
    given: dict[str, Any] = {"everything": True, "removes": removes}
    refused(lambda: transfer(StoredFolder(published.store, "elsewhere/"), target, Options(**given)))
    assert verify(published, "models/m", "v1").digest
    with pytest.raises(FolderError, match="exists"):
        transfer(StoredFolder(published.store, "elsewhere/"), target, Options(**given, exclusive=True))
    published.upload(b"new", "new/sub/new.txt")
    assert transfer(StoredFolder(published.store, "new/"), target, Options(**given)).transferred == 1
    assert transfer(StoredFolder(published.store, "elsewhere/"), target, Options(**given, force=True)).transferred == 1
    if removes:
        refused(lambda: transfer(target, StoredFolder(published.store, "out/"), Options(**given)))
    assert stored(published) >= {f"{data}a.bin", f"{data}d.txt", f"{data}sub/new.txt"}


def test_model_before_first_version(published: FsspecStorageClient) -> None:
    """The marks of a publisher make a model, before the first version is in a log."""
    (data,) = {key.partition("a.bin")[0] for key in stored(published) if "/data/" in key and key.endswith("a.bin")}
    place = data.split("/")[-2]
    for key in stored(published):
        if "/versions/" in key or "/aliases/" in key:
            published.delete_file(key)
    published.upload(b"", f"models/m/marks/{place}/v1/{slot_name(1)}-5f0c")
    refused(lambda: published.delete_dir("models/m"))
    refused(lambda: published.delete_dir(data))


def test_published_since(published: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A plan that would add a file does not replace that of a version that was published since."""
    mirror: Any = storage_client_from_url(f"memory://{tmp_path.name}-mirror")
    target = disk(tmp_path / "mirror") if published.provider == "file" else mirror
    folders = RemoteFolder(published, "models"), RemoteFolder(target, "models")
    published.sync_dir(*folders, dry_run=True).plan.save(tmp_path / "plan")
    write(local / "a.bin", b"other")
    version = publish(target, local, "models/m", version="v1")
    refused(lambda: target.apply_plan(Plan.load(tmp_path / "plan")))
    assert verify(target, "models/m", "v1").digest == version.digest


def test_beside_model(published: FsspecStorageClient, local: Path) -> None:
    """Other objects, copies of a model, and folders that only look like one are changed as all others."""
    published.upload_dir(local, "models/m/notes")
    assert published.sync_dir(local, published.url("models/m/notes"), delete=True, files=None).skipped == 3
    assert published.delete_dir("models/m/notes").deleted == 3
    assert published.copy_dir("models/m", "backup/m").failed == 0
    assert published.copy_dir("models/m", "backup/m").failed == 0
    write(local / "names" / "bob.json", b"{}")
    published.upload_dir(local, "other")
    assert published.delete_dir("other").deleted == 4


def test_keys_of_layout() -> None:
    """All keys that the layout of versions makes belong to a model, and no file beside them."""
    place, model = place_of(f"sha256:{'a' * 64}", 3), Model(MemoryStore.__new__(MemoryStore), "m")
    slot = slot_name(7)
    keys = [
        f"{model.data(place)}sub/file", model.tree(place), model.tomb(place), f"{model.marks(place)}v1/{slot}-5f0c",
        model.key("versions", "v1", f"{slot}.json"), model.key("aliases", "latest", f"{slot}.json"),
        model.key("names", "v1.json"),
    ]  # fmt: skip
    assert [list(possible_models(key)) for key in keys] == [["m/"]] * len(keys)
    others = ["m/data/file", "m/names/sub/x.json", "m/versions/v1/x.json", "m/mydata/x", "m/README.md"]
    assert [key for key in others if list(possible_models(key))] == []


def test_remote_folder_target(client: FsspecStorageClient, tmp_path: Path, precious: Path) -> None:
    """A folder of another client is a target without its links, too."""
    client.upload(b"new", "v1/new")
    client.sync_dir(RemoteFolder(client, "v1"), RemoteFolder(disk(tmp_path), "copy"), delete=True)
    assert (precious / "sub" / "x").exists()


@pytest.mark.parametrize("other_name", [os.link, os.symlink], ids=["hard", "symbolic"])
def test_copy_onto_itself(tmp_path: Path, other_name: Any) -> None:
    """``cp -r`` onto another name of the source file says so, and ``mv -r`` onto a hard link removes the source."""
    write(tmp_path / "s" / "a", b"AAAA")
    (tmp_path / "d").mkdir()
    other_name(tmp_path / "s" / "a", tmp_path / "d" / "a")
    store = disk(tmp_path).store
    source, target = StoredFolder(store, "s/"), StoredFolder(store, "d/")
    with pytest.raises(FolderError, match=r"same file|link in the target to 'a' in the source"):
        transfer(source, target, Options(everything=True))
    with pytest.raises(FolderError, match="exists"):
        transfer(source, target, Options(everything=True, exclusive=True))
    if other_name is os.link:
        assert transfer(source, target, Options(everything=True, removes=True)).transferred == 1
        assert not (tmp_path / "s" / "a").exists()
    assert (tmp_path / "d" / "a").read_bytes() == b"AAAA"
