"""Copies, moves and deletes of `S3FileSystem` on real servers, with boto3 as the second client."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import s3fs.core

from gllm_storage import (
    AccessDeniedError,
    BucketNotFoundError,
    ObjectNotFoundError,
    S3StorageClient,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop, stopped_by
from gllm_storage.errors import Remedy
from gllm_storage.folders import transfer
from gllm_storage.s3 import copy as copying
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.store.retry import RetryPolicy
from tests.conftest import make_rig
from tests.rig import BUCKET, MIB, server_rig
from tests.servers.base import S3Server
from tests.servers.process import clean_environment, find_program, run
from tests.waiting import eventually, main_waits

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Servers
    from tests.rig import Rig

CONTENT = bytes(range(256)) * (12 * MIB // 256)
OTHER = CONTENT[::-1]


@pytest.fixture(params=["ministack", "ceph"])
def rig(request: pytest.FixtureRequest) -> Rig:
    return make_rig(request.param, request)


@pytest.fixture
def filesystem(rig: Rig) -> S3FileSystem:
    """A filesystem with the storage options of a client."""
    return S3FileSystem(**rig.client().storage_options, engine="boto3", skip_instance_cache=True)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of more than 5 MiB are copied in parts of 5 MiB."""
    monkeypatch.setattr(s3fs.core, "MANAGED_COPY_THRESHOLD", 5 * MIB)
    monkeypatch.setattr(copying, "PART_SIZE", 5 * MIB)


def path(rig: Rig, name: str) -> str:
    return f"{BUCKET}/{rig.key(name)}"


def put(rig: Rig, name: str, content: bytes, **parameters: Any) -> None:
    rig.boto3.client.put_object(Bucket=BUCKET, Key=rig.key(name), Body=content, **parameters)


def head(rig: Rig, name: str) -> Any:
    return rig.boto3.client.head_object(Bucket=BUCKET, Key=rig.key(name))


def requests_of(filesystem: S3FileSystem) -> list[str]:
    """A list that receives the operation of each request from now on."""
    seen: list[str] = []
    filesystem.connection.client.meta.events.register("before-call.s3", lambda model, **_: seen.append(model.name))
    return seen


def on_request(filesystem: S3FileSystem, operation: str, act: Callable[[], object]) -> None:
    """Call a function once, before the first request of an operation is sent."""
    lock = threading.Lock()
    done: list[bool] = []

    def handler(**_: object) -> None:
        with lock:
            if done:
                return
            done.append(True)
        act()

    filesystem.connection.client.meta.events.register_first(f"before-send.s3.{operation}", handler)


def wait_for_stop() -> None:
    """Wait, in a thread of a transfer, until Ctrl-C has stopped the transfer."""
    stop = running_stop()
    assert stop is not None
    eventually(stop.is_set)


PROPERTIES = {
    "ContentType": "application/x-weights",
    "CacheControl": "no-store",
    "ContentEncoding": "zstd",
    "Metadata": {"epoch": "7"},
}


def test_small_copy(rig: Rig, filesystem: S3FileSystem) -> None:
    """A copy replaces the target, and keeps the metadata and headers of the source."""
    put(rig, "a", b"new", **PROPERTIES)
    put(rig, "b", b"old")
    seen = requests_of(filesystem)
    filesystem.cp_file(path(rig, "a"), f"s3://{path(rig, 'b')}")
    assert seen == ["HeadObject", "CopyObject"]
    assert rig.second.get(rig.key("b")) == b"new"
    assert {name: head(rig, "b")[name] for name in PROPERTIES} == PROPERTIES


def test_copy_to_other_endpoint(servers: Servers) -> None:
    """To another endpoint the client sends the content, although a bucket there has the name of the source, and its key."""
    source, target = (server_rig(name, servers.get(name)) for name in ("ceph", "ministack"))
    key = source.key("a")
    source.second.put(key, b"right")
    target.second.put(key, b"wrong")
    store = source.client().store
    store.copy(key, target.client().store, target.key("b"), store.transfer(key, "copy"))
    assert target.second.get(target.key("b")) == b"right"


