"""`AzureStore` beneath the verbs: results of uploads, copies, and downloads over broken connections."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import ObjectExistsError, get_storage_client
from gllm_storage.files.source import MemorySource
from gllm_storage.store.port import UploadRequest
from gllm_storage.store.retry import no_waits, subscribe
from gllm_storage.testing.faults import DropResponse, TruncateBody
from tests.promises.faulty import AZURE, NAME, SMALL, behind_proxy, content_of
from tests.rig import MIB
from tests.unit.azure.test_credentials import account_sas

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage.store.retry import RetryEvent
    from tests.conftest import Servers
    from tests.promises.faulty import Faulty

LARGE = AZURE.large


@pytest.fixture
def faulty(servers: Servers) -> Iterator[Faulty]:
    with no_waits(), behind_proxy(AZURE, servers) as each:
        yield each


def request_of(store: Any, key: str, content: bytes, *, exclusive: bool = False) -> UploadRequest:
    transfer = store.transfer(key, "upload")
    return UploadRequest(key, MemorySource(content, transfer.details), transfer, exclusive)


@pytest.mark.parametrize("size", [0, SMALL, LARGE], ids=["empty", "small", "blocks"])
@pytest.mark.parametrize("exclusive", [False, True], ids=["replace", "create"])
def test_stored(size: int, exclusive: bool, faulty: Faulty) -> None:
    """An upload returns the facts of the answer, without a further request."""
    store, key = faulty.client().store, faulty.rig.key(NAME)
    stored = store.upload(request_of(store, key, content_of(size), exclusive=exclusive))
    commit = AZURE.commit if size == LARGE else AZURE.put
    assert faulty.proxy.requests[-1].operation == commit
    info = store.info(key)
    assert (stored.url, stored.size, stored.etag, stored.version) == (info.url, size, info.etag, info.version)
    assert stored.etag
    assert stored.checksum == info.checksum
    assert str(stored.checksum).startswith("crc64nvme:")


def test_stored_after_lost_answer(faulty: Faulty) -> None:
    """The facts about a rescued upload come from the HEAD request that found the object, and the rescue is reported."""
    events: list[RetryEvent] = []
    unsubscribe = subscribe(events.append)
    faulty.inject(AZURE.put, DropResponse())
    store, key = faulty.client().store, faulty.rig.key(NAME)
    stored = store.upload(request_of(store, key, b"content", exclusive=True))
    unsubscribe()
    assert (stored.etag, stored.checksum) == (store.info(key).etag, store.info(key).checksum)
    assert [each.kind for each in events] == ["retry", "rescue"]


def test_rescued_delete(faulty: Faulty) -> None:
    """A delete with a lost answer succeeds, and is reported as rescued."""
    events: list[RetryEvent] = []
    unsubscribe = subscribe(events.append)
    faulty.put(b"x")
    faulty.inject(AZURE.delete, DropResponse())
    faulty.client().delete_file(NAME)
    unsubscribe()
    assert [(each.kind, each.operation, each.attempt) for each in events] == [
        ("retry", "delete", 1),
        ("rescue", "delete", 1),
    ]


def test_folder_is_in_the_way(faulty: Faulty) -> None:
    """A folder of a hierarchical namespace is not an object, but it prevents the creation of an object with its name."""
    key = faulty.rig.key("folder")
    container = faulty.rig.microsoft.container
    container.upload_blob(key, b"", metadata={"hdi_isfolder": "true"})
    client = faulty.client()
    assert not client.file_exists("folder")
    with pytest.raises(ObjectExistsError):
        client.store.require_create(key)
    with pytest.raises(ObjectExistsError):
        client.store.upload(request_of(client.store, key, b"content", exclusive=True))


def test_broken_bodies(faulty: Faulty, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A download with truncated answers continues after the received bytes, and each repetition is reported."""
    caplog.set_level(logging.INFO, "gllm_storage.retry")
    content = content_of(LARGE)
    faulty.put(content)
    faulty.inject(AZURE.read, TruncateBody(MIB // 2 + 1000), times=None)
    path = faulty.client(part_size="4MiB", max_attempts="2").download_file(NAME, tmp_path / "a")
    assert path.read_bytes() == content
    sent = len(faulty.sent(AZURE.read))
    assert sent == -(-LARGE // (MIB // 2 + 1000))
    told = [each for each in caplog.records if each.name == "gllm_storage.retry"]
    assert len(told) == sent - 1


def test_copy_on_server(faulty: Faulty) -> None:
    """Within an account, the server copies, and the client does not transfer the content."""
    content = content_of(LARGE)
    faulty.put(content)
    store, key = faulty.client().store, faulty.rig.key(NAME)
    store.copy(key, store, faulty.rig.key("copy"), store.transfer(key, "copy"))
    assert faulty.get("copy") == content
    assert faulty.sent(AZURE.read) == []


def test_copy_to_other_account(faulty: Faulty) -> None:
    """To a store with other credentials, the client downloads and uploads the content."""
    content = content_of(LARGE)
    faulty.put(content)
    config = {name: value for name, value in faulty.rig.config.items() if name != "account_key"}
    server: Any = faulty.rig.server
    other: Any = get_storage_client("azure", {**config, "sas_token": account_sas(server)})
    store, key = faulty.client().store, faulty.rig.key(NAME)
    store.copy(key, other.store, faulty.rig.key("copy"), store.transfer(key, "copy"))
    assert faulty.get("copy") == content
    assert faulty.sent(AZURE.read) != []
