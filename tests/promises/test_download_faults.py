"""Downloads and open objects on every cloud: truncated bodies, flipped bits, replaced and deleted objects."""

from __future__ import annotations

import itertools
import time

import pytest

from gllm_storage.concurrency import workers
from gllm_storage.errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.testing.faults import Action, Answer, Call, DropResponse, FlipBit, Refuse, StallBody, TruncateBody
from tests.promises.faulty import (
    AZURE,
    DOWNLOADS,
    MANY_TIMES,
    NAME,
    RANGES,
    RCLONE,
    SMALL,
    WHOLES,
    Download,
    DownloadCase,
    Says,
    content_of,
    impatient,
    one_each,
    over_https,
)
from tests.rig import MIB
from tests.waiting import PATIENCE

# rclone ignores If-Match and answers Range requests with 200.
CARELESS = [DownloadCase(RCLONE, ranges=False), DownloadCase(RCLONE, ranges=True)]
BROKEN = [
    pytest.param(TruncateBody(1000), id="truncated-fin"),
    pytest.param(TruncateBody(1000, reset=True), id="truncated-rst"),
    pytest.param(TruncateBody(0), id="truncated-at-once"),
    pytest.param(StallBody(1000, seconds=60), id="stalled"),
    pytest.param(DropResponse(), id="no-answer"),
    pytest.param(Refuse(), id="refused"),
    pytest.param(Says(503), id="503"),
    pytest.param(Says(500), id="500"),
]


