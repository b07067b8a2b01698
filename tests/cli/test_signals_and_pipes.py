"""Commands that are ended in their middle, by signals, closed terminals and readers that go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import Answer, Call, Delay, Fault, FaultProxy, Match, Throttle
from tests.cli.support import PROGRAM, environment, on_terminal, run, run_anew, run_python, started, url_of
from tests.promises.clouds.faulty import proxied
from tests.rig import MIB, SMALL_PARTS, Rig, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers

PARTS = [part for key, value in SMALL_PARTS.items() for part in ("-c", f"{key}={value}")]
MIDDLE_SECONDS = 60.0
END_SECONDS = 60.0

pytestmark = [pytest.mark.slow]


@contextmanager
def slow(servers: Servers, *operations: str) -> Iterator[tuple[Rig, FaultProxy]]:
    """A server whose operations of these names are slow."""
    running = servers.s3("ministack")
    with FaultProxy(running.endpoint_url) as proxy:
        for operation in operations:
            proxy.inject(Fault(Match(operation=operation), Throttle(MIB // 2), times=None))
        yield proxied(server_rig("ministack", running), proxy), proxy
        assert proxy.errors == []


def keep_from_ending(proxy: FaultProxy, key: str) -> None:
    """Hold what would make an object: a busy machine hears of a signal so late that all its parts are sent by then."""
    commit = Match(operation="CompleteMultipartUpload", key=key)
    proxy.inject(Fault(commit, Call(proxy.closing.wait), times=None))


def wait_for(condition: Callable[[], bool], child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + MIDDLE_SECONDS
    while not condition():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_moving(proxy: FaultProxy, operation: str, side_by_side: int = 1) -> bool:
    """Whether bytes of so many requests have moved; if those are all, no thread is being started, see `main_waits`."""
    moved = [max(each.body_bytes, each.response_bytes) for each in proxy.requests if each.operation == operation]
    return sum(count > 100_000 for count in moved) >= side_by_side


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_a_check_that_is_ended_in_a_race_removes_everything(by: signal.Signals, servers: Servers) -> None:
    with slow(servers, "UploadPart") as (rig, proxy):
        with started("check", url_of(rig), env=environment(rig)) as child:
            wait_for(lambda: is_moving(proxy, "UploadPart"), child)
            assert rig.keys() != [], "it has written nothing that it could leave"
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
def test_what_is_said_of_a_command_that_is_ended_is_true(
    command: list[str], left: str, by: signal.Signals, servers: Servers, tmp_path: Path
) -> None:
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
class Wrapped(RuntimeError):  # what Python 3.11 makes of a Ctrl-C that comes while a class is being made
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
        ("gllm_storage.cli.commands.stat", "KeyboardInterrupt"),
        ("fsspec", "KeyboardInterrupt"),
        ("fsspec", "Wrapped"),
    ],
)
def test_ctrl_c_while_modules_are_imported_is_one_line(module: str, error: str) -> None:
    done = run_anew([sys.executable, "-c", WHILE_IMPORTING], "stat", "file:///x", module, error)

    assert (done.code, done.out, done.err) == (130, "", "gllm-storage: interrupted\n")


def test_a_terminal_that_is_closed_ends_an_upload_which_leaves_nothing(servers: Servers, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(bytes(26 * MIB))
    with slow(servers, "UploadPart") as (rig, proxy):
        keep_from_ending(proxy, rig.key("x"))
        with started("cp", *PARTS, tmp_path / "model.bin", url_of(rig, "x"), env=environment(rig)) as child:
            wait_for(lambda: is_moving(proxy, "UploadPart", side_by_side=6), child)
            child.send_signal(signal.SIGHUP)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert child.returncode == 129, errors
        assert (rig.keys(), rig.open_uploads()) == ([], [])


def test_ctrl_c_in_a_copy_of_many_files_keeps_the_whole_ones_only(servers: Servers, tmp_path: Path) -> None:
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
        assert (rig.keys(), rig.open_uploads()) == (["a"], [])
        assert len(rig.second.get(rig.key("a"))) == 11 * MIB


def test_ctrl_c_between_stores_takes_the_temporary_file_away(servers: Servers, tmp_path: Path) -> None:
    with slow(servers, "UploadPart") as (rig, proxy):
        rig.second.put(rig.key("source"), bytes(26 * MIB))
        keep_from_ending(proxy, rig.key("target"))
        env = {**environment(rig), "TMPDIR": str(tmp_path)}
        with started("cp", *PARTS, url_of(rig, "source"), url_of(rig, "target"), env=env) as child:
            wait_for(lambda: is_moving(proxy, "UploadPart", side_by_side=6), child)
            assert list(tmp_path.iterdir()) != []
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert child.returncode == 130, errors
        assert list(tmp_path.iterdir()) == []
        assert (rig.keys(), rig.open_uploads()) == (["source"], [])


def test_ctrl_c_while_standard_input_is_read_stores_nothing(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with started("cp", "-", tmp_path / "new", env={"TMPDIR": str(temporary)}) as child:
        assert child.stdin
        child.stdin.write(b"a beginning")
        child.stdin.flush()
        wait_for(lambda: any(temporary.rglob("object")), child)
        child.send_signal(signal.SIGINT)
        assert child.wait(END_SECONDS) == 130
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []


def test_ctrl_c_ends_a_command_that_waits_for_an_answer(servers: Servers) -> None:
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(), Delay(600), times=None))
        with started("stat", url_of(rig, "x"), env=environment(rig)) as child:
            wait_for(lambda: bool(proxy.requests), child)
            begun = time.monotonic()
            child.send_signal(signal.SIGINT)
            _, errors = child.communicate(timeout=END_SECONDS)
        assert (child.returncode, errors.count(b"\n")) == (130, 1), errors
        assert time.monotonic() - begun < END_SECONDS


def test_nohup_goes_on_when_the_terminal_is_closed(tmp_path: Path) -> None:
    code = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from gllm_storage.cli import signals
signals.set_up()
os.kill(os.getpid(), signal.SIGHUP)
sys.exit(run(["exists", sys.argv[1]]))
"""
    assert run_python(code, tmp_path / "x").code == 1


