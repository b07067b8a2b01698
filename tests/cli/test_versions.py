"""The commands about published versions."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.support import environment, ok, run, url_of
from tests.conftest import make_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Rig

FILES = {"config.json": b"{}", "model.bin": b"\x01" * 1000}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory to publish."""
    (tmp_path / "out").mkdir()
    for name, data in FILES.items():
        (tmp_path / "out" / name).write_bytes(data)
    return tmp_path / "out"


@pytest.fixture
def model(out: Path, tmp_path: Path) -> str:
    """The URL of a model with the versions v1 and v2, and the alias latest."""
    url = f"file://{tmp_path}/store/models/llama"
    ok("publish", out, url, "v1", "--metadata", "step=1", "--metadata", "note=a b", "--alias", "latest")
    (out / "config.json").write_bytes(b"[]")
    (out / "new.txt").write_bytes(b"")
    ok("publish", out, url, "v2")
    return url


def read_json(*arguments: str) -> Any:
    return json.loads(ok(*arguments, "--json").out)


@pytest.mark.parametrize("name", ["file", "ministack"])
def test_publish_and_fetch(name: str, request: pytest.FixtureRequest, out: Path, tmp_path: Path) -> None:
    """`publish` and `fetch` move a directory, and show the version; the same again is no error."""
    rig: Rig = make_rig(name, request)
    env, url = environment(rig), url_of(rig, "models/llama")
    shown = ok("publish", out, url, "v1", env=env).out
    assert "version:     v1\n" in shown
    assert "files:       2\n" in shown
    assert ok("publish", out, f"{url}/", "v1", env=env).out == shown
    assert ok("fetch", url, "v1", tmp_path / "local", env=env).out == shown
    assert {each.name: each.read_bytes() for each in (tmp_path / "local").iterdir()} == FILES
    found = json.loads(ok("verify", url, "v1", tmp_path / "local", "--json", env=env).out)
    assert (found["name"], found["files"], found["size"]) == ("v1", 2, 1002)
    assert ok("resolve", url, found["digest"], env=env).lines == [found["url"]]
    assert ok("ls", found["url"], env=env).lines == sorted(FILES)


def test_listed(model: str) -> None:
    """`versions`, `diff` and `alias` show what is there, also as JSON."""
    assert ok("versions", model).lines == ["v1", "v2"]
    assert ok("versions", "-l", model).lines[0].split()[1:3] == ["2", "1002"]
    assert [(each["name"], each["metadata"]) for each in read_json("versions", model)] == [
        ("v1", {"step": 1, "note": "a b"}),
        ("v2", {}),
    ]
    assert ok("diff", model, "latest", "v2").lines == ["* config.json", "+ new.txt"]
    assert [each["kind"] for each in read_json("diff", model, "v2", "v1")] == ["changed", "removed"]
    assert ok("alias", model).lines == ["latest  v1"]
    assert read_json("alias", model)["latest"]["version"] == "v1"


@pytest.mark.parametrize(("name", "code"), [("a/b", 2), ("v3", 2), ("V3", 2), ("v1", 4), ("LATEST", 4)])
def test_publish_with_wrong_alias(model: str, out: Path, name: str, code: int) -> None:
    """An alias that cannot have its name is refused before anything is published."""
    failed = run("publish", out, model, "v3", "--alias", name)
    assert (failed.code, failed.out) == (code, "")
    assert ok("versions", model).lines == ["v1", "v2"]


def test_failed_alias(out: Path, tmp_path: Path) -> None:
    """If the alias cannot be moved after the version is published, the command says that it is published."""
    (tmp_path / "store" / "models" / "llama").mkdir(parents=True)
    (tmp_path / "store" / "models" / "llama" / "aliases").write_bytes(b"not a folder")
    url = f"file://{tmp_path}/store/models/llama"
    failed = run("publish", out, url, "v1", "--alias", "latest")
    assert failed.code != 0
    assert "v1 is published; the alias latest was perhaps not moved" in failed.err
    assert ok("versions", url).lines == ["v1"]


