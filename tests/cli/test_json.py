"""`--json` of `cp`, `mv`, `rm` and `sync`: one document, also after failures."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.support import environment, run, shown_url, url_of
from tests.conftest import make_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.support import Finished
    from tests.rig import Rig

NAMES = ["a.bin", "sub/b.bin"]
COUNTS = ["transferred", "transferred_bytes", "deleted", "failed", "skipped", "skipped_bytes", "not_begun"]


@pytest.fixture(params=["file", "ministack", "azurite"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store that other processes can use."""
    return make_rig(request.param, request)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with two files, of 5 and 9 bytes."""
    for name in NAMES:
        path = tmp_path / "v3" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "v3"


def document(done: Finished) -> dict[str, Any]:
    """The document that a command printed. It has the exit code of the command."""
    found: dict[str, Any] = json.loads(done.out)
    assert found["exit_code"] == done.code
    assert found["failed"] == len([each for each in found["files"] if each["action"] == "failed"])
    return found


def counts(found: dict[str, Any]) -> list[int]:
    """The numbers of a document."""
    return [found[name] for name in COUNTS]


def files(found: dict[str, Any], action: str) -> dict[str, int | None]:
    """The files with an action, with their sizes."""
    return {each["url"]: each["size"] for each in found["files"] if each["action"] == action}


def test_folders(store: Rig, folder: Path) -> None:
    """Transfers, skipped files and deletions of folders, with sizes; `-v` adds no lines."""
    env, url = environment(store), url_of(store, "copy")
    names = {shown_url(store, f"copy/{name}"): len(name) for name in NAMES}

    planned = document(run("sync", "--json", "--dry-run", folder, url, env=env))
    first = document(run("sync", "-v", "--json", folder, url, env=env))
    store.second.put(store.key("copy/old"), b"old")
    second = document(run("sync", "--json", "--delete", folder, url, env=env))
    copied = document(run("cp", "-r", "--json", f"{url}/", folder.parent / "back", env=env))
    moved = document(run("mv", "-r", "--json", f"{url}/", f"{url_of(store, 'moved')}/", env=env))
    removed = document(run("rm", "-r", "--json", url_of(store, "moved"), env=env))

    assert planned["dry_run"]
    assert files(planned, "transferred") == files(first, "transferred") == names
    assert counts(first) == [2, 14, 0, 0, 0, 0, 0]
    assert counts(second) == [0, 0, 1, 0, 2, 14, 0]
    assert files(second, "deleted") == {shown_url(store, "copy/old"): 3}
    assert files(copied, "transferred") == {str(folder.parent / "back" / name): len(name) for name in NAMES}
    assert files(moved, "transferred") == {shown_url(store, f"moved/{name}"): len(name) for name in NAMES}
    assert {url.rpartition("moved/")[2] for url in files(removed, "deleted")} == set(NAMES)
    assert store.keys() == []


def test_single_files(store: Rig, folder: Path) -> None:
    """Files that are named one by one, of which one is missing: the others have their outcomes, and it has an error."""
    env, target = environment(store), f"{url_of(store, 'x')}/"
    copied = run("cp", "--json", folder / "a.bin", folder / "missing", folder / "sub" / "b.bin", target, env=env)
    found = document(copied)
    assert found["exit_code"] == 3
    assert files(found, "transferred") == {shown_url(store, "x/a.bin"): 5, shown_url(store, "x/b.bin"): 9}
    (failure,) = [each for each in found["files"] if each["action"] == "failed"]
    assert failure["url"] == str(folder / "missing")
    assert failure["error"] in copied.err
    assert failure["exit_code"] == 3
    moved = document(run("mv", "--json", url_of(store, "x/a.bin"), url_of(store, "y"), env=env))
    assert list(files(moved, "transferred").values()) == [5]
    removed = document(run("rm", "--json", url_of(store, "y"), url_of(store, "x/none"), env=env))
    assert counts(removed)[2:4] == [1, 1]
    assert document(run("rm", "-f", "--json", url_of(store, "x/none"), env=env))["files"] == []


def test_failed_files(store: Rig, folder: Path) -> None:
    """A file that fails has its name and its error; with `--on-error stop` the others count as not begun."""
    env, url = environment(store), url_of(store, "copy")
    with open(os.fsencode(folder / "x") + b"\xff", "wb"):
        pass
    found = document(run("cp", "-r", "--json", f"{folder}/", f"{url}/", env=env))
    (failure,) = [each for each in found["files"] if each["action"] == "failed"]
    assert counts(found)[:4] == [2, 14, 0, 1]
    assert "UTF-8" in failure["error"]
    stopped = document(run("sync", "--json", folder, url_of(store, "other"), env=env))
    assert (stopped["transferred"], stopped["failed"], stopped["not_begun"]) == (0, 1, 2)


@pytest.mark.parametrize(
    "command", [("sync", "{}", "s3://b1b/x"), ("cp", "-r", "{}/", "s3://b1b/x/"), ("rm", "-r", "s3://b1b/x/")]
)
def test_no_store(command: tuple[str, ...], folder: Path) -> None:
    """A store that does not answer: the document has the error, and no secret."""
    arguments = [each.format(folder) for each in command]
    env = {"AWS_ACCESS_KEY_ID": "user-1", "AWS_SECRET_ACCESS_KEY": "secret-key-1"}
    options = ["--json", "--endpoint-url", "http://127.0.0.1:1", "-c", "max_attempts=1"]
    done = run(*arguments, *options, env=env)
    found = document(done)
    assert found["exit_code"] == 9
    assert found["failed"] >= 1
    assert counts(found)[:3] == [0, 0, 0]
    assert "secret-key-1" not in done.out


def test_usage(folder: Path) -> None:
    """A copy to standard output has no document, nor have arguments that are wrong."""
    for arguments in (("cp", folder / "a.bin", "-"), ("cp", folder), ("sync", folder, "-")):
        done = run(*arguments, "--json")
        assert (done.code, done.out) == (2, "")
