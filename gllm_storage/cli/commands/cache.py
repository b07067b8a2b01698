"""``cache``: list and prune the cache of ``fetch``."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.models import LocalDirectory
from gllm_storage.cli.options import debug_option, json_option, period
from gllm_storage.cli.output import human_time, say, say_json
from gllm_storage.settings import size_or_zero

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gllm_storage.versions import CachedVersion

_directory = click.argument("directory", metavar="DIRECTORY", type=LocalDirectory())


@click.group()
def cache() -> None:
    """List and prune the directory of "fetch --cache"."""


@cache.command("list")
@_directory
@json_option
@debug_option
def list_(directory: str, *, as_json: bool) -> None:
    """List the versions in a cache, the one that was used last first.

    Each has its digest, the number of its files in the cache, their size in bytes, the time of the last fetch, and the model
    and the name of the version. Versions may share files.
    """
    from gllm_storage.versions import list_cache

    _show(list_cache(directory), as_json=as_json)


@cache.command(short_help="Remove versions from a cache.")
@_directory
@click.option("--older-than", metavar="TIME", help="Remove versions that no fetch has used for this time, as in 30d.")
@click.option(
    "--max-size",
    metavar="SIZE",
    help="Remove what interrupted fetches have left, and then the versions that were not used for the longest time, until "
    "the files have at most this size, as in 200GiB; 0 removes all.",
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--one-machine", is_flag=True, help="No other machine uses the cache; needed on disks such as NFS.")
@json_option
@debug_option
def prune(
    directory: str, *, older_than: str | None, max_size: str | None, dry_run: bool, one_machine: bool, as_json: bool
) -> None:
    """Remove versions from a cache, with the files that no other version needs, and print them as "list" does.

    A version that a running fetch holds stays. A program that still reads from the cache is not noticed.
    """
    if older_than is None and max_size is None:
        raise click.UsageError("Name a rule: --older-than or --max-size")
    from gllm_storage.versions import prune_cache

    removed = prune_cache(
        directory,
        older_than=None if older_than is None else period("--older-than", older_than),
        max_size=None if max_size is None else _size(max_size),
        dry_run=dry_run,
        one_machine=one_machine,
    )
    _show(removed, as_json=as_json)


def _size(text: str) -> int:
    try:
        return size_or_zero(text)
    except ValueError as error:
        raise ValueError(f"--max-size {text!r} is not a size such as 200GiB: {error}") from None


def _show(found: Iterable[CachedVersion], *, as_json: bool) -> None:
    if as_json:
        say_json([_as_json(each) for each in found])
        return
    for each in found:
        say(f"{each.digest}  {each.files:>9}  {each.size:>15}  {human_time(each.used)}  {', '.join(each.names)}")


def _as_json(version: CachedVersion) -> dict[str, Any]:
    return {**asdict(version), "used": human_time(version.used)}
