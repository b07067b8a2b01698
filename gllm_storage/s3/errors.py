"""Translation of botocore's exceptions into errors of this library. No exception of botocore leaves a verb."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    translation,
)
from gllm_storage.store.diagnosis import Diagnosis, is_web_page, of_clock, of_connection, of_redirect, suspicion
from gllm_storage.store.limits import MalformedHTTPError
from gllm_storage.store.retry import TRANSIENT_STATUSES

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping

DIGEST_CODES = frozenset(
    {
        "BadDigest",
        "InvalidDigest",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
"""The store received other bytes than we sent."""


class UnreadableAnswerError(Exception):
    """An answer that cannot be parsed, or without the headers or content of S3.

    A web server or a login page answers 200 to any request. `StrictParser` raises it in place of botocore's
    ``ResponseParserError``, whose module takes 50 ms to import.
    """


UNPARSABLE = (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
"""Exceptions of a parser for a header or a document with an impossible value."""


SDK_ERRORS = (
    BotoCoreError,
    ClientError,
    MalformedHTTPError,
    boto.UndefinedModelAttributeError,
    UnreadableAnswerError,
)
"""All that asking S3 raises: botocore's exceptions, which have no base of their own, and ours above."""

RAISED = (*SDK_ERRORS, OSError)
"""The same, and what making credentials may raise: a token file that is missing, a process that cannot be started."""

TRANSIENT_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "InternalError",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
"""Codes that botocore's mode "standard" retries: https://docs.aws.amazon.com/boto3/latest/guide/retries.html"""
TRANSIENT_EXCEPTIONS = (boto.ConnectionError, boto.HTTPClientError)
"""Exceptions that it retries."""

HTTP_NOT_FOUND = 404
_NOT_FOUND_CODES = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_ABOUT_AN_OBJECT = {"copy", "delete", "download", "exists", "info", "move", "open", "read"}
"""Operations that fail with `FileNotFoundError` when the object is missing; from an upload it means a local file."""
_DENIED_CODES = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthFailure",
        "AuthorizationHeaderMalformed",
        "CredentialsNotSupported",
        "ExpiredToken",
        "ExpiredTokenException",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidPayer",
        "InvalidSecurity",
        "InvalidToken",
        "NotSignedUp",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnauthorizedAccess",
        "UnrecognizedClientException",
    }
)
_UNAVAILABLE_CODES = frozenset(
    {
        "BandwidthLimitExceeded",
        "Busy",
        "ConditionalRequestConflict",
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "TooManyRequestsException",
    }
)
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
    boto.MetadataRetrievalError,
    boto.RefreshWithMFAUnsupportedError,
    boto.InfiniteLoopConfigError,
    boto.ConfigNotFound,
    boto.ConfigParseError,
)
_UNREACHABLE = (boto.ConnectionError, boto.HTTPClientError, boto.ReadTimeoutError, boto.IncompleteReadError)


def status_of(error: ClientError) -> int:
    """HTTP status of an answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """S3's error code of an answer; the status as text where the answer had no body, as to a HEAD."""
    return str(error.response.get("Error", {}).get("Code", ""))


def set_attempts(error: ClientError, attempts: int) -> None:
    """Note on a refusal how often its request was sent."""
    response: Any = error.response  # its declared type has only the fields of a complete answer
    response.setdefault("ResponseMetadata", {})["RetryAttempts"] = attempts - 1


def require_any(answer: Mapping[str, Any], *fields: str) -> None:
    """Check that an answer holds at least one of some fields, as every answer of S3 to that request does.

    Raises:
        UnreadableAnswerError: If it holds none.
    """
    for field in fields:
        if answer.get(field):
            return
    raise UnreadableAnswerError(f"its answer holds no {' or '.join(fields)}")


def require_deletion(answer: Mapping[str, Any]) -> None:
    """Check that an answer is one to a deletion.

    Raises:
        UnreadableAnswerError: If it is a web page.
    """
    metadata = answer["ResponseMetadata"]
    if is_web_page(metadata["HTTPStatusCode"], metadata["HTTPHeaders"]):
        raise UnreadableAnswerError("its answer is a web page")


