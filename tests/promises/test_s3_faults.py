"""Faults of S3 only: concurrent changes, errors in a 200 answer, refused checksums and preconditions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from gllm_storage import S3StorageClient
from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ObjectExistsError,
    Remedy,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.store import retry
from gllm_storage.testing.faults import Action, Answer, AnswerAfter, Call, FlipRequestBit, Match, Refuse, TruncateBody
from tests.promises.faulty import (
    CEPH,
    CREATES,
    LARGES,
    MINISTACK,
    NAME,
    RANGES,
    RCLONE,
    SMALL,
    THEIRS,
    WHOLES,
    Download,
    DownloadCase,
    Faulty,
    Says,
    Upload,
    UploadCase,
    behind_proxy,
    content_of,
    messages,
    of,
)
from tests.promises.test_control_faults import VERBS
from tests.rig import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

CONFLICT = Answer(409, "ConditionalRequestConflict")
FAILED_WITH_200 = b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>failed late</Message></Error>"
RANGED = Match(operation="GetObject", header=("range", "bytes="))
S3_CREATES, S3_LARGES = of(CEPH, CREATES), of(CEPH, LARGES)
SMALL_CREATES = [case for case in S3_CREATES if not case.large]
LARGE_OVERWRITE = UploadCase(CEPH, large=True, create=False)
only_ceph = pytest.mark.parametrize("faulty", [CEPH], ids=str, indirect=True)
only_ministack = pytest.mark.parametrize("faulty", [MINISTACK], ids=str, indirect=True)
on_s3 = pytest.mark.parametrize("faulty", [CEPH, MINISTACK], ids=str, indirect=True)


def on(cases: list[UploadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads."""
    return pytest.mark.parametrize("upload", cases, ids=str, indirect=True)


