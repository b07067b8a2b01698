"""`check`: its report about each server, and the removal of its objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.cli.commands.check.report import (
    LARGE,
    ONE_REQUEST,
    PARTS,
    SMALL,
    Exclusive,
    Report,
    Row,
    Verdict,
    conclude,
)
from gllm_storage.testing.faults import Answer, Fault, Match
from tests.cli.support import environment, ok, run, run_python, slow, url_of
from tests.conftest import make_rig
from tests.rig import server_rig

if TYPE_CHECKING:
    from tests.conftest import Servers

ATOMIC = "check_conflict=True is atomic here at any size"
ONE = "check_conflict=True is atomic here up to 5115 MiB, in one request"
LINES = {
    "file": ATOMIC,
    "ministack": ONE,
    "ceph": ONE,
    "seaweedfs": ONE,
    "juicefs": "check_conflict=True will be refused here with ConflictCheckUnsupportedError",
    "rclone": "check_conflict=True will be refused here with ConflictCheckUnsupportedError",
    "reject": "check_conflict=True will be refused here with ConflictCheckUnsupportedError",
    "azurite": ATOMIC,
    "gcs-fake": ATOMIC,
    # It ignores the precondition of a resumable upload.
    "fake-gcs-server": "check_conflict=True is NOT safe here",
}
WORDS = {
    ATOMIC: "atomic",
    ONE: "atomic-in-one-request",
    LINES["rclone"]: "refused",
    LINES["fake-gcs-server"]: "unsafe",
}
ROWS = [
    "reachable",
    "credentials",
    "bucket",
    "writing",
    "exclusive create, small",
    "exclusive create, large",
    "exclusive create, in parts",
    "ranged reads",
    "pinned reads",
    "checksums",
    "clock skew",
    "latency, small",
    "throughput, large",
    "removed",
]

# Few races, for tests that do not concern races.
QUICK = ["--large-size", "6MiB", "--writers", "2", "--rounds", "1"]

pytestmark = [pytest.mark.slow]


# "reject" gives the report of rclone, as JuiceFS does.
@pytest.mark.parametrize("store", [each for each in LINES if each != "reject"])
def test_check_conflict(store: str, request: pytest.FixtureRequest) -> None:
    """The report names the effect of `check_conflict=True` on each server, and the store is empty afterwards."""
    rig = make_rig(store, request)

    races = ["--rounds", "2", "--writers", "4"]
    done = ok("check", "--json", "--large-size", "6MiB", *races, url_of(rig), env=environment(rig))

    found: dict[str, Any] = json.loads(done.out)
    rows = {each["name"]: each for each in found["checks"]}
    print(f"{store}: {found['check_conflict']}")
    assert list(rows) == ROWS
    assert found["check_conflict"].startswith(LINES[store])
    assert found["exclusive_create"] == WORDS[LINES[store]]
    assert found["exit_code"] == 0
    for name in ("reachable", "credentials", "bucket", "writing", "ranged reads", "removed"):
        assert rows[name]["verdict"] == "ok", rows[name]
    assert rows["pinned reads"]["verdict"] in ({"ok", "bad"} if store == "file" else {"ok"})
    if WORDS[LINES[store]] != "refused":
        assert rows["exclusive create, small"]["values"]["winners"] == [1, 1]
        assert len(rows["exclusive create, large"]["values"].get("winners", "12")) == 2  # none if it overwrites
    if LINES[store] == ONE:
        assert rows["exclusive create, in parts"]["verdict"] in {"ok", "no"}
        assert "do not prove" in found["check_conflict"]
    assert (rig.files(), rig.open_uploads()) == ([], [])


def test_not_atomic(servers: Servers) -> None:
    """A store whose completion lets several writers win is reported, although the library does not rely on it."""
    rig = server_rig("ceph", servers.s3("ceph"))

    done = ok("check", "--json", "--large-size", "6MiB", "--rounds", "4", url_of(rig), env=environment(rig))

    found = json.loads(done.out)
    parts = next(row for row in found["checks"] if row["name"] == "exclusive create, in parts")
    assert parts["verdict"] == "no"
    assert len(parts["values"]["winners"]) == 4
    assert "several winners" in found["check_conflict"]


def test_trusted_but_not_atomic(servers: Servers) -> None:
    """With conditional_writes="enforced" a store whose completion is checked, but not atomically, is found unsafe.

    The races in parts had several winners in 7 of 10 rounds of 8 writers.
    """
    rig = server_rig("seaweedfs", servers.s3("seaweedfs"))
    trusting = ["-c", "conditional_writes=enforced"]

    done = ok("check", "--json", "--large-size", "6MiB", "--rounds", "6", *trusting, url_of(rig), env=environment(rig))

    assert json.loads(done.out)["exclusive_create"] == "unsafe"


def test_table(servers: Servers) -> None:
    """The table has all rows, and the conclusion is the last line."""
    rig = server_rig("rclone", servers.s3("rclone"))

    lines = ok("check", "--large-size", "6MiB", "--rounds", "1", url_of(rig), env=environment(rig)).lines

    assert lines[0] == url_of(rig)
    assert lines[-1].startswith(LINES["rclone"])
    assert all(any(row in line for line in lines) for row in ROWS)


@pytest.mark.parametrize(
    ("arguments", "code", "row", "verdict"),
    [
        (["--endpoint-url", "http://127.0.0.1:1", "-c", "max_attempts=1"], 9, "reachable", "failed"),
        (["-c", "aws_secret_access_key=wrong"], 5, "credentials", "denied"),
    ],
    ids=["unreachable", "denied"],
)
def test_stopped(arguments: list[str], code: int, row: str, verdict: str, servers: Servers) -> None:
    """An error that stops the checks is in the table, in one line and in the exit code."""
    rig = server_rig("ceph", servers.s3("ceph"))

    done = run("check", "--json", *arguments, url_of(rig), env=environment(rig))

    rows = {each["name"]: each for each in json.loads(done.out)["checks"]}
    assert (done.code, rows[row]["verdict"]) == (code, verdict)
    assert done.err.count("\n") == 1
    assert "not known" in json.loads(done.out)["check_conflict"]
    assert json.loads(done.out)["exclusive_create"] == "unknown"


def test_missing_bucket(servers: Servers) -> None:
    """A missing bucket stops the checks."""
    rig = server_rig("azurite", servers.get("azurite"))

    done = run("check", "az://no-such-container/x", env=environment(rig))

    assert done.code == 6
    assert "no-such-container" in done.out


def row(name: str, verdict: Verdict, detail: str = "", sent: str = PARTS) -> Row:
    return Row(name, verdict, detail, {"sent": sent})


@pytest.mark.parametrize(
    ("small", "large", "expected", "sentence"),
    [
        (row(SMALL, Verdict.OK), row(LARGE, Verdict.OK), "atomic", "is atomic here at any size"),
        (row(SMALL, Verdict.OK), row(LARGE, Verdict.OK, sent=ONE_REQUEST), "atomic-in-one-request", "up to 5 GiB"),
        (
            row(SMALL, Verdict.NO, "not atomic"),
            row(LARGE, Verdict.NO, "not atomic"),
            "looks-first",
            "sends a HEAD request and then writes",
        ),
        (row(SMALL, Verdict.NO, "refused: x"), row(LARGE, Verdict.NO, "refused: x"), "refused", "will be refused here with"),
        (row(SMALL, Verdict.NO, "refused: x"), row(LARGE, Verdict.OK), "refused-small", "for small objects"),
        (row(SMALL, Verdict.OK), row(LARGE, Verdict.NO, "refused: x"), "refused-large", "for large objects"),
        (row(SMALL, Verdict.OK), row(LARGE, Verdict.BAD), "unsafe", "NOT safe"),
        (row(SMALL, Verdict.FAILED), row(LARGE, Verdict.OK), "unknown", "see the row that says failed"),
        (row(SMALL, Verdict.DENIED), row(LARGE, Verdict.OK), "unknown", "see the rows that say denied"),
    ],
)
def test_conclusion(small: Row, large: Row, expected: str, sentence: str) -> None:
    """The word for programs and the sentence agree."""
    concluded = conclude(Report("s3://b/", "s3", [row("writing", Verdict.OK), small, large]))

    assert concluded.exclusive == expected
    assert sentence in concluded.sentence


def test_words_documented() -> None:
    """The documentation lists every word for programs."""
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()

    assert [each for each in Exclusive if f"| `{each}` |" not in text] == []


@pytest.mark.parametrize("size", ["x", "", "-1", "5MiB", "1KiB"])
def test_wrong_size(size: str, tmp_path: Path) -> None:
    """An impossible size is a usage error that names the option and the value."""
    done = run("check", f"--large-size={size}", tmp_path)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--large-size" in done.err
    assert repr(size) in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "has_lines"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"PYTHONIOENCODING": "latin-1"}, False),
        ({"PYTHONIOENCODING": "ascii"}, False),
    ],
    ids=["unicode", "dumb terminal", "latin-1", "ascii"],
)
def test_table_lines(env: dict[str, str], has_lines: bool, tmp_path: Path) -> None:
    """The table has ASCII lines if the terminal or the encoding does not support other characters."""
    shown = ok("check", *QUICK, tmp_path, env={"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **env}).out

    assert ("┃" in shown) is has_lines
    assert bool(set("┃│━") & set(shown)) is has_lines
    assert ("| reachable" in shown) is not has_lines


def test_local_folder(tmp_path: Path) -> None:
    """Folders that the check made are removed."""
    ok("check", *QUICK, f"file://{tmp_path}/new/folder")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ["PutObject", "everything"])
def test_denied(answer: str, servers: Servers) -> None:
    """Without write permission, or without any permission, the rows say denied."""
    with slow(servers) as (rig, proxy):
        match = Match() if answer == "everything" else Match(operation=answer)
        proxy.inject(Fault(match, Answer(403, "AccessDenied"), times=None))

        done = run("check", *QUICK, url_of(rig), env=environment(rig))

        assert done.code == (5 if answer == "everything" else 0)
        assert "nothing was written" in done.out
        assert done.out.count("denied") >= 8
        assert done.lines[-1] == "check_conflict=True: not known, because these credentials may not write here."
        assert rig.keys() == []


def test_write_only(servers: Servers) -> None:
    """Credentials without read permission are not reported as credentials without write permission."""
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(operation="GetObject"), Answer(403, "AccessDenied"), times=None))

        done = run("check", "--json", *QUICK, url_of(rig), env=environment(rig))

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


def test_failed_write(servers: Servers) -> None:
    """A failed write may have stored an object, so the report does not say that nothing was written."""
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(method="PUT"), Answer(400, "BadDigest"), times=None))
        proxy.inject(Fault(Match(method="DELETE"), Answer(400, "BadRequest"), times=None))
        proxy.inject(Fault(Match(method="HEAD"), Answer(400, body=b""), times=None, skip=2))

        done = run("check", "--json", *QUICK, url_of(rig), env=environment(rig))
        rows = {each["name"]: each for each in json.loads(done.out)["checks"]}
        assert rows["writing"]["verdict"] == "failed"
        assert "could not be removed, or not be checked" in done.err
        assert rows["removed"]["verdict"] == "failed"
        assert "could not be removed, or not be checked" in rows["removed"]["detail"]
        assert any(url.endswith("-written") for url in rows["removed"]["values"]["left"])


def test_bug(tmp_path: Path) -> None:
    """An unexpected error ends `check` with its own exit code, after the removal of all objects."""
    for broken in ("reads.verify_checksum", "bench.Bench.get"):
        code = f"""
