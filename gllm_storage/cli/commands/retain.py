"""``retain``: delete the versions that no rule keeps."""

from __future__ import annotations

import click

from gllm_storage.cli.models import model_argument, models_at, require_model, version_as_json
from gllm_storage.cli.options import json_option, period, store_options
from gllm_storage.cli.output import complain, say, say_json


@click.command(short_help="Delete the versions that no rule keeps.")
@model_argument
@click.option("--keep-last", default=0, metavar="N", type=click.IntRange(min=0), help="Keep the newest N versions.")
@click.option(
    "--keep-every",
    default=0,
    metavar="N",
    type=click.IntRange(min=0),
    help="Keep every Nth version that the model ever had.",
)
@click.option("--keep-younger", metavar="TIME", help="Keep versions that were published within this time, as in 30d.")
@click.option("--dry-run/--delete", default=True, help="Only show what would be deleted, which is the default; or delete.")
@json_option
@store_options
def retain(model: str, *, keep_last: int, keep_every: int, keep_younger: str | None, dry_run: bool, as_json: bool) -> None:
    """Delete the versions that no rule keeps; a version that an alias names always stays.

    By default nothing is deleted: the command shows the versions that would stay, with the rules that keep them, and those
    that would be deleted. "gc" deletes the files of deleted versions later.
    """
    if not (keep_last or keep_every or keep_younger):
        raise click.UsageError("Name a rule: --keep-last, --keep-every or --keep-younger")
    from gllm_storage import versions

    younger = None if keep_younger is None else period("--keep-younger", keep_younger)
    (stored,) = models_at(model)
    require_model(stored)
    found = versions.retain(
        stored.client, stored.path, keep_last=keep_last, keep_every=keep_every, keep_younger=younger, dry_run=dry_run
    )
    if as_json:
        deleted = [version_as_json(each) for each in found.deleted]
        say_json({"kept": found.kept, "deleted": deleted, "aliases": found.aliases})
    else:
        for name, rules in found.kept.items():
            say(f"keep    {name}  ({', '.join(rules)})")
        for each in found.deleted:
            say(f"delete  {each.name}")
    for alias in found.aliases:
        complain(f"warning: alias {alias} was moved to a deleted version meanwhile")
