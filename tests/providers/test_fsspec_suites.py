"""The abstract suites of fsspec, on the filesystems of this library and real servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fsspec.tests import abstract

from tests.rig import BUCKET, new_prefix, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Servers

pytestmark = pytest.mark.slow

_filesystems: dict[str, Any] = {}


class Fixtures(abstract.AbstractFixtures):  # type: ignore[misc]  # fsspec publishes no types
    """The fixtures that the suites need; a subclass names the store."""

    store: str

    @pytest.fixture
    def fs(self, servers: Servers) -> Any:
        if self.store not in _filesystems:
            _filesystems[self.store] = server_rig(self.store, servers.get(self.store)).client().filesystem
        return _filesystems[self.store]

    @pytest.fixture
    def fs_path(self) -> str:
        return f"{BUCKET}/{new_prefix()}"

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        return False


class OnS3(Fixtures):
    store = "ministack"


class OnGCS(Fixtures):
    store = "gcs-fake"


class OnAzure(Fixtures):
    store = "azurite"


class TestCopyOnS3(abstract.AbstractCopyTests, OnS3):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestGetOnS3(abstract.AbstractGetTests, OnS3):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestPutOnS3(abstract.AbstractPutTests, OnS3):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestPipeOnS3(abstract.AbstractPipeTests, OnS3):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestOpenOnS3(abstract.AbstractOpenTests, OnS3):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestCopyOnGCS(abstract.AbstractCopyTests, OnGCS):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestGetOnGCS(abstract.AbstractGetTests, OnGCS):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestPutOnGCS(abstract.AbstractPutTests, OnGCS):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestPipeOnGCS(abstract.AbstractPipeTests, OnGCS):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestOpenOnGCS(abstract.AbstractOpenTests, OnGCS):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestCopyOnAzure(abstract.AbstractCopyTests, OnAzure):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestGetOnAzure(abstract.AbstractGetTests, OnAzure):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestPutOnAzure(abstract.AbstractPutTests, OnAzure):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestPipeOnAzure(abstract.AbstractPipeTests, OnAzure):  # type: ignore[misc]  # fsspec publishes no types
    pass


class TestOpenOnAzure(abstract.AbstractOpenTests, OnAzure):  # type: ignore[misc]  # fsspec publishes no types
    pass
