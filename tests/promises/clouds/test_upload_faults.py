"""Uploads to GCS and Azure while answers are lost, connections break, bits flip and other writers interfere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from fsspec.callbacks import Callback

from gllm_storage.azure import store as azure_store
from gllm_storage.errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from tests.faults import (
    Action,
    Answer,
    AnswerAfter,
    Call,
    CallAfter,
    Delay,
    DropResponse,
    FlipRequestBit,
    Refuse,
    ResetRequest,
)
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

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers
    from tests.promises.clouds.faulty import Faulty

THEIRS = b"theirs"
BUSY = Answer(503, "ServerBusy")
LOST = [
    pytest.param(DropResponse(), id="fin"),
    pytest.param(DropResponse(reset=True), id="rst"),
    pytest.param(AnswerAfter(500, "InternalError"), id="500"),
    pytest.param(AnswerAfter(503, "ServerBusy"), id="503"),
]


@dataclass(frozen=True)
class Case:
    """One way to upload: to which cloud, in parts or in one request, exclusively or not."""

    cloud: Cloud
    large: bool
    create: bool

    def __str__(self) -> str:
        return f"{self.cloud}-{'large' if self.large else 'small'}-{'create' if self.create else 'overwrite'}"


UPLOADS = [Case(cloud, large, create) for cloud in CLOUDS for large in (False, True) for create in (True, False)]
CREATES = [each for each in UPLOADS if each.create]
LARGES = [each for each in UPLOADS if each.large]
LARGE_CREATES = [each for each in LARGES if each.create]


class Upload:
    """An upload that is about to meet a fault. Where it overwrites, there is an object already."""

    def __init__(self, case: Case, faulty: Faulty, folder: Path) -> None:
        self.case = case
        self.faulty = faulty
        self.content = content_of(LARGE if case.large else SMALL)
        self.before = None if case.create else b"before"
        self.local = folder / "model.bin"
        self.local.write_bytes(self.content)
        if self.before is not None:
            faulty.put(self.before)
        self.commit = case.cloud.commit if case.large else case.cloud.put
        """The operation that makes the object visible."""

    def run(self, **config: str) -> None:
        """Upload."""
        self.faulty.client(**config).upload_file(self.local, NAME, check_conflict=self.case.create)

    def assert_stored(self) -> None:
        """The object is there, whole, and nothing else."""
        self.faulty.assert_holds(self.content)

    def assert_nothing_changed(self) -> None:
        """The store is as it was."""
        self.faulty.assert_holds(self.before)


@pytest.fixture
def upload(request: pytest.FixtureRequest, servers: Servers, tmp_path: Path) -> Iterator[Upload]:
    case: Case = request.param
    with behind_proxy(case.cloud, servers) as faulty:
        yield Upload(case, faulty, tmp_path)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    no_waits(monkeypatch)


def on(cases: list[Case]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads."""
    return pytest.mark.parametrize("upload", cases, ids=str, indirect=True)


