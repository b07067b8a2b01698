"""``rm``: delete objects."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.folders import (
    Reporter,
    dry_run_option,
    filter_options,
    require_recursive,
    require_unpublished,
    takes,
    text_of,
)
from gllm_storage.cli.options import exact_option, json_option, store_options, stored_at, urls_argument
from gllm_storage.cli.outcomes import Outcomes
from gllm_storage.cli.output import say
from gllm_storage.cli.places import Folder, address_to_delete, no_folder, nothing_there, require_object
from gllm_storage.cli.signals import announce
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import BucketNotFoundError
from gllm_storage.paths import validate_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gllm_storage.cli.places import Address, Stored
    from gllm_storage.cli.progress import Bars
    from gllm_storage.folders.entries import Chosen, StoredFolder


@click.command()
@urls_argument
@click.option("-r", "--recursive", is_flag=True, help="Delete also all objects below URL, at any depth.")
@click.option("-f", "--force", is_flag=True, help="Ignore missing objects; delete also published versions.")
@click.option("-v", "--verbose", is_flag=True, help="Print the URLs of deleted objects.")
@dry_run_option
@filter_options
@exact_option
@json_option
@store_options
def rm(
    urls: Sequence[str],
    *,
    recursive: bool,
    force: bool,
    verbose: bool,
    exact: bool,
    dry_run: bool,
    chosen: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Delete objects.

    With --recursive, "s3://b/x" deletes "x" and all objects below "x/", but not "xy"; with --exact also those whose names no
    path can have. A relative path of a local file or folder begins with "./".
    """
    from gllm_storage.cli.progress import Bars

    require_recursive(chosen, recursive=recursive)
    addresses = [address_to_delete(each, exact=exact) for each in urls]
    objects = stored_at(addresses)
    if recursive:
        for text, where, stored in zip(urls, addresses, objects, strict=True):
            _require_below_root(text, where, stored)
    failures = Failures()
    announce("the current object may be deleted")
    with Outcomes(failures, as_json=as_json, dry_run=dry_run) as outcomes:
        manner = _Manner(failures, outcomes, Bars(None), chosen, force=force, verbose=verbose, dry_run=dry_run)
        for where, stored in zip(addresses, objects, strict=True):
            with failures.tolerated():
                if not force:
                    require_unpublished(stored)
                if recursive:
                    _remove_folder(where, stored, manner)
                    continue
                require_object(where)
                with no_folder(stored, "give --recursive"):
                    _remove(stored, manner)
        failures.finish()


@dataclass(frozen=True)
class _Manner:
    """The options of the command."""

    failures: Failures
    outcomes: Outcomes
    shown: Bars
    chosen: Mapping[str, Any]
    force: bool
    verbose: bool
    dry_run: bool


def _require_below_root(text: str, where: Address, stored: Stored) -> None:
    if where.key:
        return
    if where.root.endswith(":///") or stored.client.provider in {"file", "fsspec"}:
        raise ValueError(f"{text} is the root of the file system, which --recursive does not delete; name a folder in it")
    if not text.endswith("/"):
        raise ValueError(f"{text} is a bucket; to delete all its objects, end the URL with '/', as in '{text}/'")


def _remove_folder(where: Address, stored: Stored, manner: _Manner) -> None:
    """Delete the objects below a prefix, folder markers included; then the object of that name."""
    from gllm_storage.folders.entries import StoredFolder

    _refuse_link(where)
    is_folder = not where.key or where.key.endswith("/")
    folder = StoredFolder(stored.client.store, where.key if is_folder else f"{where.key}/")
    found = _remove_below(folder, stored, manner)
    if not is_folder and takes(manner.chosen, where.key.rpartition("/")[2]):
        if found and folder.local is None and not (manner.verbose or manner.dry_run or manner.outcomes.as_json):
            _delete(folder, [where.key])  # without a HEAD request
        else:
            found |= _remove(stored, replace(manner, force=True))
    if not found and not manner.force:
        raise nothing_there(where.url)


def _remove_below(folder: StoredFolder, stored: Stored, manner: _Manner) -> bool:
    """Delete the objects of a folder; returns whether there were any."""
    from gllm_storage.folders.transfer import Options, delete

    if folder.local is not None and not os.path.isdir(folder.local.path):
        return False
    url = text_of(Folder(stored.client, folder.prefix))
    reporter = Reporter(manner.failures, manner.outcomes, manner.shown, url, verbose=manner.verbose)
    kept: dict[str, Any] = {"on_error": "collect", "lists_again": False, "keeps_folders": True, "force": manner.force}
    options = Options(**{**reporter.hooks(), **kept, **manner.chosen, "dry_run": manner.dry_run})
    possible = _Possible(folder, options.chosen(), exact=stored.exact)
    result = reporter.reported(partial(delete, folder, options, possible), dry_run=manner.dry_run)
    errors = [*possible.refused.values(), *([] if manner.force else possible.missing())]
    for error in errors:
        manner.failures.add(error)
    if result is None or result.plan.deletions or errors:
        return True
    markers = [] if manner.chosen else folder.empty_markers()
    if markers and not manner.dry_run:
        _delete(folder, markers)
    return bool(markers)


def _delete(folder: StoredFolder, keys: list[str]) -> None:
    transfer = folder.store.transfer(keys[0] if len(keys) == 1 else "", "delete")
    # In a thread, for which `run_all` waits after Ctrl-C: the request must not take effect after the command.
    run_all([partial(folder.store.delete_many, keys, transfer)], 1, transfer.stop)


class _Possible:
    """Takes the objects that a path can name; without ``--exact`` the others are refused, and stay."""

    def __init__(self, folder: StoredFolder, chosen: Chosen, *, exact: bool) -> None:
        self._folder = folder
        self._chosen = chosen
        self._exact = exact
        self.refused: dict[str, Exception] = {}
        from gllm_storage.folders.entries import FileList

        self._unseen = set(chosen.paths) if isinstance(chosen, FileList) else set[str]()

    def missing(self) -> Iterator[Exception]:
        """Errors for the names of ``--files-from`` that do not exist."""
        return (nothing_there(self._folder.store.url(self._folder.key(each))) for each in sorted(self._unseen))

    def takes(self, path: str) -> bool:
        """Whether an object is deleted."""
        if not self._chosen.takes(path):
            return False
        self._unseen.discard(path)
        key = self._folder.key(path)
        try:
            if not self._exact:
                validate_key(key.removesuffix("/"))
        except ValueError as error:
            self.refused[path] = ValueError(f"{error}; --exact deletes it")
            return False
        return True

    def takes_folder(self, path: str) -> bool:
        """Whether objects of a folder may be deleted."""
        return self._chosen.takes_folder(path)


def _refuse_link(where: Address) -> None:
    path = f"/{where.key}".rstrip("/")
    if where.scheme == "file" and os.path.islink(path) and os.path.isdir(path):
        raise ValueError(f"{path} is a link to a folder; name that folder: {os.path.realpath(path)}")


def _remove(stored: Stored, manner: _Manner) -> bool:
    """Delete an object; returns False if it is missing and `force` is set."""
    size = None
    try:
        if manner.dry_run:
            size = stored.client.info(stored.remote_path).size
        else:
            stored.client.delete_file(stored.remote_path)
    except FileNotFoundError as error:
        if not manner.force or isinstance(error, BucketNotFoundError):
            raise
        return False
    if manner.outcomes.as_json:
        manner.outcomes.add("deleted", stored.url, size)
    elif manner.verbose or manner.dry_run:
        say(stored.url)
    return True
