"""Uploads to every cloud while answers are lost, connections break, bits flip and other writers interfere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from fsspec.callbacks import Callback

from gllm_storage.errors import (
    AccessDeniedError,
    IntegrityError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.testing.faults import (
    Action,
    Answer,
    Call,
    CallAfter,
    Delay,
    DropResponse,
    FlipRequestBit,
    Refuse,
    ResetRequest,
)
from tests.promises.faulty import (
    CREATES,
    GCS,
    LARGES,
    MANY_TIMES,
    NAME,
    THEIRS,
    UPLOADS,
    Says,
    Upload,
    UploadCase,
    impatient,
    one_each,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

LOST = [
    pytest.param(DropResponse(), id="fin"),
    pytest.param(DropResponse(reset=True), id="rst"),
    pytest.param(Says(500, after=True), id="500"),
    pytest.param(Says(503, after=True), id="503"),
]


def on(cases: list[UploadCase]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads."""
    return pytest.mark.parametrize("upload", cases, ids=str, indirect=True)


def on_steps(steps: Iterable[tuple[UploadCase, str]]) -> pytest.MarkDecorator:
    """Run a test with each of these uploads and requests."""
    cases = [pytest.param(case, step, id=f"{case}-{step}") for case, step in steps]
    return pytest.mark.parametrize(("upload", "step"), cases, indirect=["upload"])


# The proxy answers these, so that one server of a provider does for all.
on_every_step = on_steps((case, step) for case in one_each(UPLOADS) for step in case.steps)


# ---- answers that are lost


@on(UPLOADS)
@pytest.mark.parametrize("action", LOST)
def test_answer_lost(upload: Upload, action: Action | Says) -> None:
    """A lost answer to a write that succeeded is neither a failure nor a false conflict."""
    upload.faulty.inject(upload.commit, action)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", LOST)
def test_every_answer_lost(upload: Upload, action: Action | Says) -> None:
    """A write of which every answer is lost is a success all the same."""
    for step in {upload.commit, upload.case.asked_again}:
        upload.faulty.inject(step, action, times=None)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_answer_late(upload: Upload) -> None:
    """An answer that comes after the read timeout is neither a failure nor a false conflict."""
    late = Delay(30)
    upload.faulty.inject(upload.commit, late)
    upload.run(**impatient(late, max_attempts=MANY_TIMES))
    upload.assert_stored()


@on(CREATES)
def test_answer_lost_then_conflict(upload: Upload) -> None:
    """A create whose answer was lost succeeds although the repeated request is told of a conflict."""
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject(upload.case.asked_again, upload.case.cloud.answer(*upload.case.cloud.conflict))
    upload.run()
    upload.assert_stored()


@pytest.mark.parametrize(
    ("upload", "repeated"),
    [pytest.param(case, answer, id=f"{case}-{answer.status}") for case in LARGES for answer in case.cloud.repeated],
    indirect=["upload"],
)
def test_answer_lost_then_another(upload: Upload, repeated: Answer) -> None:
    """A commit whose answer was lost succeeds, whatever the next request is told."""
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject(upload.case.asked_again, repeated, times=None)
    upload.run()
    upload.assert_stored()


@on(CREATES)
@pytest.mark.parametrize("action", LOST)
def test_lost_answer_about_theirs(upload: Upload, action: Action | Says) -> None:
    """A lost answer about another writer's object is a conflict."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    with pytest.raises((ObjectExistsError, StorageUnavailableError)) as caught:
        upload.run()
    # GCS ends the session with its refusal, and then does not say what the session has done.
    assert isinstance(caught.value, ObjectExistsError) or (upload.case.cloud is GCS and upload.case.large)
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_no_answer_about_theirs(upload: Upload) -> None:
    """If no answer comes, another writer's object is not taken for the caller's."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, DropResponse(), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(one_each(UPLOADS))
