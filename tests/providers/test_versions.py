"""Published versions on the servers: the complete life of a version, and publishers at the same moment."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import random
import re
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from gllm_storage import MemoryStorageClient, get_storage_client, versions
from gllm_storage.errors import ObjectExistsError
from gllm_storage.files.partial import PartialFile
from gllm_storage.files.source import SourceChangedError
from gllm_storage.s3.multipart import MultipartUpload
from gllm_storage.testing.faults import FaultProxy
from gllm_storage.versions import copying
from gllm_storage.versions.publisher import Marks
from tests.conftest import make_rig
from tests.promises.faulty import proxied
from tests.rig import server_rig
from tests.scripts import publishers
from tests.scripts.racers import use_barrier
from tests.versions.support import claim, opened_in, settled

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.versions.local_tree import HashedSource
    from tests.conftest import Servers
    from tests.rig import Rig

MODEL = "models/llama-ft"
PUBLISHERS = 32
ON_SERVERS = pytest.mark.parametrize("store", ["ceph", "gcs-fake", "azurite"])


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@ON_SERVERS
def test_life_of_a_version(store: str, servers: Servers, tmp_path: Path) -> None:
    """Publish, share files, point an alias, fetch, verify, delete, collect, and publish again."""
    client = server_rig(store, servers.get(store)).client()
    files = {"a.bin": b"\x01" * 100_000, "b.bin": b"\x02" * 100_000, "config.json": b"{}"}
    one = versions.publish(client, write(tmp_path / "1", files), MODEL, version="v1", metadata={"step": 1})
    assert versions.publish(client, tmp_path / "1", MODEL, version="v1", metadata={"step": 1}) == one
    two = versions.publish(client, write(tmp_path / "2", {**files, "config.json": b"[]"}), MODEL, version="v2")
    assert [each.path for each in versions.diff(client, MODEL, "v1", "v2")] == ["config.json"]
    for version in ("v1", "v2"):
        versions.set_alias(client, MODEL, "latest", version)
    assert versions.resolve(client, MODEL, "latest") == two
    versions.fetch(client, MODEL, "latest", tmp_path / "local")
    assert versions.verify(client, MODEL, "v2", tmp_path / "local") == two
    assert versions.verify(client, MODEL, "v1", read=False) == one
    assert versions.delete_version(client, MODEL, "v1")
    assert versions.collect_garbage(client, MODEL) == []
    assert [each.url for each in versions.collect_garbage(client, MODEL, grace=dt.timedelta())] == [one.url]
    assert versions.publish(client, tmp_path / "1", MODEL, version="v1").url == one.url.replace("-0/", "-1/")
    assert [versions.verify(client, MODEL, each.name) for each in versions.list_versions(client, MODEL)]


def mark_folders(rig: Rig) -> None:
    """Give each folder its marker: on Azure that of a hierarchical namespace, elsewhere a key that ends with a slash."""
    keys = list(rig.client().store.list_keys(rig.prefix))
    for folder in {key[: end.start()] for key in keys for end in re.finditer("/", key) if end.start() > len(rig.prefix)}:
        if rig.provider == "azure":
            container = rig.microsoft.container
            container.upload_blob(folder, b"", metadata={"hdi_isfolder": "true"}, overwrite=True)
        else:
            rig.second.put(f"{folder}/", b"")


@ON_SERVERS
def test_folder_markers(store: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Markers of folders, as some tools and each hierarchical namespace of Azure make them, are not files of a version."""
    rig = server_rig(store, servers.get(store))
    client, out, write_mark = rig.client(), write(tmp_path / "1", {"a": b"a"}), Marks.write

    def write_marks(self: Marks) -> None:
        write_mark(self)
        mark_folders(rig)

    (out / "b").mkdir()
    (out / "b" / "c").write_bytes(b"c")
    monkeypatch.setattr(Marks, "write", write_marks)
    one = versions.publish(client, out, MODEL, version="v1")
    mark_folders(rig)
    assert versions.verify(client, MODEL, "v1") == one
    assert versions.publish(client, out, MODEL, version="v2").url == one.url
    rig.second.delete(f"{one.url.removeprefix(client.store.url(''))}b/c")
    assert versions.publish(client, out, MODEL, version="v1") == one
    assert versions.verify(client, MODEL, "v1") == one
    for version in ("v1", "v2"):
        versions.delete_version(client, MODEL, version)
    assert [each.files for each in versions.collect_garbage(client, MODEL, grace=dt.timedelta())] == [3]
    assert list(client.list_files(one.url)) == []
    assert versions.collect_garbage(client, MODEL, grace=dt.timedelta()) == []


