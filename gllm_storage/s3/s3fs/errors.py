"""Translation of the exceptions of s3fs's own methods."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError, ParamValidationError
from botocore.parsers import ResponseParserError

from gllm_storage.errors import OURS, BucketNotFoundError, ObjectNotFoundError, Remedy
from gllm_storage.s3.errors import SDK_ERRORS, UNPARSABLE, UnreadableAnswerError, code_of, status_of, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.errors import ErrorDetails

_KEPT = {"BucketNotEmpty", "PreconditionFailed"}
"""Codes for which s3fs has an `OSError` of its own, which its methods and callers of `rmdir` check for."""


@contextlib.contextmanager
def translated_s3fs(details: ErrorDetails) -> Iterator[None]:
    """Raise errors of this library in place of botocore's, and of those that s3fs makes of them."""
    try:
        yield
    except OURS:
        raise
    except ParamValidationError as error:  # as s3fs's own methods
        raise ValueError(f"s3 {details.operation} of {details.url}: {error}") from error
    except (*SDK_ERRORS, *UNPARSABLE, ResponseParserError) as error:
        known = isinstance(error, (*SDK_ERRORS, ResponseParserError))
        raise translate(error if known else _unreadable(error), details) from error
    except FileExistsError:
        raise
    except FileNotFoundError as error:
        raise _not_found(error, details) from error.__cause__
    except OSError as error:
        cause = error.__cause__
        if not isinstance(cause, ClientError) or code_of(cause) in _KEPT:
            raise
        raise translate(cause, details) from cause


def _unreadable(error: Exception) -> UnreadableAnswerError:
    return UnreadableAnswerError(f"its answer cannot be parsed: {type(error).__name__}: {error}")


def _not_found(error: FileNotFoundError, details: ErrorDetails) -> ObjectNotFoundError | BucketNotFoundError:
    cause = error.__cause__
    if not isinstance(cause, ClientError):
        return ObjectNotFoundError(f"{details.url} does not exist (s3 {details.operation})", details)
    known = dataclasses.replace(details, status=status_of(cause), code=code_of(cause))
    if known.code == "NoSuchBucket":
        return BucketNotFoundError(
            f"{details.url} does not exist: there is no such bucket (s3 {details.operation})", known, Remedy.CREATE_BUCKET
        )
    return ObjectNotFoundError(f"{details.url} does not exist (s3 {details.operation})", known)
