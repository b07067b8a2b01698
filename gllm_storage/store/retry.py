"""The retry policy: the decision, the wait, and the reports. No other module waits between attempts.

An SDK's own waits are unfit here: the Azure SDK waits 15 s after a first failure, botocore sleeps where no cancellation
reaches it, and neither reports. So every SDK sends a request once, and the library repeats it by a `RetryPolicy`.

Each repetition is one INFO record of the logger ``gllm_storage.retry`` and one `RetryEvent` for subscribers::

    from gllm_storage.store.retry import subscribe

    unsubscribe = subscribe(lambda event: counter.labels(event.kind).inc())
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.errors import note_attempts, redacted
from gllm_storage.store.diagnosis import causes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.errors import ErrorDetails

T = TypeVar("T")

logger = logging.getLogger("gllm_storage.retry")

TRANSIENT_STATUSES = frozenset({408, 429, *range(500, 600)}) - {501, 505}
"""HTTP statuses after which the same request may succeed, on all clouds. Beside those that the stores document, proxies and
gateways in front of a store answer with their own: 507 and 509 of web servers, 520 to 530 of Cloudflare. 501 (not
implemented) and 505 (HTTP version) are the same the next time. https://cloud.google.com/storage/docs/retry-strategy,
https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes,
https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/."""

Kind = Literal["retry", "restart", "conflict", "corruption", "rescue"]
"""The kinds of repetition:

- ``retry``: the same request is sent again.
- ``restart``: the object was replaced while it was read; the operation starts again with the new version.
- ``conflict``: another writer was changing the key; the write is sent again.
- ``corruption``: the content did not match its checksum, and is transferred again.
- ``rescue``: the answer to a write or a delete was lost, and a later request showed that it had succeeded.
"""


@dataclass(frozen=True)
class RetryEvent:
    """One repetition, or one rescued write or delete.

    Attributes:
        kind: See `Kind`.
        operation: The operation, such as ``"upload"``.
        url: URL of the object, without secrets.
        attempt: Number of the attempt that failed, from 1.
        limit: The most attempts.
        cause: The failure as text, without secrets.
        wait: Seconds until the next attempt; 0 for a rescue.
    """

    kind: Kind
    operation: str
    url: str
    attempt: int
    limit: int
    cause: str
    wait: float


class _Waits:
    """Whether the waits of this process happen."""

    on = True


_subscribers: dict[object, Callable[[RetryEvent], object]] = {}


def subscribe(callback: Callable[[RetryEvent], object]) -> Callable[[], None]:
    """Have a callback called with each `RetryEvent` of this process.

    Args:
        callback: Called by any thread, before the wait. An exception of it is logged and goes no further.

    Returns:
        A function that ends the subscription.

    Examples:
        >>> events = []
        >>> unsubscribe = subscribe(events.append)
        >>> unsubscribe()
    """
    subscription = object()  # the same callback may be subscribed twice
    _subscribers[subscription] = callback

    def unsubscribe() -> None:
        _subscribers.pop(subscription, None)

    return unsubscribe


@contextlib.contextmanager
def no_waits() -> Iterator[None]:
    """Switch off all waits of the library in this process, for tests; the attempts stay as many."""
    before, _Waits.on = _Waits.on, False
    try:
        yield
    finally:
        _Waits.on = before


@dataclass(frozen=True)
class RetryPolicy:
    """How often something is attempted, and how long to wait between two attempts, with full jitter.

    Attributes:
        limit: The most attempts.
        first_wait: The longest wait after the first attempt, in seconds; it doubles with each further one.
        longest_wait: The longest wait of all, in seconds.
    """

    limit: int
    first_wait: float = 0.1
    longest_wait: float = 3.0

    def seconds(self, attempt: int) -> float:
        """A random wait after an attempt.

        Args:
            attempt: Number of the attempt, from 1.
        """
        longest = min(self.longest_wait, self.first_wait * 2.0 ** min(attempt - 1, 20))
        return random.uniform(0, longest) if _Waits.on else 0.0  # noqa: S311 - jitter, not a secret

    def pause(self, attempt: int, stop: Stop | None = None) -> None:
        """Wait after an attempt, without a record: the caller polls.

        Raises:
            TransferStopped: If the transfer was cancelled; the wait ends at once.
        """
        _wait(self.seconds(attempt), stop)

    def again(
        self, details: ErrorDetails, attempt: int, cause: BaseException | str, kind: Kind = "retry", stop: Stop | None = None
    ) -> None:
        """Report that an attempt failed and another one follows, and wait.

        Args:
            details: The operation.
            attempt: Number of the attempt that failed, from 1.
            cause: The failure.
            kind: The kind of repetition.
            stop: Ends the wait; the stop of this thread if None.

        Raises:
            TransferStopped: If the transfer was cancelled; the wait ends at once.
        """
        _wait(self.report(details, attempt, cause, kind), stop)

    def report(
        self,
        details: ErrorDetails,
        attempt: int,
        cause: BaseException | str,
        kind: Kind = "retry",
        wait: float | None = None,
    ) -> float:
        """Report as `again`, without the wait.

        Args:
            details: As in `again`.
            attempt: As in `again`.
            cause: As in `again`.
            kind: As in `again`.
            wait: Seconds until the next attempt; those of the policy if None.

        Returns:
            Seconds to wait.
        """
        wait = self.seconds(attempt) if wait is None else wait
        _report(RetryEvent(kind, details.operation, details.url, attempt, self.limit, _text(cause), wait))
        return wait

    def call(self, call: Callable[[], T], is_transient: Callable[[Exception], bool], details: ErrorDetails) -> T:
        """Call until it succeeds, fails for good, or has failed `limit` times.

        Args:
            call: Sends one request.
            is_transient: Whether a failure may pass.
            details: The operation.

        Returns:
            The result of `call`.

        Raises:
            Exception: The last failure of `call`, with the number of attempts noted on it.
            TransferStopped: If this thread's transfer was cancelled.
        """
        attempt = 0
        while True:
            attempt += 1
            check_stop()
            try:
                return call()
            except Exception as error:  # `is_transient` decides; other exceptions are raised again
                note_attempts(error, attempt)
                if attempt >= self.limit or not is_transient(error):
                    raise
                failure = error
            if _was_idle(failure):
                self.report(details, attempt, failure, wait=0.0)
            else:
                self.again(details, attempt, failure)


S3_FIRST_WAIT = 1.0
CONFLICT = RetryPolicy(limit=6)
"""Writes while another writer changes the same key."""
BLOCK_CONFLICT = RetryPolicy(limit=20)
"""The same on Azure: each commit discards the blocks that other writers have sent for that name, so that the last of N
writers sends everything N times. Measured: with 6 attempts, one of 16 writers failed on a busy machine."""
RESTART = RetryPolicy(limit=7)
"""Reads of an object that is replaced while it is read, or whose content does not match its checksum."""
POLL = RetryPolicy(limit=0)
"""Questions whether a server has finished, as for a copy."""


def requests(limit: int) -> RetryPolicy:
    """The policy for requests to GCS and Azure: waits of up to 0.1, 0.2, 0.4, … 3 s."""
    return RetryPolicy(limit)


def s3_requests(limit: int) -> RetryPolicy:
    """The policy for requests to S3: waits of up to 1, 2, 4, … 20 s, as botocore's mode "standard"."""
    return RetryPolicy(limit, S3_FIRST_WAIT, longest_wait=20.0)


