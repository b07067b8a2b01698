"""``rm``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import clients
from gllm_storage.cli.output import say
from gllm_storage.cli.places import Folder, Stored, address, require_object
from gllm_storage.cli.settings import Store
from gllm_storage.cli.signals import announce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.cli.places import Address
    from gllm_storage.fsspec_client import FsspecStorageClient


def remove(urls: Sequence[str], *, recursive: bool, force: bool, verbose: bool) -> None:
    """Delete objects.

    Raises:
        SeveralErrors: If any could not be deleted; each was shown.
        ValueError: If a URL is impossible, or would delete more than it says; nothing was deleted then.
    """
    addresses = [address(each) for each in urls]
    made = clients(Store(each.root) for each in addresses)
    if recursive:
        for text, each in zip(urls, addresses, strict=True):
            _require_below_root(text, each, made[Store(each.root)])
    failures = Failures()
    announce("what was under way may be deleted")
    for each in addresses:
        client = made[Store(each.root)]
        if recursive:
            _remove_folder(each, client, failures, force=force, verbose=verbose)
            continue
        with failures.tolerated():
            require_object(each)
            _remove_one(Stored(client, each.key), force=force, verbose=verbose)
    failures.finish()


def _require_below_root(text: str, where: Address, client: FsspecStorageClient) -> None:
    if where.key:
        return
    if where.root.endswith(":///") or client.provider in {"file", "fsspec"}:
        raise ValueError(f"{text} is everything that there is; it is not deleted with --recursive. Name a folder in it")
    if not text.endswith("/"):
        raise ValueError(f"{text} is a whole bucket; to delete everything in it, end the URL with '/', as in '{text}/'")


def _remove_folder(where: Address, client: FsspecStorageClient, failures: Failures, *, force: bool, verbose: bool) -> None:
    """Delete what lies below, one object after the other, while it is listed; then the object of that very name, if any."""
    found = False
    with failures.tolerated():
        _require_no_link(where)
        folder = Folder(client, where.key if where.is_folder else f"{where.key}/")
        for name, _ in folder.files():
            found = True
            with failures.tolerated():
                _remove_one(Stored(client, f"{folder.prefix}{name}"), force=True, verbose=verbose)
        if not where.is_folder:
            found |= _remove_one(Stored(client, where.key), force=True, verbose=verbose)
        if not found and not force:
            raise FileNotFoundError(2, "nothing is there", where.url)


def _require_no_link(where: Address) -> None:
    path = f"/{where.key}".rstrip("/")
    if where.scheme == "file" and os.path.islink(path) and os.path.isdir(path):
        raise ValueError(f"{path} is a link to a folder elsewhere; name that folder: {os.path.realpath(path)}")


def _remove_one(stored: Stored, *, force: bool, verbose: bool) -> bool:
    try:
        stored.client.delete_file(stored.remote_path)
    except FileNotFoundError:
        if not force:
            raise
        return False
    if verbose:
        say(stored.url)
    return True
