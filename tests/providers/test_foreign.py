"""Provider ``fsspec``: the verbs on filesystems that are not ours, and what they promise there."""

from __future__ import annotations

import os
import threading
import zipfile
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, known_implementations

from gllm_storage import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    FsspecStorageClient,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    get_storage_client,
    storage_client_from_url,
)
from gllm_storage.info import url_in_listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    "list_files": "find",
    "list_folder": "ls",
}


class TroubledFileSystem(LocalFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """A folder under a protocol of its own, with a trouble that a test chooses."""

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

    def find(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return self._do("find", path, *args, **kwargs)

    def ls(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return self._do("ls", path, *args, **kwargs)


@dataclass(frozen=True)
class World:
    """A client on a foreign filesystem.

    Attributes:
        client: The client.
        troubles: What goes wrong in its filesystem, by the name of the method; nothing yet.
        store: The folder behind it.
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
    """A client on `TroubledFileSystem`, which fsspec knows by its name, as it knows those of other packages."""
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


def test_the_verbs_work_on_a_filesystem_that_is_not_ours(memory: str, folder: Path) -> None:
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


def test_a_url_of_another_protocol_gives_the_same_client(world: World) -> None:
    assert storage_client_from_url(f"troubled://{world.store}") == world.client
    assert get_storage_client("fsspec", {"url": f"troubled://{world.store}/"}).url("a") == world.client.url("a")
    assert world.client.url("a") == f"troubled://{world.store}/a"


def test_a_filesystem_that_is_registered_as_a_class_is_known(tmp_path: Path) -> None:
    # fsspec keeps these apart from the names of classes that it imports on first use.
    fsspec.register_implementation("troubled", TroubledFileSystem)
    try:
        client = FsspecStorageClient({"url": f"troubled://{tmp_path}"})
        assert isinstance(client.filesystem, TroubledFileSystem)
    finally:
        _registry.pop("troubled")


def test_storage_options_reach_the_filesystem(tmp_path: Path) -> None:
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


def test_a_filesystem_that_cannot_write_says_so(tmp_path: Path, folder: Path) -> None:
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
def test_check_conflict_is_refused_and_nothing_is_written(world: World, existing: bytes | None) -> None:
    if existing is not None:
        (world.store / "model.bin").write_bytes(existing)
    with pytest.raises(ConflictCheckUnsupportedError, match="TroubledFileSystem"):
        world.client.upload_file(world.folder / "source.bin", "model.bin", check_conflict=True)
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
def test_whatever_a_filesystem_raises_is_one_of_our_errors_with_its_cause(
    world: World, call: str, raised: Exception, expected: type[Exception]
) -> None:
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


@pytest.mark.parametrize("call", ["file_exists", "list_files", "list_folder"])
def test_what_cannot_be_told_is_not_taken_for_absent(world: World, call: str) -> None:
    world.troubles[FAILS[call]] = failing(ConnectionResetError("reset"))
    with pytest.raises(StorageUnavailableError, match="reset"):
        CALLS[call](world.client, world.folder)


class _Answering(BaseHTTPRequestHandler):
    """Answers everything by the status that the path names."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.strip("/").partition("/")[0]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the name that the base class looks for

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """URL of a web server that answers by the status that the path names."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("call", [name for name in CALLS if name not in {"upload_file", "delete_file"}])
def test_a_host_that_does_not_answer_is_not_taken_for_one_without_the_file(call: str, folder: Path) -> None:
    client = FsspecStorageClient({"url": "http://127.0.0.1:1/models"})
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1:1.* Check the network"):
        CALLS[call](client, folder)


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
def test_an_answer_that_tells_nothing_of_the_file_is_not_taken_for_its_absence(
    web: str, call: str, status: int, expected: type[StorageError], folder: Path
) -> None:
    client = FsspecStorageClient({"url": f"{web}/{status}"})
    with pytest.raises(expected) as caught:
        CALLS[call](client, folder)
    assert type(caught.value) is expected
    assert caught.value.status == status


def test_a_404_is_the_absence_of_a_file(web: str, folder: Path) -> None:
    client = FsspecStorageClient({"url": f"{web}/404"})
    assert client.file_exists("model.bin") is False
    assert list(client.list_files()) == []
    for name in ("download_file", "info"):
        with pytest.raises(ObjectNotFoundError):
            CALLS[name](client, folder)


def test_an_error_that_the_caller_is_handling_is_no_cause_of_an_absence(world: World) -> None:
    def look_while_handling() -> bool:
        try:
            failing(ConnectionResetError("of something else"))()
        except ConnectionResetError:
            return world.client.file_exists("model.bin")
        return True

    assert look_while_handling() is False


def test_a_missing_file_is_named_by_its_url(world: World) -> None:
    assert world.client.file_exists("model.bin") is False
    assert list(world.client.list_files()) == []
    for name in ("download_file", "delete_file", "info"):
        with pytest.raises(ObjectNotFoundError, match=world.client.url("model.bin")) as caught:
            CALLS[name](world.client, world.folder)
        assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert os.listdir(world.folder) == ["source.bin"]


def test_a_folder_is_not_a_file(world: World) -> None:
    (world.store / "model.bin").mkdir()
    (world.store / "model.bin" / "part").write_bytes(CONTENT)
    assert world.client.file_exists("model.bin") is False
    for name in ("download_file", "delete_file", "info"):
        with pytest.raises(ObjectNotFoundError):
            CALLS[name](world.client, world.folder)
    assert (world.store / "model.bin" / "part").exists()


@pytest.mark.parametrize("before", [None, b"as it was"])
def test_a_download_that_fails_half_way_leaves_the_local_file_as_it_was(world: World, before: bytes | None) -> None:
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


def test_a_download_of_too_few_bytes_is_an_integrity_error(world: World) -> None:
    (world.store / "model.bin").write_bytes(CONTENT)
    (world.folder / "copy.bin").write_bytes(b"as it was")
    world.troubles["get_file"] = lambda _, lpath, **__: Path(lpath).write_bytes(CONTENT[:-1])
    with pytest.raises(IntegrityError, match=f"{len(CONTENT) - 1} of {len(CONTENT)} bytes"):
        world.client.download_file("model.bin", world.folder / "copy.bin")
    assert (world.folder / "copy.bin").read_bytes() == b"as it was"
    assert sorted(os.listdir(world.folder)) == ["copy.bin", "source.bin"]


def test_an_upload_that_arrives_short_is_an_integrity_error(world: World) -> None:
    world.troubles["put_file"] = lambda _, rpath, **__: Path(rpath).write_bytes(CONTENT[:-1])
    with pytest.raises(IntegrityError, match=f"{len(CONTENT)} bytes were sent and {len(CONTENT) - 1} are stored"):
        world.client.upload_file(world.folder / "source.bin", "model.bin")


def test_a_source_that_changes_while_it_is_sent_is_an_error(world: World) -> None:
    def change_and_store(lpath: str, rpath: str, **_: Any) -> None:
        Path(rpath).write_bytes(CONTENT)
        Path(lpath).write_bytes(b"another file by now")

    world.troubles["put_file"] = change_and_store
    with pytest.raises(StorageError, match="changed while it was read"):
        world.client.upload_file(world.folder / "source.bin", "model.bin")


def test_a_download_starts_over_when_the_file_is_replaced(world: World) -> None:
    (world.store / "model.bin").write_bytes(b"first version")

    def replaced_once(_: str, lpath: str, **__: Any) -> None:
        mixed = b"fi" + CONTENT[2:]  # of both versions, and as long as the second
        Path(lpath).write_bytes(mixed)
        (world.store / "model.bin").write_bytes(CONTENT)
        del world.troubles["get_file"]

    world.troubles["get_file"] = replaced_once
    assert world.client.download_file("model.bin", world.folder / "copy.bin").read_bytes() == CONTENT


def test_a_download_gives_up_when_the_file_is_replaced_again_and_again(world: World) -> None:
    versions = iter(range(100))

    def replaced(_: str, lpath: str, **__: Any) -> None:
        Path(lpath).write_bytes((world.store / "model.bin").read_bytes())
        (world.store / "model.bin").write_bytes(b"x" * next(versions))

    (world.store / "model.bin").write_bytes(CONTENT)
    (world.folder / "copy.bin").write_bytes(b"as it was")
    world.troubles["get_file"] = replaced
    with pytest.raises(StorageUnavailableError, match="again and again"):
        world.client.download_file("model.bin", world.folder / "copy.bin")
    assert (world.folder / "copy.bin").read_bytes() == b"as it was"
    assert next(versions) < 20


def test_a_missing_local_file_is_a_plain_file_not_found(world: World) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        world.client.upload_file(world.folder / "absent.bin", "model.bin")
    assert type(caught.value) is FileNotFoundError
    assert list(world.client.list_files()) == []


@pytest.mark.parametrize("url", ["nothing://bucket/models", "nothing"])
def test_a_url_that_nobody_knows_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="nothing"):
        FsspecStorageClient({"url": url})
