"""Commands that signals, closed terminals or closed pipes end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import Call, Delay, Fault, FaultProxy, Match, Throttle
from tests.cli.support import PROGRAM, environment, holds_file, on_terminal, run_anew, run_python, slow, started, url_of
from tests.rig import MIB, SMALL_PARTS, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.support import Child
    from tests.conftest import Servers

PARTS = [part for key, value in SMALL_PARTS.items() for part in ("-c", f"{key}={value}")]
MIDDLE_SECONDS = 60.0
END_SECONDS = 60.0

pytestmark = [pytest.mark.slow]


def keep_from_ending(proxy: FaultProxy, key: str) -> None:
    """Hold the request that completes the upload: on a busy machine the signal may arrive after all parts are sent."""
    commit = Match(operation="CompleteMultipartUpload", key=key)
    proxy.inject(Fault(commit, Call(proxy.closing.wait), times=None))


def wait_for(condition: Callable[[], bool], child: Child) -> None:
    deadline = time.monotonic() + MIDDLE_SECONDS
    while not condition():
        assert child.poll() is None, child.communicate(END_SECONDS)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_moving(proxy: FaultProxy, operation: str, side_by_side: int = 1) -> bool:
    """Whether `side_by_side` requests have transferred bytes. Then the process is not starting threads, see `main_waits`."""
    moved = [max(each.body_bytes, each.response_bytes) for each in proxy.requests if each.operation == operation]
    return sum(count > 100_000 for count in moved) >= side_by_side


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_signal_in_race(by: signal.Signals, servers: Servers) -> None:
    """A signal during a race ends `check` after it has removed its objects."""
    with slow(servers, "UploadPart") as (rig, proxy):
        # By default an exclusive create goes in parts on Amazon only.
        in_parts = ["-c", "conditional_writes=enforced", "--rounds", "1"]
        with started("check", *in_parts, url_of(rig), env=environment(rig)) as child:
            wait_for(lambda: is_moving(proxy, "UploadPart"), child)
            assert rig.keys() != [], "nothing was written yet"
            child.send_signal(by)
            out, errors = child.communicate(timeout=END_SECONDS)
        time.sleep(1)
        assert (child.returncode, out, errors.count(b"\n")) == (128 + by, b"", 1), errors
        assert (rig.keys(), rig.open_uploads()) == ([], [])


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("command", "left"),
    [
        (["cp", "URL", "target"], "; the current file is complete or unchanged"),
        (["cp", "URL", "-"], ""),
        (["rm", "URL"], "; the current object may be deleted"),
        (["--debug", "rm", "-r", "URL"], "; the current object may be deleted"),
        (["cat", "URL"], ""),
        (["ls", "URL"], ""),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_consequence(command: list[str], left: str, by: signal.Signals, servers: Servers, tmp_path: Path) -> None:
    """The last line names the signal, and the possible state after the command."""
    happened = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}[by]
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(), Delay(600), times=None))
        meant = {"URL": url_of(rig, "x"), "target": str(tmp_path / "x")}
        arguments = [meant.get(each, each) for each in command]
        with started(*arguments, env=environment(rig)) as child:
            wait_for(lambda: bool(proxy.requests), child)
            child.send_signal(by)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert child.returncode == 128 + by
        assert errors.decode().splitlines()[-1] == f"gllm-storage: {happened}{left}"


WHILE_IMPORTING = """
import sys
from gllm_storage.cli import main
class Wrapped(RuntimeError):  # as Python 3.11 raises for a Ctrl-C while a class is created
    __cause__ = KeyboardInterrupt()
class Interrupting:
    def find_spec(self, name, *_):
        if name == sys.argv[-2]:
            raise {"KeyboardInterrupt": KeyboardInterrupt(), "Wrapped": Wrapped()}[sys.argv[-1]]
