"""Every exception that a verb may raise.

::

    ValueError                       bad configuration, bad path, unknown provider
    FileNotFoundError
    └── ObjectNotFoundError          no such object (a missing local file is a plain FileNotFoundError)
    FileExistsError
    └── ObjectExistsError            check_conflict=True, and the object exists
    RuntimeError
    └── StorageError                 any other failure
        ├── AccessDeniedError            403; wrong, expired or missing credentials
        ├── BucketNotFoundError          the bucket or container does not exist
        ├── IntegrityError               size or checksum differ from the stored ones
        ├── ConflictCheckUnsupportedError    the store cannot create exclusively
        ├── FolderError                  files of a folder failed, or are refused; it lists them
        ├── UnsupportedOperationError    the store cannot do this: keep that property, presign a URL
        └── StorageUnavailableError      timeouts, refused connections, 5xx after all retries

`ObjectNotFoundError` and `ObjectExistsError` are not `RuntimeError`, so an ``except RuntimeError`` written against the
documented interface keeps its meaning. `AccessDeniedError` is a `PermissionError` as well: pandas, fsspec and zarr check
for that class when they open a URL.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import re
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Parameters that grant access: signatures of SAS and presigned URLs, tokens, the id of an upload session on GCS; and the
# keys of connection strings.
_PARAMETERS = re.compile(
    r"\b((?:sig|(?:x-amz-|x-goog-)?signature|x-amz-security-token|upload_id|(?:access|refresh|id|session|security)_?token"
    r"|client_secret|accountkey|sharedaccesskey)=)[^&\s)'\";,]+",
    re.IGNORECASE,
)
# A password, up to the last @ before a slash, as for urllib; or a long user name alone, which may be a token. In Azure's
# URLs the name is the container.
_PASSWORD = re.compile(r"(://[^/@:\s]*:)[^/\s]+(?=@)")
_USER = re.compile(
    r"(?<![a-z])((?!(?:abfss?|wasbs?|az)://)[a-z][a-z0-9+.\-]*://)(?:[^/@:\s]{16,}:?|[^/@:\s]+:)(?=@)", re.IGNORECASE
)
# A password with a slash, which ends the host for a parser. Not a port, an IPv6 address, or the ARN of an access point.
_SLASHED = re.compile(r"(://(?!arn:|\[)[^/@:\s]*:)(?!\d*(?:[/?#\s'\"),;\]]|$))\S+(?=@)", re.IGNORECASE)
# Of http.client and of requests. The header may be the one with the token.
_HEADER = re.compile(r"(header (?:value|part)[^'\"]*)(b?(['\"])).*\3", re.IGNORECASE | re.DOTALL)


def redacted(text: str) -> str:
    """A text for messages and logs: without passwords in URLs, and without values that grant access.

    Examples:
        >>> redacted("https://user:p@ss@minio.example.com/models?X-Amz-Signature=8f3c&partNumber=2")
        'https://user:***@minio.example.com/models?X-Amz-Signature=***&partNumber=2'
    """
    for each in (_USER, _PASSWORD, _SLASHED):
        text = each.sub(r"\1***", text)
    return _HEADER.sub(r"\1\2***\3", _PARAMETERS.sub(r"\1***", text))


def require_printable(name: str, value: object) -> None:
    """Check that a credential can be part of an HTTP header. HTTP libraries show the header that they refuse.

    Args:
        name: Name of the credential, for the message.
        value: The credential; anything but a string is ignored.

    Raises:
        ValueError: If it has a control character, such as the newline at the end of a file. The message does not contain
            the value.
    """
    if isinstance(value, str) and not value.isprintable():
        raise ValueError(f"{name} contains a control character, such as a newline")


_WILDCARD = re.compile(r"[*?]|\[[^\]/]+\]")


def redact(error: BaseException | None) -> None:
    """Remove the secrets from an exception and from its causes, which tracebacks and debuggers show.

    Besides texts, exceptions of HTTP libraries hold the request, with its ``Authorization`` header.
    """
    found, waiting = set(), [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in found:
            continue
        found.add(id(each))
        waiting += [each.__cause__, each.__context__, *(part for part in each.args if isinstance(part, BaseException))]
        each.args = tuple(redacted(part) if isinstance(part, str) else part for part in each.args)
        _strip(vars(each))


def _strip(attributes: dict[str, Any]) -> None:
    attributes.update({name: redacted(value) for name, value in attributes.items() if isinstance(value, str)})
    kwargs = attributes.get("kwargs")
    if isinstance(kwargs, dict):  # botocore's
        attributes["kwargs"] = {
            name: redacted(value) if isinstance(value, str) else value for name, value in kwargs.items() if name != "request"
        }
    if attributes.get("request") is not None:
        attributes["request"] = None
    asked: Any = attributes.get("request_info")
    if hasattr(asked, "_replace"):  # aiohttp's, a named tuple, whose URL the text of the error contains
        attributes["request_info"] = asked._replace(headers={})
    response: Any = attributes.get("response")
    if getattr(response, "request", None) is not None:
        with contextlib.suppress(AttributeError):  # a property of some libraries
            response.request = None


class Remedy(Enum):
    """The advice that an error carries. Its value is the sentence for callers of the library.

    The command line has sentences of its own for some of them, since its users pass options instead of arguments.
    """

    ALLOW_OVERWRITE = "Choose another name, delete the object first, or pass check_conflict=False to replace it"
    OTHER_NAME = "Choose another name"
    NO_CONFLICT_CHECK = "Pass check_conflict=False, or use another store"
    ACCEPT_RACE = (
        "Pass check_conflict=False, use another store, or set conditional_writes='best-effort' to accept a check that can "
        "race"
    )
    OTHER_STORE = "Use another store"
    USE_OTHER_FOLDER = "Pass check_conflict=False, or use another folder"
    REPEAT = "Repeat the call later"
    REPEAT_NOW = "Repeat the call"
    DELETE_DIR = "Check the source; delete_dir deletes the files of a folder"
    EXCLUDE = "Rename these files, or leave them out by exclude"
    FORCE = (
        "Use another folder; delete_version and collect_garbage remove versions, and keep the names; to remove a complete "
        "model, pass force=True"
    )
    FOLDER_BESIDE_OBJECT = "Choose another folder, or pass force=True to have both"
    CHECK_FIRST = "Check the object before you repeat the call"
    SET_CREDENTIALS = (
        "Set aws_access_key_id and aws_secret_access_key, profile_name, or the environment that boto3 reads; "
        'for a public bucket set anonymous="true"'
    )
    CHECK_CREDENTIALS = "Check that the credentials are right and not expired, and that they permit this operation"
    CHECK_CREDENTIAL_FILES = "Check the files that hold the credentials"
    CHECK_ENDPOINT = "Check endpoint_url"
    CHECK_NETWORK = "Check endpoint_url and the network, then repeat the call"
    CHECK_HOST = "Check the host and the network, then repeat the call"
    CHECK_OPTIONS = "Check the URL and the storage options"
    CHECK_ACCOUNT = "Check the account and its credentials"
    CHECK_FOLDER = "Check the folder and its permissions"
    CREATE_BUCKET = "Create the bucket, or check its name and endpoint_url"
    CREATE_CONTAINER = "Create the container, or check its name and the account"
    UPLOAD_AGAIN = "Upload the object again"
    REPORT_DAMAGE = "If the error repeats, the stored object is damaged: upload it again"
    FINISH_WRITING = "Finish writing to the source, then upload it again"
    NAME_FILE = "Name one regular file"
    GET_ALONE = "Download it alone, with get_file, or rename it"
    SET_REGION = "Set region_name to the region of the bucket"
    LARGER_PARTS = "Set a larger part_size"
    SMALLER_PARTS = "Set a smaller part_size"
    RESTORE_OBJECT = "The object is archived: restore it first"
    CHECK_KMS_KEY = "Check sse_kms_key_id"
    DELETE_FIRST = "Delete the existing object first"
    DOWNLOAD_INSTEAD = "Download the complete object instead"
    NO_PRESERVE_ETAG = "Copy without preserve_etag"
    WRITE_NEW_OBJECT = "Write the complete object again, or write another object"
    OPEN_AGAIN = "Open the object again"
    SET_CLOCK = "Set the clock of this machine"
    TRUST_CERTIFICATE = "Set ca_bundle to a file with the certificate of the authority that signed the server's certificate"
    RENEW_CERTIFICATE = "Renew the certificate of the server, or set the clock of this machine if it is wrong"
    UPDATE_TLS = "Let the server accept TLS 1.2 or later, with its usual ciphers"
    FOLLOW_REDIRECT = "Set endpoint_url to the address of the store itself"
    CHECK_PROFILE = "Set profile_name to a profile of the AWS configuration files"
    LOWER_THROUGHPUT = "Check the network; on a line that is as slow as that, set a lower min_throughput"
    RAISE_TIMEOUT = "Check the network, or set a longer total_timeout"
    NO_WILDCARDS = "Paths have no wildcards: choose among the objects of list_files, or use filesystem.glob"
    LEAVE_PROPERTIES_OUT = "Leave the properties out, or use another store"
    NEEDS_SIGNING_KEY = "Use credentials with a key that signs"
    UPDATE_LIBRARY = "Update gllm-storage on this machine"
    OTHER_VERSION_NAME = "Publish under another name, or delete the version first"
    READ_ALIAS_AGAIN = "Read the alias again, and decide anew"
    DELETE_VERSION = "Delete the version, and publish it again"
    RESTORE_BACKUP = "Restore the object from a backup"
    COLLECT_GARBAGE = "Collect the garbage of the model, then publish again"
    ONE_MACHINE = "Pass one_machine=True if no other machine writes to the model meanwhile"
    ONE_MACHINE_CACHE = "Pass one_machine=True if no other machine uses the cache"
    WRITABLE_CACHE = "Name another cache, or a local_dir for the files"
    CASE_SENSITIVE_DISK = "Choose a directory on a disk that keeps both names, or leave one of the files out with include"
    MOVE_ALIAS = "Move the alias to a version that exists"
    NEW_EXECUTOR = "Repeat the call with an executor that accepts work: it transfers only what is missing"
    INSTALL_ON_WORKERS = "Install this version of gllm-storage, with the extra of the store, where the workers run"
    SAME_STORE = "Give the workers the settings of this process; objects in memory need an executor with threads"
    SHARE_FOLDER = "Use workers that share this folder, or a folder in a store"


@dataclass(frozen=True)
class ErrorDetails:
    """The facts about a failure. Every error carries one, and it never holds a secret.

    Attributes:
        provider: Provider name, such as ``"s3"``.
        url: URL of the object, bucket or file that the operation was about.
        operation: The operation that failed: ``"upload"``, ``"download"``, ``"info"``, ``"delete"``, …
        status: HTTP status, if the store answered.
        code: The store's own error code, such as ``"SlowDown"``.
        request_id: The store's id of the failed request, for its support desk.
        attempts: How often the failed request was sent; None if no request failed.
        elapsed: Seconds from the start of the operation to the failure; None if they were not measured.
        remedy: The advice; None if there is none.
    """

    provider: str = ""
    url: str = ""
    operation: str = ""
    status: int | None = None
    code: str | None = None
    request_id: str | None = None
    attempts: int | None = None
    elapsed: float | None = None
    remedy: Remedy | None = None


class _Detailed:
    """The attributes that all errors of this module share. Mixed into a builtin exception, never used alone."""

    details: ErrorDetails
    message: str

    def _describe(self, message: str, details: ErrorDetails | None, remedy: Remedy | None) -> None:
        self.message = redacted(message)
        details = details or ErrorDetails()
        self.details = details if remedy is None else dataclasses.replace(details, remedy=remedy)

    @property
    def provider(self) -> str:
        """Provider name, such as ``"s3"``."""
        return self.details.provider

    @property
    def url(self) -> str:
        """URL of the object, bucket or file that the operation was about."""
        return self.details.url

    @property
    def operation(self) -> str:
        """The operation that failed."""
        return self.details.operation

    @property
    def status(self) -> int | None:
        """HTTP status, if the store answered."""
        return self.details.status

    @property
    def code(self) -> str | None:
        """The store's own error code."""
        return self.details.code

    @property
    def request_id(self) -> str | None:
        """The store's id of the failed request."""
        return self.details.request_id

    @property
    def attempts(self) -> int | None:
        """How often the failed request was sent; None if no request failed."""
        return self.details.attempts

    @property
    def elapsed(self) -> float | None:
        """Seconds from the start of the operation to the failure; None if they were not measured."""
        return self.details.elapsed

    @property
    def remedy(self) -> Remedy | None:
        """The advice; None if there is none."""
        return self.details.remedy

    def describe(self, advice: str | None) -> str:
        """The message, the attempts and the time, and an advice.

        Args:
            advice: A sentence without a full stop; None leaves it out.
        """
        effort = _effort(self.details)
        described = f"{self.message} ({effort})" if effort else self.message
        return f"{described}. {advice}" if advice else described

    def __str__(self) -> str:
        return self.describe(self.remedy.value if self.remedy else None)

    def __reduce__(self) -> tuple[Any, ...]:
        # OSError's own __reduce__ would call the class with (errno, strerror, filename).
        return type(self), (self.message, self.details)


