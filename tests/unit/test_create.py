"""The exclusive-create decision on its own: a scripted store gives every possible answer."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

import pytest

from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.info import ObjectInfo, Stored
from gllm_storage.store.checksums import WRITE_ID
from gllm_storage.store.create import Answer, write_object
from gllm_storage.store.retry import CONFLICT, RetryEvent, RetryPolicy, no_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

DETAILS = ErrorDetails("fake", "fake://bucket/model.bin", "upload")
WRITE, HEAD, DISCARD = "write", "head", "discard"
STORED = Stored(DETAILS.url, 3, etag="stored")
ATTEMPTS = CONFLICT.limit


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    with no_waits():
        yield


class Found(Enum):
    """The object that a HEAD request finds."""

    NOTHING = "nothing"
    OWN = "own"
    OTHERS = "others"
    UNMARKED = "unmarked"


NOTHING, OWN, OTHERS, UNMARKED = Found
DENIED = AccessDeniedError("no HEAD for you", DETAILS)
DOWN = StorageUnavailableError("no answer", DETAILS)


class SdkError(Exception):
    """An error of the store's SDK, with the answer that `judge` returns for it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.value)
        self.answer = answer


@dataclass
class FakeWrite:
    """A store that answers from a script, and logs the requests."""

    writes: list[Answer | BaseException | None]
    heads: list[Found | BaseException] = field(default_factory=list)
    conditional: bool = True
    details: ErrorDetails = DETAILS
    log: list[str] = field(default_factory=list)
    write_ids: list[str] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)

    def head(self) -> ObjectInfo | None:
        self.log.append(HEAD)
        found = self.heads.pop(0)
        if isinstance(found, BaseException):
            raise found
        mine = self.write_ids[-1] if self.write_ids else "there is no write yet"
        metadata = {Found.OWN: {WRITE_ID: mine}, Found.OTHERS: {WRITE_ID: "0" * 32}, Found.UNMARKED: {}}
        return None if found is Found.NOTHING else ObjectInfo(DETAILS.url, 3, etag="found", metadata=metadata[found])

    def write(self, write_id: str) -> Stored:
        self.log.append(WRITE)
        self.write_ids.append(write_id)
        answer = self.writes.pop(0)
        if answer is None:
            return STORED
        self.raised.append(SdkError(answer) if isinstance(answer, Answer) else answer)
        raise self.raised[-1]

    def judge(self, error: Exception) -> Answer:
        assert isinstance(error, SdkError)
        return error.answer

    def discard(self) -> None:
        self.log.append(DISCARD)

    def run(self, *, exclusive: bool = True, head_first: bool = False) -> Stored:
        """Write; returns the stored object."""
        stored = write_object(self, exclusive=exclusive, head_first=head_first)
        assert not self.writes, "more writes were expected"
        assert not self.heads, "more HEAD requests were expected"
        return stored


@dataclass(frozen=True)
class Row:
    """One history: the answers of the store, the outcome for the caller, and the expected requests."""

    writes: tuple[Answer | None, ...]
    heads: tuple[Found | BaseException, ...]
    outcome: type[Exception] | None
    log: tuple[str, ...]


