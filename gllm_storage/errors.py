"""Every exception that a verb may raise.

::

    ValueError                       bad configuration, bad path, unknown provider
    FileNotFoundError
    └── ObjectNotFoundError          no such object (a missing local file is a plain FileNotFoundError)
    FileExistsError
    └── ObjectExistsError            check_conflict=True, and the object is there
    RuntimeError
    └── StorageError                 anything else
        ├── AccessDeniedError            403; wrong, expired or missing credentials
        ├── BucketNotFoundError          the bucket or container is not there
        ├── IntegrityError               size or checksum differ from what was stored
        ├── ConflictCheckUnsupportedError    the store cannot create exclusively
        └── StorageUnavailableError      timeouts, refused connections, 5xx after all retries

`ObjectNotFoundError` and `ObjectExistsError` are not `RuntimeError`, so an ``except RuntimeError`` written against the
documented interface keeps its meaning. `AccessDeniedError` is a `PermissionError` as well, because that is what pandas,
fsspec and zarr look for when they open a URL.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Any

# Of a SAS token, and of an upload session on GCS, whose id is all that it takes to write to it.
_SECRET_PARAMETERS = re.compile(r"\b(sig|upload_id)=[^&\s)'\"]+", re.IGNORECASE)


def redacted(text: str) -> str:
    """A text of an SDK as it may be shown and logged: without the parameters of URLs that let everybody in."""
    return _SECRET_PARAMETERS.sub(r"\1=***", text)


def redact(error: BaseException | None) -> None:
    """Take such parameters out of an exception, and of all behind it, which tracebacks show."""
    found, waiting = set(), [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in found:
            continue
        found.add(id(each))
        waiting += [each.__cause__, each.__context__, *(part for part in each.args if isinstance(part, BaseException))]
        each.args = tuple(redacted(part) if isinstance(part, str) else part for part in each.args)
        if isinstance(vars(each).get("message"), str):
            vars(each)["message"] = redacted(vars(each)["message"])


@dataclass(frozen=True)
class ErrorDetails:
    """What is known about a failure; every error carries one, and none of it is ever a secret.

    Attributes:
        provider: Provider name, such as ``"s3"``.
        url: URL of the object, bucket or file that the operation was about.
        operation: What was being done: ``"upload"``, ``"download"``, ``"info"``, ``"delete"``, …
        status: HTTP status, where the store answered.
        code: The store's own error code, such as ``"SlowDown"``.
        request_id: The store's id of the failed request, for its support desk.
    """

    provider: str = ""
    url: str = ""
    operation: str = ""
    status: int | None = None
    code: str | None = None
    request_id: str | None = None


class _Detailed:
    """The attributes that all our errors share. Mixed into a builtin exception, never used alone."""

    details: ErrorDetails
    message: str

    def _describe(self, message: str, details: ErrorDetails | None) -> None:
        self.message = message
        self.details = details or ErrorDetails()

    @property
    def provider(self) -> str:
        """Provider name, such as ``"s3"``."""
        return self.details.provider

    @property
    def url(self) -> str:
        """URL of what the operation was about."""
        return self.details.url

    @property
    def operation(self) -> str:
        """What was being done."""
        return self.details.operation

    @property
    def status(self) -> int | None:
        """HTTP status, where the store answered."""
        return self.details.status

    @property
    def code(self) -> str | None:
        """The store's own error code."""
        return self.details.code

    @property
    def request_id(self) -> str | None:
        """The store's id of the failed request."""
        return self.details.request_id

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own __reduce__ would call the class with (errno, strerror, filename).
        return type(self), (self.message, self.details)


class ObjectNotFoundError(_Detailed, FileNotFoundError):
    """The object does not exist. `filename` is its URL, `errno` is ENOENT."""

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        self._describe(message, details)
        FileNotFoundError.__init__(self, errno.ENOENT, message, self.details.url)


class ObjectExistsError(_Detailed, FileExistsError):
    """The object exists already and was left as it was. `filename` is its URL, `errno` is EEXIST."""

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        self._describe(message, details)
        FileExistsError.__init__(self, errno.EEXIST, message, self.details.url)


class StorageError(_Detailed, RuntimeError):
    """The operation failed for a reason that has no builtin exception. The cause is in ``__cause__``."""

    retryable = False
    """Whether the same call may well succeed later, with nothing changed."""

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        self._describe(message, details)
        RuntimeError.__init__(self, message)


OURS = (StorageError, ObjectNotFoundError, ObjectExistsError)
"""All errors of this module, for `except`."""


class AccessDeniedError(StorageError, PermissionError):
    """The store refused: credentials are wrong, expired or missing, or do not permit this. `errno` is EACCES."""

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        self._describe(message, details)
        PermissionError.__init__(self, errno.EACCES, message, self.details.url)


class BucketNotFoundError(StorageError):
    """The bucket or container is not there. Not a `FileNotFoundError`: nothing was learned about the object."""


class IntegrityError(StorageError):
    """Size or checksum differ from what was stored, also after trying again. Nothing was kept."""


class ConflictCheckUnsupportedError(StorageError):
    """The store cannot create exclusively, so ``check_conflict=True`` was refused before anything was written."""


class StorageUnavailableError(StorageError):
    """The store could not be reached or kept failing, also after all retries."""

    retryable = True


class NonAtomicWriteWarning(UserWarning):
    """An exclusive create went ahead by looking first and writing then, because the store can do no better."""
