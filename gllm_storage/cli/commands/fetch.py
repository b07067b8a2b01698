"""``fetch``: a version on this machine, complete and verified."""

from __future__ import annotations

import click

from gllm_storage.cli.models import LocalDirectory, bar, model_argument, models_at, quiet_option, show_version
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.signals import announce


@click.command(short_help="Download a version to a new directory, verified.")
@model_argument
@click.argument("name", metavar="NAME")
@click.argument("directory", metavar="[DIRECTORY]", required=False, type=LocalDirectory())
@click.option(
    "--include",
    metavar="PATTERN",
    multiple=True,
    help="Only files that match; patterns as in rclone: '*.bin' in any folder, '/a.bin' at the top. Repeatable.",
)
@click.option("--cache", metavar="DIRECTORY", type=LocalDirectory(), help="A cache that all processes of a machine share.")
@quiet_option
@json_option
@store_options
def fetch(
    model: str,
    name: str,
    directory: str | None,
    *,
    include: tuple[str, ...],
    cache: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Download a version to a new directory, which appears complete and verified, or not at all.

    NAME is a version, an alias or a digest. An interrupted command goes on when it is run again. With a cache, DIRECTORY may
    be left out: the path of the files in the cache is printed.
    """
    if directory is None and cache is None:
        raise click.UsageError("DIRECTORY or --cache is missing.")
    from gllm_storage import versions

    (stored,) = models_at(model)
    announce("the directory does not exist; run the command again to go on")
    with bar(name, quiet=quiet) as callback:
        found = versions.fetch(
            stored.client, stored.path, name, directory, include=include or None, cache=cache, callback=callback
        )
    if directory is None and not as_json:
        click.echo(found.path)
    else:
        show_version(found, as_json=as_json)
