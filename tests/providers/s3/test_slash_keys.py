"""Content behind keys that end with ``/``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gllm_storage import ExactKey
from gllm_storage.errors import IntegrityError
from tests.conftest import make_rig

if TYPE_CHECKING:
    from tests.rig import Rig


@pytest.fixture
def seaweedfs_rig(request: pytest.FixtureRequest) -> Rig:
    """A store that makes an empty folder of such a key."""
    return make_rig("seaweedfs", request)


def test_content_is_dropped(seaweedfs_rig: Rig) -> None:
    """A store that drops the content is not a success, for any method; an empty marker is."""
    client = seaweedfs_rig.client()
    key = ExactKey(seaweedfs_rig.key("folder/"))
    path = f"{client.url('folder')}/"
    with pytest.raises(IntegrityError, match="0 of 7 bytes"):
        client.upload(b"content", key)
    with pytest.raises(IntegrityError):
        client.filesystem.pipe_file(path, b"content")
    with pytest.raises(IntegrityError):
        client.filesystem.pipe({path: b"content", client.url("other"): b"content"})
    client.upload(b"", key)
