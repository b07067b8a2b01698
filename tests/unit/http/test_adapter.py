"""The adapter for SDKs that send by requests."""

from __future__ import annotations

import pytest
import requests

from gllm_storage.http import adapter
from gllm_storage.http.adapter import DirectAdapter
from tests.unit.s3.http.scripted import OK, ScriptedServer
from tests.waiting import PATIENCE


@pytest.mark.parametrize("green", [False, True], ids=["threads", "greenlets"])
def test_greenlets(green: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct connections send, but not among greenlets: their waits would block or fail there."""
    sent: list[object] = []

    def exchanged(*args: object) -> object:
        sent.append(args[1])
        return original(*args)  # type: ignore[arg-type]

    original = adapter.exchanged
    monkeypatch.setattr(adapter, "exchanged", exchanged)
    monkeypatch.setattr(adapter, "is_green", lambda: green)
    with ScriptedServer(OK) as server, requests.Session() as session:
        direct = DirectAdapter(connect_timeout=PATIENCE, read_timeout=PATIENCE, min_throughput=0, pool_size=1)
        session.mount("http://", direct)
        assert session.put(server.url, data=bytes(2**20)).content == b"ok"
        assert len(server.requests[0][1]) == 2**20
    assert sent == ([] if green else ["PUT"])
