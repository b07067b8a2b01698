"""The route of each request: directly to a socket, or through boto3."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import get_storage_client
from gllm_storage.errors import IntegrityError
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.http.client import DirectClient
from gllm_storage.testing.faults import (
    Action,
    AnswerAfter,
    DropResponse,
    FlipBit,
    FlipRequestBit,
    ResetRequest,
    TruncateBody,
)
from tests.promises.faulty import CEPH, MINISTACK, NAME, Faulty, Upload, UploadCase, behind_proxy, content_of, no_waits
from tests.rig import BUCKET, MIB, SMALL_PARTS, Rig, s3_config, server_rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

HOT = {
    "HeadObject",
    "HeadBucket",
    "ListObjectsV2",
    "GetObject",
    "PutObject",
    "CreateMultipartUpload",
    "UploadPart",
    "CompleteMultipartUpload",
    "DeleteObject",
}
LARGE = 5 * MIB + 1000
SLOW_DOWN = CEPH.answer(503)
UPLOADS = [
    UploadCase(MINISTACK, large=False, create=True),
    UploadCase(CEPH, large=False, create=False),
    UploadCase(MINISTACK, large=True, create=True),
]


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


@pytest.fixture(params=["ministack", "ceph"])
def faulty(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Faulty]:
    with behind_proxy(request.param, servers) as each:
        yield each


only_ceph = pytest.mark.parametrize("faulty", ["ceph"], indirect=True)


def routes(faulty: Faulty) -> dict[str, set[str]]:
    """The operations by their route."""
    found: dict[str, set[str]] = {"direct": set(), "boto3": set()}
    for entry in faulty.proxy.requests:
        found["boto3" if "amz-sdk-invocation-id" in entry.headers else "direct"].add(entry.operation)
    return found


def use_everything(faulty: Faulty, folder: Path, **config: str) -> None:
    """Upload, read metadata, download, list and delete, in one request and in parts."""
    client = faulty.client(**config)
    size = LARGE if faulty.rig.name == "ceph" else 1000
    threshold = {} if faulty.rig.name == "ceph" else {"multipart_threshold": "100"}
    (folder / "small").write_bytes(b"small")
    (folder / "large").write_bytes(content_of(size))
    client.upload_file(folder / "small", "small", check_conflict=True)
    faulty.client(**config, **threshold).upload_file(folder / "large", NAME)
    assert client.info(NAME).size == size
    client.download_file(NAME, folder / "again")
    assert (folder / "again").read_bytes() == content_of(size)
    with client.open(NAME, "rb") as file:
        assert file.read(100) == content_of(size)[:100]
    assert len(list(client.list_files())) == 2
    assert client.filesystem.ls("", refresh=True)
    assert client.delete_file(NAME)


def test_default_engine(faulty: Faulty, tmp_path: Path) -> None:
    """The frequent requests are sent directly, and the others through boto3."""
    use_everything(faulty, tmp_path)
    found = routes(faulty)
    assert found["direct"] == HOT
    assert found["boto3"] == {"Other"}  # ListBuckets


@only_ceph
def test_boto3_engine(faulty: Faulty, tmp_path: Path) -> None:
    """With engine=boto3, all requests are sent through boto3."""
    use_everything(faulty, tmp_path, engine="boto3")
    found = routes(faulty)
    assert found["direct"] == set()
    assert found["boto3"] >= HOT


@only_ceph
def test_event_handler(faulty: Faulty, tmp_path: Path) -> None:
    """While a handler is registered, all requests are sent through boto3."""
    client: Any = faulty.client()
    seen: list[str] = []
    client.filesystem.connection.client.meta.events.register(
        "before-send.s3", lambda request, **_: seen.append(request.method)
    )
    (tmp_path / "file").write_bytes(b"content")
    client.upload_file(tmp_path / "file", NAME)
    client.download_file(NAME, tmp_path / "again")
    assert routes(faulty)["direct"] == set()
    assert Counter(seen) == Counter(entry.method for entry in faulty.proxy.requests)


@pytest.mark.parametrize("mode", ["auto", "always"])
def test_signed_bodies(mode: str, faulty: Faulty, tmp_path: Path) -> None:
    """Bodies over HTTP are signed if the server does not report that it verified the checksum."""
    client = faulty.client(sign_bodies=mode)
    (tmp_path / "file").write_bytes(b"content")
    for _ in range(3):
        client.upload_file(tmp_path / "file", NAME)
    signed = [entry.headers["x-amz-content-sha256"] != "UNSIGNED-PAYLOAD" for entry in faulty.sent("PutObject")]
    assert signed == [True] * 3


@only_ceph
def test_unsigned_bodies(faulty: Faulty, tmp_path: Path) -> None:
    """With sign_bodies=never, bodies are not signed."""
    (tmp_path / "file").write_bytes(b"content")
    faulty.client(sign_bodies="never").upload_file(tmp_path / "file", NAME)
    assert {entry.headers["x-amz-content-sha256"] for entry in faulty.sent("PutObject")} == {"UNSIGNED-PAYLOAD"}
    faulty.assert_holds(content=b"content")


@pytest.mark.parametrize("name", ["ministack-tls", "ceph-tls"])
def test_large_bodies_over_tls(name: str, servers: Servers, tmp_path: Path) -> None:
    """Large bodies are sent directly over TLS."""
    size = LARGE if name == "ceph-tls" else 300_000
    rig = server_rig(name, servers.get(name))
    client = rig.client(**SMALL_PARTS)
    (tmp_path / "file").write_bytes(content_of(size))
    client.upload_file(tmp_path / "file", NAME, check_conflict=rig.traits.creates_large)
    client.download_file(NAME, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == rig.second.get(rig.key(NAME)) == content_of(size)
    assert_direct(client.filesystem)


@pytest.mark.parametrize("engine", ["", "crt"])
def test_unknown_engine(engine: str) -> None:
    """An unknown engine is refused."""
    with pytest.raises(ValueError, match="engine"):
        get_storage_client("s3", {"bucket_name": BUCKET, "engine": engine})
    with pytest.raises(ValueError, match="engine"):
        S3FileSystem(engine=engine, skip_instance_cache=True)


def assert_direct(filesystem: Any) -> None:
    client = filesystem.connection.client
    assert isinstance(client, DirectClient)
    assert client.refusal is None
    assert client._pools  # it has sent requests


# ---- processes


@pytest.fixture(scope="module")
def rig(servers: Servers) -> Rig:
    return server_rig("ceph", servers.get("ceph"))


def filesystem_of(rig: Rig, **options: Any) -> S3FileSystem:
    config = s3_config(rig.server)  # type: ignore[arg-type]  # an S3 server
    return S3FileSystem(
        key=config["aws_access_key_id"],
        secret=config["aws_secret_access_key"],
        endpoint_url=config["endpoint_url"],
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
        **options,
    )


class Dataset:
    """The state that torch's ``DataLoader`` gives to its workers: a used filesystem and an open file."""

    def __init__(self, filesystem: S3FileSystem, folder: str, contents: list[bytes]) -> None:
        self.filesystem = filesystem
        self.paths = [f"{folder}/{number}" for number in range(len(contents))]
        self.contents = contents
        filesystem.pipe(dict(zip(self.paths, contents, strict=True)))
        self.file = filesystem.open(self.paths[0], "rb")
        assert self.file.read(10) == contents[0][:10]

    def read(self, number: int) -> tuple[int, bool, bool]:
        """Read an item; returns the process id, whether the content is right, and whether the request was direct."""
        path, content = self.paths[number], self.contents[number]
        right = self.filesystem.cat_file(path) == content
        self.file.seek(20)
        right = right and self.file.read(50) == self.contents[0][20:70]
        several = self.filesystem.cat(self.paths[:3])
        right = right and list(several.values()) == self.contents[:3]
        return os.getpid(), right, self.filesystem.connection.client.refusal is None  # type: ignore[attr-defined]  # of the direct client


