"""The exclusive-create decision by itself: every answer that a store can give, from a script."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum

import pytest

from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.store.create import ATTEMPTS, Answer, Sighting, backoff, write_object

DETAILS = ErrorDetails("fake", "fake://bucket/model.bin", "upload")
WRITE, LOOK, DISCARD = "write", "look", "discard"


class There(Enum):
    """What a look finds."""

    NOTHING = "nothing"
    OURS = "ours"
    OTHERS = "others"
    UNMARKED = "unmarked"


NOTHING, OURS, OTHERS, UNMARKED = There
DENIED = AccessDeniedError("no look for you", DETAILS)
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
    looks: list[There | BaseException] = field(default_factory=list)
    conditional: bool = True
    details: ErrorDetails = DETAILS
    log: list[str] = field(default_factory=list)
    write_ids: list[str] = field(default_factory=list)
    raised: list[BaseException] = field(default_factory=list)

    def look(self) -> Sighting | None:
        self.log.append(LOOK)
        found = self.looks.pop(0)
        if isinstance(found, BaseException):
            raise found
        mine = self.write_ids[-1] if self.write_ids else "there is no write yet"
        ids = {There.OURS: mine, There.OTHERS: "0" * 32, There.UNMARKED: None}
        return None if found is There.NOTHING else Sighting(ids[found])

    def write(self, write_id: str) -> None:
        self.log.append(WRITE)
        self.write_ids.append(write_id)
        answer = self.writes.pop(0)
        if answer is None:
            return
        self.raised.append(SdkError(answer) if isinstance(answer, Answer) else answer)
        raise self.raised[-1]

    def judge(self, error: Exception) -> Answer:
        assert isinstance(error, SdkError)
        return error.answer

    def discard(self) -> None:
        self.log.append(DISCARD)

    def run(self, *, exclusive: bool = True, look_first: bool = False) -> list[int]:
        """Write; returns the pauses."""
        pauses: list[int] = []
        write_object(self, exclusive=exclusive, look_first=look_first, pause=pauses.append)
        assert not self.writes, "more writes were expected"
        assert not self.looks, "more looks were expected"
        return pauses


@dataclass(frozen=True)
class Row:
    """One history: what the store says, what the caller gets, and which requests that takes."""

    writes: tuple[Answer | None, ...]
    looks: tuple[There | BaseException, ...]
    outcome: type[Exception] | None
    log: tuple[str, ...]


EXISTS, CONCURRENT, UNKNOWN, REFUSED, FAILED = Answer
HISTORIES = {
    "success": Row((None,), (), None, (WRITE,)),
    "exists, and it is ours": Row((EXISTS,), (OURS,), None, (WRITE, LOOK)),
    "exists, of another writer": Row((EXISTS,), (OTHERS,), ObjectExistsError, (WRITE, LOOK, DISCARD)),
    "exists, without a write-id": Row((EXISTS,), (UNMARKED,), ObjectExistsError, (WRITE, LOOK, DISCARD)),
    "exists, and is gone when we look": Row((EXISTS,), (NOTHING,), ObjectExistsError, (WRITE, LOOK, DISCARD)),
    "exists, and we may not look": Row((EXISTS,), (DENIED,), ObjectExistsError, (WRITE, LOOK, DISCARD)),
    "exists, and nobody answers the look": Row((EXISTS,), (DOWN,), StorageUnavailableError, (WRITE, LOOK, DISCARD)),
    "unknown, and it is ours": Row((UNKNOWN,), (OURS,), None, (WRITE, LOOK)),
    "unknown, and nothing is there": Row((UNKNOWN,), (NOTHING, NOTHING), SdkError, (WRITE, LOOK, DISCARD, LOOK)),
    "unknown, of another writer": Row((UNKNOWN,), (OTHERS, OTHERS), SdkError, (WRITE, LOOK, DISCARD, LOOK)),
    "unknown, without a write-id": Row((UNKNOWN,), (UNMARKED, UNMARKED), SdkError, (WRITE, LOOK, DISCARD, LOOK)),
    "unknown, ours on the second look": Row((UNKNOWN,), (NOTHING, OURS), None, (WRITE, LOOK, DISCARD, LOOK)),
    "unknown, replaced, then ours": Row((UNKNOWN,), (OTHERS, OURS), None, (WRITE, LOOK, DISCARD, LOOK)),
    "unknown, and we may not look": Row((UNKNOWN,), (DENIED,), SdkError, (WRITE, LOOK, DISCARD)),
    "unknown, and nobody answers the look": Row((UNKNOWN,), (DOWN,), SdkError, (WRITE, LOOK, DISCARD)),
    "unknown, and no answer to the second look": Row((UNKNOWN,), (NOTHING, DOWN), SdkError, (WRITE, LOOK, DISCARD, LOOK)),
    "concurrent once": Row((CONCURRENT, None), (), None, (WRITE, DISCARD, WRITE)),
    "concurrent, then exists": Row(
        (CONCURRENT, EXISTS), (OTHERS,), ObjectExistsError, (WRITE, DISCARD, WRITE, LOOK, DISCARD)
    ),
    "concurrent, then exists and ours": Row((CONCURRENT, EXISTS), (OURS,), None, (WRITE, DISCARD, WRITE, LOOK)),
    "concurrent, then unknown and ours": Row((CONCURRENT, UNKNOWN), (OURS,), None, (WRITE, DISCARD, WRITE, LOOK)),
    "concurrent, then failed": Row((CONCURRENT, FAILED), (), SdkError, (WRITE, DISCARD, WRITE, DISCARD)),
    "concurrent until the last attempt": Row(
        (CONCURRENT,) * (ATTEMPTS - 1) + (None,), (), None, (WRITE, DISCARD) * (ATTEMPTS - 1) + (WRITE,)
    ),
    "refused": Row((REFUSED,), (), ConflictCheckUnsupportedError, (WRITE, DISCARD)),
    "failed": Row((FAILED,), (), SdkError, (WRITE, DISCARD)),
}


@pytest.mark.parametrize("row", HISTORIES.values(), ids=HISTORIES)
def test_each_answer_of_a_store_has_one_outcome(row: Row) -> None:
    write = FakeWrite(list(row.writes), list(row.looks))
    if row.outcome is None:
        write.run()
    else:
        with pytest.raises(row.outcome):
            write.run()
    assert tuple(write.log) == row.log
    assert (write.writes, write.looks) == ([], [])


@pytest.mark.parametrize("row", HISTORIES.values(), ids=HISTORIES)
def test_nothing_is_discarded_between_the_write_and_the_look(row: Row) -> None:
    write = FakeWrite(list(row.writes), list(row.looks))
    try:
        write.run()
    except (SdkError, ObjectExistsError, StorageError):
        assert DISCARD in write.log, "a failed write may have left something open"
    if LOOK in write.log:
        assert DISCARD not in write.log[: write.log.index(LOOK)] or CONCURRENT in row.writes
        first_look = write.log.index(LOOK)
        assert write.log[first_look - 1] == WRITE


@pytest.mark.parametrize(("answer", "looks"), [(FAILED, []), (UNKNOWN, [NOTHING, NOTHING]), (UNKNOWN, [DENIED])])
def test_the_original_failure_is_what_the_caller_gets(answer: Answer, looks: list[There | BaseException]) -> None:
    write = FakeWrite([answer], looks)
    with pytest.raises(SdkError) as caught:
        write.run()
    assert caught.value is write.raised[0]


@pytest.mark.parametrize(
    ("answer", "looks", "raised"),
    [
        (EXISTS, [OTHERS], ObjectExistsError),
        (EXISTS, [DOWN], StorageUnavailableError),
        (REFUSED, [], ConflictCheckUnsupportedError),
    ],
)
def test_our_errors_name_the_object_and_keep_the_cause(
    answer: Answer, looks: list[There | BaseException], raised: type[Exception]
) -> None:
    write = FakeWrite([answer], looks)
    with pytest.raises(raised) as caught:
        write.run()
    assert DETAILS.url in str(caught.value)
    assert getattr(caught.value, "details", None) is DETAILS
    assert caught.value.__cause__ is write.raised[0]


def test_concurrent_for_ever_ends_in_an_error_that_says_try_again() -> None:
    write = FakeWrite([CONCURRENT] * ATTEMPTS)
    with pytest.raises(StorageUnavailableError, match=DETAILS.url) as caught:
        write.run()
    assert caught.value.retryable
    assert write.log == [WRITE, DISCARD] * ATTEMPTS


def test_there_is_a_pause_before_each_further_attempt() -> None:
    assert FakeWrite([CONCURRENT, CONCURRENT, CONCURRENT, None]).run() == [0, 1, 2]


def test_there_is_no_pause_after_the_last_attempt() -> None:
    pauses: list[int] = []
    with pytest.raises(StorageUnavailableError):
        write_object(FakeWrite([CONCURRENT] * ATTEMPTS), exclusive=True, look_first=False, pause=pauses.append)
    assert pauses == list(range(ATTEMPTS - 1))


@pytest.mark.parametrize("attempt", [0, 3, 20, 500])
def test_pauses_are_bounded(attempt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("gllm_storage.store.create.time.sleep", slept.append)
    backoff(attempt)
    assert 0 <= slept[0] <= min(3.0, 0.1 * 2 ** min(attempt, 10))


@pytest.mark.parametrize("found", [OTHERS, UNMARKED])
def test_looking_first_finds_the_object_and_sends_nothing(found: There) -> None:
    write = FakeWrite([None], [found])
    with pytest.raises(ObjectExistsError, match=DETAILS.url):
        write.run(look_first=True)
    assert write.log == [LOOK]


@pytest.mark.parametrize("found", [OTHERS, UNMARKED])
def test_an_object_that_appears_while_we_try_is_found_before_all_is_sent_again(found: There) -> None:
    write = FakeWrite([CONCURRENT], [NOTHING, found])
    with pytest.raises(ObjectExistsError, match=DETAILS.url):
        write.run(look_first=True)
    assert write.log == [LOOK, WRITE, DISCARD, LOOK]


def test_an_object_that_turns_out_to_be_ours_while_we_try_is_not_sent_again() -> None:
    write = FakeWrite([CONCURRENT], [NOTHING, OURS])
    write.run(look_first=True)
    assert write.log == [LOOK, WRITE, DISCARD, LOOK]


@pytest.mark.parametrize("found", [NOTHING, DENIED, DOWN])
def test_we_try_again_where_a_look_finds_nothing_or_is_not_answered(found: There | BaseException) -> None:
    write = FakeWrite([CONCURRENT, None], [NOTHING, found])
    write.run(look_first=True)
    assert write.log == [LOOK, WRITE, DISCARD, LOOK, WRITE]


def test_looking_first_is_what_an_exclusive_write_does_by_default() -> None:
    write = FakeWrite([None], [OTHERS])
    with pytest.raises(ObjectExistsError):
        write_object(write, exclusive=True)
    assert write.log == [LOOK]


@pytest.mark.parametrize("conditional", [True, False])
def test_looking_first_finds_nothing_and_writes(conditional: bool) -> None:
    write = FakeWrite([None], [NOTHING], conditional=conditional)
    write.run(look_first=True)
    assert write.log == [LOOK, WRITE]


def test_who_may_not_look_leaves_the_decision_to_the_store() -> None:
    write = FakeWrite([EXISTS], [DENIED, DENIED])
    with pytest.raises(ObjectExistsError):
        write.run(look_first=True)
    assert write.log == [LOOK, WRITE, LOOK, DISCARD]


def test_who_may_not_look_may_not_write_where_nobody_else_checks() -> None:
    write = FakeWrite([None], [DENIED], conditional=False)
    with pytest.raises(AccessDeniedError) as caught:
        write.run(look_first=True)
    assert caught.value is DENIED
    assert write.log == [LOOK]


@pytest.mark.parametrize("conditional", [True, False])
def test_a_first_look_that_fails_ends_the_call_before_anything_is_written(conditional: bool) -> None:
    write = FakeWrite([None], [DOWN], conditional=conditional)
    with pytest.raises(StorageUnavailableError) as caught:
        write.run(look_first=True)
    assert caught.value is DOWN
    assert write.log == [LOOK]


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
    assert write.log == [WRITE, LOOK, DISCARD]


def test_an_interruption_between_attempts_leaves_nothing() -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    write = FakeWrite([CONCURRENT, None])
    with pytest.raises(KeyboardInterrupt):
        write_object(write, exclusive=True, look_first=False, pause=interrupted)
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


@pytest.mark.parametrize("look_first", [True, False])
def test_a_plain_write_does_not_look_first(look_first: bool) -> None:
    write = FakeWrite([None], conditional=False)
    write.run(exclusive=False, look_first=look_first)
    assert write.log == [WRITE]


@pytest.mark.parametrize(
    ("answer", "looks", "outcome"),
    [
        (UNKNOWN, [OURS], None),
        (UNKNOWN, [NOTHING, OURS], None),
        (UNKNOWN, [OTHERS, OTHERS], SdkError),
        (UNKNOWN, [DOWN], SdkError),
        (FAILED, [], SdkError),
    ],
)
def test_a_plain_write_takes_the_same_care_of_lost_answers(
    answer: Answer, looks: list[There | BaseException], outcome: type[Exception] | None
) -> None:
    write = FakeWrite([answer], looks, conditional=False)
    if outcome is None:
        write.run(exclusive=False)
    else:
        with pytest.raises(outcome):
            write.run(exclusive=False)
    assert not write.looks