@pytest.mark.parametrize("removes", [False, True])
def test_copy_to_other_tenant(servers: Servers, tmp_path: Path, removes: bool) -> None:
    """To a bucket of the same name that another tenant of Ceph has, the client sends the content."""
    server, name = servers.get("ceph"), f"tenant{removes}".lower()
    assert isinstance(server, S3Server)
    rig = server_rig("ceph", server)
    command = [find_program("radosgw-admin", "Ceph"), "user", "create", f"--tenant={name}", "--uid=x", "--display-name=x"]
    keys = [f"--access-key={name}", "--secret-key=secret"]
    run([*command, *keys], tmp_path / "log", clean_environment(tmp_path) | {"CEPH_CONF": server.configuration})
    config = {**rig.config, "aws_access_key_id": name, "aws_secret_access_key": "secret"}
    source, target = rig.client(), S3StorageClient(config)
    store: Any = target.store
    store.requests.connection.client.create_bucket(Bucket=BUCKET)
    for client, key, content in ((source, "m/x", b"new!"), (source, "n/x", b"KEEP"), (target, "n/x", b"old!")):
        client.upload(content, key)
    options = transfer.Options(removes=removes)
    transfer.transfer(source._remote_folder("m"), target._remote_folder("n"), options)
    with target.open("n/x") as file:
        assert file.read() == b"new!"
    assert rig.second.get(rig.key("n/x")) == b"KEEP"
    assert source.file_exists("m/x") is not removes


@pytest.mark.usefixtures("small_parts")
def test_copy_in_parts(rig: Rig, filesystem: S3FileSystem) -> None:
    """A copy in parts keeps the metadata and headers of the source."""
    put(rig, "a", CONTENT, **PROPERTIES)
    seen = requests_of(filesystem)
    filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert seen.count("UploadPartCopy") == 3
    assert rig.second.get(rig.key("b")) == CONTENT
    found = head(rig, "b")
    assert found["Metadata"].pop("gllm-write-id")
    assert {name: found[name] for name in PROPERTIES} == PROPERTIES
    assert rig.open_uploads() == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [10, len(CONTENT)])
def test_replaced_metadata(size: int, rig: Rig, filesystem: S3FileSystem) -> None:
    """A copy can have other metadata and headers."""
    put(rig, "a", CONTENT[:size], **PROPERTIES)
    replaced: dict[str, Any] = {"ContentType": "text/plain", "Metadata": {"epoch": "8"}, "MetadataDirective": "REPLACE"}
    filesystem.cp_file(path(rig, "a"), path(rig, "b"), **replaced)
    found = head(rig, "b")
    found["Metadata"].pop("gllm-write-id", None)
    assert (found["ContentType"], found["Metadata"]) == ("text/plain", {"epoch": "8"})
    assert "CacheControl" not in found


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [10, len(CONTENT)])
def test_tags(size: int, request: pytest.FixtureRequest) -> None:
    """A copy keeps the tags."""
    rig = make_rig("moto", request)  # MiniStack reports no number of tags, and Ceph 16 refuses tags of multipart uploads
    filesystem = S3FileSystem(**rig.client().storage_options, skip_instance_cache=True)
    put(rig, "a", CONTENT[:size], Tagging="model=v%203&stage=final")
    filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    tags = rig.boto3.client.get_object_tagging(Bucket=BUCKET, Key=rig.key("b"))["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"model": "v 3", "stage": "final"}


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [10, len(CONTENT)])
def test_storage_class(size: int, request: pytest.FixtureRequest) -> None:
    """A copy keeps the storage class, unless the caller sets another."""
    rig = make_rig("ministack", request)  # Ceph has only one storage class
    filesystem = S3FileSystem(**rig.client().storage_options, skip_instance_cache=True)
    put(rig, "a", CONTENT[:size], StorageClass="STANDARD_IA")
    filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert head(rig, "b")["StorageClass"] == "STANDARD_IA"
    filesystem.cp_file(path(rig, "a"), path(rig, "b"), StorageClass="ONEZONE_IA")
    assert head(rig, "b")["StorageClass"] == "ONEZONE_IA"


