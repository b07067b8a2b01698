"""``cat``: objects to standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import exact_option, store_options, stored_at, urls_argument
from gllm_storage.cli.places import address, no_folder, require_object

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command()
@urls_argument
@exact_option
@store_options
def cat(urls: Sequence[str], *, exact: bool) -> None:
    """Write objects to standard output.

    Each object is read in one version. If the store keeps a checksum, the data is verified after the last byte.
    """
    from gllm_storage.cli.progress import Bars
    from gllm_storage.cli.transfers import write_out

    addresses = [address(each, exact=exact) for each in urls]
    failures = Failures()
    for where, stored in zip(addresses, stored_at(addresses), strict=True):
        with failures.tolerated():
            require_object(where)
            with no_folder(stored, "name an object in it"):
                write_out(stored, Bars(None))
    failures.finish()
