"""What botocore's exceptions mean, in our words. Nothing of botocore's leaves a verb."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from gllm_storage.errors import (
    OURS,
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    IntegrityError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    """A successful answer that lacks what S3 would say: a web server or a login page answers 200 to anything."""


SDK_ERRORS = (
    BotoCoreError,
    ClientError,
    ResponseParserError,
    boto.UndefinedModelAttributeError,
    UnreadableAnswerError,
)
"""All that asking S3 raises: botocore's exceptions, which have no base of their own, and ours above."""

RAISED = (*SDK_ERRORS, OSError)
"""The same, and what making credentials may raise: a token file that is missing, a process that cannot be started."""

_NOT_FOUND_CODES = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_ABOUT_AN_OBJECT = {"delete", "download", "exists", "info", "open", "read"}
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
_DENIED_HINT = "Check the credentials (are they right, and not expired?) and what they permit"
_REACH_HINT = "Check endpoint_url, region_name and the network; the call can be repeated"
_HTTP_TOO_MANY = 429
_HTTP_SERVER_ERROR = 500
_HTTP_NOT_IMPLEMENTED = 501


def status_of(error: ClientError) -> int:
    """HTTP status of an answer."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """S3's error code of an answer; the status as text where the answer had no body, as to a HEAD."""
    return str(error.response.get("Error", {}).get("Code", ""))


def require_any(answer: Mapping[str, Any], *fields: str) -> None:
    """Check that an answer holds at least one of some fields, as every answer of S3 to that request does.

    Raises:
        UnreadableAnswerError: If it holds none.
    """
    if not any(answer.get(field) for field in fields):
        raise UnreadableAnswerError(f"its answer holds no {' or '.join(fields)}")


def is_not_found(error: ClientError) -> bool:
    """Whether the answer says that the key, or for a HEAD perhaps the bucket, is not there."""
    return code_of(error) in _NOT_FOUND_CODES


@contextlib.contextmanager
def translated(details: ErrorDetails) -> Iterator[None]:
    """Raise our errors in place of botocore's."""
    try:
        yield
    except OURS as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and error.status is None:
            error.details = _answered(error.details, cause)
        raise
    except RAISED as error:
        raise translate(error, details) from error


def translate(error: Exception, details: ErrorDetails) -> Exception:
    """Our error for one of botocore's.

    Args:
        error: A `ClientError` or `BotoCoreError`.
        details: What the operation is about.
    """
    what = f"s3 {details.operation} of {details.url} failed"
    if isinstance(error, ClientError):
        return _from_answer(error, details, what)
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDeniedError(f"{what}: {error}. {_DENIED_HINT}", details)
    if isinstance(error, (ResponseParserError, UnreadableAnswerError)):
        return StorageError(f"{what}: the endpoint does not speak S3: {_first_line(error)}. Check endpoint_url", details)
    if isinstance(error, (boto.FlexibleChecksumError, boto.ChecksumError)):
        return IntegrityError(f"{what}: {error}", details)
    if isinstance(error, _UNREACHABLE):
        return StorageUnavailableError(f"{what}: {error}. {_REACH_HINT}", details)
    hint = ". Check the files that the credentials come from" if isinstance(error, OSError) else ""
    return StorageError(f"{what}: {error}{hint}", details)


def _answered(details: ErrorDetails, error: ClientError) -> ErrorDetails:
    """The details with what the store answered."""
    request_id = error.response.get("ResponseMetadata", {}).get("RequestId")
    return dataclasses.replace(details, status=status_of(error), code=code_of(error), request_id=request_id)


def not_found(details: ErrorDetails) -> ObjectNotFoundError:
    """The error for an object that does not exist."""
    return ObjectNotFoundError(f"{details.url} does not exist (s3 {details.operation})", details)


def _from_answer(error: ClientError, details: ErrorDetails, what: str) -> Exception:
    status, code = status_of(error), code_of(error)
    details = _answered(details, error)
    cause = f"{what}: {error.response.get('Error', {}).get('Message') or 'no explanation'} ({code}, HTTP {status})"
    if code == "NoSuchBucket":
        return BucketNotFoundError(f"{cause}. Create the bucket, or check its name and the endpoint_url", details)
    if code in _NOT_FOUND_CODES and details.operation in _ABOUT_AN_OBJECT:
        return not_found(details)
    if code in _DENIED_CODES or status in {401, 403}:
        return AccessDeniedError(f"{cause}. {_DENIED_HINT}", details)
    if code in DIGEST_CODES:
        return IntegrityError(f"{cause}. The bytes changed on the way; try again", details)
    if (
        code in _UNAVAILABLE_CODES
        or status == _HTTP_TOO_MANY
        or (status >= _HTTP_SERVER_ERROR and status != _HTTP_NOT_IMPLEMENTED)
    ):
        return StorageUnavailableError(f"{cause}. The store is busy or failing; the call can be repeated", details)
    return StorageError(f"{cause}.{_hint(code)}", details)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0][:200]


def _hint(code: str) -> str:
    hints = {
        "InvalidObjectState": " The object is archived; restore it first",
        "PermanentRedirect": " The bucket is in another region; set region_name",
        "301": " The bucket is in another region; set region_name",
        "EntityTooLarge": " The store takes no object this large",
        "KMS.NotFoundException": " Check sse_kms_key_id",
    }
    return hints.get(code, "")
