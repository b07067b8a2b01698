"""Runs a part of the suite in a separate process with a separate moto server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.providers.s3fs_suite.deviations import LEFT_OUT
from tests.servers.process import reserved_ports

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).parents[3]
_PORTS = ("5555", "5556")
"""The ports of moto servers in the source code of the suite's fixtures."""
_FILES = ("test_s3fs.py", "test_mapping.py", "test_utils.py", "test_custom_error_handler.py", "derived/s3fs_test.py")
_INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"
_SECONDS = 840
_AWS = {
    "AWS_ACCESS_KEY_ID": "foo",
    "AWS_SECRET_ACCESS_KEY": "foo",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@dataclass(frozen=True)
class Report:
    """The outcomes of a run.

    Attributes:
        outcomes: Outcome of each test of this part, by its name, such as ``test_s3fs.py::test_info``.
        messages: Error message of each failed test, by its name.
        collected: Names of all tests, including the tests of other parts and the excluded tests.
        seconds: Duration of the run.
    """

    outcomes: dict[str, str]
    messages: dict[str, str]
    collected: list[str]
    seconds: float

    def those(self, wanted: str) -> set[str]:
        """The tests with an outcome, such as ``"failed"``."""
        return {name for name, outcome in self.outcomes.items() if outcome == wanted}

    def counts(self) -> str:
        """The number of tests by outcome, such as ``180 passed, 2 xfailed``."""
        return ", ".join(f"{number} {outcome}" for outcome, number in sorted(Counter(self.outcomes.values()).items()))


def run_part(part: int, parts: int, suite: Path, directory: Path) -> Report:
    """Run a part of the suite.

    Args:
        part: Number of the part, from 0.
        parts: Total number of parts.
        suite: The folder with the suite's tests.
        directory: An empty folder, the working directory of the run.

    Raises:
        RuntimeError: If the run ends without a report; the message contains its output.
    """
    with reserved_ports(len(_PORTS)) as ports:
        _copy(suite, directory / "upstream_tests", dict(zip(_PORTS, map(str, ports), strict=True)))
        job = {"part": part, "parts": parts, "left_out": sorted(LEFT_OUT)}
        return run_upstream("tests.providers.s3fs_suite.plugin", _FILES, _INI, directory, job=job, environment=_AWS)


def run_upstream(
    plugin: str, files: Sequence[str], ini: str, directory: Path, *, job: Mapping[str, Any], environment: Mapping[str, str]
) -> Report:
    """Run tests of an upstream package in a separate process.

    Args:
        plugin: The pytest plugin that substitutes the classes of this library.
        files: The files of tests, in the folder ``upstream_tests``.
        ini: The content of ``pytest.ini``.
        directory: The working directory, which contains ``upstream_tests``.
        job: The part to run, for `tests.providers.s3fs_suite.outcomes`.
        environment: Environment variables. The current process's pytest options and settings of clouds are left out.

    Raises:
        RuntimeError: If the run ends without a report; the message contains its output.
    """
    report = directory / "report.json"
    (directory / "pytest.ini").write_text(ini)
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "tests.providers.s3fs_suite.outcomes"]
    command += [
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
        "--timeout",
        "120",
        *(f"upstream_tests/{file}" for file in files),
    ]
    began = time.monotonic()
    with (directory / "output").open("w") as output:
        subprocess.run(
            command,
            cwd=directory,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "LANG": "C.UTF-8",
                "HOME": str(directory),
                "TMPDIR": str(directory),
                "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}",
                "UPSTREAM_SUITE_JOB": json.dumps({**job, "report": str(report)}),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=_SECONDS,
            check=False,
        )
    if not report.exists():
        raise RuntimeError(f"the upstream suite did not run:\n{(directory / 'output').read_text()[-3000:]}")
    return Report(**json.loads(report.read_text()), seconds=time.monotonic() - began)


def _copy(suite: Path, to: Path, ports: dict[str, str]) -> None:
    shutil.copytree(suite, to)
    replaced = set()
    for file in to.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        for theirs, ours in ports.items():
            if f"\nport = {theirs}\n" in source:
                source = source.replace(f"\nport = {theirs}\n", f"\nport = {ours}\n")
                replaced.add(theirs)
        file.write_text(source, encoding="utf-8")
    if replaced != set(ports):
        raise RuntimeError(f"s3fs's fixtures no longer take the ports {_PORTS}; look how they start moto")
