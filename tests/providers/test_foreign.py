"""Provider ``fsspec``: the verbs on filesystems of other packages, and the promises that they keep there."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import pytest
from fsspec.callbacks import Callback
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations

from gllm_storage import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    FolderError,
    FsspecStorageClient,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    get_storage_client,
    storage_client_from_url,
)
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import Remedy
from gllm_storage.files.source import MemorySource
from gllm_storage.folders import Plan, RemoteFolder, transfer
from gllm_storage.folders.entries import StoredFolder
from gllm_storage.info import Stored, url_in_listing
from gllm_storage.store.port import UploadItem, UploadRequest, nothing, unwatched
from gllm_storage.store.ranges import ObjectSlices, read_slice
from gllm_storage.store.retry import RESTART, RetryEvent, no_waits, subscribe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.errors import ErrorDetails

    Call = Callable[["FsspecStorageClient", Path], object]

CONTENT = bytes(range(256)) * 100
CALLS: dict[str, Call] = {
    "upload_file": lambda client, folder: client.upload_file(folder / "source.bin", "model.bin"),
    "download_file": lambda client, folder: client.download_file("model.bin", folder / "copy.bin"),
    "delete_file": lambda client, _: client.delete_file("model.bin"),
    "file_exists": lambda client, _: client.file_exists("model.bin"),
    "info": lambda client, _: client.info("model.bin"),
    "list_files": lambda client, _: list(client.list_files()),
    "list_folder": lambda client, _: list(client.list_folder()),
}
FAILS = {
    "upload_file": "put_file",
    "download_file": "get_file",
    "delete_file": "rm_file",
    "file_exists": "info",
    "info": "info",
    "list_files": "ls",
    "list_folder": "ls",
}


class TroubledFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """A folder under a protocol of its own; a test may replace its methods by failing ones."""

    protocol = "troubled"
    troubles: ClassVar[dict[str, Callable[..., Any]]] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("troubled://"))

    def _do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return self.troubles.get(name, getattr(super(), name))(*args, **kwargs)

    def put_file(self, lpath: Any, rpath: Any, **kwargs: Any) -> Any:
        return self._do("put_file", lpath, rpath, **kwargs)

    def get_file(self, rpath: Any, lpath: Any, **kwargs: Any) -> Any:
        return self._do("get_file", rpath, lpath, **kwargs)

    def rm_file(self, path: Any) -> Any:
        return self._do("rm_file", path)

    def info(self, path: Any, **kwargs: Any) -> Any:
        return self._do("info", path, **kwargs)

    def ls(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return self._do("ls", path, *args, **kwargs)


@dataclass(frozen=True)
class World:
    """A client on a foreign filesystem.

    Attributes:
        client: The client.
        troubles: Replacements of the filesystem's methods, by name; empty at first.
        store: The folder where the filesystem keeps the objects.
        folder: A local folder with a file ``source.bin`` to upload.
    """

    client: FsspecStorageClient
    troubles: dict[str, Callable[..., Any]]
    store: Path
    folder: Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder with a file to upload."""
    made = tmp_path / "local"
    made.mkdir()
    (made / "source.bin").write_bytes(CONTENT)
    return made


