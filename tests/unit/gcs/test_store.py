"""Copies and deletes of `GCSStore`, and the versions that paths name."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.auth.credentials import Credentials

from gllm_storage import GCSStorageClient
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.gcs import GCSFileSystem
from gllm_storage.gcs.connection import connection_of
from gllm_storage.gcs.requests import GCSRequests
from gllm_storage.store.retry import RetryEvent, no_waits, subscribe
from tests.unit.gcs.recorder import CONTENT, OBJECT, recording
from tests.unit.s3.http.scripted import ScriptedServer, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.gcs.store import GCSStore
    from tests.unit.gcs.recorder import Recorder

GOOGLE = "http://storage.googleapis.com"
REPLACED = (404, {"error": {"code": 404, "message": "No such object: models/a"}})


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A server that records the requests."""
    with recording() as made, no_waits():
        yield made


def store_of(recorder: Recorder, **options: Any) -> GCSStore:
    return connection_of({"endpoint_url": recorder.url, "token": "anon", **options}).store("models")


def unfinished(token: str) -> tuple[int, dict[str, Any]]:
    return 200, {"kind": "storage#rewriteResponse", "done": False, "rewriteToken": token}


FINISHED = (200, {"kind": "storage#rewriteResponse", "done": True, "resource": OBJECT})


def copy(store: GCSStore, options: dict[str, str] | None = None, stop: Stop | None = None) -> None:
    target = store.connection.store("other")
    store.copy("a", target, "b/c", store.transfer("a", "copy", stop=stop), options)


# ---------------------------------------------------------------------- copies


def test_small_copy(recorder: Recorder) -> None:
    """A copy that the server completes at once is one request, with the options of gcsfs and the key of the target."""
    copy(store_of(recorder, kms_key_name="k", requester_pays="payer"), {"acl": "publicRead", "batch": "ignored"})
    (request,) = recorder.requests
    assert (request.method, request.path) == ("POST", "/storage/v1/b/models/o/a/rewriteTo/b/other/o/b/c")
    assert request.query == {"destinationPredefinedAcl": "publicRead", "destinationKmsKeyName": "k", "userProject": "payer"}
    assert request.body == b""


def test_large_copy(recorder: Recorder) -> None:
    """A copy that takes several requests is pinned to one version of the source."""
    recorder.rewrites += [unfinished("t0"), unfinished("t1"), unfinished("t2"), FINISHED]
    copy(store_of(recorder))
    assert [(each.method, each.query) for each in recorder.requests] == [
        ("POST", {}),
        ("GET", {}),
        ("POST", {"sourceGeneration": "1"}),
        ("POST", {"sourceGeneration": "1", "rewriteToken": "t1"}),
        ("POST", {"sourceGeneration": "1", "rewriteToken": "t2"}),
    ]


