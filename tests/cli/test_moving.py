"""`mv`, `du`, `presign`, and the list of buckets."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import Call, Fault, FaultProxy, Match
from tests.cli.support import environment, ok, run, shown_url, url_of
from tests.conftest import make_rig
from tests.rig import BUCKET, Rig, server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

CONTENT = b"some weights\n"
CLOUDS = ["ministack", "azurite", "gcs-fake"]


@pytest.fixture(params=["file", *CLOUDS])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider that other processes can use, with an object."""
    rig = make_rig(request.param, request)
    rig.second.put(rig.key("a.bin"), CONTENT)
    return rig


def test_within(store: Rig) -> None:
    """An object moves within its store; a missing source is not found."""
    env = environment(store)
    done = ok("mv", "-v", url_of(store, "a.bin"), url_of(store, "sub/b.bin"), env=env)

    assert done.lines == [url_of(store, "sub/b.bin") if store.provider != "file" else shown_url(store, "sub/b.bin")]
    assert store.keys() == ["sub/b.bin"]
    assert store.second.get(store.key("sub/b.bin")) == CONTENT
    assert run("mv", url_of(store, "a.bin"), url_of(store, "c"), env=env).code == 3
    assert run("mv", url_of(store, "sub/b.bin"), url_of(store, "sub/b.bin"), env=env).code == 2
    assert store.keys() == ["sub/b.bin"]


def test_up_and_down(store: Rig, tmp_path: Path) -> None:
    """A file moves into a store and back."""
    env = environment(store)
    here = tmp_path / "here.bin"
    here.write_bytes(b"mine")
    ok("mv", here, url_of(store, "up/"), env=env)
    assert not here.exists()
    assert store.second.get(store.key("up/here.bin")) == b"mine"
    ok("mv", url_of(store, "up/here.bin"), tmp_path / "back.bin", env=env)
    assert (tmp_path / "back.bin").read_bytes() == b"mine"
    assert store.keys() == ["a.bin"]


def test_no_clobber(store: Rig, tmp_path: Path) -> None:
    """`-n` moves nothing onto an existing target, and the source stays."""
    env = environment(store)
    store.second.put(store.key("b.bin"), b"other")
    (tmp_path / "here").write_bytes(b"mine")

    assert run("mv", "-n", url_of(store, "a.bin"), url_of(store, "b.bin"), env=env).code == 4
    assert run("mv", "-n", tmp_path / "here", url_of(store, "b.bin"), env=env).code == 4
    assert run("mv", "-n", url_of(store, "a.bin"), tmp_path / "here", env=env).code == 4
    assert store.keys() == ["a.bin", "b.bin"]
    assert store.second.get(store.key("b.bin")) == b"other"
    assert (tmp_path / "here").read_bytes() == b"mine"


@pytest.mark.parametrize("command", ["mv", "cp"])
def test_one_target_twice(store: Rig, tmp_path: Path, command: str) -> None:
    """A file of one source does not replace the file that the same command has made of another one."""
    env = environment(store)
    for folder, names in (("one", "xy"), ("two", "yz")):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(f"{folder} {name}")
    sources = [tmp_path / "one" / "x", tmp_path / "two", tmp_path / "one"]

    for option in ("--dry-run", "-v"):
        done = run(command, "-r", option, sources[0], f"{sources[1]}/", f"{sources[2]}/", url_of(store, "t/"), env=env)
        assert done.code == 2
        assert "this command has written that target already" in done.err
        assert sorted(line.rpartition("/")[2] for line in done.lines) == ["x", "y", "z"]

    found = {key: store.second.get(store.key(key)).decode() for key in store.files()}
    assert found == {"a.bin": CONTENT.decode(), "t/x": "one x", "t/y": "two y", "t/z": "two z"}
    assert (tmp_path / "one" / "y").read_text() == "one y"


def test_folder(store: Rig, tmp_path: Path) -> None:
    """`-r` moves a folder up and down, and leaves no empty folder."""
    env = environment(store)
    (tmp_path / "run" / "sub" / "empty").mkdir(parents=True)
    (tmp_path / "run" / "a").write_bytes(b"1")
    (tmp_path / "run" / "sub" / "b").write_bytes(b"2")

    ok("mv", "-r", tmp_path / "run", url_of(store, "v1/"), env=env)
    assert not (tmp_path / "run").exists()
    assert store.keys() == ["a.bin", "v1/run/a", "v1/run/sub/b"]
    if store.provider != "file":
        store.second.put(store.key("v1/run/"), b"")
    ok("mv", "-r", url_of(store, "v1/run"), tmp_path / "back", env=env)
    assert sorted(os.listdir(tmp_path / "back")) == ["a", "sub"]
    assert store.keys() == ["a.bin"]


def test_links(store: Rig, tmp_path: Path) -> None:
    """`mv -r` moves the content of linked files, and leaves links to folders, and what is behind them."""
    (tmp_path / "run" / "sub").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_bytes(b"0")
    (tmp_path / "run" / "sub" / "a").write_bytes(b"1")
    (tmp_path / "run" / "inner").symlink_to("sub")
    (tmp_path / "run" / "outer").symlink_to("../elsewhere")
    (tmp_path / "run" / "circle").symlink_to(".")

    ok("mv", "-r", tmp_path / "run", url_of(store, "v1"), env=environment(store))

    assert store.keys() == ["a.bin", "v1/sub/a"]
    assert sorted(os.listdir(tmp_path / "run")) == ["circle", "inner", "outer"]
    assert os.listdir(tmp_path / "elsewhere") == ["kept"]


