"""The pytest plugin of the run: it replaces s3fs's class with this library's, and records the outcomes.

Pytest must load it before any test module: the modules import the class by ``from s3fs.core import S3FileSystem``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.loaders
import botocore.session
import fsspec
import s3fs
import s3fs.core
import s3fs.mapping

from gllm_storage.s3.filesystem import S3FileSystem

# botocore reads its models for each session, which takes 0.15 s; the run reads them once.
_LOADER = botocore.loaders.create_loader()
botocore.session.create_loader = lambda *_: _LOADER
s3fs.S3FileSystem = s3fs.core.S3FileSystem = s3fs.mapping.S3FileSystem = S3FileSystem
for _protocol in ("s3", "s3a"):
    fsspec.register_implementation(_protocol, S3FileSystem, clobber=True)

import upstream_tests  # type: ignore[import-not-found]  # noqa: E402 - the copy in the folder of the run; see above

if TYPE_CHECKING:
    import pytest

sys.modules["s3fs.tests"] = upstream_tests  # the tests import each other by this name

logging.getLogger("werkzeug").setLevel(logging.ERROR)  # logging each request to moto takes 10 % of the time

_job = json.loads(os.environ["S3FS_SUITE_JOB"])
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
