"""``cp``: copy files."""

from __future__ import annotations

import sys
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
    property_options,
    side_options,
    sources_and_target,
    store_options,
    transfer_options,
)
from gllm_storage.cli.outcomes import Outcomes
from gllm_storage.cli.places import LocalPath, Stream, no_folder
from gllm_storage.cli.plan import Copy, Tree, plan, stores_of
from gllm_storage.cli.signals import announce
from gllm_storage.files.durability import folders_synced_once

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gllm_storage.cli.places import Argument
    from gllm_storage.info import ObjectProperties


@click.command()
@transfer_options
@bwlimit_option
@click.option(
    "-f", "--force", is_flag=True, help="Replace also published files; folders: also beside an object of the name."
)
@preserve_option
@dry_run_option
@filter_options
@property_options
@exact_option
@json_option
@side_options
@store_options
def cp(
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
    properties: ObjectProperties,
) -> None:
    """Copy files: up, down, or from store to store.

    "-" is standard input or output. A TARGET that ends with "/", or is a local folder, gets the copies into it. After a
    failure the target is unchanged. Properties, such as --content-type, are those of the copies; a store refuses those
    that it cannot keep.
    """
    from gllm_storage.cli.progress import bars
    from gllm_storage.cli.transfers import copy_file, report, shown_name

    parsed, parsed_target = sources_and_target(paths, exact=exact)
    _require_fit(parsed_target, properties, as_json=as_json)
    require_recursive(chosen, recursive=recursive, preserve=preserve)
    made = clients(stores_of(parsed, parsed_target))
    failures, claims = Failures(), Claims(len(parsed))
    options = {
        **chosen,
        "exclusive": no_clobber,
        "force": force,
        "properties": properties,
        "dry_run": dry_run,
        "preserve": preserve,
    }
    if not isinstance(parsed_target, Stream):
        announce("the current file is complete or unchanged")
    with Outcomes(failures, as_json=as_json, dry_run=dry_run) as outcomes:
        with bars(quiet=quiet or _uses_terminal(parsed, parsed_target)) as shown, folders_synced_once():
            for each in plan(parsed, parsed_target, made, recursive=recursive):
                shown.clear()
                with failures.tolerated():
                    if isinstance(each, Tree):
                        run_tree(each, Reporter.of_tree(each, failures, outcomes, shown, claims, verbose=verbose), options)
                        continue
                    if not isinstance(each, Copy):
                        raise each.error
                    if not takes(chosen, each.name):
                        continue
                    claims.require_free(shown_name(each.target))
                    if not (force or no_clobber):
                        require_unpublished(each.target)
                    if dry_run:
                        claims.add(shown_name(each.target))
                        report(each, None, outcomes, shown, shows=True)
                        continue
                    with no_folder(each.source, "give --recursive"):
                        copied = copy_file(each, shown, no_clobber=no_clobber, properties=properties)
                    claims.add(shown_name(each.target))
                    if copied is not None:
                        report(each, copied, outcomes, shown, shows=verbose)
        failures.finish()


def _require_fit(target: Argument, properties: ObjectProperties, *, as_json: bool) -> None:
    """Check that the options fit the target.

    Raises:
        click.UsageError: If they do not.
    """
    if as_json and isinstance(target, Stream):
        raise click.UsageError("--json prints on standard output, and so does a copy to '-'")
    if properties.given() and isinstance(target, (Stream, LocalPath)):
        raise click.UsageError(f"TARGET is not in a store, and cannot keep {', '.join(properties.given())}")


def _uses_terminal(sources: Sequence[Argument], target: Argument) -> bool:
    """Whether data is typed at the terminal or written to it, where a progress bar would overwrite it."""
    typed = any(isinstance(each, Stream) for each in sources) and sys.stdin.isatty()
    return typed or (isinstance(target, Stream) and sys.stdout.isatty())
