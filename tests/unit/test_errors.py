"""The error tree: the base classes, the messages and the details of each error, and pickling."""

from __future__ import annotations

import errno
import pickle

import pytest

from gllm_storage import errors
from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    FolderError,
    IntegrityError,
    NonAtomicWriteWarning,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)

DETAILS = ErrorDetails("s3", "s3://models/a", "upload", 503, "SlowDown", "REQ1")
PARENTS: dict[type[Exception], set[type[Exception]]] = {
    ObjectNotFoundError: {FileNotFoundError},
    ObjectExistsError: {FileExistsError},
    StorageError: {RuntimeError},
    AccessDeniedError: {StorageError, PermissionError},
    BucketNotFoundError: {StorageError, FileNotFoundError},
    IntegrityError: {StorageError},
    ConflictCheckUnsupportedError: {StorageError},
    FolderError: {StorageError},
    UnsupportedOperationError: {StorageError},
    StorageUnavailableError: {StorageError},
}
all_errors = pytest.mark.parametrize("kind", PARENTS, ids=lambda kind: kind.__name__)


@all_errors
def test_parents(kind: type[Exception]) -> None:
    """An error has the base classes that callers catch."""
    assert {each for each in kind.__bases__ if each.__name__ != "_Detailed"} == PARENTS[kind]


@all_errors
def test_runtime_errors(kind: type[Exception]) -> None:
    """Every error is a RuntimeError, except ObjectNotFoundError and ObjectExistsError."""
    assert issubclass(kind, RuntimeError) == (kind not in {ObjectNotFoundError, ObjectExistsError})
    assert issubclass(kind, FileNotFoundError) == (kind in {ObjectNotFoundError, BucketNotFoundError})


@all_errors
def test_details(kind: type[StorageError]) -> None:
    """An error has a message and the details of the failed operation."""
    error = kind("it went wrong", DETAILS)
    assert str(error) == error.message == "it went wrong"
    assert error.details is DETAILS
    attributes = (error.provider, error.url, error.operation, error.status, error.code, error.request_id)
    assert attributes == ("s3", "s3://models/a", "upload", 503, "SlowDown", "REQ1")


@all_errors
def test_password_in_message(kind: type[StorageError]) -> None:
    """An error shows no password of a URL, also after pickling."""
    error = kind("nothing at http://user:secretpw@host:9/b", DETAILS)
    for each in (error, pickle.loads(pickle.dumps(error))):
        assert str(each) == each.message == "nothing at http://user:***@host:9/b"
        assert "secretpw" not in repr(each)


@all_errors
def test_missing_details(kind: type[StorageError]) -> None:
    """An error may have no details."""
    error = kind("it went wrong")
    assert str(error) == "it went wrong"
    assert error.details == ErrorDetails()
    assert (error.provider, error.url, error.status, error.code) == ("", "", None, None)


@all_errors
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(kind: type[StorageError], protocol: int) -> None:
    """An error survives pickling."""
    copy = pickle.loads(pickle.dumps(kind("it went wrong", DETAILS), protocol))
    assert type(copy) is kind
    assert str(copy) == "it went wrong"
    assert copy.details == DETAILS


@pytest.mark.parametrize(
    ("kind", "number"),
    [(ObjectNotFoundError, errno.ENOENT), (ObjectExistsError, errno.EEXIST), (AccessDeniedError, errno.EACCES)],
)
def test_os_error_attributes(kind: type[OSError], number: int) -> None:
    """An error that is an OSError has errno, strerror and filename, also after pickling."""
    error = kind("it went wrong", DETAILS)
    assert (error.errno, error.strerror, error.filename) == (number, "it went wrong", "s3://models/a")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.errno, copy.strerror, copy.filename) == (number, "it went wrong", "s3://models/a")


def test_retryable() -> None:
    """Only StorageUnavailableError is retryable."""
    assert StorageUnavailableError("x").retryable
    others = [kind for kind in PARENTS if issubclass(kind, StorageError) and kind is not StorageUnavailableError]
    assert not any(kind("x").retryable for kind in others)


def test_non_atomic_warning() -> None:
    """NonAtomicWriteWarning is a UserWarning."""
    assert issubclass(NonAtomicWriteWarning, UserWarning)


def test_tree_in_the_docstring() -> None:
    """The tree in the module's docstring names every error."""
    for kind in PARENTS:
        assert f" {kind.__name__} " in str(errors.__doc__).replace("\n", " ")
    public = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}
    assert public == {kind.__name__ for kind in PARENTS} | {"NonAtomicWriteWarning", "InsecureTLSWarning"}
