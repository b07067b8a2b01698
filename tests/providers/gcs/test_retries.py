"""Each repetition of a GCS request is reported, and a cancellation ends the wait before it at once."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import StorageUnavailableError
from gllm_storage.files.source import MemorySource
from gllm_storage.store import retry
from gllm_storage.store.port import UploadRequest
from gllm_storage.testing.faults import Answer, DropResponse, FlipRequestBit
from tests.promises.faulty import GCS, NAME, SMALL, Faulty, behind_proxy, content_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.store.port import ObjectStore
    from tests.conftest import Servers

LARGE = GCS.large
BUSY = Answer(503, "backendError")


@pytest.fixture
def faulty(servers: Servers) -> Iterator[Faulty]:
    """The store behind a proxy."""
    with behind_proxy(GCS, servers) as made:
        yield made


def upload(size: int, store: ObjectStore, key: str, stop: Stop) -> None:
    transfer = store.transfer(key, "upload", stop=stop)
    store.upload(UploadRequest(key, MemorySource(content_of(size), transfer.details), transfer, exclusive=True))


def copy(store: ObjectStore, key: str, stop: Stop) -> None:
    store.copy(key, store, f"{key}.copy", store.transfer(key, "copy", stop=stop))


def delete(store: ObjectStore, key: str, stop: Stop) -> None:
    store.delete_many([key], store.transfer(key, "delete", stop=stop))


def read(store: ObjectStore, key: str, stop: Stop) -> None:
    store.read(key, store.transfer(key, "read", stop=stop))


WORK: dict[str, Callable[[ObjectStore, str, Stop], None]] = {
    "ObjectsGet": partial(upload, SMALL),
    "GetStorageLayout": partial(upload, SMALL),
    "UploadMultipart": partial(upload, SMALL),
    "ResumableStart": partial(upload, LARGE),
    "ResumableChunk": partial(upload, LARGE),
    "ResumableFinal": partial(upload, LARGE),
    "ResumableStatus": partial(upload, LARGE),
    "ObjectsRewrite": copy,
    "ObjectsDelete": delete,
    "ObjectsGetMedia": read,
}


def run(faulty: Faulty, operation: str, stop: Stop) -> None:
    work = WORK[operation]
    if not isinstance(work, partial):
        faulty.put(content_of(SMALL))
    if operation == "ResumableStatus":
        faulty.inject("ResumableChunk", DropResponse())
    work(faulty.client().store, faulty.rig.key(NAME), stop)


@pytest.mark.parametrize("operation", WORK)
def test_reported(faulty: Faulty, operation: str, events: list[retry.RetryEvent]) -> None:
    """Each repetition is one event with operation, URL, attempt and limit."""
    faulty.inject(operation, BUSY, times=2)
    run(faulty, operation, Stop())
    told = [(each.attempt, each.limit, each.url) for each in events if "503" in each.cause]
    assert told == [(1, 5, f"gs://models/{faulty.rig.key(NAME)}"), (2, 5, f"gs://models/{faulty.rig.key(NAME)}")]
    assert {each.kind for each in events} == {"retry"}
    assert {each.operation for each in events} <= {"upload", "copy", "delete", "read"}


@pytest.mark.parametrize("operation", WORK)
def test_cancelled(faulty: Faulty, operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation ends the wait at once, no further request of the work is sent, and no object or session remains."""
    stop = Stop()

    def cancel(event: retry.RetryEvent) -> None:
        if "503" in event.cause:
            stop.set()

    monkeypatch.setattr(
        retry.RetryPolicy, "seconds", lambda *_: 30.0 if stop.is_set() or operation != "ResumableStatus" else 0
    )
    unsubscribe = retry.subscribe(cancel)
    faulty.inject(operation, BUSY, times=None)
    began = time.monotonic()
    try:
        with pytest.raises(TransferStopped):
            run(faulty, operation, stop)
    finally:
        unsubscribe()
    assert time.monotonic() - began < 10
    assert len(faulty.sent(operation)) == 1
    assert faulty.rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_corruption(faulty: Faulty, size: int, events: list[retry.RetryEvent]) -> None:
    """An upload with a flipped bit is sent again, and reported."""
    faulty.inject("UploadMultipart" if size == SMALL else "ResumableChunk", FlipRequestBit(at=5000))
    upload(size, faulty.client().store, faulty.rig.key(NAME), Stop())
    assert [(each.kind, each.limit) for each in events] == [("corruption", 2)]


def test_rescued_delete(faulty: Faulty, events: list[retry.RetryEvent]) -> None:
    """A delete with a lost answer succeeds, and is reported as rescued."""
    faulty.put(b"x")
    faulty.inject("ObjectsDelete", DropResponse())
    faulty.client().delete_file(NAME)
    assert [each.kind for each in events] == ["retry", "rescue"]


def test_rescued_session(faulty: Faulty, events: list[retry.RetryEvent]) -> None:
    """A session whose last chunk loses its answer, and which a query finds complete, is reported as rescued."""
    faulty.inject("ResumableFinal", DropResponse())
    upload(LARGE, faulty.client().store, faulty.rig.key(NAME), Stop())
    faulty.assert_holds(content_of(LARGE))
    assert [(each.kind, each.operation, each.attempt) for each in events] == [
        ("retry", "upload", 1),
        ("rescue", "upload", 1),
    ]
    assert events[1].cause == events[0].cause


def test_attempts(faulty: Faulty) -> None:
    """The error has the number of attempts, also for a chunk."""
    for operation, size in ("UploadMultipart", SMALL), ("ResumableChunk", LARGE):
        faulty.inject(operation, BUSY, times=None)
        with pytest.raises(StorageUnavailableError) as caught:
            upload(size, faulty.client(max_attempts="3").store, faulty.rig.key(NAME), Stop())
        assert caught.value.attempts == 3
