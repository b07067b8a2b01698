"""The retry policy: the waits, their durations, and the reports."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.errors import ErrorDetails, StorageUnavailableError, attempts_of
from gllm_storage.store import retry
from gllm_storage.store.retry import RetryEvent, RetryPolicy, no_waits, rescued, subscribe
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

DETAILS = ErrorDetails("fake", "fake://bucket/a", "upload")
LONG = 10 * PATIENCE


# ---- waits


@pytest.mark.parametrize("policy", [RetryPolicy(6), RetryPolicy(3, 1.0, 20.0), retry.s3_requests(5), retry.BLOCK_CONFLICT])
@pytest.mark.parametrize("attempt", [1, 2, 4, 21, 500])
def test_waits_bounded(policy: RetryPolicy, attempt: int) -> None:
    """A wait doubles with each attempt, up to the longest one."""
    longest = min(policy.longest_wait, policy.first_wait * 2 ** min(attempt - 1, 30))
    waits = [policy.seconds(attempt) for _ in range(200)]
    assert min(waits) >= 0
    assert max(waits) <= longest
    assert max(waits) > longest / 2  # one in 2 ** 200 runs fails


def test_waits_jittered() -> None:
    """Waits are spread over the complete interval, so that many clients do not return at the same moment."""
    waits = sorted(RetryPolicy(3, 1.0).seconds(1) for _ in range(2000))
    assert len(set(waits)) > 1900
    assert waits[200] < 0.2
    assert waits[1800] > 0.8


def test_again_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """`again` waits as long as it reports."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda *_: 0.05)
    began = time.monotonic()
    RetryPolicy(3).again(DETAILS, 1, "busy")
    assert time.monotonic() - began >= 0.05


def stopped_soon(stop: Stop) -> None:
    threading.Timer(0.05, stop.set).start()


