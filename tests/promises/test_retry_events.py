"""Each retry, restart, second try and rescue is one INFO record and one event; errors have `attempts` and `elapsed`."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import IntegrityError, StorageError, StorageUnavailableError
from gllm_storage.store.retry import RetryEvent, subscribe
from gllm_storage.testing.faults import (
    Action,
    Answer,
    Call,
    CallAfter,
    DropResponse,
    FlipBit,
    FlipRequestBit,
    Match,
    Refuse,
    TruncateBody,
)
from tests.promises.faulty import (
    CEPH,
    CONTENT,
    NAME,
    Download,
    DownloadCase,
    Faulty,
    Says,
    Upload,
    UploadCase,
    behind_proxy,
    content_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

ATTEMPTS = 3
ENGINES = ["auto", "boto3"]
CREATE = UploadCase(CEPH, large=False, create=True)
OVERWRITE = UploadCase(CEPH, large=False, create=False)
PARTS = UploadCase(CEPH, large=True, create=False)
WHOLE, RANGES = DownloadCase(CEPH, ranges=False), DownloadCase(CEPH, ranges=True)

on_upload = pytest.mark.parametrize("upload", [OVERWRITE], ids=str, indirect=True)
on_downloads = pytest.mark.parametrize("download", [WHOLE, RANGES], ids=str, indirect=True)


@pytest.fixture(params=ENGINES)
def config(request: pytest.FixtureRequest) -> dict[str, str]:
    """The configuration of a client for each engine."""
    return {"engine": request.param, "max_attempts": str(ATTEMPTS)}


@dataclass
class Reports:
    """The events and log records of a test."""

    events: list[RetryEvent]
    caplog: pytest.LogCaptureFixture

    def kinds(self) -> list[str]:
        """The kinds of all events; assert that each event has one log record with the same data."""
        records = [each for each in self.caplog.records if each.name == "gllm_storage.retry"]
        assert [vars(each)["event"] for each in records] == self.events
        assert {each.levelno for each in records} <= {logging.INFO}
        for record, event in zip(records, self.events, strict=True):
            text = record.getMessage()
            assert all(str(fact) in text for fact in (event.kind, event.operation, event.url, event.cause))
            assert f"attempt {event.attempt} of {event.limit}" in text
        return [each.kind for each in self.events]


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> Iterator[Reports]:
    """The events and log records of the current test."""
    events: list[RetryEvent] = []
    unsubscribe = subscribe(events.append)
    with caplog.at_level(logging.INFO, "gllm_storage.retry"):
        yield Reports(events, caplog)
    unsubscribe()


# ---- one record for each event


@on_upload
@pytest.mark.parametrize(
    ("action", "cause"), [(Says(503), "SlowDown"), (Says(429), "429|TooMany"), (Refuse(), ".")], ids=repr
)
def test_retry(upload: Upload, action: Action | Says, cause: str, config: dict[str, str], reports: Reports) -> None:
    """A request that is sent three times has two records, with the operation, the URL and the cause."""
    upload.faulty.inject(upload.commit, action, times=2)
    upload.run(**config)
    upload.assert_stored()
    assert reports.kinds() == ["retry"] * 2
    assert [each.attempt for each in reports.events] == [1, 2]
    for each in reports.events:
        assert (each.operation, each.limit) == (upload.commit, ATTEMPTS)
        assert each.url.endswith(upload.faulty.rig.key(NAME))
        assert re.search(cause, each.cause)


@on_upload
def test_no_record(upload: Upload, config: dict[str, str], reports: Reports) -> None:
    """Without a fault, nothing is reported."""
    upload.run(**config)
    assert reports.kinds() == []


@pytest.mark.parametrize("download", [RANGES], ids=str, indirect=True)
def test_restart(download: Download, config: dict[str, str], reports: Reports) -> None:
    """If the object is replaced after the first answer, the download restarts once, with one record."""
    other = content_of(download.size, 1)
    download.faulty.inject(download.read, CallAfter(lambda: download.faulty.put_with_checksum(other)))
    download.run(**config)
    download.assert_is(other)
    assert reports.kinds() == ["restart"]
    (event,) = reports.events
    assert (event.operation, event.url) == ("download", f"s3://models/{download.faulty.rig.key(NAME)}")
    assert "replaced" in event.cause


@pytest.mark.parametrize("download", [WHOLE], ids=str, indirect=True)
def test_restart_within_answer(download: Download, config: dict[str, str], reports: Reports) -> None:
    """A truncated answer, and then a rest from another version: one record for each fault."""
    other = content_of(download.size, 1)
    download.faulty.inject(download.read, TruncateBody(100))
    ranged = Match(operation="GetObject", header=("range", "bytes="))
    download.faulty.inject(ranged, Call(lambda: download.faulty.put_with_checksum(other)))
    download.run(**config)
    download.assert_is(other)
    assert reports.kinds() == ["retry", "restart"]


@on_downloads
def test_corrupted_download(download: Download, config: dict[str, str], reports: Reports) -> None:
    """A second try after a checksum mismatch has one record."""
    match = Match(operation="GetObject", header=("range", "bytes=")) if download.case.ranges else "GetObject"
    download.faulty.inject(match, FlipBit(50))
    download.run(**config)
    download.assert_is(download.content)
    assert reports.kinds() == ["corruption"]
    (event,) = reports.events
    assert (event.operation, event.attempt) == ("download", 1)
    assert "checksum" in event.cause


@on_upload
def test_corrupted_upload(upload: Upload, config: dict[str, str], reports: Reports) -> None:
    """A body that arrives with a wrong digest is sent again, with one record."""
    upload.faulty.inject(upload.commit, FlipRequestBit(50))
    upload.run(**config, sign_bodies="always")
    upload.assert_stored()
    assert reports.kinds() == ["corruption"]


@pytest.mark.parametrize("upload", [CREATE], ids=str, indirect=True)
def test_rescue(upload: Upload, config: dict[str, str], reports: Reports) -> None:
    """A create with a lost answer, then a conflict for the repeated request: one retry and one rescue."""
    upload.faulty.inject(upload.commit, DropResponse())
    upload.run(**config)
    upload.assert_stored()
    assert reports.kinds() == ["retry", "rescue"]
    event = reports.events[-1]
    assert (event.operation, event.url, event.wait) == ("upload", f"s3://models/{upload.faulty.rig.key(NAME)}", 0.0)
    assert "412" in event.cause or "PreconditionFailed" in event.cause


@pytest.mark.parametrize("upload", [OVERWRITE, PARTS], ids=str, indirect=True)
def test_rescue_without_answer(upload: Upload, config: dict[str, str], reports: Reports) -> None:
    """An overwriting upload that loses every answer has one rescue, after the last attempt."""
    upload.faulty.inject(upload.commit, DropResponse(), times=None)
    upload.run(**config)
    upload.assert_stored()
    assert reports.kinds() == [*["retry"] * (ATTEMPTS - 1), "rescue"]


@pytest.mark.parametrize("upload", [CREATE], ids=str, indirect=True)
def test_conflict(upload: Upload, config: dict[str, str], reports: Reports) -> None:
    """A create during another writer's change is sent again, with one record of the kind "conflict"."""
    upload.faulty.inject(upload.commit, upload.case.cloud.answer(409, "ConditionalRequestConflict"))
    upload.run(**config)
    upload.assert_stored()
    assert reports.kinds() == ["conflict"]


