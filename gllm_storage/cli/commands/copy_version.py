"""``copy-version``: a version in another model, bucket or provider."""

from __future__ import annotations

import click

from gllm_storage.cli.completion import complete_url
from gllm_storage.cli.models import bar, model_argument, models_at, quiet_option, show_version
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.signals import announce


@click.command("copy-version", short_help="Copy a version to another model, bucket or provider.")
@model_argument
@click.argument("name", metavar="NAME")
@click.argument("target", metavar="TARGET_MODEL", shell_complete=complete_url)
@click.option("--as", "version", metavar="VERSION", help="The name of the copy; by default that of the version.")
@quiet_option
@json_option
@store_options
def copy_version(model: str, name: str, target: str, *, version: str | None, quiet: bool, as_json: bool) -> None:
    """Copy a version to another model, bucket or provider, with its digest: completely, or not at all.

    NAME is a version, an alias or a digest. Files that are there already are kept, so an interrupted command goes on when it
    is run again.
    """
    from gllm_storage import versions

    source, destination = models_at(model, target)
    announce("the version is copied completely or not at all; run the command again to go on")
    with bar(name, quiet=quiet) as callback:
        found = versions.copy_version(
            source.client, source.path, name, destination.client, destination.path, version=version, callback=callback
        )
    show_version(found, as_json=as_json)
