"""Translation of botocore's exceptions into the errors of the library."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import pytest
from botocore import exceptions
from botocore.exceptions import ClientError, EventStreamError, WaiterError
from botocore.parsers import ResponseParserError

from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ErrorDetails,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.s3.errors import translate, translated

if TYPE_CHECKING:
    from collections.abc import Iterable

DETAILS = ErrorDetails("s3", "s3://models/v3/a.bin", "download")
LIBRARY_ERRORS = (StorageError, ObjectNotFoundError, ObjectExistsError)


def answer(code: str, status: int, operation: str = "GetObject") -> ClientError:
    """An error that S3 answered."""
    metadata: Any = {"HTTPStatusCode": status, "RequestId": "REQ1", "HostId": "", "HTTPHeaders": {}, "RetryAttempts": 0}
    return ClientError({"Error": {"Code": code, "Message": "because"}, "ResponseMetadata": metadata}, operation)


def _all_of_botocore() -> Iterable[type[Exception]]:
    for found in vars(exceptions).values():
        is_error = isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, Warning)
        if is_error and found.__module__ == exceptions.__name__:
            yield found
    yield ResponseParserError


def _instance(kind: Any) -> Exception:
    """An instance of the class, with placeholders for the fields of its message."""
    if issubclass(kind, ClientError):
        made: Exception = kind(answer("InternalError", 500).response, "GetObject")
    elif kind is WaiterError:
        made = kind(name="w", reason="r", last_response={})
    elif kind is ResponseParserError or not hasattr(kind, "fmt"):
        made = kind("unable to parse response")
    else:
        fields = {name for _, name, _, _ in string.Formatter().parse(kind.fmt) if name}
        made = kind(**dict.fromkeys(fields, "x"))
    return made


ALL = list(dict.fromkeys(_all_of_botocore()))


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_botocore_exception(kind: type[Exception]) -> None:
    """Each botocore exception is translated, stays the cause, and is not a FileNotFoundError."""
    error = _instance(kind)
    with pytest.raises(LIBRARY_ERRORS) as caught, translated(DETAILS):
        raise error
    assert caught.value.__cause__ is error
    assert "s3" in str(caught.value)
    assert DETAILS.url in str(caught.value)
    assert DETAILS.operation in str(caught.value)
    assert not isinstance(caught.value, FileNotFoundError)


def test_list_of_exceptions() -> None:
    """The list of botocore's exceptions is long, and contains the important ones."""
    assert {ClientError, EventStreamError, exceptions.EndpointConnectionError, exceptions.NoCredentialsError} <= set(ALL)
    assert len(ALL) > 80


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (exceptions.NoCredentialsError, AccessDeniedError),
        (exceptions.PartialCredentialsError, AccessDeniedError),
        (exceptions.CredentialRetrievalError, AccessDeniedError),
        (exceptions.ProfileNotFound, AccessDeniedError),
        (exceptions.SSOTokenLoadError, AccessDeniedError),
        (exceptions.UnauthorizedSSOTokenError, AccessDeniedError),
        (exceptions.EndpointConnectionError, StorageUnavailableError),
        (exceptions.ConnectTimeoutError, StorageUnavailableError),
        (exceptions.ReadTimeoutError, StorageUnavailableError),
        (exceptions.ConnectionClosedError, StorageUnavailableError),
        (exceptions.ResponseStreamingError, StorageUnavailableError),
        (exceptions.IncompleteReadError, StorageUnavailableError),
        (exceptions.SSLError, StorageUnavailableError),
        (exceptions.ProxyConnectionError, StorageUnavailableError),
        (exceptions.HTTPClientError, StorageUnavailableError),
        (exceptions.FlexibleChecksumError, IntegrityError),
        (exceptions.ChecksumError, IntegrityError),
        (ResponseParserError, StorageError),
        (exceptions.ParamValidationError, StorageError),
    ],
    ids=lambda kind: kind.__name__,
)
def test_exception_without_answer(kind: type[Exception], expected: type[Exception]) -> None:
    """An exception without an HTTP answer is translated into the expected class."""
    assert type(translate(_instance(kind), DETAILS)) is expected


