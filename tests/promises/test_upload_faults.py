"""Uploads to every cloud: lost answers, broken connections, flipped bits and concurrent writers."""

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
    over_https,
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


# The proxy answers these requests, so one server for each provider is enough.
on_every_step = on_steps((case, step) for case in one_each(UPLOADS) for step in case.steps)
on_every_https_step = on_steps((case, step) for case in over_https(UPLOADS) for step in case.steps)


# ---- lost answers


@on(UPLOADS)
@pytest.mark.parametrize("action", LOST)
def test_answer_lost(upload: Upload, action: Action | Says) -> None:
    """A lost answer to a successful write causes neither an error nor a false conflict."""
    upload.faulty.inject(upload.commit, action)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
@pytest.mark.parametrize("action", LOST)
def test_every_answer_lost(upload: Upload, action: Action | Says) -> None:
    """An upload succeeds even if every answer to its write is lost."""
    for step in {upload.commit, upload.case.asked_again}:
        upload.faulty.inject(step, action, times=None)
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_answer_late(upload: Upload) -> None:
    """An answer after the read timeout causes neither an error nor a false conflict."""
    late = Delay(30)
    upload.faulty.inject(upload.commit, late)
    upload.run(**impatient(late, max_attempts=MANY_TIMES))
    upload.assert_stored()


@on(CREATES)
def test_answer_lost_then_conflict(upload: Upload) -> None:
    """A create with a lost answer succeeds although the repeated request gets a conflict."""
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
    """An upload with a lost commit answer succeeds after any possible answer to the next request."""
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject(upload.case.asked_again, repeated, times=None)
    upload.run()
    upload.assert_stored()


@on(CREATES)
@pytest.mark.parametrize("action", LOST)
def test_lost_answer_about_theirs(upload: Upload, action: Action | Says) -> None:
    """If the answer with the conflict is lost, the create still raises a conflict for another writer's object."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, action)
    with pytest.raises((ObjectExistsError, StorageUnavailableError)) as caught:
        upload.run()
    # On GCS the refusal ends the session, and the session's state then does not tell the outcome.
    assert isinstance(caught.value, ObjectExistsError) or (upload.case.cloud is GCS and upload.case.large)
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_no_answer_about_theirs(upload: Upload) -> None:
    """If every answer is lost, another writer's object is not taken for the caller's."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.commit, DropResponse(), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(one_each(UPLOADS))
def test_answer_lost_then_no_head(upload: Upload) -> None:
    """If the store fails after a lost answer, the upload raises an error that is not a conflict."""
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
    """Progress ends at the size of the file, even if a request is sent again."""
    told = Callback()
    upload.faulty.inject(upload.send if step == "send" else upload.commit, DropResponse())
    upload.client().upload_with_progress(upload.local, NAME, told, check_conflict=upload.case.create)
    assert (told.size, told.value) == (len(upload.content), len(upload.content))


# ---- other writers


