"""Downloads from GCS and Azure while connections break, bits flip and objects are replaced."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from tests.faults import Action, Answer, Call, DropResponse, FlipBit, Refuse, StallBody, TruncateBody
from tests.promises.clouds.faulty import (
    AZURE,
    CLOUDS,
    GCS,
    LARGE,
    MANY_TIMES,
    NAME,
    SMALL,
    Cloud,
    behind_proxy,
    content_of,
    impatient,
    no_waits,
)
from tests.rig import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers
    from tests.promises.clouds.faulty import Faulty

PREVIOUS = b"the previous good file"
BUSY = Answer(503, "ServerBusy")


@dataclass(frozen=True)
class Case:
    """One way to download: from which cloud, in one request or in ranges."""

    cloud: Cloud
    size: int

    def __str__(self) -> str:
        return f"{self.cloud}-{'ranges' if self.size > MIB else 'whole'}"


WHOLES = [Case(cloud, SMALL) for cloud in CLOUDS]
RANGES = [Case(cloud, LARGE) for cloud in CLOUDS]
DOWNLOADS = [*WHOLES, *RANGES]


class Download:
    """A download that is about to meet a fault; there is a good file already, and the second client put the object."""

    def __init__(self, case: Case, faulty: Faulty, folder: Path) -> None:
        self.case = case
        self.faulty = faulty
        self.content = content_of(case.size)
        self.local = folder / "local" / "model.bin"
        self.local.parent.mkdir()
        self.local.write_bytes(PREVIOUS)
        faulty.put(self.content)

    @property
    def read(self) -> str:
        """The operation that reads the content."""
        return self.case.cloud.read

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
    case: Case = request.param
    with behind_proxy(case.cloud, servers) as faulty:
        yield Download(case, faulty, tmp_path)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


def on(cases: list[Case]) -> pytest.MarkDecorator:
    """Run a test with each of these downloads."""
    return pytest.mark.parametrize("download", cases, ids=str, indirect=True)


BROKEN = [
    pytest.param(TruncateBody(1000), id="truncated-fin"),
    pytest.param(TruncateBody(1000, reset=True), id="truncated-rst"),
    pytest.param(TruncateBody(0), id="truncated-at-once"),
    pytest.param(StallBody(1000, seconds=60), id="stalled"),
    pytest.param(DropResponse(), id="no-answer"),
    pytest.param(Refuse(), id="refused"),
    pytest.param(BUSY, id="503"),
    pytest.param(Answer(500, "InternalError"), id="500"),
]


@on(DOWNLOADS)
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_passes_is_not_noticed(download: Download, action: Action) -> None:
    download.faulty.inject(download.read, action, times=2)
    download.run(**impatient(action, max_attempts=MANY_TIMES))
    download.assert_is(download.content)


@on(DOWNLOADS)
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_stays_is_an_error_that_may_be_retried_and_the_file_is_as_before(
    download: Download, action: Action
) -> None:
    download.faulty.inject(download.read, action, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        download.run(**impatient(action))
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation) == (download.case.cloud.provider, "download")
    assert error.status == (action.status if isinstance(action, Answer) else None)
    download.assert_as_before()


@on(RANGES)
@pytest.mark.parametrize("action", BROKEN)
def test_one_range_that_cannot_be_had_leaves_the_file_as_it_was(download: Download, action: Action) -> None:
    download.faulty.inject(download.read, action, skip=2, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run(**impatient(action))
    download.assert_as_before()


@on([each for each in RANGES if each.cloud is GCS])
def test_answers_that_always_break_off_are_read_on_behind_what_came(download: Download) -> None:
    download.faulty.inject(download.read, TruncateBody(MIB // 2 + 1000), times=None)
    download.run(part_size="4MiB", max_attempts="2")
    download.assert_is(download.content)
    assert len(download.faulty.sent(download.read)) >= LARGE // (MIB // 2 + 1000)


@on([each for each in WHOLES if each.cloud is GCS])
def test_a_range_that_is_answered_with_200_is_a_range_all_the_same(download: Download) -> None:
    # As Google's testbench answers where it is told to break answers off.
    start, end = (("Content-Range", f"bytes 0-99/{SMALL}"),), download.content[:100]
    download.faulty.inject(download.read, Answer(200, body=end, headers=start))
    with download.faulty.client().open(NAME, "rb", cache_type="none") as file:
        assert file.read(100) == download.content[:100]


@on(DOWNLOADS)
@pytest.mark.parametrize("action", [Refuse(), BUSY], ids=["refused", "503"])
def test_a_look_that_fails_at_first_is_tried_again(download: Download, action: Action) -> None:
    download.faulty.inject(download.case.cloud.look, action, times=3)
    download.run()
    download.assert_is(download.content)


@on(DOWNLOADS)
def test_a_refusal_is_an_error_and_the_file_is_as_before(download: Download) -> None:
    download.faulty.inject(download.read, download.case.cloud.denied, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        download.run()
    assert caught.value.status == 403
    download.assert_as_before()


@on(DOWNLOADS)
def test_a_failed_download_leaves_no_file_and_no_folder_where_there_was_none(download: Download) -> None:
    download.faulty.inject(download.read, BUSY, times=None)
    download.local.unlink()
    download.local.parent.rmdir()
    with pytest.raises(StorageUnavailableError):
        download.run()
    assert not download.local.parent.exists()


# ---- content that is wrong


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])
@on(DOWNLOADS)
def test_a_bit_that_flips_once_is_noticed_and_mended(download: Download, ours: bool) -> None:
    store(download, ours=ours)
    download.faulty.inject(download.read, FlipBit(at=1000))
    download.run()
    download.assert_is(download.content)


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])
@on(DOWNLOADS)
def test_bits_that_always_flip_are_an_integrity_error_and_the_file_is_as_before(download: Download, ours: bool) -> None:
    store(download, ours=ours)
    download.faulty.inject(download.read, FlipBit(at=1000), times=None)
    with pytest.raises(IntegrityError) as caught:
        download.run()
    assert not caught.value.retryable
    download.assert_as_before()


def store(download: Download, *, ours: bool) -> None:
    """Have the object stored by our client; or leave that of the provider's own, which keeps a checksum, too."""
    if ours:
        download.local.write_bytes(download.content)
        download.faulty.client().upload_file(download.local, NAME)
        download.local.write_bytes(PREVIOUS)
        download.faulty.proxy.clear()