def upload_in_parts(rig: Rig) -> None:
    client: Any = rig.boto3.client
    place = {"Bucket": BUCKET, "Key": rig.key("a")}
    upload = client.create_multipart_upload(**place)["UploadId"]
    parts = [
        {
            "PartNumber": number,
            "ETag": client.upload_part(**place, UploadId=upload, PartNumber=number, Body=CONTENT[: size * MIB])["ETag"],
        }
        for number, size in enumerate([6, 5, 1], start=1)
    ]
    client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})


def test_preserved_etag(request: pytest.FixtureRequest) -> None:
    """A copy of a multipart object can keep the ETag."""
    rig = make_rig("moto", request)
    filesystem = S3FileSystem(**rig.client().storage_options, skip_instance_cache=True)
    upload_in_parts(rig)
    filesystem.cp_file(path(rig, "a"), path(rig, "b"), preserve_etag=True)
    assert head(rig, "b")["ETag"] == head(rig, "a")["ETag"]
    filesystem.cp_file(path(rig, "a"), path(rig, "c"))
    assert head(rig, "c")["ContentLength"] == 12 * MIB


def test_etag_without_part_sizes(rig: Rig, filesystem: S3FileSystem) -> None:
    """If the endpoint does not report the sizes of the parts, the ETag cannot be kept."""
    upload_in_parts(rig)
    with pytest.raises(StorageError, match="does not tell the lengths of its 3 parts"):
        filesystem.cp_file(path(rig, "a"), path(rig, "b"), preserve_etag=True)
    assert rig.keys() == ["a"]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [10, len(CONTENT)])
def test_missing_source_or_bucket(size: int, rig: Rig, filesystem: S3FileSystem) -> None:
    """A missing source is an ObjectNotFoundError, and a missing bucket is a BucketNotFoundError."""
    with pytest.raises(ObjectNotFoundError, match="/missing does not exist"):
        filesystem.cp_file(path(rig, "missing"), path(rig, "b"))
    put(rig, "a", CONTENT[:size])
    with pytest.raises(BucketNotFoundError, match="copy to s3://no-such-bucket/b of s3://"):
        filesystem.cp_file(path(rig, "a"), "no-such-bucket/b")
    with pytest.raises(BucketNotFoundError, match="no-such-bucket"):
        filesystem.cp_file("no-such-bucket/a", path(rig, "b"))
    assert rig.keys() == ["a"]


def test_exclusive_copy(rig: Rig, filesystem: S3FileSystem) -> None:
    """An exclusive copy is refused."""
    put(rig, "a", b"a")
    with pytest.raises(ValueError, match="mode='create'"):
        filesystem.cp_file(path(rig, "a"), path(rig, "b"), mode="create")
    assert rig.keys() == ["a"]


@pytest.mark.usefixtures("small_parts")
def test_replaced_source(rig: Rig, filesystem: S3FileSystem) -> None:
    """A source that is replaced during the copy gives a copy of one version."""
    put(rig, "a", CONTENT)
    on_request(filesystem, "UploadPartCopy", lambda: put(rig, "a", OTHER))
    filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert rig.second.get(rig.key("b")) == OTHER
    assert rig.open_uploads() == []


