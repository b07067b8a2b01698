"""Streamed writes: `open("wb")` and `open("xb")` on S3 send parts before the file is closed."""

from __future__ import annotations

import gc
import gzip
import http.server
import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.s3.stream import part_size_of
from gllm_storage.testing.faults import (
    Action,
    Answer,
    AnswerAfter,
    Call,
    CallAfter,
    Delay,
    DropResponse,
    FlipRequestBit,
    Match,
    ResetRequest,
)
from tests.conftest import make_rig
from tests.promises.faulty import CEPH, MINISTACK, NAME, Faulty, behind_proxy, content_of, no_waits
from tests.rig import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage.filesystem.writing import AtomicWriter
    from tests.conftest import Servers

PART = 5 * MIB
THREE_PARTS = 2 * PART + 1000
ONE_PART_AND_MORE = PART + 1000
THEIRS = b"theirs"
CONFLICT = Answer(409, "ConditionalRequestConflict")
SLOW_DOWN = CEPH.answer(503)
DENIED = CEPH.denied
LOST = [
    pytest.param(DropResponse(), id="fin"),
    pytest.param(AnswerAfter(500, "InternalError"), id="500"),
]
SECONDS = 60.0


@pytest.fixture(autouse=True)
def _own_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waits between attempts, and no memory of the budget is held at the end."""
    no_waits(monkeypatch)
    before = memory_budget().taken
    yield
    gc.collect()
    wait_for(lambda: memory_budget().taken == before)


@pytest.fixture
def ceph(servers: Servers) -> Iterator[Faulty]:
    """Ceph, which stores 5 MiB at once, and ignores the precondition of a completion."""
    with behind_proxy(CEPH, servers) as faulty:
        yield faulty


@pytest.fixture
def ministack(servers: Servers) -> Iterator[Faulty]:
    """MiniStack, which enforces the precondition of a completion, and takes a second to store 5 MiB."""
    with behind_proxy(MINISTACK, servers) as faulty:
        yield faulty


def mode_of(server: str) -> str:
    """The strictest mode that a server supports in parts."""
    return "xb" if server == "ministack" else "wb"


@pytest.fixture(params=["ceph", "ministack"])
def faulty(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Faulty]:
    """Ceph and MiniStack in turn."""
    with behind_proxy(request.param, servers) as found:
        yield found


def opened(faulty: Faulty, name: str = NAME, mode: str | None = None, **options: Any) -> AtomicWriter:
    """A file that is open for writing, exclusively if the server supports that in parts."""
    config = options.pop("config", {})
    file: AtomicWriter = faulty.client(**config).open(name, mode or mode_of(faulty.rig.name), **options)
    return file


def wait_for(condition: Any, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


# ---- content


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, THREE_PARTS])
def test_written_content(size: int, ceph: Faulty) -> None:
    """Content of any size arrives complete."""
    content = content_of(size)
    with opened(ceph) as file:
        for start in range(0, size, MIB - 7):
            file.write(content[start : start + MIB - 7])
        assert file.tell() == size
    ceph.assert_holds(content=content)
    parts = -(-size // PART) if size > PART else 0
    assert [len(ceph.sent(each)) for each in ("PutObject", "UploadPart")] == [int(not parts), parts]


@pytest.mark.parametrize("size", [0, 1, ONE_PART_AND_MORE])
def test_exclusive_create(size: int, ministack: Faulty) -> None:
    """Content of any size is created exclusively."""
    with opened(ministack) as file:
        file.write(content_of(size))
    ministack.assert_holds(content=content_of(size))
    commit = "CompleteMultipartUpload" if size > PART else "PutObject"
    assert [entry.headers.get("if-none-match") for entry in ministack.sent(commit)] == ["*"]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_large_write(kind: Any, ceph: Faulty) -> None:
    """A large write is split into parts."""
    content = content_of(THREE_PARTS)
    with opened(ceph) as file:
        file.write(b"head")
        assert file.write(kind(content)) == len(content)
        file.write(b"tail")
    ceph.assert_holds(content=b"head" + content + b"tail")
    assert sorted(entry.body_bytes for entry in ceph.sent("UploadPart")) == [1008, PART, PART]


def test_reused_buffer(ceph: Faulty) -> None:
    """A buffer can be reused as soon as it is written."""
    content = content_of(THREE_PARTS)
    ceph.inject("UploadPart", Delay(0.5), times=2)
    with opened(ceph) as file:
        buffer = bytearray(content)
        file.write(buffer)
        buffer[:] = bytes(len(buffer))
    ceph.assert_holds(content=content)


@pytest.mark.parametrize("threshold", ["1KiB", "12MiB"])
def test_multipart_threshold(threshold: str, ceph: Faulty) -> None:
    """Only objects above the threshold are sent in parts."""
    config = {"multipart_threshold": threshold}
    content = content_of(PART + 1)
    with opened(ceph, config=config) as file:
        file.write(content)
    ceph.assert_holds(content=content)
    assert len(ceph.sent("UploadPart")) == (2 if threshold == "1KiB" else 0)


def test_parts_before_close(ceph: Faulty) -> None:
    """Parts are sent before the file is closed."""
    content = content_of(THREE_PARTS)
    with opened(ceph) as file:
        file.write(content)
        wait_for(lambda: [entry.status for entry in ceph.sent("UploadPart")] == [200, 200])
        assert ceph.rig.keys() == []
    ceph.assert_holds(content=content)


def test_concurrent_parts(ceph: Faulty) -> None:
    """Parts are sent concurrently."""
    together = threading.Barrier(3)
    ceph.inject("UploadPart", Call(lambda: together.wait(SECONDS)), times=3)  # needs three at a time
    content = content_of(3 * PART)
    with opened(ceph) as file:
        file.write(content)
    ceph.assert_holds(content=content)


def test_max_concurrency(ceph: Faulty) -> None:
    """At most `max_concurrency` parts are in flight."""
    ceph.inject("UploadPart", Delay(0.5), times=4)
    with opened(ceph, config={"max_concurrency": "2"}) as file:
        for _ in range(4):
            file.write(content_of(PART))
            assert len([entry for entry in ceph.sent("UploadPart") if entry.status is None]) <= 2
    assert len(ceph.sent("UploadPart")) == 4


def test_block_size(ceph: Faulty) -> None:
    """The block size is the size of the parts."""
    content = content_of(13 * MIB)
    with opened(ceph, config={"multipart_threshold": "64MiB"}, block_size=6 * MIB) as file:
        file.write(content)
    ceph.assert_holds(content=content)
    assert sorted(entry.body_bytes for entry in ceph.sent("UploadPart")) == [MIB, 6 * MIB, 6 * MIB]


@pytest.mark.parametrize("size", [1, PART - 1, 5 * 2**30 + 1])
def test_invalid_block_size(size: int, ceph: Faulty) -> None:
    """A block size that is not a valid part size is refused."""
    with pytest.raises(ValueError, match=f"{size} bytes"):
        opened(ceph, block_size=size)
    assert ceph.proxy.requests == []


def test_growing_parts() -> None:
    """The parts of a long stream grow, so that 10,000 parts hold the largest object."""
    for first in (5 * MIB, 8 * MIB, 5 * 2**30):
        sizes = [part_size_of(number, first) for number in range(1, 10_001)]
        assert sizes[:950] == [first] * 950
        assert sizes == sorted(sizes)
        assert max(sizes) <= 5 * 2**30
        assert sum(sizes) >= 5 * 2**40


def test_create_in_one_request(ceph: Faulty) -> None:
    """If only PutObject creates exclusively, an exclusive stream is sent by one PutObject."""
    content = content_of(THREE_PARTS)
    with opened(ceph, mode="xb", config={"conditional_writes": "auto"}) as file:
        assert file.seekable()
        file.write(content)
    ceph.assert_holds(content=content)
    puts = [entry for entry in ceph.sent("PutObject") if entry.body_bytes == len(content)]
    assert [entry.headers["if-none-match"] for entry in puts] == ["*"]
    with pytest.raises(ObjectExistsError):
        opened(ceph, mode="xb", config={"conditional_writes": "auto"})


def test_parts_on_moto(request: pytest.FixtureRequest) -> None:
    """On moto, a large stream is a multipart upload."""
    rig = make_rig("moto", request)
    content = content_of(THREE_PARTS)
    with rig.client(part_size="5MiB", multipart_threshold="5MiB").open("a", "xb") as file:
        file.write(content)
    assert rig.second.get(rig.key("a")) == content
    assert rig.boto3.client.head_object(Bucket="models", Key=rig.key("a"))["ETag"].endswith('-3"')


# ---- as a file


def test_write_only_file(ceph: Faulty) -> None:
    """The open file supports writes, but not reads or seeks."""
    with opened(ceph) as file:
        assert file.writable()
        assert not file.readable()
        assert not file.seekable()
        assert not file.closed
        file.write(b"some")
        file.flush()
        assert file.tell() == 4
        with pytest.raises(io.UnsupportedOperation):
            file.seek(0)
        assert (file.mode, file.name, file.fs.protocol[0]) == ("wb", file.path, "s3")
    with pytest.raises(ValueError, match="closed"):
        file.write(b"more")
    ceph.assert_holds(content=b"some")


def test_zip_archive(ceph: Faulty) -> None:
    """A ZIP archive can be written to the open file."""
    members = {name: content_of(3 * MIB, seed) for seed, name in enumerate(("a", "b", "c"))}
    with opened(ceph) as file, zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with zipfile.ZipFile(io.BytesIO(ceph.get())) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == members


def test_numpy_arrays(ceph: Faulty) -> None:
    """NumPy arrays can be written to the open file."""
    arrays: dict[str, Any] = {"a": np.arange(10**6, dtype="f8"), "b": np.arange(10)}
    with opened(ceph) as file:
        np.savez(file, **arrays)
    assert len(ceph.sent("UploadPart")) == 2
    with np.load(io.BytesIO(ceph.get())) as found:
        assert all((found[name] == arrays[name]).all() for name in arrays)


def test_parquet_file(ceph: Faulty) -> None:
    """A Parquet file can be written by pandas."""
    frame = pd.DataFrame({"a": np.random.default_rng(0).random(10**6)})
    client = ceph.client()
    frame.to_parquet(client.url(NAME), filesystem=client.filesystem)
    with opened(ceph, "other") as file:
        frame.to_parquet(file)
    for name in (NAME, "other"):
        assert pd.read_parquet(io.BytesIO(ceph.get(name))).equals(frame)


def test_text_and_compression(ceph: Faulty) -> None:
    """Text and compression work on the open file."""
    lines = "größe\n" * 10**6
    with ceph.client().open(NAME, "w", encoding="utf-16") as text:
        text.write(lines)
    assert ceph.get() == lines.encode("utf-16")
    content = content_of(PART + MIB)
    with ceph.client().open(NAME, "wb", compression="gzip") as file:
        file.write(content)
    assert gzip.decompress(ceph.get()) == content
    assert len(ceph.sent("CompleteMultipartUpload")) == 2


def test_other_threads(ceph: Faulty) -> None:
    """Other threads can write to the file and close it."""
    content, file = content_of(THREE_PARTS), opened(ceph)
    for work in (lambda: file.write(content[:MIB]), lambda: file.write(content[MIB:]), file.close):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    ceph.assert_holds(content=content)


@pytest.mark.parametrize("commit", [True, False])
def test_transaction(commit: bool, faulty: Faulty) -> None:
    """A transaction completes or aborts the upload."""
    client = faulty.client()
    filesystem = client.filesystem

    def write() -> None:
        with filesystem.transaction:
            with filesystem.open(client.url(NAME), mode_of(faulty.rig.name)) as file:
                file.write(content_of(ONE_PART_AND_MORE))
            assert faulty.rig.keys() == []
            assert len(faulty.rig.open_uploads()) == 1
            if not commit:
                raise ZeroDivisionError

    if commit:
        write()
        faulty.assert_holds(content=content_of(ONE_PART_AND_MORE))
    else:
        with pytest.raises(ZeroDivisionError):
            write()
        faulty.assert_holds()


# ---- other writers


def test_concurrent_creates(ministack: Faulty) -> None:
    """Exactly one of several exclusive streams succeeds."""
    together = threading.Barrier(4)
    outcomes: dict[int, type[Exception] | None] = {}

    def write(number: int) -> None:
        file = opened(ministack, config={"read_timeout": "60s"})
        file.write(content_of(ONE_PART_AND_MORE, number))
        together.wait(SECONDS)
        try:
            file.close()
        except ObjectExistsError as error:
            outcomes[number] = type(error)
        else:
            outcomes[number] = None

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [number for number, error in outcomes.items() if error is None]
    assert len(outcomes) == 4
    ministack.assert_holds(content=content_of(ONE_PART_AND_MORE, winner))


def test_object_after_open(ministack: Faulty) -> None:
    """An object that appears between open and close is kept."""
    file = opened(ministack)
    file.write(content_of(ONE_PART_AND_MORE))
    ministack.put(THEIRS)
    with pytest.raises(ObjectExistsError) as caught:
        file.close()
    assert caught.value.url == ministack.client().url(NAME)
    ministack.assert_holds(content=THEIRS)


def test_existing_object(faulty: Faulty) -> None:
    """An exclusive open of an existing object is refused."""
    faulty.put(THEIRS)
    with pytest.raises(ObjectExistsError):
        opened(faulty, mode="xb")
    assert {entry.method for entry in faulty.proxy.requests} == {"HEAD"}


@pytest.mark.parametrize("action", LOST)
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
def test_lost_completion(action: Action, times: int | None, faulty: Faulty) -> None:
    """If the answer to the completion is lost, the write succeeds."""
    faulty.inject("CompleteMultipartUpload", action, times=times)
    with opened(faulty) as file:
        file.write(content_of(ONE_PART_AND_MORE))
    faulty.assert_holds(content=content_of(ONE_PART_AND_MORE))


def test_412_after_lost_completion(ministack: Faulty) -> None:
    """If the answer to a completion is lost, and the repeated one is answered by 412, the create succeeds."""
    ministack.inject("CompleteMultipartUpload", DropResponse())
    ministack.inject("CompleteMultipartUpload", Answer(412, "PreconditionFailed"))
    with opened(ministack) as file:
        file.write(content_of(ONE_PART_AND_MORE))
    ministack.assert_holds(content=content_of(ONE_PART_AND_MORE))


def test_conflict_with_lost_answer(ministack: Faulty) -> None:
    """If the answer is lost, and another writer has created the object, the write is a conflict."""
    ministack.inject("CompleteMultipartUpload", Call(lambda: ministack.put(THEIRS)))
    ministack.inject("CompleteMultipartUpload", DropResponse())
    file = opened(ministack)
    file.write(content_of(ONE_PART_AND_MORE))
    with pytest.raises(ObjectExistsError):
        file.close()
    ministack.assert_holds(content=THEIRS)


def test_409_at_completion(ministack: Faulty) -> None:
    """A 409 answer to the completion is an error, because the parts cannot be sent again."""
    ministack.inject("CompleteMultipartUpload", CONFLICT)
    file = opened(ministack)
    file.write(content_of(ONE_PART_AND_MORE))
    with pytest.raises(StorageUnavailableError, match="cannot be resent") as caught:
        file.close()
    assert (caught.value.status, caught.value.code) == (409, "ConditionalRequestConflict")
    ministack.assert_holds()


def test_409_by_another_writer(ministack: Faulty) -> None:
    """A 409 answer is a conflict if another writer has created the object."""
    ministack.inject("CompleteMultipartUpload", Call(lambda: ministack.put(THEIRS)))
    ministack.inject("CompleteMultipartUpload", CONFLICT)
    file = opened(ministack)
    file.write(content_of(ONE_PART_AND_MORE))
    with pytest.raises(ObjectExistsError):
        file.close()
    ministack.assert_holds(content=THEIRS)


def test_abort_after_head_request(ministack: Faulty) -> None:
    """A failed upload is aborted after the HEAD request, not before it."""
    ministack.inject("CompleteMultipartUpload", SLOW_DOWN, times=None)
    with pytest.raises(StorageUnavailableError), opened(ministack) as file:
        file.write(content_of(ONE_PART_AND_MORE))
    after = [entry.operation for entry in ministack.proxy.requests]
    after = after[after.index("CompleteMultipartUpload") :]
    further = [each for each in after if each != "CompleteMultipartUpload"]
    assert further == ["HeadObject", "AbortMultipartUpload", "HeadObject"]
    ministack.assert_holds()


# ---- failures


@pytest.mark.parametrize("step", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
@pytest.mark.parametrize(
    ("action", "times"),
    [
        pytest.param(SLOW_DOWN, 3, id="3x503"),
        pytest.param(ResetRequest(after=50), 1, id="reset"),
        pytest.param(DropResponse(), 1, id="no answer"),
    ],
)
def test_passing_fault(step: str, action: Action, times: int, ceph: Faulty) -> None:
    """A passing fault does not reach the caller."""
    ceph.inject(step, action, times=times)
    with opened(ceph) as file:
        file.write(content_of(THREE_PARTS))
    # A repeated CreateMultipartUpload leaves the first upload, because its id was lost.
    lost = 1 if step == "CreateMultipartUpload" and isinstance(action, DropResponse) else 0
    assert ceph.get() == content_of(THREE_PARTS)
    assert len(ceph.rig.open_uploads()) == lost


@pytest.mark.parametrize("action", [SLOW_DOWN, DENIED], ids=["503", "403"])
def test_failed_part(action: Action, faulty: Faulty) -> None:
    """A part that fails permanently aborts the upload at once, and each further call raises."""
    faulty.inject(Match(operation="UploadPart", query="partNumber=1"), action, times=None)
    file = opened(faulty)
    file.write(content_of(ONE_PART_AND_MORE))
    wait_for(lambda: faulty.sent("AbortMultipartUpload"))  # without a further call

    for again in (lambda: file.write(b"more"), lambda: file.write(b"more"), file.close):
        with pytest.raises(StorageError) as caught:
            again()
        assert caught.value.url == faulty.client().url(NAME)
        assert caught.value.operation == "upload"
    assert file.closed
    faulty.assert_holds()


def test_failed_part_among_others(ceph: Faulty) -> None:
    """A part that fails while another one is sent leaves no object and no upload."""
    ceph.inject(Match(operation="UploadPart", query="partNumber=1&"), Delay(1), times=None)
    ceph.inject(Match(operation="UploadPart", query="partNumber=2"), SLOW_DOWN, times=None)
    with pytest.raises(StorageUnavailableError), opened(ceph) as file:
        file.writelines(content_of(PART) for _ in range(10))
    ceph.assert_holds()


def test_refused_upload(faulty: Faulty) -> None:
    """A refused CreateMultipartUpload is an error of the write."""
    faulty.inject("CreateMultipartUpload", DENIED, times=None)
    file = opened(faulty)
    with pytest.raises(AccessDeniedError):
        file.write(content_of(ONE_PART_AND_MORE))
    with pytest.raises(AccessDeniedError):
        file.close()
    faulty.assert_holds()


def test_passing_bit_flip(faulty: Faulty) -> None:
    """A part with a flipped bit is sent again."""
    faulty.inject("UploadPart", FlipRequestBit(at=100))
    with opened(faulty) as file:
        file.write(content_of(ONE_PART_AND_MORE))
    faulty.assert_holds(content=content_of(ONE_PART_AND_MORE))


def test_lasting_bit_flip(faulty: Faulty) -> None:
    """A bit that flips in each attempt is an IntegrityError."""
    faulty.inject("UploadPart", FlipRequestBit(at=100), times=None)
    with pytest.raises(IntegrityError), opened(faulty) as file:
        file.write(content_of(ONE_PART_AND_MORE))
    faulty.assert_holds()


def test_download_of_stream(ministack: Faulty, tmp_path: Path) -> None:
    """A stored stream can be downloaded and verified."""
    with opened(ministack) as file:
        file.write(content_of(ONE_PART_AND_MORE))
    assert ministack.client().download_file(NAME, tmp_path / "a").read_bytes() == content_of(ONE_PART_AND_MORE)


# ---- discarding


def leave_by_exception(file: AtomicWriter) -> None:
    with pytest.raises(ZeroDivisionError), file:
        raise ZeroDivisionError


def discard(file: AtomicWriter) -> None:
    file.discard()


DISCARDS = {"exception": leave_by_exception, "discard": discard, "dropped": None}


@pytest.mark.parametrize("how", DISCARDS)
@pytest.mark.parametrize("held", [False, True], ids=["parts sent", "parts under way"])
def test_discarded_stream(how: str, held: bool, faulty: Faulty) -> None:
    """A discarded stream leaves no object and no upload."""
    if held:
        faulty.inject("UploadPart", Delay(3), times=None)
    file = opened(faulty)
    file.write(content_of(2 * PART + 1))
    wait_for(lambda: len(faulty.sent("UploadPart")) == 2)
    assert len(faulty.rig.open_uploads()) == 1
    discard_file = DISCARDS[how]
    if discard_file is None:
        del file
        gc.collect()
    else:
        discard_file(file)
    wait_for(lambda: not faulty.rig.open_uploads())
    time.sleep(3.5 if held else 0)
    faulty.assert_holds()


def test_discard_during_write(ceph: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Discarding the file ends a write that waits."""
    set_, discarded = Stop.set, threading.Event()

    def set_and_report(stop: Stop) -> None:
        set_(stop)
        discarded.set()

    monkeypatch.setattr(Stop, "set", set_and_report)
    ceph.inject("UploadPart", CallAfter(lambda: discarded.wait(SECONDS)), times=None)
    file = opened(ceph, config={"max_concurrency": "1"})
    ended: list[BaseException] = []

    def write() -> None:
        try:
            file.write(content_of(THREE_PARTS))
        except StorageError as error:
            ended.append(error)

    writing = threading.Thread(target=write)
    writing.start()
    wait_for(lambda: ceph.sent("UploadPart"))
    file.discard()
    writing.join(SECONDS)
    assert "discarded" in str(ended[0])
    ceph.assert_holds()


