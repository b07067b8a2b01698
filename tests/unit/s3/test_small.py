"""Many small objects: each request that is sent again by the normal way has one event."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import get_storage_client
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import FolderError, StorageUnavailableError
from gllm_storage.http.connecting import Server, connected
from gllm_storage.http.pool import Exchange
from gllm_storage.s3 import small
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.http import client
from gllm_storage.store import checksums
from tests.unit.s3.http.scripted import EMPTY, KEYS, ScriptedServer, open_sockets
from tests.waiting import PATIENCE

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
    common: Any = SimpleNamespace(unreported={})
    assert small._run([Waited(Slow(clock, seconds), in_progress) for _ in range(200)], common, Stop()) == []
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


def reverses(peer: Peer) -> None:
    """Send the two answers to a pair of requests in the wrong order."""
    first = answer_of(peer.head)
    peer.send(answer_of(peer.read_head()) + first if peer._left else first)


def ends_reversed(peer: Peer) -> None:
    """Send the answers to a pair in the wrong order, and announce the end of the connection in the first one."""
    first = answer_of(peer.head)
    if not peer._left:
        peer.send(first)
        return
    peer.send(closing(answer_of(peer.read_head())) + first)
    peer.close()


def ends(peer: Peer) -> None:
    """Announce the end of the connection in the first answer to a pair, and send both."""
    if not peer._left:
        peer.send(answer_of(peer.head))
        return
    peer.send(closing(answer_of(peer.head)) + answer_of(peer.read_head()))
    peer.close()


def spaces(peer: Peer) -> None:
    """Send bytes between the two answers to a pair."""
    peer.send(answer_of(peer.head) + (b"\r\n" if peer._left else b""))


def repeats(peer: Peer) -> None:
    """Answer the first request of a pair twice."""
    peer.send(answer_of(peer.head) * (2 if peer._left else 1))


def replies(peer: Peer, second: bytes) -> None:
    """Answer the second request of a pair by these bytes."""
    pair = peer._left
    peer.send(answer_of(peer.head))
    if pair:
        peer._left = b""
        peer.send(second)


def without_etag(peer: Peer) -> None:
    """Answer a second request without an ETag."""
    replies(peer, b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n")


def no_content(peer: Peer) -> None:
    """Answer a second request by the status 204 and the headers of the object."""
    replies(peer, head_of(peer.head).replace(b"200 OK", b"204 No Content"))


def not_modified(peer: Peer) -> None:
    """Answer a second request by the status 304 and the headers of the object."""
    replies(peer, head_of(peer.head).replace(b"200 OK", b"304 Not Modified"))


def other_length(peer: Peer) -> None:
    """State another length in the answer to a second request."""
    replies(peer, b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 2999\r\n\r\n')


def closing(answer: bytes) -> bytes:
    """The answer with an announcement that the server closes the connection."""
    return answer.replace(b"ETag", b"Connection: close\r\nETag", 1)


def head_of(head: bytes) -> bytes:
    """The answer to a HEAD request for the object of this request."""
    return answer_of(head.replace(b"GET", b"HEAD", 1))


def later(serve: Callable[[Peer], None]) -> Callable[[Peer], None]:
    """Answer the requests for the first objects, and those for the others by another function."""

    def step(peer: Peer) -> None:
        number = int(peer.head.split()[1].rpartition(b"/")[2])
        (answers if number < _SOUND else serve)(peer)

    step.__name__ = f"later_{serve.__name__}"
    return step


_SOUND = 12
CONTENT = {b"/bucket/%d" % number: b"%d" % number * 3000 for number in range(30)}
GOOD = [answers]
DOUBTFUL = [loses, closes, babbles, reverses, ends_reversed, ends, spaces]
STATING = [refuses, repeats, without_etag, no_content, not_modified, other_length]
"""Servers whose second answer is an answer, but does not confirm the object."""
SERVERS = [*GOOD, *DOUBTFUL, *STATING, *(later(each) for each in (*DOUBTFUL, *STATING))]


@pytest.mark.parametrize("serve", SERVERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("to", ["memory", "files"])
def test_pairs(serve: Callable[[Peer], None], to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A HEAD request behind a GET request confirms the object; after any doubt, both requests are sent again, apart."""
    monkeypatch.setattr(client, "_PAIR_SECONDS", PATIENCE if serve is answers else 0.1)
    monkeypatch.setattr(small, "IN_PROGRESS", 4)
    names = [name.decode()[1:] for name in CONTENT]
    before = open_sockets()
    with ScriptedServer(serve) as server:
        filesystem = filesystem_at(server.url)
        began = time.monotonic()
        if to == "memory":
            read = filesystem.cat(names)
            found = [read[name] for name in names]
        else:
            filesystem.get(names, [str(tmp_path / name.rpartition("/")[2]) for name in names])
            found = [(tmp_path / name.rpartition("/")[2]).read_bytes() for name in names]
        assert found == list(CONTENT.values())
        assert time.monotonic() - began < PATIENCE  # the read timeout, which no pair waits for
        direct: Any = filesystem.connection.client
        (pool,) = direct._pools.values()
        if serve is answers:
            assert [head.split()[0] for head, _ in server.requests].count(b"GET") == len(names)
            assert server.connections <= 4
            assert pool.takes_pairs is True
        if serve in DOUBTFUL:
            assert pool.takes_pairs is False
        direct.close()
    assert open_sockets() <= before


