"""moto receives exactly the requests that the documentation of `S3StorageClient` names."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from gllm_storage import ObjectExistsError, ObjectNotFoundError
from tests.conftest import make_rig
from tests.rig import MIB, SMALL_PARTS

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.rig import Rig

PUT_ANY = {"multipart_threshold": "5GB"}
"""The threshold that the documentation gives."""
IN_PARTS = [*["UploadPart"] * 3, "CompleteMultipartUpload"]


class Requests:
    """The requests of a client, in order."""

    def __init__(self, client: FsspecStorageClient) -> None:
        self.seen: list[tuple[str, Any]] = []
        events = client.filesystem.connection.client.meta.events
        events.register_first("before-send.s3", self._see)

    def _see(self, request: Any, event_name: str, **_: Any) -> None:
        self.seen.append((event_name.rpartition(".")[2], request))

    def taken(self) -> list[str]:
        """Operations since the last call."""
        return [operation for operation, _ in self._take()]

    def conditions(self) -> list[tuple[str, str | None]]:
        """Operations since the last call, with their ``If-None-Match``."""
        return [(operation, _text(request.headers.get("If-None-Match"))) for operation, request in self._take()]

    def _take(self) -> list[tuple[str, Any]]:
        taken, self.seen = self.seen, []
        return taken


def _text(header: str | bytes | None) -> str | None:
    return header.decode() if isinstance(header, bytes) else header


@pytest.fixture
def rig(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """Moto, in a process that cannot connect to any server."""

    def refuse(_: socket.socket, address: object) -> NoReturn:
        raise AssertionError(f"a request left the process, to {address}")

    rig = make_rig("moto", request)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    return rig


def new_file(folder: Path, size: int) -> Path:
    path = folder / "source.bin"
    path.write_bytes(os.urandom(size))
    return path


@pytest.mark.parametrize("size", [0, 1, 20 * MIB])
def test_upload_in_one_request(rig: Rig, tmp_path: Path, size: int) -> None:
    """Up to the threshold, an upload is exactly one PutObject."""
    client, source = rig.client(**PUT_ANY), new_file(tmp_path, size)
    requests = Requests(client)
    client.upload_file(source, "model.bin")
    assert requests.conditions() == [("PutObject", None)]
    client.upload_file(source, "model.bin")
    assert requests.conditions() == [("PutObject", None)]
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()


@pytest.mark.parametrize("size", [0, 1, 20 * MIB])
def test_create_in_one_request(rig: Rig, tmp_path: Path, size: int) -> None:
    """Up to the threshold, an exclusive create is a HeadObject and one conditional PutObject."""
    client, source = rig.client(**PUT_ANY), new_file(tmp_path, size)
    rig.second.put(rig.key("other.bin"), b"")
    assert client.file_exists("other.bin")  # the bucket is known from now on: no HeadBucket
    requests = Requests(client)
    client.upload_file(source, "model.bin", check_conflict=True)
    assert requests.conditions() == [("HeadObject", None), ("PutObject", "*")]
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    with pytest.raises(ObjectExistsError):
        client.upload_file(source, "model.bin", check_conflict=True)
    assert requests.conditions() == [("HeadObject", None)]


def test_upload_in_parts(rig: Rig, tmp_path: Path) -> None:
    """Above the threshold, a file is uploaded in parts."""
    client, source = rig.client(**SMALL_PARTS), new_file(tmp_path, 11 * MIB)
    requests = Requests(client)
    client.upload_file(source, "model.bin")
    assert requests.conditions() == [(operation, None) for operation in ["CreateMultipartUpload", *IN_PARTS]]
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()


def test_create_in_parts(rig: Rig, tmp_path: Path) -> None:
    """Above the threshold, an exclusive create is a precondition of CompleteMultipartUpload."""
    client, source = rig.client(**SMALL_PARTS), new_file(tmp_path, 11 * MIB)
    rig.second.put(rig.key("other.bin"), b"")
    assert client.file_exists("other.bin")
    requests = Requests(client)
    client.upload_file(source, "model.bin", check_conflict=True)
    assert requests.conditions() == [
        ("HeadObject", None),
        ("CreateMultipartUpload", None),
        *[("UploadPart", None)] * 3,
        ("CompleteMultipartUpload", "*"),
    ]
    assert rig.second.get(rig.key("model.bin")) == source.read_bytes()
    with pytest.raises(ObjectExistsError):
        client.upload_file(source, "model.bin", check_conflict=True)
    assert requests.conditions() == [("HeadObject", None)]
    assert rig.open_uploads() == []


def test_object_after_head_request(rig: Rig, tmp_path: Path) -> None:
    """The precondition decides if the object appears after the HEAD request."""
    source = new_file(tmp_path, 6 * MIB)
    for config, write in ((PUT_ANY, "PutObject"), (SMALL_PARTS, "CompleteMultipartUpload")):
        client, key = rig.client(**config), f"{write}.bin"

        def come_first(key: str = key, **_: Any) -> None:
            rig.second.put(rig.key(key), b"theirs")

        client.filesystem.connection.client.meta.events.register_first(f"before-send.s3.{write}", come_first)
        with pytest.raises(ObjectExistsError):
            client.upload_file(source, key, check_conflict=True)
        assert rig.second.get(rig.key(key)) == b"theirs"
    assert rig.open_uploads() == []


def test_first_missing_object(rig: Rig) -> None:
    """The first missing object of a bucket is followed by one HeadBucket."""
    client = rig.client()
    requests = Requests(client)
    assert client.file_exists("model.bin") is False
    assert requests.taken() == ["HeadObject", "HeadBucket"]
    assert client.file_exists("model.bin") is False
    assert requests.taken() == ["HeadObject"]


def test_file_exists(rig: Rig) -> None:
    """`file_exists` is one HeadObject."""
    rig.second.put(rig.key("model.bin"), b"content")
    client = rig.client()
    requests = Requests(client)
    assert client.file_exists("model.bin") is True
    assert requests.taken() == ["HeadObject"]
    assert client.file_exists("other.bin") is False
    assert requests.taken() == ["HeadObject"]


def test_delete_file(rig: Rig) -> None:
    """`delete_file` begins with a HeadObject, because DeleteObject does not report a missing object."""
    rig.second.put(rig.key("model.bin"), b"content")
    client = rig.client()
    requests = Requests(client)
    assert client.delete_file("model.bin") is True
    assert requests.taken() == ["HeadObject", "DeleteObject"]
    with pytest.raises(ObjectNotFoundError):
        client.delete_file("model.bin")
    assert requests.taken() == ["HeadObject"]


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
def test_download_in_one_request(rig: Rig, tmp_path: Path, size: int) -> None:
    """A download of one part is one GetObject."""
    content = os.urandom(size)
    rig.second.put(rig.key("model.bin"), content)  # with a checksum that moto returns
    client = rig.client(**SMALL_PARTS)
    requests = Requests(client)
    assert client.download_file("model.bin", tmp_path / "copy.bin").read_bytes() == content
    assert requests.taken() == ["GetObject"]


@pytest.mark.parametrize("size", [0, 1, 5 * MIB])
def test_download_without_checksum(rig: Rig, tmp_path: Path, size: int) -> None:
    """A download without a checksum is confirmed by a HeadObject."""
    client, source = rig.client(**SMALL_PARTS), new_file(tmp_path, size)
    client.upload_file(source, "model.bin")  # moto does not return the checksum of the upload
    requests = Requests(client)
    assert client.download_file("model.bin", tmp_path / "copy.bin").read_bytes() == source.read_bytes()
    assert requests.taken() == ["GetObject", "HeadObject"]


def test_confirmed_once(rig: Rig, tmp_path: Path) -> None:
    """A HeadObject that stated the size and the ETag of a version confirms later downloads of it, and no other version."""
    client, source = rig.client(), new_file(tmp_path, 10)

    def download() -> list[str]:
        requests = Requests(client)
        assert client.download_file("model.bin", tmp_path / "copy.bin").read_bytes() == source.read_bytes()
        return requests.taken()

    client.upload_file(source, "model.bin")
    assert client.info("model.bin").size == 10
    assert [download(), download()] == [["GetObject"]] * 2
    source.write_bytes(os.urandom(10))
    client.upload_file(source, "model.bin")
    assert [download(), download()] == [["GetObject", "HeadObject"], ["GetObject"]]


def test_download_in_parts(rig: Rig, tmp_path: Path) -> None:
    """A download in parts is pinned to the ETag of the first answer."""
    content = os.urandom(11 * MIB)
    rig.second.put(rig.key("model.bin"), content)
    client = rig.client(**SMALL_PARTS)
    requests = Requests(client)
    assert client.download_file("model.bin", tmp_path / "copy.bin").read_bytes() == content
    (first, whole), *gets = requests.seen
    assert first == "GetObject"
    assert whole.headers.get("Range") is None
    assert {operation for operation, _ in gets} == {"GetObject"}
    ranges = ["bytes=0-5242879", "bytes=10485760-11534335", "bytes=5242880-10485759"]
    assert sorted(str(_text(get.headers.get("Range"))) for _, get in gets) == ranges
    assert {_text(get.headers["If-Match"]) for _, get in gets} == {f'"{client.info("model.bin").etag}"'}


@pytest.mark.parametrize("config", [PUT_ANY, SMALL_PARTS], ids=["one-request", "parts"])
@pytest.mark.parametrize("size", [0, 1, 11 * MIB])
def test_requests_in_process(rig: Rig, tmp_path: Path, config: dict[str, str], size: int) -> None:
    """At any size, no request leaves the process."""
    client, source = rig.client(**config), new_file(tmp_path, size)
    url = client.upload_file(source, "model.bin", check_conflict=True)
    client.upload_file(source, "model.bin")
    assert client.download_file(url, tmp_path / "copy.bin").read_bytes() == source.read_bytes()
    with client.open(url) as handle:
        assert handle.read() == source.read_bytes()
    with client.open("written.bin", "wb") as handle:
        handle.write(source.read_bytes())
    assert [each.size for each in client.list_files()] == [size, size]
    assert client.info(url).size == size
    assert client.delete_file(url) is True
    assert client.delete_file("written.bin") is True
    assert client.file_exists(url) is False
    assert rig.keys() == []
    assert rig.open_uploads() == []
