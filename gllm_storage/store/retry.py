"""Trying a request again, for the providers whose SDKs wait too long between tries or have none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from gllm_storage.concurrency.workers import check_stop
from gllm_storage.errors import redacted
from gllm_storage.store.create import backoff

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.errors import ErrorDetails

T = TypeVar("T")

_logger = logging.getLogger(__name__)

TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses after which the same request may succeed: https://cloud.google.com/storage/docs/retry-strategy and
https://learn.microsoft.com/rest/api/storageservices/common-rest-api-error-codes."""


def with_retries(call: Callable[[], T], is_transient: Callable[[Exception], bool], details: ErrorDetails, most: int) -> T:
    """Call until it succeeds, fails for good, or was tried often enough; with jitter, up to 0.1, 0.2, 0.4, … 3 s between.

    Args:
        call: Sends one request.
        is_transient: Whether an error may pass.
        details: What it is about, for the log.
        most: How often it is tried in all.

    Returns:
        What `call` returns.

    Raises:
        Exception: The last one of `call`.
        TransferStopped: If the transfer that this thread works for was given up.
    """
    for attempt in range(most):
        check_stop()
        try:
            return call()
        except Exception as error:
            if attempt + 1 >= most or not is_transient(error):
                raise
            _logger.info("%s of %s failed (%s); trying again", details.operation, details.url, redacted(str(error)))
        backoff(attempt)
    raise AssertionError("max_attempts is at least 1")