def on(cases: list[DownloadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these downloads."""
    return pytest.mark.parametrize("download", cases, ids=str, indirect=True)


# ---- broken connections, busy stores


@on([*one_each(DOWNLOADS), *over_https(DOWNLOADS)])
@pytest.mark.parametrize("action", BROKEN)
def test_passing_fault(download: Download, action: Action | Says) -> None:
    """The library retries after a temporary fault, and the call succeeds."""
    times = 2 if download.case.cloud is AZURE else 3  # Azure's SDK reads a body three times
    download.faulty.inject(download.read, action, times=times)
    download.run(**impatient(action, max_attempts=MANY_TIMES))
    download.assert_is(download.content)


@on([*one_each(DOWNLOADS), *over_https(DOWNLOADS)])
@pytest.mark.parametrize("action", BROKEN)
def test_lasting_fault(download: Download, action: Action | Says) -> None:
    """A permanent fault raises a retryable error, and the local file is unchanged."""
    download.faulty.inject(download.read, action, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        download.run(**impatient(action))
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation) == (download.case.cloud.provider, "download")
    assert error.status == (action.status if isinstance(action, Says) else None)
    download.assert_as_before()


@on([*one_each(RANGES), *over_https(RANGES)])
@pytest.mark.parametrize("action", BROKEN)
def test_lasting_fault_of_one_range(download: Download, action: Action | Says) -> None:
    """If one range cannot be read, the local file is unchanged."""
    download.faulty.inject(download.read, action, skip=2, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run(**impatient(action))
    download.assert_as_before()


# A download from GCS or Azure begins with a GET request, whose faults are above.
HEADS = [case for case in DOWNLOADS if case.cloud.provider == "s3"]


@on(HEADS)
@pytest.mark.parametrize("action", [Refuse(), Says(503)], ids=["refused", "503"])
def test_head_fails_at_first(download: Download, action: Action | Says) -> None:
    """A failed HEAD request is sent again."""
    download.faulty.put(download.content)  # without checksum: on S3, a download with a checksum sends no HEAD request
    download.faulty.inject(download.case.cloud.head, action, times=3)
    download.run()
    download.assert_is(download.content)


@on(HEADS)
@pytest.mark.parametrize("action", [Refuse(), Says(503)], ids=["refused", "503"])
def test_head_fails(download: Download, action: Action | Says) -> None:
    """A HEAD request that always fails raises an error, and the local file is unchanged."""
    download.faulty.put(download.content)
    download.faulty.inject(download.case.cloud.head, action, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run()
    download.assert_as_before()


@on(DOWNLOADS)
def test_denied(download: Download) -> None:
    """Denied access raises an error, and the local file is unchanged."""
    download.faulty.inject(download.read, Says(403), times=None)
    with pytest.raises(AccessDeniedError) as caught:
        download.run()
    assert (caught.value.status, caught.value.code) == (403, download.case.cloud.codes[403])
    download.assert_as_before()


@on(WHOLES)
def test_max_attempts(download: Download) -> None:
    """A read request is sent at most `max_attempts` times."""
    download.faulty.inject(download.read, Says(503), times=None)
    with pytest.raises(StorageUnavailableError):
        download.run(max_attempts="2")
    assert len(download.faulty.sent(download.read)) == 2


@on(one_each(RANGES))
def test_failure_ends_at_once(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed download does not read the remaining ranges first."""
    monkeypatch.setattr(workers, "_STOP_SECONDS", 2 * PATIENCE)
    download.faulty.inject(download.read, Says(403), skip=1, times=None)
    client = download.faulty.client(max_concurrency="1")
    started = time.monotonic()
    with pytest.raises(AccessDeniedError):
        client.download_file(NAME, download.local)
    assert time.monotonic() - started < PATIENCE
    assert len(download.faulty.sent(download.read)) == 2


@on(DOWNLOADS)
def test_failure_leaves_no_folder(download: Download) -> None:
    """A failed download leaves no new file and no new folder."""
    download.faulty.inject(download.read, Says(503), times=None)
    download.local.unlink()
    download.local.parent.rmdir()
    with pytest.raises(StorageUnavailableError):
        download.run()
    assert not download.local.parent.exists()


# ---- corrupt content

WRITERS = [
    pytest.param(case, writer, id=f"{case}-{writer}")
    for case in DOWNLOADS
    for writer in ("ours", "theirs")
    if writer == "ours" or case.cloud.own_checksums
]
by_writers = pytest.mark.parametrize(("download", "writer"), WRITERS, indirect=["download"])
"""Objects with a checksum: the library's uploads, and other clients' uploads if the store computes one."""


@by_writers
def test_flipped_bit(download: Download, writer: str) -> None:
    """A single flipped bit is detected, and the content is read again."""
    if writer == "ours":
        download.store_ours()
    download.faulty.inject(download.read, FlipBit(at=1000))
    download.run()
    download.assert_is(download.content)


@by_writers
def test_flipped_bits(download: Download, writer: str) -> None:
    """If every answer has a flipped bit, an integrity error is raised, and the local file is unchanged."""
    if writer == "ours":
        download.store_ours()
    download.faulty.inject(download.read, FlipBit(at=1000), times=None)
    with pytest.raises(IntegrityError) as caught:
        download.run()
    assert not caught.value.retryable
    download.assert_as_before()


@on(one_each(DOWNLOADS))
@pytest.mark.parametrize("status", [200, 302, 405])
def test_answer_of_no_store(download: Download, status: int) -> None:
    """An answer from a web server that is not a store raises an error."""
    download.faulty.inject(download.read, Answer(status, body=b"<html>It works!</html>"), times=None)
    with pytest.raises(StorageError):
        download.run()
    download.assert_as_before()


# ---- objects replaced or deleted during the download


@on([*RANGES, CARELESS[1]])
@pytest.mark.parametrize("size", ["same", SMALL, 0, "more"], ids=lambda size: f"{size}-bytes")
@pytest.mark.parametrize("side_by_side", ["1", "10"])
def test_replaced_between_ranges(download: Download, size: int | str, side_by_side: str) -> None:
    """If the object is replaced between two ranges, the download returns one version only."""
    sizes = {"same": download.size, "more": download.size + 2 * MIB}
    other = content_of(sizes[size] if isinstance(size, str) else size, seed=1)
    download.faulty.inject(download.read, Call(lambda: download.faulty.put(other)), skip=1)
    download.run(max_concurrency=side_by_side)
    download.assert_is(other)


@on([*WHOLES, CARELESS[0]])
@pytest.mark.parametrize("size", [SMALL, 10, 0, 2 * SMALL], ids=lambda size: f"{size}-bytes")
def test_replaced_before_read(download: Download, size: int) -> None:
    """If the object is replaced before the first read, the download returns one version only."""
    other = content_of(size, seed=1)
    download.faulty.inject(download.read, Call(lambda: download.faulty.put(other)))
    download.run()
    download.assert_is(other)


# Not for small objects: one request reads them, so they cannot mix versions.
@on([*RANGES, CARELESS[1]])
def test_replaced_without_end(download: Download) -> None:
    """An object that is replaced during every attempt raises a retryable error, and the local file is unchanged."""
    seeds = itertools.count(1)
    replace = Call(lambda: download.faulty.put(content_of(download.size, seed=next(seeds))))
    download.faulty.inject(download.read, replace, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        download.run(max_concurrency="1")
    assert caught.value.retryable
    download.assert_as_before()


@on([*DOWNLOADS, *CARELESS])
def test_deleted_before_read(download: Download) -> None:
    """An object deleted before the first read raises "not found", and the local file is unchanged."""
    download.faulty.inject(download.read, Call(download.faulty.delete))
    with pytest.raises(ObjectNotFoundError):
        download.run()
    download.assert_as_before()


@on([*RANGES, CARELESS[1]])
def test_deleted_between_ranges(download: Download) -> None:
    """An object deleted between two ranges raises "not found", and the local file is unchanged."""
    download.faulty.inject(download.read, Call(download.faulty.delete), skip=1)
    with pytest.raises(ObjectNotFoundError):
        download.run(max_concurrency="1")
    download.assert_as_before()


# ---- open objects


@on([*RANGES, CARELESS[1]])
def test_replaced_while_open(download: Download) -> None:
    """Reading an open object after its replacement raises an error and never returns a mix of two versions."""
    with download.faulty.client().open(NAME, "rb", block_size=MIB) as file:
        assert file.read(1000) == download.content[:1000]
        download.faulty.put(content_of(download.size, seed=1))
        if download.case.cloud.provider == "s3":  # s3fs raises `FileExpired`
            with pytest.raises(OSError, match="Etag"):
                file.read()
        else:
            with pytest.raises(StorageUnavailableError, match="replaced"):
                file.read()


@on([*RANGES, CARELESS[1]])
def test_deleted_while_open(download: Download) -> None:
    """Reading an open object after its deletion raises "not found"."""
    with download.faulty.client().open(NAME, "rb", block_size=MIB) as file:
        assert file.read(1000) == download.content[:1000]
        download.faulty.delete()
        with pytest.raises(FileNotFoundError):
            file.read()


@on([*one_each(DOWNLOADS), *over_https(DOWNLOADS)])
@pytest.mark.parametrize("action", BROKEN)
def test_passing_fault_while_open(download: Download, action: Action | Says) -> None:
    """A temporary fault is retried, and reading the open object succeeds."""
    download.faulty.inject(download.read, action, times=2)
    client = download.faulty.client(**impatient(action, max_attempts=MANY_TIMES))
    with client.open(NAME, "rb", block_size=5 * MIB) as file:
        assert file.read() == download.content


@on(one_each(WHOLES))
@pytest.mark.parametrize("action", BROKEN)
def test_lasting_fault_while_open(download: Download, action: Action | Says) -> None:
    """A permanent fault raises an error when an open object is read."""
    download.faulty.inject(download.read, action, times=None)
    with (
        download.faulty.client(**impatient(action)).open(NAME, "rb") as file,
        pytest.raises(StorageUnavailableError) as caught,
    ):
        file.read()
    assert caught.value.operation == "read"
