"""Objects above 5 GB, for which S3 requires multipart uploads, and the maximum of `multipart_threshold`."""

from __future__ import annotations

import dataclasses
import random
import time
from typing import TYPE_CHECKING

import pytest

from gllm_storage.testing.faults import Answer, Fault, FaultProxy, Match, Refuse
from tests.rig import BUCKET, MIB, plain_boto3, server_rig
from tests.servers import localbucket, require

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers
    from tests.servers import S3Server

GB = 10**9
LARGE = 5_100_000_000
MARKS = {0: b"the beginning", 8 * MIB - 4: b"over the end of a part", 2**32 - 3: b"over 4 GiB", LARGE - 7: b"the end"}
"""The non-zero bytes of the sparse file, by offset."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    """A sparse file of 5.1 GB."""
    return sparse(tmp_path / "large", LARGE)


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, mark in MARKS.items():
            if offset + len(mark) <= size:
                file.seek(offset)
                file.write(mark)
    return path


@pytest.fixture
def disk_server(tmp_path: Path) -> Iterator[S3Server]:
    """A server that stores objects on the disk and deletes them after the test."""
    with require(localbucket, tmp_path) as server:
        second = plain_boto3(server)
        second.create_bucket(Bucket=BUCKET)
        yield server
        for each in second.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            second.delete_object(Bucket=BUCKET, Key=each["Key"])


def test_create_5_1_gb(
    disk_server: S3Server, large_file: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The first exclusive create of 5.1 GB succeeds, and the second raises a conflict."""
    rig = dataclasses.replace(server_rig("ministack", disk_server), name="localbucket")
    # The server joins the parts before it answers; on a busy disk this exceeds the default timeout of a minute.
    client = rig.client(read_timeout="600s")
    begun = time.monotonic()

    client.upload_file(large_file, "large", check_conflict=True)

    uploaded = time.monotonic()
    second = plain_boto3(disk_server)
    assert second.head_object(Bucket=BUCKET, Key=rig.key("large"))["ContentLength"] == LARGE
    for offset, mark in MARKS.items():
        around = f"bytes={max(0, offset - 1)}-{min(LARGE, offset + len(mark) + 1) - 1}"
        content = second.get_object(Bucket=BUCKET, Key=rig.key("large"), Range=around)["Body"].read()
        assert content == (b"\0" if offset else b"") + mark + (b"\0" if offset + len(mark) < LARGE else b"")
    with FaultProxy(disk_server.endpoint_url) as proxy:
        watched = dataclasses.replace(rig, config={**rig.config, "endpoint_url": proxy.url})
        with pytest.raises(FileExistsError):
            watched.client(conditional_writes="enforced").upload_file(large_file, "large", check_conflict=True)
        assert sum(entry.body_bytes for entry in proxy.requests) == 0, "the refused upload has sent content first"
    assert rig.keys() == ["large"]
    uploads = tmp_path / "buckets" / ".localbucket-uploads"  # the server has no listing of open uploads
    assert [path for path in uploads.rglob("*") if path.is_file()] == []
    record_property("seconds", uploaded - begun)
    print(f"5.1 GB were uploaded in {uploaded - begun:.0f} s")


@pytest.mark.parametrize(("size", "operation"), [(5 * GB, "PutObject"), (LARGE, "CreateMultipartUpload")])
def test_threshold_of_5_gb(size: int, operation: str, servers: Servers, tmp_path: Path) -> None:
    """With a threshold of 5 GB, an object of 5 GB is one PutObject, and a larger one a multipart upload."""
    server = servers.s3("ministack")
    with FaultProxy(server.endpoint_url) as proxy:
        rig = server_rig("ministack", server, proxy.url)
        # The first operation decides the test, so the proxy stops the request before its 5 GB are sent.
        for each, action in (("PutObject", Refuse()), ("CreateMultipartUpload", Answer(403, "AccessDenied"))):
            proxy.inject(Fault(Match(operation=each), action, times=None))
        client = rig.client(multipart_threshold="5GB", conditional_writes="enforced", max_attempts="1")

        with pytest.raises(RuntimeError):
            client.upload_file(sparse(tmp_path / "large", size), "large", check_conflict=True)

        assert {entry.operation for entry in proxy.requests} - {"HeadObject", "HeadBucket"} == {operation}
        sent = [entry for entry in proxy.requests if entry.operation == "PutObject"]
        assert all(entry.headers["content-length"] == str(size) for entry in sent)
        assert all(entry.headers["if-none-match"] == "*" for entry in sent)
        assert rig.keys() == []


@pytest.mark.parametrize("store", ["ministack", "ceph"])
def test_large_put(store: str, servers: Servers, tmp_path: Path) -> None:
    """One PutObject can be larger than the buffers in memory."""
    rig = server_rig(store, servers.get(store))
    content = random.Random(0).randbytes(20 * MIB)
    (tmp_path / "file").write_bytes(content)
    client = rig.client(multipart_threshold="5GB")

    client.upload_file(tmp_path / "file", "file", check_conflict=True)

    assert rig.second.get(rig.key("file")) == content
    assert "-" not in str(client.info("file").etag)
    with pytest.raises(FileExistsError):
        client.upload_file(tmp_path / "file", "file", check_conflict=True)