@pytest.fixture
def world(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A client on `TroubledFileSystem`, which fsspec imports by its name, as the filesystems of other packages."""
    named = {"class": f"{TroubledFileSystem.__module__}.{TroubledFileSystem.__name__}"}
    monkeypatch.setitem(known_implementations, "troubled", named)
    monkeypatch.setattr(TroubledFileSystem, "troubles", {})
    store = tmp_path / "store"
    store.mkdir()
    yield World(FsspecStorageClient({"url": f"troubled://{store}"}), TroubledFileSystem.troubles, store, folder)
    _registry.pop("troubled", None)


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in fsspec's memory filesystem."""
    yield "memory://foreign/models"
    fsspec.filesystem("memory").rm("/foreign", recursive=True)


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_verbs(memory: str, folder: Path) -> None:
    """The verbs work on a filesystem of fsspec, and plain fsspec calls see the same objects."""
    client, plain = FsspecStorageClient({"url": memory}), fsspec.filesystem("memory")
    assert type(client.filesystem) is MemoryFileSystem
    url = client.upload_file(folder / "source.bin", "v3/model.bin")
    assert url == f"{memory}/v3/model.bin" == client.url("v3/model.bin")
    assert plain.cat_file("/foreign/models/v3/model.bin") == CONTENT
    with fsspec.open(url, **client.storage_options) as handle:
        assert handle.read() == CONTENT

    assert client.file_exists(url) is True
    assert (client.info(url).url, client.info(url).size) == (url, len(CONTENT))
    assert client.download_file(url, folder / "new" / "copy.bin") == folder / "new" / "copy.bin"
    assert (folder / "new" / "copy.bin").read_bytes() == CONTENT
    assert os.listdir(folder / "new") == ["copy.bin"]

    plain.pipe_file("/foreign/models/v30/other.bin", b"theirs")
    assert [each.url for each in client.list_files("v3")] == [url, client.url("v30/other.bin")]
    assert [each.url for each in client.list_files("v3/")] == [url]
    assert list(client.list_folder()) == [f"{memory}/v3/", f"{memory}/v30/"]
    assert [url_in_listing(each) for each in client.list_folder("v3")] == [url]
    assert list(client.list_folder("none")) == []
    assert client.file_exists("v3") is False
    assert client.delete_file(url) is True
    assert client.file_exists(url) is False
    for call in (client.info, client.delete_file, lambda path: client.download_file(path, folder / "source.bin")):
        with pytest.raises(ObjectNotFoundError):
            call(url)
    assert (folder / "source.bin").read_bytes() == CONTENT


def test_client_of_url(world: World) -> None:
    """A client made from a URL, or by the name of the provider, is the same as one of the class."""
    assert storage_client_from_url(f"troubled://{world.store}") == world.client
    assert get_storage_client("fsspec", {"url": f"troubled://{world.store}/"}).url("a") == world.client.url("a")
    assert world.client.url("a") == f"troubled://{world.store}/a"


def test_registered_class(tmp_path: Path) -> None:
    """A filesystem class that is registered with fsspec can be used."""
    # fsspec keeps registered classes apart from the names of classes that it imports on first use.
    fsspec.register_implementation("troubled", TroubledFileSystem)
    try:
        client = FsspecStorageClient({"url": f"troubled://{tmp_path}"})
        assert isinstance(client.filesystem, TroubledFileSystem)
    finally:
        _registry.pop("troubled")


def test_storage_options(tmp_path: Path) -> None:
    """Further settings reach the filesystem as storage options, and `repr` does not show them."""
    with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive:
        archive.writestr("v3/model.bin", CONTENT)
    client = FsspecStorageClient({"url": "zip://v3", "fo": str(tmp_path / "models.zip")})
    assert client.storage_options == {"fo": str(tmp_path / "models.zip")}
    assert str(tmp_path) not in repr(client)
    assert client.file_exists("model.bin") is True
    assert client.file_exists("other.bin") is False
    assert client.download_file("model.bin", tmp_path / "copy.bin").read_bytes() == CONTENT
    assert [(each.url, each.size) for each in client.list_files()] == [("zip://v3/model.bin", len(CONTENT))]
    assert [url_in_listing(each) for each in client.list_folder()] == ["zip://v3/model.bin"]


def test_read_only_filesystem(tmp_path: Path, folder: Path) -> None:
    """Uploads and deletes on a read-only filesystem raise StorageError with its cause."""
    with zipfile.ZipFile(tmp_path / "models.zip", "w") as archive:
        archive.writestr("v3/model.bin", CONTENT)
    client = FsspecStorageClient({"url": "zip://v3", "fo": str(tmp_path / "models.zip")})
    for call in (
        lambda: client.upload_file(folder / "source.bin", "new.bin"),
        lambda: client.delete_file("model.bin"),
    ):
        with pytest.raises(StorageError, match="zip://v3/") as caught:
            call()
        assert caught.value.__cause__ is not None
    assert [each.url for each in client.list_files()] == ["zip://v3/model.bin"]


@pytest.mark.parametrize("existing", [None, b"theirs"])
def test_check_conflict(world: World, existing: bytes | None) -> None:
    """`check_conflict` is refused, and nothing is written."""
    if existing is not None:
        (world.store / "model.bin").write_bytes(existing)
    with pytest.raises(ConflictCheckUnsupportedError, match="TroubledFileSystem") as caught:
        world.client.upload_file(world.folder / "source.bin", "model.bin", check_conflict=True)
    assert caught.value.remedy is Remedy.NO_CONFLICT_CHECK
    with pytest.raises(ConflictCheckUnsupportedError):
        world.client.store.require_create("model.bin")
    assert [path.read_bytes() for path in world.store.iterdir()] == ([] if existing is None else [existing])


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (PermissionError(13, "denied"), AccessDeniedError),
        (ConnectionResetError("reset"), StorageUnavailableError),
        (TimeoutError("too slow"), StorageUnavailableError),
        (OSError(28, "No space left on device"), StorageError),
        (RuntimeError("of its own"), StorageError),
        (KeyError("surprise"), StorageError),
        (NotImplementedError(), StorageError),
        (FileNotFoundError("gone meanwhile"), ObjectNotFoundError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("call", [name for name in CALLS if name not in {"file_exists", "list_files", "list_folder"}])
def test_translated_error(world: World, call: str, raised: Exception, expected: type[Exception]) -> None:
    """An exception of the filesystem is translated, keeps its cause, and leaves the local file as it was."""
    (world.store / "model.bin").write_bytes(CONTENT)
    (world.folder / "copy.bin").write_bytes(b"as it was")
    world.troubles[FAILS[call]] = failing(raised)
    with pytest.raises(expected) as caught:
        CALLS[call](world.client, world.folder)
    assert type(caught.value) is expected
    assert caught.value.__cause__ is raised
    assert world.client.url("model.bin") in str(caught.value)
    assert (world.folder / "copy.bin").read_bytes() == b"as it was"
    assert sorted(os.listdir(world.folder)) == ["copy.bin", "source.bin"]


def test_unlistable_folder(world: World, tmp_path: Path) -> None:
    """A folder that cannot be listed fails the listing, so that a sync deletes no copies of its files."""
    for name in ("a", "secret/b"):
        (world.store / "v1" / name).parent.mkdir(parents=True, exist_ok=True)
        (world.store / "v1" / name).write_bytes(b"content")
    world.client.sync_dir(world.client.url("v1"), f"file://{tmp_path}/copy")
    listed = LocalFileSystem().ls

    def ls(path: str, *args: Any, **kwargs: Any) -> Any:
        if str(path).rstrip("/").endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return listed(path, *args, **kwargs)

    world.troubles["ls"] = ls
    with pytest.raises(AccessDeniedError, match="Permission denied"):
        list(world.client.list_files("v1"))
    with pytest.raises(AccessDeniedError):
        world.client.sync_dir(world.client.url("v1"), f"file://{tmp_path}/copy", delete=True)
    assert (tmp_path / "copy" / "secret" / "b").exists()


@pytest.mark.parametrize("call", ["file_exists", "list_files", "list_folder"])
def test_failed_check(world: World, call: str) -> None:
    """A check or a listing that fails raises an error; it does not report an absent object."""
    world.troubles[FAILS[call]] = failing(ConnectionResetError("reset"))
    with pytest.raises(StorageUnavailableError, match="reset"):
        CALLS[call](world.client, world.folder)


class _Answering(BaseHTTPRequestHandler):
    """Answers every request with the status at the beginning of the path."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/").partition("/")[0]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - a name that the base class calls

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """URL of a web server that answers every request with the status at the beginning of the path."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("call", [name for name in CALLS if name not in {"upload_file", "delete_file"}])
def test_unreachable_host(call: str, folder: Path) -> None:
    """A host that does not answer raises StorageUnavailableError; the object is not reported as absent."""
    client = FsspecStorageClient({"url": "http://127.0.0.1:1/models"})
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1:1") as caught:
        CALLS[call](client, folder)
    assert caught.value.remedy is Remedy.CHECK_HOST


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, AccessDeniedError),
        (403, AccessDeniedError),
        (429, StorageUnavailableError),
        (500, StorageUnavailableError),
        (503, StorageUnavailableError),
    ],
)
@pytest.mark.parametrize("call", [name for name in CALLS if name not in {"upload_file", "delete_file"}])
def test_error_status(web: str, call: str, status: int, expected: type[StorageError], folder: Path) -> None:
    """An HTTP status that does not concern the object raises an error; the object is not reported as absent."""
    client = FsspecStorageClient({"url": f"{web}/{status}"})
    with pytest.raises(expected) as caught:
        CALLS[call](client, folder)
    assert type(caught.value) is expected
    assert caught.value.status == status


