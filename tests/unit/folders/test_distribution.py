"""`executor=`: batches on threads, processes and engines that lose work."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import shutil
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import StorageError, get_storage_client, storage_client_from_url
from gllm_storage.errors import FolderError, Remedy
from gllm_storage.filesystem.foreign import ForeignStore
from gllm_storage.folders import RemoteFolder, compare, distribution
from gllm_storage.folders.batches import Moved, run_batch
from gllm_storage.local.store import LocalStore
from tests.scripts.unimportable import hide
from tests.unit.folders.conftest import settle, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.store.port import UploadRequest

FILES = 200
BATCH = 20
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distribution, "BATCH_FILES", BATCH)


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    """Two processes."""
    with ProcessPoolExecutor(2, SPAWN) as made:
        yield made


@pytest.fixture
def disk(tmp_path: Path) -> FsspecStorageClient:
    """A client of a folder, which all processes share."""
    made: Any = storage_client_from_url(f"file://{tmp_path}/store")
    found: FsspecStorageClient = made
    return found


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A local folder with many files."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"{number:03}").write_bytes(b"%d" % number)
    return folder


class Recording(Executor):
    """Runs calls at once, as another process would: what it receives and returns is pickled.

    Args:
        after: Called with the number of the batch after it has run; an exception of it is the outcome.
    """

    def __init__(self, after: Callable[[int], object] = id) -> None:
        self.batches: list[bytes] = []
        self._after = after

    def submit(self, fn: Any, /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        call = pickle.dumps((fn, args))
        try:
            function, given = pickle.loads(call)
            result = pickle.dumps(function(*given))
            if fn is run_batch:
                self.batches.append(call)
                self._after(len(self.batches) - 1)
            future.set_result(pickle.loads(result))
        except Exception as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future


def die_first(number: int) -> None:
    """Let the first worker die after its work."""
    if number == 0:
        raise BrokenExecutor("the worker died")


def die(number: int) -> None:
    """Let every worker die after its work."""
    raise BrokenExecutor(f"the worker of batch {number} died")


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of all uploads to a disk, in this process."""
    upload, found = LocalStore.upload, list[str]()

    def counting(self: LocalStore, request: UploadRequest) -> Any:
        found.append(request.key)
        return upload(self, request)

    monkeypatch.setattr(LocalStore, "upload", counting)
    return found


def test_threads(client: FsspecStorageClient, many: Path, tmp_path: Path) -> None:
    """On threads the client itself is used; so a store in memory works, in both directions and for copies."""
    moved: list[int] = []
    with ThreadPoolExecutor(2) as executor:
        up = client.sync_dir(many, client.url("v1"), executor=executor, callback=moved.append)
        assert (up.transferred, sum(moved)) == (FILES, sum(len(str(number)) for number in range(FILES)))
        assert client.copy_dir("v1", "v2", executor=executor).transferred == FILES
        assert client.download_dir("v2", tmp_path / "copy", executor=executor).transferred == FILES
        assert client.sync_dir(many, client.url("v1"), executor=executor).transferred == 0
    assert client.check_dir(tmp_path / "copy", client.url("v1")).is_empty


def test_processes(disk: FsspecStorageClient, many: Path, tmp_path: Path, pool: Executor) -> None:
    """On processes every file arrives; a second run reads nothing, because the index has what the workers learned."""
    moved: list[int] = []
    settle(many / f"{FILES - 1:03}")
    up = disk.sync_dir(many, disk.url("v1"), executor=pool, callback=moved.append)
    assert (up.transferred, sum(moved)) == (FILES, sum(len(str(number)) for number in range(FILES)))
    assert {each.name: each.read_bytes() for each in (tmp_path / "store/v1").iterdir()} == {
        f"{number:03}": b"%d" % number for number in range(FILES)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "open_source", lambda *_: pytest.fail("a file was read"))
        assert disk.sync_dir(many, disk.url("v1")).transferred == 0


