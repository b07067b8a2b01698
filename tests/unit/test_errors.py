"""The error tree: who is whose child, what each says, and that all of it survives a pickle."""

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
    IntegrityError,
    NonAtomicWriteWarning,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)

DETAILS = ErrorDetails("s3", "s3://models/a", "upload", 503, "SlowDown", "REQ1")
PARENTS: dict[type[Exception], set[type[Exception]]] = {
    ObjectNotFoundError: {FileNotFoundError},
    ObjectExistsError: {FileExistsError},
    StorageError: {RuntimeError},
    AccessDeniedError: {StorageError, PermissionError},
    BucketNotFoundError: {StorageError},
    IntegrityError: {StorageError},
    ConflictCheckUnsupportedError: {StorageError},
    StorageUnavailableError: {StorageError},
}
all_errors = pytest.mark.parametrize("kind", PARENTS, ids=lambda kind: kind.__name__)


@all_errors
def test_an_error_has_the_parents_that_callers_catch(kind: type[Exception]) -> None:
    assert {each for each in kind.__bases__ if each.__name__ != "_Detailed"} == PARENTS[kind]


@all_errors
def test_a_missing_or_existing_object_is_no_runtime_error_and_all_else_is(kind: type[Exception]) -> None:
    assert issubclass(kind, RuntimeError) == (kind not in {ObjectNotFoundError, ObjectExistsError})
    assert issubclass(kind, FileNotFoundError) == (kind is ObjectNotFoundError)


@all_errors
def test_an_error_tells_what_is_known(kind: type[StorageError]) -> None:
    error = kind("it went wrong", DETAILS)
    assert str(error) == error.message == "it went wrong"
    assert error.details is DETAILS
    told = (error.provider, error.url, error.operation, error.status, error.code, error.request_id)
    assert told == ("s3", "s3://models/a", "upload", 503, "SlowDown", "REQ1")


@all_errors
def test_an_error_may_know_nothing(kind: type[StorageError]) -> None:
    error = kind("it went wrong")
    assert str(error) == "it went wrong"
    assert error.details == ErrorDetails()
    assert (error.provider, error.url, error.status, error.code) == ("", "", None, None)


@all_errors
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_a_pickle(kind: type[StorageError], protocol: int) -> None:
    copy = pickle.loads(pickle.dumps(kind("it went wrong", DETAILS), protocol))  # noqa: S301 - our own pickle
    assert type(copy) is kind
    assert str(copy) == "it went wrong"
    assert copy.details == DETAILS


@pytest.mark.parametrize(
    ("kind", "number"),
    [(ObjectNotFoundError, errno.ENOENT), (ObjectExistsError, errno.EEXIST), (AccessDeniedError, errno.EACCES)],
)
def test_an_error_that_is_an_os_error_has_its_attributes(kind: type[OSError], number: int) -> None:
    error = kind("it went wrong", DETAILS)
    assert (error.errno, error.strerror, error.filename) == (number, "it went wrong", "s3://models/a")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own pickle
    assert (copy.errno, copy.strerror, copy.filename) == (number, "it went wrong", "s3://models/a")


def test_only_unavailability_is_worth_another_try() -> None:
    assert StorageUnavailableError("x").retryable
    others = [kind for kind in PARENTS if issubclass(kind, StorageError) and kind is not StorageUnavailableError]
    assert not any(kind("x").retryable for kind in others)


def test_a_race_that_cannot_be_excluded_is_a_warning_of_the_users() -> None:
    assert issubclass(NonAtomicWriteWarning, UserWarning)


def test_the_tree_in_the_docstring_names_every_error() -> None:
    for kind in PARENTS:
        assert f" {kind.__name__} " in str(errors.__doc__).replace("\n", " ")
    public = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}
    assert public == {kind.__name__ for kind in PARENTS} | {"NonAtomicWriteWarning"}
