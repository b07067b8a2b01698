"""`ls`, `stat`, `cat`, `rm`, `exists` and `providers`."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import FaultProxy
from tests.cli.support import PRELUDE, PROGRAM, environment, ok, run, run_anew, url_of
from tests.conftest import make_rig
from tests.promises.faulty import proxied
from tests.rig import BUCKET, MIB, server_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers
    from tests.rig import Rig

CONTENT = b"some weights\n"


@pytest.fixture(params=["file", "ministack", "azurite", "gcs-fake"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider that other processes can use, with a few objects."""
    rig = make_rig(request.param, request)
    for name in ("a.bin", "sub/b.bin", "sub/deep/c.bin", "sub-x", "z é.bin"):
        rig.second.put(rig.key(name), CONTENT)
    return rig


def test_ls(store: Rig) -> None:
    """`ls` lists one level, `-r` all levels, in key order."""
    env = environment(store)

    assert ok("ls", url_of(store), env=env).lines == ["a.bin", "sub-x", "sub/", "z é.bin"]
    assert ok("ls", url_of(store).rstrip("/"), env=env).lines == ["a.bin", "sub-x", "sub/", "z é.bin"]
    assert ok("ls", url_of(store, "sub"), env=env).lines == ["b.bin", "deep/"]
    assert ok("ls", "-r", url_of(store, "sub/"), env=env).lines == ["b.bin", "deep/c.bin"]
    assert ok("ls", url_of(store, "a.bin"), env=env).lines == ["a.bin"]


def test_ls_delimiter(servers: Servers) -> None:
    """`ls` requests one level from the server, not all objects below."""
    running = servers.s3("ministack")
    with FaultProxy(running.endpoint_url) as proxy:
        rig = proxied(server_rig("ministack", running), proxy)
        for number in range(12):
            rig.second.put(rig.key(f"sub/{number}"), CONTENT)

        assert ok("ls", url_of(rig), env=environment(rig)).lines == ["sub/"]

        (listing,) = [entry for entry in proxy.requests if entry.operation == "ListObjectsV2"]
        assert "delimiter=%2F" in listing.query


def test_ls_local(tmp_path: Path) -> None:
    """`ls` of a local folder does not open the folders in it."""
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "a").write_bytes(CONTENT)
    assert ok("ls", tmp_path).lines == ["a", "closed/", "loop/"]
    assert "proc/" in ok("ls", "/").lines


def test_ls_formats(store: Rig) -> None:
    """`-l` adds size and time, `--json` prints all facts."""
    env = environment(store)

    line = ok("ls", "-l", url_of(store, "a.bin"), env=env).lines[0].split()
    found = json.loads(ok("ls", "--json", url_of(store), env=env).out)

    assert (line[0], line[1][:2], line[2]) == (str(len(CONTENT)), "20", "a.bin")
    assert [(each["name"], each["type"], each.get("size")) for each in found] == [
        ("a.bin", "object", len(CONTENT)),
        ("sub-x", "object", len(CONTENT)),
        ("sub/", "folder", None),
        ("z é.bin", "object", len(CONTENT)),
    ]
    assert found[0]["url"] == url_of(store, "a.bin")


def test_ls_missing(store: Rig) -> None:
    """A prefix without objects is not found."""
    done = run("ls", url_of(store, "nothing"), env=environment(store))

    assert (done.code, done.out) == (3, "")
    assert done.err.count("\n") == 1


def test_stat(store: Rig) -> None:
    """`stat` prints size and URL, for the objects that exist."""
    env = environment(store)

    shown = ok("stat", url_of(store, "a.bin"), url_of(store, "sub-x"), env=env).out
    (found,) = json.loads(ok("stat", "--json", url_of(store, "a.bin"), env=env).out)
    missing = run("stat", url_of(store, "nothing"), url_of(store, "a.bin"), env=env)

    assert shown.count(f"{len(CONTENT)} (13 B)") == 2
    assert (found["url"], found["size"]) == (url_of(store, "a.bin"), len(CONTENT))
    assert missing.code == 3
    assert f"{len(CONTENT)} (13 B)" in missing.out


def test_cat(store: Rig) -> None:
    """`cat` writes the objects that exist, one after the other."""
    done = ok("cat", url_of(store, "a.bin"), url_of(store, "z é.bin"), env=environment(store))
    missing = run("cat", url_of(store, "nothing"), url_of(store, "a.bin"), env=environment(store))

    assert done.out == CONTENT.decode() * 2
    assert (missing.code, missing.out) == (3, CONTENT.decode())


