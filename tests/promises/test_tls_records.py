"""TLS connections that break inside a record, between two records, or by an alert, on every path of a transfer.

A store that speaks http is behind a fault proxy that speaks https. `tests/servers/records.py` breaks the proxy's answers.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import StorageUnavailableError
from gllm_storage.errors import Remedy
from gllm_storage.testing.faults import CallAfter, Fault, Match
from tests.promises.faulty import (
    AZURE,
    GCS,
    MANY_TIMES,
    MINISTACK_HTTPS,
    NAME,
    PREVIOUS,
    Cloud,
    Faulty,
    behind_proxy,
    certificate,
    content_of,
)
from tests.rig import BUCKET, MIB
from tests.servers.records import FAULTS, RecordLayer, stall, tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers
    from tests.servers.records import RecordFault

SMALL = content_of(100_000)
LARGE = content_of(6 * MIB)
SEVERAL = {f"many/{number}": content_of(5000, seed=number) for number in range(6)}
IN_PARTS = {"multipart_threshold": "1KiB"}
HEAD, IN_HEAD, IN_BODY = 1000, 30, 5000
"""Bytes: more than the head of an answer has, fewer than it has, and the beginning of the body of an object."""

pytestmark = pytest.mark.hostile


class Store:
    """A store behind the proxy, with the objects of the tests, and a folder."""

    def __init__(self, faulty: Faulty, layer: RecordLayer, folder: Path) -> None:
        self.faulty = faulty
        self.layer = layer
        self.folder = folder
        self.config: dict[str, str] = {}
        self.local = folder / "local"

    def client(self, **config: str) -> FsspecStorageClient:
        return self.faulty.client(**{"max_attempts": "4", **self.config, **config})

    def breaks(self, fault: RecordFault, on: Match | str, after: int, times: int | None) -> None:
        """Break answers after so many bytes."""
        if fault is stall:
            self.config |= {"read_timeout": "0.3s", "max_attempts": "2" if times is None else MANY_TIMES}
        match = Match(operation=on) if isinstance(on, str) else on
        self.faulty.proxy.inject(Fault(match, CallAfter(self.layer.arming(fault, after)), times=times))

    def source(self, content: bytes) -> Path:
        (self.folder / "source").write_bytes(content)
        return self.folder / "source"


@pytest.fixture
def store(servers: Servers, tmp_path: Path, no_waits: None) -> Iterator[Store]:
    """An empty store whose TLS records the test controls."""
    layer = RecordLayer(certificate())
    with behind_proxy(MINISTACK_HTTPS, servers, tls=layer) as faulty:
        yield Store(faulty, layer, tmp_path)


@pytest.fixture(scope="module")
def prefix(servers: Servers) -> str:
    """The prefix of the objects that the tests read."""
    with behind_proxy(MINISTACK_HTTPS, servers) as faulty:
        for name, content in {"small": SMALL, "large": LARGE, **SEVERAL}.items():
            faulty.put(content, name)
        return faulty.rig.prefix


@pytest.fixture
def full(store: Store, prefix: str) -> Store:
    """The store with objects to read."""
    rig = dataclasses.replace(store.faulty.rig, prefix=prefix)
    store.faulty = dataclasses.replace(store.faulty, rig=rig)
    return store


def get_small(store: Store) -> None:
    store.local.write_bytes(PREVIOUS)
    store.client().download_file("small", store.local)
    assert store.local.read_bytes() == SMALL


def get_ranges(store: Store) -> None:
    store.local.write_bytes(PREVIOUS)
    store.client().download_file("large", store.local)
    assert store.local.read_bytes() == LARGE


def read_file(store: Store) -> None:
    with store.client().open("large", "rb", block_size=MIB) as file:
        assert file.read(2 * MIB) == LARGE[: 2 * MIB]


def cat_ranges(store: Store) -> None:
    filesystem: Any = store.client().filesystem
    path = f"{BUCKET}/{store.faulty.rig.key('large')}"
    starts = [10, MIB, 2 * MIB + 5]
    found = filesystem.cat_ranges([path] * 3, starts, [start + 50_000 for start in starts])
    for each in found:
        if isinstance(each, BaseException):
            raise each
    assert found == [LARGE[start : start + 50_000] for start in starts]


def get_many(store: Store) -> None:
    client: Any = store.client()
    names = list(SEVERAL)
    client.filesystem.get(
        [f"{BUCKET}/{store.faulty.rig.key(name)}" for name in names], [f"{store.local}/{name}" for name in names]
    )
    assert {name: (store.local / name).read_bytes() for name in names} == SEVERAL


def exists(store: Store) -> None:
    client = store.client()
    assert client.file_exists("small")
    assert not client.file_exists("missing")


READS: dict[str, tuple[Callable[[Store], None], str, int]] = {
    "download": (get_small, "GetObject", HEAD + IN_BODY),
    "ranges": (get_ranges, "GetObject", HEAD + MIB // 2),
    "open": (read_file, "GetObject", HEAD + IN_BODY),
    "cat-ranges": (cat_ranges, "GetObject", HEAD + IN_BODY),
    "get-many": (get_many, "GetObject", HEAD + 2000),
    "exists": (exists, "HeadObject", IN_HEAD),
}
"""The paths that read: the verb, its request, and where the answer breaks."""


def put_small(store: Store) -> None:
    store.client().upload_file(store.source(SMALL), NAME, check_conflict=True)
    store.faulty.assert_holds(SMALL)


def overwrite(store: Store) -> None:
    store.faulty.put(b"before")
    store.client().upload_file(store.source(SMALL), NAME)
    store.faulty.assert_holds(SMALL)


def put_parts(store: Store) -> None:
    store.client(**IN_PARTS).upload_file(store.source(SMALL), NAME, check_conflict=True)
    store.faulty.assert_holds(SMALL)


def write_file(store: Store) -> None:
    with store.client(**IN_PARTS).open(NAME, "xb") as file:
        file.write(SMALL)
    store.faulty.assert_holds(SMALL)


def put_many(store: Store) -> None:
    for name, content in SEVERAL.items():
        (store.local / name).parent.mkdir(parents=True, exist_ok=True)
        (store.local / name).write_bytes(content)
    client: Any = store.client()
    names = list(SEVERAL)
    client.filesystem.put(
        [f"{store.local}/{name}" for name in names], [f"{BUCKET}/{store.faulty.rig.key(name)}" for name in names]
    )
    assert {name: store.faulty.get(name) for name in store.faulty.rig.files()} == SEVERAL


WRITES: dict[str, tuple[Callable[[Store], None], tuple[str, ...]]] = {
    "create": (put_small, ("PutObject",)),
    "overwrite": (overwrite, ("PutObject",)),
    "parts": (put_parts, ("UploadPart", "CompleteMultipartUpload")),
    "open": (write_file, ("UploadPart", "CompleteMultipartUpload")),
    "put-many": (put_many, ("PutObject",)),
}
"""The paths that write: the verb, and its requests with content or effect."""
by_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
# After plain text, boto3's exception says that the server does not speak TLS, as after a failed handshake.
THROUGH_BOTO3 = {name: fault for name, fault in FAULTS.items() if name != "plain-text"}
LASTING = ["cut-fin", "cut-rst", "stall", "alert", "plain-text"]
by_lasting = pytest.mark.parametrize("fault", [FAULTS[name] for name in LASTING], ids=LASTING)


@pytest.mark.parametrize("path", READS)
@by_fault
def test_read_breaks_once(full: Store, path: str, fault: RecordFault) -> None:
    """A read whose connection breaks is repeated, with the right bytes."""
    verb, operation, after = READS[path]
    full.breaks(fault, operation, after, times=1)
    verb(full)
    assert full.layer.fired == 1


@pytest.mark.parametrize("path", READS)
@by_lasting
def test_read_breaks_always(full: Store, path: str, fault: RecordFault) -> None:
    """A read whose connections all break is an error that says so, and the local file is unchanged."""
    verb, operation, _ = READS[path]
    full.breaks(fault, operation, IN_HEAD, times=None)
    full.config["max_attempts"] = "2"
    with pytest.raises(StorageUnavailableError) as caught:
        verb(full)
    error = caught.value
    assert error.retryable
    assert error.remedy is Remedy.CHECK_NETWORK
    assert error.status is None
    assert error.__cause__ is not None
    if path in {"download", "ranges"}:
        assert full.local.read_bytes() == PREVIOUS
    assert not [found for found in full.folder.rglob("*") if found.name.startswith(".")]


@pytest.mark.parametrize("path", WRITES)
@by_fault
def test_write_breaks_once(store: Store, path: str, fault: RecordFault) -> None:
    """A write whose answer breaks succeeds: its requests are repeated, and a create is not taken for a conflict."""
    verb, operations = WRITES[path]
    for operation in operations:
        store.breaks(fault, operation, IN_HEAD, times=1)
    verb(store)
    assert store.layer.fired == len(operations)


@pytest.mark.parametrize("path", WRITES)
@by_lasting
def test_write_breaks_always(store: Store, path: str, fault: RecordFault) -> None:
    """A write whose answers all break is an error that says so; no part of an object is stored."""
    verb, operations = WRITES[path]
    for operation in operations:
        store.breaks(fault, operation, IN_HEAD, times=None)
    store.breaks(fault, Match(method="HEAD"), IN_HEAD, times=None)
    store.config["max_attempts"] = "2"
    with pytest.raises(StorageUnavailableError) as caught:
        verb(store)
    assert caught.value.retryable
    assert caught.value.remedy in {Remedy.CHECK_NETWORK, Remedy.CHECK_FIRST}
    assert {store.faulty.get(name) for name in store.faulty.rig.files()} <= {SMALL, b"before", *SEVERAL.values()}
    store.faulty.proxy.clear()


@pytest.mark.parametrize("path", ["download", "exists"])
@pytest.mark.parametrize("fault", THROUGH_BOTO3.values(), ids=THROUGH_BOTO3)
def test_boto3_breaks_once(full: Store, path: str, fault: RecordFault) -> None:
    """The same through boto3."""
    verb, operation, after = READS[path]
    full.config["engine"] = "boto3"
    full.breaks(fault, operation, after, times=1)
    verb(full)
    assert full.layer.fired == 1


@pytest.fixture(params=[GCS, AZURE], ids=str)
def cloud(request: pytest.FixtureRequest) -> Cloud:
    """A cloud over https."""
    plain: Cloud = request.param
    return dataclasses.replace(plain, tls=True)


@pytest.fixture
def cloud_store(cloud: Cloud, servers: Servers, tmp_path: Path, no_waits: None) -> Iterator[Store]:
    """An empty store of a cloud whose TLS records the test controls."""
    layer = RecordLayer(certificate())
    with behind_proxy(cloud, servers, tls=layer) as faulty:
        yield Store(faulty, layer, tmp_path)


@by_fault
def test_download_of_clouds(cloud: Cloud, cloud_store: Store, fault: RecordFault) -> None:
    """A download from GCS or Azure whose connection breaks is repeated, with the right bytes."""
    cloud_store.faulty.put(SMALL, "small")
    cloud_store.breaks(fault, cloud.read, HEAD + IN_BODY, times=1)
    get_small(cloud_store)
    assert cloud_store.layer.fired == 1


@by_fault
def test_create_on_clouds(cloud: Cloud, cloud_store: Store, fault: RecordFault) -> None:
    """An exclusive create whose answer breaks succeeds, and is not taken for a conflict."""
    cloud_store.breaks(fault, cloud.put, IN_HEAD, times=1)
    put_small(cloud_store)
    assert cloud_store.layer.fired == 1


@by_lasting
def test_clouds_break_always(cloud: Cloud, cloud_store: Store, fault: RecordFault) -> None:
    """A download whose connections all break is an error that says so, and the local file is unchanged."""
    cloud_store.faulty.put(SMALL, "small")
    cloud_store.breaks(fault, cloud.read, IN_HEAD, times=None)
    cloud_store.config["max_attempts"] = "2"
    with pytest.raises(StorageUnavailableError) as caught:
        get_small(cloud_store)
    assert caught.value.remedy is Remedy.CHECK_NETWORK
    assert cloud_store.local.read_bytes() == PREVIOUS


@pytest.mark.parametrize("after", [0, HEAD], ids=["head", "body"])
@pytest.mark.parametrize("path", [path for path in READS if path != "exists"])
def test_tiny_records(full: Store, path: str, after: int) -> None:
    """An answer in records of one byte is put together."""
    verb, operation, _ = READS[path]
    full.breaks(tiny, operation, after, times=None)
    verb(full)
    assert full.layer.fired


@pytest.mark.parametrize("path", WRITES)
def test_tiny_records_after_write(store: Store, path: str) -> None:
    """The same for the answers to a write."""
    verb, operations = WRITES[path]
    for operation in operations:
        store.breaks(tiny, operation, 0, times=None)
    verb(store)
    assert store.layer.fired
