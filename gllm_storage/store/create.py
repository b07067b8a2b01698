"""Exclusive create: did *our* write make the object, or another writer's?

One procedure for all stores; it knows no provider. A store implements `Write`: HEAD, a write under a precondition, the
meaning of an error, and the removal of a failed write's remains. Two facts shape the procedure.

**An answer can be lost.** The write succeeds, the connection breaks, and the repeated request is refused: "precondition
failed". That refusal is about the caller's own object. So each write carries a random *write-id* in the object's user
metadata; a HEAD request that finds it there proves that the object is ours, and the write is a success. Without a
precondition the same care is taken: an upload that the store completed is a success, whatever the repeated request was told.

**412 without an object.** The object that the store saw may be deleted before the HEAD request, so the write is sent again.
SeaweedFS answers 412 also to the name of a *folder*, and Azurite 409 to a name with uncommitted blocks; that is an error of
its own, because no object exists.

**409 is not "exists".** S3 answers 409 ConditionalRequestConflict when another writer changes the key at that moment. The
write has to be sent again, a multipart upload with all its parts
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html).

After a failure the order matters: first HEAD, then discard (abort the multipart upload), never the other way round, because
an abort can fail a completion that the store is still working on. If the outcome is unknown, one more HEAD request follows
the abort: by then nothing is in progress any more.
"""

from __future__ import annotations

import contextlib
import os
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.info import Stored
from gllm_storage.store.checksums import WRITE_ID, WRITE_ID_UNDERSCORED
from gllm_storage.store.retry import CONFLICT, RetryPolicy, rescued

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.info import ObjectInfo


_NOTHING_THERE = 2
"""The most attempts at a write that is refused because an object exists, where none does. After the first one, another
writer may have deleted it since."""


class Answer(Enum):
    """The meaning of an error that ended a write."""

    EXISTS = "the precondition failed: an object exists"
    CONCURRENT = "another writer is changing the key right now; try again"
    UNKNOWN = "the write may have succeeded or not"
    REFUSED = "the store does not write conditionally"
    FAILED = "the write did not happen"


