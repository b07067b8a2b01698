"""``gc``: delete the files that no version names."""

from __future__ import annotations

from dataclasses import asdict

import click

from gllm_storage.cli.models import model_argument, models_at, require_model
from gllm_storage.cli.options import json_option, period, store_options
from gllm_storage.cli.output import say, say_json


@click.command(short_help="Delete the files of a model that no version names.")
@model_argument
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
@click.option(
    "--grace", default="1d", show_default=True, metavar="TIME", help="Leave younger files alone, as in 12h; 0 leaves none."
)
@click.option(
    "--one-machine", is_flag=True, help="No other machine writes to the model meanwhile; needed on disks such as NFS."
)
@json_option
@store_options
def gc(model: str, *, dry_run: bool, grace: str, one_machine: bool, as_json: bool) -> None:
    """Delete the files of a model that no version names, and print their directories with number and size of the files.

    These are files of deleted versions, and of publishers that did not end. Publishers, readers and other collectors may
    work meanwhile: no published version loses a file.
    """
    from gllm_storage import versions

    spared = period("--grace", grace)
    (stored,) = models_at(model)
    require_model(stored)
    found = versions.collect_garbage(stored.client, stored.path, grace=spared, dry_run=dry_run, one_machine=one_machine)
    if as_json:
        say_json([asdict(each) for each in found])
        return
    for each in found:
        say(f"{each.size:>15}  {each.files:>9}  {each.url}")