sys.meta_path.insert(0, Interrupting())
main()
"""


@pytest.mark.parametrize(
    ("module", "error"),
    [
        ("click", "KeyboardInterrupt"),
        ("gllm_storage.cli.app", "KeyboardInterrupt"),
        ("gllm_storage.cli.commands.cat", "KeyboardInterrupt"),
        ("fsspec", "KeyboardInterrupt"),
        ("fsspec", "Wrapped"),
    ],
)
def test_during_import(module: str, error: str) -> None:
    """Ctrl-C during an import prints one line."""
    done = run_anew([sys.executable, "-c", WHILE_IMPORTING], "cat", "file:///x", module, error)

    assert (done.code, done.out, done.err) == (130, "", "gllm-storage: interrupted\n")


def test_terminal_closed(servers: Servers, tmp_path: Path) -> None:
    """SIGHUP during an upload leaves no object and no multipart upload."""
    (tmp_path / "model.bin").write_bytes(bytes(26 * MIB))
    with slow(servers, "UploadPart") as (rig, proxy):
        keep_from_ending(proxy, rig.key("x"))
        with started("cp", *PARTS, tmp_path / "model.bin", url_of(rig, "x"), env=environment(rig)) as child:
            wait_for(lambda: is_moving(proxy, "UploadPart", side_by_side=6), child)
            child.send_signal(signal.SIGHUP)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert child.returncode == 129, errors
        assert (rig.keys(), rig.open_uploads()) == ([], [])


def test_among_files(servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during a copy of several files leaves only complete copies."""
    for name in ("a", "b", "c"):
        (tmp_path / "folder" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(bytes(11 * MIB))
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(operation="UploadPart", key=rig.key("b")), Throttle(MIB), times=None))
        keep_from_ending(proxy, rig.key("b"))
        with started("cp", "-r", *PARTS, f"{tmp_path}/folder/", url_of(rig), env=environment(rig)) as child:
            wait_for(lambda: any(entry.fault and entry.body_bytes > 100_000 for entry in proxy.requests), child)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert (child.returncode, errors.count(b"\n")) == (130, 1), errors
        found = rig.keys()  # the files go side by side
        assert (set(found) - {"a", "c"}, rig.open_uploads()) == (set(), [])
        assert all(len(rig.second.get(rig.key(name))) == 11 * MIB for name in found)


def test_json_document(servers: Servers, tmp_path: Path) -> None:
    """After Ctrl-C the document of `--json` is complete, and has the files that were."""
    (tmp_path / "a").write_bytes(b"small")
    (tmp_path / "b").write_bytes(bytes(4 * MIB))
    with slow(servers, "PutObject") as (rig, proxy):
        with started("cp", "--json", tmp_path / "a", tmp_path / "b", f"{url_of(rig, 'x')}/", env=environment(rig)) as child:
            wait_for(lambda: is_moving(proxy, "PutObject"), child)
            child.send_signal(signal.SIGINT)
            out, _ = child.communicate(timeout=END_SECONDS)
        found = json.loads(out)
        assert found["files"] == [{"action": "transferred", "url": url_of(rig, "x/a"), "size": 5}]
        assert (found["transferred"], found["failed"], found["exit_code"]) == (1, 0, child.returncode) == (1, 0, 130)


def test_between_stores(servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C during a copy between stores leaves no temporary file, which has no name where the disk permits that."""
    with slow(servers, "UploadPart") as (rig, proxy):
        rig.second.put(rig.key("source"), bytes(26 * MIB))
        keep_from_ending(proxy, rig.key("target"))
        env = {**environment(rig), "TMPDIR": str(tmp_path)}
        with started("cp", *PARTS, url_of(rig, "source"), url_of(rig, "target"), env=env) as child:
            wait_for(lambda: is_moving(proxy, "UploadPart", side_by_side=6), child)
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert child.returncode == 130, errors
        assert list(tmp_path.iterdir()) == []
        assert (rig.keys(), rig.open_uploads()) == (["source"], [])


def test_during_stdin(tmp_path: Path) -> None:
    """Ctrl-C while standard input is read stores nothing."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with started("cp", "-", tmp_path / "new", env={"TMPDIR": str(temporary)}) as child:
        child.stdin.write(b"a beginning")
        wait_for(lambda: holds_file(temporary), child)
        child.send_signal(signal.SIGINT)
        assert child.wait(END_SECONDS) == 130
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []


def test_during_wait(servers: Servers) -> None:
    """Ctrl-C ends a command that waits for the server's answer."""
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(), Delay(600), times=None))
        with started("stat", url_of(rig, "x"), env=environment(rig)) as child:
            wait_for(lambda: bool(proxy.requests), child)
            begun = time.monotonic()
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert (child.returncode, errors.count(b"\n")) == (130, 1), errors
        assert time.monotonic() - begun < END_SECONDS


