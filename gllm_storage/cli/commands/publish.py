"""``publish``: a directory becomes a version of a model."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from gllm_storage.cli.models import LocalDirectory, bar, model_argument, models_at, quiet_option, show_version
from gllm_storage.cli.options import json_option, store_options
from gllm_storage.cli.output import complain
from gllm_storage.cli.signals import announce


@click.command(short_help="Publish a directory as a version of a model.")
@click.argument("directory", metavar="DIRECTORY", type=LocalDirectory())
@model_argument
@click.argument("version", metavar="VERSION")
@click.option(
    "--metadata", metavar="NAME=VALUE", multiple=True, help="A fact to keep with the version; repeatable. VALUE may be JSON."
)
@click.option("--alias", metavar="NAME", help="Then point this alias to the version; its name is checked first.")
@quiet_option
@json_option
@store_options
def publish(
    directory: str,
    model: str,
    version: str,
    *,
    metadata: tuple[str, ...],
    alias: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Publish a directory as a version of a model: completely, or not at all.

    Files that an earlier version has are copied within the store. An interrupted command goes on when it is run again. A
    version that exists with other files or metadata is not changed (exit code 4).
    """
    from gllm_storage import versions
    from gllm_storage.versions.aliases import require_alias

    facts = _parsed(metadata)
    _refuse_model(directory)
    (stored,) = models_at(model)
    if alias is not None:
        require_alias(stored.client, stored.path, alias, version)
    announce("the version is published completely or not at all; run the command again to go on")
    with bar(version, quiet=quiet) as callback:
        found = versions.publish(stored.client, directory, stored.path, version=version, metadata=facts, callback=callback)
    if alias is not None:
        announce("the version is published, but perhaps the alias was not moved")
        try:
            versions.set_alias(stored.client, stored.path, alias, version)
        except Exception as error:  # after any failure the user has to know that the version is published
            moved = "was not moved" if isinstance(error, FileExistsError) else "was perhaps not moved"
            complain(f"{version} is published; the alias {alias} {moved}")
            raise
    show_version(found, as_json=as_json)


def _refuse_model(directory: str) -> None:
    """With two local paths in the wrong order, the model would become a version in the folder that was to be published."""
    if all(os.path.isdir(os.path.join(directory, each)) for each in ("names", "trees", "versions")):
        raise ValueError(f"{directory} is a model with published versions; the order is DIRECTORY MODEL VERSION")


def _refuse(constant: str) -> None:
    """Python reads NaN and Infinity, which JSON does not have."""
    raise ValueError(constant)


def _parsed(pairs: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--metadata")
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice", param_hint="--metadata")
        try:
            found[name] = json.loads(text, parse_constant=_refuse)
        except ValueError:
            found[name] = text
    return found
