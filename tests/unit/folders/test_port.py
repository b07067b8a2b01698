"""Two parts of the port that folders rely on: the version that a download accepts, and failures among many uploads."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import ObjectInfo, StorageError
from gllm_storage.concurrency.stop import Stop
from gllm_storage.files.source import MemorySource
from gllm_storage.info import Stored
from gllm_storage.store.port import ReadItem, UploadItem, unwatched
from tests.conftest import make_rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Rig

STORES = ["memory", "file", "ministack", "gcs-fake", "azurite"]


@pytest.fixture(params=STORES)
def store_rig(request: pytest.FixtureRequest) -> Rig:
    """A store of each provider."""
    return make_rig(request.param, request)


class Refused(Exception):  # noqa: N818 - a refusal of the test
    pass


def refuse(version: ObjectInfo) -> None:
    raise Refused(version.url)


def test_accept(store_rig: Rig, tmp_path: Path) -> None:
    """`read_many` tells the size and the identity of each version before it appears; a refused one does not appear."""
    client = store_rig.client()
    for name in "abc":
        client.upload(name.encode(), name)
    found: list[ObjectInfo] = []
    items = [
        ReadItem(store_rig.key("a"), unwatched, str(tmp_path / "a"), found.append),
        ReadItem(store_rig.key("b"), unwatched, str(tmp_path / "b"), refuse),
        ReadItem(store_rig.key("c"), unwatched, None, found.append),
    ]
    one, two, three = client.store.read_many(items, Stop(), on_error="return")
    assert (one, three) == (None, b"c")
    assert isinstance(two, Refused)
    assert [each.name for each in tmp_path.iterdir() if each.name != "store"] == ["a"]
    assert sorted(each.url for each in found) == [client.url("a"), client.url("c")]
    stated = {info.url: info for info in (client.info("a"), client.info("c"))}
    for each in found:
        assert each.size == 1
        assert each.version == stated[each.url].version if each.version else each.etag == stated[each.url].etag


def test_upload_failures(store_rig: Rig) -> None:
    """With ``on_error="return"``, an upload that fails is among the results, and the others are stored."""
    client = store_rig.client()

    def opened(content: bytes) -> Any:
        return lambda details: nullcontext(MemorySource(content, details))

    def broken(details: Any) -> Any:
        raise StorageError("cannot be read", details)

    items = [
        UploadItem(store_rig.key("a"), opened(b"a"), unwatched),
        UploadItem(store_rig.key("b"), broken, unwatched),
        UploadItem(store_rig.key("c"), opened(b"c"), unwatched),
    ]
    one, two, three = client.store.upload_many(items, Stop(), on_error="return")
    assert isinstance(one, Stored)
    assert isinstance(three, Stored)
    assert isinstance(two, StorageError)
    assert store_rig.files() == ["a", "c"]
    with pytest.raises(StorageError, match="cannot be read"):
        client.store.upload_many(items, Stop())