def is_not_found(error: ClientError) -> bool:
    """Whether the answer says that the key, or for a HEAD perhaps the bucket, is not there."""
    return code_of(error) in _NOT_FOUND_CODES


def is_transient(error: ClientError) -> bool:
    """Whether the same request may succeed later, judged by the answer."""
    return status_of(error) in TRANSIENT_STATUSES or code_of(error) in TRANSIENT_CODES


def is_refusal(error: ClientError) -> bool:
    """Whether an answer proves that the store did not carry out a write.

    Only a well-formed refusal of the only request does. If the request was repeated, the first one may have been carried
    out, and its answer lost: the repeated one is then refused for any reason, such as credentials that have expired since. A
    404, or an error without a code of S3 (empty, cut, or an HTML page of a proxy), says nothing about the write either.
    """
    code = code_of(error)
    is_clear = code.isalnum() and not code.isdecimal()
    return is_clear and not (is_repeated(error) or is_transient(error) or status_of(error) == HTTP_NOT_FOUND)


def is_repeated(error: ClientError) -> bool:
    """Whether the request was sent more than once."""
    return attempts_of_answer(error) > 1


def attempts_of_answer(error: ClientError) -> int:
    """How often the request was sent."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0)) + 1


def translated(details: ErrorDetails) -> contextlib.AbstractContextManager[None]:
    """Raise errors of this library in place of botocore's."""
    return translation(details, _raised, translate, _answered)


def _raised() -> tuple[type[BaseException], ...]:
    return (*RAISED, *_parser_errors())


def _parser_errors() -> tuple[type[Exception], ...]:
    """Botocore's exception for an answer that it cannot parse, if its parsers are imported. `StrictParser` has our own."""
    # A module lacks its names while another thread imports it; then no exception of its classes exists.
    found = getattr(sys.modules.get("botocore.parsers"), "ResponseParserError", None)
    return () if found is None else (found,)


def translate(error: Exception, details: ErrorDetails) -> Exception:
    """The error of this library for one of botocore's.

    Args:
        error: A `ClientError` or `BotoCoreError`, or an `OSError` of the credentials.
        details: The operation.
    """
    what = f"s3 {details.operation} of {details.url} failed"
    if isinstance(error, ClientError):
        details = _answered(details, error)
        diagnosis = _diagnosis(error)
        denied = status_of(error) in _DENIED_STATUSES or code_of(error) in _DENIED_CODES
        cause = _cause_of(error, what)
        return diagnosis.error(f"{cause}; ", details, denied=denied) if diagnosis else _from_answer(error, details, cause)
    diagnosis = of_connection(error) if isinstance(error, (BotoCoreError, OSError)) else None
    return diagnosis.error(f"{what}: ", details) if diagnosis else _from_exception(error, details, what)


def _from_exception(error: Exception, details: ErrorDetails, what: str) -> Exception:
    if isinstance(error, boto.ProfileNotFound):
        return AccessDeniedError(f"{what}: {_sentence(error)}{_profiles()}", details, Remedy.CHECK_PROFILE)
    if isinstance(error, _NO_CREDENTIALS):
        missing = isinstance(error, boto.NoCredentialsError)
        remedy = Remedy.SET_CREDENTIALS if missing else Remedy.CHECK_CREDENTIALS
        return AccessDeniedError(f"{what}: {_sentence(error)}", details, remedy)
    if isinstance(error, (UnreadableAnswerError, MalformedHTTPError, *_parser_errors())):
        message = f"{what}: the endpoint does not speak S3: {first_line(error)}"
        return StorageError(message, details, Remedy.CHECK_ENDPOINT)
    if isinstance(error, (boto.FlexibleChecksumError, boto.ChecksumError)):
        return IntegrityError(f"{what}: {_sentence(error)}", details)
    if isinstance(error, _UNREACHABLE):
        return StorageUnavailableError(f"{what}: {_sentence(error)}{suspicion(error)}", details, Remedy.CHECK_NETWORK)
    advice = Remedy.CHECK_CREDENTIAL_FILES if isinstance(error, OSError) else None
    return StorageError(f"{what}: {_sentence(error)}", details, advice)