@pytest.mark.usefixtures("small_parts")
def test_source_replaced_repeatedly(rig: Rig, filesystem: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is replaced during each attempt is an error."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda *_: 0.0)
    put(rig, "a", CONTENT)
    contents = iter([OTHER, CONTENT] * 20)
    lock = threading.Lock()

    def replace(**_: object) -> None:
        with lock:
            put(rig, "a", next(contents))

    filesystem.connection.client.meta.events.register_first("before-send.s3.UploadPartCopy", replace)
    with pytest.raises(StorageUnavailableError, match="replaced during each") as caught:
        filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert caught.value.remedy is Remedy.REPEAT
    assert rig.keys() == ["a"]
    assert rig.open_uploads() == []


@pytest.mark.usefixtures("small_parts")
def test_deleted_source(rig: Rig, filesystem: S3FileSystem) -> None:
    """A source that is deleted during the copy is an ObjectNotFoundError, and no upload stays open."""
    put(rig, "a", CONTENT)
    delete = partial(rig.boto3.client.delete_object, Bucket=BUCKET, Key=rig.key("a"))
    on_request(filesystem, "UploadPartCopy", delete)
    with pytest.raises(ObjectNotFoundError):
        filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert rig.keys() == []
    assert rig.open_uploads() == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPartCopy", "CompleteMultipartUpload"])
def test_stopped_copy(operation: str, rig: Rig, filesystem: S3FileSystem) -> None:
    """A stopped copy leaves no upload and no object."""
    put(rig, "a", CONTENT)
    stop = Stop()
    on_request(filesystem, operation, stop.set)
    with stopped_by(stop), pytest.raises(TransferStopped):
        filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert rig.keys() == ["a"]
    assert rig.open_uploads() == []


@pytest.mark.usefixtures("small_parts")
def test_cancelled_copy(rig: Rig) -> None:
    """A cancelled copy leaves no open upload; the copy exists only if the cancellation came too late."""
    put(rig, "a", CONTENT)

    async def run() -> None:
        options = rig.client().storage_options
        filesystem = S3FileSystem(**options, engine="boto3", asynchronous=True, skip_instance_cache=True)
        begun = threading.Event()
        on_request(filesystem, "UploadPartCopy", begun.set)
        task = asyncio.ensure_future(filesystem._cp_file(path(rig, "a"), path(rig, "b")))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert rig.keys() in (["a"], ["a", "b"])  # the cancellation may have come too late
    assert rig.open_uploads() == []


@pytest.mark.usefixtures("small_parts")
def test_lost_completion(rig: Rig, filesystem: S3FileSystem) -> None:
    """If the answer to the completion is lost, the copy succeeds."""
    put(rig, "a", CONTENT)
    client: Any = filesystem.connection.client
    complete = client.complete_multipart_upload

    def and_again(**parameters: Any) -> Any:
        complete(**parameters)
        return complete(**parameters)  # an SDK repeats the request if the first answer is lost

    client.complete_multipart_upload = and_again
    filesystem.cp_file(path(rig, "a"), path(rig, "b"))
    assert rig.second.get(rig.key("b")) == CONTENT


def test_coroutines(rig: Rig) -> None:
    """The coroutines of the filesystem run on the caller's event loop."""
    put(rig, "a", b"a")

    async def run() -> None:
        filesystem = S3FileSystem(**rig.client().storage_options, asynchronous=True, skip_instance_cache=True)
        await filesystem._cp_file(path(rig, "a"), path(rig, "b"))
        await filesystem._mv(path(rig, "b"), path(rig, "c"))
        await filesystem._touch(path(rig, "d"))
        await filesystem._rm_file(path(rig, "a"))
        await filesystem._rm([path(rig, "d")])

    asyncio.run(run())
    assert rig.keys() == ["c"]


def test_failed_move(rig: Rig, filesystem: S3FileSystem) -> None:
    """A failed move keeps the source."""
    put(rig, "x/a", b"a")
    put(rig, "x/b", b"b")
    with pytest.raises(BucketNotFoundError):
        filesystem.mv(path(rig, "x"), "no-such-bucket/y", recursive=True)
    with pytest.raises(ObjectNotFoundError):
        filesystem.mv(path(rig, "missing"), path(rig, "y"))
    assert rig.keys() == ["x/a", "x/b"]


def test_move_onto_itself(rig: Rig, filesystem: S3FileSystem) -> None:
    """A move of an object onto itself changes nothing."""
    put(rig, "x/a", b"a")
    filesystem.mv(path(rig, "x/a"), f"s3://{path(rig, 'x/a')}")
    filesystem.mv(path(rig, "x/"), path(rig, "x"), recursive=True)
    assert rig.keys() == ["x/a"]


@pytest.mark.parametrize("target", ["y", "x/y"])
def test_moved_folder(target: str, rig: Rig, filesystem: S3FileSystem) -> None:
    """A folder is moved with all objects below it."""
    put(rig, "x/a", b"a")
    put(rig, "x/deep/b", b"b")
    filesystem.mv(path(rig, "x"), path(rig, target), recursive=True)
    assert rig.keys() == [f"{target}/a", f"{target}/deep/b"]


def test_move_with_maxdepth(rig: Rig, filesystem: S3FileSystem) -> None:
    """A move of one level keeps the deeper objects."""
    for name in ["x/a", "x/b", "x/deep/b"]:
        put(rig, name, b"")
    filesystem.mv(path(rig, "x"), path(rig, "y"), recursive=True, maxdepth=1)
    assert rig.keys() == ["x/deep/b", "y/a", "y/b"]


def test_rm_maxdepth(rig: Rig, filesystem: S3FileSystem) -> None:
    """`rm(path, recursive, maxdepth)` behaves as in the filesystems of fsspec."""
    for name in ("x/a", "x/y/b"):
        put(rig, name, CONTENT)
    filesystem.rm(path(rig, "x"), True, 1)
    assert rig.keys() == ["x/y/b"]


def test_delete_of_many_objects(rig: Rig, filesystem: S3FileSystem) -> None:
    """Many objects are deleted by few requests."""
    for number in range(12):
        put(rig, f"x/{number}", b"")
    put(rig, "xy", b"")
    put(rig, "x", b"")
    seen = requests_of(filesystem)
    deleted = filesystem.rm(path(rig, "x"), recursive=True)
    assert seen.count("DeleteObjects") == 1
    assert len(seen) == 3, seen  # and a listing and a HEAD request
    assert sorted(deleted) == sorted([path(rig, "x"), *(path(rig, f"x/{number}") for number in range(12))])
    assert rig.keys() == ["xy"]


def test_delete_of_missing_object(rig: Rig, filesystem: S3FileSystem) -> None:
    """Deleting a missing object is a FileNotFoundError."""
    put(rig, "x/a", b"a")
    for missing in ["missing", "x", "x/missing"]:
        with pytest.raises(ObjectNotFoundError, match=f"{missing} does not exist"):
            filesystem.rm(path(rig, missing))
        with pytest.raises(ObjectNotFoundError, match=missing):
            filesystem.rm_file(path(rig, missing))
    with pytest.raises(FileNotFoundError):
        filesystem.rm([path(rig, "x/a"), path(rig, "missing")])
    with pytest.raises(FileNotFoundError):
        filesystem.rm(path(rig, "missing"), recursive=True)
    with pytest.raises(FileNotFoundError):
        filesystem.rm("no-such-bucket/a")
    assert rig.keys() == ["x/a"]


def test_delete_by_list_and_pattern(rig: Rig, filesystem: S3FileSystem) -> None:
    """Objects can be deleted by a list of paths, and by a pattern."""
    for name in ["a1", "a2", "b1", "b2", "c/d/e"]:
        put(rig, name, b"")
    filesystem.rm([path(rig, "a1"), f"s3://{path(rig, 'b2')}"])
    assert rig.keys() == ["a2", "b1", "c/d/e"]
    filesystem.rm(path(rig, "?[12]"))
    assert rig.keys() == ["c/d/e"]
    filesystem.rm(path(rig, "*"), recursive=True)
    assert rig.keys() == []


def test_deleted_bucket(rig: Rig, filesystem: S3FileSystem) -> None:
    """A bucket with objects is deleted only if the delete is recursive."""
    bucket = rig.prefix
    rig.boto3.client.create_bucket(Bucket=bucket)
    filesystem.touch(f"{bucket}/a/b")
    with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOTEMPTY):
        filesystem.rm(bucket)
    filesystem.rm(bucket, recursive=True)
    assert not filesystem.exists(bucket)