@pytest.fixture
def pairs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request of a call is a pair, as if an answer before it had stated no checksum."""
    monkeypatch.setattr(small._Common, "confirms", lambda self, key: not self.requests.knows(key))


@pytest.mark.usefixtures("pairs_at_once")
def test_crafted_object(tmp_path: Path) -> None:
    """An object that looks like an answer is not taken for one if the answers to a pair are in the wrong order."""
    size = len(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 69\r\n\r\n')
    refusal = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".ljust(size, b"x")

    def serve(peer: Peer) -> None:
        first = stored(peer.head)
        peer.send(stored(peer.read_head()) + first if peer._left else first)

    def stored(head: bytes) -> bytes:
        body = refusal if head.startswith(b"GET") else b""
        return b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: %d\r\n\r\n' % size + body

    with ScriptedServer(serve) as server:
        filesystem_at(server.url).get(["bucket/1", "bucket/2"], [str(tmp_path / "1"), str(tmp_path / "2")])
    assert [(tmp_path / name).read_bytes() for name in ("1", "2")] == [refusal] * 2


@pytest.mark.usefixtures("pairs_at_once")
def test_pairs_of_one_object(tmp_path: Path) -> None:
    """That an object was confirmed in between does not confirm the answers to a pair that was sent before."""
    paths = [tmp_path / str(number) for number in range(12)]
    lock, pairs = threading.Lock(), [0]

    def serve(peer: Peer) -> None:
        with lock:
            pairs[0] += bool(peer._left) and b"/bucket/5" in peer.head
            is_reversed = bool(peer._left) and pairs[0] > 1
        (reverses if is_reversed else answers)(peer)

    with ScriptedServer(serve) as server:
        filesystem = filesystem_at(server.url)
        filesystem.cat(["bucket/1", "bucket/2"])  # the server passes the trial
        filesystem.get(["bucket/5"] * len(paths), [str(path) for path in paths])
    assert {path.read_bytes() for path in paths} == {CONTENT[b"/bucket/5"]}
    assert pairs[0] > 1


@pytest.mark.usefixtures("pairs_at_once")
@pytest.mark.parametrize("first", [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", NO_ETAG], ids=["404", "etag"])
def test_trial_again(first: bytes) -> None:
    """A first answer that decides nothing about pairs leaves it to the next pair."""

    def serve(peer: Peer) -> None:
        target = peer.head.split()[1]
        if target in CONTENT:
            answers(peer)
        else:
            peer.send(EMPTY if target == b"/bucket" else first)

    names = [name.decode()[1:] for name in CONTENT]
    with ScriptedServer(serve) as server:
        filesystem = filesystem_at(server.url)
        filesystem.cat(["bucket/missing", "bucket/missing2"], on_error="return")
        direct: Any = filesystem.connection.client
        (pool,) = direct._pools.values()
        states = [pool.takes_pairs]
        read = filesystem.cat(names)
        states.append(pool.takes_pairs)
        assert [read[name] for name in names] == list(CONTENT.values())
        assert states == [None, True]
        direct.close()


@pytest.mark.usefixtures("pairs_at_once")
@pytest.mark.parametrize("stop", ["refused", "stopped"])
def test_trial_not_sent(stop: str, refusing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair that could not be sent, or was cancelled, decides nothing either."""
    with ScriptedServer(answers) as server:
        filesystem = filesystem_at(server.url if stop == "stopped" else refusing)
        if stop == "stopped":

            def cancelled(*_: object, **__: object) -> Any:
                raise TransferStopped

            monkeypatch.setattr(Exchange, "answer", cancelled)
        with contextlib.suppress(Exception, TransferStopped):
            filesystem.cat(["bucket/1", "bucket/2"], on_error="return")
        direct: Any = filesystem.connection.client
        (pool,) = direct._pools.values()
        assert pool.takes_pairs is None
        direct.close()