_dataset: list[Dataset] = []


def read_item(number: int) -> tuple[int, bool, bool]:
    return _dataset[0].read(number)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_workers(rig: Rig) -> None:
    """Forked workers read directly, with the filesystem and the open file of their parent."""
    contents = [content_of(10_000, seed) for seed in range(24)]
    dataset = Dataset(filesystem_of(rig), f"{BUCKET}/{rig.prefix}/data", contents)
    _dataset[:] = [dataset]
    stop = threading.Event()

    def busy() -> bool:
        while not stop.is_set():
            if dataset.filesystem.cat_file(dataset.paths[1]) != contents[1]:
                return False
        return True

    with ThreadPoolExecutor(2) as threads:
        working = [threads.submit(busy) for _ in range(2)]  # requests are in flight during the fork
        try:
            with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as workers:
                for _ in range(2):  # like several epochs with persistent workers
                    found = list(workers.map(read_item, range(24), timeout=60))
                    assert all(right and direct for _, right, direct in found)
                    assert os.getpid() not in {process for process, _, _ in found}
        finally:
            stop.set()
        assert all(each.result() for each in working)
    assert dataset.read(3) == (os.getpid(), True, True)
    dataset.file.close()


def test_pickled_filesystem(rig: Rig) -> None:
    """A pickled filesystem sends its requests directly."""
    filesystem = filesystem_of(rig)
    path = f"{BUCKET}/{rig.prefix}/pickled"
    filesystem.pipe_file(path, b"content")
    again = pickle.loads(pickle.dumps(filesystem))
    assert again.cat_file(path) == b"content"
    assert_direct(again)