def test_directions(disk: FsspecStorageClient, local: Path, tmp_path: Path, pool: Executor) -> None:
    """Downloads, copies, syncs between stores and plans run on processes."""
    assert disk.upload_dir(local, "v1", executor=pool).transferred == 3
    assert disk.copy_dir("v1", "v2", executor=pool).transferred == 3
    assert disk.download_dir("v2", tmp_path / "copy", executor=pool).transferred == 3
    other: Any = storage_client_from_url(f"file://{tmp_path}/other")
    assert disk.sync_dir(disk.url("v2"), RemoteFolder(other, "v3"), executor=pool).transferred == 3
    plan = other.sync_dir(tmp_path / "copy", other.url("v4"), dry_run=True, executor=pool).plan
    assert other.apply_plan(plan, executor=pool).transferred == 3
    assert other.check_dir(local, other.url("v4"), executor=pool).is_empty
    assert other.delete_dir("v4", executor=pool).deleted == 3


def test_died_worker(disk: FsspecStorageClient, many: Path, uploads: list[str]) -> None:
    """The batch of a dead worker runs again, and sends nothing that is there."""
    recording = Recording(die_first)
    done = disk.sync_dir(many, disk.url("v1"), executor=recording)
    assert (done.transferred, done.failed, len(recording.batches)) == (FILES, 0, FILES // BATCH + 1)
    assert len(uploads) == len(set(uploads)) == FILES


def test_engine_repeats(disk: FsspecStorageClient, many: Path, uploads: list[str]) -> None:
    """An engine may run a batch twice, on its own: the second run sends nothing."""
    recording = Recording()
    disk.sync_dir(many, disk.url("v1"), executor=recording)
    function, arguments = pickle.loads(recording.batches[1])
    assert function(*arguments).results == [None] * BATCH
    assert len(uploads) == FILES


def test_replaced_since(disk: FsspecStorageClient, many: Path, tmp_path: Path) -> None:
    """The second run of a batch replaces a target that is not the file."""
    recording = Recording()
    disk.sync_dir(many, disk.url("v1"), executor=recording)
    (tmp_path / "store/v1/007").write_bytes(b"X")
    function, arguments = pickle.loads(recording.batches[0])
    function(*arguments)
    assert (tmp_path / "store/v1/007").read_bytes() == b"7"


def test_all_die(disk: FsspecStorageClient, many: Path) -> None:
    """After three workers a batch is given up, and its files are failures; nothing is deleted."""
    disk.upload(b"old", "v1/old")
    recording = Recording(die)
    with pytest.raises(FolderError, match="BrokenExecutor: the worker of batch") as caught:
        disk.sync_dir(many, disk.url("v1"), delete=True, on_error="collect", executor=recording)
    result = caught.value.result
    assert (result.transferred, result.failed, result.deleted) == (0, FILES, 0)
    assert len(recording.batches) == 3 * FILES // BATCH
    assert disk.sync_dir(many, disk.url("v1")).skipped == FILES


@pytest.mark.parametrize("on_error", ["stop", "collect"])
@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_failures(disk: FsspecStorageClient, many: Path, pool: Executor, on_error: str, kind: str) -> None:
    """Each file that failed has its exception; after a failure no further batch begins with "stop"."""
    plan = disk.sync_dir(many, disk.url("v1"), dry_run=True).plan
    (many / "003").write_bytes(b"changed since")
    with ThreadPoolExecutor(1) as threads, pytest.raises(FolderError) as caught:
        disk.apply_plan(plan, on_error=on_error, executor=threads if kind == "threads" else pool)
    error, result = caught.value, caught.value.result
    assert [path for path, _ in error.failures] == ["003"]
    assert isinstance(error.failures[0][1], StorageError)
    assert result.transferred + result.not_begun == FILES - 1
    assert (result.not_begun > 0) == (on_error == "stop")


@pytest.mark.parametrize("result", [None, 5, {"done": 20}, Moved([]), Moved([None] * 21), Moved(["x"] * 20)], ids=repr)  # type: ignore[list-item]  # wrong on purpose
def test_other_result(disk: FsspecStorageClient, many: Path, result: Any) -> None:
    """A result that is not that of the batch is a failure of each of its files, and the others are transferred."""

    class Other(Recording):
        def submit(self, fn: Any, /, *args: Any, **named: Any) -> Future[Any]:
            future = super().submit(fn, *args, **named)
            if len(self.batches) == 1:
                future = Future()
                future.set_result(result)
            return future

    with pytest.raises(FolderError, match=r"the executor did not do its work .*it returned") as caught:
        disk.sync_dir(many, disk.url("v1"), executor=Other(), on_error="collect")
    found = caught.value.result
    assert found is not None
    assert (found.failed, found.transferred, len(list(found.outcomes("failed")))) == (BATCH, FILES - BATCH, BATCH)


def test_shut_down(client: FsspecStorageClient, local: Path) -> None:
    """An executor that is shut down is refused before anything moves."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(StorageError, match="cannot schedule new futures after shutdown") as caught:
        client.upload_dir(local, "v1", executor=executor)
    assert caught.value.remedy is Remedy.NEW_EXECUTOR
    assert stored(client) == set()


def test_shut_down_midway(client: FsspecStorageClient, many: Path) -> None:
    """If the executor is shut down in the middle, the files without a worker are failures; another run completes them."""
    executor = ThreadPoolExecutor(1)

    def shut_down(_: int) -> None:
        executor.shutdown(wait=False, cancel_futures=True)

    with pytest.raises(FolderError) as caught:
        client.upload_dir(many, "v1", executor=executor, on_error="collect", callback=shut_down)
    result = caught.value.result
    assert result.transferred == len(stored(client)) == FILES - result.failed
    assert 0 < result.failed < FILES
    assert client.upload_dir(many, "v1").transferred == result.failed


def test_no_library(disk: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """Workers that cannot import the library are an error that says so, before anything moves."""
    with (
        ProcessPoolExecutor(1, SPAWN, hide) as hidden,
        pytest.raises(StorageError, match="cannot import gllm_storage") as caught,
    ):
        disk.upload_dir(local, "v1", executor=hidden)
    assert caught.value.remedy is Remedy.INSTALL_ON_WORKERS
    assert not (tmp_path / "store/v1").exists()


def test_not_an_executor(client: FsspecStorageClient, local: Path) -> None:
    """Something else than an executor is a `TypeError`, also if nothing would move."""
    for wrong in (4, "threads", ThreadPoolExecutor):
        with pytest.raises(TypeError, match=r"concurrent\.futures\.Executor"):
            client.upload_dir(local, "v1", executor=wrong, dry_run=True)  # type: ignore[arg-type]  # wrong on purpose


def test_memory(client: FsspecStorageClient, local: Path, tmp_path: Path, pool: Executor) -> None:
    """Objects in the memory of this process are refused by other processes, in both directions."""
    with pytest.raises(FolderError, match="objects in memory need an executor with threads"):
        client.upload_dir(local, "v1", executor=pool)
    client.upload_dir(local, "v1")
    with pytest.raises(FolderError, match="of process"):
        client.download_dir("v1", tmp_path / "copy", executor=pool)
    foreign: Any = get_storage_client("fsspec", {"url": client.url("v3")})
    with pytest.raises(FolderError, match="of process"):
        foreign.upload_dir(local, "", executor=pool)
    assert stored(client) == {"v1/a.bin", "v1/b/c.bin", "v1/d.txt"}
    assert client.upload_dir(local, "v2", executor=Recording()).transferred == 3, "pickled, in the same process"


def test_other_machine(disk: FsspecStorageClient, local: Path, tmp_path: Path) -> None:
    """A worker that does not share the local folder is noticed: it lacks the folder, or this machine lacks its files."""
    disk.upload_dir(local, "v1")
    moved = partial(shutil.move, tmp_path / "local", tmp_path / "gone")
    with pytest.raises(FolderError, match="has no folder") as caught:
        disk.upload_dir(local, "v2", executor=_Before(moved))
    assert caught.value.failures[0][1].remedy is Remedy.SHARE_FOLDER  # type: ignore[attr-defined]  # a `StorageError`
    with pytest.raises(FolderError, match="which this machine does not have"):
        disk.download_dir("v1", tmp_path / "copy", executor=Recording(lambda _: shutil.rmtree(tmp_path / "copy")))


class _Before(Recording):
    """Calls a function before the first batch."""

    def __init__(self, before: Callable[[], object]) -> None:
        super().__init__()
        self._before = before

    def submit(self, fn: Any, /, *args: Any, **given: Any) -> Future[Any]:
        if fn is run_batch:
            self._before()
        return super().submit(fn, *args, **given)


class OddError(StorageError):
    """An exception whose pickle cannot be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_odd_exception(disk: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that does not survive a pickle is described."""

    def fail(self: LocalStore, request: UploadRequest) -> Any:
        raise OddError(f"{request.key} is odd at {self.url('')}")

    monkeypatch.setattr(LocalStore, "upload", fail)
    with pytest.raises(FolderError, match=r"OddError: .*a\.bin is odd"):
        disk.upload_dir(local, "v1", executor=Recording())


def test_interrupt(client: FsspecStorageClient, many: Path) -> None:
    """Ctrl-C ends the call: no batch begins any more, and the executor can be used again."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as executor:
        with pytest.raises(KeyboardInterrupt):
            client.upload_dir(many, "v1", executor=executor, callback=interrupt, on_error="collect")
        there = stored(client)
        assert len(there) < BATCH
        assert executor.submit(os.getpid).result() == os.getpid()
        assert stored(client) == there


def test_interrupt_of_caller(disk: FsspecStorageClient, many: Path, tmp_path: Path, pool: Executor) -> None:
    """The same on processes, where the callback runs in the thread of the caller."""
    threads = set[int]()

    def interrupt(_: int) -> None:
        threads.add(threading.get_ident())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.upload_dir(many, "v1", executor=pool, callback=interrupt)
    assert threads == {threading.get_ident()}
    assert len(os.listdir(tmp_path / "store/v1")) < FILES
    assert pool.submit(pow, 2, 3).result() == 8


def test_secrets(local: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the repr of a batch nor a log nor a plan shows the credentials that the pickle of a client contains."""
    caplog.set_level(logging.DEBUG)
    secret = {"aws_access_key_id": "hidden-id", "aws_secret_access_key": "hidden-word"}
    client: Any = get_storage_client("s3", {"bucket_name": "models", "endpoint_url": "http://127.0.0.1:9", **secret})
    shown: list[str] = []

    class Showing(Recording):
        def submit(self, fn: Any, /, *args: Any, **given: Any) -> Future[Any]:
            shown.extend([repr(args), str(args), repr(vars(args[0])) if fn is run_batch else ""])
            return super().submit(fn, *args, **given)

    monkeypatch.setattr(type(client.store), "list", lambda *_: iter(()))
    monkeypatch.setattr(type(client.store), "exists", lambda *_: False)
    with pytest.raises(FolderError) as caught:
        client.upload_dir(local, "v1", executor=Showing())
    shown += [caplog.text, str(caught.value), repr(caught.value.failures), str(caught.value.result.plan)]
    assert shown
    assert [each for each in shown if "hidden-word" in each] == []


def test_properties(disk: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The properties of the caller reach the workers."""
    seen: list[Any] = []

    def noting(_: LocalStore, properties: Any, __: Any) -> dict[str, Any]:
        seen.append(properties)
        return {}

    monkeypatch.setattr(LocalStore, "options_of", noting)
    disk.upload_dir(local, "v1", executor=Recording(), content_type="x/y", metadata={"run": "17"})
    assert [(each.content_type, each.metadata) for each in seen] == [("x/y", {"run": "17"})]


def test_other_release(disk: FsspecStorageClient, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a release whose batches are different are refused before anything moves."""
    monkeypatch.setattr(distribution, "FORMAT", "gllm-storage batches 2")
    with pytest.raises(StorageError, match="they have 'gllm-storage batches 1'") as caught:
        disk.upload_dir(local, "v1", executor=Recording())
    assert caught.value.remedy is Remedy.INSTALL_ON_WORKERS


def test_one_thread(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads do not call a foreign filesystem at a time, which may have one connection."""
    monkeypatch.setattr(distribution, "BATCH_FILES", 1)
    (tmp_path / "foreign/v1/b").mkdir(parents=True)
    client: Any = get_storage_client("fsspec", {"url": f"local://{tmp_path}/foreign"})
    upload, inside, most = ForeignStore.upload, [0], [0]

    def counting(self: ForeignStore, request: UploadRequest) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.01)
        try:
            return upload(self, request)
        finally:
            inside[0] -= 1

    monkeypatch.setattr(ForeignStore, "upload", counting)
    with ThreadPoolExecutor(3) as executor:
        assert client.upload_dir(local, "v1", executor=executor).transferred == 3
    assert most == [1]
