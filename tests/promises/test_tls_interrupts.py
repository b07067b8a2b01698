"""Ctrl-C while a transfer over https waits: for an answer, within a record of a body, or to send."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.promises.faulty import certificate
from tests.rig import BUCKET, MIB
from tests.servers.records import RecordLayer
from tests.unit.s3.http.scripted import KEYS, Peer, ScriptedServer
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from pathlib import Path

BEFORE = b"before"
SIZE = 32 * MIB
"""More than the buffers of the loopback device hold."""

pytestmark = [pytest.mark.hostile, pytest.mark.slow]


class Stalling:
    """A server that holds a transfer in its middle.

    Attributes:
        holds: Set when the transfer waits.
        received: Bytes of the body of a write that arrived, all of which are read after the end of the client.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.holds = threading.Event()
        self.ended = threading.Event()
        self.received = 0
        self.drained = threading.Event()

    def __call__(self, peer: Peer) -> None:
        sock: Any = peer.socket
        if self._where == "write" and not peer.head.startswith(b"PUT"):
            is_key = b"/x " in peer.head
            peer.send(b"HTTP/1.1 %d Answer\r\nContent-Length: 0\r\n\r\n" % (404 if is_key else 200))
            return
        while self._where == "write" and self.received < MIB:
            self.received += len(sock.recv(2**16))
        if self._where == "body":
            head = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n' % SIZE
            sock.raw.sendall(sock.sealed(head + bytes(100_000))[:-20])  # within a record
        self.holds.set()
        self.ended.wait(PATIENCE)
        with contextlib.suppress(OSError):
            while data := sock.recv(2**16):
                self.received += len(data)
        self.drained.set()


@pytest.mark.parametrize(
    ("action", "where"), [("download", "head"), ("download", "body"), ("upload", "write"), ("stream", "write")]
)
def test_ctrl_c(action: str, where: str, tmp_path: Path) -> None:
    """The program ends at once, the local file is unchanged, and the server never gets the complete request."""
    local = tmp_path / "local"
    local.write_bytes(BEFORE if action == "download" else bytes(SIZE))
    server_side = Stalling(where)
    layer: Any = RecordLayer(certificate())
    config = {
        **KEYS,
        "bucket_name": BUCKET,
        "region_name": "us-east-1",
        "ca_bundle": certificate().authority,
        "multipart_threshold": "1GiB",
        "conditional_writes": "enforced",
        "read_timeout": "600s",
    }
    with ScriptedServer(server_side, tls=layer, reads_bodies=False) as server:
        job = {
            "provider": "s3",
            "config": {**config, "endpoint_url": server.url},
            "action": action,
            "local": str(local),
            "remote": "x",
            "stop_seconds": 4.0,
        }
        command = [sys.executable, "-m", "tests.scripts.transfer", json.dumps(job)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
            try:
                eventually(lambda: child.poll() is not None or server_side.holds.is_set())
                child.send_signal(signal.SIGINT)
                _, errors = child.communicate(timeout=PATIENCE / 2)
            finally:
                child.kill()
        assert child.returncode == -signal.SIGINT, errors
        server_side.ended.set()
        assert server_side.drained.wait(PATIENCE)
        assert server_side.received < SIZE
    assert [path.name for path in tmp_path.iterdir()] == ["local"]
    assert local.read_bytes() == (BEFORE if action == "download" else bytes(SIZE))