def test_status_404(web: str, folder: Path) -> None:
    """An answer of 404 means that the object is absent."""
    client = FsspecStorageClient({"url": f"{web}/404"})
    assert client.file_exists("model.bin") is False
    assert list(client.list_files()) == []
    for name in ("download_file", "info"):
        with pytest.raises(ObjectNotFoundError):
            CALLS[name](client, folder)


def test_exists_in_handler(world: World) -> None:
    """`file_exists` ignores an unrelated exception that the caller is handling."""

    def exists_while_handling() -> bool:
        try:
            failing(ConnectionResetError("of something else"))()
        except ConnectionResetError:
            return world.client.file_exists("model.bin")
        return True

    assert exists_while_handling() is False


def test_missing_file(world: World) -> None:
    """The error about a missing file contains its URL."""
    assert world.client.file_exists("model.bin") is False
    assert list(world.client.list_files()) == []
    for name in ("download_file", "delete_file", "info"):
        with pytest.raises(ObjectNotFoundError, match=world.client.url("model.bin")) as caught:
            CALLS[name](world.client, world.folder)
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert os.listdir(world.folder) == ["source.bin"]


def test_folder(world: World) -> None:
    """A folder is not a file: it does not exist for the verbs, and they do not delete it."""
    (world.store / "model.bin").mkdir()
    (world.store / "model.bin" / "part").write_bytes(CONTENT)
    assert world.client.file_exists("model.bin") is False
    for name in ("download_file", "delete_file", "info"):
        with pytest.raises(ObjectNotFoundError):
            CALLS[name](world.client, world.folder)
    assert (world.store / "model.bin" / "part").exists()


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_failed_download(world: World, before: bytes | None) -> None:
    """A download that fails half-way leaves the local file as it was."""

    def write_half(_: str, lpath: str, **__: Any) -> None:
        Path(lpath).write_bytes(CONTENT[:1000])
        raise ConnectionResetError("half-way")

    (world.store / "model.bin").write_bytes(CONTENT)
    if before is not None:
        (world.folder / "copy.bin").write_bytes(before)
    world.troubles["get_file"] = write_half
    with pytest.raises(StorageUnavailableError, match="half-way"):
        world.client.download_file("model.bin", world.folder / "copy.bin")
    left = {path.name: path.read_bytes() for path in world.folder.iterdir()}
    assert left == {"source.bin": CONTENT} | ({} if before is None else {"copy.bin": before})


