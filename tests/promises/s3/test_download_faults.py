"""Downloads from S3, and reads of open objects, while bodies break off, bits flip and the object is replaced."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency import workers as parallel
from gllm_storage.errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from tests.faults import Action, Answer, Call, DropResponse, FlipBit, Match, Refuse, StallBody, TruncateBody
from tests.promises.s3.faulty import (
    DENIED,
    MANY_TIMES,
    NAME,
    SLOW_DOWN,
    SMALL,
    Faulty,
    behind_proxy,
    content_of,
    impatient,
    no_waits,
)
from tests.rig import MIB
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

THREE_RANGES = 10 * MIB + SMALL
PREVIOUS = b"previous"
RANGED = Match(operation="GetObject", header=("range", "bytes="))


@dataclass(frozen=True)
class DownloadCase:
    """From which server, in one request or in ranges."""

    server: str
    size: int

    def __str__(self) -> str:
        return f"{'whole' if self.size == SMALL else 'ranges'}-{self.server}"


WHOLES = [DownloadCase("ceph", SMALL), DownloadCase("ministack", SMALL)]
RANGES = [DownloadCase("ceph", THREE_RANGES), DownloadCase("ministack", THREE_RANGES)]
DOWNLOADS = [*WHOLES, *RANGES]
# rclone ignores If-Match, and answers to ranges with 200.
CARELESS = [DownloadCase("rclone", SMALL), DownloadCase("rclone", THREE_RANGES)]


class Download:
    """A download that is about to meet a fault, onto a file that is there already."""

    def __init__(self, case: DownloadCase, faulty: Faulty, folder: Path) -> None:
        self.faulty = faulty
        self.size = case.size
        self.content = content_of(case.size)
        self.local = folder / "out" / "model.bin"
        self.local.parent.mkdir()
        self.local.write_bytes(PREVIOUS)
        faulty.put_with_checksum(self.content)

    def run(self, **config: str) -> None:
        """Download."""
        assert self.faulty.client(**config).download_file(NAME, self.local) == self.local

    def assert_is(self, content: bytes) -> None:
        """The local file is this, and nothing is beside it."""
        assert self.local.read_bytes() == content
        assert list(self.local.parent.iterdir()) == [self.local]

    def assert_as_before(self) -> None:
        """The local file is what it was."""
        self.assert_is(PREVIOUS)


@pytest.fixture
def download(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Download]:
    case: DownloadCase = request.param
    with behind_proxy(case.server, servers) as faulty:
        yield Download(case, faulty, tmp_path)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


def on(cases: list[DownloadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these downloads."""
    return pytest.mark.parametrize("download", cases, ids=str, indirect=True)


BROKEN = [
    pytest.param(TruncateBody(1000), id="truncated-fin"),
    pytest.param(TruncateBody(1000, reset=True), id="truncated-rst"),
    pytest.param(TruncateBody(0), id="truncated-at-once"),
    pytest.param(StallBody(1000, seconds=60), id="stalled"),
    pytest.param(DropResponse(), id="no-answer"),
    pytest.param(Refuse(), id="refused"),
    pytest.param(SLOW_DOWN, id="503"),
    pytest.param(Answer(500, "InternalError"), id="500"),
]


# ---- connections that break, stores that are busy


@on([*WHOLES, RANGES[0]])
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_passes_is_not_noticed(download: Download, action: Action) -> None:
    download.faulty.inject("GetObject", action, times=3)
    download.run(**impatient(action, max_attempts=MANY_TIMES))
    download.assert_is(download.content)


@on([*WHOLES, RANGES[0]])
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_stays_is_an_error_that_may_be_retried_and_the_file_is_as_before(
    download: Download, action: Action
) -> None:
    download.faulty.inject("GetObject", action, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        download.run(**impatient(action))
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation) == ("s3", "download")
    assert error.status == (action.status if isinstance(action, Answer) else None)
    download.assert_as_before()