@pytest.mark.parametrize("command", [["versions"], ["alias"], ["gc"], ["gc", "--dry-run"], ["retain", "--keep-last", "1"]])
def test_no_model(tmp_path: Path, command: list[str]) -> None:
    """A command about a model that does not exist says so."""
    failed = run(*command, f"file://{tmp_path}/store/lama")
    assert (failed.code, failed.out) == (3, "")
    assert "no model" in failed.err
    assert not (tmp_path / "store").exists()


def test_swapped_arguments(model: str, out: Path) -> None:
    """A model in place of the directory is refused, and nothing is written to the directory in place of the model."""
    before = sorted(out.iterdir())
    failed = run("publish", model.removeprefix("file://"), out, "v3")
    assert (failed.code, failed.out) == (2, "")
    assert "is a model with published versions; the order is DIRECTORY MODEL VERSION" in failed.err
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize("command", [["versions"], ["alias"], ["gc"], ["retain", "--keep-last", "1"]])
def test_folder_of_models(model: str, command: list[str]) -> None:
    """The folder that has the model is not a model."""
    failed = run(*command, model.rpartition("/")[0])
    assert (failed.code, failed.out) == (3, "")
    assert "no model" in failed.err


def test_alias(model: str) -> None:
    """`alias` moves an alias if it points to the expected version, and shows its moves."""
    failed = run("alias", model, "latest", "v2", "--expected", "v2")
    assert (failed.code, "points to 'v1', and not to 'v2'" in failed.err) == (4, True)
    assert "version:     v2" in ok("alias", model, "latest", "v2", "--expected", "v1").out
    assert [each.split()[-1] for each in ok("alias", model, "latest").lines] == ["v2", "v1"]
    assert [each["version"] for each in read_json("alias", model, "latest")] == ["v2", "v1"]


def test_copy_version(model: str, tmp_path: Path) -> None:
    """`copy-version` copies a version to another model, with its digest and metadata."""
    released = f"file://{tmp_path}/released/llama"
    copy = read_json("copy-version", model, "latest", released, "--as", "1.0")
    (one, _) = read_json("versions", model)
    assert (copy["name"], copy["digest"], copy["metadata"]) == ("1.0", one["digest"], one["metadata"])
    assert ok("verify", released, "1.0", "--no-read").code == 0


@pytest.mark.parametrize("text", ["NaN", "-Infinity"])
def test_metadata_as_text(model: str, out: Path, text: str) -> None:
    """A value that JSON does not have is a text."""
    ok("publish", out, model, "v3", "--metadata", f"loss={text}")
    assert read_json("versions", model)[-1]["metadata"] == {"loss": text}


def test_retain_and_gc(model: str, tmp_path: Path) -> None:
    """`retain` and `gc` show what they would delete, and delete it."""
    ok("alias", model, "latest", "v2")
    shown = ok("retain", model, "--keep-younger", "0", "--keep-every", "5").lines
    assert shown == ["keep    v2  (alias latest)", "delete  v1"]
    assert ok("retain", model, "--dry-run", "--keep-every", "5").lines == shown
    assert ok("versions", model).lines == ["v1", "v2"]
    found = read_json("retain", model, "--delete", "--keep-every", "5")
    assert (found["kept"], [each["name"] for each in found["deleted"]]) == ({"v2": ["alias latest"]}, ["v1"])
    assert found["aliases"] == []
    assert ok("gc", model).lines == []
    would = read_json("gc", model, "--grace", "0", "--dry-run")
    assert [each["files"] for each in would] == [3]
    assert ok("gc", model, "--grace", "0").lines == [f"{would[0]['size']:>15}  {3:>9}  {would[0]['url']}"]
    assert not [each for each in (tmp_path / "store").rglob("model.bin") if would[0]["url"].rstrip("/") in each.as_uri()]
    assert ok("verify", model, "latest").code == 0


def test_delete_version(model: str) -> None:
    """`delete-version` names the aliases that lead nowhere now; a missing version is an error, and the others go on."""
    deleted = run("delete-version", model, "v9", "v1")
    assert deleted.code == 3
    assert "No such version: v9" in deleted.err
    assert "alias latest points to the deleted version v1" in deleted.err
    assert run("resolve", model, "latest").code == 3
    assert ok("versions", model).lines == ["v2"]


