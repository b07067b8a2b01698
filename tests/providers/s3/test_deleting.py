"""Bulk deletes on stores that demand Content-MD5, or have no DeleteObjects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import AccessDeniedError, StorageError
from gllm_storage.testing.faults import Answer
from tests.conftest import make_rig
from tests.promises.faulty import Faulty, behind_proxy, no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Servers
    from tests.rig import Rig

ENGINES = ["auto", "boto3"]
NAMES = [f"{folder}/{number}.bin" for folder in ("a", "b") for number in range(4)]


@pytest.fixture
def juicefs_rig(request: pytest.FixtureRequest) -> Rig:
    return make_rig("juicefs", request)


@pytest.fixture
def faulty(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    no_waits(monkeypatch)
    with behind_proxy("ministack", servers) as each:
        yield each


def filled(rig: Rig, engine: str = "auto") -> tuple[Any, str]:
    """The filesystem and the folder, with an object for each of `NAMES`."""
    for name in NAMES:
        rig.second.put(rig.key(name), name.encode())
    return rig.client(engine=engine).filesystem, f"{rig.base}{rig.prefix}"


def refused(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


@pytest.mark.parametrize("engine", ENGINES)
def test_rm_list(juicefs_rig: Rig, engine: str) -> None:
    """A list of objects is deleted on a store that demands Content-MD5."""
    filesystem, top = filled(juicefs_rig, engine)
    filesystem.rm([f"{top}/{name}" for name in NAMES[1:]])
    assert juicefs_rig.files() == NAMES[:1]


@pytest.mark.parametrize("engine", ENGINES)
def test_mv_recursive(juicefs_rig: Rig, engine: str) -> None:
    """A folder is moved on a store that demands Content-MD5: nothing stays at the source."""
    filesystem, top = filled(juicefs_rig, engine)
    filesystem.mv(f"{top}/a", f"{top}/c", recursive=True)
    assert juicefs_rig.files() == [*NAMES[4:], *(name.replace("a/", "c/") for name in NAMES[:4])]


def test_upstream_delete(juicefs_rig: Rig) -> None:
    """s3fs's own client sends Content-MD5 too."""
    filesystem, _ = filled(juicefs_rig)
    keys = [{"Key": juicefs_rig.key(name)} for name in NAMES]
    filesystem.call_s3("delete_objects", Bucket="models", Delete={"Objects": keys})
    assert juicefs_rig.files() == []


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "MissingContentMD5"), (400, "InvalidRequest"), (501, "NotImplemented"), (405, "MethodNotAllowed")],
)
def test_deletes_one_by_one(faulty: Faulty, status: int, code: str) -> None:
    """If the store refuses DeleteObjects, the objects are deleted one by one; it is not asked again."""
    filesystem, top = filled(faulty.rig)
    faulty.inject("DeleteObjects", Answer(status, body=refused(code)), times=None)
    filesystem.rm([f"{top}/{name}" for name in NAMES[:4]])
    filesystem.rm(f"{top}/b", recursive=True)
    assert faulty.rig.keys() == []
    assert len(faulty.sent("DeleteObjects")) == 1


def test_denied_deletes(faulty: Faulty) -> None:
    """A refusal for lack of permission is an error, and not a reason to delete one by one."""
    filesystem, top = filled(faulty.rig)
    faulty.inject("DeleteObjects", Answer(403, body=refused("AccessDenied")))
    with pytest.raises(AccessDeniedError):
        filesystem.rm([f"{top}/{name}" for name in NAMES])
    assert faulty.rig.keys() == NAMES


def test_single_delete_fails(faulty: Faulty) -> None:
    """An object that cannot be deleted one by one either is an error that names it."""
    filesystem, top = filled(faulty.rig)
    faulty.inject("DeleteObjects", Answer(501, body=refused("NotImplemented")))
    faulty.inject("DeleteObject", Answer(400, body=refused("InvalidRequest")), times=None)
    with pytest.raises(StorageError, match=r"s3://models/.*\.bin"):
        filesystem.rm([f"{top}/{name}" for name in NAMES])
