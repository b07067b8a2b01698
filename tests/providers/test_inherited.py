"""Methods that the filesystems inherit from gcsfs and adlfs: limited retries and translated errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fsspec.asyn import sync

from gllm_storage.errors import AccessDeniedError, BucketNotFoundError, Remedy, StorageError, StorageUnavailableError
from gllm_storage.testing.faults import Answer, Fault, Match, Refuse
from tests.promises.faulty import AZURE, CONTENT, GCS, NAME, content_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.faulty import Faulty

CALLS: dict[str, Callable[[Any, str], object]] = {
    "ls": lambda filesystem, folder: filesystem.ls(folder),
    "find": lambda filesystem, folder: filesystem.find(folder),
    "rm": lambda filesystem, folder: filesystem.rm(folder, recursive=True),
    "cp_file": lambda filesystem, folder: filesystem.cp_file(f"{folder}/{NAME}", f"{folder}/copy"),
    "cat_file": lambda filesystem, folder: filesystem.cat_file(f"{folder}/{NAME}"),
}
SENT = {
    "gcs": {"ls": "ObjectsList", "find": "ObjectsList", "rm": "ObjectsDelete", "cp_file": "ObjectsRewrite"},
    "azure": {"ls": "ListBlobs", "find": "ListBlobs", "rm": "DeleteBlob", "cp_file": "PutBlob"},
}


def folder_of(faulty: Faulty) -> str:
    return f"models/{faulty.rig.prefix}"


def step_of(faulty: Faulty, call: str) -> str:
    return SENT[faulty.cloud.provider].get(call, faulty.cloud.read)


@pytest.mark.parametrize("call", CALLS)
def test_passing_503(faulty: Faulty, call: str) -> None:
    """Two answers of 503 do not reach the caller."""
    faulty.inject(step_of(faulty, call), Answer(503, "ServerBusy"), times=2)
    CALLS[call](faulty.client(read_timeout="10s").filesystem, folder_of(faulty))


@pytest.mark.parametrize("call", CALLS)
def test_denied(faulty: Faulty, call: str) -> None:
    """A refusal is translated into AccessDeniedError."""
    faulty.inject(step_of(faulty, call), faulty.cloud.denied, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        CALLS[call](faulty.client().filesystem, folder_of(faulty))
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("faulty", "call"),
    # `ls`, `find` and `rm` of gcsfs retry for more than half a minute.
    [(GCS, "cat_file"), (GCS, "cp_file"), *((AZURE, call) for call in CALLS)],
    ids=str,
    indirect=["faulty"],
)
def test_unreachable_store(faulty: Faulty, call: str) -> None:
    """A store that cannot be reached raises StorageUnavailableError."""
    faulty.proxy.inject(Fault(Match(), Refuse(), times=None))
    with pytest.raises(StorageUnavailableError):
        CALLS[call](faulty.client(max_attempts="2").filesystem, folder_of(faulty))


@pytest.mark.parametrize("call", ["ls", "find", "cat_file", "cp_file"])
def test_missing_bucket(faulty: Faulty, call: str) -> None:
    """A missing bucket raises FileNotFoundError or BucketNotFoundError."""
    with pytest.raises((FileNotFoundError, BucketNotFoundError)):
        CALLS[call](faulty.client().filesystem, "no-such-bucket-anywhere/folder")


def test_copy_and_move(faulty: Faulty) -> None:
    """A copied object keeps content and checksum, and a moved object its content."""
    client, folder = faulty.client(), folder_of(faulty)
    large = content_of(GCS.large)
    with client.open(NAME, "wb") as file:
        file.write(large)
    client.filesystem.cp_file(f"{folder}/{NAME}", f"{folder}/copy.bin")
    assert faulty.get("copy.bin") == large
    assert client.info("copy.bin").checksum == client.info(NAME).checksum
    client.filesystem.mv(f"{folder}/copy.bin", f"{folder}/moved.bin")
    assert faulty.rig.keys() == ["moved.bin", NAME]
    assert faulty.get("moved.bin") == large


def test_many_objects(faulty: Faulty) -> None:
    """One call reads or copies many objects."""
    filesystem, folder = faulty.client().filesystem, folder_of(faulty)
    for number in range(20):
        faulty.put(b"%d" % number, f"many/{number}")
    paths = [f"{folder}/many/{number}" for number in range(20)]
    assert filesystem.cat(paths) == {path: b"%d" % number for number, path in enumerate(paths)}
    assert filesystem.cat_ranges(paths, 0, 1) == [str(number)[:1].encode() for number in range(20)]
    filesystem.copy(paths, [f"{folder}/copies/{number}" for number in range(20)])
    assert faulty.get("copies/19") == b"19"


async def _cat_all(filesystem: Any, paths: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = await filesystem._cat(paths, on_error="raise")
    return found


def test_cat_coroutine(faulty: Faulty) -> None:
    """The coroutine `_cat` of fsspec can be called on the filesystem's event loop."""
    filesystem, path = faulty.client().filesystem, f"{folder_of(faulty)}/{NAME}"
    assert sync(filesystem.loop, _cat_all, filesystem, [path]) in ({path: CONTENT}, CONTENT)


def test_append(faulty: Faulty) -> None:
    """Appending raises StorageError with a remedy, and the object keeps its content."""
    for mode in ("ab", "a"):
        with pytest.raises(StorageError, match="this provider cannot append to an object") as caught:
            faulty.client().open(NAME, mode)
        assert type(caught.value) is StorageError
        assert caught.value.remedy is Remedy.WRITE_NEW_OBJECT
    assert faulty.get() == CONTENT


@pytest.mark.parametrize("faulty", [AZURE], ids=str, indirect=True)
def test_denied_delete_of_many(faulty: Faulty) -> None:
    """A refusal to delete some of many blobs is translated into StorageError."""
    for number in range(5):
        faulty.put(b"x", f"many/{number}")
    faulty.inject("DeleteBlob", faulty.cloud.denied, skip=2, times=None)
    with pytest.raises(StorageError) as caught:
        faulty.client().filesystem.rm(f"{folder_of(faulty)}/many", recursive=True)
    assert caught.value.operation == "delete"
