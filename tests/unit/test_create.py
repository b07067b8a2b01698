"""The exclusive-create decision by itself: every answer that a store can give, from a script."""

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
from gllm_storage.store.retry import CONFLICT, RetryEvent, RetryPolicy, no_waits, subscribe

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


@pytest.fixture
def events() -> Iterator[list[RetryEvent]]:
    """The reports of the retry policy."""
    found: list[RetryEvent] = []
    unsubscribe = subscribe(found.append)
    yield found
    unsubscribe()


class There(Enum):
    """The object that a HEAD request finds."""

    NOTHING = "nothing"
    OURS = "ours"
    OTHERS = "others"
    UNMARKED = "unmarked"


NOTHING, OURS, OTHERS, UNMARKED = There
DENIED = AccessDeniedError("no HEAD for you", DETAILS)
DOWN = StorageUnavailableError("no answer", DETAILS)


class SdkError(Exception):
    """What the store's SDK raises; it carries what `judge` is to say of it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.value)
        self.answer = answer


@dataclass
class FakeWrite:
    """A store that answers from a script, and logs what it was asked."""

    writes: list[Answer | BaseException | None]
    heads: list[There | BaseException] = field(default_factory=list)
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
        metadata = {There.OURS: {WRITE_ID: mine}, There.OTHERS: {WRITE_ID: "0" * 32}, There.UNMARKED: {}}
        return None if found is There.NOTHING else ObjectInfo(DETAILS.url, 3, etag="found", metadata=metadata[found])

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
    """One history: what the store says, what the caller gets, and which requests that takes."""

    writes: tuple[Answer | None, ...]
    heads: tuple[There | BaseException, ...]
    outcome: type[Exception] | None
    log: tuple[str, ...]


EXISTS, CONCURRENT, UNKNOWN, REFUSED, FAILED = Answer
HISTORIES = {
    "success": Row((None,), (), None, (WRITE,)),
    "exists, and it is ours": Row((EXISTS,), (OURS,), None, (WRITE, HEAD)),
    "exists, of another writer": Row((EXISTS,), (OTHERS,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, without a write-id": Row((EXISTS,), (UNMARKED,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, and is gone when we look": Row((EXISTS,), (NOTHING,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, and we may not look": Row((EXISTS,), (DENIED,), ObjectExistsError, (WRITE, HEAD, DISCARD)),
    "exists, and nobody answers the look": Row((EXISTS,), (DOWN,), StorageUnavailableError, (WRITE, HEAD, DISCARD)),
    "unknown, and it is ours": Row((UNKNOWN,), (OURS,), None, (WRITE, HEAD)),
    "unknown, and nothing is there": Row((UNKNOWN,), (NOTHING, NOTHING), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, of another writer": Row((UNKNOWN,), (OTHERS, OTHERS), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, without a write-id": Row((UNKNOWN,), (UNMARKED, UNMARKED), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, ours on the second look": Row((UNKNOWN,), (NOTHING, OURS), None, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, replaced, then ours": Row((UNKNOWN,), (OTHERS, OURS), None, (WRITE, HEAD, DISCARD, HEAD)),
    "unknown, and we may not look": Row((UNKNOWN,), (DENIED,), SdkError, (WRITE, HEAD, DISCARD)),
    "unknown, and nobody answers the look": Row((UNKNOWN,), (DOWN,), SdkError, (WRITE, HEAD, DISCARD)),
    "unknown, and no answer to the second look": Row((UNKNOWN,), (NOTHING, DOWN), SdkError, (WRITE, HEAD, DISCARD, HEAD)),
    "concurrent once": Row((CONCURRENT, None), (), None, (WRITE, DISCARD, WRITE)),
    "concurrent, then exists": Row(
        (CONCURRENT, EXISTS), (OTHERS,), ObjectExistsError, (WRITE, DISCARD, WRITE, HEAD, DISCARD)
    ),
    "concurrent, then exists and ours": Row((CONCURRENT, EXISTS), (OURS,), None, (WRITE, DISCARD, WRITE, HEAD)),
    "concurrent, then unknown and ours": Row((CONCURRENT, UNKNOWN), (OURS,), None, (WRITE, DISCARD, WRITE, HEAD)),
    "concurrent, then failed": Row((CONCURRENT, FAILED), (), SdkError, (WRITE, DISCARD, WRITE, DISCARD)),
    "concurrent until the last attempt": Row(
        (CONCURRENT,) * (ATTEMPTS - 1) + (None,), (), None, (WRITE, DISCARD) * (ATTEMPTS - 1) + (WRITE,)
    ),
    "refused": Row((REFUSED,), (), ConflictCheckUnsupportedError, (WRITE, DISCARD)),
    "failed": Row((FAILED,), (), SdkError, (WRITE, DISCARD)),
}


@pytest.mark.parametrize("row", HISTORIES.values(), ids=HISTORIES)
def test_each_answer_of_a_store_has_one_outcome(row: Row) -> None:
    write = FakeWrite(list(row.writes), list(row.heads))
    if row.outcome is None:
        stored = write.run()
        # The facts are those of the write's answer, or of the HEAD request that found the object.
        assert stored == (STORED if row.writes[-1] is None else Stored(DETAILS.url, 3, etag="found"))
    else:
        with pytest.raises(row.outcome):
            write.run()
    assert tuple(write.log) == row.log
    assert (write.writes, write.heads) == ([], [])


@pytest.mark.parametrize("row", HISTORIES.values(), ids=HISTORIES)
def test_nothing_is_discarded_between_the_write_and_the_look(row: Row) -> None:
    write = FakeWrite(list(row.writes), list(row.heads))
    try:
        write.run()
    except (SdkError, ObjectExistsError, StorageError):
        assert DISCARD in write.log, "a failed write may have left something open"
    if HEAD in write.log:
        assert DISCARD not in write.log[: write.log.index(HEAD)] or CONCURRENT in row.writes
        first_head = write.log.index(HEAD)
        assert write.log[first_head - 1] == WRITE


@pytest.mark.parametrize(("answer", "heads"), [(FAILED, []), (UNKNOWN, [NOTHING, NOTHING]), (UNKNOWN, [DENIED])])
def test_the_original_failure_is_what_the_caller_gets(answer: Answer, heads: list[There | BaseException]) -> None:
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
)
def test_our_errors_name_the_object_and_keep_the_cause(
    answer: Answer, heads: list[There | BaseException], raised: type[Exception]
) -> None:
    write = FakeWrite([answer], heads)
    with pytest.raises(raised) as caught:
        write.run()
    assert DETAILS.url in str(caught.value)
    details = getattr(caught.value, "details", ErrorDetails())
    assert replace(details, remedy=None) == DETAILS
    assert details.remedy is not None
    assert caught.value.__cause__ is write.raised[0]


def test_concurrent_for_ever_ends_in_an_error_that_says_try_again() -> None:
    write = FakeWrite([CONCURRENT] * ATTEMPTS)
    with pytest.raises(StorageUnavailableError, match=DETAILS.url) as caught:
        write.run()
    assert caught.value.retryable
    assert write.log == [WRITE, DISCARD] * ATTEMPTS


def test_there_is_a_pause_before_each_further_attempt(events: list[RetryEvent]) -> None:
    FakeWrite([CONCURRENT, CONCURRENT, CONCURRENT, None]).run()
    assert [(each.kind, each.attempt, each.limit) for each in events] == [
        ("conflict", attempt, ATTEMPTS) for attempt in (1, 2, 3)
    ]


def test_there_is_no_pause_after_the_last_attempt(events: list[RetryEvent]) -> None:
    with pytest.raises(StorageUnavailableError):
        FakeWrite([CONCURRENT] * ATTEMPTS).run()
    assert [each.attempt for each in events] == list(range(1, ATTEMPTS))


def test_each_pause_is_as_long_as_the_policy_says(monkeypatch: pytest.MonkeyPatch, events: list[RetryEvent]) -> None:
    monkeypatch.setattr(RetryPolicy, "seconds", lambda _, attempt: attempt / 1000)
    FakeWrite([CONCURRENT, CONCURRENT, CONCURRENT, None]).run()
    assert [each.wait for each in events] == [0.001, 0.002, 0.003]


def test_a_rescued_write_is_reported_once(events: list[RetryEvent]) -> None:
    FakeWrite([UNKNOWN], [NOTHING, OURS]).run()
    assert [(each.kind, each.attempt, each.cause, each.url) for each in events] == [
        ("rescue", 1, UNKNOWN.value, DETAILS.url)
    ]


def test_a_write_that_a_further_head_finds_is_reported_as_rescued(events: list[RetryEvent]) -> None:
    FakeWrite([CONCURRENT], [NOTHING, OURS]).run(head_first=True)
    assert [each.kind for each in events] == ["conflict", "rescue"]


def test_a_stop_ends_the_pause() -> None:
    stop = Stop()
    stop.set()
    write = FakeWrite([CONCURRENT, None])
    with pytest.raises(TransferStopped):
        write_object(write, exclusive=True, head_first=False, stop=stop)
    assert write.log == [WRITE, DISCARD]


@pytest.mark.parametrize("found", [OTHERS, UNMARKED])
def test_looking_first_finds_the_object_and_sends_nothing(found: There) -> None:
    write = FakeWrite([None], [found])
    with pytest.raises(ObjectExistsError, match=DETAILS.url):
        write.run(head_first=True)
    assert write.log == [HEAD]


@pytest.mark.parametrize("found", [OTHERS, UNMARKED])
def test_an_object_that_appears_while_we_try_is_found_before_all_is_sent_again(found: There) -> None:
    write = FakeWrite([CONCURRENT], [NOTHING, found])
    with pytest.raises(ObjectExistsError, match=DETAILS.url):
        write.run(head_first=True)
    assert write.log == [HEAD, WRITE, DISCARD, HEAD]


def test_an_object_that_turns_out_to_be_ours_while_we_try_is_not_sent_again() -> None:
    write = FakeWrite([CONCURRENT], [NOTHING, OURS])
    write.run(head_first=True)
    assert write.log == [HEAD, WRITE, DISCARD, HEAD]


@pytest.mark.parametrize("found", [NOTHING, DENIED, DOWN])
def test_we_try_again_where_a_look_finds_nothing_or_is_not_answered(found: There | BaseException) -> None:
    write = FakeWrite([CONCURRENT, None], [NOTHING, found])
    write.run(head_first=True)
    assert write.log == [HEAD, WRITE, DISCARD, HEAD, WRITE]


def test_looking_first_is_what_an_exclusive_write_does_by_default() -> None:
    write = FakeWrite([None], [OTHERS])
    with pytest.raises(ObjectExistsError):
        write_object(write, exclusive=True)
    assert write.log == [HEAD]


@pytest.mark.parametrize("conditional", [True, False])
def test_looking_first_finds_nothing_and_writes(conditional: bool) -> None:
    write = FakeWrite([None], [NOTHING], conditional=conditional)
    write.run(head_first=True)
    assert write.log == [HEAD, WRITE]


def test_who_may_not_look_leaves_the_decision_to_the_store() -> None:
    write = FakeWrite([EXISTS], [DENIED, DENIED])
    with pytest.raises(ObjectExistsError):
        write.run(head_first=True)
    assert write.log == [HEAD, WRITE, HEAD, DISCARD]


def test_who_may_not_look_may_not_write_where_nobody_else_checks() -> None:
    write = FakeWrite([None], [DENIED], conditional=False)
    with pytest.raises(AccessDeniedError) as caught:
        write.run(head_first=True)
    assert caught.value is DENIED
    assert write.log == [HEAD]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_first_head_that_fails_ends_the_call_before_anything_is_written(conditional: bool) -> None:
    write = FakeWrite([None], [DOWN], conditional=conditional)
    with pytest.raises(StorageUnavailableError) as caught:
        write.run(head_first=True)
    assert caught.value is DOWN
    assert write.log == [HEAD]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), asyncio.CancelledError(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("exclusive", [True, False])
def test_an_interrupted_write_is_discarded_and_the_interruption_goes_on(
    interruption: BaseException, exclusive: bool
) -> None:
    write = FakeWrite([interruption])
    with pytest.raises(type(interruption)) as caught:
        write.run(exclusive=exclusive)
    assert caught.value is interruption
    assert write.log == [WRITE, DISCARD]


@pytest.mark.parametrize("answer", [EXISTS, UNKNOWN])
def test_an_interruption_while_looking_discards_too(answer: Answer) -> None:
    write = FakeWrite([answer], [KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        write.run()
    assert write.log == [WRITE, HEAD, DISCARD]


def test_an_interruption_between_attempts_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(RetryPolicy, "seconds", interrupted)
    write = FakeWrite([CONCURRENT, None])
    with pytest.raises(KeyboardInterrupt):
        write.run()
    assert write.log == [WRITE, DISCARD]


def test_all_attempts_of_a_call_carry_one_write_id() -> None:
    write = FakeWrite([CONCURRENT, CONCURRENT, None])
    write.run()
    assert len(write.write_ids) == 3
    assert len(set(write.write_ids)) == 1


def test_each_call_has_a_write_id_of_its_own() -> None:
    writes = [FakeWrite([None]) for _ in range(100)]
    for write in writes:
        write.run()
    ids = {write.write_ids[0] for write in writes}
    assert len(ids) == 100
    assert all(len(each) == 32 for each in ids)


@pytest.mark.parametrize("head_first", [True, False])
def test_a_plain_write_does_not_head_first(head_first: bool) -> None:
    write = FakeWrite([None], conditional=False)
    write.run(exclusive=False, head_first=head_first)
    assert write.log == [WRITE]


@pytest.mark.parametrize(
    ("answer", "heads", "outcome"),
    [
        (UNKNOWN, [OURS], None),
        (UNKNOWN, [NOTHING, OURS], None),
        (UNKNOWN, [OTHERS, OTHERS], SdkError),
        (UNKNOWN, [DOWN], SdkError),
        (FAILED, [], SdkError),
    ],
)
def test_a_plain_write_takes_the_same_care_of_lost_answers(
    answer: Answer, heads: list[There | BaseException], outcome: type[Exception] | None
) -> None:
    write = FakeWrite([answer], heads, conditional=False)
    if outcome is None:
        write.run(exclusive=False)
    else:
        with pytest.raises(outcome):
            write.run(exclusive=False)
    assert not write.heads
