"""The transfer of one file between a store, this machine and the standard streams."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from gllm_storage.cli.output import stream_errors
from gllm_storage.cli.places import LocalPath, Stored, Stream, address_of_local
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    AccessDeniedError,
    ErrorDetails,
    IntegrityError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    timed,
)
from gllm_storage.files.source import CHUNK
from gllm_storage.files.target import Draft, rename, scratch_target, temporary_beside
from gllm_storage.registry import storage_client_from_url
from gllm_storage.store import checksums
from gllm_storage.store.create import exists_error
from gllm_storage.store.port import is_same_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from gllm_storage.cli.outcomes import Outcomes
    from gllm_storage.cli.plan import Copy, Place
    from gllm_storage.cli.progress import Bars
    from gllm_storage.info import ObjectInfo, ObjectProperties


def copy_file(copy: Copy, shown: Bars, *, no_clobber: bool, properties: ObjectProperties | None = None) -> str | None:
    """Copy a file.

    Args:
        copy: Source and target.
        shown: The progress bars.
        no_clobber: Whether to fail if the target exists; the check and the write are one step.
        properties: The properties of the copy, if it is in a store.

    Returns:
        The URL or path of the copy; None for standard output.

    Raises:
        ValueError: If source and target are the same, or a path is impossible.
        FileNotFoundError: If the source does not exist.
        FileExistsError: If `no_clobber`, and the target exists.
        StorageError: If the copy fails; the target is unchanged.
    """
    source, target = copy.source, copy.target
    if _is_same(source, target):
        raise ValueError(f"{shown_name(source)}: source and target are the same")
    if no_clobber:
        _refuse_existing(target)
    if isinstance(target, Stream):
        _to_stdout(source, shown)
        return None
    if isinstance(target, LocalPath) and isinstance(source, Stored):
        with shown.watching(f"↓ {copy.name}") as callback:
            return _download(source, target.path, callback, no_clobber=no_clobber)
    with _as_local_file(copy, shown) as path, shown.watching(f"↑ {copy.name}") as callback:
        return _upload(path, target, callback, properties, no_clobber=no_clobber)


def move_file(copy: Copy, shown: Bars, *, no_clobber: bool) -> str:
    """Move a file: within one store by the store, otherwise by a copy, after which the source is deleted.

    Args:
        copy: Source and target; neither is a stream.
        shown: The progress bars.
        no_clobber: As in `copy_file`.

    Returns:
        The new URL or path.

    Raises:
        Exception: As `copy_file`; the source is there then.
        StorageUnavailableError: If the source changed meanwhile; then the copy and the source exist.
    """
    source, target = copy.source, copy.target
    if _is_same(source, target):
        raise ValueError(f"{shown_name(source)}: source and target are the same")
    old = _as_stored(source) if isinstance(source, LocalPath) else source
    new = _as_stored(target) if isinstance(target, LocalPath) else target
    if not (isinstance(old, Stored) and isinstance(new, Stored)):
        raise ValueError("a stream cannot be moved")
    if old.client == new.client:
        old.client.move_file(old.remote_path, new.remote_path, check_conflict=no_clobber)
        return shown_name(target)
    store, key = old.client.store, old.key
    version = old.client.info(old.remote_path)
    if (old.key, old.client.provider) == (new.key, new.client.provider) and _is_version(new, version):
        # One store at two endpoints: after the copy onto itself, the only object would be deleted.
        raise ValueError(f"{shown_name(source)}: source and target are the same object")
    moved = copy_file(copy, shown, no_clobber=no_clobber)
    transfer = store.transfer(key, "move")
    # In a thread, for which `run_all` waits after Ctrl-C: the request must not take effect after the command.
    run_all([partial(store.delete_version, key, version, transfer)], 1, transfer.stop)
    return moved or shown_name(target)


def report(copy: Copy, written: str | None, outcomes: Outcomes, shown: Bars, *, shows: bool) -> None:
    """Print a file that was copied or moved.

    Args:
        copy: Source and target.
        written: The URL or path of the copy; None for one that would be made.
        outcomes: The JSON document of the command.
        shown: The progress bars.
        shows: Whether the file is printed without JSON.
    """
    url = written or shown_name(copy.target)
    if outcomes.as_json:
        outcomes.add("transferred", url, _size_of(copy.target if written else copy.source))
    elif shows:
        shown.say(url)


def _size_of(place: Place) -> int | None:
    """The size of a file; None if it is not known."""
    try:
        if isinstance(place, LocalPath):
            return os.stat(place.path).st_size
        return place.client.info(place.remote_path).size if isinstance(place, Stored) else None
    except (OSError, StorageError):  # deleted since, or the credentials permit writing only
        return None


def _is_version(stored: Stored, version: ObjectInfo) -> bool:
    try:
        return is_same_version(stored.client.info(stored.remote_path), version)
    except FileNotFoundError:
        return False


def write_out(stored: Stored, shown: Bars) -> None:
    """Stream one version of an object to standard output, and verify its checksum after the last byte.

    Args:
        stored: The object.
        shown: The progress bars.

    Raises:
        FileNotFoundError: If the object does not exist.
        IntegrityError: If the data does not match the stored size or checksum; the data was written nevertheless.
        StorageUnavailableError: If the object was replaced while it was read.
        StorageError: If the object cannot be read to its end.
    """
    if stored.exact:  # which `open` may not be able to name
        _write_downloaded(stored, shown)
        return
    info = stored.client.info(stored.remote_path)
    with stored.client.open(stored.remote_path, "rb") as file, shown.watching(f"↓ {stored.key}", info.size) as callback:
        try:
            problem = _write_and_verify(file, info, callback)
        except OSError as error:
            if error.errno != errno.EBUSY:  # the readers of all providers raise EBUSY when the object was replaced
                raise
            raise _replaced(stored, "was replaced while it was read") from error
    if problem:
        _raise_mismatch(stored, info, problem)


def _write_downloaded(stored: Stored, shown: Bars) -> None:
    with tempfile.TemporaryDirectory(prefix="gllm-storage-") as folder:
        path = os.path.join(folder, "object")
        with shown.watching(f"↓ {stored.key}") as callback:
            stored.client.download_with_progress(stored.remote_path, path, callback)
        with open(path, "rb") as file, stream_errors():
            shutil.copyfileobj(file, sys.stdout.buffer, CHUNK)
            sys.stdout.buffer.flush()


def _is_same(source: Place, target: Place) -> bool:
    if isinstance(source, LocalPath) and isinstance(target, LocalPath):
        return os.path.realpath(source.path) == os.path.realpath(target.path)  # through links and other spellings
    return source == target and not isinstance(source, Stream)


def shown_name(place: Place) -> str:
    """The URL or path of a file in output; ``-`` for a stream."""
    return place.url if isinstance(place, Stored) else getattr(place, "path", "-")


def _refuse_existing(target: Place) -> None:
    """Fail before the source is read, if the target exists. This is only for speed: the write checks again."""
    if isinstance(target, LocalPath):
        exists = os.path.lexists(target.path)
        details = ErrorDetails("file", target.path, "copy")
    elif isinstance(target, Stored):
        exists = False
        with contextlib.suppress(AccessDeniedError):  # credentials may permit writing but not reading
            exists = target.client.file_exists(target.remote_path)
        details = ErrorDetails(target.client.provider, target.url, "upload")
    else:
        return
    if exists:
        raise exists_error(details)


def _to_stdout(source: Place, shown: Bars) -> None:
    if isinstance(source, Stored):
        write_out(source, shown)
    elif isinstance(source, LocalPath):
        write_out(_as_stored(source), shown)
    else:
        while data := _from_stdin():
            with stream_errors():
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()


def _from_stdin() -> bytes:
    with stream_errors("standard input"):
        return os.read(sys.stdin.fileno(), CHUNK)


def _download(source: Stored, path: str, callback: Callback, *, no_clobber: bool) -> str:
    client = source.client
    if not no_clobber:
        client.download_with_progress(source.remote_path, path, callback)
        return path
    details = ErrorDetails(client.provider, source.url, "download")
    Draft(path, details, exclusive=True).discard()  # before the download: the folder may refuse exclusive creates
    temporary = temporary_beside(path)
    try:
        client.download_with_progress(source.remote_path, temporary, callback)
        rename(temporary, path, details, exclusive=True, durable=client.store.settings.fsync)
    except FileExistsError as error:
        raise exists_error(ErrorDetails("file", path, "copy")) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return path


def _upload(
    path: str, target: LocalPath | Stored, callback: Callback, properties: ObjectProperties | None, *, no_clobber: bool
) -> str:
    stored = _as_stored(target) if isinstance(target, LocalPath) else target
    url = stored.client.upload(path, stored.remote_path, check_conflict=no_clobber, callback=callback, properties=properties)
    return target.path if isinstance(target, LocalPath) else url


@contextlib.contextmanager
def _as_local_file(copy: Copy, shown: Bars) -> Iterator[str]:
    """The path of the source; an object or a stream goes to a temporary file first, so that complete data is uploaded."""
    if isinstance(copy.source, LocalPath):
        yield copy.source.path
        return
    if isinstance(copy.source, Stored):
        store, key = copy.source.client.store, copy.source.key
        with store.scratch(store.details(key, "download")) as target:
            with shown.watching(f"↓ {copy.name}") as callback, timed():
                transfer = store.transfer(key, "download", callback)
                store.fetch(key, target, transfer)
                transfer.progress.finish()
            yield target.temporary
        return
    with scratch_target(ErrorDetails(operation="copy", url="-")) as target:
        size = 0
        with shown.watching("standard input") as callback:
            while data := _from_stdin():
                target.write_at(size, data)
                size += len(data)
                callback.relative_update(len(data))
        yield target.temporary


def _as_stored(local: LocalPath) -> Stored:
    """A local path as an object of the provider ``file``."""
    where = address_of_local(local)
    client: Any = storage_client_from_url(where.root)
    return Stored(client, where.key)


def _write_and_verify(file: IO[bytes], info: ObjectInfo, callback: Callback) -> str | None:
    """Copy an object to standard output; returns the difference from the stored size or checksum, if there is one."""
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
    if moved != info.size:
        return f"{moved} bytes instead of {info.size}"
    if file.read(1):
        return f"more than {info.size} bytes"
    if found is not None and found != expected:
        return f"{algorithm} {found} instead of {expected}"
    return None


def _read_exactly(file: IO[bytes], length: int) -> bytes:
    data = file.read(length)
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data


def _raise_mismatch(stored: Stored, before: ObjectInfo, problem: str) -> None:
    # The facts were read before the object was opened. If it was replaced in between, they belong to the older version.
    now = stored.client.info(stored.remote_path)
    if (now.etag, now.size, now.last_modified) != (before.etag, before.size, before.last_modified):
        raise _replaced(stored, "was replaced when it was opened, so that the data cannot be verified")
    raise IntegrityError(
        f"{stored.url}: the data does not match the stored object: {problem}. Do not use it",
        ErrorDetails(stored.client.provider, stored.url, "read"),
        Remedy.REPORT_DAMAGE,
    )


def _replaced(stored: Stored, event: str) -> StorageUnavailableError:
    details = ErrorDetails(stored.client.provider, stored.url, "read")
    return StorageUnavailableError(f"{stored.url} {event}", details, Remedy.REPEAT_NOW)
