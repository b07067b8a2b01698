"""Runs a part of gcsfs's or adlfs's suite in a separate process, on a server of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.providers.cloud_suites import adlfs_deviations, gcsfs_deviations
from tests.providers.s3fs_suite.run import Report, run_upstream
from tests.providers.s3fs_suite.source import fetch_suite
from tests.servers import azurite, fake_gcs_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.servers.base import AzureServer, GCSServer

_INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\nasyncio_mode = auto\n"
_ACCOUNT = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
)
"""Name and key of the account of Azurite, which its documentation publishes, and adlfs's tests contain."""


@dataclass(frozen=True)
class Suite:
    """The tests of an upstream package.

    Attributes:
        package: The package.
        version: The version of its tests; the installed one if None.
        files: The files of the suite that are run.
        server: Starts the server.
        prepare: Adapts the copy of the tests to the server, and returns the environment of the run.
        left_out: Tests that are not run, by their names without parameters, and the reasons.
        deviations: Tests that are expected to fail, by their names with or without parameters, and the reasons.
        parts: Number of runs into which the tests are split.
    """

    package: str
    version: str | None
    files: tuple[str, ...]
    server: Callable[[Path], AbstractContextManager[GCSServer | AzureServer]]
    prepare: Callable[[Path, GCSServer | AzureServer], dict[str, str]]
    left_out: dict[str, str] = field(repr=False)
    deviations: dict[str, str] = field(repr=False)
    parts: int = 2

    def __str__(self) -> str:
        return self.package


def _prepare_gcsfs(_: Path, server: GCSServer | AzureServer) -> dict[str, str]:
    return {
        "STORAGE_EMULATOR_HOST": server.endpoint_url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # each bucket's type would be requested by gRPC
        "NO_GCE_CHECK": "true",
        "GOOGLE_CLOUD_PROJECT": "project",
    }


def _prepare_adlfs(tests: Path, server: GCSServer | AzureServer) -> dict[str, str]:
    constants, conftest = tests / "constants.py", tests / "conftest.py"
    host = server.endpoint_url.split("/")[2]
    constants.write_text(_replaced(constants, '"127.0.0.1:10000"', f'"{host}"'))
    # The fixture that starts a container, at the end of the file.
    without_docker = _replaced(conftest, "import docker\n", "")
    conftest.write_text(without_docker.partition('@pytest.fixture(scope="session", autouse=True)\ndef spawn_azurite')[0])
    return {}


def _replaced(file: Path, old: str, new: str) -> str:
    source = file.read_text(encoding="utf-8")
    if old not in source:
        raise RuntimeError(f"{file.name} has no {old!r} any more; look how the suite finds its server")
    return source.replace(old, new)


GCSFS = Suite(
    package="gcsfs",
    version="2026.3.0",  # the last release whose source distribution has the tests
    files=(
        "test_core.py",
        "test_core_versioned.py",
        "test_checkers.py",
        "test_credentials.py",
        "test_mapping.py",
        "test_manyopens.py",
        "test_retry.py",
        "test_init.py",
        "derived/gcsfs_test.py",
    ),
    server=fake_gcs_server,
    prepare=_prepare_gcsfs,
    left_out=gcsfs_deviations.LEFT_OUT,
    deviations=gcsfs_deviations.DEVIATIONS,
)
ADLFS = Suite(
    package="adlfs",
    version=None,
    files=(
        "test_connect_client.py",
        "test_fetch_range.py",
        "test_init.py",
        "test_loop.py",
        "test_pickling.py",
        "test_spec.py",
        "test_uri_format.py",
    ),
    server=lambda directory: azurite(directory, _ACCOUNT),
    prepare=_prepare_adlfs,
    left_out=adlfs_deviations.LEFT_OUT,
    deviations=adlfs_deviations.DEVIATIONS,
)


def run_part(suite: Suite, part: int, directory: Path) -> Report:
    """Run a part of a suite.

    Args:
        suite: The suite.
        part: Number of the part, from 0.
        directory: An empty folder, the working directory of the run.

    Raises:
        SuiteUnavailableError: If the tests cannot be downloaded.
        RuntimeError: If the run ends without a report; the message contains its output.
    """
    tests = directory / "upstream_tests"
    _copy(suite, tests)
    (directory / "server").mkdir()
    job = {"part": part, "parts": suite.parts, "left_out": sorted(suite.left_out)}
    plugin = f"tests.providers.cloud_suites.{suite.package}_plugin"
    with suite.server(directory / "server") as server:
        return run_upstream(plugin, suite.files, _INI, directory, job=job, environment=suite.prepare(tests, server))


def _copy(suite: Suite, to: Path) -> None:
    """Copy the tests, which import each other by the name of their package."""
    shutil.copytree(
        fetch_suite(package=suite.package, version=suite.version), to, ignore=shutil.ignore_patterns("perf", "__pycache__")
    )
    for file in to.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        file.write_text(source.replace(f"{suite.package}.tests", "upstream_tests"), encoding="utf-8")
