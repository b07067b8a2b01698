"""What Google Cloud Storage's answers mean, in our words. Nothing of requests or google-auth leaves a verb."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
import urllib3
from google.auth.exceptions import GoogleAuthError, TransportError

from gllm_storage.errors import (
    OURS,
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    redact,
    redacted,
)
from gllm_storage.store.retry import TRANSIENT_STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class RefusedError(Exception):
    """An answer that is no success.

    Attributes:
        status: HTTP status.
        reason: Google's own word for it, such as ``"conditionNotMet"``; the status as text where there is none.
        message: Google's explanation.
        request_id: Google's id of the request.
    """

    status: int
    reason: str
    message: str
    request_id: str | None = None

    def __str__(self) -> str:
        return f"{self.message} ({self.reason}, HTTP {self.status})"


class UnreadableAnswerError(Exception):
    """A successful answer that lacks what Google would say: a web server or a login page answers 200 to anything."""


SDK_ERRORS = (RefusedError, UnreadableAnswerError, requests.RequestException, urllib3.exceptions.HTTPError, GoogleAuthError)
"""All that asking Google raises."""

_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # an answer that ends before its length says so
    urllib3.exceptions.HTTPError,
    TransportError,
)

LOST_SESSION = frozenset({404, 410, 499})
"""Answers to a request of a resumable upload that is not there any more."""

_LOST_SESSION = "uploadSessionLost"
_RATE_LIMITS = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
_ABOUT_AN_OBJECT = {"delete", "download", "exists", "info", "open", "read"}
"""Operations that fail with `FileNotFoundError` when the object is missing; from an upload it means a local file."""
_DIGEST = re.compile(r"(crc32c|md5)", re.IGNORECASE)
_BAD_REQUEST = 400
_DENIED = frozenset({401, 403})
_NOT_FOUND = 404
_GONE = 410
_PRECONDITION_FAILED = 412
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
_DENIED_HINT = "Check the credentials (are they right, and not expired?) and what they permit"
_REACH_HINT = "Check endpoint_url and the network; the call can be repeated"


def is_flipped(error: BaseException) -> bool:
    """Whether the store received other bytes than we sent. Google answers 400, its testbench 412."""
    if not isinstance(error, RefusedError) or error.status not in {_BAD_REQUEST, _PRECONDITION_FAILED}:
        return False
    return _DIGEST.search(error.message) is not None


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, RefusedError):
        return error.status in TRANSIENT_STATUSES or error.reason in _RATE_LIMITS
    return isinstance(error, _BROKEN)


def is_missing_bucket(error: BaseException) -> bool:
    """Whether the answer says that the bucket is not there."""
    if not isinstance(error, RefusedError) or error.status != _NOT_FOUND:
        return False
    # Not "in": a message may name an object, such as "Live version of object b/my-bucket does not exist.".
    return error.message.lower().startswith("the specified bucket does not exist")


def lost_session(why: object, request_id: str | None = None) -> RefusedError:
    """The error for a resumable upload that is not there any more, or is of no use, whatever it was answered."""
    return RefusedError(_GONE, _LOST_SESSION, f"the upload session is gone: {why}", request_id)


def is_lost_session(error: RefusedError) -> bool:
    """Whether it is the upload session that failed: https://cloud.google.com/storage/docs/json_api/v1/status-codes#410_Gone."""
    return error.reason == _LOST_SESSION


def not_found(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for an object that does not exist."""
    return ObjectNotFoundError(f"{details.url} does not exist (gcs {details.operation})", details)


def bucket_not_found(details: ErrorDetails, bucket: str, endpoint_url: str) -> BucketNotFoundError:
    """The error for a bucket that does not exist."""
    known = dataclasses.replace(details, status=_NOT_FOUND, code="notFound")
    return BucketNotFoundError(
        f"gcs {details.operation} of {details.url} failed: there is no bucket {bucket!r} at {endpoint_url}. Create it, or "
        "check its name and the endpoint_url",
        known,
    )


@contextlib.contextmanager
def translated(details: ErrorDetails) -> Iterator[None]:
    """Raise our errors in place of those that asking Google raises."""
    try:
        yield
    except OURS as error:
        cause = error.__cause__
        if isinstance(cause, RefusedError) and error.status is None:
            error.details = _answered(error.details, cause)
        raise
    except SDK_ERRORS as error:
        redact(error)
        raise translate(error, details) from error


def translate(error: Exception, details: ErrorDetails) -> Exception:
    """Our error for what asking Google raised.

    Args:
        error: What it raised.
        details: What the operation is about.
    """
    what = f"gcs {details.operation} of {details.url} failed"
    if isinstance(error, RefusedError):
        return _from_answer(error, details, what)
    if isinstance(error, UnreadableAnswerError):
        return StorageError(f"{what}: the endpoint does not speak Google's JSON API: {error}. Check endpoint_url", details)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        return AccessDeniedError(f"{what}: {_line(error)}. {_DENIED_HINT}", details)
    if is_transient(error):
        return StorageUnavailableError(f"{what}: {_line(error)}. {_REACH_HINT}", details)
    return StorageError(f"{what}: {_line(error)}. Check endpoint_url", details)


def _from_answer(error: RefusedError, details: ErrorDetails, what: str) -> Exception:
    details = _answered(details, error)
    cause = f"{what}: {error}"
    if is_missing_bucket(error) or (error.status == _NOT_FOUND and details.operation not in _ABOUT_AN_OBJECT):
        return BucketNotFoundError(f"{cause}. Create the bucket, or check its name and the endpoint_url", details)
    if error.status == _NOT_FOUND and details.operation in _ABOUT_AN_OBJECT:
        return not_found(details)
    if is_flipped(error):
        return IntegrityError(f"{cause}. The bytes changed on the way; try again", details)
    if is_transient(error) or error.status == _GONE or _SERVER_ERROR <= error.status != _NOT_IMPLEMENTED:
        return StorageUnavailableError(f"{cause}. The store is busy or failing; the call can be repeated", details)
    if error.status in _DENIED:
        return AccessDeniedError(f"{cause}. {_DENIED_HINT}", details)
    return StorageError(f"{cause}.", details)


def _answered(details: ErrorDetails, error: RefusedError) -> ErrorDetails:
    """The details with what the store answered."""
    return dataclasses.replace(details, status=error.status, code=error.reason, request_id=error.request_id)


def _line(error: Exception) -> str:
    return redacted(str(error)).strip().split("\n", maxsplit=1)[0][:300] or type(error).__name__
