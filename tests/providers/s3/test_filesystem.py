"""`S3FileSystem` beneath the verbs: one test for each finding of a review."""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest
from awscrt.checksums import crc64nvme
from botocore.exceptions import ClientError

from gllm_storage import IntegrityError, StorageError, get_storage_client
from gllm_storage.concurrency.stop import Stop, stopped_by
from gllm_storage.errors import ErrorDetails
from gllm_storage.s3.body import ChecksumHeaders
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.multipart import MultipartUpload
from gllm_storage.s3.probe import plan_overwrite
from gllm_storage.s3.upload import S3Upload
from gllm_storage.store.port import UploadRequest, nothing
from tests.rig import BUCKET, MIB, SMALL_PARTS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers
    from tests.rig import Rig

pytestmark = pytest.mark.usefixtures("mocked_aws")


@pytest.fixture
def moto_rig(request: pytest.FixtureRequest) -> Rig:
    """Moto in this process."""
    from tests.conftest import make_rig

    return make_rig("moto", request)


def before(client: Any, operation: str, act: Any) -> None:
    """Call a function before each request of an operation is sent."""
    events = client.filesystem.connection.client.meta.events

    def handler(**_: object) -> None:  # None does not prevent the request
        act()

    events.register_first(f"before-send.s3.{operation}", handler)


@pytest.mark.parametrize("check_conflict", [True, False])
@pytest.mark.parametrize("size", [10, 6 * MIB])
def test_changed_local_file(size: int, check_conflict: bool, moto_rig: Rig, tmp_path: Path) -> None:
    """A local file that changes after its size was read is not stored."""
    file = tmp_path / "a"
    file.write_bytes(b"a" * size)
    client = moto_rig.client(**SMALL_PARTS)
    operation = "HeadObject" if check_conflict else "CreateMultipartUpload"
    if not check_conflict and size == 10:
        # The only request reads the small file at once, so the file is changed at the start of the upload.
        store: Any = client.store
        upload = store.upload
        store.upload = lambda request: (file.write_bytes(b"b" * 11), upload(request))
    else:
        before(client, operation, lambda: file.write_bytes(b"b" * (size + 1)))
    with pytest.raises(StorageError, match="changed while it was read"):
        client.upload_file(file, "a", check_conflict=check_conflict)
    assert moto_rig.keys() == []
    assert moto_rig.open_uploads() == []


@pytest.mark.parametrize("config", [{"requester_pays": "true"}, {"expected_bucket_owner": "123456789012"}], ids=str)
@pytest.mark.parametrize("size", [10, 6 * MIB])
def test_common_parameters(size: int, config: dict[str, str], moto_rig: Rig, tmp_path: Path) -> None:
    """The common request parameters are sent with each request."""
    (tmp_path / "a").write_bytes(b"a" * size)
    client = moto_rig.client(**SMALL_PARTS, **config)
    client.upload_file(tmp_path / "a", "a", check_conflict=True)
    client.download_file("a", tmp_path / "b")
    assert [info.size for info in client.list_files()] == [size]
    client.delete_file("a")


def test_abort_by_stopped_thread(moto_rig: Rig) -> None:
    """A stopped thread can still abort its multipart upload."""
    store: Any = moto_rig.client().store
    created = store.connection.client.create_multipart_upload(Bucket=BUCKET, Key=moto_rig.key("a"))
    transfer = store.transfer(moto_rig.key("a"), "upload")
    request = UploadRequest(moto_rig.key("a"), nothing(transfer.details), transfer)
    wanted = S3Upload(request, store.requests, plan_overwrite(0, store.settings), store.settings)
    upload = MultipartUpload(wanted, {}, transfer.stop)
    upload._upload_id = created["UploadId"]
    stop = Stop()
    stop.set()
    with stopped_by(stop):
        upload.discard()
    assert moto_rig.open_uploads() == []


