"""Looking, listing and deleting on GCS and Azure while the store is busy, refuses or answers nonsense."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from tests.faults import Action, Answer, DropResponse, Fault, Match, Refuse, TruncateBody
from tests.promises.clouds.faulty import AZURE, CONTENT, GCS, NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.promises.clouds.faulty import Faulty

BUSY = Answer(503, "ServerBusy")
VERBS: dict[str, Callable[[FsspecStorageClient], object]] = {
    "info": lambda client: client.info(NAME).size,
    "exists": lambda client: client.file_exists(NAME),
    "delete": lambda client: client.delete_file(NAME),
    "list": lambda client: [found.url for found in client.list_files()],
}
PASSING = [
    pytest.param(BUSY, 3, id="3x503"),
    pytest.param(Answer(500, "InternalError"), 2, id="2x500"),
    pytest.param(Answer(429, "TooManyRequests"), 2, id="2x429"),
    pytest.param(Refuse(), 2, id="2xrefused"),
    pytest.param(DropResponse(), 1, id="1xlost"),
]
STAYING = [
    pytest.param(BUSY, 503, id="503"),
    pytest.param(Answer(500, "InternalError"), 500, id="500"),
    pytest.param(Answer(504, "GatewayTimeout"), 504, id="504"),
    pytest.param(Refuse(), None, id="refused"),
]


def step_of(faulty: Faulty, verb: str) -> str:
    return {"delete": faulty.cloud.delete, "list": faulty.cloud.list}.get(verb, faulty.cloud.look)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("action", "times"), PASSING)
def test_a_fault_that_passes_is_not_noticed(faulty: Faulty, verb: str, action: Action, times: int) -> None:
    faulty.inject(step_of(faulty, verb), action, times=times)
    client = faulty.client()
    expected = {"info": len(CONTENT), "exists": True, "delete": True, "list": [client.url(NAME)]}
    assert VERBS[verb](client) == expected[verb]
    assert faulty.rig.keys() == ([] if verb == "delete" else [NAME])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("action", "status"), STAYING)
def test_a_fault_that_stays_is_an_error_and_no_answer(faulty: Faulty, verb: str, action: Action, status: int | None) -> None:
    faulty.inject(step_of(faulty, verb), action, times=None)
    client = faulty.client()
    with pytest.raises(StorageUnavailableError) as caught:
        VERBS[verb](client)
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation, error.status) == (faulty.cloud.provider, verb, status)
    assert client.url(NAME).startswith(error.url)
    assert error.__cause__ is not None
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize("verb", VERBS)
def test_a_refusal_is_an_error_and_no_answer(faulty: Faulty, verb: str) -> None:
    faulty.inject(step_of(faulty, verb), faulty.cloud.denied, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        VERBS[verb](faulty.client())
    assert (caught.value.operation, caught.value.status) == (verb, 403)
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", [200, 204, 301, 302, 400, 405])
@pytest.mark.parametrize(
    "page", [b"<html><p>Please log in</html>", b"{}", b"[]", b""], ids=["html", "json", "list", "empty"]
)
def test_an_answer_of_something_that_is_no_store_is_an_error(faulty: Faulty, verb: str, status: int, page: bytes) -> None:
    accepted = {"azure": {202}, "gcs": {200, 204}}[faulty.cloud.provider]
    if verb == "delete" and status in accepted:
        return  # that is what a delete is answered, without a word
    faulty.inject(step_of(faulty, verb), Answer(status, body=page), times=None)
    with pytest.raises(StorageError):
        VERBS[verb](faulty.client())


@pytest.mark.parametrize("after", [0, 60, 300])
def test_a_listing_that_always_breaks_off_is_an_error_and_not_a_shorter_one(faulty: Faulty, after: int) -> None:
    faulty.inject(faulty.cloud.list, TruncateBody(after), times=None)
    with pytest.raises(StorageError):
        VERBS["list"](faulty.client())


@pytest.mark.parametrize("after", [60, 300])
def test_a_listing_that_breaks_off_is_asked_for_again(faulty: Faulty, after: int) -> None:
    faulty.inject(faulty.cloud.list, TruncateBody(after))
    client = faulty.client()
    assert VERBS["list"](client) == [client.url(NAME)]


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "list"])
def test_a_bucket_that_is_not_there_is_found_out_where_the_answer_does_not_say_so(faulty: Faulty, verb: str) -> None:
    if faulty.cloud is AZURE:
        return  # whose answers always say so
    faulty.inject(step_of(faulty, verb), Answer(404, body=b"Not Found"), times=None)
    faulty.inject("BucketsGet", Answer(404, body=b"Not Found"), times=None)
    with pytest.raises(BucketNotFoundError):
        VERBS[verb](faulty.client())


@pytest.mark.parametrize("name", ["v1/my-bucket", "v1/leaky bucket"])
@pytest.mark.parametrize("faulty", [GCS], ids=str, indirect=True)
def test_an_answer_about_a_missing_object_is_not_taken_for_one_about_its_bucket(faulty: Faulty, name: str) -> None:
    message = f"Live version of object models/{name} does not exist."  # as Google's testbench says it
    missing = Answer(404, body=json.dumps({"error": {"code": 404, "message": message}}).encode())
    faulty.inject("ObjectsGet", missing, times=None)
    client = faulty.client()
    assert not client.file_exists(name)
    with pytest.raises(ObjectNotFoundError):
        client.info(name)
    with client.open(name, "xb") as file:
        file.write(b"new")
    assert faulty.get(name) == b"new"


@pytest.mark.parametrize("faulty", [GCS], ids=str, indirect=True)
def test_a_store_too_busy_to_say_whether_a_bucket_is_zonal_is_asked_again_later(faulty: Faulty, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"new")
    client = faulty.client(max_attempts="2")
    faulty.inject("GetStorageLayout", BUSY, times=2)
    with pytest.raises(StorageUnavailableError):
        client.upload_file(tmp_path / "source", "new", check_conflict=True)
    assert not client.file_exists("new")
    client.upload_file(tmp_path / "source", "new", check_conflict=True)
    assert len(faulty.sent("GetStorageLayout")) == 3


@pytest.mark.parametrize(
    "action",
    [BUSY, Answer(403, "AuthorizationFailure"), Refuse(), Answer(200, body=b"<oops")],
    ids=["503", "403", "refused", "no-answer"],
)
def test_no_error_tells_a_secret(faulty: Faulty, tmp_path: Path, action: Action) -> None:
    secret = "c2VjcmV0LW9mLXRoaXMtdGVzdA=="
    config = {"account_key": secret} if faulty.cloud is AZURE else {}
    client = faulty.client(**config)
    (tmp_path / "source").write_bytes(b"x" * 2_000_000)
    calls: list[Callable[[], object]] = [
        lambda: list(client.list_files()),
        lambda: client.info(NAME),
        lambda: client.download_file(NAME, tmp_path / "target"),
        lambda: client.upload_file(tmp_path / "source", NAME),
        lambda: client.upload_file(tmp_path / "source", NAME, check_conflict=True),
    ]
    assert secret not in repr(client)
    faulty.proxy.inject(Fault(Match(), action, times=None))
    for call in calls:
        with pytest.raises(StorageError) as caught:
            call()
        assert secret not in str(caught.value)
        assert "upload_id=" not in str(caught.value) or "upload_id=***" in str(caught.value)