def _effort(details: ErrorDetails) -> str:
    """The attempts and the time, if there was more than one attempt or more than a second."""
    attempts = details.attempts or 0
    elapsed = details.elapsed or 0.0
    told = [f"{attempts} attempts"] if attempts > 1 else []
    if attempts > 1 or elapsed >= 1:
        told += [f"{elapsed:.1f} s"] if details.elapsed is not None else []
    return ", ".join(told)


class ObjectNotFoundError(_Detailed, FileNotFoundError):
    """The object does not exist. `filename` is its URL, `errno` is ENOENT."""

    def __init__(self, message: str, details: ErrorDetails | None = None, remedy: Remedy | None = None) -> None:
        if remedy is None and details is not None and details.remedy is None and _WILDCARD.search(details.url):
            remedy = Remedy.NO_WILDCARDS
        self._describe(message, details, remedy)
        FileNotFoundError.__init__(self, errno.ENOENT, self.message, self.details.url)


class ObjectExistsError(_Detailed, FileExistsError):
    """The object exists and was not changed. `filename` is its URL, `errno` is EEXIST."""

    def __init__(self, message: str, details: ErrorDetails | None = None, remedy: Remedy | None = None) -> None:
        self._describe(message, details, remedy)
        FileExistsError.__init__(self, errno.EEXIST, self.message, self.details.url)