def test_cancelled_waiting_uploads(moto_rig: Rig, tmp_path: Path) -> None:
    """Uploads that are cancelled before they begin store nothing."""
    (tmp_path / "a").write_bytes(b"a")
    client = moto_rig.client(max_concurrency="1")
    filesystem = client.filesystem
    cancelled = threading.Event()
    before(client, "PutObject", cancelled.wait)  # otherwise the second upload may begin before it is cancelled

    async def run() -> list[object]:
        paths = [f"{BUCKET}/{moto_rig.key(str(number))}" for number in range(30)]
        tasks = [asyncio.ensure_future(filesystem._put_file(str(tmp_path / "a"), path)) for path in paths]
        await asyncio.sleep(0)
        for task in tasks[1:]:
            task.cancel()
        cancelled.set()
        outcomes: list[object] = await asyncio.gather(*tasks, return_exceptions=True)
        return outcomes

    outcomes = asyncio.run(run())
    assert sum(isinstance(each, asyncio.CancelledError) for each in outcomes) == 29
    assert moto_rig.keys() == ["0"]


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "PutObject")  # type: ignore[typeddict-item]  # less than a complete answer


def test_refused_checksums(caplog: pytest.LogCaptureFixture) -> None:
    """Checksums are left out only after the endpoint has refused them."""
    headers, details = ChecksumHeaders(limit=5), ErrorDetails("s3", "s3://bucket/a", "upload")
    sent: list[dict[str, str]] = []

    def put_object(**parameters: str) -> str:
        sent.append(parameters)
        if "Checksum" in parameters:
            raise refused("InvalidArgument" if len(sent) > 1 else "RequestTimeout")
        return "stored"

    with pytest.raises(ClientError):
        headers.call(put_object, {"Checksum": "c"}, details, Key="a")
    assert headers.accepted == {}
    with caplog.at_level(logging.WARNING):
        assert headers.call(put_object, {"Checksum": "c"}, details, Key="a") == "stored"
    assert "refuses checksums on put_object" in caplog.text
    assert headers.call(put_object, {"Checksum": "c"}, details, Key="a") == "stored"
    assert sent[-1] == {"Key": "a"}


def crc(content: bytes) -> str:
    return base64.b64encode(crc64nvme(content).to_bytes(8, "big")).decode()


def test_appended_object(servers: Servers, tmp_path: Path) -> None:
    """An object that another client appended to is not reported as damaged."""
    client, second = ceph_and_second(servers)
    kept = {"gllm-crc64nvme": f"{crc(b'old')}-3"}
    second.put_object(Bucket=BUCKET, Key="appended", Body=b"old and new", Metadata=kept)
    assert client.download_file("/appended", tmp_path / "a").read_bytes() == b"old and new"