class Write(Protocol):
    """One write of one object, as a store does it."""

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors."""

    @property
    def conditional(self) -> bool:
        """Whether the store itself checks, when it writes, that no object exists."""

    def head(self) -> ObjectInfo | None:
        """HEAD request: the object that exists now; None if there is none.

        Raises:
            StorageError: If the request fails; `AccessDeniedError` without read permission.
        """

    def write(self, write_id: str) -> Stored:
        """Write the object under its precondition, with `write_id` in its user metadata. May be called again.

        Raises:
            Exception: Any exception of the SDK; `judge` classifies it.
        """

    def judge(self, error: Exception) -> Answer:
        """The meaning of an error of `write`."""

    def discard(self) -> None:
        """Remove the remains of a failed `write`, such as a multipart upload. Called after `head`, never before it.

        Raises no `Exception`: the failure that led here is the one to report.
        """


def write_object(
    write: Write,
    *,
    exclusive: bool,
    head_first: bool = True,
    policy: RetryPolicy = CONFLICT,
    write_id: str | None = None,
    stop: Stop | None = None,
) -> Stored:
    """Write an object, and know at the end whether it is ours.

    Args:
        write: The write.
        exclusive: Whether the write has the precondition that no object exists.
        head_first: Whether a HEAD request precedes each attempt at an exclusive write. Only for speed: a conflict on a
            50 GB file must not cost an upload of 50 GB.
        policy: How often the write is sent while another writer is changing the key.
        write_id: The write-id, if the content carries it already.
        stop: Ends the waits between attempts.

    Returns:
        The stored object.

    Raises:
        ObjectExistsError: If another writer's object exists. It was not changed.
        ConflictCheckUnsupportedError: If the store refuses conditional writes. Nothing was written.
        StorageUnavailableError: If other writers kept changing the key, or the owner of the object is unknown.
        StorageError: If the store refuses the write because an object exists, and none does.
        Exception: The SDK's exception, if the write did not happen.
    """
    if exclusive and head_first:
        _refuse_if_present(write)
    write_id = write_id or new_write_id()
    attempt = 0
    while True:
        attempt += 1
        try:
            return write.write(write_id)
        except Exception as error:  # noqa: BLE001 - judged, and raised again unless the object turns out to be ours
            found = _settle(write, write_id, error)
            if found is not None:
                rescued(write.details, attempt, policy.limit, error)
                return found
            failure = error
        except BaseException:
            # Ctrl-C and cancellation: leave nothing behind, and let nothing complete later.
            write.discard()
            raise
        taken = write.judge(failure) is Answer.EXISTS  # although no object exists
        limit = min(policy.limit, _NOTHING_THERE) if taken else policy.limit
        if attempt < limit:
            policy.again(write.details, attempt, failure, "conflict", stop)
        if exclusive and (head_first or policy.limit == 1):
            found = _decided(write, write_id)
            if found is not None:
                rescued(write.details, attempt, policy.limit, failure)
                return found
        if attempt >= limit:
            raise (_refused_without_object if taken else _too_many_conflicts)(write.details, attempt) from failure


def new_write_id() -> str:
    """A write-id that no other write has."""
    return os.urandom(16).hex()


def exists_error(details: ErrorDetails) -> ObjectExistsError:
    """The error for an object that exists already."""
    return ObjectExistsError(f"{details.url} exists and was not changed", details, Remedy.ALLOW_OVERWRITE)


def require_size(stored: Stored, size: int, details: ErrorDetails, delete: Callable[[], object] | None = None) -> Stored:
    """Check that the store has the complete content: it may lose some, and report success.

    The incomplete object of an exclusive create is deleted: it would be taken for the complete one, and the name would stay
    occupied. After an overwrite it stays: the object that it replaced is gone in any case, and a delete might hit a newer
    one.

    Args:
        stored: The object of this write, as the store describes it.
        size: Size of the content in bytes.
        details: The operation.
        delete: Deletes this version of the object; None leaves it.

    Returns:
        The stored object.

    Raises:
        IntegrityError: If the sizes differ.
    """
    if stored.size == size:
        return stored
    deleted = False
    with contextlib.suppress(StorageError, ObjectNotFoundError):
        if delete is not None:
            delete()
            deleted = True
    raise IntegrityError(
        f"{details.operation} of {details.url}: the store reported success, and holds {stored.size} of {size} bytes; the "
        f"incomplete object {'was deleted' if deleted else 'is still there'}",
        details,
        Remedy.REPEAT_NOW,
    )


def _too_many_conflicts(details: ErrorDetails, attempts: int) -> StorageUnavailableError:
    if attempts == 1:
        what = "another writer was changing the object at the moment of the write, and the streamed content cannot be resent"
    else:
        what = f"other writers kept changing the object during {attempts} attempts"
    return StorageUnavailableError(f"{details.url}: {what}", details, Remedy.REPEAT)


def _refused_without_object(details: ErrorDetails, attempts: int) -> StorageError:
    times = f", {attempts} times" if attempts > 1 else ""
    return StorageError(
        f"{details.url}: the store refused the exclusive create because the name is taken{times}, although a HEAD request "
        "finds no object of that name. Some stores keep folders as objects, such as SeaweedFS: a folder may have that name",
        details,
        Remedy.OTHER_NAME,
    )


def _refuse_if_present(write: Write) -> None:
    try:
        found = write.head()
    except AccessDeniedError:
        if not write.conditional:
            raise  # then nothing at all would check
        return  # Credentials that may write but not read are common; the store's own precondition decides.
    if found:
        raise exists_error(write.details)


def _decided(write: Write, write_id: str) -> Stored | None:
    """Our object, if it exists already after a conflict: a further attempt would send all of it again in vain.

    Raises:
        ObjectExistsError: If another writer's object exists.
    """
    try:
        found = write.head()
    except StorageError:
        return None  # this request is only for speed
    if found is None:
        return None
    if _write_id_of(found) != write_id:
        raise exists_error(write.details)
    return Stored.of(found)


def _settle(write: Write, write_id: str, error: Exception) -> Stored | None:
    """Our object, if the write succeeded in spite of the error. None means: send it again.

    Raises:
        Exception: In every other case.
    """
    answer = write.judge(error)
    found: ObjectInfo | None = None
    known = False
    try:
        if answer in {Answer.EXISTS, Answer.UNKNOWN}:
            known, found = _head_after(write, answer, error)
    finally:
        if not _is_ours(found, write_id):
            write.discard()
    if answer is Answer.UNKNOWN and known and not _is_ours(found, write_id):
        # The first HEAD request may have come before the store had finished. After the abort nothing is in progress.
        _, found = _head_after(write, answer, error)
    if found is not None and _is_ours(found, write_id):
        return Stored.of(found)
    if answer is Answer.CONCURRENT or (answer is Answer.EXISTS and known and found is None):
        return None
    if answer is Answer.EXISTS:
        raise exists_error(write.details) from error
    if answer is Answer.REFUSED:
        raise ConflictCheckUnsupportedError(
            f"{write.details.url}: the store refuses conditional writes, so it cannot create exclusively",
            write.details,
            Remedy.ACCEPT_RACE,
        ) from error
    raise error


def _head_after(write: Write, answer: Answer, error: Exception) -> tuple[bool, ObjectInfo | None]:
    """Whether the store could be asked, and the object that exists."""
    try:
        return True, write.head()
    except AccessDeniedError:
        return False, None
    except StorageError as failure:
        if answer is Answer.UNKNOWN:
            return False, None  # The caller gets the original failure, which came first.
        raise StorageUnavailableError(
            f"{write.details.url}: the store reports an existing object, and then did not say which writer made it "
            f"({failure.message}). This call may have made it",
            write.details,
            Remedy.CHECK_FIRST,
        ) from error


def _is_ours(found: ObjectInfo | None, write_id: str) -> bool:
    return found is not None and _write_id_of(found) == write_id


def _write_id_of(info: ObjectInfo) -> str | None:
    metadata = info.metadata or {}
    return metadata.get(WRITE_ID) or metadata.get(WRITE_ID_UNDERSCORED)