def run_process(config: str) -> bool:
    """Write and read an object; returns whether the content is right and the requests were sent directly."""
    client: Any = get_storage_client("s3", json.loads(config))
    path = f"{client.url('own')}-{os.getpid()}"
    client.filesystem.pipe_file(path, b"content")
    found: bytes = client.filesystem.cat_file(path)
    return found == b"content" and client.filesystem.connection.client.refusal is None


def test_several_processes(rig: Rig) -> None:
    """Several processes send their requests directly."""
    settings = json.dumps(rig.settings())
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        assert other.submit(run_process, settings).result(60)
        assert run_process(settings)


# ---- faults with engine=boto3


def kind(action: Action) -> str:
    return type(action).__name__


@pytest.mark.parametrize("case", UPLOADS, ids=str)
@pytest.mark.parametrize(
    "action",
    [DropResponse(), AnswerAfter(500), FlipRequestBit(77), SLOW_DOWN, ResetRequest(50)],
    ids=kind,
)
def test_upload_by_boto3(case: UploadCase, action: Action, servers: Servers, tmp_path: Path) -> None:
    """An upload through boto3 survives faults."""
    with behind_proxy(case.cloud, servers) as faulty:
        upload = Upload(case, faulty, tmp_path)
        lost = isinstance(action, (DropResponse, AnswerAfter))
        faulty.inject(upload.commit if lost else upload.send, action)
        upload.run(engine="boto3")
        upload.assert_stored()
        assert routes(faulty)["direct"] == set()


@pytest.mark.parametrize("faulty", ["ceph"], indirect=True)
@pytest.mark.parametrize(
    "action",
    [FlipBit(77), TruncateBody(100), TruncateBody(100, reset=True), SLOW_DOWN, DropResponse()],
    ids=kind,
)
def test_download_by_boto3(action: Action, faulty: Faulty, tmp_path: Path) -> None:
    """A download through boto3 survives faults."""
    content = content_of(5 * MIB + 1000)
    faulty.put_with_checksum(content)
    faulty.inject("GetObject", action)
    faulty.client(engine="boto3").download_file(NAME, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    assert routes(faulty)["direct"] == set()


@pytest.mark.parametrize("engine", ["auto", "boto3"])
@only_ceph
def test_lasting_bit_flip(engine: str, faulty: Faulty, tmp_path: Path) -> None:
    """A bit that flips in each answer is an IntegrityError, and no file appears."""
    faulty.put_with_checksum(b"content" * 100)
    faulty.inject("GetObject", FlipBit(77), times=None)
    with pytest.raises(IntegrityError):
        faulty.client(engine=engine).download_file(NAME, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
