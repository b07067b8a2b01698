"""``du``: the size of folders and objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import clients, json_option, store_options, urls_argument
from gllm_storage.cli.output import human_size, say, say_json
from gllm_storage.cli.places import Folder, Stored, address, nothing_there
from gllm_storage.cli.settings import Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.cli.places import Address
    from gllm_storage.fsspec_client import FsspecStorageClient


@dataclass(frozen=True)
class Usage:
    """The size of a folder or an object, as ``--json`` prints it.

    Attributes:
        url: The URL.
        objects: The number of objects.
        size: Their size together, in bytes.
    """

    url: str
    objects: int
    size: int


@click.command(short_help="Show the number and the size of the objects below URLs.")
@urls_argument
@click.option("--human", is_flag=True, help="Show sizes in KiB, MiB, GiB or TiB.")
@json_option
@store_options
def du(urls: Sequence[str], *, human: bool, as_json: bool) -> None:
    """Show the number and the size of the objects below URLs, at any depth.

    Sizes are in bytes. "s3://b/x" is the object "x" and all objects below "x/".
    """
    addresses = [address(each) for each in urls]
    made = clients(Store(each.root) for each in addresses)
    failures = Failures()
    found = []
    for where in addresses:
        with failures.tolerated():
            usage = _usage(where, made[Store(where.root)])
            found.append(usage)
            if not as_json:
                size = human_size(usage.size) if human else str(usage.size)
                say(f"{size:>12}  {usage.objects:>9}  {usage.url}")
    if as_json:
        say_json([asdict(each) for each in found])
    failures.finish()


def _usage(where: Address, client: FsspecStorageClient) -> Usage:
    folder = Folder(client, where.key if where.is_folder else f"{where.key}/")
    objects = size = 0
    for _, info in folder.files():
        objects += 1
        size += info.size
    if not where.is_folder:
        stored = Stored(client, where.key)
        try:
            size += client.info(stored.remote_path).size
            objects += 1
        except FileNotFoundError:
            if not objects:
                raise nothing_there(where.url) from None
    elif where.key and not objects:
        raise nothing_there(where.url)
    return Usage(where.url, objects, size)
