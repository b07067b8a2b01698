"""``rm``: delete objects."""

from __future__ import annotations

import os
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import click

from gllm_storage.cli.failures import Failures, stops_all
from gllm_storage.cli.options import exact_option, store_options, stored_at, urls_argument
from gllm_storage.cli.output import say
from gllm_storage.cli.places import address_to_delete, nothing_there, require_object
from gllm_storage.cli.signals import announce
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import BucketNotFoundError, StorageError
from gllm_storage.paths import ExactKey, validate_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.cli.places import Address, Stored
    from gllm_storage.store.port import ObjectStore

_BATCH = 1000
"""The most keys of one DeleteObjects request on S3."""


@click.command()
@urls_argument
@click.option("-r", "--recursive", is_flag=True, help="Delete also all objects below URL, at any depth.")
@click.option("-f", "--force", is_flag=True, help="Ignore missing objects.")
@click.option("-v", "--verbose", is_flag=True, help="Print the URLs of deleted objects.")
@exact_option
@store_options
def rm(urls: Sequence[str], *, recursive: bool, force: bool, verbose: bool, exact: bool) -> None:
    """Delete objects.

    With --recursive, "s3://b/x" deletes "x" and all objects below "x/", but not "xy"; with --exact also those whose names no
    path can have. A relative path of a local file or folder begins with "./".
    """
    addresses = [address_to_delete(each, exact=exact) for each in urls]
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
    """Delete the objects below a prefix, folder markers included, while they are listed; then the object of that name."""
    found = False
    with failures.tolerated():
        _refuse_link(where)
        is_folder = not where.key or where.key.endswith("/")
        keys = stored.client.store.list_keys(where.key if is_folder else f"{where.key}/")
        while batch := list(islice(keys, _BATCH)):
            found = True
            deletable = _deletable(stored, batch, failures)
            if deletable:
                _remove_batch(stored.client.store, deletable, failures, verbose=verbose)
        if not is_folder:
            found |= _remove(stored, force=True, verbose=verbose)
        if not found and not force:
            raise nothing_there(where.url)


def _deletable(folder: Stored, keys: list[str], failures: Failures) -> list[str]:
    """The keys that a path can name; without ``--exact`` the other objects are reported, and stay."""
    found = []
    for key in keys:
        with failures.tolerated():
            if folder.exact:
                folder.client.url(ExactKey(key))
            else:
                _require_name(key)
            found.append(key)
    return found


def _require_name(key: str) -> None:
    try:
        validate_key(key.removesuffix("/"))
    except ValueError as error:
        raise ValueError(f"{error}; --exact deletes it") from error


def _remove_batch(store: ObjectStore, keys: list[str], failures: Failures, *, verbose: bool) -> None:
    """Delete some objects together; if that fails, one by one, so that each failure names its object.

    The last key comes first then: a folder of Azure Data Lake Storage can be deleted when it is empty.
    """
    try:
        _delete(store, keys, verbose=verbose)
    except StorageError as error:
        if len(keys) == 1 or stops_all(error):
            raise
        for key in reversed(keys):
            with failures.tolerated():
                _delete(store, [key], verbose=verbose)


def _delete(store: ObjectStore, keys: list[str], *, verbose: bool) -> None:
    transfer = store.transfer(keys[0] if len(keys) == 1 else "", "delete")
    # In a thread, for which `run_all` waits after Ctrl-C: the request must not take effect after the command.
    run_all([partial(store.delete_many, keys, transfer)], 1, transfer.stop)
    if verbose:
        for key in keys:
            say(store.url(key))


def _refuse_link(where: Address) -> None:
    path = f"/{where.key}".rstrip("/")
    if where.scheme == "file" and os.path.islink(path) and os.path.isdir(path):
        raise ValueError(f"{path} is a link to a folder; name that folder: {os.path.realpath(path)}")


def _remove(stored: Stored, *, force: bool, verbose: bool) -> bool:
    """Delete an object; returns False if it is missing and `force` is set."""
    try:
        stored.client.delete_file(stored.remote_path)
    except FileNotFoundError as error:
        if not force or isinstance(error, BucketNotFoundError):
            raise
        return False
    if verbose:
        say(stored.url)
    return True
