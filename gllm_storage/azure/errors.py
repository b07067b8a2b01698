"""Errors of this library for the exceptions of the Azure SDK. No exception of the SDK leaves a verb."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    attempts_of,
    redacted,
    translation,
)
from gllm_storage.store.diagnosis import Diagnosis, of_clock, of_connection, of_redirect, passes, suspicion
from gllm_storage.store.limits import MalformedHTTPError
from gllm_storage.store.retry import TRANSIENT_STATUSES

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class UnreadableAnswerError(Exception):
    """A successful answer without the headers of Azure: a web server or a login page answers 200 to any request."""


SDK_ERRORS = (AzureError, UnreadableAnswerError, MalformedHTTPError)
"""All exceptions of a request to Azure."""

DIGEST_CODES = frozenset({"Md5Mismatch", "Crc64Mismatch", "InvalidMd5"})
_NO_CONTAINER = frozenset({"ContainerNotFound", "ContainerBeingDeleted", "ContainerDisabled"})
_NO_OBJECT = frozenset({"BlobNotFound", "ResourceNotFound", "404", ""})
_ABOUT_AN_OBJECT = {"copy", "delete", "download", "exists", "info", "move", "open", "read"}
"""Operations that fail with `FileNotFoundError` if the object is missing. For an upload, that class means a local file."""
_DENIED = frozenset({401, 403})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SUCCESS = range(200, 300)
_NOT_FOUND = 404
_REMEDIES = {
    "BlobArchived": Remedy.RESTORE_OBJECT,
    "RequestBodyTooLarge": Remedy.SMALLER_PARTS,
    "BlockCountExceedsLimit": Remedy.LARGER_PARTS,
    "InvalidBlobType": Remedy.DELETE_FIRST,
}
_EXPLANATIONS = {
    "BlobArchived": "; the object is archived",
    "RequestBodyTooLarge": "; Azure does not accept a request of this size",
    "InvalidBlobType": "; a page blob or an append blob has this name",
    "InvalidResourceName": "; Azure does not accept this name",
}


def status_of(error: BaseException) -> int:
    """HTTP status of the answer; 0 without an answer."""
    return int(getattr(error, "status_code", None) or 0)


def code_of(error: BaseException) -> str:
    """Azure's error code of the answer; the HTTP status as text if the answer has none."""
    code = getattr(error, "error_code", None)
    if code is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
        code = headers.get("x-ms-error-code")
    return str(getattr(code, "value", code) or status_of(error) or "")


def is_flipped(error: BaseException) -> bool:
    """Whether the store received other bytes than were sent."""
    # Azurite 3.35 answers InvalidOperation, with the digests in the text.
    code = code_of(error)
    return code in DIGEST_CODES or (code == "InvalidOperation" and "md5" in str(error).lower())


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed if it is sent again."""
    if isinstance(error, (ServiceRequestError, ServiceResponseError)):
        return passes(error)
    return status_of(error) in TRANSIENT_STATUSES or is_flipped(error) or is_broken(error)


def is_refusal(error: Exception) -> bool:
    """Whether an answer proves that the store did not carry out a write.

    Only a well-formed refusal of the only request does: an earlier request may have been carried out, and its answer lost. A
    404, or an answer without a code of Azure (empty, cut, or the page of a proxy), says nothing about the write.
    """
    repeated = (attempts_of(error) or 1) > 1
    if repeated or is_transient(error) or isinstance(error, UnreadableAnswerError):
        return False
    return not status_of(error) or (status_of(error) != _NOT_FOUND and code_of(error).isalpha())


def is_missing_blob(error: BaseException) -> bool:
    """Whether the answer is 404, and does not say that the container is missing."""
    return status_of(error) == _NOT_FOUND and code_of(error) not in _NO_CONTAINER


def is_broken(error: Exception) -> bool:
    """Whether an answer arrived and its body broke."""
    broken = isinstance(error, HttpResponseError) and not isinstance(error, (ClientAuthenticationError, DecodeError))
    return broken and not is_flipped(error) and (status_of(error) == 0 or status_of(error) in _SUCCESS)


def not_found(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for an object that does not exist."""
    return ObjectNotFoundError(f"{details.url} does not exist (azure {details.operation})", details)


