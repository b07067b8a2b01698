"""Uploads to S3 while answers are lost, connections break, bits flip and other writers interfere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gllm_storage import S3StorageClient
from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    IntegrityError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.store.create import ATTEMPTS
from tests.faults import (
    Action,
    Answer,
    AnswerAfter,
    Call,
    Delay,
    DropResponse,
    FlipRequestBit,
    Match,
    Refuse,
    ResetRequest,
)
from tests.promises.s3.faulty import (
    CREATES,
    DENIED,
    LARGE_CREATE,
    LARGE_OVERWRITE,
    LARGES,
    MANY_TIMES,
    NAME,
    SLOW_DOWN,
    SMALL,
    SMALL_CREATES,
    SMALL_OVERWRITE,
    TWO_PARTS_CREATE,
    UPLOADS,
    Upload,
    UploadCase,
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

THEIRS = b"theirs"
CONFLICT = Answer(409, "ConditionalRequestConflict")
FAILED_WITH_200 = b"<?xml version='1.0'?>\n<Error><Code>InternalError</Code><Message>failed late</Message></Error>"
COMPLETED = (
    b"<?xml version='1.0'?>\n<CompleteMultipartUploadResult><ETag>&quot;x-2&quot;</ETag></CompleteMultipartUploadResult>"
)
HEADS = Match(method="HEAD")

LOST = [
    pytest.param(DropResponse(), id="fin"),
    pytest.param(DropResponse(reset=True), id="rst"),
    pytest.param(AnswerAfter(500, "InternalError"), id="500"),
    pytest.param(AnswerAfter(503, "SlowDown"), id="503"),
]


@pytest.fixture
def upload(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Upload]:
    case: UploadCase = request.param
    with behind_proxy(case.server, servers) as faulty:
        yield Upload(case, faulty, tmp_path)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


def on(cases: list[UploadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads."""
    return pytest.mark.parametrize("upload", cases, ids=str, indirect=True)


def on_every_step() -> pytest.MarkDecorator:
    """Run a test with each upload and each operation that it consists of."""
    small, large = ["PutObject"], ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]
    steps = [
        pytest.param(case, step, id=f"{case}-{step}") for case in UPLOADS for step in (large if case.in_parts else small)
    ]
    return pytest.mark.parametrize(("upload", "step"), steps, indirect=["upload"])


# ---- answers that are lost


@on(UPLOADS)
@pytest.mark.parametrize("action", LOST)
def test_a_lost_answer_to_a_write_that_succeeded_is_no_failure_and_no_false_conflict(upload: Upload, action: Action) -> None:
    upload.faulty.inject(upload.commit, action)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", LOST)
def test_a_write_whose_every_answer_is_lost_is_a_success_all_the_same(upload: Upload, action: Action) -> None:
    upload.faulty.inject(upload.commit, action, times=None)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_an_answer_that_comes_too_late_is_no_failure_and_no_false_conflict(upload: Upload) -> None:
    late = Delay(30)
    upload.faulty.inject(upload.commit, late)
    upload.run(**impatient(late, max_attempts=MANY_TIMES))
    upload.assert_stored()


@on(LARGES)
@pytest.mark.parametrize(
    "repeated",
    [
        pytest.param(Answer(200, body=COMPLETED), id="200"),
        pytest.param(Answer(404, "NoSuchUpload"), id="404"),
        pytest.param(Answer(500, "InternalError"), id="500"),
    ],
)
def test_a_completion_whose_answer_was_lost_succeeds_whatever_the_repeated_one_is_told(
    upload: Upload, repeated: Action
) -> None:
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject(upload.commit, repeated, times=None)
    upload.run()
    upload.assert_stored()