def test_many(servers: Servers, no_waits: None, config: dict[str, str], reports: Reports) -> None:
    """In calls for many small objects, a request that is sent again has one record."""
    with behind_proxy(CEPH, servers) as faulty:
        filesystem = faulty.client(**config).filesystem
        paths = [f"{faulty.rig.base}{faulty.rig.key(str(number))}" for number in range(6)]
        faulty.inject("PutObject", Says(503))
        filesystem.pipe(dict.fromkeys(paths, CONTENT))
        assert reports.kinds() == ["retry"]
        faulty.inject("GetObject", Says(503))
        assert filesystem.cat(paths) == dict.fromkeys(paths, CONTENT)
        assert reports.kinds() == ["retry", "retry"]


# ---- attempts and elapsed


VERBS: dict[str, tuple[str, Callable[[FsspecStorageClient, Path], Any]]] = {
    "upload": ("PutObject", lambda client, local: client.upload_file(local, NAME)),
    "create": ("PutObject", lambda client, local: client.upload_file(local, NAME, check_conflict=True)),
    "download": ("GetObject", lambda client, local: client.download_file(NAME, local)),
    "exists": ("HeadObject", lambda client, _: client.file_exists(NAME)),
    "info": ("HeadObject", lambda client, _: client.info(NAME)),
    "delete": ("DeleteObject", lambda client, _: client.delete_file(NAME)),
    "list": ("ListObjectsV2", lambda client, _: list(client.list_files())),
    "open": ("HeadObject", lambda client, _: client.open(NAME, "rb")),
    "read": ("GetObject", lambda client, _: client.open(NAME, "rb").read()),
}


