"""Requests of GCS and Azure carry the credentials of the client and no others, and reach no other server."""

from __future__ import annotations

import base64
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import ObjectNotFoundError, StorageError
from gllm_storage.azure.connection import connection_of as azure_connection
from gllm_storage.files.source import MemorySource
from gllm_storage.gcs.connection import connection_of as gcs_connection
from tests.servers.hostile import BUCKET, Asked, Hostile, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.store.port import ObjectStore

KEY = base64.b64encode(b"a key").decode()
HOST = "acc.blob.example"
LISTINGS = {
    "azure": b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>',
    "gcs": b'{"kind": "storage#objects"}',
}


def upload(store: ObjectStore) -> object:
    transfer = store.transfer("a", "upload")
    return store.upload(store.request("a", MemorySource(b"content", transfer.details), transfer))


VERBS: dict[str, Callable[[ObjectStore], object]] = {
    "info": lambda store: store.info("a"),
    "read": lambda store: store.read("a", store.transfer("a", "read")),
    "write": upload,
    "delete": lambda store: store.delete("a"),
    "list": lambda store: list(store.list()),
}


def azure(url: str, **credentials: Any) -> ObjectStore:
    return azure_connection({"account_name": "acc", "endpoint_url": url, "max_attempts": "1", **credentials}).store(BUCKET)


def gcs(url: str, **credentials: Any) -> ObjectStore:
    return gcs_connection({"endpoint_url": url, "max_attempts": "1", **credentials}).store(BUCKET)


CASES: dict[str, tuple[Callable[..., ObjectStore], dict[str, Any], str]] = {
    "azure key": (azure, {"account_key": KEY}, "SharedKey acc:"),
    "azure SAS": (azure, {"sas_token": "sv=2023-11-03&sig=a"}, "None"),
    "azure anonymous": (azure, {"anon": True}, "None"),
    "gcs token": (gcs, {"token": "ya29.own"}, "Bearer ya29.own"),
    "gcs anonymous": (gcs, {"token": "anon"}, "None"),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Callable[..., ObjectStore], dict[str, Any], str]:
    """Makes a store; its credentials; the beginning of the header ``Authorization``."""
    return CASES[request.param]


@pytest.fixture(autouse=True)
def _netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file ~/.netrc with a password for each host, and no proxy."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("FETCH_RAW_TOKEN_EXPIRY", "false")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server() -> Iterator[Hostile]:
    """A server without objects, which is also a proxy."""
    with Hostile(answered) as made:
        yield made


def answered(asked: Asked) -> Reply:
    if asked.method == "GET" and asked.query.get("comp") == "list":
        return Reply(body=LISTINGS["azure"], headers={"Content-Type": "application/xml"})
    if asked.method == "GET" and asked.path.endswith("/o"):
        return Reply(body=LISTINGS["gcs"], headers={"Content-Type": "application/json"})
    return Reply(404, headers={"x-ms-error-code": "BlobNotFound"})


def used(case: Any, url: str, verb: str) -> str:
    """Use a verb, which fails, and return the expected beginning of the header ``Authorization``."""
    make, credentials, expected = case
    with contextlib.suppress(StorageError, ObjectNotFoundError):
        VERBS[verb](make(url, **credentials))
    return str(expected)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("way", ["direct", "proxy", "password in URL", "password behind proxy"])
def test_own_credentials(case: Any, way: str, verb: str, server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """No password of ~/.netrc or of a URL replaces the credentials of the client, on any way to the server."""
    url = server.url
    if "proxy" in way:
        monkeypatch.setenv("http_proxy", server.url)
        url = f"http://{HOST}"
    if "password" in way:
        url = url.replace("://", "://me:secret@")
    expected = used(case, url, verb)
    assert server.asked
    sent = [str(asked.headers.get("authorization")) for asked in server.asked]
    assert all(each.startswith(expected) for each in sent), sent


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("way", ["direct", "proxy"])
def test_no_redirect(case: Any, way: str, verb: str, server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect sends neither the request nor the credentials to another server."""
    url = server.url
    if way == "proxy":
        monkeypatch.setenv("http_proxy", server.url)
        url = f"http://{HOST}"
    with Hostile(answered) as other:
        server.answer = lambda _: Reply(307, headers={"Location": f"{other.url}/a"})
        used(case, url, verb)
        assert server.asked
        assert other.asked == []
    assert {asked.headers["host"] for asked in server.asked} == {url.removeprefix("http://")}