def test_deleted_as_json(model: str) -> None:
    """`delete-version --json` prints the deleted versions with their aliases, also if another one cannot be deleted."""
    failed = run("delete-version", model, "v1", "v9", "v1", "v2", "--json")
    assert (failed.code, failed.err.count("No such version")) == (3, 2)
    assert json.loads(failed.out) == [{"name": "v1", "aliases": ["latest"]}, {"name": "v2", "aliases": []}]
    assert json.loads(run("delete-version", model, "v1", "--json").out) == []


def test_remove_model(model: str) -> None:
    """What is left of a model without versions is removed by force, as the refusal says."""
    assert run("delete-version", model, "v1", "v2").code == 0
    ok("gc", model, "--grace", "0")
    assert "to remove a complete model, give --force" in run("rm", "-r", model).err
    ok("rm", "-r", "--force", model)
    assert run("versions", model).code == 3


GUARDED = [
    ["rm", "{file}"],
    ["rm", "-r", "{entry}"],
    ["mv", "{name}", "{out}/x"],
    ["mv", "--dry-run", "{path}", "{out}/x"],
    ["mv", "{out}/new.txt", "{entry}"],
    ["cp", "{out}/new.txt", "{path}"],
]


def test_guarded_objects(model: str, out: Path, tmp_path: Path) -> None:
    """Single objects of published versions are deleted and replaced by force only; new ones may be added."""
    store = tmp_path / "store"
    file = next(each for each in store.rglob("model.bin"))
    entry = f"{model}/versions/v1/99999998.json"
    given = {"file": file.as_uri(), "path": file, "entry": entry, "name": f"{model}/names/v1.json", "out": out}
    before = {each: each.read_bytes() for each in [*store.rglob("*"), *out.rglob("*")] if each.is_file()}
    for arguments in GUARDED:
        failed = run(*[each.format(**given) for each in arguments])
        assert (failed.code, "published versions" in failed.err, "give --force" in failed.err) == (10, True, True)
        assert {each: each.read_bytes() for each in [*store.rglob("*"), *out.rglob("*")] if each.is_file()} == before
    assert run("cp", "-n", f"{out}/new.txt", entry).code == 4
    ok("cp", entry, f"{out}/x")
    ok("cp", f"{out}/new.txt", f"{file}2")
    ok("rm", "-f", file.as_uri())
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["publish", "{out}", "{model}", "v1"], (4, "is published with other files")),
        (["publish", "{out}/missing", "{model}", "v3"], (3, "No such directory to publish")),
        (["publish", "{out}", "{model}", "a/b"], (2, "cannot be the name of a version")),
        (["publish", "{out}", "{model}", "v3", "--metadata", "x"], (2, "'x' is not NAME=VALUE")),
        (["publish", "{out}", "s3://bucket", "v3"], (2, "is a bucket; name a model in it")),
        (["fetch", "{model}", "v9", "local"], (3, "has no version or alias 'v9'")),
        (["fetch", "{model}", "v1", "{out}"], (4, "The directory exists")),
        (["fetch", "{model}", "v1", "local", "--include", "*.pt"], (2, "no file that matches")),
        (["verify", "{model}", "v1", "{out}"], (7, "is not version 'v1': 'config.json' is changed, 'new.txt' is added")),
        (["verify", "{model}", "v1", "{out}", "--no-read"], (2, "leave DIRECTORY out")),
        (["alias", "{model}", "best"], (3, "No such alias: best")),
        (["alias", "{model}", "best", "v9"], (3, "has no version 'v9'")),
        (["alias", "{model}", "best", "latest"], (3, "has no version 'latest': that is an alias; name a version")),
        (["delete-version", "{model}", "latest"], (3, "that is an alias")),
        (["verify", "{model}", "v1", "nodir"], (3, "nodir")),
        (["alias", "{model}", "v1", "v2"], (4, "cannot be an alias")),
        (["alias", "{model}", "--expected", "v1"], (2, "needs ALIAS and VERSION")),
        (["publish", "{out}", "/", "v3"], (2, "name a model in it, as in file:///models/llama")),
        (["publish", "{out}", "{model}", "v3", "--metadata", "a=1", "--metadata", "a=2"], (2, "'a' is given twice")),
        (["fetch", "{model}", "v1", "local", "--cache", ""], (2, "cache is empty")),
        (["fetch", "{model}", "v1", ""], (2, "local_dir is empty")),
        (["fetch", "{model}", "v1", "-"], (2, "'-' is not allowed here")),
        (["fetch", "{model}", "v1", "--cache", "-"], (2, "'-' is not allowed here")),
        (["verify", "{model}", "v1", ""], (2, "local_dir is empty")),
        (["verify", "{model}", "v1", "-"], (2, "'-' is not allowed here")),
        (["publish", "", "{model}", "v3"], (2, "local_dir is empty")),
        (["publish", "-", "{model}", "v3"], (2, "'-' is not allowed here")),
        (["gc", "{model}", "--grace", "99999999999d"], (2, "--grace '99999999999d' is longer than")),
        (["gc", "{model}", "--grace", "soon"], (2, "--grace 'soon' is not a time")),
        (["retain", "{model}"], (2, "--keep-last")),
        (["cache", "list", "{out}"], (3, "no cache of published versions")),
        (["cache", "prune", "{out}"], (2, "Name a rule: --older-than or --max-size")),
        (["cache", "prune", "{out}", "--max-size", "2 apples"], (2, "--max-size '2 apples' is not a size")),
        (["cache", "prune", "{out}", "--older-than", "soon"], (2, "--older-than 'soon' is not a time")),
        (["cache", "sweep", "{out}"], (2, "No such command 'sweep'")),
    ],
    ids=lambda each: "-".join(each[:1]) if isinstance(each, list) else "",
)
def test_errors(model: str, out: Path, tmp_path: Path, arguments: list[str], expected: tuple[int, str]) -> None:
    """Each error has the documented exit code, and names the thing."""
    given = [each.format(model=model, out=out) for each in arguments]
    failed = run(*[str(tmp_path / each) if each == "local" else each for each in given])
    assert (failed.code, failed.out) == (expected[0], "")
    assert expected[1] in failed.err
    assert not os.path.lexists(tmp_path / "local")