def test_truncated_object(servers: Servers, tmp_path: Path) -> None:
    """An object that the store truncated is an IntegrityError."""
    client, second = ceph_and_second(servers)
    kept = {"gllm-crc64nvme": f"{crc(b'old and new')}-11"}
    second.put_object(Bucket=BUCKET, Key="cut", Body=b"old", Metadata=kept)
    with pytest.raises(IntegrityError):
        client.download_file("/cut", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def ceph_and_second(servers: Servers) -> tuple[Any, Any]:
    """A client and boto3 on a store that keeps no checksums. Moto does not intercept requests to other hosts."""
    from tests.rig import plain_boto3, s3_config

    server = servers.s3("ceph")
    return get_storage_client("s3", s3_config(server)), plain_boto3(server)


@pytest.fixture
def versioned(servers: Servers) -> tuple[Any, Any, str]:
    """boto3, a version-aware filesystem, and a versioned bucket."""
    from tests.rig import new_prefix, plain_boto3, s3_config

    server = servers.s3("ministack")
    second, bucket = plain_boto3(server), new_prefix()
    second.create_bucket(Bucket=bucket)
    second.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    options = get_storage_client("s3", s3_config(server)).storage_options
    return second, S3FileSystem(**options, version_aware=True, skip_instance_cache=True), bucket


def test_object_version(versioned: tuple[Any, Any, str], tmp_path: Path) -> None:
    """A version of an object can be read by its id, and by its URL."""
    second, filesystem, bucket = versioned
    old = second.put_object(Bucket=bucket, Key="a", Body=b"old")["VersionId"]
    second.put_object(Bucket=bucket, Key="a", Body=b"newer")
    path, of_old = f"{bucket}/a", f"{bucket}/a?versionId={old}"
    assert filesystem.cat_file(path) == b"newer"
    assert filesystem.cat_file(path, version_id=old) == filesystem.cat_file(of_old) == b"old"
    assert filesystem.info(path)["size"] == 5
    assert filesystem.info(path, version_id=old)["size"] == filesystem.info(of_old)["size"] == 3
    assert filesystem.exists(of_old)
    assert filesystem.isfile(of_old)
    for name, source, options in [("1", path, {"version_id": old}), ("2", of_old, {})]:
        filesystem.get_file(source, str(tmp_path / name), **options)
        assert (tmp_path / name).read_bytes() == b"old"
    filesystem.get_file(path, str(tmp_path / "3"))
    assert (tmp_path / "3").read_bytes() == b"newer"
    with filesystem.open(of_old) as file:
        assert file.read() == b"old"
    filesystem.get(of_old, str(tmp_path / "4"))
    assert (tmp_path / "4").read_bytes() == b"old"
    assert (filesystem.cat(of_old), filesystem.cat([of_old, path])) == (b"old", {of_old: b"old", path: b"newer"})
    assert (filesystem.size(of_old), filesystem.head(of_old), filesystem.read_text(of_old)) == (3, b"old", "old")
    assert filesystem.checksum(of_old) != filesystem.checksum(path)
    filesystem.cp_file(of_old, path)
    assert second.get_object(Bucket=bucket, Key="a")["Body"].read() == b"old"
    with pytest.raises(ValueError, match="names a version"):
        filesystem.cp_file(path, of_old)
    with pytest.raises(ValueError, match="names a version"):
        filesystem.touch(of_old)


def test_missing_version(versioned: tuple[Any, Any, str], tmp_path: Path) -> None:
    """The download of a missing version keeps the local file."""
    second, filesystem, bucket = versioned
    second.put_object(Bucket=bucket, Key="a", Body=b"content")
    (tmp_path / "a").write_bytes(b"before")
    with pytest.raises((FileNotFoundError, StorageError)):
        filesystem.get_file(f"{bucket}/a", str(tmp_path / "a"), version_id="0" * 32)
    assert (tmp_path / "a").read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_version_unaware_filesystem(moto_rig: Rig, tmp_path: Path) -> None:
    """A version id is refused unless the filesystem is version-aware."""
    filesystem = moto_rig.client().filesystem
    with pytest.raises(ValueError, match="version_aware"):
        filesystem.get_file(f"{BUCKET}/a", str(tmp_path / "a"), version_id="1")


def test_parameters_of_open_file(servers: Servers) -> None:
    """An open file sends the request parameters that `open` received."""
    from tests.rig import plain_boto3, s3_config

    server = servers.s3("ministack")
    plain_boto3(server).put_object(Bucket=BUCKET, Key="own", Body=b"content")
    filesystem = S3FileSystem(**get_storage_client("s3", s3_config(server)).storage_options, skip_instance_cache=True)
    with filesystem.open(f"{BUCKET}/own", requester_pays=True) as file:
        assert file.req_kw == {"RequestPayer": "requester"}
        assert file.read() == b"content"
    with filesystem.open(f"{BUCKET}/own", ResponseContentType="text/plain") as file:
        assert file.s3_additional_kwargs["ResponseContentType"] == "text/plain"
        assert file.read() == b"content"
    with filesystem.open(f"{BUCKET}/own") as file:
        assert file.req_kw == {}
        assert file.read() == b"content"