def test_nohup(tmp_path: Path) -> None:
    """An ignored SIGHUP stays ignored."""
    code = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from gllm_storage.cli import signals
signals.set_up()
os.kill(os.getpid(), signal.SIGHUP)
sys.exit(run(["exists", sys.argv[1]]))
"""
    assert run_python(code, tmp_path / "x").code == 1


def test_closed_pipe(tmp_path: Path) -> None:
    """A reader that closes the pipe during an object causes no message."""
    (tmp_path / "large").write_bytes(bytes(16 * MIB))
    piped = f"'{sys.executable}' -m gllm_storage.cli cat {tmp_path}/large | head -c 10; exit ${{PIPESTATUS[0]}}"
    for command in (piped, piped.replace(" cat ", " cp ").replace("/large |", "/large - |")):
        done = subprocess.run(["bash", "-c", command], check=False, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (141, bytes(10), b"")


def test_replaced_object(servers: Servers) -> None:
    """`cat` of an object that is replaced meanwhile fails, and writes no byte of the new object."""
    rig = server_rig("ministack", servers.s3("ministack"))
    rig.second.put(rig.key("x"), bytes(200 * MIB))
    command = [*PROGRAM, "cat", url_of(rig, "x")]
    env = {**os.environ, **environment(rig)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as child:
        assert child.stdout
        assert child.stdout.read(MIB) == bytes(MIB)
        rig.second.put(rig.key("x"), b"\1" * (200 * MIB))
        rest, errors = child.communicate(timeout=END_SECONDS)

    assert child.returncode == 9, errors
    assert b"replaced while it was read" in errors
    assert b"\1" not in rest


def test_bar_and_file(servers: Servers, tmp_path: Path) -> None:
    """The progress bar is shown while standard output is a file."""
    content = os.urandom(3 * MIB)
    with slow(servers, "GetObject") as (rig, _):
        rig.second.put(rig.key("x"), content)
        done = on_terminal("cp", url_of(rig, "x"), "-", env=environment(rig), stdout=tmp_path / "out")

    assert done.code == 0
    assert "3.0/3.0 MiB" in done.out
    assert (tmp_path / "out").read_bytes() == content


def test_dumb_terminal(tmp_path: Path) -> None:
    """A dumb terminal gets no progress bar."""
    (tmp_path / "a").write_bytes(b"x")

    done = on_terminal("cp", tmp_path / "a", tmp_path / "b", env={"TERM": "dumb"})

    assert (done.code, done.out) == (0, "")


def test_bar_and_lines(tmp_path: Path) -> None:
    """Printed lines and errors are readable beside the progress bar."""
    for name in ("a", "b"):
        (tmp_path / "from" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "from" / name).write_bytes(name.encode())
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "b").write_bytes(b"before")

    done = on_terminal("cp", "-rnv", f"{tmp_path}/from/", tmp_path / "to", env={"COLUMNS": "300"})

    assert done.code == 4
    lines = [line.strip() for line in done.out.replace("\r", "\n").splitlines()]
    assert any(line.endswith(f"{tmp_path}/to/a") for line in lines)
    assert any(f"{tmp_path}/to/b exists and was not changed" in line for line in lines)