# ---- memory


def test_stream_without_memory(ceph: Faulty) -> None:
    """A stream that gets no memory uses temporary files."""
    limit = 10 * MIB
    held = memory_budget().try_hold(PART, limit, PART)
    assert held
    try:
        with opened(ceph, config={"memory_limit": str(limit)}) as file:
            for start in range(0, 5 * PART, MIB):
                file.write(content_of(MIB, start))
                assert memory_budget().taken == PART
    finally:
        memory_budget().let_go(PART)
    ceph.assert_holds(content=b"".join(content_of(MIB, start) for start in range(0, 5 * PART, MIB)))


def test_memory_of_many_streams(ceph: Faulty) -> None:
    """Many open streams together stay within the memory limit."""
    limit, count = 20 * MIB, 12
    files = [opened(ceph, f"{number:02}", config={"memory_limit": str(limit)}) for number in range(count)]
    for start in range(0, THREE_PARTS, MIB):
        for number, file in enumerate(files):
            file.write(content_of(min(MIB, THREE_PARTS - start), start + number))
            assert memory_budget().taken <= limit
    for file in files:
        file.close()
    assert ceph.rig.open_uploads() == []
    for number in range(count):
        pieces = (content_of(min(MIB, THREE_PARTS - start), start + number) for start in range(0, THREE_PARTS, MIB))
        assert ceph.get(f"{number:02}") == b"".join(pieces)


