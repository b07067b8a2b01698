"""`rm --recursive`: the objects below a URL, and no others."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import Answer, Fault, FaultProxy, Match
from tests.cli.support import environment, ok, run, run_python, url_of
from tests.conftest import make_rig
from tests.rig import BUCKET, Rig, server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

CONTENT = b"some weights\n"
BELOW = ["x/a", "x/sub/b", "x/sub/deep/c é"]
BESIDE = ["w", "xy/a", "x-a", "y/x/a"]


@pytest.fixture(params=["file", "ministack", "azurite", "gcs-fake"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider that other processes can use, with objects below and beside a folder."""
    rig = make_rig(request.param, request)
    for name in [*BELOW, *BESIDE]:
        rig.second.put(rig.key(name), CONTENT)
    return rig


@pytest.mark.parametrize("name", ["x", "x/"])
def test_recursive(name: str, store: Rig) -> None:
    """`-r` deletes all objects below the prefix, and no others."""
    done = ok("rm", "-rv", url_of(store, name), env=environment(store))

    assert done.lines == [url_of(store, each) for each in BELOW]
    assert store.keys() == sorted(BESIDE)


def test_several(store: Rig) -> None:
    """Several folders are deleted by one command."""
    assert ok("rm", "--recursive", url_of(store, "x/sub"), url_of(store, "xy"), env=environment(store)).out == ""
    assert store.keys() == ["w", "x-a", "x/a", "y/x/a"]


def test_missing(store: Rig) -> None:
    """A prefix without objects is not found, unless `-f` is given."""
    env = environment(store)
    for name in ("nothing", "nothing/", "xz"):
        done = run("rm", "-r", url_of(store, name), env=env)
        assert (done.code, done.out, done.err.count("\n")) == (3, "", 1)
        assert url_of(store, name) in done.err
        assert ok("rm", "-rf", url_of(store, name), env=env).out == ""
    assert store.keys() == sorted([*BELOW, *BESIDE])


def test_missing_of_list(store: Rig, tmp_path: Path) -> None:
    """A name of `--files-from` without an object is an error, unless `-f` is given; the others are deleted."""
    env = environment(store)
    (tmp_path / "list").write_text("a\nmissing\n")
    command = ("rm", "-rv", url_of(store, "x"), "--files-from", tmp_path / "list")
    done = run(*command, env=env)
    assert (done.code, done.lines, done.err.count("\n")) == (3, [url_of(store, "x/a")], 1)
    assert url_of(store, "x/missing") in done.err
    assert run(*command, env=env).code == 3
    assert ok(*command, "-f", env=env).out == ""
    assert store.keys() == sorted([*BELOW[1:], *BESIDE])


def test_one_missing(store: Rig) -> None:
    """A missing folder is reported, and the others are deleted."""
    done = run("rm", "-r", url_of(store, "nothing"), url_of(store, "x"), env=environment(store))

    assert (done.code, done.err.count("\n")) == (3, 1)
    assert store.keys() == sorted(BESIDE)


def test_same_name(servers: Servers) -> None:
    """`x` also deletes the object `x`, `x/` does not."""
    rig = server_rig("ministack", servers.s3("ministack"))
    for name in ("x", "x/a", "y"):
        rig.second.put(rig.key(name), CONTENT)

    ok("rm", "-r", url_of(rig, "x/"), env=environment(rig))
    assert rig.keys() == ["x", "y"]
    ok("rm", "-r", url_of(rig, "x"), env=environment(rig))
    assert rig.keys() == ["y"]


def test_several_pages(servers: Servers) -> None:
    """More objects are deleted than one page of a listing holds."""
    rig = server_rig("ministack", servers.s3("ministack"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: rig.second.put(rig.key(f"x/{number:04}"), b""), range(1005)))

    ok("rm", "-r", url_of(rig, "x"), env=environment(rig))

    assert rig.keys() == []


def test_impossible_names(servers: Servers) -> None:
    """Objects with keys that no path can name are reported, and stay."""
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("kept"), CONTENT)
    for name in ("x/../kept", "x//double", "x/good"):
        rig.second.put(f"{rig.prefix}/{name}", CONTENT)
    odd = [key for key in rig.second.all_keys() if key.startswith(f"{rig.prefix}/x/") and not key.endswith("/good")]
    assert odd != []

    done = run("rm", "-rf", url_of(rig, "x"), env=environment(rig))

    assert (done.code, done.err.count("\n")) == (2, len(odd))
    left = [key for key in rig.second.all_keys() if key.startswith(f"{rig.prefix}/")]
    assert sorted(left) == sorted([*odd, f"{rig.prefix}/kept"])


