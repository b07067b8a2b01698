"""``versions``: the published versions of a model."""

from __future__ import annotations

import click

from gllm_storage.cli.models import model_argument, models_at, require_model, version_as_json
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.output import say, say_json_array


@click.command()
@model_argument
@click.option("-l", "--long", "long_format", is_flag=True, help="Show digest, number of files, size and time.")
@json_option
@store_options
def versions(model: str, *, long_format: bool, as_json: bool) -> None:
    """List the versions of a model, in the order of their names."""
    from gllm_storage.versions import list_versions

    (stored,) = models_at(model)
    found = list(list_versions(stored.client, stored.path))
    if not found:
        require_model(stored)
    if as_json:
        say_json_array(version_as_json(each) for each in found)
        return
    for each in found:
        facts = f"{each.digest}  {each.files:>9}  {each.size:>15}  {each.time}  " if long_format else ""
        say(f"{facts}{each.name}")
