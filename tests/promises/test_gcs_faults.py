"""Faults that only Google Cloud Storage can have: upload sessions, answers to ranges, content that is stored packed."""

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


# ---- sessions


@on(CREATES)
@pytest.mark.parametrize("action", LOST)
def test_complete_but_refused(upload: Upload, action: Action | Says) -> None:
    """A session that is "complete" after its last chunk was refused is not believed.

    Google's own testbench answers like this: its session is complete, whatever became of the object.
    """
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    upload.faulty.inject("ResumableStatus", COMPLETE)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(UPLOADS)
def test_complete_but_not_stored(upload: Upload) -> None:
    """A session that is "complete" when nothing is stored is not believed."""
    upload.faulty.inject(upload.commit, Says(503))
    upload.faulty.inject("ResumableStatus", COMPLETE)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


@on(CREATES)
def test_create_unknown_without_read(upload: Upload) -> None:
    """Without read permission, a create whose answer was lost is an error: it may have been refused."""
    upload.faulty.inject("ObjectsGet", Says(403), times=None)
    upload.faulty.inject(upload.commit, DropResponse())
    with pytest.raises(StorageUnavailableError):
        upload.run()


@on(OVERWRITES)
def test_overwrite_without_read(upload: Upload) -> None:
    """Without read permission, an overwriting upload succeeds although an answer is lost."""
    upload.faulty.inject("ObjectsGet", Says(403), times=None)
    upload.faulty.inject(upload.commit, DropResponse())
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", SPOILED)
def test_session_lost(upload: Upload, action: Action) -> None:
    """A session that is lost before its end is begun anew."""
    upload.faulty.inject("ResumableChunk", action, skip=1)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", SPOILED)
def test_sessions_lost_without_end(upload: Upload, action: Action) -> None:
    """Sessions that are lost without end are an error that may be retried."""
    upload.faulty.inject("ResumableChunk", action, skip=1, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert len(upload.faulty.sent("ResumableStart")) == 3
    upload.assert_nothing_changed()


# ---- answers to reads


@on_downloads(of(GCS, RANGES))
def test_broken_answers_add_up(download: Download) -> None:
    """Answers that always break off are continued behind the bytes that came."""
    download.faulty.inject(download.read, TruncateBody(MIB // 2 + 1000), times=None)
    download.run(part_size="4MiB", max_attempts="2")
    download.assert_is(download.content)
    assert len(download.faulty.sent(download.read)) >= download.size // (MIB // 2 + 1000)


@on_downloads(of(GCS, WHOLES))
def test_range_answered_with_200(download: Download) -> None:
    """A range that is answered with 200 is a range all the same, as Google's testbench answers after a broken answer."""
    start, end = (("Content-Range", f"bytes 0-99/{SMALL}"),), download.content[:100]
    download.faulty.inject(download.read, Answer(200, body=end, headers=start))
    with download.faulty.client().open(NAME, "rb", cache_type="none") as file:
        assert file.read(100) == download.content[:100]


@on_downloads([*of(GCS, WHOLES), *of(GCS, RANGES)])
def test_ranges_ignored(download: Download) -> None:
    """A download succeeds from a server that ignores ranges."""
    generation = str(download.faulty.client().info(NAME).version)
    everything = Answer(200, body=download.content, headers=(("X-Goog-Generation", generation),))
    download.faulty.inject(download.read, everything, times=None)
    download.run()
    download.assert_is(download.content)


def test_packed_content(servers: Servers, tmp_path: Path, no_waits: None) -> None:  # noqa: ARG001
    """Content that is stored packed is downloaded as it is stored."""
    packed = gzip.compress(b"a" * 5 * MIB + content_of(2 * MIB))
    with behind_proxy(GCS, servers) as faulty:
        blob = faulty.rig.second.bucket.blob(faulty.rig.key(NAME))  # type: ignore[attr-defined]  # Google's own client
        blob.content_encoding = "gzip"
        blob.upload_from_string(packed)
        assert faulty.client().download_file(NAME, tmp_path / "a").read_bytes() == packed
        with faulty.client().open(NAME) as file:
            assert file.read() == packed


# ---- buckets


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "list"])
@on_gcs
def test_missing_bucket(faulty: Faulty, verb: str) -> None:
    """A missing bucket is found out although the answer does not say so."""
    step = {"delete": GCS.delete}.get(verb, GCS.head)
    faulty.inject(step, Answer(404, body=b"Not Found"), times=None)
    faulty.inject("BucketsGet", Answer(404, body=b"Not Found"), times=None)
    with pytest.raises(BucketNotFoundError):
        VERBS[verb](faulty.client())


@pytest.mark.parametrize("name", ["v1/my-bucket", "v1/leaky bucket"])
@on_gcs
def test_bucket_in_name(faulty: Faulty, name: str) -> None:
    """An answer about a missing object with "bucket" in its name is not taken for one about the bucket."""
    message = f"Live version of object models/{name} does not exist."  # as Google's testbench says it
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
    """A store that is too busy to say whether a bucket is a zonal one is asked again by the next upload."""
    (tmp_path / "source").write_bytes(b"new")
    client = faulty.client(max_attempts="2")
    faulty.inject("GetStorageLayout", Says(503), times=2)
    with pytest.raises(StorageUnavailableError):
        client.upload_file(tmp_path / "source", "new", check_conflict=True)
    assert not client.file_exists("new")
    client.upload_file(tmp_path / "source", "new", check_conflict=True)
    assert len(faulty.sent("GetStorageLayout")) == 3