def test_failed_delete(rig: Rig, filesystem: S3FileSystem) -> None:
    """A failed delete among many is raised, and a passing one is repeated."""
    put(rig, "a", b"")
    put(rig, "b", b"")
    client: Any = filesystem.connection.client
    answers: list[Any] = [
        {"Errors": [{"Key": rig.key("a"), "Code": "SlowDown"}]},
        {"Errors": [{"Key": rig.key("a"), "Code": "AccessDenied", "Message": "no"}]},
    ]
    asked = []

    def delete_objects(**parameters: Any) -> Any:
        asked.append([each["Key"] for each in parameters["Delete"]["Objects"]])
        return answers.pop(0)

    client.delete_objects = delete_objects
    with pytest.raises(AccessDeniedError, match=r"delete of s3://models/.*/a failed: no"):
        filesystem.rm([path(rig, "a"), path(rig, "b")])
    assert asked == [[rig.key("a"), rig.key("b")], [rig.key("a")]]


def test_touched_object(rig: Rig, filesystem: S3FileSystem) -> None:
    """A touch creates an empty object, or with truncate=False refuses an existing one."""
    filesystem.touch(path(rig, "a"), truncate=False)
    assert rig.second.get(rig.key("a")) == b""
    put(rig, "a", b"content")
    with pytest.raises(ValueError, match="exists and was not changed"):
        filesystem.touch(path(rig, "a"), truncate=False)
    assert rig.second.get(rig.key("a")) == b"content"
    filesystem.touch(path(rig, "a"), ContentType="text/plain")
    assert rig.second.get(rig.key("a")) == b""
    assert head(rig, "a")["ContentType"] == "text/plain"
    with pytest.raises(BucketNotFoundError):
        filesystem.touch("no-such-bucket/a")


