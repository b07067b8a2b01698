"""Exit codes, and the line that describes an error."""

from __future__ import annotations

from enum import IntEnum

import click

from gllm_storage.errors import (
    OURS,
    AccessDeniedError,
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)


class Exit(IntEnum):
    """The exit codes; `docs/cli.md` and ``--help`` list them."""

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
    Exit.EXISTS: "exists already; or another process moved the alias",
    Exit.DENIED: "access denied",
    Exit.NO_BUCKET: "bucket or container not found",
    Exit.INTEGRITY: "size or checksum differ",
    Exit.UNSUPPORTED: "the store cannot do this, such as create exclusively",
    Exit.UNAVAILABLE: "store unavailable; may work later",
    Exit.FAILED: "other error, or several different ones",
    Exit.MISSING_PACKAGE: "a package or extra is not installed",
    Exit.BUG: "unexpected error (a bug)",
    Exit.HUNG_UP: "terminal closed (SIGHUP)",
    Exit.INTERRUPTED: "Ctrl-C (SIGINT)",
    Exit.BROKEN_PIPE: "the reader of our output went away",
    Exit.TERMINATED: "SIGTERM",
}

# The first match counts. Subclasses stand before their bases: AccessDeniedError is also a StorageError and an OSError.
_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (AccessDeniedError, Exit.DENIED),
    (BucketNotFoundError, Exit.NO_BUCKET),
    (IntegrityError, Exit.INTEGRITY),
    (ConflictCheckUnsupportedError, Exit.UNSUPPORTED),
    (UnsupportedOperationError, Exit.UNSUPPORTED),
    (StorageUnavailableError, Exit.UNAVAILABLE),
    (StorageError, Exit.FAILED),
    (FileNotFoundError, Exit.NOT_FOUND),
    (FileExistsError, Exit.EXISTS),
    (NotADirectoryError, Exit.USAGE),
    (PermissionError, Exit.DENIED),
    (BrokenPipeError, Exit.BROKEN_PIPE),
    (OSError, Exit.FAILED),
    (ImportError, Exit.MISSING_PACKAGE),
    (click.ClickException, Exit.USAGE),
    (ValueError, Exit.USAGE),
)
EXPECTED = tuple(kind for kind, _ in _CODES)
"""The exceptions that have an exit code of their own. Any other is a bug."""

_ADVICE = {
    Remedy.ALLOW_OVERWRITE: "Choose another name, or leave out --no-clobber to replace it",
    Remedy.NO_CONFLICT_CHECK: "Leave out --no-clobber, or use another store",
    Remedy.ACCEPT_RACE: (
        "Leave out --no-clobber, use another store, or add --config conditional_writes=best-effort to accept a check that "
        "can race"
    ),
    Remedy.USE_OTHER_FOLDER: "Leave out --no-clobber, or use another folder",
    Remedy.DELETE_DIR: "Check the source; to delete all files of the target, use 'gllm-storage rm -r'",
    Remedy.EXCLUDE: "Rename these files, or leave them out by --exclude",
    Remedy.FORCE: (
        "Use another folder; 'gllm-storage delete-version' and 'gllm-storage gc' remove versions, and keep the names; to "
        "remove a complete model, give --force"
    ),
    Remedy.FOLDER_BESIDE_OBJECT: "Choose another folder, or give --force to have both",
    Remedy.ONE_MACHINE_CACHE: "Prune the cache on a disk that no other machine uses",
    Remedy.WRITABLE_CACHE: "Name another directory by --cache, or give a directory for the files",
    Remedy.REPEAT: "Repeat the command later",
    Remedy.REPEAT_NOW: "Repeat the command",
    Remedy.CHECK_FIRST: "Check the object with 'gllm-storage stat' before you repeat the command",
    Remedy.CHECK_ENDPOINT: "Check --endpoint-url",
    Remedy.CHECK_NETWORK: "Check the network and --endpoint-url, then repeat the command",
    Remedy.CHECK_HOST: "Check the host and the network, then repeat the command",
    Remedy.CHECK_OPTIONS: "Check the URL and the settings that --config gives",
    Remedy.CREATE_BUCKET: "Create the bucket, or check its name and --endpoint-url",
    Remedy.SET_REGION: "Set --region to the region of the bucket",
    Remedy.TRUST_CERTIFICATE: (
        "Add --ca-bundle FILE, a file with the certificate of the authority that signed the server's certificate"
    ),
    Remedy.FOLLOW_REDIRECT: "Set --endpoint-url to the address of the store itself",
    Remedy.SET_CREDENTIALS: (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, or --profile; for a public bucket, give "
        "--anonymous"
    ),
    Remedy.CHECK_PROFILE: "Set --profile to a profile of the AWS configuration files",
    Remedy.LOWER_THROUGHPUT: (
        "Check the network; on a line that is as slow as that, add --config min_throughput=BYTES with a lower number"
    ),
    Remedy.RAISE_TIMEOUT: "Check the network, or add --config total_timeout=TIME with a longer time",
    Remedy.LARGER_PARTS: "Set larger parts, as in --config part_size=64MiB",
    Remedy.SMALLER_PARTS: "Set smaller parts, as in --config part_size=8MiB",
    Remedy.CHECK_KMS_KEY: "Check the key that --config sse_kms_key_id=KEY names",
    Remedy.DOWNLOAD_INSTEAD: "Copy the object to a file instead",
    Remedy.NO_PRESERVE_ETAG: "Download the object, then upload it under its new name",
    Remedy.OPEN_AGAIN: "Repeat the command",
    Remedy.GET_ALONE: "Copy it alone, or rename it",
    Remedy.ONE_MACHINE: "Add --one-machine if no other machine writes to the model meanwhile",
    Remedy.CASE_SENSITIVE_DISK: (
        "Choose a directory on a disk that keeps both names, or leave one of the files out with --include"
    ),
    Remedy.NO_WILDCARDS: "Paths have no wildcards: name each object, or the folder that has them",
}
"""Sentences for users of the command line; the other remedies read the same for them as for callers of the library."""