ANSWERS = [
    ("NoSuchKey", 404, ObjectNotFoundError),
    ("404", 404, ObjectNotFoundError),
    ("NoSuchVersion", 404, ObjectNotFoundError),
    ("NoSuchBucket", 404, BucketNotFoundError),
    ("NoSuchBucket", 400, BucketNotFoundError),
    ("NoSuchUpload", 404, StorageError),
    ("AccessDenied", 403, AccessDeniedError),
    ("403", 403, AccessDeniedError),
    ("401", 401, AccessDeniedError),
    ("Whatever", 403, AccessDeniedError),
    ("ExpiredToken", 400, AccessDeniedError),
    ("InvalidToken", 400, AccessDeniedError),
    ("InvalidAccessKeyId", 403, AccessDeniedError),
    ("SignatureDoesNotMatch", 403, AccessDeniedError),
    ("RequestTimeTooSkewed", 403, AccessDeniedError),
    ("BadDigest", 400, IntegrityError),
    ("XAmzContentSHA256Mismatch", 400, IntegrityError),
    ("SlowDown", 503, StorageUnavailableError),
    ("ServiceUnavailable", 503, StorageUnavailableError),
    ("InternalError", 500, StorageUnavailableError),
    ("500", 500, StorageUnavailableError),
    ("502", 502, StorageUnavailableError),
    ("504", 504, StorageUnavailableError),
    ("429", 429, StorageUnavailableError),
    ("TooManyRequests", 429, StorageUnavailableError),
    ("RequestTimeout", 400, StorageUnavailableError),
    ("ConditionalRequestConflict", 409, StorageUnavailableError),
    ("OperationAborted", 409, StorageUnavailableError),
    ("NotImplemented", 501, StorageError),
    ("InvalidRequest", 400, StorageError),
    ("EntityTooLarge", 400, StorageError),
    ("InvalidObjectState", 403, StorageError),
    ("PermanentRedirect", 301, StorageError),
    ("301", 301, StorageError),
    ("QuotaExceeded", 400, StorageError),
    ("", 0, StorageError),
]


@pytest.mark.parametrize(("code", "status", "expected"), ANSWERS)
def test_error_answer(code: str, status: int, expected: type[Exception]) -> None:
    """An error answer is translated into the expected class, with its status, code and request id."""
    with pytest.raises(LIBRARY_ERRORS) as caught, translated(DETAILS):
        raise answer(code, status)
    assert isinstance(caught.value, expected)
    if expected is StorageError:
        assert not isinstance(caught.value, StorageUnavailableError)
    known = getattr(caught.value, "details", ErrorDetails())
    assert (known.status, known.code, known.request_id) == (status, code, "REQ1")
    assert (known.url, known.operation, known.provider) == (DETAILS.url, "download", "s3")
    if expected is not ObjectNotFoundError:
        assert "because" in str(caught.value)
        assert code in str(caught.value)


@pytest.mark.parametrize("status", [200, 301, 400, 403, 404, 409, 500, 503])
def test_missing_bucket(status: int) -> None:
    """A missing bucket is a BucketNotFoundError, which is not an ObjectNotFoundError, whatever the status is."""
    error = translate(answer("NoSuchBucket", status), DETAILS)
    assert isinstance(error, BucketNotFoundError)
    assert not isinstance(error, ObjectNotFoundError)
    assert "models" in str(error)


@pytest.mark.parametrize(("code", "status"), [("404", 404), ("NotFound", 404), ("405", 405), ("MethodNotAllowed", 405)])
def test_refused_upload(code: str, status: int) -> None:
    """A refused upload is not a missing file."""
    details = ErrorDetails("s3", "s3://models/a", "upload")
    error = translate(answer(code, status, "PutObject"), details)
    assert isinstance(error, StorageError), "upload_file raises FileNotFoundError for a missing local file, and only then"


def test_empty_answer() -> None:
    """An error answer without any content is a StorageError."""
    empty: Any = {}
    with pytest.raises(StorageError, match=DETAILS.url), translated(DETAILS):
        raise ClientError(empty, "GetObject")


def test_missing_credential_file() -> None:
    """A missing credential file is a StorageError, not an OSError."""
    with pytest.raises(StorageError, match=DETAILS.url) as caught, translated(DETAILS):
        raise FileNotFoundError(2, "No such file or directory", "token")
    assert not isinstance(caught.value, OSError)


def test_library_error() -> None:
    """An error of the library passes unchanged."""
    original = ObjectNotFoundError("gone", DETAILS)
    with pytest.raises(ObjectNotFoundError) as caught, translated(DETAILS):
        raise original
    assert caught.value is original


@pytest.mark.parametrize("error", [ValueError("path"), KeyError("bug")], ids=repr)
def test_unrelated_error(error: Exception) -> None:
    """An error that is not botocore's passes unchanged."""
    with pytest.raises(type(error)) as caught, translated(DETAILS):
        raise error
    assert caught.value is error
