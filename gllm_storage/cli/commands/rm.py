"""``rm``: delete objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import store_options, stored_at, urls_argument
from gllm_storage.cli.output import say
from gllm_storage.cli.places import Folder, Stored, address, nothing_there, require_object
from gllm_storage.cli.signals import announce

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.cli.places import Address


@click.command()
@urls_argument
@click.option("-r", "--recursive", is_flag=True, help="Delete also all objects below URL, at any depth.")
@click.option("-f", "--force", is_flag=True, help="Ignore missing objects.")
@click.option("-v", "--verbose", is_flag=True, help="Print the URLs of deleted objects.")
@store_options
def rm(urls: Sequence[str], *, recursive: bool, force: bool, verbose: bool) -> None:
    """Delete objects.

    With --recursive, "s3://b/x" deletes "x" and all objects below "x/", but not "xy".
    """
    addresses = [address(each) for each in urls]
    objects = stored_at(addresses)
    if recursive:
        for text, where, stored in zip(urls, addresses, objects, strict=True):
            _require_below_root(text, where, stored)
    failures = Failures()
    announce("the current object may be deleted")
    for where, stored in zip(addresses, objects, strict=True):
        if recursive:
            _remove_folder(where, stored, failures, force=force, verbose=verbose)
            continue
        with failures.tolerated():
            require_object(where)
            _remove(stored, force=force, verbose=verbose)
    failures.finish()


def _require_below_root(text: str, where: Address, stored: Stored) -> None:
    if where.key:
        return
    if where.root.endswith(":///") or stored.client.provider in {"file", "fsspec"}:
        raise ValueError(f"{text} is the root of the file system, which --recursive does not delete; name a folder in it")
    if not text.endswith("/"):
        raise ValueError(f"{text} is a bucket; to delete all its objects, end the URL with '/', as in '{text}/'")


def _remove_folder(where: Address, stored: Stored, failures: Failures, *, force: bool, verbose: bool) -> None:
    """Delete the objects below a prefix one by one, while they are listed; then the object with the name of the prefix."""
    found = False
    with failures.tolerated():
        _refuse_link(where)
        folder = Folder(stored.client, where.key if where.is_folder else f"{where.key}/")
        for name, _ in folder.files():
            found = True
            with failures.tolerated():
                _remove(Stored(stored.client, f"{folder.prefix}{name}"), force=True, verbose=verbose)
        if not where.is_folder:
            found |= _remove(stored, force=True, verbose=verbose)
        if not found and not force:
            raise nothing_there(where.url)


def _refuse_link(where: Address) -> None:
    path = f"/{where.key}".rstrip("/")
    if where.scheme == "file" and os.path.islink(path) and os.path.isdir(path):
        raise ValueError(f"{path} is a link to a folder; name that folder: {os.path.realpath(path)}")


def _remove(stored: Stored, *, force: bool, verbose: bool) -> bool:
    """Delete an object; returns False if it is missing and `force` is set."""
    try:
        stored.client.delete_file(stored.remote_path)
    except FileNotFoundError:
        if not force:
            raise
        return False
    if verbose:
        say(stored.url)
    return True