def test_empty_folder(tmp_path: Path) -> None:
    """`mv -r` of a folder without files removes it."""
    (tmp_path / "run" / "sub").mkdir(parents=True)
    ok("mv", "-r", tmp_path / "run", tmp_path / "there")
    assert os.listdir(tmp_path) == []


def test_replaced(servers: Servers, tmp_path: Path) -> None:
    """A source that is replaced while it is copied stays, and the command fails."""
    server = servers.s3("ministack")
    rig = server_rig("ministack", server)
    rig.second.put(rig.key("a"), CONTENT)
    with FaultProxy(server.endpoint_url) as proxy:
        proxy.inject(Fault(Match(operation="GetObject"), Call(lambda: rig.second.put(rig.key("a"), b"newer"))))
        done = run("mv", url_of(rig, "a"), tmp_path / "copy", "--endpoint-url", proxy.url, env=environment(rig))
        assert proxy.errors == []

    assert done.code == 9, done
    assert rig.second.get(rig.key("a")) == b"newer"


def test_upwards(servers: Servers) -> None:
    """`mv -r` and `cp -r` change no file that they read, also if the target is the same store at another name."""
    rig = server_rig("ministack", servers.s3("ministack"))
    names = ("a/x", "a/b/x", "a/b/b/x")
    for name in names:
        rig.second.put(rig.key(name), name.encode())
    assert "//127.0.0.1:" in rig.config["endpoint_url"]
    other = f"endpoint_url={rig.config['endpoint_url'].replace('127.0.0.1', 'localhost')}"

    env = environment(rig)
    for extra in ((), ("--target-config", other)):
        for verb in ("mv", "cp"):
            done = run(verb, "-r", url_of(rig, "a/b/"), url_of(rig, "a/"), *extra, env=env)
            assert done.code == 10
            assert "files of the source would be replaced" in done.err
    assert run("sync", "--delete", url_of(rig, "a/b/"), url_of(rig, "a/"), "--target-config", other, env=env).code == 10
    assert run("mv", "-r", url_of(rig, "a/"), url_of(rig, "a/"), "--target-config", other, env=env).code == 10
    assert run("mv", url_of(rig, "a/x"), url_of(rig, "a/x"), "--target-config", other, env=env).code == 2

    assert {name: rig.second.get(rig.key(name)) for name in names} == {name: name.encode() for name in names}


def test_stream_refused(tmp_path: Path) -> None:
    """Standard input and output cannot be moved."""
    assert run("mv", "-", tmp_path / "x").code == 2
    (tmp_path / "x").write_bytes(CONTENT)
    assert run("mv", tmp_path / "x", "-").code == 2
    assert (tmp_path / "x").exists()
    assert "Missing argument 'TARGET'" in run("mv", tmp_path / "x").err


def test_du(store: Rig) -> None:
    """`du` counts the objects below a URL and their bytes, the object of that name included."""
    env = environment(store)
    if store.provider != "file":
        store.second.put(store.key("v1"), b"12345")
    store.second.put(store.key("v1/a"), b"123")
    store.second.put(store.key("v1/sub/b"), b"12")
    expected = (2, 5) if store.provider == "file" else (3, 10)

    fields = ok("du", url_of(store, "v1"), env=env).out.split()
    assert (int(fields[1]), int(fields[0])) == expected
    (found,) = json.loads(ok("du", "--json", url_of(store, "v1/"), env=env).out)
    assert (found["objects"], found["size"]) == (2, 5)
    assert "13 B" in ok("du", "--human", url_of(store, "a.bin"), env=env).out
    assert run("du", url_of(store, "nothing"), env=env).code == 3


@pytest.mark.parametrize("name", ["ministack", "ceph", "azurite"])
def test_presign(name: str, request: pytest.FixtureRequest) -> None:
    """`presign` prints a URL by which plain urllib reads the object."""
    rig = make_rig(name, request)
    rig.second.put(rig.key("a b.bin"), CONTENT)

    url = ok("presign", url_of(rig, "a b.bin"), "--expires", "5m", env=environment(rig)).out.strip()
    with urllib.request.urlopen(url) as answer:  # noqa: S310 - an http URL of our own server
        assert answer.read() == CONTENT
    assert ok("presign", url_of(rig, "a b.bin"), "--expires", "2d", env=environment(rig)).out.startswith("http")
    assert run("presign", url_of(rig, "a"), "--expires", "soon", env=environment(rig)).code == 2


def test_presign_refused(tmp_path: Path) -> None:
    """A store without such URLs says so."""
    (tmp_path / "x").write_bytes(CONTENT)
    done = run("presign", tmp_path / "x")
    assert (done.code, done.out, done.err.count("\n")) == (8, "", 1)


@pytest.mark.parametrize("name", CLOUDS)
def test_buckets(name: str, request: pytest.FixtureRequest) -> None:
    """`ls s3://` lists the buckets of the account; so do `gs://` and `az://`."""
    rig = make_rig(name, request)
    url = f"{rig.scheme}://"

    assert f"{BUCKET}/" in ok("ls", url, env=environment(rig)).lines
    found = json.loads(ok("ls", "--json", url, env=environment(rig)).out)
    assert {"name": f"{BUCKET}/", "type": "bucket", "url": f"{url}{BUCKET}"} in found