@on(RANGES[:1])
@pytest.mark.parametrize("action", BROKEN)
def test_one_range_that_cannot_be_had_leaves_the_file_as_it_was(download: Download, action: Action) -> None:
    last = f"bytes={10 * MIB}"[:-4]  # and what is behind the bytes that came
    download.faulty.inject(Match(operation="GetObject", header=("range", last)), action, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run(**impatient(action))
    download.assert_as_before()


@on(RANGES[:1])
def test_answers_that_always_break_off_are_read_on_behind_what_came(download: Download) -> None:
    download.faulty.inject(Match(operation="GetObject"), TruncateBody(2 * MIB + 1000), times=None)
    download.run(max_attempts="2")
    download.assert_is(download.content)


@on(DOWNLOADS)
@pytest.mark.parametrize("action", [Refuse(), SLOW_DOWN], ids=["refused", "503"])
def test_a_look_that_fails_at_first_is_tried_again(download: Download, action: Action) -> None:
    download.faulty.put(download.content)  # without a checksum: with one, nobody looks
    download.faulty.inject("HeadObject", action, times=3)
    download.run()
    download.assert_is(download.content)


@on(DOWNLOADS)
@pytest.mark.parametrize("action", [Refuse(), SLOW_DOWN], ids=["refused", "503"])
def test_a_look_that_always_fails_is_an_error_and_the_file_is_as_before(download: Download, action: Action) -> None:
    download.faulty.put(download.content)  # without a checksum: with one, nobody looks
    download.faulty.inject("HeadObject", action, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run()
    download.assert_as_before()


@on(DOWNLOADS)
def test_a_refusal_is_an_error_and_the_file_is_as_before(download: Download) -> None:
    download.faulty.inject("GetObject", DENIED, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        download.run()
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")
    download.assert_as_before()


@on(WHOLES)
def test_max_attempts_is_how_often_a_read_is_sent(download: Download) -> None:
    download.faulty.inject("GetObject", SLOW_DOWN, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run(max_attempts="2")
    assert len(download.faulty.sent("GetObject")) == 2


@on(RANGES[:1])
def test_a_failure_does_not_wait_for_ranges_that_were_not_begun(download: Download, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_STOP_SECONDS", 2 * PATIENCE)
    download.faulty.inject(RANGED, DENIED, times=None)
    client = download.faulty.client(max_concurrency="1")
    started = time.monotonic()
    with pytest.raises(AccessDeniedError):
        client.download_file(NAME, download.local)
    assert time.monotonic() - started < PATIENCE
    assert len(download.faulty.sent("GetObject")) == 2  # of the whole, whose answer said that it is large, and of one range


@on(DOWNLOADS)
def test_a_failed_download_leaves_no_file_and_no_folder_where_there_was_none(download: Download) -> None:
    download.faulty.inject("GetObject", SLOW_DOWN, times=None)
    download.local.unlink()
    download.local.parent.rmdir()
    with pytest.raises(StorageUnavailableError):
        download.run()
    assert not download.local.parent.exists()


# ---- content that is wrong


@on(DOWNLOADS)
def test_a_bit_that_flips_once_is_noticed_and_mended(download: Download) -> None:
    download.faulty.inject("GetObject", FlipBit(at=1000))
    download.run()
    download.assert_is(download.content)


@on(DOWNLOADS)
def test_bits_that_always_flip_are_an_integrity_error_and_the_file_is_as_before(download: Download) -> None:
    download.faulty.inject("GetObject", FlipBit(at=1000), times=None)
    with pytest.raises(IntegrityError) as caught:
        download.run()
    assert not caught.value.retryable
    download.assert_as_before()


@on(WHOLES)
def test_an_answer_that_is_shorter_than_the_object_is_never_taken_for_it(download: Download) -> None:
    etag = download.faulty.client().info(NAME).etag
    short = Answer(200, body=download.content[:-1], headers=(("ETag", f'"{etag}"'),))
    download.faulty.inject("GetObject", short, times=None)
    with pytest.raises(StorageError):
        download.run()
    download.assert_as_before()


@on(RANGES)
def test_a_server_that_ignores_ranges_is_downloaded_from_all_the_same(download: Download) -> None:
    etag = download.faulty.client().info(NAME).etag
    everything = Answer(200, body=download.content, headers=(("ETag", f'"{etag}"'),))
    download.faulty.inject(RANGED, everything, times=None)
    download.run()
    download.assert_is(download.content)


@on(CARELESS)
def test_a_server_that_answers_ranges_with_200_is_downloaded_from(download: Download) -> None:
    download.run()
    download.assert_is(download.content)


# ---- objects that are replaced or deleted meanwhile


@on([*RANGES, CARELESS[1]])
@pytest.mark.parametrize("size", [THREE_RANGES, SMALL, 0, 12 * MIB], ids=lambda size: f"{size}-bytes")
@pytest.mark.parametrize("side_by_side", ["1", "10"])
def test_an_object_replaced_between_two_ranges_is_downloaded_as_one_version(
    download: Download, size: int, side_by_side: str
) -> None:
    other = content_of(size, seed=1)
    download.faulty.inject("GetObject", Call(lambda: download.faulty.put(other)), skip=1)
    download.run(max_concurrency=side_by_side)
    download.assert_is(other)


@on([*WHOLES, CARELESS[0]])
@pytest.mark.parametrize("size", [SMALL, 10, 0, 2 * SMALL], ids=lambda size: f"{size}-bytes")
def test_an_object_replaced_after_the_look_is_downloaded_as_one_version(download: Download, size: int) -> None:
    other = content_of(size, seed=1)
    download.faulty.inject("GetObject", Call(lambda: download.faulty.put(other)))
    download.run()
    download.assert_is(other)


@on([*RANGES, CARELESS[1]])
def test_an_object_replaced_without_end_is_given_up_and_the_file_is_as_before(download: Download) -> None:
    seeds = itertools.count(1)
    replace = Call(lambda: download.faulty.put(content_of(download.size, seed=next(seeds))))
    download.faulty.inject("GetObject", replace, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        download.run(max_concurrency="1")
    assert caught.value.retryable
    download.assert_as_before()


@on([*DOWNLOADS, *CARELESS])
def test_an_object_deleted_after_the_look_is_not_found_and_the_file_is_as_before(download: Download) -> None:
    download.faulty.inject("GetObject", Call(download.faulty.delete))
    with pytest.raises(ObjectNotFoundError):
        download.run()
    download.assert_as_before()


@on([*RANGES, CARELESS[1]])
def test_an_object_deleted_between_two_ranges_is_not_found_and_the_file_is_as_before(download: Download) -> None:
    download.faulty.inject("GetObject", Call(download.faulty.delete), skip=1)
    with pytest.raises(ObjectNotFoundError):
        download.run(max_concurrency="1")
    download.assert_as_before()


# ---- open objects


@on([*RANGES, CARELESS[1]])
def test_an_object_replaced_while_it_is_open_is_an_error_and_never_a_mix(download: Download) -> None:
    with download.faulty.client().open(NAME, "rb", block_size=MIB) as file:
        assert file.read(1000) == download.content[:1000]
        download.faulty.put(content_of(download.size, seed=1))
        with pytest.raises(OSError, match="Etag"):
            file.read()


@on([*RANGES, CARELESS[1]])
def test_an_object_deleted_while_it_is_open_is_not_found(download: Download) -> None:
    with download.faulty.client().open(NAME, "rb", block_size=MIB) as file:
        assert file.read(1000) == download.content[:1000]
        download.faulty.delete()
        with pytest.raises(FileNotFoundError):
            file.read()


@on([*WHOLES, RANGES[0]])
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_passes_is_not_noticed_by_who_reads_an_open_object(download: Download, action: Action) -> None:
    download.faulty.inject("GetObject", action, times=3)
    client = download.faulty.client(**impatient(action, max_attempts=MANY_TIMES))
    with client.open(NAME, "rb", block_size=5 * MIB) as file:
        assert file.read() == download.content


@on(WHOLES)
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_stays_is_an_error_to_who_reads_an_open_object(download: Download, action: Action) -> None:
    download.faulty.inject("GetObject", action, times=None)
    with (
        download.faulty.client(**impatient(action)).open(NAME, "rb") as file,
        pytest.raises(StorageUnavailableError) as caught,
    ):
        file.read()
    assert caught.value.operation == "read"


@on(WHOLES)
def test_a_server_that_ignores_ranges_cannot_be_read_at_an_offset_and_says_so(download: Download) -> None:
    etag = download.faulty.client().info(NAME).etag
    everything = Answer(200, body=download.content, headers=(("ETag", f'"{etag}"'),))
    download.faulty.inject(RANGED, everything, times=None)
    with download.faulty.client().open(NAME, "rb", block_size=1000) as file:
        file.seek(500)
        with pytest.raises(StorageError, match="range"):
            file.read(10)