def states_checksum(peer: Peer) -> None:
    """State a checksum in the answer."""
    body = CONTENT[peer.head.split()[1]]
    checksum = checksums.encode(checksums.crc64nvme(body)).encode()
    peer.send(answer_of(peer.head).replace(b"ETag", b"x-amz-checksum-crc64nvme: %b\r\nETag" % checksum, 1))


@pytest.mark.parametrize("serve", [answers, loses, states_checksum], ids=lambda each: each.__name__)
def test_descriptors(serve: Callable[[Peer], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that cannot get their names do not stay open until the end of the call."""
    names = [name.decode()[1:] for name in CONTENT]
    paths = [tmp_path / name.rpartition("/")[2] for name in names]
    for path in paths:
        path.symlink_to(f"behind-{path.name}")
    most = [0]
    name = small._Files.name

    def counted(self: small._Files, *arguments: Any) -> bool:
        most[0] = max(most[0], len(self._unnamed))
        return name(self, *arguments)

    monkeypatch.setattr(small._Files, "name", counted)
    monkeypatch.setattr(small, "IN_PROGRESS", 4)
    monkeypatch.setattr(client, "_PAIR_SECONDS", 0.1)
    with ScriptedServer(serve) as server:
        filesystem_at(server.url, fsync=False).get(names, [str(path) for path in paths])
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert 0 < most[0] <= 8


def test_unsent_confirmation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose confirmation cannot be requested directly does not stay open either."""
    names = [name.decode()[1:] for name in CONTENT]
    begin = client.Prepared.begin
    kept: list[int] = []
    write = small._Files.write

    def begin_get(self: client.Prepared, key: str, headers: Any, body: bytes = b"") -> Any:
        return None if self.operation.method == "HEAD" else begin(self, key, headers, body)

    def counted(self: small._Files, *arguments: Any) -> Any:
        kept.append(len(self._unnamed))
        return write(self, *arguments)

    monkeypatch.setattr(client.Prepared, "begin", begin_get)
    monkeypatch.setattr(client.Prepared, "begin_pair", lambda self, key, _: self.begin(key, {}))
    monkeypatch.setattr(small._Files, "write", counted)
    monkeypatch.setattr(small, "IN_PROGRESS", 4)
    with ScriptedServer(answers) as server:
        filesystem_at(server.url).get(names, [str(tmp_path / name.rpartition("/")[2]) for name in names])
    assert len(kept) == len(names)
    assert max(kept) <= 8


def listing_of(sizes: dict[str, int]) -> bytes:
    """A listing of objects of some sizes, all with the ETag of `answer_of`."""
    document = "<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>"
    for key, size in sizes.items():
        document += f"<Contents><Key>{key}</Key><ETag>&quot;e&quot;</ETag><Size>{size}</Size></Contents>"
    document += "</ListBucketResult>"
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(document)}\r\n\r\n{document}".encode()


@pytest.mark.parametrize("cut", [0, 1], ids=["complete", "cut"])
def test_listed_objects(cut: int, tmp_path: Path) -> None:
    """The listing of a folder confirms answers without a checksum: no HEAD request does. A cut answer differs from it."""
    sizes = {name.decode().rpartition("/")[2]: len(content) for name, content in CONTENT.items()}

    def serve(peer: Peer) -> None:
        if b"list-type=2" in peer.head:
            peer.send(listing_of({key: size + cut for key, size in sizes.items()}))
        else:
            answers(peer)

    with ScriptedServer(serve) as server:
        config = {"bucket_name": "bucket", "endpoint_url": server.url, "region_name": "us-east-1", **KEYS}
        with contextlib.closing(get_storage_client("s3", config)) as source:
            if cut:
                with pytest.raises(FolderError, match="changed after the plan was made"):
                    source.download_dir("", tmp_path)
            else:
                assert source.download_dir("", tmp_path).transferred == len(sizes)
        methods = [head.split()[0] for head, _ in server.requests if b"list-type=2" not in head]
    if cut:
        assert list(tmp_path.iterdir()) == []
    else:
        assert {path.name: len(path.read_bytes()) for path in tmp_path.iterdir()} == sizes
        assert methods == [b"GET"] * len(sizes)


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