def test_cat_large(store: Rig, tmp_path: Path) -> None:
    """`cat` of a large object writes exactly its content."""
    content = bytes(range(256)) * (40 * MIB // 1024)
    (tmp_path / "large").write_bytes(content)
    ok("cp", tmp_path / "large", url_of(store, "large"), env=environment(store))

    with (tmp_path / "out").open("wb") as out:
        done = run("cat", url_of(store, "large"), env=environment(store), stdout=out)

    assert (done.code, done.err) == (0, "")
    assert (tmp_path / "out").read_bytes() == content


def test_cat_mismatch(servers: Servers) -> None:
    """Data that does not match the stored checksum is an error after the last byte."""
    rig = server_rig("ceph", servers.s3("ceph"))
    kept = {"gllm-crc64nvme": "AAAAAAAAAAA=-3"}
    rig.boto3.client.put_object(Bucket=BUCKET, Key=rig.key("bad"), Body=b"bad", Metadata=kept)

    done = run("cat", url_of(rig, "bad"), env=environment(rig))

    assert (done.code, done.out) == (7, "bad")
    assert "does not match the stored object" in done.err


def test_ls_closed_pipe(store: Rig) -> None:
    """A reader that closes the pipe causes no message."""
    piped = f"{' '.join(PROGRAM)} ls -r {url_of(store)} | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", piped], check=False, capture_output=True, text=True, env={**os.environ, **environment(store)}
    )

    assert done.returncode in {0, 141}
    assert (done.stdout, done.stderr) == ("a.bin\n", "")


def test_rm(store: Rig) -> None:
    """`rm` deletes objects, and reports missing ones unless `-f` is given."""
    env = environment(store)

    assert ok("rm", url_of(store, "a.bin"), "-v", url_of(store, "sub-x"), env=env).lines == [
        url_of(store, "a.bin"),
        url_of(store, "sub-x"),
    ]
    assert run("rm", url_of(store, "a.bin"), url_of(store, "sub/b.bin"), env=env).code == 3
    assert ok("rm", "-f", url_of(store, "a.bin"), env=env).out == ""
    assert store.keys() == ["sub/deep/c.bin", "z é.bin"]


def test_exists(store: Rig) -> None:
    """`exists` prints nothing."""
    codes = [run("exists", url_of(store, name), env=environment(store)) for name in ("a.bin", "sub/x", "nothing")]

    assert [(each.code, each.out, each.err) for each in codes] == [(0, "", ""), (1, "", ""), (1, "", "")]


def test_providers() -> None:
    """`providers` lists names, aliases and installed extras."""
    found = {each["name"]: each for each in json.loads(ok("providers", "--json").out)}

    assert {"s3", "gcs", "azure", "file", "memory", "fsspec"} <= set(found)
    assert all(each["installed"] for each in found.values())
    assert "gs" in found["gcs"]["aliases"]
    assert "azure (abfs, abfss, az)" in ok("providers").out


def test_missing_extra() -> None:
    """A missing extra is named with the command that installs it."""
    code = """
import importlib.util, gllm_storage.settings
found = importlib.util.find_spec
gllm_storage.settings.find_spec = lambda name, *rest: None if name in {"gcsfs", "google.auth"} else found(name, *rest)
assert run(["providers"]) == 0
sys.exit(run(["ls", "gs://models/"]))
"""
    done = run_anew([sys.executable, "-c", PRELUDE + code])  # before the provider is imported

    assert done.code == 11
    assert done.out.count("pip install '.[gcs]'") == 1
    assert "pip install '.[gcs]'" in done.err


def imported(*arguments: str) -> list[str]:
    """The heavy modules that a command imports."""
    names = ("awscrt", "fsspec", "boto3", "s3fs", "gcsfs", "adlfs", "azure.core")
    code = f"assert run(sys.argv[1:]) == 0\nprint([name for name in {names} if name in sys.modules])"
    done = run_anew([sys.executable, "-c", PRELUDE + code], *arguments)
    assert (done.code, done.err) == (0, "")
    found: list[str] = ast.literal_eval(done.lines[-1])
    return found


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["cp", "--help"], ["check", "--help"], ["completion", "bash"]], ids=" ".join
)
def test_lazy_imports(arguments: list[str]) -> None:
    """Help and version import neither fsspec nor an SDK."""
    assert imported(*arguments) == []


def test_lazy_providers() -> None:
    """`providers` imports no SDK."""
    assert set(imported("providers")) <= {"awscrt", "fsspec"}


def test_command_modules() -> None:
    """Each command has a module of its name, and only its module is imported to run it."""
    code = "run(['exists', '/']); print([name for name in sys.modules if name.startswith('gllm_storage.cli.commands.')])"

    assert run_anew([sys.executable, "-c", PRELUDE + code]).lines[-1] == "['gllm_storage.cli.commands.exists']"


def test_local_paths(tmp_path: Path) -> None:
    """Commands take local paths."""
    (tmp_path / "a").write_bytes(b"x")

    assert ok("ls", tmp_path).lines == ["a"]
    assert ok("cat", tmp_path / "a").out == "x"
    assert run("exists", tmp_path / "b").code == 1