@pytest.mark.parametrize("given", [True, False], ids=["argument", "thread"])
def test_stop_ends_wait(given: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancellation ends the wait at once, by a passed stop or by the stop of the thread."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda *_: LONG)
    stop = Stop()
    stopped_soon(stop)
    began = time.monotonic()
    with stopped_by(None if given else stop), pytest.raises(TransferStopped):
        RetryPolicy(3).again(DETAILS, 1, "busy", stop=stop if given else None)
    assert time.monotonic() - began < PATIENCE


def test_parent_ends_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop of the transfer ends the waits of its attempts."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda *_: LONG)
    stop = Stop()
    stopped_soon(stop)
    with pytest.raises(TransferStopped):
        RetryPolicy(3).pause(1, Stop(stop))


def test_stopped_before_wait() -> None:
    """A stop that is set already raises, even if there is nothing to wait for."""
    stop = Stop()
    stop.set()
    with no_waits(), pytest.raises(TransferStopped):
        RetryPolicy(3).again(DETAILS, 1, "busy", stop=stop)


def test_no_waits() -> None:
    """`no_waits` switches off the waits of every policy, and switches them on again."""
    policy = RetryPolicy(3, LONG, LONG)
    with no_waits():
        began = time.monotonic()
        for attempt in (1, 2, 500):
            policy.again(DETAILS, attempt, "busy")
            policy.pause(attempt)
            with no_waits():
                assert policy.seconds(attempt) == 0
            assert policy.seconds(attempt) == 0
        assert time.monotonic() - began < PATIENCE
    assert max(policy.seconds(1) for _ in range(100)) > 0


def test_no_waits_after_error() -> None:
    """The waits are switched on again if the block fails."""
    with pytest.raises(ZeroDivisionError), no_waits():
        raise ZeroDivisionError
    assert max(RetryPolicy(3, LONG, LONG).seconds(1) for _ in range(100)) > 0


# ---- call


class Request:
    """A request that fails a number of times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.sent = 0

    def __call__(self) -> str:
        self.sent += 1
        if self.sent <= self.failures:
            raise ConnectionError(f"failure {self.sent}")
        return "answer"


def always(_: Exception) -> bool:
    return True


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_call_succeeds(failures: int, events: list[RetryEvent]) -> None:
    """Each repetition is one event, and the success has no event."""
    request = Request(failures)
    with no_waits():
        assert RetryPolicy(3).call(request, always, DETAILS) == "answer"
    assert request.sent == failures + 1
    assert [(each.attempt, each.cause) for each in events] == [
        (number, f"failure {number}") for number in range(1, failures + 1)
    ]


def test_call_fails(events: list[RetryEvent]) -> None:
    """After the last attempt the last failure is raised, with the number of attempts."""
    request = Request(99)
    with no_waits(), pytest.raises(ConnectionError, match="failure 3") as caught:
        RetryPolicy(3).call(request, always, DETAILS)
    assert attempts_of(caught.value) == request.sent == 3
    assert [each.attempt for each in events] == [1, 2]


def test_call_fails_for_good(events: list[RetryEvent]) -> None:
    """A failure that is not transient is raised at once."""
    request = Request(99)
    with pytest.raises(ConnectionError) as caught:
        RetryPolicy(3).call(request, lambda _: False, DETAILS)
    assert attempts_of(caught.value) == request.sent == 1
    assert events == []


def test_call_stopped() -> None:
    """No request is sent after the transfer was cancelled."""
    stop, request = Stop(), Request(0)
    stop.set()
    with stopped_by(stop), pytest.raises(TransferStopped):
        RetryPolicy(3).call(request, always, DETAILS)
    assert request.sent == 0


class ClosedWhileIdleError(ConnectionError):
    """The server had closed an idle connection."""

    unused = True


@pytest.mark.parametrize(("link", "wait"), [("__cause__", 0.0), ("__context__", 0.001)])
def test_wait_after_idle(link: str, wait: float, events: list[RetryEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was closed while it was idle needs no wait; another failure while that one is handled does."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda *_: 0.001)
    failure = ConnectionError("503")
    setattr(failure, link, ClosedWhileIdleError())

    def fail() -> None:
        raise failure

    with pytest.raises(ConnectionError):
        RetryPolicy(2).call(fail, always, DETAILS)
    assert [each.wait for each in events] == [wait]


# ---- reports


def test_event_fields(events: list[RetryEvent], caplog: pytest.LogCaptureFixture) -> None:
    """An event has all facts, and the log record has the same facts."""
    with no_waits(), caplog.at_level(logging.INFO, "gllm_storage.retry"):
        RetryPolicy(4).again(DETAILS, 2, StorageUnavailableError("the store is busy"), "restart")
    event = RetryEvent("restart", "upload", "fake://bucket/a", 2, 4, "the store is busy", 0.0)
    assert events == [event]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("gllm_storage.retry", logging.INFO)
    assert vars(record)["event"] == event
    text = record.getMessage()
    assert all(each in text for each in ("restart", "upload", "fake://bucket/a", "2 of 4", "the store is busy", "0.0 s"))


def test_wait_reported(events: list[RetryEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    """The reported wait is as long as the wait that follows."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda _, attempt: attempt / 1000)
    assert RetryPolicy(4).report(DETAILS, 3, "busy") == 0.003
    RetryPolicy(4).again(DETAILS, 2, "busy")
    assert [each.wait for each in events] == [0.003, 0.002]


def test_report_before_wait(events: list[RetryEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    """A subscriber is called before the wait of a retry, not after it."""
    monkeypatch.setattr(RetryPolicy, "seconds", lambda *_: LONG)
    stop = Stop()
    unsubscribe = subscribe(lambda _: stop.set())
    try:
        with pytest.raises(TransferStopped):
            RetryPolicy(3).again(DETAILS, 1, "busy", stop=stop)
    finally:
        unsubscribe()
    assert len(events) == 1


def test_rescue_reported(events: list[RetryEvent]) -> None:
    """A rescued write is reported without a wait."""
    rescued(DETAILS, 1, 6, ConnectionError("lost"))
    assert events == [RetryEvent("rescue", "upload", "fake://bucket/a", 1, 6, "lost", 0.0)]


SECRETS = [
    "https://x.blob.core.windows.net/c/b?sv=1&sig=SECRET%2B&se=2",
    "https://storage.googleapis.com/upload?upload_id=SECRET-x",
    "Max retries: /b?sig=SECRET (Caused by x)",
    'Could not connect to the endpoint URL: "http://user:SECRET@127.0.0.1:9/b"',
    "https://user:SE@CRET@host/b, then sftp://:SECRET@host",
]


@pytest.mark.parametrize("text", SECRETS)
@pytest.mark.parametrize("make", [str, ConnectionError, StorageUnavailableError])
def test_secrets_redacted(
    text: str, make: Callable[[str], Any], events: list[RetryEvent], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither events nor log records hold passwords of URLs, or URL parameters that grant access."""
    details = ErrorDetails("fake", text, "upload")
    with no_waits(), caplog.at_level(logging.INFO, "gllm_storage.retry"):
        RetryPolicy(3).again(details, 1, make(text))
    assert "CRET" not in repr(events)
    assert "CRET" not in caplog.text
    assert "***" in events[0].cause
    assert "***" in events[0].url


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9000/b/x:y@z", "s3://b/a:b@c", "abfs://container@account/a", "file:///a:b@c"]
)
def test_harmless_url(url: str, events: list[RetryEvent]) -> None:
    """A URL without a password is unchanged."""
    RetryPolicy(3).report(ErrorDetails("fake", url, "upload"), 1, url)
    assert (events[0].url, events[0].cause) == (url, url)


@pytest.mark.parametrize(
    ("cause", "text"),
    [(ConnectionError(), "ConnectionError"), ("one\ntwo", "one"), ("x" * 1000, "x" * 300)],
    ids=["empty", "lines", "long"],
)
def test_cause_is_one_line(cause: BaseException | str, text: str, events: list[RetryEvent]) -> None:
    """The cause is one short line, and never empty."""
    RetryPolicy(3).report(DETAILS, 1, cause)
    assert events[0].cause == text


def test_event_frozen(events: list[RetryEvent]) -> None:
    """A subscriber cannot change the event that the next subscriber gets."""
    RetryPolicy(3).report(DETAILS, 1, "busy")
    with pytest.raises(dataclasses.FrozenInstanceError):
        events[0].cause = "changed"  # type: ignore[misc]  # frozen: it raises


def test_any_thread(events: list[RetryEvent]) -> None:
    """A subscriber is called by the thread that retries."""
    callers: list[int] = []
    unsubscribe = subscribe(lambda _: callers.append(threading.get_ident()))
    threads = [threading.Thread(target=RetryPolicy(3).report, args=(DETAILS, 1, str(number))) for number in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(PATIENCE)
    unsubscribe()
    assert sorted(each.cause for each in events) == [str(number) for number in range(8)]
    assert threading.get_ident() not in callers
    assert len(callers) == 8


def test_raising_subscriber(events: list[RetryEvent], caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a subscriber is logged; the retry continues, and the other subscribers are called."""

    def broken(_: RetryEvent) -> None:
        raise ZeroDivisionError("mine")

    later: list[RetryEvent] = []
    ends = [subscribe(broken), subscribe(later.append)]
    request = Request(1)
    with no_waits():
        assert RetryPolicy(3).call(request, always, DETAILS) == "answer"
    for end in ends:
        end()
    assert len(events) == len(later) == 1
    (record,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.name == "gllm_storage.retry"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_unsubscribe() -> None:
    """A second end of a subscription does nothing, and another subscription of the same callback stays."""
    found: list[RetryEvent] = []
    first, second = subscribe(found.append), subscribe(found.append)
    RetryPolicy(3).report(DETAILS, 1, "busy")
    assert len(found) == 2
    first()
    first()
    RetryPolicy(3).report(DETAILS, 1, "busy")
    assert len(found) == 3
    second()
    RetryPolicy(3).report(DETAILS, 1, "busy")
    assert len(found) == 3


def test_unsubscribe_meanwhile(events: list[RetryEvent]) -> None:
    """A subscriber may end its own subscription; the next subscriber still gets the event."""
    ends: list[Callable[[], None]] = []
    later: list[RetryEvent] = []
    ends.extend((subscribe(lambda _: ends[0]()), subscribe(later.append)))
    RetryPolicy(3).report(DETAILS, 1, "busy")
    ends[1]()
    assert len(events) == len(later) == 1