EXISTS, CONCURRENT, UNKNOWN, REFUSED, FAILED = Answer
HISTORIES = {
    "success": Row((None,), (), None, (WRITE,)),
    "exists, own write-id": Row((EXISTS,), (OWN,), None, (WRITE, HEAD)),
    "exists, other write-id": Row((EXISTS,), (OTHERS,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, no write-id": Row((EXISTS,), (UNMARKED,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, deleted before HEAD": Row((EXISTS, None), (NOTHING,), None, (WRITE, HEAD, DISCARD, WRITE)),
    "exists, but never an object": Row((EXISTS, EXISTS), (NOTHING, NOTHING), StorageError, (WRITE, HEAD, DISCARD) * 2),
    "exists, deleted, then another": Row((EXISTS, EXISTS), (NOTHING, OTHERS), ObjectExistsError, (WRITE, HEAD, DISCARD) * 2),
    "exists, HEAD denied": Row((EXISTS,), (DENIED,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, HEAD fails": Row((EXISTS,), (DOWN,), StorageUnavailableError, (WRITE, HEAD, DISCARD)),
    "unknown, own write-id": Row((UNKNOWN,), (OWN,), None, (WRITE, HEAD)),
    "unknown, no object": Row((UNKNOWN,), (NOTHING, NOTHING), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, other write-id": Row((UNKNOWN,), (OTHERS, OTHERS), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, no write-id": Row((UNKNOWN,), (UNMARKED, UNMARKED), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, own write-id at second HEAD": Row((UNKNOWN,), (NOTHING, OWN), None, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, other write-id, then own": Row((UNKNOWN,), (OTHERS, OWN), None, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, HEAD denied": Row((UNKNOWN,), (DENIED,), SdkError, (WRITE, HEAD, DISCARD)),
    "unknown, HEAD fails": Row((UNKNOWN,), (DOWN,), SdkError, (WRITE, HEAD, DISCARD)),
    "unknown, second HEAD fails": Row((UNKNOWN,), (NOTHING, DOWN), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "concurrent once": Row((CONCURRENT, None), (), None, (WRITE, DISCARD, WRITE)),
    "concurrent, then exists, other write-id": Row(
        (CONCURRENT, EXISTS), (OTHERS,), ObjectExistsError, (WRITE, DISCARD, WRITE, HEAD, DISCARD)
    ),
    "concurrent, then exists, own write-id": Row((CONCURRENT, EXISTS), (OWN,), None, (WRITE, DISCARD, WRITE, HEAD)),
    "concurrent, then unknown, own write-id": Row((CONCURRENT, UNKNOWN), (OWN,), None, (WRITE, DISCARD, WRITE, HEAD)),
    "concurrent, then failed": Row((CONCURRENT, FAILED), (), SdkError, (WRITE, DISCARD, WRITE, DISCARD)),
    "concurrent until the last attempt": Row(
        (CONCURRENT,) * (ATTEMPTS - 1) + (None,), (), None, (WRITE, DISCARD) * (ATTEMPTS - 1) + (WRITE,)
    ),
    "refused": Row((REFUSED,), (), ConflictCheckUnsupportedError, (WRITE, DISCARD)),
    "failed": Row((FAILED,), (), SdkError, (WRITE, DISCARD)),
}


@pytest.mark.parametrize("row", HISTORIES.values(), ids=HISTORIES)
def test_outcome(row: Row) -> None:
    """Each sequence of answers leads to one outcome and one sequence of requests."""
    write = FakeWrite(list(row.writes), list(row.heads))
    if row.outcome is None:
        stored = write.run()
        # The facts come from the answer to the write, or from the HEAD request that found the object.
        assert stored == (STORED if row.writes[-1] is None else Stored(DETAILS.url, 3, etag="found"))
    else:
        with pytest.raises(row.outcome):
            write.run()
    assert tuple(write.log) == row.log
    assert (write.writes, write.heads) == ([], [])


@pytest.mark.parametrize("row", HISTORIES.values(), ids=HISTORIES)
def test_discard_after_head(row: Row) -> None:
    """A failed write is discarded, but not before the HEAD request that decides its outcome."""
    write = FakeWrite(list(row.writes), list(row.heads))
    try:
        write.run()
    except (SdkError, ObjectExistsError, StorageError):
        assert DISCARD in write.log, "a failed write may have left something open"
    if HEAD in write.log:
        assert DISCARD not in write.log[: write.log.index(HEAD)] or CONCURRENT in row.writes
        first_head = write.log.index(HEAD)
        assert write.log[first_head - 1] == WRITE


@pytest.mark.parametrize(
    ("answer", "heads"),
    [(FAILED, []), (UNKNOWN, [NOTHING, NOTHING]), (UNKNOWN, [DENIED])],
    ids=["failed", "missing", "denied"],
)
def test_original_failure(answer: Answer, heads: list[Found | BaseException]) -> None:
    """The caller gets the original error of a failed write."""
    write = FakeWrite([answer], heads)
    with pytest.raises(SdkError) as caught:
        write.run()
    assert caught.value is write.raised[0]


@pytest.mark.parametrize(
    ("answer", "heads", "raised"),
    [
        (EXISTS, [OTHERS], ObjectExistsError),
        (EXISTS, [DOWN], StorageUnavailableError),
        (REFUSED, [], ConflictCheckUnsupportedError),
    ],
    ids=["exists", "HEAD fails", "refused"],
)
def test_translated_error(answer: Answer, heads: list[Found | BaseException], raised: type[Exception]) -> None:
    """A translated error names the object and a remedy, and keeps the SDK's error as its cause."""
    write = FakeWrite([answer], heads)
    with pytest.raises(raised) as caught:
        write.run()
    assert DETAILS.url in str(caught.value)
    details = getattr(caught.value, "details", ErrorDetails())
    assert replace(details, remedy=None) == DETAILS
    assert details.remedy is not None
    assert caught.value.__cause__ is write.raised[0]


def test_endless_conflict() -> None:
    """Conflicts until the last attempt end in a retryable error."""
    write = FakeWrite([CONCURRENT] * ATTEMPTS)
    with pytest.raises(StorageUnavailableError, match=DETAILS.url) as caught:
        write.run()
    assert caught.value.retryable
    assert write.log == [WRITE, DISCARD] * ATTEMPTS


def test_pauses(events: list[RetryEvent]) -> None:
    """The retry policy pauses before each further attempt."""
    FakeWrite([CONCURRENT, CONCURRENT, CONCURRENT, None]).run()
    assert [(each.kind, each.attempt, each.limit) for each in events] == [
        ("conflict", attempt, ATTEMPTS) for attempt in (1, 2, 3)
    ]


def test_last_attempt(events: list[RetryEvent]) -> None:
    """The retry policy does not pause after the last attempt."""
    with pytest.raises(StorageUnavailableError):
        FakeWrite([CONCURRENT] * ATTEMPTS).run()
    assert [each.attempt for each in events] == list(range(1, ATTEMPTS))


def test_length_of_a_pause(monkeypatch: pytest.MonkeyPatch, events: list[RetryEvent]) -> None:
    """Each pause is as long as the retry policy says."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda _, attempt: attempt / 1000)
    FakeWrite([CONCURRENT, CONCURRENT, CONCURRENT, None]).run()
    assert [each.wait for each in events] == [0.001, 0.002, 0.003]


def test_report_of_a_rescue(events: list[RetryEvent]) -> None:
    """A rescued write is reported once, with its cause and its URL."""
    FakeWrite([UNKNOWN], [NOTHING, OWN]).run()
    assert [(each.kind, each.attempt, each.cause, each.url) for each in events] == [
        ("rescue", 1, UNKNOWN.value, DETAILS.url)
    ]


def test_rescue_after_conflict(events: list[RetryEvent]) -> None:
    """A write that a HEAD request finds after a conflict is reported as rescued."""
    FakeWrite([CONCURRENT], [NOTHING, OWN]).run(head_first=True)
    assert [each.kind for each in events] == ["conflict", "rescue"]


def test_stop_during_a_pause() -> None:
    """A stop ends the pause, and the write is not sent again."""
    stop = Stop()
    stop.set()
    write = FakeWrite([CONCURRENT, None])
    with pytest.raises(TransferStopped):
        write_object(write, exclusive=True, head_first=False, stop=stop)
    assert write.log == [WRITE, DISCARD]


@pytest.mark.parametrize("found", [OTHERS, UNMARKED])
def test_head_finds_an_object(found: Found) -> None:
    """If the first HEAD request finds an object, the write is not sent."""
    write = FakeWrite([None], [found])
    with pytest.raises(ObjectExistsError, match=DETAILS.url):
        write.run(head_first=True)
    assert write.log == [HEAD]


@pytest.mark.parametrize("found", [OTHERS, UNMARKED])
def test_object_between_attempts(found: Found) -> None:
    """An object that appears between two attempts is found before the second one."""
    write = FakeWrite([CONCURRENT], [NOTHING, found])
    with pytest.raises(ObjectExistsError, match=DETAILS.url):
        write.run(head_first=True)
    assert write.log == [HEAD, WRITE, DISCARD, HEAD]


def test_own_object_before_a_retry() -> None:
    """An object with the write-id of the call is not sent again."""
    write = FakeWrite([CONCURRENT], [NOTHING, OWN])
    write.run(head_first=True)
    assert write.log == [HEAD, WRITE, DISCARD, HEAD]


@pytest.mark.parametrize("found", [NOTHING, DENIED, DOWN], ids=["missing", "denied", "fails"])
def test_inconclusive_head(found: Found | BaseException) -> None:
    """The write is sent again if the HEAD request finds nothing, is denied or fails."""
    write = FakeWrite([CONCURRENT, None], [NOTHING, found])
    write.run(head_first=True)
    assert write.log == [HEAD, WRITE, DISCARD, HEAD, WRITE]


def test_head_by_default() -> None:
    """An exclusive write sends a HEAD request first by default."""
    write = FakeWrite([None], [OTHERS])
    with pytest.raises(ObjectExistsError):
        write_object(write, exclusive=True)
    assert write.log == [HEAD]


@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])
def test_head_finds_nothing(conditional: bool) -> None:
    """If the first HEAD request finds nothing, the write is sent."""
    write = FakeWrite([None], [NOTHING], conditional=conditional)
    write.run(head_first=True)
    assert write.log == [HEAD, WRITE]


def test_denied_head() -> None:
    """Without read permission, the store's precondition decides."""
    write = FakeWrite([EXISTS], [DENIED, DENIED])
    with pytest.raises(ObjectExistsError):
        write.run(head_first=True)
    assert write.log == [HEAD, WRITE, HEAD, DISCARD]


def test_denied_head_unconditional() -> None:
    """Without read permission and without a precondition, the write is not sent."""
    write = FakeWrite([None], [DENIED], conditional=False)
    with pytest.raises(AccessDeniedError) as caught:
        write.run(head_first=True)
    assert caught.value is DENIED
    assert write.log == [HEAD]


@pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])
def test_failed_head(conditional: bool) -> None:
    """If the first HEAD request fails, the write is not sent."""
    write = FakeWrite([None], [DOWN], conditional=conditional)
    with pytest.raises(StorageUnavailableError) as caught:
        write.run(head_first=True)
    assert caught.value is DOWN
    assert write.log == [HEAD]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("exclusive", [True, False], ids=["exclusive", "plain"])
def test_interrupted_write(interruption: BaseException, exclusive: bool) -> None:
    """An interrupted write is discarded, and the caller gets the interruption."""
    write = FakeWrite([interruption])
    with pytest.raises(type(interruption)) as caught:
        write.run(exclusive=exclusive)
    assert caught.value is interruption
    assert write.log == [WRITE, DISCARD]


@pytest.mark.parametrize("answer", [EXISTS, UNKNOWN])
def test_interrupted_head(answer: Answer) -> None:
    """An interruption during the HEAD request discards the write."""
    write = FakeWrite([answer], [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        write.run()
    assert write.log == [WRITE, HEAD, DISCARD]


def test_interrupted_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption between two attempts leaves nothing behind."""

    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(RetryPolicy, "seconds", interrupted)
    write = FakeWrite([CONCURRENT, None])
    with pytest.raises(KeyboardInterrupt):
        write.run()
    assert write.log == [WRITE, DISCARD]


def test_write_id_of_attempts() -> None:
    """All attempts of a call carry one write-id."""
    write = FakeWrite([CONCURRENT, CONCURRENT, None])
    write.run()
    assert len(write.write_ids) == 3
    assert len(set(write.write_ids)) == 1


def test_write_id_of_calls() -> None:
    """Each call has its own write-id of 32 characters."""
    writes = [FakeWrite([None]) for _ in range(100)]
    for write in writes:
        write.run()
    ids = {write.write_ids[0] for write in writes}
    assert len(ids) == 100
    assert all(len(each) == 32 for each in ids)


@pytest.mark.parametrize("head_first", [True, False], ids=["HEAD first", "no HEAD"])
def test_plain_write(head_first: bool) -> None:
    """A write without a conflict check sends no HEAD request first."""
    write = FakeWrite([None], conditional=False)
    write.run(exclusive=False, head_first=head_first)
    assert write.log == [WRITE]


@pytest.mark.parametrize(
    ("answer", "heads", "outcome"),
    [
        (UNKNOWN, [OWN], None),
        (UNKNOWN, [NOTHING, OWN], None),
        (UNKNOWN, [OTHERS, OTHERS], SdkError),
        (UNKNOWN, [DOWN], SdkError),
        (FAILED, [], SdkError),
    ],
    ids=["own", "own at second HEAD", "other", "HEAD fails", "failed"],
)
def test_lost_answer_of_plain_write(
    answer: Answer, heads: list[Found | BaseException], outcome: type[Exception] | None
) -> None:
    """A write without a conflict check recovers a lost answer in the same way."""
    write = FakeWrite([answer], heads, conditional=False)
    if outcome is None:
        write.run(exclusive=False)
    else:
        with pytest.raises(outcome):
            write.run(exclusive=False)
    assert not write.heads
