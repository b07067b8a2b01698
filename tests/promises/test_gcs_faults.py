"""Faults of Google Cloud Storage only: upload sessions, answers to ranges, gzip-encoded content."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import (
    BucketNotFoundError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageUnavailableError,
)
from gllm_storage.testing.faults import Action, Answer, Call, DropResponse, TruncateBody
from tests.promises.faulty import (
    GCS,
    LARGES,
    NAME,
    RANGES,
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
    of,
)
from tests.promises.test_control_faults import VERBS
from tests.promises.test_upload_faults import LOST
from tests.rig import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Servers

UPLOADS = of(GCS, LARGES)
CREATES = [case for case in UPLOADS if case.create]
OVERWRITES = [case for case in UPLOADS if not case.create]
SMALL_CONTENT = b"content"
COMPLETE = Answer(200, body=json.dumps({"kind": "storage#object", "name": NAME, "generation": "1"}).encode())
SPOILED = [
    *(pytest.param(Answer(status, "gone"), id=str(status)) for status in (404, 410, 499)),
    pytest.param(Answer(308, body=b"", headers=(("Range", "bytes=0-99999999"),)), id="more-than-was-sent"),
]
on_gcs = pytest.mark.parametrize("faulty", [GCS], ids=str, indirect=True)


def on(cases: list[UploadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads."""
    return pytest.mark.parametrize("upload", cases, ids=str, indirect=True)


def on_downloads(cases: list[DownloadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these downloads."""
    return pytest.mark.parametrize("download", cases, ids=str, indirect=True)


# ---- upload sessions


@on(CREATES)
@pytest.mark.parametrize("action", LOST)
def test_complete_but_refused(upload: Upload, action: Action | Says) -> None:
    """A session state "complete" after a refused last chunk is not taken for a success.

    Google's own testbench answers like this: its session is complete even if the object was not created.
    """
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    upload.faulty.inject("ResumableStatus", COMPLETE)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(UPLOADS)
def test_complete_but_not_stored(upload: Upload) -> None:
    """A session state "complete" without a stored object is not taken for a success."""
    upload.faulty.inject(upload.commit, Says(503))
    upload.faulty.inject("ResumableStatus", COMPLETE)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


@on(CREATES)
def test_create_unknown_without_read(upload: Upload) -> None:
    """Without read permission, a create with a lost answer raises an error: the store may have refused it."""
    upload.faulty.inject("ObjectsGet", Says(403), times=None)
    upload.faulty.inject(upload.commit, DropResponse())
    with pytest.raises(StorageUnavailableError):
        upload.run()


@on(OVERWRITES)
def test_overwrite_without_read(upload: Upload) -> None:
    """Without read permission, an overwriting upload succeeds after a lost answer."""
    upload.faulty.inject("ObjectsGet", Says(403), times=None)
    upload.faulty.inject(upload.commit, DropResponse())
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", SPOILED)
def test_session_lost(upload: Upload, action: Action) -> None:
    """If the store loses the upload session, the upload starts a new session."""
    upload.faulty.inject("ResumableChunk", action, skip=1)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", SPOILED)
def test_sessions_lost_without_end(upload: Upload, action: Action) -> None:
    """If the store loses every upload session, the upload raises a retryable error."""
    upload.faulty.inject("ResumableChunk", action, skip=1, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert len(upload.faulty.sent("ResumableStart")) == 3
    upload.assert_nothing_changed()


# ---- answers to reads


@on_downloads(of(GCS, RANGES))
def test_broken_answers_add_up(download: Download) -> None:
    """If every answer is cut off, each next request starts after the bytes already received."""
    download.faulty.inject(download.read, TruncateBody(MIB // 2 + 1000), times=None)
    download.run(part_size="4MiB", max_attempts="2")
    download.assert_is(download.content)
    assert len(download.faulty.sent(download.read)) >= download.size // (MIB // 2 + 1000)


@on_downloads(of(GCS, WHOLES))
def test_range_answered_with_200(download: Download) -> None:
    """A range with status 200 instead of 206 is accepted; Google's testbench sends it after a broken answer."""
    start, end = (("Content-Range", f"bytes 0-99/{SMALL}"),), download.content[:100]
    download.faulty.inject(download.read, Answer(200, body=end, headers=start))
    with download.faulty.client().open(NAME, "rb", cache_type="none") as file:
        assert file.read(100) == download.content[:100]


@on_downloads([*of(GCS, WHOLES), *of(GCS, RANGES)])
def test_ranges_ignored(download: Download) -> None:
    """A download succeeds if the server ignores Range headers."""
    generation = str(download.faulty.client().info(NAME).version)
    everything = Answer(200, body=download.content, headers=(("X-Goog-Generation", generation),))
    download.faulty.inject(download.read, everything, times=None)
    download.run()
    download.assert_is(download.content)


def test_packed_content(servers: Servers, tmp_path: Path, no_waits: None) -> None:
    """Content that is stored gzip-encoded is downloaded as stored, without decompression."""
    packed = gzip.compress(b"a" * 5 * MIB + content_of(2 * MIB))
    with behind_proxy(GCS, servers) as faulty:
        blob = faulty.rig.google.bucket.blob(faulty.rig.key(NAME))
        blob.content_encoding = "gzip"
        blob.upload_from_string(packed)
        assert faulty.client().download_file(NAME, tmp_path / "a").read_bytes() == packed
        with faulty.client().open(NAME) as file:
            assert file.read() == packed


# ---- buckets


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "list"])
@on_gcs
def test_missing_bucket(faulty: Faulty, verb: str) -> None:
    """A missing bucket is detected although the answer does not mention the bucket."""
    step = {"delete": GCS.delete}.get(verb, GCS.head)
    faulty.inject(step, Answer(404, body=b"Not Found"), times=None)
    faulty.inject("BucketsGet", Answer(404, body=b"Not Found"), times=None)
    with pytest.raises(BucketNotFoundError):
        VERBS[verb](faulty.client())