import importlib
check = importlib.import_module("gllm_storage.cli.commands.check")
from gllm_storage.cli.commands.check import bench, reads
def broken(*_, **__): raise KeyError("a bug")
{broken} = broken
check._CHECKS = tuple((name, getattr(reads, function.__name__, function)) for name, function in check._CHECKS)
sys.exit(run(["check", *sys.argv[1:]]))
"""
        done = run_python(code, *QUICK, tmp_path)

        assert (done.code, done.out, done.err.count("\n")) == (70, "", 1)
        assert "a bug: KeyError" in done.err
        assert list(tmp_path.iterdir()) == []


def test_no_delete(servers: Servers) -> None:
    """Without permission to delete, the report names the remaining objects."""
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(method="DELETE"), Answer(403, "AccessDenied"), times=None))

        done = run("check", *QUICK, url_of(rig), env=environment(rig))

        assert "left behind" in done.out
        left = [key for key in rig.keys() if key.startswith(".gllm-check-")]  # noqa: SIM118 - a method of the rig
        assert left != []
        assert all(key in done.out.replace("\n", "") or key in done.err for key in left)


def test_false_delete(servers: Servers) -> None:
    """Objects that a store reports as deleted but keeps are named."""
    with slow(servers) as (rig, proxy):
        proxy.inject(Fault(Match(method="DELETE"), Answer(204, body=b""), times=None))

        done = run("check", "--json", *QUICK, url_of(rig), env=environment(rig))

        removed = json.loads(done.out)["checks"][-1]
        left = [key for key in rig.keys() if key.startswith(".gllm-check-")]  # noqa: SIM118 - a method of the rig
        assert removed["verdict"] == "failed"
        assert left != []
        assert sorted(url.rpartition("/")[2] for url in removed["values"]["left"]) == left


def test_best_effort(servers: Servers) -> None:
    """A check by HEAD request is not reported as atomic."""
    rig = server_rig("rclone", servers.s3("rclone"))
    best_effort = ["-c", "conditional_writes=best-effort", "--large-size", "6MiB", "--rounds", "2"]

    done = run("check", "--json", *best_effort, url_of(rig), env=environment(rig))

    found = json.loads(done.out)
    assert done.code == 0
    assert "NOT safe" in found["check_conflict"] or "sends a HEAD request and then writes" in found["check_conflict"]
    assert "is atomic" not in done.out
    # After one race in 30, rclone lists a deleted object, or keeps an object that it does not list.
    left = [url.rpartition("/")[2] for url in found["checks"][-1]["values"]["left"]]
    assert rig.keys() == sorted(left)
