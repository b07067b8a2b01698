"""`GCSFileSystem` and its store on a server: zonal buckets, arguments of gcsfs, and the requests."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
from google.oauth2.credentials import Credentials

from gllm_storage import ConflictCheckUnsupportedError, GCSStorageClient, ObjectNotFoundError
from gllm_storage.errors import Remedy
from gllm_storage.gcs import GCSFileSystem
from gllm_storage.testing.faults import DropResponse
from tests.promises.faulty import GCS, NAME, behind_proxy, content_of
from tests.rig import GoogleClient, gcs_config
from tests.servers import GCSServer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

LARGE = GCS.large


@pytest.fixture
def zonal(servers: Servers) -> GCSStorageClient:
    """A client of a zonal bucket."""
    server = servers.get("gcs-fake")
    assert isinstance(server, GCSServer)
    bucket, google = f"zonal-{uuid.uuid4().hex[:8]}", GoogleClient(server)
    connection = google.client._connection
    connection.api_request("POST", "/b", data={"name": bucket, "locationType": "zone"}, query_params={"project": "p"})
    return GCSStorageClient(gcs_config(server, bucket))


def test_zonal_bucket(zonal: GCSStorageClient, tmp_path: Path) -> None:
    """A zonal bucket refuses exclusive creates, nothing is written, and other writes work."""
    (tmp_path / "a").write_bytes(b"a")
    with pytest.raises(ConflictCheckUnsupportedError, match="zonal") as caught:
        zonal.upload_file(tmp_path / "a", "a", check_conflict=True)
    assert caught.value.remedy is Remedy.NO_CONFLICT_CHECK
    with pytest.raises(ConflictCheckUnsupportedError):
        zonal.open("a", "xb")
    with pytest.raises(ConflictCheckUnsupportedError):
        zonal.filesystem.pipe_file(zonal.url("a"), b"a", mode="create")
    assert list(zonal.list_files()) == []
    zonal.upload_file(tmp_path / "a", "a")
    assert zonal.file_exists("a")


def test_bucket_type_once(servers: Servers, tmp_path: Path) -> None:
    """The verbs and the filesystem request the type of a bucket once."""
    (tmp_path / "a").write_bytes(b"a")
    with behind_proxy(GCS, servers) as faulty:
        client = faulty.client()
        for name in ("a", "b"):
            client.upload_file(tmp_path / "a", name, check_conflict=True)
        client.filesystem.pipe_file(client.url("c"), b"c", mode="create")
        assert len(faulty.sent("GetStorageLayout")) == 1


def test_properties(servers: Servers, tmp_path: Path) -> None:
    """The metadata and properties of a write are stored, beside the write-id."""
    with behind_proxy(GCS, servers) as faulty:
        client = faulty.client()
        for size in (10, LARGE):
            (tmp_path / "a").write_bytes(content_of(size))
            client.filesystem.put_file(
                str(tmp_path / "a"),
                client.url(NAME),
                metadata={"step": "7"},
                content_type="text/plain",
                cache_control="no-store",
            )
            blob = faulty.rig.google.bucket.get_blob(faulty.rig.key(NAME))
            assert blob.metadata["step"] == "7"
            assert set(blob.metadata) == {"step", "gllm_write_id"}
            assert (blob.content_type, blob.cache_control) == ("text/plain", "no-store")


def test_unknown_argument(servers: Servers, tmp_path: Path) -> None:
    """An unknown argument of a write is refused, and nothing is written."""
    (tmp_path / "a").write_bytes(b"a")
    with behind_proxy(GCS, servers) as faulty:
        client = faulty.client()
        with pytest.raises(TypeError, match="overwrte"):
            client.filesystem.put_file(str(tmp_path / "a"), client.url(NAME), overwrte=False)
        faulty.assert_holds(None)


def test_resumed_session(servers: Servers, tmp_path: Path) -> None:
    """A resumable upload continues after the last byte that the store has kept."""
    content = content_of(LARGE)
    (tmp_path / "a").write_bytes(content)
    with behind_proxy(GCS, servers) as faulty:
        faulty.inject("ResumableChunk", DropResponse())  # the store keeps the chunk; the answer is lost
        faulty.client().upload_file(tmp_path / "a", NAME)
        assert faulty.get() == content
        assert len(faulty.sent("ResumableStatus")) == 1
        sent = sum(entry.body_bytes for entry in faulty.proxy.requests if entry.operation.startswith("Resumable"))
        assert sent < LARGE + 100_000  # no chunk was sent twice


def test_credentials(servers: Servers, tmp_path: Path) -> None:
    """Every request carries the credentials, including the requests of upload sessions."""
    (tmp_path / "a").write_bytes(content_of(LARGE))
    with behind_proxy(GCS, servers) as faulty:
        make: Any = Credentials
        filesystem = GCSFileSystem(
            token=make("t0ken"),
            endpoint_url=faulty.proxy.url,
            part_size=2**20,
            multipart_threshold=2**20,
            skip_instance_cache=True,
        )
        path = f"models/{faulty.rig.key(NAME)}"
        filesystem.put_file(str(tmp_path / "a"), path, mode="create")
        filesystem.get_file(path, str(tmp_path / "b"))
        filesystem.rm_file(path)
        assert {entry.headers.get("authorization") for entry in faulty.proxy.requests} == {"Bearer t0ken"}


def test_settings_of_requests(servers: Servers, tmp_path: Path) -> None:
    """The billed project, the storage class and the key reach the store."""
    (tmp_path / "a").write_bytes(b"a")
    with behind_proxy(GCS, servers) as faulty:
        config = {"project": "payer", "requester_pays": "true", "storage_class": "NEARLINE", "kms_key_name": "k/1"}
        client = faulty.client(**config)
        client.upload_file(tmp_path / "a", NAME)
        client.download_file(NAME, tmp_path / "b")
        assert [each.url for each in client.list_files()] == [client.url(NAME)]
        assert all("userProject=payer" in entry.query for entry in faulty.proxy.requests)
        assert "kmsKeyName=k%2F1" in faulty.sent("UploadMultipart")[0].query
        blob = faulty.rig.google.bucket.get_blob(faulty.rig.key(NAME))
        assert blob.storage_class == "NEARLINE"


def test_version_aware_writes(servers: Servers) -> None:
    """Writes of a version-aware filesystem keep the promises."""
    with behind_proxy(GCS, servers) as faulty:
        client = faulty.client()
        filesystem = GCSFileSystem(**client.storage_options, version_aware=True, skip_instance_cache=True)
        url = client.url(NAME)

        def fail() -> None:
            with filesystem.open(url, "wb") as file:
                file.write(content_of(LARGE))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert not client.file_exists(NAME)
        with filesystem.open(url, "xb") as file:
            file.write(b"first")
        with pytest.raises(FileExistsError), filesystem.open(url, "xb") as file:
            file.write(b"second")
        with pytest.raises(ValueError, match="names a version"):
            filesystem.open(f"{url}#17", "wb")
        assert filesystem.cat_file(url) == b"first"


def test_generations(servers: Servers, tmp_path: Path) -> None:
    """A generation of an object in a versioned bucket is read by its path, also after the object was deleted."""
    server = servers.get("fake-gcs-server")
    assert isinstance(server, GCSServer)
    google = GoogleClient(server).client
    bucket = google.bucket(f"versions-{uuid.uuid4().hex[:8]}")
    bucket.versioning_enabled = True
    google.create_bucket(bucket)
    blob = bucket.blob("a")
    blob.upload_from_string(b"old")
    old = f"{bucket.name}/a#{blob.generation}"
    bucket.blob("a").upload_from_string(b"newer")
    options: dict[str, Any] = {"token": "anon", "endpoint_url": server.endpoint_url, "skip_instance_cache": True}
    filesystem = GCSFileSystem(**options, version_aware=True)
    assert (filesystem.cat_file(f"{bucket.name}/a"), filesystem.size(f"{bucket.name}/a")) == (b"newer", 5)
    for is_deleted in (False, True):
        if is_deleted:
            bucket.blob("a").delete()
            assert not filesystem.exists(f"{bucket.name}/a")
        assert filesystem.exists(old)
        assert filesystem.isfile(old)
        assert filesystem.info(old)["size"] == 3
        assert filesystem.modified(old) == filesystem.info(old)["mtime"]
        assert filesystem.cat([old]) == {old: b"old"}
        assert filesystem.cat_ranges([old, old], [0, 1], [1, 3]) == [b"o", b"ld"]
        assert (filesystem.read_block(old, 1, 2), filesystem.head(old, 2), filesystem.tail(old, 1)) == (b"ld", b"ol", b"d")
        for name, get in [("1", filesystem.get_file), ("2", filesystem.get)]:
            get(old, str(tmp_path / name))
            assert (tmp_path / name).read_bytes() == b"old"
    missing = f"{bucket.name}/a#1"
    assert not filesystem.exists(missing)
    for call in (filesystem.info, filesystem.open, filesystem.cat_file, filesystem.cat, filesystem.size):
        with pytest.raises(ObjectNotFoundError, match="#1"):
            call(missing)
    with pytest.raises(ObjectNotFoundError):
        filesystem.get_file(missing, str(tmp_path / "1"))
    assert (tmp_path / "1").read_bytes() == b"old"
    assert not GCSFileSystem(**options).exists(old)
