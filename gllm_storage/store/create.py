"""The exclusive-create decision: did *our* write make the object, or did somebody else's?

One procedure for all stores; it knows no provider. A store tells it four things (`Write`): what is there now, how to
write under a precondition, what an error means, and how to take back what a failed write left open.

Two facts shape it. An answer can be lost: the SDK then asks again, and the second answer, "precondition failed", is about
the caller's own object. So each write carries a random *write-id* in the object's metadata, and whoever finds it there
knows the object for his own. And "409 ConditionalRequestConflict" is not "exists": S3 answers it when somebody changes
the key at that moment, and asks to try again, for a multipart upload with all its parts
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html).
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

ATTEMPTS = 6
"""How often a write is tried while the store answers that somebody else is changing the key at that moment; unless the store
says otherwise."""


class Answer(Enum):
    """What an error says about the write that it ended."""

    EXISTS = "the precondition failed: something is there"
    CONCURRENT = "somebody is changing the key right now; try again"
    UNKNOWN = "the write may have happened or not"
    REFUSED = "the store does not write conditionally"
    FAILED = "the write did not happen"


@dataclass(frozen=True)
class Sighting:
    """An object that is there.

    Attributes:
        write_id: The write-id in its metadata, if it has one.
    """

    write_id: str | None


class Write(Protocol):
    """One write of one object, as a store does it."""

    @property
    def details(self) -> ErrorDetails:
        """What the write is about, for errors."""

    @property
    def conditional(self) -> bool:
        """Whether the store itself checks, when it writes, that nothing is there."""

    def look(self) -> Sighting | None:
        """Ask the store what is there now; None for nothing.

        Raises:
            StorageError: If it cannot be told; `AccessDeniedError` where we may not look.
        """

    def write(self, write_id: str) -> None:
        """Write the object under its precondition, with `write_id` in its metadata. May be called again.

        Raises:
            Exception: Whatever the SDK raises; `judge` is asked what it means.
        """

    def judge(self, error: Exception) -> Answer:
        """Say what an error of `write` means."""

    def discard(self) -> None:
        """Take back what a failed `write` left open, such as a multipart upload. Called after the look, never before it.

        Must not raise an `Exception`: the failure that led here is the one to report.
        """


def backoff(attempt: int) -> None:
    """Wait before attempt number `attempt` + 1: up to 0.1 s, 0.2 s, 0.4 s, …, at most 3 s, with full jitter."""
    time.sleep(random.uniform(0, min(3.0, 0.1 * 2 ** min(attempt, 10))))  # noqa: S311 - jitter, not a secret


def write_object(
    write: Write,
    *,
    exclusive: bool,
    look_first: bool = True,
    attempts: int = ATTEMPTS,
    write_id: str | None = None,
    pause: Callable[[int], None] = backoff,
) -> None:
    """Write an object, and know at the end whether it is ours.

    Args:
        write: The write.
        exclusive: Whether the write has a precondition that nothing may be there. Without one the same care is taken of
            lost answers: an upload that the store did complete is a success, whatever the repeated request was told.
        look_first: Whether to look before each attempt at an exclusive write. It is only for speed: a conflict on a 50 GB
            file must not cost 50 GB.
        attempts: How often it is tried while somebody else is changing the key at that moment.
        write_id: The write-id, where what is written has it already.
        pause: Waits between attempts.

    Raises:
        ObjectExistsError: If something is there that is not ours. It was left as it was.
        ConflictCheckUnsupportedError: If the store refuses conditional writes. Nothing was written.
        StorageUnavailableError: If others kept changing the key, or it cannot be told whose object is there.
        Exception: What the SDK raised, where the write did not happen.
    """
    if exclusive and look_first:
        _refuse_if_present(write)
    write_id = write_id or new_write_id()
    last: Exception | None = None
    for attempt in range(attempts):
        try:
            write.write(write_id)
        except Exception as error:  # noqa: BLE001 - judged, and raised again unless the object turns out to be ours
            if _is_settled(write, write_id, error):
                return
            last = error
        except BaseException:
            # Ctrl-C and cancellation: nothing may stay behind, and nothing may complete later.
            write.discard()
            raise
        else:
            return
        if attempt + 1 < attempts:
            pause(attempt)
            if exclusive and look_first and _is_decided(write, write_id):
                return
    if exclusive and attempts == 1 and _is_decided(write, write_id):  # another attempt would find that out
        return
    raise _given_up(write.details, attempts) from last


def new_write_id() -> str:
    """A write-id that no other write has."""
    return secrets.token_hex(16)


def _given_up(details: ErrorDetails, attempts: int) -> StorageUnavailableError:
    if attempts == 1:
        what = "another writer was changing the object at the moment of the write, and what was to be written is gone"
    else:
        what = f"other writers kept changing the object; gave up after {attempts} attempts"
    return StorageUnavailableError(f"{details.url}: {what}. Try again", details)


def _refuse_if_present(write: Write) -> None:
    try:
        there = write.look()
    except AccessDeniedError:
        if not write.conditional:
            raise  # nobody would check at all
        return  # Credentials that may write but not read are common; the store's own precondition decides.
    if there:
        raise exists_error(write.details)


def _is_decided(write: Write, write_id: str) -> bool:
    """Whether the object is ours already, after somebody changed the key: all of it would be sent again for nothing.

    Raises:
        ObjectExistsError: If it is somebody else's.
    """
    try:
        there = write.look()
    except StorageError:
        return False  # only for speed
    if there and there.write_id != write_id:
        raise exists_error(write.details)
    return there is not None


def _is_settled(write: Write, write_id: str, error: Exception) -> bool:
    """Whether the object is ours after all. False means: try again.

    Raises:
        Exception: In every other case.
    """
    answer = write.judge(error)
    ours: bool | None = None
    try:
        if answer in {Answer.EXISTS, Answer.UNKNOWN}:
            ours = _is_ours(write, write_id, answer, error)
    finally:
        if not ours:
            write.discard()
    if answer is Answer.UNKNOWN and ours is False:
        # A request that the store was still working on when we looked is decided now that nothing is open any more.
        ours = _is_ours(write, write_id, answer, error)
    if ours:
        return True
    if answer is Answer.CONCURRENT:
        return False
    if answer is Answer.EXISTS:
        raise exists_error(write.details) from error
    if answer is Answer.REFUSED:
        raise ConflictCheckUnsupportedError(
            f"{write.details.url}: the store refuses conditional writes, so it cannot create exclusively. "
            "Upload with check_conflict=False, or set conditional_writes='best-effort' to accept a check that can race",
            write.details,
        ) from error
    raise error


def _is_ours(write: Write, write_id: str, answer: Answer, error: Exception) -> bool | None:
    """Whether the object that is there is ours; None if the store could not be asked."""
    try:
        there = write.look()
    except AccessDeniedError:
        return None
    except StorageError as failure:
        if answer is Answer.UNKNOWN:
            return None  # The caller gets the original failure: it says what went wrong first.
        raise StorageUnavailableError(
            f"{write.details.url}: the store reports an existing object, and then could not be asked whose it is "
            f"({failure}). It may be the one that this call wrote. Look before you try again",
            write.details,
        ) from error
    return there is not None and there.write_id == write_id


def exists_error(details: ErrorDetails) -> ObjectExistsError:
    """The error for an object that is there already."""
    return ObjectExistsError(
        f"{details.url} exists already and was left as it is. "
        "Choose another name, delete it first, or upload with check_conflict=False to replace it",
        details,
    )
