"""Many small objects: each request that is sent again by the normal way has one event."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import StorageUnavailableError
from gllm_storage.http.connecting import Server, connected
from gllm_storage.s3 import small
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.http import client
from tests.unit.s3.http.scripted import EMPTY, KEYS, ScriptedServer, open_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.http.transport import Transport
    from gllm_storage.store.retry import RetryEvent
    from tests.unit.s3.http.scripted import Peer

ATTEMPTS = 3
NAMES = ["a", "b"]
NO_ETAG = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The attempts of the direct client to connect to a server."""
    attempted: list[object] = []

    def count(server: Server, session: Any = None) -> Transport:
        attempted.append(server)
        return connected(server, session)

    monkeypatch.setattr("gllm_storage.http.wire.connected", count)
    return attempted


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that refuses connections. The port stays reserved."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


def filesystem_at(url: str, **options: Any) -> S3FileSystem:
    return S3FileSystem(
        **options,
        endpoint_url=url,
        key=KEYS["aws_access_key_id"],
        secret=KEYS["aws_secret_access_key"],
        client_kwargs={"region_name": "us-east-1"},
        config_kwargs={"s3": {"addressing_style": "path"}, "retries": {"total_max_attempts": ATTEMPTS}},
        skip_instance_cache=True,
    )


def test_refused_connections(refusing: str, connections: list[object], events: list[RetryEvent]) -> None:
    """Each attempt to send an object has an event, except the last one, which raises the error."""
    found = filesystem_at(refusing).cat([f"bucket/{name}" for name in NAMES], on_error="return")
    assert {type(each) for each in found.values()} == {StorageUnavailableError}
    assert len(connections) == len(NAMES) * (ATTEMPTS + 1)
    assert len(events) == len(connections) - len(NAMES)
    small = [each for each in events if each.operation == "read"]
    assert sorted(each.url for each in small) == [f"s3://bucket/{name}" for name in NAMES]
    assert {(each.kind, each.attempt, each.limit, each.wait) for each in small} == {("retry", 1, ATTEMPTS, 0.0)}
    assert all("refused" in each.cause for each in small)


