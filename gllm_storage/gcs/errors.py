"""The meaning of Google Cloud Storage's answers. No exception of requests or google-auth leaves a verb."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
import urllib3
from google.auth.exceptions import GoogleAuthError, TransportError

from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    redacted,
    translation,
)
from gllm_storage.store.diagnosis import Diagnosis, of_clock, of_connection, of_redirect, passes, suspicion
from gllm_storage.store.limits import MalformedHTTPError
from gllm_storage.store.retry import TRANSIENT_STATUSES

if TYPE_CHECKING:
    import contextlib


@dataclass
class RefusedError(Exception):
    """An answer that is not a success.

    Attributes:
        status: HTTP status.
        reason: Google's own word for it, such as ``"conditionNotMet"``; the status as text if there is none.
        message: Google's explanation.
        request_id: Google's id of the request.
        location: The header ``Location`` of a redirect.
        date: The header ``Date``.
    """

    status: int
    reason: str
    message: str
    request_id: str | None = None
    location: str | None = None
    date: str | None = None

    def __str__(self) -> str:
        return f"{self.message} ({self.reason}, HTTP {self.status})"


class UnreadableAnswerError(Exception):
    """A successful answer without the content that Google sends: a web server or a login page answers 200 to anything."""


class CredentialsError(GoogleAuthError, ValueError):
    """The credentials that the options name cannot be read. Both are classes that gcsfs raises for that."""


SDK_ERRORS = (
    RefusedError,
    UnreadableAnswerError,
    MalformedHTTPError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    GoogleAuthError,
)
"""All exceptions of a request."""

_BROKEN = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,  # an answer that ends before its declared length
    urllib3.exceptions.HTTPError,
    TransportError,
)

LOST_SESSION = frozenset({404, 410, 499})
"""Answers to a request of a resumable upload that does not exist any more."""

_LOST_SESSION = "uploadSessionLost"
_RATE_LIMITS = frozenset({"rateLimitExceeded", "userRateLimitExceeded"})
_ABOUT_AN_OBJECT = {"copy", "delete", "download", "exists", "info", "move", "open", "read"}
"""Operations that fail with `FileNotFoundError` if the object is missing; from an upload it means a local file."""
_DIGEST = re.compile(r"(crc32c|md5)", re.IGNORECASE)
_CLOCK = re.compile(r"short-lived token|reasonable timeframe|Token used too early|Check your iat", re.IGNORECASE)
"""Google's answers to a token request with a time that is far from its own."""
_REDIRECTS = frozenset({301, 302, 303, 307})
_BAD_REQUEST = 400
_DENIED = frozenset({401, 403})
_NOT_FOUND = 404
_GONE = 410
_PRECONDITION_FAILED = 412


def is_flipped(error: BaseException) -> bool:
    """Whether the store received other bytes than we sent. Google answers 400, its testbench 412."""
    if not isinstance(error, RefusedError) or error.status not in {_BAD_REQUEST, _PRECONDITION_FAILED}:
        return False
    return _DIGEST.search(error.message) is not None


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, RefusedError):
        return error.status in TRANSIENT_STATUSES or error.reason in _RATE_LIMITS
    return isinstance(error, _BROKEN) and passes(error)


def is_refusal(error: Exception, *, repeated: bool) -> bool:
    """Whether a failure proves that the store did not carry out a write.

    Only a well-formed refusal of the only request does, or a request that could not be sent: an earlier request may have
    been carried out, and its answer lost. A 404 or 410, or an answer without Google's JSON (empty, cut, or the page of a
    proxy), says nothing about the write.

    Args:
        error: The exception of the last request.
        repeated: Whether it was sent before.
    """
    if repeated or isinstance(error, UnreadableAnswerError) or is_transient(error):
        return False
    if not isinstance(error, RefusedError):
        return True
    return error.status not in {_NOT_FOUND, _GONE} and error.reason != str(error.status)


def is_missing_bucket(error: BaseException) -> bool:
    """Whether the answer says that the bucket does not exist."""
    if not isinstance(error, RefusedError) or error.status != _NOT_FOUND:
        return False
    # Not "in": a message may name an object, such as "Live version of object b/my-bucket does not exist.".
    return error.message.lower().startswith("the specified bucket does not exist")


def is_missing_object(error: BaseException) -> bool:
    """Whether the answer is 404, and does not say that the bucket is missing."""
    return isinstance(error, RefusedError) and error.status == _NOT_FOUND and not is_missing_bucket(error)