def test_memory_of_one_part(ceph: Faulty) -> None:
    """A memory limit of one part is sufficient."""
    content = content_of(THREE_PARTS)
    with opened(ceph, config={"memory_limit": "5MiB"}) as file:
        for start in range(0, len(content), MIB):
            file.write(content[start : start + MIB])
        file.write(content)
    ceph.assert_holds(content=content * 2)


# ---- processes


def run_script(settings: dict[str, str], job: str, mode: str, **more: Any) -> dict[str, Any]:
    config = {**settings, "part_size": "5MiB", "multipart_threshold": "5MiB", "conditional_writes": "enforced"}
    given = {"config": config, "job": job, "name": NAME, "mode": mode, **more}
    command = [sys.executable, "-m", "tests.scripts.streams", json.dumps(given)]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    answer: dict[str, Any] = json.loads(child.stdout)
    return answer


@pytest.mark.parametrize("size", [4, ONE_PART_AND_MORE])
def test_forked_child(size: int, faulty: Faulty) -> None:
    """A forked child can neither write to nor end a stream of its parent."""
    said = run_script(faulty.rig.settings(), "fork", mode_of(faulty.rig.name), size=size)
    assert "was forked" in said["write"]
    assert "was forked" in said["close"]
    assert said["discard"] == said["drop"] == said["exit"] == "ok"
    assert faulty.sent("AbortMultipartUpload") == []
    faulty.assert_holds(content=bytes(size + 4))


