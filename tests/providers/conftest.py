"""Fixtures of the providers' tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises.faulty import AZURE, CONTENT, GCS, Faulty, behind_proxy, no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Servers


@pytest.fixture(params=[GCS, AZURE], ids=str)
def faulty(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """GCS and Azure behind a fault proxy, with one object with the content `CONTENT`."""
    no_waits(monkeypatch)
    with behind_proxy(request.param, servers) as each:
        each.put(CONTENT)
        yield each