def on_every_step() -> pytest.MarkDecorator:
    """Run a test with each upload and each operation that it consists of."""
    steps = [
        pytest.param(case, step, id=f"{case}-{step}")
        for case in UPLOADS
        for step in ((*case.cloud.parts, case.cloud.commit) if case.large else (case.cloud.put,))
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
    if upload.case.cloud is GCS and upload.case.large:
        upload.faulty.inject("ResumableStatus", action, times=None)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_an_answer_that_comes_too_late_is_no_failure_and_no_false_conflict(upload: Upload) -> None:
    late = Delay(30)
    upload.faulty.inject(upload.commit, late)
    upload.run(**impatient(late, max_attempts=MANY_TIMES))
    upload.assert_stored()


@on(CREATES)
def test_a_create_whose_answer_was_lost_succeeds_when_the_repeated_one_is_told_of_a_conflict(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, DropResponse())
    repeated = "ResumableStatus" if upload.case.cloud is GCS and upload.case.large else upload.commit
    upload.faulty.inject(repeated, upload.case.cloud.conflict)
    upload.run()
    upload.assert_stored()


@on([each for each in LARGES if each.cloud is GCS])
@pytest.mark.parametrize("status", [404, 410, 499])
def test_a_last_chunk_whose_answer_was_lost_succeeds_though_the_session_is_gone(upload: Upload, status: int) -> None:
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject("ResumableStatus", Answer(status, "gone"), times=None)
    upload.run()
    upload.assert_stored()


GCS_LARGES = [each for each in LARGES if each.cloud is GCS]
COMPLETE = Answer(200, body=json.dumps({"kind": "storage#object", "name": NAME, "generation": "1"}).encode())


@on([each for each in GCS_LARGES if each.create])
@pytest.mark.parametrize("action", LOST)
def test_a_session_that_says_complete_of_a_chunk_that_was_refused_is_not_believed(upload: Upload, action: Action) -> None:
    # As Google's own testbench does: its session is complete, whatever became of the object.
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    upload.faulty.inject("ResumableStatus", COMPLETE)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(GCS_LARGES)
def test_a_session_that_says_complete_when_nothing_is_stored_is_not_believed(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Answer(503, "backendError"))
    upload.faulty.inject("ResumableStatus", COMPLETE)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


@on([each for each in GCS_LARGES if each.create])
def test_who_may_not_look_does_not_learn_whether_a_create_of_a_lost_answer_was_refused(upload: Upload) -> None:
    upload.faulty.inject("ObjectsGet", upload.case.cloud.denied, times=None)
    upload.faulty.inject(upload.commit, DropResponse())
    with pytest.raises(StorageUnavailableError):
        upload.run()


@on([each for each in GCS_LARGES if not each.create])
def test_who_may_not_look_can_replace_an_object_though_an_answer_is_lost(upload: Upload) -> None:
    upload.faulty.inject("ObjectsGet", upload.case.cloud.denied, times=None)
    upload.faulty.inject(upload.commit, DropResponse())
    upload.run()
    upload.assert_stored()


SPOILED = [
    *(pytest.param(Answer(status, "gone"), id=str(status)) for status in (404, 410, 499)),
    pytest.param(Answer(308, body=b"", headers=(("Range", "bytes=0-99999999"),)), id="more-than-was-sent"),
]


@on(GCS_LARGES)
@pytest.mark.parametrize("action", SPOILED)
def test_a_session_that_is_lost_before_its_end_is_begun_anew(upload: Upload, action: Action) -> None:
    upload.faulty.inject("ResumableChunk", action, skip=1)
    upload.run()
    upload.assert_stored()


@on(GCS_LARGES)
@pytest.mark.parametrize("action", SPOILED)
def test_sessions_that_are_lost_without_end_are_an_error_that_may_be_retried(upload: Upload, action: Action) -> None:
    upload.faulty.inject("ResumableChunk", action, skip=1, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert len(upload.faulty.sent("ResumableStart")) == 3
    upload.assert_nothing_changed()


@on(UPLOADS)
@pytest.mark.parametrize("step", ["commit", "first"])
def test_progress_ends_at_the_size_also_when_something_was_sent_again(upload: Upload, step: str) -> None:
    told = Callback()
    cloud = upload.case.cloud
    upload.faulty.inject(cloud.parts[-1] if step == "first" and upload.case.large else upload.commit, DropResponse())
    upload.faulty.client().upload_with_progress(upload.local, NAME, told, check_conflict=upload.case.create)
    assert (told.size, told.value) == (len(upload.content), len(upload.content))


@on(CREATES)
@pytest.mark.parametrize("action", LOST)
def test_a_lost_answer_about_another_writers_object_is_a_conflict(upload: Upload, action: Action) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    with pytest.raises((ObjectExistsError, StorageUnavailableError)) as caught:
        upload.run()
    # The session of a resumable upload ends with the refusal, and what a session that is gone has done cannot be asked.
    assert isinstance(caught.value, ObjectExistsError) or (upload.case.cloud is GCS and upload.case.large)
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_when_no_answer_comes_another_writers_object_is_not_taken_for_ours(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, DropResponse(), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


# ---- other writers


@on(CREATES)
def test_an_object_that_appears_between_the_look_and_the_write_is_kept(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError) as caught:
        upload.run()
    assert caught.value.url == upload.faulty.client().url(NAME)
    upload.faulty.assert_holds(THEIRS)


@pytest.mark.parametrize(
    ("upload", "step"),
    [pytest.param(case, step, id=f"{case}-{step}") for case in LARGE_CREATES for step in case.cloud.parts],
    indirect=["upload"],
)
def test_an_object_that_appears_while_parts_are_sent_is_kept(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, CallAfter(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_an_object_that_is_there_costs_not_a_byte_of_the_upload(upload: Upload) -> None:
    upload.faulty.put(THEIRS)
    with pytest.raises(ObjectExistsError):
        upload.run()
    assert upload.faulty.operations() == [upload.case.cloud.look]
    upload.faulty.assert_holds(THEIRS)


@on([each for each in LARGES if each.cloud is AZURE])
def test_blocks_that_another_writers_commit_threw_away_are_sent_again(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Answer(400, "InvalidBlockList"))
    upload.run()
    upload.assert_stored()
    assert len(upload.faulty.sent("PutBlock")) == 8


@on([each for each in LARGES if each.cloud is AZURE])
def test_blocks_that_are_thrown_away_without_end_are_an_error(upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure_store, "ATTEMPTS", 3)  # 20 take half a minute
    upload.faulty.inject(upload.commit, Answer(400, "InvalidBlockList"), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.assert_nothing_changed()


@on([each for each in CREATES if each.cloud is AZURE and not each.large])
def test_a_small_create_goes_by_blocks_where_nothing_is_there_and_put_blob_is_refused(upload: Upload) -> None:
    container = upload.faulty.rig.second.container  # type: ignore[attr-defined]  # the SDK's own client
    container.get_blob_client(upload.faulty.rig.key(NAME)).stage_block("never-committed", b"of a writer who was killed")
    upload.run()
    upload.assert_stored()


@on([each for each in UPLOADS if each.cloud is AZURE and each.large])
@pytest.mark.parametrize("length", [12, 32, 64])
def test_blocks_that_another_tool_never_committed_are_in_nobodys_way(upload: Upload, length: int) -> None:
    container = upload.faulty.rig.second.container  # type: ignore[attr-defined]  # the SDK's own client
    # Azure takes blocks of one blob only with ids of one length, also of writers who have nothing to do with each other.
    container.get_blob_client(upload.faulty.rig.key(NAME)).stage_block("x" * length, b"of a writer who was killed")
    upload.run()
    upload.assert_stored()


# ---- looks that fail


@on(CREATES)
def test_when_it_cannot_be_told_whose_object_is_there_no_conflict_is_claimed(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.case.cloud.look, BUSY, skip=1, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_who_may_not_look_can_create(upload: Upload) -> None:
    upload.faulty.inject(upload.case.cloud.look, upload.case.cloud.denied, times=None)
    upload.run()
    upload.assert_stored()


@on(CREATES)
def test_who_may_not_look_is_told_of_a_conflict(upload: Upload) -> None:
    upload.faulty.put(THEIRS)
    upload.faulty.inject(upload.case.cloud.look, upload.case.cloud.denied, times=None)
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_a_store_that_cannot_be_looked_at_first_is_an_error_before_anything_is_sent(upload: Upload) -> None:
    upload.faulty.inject(upload.case.cloud.look, BUSY, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    assert set(upload.faulty.operations()) == {upload.case.cloud.look}
    upload.assert_nothing_changed()


# ---- connections that break, stores that are busy


@on_every_step()
@pytest.mark.parametrize(
    ("action", "times"),
    [
        pytest.param(Refuse(), 1, id="refused"),
        pytest.param(ResetRequest(after=50), 1, id="reset-in-body"),
        pytest.param(BUSY, 3, id="3x503"),
        pytest.param(Answer(500, "InternalError"), 2, id="2x500"),
        pytest.param(Answer(502, body=b"<html>Bad Gateway</html>"), 2, id="2x502-html"),
        pytest.param(Answer(429, "TooManyRequests"), 2, id="2x429"),
    ],
)
def test_a_fault_that_passes_is_not_noticed(upload: Upload, step: str, action: Action, times: int) -> None:
    upload.faulty.inject(step, action, times=times)
    upload.run()
    upload.assert_stored()


@on_every_step()
def test_a_store_that_stays_busy_is_an_error_that_may_be_retried_and_nothing_is_left(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, BUSY, times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    error = caught.value
    assert error.retryable
    assert (error.provider, error.operation, error.status) == (upload.case.cloud.provider, "upload", 503)
    assert error.url == upload.faulty.client().url(NAME)
    upload.assert_nothing_changed()


@on_every_step()
def test_a_connection_that_always_breaks_is_an_error_and_nothing_is_left(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, ResetRequest(after=50), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.status is None
    upload.assert_nothing_changed()


@on_every_step()
def test_a_refusal_is_an_error_and_nothing_is_left(upload: Upload, step: str) -> None:
    upload.faulty.inject(step, upload.case.cloud.denied, times=None)
    with pytest.raises(AccessDeniedError) as caught:
        upload.run()
    assert caught.value.status == 403
    upload.assert_nothing_changed()


@on_every_step()
@pytest.mark.parametrize("status", [200, 204, 302, 405])
def test_an_answer_of_something_that_is_no_store_is_an_error(upload: Upload, step: str, status: int) -> None:
    upload.faulty.inject(step, Answer(status, body=b"<html>It works!</html>"), times=None)
    with pytest.raises(StorageError):
        upload.run()
    upload.assert_nothing_changed()


@on(UPLOADS)
def test_max_attempts_is_how_often_a_write_is_sent(upload: Upload) -> None:
    upload.faulty.inject(upload.commit, BUSY, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run(max_attempts="2")
    assert len(upload.faulty.sent(upload.commit)) == 2


# ---- bits that flip


@on(UPLOADS)
def test_a_bit_that_flips_on_the_way_is_noticed_by_the_store_and_sent_again(upload: Upload) -> None:
    step = upload.case.cloud.parts[-1] if upload.case.large else upload.commit
    upload.faulty.inject(step, FlipRequestBit(at=5000))
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_bits_that_always_flip_are_an_integrity_error_and_nothing_is_stored(upload: Upload) -> None:
    step = upload.case.cloud.parts[-1] if upload.case.large else upload.commit
    upload.faulty.inject(step, FlipRequestBit(at=5000), times=None)
    with pytest.raises(IntegrityError):
        upload.run()
    upload.assert_nothing_changed()


# ---- the wire


@pytest.mark.parametrize("case", CREATES, ids=str)
def test_the_requests_of_an_exclusive_create(case: Case, servers: Servers, tmp_path: Path) -> None:
    with behind_proxy(case.cloud, servers) as faulty:
        Upload(case, faulty, tmp_path).run()
        sent = faulty.operations()
    parts = {"gcs": ["ResumableStart", *["ResumableChunk"] * 3], "azure": ["PutBlock"] * 4}[case.cloud.provider]
    assert sent == [case.cloud.look, *(parts if case.large else []), case.cloud.commit if case.large else case.cloud.put]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("cloud", CLOUDS, ids=str)
def test_just_the_request_that_makes_the_object_of_a_create_is_conditional(
    cloud: Cloud, create: bool, servers: Servers, tmp_path: Path
) -> None:
    with behind_proxy(cloud, servers) as faulty:
        for large in (False, True):
            upload = Upload(Case(cloud, large, create), faulty, tmp_path)
            upload.run()
            if create:
                faulty.client().delete_file(NAME)
        asked = [
            entry.operation
            for entry in faulty.proxy.requests
            if "ifGenerationMatch=0" in entry.query or entry.headers.get("if-none-match") == "*"
        ]
    conditional = {"gcs": ["UploadMultipart", "ResumableStart"], "azure": ["PutBlob", "PutBlockList"]}[cloud.provider]
    assert asked == (conditional if create else [])
