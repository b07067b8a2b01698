"""A pytest plugin for the run of an upstream suite: it selects a part of the tests, and records the outcomes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

_job = json.loads(os.environ["UPSTREAM_SUITE_JOB"])
_outcomes: dict[str, str] = {}
_messages: dict[str, str] = {}
_collected: list[str] = []


def _name(nodeid: str) -> str:
    return nodeid.removeprefix("upstream_tests/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep this part's share of the tests, without the tests in `LEFT_OUT`."""
    _collected.extend(_name(item.nodeid) for item in items)
    wanted = [item for item in items if _name(item.nodeid).partition("[")[0] not in _job["left_out"]]
    mine = wanted[_job["part"] :: _job["parts"]]
    kept = set(mine)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = mine


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of the test, or of its failed set-up or tear-down."""
    name, outcome = _name(report.nodeid), str(report.outcome)
    if report.when != "call" and outcome == "passed":
        return
    if hasattr(report, "wasxfail"):
        outcome = "xfailed" if report.skipped else "xpassed"
    if _outcomes.get(name) != "failed":
        _outcomes[name] = outcome
    if outcome == "failed":
        _messages.setdefault(name, report.longreprtext[-1500:])


def pytest_sessionfinish(**_: Any) -> None:
    """Write the outcomes to the report file."""
    found = {"collected": _collected, "outcomes": _outcomes, "messages": _messages}
    Path(_job["report"]).write_text(json.dumps(found), encoding="utf-8")
