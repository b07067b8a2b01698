"""Looking, listing and deleting on S3 while the store is busy, refuses or breaks off; and what errors tell, and do not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import AccessDeniedError, StorageError, StorageUnavailableError
from tests.faults import Action, Answer, DropResponse, Match, Refuse, TruncateBody
from tests.promises.s3.faulty import DENIED, NAME, SLOW_DOWN, Faulty, behind_proxy, messages, no_waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

CONTENT = b"content"
VERBS: dict[str, Callable[[FsspecStorageClient], object]] = {
    "info": lambda client: client.info(NAME).size,
    "exists": lambda client: client.file_exists(NAME),
    "delete": lambda client: client.delete_file(NAME),
    "list": lambda client: [found.url for found in client.list_files()],
}
STEPS = [
    ("info", "HeadObject"),
    ("exists", "HeadObject"),
    ("delete", "HeadObject"),
    ("delete", "DeleteObject"),
    ("list", "ListObjectsV2"),
]
PASSING = [
    pytest.param(SLOW_DOWN, 3, id="3x503"),
    pytest.param(Answer(500, "InternalError"), 2, id="2x500"),
    pytest.param(Refuse(), 2, id="2xrefused"),
    pytest.param(DropResponse(), 1, id="1xlost"),
]
STAYING = [
    pytest.param(SLOW_DOWN, 503, id="503"),
    pytest.param(Answer(500, "InternalError"), 500, id="500"),
    pytest.param(Answer(504, "GatewayTimeout"), 504, id="504"),
    pytest.param(Refuse(), None, id="refused"),
]


@pytest.fixture(params=["ceph", "ministack"])
def faulty(request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    no_waits(monkeypatch)
    with behind_proxy(request.param, servers) as each:
        each.put(CONTENT)
        yield each


only_ministack = pytest.mark.parametrize("faulty", ["ministack"], indirect=True)
only_ceph = pytest.mark.parametrize("faulty", ["ceph"], indirect=True)


@pytest.mark.parametrize(("verb", "step"), STEPS)
@pytest.mark.parametrize(("action", "times"), PASSING)
def test_a_fault_that_passes_is_not_noticed(faulty: Faulty, verb: str, step: str, action: Action, times: int) -> None:
    faulty.inject(step, action, times=times)
    client = faulty.client()
    expected = {"info": len(CONTENT), "exists": True, "delete": True, "list": [client.url(NAME)]}
    assert VERBS[verb](client) == expected[verb]
    assert faulty.rig.keys() == ([] if verb == "delete" else [NAME])


@pytest.mark.parametrize(("verb", "step"), STEPS)
@pytest.mark.parametrize(("action", "status"), STAYING)
def test_a_fault_that_stays_is_an_error_and_no_answer(
    faulty: Faulty, verb: str, step: str, action: Action, status: int | None
) -> None:
    faulty.inject(step, action, times=None)
    client = faulty.client()
    with pytest.raises(StorageUnavailableError) as caught:
        VERBS[verb](client)
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation, error.status) == ("s3", verb, status)
    assert error.url == client.url(NAME) if verb != "list" else client.url(NAME).startswith(error.url)
    assert (error.code is None) == (status is None)
    assert error.__cause__ is not None
    faulty.assert_holds(content=CONTENT)


@pytest.mark.parametrize(("verb", "step"), [each for each in STEPS if each != ("delete", "HeadObject")])
def test_a_refusal_is_an_error_and_no_answer(faulty: Faulty, verb: str, step: str) -> None:
    faulty.inject(step, DENIED, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        VERBS[verb](faulty.client())
    assert (caught.value.operation, caught.value.status) == (verb, 403)
    faulty.assert_holds(content=CONTENT)


def test_who_may_not_look_can_delete(faulty: Faulty) -> None:
    faulty.inject(Match(method="HEAD"), DENIED, times=None)
    faulty.inject("GetObject", DENIED, times=None)
    assert faulty.client().delete_file(NAME)
    faulty.assert_holds()


def test_who_may_neither_look_nor_delete_is_denied(faulty: Faulty) -> None:
    faulty.inject(Match(method="HEAD"), DENIED, times=None)
    faulty.inject("DeleteObject", DENIED, times=None)
    with pytest.raises(AccessDeniedError):
        faulty.client().delete_file(NAME)
    faulty.assert_holds(content=CONTENT)


@pytest.mark.parametrize("action", [SLOW_DOWN, DENIED, Refuse(), Answer(500), Answer(400, "ExpiredToken")])
@only_ceph
def test_an_object_that_cannot_be_looked_for_is_not_said_to_be_missing(faulty: Faulty, action: Action) -> None:
    faulty.inject(Match(method="HEAD"), action, times=None)
    with pytest.raises(StorageError):
        faulty.client().file_exists("missing")


@only_ministack
def test_a_listing_that_fails_on_its_second_page_is_an_error(faulty: Faulty) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: faulty.put(b"", f"many/{number}"), range(1001)))
    client = faulty.client()
    second_page = Match(operation="ListObjectsV2", query="continuation-token")
    for action, error in (
        (SLOW_DOWN, StorageUnavailableError),
        (Refuse(), StorageUnavailableError),
        (DENIED, AccessDeniedError),
    ):
        faulty.proxy.clear()
        faulty.inject(second_page, action, times=None)
        with pytest.raises(error):
            list(client.list_files("many/"))
        assert faulty.proxy.unfired == []
    faulty.proxy.clear()
    assert len(list(client.list_files("many/"))) == 1001


def test_a_listing_that_breaks_off_before_its_first_byte_is_not_an_empty_one(faulty: Faulty) -> None:
    faulty.inject("ListObjectsV2", TruncateBody(0))
    client = faulty.client()
    with suppress(StorageError):
        assert VERBS["list"](client) == [client.url(NAME)]


@pytest.mark.parametrize("after", [60, 300])
def test_a_listing_that_breaks_off_is_asked_for_again(faulty: Faulty, after: int) -> None:
    faulty.inject("ListObjectsV2", TruncateBody(after))
    client = faulty.client()
    assert VERBS["list"](client) == [client.url(NAME)]


@pytest.mark.parametrize("after", [0, 60, 300])
def test_a_listing_that_always_breaks_off_is_an_error_and_not_a_shorter_one(faulty: Faulty, after: int) -> None:
    faulty.inject("ListObjectsV2", TruncateBody(after), times=None)
    with pytest.raises(StorageError):
        VERBS["list"](faulty.client())


@pytest.mark.parametrize(
    "page",
    [b"<html><body>Please log in</body></html>", b"<html><p>Please log in</html>", b"{}", b""],
    ids=["xml", "html", "json", "empty"],
)
@only_ministack
def test_an_answer_that_is_no_listing_is_an_error_and_not_an_empty_one(faulty: Faulty, page: bytes) -> None:
    faulty.inject("ListObjectsV2", Answer(200, body=page), times=None)
    with pytest.raises(StorageError):
        VERBS["list"](faulty.client())


@pytest.mark.parametrize("verb", VERBS)
@only_ministack
def test_an_endpoint_that_redirects_everything_is_an_error(faulty: Faulty, verb: str) -> None:
    elsewhere = (("Location", "https://127.0.0.1/login"),)
    faulty.inject(Match(), Answer(301, body=b"<html><body>Moved</body></html>", headers=elsewhere), times=None)
    with pytest.raises(StorageError):
        VERBS[verb](faulty.client())
    assert len(faulty.proxy.requests) < 20


# ---- errors


ACCESS_KEY, SECRET_KEY, TOKEN = "AKIAQ7KD2VEXAMPLEKEY", "zX81mQpL0sEcReTkEyzX81mQpL0sEcReTkEy", "t0kEn4TheSeSsIoN/w=="
CREDENTIALS = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY, "aws_session_token": TOKEN}


@pytest.mark.parametrize(
    "action",
    [SLOW_DOWN, DENIED, Refuse(), Answer(400, "ExpiredToken"), Answer(200, body=b"<oops")],
    ids=["503", "403", "refused", "expired", "no-xml"],
)
@only_ministack
def test_no_error_tells_a_secret(faulty: Faulty, tmp_path: Path, action: Action) -> None:
    client = faulty.client(**CREDENTIALS)
    (tmp_path / "source").write_bytes(CONTENT)
    calls: list[Callable[[], object]] = [
        lambda: list(client.list_files()),
        lambda: client.info(NAME),
        lambda: client.delete_file(NAME),
        lambda: client.download_file(NAME, tmp_path / "target"),
        lambda: client.upload_file(tmp_path / "source", NAME),
        lambda: client.upload_file(tmp_path / "source", NAME, check_conflict=True),
    ]
    faulty.inject(Match(), action, times=None)
    for call in calls:
        with pytest.raises(StorageError) as caught:
            call()
        assert caught.value.provider == "s3"
        told = " ".join(messages(caught.value))
        assert not [secret for secret in (ACCESS_KEY, SECRET_KEY, TOKEN) if secret in told]


@pytest.mark.parametrize("wrong", [{"aws_secret_access_key": SECRET_KEY}, {"aws_access_key_id": ACCESS_KEY}], ids=str)
@only_ceph
def test_wrong_credentials_are_an_error_that_does_not_tell_them(faulty: Faulty, wrong: dict[str, str]) -> None:
    client = faulty.client(**wrong)
    for verb in VERBS.values():
        with pytest.raises(AccessDeniedError) as caught:
            verb(client)
        told = " ".join(messages(caught.value))
        secrets = [faulty.rig.config["aws_access_key_id"], faulty.rig.config["aws_secret_access_key"], *wrong.values()]
        assert not [secret for secret in secrets if secret in told]
