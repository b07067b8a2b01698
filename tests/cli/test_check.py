"""`check`: what it finds out about each server of the rig, and that it leaves nothing."""

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
from tests.cli.support import environment, ok, run, url_of
from tests.conftest import make_rig
from tests.rig import server_rig

if TYPE_CHECKING:
    from tests.conftest import Servers

ATOMIC = "check_conflict=True is atomic here at any size"
LINES = {
    "file": ATOMIC,
    "ministack": ATOMIC,
    "ceph": "check_conflict=True is atomic here up to 5 GiB, in one request",
    "rclone": "check_conflict=True will be refused here with ConflictCheckUnsupportedError",
    "reject": "check_conflict=True will be refused here with ConflictCheckUnsupportedError",
    "azurite": ATOMIC,
    "gcs-fake": ATOMIC,
    # It ignores the condition of a resumable upload, and check sees that.
    "fake-gcs-server": "check_conflict=True is NOT safe here",
}
WORDS = {
    ATOMIC: "atomic",
    LINES["ceph"]: "atomic-in-one-request",
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
    "ranged reads",
    "pinned reads",
    "checksums",
    "clock skew",
    "latency, small",
    "throughput, large",
    "removed",
]

pytestmark = [pytest.mark.slow]


@pytest.mark.parametrize("store", LINES)
def test_check_says_what_check_conflict_will_do(store: str, request: pytest.FixtureRequest) -> None:
    rig = make_rig(store, request)

    done = ok("check", "--json", "--large-size", "6MiB", url_of(rig), env=environment(rig))

    found: dict[str, Any] = json.loads(done.out)
    rows = {each["name"]: each for each in found["checks"]}
    print(f"{store}: {found['check_conflict']}")  # noqa: T201 - shown by pytest -rP
    assert list(rows) == ROWS
    assert found["check_conflict"].startswith(LINES[store])
    assert found["exclusive_create"] == WORDS[LINES[store]]
    assert found["exit_code"] == 0
    for name in ("reachable", "credentials", "bucket", "writing", "ranged reads", "removed"):
        assert rows[name]["verdict"] == "ok", rows[name]
    assert rows["pinned reads"]["verdict"] in ({"ok", "bad"} if store == "file" else {"ok"})
    if store not in {"rclone", "reject"}:
        assert rows["exclusive create, small"]["values"]["winners"] == [1, 1, 1]
    assert (rig.keys(), rig.open_uploads()) == ([], [])


def test_the_table_ends_with_the_line(servers: Servers) -> None:
    rig = server_rig("rclone", servers.s3("rclone"))

    lines = ok("check", "--large-size", "6MiB", url_of(rig), env=environment(rig)).lines

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
def test_what_stops_a_check_is_in_the_table_and_in_the_exit_code(
    arguments: list[str], code: int, row: str, verdict: str, servers: Servers
) -> None:
    rig = server_rig("ceph", servers.s3("ceph"))

    done = run("check", "--json", *arguments, url_of(rig), env=environment(rig))

    rows = {each["name"]: each for each in json.loads(done.out)["checks"]}
    assert (done.code, rows[row]["verdict"]) == (code, verdict)
    assert done.err.count("\n") == 1
    assert "not known" in json.loads(done.out)["check_conflict"]
    assert json.loads(done.out)["exclusive_create"] == "unknown"


def test_a_missing_bucket_stops_a_check(servers: Servers) -> None:
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
def test_the_word_and_the_sentence_say_the_same(small: Row, large: Row, expected: str, sentence: str) -> None:
    concluded = conclude(Report("s3://b/", "s3", [row("writing", Verdict.OK), small, large]))

    assert concluded.exclusive == expected
    assert sentence in concluded.sentence


def test_every_word_for_exclusive_creates_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()

    assert [each for each in Exclusive if f"| `{each}` |" not in text] == []


@pytest.mark.parametrize("size", ["x", "", "-1", "5MiB", "1KiB"])
def test_a_wrong_size_names_its_option(size: str, tmp_path: Path) -> None:
    done = run("check", f"--large-size={size}", tmp_path)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--large-size" in done.err
    assert repr(size) in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii"}], ids=str)
def test_the_table_is_drawn_by_what_can_be_shown(env: dict[str, str], tmp_path: Path) -> None:
    plain = ok("check", "--large-size", "6MiB", tmp_path, env={"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **env})
    usual = ok("check", "--large-size", "6MiB", tmp_path, env={"TERM": "xterm", "PYTHONIOENCODING": "utf-8"})

    assert "┃" in usual.out
    assert "\u2503" not in plain.out
    assert not set("┃│━") & set(plain.out)
    assert "| reachable" in plain.out


def test_a_local_folder_is_left_as_it_was(tmp_path: Path) -> None:
    ok("check", "--large-size", "6MiB", f"file://{tmp_path}/new/folder")

    assert list(tmp_path.iterdir()) == []