def assert_counted(error: StorageError, faulty: Faulty, operation: str) -> None:
    """Assert that the error and its text contain the number of failed requests and the elapsed time."""
    assert error.attempts == len(faulty.sent(operation)) == ATTEMPTS
    assert error.elapsed is not None
    assert 0 < error.elapsed < 600
    assert f"({ATTEMPTS} attempts, {error.elapsed:.1f} s)" in str(error)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("action", [Says(503), Refuse()], ids=repr)
def test_attempts(  # noqa: PLR0917 - fixtures
    verb: str,
    action: Action | Says,
    config: dict[str, str],
    servers: Servers,
    no_waits: None,
    reports: Reports,
    tmp_path: Path,
) -> None:
    """`attempts` is the number of requests to the store, and each one except the last has a record."""
    operation, call = VERBS[verb]
    (tmp_path / "local").write_bytes(CONTENT)
    with behind_proxy(CEPH, servers) as faulty:
        if verb != "create":
            faulty.put(CONTENT)
        client = faulty.client(**config)
        faulty.inject(operation, action, times=None)
        with pytest.raises(StorageUnavailableError) as caught:
            call(client, tmp_path / "local")
        assert_counted(caught.value, faulty, operation)
    assert reports.kinds() == ["retry"] * (ATTEMPTS - 1)


@pytest.mark.parametrize("upload", [PARTS], ids=str, indirect=True)
@pytest.mark.parametrize("step", ["CreateMultipartUpload", "CompleteMultipartUpload"])
def test_attempts_in_parts(upload: Upload, step: str, config: dict[str, str], reports: Reports) -> None:
    """`attempts` counts the requests of a multipart upload, too."""
    upload.faulty.inject(step, Says(503), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run(**config)
    upload.assert_nothing_changed()
    assert_counted(caught.value, upload.faulty, step)
    assert reports.kinds() == ["retry"] * (ATTEMPTS - 1)


@on_upload
def test_attempts_of_corrupted_upload(upload: Upload, config: dict[str, str], reports: Reports) -> None:
    """`attempts` counts every request with a body that arrives corrupted."""
    upload.faulty.inject(upload.commit, FlipRequestBit(50), times=None)
    with pytest.raises(IntegrityError) as caught:
        upload.run(**config, sign_bodies="always")
    upload.assert_nothing_changed()
    assert_counted(caught.value, upload.faulty, upload.commit)
    assert reports.kinds() == ["corruption"] * (ATTEMPTS - 1)


@pytest.mark.parametrize("download", [WHOLE], ids=str, indirect=True)
def test_attempts_of_broken_body(download: Download, config: dict[str, str], reports: Reports) -> None:
    """`attempts` counts every request with a truncated answer."""
    download.faulty.inject(download.read, TruncateBody(0), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        download.run(**config)
    download.assert_as_before()
    assert_counted(caught.value, download.faulty, download.read)
    assert reports.kinds() == ["retry"] * (ATTEMPTS - 1)


def test_attempts_of_many_deletes(
    servers: Servers,
    no_waits: None,
    config: dict[str, str],
    reports: Reports,
) -> None:
    """`attempts` counts repeated DeleteObjects requests, too, although failures come in a successful answer."""
    failed = b"<?xml version='1.0'?><DeleteResult><Error><Key>x</Key><Code>SlowDown</Code></Error></DeleteResult>"
    with behind_proxy(CEPH, servers) as faulty:
        filesystem = faulty.client(**config).filesystem
        paths = [f"{faulty.rig.base}{faulty.rig.key(str(number))}" for number in range(3)]
        filesystem.pipe(dict.fromkeys(paths, CONTENT))
        faulty.inject("DeleteObjects", Answer(200, body=failed), times=None)
        with pytest.raises(StorageUnavailableError) as caught:
            filesystem.rm(paths)
        assert caught.value.attempts == len(faulty.sent("DeleteObjects")) == ATTEMPTS
    assert reports.kinds() == ["retry"] * (ATTEMPTS - 1)
