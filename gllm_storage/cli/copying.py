"""``cp`` and ``cat``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import clients
from gllm_storage.cli.places import Stored, address, parse
from gllm_storage.cli.plan import Copy, plan, stores_of
from gllm_storage.cli.progress import Bars, bars
from gllm_storage.cli.reading import write_out
from gllm_storage.cli.settings import Store
from gllm_storage.cli.transfers import copy_one

if TYPE_CHECKING:
    from collections.abc import Sequence


def copy_all(sources: Sequence[str], target: str, *, no_clobber: bool, recursive: bool, verbose: bool, quiet: bool) -> None:
    """Copy files, one after the other; each goes in parallel parts, if it is large.

    Raises:
        SeveralErrors: If any failed; each was shown.
        ValueError: If the arguments are impossible.
        StorageError: If a source cannot be listed.
    """
    parsed, parsed_target = [parse(each) for each in sources], parse(target)
    made = clients(stores_of(parsed, parsed_target))
    failures = Failures()
    with bars(quiet=quiet) as shown:
        for each in plan(parsed, parsed_target, made, recursive=recursive):
            shown.forget()
            with failures.tolerated():
                if not isinstance(each, Copy):
                    raise each.error
                copied = copy_one(each, shown, no_clobber=no_clobber)
                if verbose and copied is not None:
                    shown.say(copied)
    failures.finish()


def concatenate(urls: Sequence[str]) -> None:
    """Write objects to standard output.

    Raises:
        SeveralErrors: If any failed; each was shown.
        ValueError: If a URL is impossible.
    """
    addresses = [address(each) for each in urls]
    made = clients(Store(each.root) for each in addresses)
    failures = Failures()
    for each in addresses:
        with failures.tolerated():
            write_out(Stored(made[Store(each.root)], each.key), Bars(None))
    failures.finish()