@pytest.mark.parametrize("name", ["v1/my-bucket", "v1/leaky bucket"])
@on_gcs
def test_bucket_in_name(faulty: Faulty, name: str) -> None:
    """An answer about a missing object with "bucket" in its name does not raise BucketNotFoundError."""
    message = f"Live version of object models/{name} does not exist."  # the text of Google's testbench
    missing = Answer(404, body=json.dumps({"error": {"code": 404, "message": message}}).encode())
    faulty.inject("ObjectsGet", missing, times=None)
    client = faulty.client()
    assert not client.file_exists(name)
    with pytest.raises(ObjectNotFoundError):
        client.info(name)
    with client.open(name, "xb") as file:
        file.write(b"new")
    assert faulty.get(name) == b"new"


@on_gcs
def test_zonal_unknown(faulty: Faulty, tmp_path: Path) -> None:
    """If the request for the bucket type fails because the store is busy, the next upload sends it again."""
    (tmp_path / "source").write_bytes(b"new")
    client = faulty.client(max_attempts="2")
    faulty.inject("GetStorageLayout", Says(503), times=2)
    with pytest.raises(StorageUnavailableError):
        client.upload_file(tmp_path / "source", "new", check_conflict=True)
    assert not client.file_exists("new")
    client.upload_file(tmp_path / "source", "new", check_conflict=True)
    assert len(faulty.sent("GetStorageLayout")) == 3


@on_gcs
@pytest.mark.parametrize("lost", ["ObjectsRewrite", "ObjectsDelete"])
@pytest.mark.parametrize("method", ["mv", "mv_file", "rename"])
def test_move_with_lost_answer(faulty: Faulty, lost: str, method: str) -> None:
    """A move whose answer is lost succeeds."""
    faulty.put(SMALL_CONTENT)
    filesystem, source = faulty.client().filesystem, faulty.client().url(NAME)
    faulty.inject(lost, DropResponse())
    getattr(filesystem, method)(source, f"{source}.moved")
    assert filesystem.cat_file(f"{source}.moved") == SMALL_CONTENT
    assert not filesystem.exists(source)