class SeveralErrors(click.ClickException):
    """Some of several files failed; each failure was printed when it happened.

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
    if type(error) is StorageError and isinstance(error.__cause__, PermissionError):  # a local file, as source or target
        return Exit.DENIED
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.BUG)


def message_of(error: BaseException) -> str:
    """The description of an exception, with its remedy as options of the command line."""
    if isinstance(error, click.ClickException):
        return _usage_message(error)
    if code_of(error) is Exit.BUG:
        return f"unexpected error, a bug: {type(error).__name__}: {error}. Run with --debug, and report the output"
    if isinstance(error, OURS):
        return _storage_message(error)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def advice(remedy: Remedy) -> str:
    """A remedy as a sentence for users of the command line.

    Examples:
        >>> advice(Remedy.SET_REGION)
        'Set --region to the region of the bucket'
    """
    return _ADVICE.get(remedy, remedy.value)


def _storage_message(error: StorageError | ObjectNotFoundError | ObjectExistsError) -> str:
    if error.remedy is not None:
        return error.describe(advice(error.remedy))
    # A provider from another package may give its advice in the message, about arguments that no user of the command line
    # can pass. For the two errors that --no-clobber causes, the type says enough.
    if isinstance(error, ObjectExistsError):
        return f"{error.url} exists and was not changed. {advice(Remedy.ALLOW_OVERWRITE)}"
    if isinstance(error, ConflictCheckUnsupportedError):
        return f"{error.url}: the store cannot create exclusively. {advice(Remedy.NO_CONFLICT_CHECK)}"
    return str(error)


def _usage_message(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    where = context.command_path if context else "gllm-storage"
    missing = _missing(error)
    message = missing or " ".join(error.format_message().split())  # click writes the choices of an argument in lines
    return f"{message.rstrip('.')}; see '{where} --help'"


def _missing(error: click.ClickException) -> str | None:
    """All missing arguments, of which click names the first one; None if there are not several."""
    if not isinstance(error, click.MissingParameter) or error.ctx is None or not isinstance(error.param, click.Argument):
        return None
    arguments = [each for each in error.ctx.command.params if isinstance(each, click.Argument)]
    required = [each for each in arguments[arguments.index(error.param) :] if each.required]
    if len(required) < 2:  # noqa: PLR2004 - several
        return None
    *names, last = [repr(each.make_metavar(error.ctx)) for each in required]
    order = " ".join(each.make_metavar(error.ctx) for each in arguments)
    return f"Missing arguments {', '.join(names)} and {last} (the order is {order})"


def epilog() -> str:
    """The exit codes, for ``--help``."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {meaning}" for code, meaning in MEANINGS.items())