@ON_SERVERS
def test_one_changed_shard(store: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second version reads the changed shard only: the index knows the others, and the store copies them."""
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "cache"))
    client, out = server_rig(store, servers.get(store)).client(), tmp_path / "out"
    settled(write(out, {f"{number}.bin": bytes([number]) * 100_000 for number in range(8)}))
    versions.publish(client, out, MODEL, version="v1")
    (out / "5.bin").write_bytes(b"new" * 100_000)
    for expected in ({"5.bin"}, set()):
        with opened_in(settled(out)) as opened:
            version = versions.publish(client, out, MODEL, version="v2")
        assert opened == expected
    assert versions.verify(client, MODEL, "v2") == version
    assert versions.verify(client, MODEL, "v2", out) == version


@ON_SERVERS
@pytest.mark.parametrize("size", [1000, 10 * 2**20])
def test_wrong_hash(store: str, size: int, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes in the index that are not of the file are found while it is sent, and forgotten: the next call works."""
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "cache"))
    client, out = server_rig(store, servers.get(store)).client(), tmp_path / "out"
    settled(write(out, {"a.bin": b"a" * size, "b.bin": b"b" * size, "c.bin": b"c" * size}))
    claim(out / "b.bin", b"x" * size)
    with pytest.raises(SourceChangedError, match=r"b\.bin"):
        versions.publish(client, out, MODEL, version="v1")
    assert not list(versions.list_versions(client, MODEL))
    version = versions.publish(client, out, MODEL, version="v1")
    assert versions.verify(client, MODEL, "v1") == versions.verify(client, MODEL, "v1", out) == version


