"""What the tests of control requests and of inherited methods start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.promises.clouds.faulty import CLOUDS, CONTENT, behind_proxy, no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Servers
    from tests.promises.clouds.faulty import Faulty


@pytest.fixture(params=CLOUDS, ids=str)
def faulty(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    """Each cloud behind a proxy, with an object that holds `CONTENT`; our waits take no time."""
    no_waits(monkeypatch)
    with behind_proxy(request.param, servers) as each:
        each.put(CONTENT)
        yield each