@on(CREATES)
def test_a_create_whose_answer_was_lost_succeeds_when_the_repeated_one_is_told_412(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject(upload.commit, Answer(412, "PreconditionFailed"))
    upload.run()
    upload.assert_stored()


@on(LARGES)
def test_a_completion_that_succeeded_and_was_answered_with_an_error_in_a_200_is_a_success(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, AnswerAfter(200, body=FAILED_WITH_200), times=None)
    upload.run()
    upload.assert_stored()


@on(CREATES)
@pytest.mark.parametrize("action", LOST)
def test_a_lost_answer_about_another_writers_object_is_a_conflict(upload: Upload, action: Action) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(content=THEIRS)


@on(CREATES)
def test_when_no_answer_comes_another_writers_object_is_not_taken_for_ours(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, DropResponse(), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(content=THEIRS)


# ---- other writers


@on(CREATES)
def test_an_object_that_appears_between_the_look_and_the_write_is_kept(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError) as caught:
        upload.run()
    assert caught.value.url == upload.faulty.client().url("v1/model.bin")
    upload.faulty.assert_holds(content=THEIRS)


@on([LARGE_CREATE])
@pytest.mark.parametrize("step", ["CreateMultipartUpload", "UploadPart"])
def test_an_object_that_appears_while_parts_are_sent_is_kept(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, Call(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(content=THEIRS)


@on(CREATES)
def test_an_object_that_is_there_costs_not_a_byte_of_the_upload(upload: Upload) -> None:
    upload.faulty.put(THEIRS)
    with pytest.raises(ObjectExistsError):
        upload.run()
    assert {entry.method for entry in upload.faulty.proxy.requests} == {"HEAD"}
    upload.faulty.assert_holds(content=THEIRS)


@on(SMALL_CREATES)
def test_a_concurrent_change_is_not_a_conflict_and_the_put_is_tried_again(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, CONFLICT)
    upload.run()
    upload.assert_stored()


@on([TWO_PARTS_CREATE])
def test_a_concurrent_change_on_completing_sends_all_parts_again_in_a_new_upload(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, CONFLICT)
    upload.run()
    upload.assert_stored()
    operations = ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"]
    assert [len(upload.faulty.sent(each)) for each in operations] == [2, 4, 2, 1]
    (first, last) = (entry.query for entry in upload.faulty.sent(upload.commit))
    assert first != last
    assert upload.faulty.sent("AbortMultipartUpload")[0].query.endswith(first)


@on(CREATES)
def test_concurrent_changes_without_end_are_given_up(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, CONFLICT, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert len(upload.faulty.sent(upload.commit)) == ATTEMPTS
    upload.assert_nothing_changed()


@on(CREATES)
def test_giving_up_on_concurrent_changes_tells_what_the_store_answered(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, CONFLICT, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert (caught.value.status, caught.value.code) == (409, "ConditionalRequestConflict")
    assert caught.value.__cause__ is not None


@on(CREATES)
def test_a_concurrent_change_by_a_writer_who_wins_is_a_conflict(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, CONFLICT)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(content=THEIRS)


# ---- stores that refuse, and looks that fail


@on(CREATES)
@pytest.mark.parametrize("status", [400, 501])
def test_a_store_that_refuses_conditions_is_named_so_and_nothing_is_written(upload: Upload, status: int) -> None:
    upload.faulty.inject(upload.commit, Answer(status, "NotImplemented"), times=None)
    with pytest.raises(ConflictCheckUnsupportedError):
        upload.run()
    upload.assert_nothing_changed()


@on(CREATES)
def test_when_it_cannot_be_told_whose_object_is_there_no_conflict_is_claimed(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject("HeadObject", SLOW_DOWN, skip=1, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(content=THEIRS)


@on(UPLOADS)
def test_a_lost_answer_and_a_store_that_then_fails_is_an_error_and_not_a_conflict(upload: Upload) -> None:
    looks = 1 if upload.case.create else 0
    upload.faulty.inject(upload.commit, AnswerAfter(500), times=None)
    upload.faulty.inject("HeadObject", SLOW_DOWN, skip=looks, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.operation == "upload"
    assert upload.faulty.rig.open_uploads() == []


@on(CREATES)
def test_who_may_not_look_can_create(upload: Upload) -> None:
    upload.faulty.inject(HEADS, DENIED, times=None)
    upload.run()
    upload.assert_stored()


@on(CREATES)
def test_who_may_not_look_is_told_of_a_conflict(upload: Upload) -> None:
    upload.faulty.put(THEIRS)
    upload.faulty.inject(HEADS, DENIED, times=None)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(content=THEIRS)


@on(CREATES)
def test_a_store_that_cannot_be_looked_at_first_is_an_error_before_anything_is_sent(upload: Upload) -> None:
    upload.faulty.inject(HEADS, SLOW_DOWN, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    assert {entry.method for entry in upload.faulty.proxy.requests} == {"HEAD"}
    upload.assert_nothing_changed()


# ---- connections that break, stores that are busy


@on_every_step()
@pytest.mark.parametrize(
    ("action", "times"),
    [
        pytest.param(Refuse(), 1, id="refused"),
        pytest.param(ResetRequest(after=50), 1, id="reset-in-body"),
        pytest.param(SLOW_DOWN, 3, id="3x503"),
        pytest.param(Answer(500, "InternalError"), 2, id="2x500"),
        pytest.param(Answer(502, body=b"<html>Bad Gateway</html>"), 2, id="2x502-html"),
    ],
)
def test_a_fault_that_passes_is_not_noticed(upload: Upload, step: str, action: Action, times: int) -> None:
    upload.faulty.inject(step, action, times=times)
    upload.run()
    upload.assert_stored()


@on_every_step()
def test_a_store_that_stays_busy_is_an_error_that_may_be_retried_and_nothing_is_left(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, SLOW_DOWN, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation, error.status, error.code) == ("s3", "upload", 503, "SlowDown")
    assert error.url == upload.faulty.client().url("v1/model.bin")
    upload.assert_nothing_changed()


@on_every_step()
def test_a_connection_that_always_breaks_is_an_error_and_nothing_is_left(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, ResetRequest(after=50), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert caught.value.status is None
    upload.assert_nothing_changed()


@on_every_step()
def test_a_refusal_is_an_error_and_nothing_is_left(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, DENIED, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        upload.run()
    assert (caught.value.status, caught.value.code) == (403, "AccessDenied")
    upload.assert_nothing_changed()


@on([LARGE_OVERWRITE, TWO_PARTS_CREATE])
def test_a_part_that_fails_for_good_while_others_arrive_leaves_nothing(upload: Upload) -> None:
    upload.faulty.inject(Match(operation="UploadPart", query="partNumber=2"), SLOW_DOWN, times=None)
    upload.faulty.inject("AbortMultipartUpload", SLOW_DOWN, times=3)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


@on([SMALL_OVERWRITE, LARGE_OVERWRITE])
def test_too_many_requests_are_waited_out(upload: Upload) -> None:
    upload.faulty.inject(upload.send, Answer(429, "TooManyRequests"), times=2)
    upload.run()
    upload.assert_stored()


@on(LARGES)
def test_a_completion_that_fails_in_a_200_is_tried_again(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Answer(200, body=FAILED_WITH_200), times=2)
    upload.run()
    upload.assert_stored()


@on(LARGES)
def test_a_completion_that_always_fails_in_a_200_is_an_error(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Answer(200, body=FAILED_WITH_200), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.code == "InternalError"
    upload.assert_nothing_changed()


@on(UPLOADS)
def test_max_attempts_is_how_often_a_write_is_sent(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, SLOW_DOWN, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run(max_attempts="2")
    assert len(upload.faulty.sent(upload.commit)) == 2


# ---- bits that flip


@on(UPLOADS)
def test_a_bit_that_flips_on_the_way_is_noticed_by_the_store_and_sent_again(upload: Upload) -> None:
    upload.faulty.inject(upload.send, FlipRequestBit(at=1000))
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_bits_that_always_flip_are_an_integrity_error_and_nothing_is_stored(upload: Upload) -> None:
    upload.faulty.inject(upload.send, FlipRequestBit(at=1000), times=None)
    with pytest.raises(IntegrityError):
        upload.run()
    upload.assert_nothing_changed()


@on(LARGES)
def test_a_bit_that_flips_in_the_list_of_parts_never_makes_a_wrong_object(upload: Upload) -> None:
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
def test_a_body_is_sent_whole_again_to_an_endpoint_that_refuses_its_checksum(
    size: int, signed: bool, servers: Servers, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(content_of(size))
    with behind_proxy("ministack", servers) as faulty:
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
        faulty.assert_holds(content=content_of(size))
        assert client.download_file(NAME, tmp_path / "copy").read_bytes() == content_of(size)


def test_parts_side_by_side_are_all_sent_again_to_an_endpoint_that_refuses_their_checksums(
    servers: Servers, tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(content_of(26 * MIB))
    with behind_proxy("ministack", servers) as faulty:
        refused = Match(operation="UploadPart", header=("x-amz-checksum-crc64nvme", ""))
        faulty.inject(refused, Answer(501, "NotImplemented"), times=None)
        faulty.inject("CreateMultipartUpload", Answer(501, "NotImplemented"))
        faulty.client().upload_file(tmp_path / "source", NAME, check_conflict=True)
        faulty.assert_holds(content=content_of(26 * MIB))