@pytest.mark.parametrize("forget", ["global", "cycle"])
def test_exit_without_close(forget: str, faulty: Faulty) -> None:
    """A program that ends without closing its file stores nothing."""
    run_script(faulty.rig.settings(), "forget", mode_of(faulty.rig.name), size=ONE_PART_AND_MORE, forget=forget)
    assert len(faulty.sent("CreateMultipartUpload")) == 1
    faulty.assert_holds()


class Sink(http.server.BaseHTTPRequestHandler):
    """An S3 server that drops all content, as fast as Python can."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["content-length"])
        buffer = memoryview(bytearray(MIB))
        while left:
            got = self.rfile.readinto1(buffer[: min(left, MIB)])
            assert got
            left -= got
        self._answer(b"", ETag='"x"')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path.endswith("?uploads"):
            self._answer(b"<InitiateMultipartUploadResult><UploadId>x</UploadId></InitiateMultipartUploadResult>")
        else:
            self._answer(b"<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def _answer(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [16, 32])
def test_memory_of_long_stream(limit: int) -> None:
    """The memory of a stream does not grow with its length."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {
            "bucket_name": "models",
            "endpoint_url": f"http://127.0.0.1:{server.server_port}",
            "region_name": "us-east-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
            "memory_limit": f"{limit}MiB",
        }
        said = run_script(settings, "memory", "wb", size=512)
        server.shutdown()
    print(f"512 MiB within {limit} MiB: grew by {said['grown']:.1f} MiB")
    # The memory budget, and the need of the interpreter and its threads.
    assert said["grown"] <= limit + 24
