"""Messages that name the cause and the setting, in place of "check the credentials" and "repeat the call"."""

from __future__ import annotations

import contextlib
import email.utils
import ssl
import time
from typing import TYPE_CHECKING

import pytest
import trustme

from gllm_storage import AccessDeniedError, S3StorageClient, StorageError, StorageUnavailableError
from gllm_storage.errors import Remedy
from gllm_storage.testing import no_waits
from tests.servers.hostile import CLOUDS, Asked, Hostile, Reply, client_of
from tests.unit.s3.http.scripted import OK, ScriptedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.fsspec_client import FsspecStorageClient


@pytest.fixture(scope="module")
def desks() -> Iterator[dict[str, tuple[Hostile, FsspecStorageClient]]]:
    """A server and a client of each cloud."""
    with no_waits(), contextlib.ExitStack() as stack:
        found = {}
        for cloud in CLOUDS:
            server = stack.enter_context(Hostile(lambda _: Reply(404)))
            found[cloud] = server, client_of(cloud, server.url)
        yield found


@pytest.fixture(params=CLOUDS)
def failure(
    request: pytest.FixtureRequest, desks: dict[str, tuple[Hostile, FsspecStorageClient]]
) -> Callable[[Reply], StorageError]:
    """The error of a listing, for an answer."""
    server, client = desks[request.param]

    def fail(reply: Reply) -> StorageError:
        server.answer = lambda _: reply
        with pytest.raises(StorageError) as caught:
            list(client.list_files())
        return caught.value

    return fail


@pytest.mark.parametrize(("hours", "side"), [(5, "ahead of"), (-5, "behind")])
def test_clock(failure: Callable[[Reply], StorageError], hours: int, side: str) -> None:
    """A refusal by a store with another time tells how far the clock is off."""
    theirs = email.utils.formatdate(time.time() - hours * 3600, usegmt=True)
    error = failure(Reply(403, b"", {"Date": theirs}))
    assert isinstance(error, AccessDeniedError)
    assert error.remedy is Remedy.SET_CLOCK
    assert f"5 hours {side} the store's" in str(error)


def test_redirect(failure: Callable[[Reply], StorageError]) -> None:
    """A redirect names its target."""
    error = failure(Reply(301, b"", {"Location": "https://other.example.com/x"}))
    assert error.remedy is Remedy.FOLLOW_REDIRECT
    assert "https://other.example.com/x" in str(error)
    assert not error.retryable


@pytest.mark.parametrize("engine", ["direct", "boto3"])
def test_region(engine: str, desks: dict[str, tuple[Hostile, FsspecStorageClient]]) -> None:
    """A wrong region names the right one."""
    server, client = desks[engine]
    text = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-9'"
    for document in (f"<Message>{text}</Message>", "<Message>no</Message><Region>eu-west-9</Region>"):
        body = f"<Error><Code>AuthorizationHeaderMalformed</Code>{document}</Error>".encode()
        server.answer = lambda _, body=body: Reply(400, body)  # type: ignore[misc]  # mypy does not see the default of a lambda
        for call in (lambda: list(client.list_files()), lambda: client.info("a")):
            with pytest.raises(StorageError, match="region of the bucket is 'eu-west-9'") as caught:
                call()
            assert caught.value.remedy is Remedy.SET_REGION


@pytest.mark.parametrize("cloud", CLOUDS)
def test_certificate(cloud: str) -> None:
    """A certificate of an unknown authority names `ca_bundle`, at once."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with ScriptedServer(OK, tls=context) as server:
        with pytest.raises(StorageError, match=r"certificate of the server is not trusted.*ca_bundle") as caught:
            client_of(cloud, server.url, max_attempts="9").info("a")
        assert server.connections == 1
    assert not isinstance(caught.value, StorageUnavailableError)


def test_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """A profile that does not exist: the message names those that do."""
    file = f"{tmp_path}/config"
    with open(file, "w", encoding="utf-8") as written:
        written.write("[profile research]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", file)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{tmp_path}/none")
    with pytest.raises(AccessDeniedError, match="'research'") as caught:
        S3StorageClient({"bucket_name": "models", "profile_name": "reserch"}).file_exists("a")
    assert caught.value.remedy is Remedy.CHECK_PROFILE


@pytest.mark.parametrize("path", ["v3/*.bin", "v3/part-?", "v3/[ab]"])
def test_wildcard(desks: dict[str, tuple[Hostile, FsspecStorageClient]], path: str) -> None:
    """A missing object whose path has a wildcard: the error says that paths have none."""
    server, client = desks["direct"]

    def answer(asked: Asked) -> Reply:
        return Reply(200 if asked.path.rstrip("/") == "/bucket" else 404)

    server.answer = answer
    with pytest.raises(FileNotFoundError, match="no wildcards"):
        client.info(path)
