"""``presign``: a URL with which anyone can read or write an object for some time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import exact_option, period, store_options, stored_at, urls_argument
from gllm_storage.cli.output import say
from gllm_storage.cli.places import address, require_object

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(short_help="Print URLs with which anyone can read for some time.")
@urls_argument
@click.option(
    "--expires", default="1h", show_default=True, metavar="TIME", help="How long the URL is valid, as in 30m or 7d."
)
@click.option("--put", is_flag=True, help="Make a URL for writing the object, instead of reading it.")
@exact_option
@store_options
def presign(urls: Sequence[str], *, expires: str, put: bool, exact: bool) -> None:
    """Print https URLs with which anyone can read objects for some time, without credentials."""
    valid = period("--expires", expires)
    addresses = [address(each, exact=exact) for each in urls]
    failures = Failures()
    for where, stored in zip(addresses, stored_at(addresses), strict=True):
        with failures.tolerated():
            require_object(where)
            say(stored.client.presign(stored.remote_path, expires=valid, method="PUT" if put else "GET"))
    failures.finish()