@on(DOWNLOADS)
@pytest.mark.parametrize("status", [200, 302, 405])
def test_an_answer_of_something_that_is_no_store_is_an_error(download: Download, status: int) -> None:
    download.faulty.inject(download.read, Answer(status, body=b"<html>It works!</html>"), times=None)
    with pytest.raises(StorageError):
        download.run()
    download.assert_as_before()


@on([each for each in DOWNLOADS if each.cloud is GCS])
def test_a_server_that_ignores_ranges_is_downloaded_from_all_the_same(download: Download) -> None:
    generation = str(download.faulty.client().info(NAME).version)
    everything = Answer(200, body=download.content, headers=(("X-Goog-Generation", generation),))
    download.faulty.inject(download.read, everything, times=None)
    download.run()
    download.assert_is(download.content)


# ---- objects that are replaced or deleted meanwhile


@on(RANGES)
@pytest.mark.parametrize("size", [LARGE, SMALL, 0, 5 * MIB], ids=lambda size: f"{size}-bytes")
@pytest.mark.parametrize("side_by_side", ["1", "10"])
def test_an_object_replaced_between_two_ranges_is_downloaded_as_one_version(
    download: Download, size: int, side_by_side: str
) -> None:
    other = content_of(size, seed=1)
    download.faulty.inject(download.read, Call(lambda: download.faulty.put(other)), skip=1)
    download.run(max_concurrency=side_by_side)
    download.assert_is(other)