def on_downloads(cases: list[DownloadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these downloads."""
    return pytest.mark.parametrize("download", cases, ids=str, indirect=True)


# ---- CompleteMultipartUpload with an error in a 200 answer


@on(S3_LARGES)
def test_200_with_error_after_success(upload: Upload) -> None:
    """If CompleteMultipartUpload creates the object but answers with an error in a 200, the upload succeeds."""
    upload.faulty.inject(upload.commit, AnswerAfter(200, body=FAILED_WITH_200), times=None)
    upload.run()
    upload.assert_stored()


@on(S3_LARGES)
def test_200_with_error_passes(upload: Upload) -> None:
    """CompleteMultipartUpload is sent again after an error in a 200."""
    upload.faulty.inject(upload.commit, Answer(200, body=FAILED_WITH_200), times=2)
    upload.run()
    upload.assert_stored()


@on(S3_LARGES)
def test_200_with_error_lasts(upload: Upload) -> None:
    """If every CompleteMultipartUpload has an error in a 200, the upload raises an error."""
    upload.faulty.inject(upload.commit, Answer(200, body=FAILED_WITH_200), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.code == "InternalError"
    upload.assert_nothing_changed()


# ---- 409 ConditionalRequestConflict


@on(SMALL_CREATES)
def test_concurrent_put(upload: Upload) -> None:
    """PutObject is sent again after a 409: a concurrent change is not yet a conflict."""
    upload.faulty.inject(upload.commit, CONFLICT)
    upload.run()
    upload.assert_stored()


def test_concurrent_completion(servers: Servers, tmp_path: Path, no_waits: None) -> None:
    """After a 409 to CompleteMultipartUpload, all parts are sent again in a new multipart upload."""
    content = content_of(5 * MIB + SMALL)
    (tmp_path / "file").write_bytes(content)
    with behind_proxy(MINISTACK, servers) as faulty:
        faulty.inject("CompleteMultipartUpload", CONFLICT)
        faulty.client().upload_file(tmp_path / "file", NAME, check_conflict=True)
        faulty.assert_holds(content)
        operations = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"]
        assert [len(faulty.sent(each)) for each in operations] == [2, 4, 2, 1]
        (first, last) = (entry.query for entry in faulty.sent("CompleteMultipartUpload"))
        assert first != last
        assert faulty.sent("AbortMultipartUpload")[0].query.endswith(first)


@on(S3_CREATES)
def test_concurrent_without_end(upload: Upload) -> None:
    """If every attempt gets a 409, the error contains the store's answer."""
    upload.faulty.inject(upload.commit, CONFLICT, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert (caught.value.status, caught.value.code) == (409, "ConditionalRequestConflict")
    assert caught.value.__cause__ is not None
    assert len(upload.faulty.sent(upload.commit)) == retry.CONFLICT.limit
    upload.assert_nothing_changed()


@on(S3_CREATES)
def test_concurrent_writer_wins(upload: Upload) -> None:
    """If the concurrent writer creates the object, the upload raises a conflict."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, CONFLICT)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(S3_CREATES)
@pytest.mark.parametrize("status", [400, 501])
def test_conditions_refused(upload: Upload, status: int) -> None:
    """If the store refuses preconditions, the error says so, and nothing is written."""
    upload.faulty.inject(upload.commit, Answer(status, "NotImplemented"), times=None)
    with pytest.raises(ConflictCheckUnsupportedError):
        upload.run()
    upload.assert_nothing_changed()


# ---- parts


@on([LARGE_OVERWRITE])
def test_one_part_fails(upload: Upload) -> None:
    """If one part always fails, the upload is aborted, even if the first abort request fails."""
    upload.faulty.inject(Match(operation="UploadPart", query="partNumber=2"), Says(503), times=None)
    upload.faulty.inject("AbortMultipartUpload", Says(503), times=3)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


def test_one_part_of_create_fails(servers: Servers, tmp_path: Path, no_waits: None) -> None:
    """If one part of an exclusive create always fails, the upload is aborted."""
    (tmp_path / "file").write_bytes(content_of(5 * MIB + SMALL))
    with behind_proxy(MINISTACK, servers) as faulty:
        faulty.inject(Match(operation="UploadPart", query="partNumber=2"), Says(503), times=None)
        faulty.inject("AbortMultipartUpload", Says(503), times=3)
        with pytest.raises(StorageUnavailableError):
            faulty.client().upload_file(tmp_path / "file", NAME, check_conflict=True)
        faulty.assert_holds()


@on(S3_LARGES)
def test_flipped_bit_in_list_of_parts(upload: Upload) -> None:
    """A flipped bit in the list of parts never creates a wrong object."""
    upload.faulty.inject(upload.commit, FlipRequestBit(at=150))
    try:
        upload.run()
    except StorageError:
        upload.assert_nothing_changed()
    else:
        upload.assert_stored()


# ---- checksums that the endpoint refuses


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("size", [SMALL, 3 * MIB, 14 * MIB], ids=["bytes", "memory", "file"])
def test_checksum_refused(size: int, signed: bool, servers: Servers, tmp_path: Path) -> None:
    """If the endpoint refuses the checksum, the complete body is sent again."""
    (tmp_path / "source").write_bytes(content_of(size))
    with behind_proxy(MINISTACK, servers) as faulty:
        refused = Match(operation="PutObject", header=("x-amz-checksum-crc64nvme", ""))
        faulty.inject(refused, Answer(501, "NotImplemented"), times=None)
        keys = {"aws_access_key_id", "aws_secret_access_key"}
        config = {key: value for key, value in faulty.rig.settings().items() if signed or key not in keys}
        client = S3StorageClient(
            {
                **config,
                **({} if signed else {"anonymous": "true"}),
                "conditional_writes": "enforced",
                "multipart_threshold": "64MiB",
            }
        )
        client.upload_file(tmp_path / "source", NAME, check_conflict=True)
        faulty.assert_holds(content_of(size))
        assert client.download_file(NAME, tmp_path / "copy").read_bytes() == content_of(size)


def test_checksums_of_parts_refused(servers: Servers, tmp_path: Path) -> None:
    """If the endpoint refuses checksums, all concurrent parts are sent again."""
    content = content_of(16 * MIB)
    (tmp_path / "source").write_bytes(content)
    with behind_proxy(MINISTACK, servers) as faulty:
        refused = Match(operation="UploadPart", header=("x-amz-checksum-crc64nvme", ""))
        faulty.inject(refused, Answer(501, "NotImplemented"), times=None)
        faulty.inject("CreateMultipartUpload", Answer(501, "NotImplemented"))
        faulty.client().upload_file(tmp_path / "source", NAME, check_conflict=True)
        faulty.assert_holds(content)


# ---- answers to reads


def everything(download: Download, content: bytes) -> Answer:
    """The answer of a server that ignores the Range header: the complete content."""
    etag = download.faulty.client().info(NAME).etag
    return Answer(200, body=content, headers=(("ETag", f'"{etag}"'),))


@on_downloads(of(CEPH, RANGES)[:1])
def test_broken_answers_add_up(download: Download) -> None:
    """If every answer is cut off, each next request starts after the bytes already received."""
    download.faulty.inject("GetObject", TruncateBody(2 * MIB + 1000), times=None)
    download.run(max_attempts="2")
    download.assert_is(download.content)


@on_downloads(of(CEPH, WHOLES))
def test_short_answer(download: Download) -> None:
    """A short answer is never taken for the complete object."""
    download.faulty.inject("GetObject", everything(download, download.content[:-1]), times=None)
    with pytest.raises(StorageError):
        download.run()
    download.assert_as_before()


@on_downloads(of(CEPH, RANGES))
def test_ranges_ignored(download: Download) -> None:
    """A download succeeds if the server ignores Range headers."""
    download.faulty.inject(RANGED, everything(download, download.content), times=None)
    download.run()
    download.assert_is(download.content)


@on_downloads([DownloadCase(RCLONE, ranges=False), DownloadCase(RCLONE, ranges=True)])
def test_ranges_answered_with_200(download: Download) -> None:
    """A download succeeds if the server answers Range requests with 200."""
    download.run()
    download.assert_is(download.content)


@on_downloads(of(CEPH, WHOLES))
def test_ranges_ignored_while_open(download: Download) -> None:
    """Reading an open object at an offset raises a clear error if the server ignores Range headers."""
    download.faulty.inject(RANGED, everything(download, download.content), times=None)
    with download.faulty.client().open(NAME, "rb", block_size=1000) as file:
        file.seek(500)
        with pytest.raises(StorageError, match="Range") as caught:
            file.read(10)
    assert caught.value.remedy is Remedy.DOWNLOAD_INSTEAD


# ---- control requests


@on_s3
def test_delete_without_read(faulty: Faulty) -> None:
    """Credentials without read permission can delete objects."""
    faulty.inject(Match(method="HEAD"), Says(403), times=None)
    faulty.inject("GetObject", Says(403), times=None)
    assert faulty.client().delete_file(NAME)
    faulty.assert_holds()


@on_s3
def test_delete_without_permission(faulty: Faulty) -> None:
    """Without read and delete permission, a delete raises AccessDeniedError."""
    faulty.inject(Match(method="HEAD"), Says(403), times=None)
    faulty.inject("DeleteObject", Says(403), times=None)
    with pytest.raises(AccessDeniedError):
        faulty.client().delete_file(NAME)
    faulty.assert_holds(b"content")


@only_ministack
def test_second_page_fails(faulty: Faulty) -> None:
    """A listing raises an error if its second page fails."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: faulty.put(b"", f"many/{number}"), range(1001)))
    client = faulty.client()
    second_page = Match(operation="ListObjectsV2", query="continuation-token")
    failures: list[tuple[Action | Says, type[StorageError]]] = [
        (Says(503), StorageUnavailableError),
        (Refuse(), StorageUnavailableError),
        (Says(403), AccessDeniedError),
    ]
    for action, error in failures:
        faulty.proxy.clear()
        faulty.inject(second_page, action, times=None)
        with pytest.raises(error):
            list(client.list_files("many/"))
        assert faulty.proxy.unfired == []
    faulty.proxy.clear()
    assert len(list(client.list_files("many/"))) == 1001


@pytest.mark.parametrize("verb", VERBS)
@only_ministack
def test_redirects(faulty: Faulty, verb: str) -> None:
    """An endpoint that redirects every request raises an error without long retries."""
    elsewhere = (("Location", "https://127.0.0.1/login"),)
    faulty.inject(Match(), Answer(301, body=b"<html><body>Moved</body></html>", headers=elsewhere), times=None)
    with pytest.raises(StorageError):
        VERBS[verb](faulty.client())
    assert len(faulty.proxy.requests) < 20


@pytest.mark.parametrize("wrong", ["aws_secret_access_key", "aws_access_key_id"])
@only_ceph
def test_wrong_credentials(faulty: Faulty, wrong: str) -> None:
    """The error for wrong credentials does not contain the credentials."""
    client = faulty.client(**{wrong: CEPH.secrets[wrong]})
    for verb in VERBS.values():
        with pytest.raises(AccessDeniedError) as caught:
            verb(client)
        told = " ".join(messages(caught.value))
        secrets = [faulty.rig.config["aws_access_key_id"], faulty.rig.config["aws_secret_access_key"], CEPH.secrets[wrong]]
        assert not [secret for secret in secrets if secret in told]
