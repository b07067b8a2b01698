"""Streaming an object to standard output."""

from __future__ import annotations

import errno
import sys
from typing import IO, TYPE_CHECKING

from gllm_storage.cli.output import stream_errors
from gllm_storage.errors import ErrorDetails, IntegrityError, StorageUnavailableError
from gllm_storage.files.source import CHUNK
from gllm_storage.store import checksums

if TYPE_CHECKING:
    from fsspec.callbacks import Callback

    from gllm_storage.cli.places import Stored
    from gllm_storage.cli.progress import Bars
    from gllm_storage.info import ObjectInfo


def write_out(stored: Stored, shown: Bars) -> None:
    """Stream an object to standard output: one version of it, compared with its checksum when the last byte was written.

    Raises:
        FileNotFoundError: If it does not exist.
        IntegrityError: If what came is not what was stored; it was written nevertheless, byte for byte as it came.
        StorageError: If it cannot be read to its end.
    """
    info = stored.client.info(stored.remote_path)
    with stored.client.open(stored.remote_path, "rb") as file, shown.watching(f"↓ {stored.key}", info.size) as callback:
        try:
            problem = _copied_problem(file, info, callback)
        except OSError as error:
            if error.errno != errno.EBUSY:  # what the readers of all providers raise when the object was replaced
                raise
            raise StorageUnavailableError(
                f"{stored.url} was replaced while it was read; read it again",
                ErrorDetails(stored.client.provider, stored.url, "read"),
            ) from error
    if problem:
        _raise(stored, info, problem)


def _copied_problem(file: IO[bytes], info: ObjectInfo, callback: Callback) -> str | None:
    """Copy to standard output; says what is wrong with what came."""
    out = sys.stdout.buffer
    moved = 0

    def pass_on(_: int, length: int) -> bytes:
        nonlocal moved
        data = _read_exactly(file, length)
        with stream_errors():
            out.write(data)
        moved += len(data)
        callback.relative_update(len(data))
        return data

    algorithm, _, expected = (info.checksum or "").partition(":")
    found = None
    if algorithm in {*checksums.ALGORITHMS, "md5"}:
        found = checksums.checksum_of(pass_on, info.size, algorithm)
    else:
        for offset in range(0, info.size, CHUNK):
            pass_on(offset, min(CHUNK, info.size - offset))
    with stream_errors():
        out.flush()
    if moved != info.size or file.read(1):
        return f"{moved} bytes came of {info.size}" if moved != info.size else f"more than {info.size} bytes came"
    if found is not None and found != expected:
        return f"its {algorithm} is {found}, not {expected}"
    return None


def _read_exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data


def _raise(stored: Stored, before: ObjectInfo, problem: str) -> None:
    details = ErrorDetails(stored.client.provider, stored.url, "read")
    now = stored.client.info(stored.remote_path)
    if (now.etag, now.size, now.last_modified) != (before.etag, before.size, before.last_modified):
        raise StorageUnavailableError(
            f"{stored.url} was replaced just when it was opened, so that it cannot be verified; read it again", details
        )
    raise IntegrityError(f"{stored.url}: what came is not what was stored: {problem}. Do not use it; read it again", details)
