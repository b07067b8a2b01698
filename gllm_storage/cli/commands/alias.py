"""``alias``: names that point to versions."""

from __future__ import annotations

import errno
from dataclasses import asdict

import click

from gllm_storage.cli.models import model_argument, models_at, require_model, show_version
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.output import say, say_json


@click.command(short_help="List the aliases of a model, or move one to a version.")
@model_argument
@click.argument("alias", metavar="[ALIAS", required=False)
@click.argument("version", metavar="[VERSION]]", required=False)
@click.option("--expected", metavar="VERSION", help="Only if the alias points to this version now.")
@json_option
@store_options
def alias(model: str, alias: str | None, version: str | None, *, expected: str | None, as_json: bool) -> None:
    """List the aliases of a model, show the moves of one, or point it to a version, atomically.

    Without ALIAS, all aliases are listed with their versions. Without VERSION, the moves of the alias are listed, the newest
    first. If another process moves the alias at the same moment, or it does not point to --expected, it is not moved (exit
    code 4).
    """
    from gllm_storage import versions

    (stored,) = models_at(model)
    if version is not None and alias is not None:
        show_version(versions.set_alias(stored.client, stored.path, alias, version, expected=expected), as_json=as_json)
        return
    if expected is not None:
        raise click.UsageError("--expected needs ALIAS and VERSION")
    if alias is None:
        found = versions.list_aliases(stored.client, stored.path)
        if not found:
            require_model(stored)
        if as_json:
            say_json({name: asdict(move) for name, move in found.items()})
        for name, move in () if as_json else found.items():
            say(f"{name}  {move.version}")
        return
    moves = list(versions.alias_history(stored.client, stored.path, alias))
    if not moves:
        raise FileNotFoundError(errno.ENOENT, f"No such alias: {alias}", stored.client.url(stored.path))
    if as_json:
        say_json([asdict(each) for each in moves])
        return
    for each in moves:
        say(f"{each.time}  {each.digest}  {each.version}")