@pytest.mark.parametrize("name", ["ministack", "ceph", "azurite", "gcs-fake"])
def test_markers(name: str, request: pytest.FixtureRequest) -> None:
    """Folder markers, and objects with content whose keys end with `/`, are deleted as well."""
    rig = make_rig(name, request)
    for each, content in {"x/": b"", "x/sub/": CONTENT, "x/a": CONTENT, "y/": b""}.items():
        rig.second.put(rig.key(each), content)

    listed = ok("ls", "-r", url_of(rig, "x"), env=environment(rig))
    assert listed.lines == ["a", "sub/"]
    assert ok("ls", url_of(rig, "x/sub/"), env=environment(rig)).lines == ["./"]
    ok("rm", "-r", url_of(rig, "x"), env=environment(rig))

    assert rig.keys() == ["y/"]


def test_copied_marker(servers: Servers, tmp_path: Path) -> None:
    """An object with content whose key ends with `/` is reported by `cp -r`, and copied by `--exact`."""
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("x/sub/"), CONTENT)
    rig.second.put(rig.key("x/a"), CONTENT)

    done = run("cp", "-r", url_of(rig, "x"), tmp_path / "x", env=environment(rig))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "x/sub/" in done.err
    assert os.listdir(tmp_path / "x") == ["a"]
    ok("cp", "--exact", url_of(rig, "x/sub/"), tmp_path / "sub", env=environment(rig))
    assert (tmp_path / "sub").read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["x//y", "x/../y", "x/", "x//"])
def test_exact(name: str, servers: Servers) -> None:
    """`--exact` reads, shows and deletes an object whose key no path can have."""
    rig = server_rig("ceph", servers.s3("ceph"))
    rig.second.put(rig.key(name), CONTENT)
    rig.second.put(rig.key("y"), b"other")
    rig.second.put(rig.key("x"), b"other")
    env = environment(rig)

    assert run("cat", url_of(rig, name), env=env).code == 2
    assert ok("cat", "--exact", url_of(rig, name), env=env).out == CONTENT.decode()
    assert str(len(CONTENT)) in ok("stat", "--exact", url_of(rig, name), env=env).out
    ok("exists", "--exact", url_of(rig, name), env=env)
    ok("rm", "--exact", url_of(rig, name), env=env)
    assert run("exists", "--exact", url_of(rig, name), env=env).code == 1
    assert rig.keys() == ["x", "y"]


def test_all_exact(servers: Servers) -> None:
    """`-r --exact` deletes also the objects whose keys no path can have."""
    rig = server_rig("ceph", servers.s3("ceph"))
    for name in ("x//y", "x/../y", "x/a", "y"):
        rig.second.put(rig.key(name), CONTENT)

    ok("rm", "-r", "--exact", url_of(rig, "x"), env=environment(rig))

    assert rig.keys() == ["y"]


def test_requests(servers: Servers) -> None:
    """Many objects are deleted by one request, without a HEAD request for each."""
    server = servers.s3("ministack")
    rig = server_rig("ministack", server)
    for number in range(60):
        rig.second.put(rig.key(f"x/{number}"), b"")
    with FaultProxy(server.endpoint_url) as proxy:
        ok("rm", "-r", url_of(rig, "x"), "--endpoint-url", proxy.url, env=environment(rig))
        operations = Counter(each.operation for each in proxy.requests)

    assert rig.keys() == []
    assert operations["DeleteObjects"] == 1
    assert sum(operations.values()) <= 4, operations


def test_one_refused(servers: Servers) -> None:
    """An object that cannot be deleted is reported, and the others are deleted."""
    server = servers.s3("ministack")
    rig = server_rig("ministack", server)
    for name in ("x/a", "x/kept", "x/b"):
        rig.second.put(rig.key(name), b"")
    with FaultProxy(server.endpoint_url) as proxy:
        denied = Answer(403, "AccessDenied")
        proxy.inject(Fault(Match(operation="DeleteObjects"), denied, times=None))
        proxy.inject(Fault(Match(operation="DeleteObject", key=rig.key("x/kept")), denied, times=None))
        done = run("rm", "-rv", url_of(rig, "x"), "--endpoint-url", proxy.url, env=environment(rig))

    assert (done.code, done.err.count("\n")) == (5, 1)
    assert "x/kept" in done.err
    assert sorted(done.lines) == [url_of(rig, "x/a"), url_of(rig, "x/b")]
    assert rig.keys() == ["x/kept"]


