"""Fixtures of the fault suites: transfers and control requests through a fault proxy, without waits between attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises import faulty as faults
from tests.promises.faulty import CLOUDS, CONTENT, Download, DownloadCase, Faulty, Upload, UploadCase, behind_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set all waits between attempts to zero seconds."""
    faults.no_waits(monkeypatch)


@pytest.fixture
def upload(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, no_waits: None) -> Iterator[Upload]:
    """The upload for the `UploadCase` in the test's parameters."""
    case: UploadCase = request.param
    with behind_proxy(case.cloud, servers) as faulty:
        yield Upload(case, faulty, tmp_path)


@pytest.fixture
def download(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, no_waits: None) -> Iterator[Download]:
    """The download for the `DownloadCase` in the test's parameters."""
    case: DownloadCase = request.param
    with behind_proxy(case.cloud, servers) as faulty:
        yield Download(case, faulty, tmp_path)


@pytest.fixture(params=CLOUDS, ids=str)
def faulty(request: pytest.FixtureRequest, servers: Servers, no_waits: None) -> Iterator[Faulty]:
    """Each cloud behind a fault proxy, with one object with the content `CONTENT`."""
    with behind_proxy(request.param, servers) as each:
        each.put(CONTENT)
        yield each