def test_short_download(world: World) -> None:
    """A download of too few bytes raises IntegrityError and leaves the local file as it was."""
    (world.store / "model.bin").write_bytes(CONTENT)
    (world.folder / "copy.bin").write_bytes(b"as it was")
    world.troubles["get_file"] = lambda _, lpath, **__: Path(lpath).write_bytes(CONTENT[:-1])
    with pytest.raises(IntegrityError, match=f"{len(CONTENT) - 1} of {len(CONTENT)} bytes"):
        world.client.download_file("model.bin", world.folder / "copy.bin")
    assert (world.folder / "copy.bin").read_bytes() == b"as it was"
    assert sorted(os.listdir(world.folder)) == ["copy.bin", "source.bin"]


def test_short_upload(world: World) -> None:
    """An upload raises IntegrityError if the filesystem stored too few bytes."""
    world.troubles["put_file"] = lambda _, rpath, **__: Path(rpath).write_bytes(CONTENT[:-1])
    with pytest.raises(IntegrityError, match=f"{len(CONTENT)} bytes were sent and {len(CONTENT) - 1} are stored"):
        world.client.upload_file(world.folder / "source.bin", "model.bin")


def test_changing_source(world: World) -> None:
    """An upload raises StorageError if its source file changes while it is sent."""

    def change_and_store(lpath: str, rpath: str, **_: Any) -> None:
        Path(rpath).write_bytes(CONTENT)
        Path(lpath).write_bytes(b"another file by now")

    world.troubles["put_file"] = change_and_store
    with pytest.raises(StorageError, match="changed while it was read"):
        world.client.upload_file(world.folder / "source.bin", "model.bin")


def test_replaced_once(world: World) -> None:
    """A download starts again if the object is replaced, and reports one restart."""
    (world.store / "model.bin").write_bytes(b"first version")

    def replaced_once(_: str, lpath: str, **__: Any) -> None:
        mixed = b"fi" + CONTENT[2:]  # parts of both versions, with the size of the second
        Path(lpath).write_bytes(mixed)
        (world.store / "model.bin").write_bytes(CONTENT)
        del world.troubles["get_file"]

    world.troubles["get_file"] = replaced_once
    events: list[RetryEvent] = []
    unsubscribe = subscribe(events.append)
    try:
        assert world.client.download_file("model.bin", world.folder / "copy.bin").read_bytes() == CONTENT
    finally:
        unsubscribe()
    told = [(each.kind, each.operation, each.url, each.attempt, each.limit) for each in events]
    assert told == [("restart", "download", world.client.url("model.bin"), 1, RESTART.limit)]


def test_replaced_always(world: World) -> None:
    """A download fails if the object is replaced in every attempt, and leaves the local file as it was."""
    versions = iter(range(100))

    def replaced(_: str, lpath: str, **__: Any) -> None:
        Path(lpath).write_bytes((world.store / "model.bin").read_bytes())
        (world.store / "model.bin").write_bytes(b"x" * next(versions))

    (world.store / "model.bin").write_bytes(CONTENT)
    (world.folder / "copy.bin").write_bytes(b"as it was")
    world.troubles["get_file"] = replaced
    with no_waits(), pytest.raises(StorageUnavailableError) as caught:
        world.client.download_file("model.bin", world.folder / "copy.bin")
    assert caught.value.remedy is Remedy.REPEAT
    assert (world.folder / "copy.bin").read_bytes() == b"as it was"
    assert next(versions) == RESTART.limit


def test_missing_local_file(world: World) -> None:
    """An upload of a missing local file raises a plain FileNotFoundError."""
    with pytest.raises(FileNotFoundError) as caught:
        world.client.upload_file(world.folder / "absent.bin", "model.bin")
    assert type(caught.value) is FileNotFoundError
    assert list(world.client.list_files()) == []


@pytest.mark.parametrize("url", ["nothing://bucket/models", "nothing"])
def test_unknown_url(url: str) -> None:
    """A URL whose protocol is unknown to fsspec is refused."""
    with pytest.raises(ValueError, match="nothing"):
        FsspecStorageClient({"url": url})


# The store port


def test_stored(world: World) -> None:
    """An upload returns the filesystem's description of the object."""
    store = world.client.store
    transfer = store.transfer("model.bin", "upload")
    stored = store.upload(UploadRequest("model.bin", MemorySource(CONTENT, transfer.details), transfer))
    assert stored == Stored.of(store.info("model.bin"))
    assert (stored.url, stored.size) == (world.client.url("model.bin"), len(CONTENT))
    assert (world.store / "model.bin").read_bytes() == CONTENT


