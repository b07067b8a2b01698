"""Standard streams: by their other names, closed, full, and on a terminal."""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import PROGRAM, SECONDS, Finished, environment, ok, on_terminal, run, url_of
from tests.conftest import make_rig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.rig import Rig

CONTENT = b"some weights\n"


@pytest.fixture(params=["file", "ministack"])
def store(request: pytest.FixtureRequest) -> Rig:
    """A store that another process can reach, with an object."""
    rig = make_rig(request.param, request)
    rig.second.put(rig.key("x"), CONTENT)
    return rig


def in_bash(line: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Finished:
    """Run a line of bash, in which PROGRAM stands for the program."""
    line = line.replace("PROGRAM", shlex.join(PROGRAM))
    done = subprocess.run(
        ["bash", "-c", line], check=False, capture_output=True, timeout=SECONDS, env={**os.environ, **(env or {})}, cwd=cwd
    )
    return Finished(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("name", ["/dev/stdout", "file:///dev/stdout", "/dev/../dev/stdout"])
def test_dev_stdout_is_standard_output_and_what_is_in_a_file_already_stays(name: str, store: Rig, tmp_path: Path) -> None:
    line = f"(echo earlier; PROGRAM cp {url_of(store, 'x')} {name}; echo later) > out"

    done = in_bash(line, environment(store), tmp_path)

    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "out").read_bytes() == b"earlier\n" + CONTENT + b"later\n"
    assert ok("cp", url_of(store, "x"), name, env=environment(store)).out == CONTENT.decode()


def test_dev_stdin_is_standard_input(store: Rig) -> None:
    ok("cp", "/dev/stdin", url_of(store, "new"), env=environment(store), stdin=b"from a pipe")

    assert store.second.get(store.key("new")) == b"from a pipe"


@pytest.mark.parametrize("name", ["/dev/fd/1", "/proc/self/fd/1", "/dev/stderr", "/dev/stdin"])
def test_no_other_stream_is_a_target(name: str, store: Rig, tmp_path: Path) -> None:
    done = in_bash(f"(echo earlier; PROGRAM cp {url_of(store, 'x')} {name}) > out", environment(store), tmp_path)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "'-' is standard output" in done.err
    assert (tmp_path / "out").read_bytes() == b"earlier\n"


@pytest.mark.parametrize("name", ["/dev/fd/0", "/proc/self/fd/0", "/dev/stdout"])
def test_no_other_stream_is_a_source(name: str, store: Rig) -> None:
    done = run("cp", name, url_of(store, "new"), env=environment(store), stdin=b"from a pipe")

    assert (done.code, done.out) == (2, "")
    assert "'-' is standard input" in done.err
    assert store.keys() == ["x"]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_keep_a_command_from_its_work(closed: str, store: Rig, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"new content")
    env = environment(store)

    up = in_bash(f"PROGRAM cp -v file {url_of(store, 'new')} {closed}", env, tmp_path)
    missing = in_bash(f"PROGRAM stat {url_of(store, 'nothing')} {closed}", env, tmp_path)

    assert (up.code, up.err) == (0, "")
    assert store.second.get(store.key("new")) == b"new content"
    assert (missing.code, missing.out) == (3, "")
    assert missing.err.count("\n") == (0 if "2>" in closed else 1)
    assert (tmp_path / "file").read_bytes() == b"new content"


def test_closed_standard_input_is_no_empty_object(store: Rig) -> None:
    done = in_bash(f"PROGRAM cp - {url_of(store, 'new')} <&-", environment(store))

    assert done.code == 10
    assert "standard input: " in done.err
    assert store.keys() == ["x"]


@pytest.mark.parametrize("command", ["cat URL", "cp URL -", "ls URL", "stat --json URL", "cp - -", "providers", "--help"])
def test_a_full_disk_behind_standard_output_is_named(command: str, store: Rig) -> None:
    command = command.replace("URL", url_of(store, "x"))

    done = in_bash(f"echo content | PROGRAM {command} > /dev/full", environment(store))

    assert (done.code, done.err) == (10, "gllm-storage: standard output: No space left on device\n")


def test_what_is_copied_to_a_terminal_is_not_overdrawn_by_a_bar(store: Rig) -> None:
    done = on_terminal("cp", url_of(store, "x"), "-", env=environment(store))

    assert (done.code, done.out) == (0, CONTENT.decode().replace("\n", "\r\n"))


def test_what_is_typed_is_not_overdrawn_by_a_bar(store: Rig, tmp_path: Path) -> None:
    env = {**environment(store), "TMPDIR": str(tmp_path)}

    done = on_terminal(
        "cp", "-", url_of(store, "new"), env=env, when=lambda: any(tmp_path.rglob("object")), key=b"typed\n\x04"
    )

    assert (done.code, done.out) == (0, "typed\r\n")
    assert store.second.get(store.key("new")) == b"typed\n"