def test_answer_lost_then_no_head(upload: Upload) -> None:
    """A lost answer and a store that then fails is an error and not a conflict."""
    for step in {upload.commit, upload.case.asked_again}:
        upload.faulty.inject(step, Says(500, after=True), times=None)
    upload.faulty.inject(upload.case.cloud.head, Says(503), skip=int(upload.case.create), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.operation == "upload"
    assert upload.faulty.rig.open_uploads() == []


@on(UPLOADS)
@pytest.mark.parametrize("step", ["send", "commit"])
def test_progress_after_repeat(upload: Upload, step: str) -> None:
    """Progress ends at the size of the file, although a request was sent again."""
    told = Callback()
    upload.faulty.inject(upload.send if step == "send" else upload.commit, DropResponse())
    upload.client().upload_with_progress(upload.local, NAME, told, check_conflict=upload.case.create)
    assert (told.size, told.value) == (len(upload.content), len(upload.content))


# ---- other writers


@on(CREATES)
def test_theirs_before_commit(upload: Upload) -> None:
    """An object that appears between the HEAD request and the write is kept."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError) as caught:
        upload.run()
    assert caught.value.url == upload.faulty.client().url(NAME)
    upload.faulty.assert_holds(THEIRS)


@on_steps((case, step) for case in CREATES if case.large for step in case.cloud.parts)
def test_theirs_while_parts_are_sent(upload: Upload, step: str) -> None:
    """An object that appears while parts are sent is kept."""
    upload.faulty.inject(step, CallAfter(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_theirs_from_the_start(upload: Upload) -> None:
    """If an object is there, a create ends after one HEAD request, and sends nothing of the file."""
    upload.faulty.put(THEIRS)
    with pytest.raises(ObjectExistsError):
        upload.run()
    assert upload.faulty.operations() == [upload.case.cloud.head]
    upload.faulty.assert_holds(THEIRS)


# ---- HEAD requests that fail


@on(CREATES)
def test_conflict_of_unknown_writer(upload: Upload) -> None:
    """If the writer of the object cannot be found out, no conflict is claimed."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.case.cloud.head, Says(503), skip=1, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_create_without_read(upload: Upload) -> None:
    """Credentials without read permission can create."""
    upload.faulty.inject_heads(Says(403))
    upload.run()
    upload.assert_stored()


@on(CREATES)
def test_conflict_without_read(upload: Upload) -> None:
    """Credentials without read permission are told of a conflict."""
    upload.faulty.put(THEIRS)
    upload.faulty.inject_heads(Says(403))
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_head_fails(upload: Upload) -> None:
    """If the first HEAD request fails, the create is an error before anything is sent."""
    upload.faulty.inject_heads(Says(503))
    with pytest.raises(StorageUnavailableError):
        upload.run()
    assert set(upload.faulty.operations()) == {upload.case.cloud.head}
    upload.assert_nothing_changed()


# ---- connections that break, stores that are busy


@on_every_step
@pytest.mark.parametrize(
    ("action", "times"),
    [
        pytest.param(Refuse(), 1, id="refused"),
        pytest.param(ResetRequest(after=50), 1, id="reset-in-body"),
        pytest.param(Says(503), 3, id="3x503"),
        pytest.param(Says(500), 2, id="2x500"),
        pytest.param(Answer(502, body=b"<html>Bad Gateway</html>"), 2, id="2x502-html"),
        pytest.param(Says(429), 2, id="2x429"),
    ],
)
def test_passing_fault(upload: Upload, step: str, action: Action | Says, times: int) -> None:
    """A fault that passes is not noticed."""
    upload.faulty.inject(step, action, times=times)
    upload.run()
    upload.assert_stored()


@on_every_step
def test_busy_store(upload: Upload, step: str) -> None:
    """A store that stays busy is an error that may be retried, and nothing is left."""
    upload.faulty.inject(step, Says(503), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    error, cloud = caught.value, upload.case.cloud
    assert error.retryable
    assert (error.provider, error.operation) == (cloud.provider, "upload")
    assert (error.status, error.code) == (503, cloud.codes[503])
    assert error.url == upload.faulty.client().url(NAME)
    upload.assert_nothing_changed()


@on_every_step
def test_broken_connection(upload: Upload, step: str) -> None:
    """A connection that always breaks is an error that may be retried, and nothing is left."""
    upload.faulty.inject(step, ResetRequest(after=50), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert caught.value.status is None
    upload.assert_nothing_changed()


@on_every_step
def test_denied(upload: Upload, step: str) -> None:
    """A refusal is an error, and nothing is left."""
    upload.faulty.inject(step, Says(403), times=None)
    with pytest.raises(AccessDeniedError) as caught:
        upload.run()
    assert (caught.value.status, caught.value.code) == (403, upload.case.cloud.codes[403])
    upload.assert_nothing_changed()


@on_every_step
@pytest.mark.parametrize("status", [200, 204, 302, 405])
def test_answer_of_no_store(upload: Upload, step: str, status: int) -> None:
    """The answer of a web server that is not a store is an error."""
    upload.faulty.inject(step, Answer(status, body=b"<html>It works!</html>"), times=None)
    with pytest.raises(StorageError):
        upload.run()
    upload.assert_nothing_changed()


@on(one_each(UPLOADS))
def test_max_attempts(upload: Upload) -> None:
    """`max_attempts` is how often a write is sent."""
    upload.faulty.inject(upload.commit, Says(503), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run(max_attempts="2")
    assert len(upload.faulty.sent(upload.commit)) == 2


# ---- bits that flip


@on(UPLOADS)
def test_flipped_bit(upload: Upload) -> None:
    """A bit that flips on the way is noticed by the store, and the request is sent again."""
    upload.faulty.inject(upload.send, FlipRequestBit(at=5000))
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_flipped_bits(upload: Upload) -> None:
    """Bits that always flip are an integrity error, and nothing is stored."""
    upload.faulty.inject(upload.send, FlipRequestBit(at=5000), times=None)
    with pytest.raises(IntegrityError):
        upload.run()
    upload.assert_nothing_changed()


# ---- the wire


@on(CREATES)
def test_requests_of_create(upload: Upload) -> None:
    """An exclusive create sends these requests, and no other ones."""
    upload.run()
    case = upload.case
    sent = [case.cloud.head, *(case.cloud.sent if case.large else ()), case.commit]
    assert upload.faulty.operations() == sent


@on(UPLOADS)
def test_precondition(upload: Upload) -> None:
    """Only the request that makes the object of a create has a precondition."""
    upload.run()
    asked = [
        entry.operation
        for entry in upload.faulty.proxy.requests
        if "ifGenerationMatch=0" in entry.query or entry.headers.get("if-none-match") == "*"
    ]
    assert asked == ([upload.case.cloud.conditional[upload.case.large]] if upload.case.create else [])
