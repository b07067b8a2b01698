"""What the Azure SDK's exceptions mean, in our words. Nothing of the SDK's leaves a verb."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

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


class UnreadableAnswerError(Exception):
    """A successful answer that lacks what Azure would say: a web server or a login page answers 200 to anything."""


SDK_ERRORS = (AzureError, UnreadableAnswerError)
"""All that asking Azure raises."""

DIGEST_CODES = frozenset({"Md5Mismatch", "Crc64Mismatch", "InvalidMd5"})
_NO_CONTAINER = frozenset({"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"})
_NO_OBJECT = frozenset({"BlobNotFound", "ResourceNotFound", "404", ""})
_ABOUT_AN_OBJECT = {"copy", "delete", "download", "exists", "info", "open", "read"}
"""Operations that fail with `FileNotFoundError` when the object is missing; from an upload it means a local file."""
_DENIED = frozenset({401, 403})
_SUCCESS = range(200, 300)
_NOT_FOUND = 404
_SERVER_ERROR = 500
_NOT_IMPLEMENTED = 501
_DENIED_HINT = "Check the credentials (are they right, and not expired?) and what they permit"
_REACH_HINT = "Check account_name, endpoint_url and the network; the call can be repeated"
_HINTS = {
    "BlobArchived": " The object is archived; rehydrate it first",
    "RequestBodyTooLarge": " Azure takes no request this large; make part_size smaller",
    "BlockCountExceedsLimit": " Make part_size larger",
    "InvalidBlobType": " A page or append blob is there; delete it first",
    "InvalidResourceName": " Azure takes no such name",
}


def status_of(error: BaseException) -> int:
    """HTTP status of an answer; 0 where there was none."""
    return int(getattr(error, "status_code", None) or 0)


def code_of(error: BaseException) -> str:
    """Azure's error code of an answer; the status as text where it says none."""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        code = headers.get("x-ms-error-code")
    return str(getattr(code, "value", code) or status_of(error) or "")


def is_flipped(error: BaseException) -> bool:
    """Whether the store received other bytes than we sent."""
    # Azurite 3.35 says InvalidOperation, and the digests in its text.
    code = code_of(error)
    return code in DIGEST_CODES or (code == "InvalidOperation" and "md5" in str(error).lower())


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed when it is sent again."""
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        return True
    return status_of(error) in TRANSIENT_STATUSES or is_flipped(error)


def is_broken(error: Exception) -> bool:
    """Whether an answer came and its body broke."""
    broken = isinstance(error, HttpResponseError) and not isinstance(error, (ClientAuthenticationError, DecodeError))
    return broken and (status_of(error) == 0 or status_of(error) in _SUCCESS)


def not_found(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for an object that does not exist."""
    return ObjectNotFoundError(f"{details.url} does not exist (azure {details.operation})", details)


@contextlib.contextmanager
def translated(details: ErrorDetails) -> Iterator[None]:
    """Raise our errors in place of the SDK's."""
    try:
        yield
    except OURS as error:
        cause = error.__cause__
        if isinstance(cause, HttpResponseError) and error.status is None:
            error.details = _answered(error.details, cause)
        raise
    except SDK_ERRORS as error:
        redact(error)
        raise translate(error, details) from error


def translate(error: Exception, details: ErrorDetails) -> Exception:
    """Our error for one of the SDK's.

    Args:
        error: What the SDK raised.
        details: What the operation is about.
    """
    what = f"azure {details.operation} of {details.url} failed"
    if isinstance(error, (UnreadableAnswerError, DecodeError)):
        return StorageError(f"{what}: the endpoint does not speak Azure: {_line(error)}. Check endpoint_url", details)
    if isinstance(error, ClientAuthenticationError) and not status_of(error):
        return AccessDeniedError(f"{what}: {_line(error)}. {_DENIED_HINT}", details)
    if isinstance(error, HttpResponseError) and not is_broken(error):
        return _from_answer(error, details, what)
    return StorageUnavailableError(f"{what}: {_line(error)}. {_REACH_HINT}", details)


def _from_answer(error: HttpResponseError, details: ErrorDetails, what: str) -> Exception:
    status, code = status_of(error), code_of(error)
    details = _answered(details, error)
    cause = f"{what}: {_line(error)} ({code}, HTTP {status})"
    if code in _NO_CONTAINER:
        return BucketNotFoundError(f"{cause}. Create the container, or check its name and the account", details)
    if status == _NOT_FOUND and code in _NO_OBJECT and details.operation in _ABOUT_AN_OBJECT:
        return not_found(details)
    if status in _DENIED:
        return AccessDeniedError(f"{cause}. {_DENIED_HINT}", details)
    if is_flipped(error):
        return IntegrityError(f"{cause}. The bytes changed on the way; try again", details)
    if status in TRANSIENT_STATUSES or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED):
        return StorageUnavailableError(f"{cause}. The store is busy or failing; the call can be repeated", details)
    return StorageError(f"{cause}.{_HINTS.get(code, '')}", details)


def _answered(details: ErrorDetails, error: HttpResponseError) -> ErrorDetails:
    """The details with what the store answered."""
    headers = getattr(error.response, "headers", None) or {}
    request_id = headers.get("x-ms-request-id")
    return dataclasses.replace(details, status=status_of(error) or None, code=code_of(error), request_id=request_id)


def _line(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return redacted(str(message)).strip().split("\n", maxsplit=1)[0][:300] or type(error).__name__