def test_a_reader_that_goes_away_in_the_middle_of_an_object_is_no_error_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(16 * MIB))
    piped = f"'{sys.executable}' -m gllm_storage.cli cat {tmp_path}/large | head -c 10; exit ${{PIPESTATUS[0]}}"
    for command in (piped, piped.replace(" cat ", " cp ").replace("/large |", "/large - |")):
        done = subprocess.run(["bash", "-c", command], check=False, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (141, bytes(10), b"")


def test_an_object_that_is_replaced_while_it_is_written_out_is_an_error(servers: Servers) -> None:
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


def test_the_bar_is_shown_while_standard_output_is_a_file(servers: Servers, tmp_path: Path) -> None:
    content = os.urandom(3 * MIB)
    with slow(servers, "GetObject") as (rig, _):
        rig.second.put(rig.key("x"), content)
        done = on_terminal("cp", url_of(rig, "x"), "-", env=environment(rig), stdout=tmp_path / "out")

    assert done.code == 0
    assert "3.0/3.0 MiB" in done.out
    assert (tmp_path / "out").read_bytes() == content


def test_a_dumb_terminal_gets_no_bar(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")

    done = on_terminal("cp", tmp_path / "a", tmp_path / "b", env={"TERM": "dumb"})

    assert (done.code, done.out) == (0, "")


def test_a_bar_leaves_lines_that_are_printed_and_errors_readable(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("answer", ["PutObject", "everything"])
def test_a_check_without_permission_says_denied(answer: str, servers: Servers) -> None:
    with slow(servers) as (rig, proxy):
        match = Match() if answer == "everything" else Match(operation=answer)
        proxy.inject(Fault(match, Answer(403, "AccessDenied"), times=None))

        done = run("check", url_of(rig), env=environment(rig))

        assert done.code == (5 if answer == "everything" else 0)
        assert "nothing was written" in done.out
        assert done.out.count("denied") >= 8
        assert done.lines[-1] == "check_conflict=True: not known, because these credentials may not write here."
        assert rig.keys() == []


def test_a_check_that_may_write_but_not_read_does_not_say_that_it_may_not_write(servers: Servers) -> None:
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(operation="GetObject"), Answer(403, "AccessDenied"), times=None))

        done = run("check", "--json", "--large-size", "6MiB", url_of(rig), env=environment(rig))

        found = json.loads(done.out)
        verdicts = {each["name"]: each["verdict"] for each in found["checks"]}
        assert (done.code, verdicts["writing"]) == (0, "ok")
        assert "denied" in {verdicts["exclusive create, small"], verdicts["exclusive create, large"]}
        assert found["check_conflict"] == (
            "check_conflict=True: not known, because these credentials do not permit all requests of the races; see the "
            "rows that say denied."
        )
        assert found["exclusive_create"] == "unknown"
        assert rig.keys() == []


def test_a_check_whose_write_failed_does_not_say_that_nothing_was_written(servers: Servers) -> None:
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(method="PUT"), Answer(400, "BadDigest"), times=None))
        proxy.inject(Fault(Match(method="DELETE"), Answer(400, "BadRequest"), times=None))
        proxy.inject(Fault(Match(method="HEAD"), Answer(400, body=b""), times=None, skip=2))

        done = run("check", "--json", url_of(rig), env=environment(rig))
        rows = {each["name"]: each for each in json.loads(done.out)["checks"]}
        assert rows["writing"]["verdict"] == "failed"
        assert "could not be removed, or not be checked" in done.err
        assert rows["removed"]["verdict"] == "failed"
        assert "could not be removed, or not be checked" in rows["removed"]["detail"]
        assert any(url.endswith("-written") for url in rows["removed"]["values"]["left"])