@on(WHOLES)
@pytest.mark.parametrize("size", [SMALL, 10, 0, 2 * SMALL], ids=lambda size: f"{size}-bytes")
def test_an_object_replaced_after_the_look_is_downloaded_as_one_version(download: Download, size: int) -> None:
    other = content_of(size, seed=1)
    download.faulty.inject(download.read, Call(lambda: download.faulty.put(other)))
    download.run()
    download.assert_is(other)


@on(DOWNLOADS)
def test_an_object_replaced_without_end_is_given_up_and_the_file_is_as_before(download: Download) -> None:
    seeds = itertools.count(1)
    replace = Call(lambda: download.faulty.put(content_of(download.case.size, seed=next(seeds))))
    download.faulty.inject(download.read, replace, times=None)
    with pytest.raises(StorageUnavailableError):
        download.run(max_concurrency="1")
    download.assert_as_before()


@on(DOWNLOADS)
def test_an_object_deleted_after_the_look_is_not_found_and_the_file_is_as_before(download: Download) -> None:
    client = download.faulty.rig.client()
    download.faulty.inject(download.read, Call(lambda: client.delete_file(NAME)))
    with pytest.raises(ObjectNotFoundError):
        download.run()
    download.assert_as_before()


# ---- open objects


@on(RANGES)
def test_an_object_replaced_while_it_is_open_is_an_error_and_never_a_mix(download: Download) -> None:
    with download.faulty.client().open(NAME, "rb", block_size=MIB) as file:
        assert file.read(1000) == download.content[:1000]
        download.faulty.put(content_of(download.case.size, seed=1))
        with pytest.raises(StorageUnavailableError, match="replaced"):
            file.read()


@on(RANGES)
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_passes_is_not_noticed_by_who_reads_an_open_object(download: Download, action: Action) -> None:
    download.faulty.inject(download.read, action, times=2)
    client = download.faulty.client(**impatient(action, max_attempts=MANY_TIMES))
    with client.open(NAME, "rb", block_size=5 * MIB) as file:
        assert file.read() == download.content


@on(WHOLES)
@pytest.mark.parametrize("action", BROKEN)
def test_a_fault_that_stays_is_an_error_to_who_reads_an_open_object(download: Download, action: Action) -> None:
    download.faulty.inject(download.read, action, times=None)
    with (
        download.faulty.client(**impatient(action)).open(NAME, "rb") as file,
        pytest.raises(StorageUnavailableError) as caught,
    ):
        file.read()
    assert caught.value.operation == "read"


# ---- what Google and Microsoft do to content


def test_what_is_stored_packed_on_gcs_is_downloaded_as_it_is_stored(servers: Servers, tmp_path: Path) -> None:
    import gzip  # noqa: PLC0415 - one test only

    packed = gzip.compress(b"a" * 5 * MIB + content_of(2 * MIB))
    with behind_proxy(GCS, servers) as faulty:
        blob = faulty.rig.second.bucket.blob(faulty.rig.key(NAME))  # type: ignore[attr-defined]  # Google's own client
        blob.content_encoding = "gzip"
        blob.upload_from_string(packed)
        assert faulty.client().download_file(NAME, tmp_path / "a").read_bytes() == packed
        with faulty.client().open(NAME) as file:
            assert file.read() == packed


def test_a_folder_of_a_hierarchical_namespace_is_no_object(servers: Servers, tmp_path: Path) -> None:
    with behind_proxy(AZURE, servers) as faulty:
        container = faulty.rig.second.container  # type: ignore[attr-defined]  # the SDK's own client
        container.upload_blob(faulty.rig.key("v1"), b"", metadata={"hdi_isfolder": "true"})
        faulty.put(b"x")
        client = faulty.client()
        assert not client.file_exists("v1")
        assert [each.url for each in client.list_files()] == [client.url(NAME)]
        with pytest.raises(ObjectNotFoundError):
            client.download_file("v1", tmp_path / "a")
