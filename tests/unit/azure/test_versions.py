"""Versions of blobs that paths of a version-aware filesystem name. Azurite has no versions, so the recorder answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import ObjectNotFoundError
from gllm_storage.azure import AzureBlobFileSystem
from tests.unit.azure.recorder import CONTENT, VERSION, recording

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.unit.azure.recorder import Recorder

BLOB = f"models/a?versionid={VERSION}"
MISSING = "models/a?versionid=2020-01-01T00:00:00.0000000Z"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as found:
        yield found


def filesystem_at(recorder: Recorder) -> Any:
    options: dict[str, Any] = {"account_name": "acc", "account_key": "a2V5", "endpoint_url": f"{recorder.url}/acc"}
    return AzureBlobFileSystem(**options, version_aware=True, skip_instance_cache=True)


def downloaded(get: Callable[[str, str], object], path: str, folder: Path) -> bytes:
    get(path, str(folder / "a"))
    return (folder / "a").read_bytes()


READS: dict[str, tuple[Callable[[Any, str, Path], object], object]] = {
    "info": (lambda filesystem, path, _: filesystem.info(path)["version_id"], VERSION),
    "exists": (lambda filesystem, path, _: filesystem.exists(path), True),
    "isfile": (lambda filesystem, path, _: filesystem.isfile(path), True),
    "size": (lambda filesystem, path, _: filesystem.size(path), 7),
    "open": (lambda filesystem, path, _: filesystem.open(path).read(), CONTENT),
    "read_text": (lambda filesystem, path, _: filesystem.read_text(path), CONTENT.decode()),
    "read_block": (lambda filesystem, path, _: filesystem.read_block(path, 1, 3), CONTENT[1:4]),
    "head": (lambda filesystem, path, _: filesystem.head(path, 3), CONTENT[:3]),
    "tail": (lambda filesystem, path, _: filesystem.tail(path, 3), CONTENT[-3:]),
    "cat_file": (lambda filesystem, path, _: filesystem.cat_file(path), CONTENT),
    "cat": (lambda filesystem, path, _: filesystem.cat(path), CONTENT),
    "cat_list": (lambda filesystem, path, _: list(filesystem.cat([path]).values()), [CONTENT]),
    "get_file": (lambda filesystem, path, folder: downloaded(filesystem.get_file, path, folder), CONTENT),
    "get": (lambda filesystem, path, folder: downloaded(filesystem.get, path, folder), CONTENT),
}


@pytest.mark.parametrize("call", READS)
def test_read_of_version(recorder: Recorder, tmp_path: Path, call: str) -> None:
    """Each method that reads reads the version that the path names, and no other."""
    read, expected = READS[call]
    assert read(filesystem_at(recorder), BLOB, tmp_path) == expected
    objects = [each.query.get("versionid") for each in recorder.requests if each.path.endswith("/a")]
    assert set(objects) == {VERSION}


def test_missing_version(recorder: Recorder, tmp_path: Path) -> None:
    """A version that does not exist is ObjectNotFoundError, and a download of it keeps the local file."""
    filesystem = filesystem_at(recorder)
    assert not filesystem.exists(MISSING)
    for call in (filesystem.info, filesystem.cat, filesystem.size):
        with pytest.raises(ObjectNotFoundError):
            call(MISSING)
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises(ObjectNotFoundError):
        filesystem.get_file(MISSING, str(tmp_path / "a"))
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"before"]
