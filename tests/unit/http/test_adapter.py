"""The adapter for SDKs that send by requests."""

from __future__ import annotations

import contextlib
import ssl
from unittest import mock

import pytest
import requests
from requests.adapters import HTTPAdapter
from urllib3.connectionpool import HTTPConnectionPool

from gllm_storage.errors import StorageError
from gllm_storage.http import adapter
from gllm_storage.http.adapter import TLS, DirectAdapter
from tests.servers.hostile import client_of
from tests.unit.s3.http.scripted import OK, ScriptedServer
from tests.waiting import PATIENCE


@pytest.mark.parametrize("green", [False, True], ids=["threads", "greenlets"])
def test_greenlets(green: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct connections send, but not among greenlets: their waits would block or fail there."""
    sent: list[object] = []

    def exchanged(*args: object) -> object:
        sent.append(args[1])
        return original(*args)  # type: ignore[arg-type]  # the arguments of the original

    original = adapter.exchanged
    monkeypatch.setattr(adapter, "exchanged", exchanged)
    monkeypatch.setattr(adapter, "is_green", lambda: green)
    with ScriptedServer(OK) as server, requests.Session() as session:
        direct = DirectAdapter(connect_timeout=PATIENCE, read_timeout=PATIENCE, min_throughput=0, pool_size=1)
        session.mount("http://", direct)
        assert session.put(server.url, data=bytes(2**20)).content == b"ok"
        assert len(server.requests[0][1]) == 2**20
    assert sent == ([] if green else ["PUT"])


STUBS = {
    "session": (requests.Session, "send"),
    "adapter": (HTTPAdapter, "send"),
    "urllib3": (HTTPConnectionPool, "urlopen"),
}


@pytest.mark.parametrize("stub", STUBS)
@pytest.mark.parametrize("cloud", ["gcs", "azure"])
def test_stub_answers(cloud: str, stub: str) -> None:
    """A stub that replaces a part of requests or urllib3 sees the requests to GCS and Azure, and the server none."""
    with ScriptedServer(OK) as server:
        client = client_of(cloud, server.url, max_attempts="1")
        with mock.patch.object(*STUBS[stub], side_effect=requests.ConnectionError) as seen:
            with contextlib.suppress(StorageError):
                client.file_exists("x")
            assert seen.called
        assert server.requests == []


def test_host_name_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name in a certificate is checked with urllib3 1.26, too, whose contexts leave that to its connections."""

    def of_urllib3_1() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    monkeypatch.setattr(adapter, "create_urllib3_context", of_urllib3_1)
    context = TLS(True).context()
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    assert TLS(False).context().verify_mode == ssl.CERT_NONE