def _answered(details: ErrorDetails, error: BaseException) -> ErrorDetails:
    """The details with the status, code and request id of the store's answer."""
    if not isinstance(error, ClientError):
        return details
    metadata = error.response.get("ResponseMetadata", {})
    return dataclasses.replace(
        details,
        status=status_of(error),
        code=code_of(error),
        request_id=metadata.get("RequestId"),
        attempts=attempts_of_answer(error),
    )


def not_found(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for an object that does not exist."""
    return ObjectNotFoundError(f"{details.url} does not exist (s3 {details.operation})", details)


def _cause_of(error: ClientError, what: str) -> str:
    explanation = str(error.response.get("Error", {}).get("Message") or "no explanation").rstrip(".")
    return f"{what}: {explanation} ({code_of(error)}, HTTP {status_of(error)})"


def _from_answer(error: ClientError, details: ErrorDetails, cause: str) -> Exception:
    status, code = status_of(error), code_of(error)
    if code == "NoSuchBucket":
        return BucketNotFoundError(cause, details, Remedy.CREATE_BUCKET)
    if code in _NOT_FOUND_CODES and details.operation in _ABOUT_AN_OBJECT:
        return not_found(details)
    if code in _DENIED_CODES or status in _DENIED_STATUSES:
        return AccessDeniedError(cause, details, Remedy.CHECK_CREDENTIALS)
    if code in DIGEST_CODES:
        return IntegrityError(f"{cause}: the bytes changed on the way", details, Remedy.REPEAT_NOW)
    if code in _UNAVAILABLE_CODES or status in TRANSIENT_STATUSES:
        return StorageUnavailableError(f"{cause}: the store is busy or failing", details, Remedy.REPEAT)
    return StorageError(cause, details, _REMEDIES.get(code))


def _diagnosis(error: ClientError) -> Diagnosis | None:
    """A wrong region, a redirect, or a wrong clock."""
    status, code = status_of(error), code_of(error)
    if code == "NoSuchBucket":
        return None
    document: Mapping[str, Any] = error.response.get("Error", {})
    headers: Mapping[str, str] = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if code in _WRONG_REGION or status in _REDIRECTS:
        region = document.get("Region") or headers.get("x-amz-bucket-region") or _region_in(str(document.get("Message")))
        if region:
            return Diagnosis(f"the region of the bucket is {str(region)[:80]!r}", Remedy.SET_REGION)
    if status in _REDIRECTS:
        return of_redirect(headers.get("location") or document.get("Endpoint"))
    if code in _CLOCK_CODES or status in _DENIED_STATUSES:
        return of_clock(headers.get("date"), surely=code in _CLOCK_CODES)
    return None


def _region_in(message: str) -> str | None:
    found = _EXPECTED_REGION.search(message)
    return found[1] if found else None


def _profiles() -> str:
    """The names of the profiles on this machine."""
    import botocore.session  # it takes 80 ms to import, and this error needs it alone

    try:
        names = sorted(botocore.session.Session().available_profiles)
    except BotoCoreError:
        return ""
    return f"; there are {', '.join(map(repr, names[:20]))}" if names else "; there is no profile on this machine"


_WRONG_REGION = frozenset(
    {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "AuthorizationQueryParametersError"}
)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DENIED_STATUSES = frozenset({401, 403})
_CLOCK_CODES = frozenset({"RequestTimeTooSkewed", "RequestExpired", "RequestInTheFuture"})
_EXPECTED_REGION = re.compile(r"expecting '([^']+)'")
_REMEDIES = {
    "InvalidObjectState": Remedy.RESTORE_OBJECT,
    "KMS.NotFoundException": Remedy.CHECK_KMS_KEY,
}


def _sentence(error: Exception) -> str:
    """An exception's text as part of a sentence."""
    return str(error).rstrip(". ") or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of an exception's text, at most 200 characters."""
    return str(error).split("\n", maxsplit=1)[0][:200]