@on(CREATES)
def test_theirs_before_commit(upload: Upload) -> None:
    """An object that another writer creates after the HEAD request is not overwritten."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError) as caught:
        upload.run()
    assert caught.value.url == upload.faulty.client().url(NAME)
    upload.faulty.assert_holds(THEIRS)


@on_steps((case, step) for case in CREATES if case.large for step in case.cloud.parts)
def test_theirs_while_parts_are_sent(upload: Upload, step: str) -> None:
    """An object that another writer creates while parts are sent is not overwritten."""
    upload.faulty.inject(step, CallAfter(lambda: upload.faulty.put(THEIRS)))
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_theirs_from_the_start(upload: Upload) -> None:
    """If the object exists, a create stops after one HEAD request and sends no content."""
    upload.faulty.put(THEIRS)
    with pytest.raises(ObjectExistsError):
        upload.run()
    assert upload.faulty.operations() == [upload.case.cloud.head]
    upload.faulty.assert_holds(THEIRS)


# ---- failed HEAD requests


@on(CREATES)
def test_conflict_of_unknown_writer(upload: Upload) -> None:
    """If the writer of the object cannot be determined, the error is not a conflict."""
    upload.faulty.inject(upload.commit, Call(lambda: upload.faulty.put(THEIRS)))
    upload.faulty.inject(upload.case.cloud.head, Says(503), skip=1, times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_create_without_read(upload: Upload) -> None:
    """Credentials without read permission can create objects."""
    upload.faulty.inject_heads(Says(403))
    upload.run()
    upload.assert_stored()


@on(CREATES)
def test_conflict_without_read(upload: Upload) -> None:
    """Without read permission, a create raises a conflict if the object exists."""
    upload.faulty.put(THEIRS)
    upload.faulty.inject_heads(Says(403))
    with pytest.raises(ObjectExistsError):
        upload.run()
    upload.faulty.assert_holds(THEIRS)


@on(CREATES)
def test_head_fails(upload: Upload) -> None:
    """If the first HEAD request fails, the create raises an error before it sends content."""
    upload.faulty.inject_heads(Says(503))
    with pytest.raises(StorageUnavailableError):
        upload.run()
    assert set(upload.faulty.operations()) == {upload.case.cloud.head}
    upload.assert_nothing_changed()


# ---- broken connections, busy stores


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
    """The library retries after a temporary fault, and the call succeeds."""
    upload.faulty.inject(step, action, times=times)
    upload.run()
    upload.assert_stored()


@on_every_https_step
@pytest.mark.parametrize(
    "action", [Refuse(), ResetRequest(after=50), DropResponse()], ids=["refused", "reset-in-body", "lost"]
)
def test_passing_fault_over_https(upload: Upload, step: str, action: Action) -> None:
    """The same over TLS, for the connections that break."""
    if step == "CreateMultipartUpload" and isinstance(action, DropResponse):
        action = Refuse()  # a lost answer leaves an upload, whose id is unknown
    upload.faulty.inject(step, action)
    upload.run()
    upload.assert_stored()


@on_every_step
def test_busy_store(upload: Upload, step: str) -> None:
    """If the store stays busy, the upload raises a retryable error and leaves nothing behind."""
    upload.faulty.inject(step, Says(503), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    error, cloud = caught.value, upload.case.cloud
    assert error.retryable
    assert (error.provider, error.operation) == (cloud.provider, "upload")
    assert (error.status, error.code) == (503, cloud.codes[503])
    assert error.url == upload.faulty.client().url(NAME)
    upload.assert_nothing_changed()


@on_steps((case, step) for case in [*one_each(UPLOADS), *over_https(UPLOADS)] for step in case.steps)
def test_broken_connection(upload: Upload, step: str) -> None:
    """If every connection breaks, the upload raises a retryable error and leaves nothing behind."""
    upload.faulty.inject(step, ResetRequest(after=50), times=None)
    with pytest.raises(StorageUnavailableError) as caught:
        upload.run()
    assert caught.value.retryable
    assert caught.value.status is None
    upload.assert_nothing_changed()


@on_every_step
def test_denied(upload: Upload, step: str) -> None:
    """Denied access raises an error and leaves nothing behind."""
    upload.faulty.inject(step, Says(403), times=None)
    with pytest.raises(AccessDeniedError) as caught:
        upload.run()
    assert (caught.value.status, caught.value.code) == (403, upload.case.cloud.codes[403])
    upload.assert_nothing_changed()


@on_every_step
@pytest.mark.parametrize("status", [200, 204, 302, 405])
def test_answer_of_no_store(upload: Upload, step: str, status: int) -> None:
    """An answer from a web server that is not a store raises an error."""
    upload.faulty.inject(step, Answer(status, body=b"<html>It works!</html>"), times=None)
    with pytest.raises(StorageError):
        upload.run()
    upload.assert_nothing_changed()


@on(one_each(UPLOADS))
def test_max_attempts(upload: Upload) -> None:
    """A write request is sent at most `max_attempts` times."""
    upload.faulty.inject(upload.commit, Says(503), times=None)
    with pytest.raises(StorageUnavailableError):
        upload.run(max_attempts="2")
    assert len(upload.faulty.sent(upload.commit)) == 2


# ---- flipped bits


@on(UPLOADS)
def test_flipped_bit(upload: Upload) -> None:
    """The store detects a flipped bit, and the request is sent again."""
    upload.faulty.inject(upload.send, FlipRequestBit(at=5000))
    upload.run()
    upload.assert_stored()


@on(UPLOADS)
def test_flipped_bits(upload: Upload) -> None:
    """If every request has a flipped bit, an integrity error is raised, and nothing is stored."""
    upload.faulty.inject(upload.send, FlipRequestBit(at=5000), times=None)
    with pytest.raises(IntegrityError):
        upload.run()
    upload.assert_nothing_changed()


# ---- sent requests


@on(CREATES)
def test_requests_of_create(upload: Upload) -> None:
    """An exclusive create sends exactly the expected requests."""
    upload.run()
    case = upload.case
    sent = [case.cloud.head, *(case.cloud.sent if case.large else ()), case.commit]
    assert upload.faulty.answered() == sent


@on(UPLOADS)
def test_precondition(upload: Upload) -> None:
    """In an exclusive create, only the committing request has a precondition."""
    upload.run()
    asked = [
        entry.operation
        for entry in upload.faulty.proxy.requests
        if "ifGenerationMatch=0" in entry.query or entry.headers.get("if-none-match") == "*"
    ]
    assert asked == ([upload.case.cloud.conditional[upload.case.large]] if upload.case.create else [])
