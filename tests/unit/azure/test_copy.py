"""Copies within an account: the server copies, and the library waits for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import StorageError, get_storage_client
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import Remedy
from tests.unit.azure.recorder import Recorder, recording
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as found:
        yield found


def store_at(recorder: Recorder) -> Any:
    config = {"container_name": "models", "account_name": "acc", "account_key": "a2V5"}
    client: Any = get_storage_client("azure", {**config, "endpoint_url": f"{recorder.url}/acc"})
    return client.store


def test_cancelled_copy(recorder: Recorder) -> None:
    """A copy that is cancelled while the server copies ends at once, and sends a request to abort it."""
    recorder.copy_status = "pending"
    store, stop, raised = store_at(recorder), Stop(), []

    def copy() -> None:
        try:
            store.copy("a", store, "b", store.transfer("a", "copy", stop=stop))
        except BaseException as error:  # noqa: BLE001 - checked by the test
            raised.append(error)

    thread = threading.Thread(target=copy)
    thread.start()
    eventually(lambda: sum(each.method == "HEAD" for each in recorder.requests) >= 3)  # the copy waits and polls
    stop.set()
    thread.join()
    assert [type(each) for each in raised] == [TransferStopped]
    assert recorder.requests[-1].query == {"comp": "copy", "copyid": "copy-1"}


@pytest.mark.parametrize("state", ["failed", "aborted"])
def test_failed_copy(recorder: Recorder, state: str) -> None:
    """A copy that failed or was aborted on the server is an error that names both objects."""
    recorder.copy_status = state
    store = store_at(recorder)
    with pytest.raises(StorageError, match=f"az://models/a to az://models/b ended with the state '{state}'") as caught:
        store.copy("a", store, "b", store.transfer("a", "copy"))
    assert caught.value.remedy is Remedy.REPEAT_NOW
