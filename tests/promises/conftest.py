"""Fixtures of the fault suites: transfers and control requests behind a fault proxy, without waits between attempts."""

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
    """Waits between attempts take no time."""
    faults.no_waits(monkeypatch)


@pytest.fixture
def upload(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, no_waits: None) -> Iterator[Upload]:  # noqa: ARG001
    """An upload, of the case that a test is parametrized with."""
    case: UploadCase = request.param
    with behind_proxy(case.cloud, servers) as faulty:
        yield Upload(case, faulty, tmp_path)


@pytest.fixture
def download(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path, no_waits: None) -> Iterator[Download]:  # noqa: ARG001
    """A download, of the case that a test is parametrized with."""
    case: DownloadCase = request.param
    with behind_proxy(case.cloud, servers) as faulty:
        yield Download(case, faulty, tmp_path)


@pytest.fixture(params=CLOUDS, ids=str)
def faulty(request: pytest.FixtureRequest, servers: Servers, no_waits: None) -> Iterator[Faulty]:  # noqa: ARG001
    """Each cloud behind a proxy, with an object that holds `CONTENT`."""
    with behind_proxy(request.param, servers) as each:
        each.put(CONTENT)
        yield each