@pytest.mark.parametrize("recursive", [[], ["-r"]], ids=["one", "all"])
def test_bare_path(recursive: list[str], tmp_path: Path) -> None:
    """A relative path without `./` may be a URL without its scheme: nothing is deleted."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "v1").write_bytes(CONTENT)

    for name in ("models/v1", "models", "models/"):
        done = run("rm", *recursive, name, cwd=tmp_path)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert f"'./{name}'" in done.err
        assert f"'s3://{name}'" in done.err
    assert (tmp_path / "models" / "v1").exists()
    ok("rm", *recursive, "./models/v1", cwd=tmp_path)
    assert os.listdir(tmp_path / "models") == []


@pytest.mark.parametrize("name", [".", "..", "./", "../", "./x/..", "./x/."])
def test_current_folder(name: str, tmp_path: Path) -> None:
    """The current folder and its parents are refused, as by rm."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").write_bytes(CONTENT)

    done = run("rm", "-r", name, cwd=tmp_path)

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert (tmp_path / "x" / "a").exists()


@pytest.mark.parametrize("form", ["/{}", "file:///{}", "../{}"])
def test_marked_path(form: str, tmp_path: Path) -> None:
    """A path that can only be local is deleted."""
    (tmp_path / "here").mkdir()
    (tmp_path / "x").write_bytes(CONTENT)
    name = "x" if form.startswith("..") else str(tmp_path / "x").lstrip("/")
    ok("rm", form.format(name), cwd=tmp_path / "here")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "url",
    [f"s3://{BUCKET}", "s3://other", "file:///", "/", "//", "memory://", "sftp://host/", "az://container", "gs://bucket"],
)
def test_root_refused(url: str, servers: Servers, tmp_path: Path) -> None:
    """A bucket or the root of a file system is refused before anything is deleted."""
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("x"), CONTENT)
    (tmp_path / "a").write_bytes(CONTENT)

    # The first argument alone would be deleted; it stays because the second is refused.
    done = run("rm", "-rf", tmp_path, url, env={**environment(rig), "GLLM_STORAGE_AZURE_ACCOUNT_NAME": "acc1"})

    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert url in done.err
    assert rig.keys() == ["x"]
    assert os.listdir(tmp_path) == ["a"]


def test_bucket(tmp_path: Path) -> None:
    """A bucket's objects are deleted if its URL ends with `/`."""
    (tmp_path / "file").write_bytes(CONTENT)
    code = """
for name in ("a", "b/c"):
    assert run(["cp", sys.argv[1], f"memory://bucket/{name}"]) == 0
assert run(["rm", "-r", "memory://bucket"]) == 2
assert run(["rm", "-rv", "memory://bucket/"]) == 0
sys.exit(run(["ls", "-r", "memory://bucket"]))
"""
    done = run_python(code, tmp_path / "file")

    assert (done.code, done.lines) == (0, ["memory://bucket/a", "memory://bucket/b/c"])
    assert "'memory://bucket/'" in done.err


def test_local_folders(tmp_path: Path) -> None:
    """Local folders stay, and links to folders are not followed."""
    for name in ("folder/sub/a", "elsewhere/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(CONTENT)
    (tmp_path / "folder" / "inner").symlink_to("../elsewhere")
    (tmp_path / "outer").symlink_to("elsewhere")

    ok("rm", "-r", tmp_path / "folder")
    links = [run("rm", "-rf", f"{tmp_path}/outer{end}") for end in ("", "/")]

    assert (tmp_path / "folder" / "sub").is_dir()
    assert not (tmp_path / "folder" / "sub" / "a").exists()
    assert [each.code for each in links] == [2, 2]
    assert all(str(tmp_path / "elsewhere") in each.err for each in links)
    assert (tmp_path / "elsewhere" / "b").read_bytes() == CONTENT


def test_needs_recursive(store: Rig) -> None:
    """A folder is a usage error without `-r`."""
    done = run("rm", url_of(store, "x/"), env=environment(store))

    assert done.code == 2
    assert url_of(store, "x/").removeprefix("file://") in done.err
    assert store.keys() == sorted([*BELOW, *BESIDE])