def lost_session(why: object, request_id: str | None = None) -> RefusedError:
    """The error for an upload session that does not exist any more, or that answers inconsistently."""
    return RefusedError(_GONE, _LOST_SESSION, f"the upload session is gone: {why}", request_id)


def is_lost_session(error: RefusedError) -> bool:
    """Whether the upload session failed: https://cloud.google.com/storage/docs/json_api/v1/status-codes#410_Gone."""
    return error.reason == _LOST_SESSION


def not_found(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for an object that does not exist."""
    known = dataclasses.replace(details, status=_NOT_FOUND, code="notFound")
    return ObjectNotFoundError(f"{details.url} does not exist (gcs {details.operation})", known)


def bucket_not_found(details: ErrorDetails, bucket: str, endpoint_url: str) -> BucketNotFoundError:
    """The error for a bucket that does not exist."""
    known = dataclasses.replace(details, status=_NOT_FOUND, code="notFound")
    message = f"gcs {details.operation} of {details.url} failed: the bucket {bucket!r} does not exist at {endpoint_url}"
    return BucketNotFoundError(message, known, Remedy.CREATE_BUCKET)


def translated(details: ErrorDetails) -> contextlib.AbstractContextManager[None]:
    """Raise errors of this library in place of those of requests and google-auth.

    Args:
        details: The operation.
    """
    return translation(details, SDK_ERRORS, translate, _answered)


def translate(error: Exception, details: ErrorDetails) -> Exception:
    """The error of this library for an exception of a request.

    Args:
        error: The exception.
        details: The operation.
    """
    failure = f"gcs {details.operation} of {details.url} failed"
    if isinstance(error, RefusedError):
        details, diagnosis = _answered(details, error), _diagnosis(error)
        if diagnosis is None:
            return _from_answer(error, details, f"{failure}: {error}")
        return diagnosis.error(f"{failure}: {error}; ", details, denied=error.status in _DENIED)
    if isinstance(error, (UnreadableAnswerError, MalformedHTTPError)):
        message = f"{failure}: the endpoint does not speak Google's JSON API: {error}"
        return StorageError(message, details, Remedy.CHECK_ENDPOINT)
    diagnosis = of_connection(error)
    if diagnosis is not None:
        return diagnosis.error(f"{failure}: ", details)
    if isinstance(error, GoogleAuthError) and not isinstance(error, TransportError):
        remedy = Remedy.SET_CLOCK if _CLOCK.search(str(error)) else Remedy.CHECK_CREDENTIALS
        return AccessDeniedError(f"{failure}: {_line(error)}", details, remedy)
    passing = is_transient(error)
    kind, remedy = (StorageUnavailableError, Remedy.CHECK_NETWORK) if passing else (StorageError, Remedy.CHECK_ENDPOINT)
    return kind(f"{failure}: {_line(error)}{suspicion(error)}", details, remedy)


def _diagnosis(error: RefusedError) -> Diagnosis | None:
    """A redirect, or a wrong clock."""
    if error.status in _REDIRECTS:
        return of_redirect(error.location)
    return of_clock(error.date) if error.status in _DENIED else None


def _from_answer(error: RefusedError, details: ErrorDetails, message: str) -> Exception:
    if is_missing_bucket(error) or (error.status == _NOT_FOUND and details.operation not in _ABOUT_AN_OBJECT):
        return BucketNotFoundError(message, details, Remedy.CREATE_BUCKET)
    if error.status == _NOT_FOUND:
        return not_found(details)
    if is_flipped(error):
        return IntegrityError(f"{message}: the bytes changed on the way to the store", details, Remedy.REPEAT_NOW)
    if is_transient(error) or error.status == _GONE:
        return StorageUnavailableError(message, details, Remedy.REPEAT)
    if error.status in _DENIED:
        return AccessDeniedError(message, details, Remedy.CHECK_CREDENTIALS)
    return StorageError(message, details)


def _answered(details: ErrorDetails, error: BaseException) -> ErrorDetails:
    """The details with the answer of the store."""
    if not isinstance(error, RefusedError):
        return details
    return dataclasses.replace(details, status=error.status, code=error.reason, request_id=error.request_id)


def _line(error: Exception) -> str:
    return redacted(str(error)).strip().split("\n", maxsplit=1)[0][:300] or type(error).__name__
