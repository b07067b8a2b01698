"""``verify``: compares a version, or a copy of it, with its manifest."""

from __future__ import annotations

import click

from gllm_storage.cli.models import LocalDirectory, model_argument, models_at, show_version
from gllm_storage.cli.options import json_option, store_options


@click.command(short_help="Compare the files of a version with its manifest.")
@model_argument
@click.argument("name", metavar="NAME")
@click.argument("directory", metavar="[DIRECTORY]", type=LocalDirectory(), required=False)
@click.option("--no-read", is_flag=True, help="Compare the checksums that the store has, and read only files without one.")
@json_option
@store_options
def verify(model: str, name: str, directory: str | None, *, no_read: bool, as_json: bool) -> None:
    """Compare all files of a version with its manifest: in the store, or in a local DIRECTORY.

    NAME is a version, an alias or a digest. A changed, missing or added file is an error (exit code 7).
    """
    from gllm_storage import versions

    if no_read and directory is not None:
        raise click.UsageError("--no-read is for the files in the store; leave DIRECTORY out")
    (stored,) = models_at(model)
    show_version(versions.verify(stored.client, stored.path, name, directory, read=not no_read), as_json=as_json)