def test_cache(model: str, tmp_path: Path) -> None:
    """`fetch --cache` prints the path of the files in the cache, or makes a directory from them."""
    path = ok("fetch", model, "v1", "--cache", tmp_path / "cache").out.strip()
    assert path.startswith(f"{tmp_path}/cache/")
    assert {name: read(path, name) for name in os.listdir(path)} == FILES
    assert read_json("fetch", model, "v1", "--cache", str(tmp_path / "cache"))["path"] == path
    ok("fetch", model, "v1", tmp_path / "local", "--cache", tmp_path / "cache")
    assert read(str(tmp_path / "local"), "model.bin") == FILES["model.bin"]
    assert run("fetch", model, "v1").code == 2


def test_cache_commands(model: str, tmp_path: Path) -> None:
    """`cache list` and `cache prune` show versions, with their model; `prune` removes them without ``--dry-run``."""
    cache = str(tmp_path / "cache")
    for name in ("v1", "v2"):
        ok("fetch", model, name, "--cache", cache)
    newest, oldest = read_json("cache", "list", cache)
    assert (newest["names"], oldest["names"]) == ([f"{model} v2"], [f"{model} v1"])
    assert (newest["files"], newest["size"], os.path.isdir(newest["path"])) == (3, 1002, True)
    lines = ok("cache", "list", cache).lines
    assert lines[0].split() == [newest["digest"], "3", "1002", newest["used"], model, "v2"]

    rules = ("cache", "prune", cache, "--max-size", "1002")
    assert ok(*rules, "--dry-run").lines == lines[1:]
    assert read_json("cache", "prune", cache, "--older-than", "1h") == []
    assert ok("cache", "list", cache).lines == lines
    assert ok(*rules).lines == lines[1:]
    assert ok("cache", "list", cache).lines == lines[:1]
    assert read_json("cache", "prune", cache, "--max-size", "0", "--one-machine") == [newest]
    assert not os.listdir(f"{cache}/versions")


def read(folder: str, name: str) -> bytes:
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()
