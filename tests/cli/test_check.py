"""`check`: what it finds out about each server of the rig, and that it leaves nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.support import environment, ok, run, url_of
from tests.conftest import make_rig
from tests.rig import server_rig

if TYPE_CHECKING:
    from pathlib import Path

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


def test_a_missing_bucket_stops_a_check(servers: Servers) -> None:
    rig = server_rig("azurite", servers.get("azurite"))

    done = run("check", "az://no-such-container/x", env=environment(rig))

    assert done.code == 6
    assert "no-such-container" in done.out


def test_a_local_folder_is_left_as_it_was(tmp_path: Path) -> None:
    ok("check", "--large-size", "6MiB", f"file://{tmp_path}/new/folder")

    assert list(tmp_path.iterdir()) == []
