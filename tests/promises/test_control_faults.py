"""HEAD requests, listings and deletes on every cloud, with a store that is busy, denies access or answers nonsense."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import AccessDeniedError, StorageError, StorageUnavailableError
from gllm_storage.testing.faults import Action, Answer, DropResponse, Fault, Match, Refuse, TruncateBody
from tests.promises.faulty import CLOUDS, CONTENT, MINISTACK_HTTPS, NAME, Cloud, Faulty, Says, messages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient

VERBS: dict[str, Callable[[FsspecStorageClient], object]] = {
    "info": lambda client: client.info(NAME).size,
    "exists": lambda client: client.file_exists(NAME),
    "delete": lambda client: client.delete_file(NAME),
    "list": lambda client: [found.url for found in client.list_files()],
}
PASSING = [
    pytest.param(Says(503), 3, id="3x503"),
    pytest.param(Says(500), 2, id="2x500"),
    pytest.param(Says(429), 2, id="2x429"),
    pytest.param(Refuse(), 2, id="2xrefused"),
    pytest.param(DropResponse(), 1, id="1xlost"),
]
LASTING = [
    pytest.param(Says(503), 503, id="503"),
    pytest.param(Says(500), 500, id="500"),
    pytest.param(Says(504), 504, id="504"),
    pytest.param(Refuse(), None, id="refused"),
]


def steps_of(cloud: Cloud) -> list[tuple[str, str]]:
    """Pairs of a verb and one of the operations that it sends."""
    steps = [("info", cloud.head), ("exists", cloud.head), ("delete", cloud.delete), ("list", cloud.list)]
    return [*steps, ("delete", cloud.head)] if cloud.heads_before_delete else steps


STEPS = [(cloud, verb, step) for cloud in CLOUDS for verb, step in steps_of(cloud)]


def on(steps: list[tuple[Cloud, str, str]]) -> pytest.MarkDecorator:
    """Run a test with each of these clouds, verbs and requests."""
    cases = [pytest.param(*each, id="-".join(map(str, each))) for each in steps]
    return pytest.mark.parametrize(("faulty", "verb", "step"), cases, indirect=["faulty"])


def one_server(steps: list[tuple[Cloud, str, str]]) -> list[tuple[Cloud, str, str]]:
    """Select the steps of one server for each provider: for faults that the proxy answers without the server."""
    servers = {cloud.provider: cloud for cloud in reversed(CLOUDS)}
    return [each for each in steps if each[0] in servers.values()]


@on(STEPS)
@pytest.mark.parametrize(("action", "times"), PASSING)
def test_passing_fault(faulty: Faulty, verb: str, step: str, action: Action | Says, times: int) -> None:
    """The library retries after a temporary fault, and the call succeeds."""
    faulty.inject(step, action, times=times)
    client = faulty.client()
    expected = {"info": len(CONTENT), "exists": True, "delete": True, "list": [client.url(NAME)]}
    assert VERBS[verb](client) == expected[verb]
    assert faulty.rig.keys() == ([] if verb == "delete" else [NAME])


@on([(MINISTACK_HTTPS, verb, step) for verb, step in steps_of(MINISTACK_HTTPS)])
@pytest.mark.parametrize(
    "action", [Refuse(), DropResponse(), DropResponse(reset=True)], ids=["refused", "lost-by-fin", "lost-by-rst"]
)
def test_passing_fault_over_https(faulty: Faulty, verb: str, step: str, action: Action) -> None:
    """The same over TLS, for the connections that break."""
    test_passing_fault(faulty, verb, step, action, times=1)


@on(one_server(STEPS))
@pytest.mark.parametrize(("action", "status"), LASTING)
def test_lasting_fault(faulty: Faulty, verb: str, step: str, action: Action | Says, status: int | None) -> None:
    """A permanent fault raises an error; the verb does not return a result."""
    faulty.inject(step, action, times=None)
    client = faulty.client()
    with pytest.raises(StorageUnavailableError) as caught:
        VERBS[verb](client)
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation, error.status) == (faulty.cloud.provider, verb, status)
    assert error.url == client.url(NAME) if verb != "list" else client.url(NAME).startswith(error.url)
    assert (error.code is None) == (status is None)
    assert error.__cause__ is not None
    faulty.assert_holds(CONTENT)


@on([each for each in STEPS if each[1] != "delete" or each[2] == each[0].delete])
def test_denied(faulty: Faulty, verb: str, step: str) -> None:
    """Denied access raises an error; the verb does not return a result."""
    faulty.inject(step, Says(403), times=None)
    with pytest.raises(AccessDeniedError) as caught:
        VERBS[verb](faulty.client())
    assert (caught.value.operation, caught.value.status) == (verb, 403)
    faulty.assert_holds(CONTENT)


@pytest.mark.parametrize(
    "action",
    [Says(503), Says(500), Says(403), Refuse(), Answer(400, "ExpiredToken")],
    ids=["503", "500", "403", "refused", "400"],
)
def test_missing_is_not_guessed(faulty: Faulty, action: Action | Says) -> None:
    """An object is reported as missing only if the store answers that it is missing."""
    faulty.inject_heads(action)
    with pytest.raises(StorageError):
        faulty.client().file_exists("missing")


PAGE = b"<html><p>Please log in</html>"
OTHER_PAGES = {"json": b"{}", "array": b"[]", "empty": b"", "xml": b"<html><body>Please log in</body></html>"}
NONSENSE = {str(status): Answer(status, body=PAGE) for status in (200, 204, 301, 302, 400, 405)}
NONSENSE |= {f"200-{name}": Answer(200, body=page) for name, page in OTHER_PAGES.items()}
NONSENSE |= {f"{status}-empty": Answer(status, body=b"") for status in (204, 302, 400)}


@pytest.mark.parametrize(
    ("faulty", "verb", "step", "answer"),
    [
        pytest.param(cloud, verb, step, answer, id=f"{cloud}-{verb}-{name}")
        for cloud, verb, step in one_server(STEPS)
        for name, answer in NONSENSE.items()
        # The answer to a delete has no content, and the HEAD request before it only determines the return value.
        if verb != "delete" or (step == cloud.delete and answer.status not in cloud.accepts_delete)
    ],
    indirect=["faulty"],
)
def test_answer_of_no_store(faulty: Faulty, verb: str, step: str, answer: Answer) -> None:
    """An answer from a web server that is not a store raises an error."""
    faulty.inject(step, answer, times=None)
    with pytest.raises(StorageError):
        VERBS[verb](faulty.client())


@pytest.mark.parametrize("after", [0, 60, 300])
def test_broken_listing(faulty: Faulty, after: int) -> None:
    """A listing that is always cut off raises an error and is not returned as a shorter listing."""
    faulty.inject(faulty.cloud.list, TruncateBody(after), times=None)
    with pytest.raises(StorageError):
        VERBS["list"](faulty.client())


@pytest.mark.parametrize("after", [60, 300])
def test_listing_broken_once(faulty: Faulty, after: int) -> None:
    """A listing that is cut off is requested again."""
    faulty.inject(faulty.cloud.list, TruncateBody(after))
    client = faulty.client()
    assert VERBS["list"](client) == [client.url(NAME)]


def test_listing_without_a_byte(faulty: Faulty) -> None:
    """A listing that is cut off before its first byte is not an empty listing."""
    faulty.inject(faulty.cloud.list, TruncateBody(0))
    client = faulty.client()
    with suppress(StorageError):
        assert VERBS["list"](client) == [client.url(NAME)]


@pytest.mark.parametrize(
    "action",
    [Says(503), Says(403), Refuse(), Answer(400, "ExpiredToken"), Answer(200, body=b"<oops")],
    ids=["503", "403", "refused", "expired", "nonsense"],
)
@pytest.mark.parametrize("faulty", [each for each in CLOUDS if each.server != "ceph"], ids=str, indirect=True)
def test_no_secret_in_errors(faulty: Faulty, tmp_path: Path, action: Action | Says) -> None:
    """No error message contains a secret; the id of an upload session is one, too."""
    client = faulty.client(**faulty.cloud.secrets)
    (tmp_path / "source").write_bytes(b"x" * 2_000_000)
    (tmp_path / "small").write_bytes(CONTENT)
    calls: dict[str, Callable[[], object]] = {
        "list": lambda: list(client.list_files()),
        "info": lambda: client.info(NAME),
        "delete": lambda: client.delete_file(NAME),
        "download": lambda: client.download_file(NAME, tmp_path / "target"),
        "upload": lambda: client.upload_file(tmp_path / "small", NAME),
        "upload in parts": lambda: client.upload_file(tmp_path / "source", NAME),
        "create": lambda: client.upload_file(tmp_path / "source", NAME, check_conflict=True),
    }
    assert not [secret for secret in faulty.cloud.secrets.values() if secret in repr(client)]
    if isinstance(action, Answer) and action.status in faulty.cloud.accepts_delete and not faulty.cloud.heads_before_delete:
        del calls["delete"]  # this delete succeeds
    faulty.proxy.inject(Fault(Match(), faulty.cloud.action(action), times=None))
    for call in calls.values():
        with pytest.raises(StorageError) as caught:
            call()
        assert caught.value.provider == faulty.cloud.provider
        told = " ".join(messages(caught.value))
        assert not [secret for secret in faulty.cloud.secrets.values() if secret in told]
        assert "upload_id=" not in told or "upload_id=***" in told
