"""Faults of Azure Blob Storage only: discarded blocks, and uncommitted blocks of other writers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gllm_storage.azure import store as azure_store
from gllm_storage.errors import ObjectNotFoundError, StorageUnavailableError
from gllm_storage.store.retry import RetryPolicy
from gllm_storage.testing.faults import Answer
from tests.promises.faulty import AZURE, CREATES, LARGES, NAME, Upload, UploadCase, behind_proxy, of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

UPLOADS = of(AZURE, LARGES)


def on(cases: list[UploadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads."""
    return pytest.mark.parametrize("upload", cases, ids=str, indirect=True)


def stage(upload: Upload, block: str) -> None:
    """Stage a block for the same blob, as a writer that was killed before its commit."""
    container = upload.faulty.rig.microsoft.container
    container.get_blob_client(upload.faulty.rig.key(NAME)).stage_block(block, b"of a writer that was killed")


@on(UPLOADS)
def test_blocks_thrown_away(upload: Upload) -> None:
    """Blocks that another writer's commit discarded are sent again."""
    upload.faulty.inject(upload.commit, Answer(400, "InvalidBlockList"))
    upload.run()
    upload.assert_stored()
    stored = [each for each in upload.faulty.sent("PutBlock") if each.status == 201]  # Azurite refuses a CRC-64 at first
    assert len(stored) == 8


@on(UPLOADS)
def test_blocks_thrown_away_always(upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the blocks are discarded after every attempt, the upload raises an error."""
    monkeypatch.setattr(azure_store, "BLOCK_CONFLICT", RetryPolicy(3))  # 20 attempts take 30 seconds
    upload.faulty.inject(upload.commit, Answer(400, "InvalidBlockList"), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


@on([case for case in of(AZURE, CREATES) if not case.large])
def test_put_refused_for_blocks(upload: Upload) -> None:
    """If Put Blob is refused because of another writer's uncommitted blocks, a small create uploads blocks instead."""
    stage(upload, "never-committed")
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("length", [12, 32, 64])
def test_blocks_of_another_tool(upload: Upload, length: int) -> None:
    """Uncommitted blocks of another tool do not prevent an upload.

    All block ids of one blob must have the same length in Azure, also those of independent writers.
    """
    stage(upload, "x" * length)
    upload.run()
    upload.assert_stored()


def test_folder_of_namespace(servers: Servers, tmp_path: Path, no_waits: None) -> None:
    """A folder of a hierarchical namespace is not an object."""
    with behind_proxy(AZURE, servers) as faulty:
        container = faulty.rig.microsoft.container
        container.upload_blob(faulty.rig.key("v1"), b"", metadata={"hdi_isfolder": "true"})
        faulty.put(b"x")
        client = faulty.client()
        assert not client.file_exists("v1")
        assert [each.url for each in client.list_files()] == [client.url(NAME)]
        with pytest.raises(ObjectNotFoundError):
            client.download_file("v1", tmp_path / "a")
