"""``diff``: the files in which two versions differ."""

from __future__ import annotations

from dataclasses import asdict

import click

from gllm_storage.cli.models import model_argument, models_at
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.output import say, say_json_array

_SIGNS = {"added": "+", "removed": "-", "changed": "*"}


@click.command(short_help="Show the files in which two versions differ.")
@model_argument
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@json_option
@store_options
def diff(model: str, old: str, new: str, *, as_json: bool) -> None:
    """Show the files in which two versions differ, without reading them: "+" added, "-" removed, "*" changed.

    OLD and NEW are versions, aliases or digests. The exit code is 0 in any case.
    """
    from gllm_storage import versions

    (stored,) = models_at(model)
    found = versions.diff(stored.client, stored.path, old, new)
    if as_json:
        say_json_array(asdict(each) for each in found)
        return
    for each in found:
        say(f"{_SIGNS[each.kind]} {each.path}")