class StorageError(_Detailed, RuntimeError):
    """The operation failed for a reason that has no builtin exception. The cause is in ``__cause__``."""

    retryable = False
    """Whether the same call may succeed later, with nothing changed."""

    def __init__(self, message: str, details: ErrorDetails | None = None, remedy: Remedy | None = None) -> None:
        self._describe(message, details, remedy)
        RuntimeError.__init__(self, self.message)


OURS = (StorageError, ObjectNotFoundError, ObjectExistsError)
"""All errors of this module, for `except`."""


class AccessDeniedError(StorageError, PermissionError):
    """The store refused: credentials are wrong, expired or missing, or do not permit this. `errno` is EACCES."""

    def __init__(self, message: str, details: ErrorDetails | None = None, remedy: Remedy | None = None) -> None:
        self._describe(message, details, remedy)
        PermissionError.__init__(self, errno.EACCES, self.message, self.details.url)


class BucketNotFoundError(StorageError, FileNotFoundError):
    """The bucket or container does not exist. `filename` is the URL, `errno` is ENOENT.

    It is both a `StorageError` and, as fsspec's users expect, a `FileNotFoundError`. Catch it first in code that goes on if
    an object is missing.
    """

    def __init__(self, message: str, details: ErrorDetails | None = None, remedy: Remedy | None = None) -> None:
        self._describe(message, details, remedy)
        FileNotFoundError.__init__(self, errno.ENOENT, self.message, self.details.url)