def test_writer(world: World) -> None:
    """The default writer of the port publishes at `commit`, in memory and from a temporary file."""
    store = world.client.store
    for size in (1000, 20 * 2**20):
        transfer = store.transfer("model.bin", "upload")
        writer = store.open_writer(UploadRequest("model.bin", nothing(transfer.details), transfer))
        before = sorted(os.listdir(world.store))
        for _ in range(4):
            writer.write(bytes(size // 4))
        assert sorted(os.listdir(world.store)) == before
        assert writer.commit().size == size
        assert (world.store / "model.bin").read_bytes() == bytes(size)


def test_read(world: World) -> None:
    """The reader of the port reads ranges, and the complete object."""
    (world.store / "model.bin").write_bytes(CONTENT)
    store = world.client.store
    transfer = store.transfer("model.bin", "read")
    assert store.read("model.bin", transfer) == CONTENT
    for start, end in ((10, 20), (-5, None), (len(CONTENT) - 3, len(CONTENT) + 10), (7, 7)):
        reader = store.open_reader("model.bin")
        assert read_slice(ObjectSlices(reader, transfer, [(start, end)])) == CONTENT[start:end]


def test_read_replaced(world: World) -> None:
    """A range is read again if the object was replaced since its description was read."""
    (world.store / "model.bin").write_bytes(b"first")
    store = world.client.store
    real = LocalFileSystem().info
    descriptions: list[dict[str, Any]] = []

    def info(path: Any, **_: Any) -> dict[str, Any]:
        descriptions.append(real(path))
        if len(descriptions) == 1:
            (world.store / "model.bin").write_bytes(CONTENT)
        return descriptions[-1]

    world.troubles["info"] = info
    with no_waits():
        assert store.read("model.bin", store.transfer("model.bin", "read")) == CONTENT
    assert len(descriptions) == 4


def test_read_range_ignored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range raises StorageError if the filesystem ignores it; the complete object can still be read."""
    (world.store / "model.bin").write_bytes(CONTENT)
    monkeypatch.setattr(TroubledFileSystem, "cat_file", lambda *_: CONTENT)
    store = world.client.store
    transfer = store.transfer("model.bin", "read")
    assert store.read("model.bin", transfer) == CONTENT
    with pytest.raises(StorageError) as caught:
        read_slice(ObjectSlices(store.open_reader("model.bin"), transfer, [(5, 10)]))
    assert caught.value.remedy is Remedy.DOWNLOAD_INSTEAD


def test_many(world: World) -> None:
    """Several uploads and deletes go one at a time, since a filesystem may have one connection."""
    threads: list[int] = []

    def put_file(lpath: str, rpath: str, **_: Any) -> None:
        threads.append(threading.get_ident())
        Path(rpath).write_bytes(Path(lpath).read_bytes())

    world.troubles["put_file"] = put_file
    store = world.client.store
    items = [UploadItem(f"{name}.bin", partial(opened, name.encode()), unwatched) for name in "abc"]
    assert [each.url for each in store.upload_many(items, Stop())] == [world.client.url(f"{name}.bin") for name in "abc"]
    assert len(set(threads)) == 1
    store.delete_many(["a.bin", "missing.bin", "c.bin"], store.transfer("", "delete"))
    assert os.listdir(world.store) == ["b.bin"]


@contextmanager
def opened(content: bytes, details: ErrorDetails) -> Iterator[MemorySource]:
    yield MemorySource(content, details)


def test_partial_folder(world: World) -> None:
    """A prefix that ends within a name lists the names that begin with it."""
    for name in ("v3", "v30", "w"):
        (world.store / name).mkdir()
        (world.store / name / "a").write_bytes(b"a")
    assert list(world.client.store.list_folder("v")) == [f"troubled://{world.store}/v3/", f"troubled://{world.store}/v30/"]


def test_stop(world: World) -> None:
    """A cancelled download ends at once, also while it waits before a restart."""
    (world.store / "model.bin").write_bytes(CONTENT)
    (world.folder / "copy.bin").write_bytes(b"as it was")
    stop = Stop()

    def replaced(_: str, lpath: str, **__: Any) -> None:
        Path(lpath).write_bytes(b"x")
        (world.store / "model.bin").write_bytes(os.urandom(10))

    world.troubles["get_file"] = replaced
    store = world.client.store
    unsubscribe = subscribe(lambda event: stop.set() if event.attempt == 2 else None)
    began = time.monotonic()
    try:
        with pytest.raises(TransferStopped):
            store.download("model.bin", str(world.folder / "copy.bin"), store.transfer("model.bin", "download", stop=stop))
    finally:
        unsubscribe()
    assert time.monotonic() - began < 2
    assert (world.folder / "copy.bin").read_bytes() == b"as it was"
    assert sorted(os.listdir(world.folder)) == ["copy.bin", "source.bin"]


def test_progress(world: World) -> None:
    """A callback receives the size and all bytes, whatever the filesystem reports."""
    for told in (lambda _: None, lambda callback: callback.absolute_update(10**9)):

        def put_file(lpath: str, rpath: str, told: Any = told, *, callback: Any, **_: Any) -> None:
            told(callback)
            Path(rpath).write_bytes(Path(lpath).read_bytes())

        world.troubles["put_file"] = put_file
        callback = Callback()
        world.client.upload_with_progress(world.folder / "source.bin", "model.bin", callback)
        assert (callback.size, callback.value) == (len(CONTENT), len(CONTENT))


def test_no_password(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Errors do not contain the password of a URL; the URLs of objects keep it."""
    monkeypatch.setattr(TroubledFileSystem, "_strip_protocol", classmethod(lambda *_: str(world.store / "model.bin")))
    client = FsspecStorageClient({"url": "troubled://user:hunter2@host/models"})
    with pytest.raises(ObjectNotFoundError) as caught:
        client.info("model.bin")
    assert "hunter2" not in str(caught.value)
    assert caught.value.url == "troubled://***@host/models/model.bin"
    (world.store / "model.bin").write_bytes(CONTENT)
    assert client.info("model.bin").url == "troubled://user:hunter2@host/models/model.bin"


class NetFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """The files of a folder that an option names, as webdav's option ``base_url`` names the server."""

    protocol = "net"

    def __init__(self, base_url: str, **options: Any) -> None:
        super().__init__(**options)
        self.base_url = base_url

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return str(path).removeprefix("net://").strip("/")

    def _at(self, path: str) -> str:
        return f"{self.base_url}/{self._strip_protocol(path)}".rstrip("/")

    def _entry(self, path: str) -> dict[str, Any]:
        found = os.stat(self._at(path))
        kind = "directory" if os.path.isdir(self._at(path)) else "file"
        return {"name": self._strip_protocol(path), "size": found.st_size, "type": kind, "mtime": found.st_mtime}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._entry(path)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        names = [f"{path}/{name}".strip("/") for name in sorted(os.listdir(self._at(path)))]
        return [self._entry(name) for name in names] if detail else names

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        return Path(self._at(path)).read_bytes()[start:end]

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        Path(lpath).write_bytes(Path(self._at(rpath)).read_bytes())

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        Path(self._at(rpath)).parent.mkdir(parents=True, exist_ok=True)
        Path(self._at(rpath)).write_bytes(Path(lpath).read_bytes())

    def rm_file(self, path: str) -> None:
        os.unlink(self._at(path))


@pytest.fixture
def nets(tmp_path: Path) -> Iterator[Callable[..., FsspecStorageClient]]:
    """Makes a client of a server of `NetFileSystem`, with files by their paths; all have one URL."""
    fsspec.register_implementation("net", NetFileSystem, clobber=True)

    def make(server: str, **files: str) -> FsspecStorageClient:
        for name, content in files.items():
            path = tmp_path / server / name.replace("_", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return FsspecStorageClient({"url": "net://", "base_url": str(tmp_path / server)})

    yield make
    _registry.pop("net")


def files_in(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["sync_dir", "move"])
def test_two_servers(nets: Callable[..., FsspecStorageClient], tmp_path: Path, verb: str) -> None:
    """Two servers with one URL are two stores: files go from one to the other."""
    a, b = nets("A", m_x="new", n_x="KEEP"), nets("B", n_x="old!")
    source, target = RemoteFolder(a, "m"), RemoteFolder(b, "n")
    if verb == "sync_dir":
        b.sync_dir(source, target)
    else:
        transfer.transfer(StoredFolder(a.store, "m/"), StoredFolder(b.store, "n/"), transfer.Options(removes=True))
    assert files_in(tmp_path / "B") == {"n/x": "new"}
    assert files_in(tmp_path / "A") == ({"m/x": "new"} if verb == "sync_dir" else {}) | {"n/x": "KEEP"}


def test_servers_have_one_path(nets: Callable[..., FsspecStorageClient], tmp_path: Path) -> None:
    """A folder is synced with that of the same name on another server, and both are compared."""
    a, b = nets("A", m_x="new"), nets("B", m_x="old!", m_y="extra")
    assert not a.check_dir(RemoteFolder(a, "m"), RemoteFolder(b, "m")).is_empty
    a.sync_dir(RemoteFolder(a, "m"), RemoteFolder(b, "m"), delete=True)
    assert files_in(tmp_path / "B") == {"m/x": "new"}
    with pytest.raises(ValueError, match="one folder lies in the other"):
        a.sync_dir(RemoteFolder(a, "m"), RemoteFolder(nets("A"), "m"))


def test_plan_of_a_server(nets: Callable[..., FsspecStorageClient], tmp_path: Path) -> None:
    """A saved plan runs on the server that it was made for, and contains no option."""
    a, b = nets("A", k_x="1"), nets("B", k_x="1")
    a.delete_dir("k", dry_run=True).plan.save(tmp_path / "plan")
    plan = Plan.load(tmp_path / "plan")
    with pytest.raises(FolderError, match="with options") as caught:
        b.apply_plan(plan)
    assert caught.value.remedy is Remedy.CHECK_OPTIONS
    assert files_in(tmp_path / "B") == {"k/x": "1"}
    assert str(tmp_path / "A") not in (tmp_path / "plan").read_text()
    assert nets("A").apply_plan(plan).deleted == 1


def test_places(world: World) -> None:
    """The place tells users, passwords and options apart, hides them, and is the same in another process."""

    def place(url: str = "", **options: Any) -> str:
        return FsspecStorageClient({"url": url or f"troubled://{world.store}", **options}).store.place

    assert place() == f"fsspec troubled://{world.store}"
    assert place(use_listings_cache="false") == place()
    options: dict[str, Any] = {"token": "hunter2", "more": {"b": [1, None], "a": (2.5, {"x"})}, "at": Path("x")}
    users = [place(f"troubled://{user}@host/x") for user in ("a:hunter2", "b:hunter2", "a:other")]
    found = [place(token="hunter2"), place(token="other"), place(**options), *users]
    assert len(set(found)) == len(found)
    assert "hunter2" not in str(found)
    code = (
        "import sys, pickle; from tests.providers.test_foreign import *; "
        f"known_implementations['troubled'] = {known_implementations['troubled']!r}; "
        "print(pickle.load(sys.stdin.buffer).store.place)"
    )
    client = FsspecStorageClient({"url": f"troubled://{world.store}", **options})
    answer = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(client), capture_output=True, check=True)
    assert answer.stdout.decode().strip() == client.store.place == place(**options)


class _Plain(SimpleHTTPRequestHandler):
    """Python's own web server, whose listings have no sizes; here with the links by which Apache sorts its listings.

    It does not tell the size of files that end with ``.gz``.
    """

    protocol_version = "HTTP/1.0"

    def send_header(self, keyword: str, value: str) -> None:
        if not (keyword == "Content-Length" and self.path.endswith((".gz", "/"))):
            super().send_header(keyword, value)

    def list_directory(self, path: Any) -> BytesIO | None:
        page = super().list_directory(path)
        return BytesIO(page.read() + b'<a href="?C=N;O=D">Name</a>') if page else None

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[FsspecStorageClient]:
    """A client of a web server for the files of the folder ``site``."""
    (tmp_path / "site" / "b").mkdir(parents=True)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Plain, directory=str(tmp_path / "site"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield FsspecStorageClient({"url": f"http://127.0.0.1:{server.server_port}/"})
        server.shutdown()
        thread.join()


def test_folder_over_http(site: FsspecStorageClient, tmp_path: Path) -> None:
    """A folder of a web server is downloaded; a file whose size the listing does not tell is not an empty file."""
    files = {"a": "AAAA", "b/c": "CC", "empty": ""}
    for name, content in files.items():
        (tmp_path / "site" / name).write_text(content)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a").touch()
    assert [each.size for each in site.list_files()] == [4, 2, 0]
    assert list(site.store.list_keys()) == sorted(files)
    assert site.download_dir("", tmp_path / "copy").transferred == 3
    assert files_in(tmp_path / "copy") == files
    assert {each.size for each in site.list_folder() if not isinstance(each, str)} == {4, 0}
    plan = site.sync_dir(site.url("b"), f"file://{tmp_path}/other", dry_run=True).plan
    (tmp_path / "site" / "b" / "c").write_text("DD")
    os.utime(tmp_path / "site" / "b" / "c", (1, 1))
    with pytest.raises(FolderError, match="changed after the plan"):
        site.apply_plan(plan)


def test_unknown_size(site: FsspecStorageClient, tmp_path: Path) -> None:
    """A file of unknown size is there, and neither equal to an empty file nor downloaded unverified."""
    (tmp_path / "site" / "a.gz").write_text("AAAA")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "a.gz").touch()
    assert site.file_exists("a.gz")
    calls: tuple[Callable[[], object], ...] = (
        lambda: site.info("a.gz"),
        lambda: site.download_file("a.gz", tmp_path / "copy" / "a.gz"),
        lambda: site.download_dir("", tmp_path / "copy"),
        lambda: list(site.list_files()),
    )
    for call in calls:
        with pytest.raises(StorageError, match=r"a\.gz: HTTPFileSystem does not tell the size"):
            call()
    assert files_in(tmp_path / "copy") == {"a.gz": ""}


def touched(path: Path, content: str) -> None:
    """Replace a file by another one of the same size, with another time."""
    before = path.stat().st_mtime
    path.write_text(content)
    os.utime(path, (before + 2, before + 2))


@pytest.mark.parametrize("change", ["extra", "source"])
def test_changed_since_plan(world: World, tmp_path: Path, change: str) -> None:
    """A file without an ETag that was replaced since the plan by one of the same size is neither deleted nor transferred."""
    for name in ("s/a", "m/extra"):
        (world.store / name).parent.mkdir()
        (world.store / name).write_text("old!")
    client = world.client
    plan = client.sync_dir(client.url("s"), client.url("m"), delete=True, dry_run=True).plan
    plan.save(tmp_path / "plan")
    touched(world.store / ("m/extra" if change == "extra" else "s/a"), "new!")
    with pytest.raises(FolderError, match="changed after the plan was made"):
        client.apply_plan(Plan.load(tmp_path / "plan"))
    assert (world.store / "m" / "extra").read_text() == ("new!" if change == "extra" else "old!")
    assert (world.store / "m" / "a").exists() is (change == "extra")


@pytest.mark.parametrize("scheme", ["file", "troubled"])
def test_move_onto_itself(world: World, scheme: str) -> None:
    """A move between two URLs of one folder deletes nothing."""
    (world.store / "m").mkdir()
    (world.store / "m" / "a").write_text("content")
    url = f"{scheme}://{world.store}/m"
    client: Any = storage_client_from_url(url) if scheme == "file" else FsspecStorageClient({"url": url, "x": "1"})
    source, target = StoredFolder(world.client.store, "m/"), StoredFolder(client.store, "")
    for options in (transfer.Options(removes=True), transfer.Options(removes=True, everything=True)):
        with pytest.raises(FolderError):
            transfer.transfer(source, target, options)
        assert files_in(world.store) == {"m/a": "content"}


class TwinFileSystem(TroubledFileSystem):
    """The same files under another protocol, as ``ssh`` is ``sftp``."""

    protocol = "twin"

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        return super()._strip_protocol(str(path).removeprefix("twin://"))


@pytest.mark.parametrize("url", ["twin://{}", "twin://{}/m", "troubled://{}/m"])
def test_nested(world: World, url: str) -> None:
    """A sync to a folder that lies in the source is refused, also by another URL of the same files."""
    for name in ("m/a", "m/n/a"):
        (world.store / name).parent.mkdir(parents=True, exist_ok=True)
        (world.store / name).write_text(name)
    fsspec.register_implementation("twin", TwinFileSystem)
    client = FsspecStorageClient({"url": url.format(world.store), "x": "1"})
    try:
        with pytest.raises(FolderError, match="one folder lies in the other"):
            client.sync_dir(RemoteFolder(world.client, "m"), RemoteFolder(client, "n" if url.endswith("m") else "m/n"))
    finally:
        _registry.pop("twin")
    assert files_in(world.store) == {"m/a": "m/a", "m/n/a": "m/n/a"}


@pytest.mark.parametrize("to", ["folder", "nothing", "itself", "file"])
def test_delete_links(world: World, tmp_path: Path, to: str) -> None:
    """A deletion deletes the link that the listing has, not the files behind it, or is a failure."""
    (tmp_path / "behind").mkdir()
    (tmp_path / "behind" / "file").write_text("kept")
    link = world.store / "m" / "link"
    link.parent.mkdir()
    names = {"folder": "behind", "nothing": "nothing", "itself": "store/m/link", "file": "behind/file"}
    link.symlink_to(tmp_path / names[to])
    (world.store / "m" / "a").write_text("a")
    assert world.client.delete_dir("m").deleted == 2
    assert list((world.store / "m").iterdir()) == []
    link.symlink_to(tmp_path / names[to])
    assert world.client.delete_file("m/link")
    assert not link.is_symlink()
    assert files_in(tmp_path / "behind") == {"file": "kept"}
    for missing in ("m/link", "m"):
        with pytest.raises(ObjectNotFoundError):
            world.client.delete_file(missing)


def test_link_to_file(world: World, tmp_path: Path) -> None:
    """A link to a file has the facts about that file in listings, too, so that it can be transferred."""
    (world.store / "m").mkdir()
    (world.store / "m" / "file").write_text("content")
    (world.store / "m" / "link").symlink_to("file")
    os.utime(world.store / "m" / "link", (1, 1), follow_symlinks=False)
    assert [each.last_modified for each in world.client.list_files("m/")] == [world.client.info("m/file").last_modified] * 2
    world.client.download_dir("m", tmp_path / "copy")
    assert files_in(tmp_path / "copy") == {"file": "content", "link": "content"}


@pytest.mark.parametrize("call", ["download_dir", "sync_dir", "check_dir"])
@pytest.mark.parametrize("url", ["file://{}/nope", "troubled://{}/nope", "zip://nope::{}/x.zip", "troubled://{}/x.zip"])
def test_missing_root(world: World, tmp_path: Path, url: str, call: str) -> None:
    """A source whose folder does not exist, or is a file, is an error, also where it is the root of the client."""
    with zipfile.ZipFile(world.store / "x.zip", "w") as archive:
        archive.writestr("in/a", "a")
    client: Any = storage_client_from_url(url.format(world.store))
    target = tmp_path / "copy"
    with pytest.raises((ObjectNotFoundError, NotADirectoryError)):
        client.download_dir("", target) if call == "download_dir" else getattr(client, call)(
            RemoteFolder(client, ""), target
        )
    assert not target.exists()


def test_empty_root(world: World, tmp_path: Path) -> None:
    """A source that exists and is empty is not an error."""
    local: Any = storage_client_from_url(f"file://{world.store}")
    for client in (world.client, local):
        assert client.download_dir("", tmp_path / "copy").transferred == 0