def test_errors_of_s3fs_methods(rig: Rig, filesystem: S3FileSystem) -> None:
    """Methods that are inherited from s3fs raise the errors of the library."""
    denied = S3FileSystem(**{**rig.client().storage_options, "secret": "wrong", "key": "wrong"}, skip_instance_cache=True)
    with pytest.raises(FileNotFoundError, match="no such bucket") as missing:
        filesystem.ls("no-such-bucket")
    assert isinstance(missing.value, BucketNotFoundError)
    with pytest.raises(StorageError, match="InvalidBucketName"):
        filesystem.mkdir("no")
    if rig.name == "ceph":  # MiniStack accepts any credentials
        with pytest.raises(AccessDeniedError):
            denied.ls(BUCKET)
    dead = S3FileSystem(**{**rig.client().storage_options, "endpoint_url": "http://127.0.0.1:9"}, skip_instance_cache=True)
    dead.retries = 1
    with pytest.raises(StorageUnavailableError):
        dead.find(BUCKET)
    with contextlib.suppress(StorageError):
        dead.metadata(path(rig, "a"))


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("verb", ["cp_file", "copy", "mv"])
def test_ctrl_c_during_copy(verb: str, rig: Rig, filesystem: S3FileSystem) -> None:
    """After Ctrl-C, no copy appears later."""
    put(rig, "a", CONTENT)

    def interrupt() -> None:
        eventually(main_waits)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for_stop()  # a copy that is complete before the stop would remain

    on_request(filesystem, "UploadPartCopy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(filesystem, verb)(path(rig, "a"), path(rig, "b"))
    assert rig.open_uploads() == []
    assert rig.keys() == ["a"]


def test_ctrl_c_during_delete(rig: Rig, filesystem: S3FileSystem) -> None:
    """After Ctrl-C, no delete is sent later."""
    put(rig, "a", b"a")
    put(rig, "b", b"b")

    def interrupt() -> None:
        eventually(main_waits)
        os.kill(os.getpid(), signal.SIGINT)
        wait_for_stop()

    on_request(filesystem, "DeleteObjects", interrupt)
    with pytest.raises(KeyboardInterrupt):
        filesystem.rm([path(rig, "a"), path(rig, "b")])
    there = rig.keys()
    time.sleep(0.3)
    assert rig.keys() == there