def rescued(details: ErrorDetails, attempt: int, limit: int, cause: BaseException) -> None:
    """Report that a write or a delete whose answer was lost had succeeded."""
    _report(RetryEvent("rescue", details.operation, details.url, attempt, limit, _text(cause), 0.0))


def deleting(
    send: Callable[[], object], is_missing: Callable[[Exception], bool], details: ErrorDetails, limit: int
) -> Callable[[], None]:
    """The function that sends a delete, once for each attempt: it has succeeded if a later attempt finds no object.

    Args:
        send: Sends the request once.
        is_missing: Whether an exception says that the object does not exist.
        details: For the report.
        limit: The most attempts, for the report.
    """
    lost: list[Exception] = []

    def delete() -> None:
        try:
            send()
        except Exception as error:  # `is_missing` decides; other exceptions are raised again
            if not (lost and is_missing(error)):
                lost.append(error)
                raise
            rescued(details, len(lost), limit, lost[-1])  # an earlier request had deleted the object

    return delete


def _was_idle(error: BaseException) -> bool:
    """Whether the server had closed an idle connection, and is not busy: a new connection need not wait.

    A failure of a request that was sent while an idle connection's failure was handled is another failure.
    """
    return any(getattr(each, "unused", False) for each in causes_of(error, contexts=False))


def _text(cause: BaseException | str) -> str:
    return redacted(str(cause) or type(cause).__name__).strip().split("\n", maxsplit=1)[0][:300]


def _report(event: RetryEvent) -> None:
    event = dataclasses.replace(event, url=redacted(event.url))  # the URL of a request holds that of the endpoint
    logger.info(
        "%s: %s of %s, attempt %d of %d: %s; next in %.1f s",
        event.kind,
        event.operation,
        event.url,
        event.attempt,
        event.limit,
        event.cause,
        event.wait,
        extra={"event": event},
    )
    for callback in list(_subscribers.values()):  # one may end its subscription
        try:
            callback(event)
        except Exception:  # a subscriber's mistake must not fail a transfer
            logger.exception("a subscriber of gllm_storage.retry failed")


def _wait(seconds: float, stop: Stop | None) -> None:
    stop = stop or running_stop() or Stop()
    stop.wait(seconds) if seconds > 0 else stop.check()
