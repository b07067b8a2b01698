"""``ls``: the objects and folders in a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.options import clients, json_option, store_options, url_argument
from gllm_storage.cli.output import human_time, info_as_json, say, say_json_array
from gllm_storage.cli.places import Address, Folder, Stored, address, nothing_there
from gllm_storage.cli.settings import Store
from gllm_storage.info import url_in_listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.info import ObjectInfo


_OF_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"}
_ITSELF = "./"
"""The name of an object with content whose key is the prefix itself, with its ``/``."""


@dataclass(frozen=True)
class Entry:
    """A line of a listing.

    Attributes:
        name: Relative to the folder; the name of a folder ends with ``/``.
        url: Its URL.
        info: The facts about an object; None for a folder.
    """

    name: str
    url: str
    info: ObjectInfo | None


@click.command(short_help="List a bucket or folder, or the buckets of the account.")
@url_argument
@click.option("-r", "--recursive", is_flag=True, help="List objects at any depth.")
@click.option("-l", "--long", "long_format", is_flag=True, help="Show size and time.")
@json_option
@store_options
def ls(url: str, *, recursive: bool, long_format: bool, as_json: bool) -> None:
    """List a bucket or folder; "s3://" lists the buckets of the account.

    Names of folders and buckets end with "/".
    """
    where = address(url)
    if not where.key and where.root.endswith(":///") and where.scheme in _OF_BUCKETS:
        _list_buckets(where.root, as_json=as_json)
        return
    store = Store(where.root)
    entries = _entries(where, clients([store])[store], recursive=recursive)
    if as_json:
        say_json_array(_entry_json(each) for each in entries)
        return
    for each in entries:
        say(_long_line(each) if long_format else each.name)


def _list_buckets(root: str, *, as_json: bool) -> None:
    # A client is about one bucket. Its filesystem lists all, and no request goes to the one that the client names.
    store = Store(f"{root.removesuffix('/')}any-bucket")
    found = clients([store])[store].filesystem.ls("", detail=False)
    names = sorted(str(each).strip("/").rpartition("/")[2] for each in found)
    start = root.removesuffix("/")
    if as_json:
        say_json_array({"name": f"{name}/", "type": "bucket", "url": f"{start}{name}"} for name in names)
        return
    for name in names:
        say(f"{name}/")


def _entries(where: Address, client: Any, *, recursive: bool) -> Iterator[Entry]:
    folder = Folder(client, where.key if where.is_folder else f"{where.key}/")
    listed = _all_entries(folder) if recursive else _children(folder)
    first = next(listed, None)
    if first is not None:
        yield first
        yield from listed
    elif not where.is_folder and not _is_local_folder(where):
        stored = Stored(client, where.key)
        info = stored.client.info(stored.remote_path)
        yield Entry(where.key.rpartition("/")[2], info.url, info)
    elif where.key and not _is_local_folder(where):  # an empty bucket is not an error, a prefix without objects is
        raise nothing_there(folder.url)


def _is_local_folder(where: Address) -> bool:
    return where.scheme == "file" and os.path.isdir(f"/{where.key}")


def _all_entries(folder: Folder) -> Iterator[Entry]:
    for name, info in folder.files():
        yield Entry(name or _ITSELF, info.url, info)


def _children(folder: Folder) -> Iterator[Entry]:
    for found in folder.client.list_folder(f"/{folder.prefix}"):
        url = url_in_listing(found)
        yield Entry(url[len(folder.url) :] or _ITSELF, url, None if isinstance(found, str) else found)


def _entry_json(entry: Entry) -> dict[str, Any]:
    if entry.info is None:
        return {"name": entry.name, "type": "folder", "url": entry.url}
    return {"name": entry.name, "type": "object", **info_as_json(entry.info)}


def _long_line(entry: Entry) -> str:
    if entry.info is None:
        return f"{'-':>12}  {'-':20}  {entry.name}"
    return f"{entry.info.size:>12}  {human_time(entry.info.last_modified):20}  {entry.name}"
