"""Can the store be reached, and what may we do there?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gllm_storage.cli.check.model import Row, Verdict
from gllm_storage.cli.exits import Exit, code_of
from gllm_storage.errors import AccessDeniedError, BucketNotFoundError, StorageUnavailableError

if TYPE_CHECKING:
    from gllm_storage.cli.check.bench import Bench

REACHABLE, CREDENTIALS, BUCKET, WRITING = "reachable", "credentials", "bucket", "writing"
WRITTEN = "written"
"""Name of the object that is written first."""
_ACCEPTED = "accepted"


def look(bench: Bench) -> tuple[list[Row], Exception | None]:
    """Ask for an object that is not there.

    Returns:
        The rows, and the error that makes all further questions useless, or was the answer to all that were asked.
    """
    begun = time.perf_counter()
    try:
        bench.client.file_exists(bench.path("nothing"))
    except BucketNotFoundError as error:
        return [_reached(begun), Row(CREDENTIALS, Verdict.OK, _ACCEPTED), Row(BUCKET, Verdict.NO, str(error))], error
    except AccessDeniedError as error:
        return _look_again(bench, begun, error)
    except StorageUnavailableError as error:
        return [Row(REACHABLE, Verdict.FAILED, str(error)), *_skipped(CREDENTIALS, BUCKET)], error
    except Exception as error:
        if code_of(error) is Exit.BUG:
            raise
        return [_reached(begun), Row(CREDENTIALS, Verdict.FAILED, str(error)), *_skipped(BUCKET)], error
    return [_reached(begun), Row(CREDENTIALS, Verdict.OK, _ACCEPTED), Row(BUCKET, Verdict.OK, "is there")], None


def write(bench: Bench) -> tuple[Row, Exception | None]:
    """Store a small object."""
    try:
        bench.put(WRITTEN, b"gllm-storage check\n")
    except AccessDeniedError as error:
        return Row(WRITING, Verdict.DENIED, str(error)), error
    except Exception as error:
        if code_of(error) is Exit.BUG:
            raise
        return Row(WRITING, Verdict.FAILED, str(error)), error
    return Row(WRITING, Verdict.OK, "permitted"), None


def _look_again(bench: Bench, begun: float, denied: AccessDeniedError) -> tuple[list[Row], Exception | None]:
    """A 403 to a look may only mean that we may not list: a list tells."""
    try:
        next(iter(bench.client.list_files(f"/{bench.folder.prefix}")), None)
    except Exception as error:
        if code_of(error) is Exit.BUG:
            raise
        # Of all others, the first answer says it better.
        unknown = Row(BUCKET, Verdict.SKIPPED, "cannot be told without permission to look")
        return [_reached(begun), Row(CREDENTIALS, Verdict.DENIED, str(denied)), unknown], denied
    limited = Row(CREDENTIALS, Verdict.OK, f"accepted, but not for looking at objects: {denied}")
    return [_reached(begun), limited, Row(BUCKET, Verdict.OK, "is there")], None


def _reached(begun: float) -> Row:
    milliseconds = (time.perf_counter() - begun) * 1000
    return Row(
        REACHABLE,
        Verdict.OK,
        f"answered in {milliseconds:.0f} ms (the first request, with the connection's set-up)",
        {"milliseconds": milliseconds},
    )


def _skipped(*names: str) -> list[Row]:
    return [Row(name, Verdict.SKIPPED, "the store did not answer") for name in names]