@ON_SERVERS
def test_copy_version(store: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy has the digest; S3 copies the files itself, Azure if the client is the same."""
    rig = server_rig(store, servers.get(store))
    client, other = rig.client(), rig.client()
    files = {"a.bin": b"\x01" * 100_000, "sub.bin": b"\x02" * 100_000}
    one = versions.publish(client, write(tmp_path / "1", files), MODEL, version="v1", metadata={"step": 1})
    passed: list[str] = []
    opened = copying._CopiedFile.opened

    def counted(self: copying._CopiedFile, details: ErrorDetails) -> AbstractContextManager[HashedSource]:
        passed.append(self.entry.path)
        return opened(self, details)

    monkeypatch.setattr(copying._CopiedFile, "opened", counted)
    for target, model in ((client, "models/same"), (other, "models/other")):
        passed.clear()
        copy = versions.copy_version(client, MODEL, "v1", target, model, version="v2")
        assert (copy.digest, copy.metadata) == (one.digest, one.metadata)
        assert versions.verify(other, model, "v2") == copy
        is_copied = store == "ceph" or (store == "azurite" and target is client)
        assert sorted(passed) == ([] if is_copied else sorted(files))
    memory = MemoryStorageClient({"bucket_name": "copies"})
    assert versions.copy_version(client, MODEL, "v1", memory, MODEL).digest == one.digest
    assert versions.copy_version(memory, MODEL, "v1", other, "models/back").digest == one.digest


@ON_SERVERS
def test_verify_without_reading(store: str, servers: Servers, tmp_path: Path) -> None:
    """`read=False` requests no byte of the files where the store has their CRC-64; GCS has CRC32C, so they are read."""
    server, files = servers.get(store), {"a.bin": b"\x01" * 100_000, "config.json": b"{}"}
    with FaultProxy(server.endpoint_url) as proxy:
        client = proxied(server_rig(store, server), proxy).client()
        one = versions.publish(client, write(tmp_path / "1", files), MODEL, version="v1")
        before = len(proxy.requests)
        assert versions.verify(client, MODEL, "v1", read=False) == one
        paths = [(each.method, unquote(each.path)) for each in proxy.requests[before:]]
    asked = [(method, path.rpartition("/")[2]) for method, path in paths if f"{MODEL}/data/" in path]
    read = sorted(files) if store == "gcs-fake" else []
    head = "GET" if store == "gcs-fake" else "HEAD"
    assert sorted(asked) == sorted([*((head, name) for name in files), *(("GET", name) for name in read)])


def test_copy_to_other_endpoint(servers: Servers, tmp_path: Path) -> None:
    """A bucket of the same name at another S3 endpoint is another bucket: the files pass through this machine."""
    source, target = (server_rig(name, servers.get(name)).client() for name in ("ceph", "ministack"))
    one = versions.publish(source, write(tmp_path / "1", {"a.bin": b"\x01" * 100_000}), MODEL, version="v1")
    copy = versions.copy_version(source, MODEL, "v1", target, f"{MODEL}-copy")
    assert versions.verify(target, f"{MODEL}-copy", "v1").digest == one.digest
    assert copy.url.endswith("-0/")
    assert list(source.store.list_keys(f"{source.url(MODEL)}-copy/".removeprefix(source.store.url("")))) == []


@ON_SERVERS
def test_race(store: str, servers: Servers, tmp_path: Path) -> None:
    """Of 8 publishers with different content at the same moment one wins, with all its bytes."""
    rig = server_rig(store, servers.get(store))
    folders = [write(tmp_path / str(n), {"a.bin": b"%d" % n * 1000, "b.bin": b"same"}) for n in range(8)]
    won: list[versions.Version] = []
    lost: list[ObjectExistsError] = []
    barrier = threading.Barrier(len(folders))

    def run(folder: Path) -> None:
        client = rig.client()
        barrier.wait()
        try:
            won.append(versions.publish(client, folder, MODEL, version="v1"))
        except ObjectExistsError as error:
            lost.append(error)

    threads = [threading.Thread(target=run, args=[each]) for each in folders]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (len(won), len(lost)) == (1, 7)
    assert versions.verify(rig.client(), MODEL, "v1") == won[0]


PART = 5 * 2**20
LARGE = random.Random(14).randbytes(4 * PART + 1000)


def in_parts(rig: Rig) -> dict[str, str]:
    """The settings for a file that goes in parts, one at a time."""
    return {**rig.settings(), "part_size": str(PART), "multipart_threshold": str(PART), "max_concurrency": "1"}


def publish_and_kill(rig: Rig, folder: Path, log: Path, *killed_after: int) -> list[int | None]:
    """Publish in one process after another, and kill each after some parts, or never if 0; returns the exit codes."""
    start, codes = multiprocessing.get_context("fork"), []
    for count in killed_after:
        arguments = rig.provider, in_parts(rig), str(folder), str(log)
        process = start.Process(target=publishers.publish_large, args=arguments, kwargs={"killed_after": count})
        process.start()
        process.join(60)
        codes.append(process.exitcode)
    return codes


@pytest.mark.parametrize("store", ["ceph", pytest.param("ministack", marks=pytest.mark.slow), "azurite"])
def test_killed_within_a_file(store: str, servers: Servers, tmp_path: Path) -> None:
    """A publisher that is killed within a large file goes on from the parts that the store has."""
    rig = server_rig(store, servers.get(store))
    folder, log = write(tmp_path / "1", {"large": LARGE}), tmp_path / "log"
    assert publish_and_kill(rig, folder, log, 2, 0) == [-signal.SIGKILL, 0]
    sent = [int(each) for each in log.read_text().split()]
    assert sum(sent) <= len(LARGE) + PART  # one part of the one connection
    client = rig.client()
    versions.fetch(client, MODEL, "v1", tmp_path / "local")
    assert (tmp_path / "local" / "large").read_bytes() == LARGE
    # What a publisher leaves that is never run again is garbage.
    versions.delete_version(client, MODEL, "v1")
    other = write(tmp_path / "2", {"large": LARGE[: 2 * PART]})
    assert publish_and_kill(rig, other, log, 1) == [-signal.SIGKILL]
    assert len(rig.open_uploads()) == (rig.provider == "s3")
    versions.collect_garbage(client, MODEL, grace=dt.timedelta())
    assert not rig.open_uploads()


@pytest.mark.parametrize("store", ["ceph", "ministack"])
def test_parts_in_a_version(store: str, servers: Servers, tmp_path: Path) -> None:
    """Parts that a killed publisher has left in the directory of a version are removed, but not those of a living one."""
    rig = server_rig(store, servers.get(store))
    folder, log = write(tmp_path / "1", {"large": LARGE}), tmp_path / "log"
    assert publish_and_kill(rig, folder, log, 1) == [-signal.SIGKILL]
    other_parts = {**in_parts(rig), "part_size": str(PART + 2**20)}
    client: Any = get_storage_client(rig.provider, other_parts)
    version = versions.publish(client, folder, MODEL, version="v1")
    assert len(rig.open_uploads()) == 1
    assert versions.collect_garbage(client, MODEL) == []
    assert len(rig.open_uploads()) == 1
    marks = f"{version.url.removeprefix(client.store.url('')).replace('/data/', '/marks/')}v1/99999998-"
    time.sleep(1.2)  # the store tells seconds
    rig.second.put(f"{marks}{'0' * 32}", b"")
    moment = dt.timedelta(seconds=0.1)
    assert versions.collect_garbage(client, MODEL, grace=moment) == []
    assert len(rig.open_uploads()) == 1
    time.sleep(1.2)
    assert versions.collect_garbage(client, MODEL, grace=moment, dry_run=True) == []
    assert len(rig.open_uploads()) == 1
    assert versions.collect_garbage(client, MODEL, grace=moment) == []
    assert not rig.open_uploads()
    assert versions.verify(client, MODEL, "v1") == version


def test_equal_file_meanwhile(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that an equal publisher stores while the parts are sent is not replaced, although Ceph would permit it."""
    rig = server_rig("ceph", servers.get("ceph"))
    client: Any = get_storage_client(rig.provider, in_parts(rig))
    send_part, key = MultipartUpload.send_part, ""

    def send(self: MultipartUpload, number: int, body: Any, crc: int) -> Any:
        nonlocal key
        if number == 2:
            key = self._upload.request.key
            rig.second.put(key, LARGE)
        return send_part(self, number, body, crc)

    monkeypatch.setattr(MultipartUpload, "send_part", send)
    versions.publish(client, write(tmp_path / "1", {"large": LARGE}), MODEL, version="v1")
    plain: Any = rig.second
    assert "-" not in plain.client.head_object(Bucket=plain.bucket, Key=key)["ETag"]  # not one of parts
    assert not rig.open_uploads()
    assert versions.verify(client, MODEL, "v1").files == 1


@ON_SERVERS
def test_interrupted_fetch(store: str, servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that ends within a large file goes on from the bytes on the disk."""
    rig = server_rig(store, servers.get(store))
    versions.publish(rig.client(), write(tmp_path / "1", {"large": LARGE[: 3 * PART]}), MODEL, version="v1")
    client = get_storage_client(rig.provider, {**rig.settings(), "part_size": str(PART)})
    written: list[int] = []
    write_at = PartialFile.write_at

    def watch(self: PartialFile, offset: int, data: bytes | memoryview) -> None:
        if sum(written) > PART and not is_again:
            raise KeyboardInterrupt
        write_at(self, offset, data)
        written.append(len(data))

    monkeypatch.setattr(PartialFile, "write_at", watch)
    is_again = False
    with pytest.raises(KeyboardInterrupt):
        versions.fetch(client, MODEL, "v1", tmp_path / "local")
    assert not (tmp_path / "local").exists()
    is_again = True
    versions.fetch(client, MODEL, "v1", tmp_path / "local")
    assert (tmp_path / "local" / "large").read_bytes() == LARGE[: 3 * PART]
    assert sum(written) == 3 * PART


def test_wrong_part(servers: Servers, tmp_path: Path) -> None:
    """A part that is there with another content, or another size, is sent."""
    rig = server_rig("ceph", servers.get("ceph"))
    version = versions.publish(rig.client(), write(tmp_path / "1", {"large": LARGE}), MODEL, version="v0")
    versions.delete_version(rig.client(), MODEL, "v0")
    rig.client().delete_file(f"{version.url}large")
    boto3 = rig.boto3.client
    bucket = rig.boto3.bucket
    place: dict[str, Any] = {"Bucket": bucket, "Key": f"{version.url.partition(f'{bucket}/')[2]}large"}
    upload = boto3.create_multipart_upload(**place)["UploadId"]
    for number, part in enumerate([b"x" * PART, LARGE[PART : 2 * PART], LARGE[: PART + 1]], start=1):
        boto3.upload_part(**place, UploadId=upload, PartNumber=number, Body=part)
    log = tmp_path / "log"
    assert publish_and_kill(rig, tmp_path / "1", log, 0) == [0]
    assert sum(map(int, log.read_text().split())) == len(LARGE) - PART
    versions.fetch(rig.client(), MODEL, "v1", tmp_path / "local")
    assert (tmp_path / "local" / "large").read_bytes() == LARGE


@pytest.mark.parametrize("store", ["ceph", "azurite"])
def test_publishers_share_parts(store: str, servers: Servers, tmp_path: Path) -> None:
    """Publishers of one content at the same moment, after one that was killed, all succeed."""
    rig = server_rig(store, servers.get(store))
    folder = write(tmp_path / "1", {"large": LARGE[: 2 * PART + 1000]})
    assert publish_and_kill(rig, folder, tmp_path / "log", 1) == [-signal.SIGKILL]
    barrier = threading.Barrier(4)
    found: list[versions.Version] = []

    def run() -> None:
        client = get_storage_client(rig.provider, in_parts(rig))
        barrier.wait()
        found.append(versions.publish(client, folder, MODEL, version="v1"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 4
    assert versions.verify(rig.client(), MODEL, "v1").digest == found[0].digest


@pytest.mark.slow
@pytest.mark.parametrize("equal", [True, False], ids=["equal", "different"])
@pytest.mark.parametrize("store", ["file", "ceph", "gcs-fake"])
def test_race_of_processes(
    store: str,
    equal: bool,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Of 32 publishers in processes with different content one wins, with all its bytes; with equal content all do."""
    rig = make_rig(store, request)
    shared = {f"{number:02}.bin": bytes([number]) * 2**15 for number in range(20)}
    folders = [write(tmp_path / str(n), {**shared, "own": b"" if equal else b"%d" % n}) for n in range(PUBLISHERS)]
    client = rig.client()
    versions.publish(client, folders[0], "models/other", version="v1")  # the children inherit all imports and the probe
    start = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(PUBLISHERS, start, initializer=use_barrier, initargs=(start.Barrier(PUBLISHERS),)) as processes:
        tasks = [
            processes.submit(publishers.publish, rig.provider, rig.settings(), str(folder), MODEL) for folder in folders
        ]
        outcomes = [each.result() for each in tasks]
    version = versions.verify(client, MODEL, "v1")
    versions.fetch(client, MODEL, "v1", tmp_path / "local")
    winners = [folder for folder, each in zip(folders, outcomes, strict=True) if each.digest is not None]
    assert len(winners) == (PUBLISHERS if equal else 1)
    assert {each.digest for each in outcomes} - {None} == {version.digest}
    assert {each.name: each.read_bytes() for each in (tmp_path / "local").iterdir()} == {
        each.name: each.read_bytes() for each in winners[0].iterdir()
    }
    sent = sum(sum(each.opened) for each in outcomes) / version.size
    record_property("sent", sent)
    if equal:
        assert sent < PUBLISHERS / 6  # 1.1 to 1.7 on a machine at rest
    marks = f"{client.url(MODEL)}/marks/".removeprefix(client.store.url(""))
    assert list(client.store.list_keys(marks)) == []
