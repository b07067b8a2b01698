"""What gcsfs and adlfs do themselves, through our filesystems: with sane tries, and errors in our words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fsspec.asyn import sync

from gllm_storage.errors import AccessDeniedError, BucketNotFoundError, StorageError, StorageUnavailableError
from gllm_storage.testing.faults import Answer, Fault, Match, Refuse
from tests.promises.clouds.faulty import AZURE, CONTENT, GCS, LARGE, NAME, content_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.promises.clouds.faulty import Faulty

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
def test_two_answers_of_503_are_not_noticed(faulty: Faulty, call: str) -> None:
    faulty.inject(step_of(faulty, call), Answer(503, "ServerBusy"), times=2)
    CALLS[call](faulty.client(read_timeout="10s").filesystem, folder_of(faulty))


@pytest.mark.parametrize("call", CALLS)
def test_a_refusal_is_an_error_of_ours(faulty: Faulty, call: str) -> None:
    faulty.inject(step_of(faulty, call), faulty.cloud.denied, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        CALLS[call](faulty.client().filesystem, folder_of(faulty))
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("faulty", "call"),
    # gcsfs's own methods wait a minute and more.
    [(GCS, "cat_file"), *((AZURE, call) for call in CALLS)],
    ids=str,
    indirect=["faulty"],
)
def test_a_store_that_cannot_be_reached_is_an_error_of_ours(faulty: Faulty, call: str) -> None:
    faulty.proxy.inject(Fault(Match(), Refuse(), times=None))
    with pytest.raises(StorageUnavailableError):
        CALLS[call](faulty.client(max_attempts="2").filesystem, folder_of(faulty))


@pytest.mark.parametrize("call", ["ls", "find", "cat_file", "cp_file"])
def test_a_bucket_that_is_not_there_is_an_error_of_fsspec_or_ours(faulty: Faulty, call: str) -> None:
    with pytest.raises((FileNotFoundError, BucketNotFoundError)):
        CALLS[call](faulty.client().filesystem, "no-such-bucket-anywhere/folder")


def test_copies_keep_content_and_checksum(faulty: Faulty) -> None:
    client, folder = faulty.client(), folder_of(faulty)
    large = content_of(LARGE)
    with client.open(NAME, "wb") as file:
        file.write(large)
    client.filesystem.cp_file(f"{folder}/{NAME}", f"{folder}/copy.bin")
    assert faulty.get("copy.bin") == large
    assert client.info("copy.bin").checksum == client.info(NAME).checksum
    client.filesystem.mv(f"{folder}/copy.bin", f"{folder}/moved.bin")
    assert faulty.rig.keys() == ["moved.bin", NAME]
    assert faulty.get("moved.bin") == large


def test_many_objects_are_read_and_copied_by_one_call(faulty: Faulty) -> None:
    filesystem, folder = faulty.client().filesystem, folder_of(faulty)
    for number in range(20):
        faulty.put(b"%d" % number, f"many/{number}")
    paths = [f"{folder}/many/{number}" for number in range(20)]
    assert filesystem.cat(paths) == {path: b"%d" % number for number, path in enumerate(paths)}
    assert filesystem.cat_ranges(paths, 0, 1) == [str(number)[:1].encode() for number in range(20)]
    filesystem.copy(paths, [f"{folder}/copies/{number}" for number in range(20)])
    assert faulty.get("copies/19") == b"19"


async def _all_at_once(filesystem: Any, paths: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = await filesystem._cat(paths, on_error="raise")
    return found


def test_fsspecs_own_coroutine_for_many_is_not_hidden(faulty: Faulty) -> None:
    filesystem, path = faulty.client().filesystem, f"{folder_of(faulty)}/{NAME}"
    assert sync(filesystem.loop, _all_at_once, filesystem, [path]) in ({path: CONTENT}, CONTENT)


def test_a_file_cannot_be_appended_to_and_an_error_says_so(faulty: Faulty) -> None:
    for mode in ("ab", "a"):
        with pytest.raises(StorageError, match="cannot be appended to"):
            faulty.client().open(NAME, mode)
    assert faulty.get() == CONTENT


@pytest.mark.parametrize("faulty", [AZURE], ids=str, indirect=True)
def test_of_blobs_that_cannot_be_deleted_the_error_is_ours(faulty: Faulty) -> None:
    for number in range(5):
        faulty.put(b"x", f"many/{number}")
    faulty.inject("DeleteBlob", faulty.cloud.denied, skip=2, times=None)
    with pytest.raises(StorageError) as caught:
        faulty.client().filesystem.rm(f"{folder_of(faulty)}/many", recursive=True)
    assert caught.value.operation == "delete"
