"""Checks of reachability, credentials, bucket and permissions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gllm_storage.cli.commands.check.report import WRITING, Row, Verdict
from gllm_storage.cli.exits import EXPECTED, message_of
from gllm_storage.errors import AccessDeniedError, BucketNotFoundError, StorageUnavailableError

if TYPE_CHECKING:
    from gllm_storage.cli.commands.check.bench import Bench

REACHABLE, CREDENTIALS, BUCKET = "reachable", "credentials", "bucket"
WRITTEN = "written"
"""The name of the first object that is written."""
_ACCEPTED = Row(CREDENTIALS, Verdict.OK, "accepted")
_EXISTS = Row(BUCKET, Verdict.OK, "exists")


def read(bench: Bench) -> tuple[list[Row], Exception | None]:
    """Send a HEAD request for an object that does not exist.

    Returns:
        The rows, and the error that makes the other checks useless; None if there is none.
    """
    begun = time.perf_counter()
    try:
        bench.client.file_exists(bench.path("nothing"))
    except BucketNotFoundError as error:
        return [_reached(begun), _ACCEPTED, Row(BUCKET, Verdict.NO, message_of(error))], error
    except AccessDeniedError as error:
        return _list(bench, begun, error)
    except StorageUnavailableError as error:
        return [Row(REACHABLE, Verdict.FAILED, message_of(error)), *_skipped(CREDENTIALS, BUCKET)], error
    except EXPECTED as error:
        return [_reached(begun), Row(CREDENTIALS, Verdict.FAILED, message_of(error)), *_skipped(BUCKET)], error
    return [_reached(begun), _ACCEPTED, _EXISTS], None


def write(bench: Bench) -> tuple[Row, Exception | None]:
    """Store a small object.

    Returns:
        The row, and the error; None if there is none.
    """
    try:
        bench.put(WRITTEN, b"gllm-storage check\n")
    except AccessDeniedError as error:
        return Row(WRITING, Verdict.DENIED, message_of(error)), error
    except EXPECTED as error:
        return Row(WRITING, Verdict.FAILED, message_of(error)), error
    return Row(WRITING, Verdict.OK, "permitted"), None


def _list(bench: Bench, begun: float, denied: AccessDeniedError) -> tuple[list[Row], Exception | None]:
    """List objects after a HEAD request that was denied: S3 answers 403 for a missing object without list permission."""
    try:
        next(iter(bench.client.list_files(f"/{bench.folder.prefix}")), None)
    except EXPECTED:
        unknown = Row(BUCKET, Verdict.SKIPPED, "unknown without permission to read or list")
        return [_reached(begun), Row(CREDENTIALS, Verdict.DENIED, message_of(denied)), unknown], denied
    limited = Row(CREDENTIALS, Verdict.OK, f"accepted, but not for HEAD requests: {message_of(denied)}")
    return [_reached(begun), limited, _EXISTS], None


def _reached(begun: float) -> Row:
    milliseconds = (time.perf_counter() - begun) * 1000
    return Row(
        REACHABLE,
        Verdict.OK,
        f"answered in {milliseconds:.0f} ms (the first request, with the time to connect)",
        {"milliseconds": milliseconds},
    )


def _skipped(*names: str) -> list[Row]:
    return [Row(name, Verdict.SKIPPED, "the store did not answer") for name in names]
