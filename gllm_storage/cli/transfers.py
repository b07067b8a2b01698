"""Copying one file, from anywhere to anywhere."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from gllm_storage.cli.output import stream_errors
from gllm_storage.cli.places import LocalPath, Stored, Stream, address_of_local
from gllm_storage.cli.reading import write_out
from gllm_storage.errors import AccessDeniedError, ErrorDetails
from gllm_storage.files.source import CHUNK
from gllm_storage.files.target import atomic_target
from gllm_storage.registry import storage_client_from_url
from gllm_storage.store.create import exists_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from gllm_storage.cli.plan import Copy, Place
    from gllm_storage.cli.progress import Bars


def copy_one(copy: Copy, shown: Bars, *, no_clobber: bool) -> str | None:
    """Copy a file.

    Args:
        copy: From where, to where.
        shown: Shows how far it is.
        no_clobber: Whether to fail if the target exists, atomically.

    Returns:
        The URL or path of the copy; None for standard output.

    Raises:
        ValueError: If source and target are one, or a path is impossible.
        FileNotFoundError: If there is no such source.
        FileExistsError: If `no_clobber`, and the target exists.
        StorageError: If it fails; the target is as it was then.
    """
    source, target = copy.source, copy.target
    if _is_same(source, target):
        raise ValueError(f"{_shown(source)}: source and target are the same")
    if no_clobber:
        _refuse_early(target)
    if isinstance(target, Stream):
        _to_stream(copy, shown)
        return None
    if isinstance(target, LocalPath) and isinstance(source, Stored):
        with shown.watching(f"↓ {copy.name}") as callback:
            return _download(source, target.path, callback, no_clobber=no_clobber)
    with _as_local_file(copy, shown) as path, shown.watching(f"↑ {copy.name}") as callback:
        return _upload(path, target, callback, no_clobber=no_clobber)


def _is_same(source: Place, target: Place) -> bool:
    if isinstance(source, LocalPath) and isinstance(target, LocalPath):
        return os.path.realpath(source.path) == os.path.realpath(target.path)  # not in two spellings, or by a link either
    return source == target and not isinstance(source, Stream)


def _shown(place: Place) -> str:
    return place.url if isinstance(place, Stored) else getattr(place, "path", "-")


def _refuse_early(target: Place) -> None:
    """Look before anything is read or fetched; only for speed: the write itself decides."""
    if isinstance(target, LocalPath):
        exists = os.path.lexists(target.path)
        details = ErrorDetails("file", target.path, "copy")
    elif isinstance(target, Stored):
        exists = False
        with contextlib.suppress(AccessDeniedError):  # who may write need not be allowed to look
            exists = target.client.file_exists(target.remote_path)
        details = ErrorDetails(target.client.provider, target.url, "upload")
    else:
        return
    if exists:
        raise exists_error(details)


def _to_stream(copy: Copy, shown: Bars) -> None:
    if isinstance(copy.source, Stored):
        write_out(copy.source, shown)
    elif isinstance(copy.source, LocalPath):
        write_out(as_stored(copy.source), shown)
    else:
        _pass_through()


def _pass_through() -> None:
    while data := _from_stdin():
        with stream_errors():
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


def _from_stdin() -> bytes:
    with stream_errors("standard input"):
        return os.read(sys.stdin.fileno(), CHUNK)


def _download(source: Stored, path: str, callback: Callback, *, no_clobber: bool) -> str:
    if not no_clobber:
        source.client.download_with_progress(source.remote_path, path, callback)
        return path
    details = ErrorDetails(source.client.provider, source.url, "download")
    try:
        with atomic_target(path, details, exclusive=True) as target:
            # It replaces the temporary file by its own, which then gets the name, if the name is still free.
            source.client.download_with_progress(source.remote_path, target.temporary, callback)
    except FileExistsError as error:
        raise exists_error(ErrorDetails("file", path, "copy")) from error
    return path


def _upload(path: str, target: LocalPath | Stored, callback: Callback, *, no_clobber: bool) -> str:
    stored = as_stored(target) if isinstance(target, LocalPath) else target
    url = stored.client.upload_with_progress(path, stored.remote_path, callback, check_conflict=no_clobber)
    return target.path if isinstance(target, LocalPath) else url


@contextlib.contextmanager
def _as_local_file(copy: Copy, shown: Bars) -> Iterator[str]:
    """The source as a file here; what is not one goes through a temporary file, whole and verified before it is sent on."""
    if isinstance(copy.source, LocalPath):
        yield copy.source.path
        return
    with tempfile.TemporaryDirectory(prefix="gllm-storage-") as folder:
        path = os.path.join(folder, "object")
        if isinstance(copy.source, Stored):
            with shown.watching(f"↓ {copy.name}") as callback:
                copy.source.client.download_with_progress(copy.source.remote_path, path, callback)
        else:
            with open(path, "xb") as file:
                _drain_stdin(file, shown)
        yield path


def _drain_stdin(file: Any, shown: Bars) -> None:
    with shown.watching("standard input") as callback:
        while data := _from_stdin():
            file.write(data)
            callback.relative_update(len(data))


def as_stored(local: LocalPath) -> Stored:
    """A local path as an object of the provider ``file``."""
    address = address_of_local(local)
    client: Any = storage_client_from_url(address.root)
    return Stored(client, address.key)
