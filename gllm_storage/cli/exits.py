"""Exit codes, and the one line that says what went wrong."""

from __future__ import annotations

import re
from enum import IntEnum

import click

from gllm_storage.errors import (
    AccessDeniedError,
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    IntegrityError,
    ObjectExistsError,
    StorageError,
    StorageUnavailableError,
)


class Exit(IntEnum):
    """What the process exits with; `docs/cli.md` and ``--help`` say the same."""

    OK = 0
    NO = 1
    USAGE = 2
    NOT_FOUND = 3
    EXISTS = 4
    DENIED = 5
    NO_BUCKET = 6
    INTEGRITY = 7
    UNSUPPORTED = 8
    UNAVAILABLE = 9
    FAILED = 10
    MISSING_PACKAGE = 11
    BUG = 70
    HUNG_UP = 129
    INTERRUPTED = 130
    BROKEN_PIPE = 141
    TERMINATED = 143


MEANINGS = {
    Exit.OK: "done",
    Exit.NO: "exists: no",
    Exit.USAGE: "wrong usage, URL, path or configuration",
    Exit.NOT_FOUND: "not found",
    Exit.EXISTS: "exists already (--no-clobber)",
    Exit.DENIED: "access denied",
    Exit.NO_BUCKET: "bucket or container not found",
    Exit.INTEGRITY: "size or checksum differ",
    Exit.UNSUPPORTED: "the store cannot create exclusively",
    Exit.UNAVAILABLE: "store unavailable; may work later",
    Exit.FAILED: "other error, or several different ones",
    Exit.MISSING_PACKAGE: "a package or extra is not installed",
    Exit.BUG: "unexpected error (a bug)",
    Exit.HUNG_UP: "terminal closed (SIGHUP)",
    Exit.INTERRUPTED: "Ctrl-C (SIGINT)",
    Exit.BROKEN_PIPE: "the reader of our output went away",
    Exit.TERMINATED: "SIGTERM",
}

# The first that fits counts: subclasses stand before their bases (AccessDeniedError is an OSError, too).
_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (AccessDeniedError, Exit.DENIED),
    (BucketNotFoundError, Exit.NO_BUCKET),
    (IntegrityError, Exit.INTEGRITY),
    (ConflictCheckUnsupportedError, Exit.UNSUPPORTED),
    (StorageUnavailableError, Exit.UNAVAILABLE),
    (StorageError, Exit.FAILED),
    (FileNotFoundError, Exit.NOT_FOUND),
    (FileExistsError, Exit.EXISTS),
    (PermissionError, Exit.DENIED),
    (BrokenPipeError, Exit.BROKEN_PIPE),
    (OSError, Exit.FAILED),
    (ImportError, Exit.MISSING_PACKAGE),
    (click.ClickException, Exit.USAGE),
    (ValueError, Exit.USAGE),
)


class SeveralErrors(click.ClickException):
    """Some of several files failed, and each failure was shown when it happened.

    Args:
        errors: The failures.
    """

    def __init__(self, errors: list[Exception]) -> None:
        super().__init__(f"{len(errors)} failed")
        self.errors = errors


def code_of(error: BaseException) -> Exit:
    """The exit code for an exception."""
    if isinstance(error, SeveralErrors):
        codes = {code_of(each) for each in error.errors}
        return codes.pop() if len(codes) == 1 else Exit.FAILED
    if isinstance(error, StorageError) and isinstance(error.__cause__, ImportError):
        return Exit.MISSING_PACKAGE
    if type(error) is StorageError and isinstance(error.__cause__, PermissionError):  # a local file on either side
        return Exit.DENIED
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.BUG)


def message_of(error: BaseException) -> str:
    """What to say of an exception, in one line when `output.complain` has shown it."""
    if isinstance(error, click.ClickException):
        return _usage_message(error)
    if isinstance(error, (ObjectExistsError, ConflictCheckUnsupportedError)):
        return _conflict_message(error)
    if code_of(error) is Exit.BUG:
        return f"unexpected error, a bug: {type(error).__name__}: {error}. Run with --debug, and report what it shows"
    if isinstance(error, OSError) and error.filename and not hasattr(error, "details"):
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _usage_message(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "gllm-storage"
    return f"{error.format_message().rstrip('.')}; see '{where} --help'"


def _conflict_message(error: ObjectExistsError | ConflictCheckUnsupportedError) -> str:
    """The library's advice is for those who call it; here ``check_conflict`` is called ``--no-clobber``."""
    if isinstance(error, ObjectExistsError):
        return (
            f"{error.url} exists already and was left as it is. Choose another name, or leave out --no-clobber to replace it"
        )
    words = error.message.replace("check_conflict=True", "--no-clobber")
    words = re.sub(r"Use check_conflict=False, (or )?", "Leave out --no-clobber, or use ", words)
    return words.replace("Upload with check_conflict=False", "Leave out --no-clobber")


def epilog() -> str:
    """The exit codes, for ``--help``."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
