"""``delete-version``: delete versions of a model."""

from __future__ import annotations

import errno
from typing import Any

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.models import model_argument, models_at
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.output import complain, say_json_array


@click.command("delete-version")
@model_argument
@click.argument("names", metavar="VERSION...", nargs=-1, required=True)
@json_option
@store_options
def delete_version(model: str, names: tuple[str, ...], *, as_json: bool) -> None:
    """Delete versions of a model. "gc" deletes their files later.

    An alias to a deleted version is an error of "resolve" and "fetch" from now on; a warning names it. With --json the
    deleted versions are printed, each with these aliases.
    """
    from gllm_storage import versions

    (stored,) = models_at(model)
    failures = Failures()
    deleted: list[dict[str, Any]] = []
    try:
        for name in names:
            with failures.tolerated():
                deletion = versions.delete_version(stored.client, stored.path, name)
                if not deletion:
                    is_alias = any(versions.alias_history(stored.client, stored.path, name))
                    hint = ", that is an alias; name a version" if is_alias else ""
                    raise FileNotFoundError(errno.ENOENT, f"No such version: {name}{hint}", stored.client.url(stored.path))
                deleted.append({"name": name, "aliases": deletion.aliases})
                for alias in deletion.aliases:
                    complain(f"warning: alias {alias} points to the deleted version {name}")
    finally:
        if as_json:
            say_json_array(deleted)
    failures.finish()