class Slow:
    """A request whose answer takes a while, by a clock of the test."""

    def __init__(self, clock: list[float], seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds

    def answer(self) -> Any:
        """Let the time pass."""
        self._clock[0] += self._seconds


class Waited:
    """A job that counts the requests in progress."""

    def __init__(self, request: Slow, in_progress: list[int]) -> None:
        self._request = request
        self._in_progress = in_progress

    def begin(self) -> Any:
        """Send the request."""
        self._in_progress.append(self._in_progress[-1] + 1)
        return self._request

    def end(self, answer: object) -> int:
        """Take the answer."""
        del answer
        self._in_progress.append(self._in_progress[-1] - 1)
        return 1

    def failed(self, error: Exception) -> None:
        """Not expected."""
        raise error


@pytest.mark.parametrize(("seconds", "most"), [(0.0001, 4), (0.02, 64)], ids=["near", "distant"])
def test_requests_in_progress(seconds: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A near store gets a few requests at a time, a distant one many."""
    clock, in_progress = [0.0], [0]
    monkeypatch.setattr(small, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    assert small._run([Waited(Slow(clock, seconds), in_progress) for _ in range(200)], Stop()) == []
    assert max(in_progress) == most


def test_missing_local_file(refusing: str, connections: list[object], events: list[RetryEvent], tmp_path: Path) -> None:
    """A local file that cannot be read has no event: nothing was sent."""
    paths = [tmp_path / name for name in NAMES]
    with pytest.raises(FileNotFoundError):
        filesystem_at(refusing).put([str(path) for path in paths], [f"bucket/{path.name}" for path in paths])
    assert (connections, events) == ([], [])


def test_unusable_answer(events: list[RetryEvent]) -> None:
    """An upload without an ETag in the answer is sent again, with an event."""
    with ScriptedServer(NO_ETAG, EMPTY) as server:
        filesystem_at(server.url).pipe({f"bucket/{name}": b"x" for name in NAMES})
        sent = [head.split()[1].decode() for head, _ in server.requests]
    assert len(sent) == len(NAMES) + 1
    (event,) = events
    assert (event.kind, event.operation, event.attempt, event.wait) == ("retry", "upload", 1, 0.0)
    assert sent.count(f"/{event.url.removeprefix('s3://')}") == 2
    assert "ETag" in event.cause


def answer_of(head: bytes) -> bytes:
    """The answer to a GET or HEAD request, without a checksum."""
    method, target = head.split()[:2]
    body = CONTENT[target]
    return b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n' % len(body) + (body if method == b"GET" else b"")


def answers(peer: Peer) -> None:
    """Answer each request."""
    peer.send(answer_of(peer.head))


def loses(peer: Peer) -> None:
    """Lose a request that arrived with another one."""
    peer.send(answer_of(peer.head))
    peer._left = b""


def closes(peer: Peer) -> None:
    """Close the connection after each answer."""
    peer.send(answer_of(peer.head))
    peer.close()


def babbles(peer: Peer) -> None:
    """Answer a second request by something else."""
    pair = peer._left
    peer.send(answer_of(peer.head) + (b"HTTP/1.1 nothing\r\n\r\n" if pair else b""))
    if pair:
        peer.close()


def refuses(peer: Peer) -> None:
    """Refuse a second request."""
    pair = peer._left
    peer.send(answer_of(peer.head))
    if pair:
        peer._left = b""
        peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


CONTENT = {b"/bucket/%d" % number: b"%d" % number * 3000 for number in range(30)}


@pytest.mark.parametrize("serve", [answers, loses, closes, babbles, refuses], ids=lambda each: each.__name__)
@pytest.mark.parametrize("to", ["memory", "files"])
def test_pairs(serve: Callable[[Peer], None], to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A HEAD request behind a GET request confirms the object; a server that does not answer it gets another one."""
    monkeypatch.setattr(client, "_TRIAL_SECONDS", 0.1)
    monkeypatch.setattr(small, "IN_PROGRESS", 4)
    names = [name.decode()[1:] for name in CONTENT]
    before = open_sockets()
    with ScriptedServer(serve) as server:
        filesystem = filesystem_at(server.url)
        if to == "memory":
            read = filesystem.cat(names)
            found = [read[name] for name in names]
        else:
            filesystem.get(names, [str(tmp_path / name.rpartition("/")[2]) for name in names])
            found = [(tmp_path / name.rpartition("/")[2]).read_bytes() for name in names]
        assert found == list(CONTENT.values())
        methods = [head.split()[0] for head, _ in server.requests]
        if serve is not closes:  # a request over a connection that the server is closing is sent again
            assert methods.count(b"GET") == len(names)
            assert len(names) <= methods.count(b"HEAD") <= len(names) + 1
        direct: Any = filesystem.connection.client
        (pool,) = direct._pools.values()
        assert pool.takes_pairs is (serve in {answers, refuses})
        if serve is answers:
            assert server.connections <= 4
        direct.close()
    assert open_sockets() <= before


@pytest.mark.parametrize("fsync", [True, False])
def test_existing_targets(fsync: bool, tmp_path: Path) -> None:
    """Targets that exist: permissions are kept, and links are followed, in a list as alone."""
    for name in ("1", "behind"):
        (tmp_path / name).write_bytes(b"previous")
    (tmp_path / "1").chmod(0o640)
    (tmp_path / "2").symlink_to("behind")
    (tmp_path / "3").symlink_to("not-yet")
    names = [name.decode()[1:] for name in CONTENT]
    with ScriptedServer(answers) as server:
        filesystem = filesystem_at(server.url, fsync=fsync)
        filesystem.get(names, [str(tmp_path / name.rpartition("/")[2]) for name in names])
    assert [(tmp_path / name.rpartition("/")[2]).read_bytes() for name in names] == list(CONTENT.values())
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o640
    assert [(tmp_path / name).is_symlink() for name in ("1", "2", "3")] == [False, True, True]
    assert (tmp_path / "behind").read_bytes() == CONTENT[b"/bucket/2"]
    assert (tmp_path / "not-yet").read_bytes() == CONTENT[b"/bucket/3"]
