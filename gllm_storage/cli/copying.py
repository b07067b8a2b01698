"""``cp`` and ``cat``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import clients
from gllm_storage.cli.places import Stored, Stream, address, parse_source, parse_target, require_object
from gllm_storage.cli.plan import Copy, plan, stores_of
from gllm_storage.cli.progress import Bars, bars
from gllm_storage.cli.reading import write_out
from gllm_storage.cli.settings import Store
from gllm_storage.cli.signals import announce
from gllm_storage.cli.transfers import copy_one

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.cli.places import Argument


def copy_all(sources: Sequence[str], target: str, *, no_clobber: bool, recursive: bool, verbose: bool, quiet: bool) -> None:
    """Copy files, one after the other; each goes in parallel parts, if it is large.

    Raises:
        SeveralErrors: If any failed; each was shown.
        ValueError: If the arguments are impossible.
        StorageError: If a source cannot be listed.
    """
    parsed, parsed_target = [parse_source(each) for each in sources], parse_target(target)
    made = clients(stores_of(parsed, parsed_target))
    failures = Failures()
    if not isinstance(parsed_target, Stream):
        announce("the file under way is complete, or as it was before")
    with bars(quiet=quiet or _talks_to_the_terminal(parsed, parsed_target)) as shown:
        for each in plan(parsed, parsed_target, made, recursive=recursive):
            shown.forget()
            with failures.tolerated():
                if not isinstance(each, Copy):
                    raise each.error
                copied = copy_one(each, shown, no_clobber=no_clobber)
                if verbose and copied is not None:
                    shown.say(copied)
    failures.finish()


def _talks_to_the_terminal(sources: Sequence[Argument], target: Argument) -> bool:
    """Whether somebody reads or types there, where a bar would be drawn over it."""
    reads = any(isinstance(each, Stream) for each in sources) and sys.stdin.isatty()
    return reads or (isinstance(target, Stream) and sys.stdout.isatty())


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
            require_object(each)
            write_out(Stored(made[Store(each.root)], each.key), Bars(None))
    failures.finish()
