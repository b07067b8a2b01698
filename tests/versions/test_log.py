"""The log of a version: its newest entry, and exclusive entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from gllm_storage.errors import IntegrityError, ObjectExistsError, StorageUnavailableError
from gllm_storage.memory.store import MemoryStore
from gllm_storage.versions.entries import Aborted, Deleted, Manifest
from gllm_storage.versions.layout import Model
from gllm_storage.versions.log import logged_entries, newest_in, version_log
from gllm_storage.versions.register import enter, find
from tests.versions.support import new_model, store_bytes

if TYPE_CHECKING:
    from gllm_storage.info import ObjectInfo, Stored
    from gllm_storage.store.port import UploadRequest
    from gllm_storage.store.transfer import Transfer

OTHER = Deleted("sha256:" + "ab" * 32, "ab" * 32 + "-0", "2026-11-28")


MANIFEST = Manifest("m", "v3", OTHER.digest, OTHER.place, 1, 1, 1, "cd" * 32, "test", OTHER.time)


class CountingStore(MemoryStore):
    """Counts requests; `ordered` finds the first key at once, as clouds do."""

    ordered: ClassVar[bool] = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.requests: list[str] = []

    @property
    def finds_first(self) -> bool:
        return self.ordered

    def first(self, prefix: str = "") -> ObjectInfo | None:
        self.requests.append("list")
        return super().first(prefix)

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        self.requests.append("head")
        return super().info(key, operation)

    def read(self, key: str, transfer: Transfer) -> bytes:
        content: bytes = self.content(key, transfer.details).getvalue()
        self.requests.append("get")
        return content


class OrderedStore(CountingStore):
    ordered = True


def model_with(kind: type[MemoryStore]) -> Model:
    model = new_model()
    assert isinstance(model.store, MemoryStore)
    bucket = model.store.url("").removeprefix("memory://").strip("/")
    return Model(kind(model.store._filesystem, bucket), model.prefix)


@pytest.mark.parametrize("kind", [OrderedStore, CountingStore])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 100])
def test_newest_entry(kind: type[CountingStore], count: int) -> None:
    """The newest entry is found in a log of any length."""
    model = model_with(kind)
    log = version_log(model, "v3", "resolve")
    for slot in range(1, count + 1):
        assert log.create(slot, Aborted() if slot < count else OTHER) is None
    assert log.newest() == ((count, OTHER) if count else (0, None))
    assert [slot for slot, _ in log.entries()] == list(range(count, 0, -1))


def test_requests_of_a_read() -> None:
    """One LIST of one key and one GET, whatever the history; about two HEAD requests for each doubling elsewhere."""
    ordered, galloping = model_with(OrderedStore), model_with(CountingStore)
    for model in (ordered, galloping):
        log = version_log(model, "v3", "resolve")
        for slot in range(1, 501):
            log.create(slot, Aborted())
        assert isinstance(model.store, CountingStore)
        model.store.requests.clear()
        log.newest()
    assert ordered.store.requests == ["list", "get"]  # type: ignore[attr-defined]  # a `CountingStore`
    assert len(galloping.store.requests) <= 20  # type: ignore[attr-defined]  # a `CountingStore`
    assert "list" not in galloping.store.requests  # type: ignore[attr-defined]  # a `CountingStore`


def test_slot_that_is_taken() -> None:
    """A second entry in one slot is refused, and the first one returned."""
    log = version_log(new_model(), "v3", "publish")
    assert log.create(1, OTHER) is None
    assert log.create(1, Aborted()) == OTHER
    assert log.read(1) == OTHER
    assert log.read(2) is None


@pytest.mark.parametrize("kind", [OrderedStore, CountingStore])
@pytest.mark.parametrize("count", [0, 2])
def test_foreign_object_in_a_log(kind: type[CountingStore], count: int) -> None:
    """An object that is not an entry, such as that of a probe of S3, does not hide the newest entry."""
    model = model_with(kind)
    log = version_log(model, "v3", "resolve")
    for name in (".gllm-probe-0f", "0-notes.txt", "99999999.json", "z"):
        store_bytes(model.store, model.key("versions", "v3", name), b"")
    for slot in range(1, count + 1):
        log.create(slot, Aborted())
    assert log.newest() == (count, Aborted() if count else None)
    assert [(each.version, each.slot) for each in newest_in(logged_entries(model))] == ([("v3", count)] if count else [])


class LosingStore(MemoryStore):
    """Loses the answer to the first upload: it takes effect (`lands`), or not."""

    lands: ClassVar[bool] = False
    failures = 1

    def upload(self, request: UploadRequest) -> Stored:
        if not self.failures:
            return super().upload(request)
        self.failures -= 1
        if self.lands:
            super().upload(request)
        raise StorageUnavailableError("no answer", request.details)


class LandingStore(LosingStore):
    lands = True


def test_lost_answer_of_an_entry() -> None:
    """An entry that landed is found; one that did not is replaced by "aborted", which it can never replace."""
    landed = version_log(model_with(LandingStore), "v3", "publish").decide(1, OTHER)
    assert landed.entry == OTHER
    assert isinstance(landed.failure, StorageUnavailableError)
    log = version_log(model_with(LosingStore), "v3", "publish")
    assert log.decide(1, OTHER).entry == Aborted()
    assert log.create(1, OTHER) == Aborted()


def test_undecided_entry() -> None:
    """If the store answers no further request either, the error says so, and nothing is decided."""
    model = model_with(LosingStore)
    model.store.failures = 2  # type: ignore[attr-defined]  # a `CountingStore`
    log = version_log(model, "v3", "publish")
    with pytest.raises(StorageUnavailableError):
        log.decide(1, OTHER)
    assert log.read(1) is None


def test_names_of_a_model() -> None:
    """A name is a version or an alias, in one spelling; entering it again changes nothing."""
    model = new_model()
    assert find(model, "V3") is None
    enter(model, "v3", "version", "publish")
    enter(model, "v3", "version", "publish")
    assert find(model, "V3") == ("v3", "version")
    with pytest.raises(ObjectExistsError, match="'v3' for a version that was not published to its end, so 'v3'"):
        enter(model, "v3", "alias", "alias")
    with pytest.raises(ObjectExistsError, match=r"'v3' for a version .*, so 'V3' cannot be an alias"):
        enter(model, "V3", "alias", "alias")
    enter(model, "latest", "alias", "alias")
    with pytest.raises(ObjectExistsError, match="'latest' for an alias that points to nothing, so 'latest'"):
        enter(model, "latest", "version", "publish")
    version_log(model, "v3", "publish").create(1, MANIFEST)
    with pytest.raises(ObjectExistsError, match="has a version 'v3', so 'v3' cannot be an alias"):
        enter(model, "v3", "alias", "alias")
    with pytest.raises(ObjectExistsError, match="'v3', which differs only in case, so 'V3' cannot be a version"):
        enter(model, "V3", "version", "publish")
    with pytest.raises(ValueError, match="cannot be the name"):
        enter(model, "a/b", "version", "publish")


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format":1}', b'{"format":1,"name":"v4","kind":"version"}'])
def test_damaged_name(data: bytes) -> None:
    """A damaged entry of the register is refused."""
    model = new_model()
    store_bytes(model.store, model.key("names", "v3.json"), data)
    with pytest.raises(IntegrityError, match=r"names/v3\.json"):
        enter(model, "v3", "version", "publish")
