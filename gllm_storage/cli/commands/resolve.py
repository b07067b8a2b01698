"""``resolve``: the URL of a version."""

from __future__ import annotations

import click

from gllm_storage.cli.models import model_argument, models_at, show_version
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.output import say


@click.command(short_help="Print the URL of the complete directory of a version.")
@model_argument
@click.argument("name", metavar="NAME")
@json_option
@store_options
def resolve(model: str, name: str, *, as_json: bool) -> None:
    """Print the URL of the complete directory of a version, for tools that read by prefix.

    NAME is a version, an alias or a digest. An alias whose version was deleted or replaced is an error (exit code 3).
    """
    from gllm_storage import versions

    (stored,) = models_at(model)
    found = versions.resolve(stored.client, stored.path, name)
    if as_json:
        show_version(found, as_json=True)
    else:
        say(found.url)
