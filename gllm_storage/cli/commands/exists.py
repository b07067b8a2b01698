"""``exists``: whether an object exists, as an exit code."""

from __future__ import annotations

import click

from gllm_storage.cli.exits import Exit
from gllm_storage.cli.options import exact_option, store_options, stored_at, url_argument
from gllm_storage.cli.places import address, require_object


@click.command()
@url_argument
@exact_option
@store_options
def exists(url: str, *, exact: bool) -> None:
    """Exit with 0 if the object exists, with 1 if it does not."""
    where = address(url, exact=exact)
    require_object(where)
    (stored,) = stored_at([where])
    if not stored.client.file_exists(stored.remote_path):
        raise click.exceptions.Exit(Exit.NO)
