"""``mv``: move files."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.claims import Claims
from gllm_storage.cli.failures import Failures
from gllm_storage.cli.folders import (
    Reporter,
    dry_run_option,
    filter_options,
    preserve_option,
    require_recursive,
    require_unpublished,
    run_tree,
    takes,
)
from gllm_storage.cli.options import (
    bwlimit_option,
    clients,
    exact_option,
    json_option,
    side_options,
    sources_and_target,
    store_options,
    transfer_options,
)
from gllm_storage.cli.outcomes import Outcomes
from gllm_storage.cli.places import Address, LocalPath, Stream, no_folder
from gllm_storage.cli.plan import Copy, Tree, plan, stores_of
from gllm_storage.cli.settings import SOURCE, Store
from gllm_storage.cli.signals import announce
from gllm_storage.concurrency.workers import run_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gllm_storage.cli.places import Argument
    from gllm_storage.fsspec_client import FsspecStorageClient


@click.command(short_help="Move files: up, down, or from store to store.")
@transfer_options
@click.option(
    "-f", "--force", is_flag=True, help="Move also published versions; folders: also beside an object of the name."
)
@bwlimit_option
@preserve_option
@dry_run_option
@filter_options
@exact_option
@json_option
@side_options
@store_options
def mv(
    paths: Sequence[str],
    *,
    exact: bool,
    no_clobber: bool,
    recursive: bool,
    verbose: bool,
    quiet: bool,
    force: bool,
    preserve: Sequence[str],
    dry_run: bool,
    chosen: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Move files: up, down, within a store, or from store to store.

    A source is deleted when its copy is complete, and only in the version that was copied. A TARGET that ends with "/", or
    is a local folder, gets the files into it.
    """
    from gllm_storage.cli.progress import bars
    from gllm_storage.cli.transfers import move_file, report, shown_name

    sources, target = sources_and_target(paths, exact=exact)
    if any(isinstance(each, Stream) for each in (*sources, target)):
        raise ValueError("mv moves files, not standard input or output; use cp")
    require_recursive(chosen, recursive=recursive, preserve=preserve)
    options = {
        **chosen,
        "exclusive": no_clobber,
        "force": force,
        "dry_run": dry_run,
        "preserve": preserve,
    }
    made = clients(stores_of(sources, target))
    failures, claims = Failures(), Claims(len(sources))
    announce("the current file is complete at its old or its new place, or at both")
    with Outcomes(failures, as_json=as_json, dry_run=dry_run) as outcomes:
        with bars(quiet=quiet) as shown:
            for each in plan(sources, target, made, recursive=recursive):
                shown.clear()
                with failures.tolerated():
                    if isinstance(each, Tree):
                        run_tree(
                            each,
                            Reporter.of_tree(each, failures, outcomes, shown, claims, verbose=verbose),
                            options,
                            removes=True,
                        )
                        continue
                    if not isinstance(each, Copy):
                        raise each.error
                    if not takes(chosen, each.name):
                        continue
                    claims.require_free(shown_name(each.target))
                    for changed in () if force else (each.source,) if no_clobber else (each.source, each.target):
                        require_unpublished(changed)
                    if dry_run:
                        claims.add(shown_name(each.target))
                        report(each, None, outcomes, shown, shows=True)
                        continue
                    with no_folder(each.source, "give --recursive"):
                        moved = move_file(each, shown, no_clobber=no_clobber)
                    claims.add(shown_name(each.target))
                    report(each, moved, outcomes, shown, shows=verbose)
        failures.finish()
        if recursive and not dry_run:
            _remove_empty_folders(sources, made, markers=not chosen)


def _remove_empty_folders(sources: Sequence[Argument], made: Mapping[Store, FsspecStorageClient], *, markers: bool) -> None:
    """Remove what is left of folders after their files were moved: empty local folders, and folder markers of stores."""
    for source in sources:
        if isinstance(source, LocalPath):
            _remove_local_folders(source.path)
        elif isinstance(source, Address) and markers:
            _remove_markers(made[Store(source.root, SOURCE)], source.key)


def _remove_local_folders(path: str) -> None:
    if os.path.islink(path.rstrip("/")):
        return
    for folder, _, _ in os.walk(path, topdown=False):
        if folder.rstrip("/") == path.rstrip("/") and path.endswith("/"):
            continue  # SOURCE/ names the content of the folder
        with contextlib.suppress(OSError):  # a file that another process has written since
            os.rmdir(folder)


def _remove_markers(client: FsspecStorageClient, key: str) -> None:
    from gllm_storage.folders.entries import StoredFolder

    store, prefix = client.store, key if not key or key.endswith("/") else f"{key}/"
    if markers := StoredFolder(store, prefix).empty_markers():
        transfer = store.transfer("", "delete")
        run_all([lambda: store.delete_many(markers, transfer)], 1, transfer.stop)
