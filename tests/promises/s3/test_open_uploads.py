"""Multipart uploads that nobody can abort: the answer that named them was lost. docs/promises.md says what remains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import StorageUnavailableError
from tests.faults import AnswerAfter, Call, DropResponse
from tests.promises.s3.faulty import NAME, Faulty, behind_proxy, content_of, no_waits
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


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


@pytest.fixture(params=["ceph", "ministack"])
def faulty(request: pytest.FixtureRequest, servers: Servers) -> Iterator[Faulty]:
    with behind_proxy(request.param, servers) as each:
        yield each


class Other:
    """Another writer of the same object, with the same credentials, who has begun and not ended."""

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
    """The uploads of this test's object that are open."""
    found = faulty.boto3.list_multipart_uploads(Bucket=BUCKET, Prefix=faulty.rig.key(NAME)).get("Uploads", [])
    return {each["UploadId"] for each in found}


@pytest.mark.parametrize("action", LOST)
def test_after_a_lost_answer_to_its_beginning_an_upload_succeeds_and_aborts_nobody_elses(
    action: Any, faulty: Faulty, tmp_path: Path
) -> None:
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
    assert len(left) == 3  # the third is ours, and looks like the second
    meanwhile.complete()
    assert faulty.get() == b"theirs"


def test_where_no_answer_to_its_beginning_arrives_an_upload_fails_and_aborts_nobody_elses(
    faulty: Faulty, tmp_path: Path
) -> None:
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


def test_what_a_store_tells_of_open_uploads_does_not_say_whose_they_are(faulty: Faulty) -> None:
    place: dict[str, Any] = {"Bucket": BUCKET, "Key": faulty.rig.key(NAME)}
    for writer in ("ours", "theirs"):
        faulty.boto3.create_multipart_upload(**place, Metadata={"gllm-write-id": writer}, ContentType=f"text/{writer}")
    listed: list[Any] = list(faulty.boto3.list_multipart_uploads(Bucket=BUCKET, Prefix=place["Key"])["Uploads"])
    looked_at: list[Any] = [faulty.boto3.list_parts(**place, UploadId=each["UploadId"]) for each in listed]
    for entries in (listed, looked_at):
        kept = [{name: each[name] for name in each if name not in _THAT_DIFFER} for each in entries]
        assert kept[0] == kept[1]


_THAT_DIFFER = {"UploadId", "Initiated", "ResponseMetadata"}
