"""The four documented verbs, on every store: what they return, what they raise, and what they leave."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import (
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    NonAtomicWriteWarning,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
)
from tests.rig import MIB, SMALL_PARTS, TRAITS

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.rig import Rig

    Verb = Callable[[FsspecStorageClient, str, Path], object]

SMALL = 100
LARGE = 5 * MIB + 1
SIZES = {
    "nothing": 0,
    "one-byte": 1,
    "one-part": 5 * MIB,
    "one-part-and-a-byte": LARGE,
    "several-parts": 11 * MIB + 3,
}
WITH_BUCKETS = [name for name, traits in TRAITS.items() if traits.has_buckets]

READERS: dict[str, Verb] = {
    "download_file": lambda client, path, folder: client.download_file(path, folder / "made" / "copy.bin"),
    "delete_file": lambda client, path, _: client.delete_file(path),
    "info": lambda client, path, _: client.info(path),
    "open": lambda client, path, _: client.open(path),
}
VERBS: dict[str, Verb] = {
    **READERS,
    "file_exists": lambda client, path, _: client.file_exists(path),
    "list_files": lambda client, path, _: list(client.list_files(path)),
    "upload_file": lambda client, path, folder: client.upload_file(folder / "source.bin", path),
    "check_conflict": lambda client, path, folder: client.upload_file(folder / "source.bin", path, check_conflict=True),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A local folder that holds nothing; the store ``file`` is elsewhere."""
    made = tmp_path / "local"
    made.mkdir()
    return made


def new_file(folder: Path, size: int = SMALL, name: str = "source.bin") -> Path:
    path = folder / name
    path.write_bytes(os.urandom(size))
    return path


def in_parts(rig: Rig, **config: str) -> FsspecStorageClient:
    """A client that sends a file of `LARGE` in parts, where there is such a thing."""
    return rig.client(**(SMALL_PARTS if rig.provider == "s3" else {}), **config)


def failures(verbs: dict[str, Verb], client: FsspecStorageClient, path: str, folder: Path) -> dict[str, Exception | None]:
    """What each verb raises."""
    return {name: _failure(verb, client, path, folder) for name, verb in verbs.items()}


def _failure(verb: Verb, client: FsspecStorageClient, path: str, folder: Path) -> Exception | None:
    try:
        verb(client, path, folder)
    except Exception as error:  # noqa: BLE001 - which one it is, the test says
        return error
    return None


def kinds(raised: dict[str, Exception | None]) -> dict[str, type[object]]:
    return {name: type(error) for name, error in raised.items()}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_a_file_of_any_size_makes_the_round_trip_and_leaves_nothing(rig: Rig, folder: Path, size: int) -> None:
    client, source, copy = in_parts(rig), new_file(folder, size), folder / "new" / "folder" / "copy.bin"

    url = client.upload_file(source, "v3/model.bin")
    assert url == f"{rig.scheme}://{rig.base}{rig.key('v3/model.bin')}"
    assert rig.second.get(rig.key("v3/model.bin")) == source.read_bytes()
    assert client.file_exists(url) is True
    assert client.info(url).size == size

    downloaded = client.download_file(url, copy)
    assert isinstance(downloaded, Path)
    assert downloaded == copy
    assert copy.read_bytes() == source.read_bytes()
    assert os.listdir(copy.parent) == ["copy.bin"]

    assert client.delete_file(url) is True
    assert client.file_exists(url) is False
    assert rig.keys() == []
    assert rig.open_uploads() == []


