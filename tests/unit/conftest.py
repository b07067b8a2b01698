"""Fixtures of the tests of direct connections, and of the clients that use them."""

from __future__ import annotations

import pytest

from tests.unit.s3.http.scripted import Certificates, Default


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    """TLS contexts of a server and of its client."""
    return Certificates()


@pytest.fixture(params=["http", "https"])
def transport(request: pytest.FixtureRequest, certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripted servers and their pools without TLS, and with it."""
    if request.param == "https":
        monkeypatch.setattr(Default, "tls", certificates)