def test_a_bug_in_a_check_is_no_finding_and_everything_is_removed(tmp_path: Path) -> None:
    for broken in ("reads.verify_checksum", "bench.Bench.get"):
        code = f"""
import importlib
check = importlib.import_module("gllm_storage.cli.commands.check")
from gllm_storage.cli.commands.check import bench, reads
def broken(*_, **__): raise KeyError("of our own")
{broken} = broken
check._CHECKS = tuple((name, getattr(reads, function.__name__, function)) for name, function in check._CHECKS)
sys.exit(run(["check", "--large-size", "6MiB", sys.argv[1]]))
"""
        done = run_python(code, tmp_path)

        assert (done.code, done.out, done.err.count("\n")) == (70, "", 1)
        assert "a bug: KeyError" in done.err
        assert list(tmp_path.iterdir()) == []


def test_a_check_that_may_not_delete_says_what_it_left(servers: Servers) -> None:
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(method="DELETE"), Answer(403, "AccessDenied"), times=None))

        done = run("check", "--large-size", "6MiB", url_of(rig), env=environment(rig))

        assert "left behind" in done.out
        left = [key for key in rig.keys() if key.startswith(".gllm-check-")]  # noqa: SIM118 - a method of the rig
        assert left != []
        assert all(key in done.out.replace("\n", "") or key in done.err for key in left)


def test_a_check_of_a_store_that_only_says_it_deletes_says_what_it_left(servers: Servers) -> None:
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(method="DELETE"), Answer(204, body=b""), times=None))

        done = run("check", "--json", "--large-size", "6MiB", url_of(rig), env=environment(rig))

        removed = json.loads(done.out)["checks"][-1]
        left = [key for key in rig.keys() if key.startswith(".gllm-check-")]  # noqa: SIM118 - a method of the rig
        assert removed["verdict"] == "failed"
        assert left != []
        assert sorted(url.rpartition("/")[2] for url in removed["values"]["left"]) == left


def test_a_check_of_a_store_that_only_looks_first_finds_that_unsafe(servers: Servers) -> None:
    rig = server_rig("rclone", servers.s3("rclone"))
    best_effort = ["-c", "conditional_writes=best-effort"]

    done = run("check", "--json", *best_effort, "--large-size", "6MiB", url_of(rig), env=environment(rig))

    found = json.loads(done.out)
    assert done.code == 0
    assert "NOT safe" in found["check_conflict"] or "sends a HEAD request and then writes" in found["check_conflict"]
    assert "is atomic" not in done.out
    # After one race in 30 rclone itself goes on listing an object that it deleted, or the other way round.
    left = [url.rpartition("/")[2] for url in found["checks"][-1]["values"]["left"]]
    assert rig.keys() == sorted(left)