def unusable_account(error: ValueError, url: str) -> StorageError:
    """The error for a connection string or an account key that cannot be read.

    Args:
        error: The exception of the SDK or of `AzureAccount`.
        url: URL of the container or account.
    """
    url = redacted(url)
    return StorageError(
        f"azure connection to {url} failed: {_line(error)}", ErrorDetails("azure", url, "connection"), Remedy.CHECK_ACCOUNT
    )


def translated(details: ErrorDetails) -> AbstractContextManager[None]:
    """Raise errors of this library in place of the SDK's."""
    return translation(details, SDK_ERRORS, translate, answered)


def translate(error: Exception, details: ErrorDetails) -> Exception:
    """The error of this library for an exception of the SDK.

    Args:
        error: The SDK's exception.
        details: The operation.
    """
    what = f"azure {details.operation} of {details.url} failed"
    if isinstance(error, (UnreadableAnswerError, MalformedHTTPError, DecodeError)):
        return StorageError(f"{what}: the endpoint does not speak Azure: {_line(error)}", details, Remedy.CHECK_ENDPOINT)
    diagnosis = of_connection(error)
    if diagnosis is not None:
        return diagnosis.error(f"{what}: ", details)
    if isinstance(error, ClientAuthenticationError) and not status_of(error):
        return AccessDeniedError(f"{what}: {_line(error)}", details, Remedy.CHECK_CREDENTIALS)
    if isinstance(error, HttpResponseError) and not is_broken(error):
        return _from_answer(error, details, what)
    return StorageUnavailableError(f"{what}: {_line(error)}{suspicion(error)}", details, Remedy.CHECK_NETWORK)


def _diagnosis(error: HttpResponseError) -> Diagnosis | None:
    """A redirect, or a wrong clock."""
    headers: Any = getattr(error.response, "headers", None) or {}
    if status_of(error) in _REDIRECTS:
        return of_redirect(headers.get("Location"))
    if status_of(error) in _DENIED:
        return of_clock(headers.get("Date"), surely="date header" in str(error).lower())
    return None


def _from_answer(error: HttpResponseError, details: ErrorDetails, what: str) -> Exception:
    status, code = status_of(error), code_of(error)
    cause, diagnosis = f"{what}: {_line(error)} ({code}, HTTP {status})", _diagnosis(error)
    details = answered(details, error)
    if diagnosis is not None:
        return diagnosis.error(f"{cause}; ", details, denied=status in _DENIED)
    return _from_code(error, details, cause)


def _from_code(error: HttpResponseError, details: ErrorDetails, cause: str) -> Exception:
    status, code = status_of(error), code_of(error)
    if code in _NO_CONTAINER:
        return BucketNotFoundError(cause, details, Remedy.CREATE_CONTAINER)
    if status == _NOT_FOUND and code in _NO_OBJECT and details.operation in _ABOUT_AN_OBJECT:
        return not_found(details)
    if status in _DENIED:
        return AccessDeniedError(cause, details, Remedy.CHECK_CREDENTIALS)
    if is_flipped(error):
        return IntegrityError(f"{cause}; the bytes changed on the way", details, Remedy.REPEAT_NOW)
    if status in TRANSIENT_STATUSES:
        return StorageUnavailableError(f"{cause}; the store is busy or failing", details, Remedy.REPEAT)
    return StorageError(f"{cause}{_EXPLANATIONS.get(code, '')}", details, _REMEDIES.get(code))


def answered(details: ErrorDetails, error: BaseException) -> ErrorDetails:
    """The details, with the status, code and request id of an answer; unchanged if there was no answer."""
    if not isinstance(error, HttpResponseError):
        return details
    headers: Any = getattr(error.response, "headers", None) or {}
    request_id = headers.get("x-ms-request-id")
    return dataclasses.replace(details, status=status_of(error) or None, code=code_of(error), request_id=request_id)


def _line(error: Exception) -> str:
    message = getattr(error, "message", None) or str(error)
    return redacted(str(message)).strip().split("\n", maxsplit=1)[0][:300].rstrip(".") or type(error).__name__