class IntegrityError(StorageError):
    """Size or checksum differ from the stored ones, also after a second attempt. The received bytes were discarded."""


class ConflictCheckUnsupportedError(StorageError):
    """The store cannot create exclusively, so ``check_conflict=True`` was refused before anything was written."""


class FolderError(StorageError):
    """A transfer of a folder failed for some files, or was refused before anything moved. `failures` lists the files.

    Attributes:
        failures: Path and exception of the files that failed, the first 1000 of them; empty if the transfer was refused.
        result: The `FolderResult` with all that was done; None if it was refused, and in another process.
    """

    def __init__(
        self,
        message: str,
        details: ErrorDetails | None = None,
        remedy: Remedy | None = None,
        failures: Sequence[tuple[str, Exception]] = (),
    ) -> None:
        super().__init__(message, details, remedy)
        self.failures = tuple(failures)
        self.result: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.details, None, self.failures)


class UnsupportedOperationError(StorageError):
    """The store, or its credentials, cannot do this, such as keep a property or presign a URL. Nothing was sent."""


class StorageUnavailableError(StorageError):
    """The store could not be reached or kept failing, also after all retries."""

    retryable = True


class NonAtomicWriteWarning(UserWarning):
    """An exclusive create checked with a HEAD request and wrote afterwards, because the store cannot do both in one step."""


