"""Connections of GCS and Azure that the server has closed while they were idle. Those of S3: `tests/unit/s3/http`."""

from __future__ import annotations

import json
import ssl
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gllm_storage.store.retry import subscribe
from tests.servers.hostile import client_of
from tests.unit.s3.http.scripted import ScriptedServer, hang_up, header, reset, vanish
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.s3.http.scripted import Peer

CLOUDS = ("gcs", "azure")
RESOURCE = {"kind": "storage#object", "name": "x", "generation": "1", "size": "1", "crc32c": "qTxfkw=="}
VERBS: dict[str, Callable[[Any, Path], object]] = {
    "info": lambda client, _: client.info("x"),
    "exists": lambda client, _: client.file_exists("x"),
    "upload": lambda client, path: client.upload_file(path, "x"),
    "delete": lambda client, _: client.delete_file("x"),
}


def answer(peer: Peer) -> None:
    """Answer as Google or as Azure, which has an object of one byte."""
    method = peer.head.partition(b" ")[0]
    if header(peer.head, "x-ms-version"):
        status = {b"PUT": "201 Created", b"DELETE": "202 Accepted"}.get(method, "200 OK")
        length = 1 if method == b"HEAD" else 0
        peer.send(f'HTTP/1.1 {status}\r\nETag: "e"\r\nContent-Length: {length}\r\n\r\n'.encode())
        return
    body = json.dumps(RESOURCE)
    peer.send(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's context; the authority's certificate is in ``ca.pem``."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return context


@pytest.mark.parametrize(("scheme", "close"), [("http", hang_up), ("http", reset), ("https", hang_up), ("https", vanish)])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_closed_while_idle(cloud: str, verb: str, scheme: str, close: Callable[[Peer], None], tmp_path: Path) -> None:
    """A request on such a connection is sent again at once, on a new connection and not on another old one."""
    (tmp_path / "a").write_bytes(b"x")
    tls = certificate(tmp_path) if scheme == "https" else None
    trusted = {"ca_bundle": str(tmp_path / "ca.pem")} if tls else {}
    old: set[Peer] = set()
    both = Barrier(2)

    def first(peer: Peer) -> None:
        old.add(peer)
        both.wait(PATIENCE)
        answer(peer)

    def later(peer: Peer) -> None:
        close(peer) if peer in old else answer(peer)

    with ScriptedServer(first, first, later, tls=tls) as server, ThreadPoolExecutor(2) as pool:
        client = client_of(cloud, server.url, **trusted)
        list(pool.map(client.info, ["x", "x"]))
        events: list[Any] = []
        unsubscribe = subscribe(events.append)
        try:
            VERBS[verb](client, tmp_path / "a")
        finally:
            unsubscribe()
        assert [(each.kind, each.wait) for each in events] == [("retry", 0.0)]
        assert server.connections == 3
