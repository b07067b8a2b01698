"""`AzureBlobFileSystem` beneath the verbs: arguments of adlfs, and stored properties as the SDK reads them."""

from __future__ import annotations

import gc
import hashlib
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from gllm_storage import ObjectExistsError
from tests.promises.faulty import AZURE, NAME, SMALL, behind_proxy, content_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

LARGE = AZURE.large


def test_overwrite_false(servers: Servers, tmp_path: Path) -> None:
    """``overwrite=False`` of adlfs is an exclusive create."""
    (tmp_path / "a").write_bytes(b"ours")
    with behind_proxy(AZURE, servers) as faulty:
        faulty.put(b"theirs")
        client = faulty.client()
        with pytest.raises(ObjectExistsError):
            client.filesystem.put_file(str(tmp_path / "a"), client.url(NAME), overwrite=False)
        faulty.assert_holds(b"theirs")
        client.filesystem.put_file(str(tmp_path / "a"), client.url(NAME), overwrite=True)
        faulty.assert_holds(b"ours")


def test_unknown_argument(servers: Servers, tmp_path: Path) -> None:
    """An unknown argument is refused."""
    (tmp_path / "a").write_bytes(b"a")
    with behind_proxy(AZURE, servers) as faulty:
        client = faulty.client()
        with pytest.raises(TypeError, match="overwrte"):
            client.filesystem.put_file(str(tmp_path / "a"), client.url(NAME), overwrte=False)
        faulty.assert_holds(None)


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_properties(size: int, servers: Servers, tmp_path: Path) -> None:
    """The SDK reads the stored MD5, metadata and content type."""
    content = content_of(size)
    (tmp_path / "a").write_bytes(content)
    with behind_proxy(AZURE, servers) as faulty:
        client = faulty.client()
        settings = {"content_type": "text/plain"}
        client.filesystem.put_file(str(tmp_path / "a"), client.url(NAME), metadata={"step": "7"}, content_settings=settings)
        container = faulty.rig.microsoft.container
        found = container.get_blob_client(faulty.rig.key(NAME)).get_blob_properties()
        assert set(found.metadata) == {"step", "gllm_write_id", "gllm_crc64nvme", "gllm_md5"}
        assert found.content_settings.content_type == "text/plain"
        assert found.content_settings.content_md5 == bytearray(hashlib.md5(content, usedforsecurity=False).digest())


def test_collected(servers: Servers) -> None:
    """A filesystem without references is collected."""
    with behind_proxy(AZURE, servers) as faulty:
        filesystem = faulty.client().filesystem
        assert filesystem.ls("models") is not None
        alive = weakref.ref(filesystem)
        del filesystem
        deadline = time.monotonic() + 5
        while alive() is not None and time.monotonic() < deadline:  # a thread drops its last task after the answer
            gc.collect()
        assert alive() is None


def test_snapshots(servers: Servers) -> None:
    """A blob with snapshots can be deleted."""
    with behind_proxy(AZURE, servers) as faulty:
        faulty.put(b"a")
        container = faulty.rig.microsoft.container
        container.get_blob_client(faulty.rig.key(NAME)).create_snapshot()
        assert faulty.client().delete_file(NAME)
        faulty.assert_holds(None)