class InsecureTLSWarning(UserWarning):
    """TLS certificates are not verified, because ``verify_tls`` is false."""


def note_attempts(error: BaseException, attempts: int) -> None:
    """Record on an SDK's exception how often its request was sent; `translation` puts it into the error details."""
    error.__dict__["gllm_attempts"] = attempts


def attempts_of(error: BaseException | None) -> int | None:
    """The number that `note_attempts` recorded on an exception, or on one of its causes."""
    while error is not None:
        found: int | None = error.__dict__.get("gllm_attempts")
        if found is not None:
            return found
        error = error.__cause__
    return None


class user_code:
    """Mark an exception that leaves the block as one of the user's code, such as a callback: no block translates it."""

    __slots__ = ()

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            error.__dict__["gllm_of_user"] = True


def is_of_user(error: BaseException) -> bool:
    """Whether an exception comes from the user's code, as `user_code` has marked it."""
    return "gllm_of_user" in error.__dict__


class translation:
    """Raise an error of this module in place of an SDK's, with the attempts and the time.

    Nested blocks add to the details of an error that passes through; the outermost block measures the longest time.

    Args:
        details: The facts that are known before the operation.
        sdk_errors: The exceptions to translate; or a function that returns them, if they take time to find.
        translate: Makes the error.
        answered: Adds the HTTP status, code and request id of an SDK's exception to details that lack them.

    Raises:
        StorageError: Or another error of `OURS`; other exceptions pass unchanged, and so do those of `user_code`.
    """

    __slots__ = ("_answered", "_began", "_details", "_sdk_errors", "_translate")

    def __init__(
        self,
        details: ErrorDetails,
        sdk_errors: tuple[type[BaseException], ...] | Callable[[], tuple[type[BaseException], ...]],
        translate: Callable[[Any, ErrorDetails], Exception],
        answered: Callable[[ErrorDetails, BaseException], ErrorDetails] | None = None,
    ) -> None:
        self._details = details
        self._sdk_errors = sdk_errors
        self._translate = translate
        self._answered = answered

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is None:
            return
        sdk_errors = self._sdk_errors() if callable(self._sdk_errors) else self._sdk_errors
        if isinstance(error, OURS):
            cause = error.__cause__
            if cause is not None and error.status is None and self._answered is not None:
                error.details = self._answered(error.details, cause)
            redact(cause)
            complete(error, self._began)
        elif isinstance(error, sdk_errors) and not is_of_user(error):
            redact(error)
            translated = self._translate(error, self._details)
            if isinstance(translated, OURS):
                translated.__cause__ = error
                complete(translated, self._began)
            raise translated from error


def complete(error: StorageError | ObjectNotFoundError | ObjectExistsError, began: float) -> None:
    """Add the attempts and the elapsed time to the details of an error.

    Args:
        error: The error; it or its cause carries the attempts.
        began: The start of the operation, by `time.monotonic`.
    """
    details = error.details
    attempts = details.attempts if details.attempts is not None else attempts_of(error)
    elapsed = max(time.monotonic() - began, details.elapsed or 0.0)
    error.details = dataclasses.replace(details, attempts=attempts, elapsed=elapsed)


class timed:
    """Put the time since the start of the block into errors of this module that leave it."""

    __slots__ = ("_began",)

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OURS):
            complete(error, self._began)


_OF_ONE_OBJECT = frozenset({Remedy.REPEAT, Remedy.REPEAT_NOW, Remedy.CHECK_FIRST, Remedy.OPEN_AGAIN})
"""The remedies of errors that no other file need have."""


def ends_all(error: BaseException) -> bool:
    """Whether all other files of a call would fail for the same reason."""
    # No HTTP status means that no request was answered, despite all retries. The next file would wait as long in vain. Only
    # the errors of objects that other writers replaced have no status either.
    unanswered = isinstance(error, StorageUnavailableError) and error.status is None
    unreachable = unanswered and getattr(error, "remedy", None) not in _OF_ONE_OBJECT
    return unreachable or isinstance(error, (BucketNotFoundError, ConflictCheckUnsupportedError, ImportError))
