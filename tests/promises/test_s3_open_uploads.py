"""Open uploads that cannot be aborted: the answer with their id was lost. docs/guarantees.md documents them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import StorageUnavailableError
from gllm_storage.testing.faults import AnswerAfter, Call, DropResponse
from tests.promises.faulty import CEPH, MINISTACK, NAME, Faulty, behind_proxy, content_of
from tests.rig import BUCKET, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

SIZE = 5 * MIB + 1000
LOST = [
    pytest.param(DropResponse(), id="fin"),
    pytest.param(DropResponse(reset=True), id="rst"),
    pytest.param(AnswerAfter(500, "InternalError"), id="500"),
]


@pytest.fixture(params=[CEPH, MINISTACK], ids=str)
def faulty(request: pytest.FixtureRequest, servers: Servers, no_waits: None) -> Iterator[Faulty]:
    """Each S3 server behind a proxy."""
    with behind_proxy(request.param, servers) as each:
        yield each


class Other:
    """Another writer with an open multipart upload of the same object and the same credentials."""

    def __init__(self, faulty: Faulty) -> None:
        self._faulty = faulty
        self._place: dict[str, Any] = {"Bucket": BUCKET, "Key": faulty.rig.key(NAME)}
        self.upload_id = ""

    def begin(self) -> None:
        self.upload_id = self._faulty.boto3.create_multipart_upload(**self._place)["UploadId"]

    def complete(self) -> None:
        whole = {**self._place, "UploadId": self.upload_id}
        sent = self._faulty.boto3.upload_part(**whole, PartNumber=1, Body=b"theirs")
        self._faulty.boto3.complete_multipart_upload(
            **whole, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": sent["ETag"]}]}
        )


def upload_ids(faulty: Faulty) -> set[str]:
    """The ids of all open uploads of this test's object."""
    found = faulty.boto3.list_multipart_uploads(Bucket=BUCKET, Prefix=faulty.rig.key(NAME)).get("Uploads", [])
    return {each["UploadId"] for each in found}


@pytest.mark.parametrize("action", LOST)
def test_begin_answer_lost(action: Any, faulty: Faulty, tmp_path: Path) -> None:
    """After a lost answer to CreateMultipartUpload, an upload succeeds and aborts no upload of another writer."""
    (tmp_path / "file").write_bytes(content_of(SIZE))
    before, meanwhile = Other(faulty), Other(faulty)
    before.begin()
    faulty.inject("CreateMultipartUpload", Call(meanwhile.begin))
    faulty.inject("CreateMultipartUpload", action)
    faulty.client().upload_file(tmp_path / "file", NAME)
    assert faulty.get() == content_of(SIZE)
    assert faulty.sent("AbortMultipartUpload") == []
    left = upload_ids(faulty)
    assert {before.upload_id, meanwhile.upload_id} < left
    assert len(left) == 3  # one of them is the library's, but has no mark that tells it from the others
    meanwhile.complete()
    assert faulty.get() == b"theirs"


def test_begin_every_answer_lost(faulty: Faulty, tmp_path: Path) -> None:
    """If every answer to CreateMultipartUpload is lost, an upload fails and aborts no upload of another writer."""
    (tmp_path / "file").write_bytes(content_of(SIZE))
    other = Other(faulty)
    other.begin()
    faulty.inject("CreateMultipartUpload", DropResponse(), times=None)
    with pytest.raises(StorageUnavailableError):
        faulty.client(max_attempts="2").upload_file(tmp_path / "file", NAME)
    assert faulty.rig.keys() == []
    assert len(upload_ids(faulty)) == 3
    other.complete()
    assert faulty.get() == b"theirs"


def test_listing_names_no_writer(faulty: Faulty) -> None:
    """The store's list of open uploads does not identify their writers."""
    place: dict[str, Any] = {"Bucket": BUCKET, "Key": faulty.rig.key(NAME)}
    for writer in ("ours", "theirs"):
        faulty.boto3.create_multipart_upload(**place, Metadata={"gllm-write-id": writer}, ContentType=f"text/{writer}")
    listed: list[Any] = list(faulty.boto3.list_multipart_uploads(Bucket=BUCKET, Prefix=place["Key"])["Uploads"])
    inspected: list[Any] = [faulty.boto3.list_parts(**place, UploadId=each["UploadId"]) for each in listed]
    for entries in (listed, inspected):
        kept = [{name: each[name] for name in each if name not in _DIFFERENT} for each in entries]
        assert kept[0] == kept[1]


_DIFFERENT = {"UploadId", "Initiated", "ResponseMetadata"}