def test_source_replaced(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """A source that is replaced during a copy of several requests is copied again, and each restart is one record."""
    recorder.rewrites += [unfinished("t0"), unfinished("t1"), REPLACED, unfinished("t2"), FINISHED]
    with caplog.at_level(logging.INFO, "gllm_storage.retry"):
        copy(store_of(recorder))
    assert [record.__dict__["event"].kind for record in caplog.records] == ["restart"]
    assert recorder.requests[-1].query["rewriteToken"] == "t2"


def test_source_replaced_always(recorder: Recorder) -> None:
    """A source that is replaced during each attempt is a retryable error."""
    recorder.rewrites += [unfinished("t0"), *[REPLACED] * 7]
    with pytest.raises(StorageUnavailableError):
        copy(store_of(recorder))


def test_version_gone(recorder: Recorder) -> None:
    """A copy of a named version never copies another version."""
    recorder.rewrites += [unfinished("t0"), REPLACED]
    with pytest.raises(ObjectNotFoundError):
        copy(store_of(recorder), {"generation": "17"})
    assert {each.query["sourceGeneration"] for each in recorder.requests} == {"17"}


def test_cancelled_copy(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is cancelled between two requests sends no further request."""
    stop, store = Stop(), store_of(recorder)
    recorder.rewrites += [unfinished("t0"), unfinished("t1")]
    sent: list[dict[str, Any]] = []
    rewrite = store.rewrite

    def rewrite_and_cancel(*args: Any) -> dict[str, Any]:
        sent.append(rewrite(*args))
        if len(sent) == 2:
            stop.set()
        return sent[-1]

    monkeypatch.setattr(store, "rewrite", rewrite_and_cancel)
    with pytest.raises(TransferStopped):
        copy(store, stop=stop)
    assert [each.method for each in recorder.requests] == ["POST", "GET", "POST"]


@pytest.mark.parametrize("answer", [(200, {}), (200, {"done": False})], ids=["empty", "no-token"])
def test_nonsense(recorder: Recorder, answer: tuple[int, dict[str, Any]]) -> None:
    """An answer that does not belong to a rewrite does not count as a copy."""
    recorder.rewrites += [answer]
    with pytest.raises(StorageError):
        copy(store_of(recorder))


def test_missing_target_bucket(recorder: Recorder) -> None:
    """If the bucket is missing, the error is BucketNotFoundError."""
    recorder.rewrites += [(404, {"error": {"code": 404, "message": "The specified bucket does not exist."}})]
    with pytest.raises(BucketNotFoundError):
        copy(store_of(recorder))


def test_copy_elsewhere(recorder: Recorder) -> None:
    """A copy to another server is a download and an upload."""
    with recording() as other:
        target, store = store_of(other), store_of(recorder)
        store.copy("a", target, "b", store.transfer("a", "copy"))
        assert {each.method for each in recorder.requests} == {"GET"}
        (upload,) = other.requests
        assert CONTENT in upload.body


# ---------------------------------------------------------------------- tokens


class Numbered(Credentials):
    """Credentials of which each refresh makes another token."""

    made = 0

    def refresh(self, _: Any) -> None:
        self.made += 1
        self.token = f"token-{self.made}"


@pytest.mark.parametrize("proxied", [False, True], ids=["direct", "proxy"])
def test_revoked_token(proxied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused access token is replaced, for this request and for later ones, also in answers through a proxy."""
    found = json.dumps(
        {"kind": "storage#object", "name": "a", "generation": "1", "size": "1", "crc32c": "qTxfkw=="}
    ).encode()
    answer = b"HTTP/1.1 200 OK\r\nCONTENT-TYPE: application/json\r\nCONTENT-LENGTH: %d\r\n\r\n%b" % (len(found), found)
    with ScriptedServer(answer, b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", answer) as server:
        if proxied:
            monkeypatch.setenv("http_proxy", server.url)
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
        make: Any = Numbered  # google-auth publishes no types for it
        options = {"endpoint_url": "http://google.test" if proxied else server.url, "token": make()}
        store = connection_of(options).store("models")
        for _ in range(3):
            assert store.info("a").size == 1
        sent = [header(head, "authorization") for head, _ in server.requests]
    assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2"]


# ---------------------------------------------------------------------- deletes


@pytest.fixture
def google(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """The recorder as Google's server, because emulators do not support batches."""
    monkeypatch.setenv("http_proxy", recorder.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    return recorder


def google_client() -> GCSStorageClient:
    config = {"bucket_name": "models", "endpoint_url": GOOGLE, "anonymous": "true"}
    return GCSStorageClient({**config, "requester_pays": "true", "project": "payer"})


def test_batches(google: Recorder) -> None:
    """One request to Google contains 100 deletes, and each names the billed project."""
    filesystem = google_client().filesystem
    paths = [f"models/ä b/{number}" for number in range(250)]
    google.requests.clear()
    filesystem._delete_objects([("models", path.removeprefix("models/")) for path in paths], Stop())
    assert [(each.method, each.path) for each in google.requests] == [("POST", "/batch/storage/v1")] * 3
    bodies = sorted(each.body.decode() for each in google.requests)
    assert sorted(body.count("DELETE /storage/v1/b/models/o/") for body in bodies) == [50, 100, 100]
    assert all("/o/%C3%A4%20b%2F" in body and "?userProject=payer HTTP/1.1" in body for body in bodies)


def test_batch_with_missing(google: Recorder) -> None:
    """A missing object of a batch is not an error, and the other deletes are not repeated."""
    google.missing |= {"5"}
    store = google_client().store
    store.delete_many([str(number) for number in range(10)], store.transfer("", "delete"))
    assert [each.path for each in google.requests] == ["/batch/storage/v1", "/storage/v1/b/models/o/5"]


def test_batch_with_refused(google: Recorder) -> None:
    """An object of a batch that cannot be deleted is an error with its URL."""
    google.refused |= {"5"}
    store = google_client().store
    with pytest.raises(AccessDeniedError) as caught:
        store.delete_many([str(number) for number in range(10)], store.transfer("", "delete"))
    assert caught.value.url == "gs://models/5"


def test_batch_with_busy(google: Recorder) -> None:
    """A delete of a batch that is refused for a reason that may pass is sent again, and reported."""
    google.busy |= {"5"}
    google.missing |= {"6"}
    store = google_client().store
    events: list[RetryEvent] = []
    unsubscribe = subscribe(events.append)
    store.delete_many([str(number) for number in range(10)], store.transfer("", "delete"))
    unsubscribe()
    assert [each.path.rpartition("/")[2] for each in google.requests] == ["v1", "5", "6"]
    (event,) = events
    assert event == RetryEvent("retry", "delete", "gs://models/5", 1, 5, "refused in a batch (HTTP 503)", 0.0)


def test_deletes_elsewhere(recorder: Recorder) -> None:
    """On other servers, each object is deleted by its own request."""
    store = store_of(recorder)
    store.delete_many(["1", "2"], store.transfer("", "delete"))
    store.delete_many([], store.transfer("", "delete"))
    assert sorted(each.path[-1] for each in recorder.requests) == ["1", "2"]
    assert {each.method for each in recorder.requests} == {"DELETE"}


# ---------------------------------------------------------------------- versions


def aware(recorder: Recorder) -> Any:
    return GCSFileSystem(token="anon", endpoint_url=recorder.url, version_aware=True, skip_instance_cache=True)


VERSIONED: dict[str, Callable[[Any], object]] = {
    "cp_file": lambda filesystem: filesystem.cp_file("models/a#17", "models/b"),
    "copy": lambda filesystem: filesystem.copy("models/a#17", "models/b"),
    "rm_file": lambda filesystem: filesystem.rm_file("models/a#17"),
    "rm": lambda filesystem: filesystem.rm("models/a#17"),
    "mv": lambda filesystem: filesystem.mv("models/a#17", "models/b"),
    "mv_file": lambda filesystem: filesystem.mv_file("models/a#17", "models/b"),
}


@pytest.mark.parametrize("call", VERSIONED)
def test_version_of_path(recorder: Recorder, call: str) -> None:
    """Only the version that the path of a version-aware filesystem names is copied, deleted or moved."""
    VERSIONED[call](aware(recorder))
    changes = [each for each in recorder.requests if each.method != "GET"]
    copied, deleted = {"sourceGeneration": "17"}, {"generation": "17"}
    expected = {"cp_file": [copied], "copy": [copied], "rm_file": [deleted], "rm": [deleted]}
    assert [each.query for each in changes] == expected.get(call, [copied, deleted])
    assert {each.path.removeprefix("/storage/v1/b/models/o/").partition("/")[0] for each in changes} == {"a"}


def downloaded(get: Callable[[str], object], folder: Path) -> bytes:
    get(str(folder / "of-version"))
    return (folder / "of-version").read_bytes()


def opened(filesystem: Any, path: str, **options: Any) -> bytes:
    with filesystem.open(path, **options) as file, pickle.loads(pickle.dumps(file)) as again:  # a pickle of this test
        assert again.read() == file.read()
        file.seek(0)
        found: bytes = file.read()
        return found


READS: dict[str, tuple[Callable[[Any, str, Path], object], object]] = {
    "info": (lambda filesystem, path, _: filesystem.info(path)["generation"], "17"),
    "info_name": (lambda filesystem, path, _: filesystem.info(path)["name"], "models/a"),
    "exists": (lambda filesystem, path, _: filesystem.exists(path), True),
    "isfile": (lambda filesystem, path, _: filesystem.isfile(path), True),
    "isdir": (lambda filesystem, path, _: filesystem.isdir(path), False),
    "size": (lambda filesystem, path, _: filesystem.size(path), 7),
    "sizes": (lambda filesystem, path, _: filesystem.sizes([path]), [7]),
    "checksum": (lambda filesystem, path, _: filesystem.checksum(path) != filesystem.checksum("models/a"), True),
    "open": (lambda filesystem, path, _: opened(filesystem, path), CONTENT),
    "open_blocks": (lambda filesystem, path, _: opened(filesystem, path, cache_type="readahead"), CONTENT),
    "read_text": (lambda filesystem, path, _: filesystem.read_text(path), CONTENT.decode()),
    "read_block": (lambda filesystem, path, _: filesystem.read_block(path, 0, 7), CONTENT),
    "head": (lambda filesystem, path, _: filesystem.head(path, 7), CONTENT),
    "tail": (lambda filesystem, path, _: filesystem.tail(path, 7), CONTENT),
    "cat_file": (lambda filesystem, path, _: filesystem.cat_file(path), CONTENT),
    "cat": (lambda filesystem, path, _: filesystem.cat(path), CONTENT),
    "cat_list": (lambda filesystem, path, _: list(filesystem.cat([path]).values()), [CONTENT]),
    "get_file": (lambda filesystem, path, folder: downloaded(partial(filesystem.get_file, path), folder), CONTENT),
    "get": (lambda filesystem, path, folder: downloaded(partial(filesystem.get, path), folder), CONTENT),
    "get_list": (lambda filesystem, path, folder: downloaded(lambda to: filesystem.get([path], [to]), folder), CONTENT),
}


@pytest.mark.parametrize("path", ["models/a#17", "gs://models/a?generation=17"])
@pytest.mark.parametrize("call", READS)
def test_read_of_version(recorder: Recorder, tmp_path: Path, call: str, path: str) -> None:
    """Each method that reads reads the version that the path of a version-aware filesystem names, and no other."""
    read, expected = READS[call]
    assert read(aware(recorder), path, tmp_path) == expected
    objects = [each.query.get("generation") for each in recorder.requests if "/o/" in each.path]
    assert set(objects) <= ({"17", None, "1"} if call == "checksum" else {"17"})
    assert objects or call == "isdir"


def test_version_argument(recorder: Recorder, tmp_path: Path) -> None:
    """The argument `generation` names a version, without a version-aware filesystem as well."""
    filesystem = GCSFileSystem(token="anon", endpoint_url=recorder.url, skip_instance_cache=True)
    filesystem.info("models/a", generation=17)
    filesystem.cat_file("models/a", generation=17)
    filesystem.get_file("models/a", str(tmp_path / "a"), generation=17)
    with filesystem.open("models/a", generation=17) as file:
        assert file.read() == CONTENT
    assert {each.query.get("generation") for each in recorder.requests} == {"17"}
    with pytest.raises(ValueError, match="contradicts"):
        aware(recorder).info("models/a#17", generation=18)


def test_hash_in_key(recorder: Recorder) -> None:
    """Without a version-aware filesystem, ``#`` is part of the key."""
    filesystem = GCSFileSystem(token="anon", endpoint_url=recorder.url, skip_instance_cache=True)
    filesystem.info("models/a#17")
    with filesystem.open("models/a#17") as file:
        assert file.read() == CONTENT
    assert {each.path.rpartition("/")[2] for each in recorder.requests} == {"a#17"}


def test_ignored_generation(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers with another version than the requested one is an error, and not its content."""
    monkeypatch.setattr(GCSRequests, "ask", lambda *_, **__: {**OBJECT, "name": "a"})
    for name in ("info", "cat_file"):
        with pytest.raises(StorageError, match="generation 1, not 17"):
            getattr(aware(recorder), name)("models/a#17")


def test_version_as_target(recorder: Recorder) -> None:
    """A version cannot be written."""
    with pytest.raises(ValueError, match="names a version"):
        aware(recorder).cp_file("models/a", "models/b#17")
    assert recorder.requests == []


def test_move(recorder: Recorder) -> None:
    """A move is a copy and a delete; a move of an object onto itself keeps the object."""
    filesystem = GCSStorageClient({"bucket_name": "models", "endpoint_url": recorder.url, "anonymous": "true"}).filesystem
    filesystem.mv_file("models/a", "models/b")
    assert [each.method for each in recorder.requests] == ["POST", "DELETE"]
    recorder.requests.clear()
    filesystem.mv_file("models/a", "models/a")
    assert "DELETE" not in [each.method for each in recorder.requests]


def test_one_store(recorder: Recorder) -> None:
    """Concurrent threads get the same store of a bucket."""
    connection = store_of(recorder).connection
    found: set[int] = set()
    threads = [threading.Thread(target=lambda: found.add(id(connection.store("new")))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1
