"""Each server of the rig stores objects, and answers a conditional write as the table in `__init__.py` says.

Other tests rely on this behaviour. If a new release of a server changes it, a test of this module fails, and names the
cause.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.waiting import eventually

from . import (
    S3Server,
    ServerFactory,
    ServerUnavailableError,
    ceph,
    ceph_tls,
    juicefs,
    ministack,
    ministack_tls,
    rclone,
    rclone_tls,
    reject,
    require,
    seaweedfs,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.server

BUCKET = "bucket"
FACTORIES: list[ServerFactory[S3Server]] = [
    ministack,
    ministack_tls,
    ceph,
    ceph_tls,
    rclone,
    rclone_tls,
    reject,
    seaweedfs,
    juicefs,
]
# The status of PutObject and CompleteMultipartUpload with If-None-Match: * if the object exists.
ANSWERS = {
    "ministack": (412, 412),
    "ceph": (412, 200),
    "rclone": (200, 200),
    "reject": (501, 501),
    "seaweedfs": (412, 412),
    "juicefs": (200, 200),
}


def connect(server: S3Server) -> "S3Client":
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        verify=server.ca_bundle,
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            # By default botocore sends trailers over https; radosgw 16 and rclone answer 411 to that.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def status_of(call: Callable[[], object]) -> int:
    try:
        call()
    except ClientError as error:
        return error.response["ResponseMetadata"]["HTTPStatusCode"]
    return 200


def upload_part(client: "S3Client", key: str, body: bytes) -> tuple[str, str]:
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    part = client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=body)
    return upload, part["ETag"]


def get(client: "S3Client", key: str) -> bytes:
    with contextlib.closing(client.get_object(Bucket=BUCKET, Key=key)["Body"]) as body:
        return body.read()


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"  # a zombie only waits for init


def listening_addresses(pids: tuple[int, ...]) -> list[str]:
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the server has closed it
                sockets.add(os.readlink(descriptor))
    addresses = []
    for table, listening in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == listening and f"socket:[{rest[5]}]" in sockets:
                addresses.append(local.partition(":")[0])
    return addresses


@pytest.fixture(scope="module", params=FACTORIES, ids=lambda factory: factory.__name__)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with require(request.param, tmp_path_factory.mktemp("server")) as running:
        yield running
    eventually(lambda: not any(is_running(pid) for pid in running.pids))


@pytest.fixture(scope="module")
def client(server: S3Server) -> Iterator["S3Client"]:
    connection = connect(server)
    connection.create_bucket(Bucket=BUCKET)
    yield connection
    connection.close()


def test_basic_operations(client: "S3Client") -> None:
    """Each server stores, lists and deletes objects."""
    client.put_object(Bucket=BUCKET, Key="directory/object", Body=b"content", Metadata={"token": "value"})

    assert get(client, "directory/object") == b"content"
    metadata = client.head_object(Bucket=BUCKET, Key="directory/object")["Metadata"]
    assert {name.lower(): value for name, value in metadata.items()} == {"token": "value"}  # rclone says "Token"
    listing = client.list_objects_v2(Bucket=BUCKET, Prefix="directory/")
    assert [entry["Key"] for entry in listing["Contents"]] == ["directory/object"]

    client.delete_object(Bucket=BUCKET, Key="directory/object")
    assert status_of(lambda: client.head_object(Bucket=BUCKET, Key="directory/object")) == 404


def test_conditional_put_over_object(server: S3Server, client: "S3Client") -> None:
    """A conditional put of an existing object ends as the table of servers says."""
    answer, _ = ANSWERS[server.name]
    client.put_object(Bucket=BUCKET, Key="put", Body=b"old")

    assert status_of(lambda: client.put_object(Bucket=BUCKET, Key="put", Body=b"new", IfNoneMatch="*")) == answer
    assert get(client, "put") == (b"new" if answer == 200 else b"old")


def test_conditional_completion(server: S3Server, client: "S3Client") -> None:
    """A conditional completion over an existing object ends as the table of servers says."""
    _, answer = ANSWERS[server.name]
    client.put_object(Bucket=BUCKET, Key="multipart", Body=b"old")
    upload, etag = upload_part(client, "multipart", b"new")

    def complete() -> None:
        client.complete_multipart_upload(
            Bucket=BUCKET,
            Key="multipart",
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": etag}]},
            IfNoneMatch="*",
        )

    assert status_of(complete) == answer
    assert get(client, "multipart") == (b"new" if answer == 200 else b"old")


def test_conditional_put(server: S3Server, client: "S3Client") -> None:
    """A conditional put of a new object ends as the table of servers says."""
    answer = status_of(lambda: client.put_object(Bucket=BUCKET, Key="new", Body=b"new", IfNoneMatch="*"))

    assert answer == (501 if server.name == "reject" else 200)


def test_listening_address(server: S3Server) -> None:
    """Each server listens on the loopback address only."""
    addresses = listening_addresses(server.pids)

    assert addresses
    assert set(addresses) == {"0100007F"}  # 127.0.0.1, as the kernel spells it


def test_two_clusters(tmp_path: Path) -> None:
    """Two clusters of Ceph can run at the same time."""
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        directory.mkdir()

    with require(ceph, directories[0]) as one, ceph(directories[1]) as other:
        for cluster in (one, other):
            with contextlib.closing(connect(cluster)) as connection:
                connection.create_bucket(Bucket=BUCKET)
                assert [bucket["Name"] for bucket in connection.list_buckets()["Buckets"]] == [BUCKET]


def test_dies_with_test_process(tmp_path: Path) -> None:
    """A server is killed when its test process is killed."""
    program = (
        "import os, pathlib, signal, sys, servers\n"
        "with servers.rclone(pathlib.Path(sys.argv[1])) as server:\n"
        "    print(*server.pids, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with require(rclone, tmp_path):
        pass  # the program is available
    directory = tmp_path / "killed"
    directory.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", program, str(directory)],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    pids = [int(pid) for pid in child.stdout.split()]

    assert pids
    eventually(lambda: not any(is_running(pid) for pid in pids))


def test_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program skips the test, and fails it in CI."""
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    monkeypatch.setattr(sys, "executable", os.fspath(tmp_path / "python"))

    monkeypatch.setenv("CI", "false")
    with pytest.raises(pytest.skip.Exception, match="apt-get install"), require(ceph, tmp_path):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(ServerUnavailableError, match="apt-get install"), require(ceph, tmp_path):
        pass
