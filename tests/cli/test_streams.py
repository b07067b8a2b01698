"""Standard streams: their other names, closed, on a full disk, and on a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import PROGRAM, SECONDS, Finished, environment, holds_file, ok, on_terminal, run, url_of
from tests.conftest import make_rig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.rig import Rig

CONTENT = b"some weights\n"


@pytest.fixture(params=["file", "ministack"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store that other processes can use, with an object."""
    rig = make_rig(request.param, request)
    rig.second.put(rig.key("x"), CONTENT)
    return rig


def in_bash(line: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Finished:
    """Run a line of bash, after replacing PROGRAM by the command line."""
    line = line.replace("PROGRAM", shlex.join(PROGRAM))
    done = subprocess.run(
        ["bash", "-c", line], check=False, capture_output=True, timeout=SECONDS, env={**os.environ, **(env or {})}, cwd=cwd
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("name", ["/dev/stdout", "file:///dev/stdout", "/dev/../dev/stdout"])
def test_dev_stdout(name: str, store: Rig, tmp_path: Path) -> None:
    """`/dev/stdout` is standard output; a file there is continued, not truncated."""
    with (tmp_path / "out").open("wb", buffering=0) as out:
        out.write(b"earlier\n")
        done = run("cp", url_of(store, "x"), name, env=environment(store), stdout=out)
        out.write(b"later\n")

    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == b"earlier\n" + CONTENT + b"later\n"
    assert ok("cp", url_of(store, "x"), name, env=environment(store)).out == CONTENT.decode()


def test_dev_stdin(store: Rig) -> None:
    """`/dev/stdin` is standard input."""
    ok("cp", "/dev/stdin", url_of(store, "new"), env=environment(store), stdin=b"from a pipe")

    assert store.second.get(store.key("new")) == b"from a pipe"


@pytest.mark.parametrize("name", ["/dev/fd/1", "/proc/self/fd/1", "/dev/stderr", "/dev/stdin"])
def test_other_targets(name: str, store: Rig, tmp_path: Path) -> None:
    """Names of other streams are refused as target."""
    with (tmp_path / "out").open("wb", buffering=0) as out:
        out.write(b"earlier\n")
        done = run("cp", url_of(store, "x"), name, env=environment(store), stdout=out)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "'-' is standard output" in done.err
    assert (tmp_path / "out").read_bytes() == b"earlier\n"


@pytest.mark.parametrize("name", ["/dev/fd/0", "/proc/self/fd/0", "/dev/stdout"])
def test_other_sources(name: str, store: Rig) -> None:
    """Names of other streams are refused as source."""
    done = run("cp", name, url_of(store, "new"), env=environment(store), stdin=b"from a pipe")

    assert (done.code, done.out) == (2, "")
    assert "'-' is standard input" in done.err
    assert store.keys() == ["x"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(closed: str, store: Rig, tmp_path: Path) -> None:
    """A command works with closed standard streams, and its output goes into no other file."""
    (tmp_path / "file").write_bytes(b"new content")
    env = environment(store)

    up = in_bash(f"PROGRAM cp -v file {url_of(store, 'new')} {closed}", env, tmp_path)
    missing = in_bash(f"PROGRAM stat {url_of(store, 'nothing')} {closed}", env, tmp_path)

    assert (up.code, up.err) == (0, "")
    assert store.second.get(store.key("new")) == b"new content"
    assert (missing.code, missing.out) == (3, "")
    assert missing.err.count("\n") == (0 if "2>" in closed else 1)
    assert (tmp_path / "file").read_bytes() == b"new content"


def test_closed_stdin(store: Rig) -> None:
    """A closed standard input is an error, not an empty object."""
    done = in_bash(f"PROGRAM cp - {url_of(store, 'new')} <&-", environment(store))

    assert done.code == 10
    assert "standard input: " in done.err
    assert store.keys() == ["x"]


@pytest.mark.parametrize("command", ["cat URL", "cp URL -", "ls URL", "stat --json URL", "cp - -", "providers", "--help"])
def test_full_disk(command: str, store: Rig) -> None:
    """A full disk behind standard output is one line that names the stream."""
    arguments = [url_of(store, "x") if each == "URL" else each for each in command.split()]

    with open("/dev/full", "wb", buffering=0) as full:
        done = run(*arguments, env=environment(store), stdin=b"content\n", stdout=full)

    assert (done.code, done.err) == (10, "gllm-storage: standard output: No space left on device\n")


def test_data_on_terminal(store: Rig) -> None:
    """No progress bar is drawn over data on the terminal."""
    done = on_terminal("cp", url_of(store, "x"), "-", env=environment(store))

    assert (done.code, done.out) == (0, CONTENT.decode().replace("\n", "\r\n"))


def test_typed_input(store: Rig, tmp_path: Path) -> None:
    """No progress bar is drawn over typed input."""
    env = {**environment(store), "TMPDIR": str(tmp_path)}

    done = on_terminal("cp", "-", url_of(store, "new"), env=env, when=lambda: holds_file(tmp_path), key=b"typed\n\x04")

    assert (done.code, done.out) == (0, "typed\r\n")
    assert store.second.get(store.key("new")) == b"typed\n"
