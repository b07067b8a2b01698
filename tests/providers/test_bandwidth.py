"""The option `bandwidth` of the methods for folders, on every provider.

A busy machine makes transfers slower and never faster, so the tests compare with the shortest possible times only.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import socketserver
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import pytest

from gllm_storage import storage_client_from_url
from gllm_storage.concurrency.bandwidth import BURST_SECONDS, Bandwidth
from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.filesystem.foreign import _Told
from gllm_storage.folders import RemoteFolder
from gllm_storage.folders.batches import Here
from gllm_storage.store.transfer import Progress
from tests.rig import server_rig
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

SIZE = 7 * 2**18
RATE = 3 * 2**20
HEADS = 2**16
"""More than the heads of all requests of a test."""
STORES = [("ministack", "auto"), ("ministack", "boto3"), ("gcs-fake", ""), ("azurite", "")]
ON_STORES = pytest.mark.parametrize(("store", "engine"), STORES)


@pytest.fixture(autouse=True)
def _own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with two files of `SIZE` bytes together."""
    return filled(tmp_path / "source", SIZE)


def filled(folder: Path, size: int) -> Path:
    """Make a folder with two files of so many bytes together."""
    folder.mkdir()
    (folder / "large.bin").write_bytes(os.urandom(size * 2 // 3))
    (folder / "small.bin").write_bytes(os.urandom(size - size * 2 // 3))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}


@contextlib.contextmanager
def at_least(seconds: float) -> Iterator[None]:
    """Check that the block takes so many seconds, but for the burst."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began >= seconds - BURST_SECONDS


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to a server, and notes when those for the server arrive.

    Args:
        server: The URL of the server.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), _Relayed)
        parts = urlsplit(server)
        self.server = str(parts.hostname), parts.port
        self.url = parts._replace(netloc=f"127.0.0.1:{self.server_address[1]}").geturl()
        self.lock = threading.Lock()
        self.total = 0
        self.arrivals: list[tuple[float, int]] = []

    def note(self, count: int) -> None:
        """Count bytes for the server."""
        with self.lock:
            self.total += count
            self.arrivals.append((time.monotonic(), self.total))


class _Relayed(socketserver.BaseRequestHandler):
    server: Any
    _SIZE: ClassVar[int] = 2**16

    def handle(self) -> None:
        with socket.create_connection(self.server.server) as upstream:
            threading.Thread(target=self._answer, args=[upstream], daemon=True).start()
            with contextlib.suppress(OSError):
                while data := self.request.recv(self._SIZE):
                    self.server.note(len(data))
                    upstream.sendall(data)

    def _answer(self, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(self._SIZE):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def relayed(server: str) -> Iterator[Relay]:
    """A relay to a server."""
    with Relay(server) as relay:
        threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield relay
        finally:
            relay.shutdown()


def client_of(
    store: str, engine: str, servers: Servers, endpoint_url: str | None = None, **config: str
) -> FsspecStorageClient:
    """A client of a store, perhaps through a relay."""
    rig = server_rig(store, servers.get(store), endpoint_url)
    return rig.client(**({"engine": engine} if engine else {}), **config)


@ON_STORES
def test_stores(store: str, engine: str, servers: Servers, folder: Path, tmp_path: Path) -> None:
    """Files go up and down at the given rate; at no time have more bytes left than the rate permits since the first one."""
    with relayed(servers.get(store).endpoint_url) as relay:
        client = client_of(store, engine, servers, relay.url)
        with at_least(SIZE / RATE):
            assert client.upload_dir(folder, "v1", bandwidth=RATE).transferred == 2
        assert relay.total >= SIZE
        began = relay.arrivals[0][0]
        assert max(total - RATE * (at - began + BURST_SECONDS) for at, total in relay.arrivals) <= HEADS
        with at_least(SIZE / RATE):
            client.download_dir("v1", tmp_path / "copy", bandwidth=RATE)
    assert contents(tmp_path / "copy") == contents(folder)


@ON_STORES
def test_not_slow(store: str, engine: str, servers: Servers, tmp_path: Path) -> None:
    """Waits for the bandwidth do not count as those for a slow server."""
    client = client_of(store, engine, servers, min_throughput="10MiB", read_timeout="250ms")
    small = filled(tmp_path / "small", 3 * 2**14)
    client.upload_dir(small, "v1")
    with at_least(3 / 8):
        client.download_dir("v1", tmp_path / "copy", bandwidth=2**17)
    assert contents(tmp_path / "copy") == contents(small)


@ON_STORES
def test_cancel(store: str, engine: str, servers: Servers, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that waits for its bandwidth ends at once when it is cancelled, and stores nothing."""
    client, stop, waits = client_of(store, engine, servers), Stop(), threading.Event()
    raised: list[BaseException] = []
    wait = Stop.wait

    def noted_wait(self: Stop, seconds: float) -> None:
        waits.set()
        wait(self, seconds)

    def upload() -> None:
        try:
            with stopped_by(stop):
                client.upload_dir(folder, "v1", bandwidth=0.001)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    monkeypatch.setattr(Stop, "wait", noted_wait)
    thread = threading.Thread(target=upload, daemon=True)
    thread.start()
    assert waits.wait(PATIENCE)
    stop.set()
    thread.join(PATIENCE)
    assert [type(each) for each in raised] == [TransferStopped]
    assert list(client.list_files()) == []


@pytest.mark.parametrize("url", ["memory://bandwidth/{}", "file://{}", "local://{}"])
def test_this_machine(url: str, tmp_path: Path) -> None:
    """Stores on this machine, and filesystems of fsspec, have the limit as well."""
    size, rate = 2**18, 2**20
    folder = filled(tmp_path / "source", size)
    made: Any = storage_client_from_url(url.format(tmp_path / "store"))
    client: FsspecStorageClient = made
    with at_least(size / rate):
        client.upload_dir(folder, "v1", bandwidth=rate)
    with at_least(size / rate):
        client.download_dir("v1", tmp_path / "copy", bandwidth=rate)
    assert contents(tmp_path / "copy") == contents(folder)


def test_reports() -> None:
    """A filesystem of fsspec waits for each byte once: for those that it reports in the thread of the call, then the rest.

    Reports in another thread, such as that of fsspec's loop, wait for nothing.
    """
    grants: list[int] = []
    limit: Any = type("Recorded", (), {"take": lambda _, count: grants.append(count)})()
    with stopped_by(Stop(bandwidth=limit)):
        told = _Told(Progress(), 100)
        told.relative_update(60)
        told.relative_update(60)
        told.settle()
        elsewhere = _Told(Progress(), 100)
        with ThreadPoolExecutor(1) as other:
            other.submit(elsewhere.relative_update, 60).result()
        assert grants == [60, 40, 0]
        elsewhere.settle()
    assert grants == [60, 40, 0, 100]


def test_threads(tmp_path: Path) -> None:
    """The threads of an executor share one limit; other workers are refused before anything moves."""
    size, rate = 2**18, 2**20
    folder = filled(tmp_path / "source", size)
    made: Any = storage_client_from_url(f"file://{tmp_path / 'store'}")
    client: FsspecStorageClient = made
    with ProcessPoolExecutor(1) as processes, pytest.raises(ValueError, match="workers in other processes"):
        client.upload_dir(folder, "v1", bandwidth=rate, executor=processes)
    assert list(client.list_files()) == []
    with ThreadPoolExecutor(2) as threads, at_least(size / rate):
        assert client.upload_dir(folder, "v1", bandwidth=rate, executor=threads).transferred == 2
    plan = client.sync_dir(folder, client.url("v2"), dry_run=True).plan
    with at_least(size / rate):
        client.apply_plan(plan, bandwidth=rate)


def test_pickle() -> None:
    """A batch with a limit does not leave the interpreter: its copy would have no limit."""
    mover: Any = type("Limited", (), {"stop": Stop(bandwidth=Bandwidth(1))})
    with pytest.raises(ValueError, match="bandwidth"):
        pickle.dumps(Here(mover))


@pytest.mark.parametrize("bandwidth", [0, -1, float("nan"), float("inf"), True, "10M", 10**400])
def test_wrong_values(bandwidth: Any, tmp_path: Path) -> None:
    """The limit is a positive number."""
    client = storage_client_from_url("memory://bandwidth")
    with pytest.raises(ValueError, match=r"bandwidth=.*positive number"):
        client.upload_dir(tmp_path, "v1", bandwidth=bandwidth)
    with pytest.raises(ValueError, match=r"bandwidth=.*positive number"):
        client.copy_dir("v1", "v2", bandwidth=bandwidth)
    with pytest.raises(TypeError, match="unknown options: bandwidth"):
        client.delete_dir("v1", bandwidth=1)  # type: ignore[call-arg]  # the mistake


def test_copies(servers: Servers, tmp_path: Path) -> None:
    """A copy on the server moves no bytes here, and is not limited; one between two stores is, in both directions."""
    client = client_of("ministack", "auto", servers)
    client.upload_dir(filled(tmp_path / "source", 2**16), "v1")
    assert client.copy_dir("v1", "v2", bandwidth=2**10).transferred == 2  # 64 s, if it was limited
    target: Any = storage_client_from_url(f"file://{tmp_path / 'store'}")
    other = client_of("gcs-fake", "", servers)
    with at_least(2**17 / 2**18):
        client.sync_dir(client.url("v1"), RemoteFolder(other, "v3"), bandwidth=2**18)
    with at_least(2**16 / 2**18):
        other.sync_dir(RemoteFolder(other, "v3"), RemoteFolder(target, "v3"), bandwidth=2**18)


def test_grants() -> None:
    """Threads together are granted no more than the rate permits since the first call, nor much after a pause."""
    rate, count = 2**20, 2**13
    bandwidth = Bandwidth(rate)
    time.sleep(2 * BURST_SECONDS)
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: bandwidth.take(count), range(64)))
    assert 64 * count <= rate * (time.monotonic() - began + BURST_SECONDS)


@pytest.mark.parametrize(("rate", "piece"), [(2**30, 2**16), (2**20, 2**20 // 20), (1, 1)])
def test_pieces(rate: float, piece: int) -> None:
    """Pieces are those of 50 ms, at most 64 KiB."""
    bandwidth = Bandwidth(rate)
    assert bandwidth.piece == piece
    assert b"".join(Bandwidth(2**40).paced([b"ab", memoryview(b"c" * 2**17)])) == b"ab" + b"c" * 2**17