def test_arguments_have_the_documented_names_order_and_types(
    rig: Rig, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    client, content = rig.client(), new_file(folder).read_bytes()
    by_name = client.upload_file(local_path=Path("source.bin"), remote_path="model.bin", check_conflict=False)
    assert client.upload_file("source.bin", "model.bin", False) == by_name
    assert client.download_file(remote_path="model.bin", local_path=Path("one.bin")) == Path("one.bin")
    assert client.download_file("model.bin", "two.bin") == Path("two.bin")
    assert (folder / "one.bin").read_bytes() == (folder / "two.bin").read_bytes() == content
    assert client.file_exists(remote_path="model.bin") is True
    assert client.info(remote_path="model.bin") == client.info("model.bin")
    assert client.delete_file(remote_path="model.bin") is True
    assert sorted(os.listdir(folder)) == ["one.bin", "source.bin", "two.bin"]


def test_an_object_is_named_by_relative_path_root_path_or_url(rig: Rig, folder: Path) -> None:
    client, source, url = rig.client(), new_file(folder), f"{rig.scheme}://{rig.base}{rig.prefix}/v3/model.bin"
    for path in ("v3/model.bin", f"/{rig.prefix}/v3/model.bin", url):
        assert client.upload_file(source, path) == url == client.url(path)
        assert rig.keys() == ["v3/model.bin"]
        assert client.file_exists(path) is True
        assert client.info(path).url == url
        assert client.download_file(path, folder / "copy.bin").read_bytes() == source.read_bytes()
        assert client.delete_file(path) is True
        assert rig.keys() == []


def test_without_a_prefix_a_relative_path_begins_at_the_root(rig: Rig, folder: Path) -> None:
    client = rig.client(prefix="")
    assert client.upload_file(new_file(folder), rig.key("model.bin")) == rig.client().url("model.bin")
    assert rig.keys() == ["model.bin"]


def test_a_url_of_another_bucket_or_scheme_is_refused(rig: Rig, folder: Path) -> None:
    client = rig.client()
    new_file(folder)
    own = client.url("model.bin").removeprefix(f"{rig.scheme}://")
    for url in (f"{rig.scheme}://elsewhere/model.bin", f"{rig.scheme}:///elsewhere/model.bin", f"ftp://{own}"):
        raised = failures(VERBS, client, url, folder)
        assert kinds(raised) == dict.fromkeys(VERBS, ValueError)
        assert all(url in str(error) for error in raised.values())
    assert rig.keys() == []


def test_an_upload_replaces_what_is_there(rig: Rig, folder: Path) -> None:
    client = rig.client()
    for size in (10, SMALL, 10, 0, 1):
        source = new_file(folder, size)
        client.upload_file(source, "model.bin")
        assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
        assert client.info("model.bin").size == size
    assert rig.keys() == ["model.bin"]


def test_a_download_replaces_the_local_file(rig: Rig, folder: Path) -> None:
    client, copy = rig.client(), new_file(folder, 10 * SMALL, "copy.bin")
    rig.second.put(rig.key("model.bin"), b"short")
    client.download_file("model.bin", copy)
    assert copy.read_bytes() == b"short"
    assert os.listdir(folder) == ["copy.bin"]


@pytest.mark.parametrize("rig", ["ceph", "ceph-tls"], indirect=True)
@pytest.mark.parametrize("config", [{"multipart_threshold": "5GB"}, {"part_size": "16MiB"}], ids=["request", "parts"])
def test_requests_too_large_to_be_held_in_memory_make_the_round_trip(rig: Rig, folder: Path, config: dict[str, str]) -> None:
    client, source = rig.client(**config), new_file(folder, 20 * MIB)
    client.upload_file(source, "model.bin")
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    assert client.download_file("model.bin", folder / "copy.bin").read_bytes() == source.read_bytes()
    assert rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_check_conflict_creates_once_and_leaves_the_first_object_as_it_was(
    creating_rig: Rig, folder: Path, size: int
) -> None:
    rig, client, first = creating_rig, in_parts(creating_rig), new_file(folder, size, "first.bin")
    url = client.upload_file(first, "model.bin", check_conflict=True)
    assert url == client.url("model.bin")
    as_it_was = client.info(url)
    with pytest.raises(ObjectExistsError) as caught:
        client.upload_file(new_file(folder, size, "second.bin"), url, True)
    assert isinstance(caught.value, FileExistsError)
    assert url in str(caught.value)
    assert client.info(url) == as_it_was
    assert rig.second.get(rig.key("model.bin")) == first.read_bytes()
    assert rig.keys() == ["model.bin"]
    assert rig.open_uploads() == []


def test_check_conflict_finds_what_another_client_wrote(creating_rig: Rig, folder: Path) -> None:
    rig, client, source = creating_rig, creating_rig.client(), new_file(folder)
    for existing in (b"", b"theirs"):
        rig.second.put(rig.key("model.bin"), existing)
        for path in (source, new_file(folder, 0, "empty.bin")):
            with pytest.raises(ObjectExistsError):
                client.upload_file(path, "model.bin", check_conflict=True)
        assert rig.second.get(rig.key("model.bin")) == existing
    client.delete_file("model.bin")
    client.upload_file(source, "model.bin", check_conflict=True)
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    assert rig.keys() == ["model.bin"]


def test_check_conflict_in_parts_finds_what_another_client_wrote(parts_rig: Rig, folder: Path) -> None:
    parts_rig.second.put(parts_rig.key("model.bin"), b"theirs")
    with pytest.raises(ObjectExistsError):
        in_parts(parts_rig).upload_file(new_file(folder, LARGE), "model.bin", check_conflict=True)
    assert parts_rig.second.get(parts_rig.key("model.bin")) == b"theirs"
    assert parts_rig.keys() == ["model.bin"]
    assert parts_rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_store_that_cannot_create_exclusively_says_so_before_anything_is_written(
    careless_rig: Rig, folder: Path, size: int
) -> None:
    rig, client, source = careless_rig, in_parts(careless_rig), new_file(folder, size)
    rig.second.put(rig.key("theirs.bin"), b"theirs")
    for path in ("model.bin", "theirs.bin"):
        with pytest.raises(ConflictCheckUnsupportedError, match="best-effort"):
            client.upload_file(source, path, check_conflict=True)
    assert rig.keys() == ["theirs.bin"]
    assert rig.second.get(rig.key("theirs.bin")) == b"theirs"
    assert rig.open_uploads() == []


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_best_effort_looks_first_and_warns_that_this_can_race(careless_rig: Rig, folder: Path, size: int) -> None:
    rig, source = careless_rig, new_file(folder, size)
    client = in_parts(rig, conditional_writes="best-effort")
    with pytest.warns(NonAtomicWriteWarning, match=r"model\.bin"):
        client.upload_file(source, "model.bin", check_conflict=True)
    with pytest.warns(NonAtomicWriteWarning), pytest.raises(ObjectExistsError):
        client.upload_file(new_file(folder, size, "second.bin"), "model.bin", check_conflict=True)
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    assert rig.keys() == ["model.bin"]
    assert rig.open_uploads() == []


def test_a_prefix_is_not_a_file(rig: Rig, folder: Path) -> None:
    rig.second.put(rig.key("dir/sub/model.bin"), b"content")
    client = rig.client()
    for prefix in ("dir", "dir/sub"):
        assert client.file_exists(prefix) is False
        assert kinds(failures(READERS, client, prefix, folder)) == dict.fromkeys(READERS, ObjectNotFoundError)
    assert rig.keys() == ["dir/sub/model.bin"]
    assert os.listdir(folder) == []


def test_a_missing_object_is_a_file_not_found_that_names_it(rig: Rig, folder: Path) -> None:
    client = rig.client()
    assert client.file_exists("absent.bin") is False
    raised = failures(READERS, client, "absent.bin", folder)
    assert kinds(raised) == dict.fromkeys(READERS, ObjectNotFoundError)
    assert issubclass(ObjectNotFoundError, FileNotFoundError)
    assert not issubclass(ObjectNotFoundError, RuntimeError)
    assert all(client.url("absent.bin") in str(error) for error in raised.values())
    assert os.listdir(folder) == []
    assert rig.keys() == []


def test_a_failed_download_leaves_the_local_file_as_it_was(rig: Rig, folder: Path) -> None:
    copy = new_file(folder, name="copy.bin")
    content = copy.read_bytes()
    with pytest.raises(ObjectNotFoundError):
        rig.client().download_file("absent.bin", copy)
    assert copy.read_bytes() == content
    assert os.listdir(folder) == ["copy.bin"]


def test_a_missing_local_file_is_a_plain_file_not_found(rig: Rig, folder: Path) -> None:
    client = rig.client()
    new_file(folder)
    for name in ("absent.bin", "absent/source.bin", "source.bin/below"):
        with pytest.raises(FileNotFoundError) as caught:
            client.upload_file(folder / name, "model.bin")
        assert type(caught.value) is FileNotFoundError
        assert caught.value.filename == str(folder / name)
    assert rig.keys() == []


def test_a_folder_is_neither_source_nor_target(rig: Rig, folder: Path) -> None:
    client = rig.client()
    with pytest.raises(StorageError, match="is a directory"):
        client.upload_file(folder, "model.bin")
    assert rig.keys() == []
    client.upload_file(new_file(folder), "model.bin")
    with pytest.raises(StorageError, match="is a directory"):
        client.download_file("model.bin", folder)
    assert os.listdir(folder) == ["source.bin"]


@pytest.mark.parametrize("rig", WITH_BUCKETS, indirect=True)
def test_a_missing_bucket_is_not_a_missing_file(rig: Rig, folder: Path) -> None:
    new_file(folder)
    raised = failures(VERBS, rig.client_of("no-such-bucket"), "model.bin", folder)
    assert kinds(raised) == dict.fromkeys(VERBS, BucketNotFoundError)
    assert not issubclass(BucketNotFoundError, FileNotFoundError)
    assert all("no-such-bucket" in str(error) for error in raised.values())
    assert os.listdir(folder) == ["source.bin"]


def test_what_another_client_writes_is_seen_at_once(rig: Rig, folder: Path) -> None:
    client, copy = rig.client(), folder / "copy.bin"
    # Looked for and listed before: whatever were remembered of that would be wrong soon.
    assert client.file_exists("v3/model.bin") is False
    assert list(client.list_files()) == []
    for content in (b"first", b"a longer second", b""):
        rig.second.put(rig.key("v3/model.bin"), content)
        assert client.file_exists("v3/model.bin") is True
        assert client.info("v3/model.bin").size == len(content)
        assert [(each.url, each.size) for each in client.list_files()] == [(client.url("v3/model.bin"), len(content))]
        assert client.download_file("v3/model.bin", copy).read_bytes() == content
        assert _content(client.open("v3/model.bin")) == content
    rig.second.put(rig.key("v3/other.bin"), b"other")
    assert [each.url for each in client.list_files("v3/")] == [client.url("v3/model.bin"), client.url("v3/other.bin")]


def test_what_another_of_our_clients_deletes_is_gone_at_once(rig: Rig, folder: Path) -> None:
    client, other = rig.client(), rig.client()
    rig.second.put(rig.key("model.bin"), b"theirs")
    assert client.info("model.bin").size == len(b"theirs")
    assert len(list(client.list_files())) == 1
    assert other.delete_file("model.bin") is True
    assert rig.keys() == []
    assert client.file_exists("model.bin") is False
    assert list(client.list_files()) == []
    assert kinds(failures(READERS, client, "model.bin", folder)) == dict.fromkeys(READERS, ObjectNotFoundError)


def _content(handle: Any) -> bytes:
    with handle:
        content: bytes = handle.read()
    return content
