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
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem

from gllm_storage import FsspecStorageClient, storage_client_from_url
from gllm_storage.cli.app import cli
from gllm_storage.concurrency.bandwidth import BURST_SECONDS, Bandwidth
from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.filesystem.foreign import _Told
from gllm_storage.folders import RemoteFolder
from gllm_storage.folders.batches import Here
from gllm_storage.store.transfer import Progress
from tests.conftest import make_rig
from tests.rig import server_rig
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
def grants(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of bytes that were granted, in order."""
    found: list[int] = []
    take = Bandwidth.take

    def noted_take(self: Bandwidth, count: int) -> None:
        found.append(count)
        take(self, count)

    monkeypatch.setattr(Bandwidth, "take", noted_take)
    return found


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
def test_stores(store: str, engine: str, servers: Servers, tmp_path: Path, grants: list[int]) -> None:
    """Files go up and down at the given rate, and each byte waits once.

    At no time have more bytes left than the rate permits since the first one.
    """
    folder = filled(tmp_path / "source", SIZE)
    with relayed(servers.get(store).endpoint_url) as relay:
        client = client_of(store, engine, servers, relay.url)
        with at_least(SIZE / RATE):
            assert client.upload_dir(folder, "v1", bandwidth=RATE).transferred == 2
        assert SIZE <= sum(grants) <= SIZE + HEADS
        assert relay.total >= SIZE
        grants.clear()
        began = relay.arrivals[0][0]
        assert max(total - RATE * (at - began + BURST_SECONDS) for at, total in relay.arrivals) <= HEADS
        with at_least(SIZE / RATE):
            client.download_dir("v1", tmp_path / "copy", bandwidth=RATE)
        assert SIZE <= sum(grants) <= SIZE + HEADS
    assert contents(tmp_path / "copy") == contents(folder)


@ON_STORES
def test_parts(store: str, engine: str, servers: Servers, tmp_path: Path, grants: list[int]) -> None:
    """Files that move in parts and ranges, in several threads, have the limit as well."""
    size = 9 * 2**20
    client = client_of(store, engine, servers, multipart_threshold="5MiB", part_size="5MiB")
    client.upload_dir(filled(tmp_path / "source", size), "v1", bandwidth=2**30)
    assert sum(grants) >= size  # more where a server refuses a checksum header, so that a part is sent again
    grants.clear()
    client.download_dir("v1", tmp_path / "copy", bandwidth=2**30)
    assert sum(grants) >= size


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
def test_cancel(store: str, engine: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transfer that waits for its bandwidth ends at once when it is cancelled, and stores nothing."""
    client, stop, waits = client_of(store, engine, servers), Stop(), threading.Event()
    raised: list[BaseException] = []
    folder = filled(tmp_path / "source", SIZE)
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


@pytest.mark.parametrize("provider", ["memory", "file", "fsspec"])
def test_this_machine(provider: str, tmp_path: Path, grants: list[int], request: pytest.FixtureRequest) -> None:
    """Stores on this machine, and filesystems of fsspec, have the limit as well."""
    size, rate = 2**17, 2**20
    folder = filled(tmp_path / "source", size)
    if provider == "fsspec":
        client = FsspecStorageClient({"url": f"memory://foreign{tmp_path}"})
        request.addfinalizer(MemoryFileSystem.store.clear)
    else:
        client = make_rig(provider, request).client()
    with at_least(size / rate):
        client.upload_dir(folder, "v1", bandwidth=rate)
    assert sum(grants) == size
    with at_least(size / rate):
        client.download_dir("v1", tmp_path / "copy", bandwidth=rate)
    assert sum(grants) == 2 * size
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


@pytest.mark.parametrize(
    ("command", "granted"),
    [
        (["sync", "--bwlimit", "100k"], 2**14),
        (["cp", "-r", "--bwlimit", "0.1M"], 2**14),
        (["mv", "-r", "--bwlimit", "102400B"], 0),  # within the store
        (["cp", "-r", "--bwlimit", "off"], 0),
        (["sync", "--bwlimit", "0"], 0),
    ],
)
def test_commands(command: list[str], granted: int, tmp_path: Path, grants: list[int]) -> None:
    """The option `--bwlimit` of the commands limits the transfers of folders."""
    folder = filled(tmp_path / "source", 2**14)
    result = CliRunner().invoke(cli, [*command, str(folder), str(tmp_path / "copy")])
    assert result.exit_code == 0, result.output
    assert sum(grants) == granted
    assert len(contents(tmp_path / "copy")) == 2


@pytest.mark.parametrize("text", ["1:2", "08:00,512k", "10MB", "-1", "", "1e3"])
def test_wrong_rates(text: str, tmp_path: Path) -> None:
    """Other rates, such as rclone's timetables, are refused; so is a limit on standard output."""
    result = CliRunner().invoke(cli, ["sync", f"--bwlimit={text}", str(tmp_path), str(tmp_path / "copy")])
    assert result.exit_code == 2
    assert "is not a rate" in result.output
    result = CliRunner().invoke(cli, ["cp", "--bwlimit", "1M", str(tmp_path / "a"), "-"])
    assert result.exit_code == 2
    assert "standard output" in result.output


def test_pickle() -> None:
    """A batch with a limit does not leave the interpreter: its copy would have no limit."""
    mover: Any = type("Limited", (), {"stop": Stop(bandwidth=Bandwidth(1))})
    with pytest.raises(ValueError, match="bandwidth"):
        pickle.dumps(Here(mover))


@pytest.mark.parametrize("bandwidth", [0, -1, float("nan"), float("inf"), True, "10M", pytest.param(10**400, id="large")])
def test_wrong_values(bandwidth: Any, tmp_path: Path) -> None:
    """The limit is a positive number."""
    client = storage_client_from_url("memory://bandwidth")
    with pytest.raises(ValueError, match=r"bandwidth=.*positive number"):
        client.upload_dir(tmp_path, "v1", bandwidth=bandwidth)
    with pytest.raises(ValueError, match=r"bandwidth=.*positive number"):
        client.copy_dir("v1", "v2", bandwidth=bandwidth)
    with pytest.raises(TypeError, match="unknown options: bandwidth"):
        client.delete_dir("v1", bandwidth=1)  # type: ignore[call-arg]  # the mistake


def test_copies(servers: Servers, tmp_path: Path, grants: list[int]) -> None:
    """A copy on the server moves no bytes here, and is not limited; one between two stores is, in both directions."""
    client = client_of("ministack", "auto", servers)
    client.upload_dir(filled(tmp_path / "source", 2**16), "v1")
    assert client.copy_dir("v1", "v2", bandwidth=2**20).transferred == 2
    assert sum(grants) < 2**15  # of listings
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
