"""``ls``, ``stat`` and ``exists``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import clients
from gllm_storage.cli.output import as_json as json_of
from gllm_storage.cli.output import human_size, human_time, say, say_json, say_json_array
from gllm_storage.cli.places import Address, Folder, Stored, address, require_object
from gllm_storage.cli.settings import Store
from gllm_storage.info import url_in_listing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gllm_storage.info import ObjectInfo


@dataclass(frozen=True)
class Entry:
    """A line of a listing.

    Attributes:
        name: Relative to the folder; a folder's ends with ``/``.
        url: Its URL.
        info: What is known of it; None for a folder.
    """

    name: str
    url: str
    info: ObjectInfo | None


def list_folder(url: str, *, recursive: bool, long_format: bool, as_json: bool) -> None:
    """List a folder, or a single object.

    Raises:
        FileNotFoundError: If there is neither.
        StorageError: If it cannot be listed.
    """
    where = address(url)
    entries = _entries(where, Folder(clients([Store(where.root)])[Store(where.root)], where.key), recursive=recursive)
    if as_json:
        say_json_array(_entry_json(each) for each in entries)
        return
    for each in entries:
        say(_long_line(each) if long_format else each.name)


def describe(urls: Sequence[str], *, as_json: bool) -> None:
    """Show what the store knows of objects.

    Raises:
        SeveralErrors: If any failed; each was shown.
    """
    addresses = [address(each) for each in urls]
    made = clients(Store(each.root) for each in addresses)
    failures = Failures()
    found: list[ObjectInfo] = []
    for each in addresses:
        with failures.tolerated():
            require_object(each)
            stored = Stored(made[Store(each.root)], each.key)
            found.append(stored.client.info(stored.remote_path))
    if as_json:
        say_json([json_of(info) for info in found])
    else:
        for number, info in enumerate(found):
            _show(info, blank_line=number > 0)
    failures.finish()


def is_there(url: str) -> bool:
    """Whether an object exists.

    Raises:
        StorageError: If it cannot be told.
    """
    where = address(url)
    require_object(where)
    stored = Stored(clients([Store(where.root)])[Store(where.root)], where.key)
    return stored.client.file_exists(stored.remote_path)


def _entries(where: Address, named: Folder, *, recursive: bool) -> Iterator[Entry]:
    folder = named if where.is_folder else Folder(named.client, f"{where.key}/")
    listed = _all_entries(folder) if recursive else _children(folder)
    first = next(listed, None)
    if first is not None:
        yield first
        yield from listed
    elif not where.is_folder and not _is_local_folder(where):
        stored = Stored(named.client, where.key)
        info = stored.client.info(stored.remote_path)
        yield Entry(where.key.rpartition("/")[2], info.url, info)
    elif where.key and not _is_local_folder(where):  # an empty bucket is no error, a prefix of nothing is
        raise FileNotFoundError(2, "nothing is there", folder.url)


def _is_local_folder(where: Address) -> bool:
    return where.scheme == "file" and os.path.isdir(f"/{where.key}")


def _all_entries(folder: Folder) -> Iterator[Entry]:
    for name, info in folder.files():
        yield Entry(name, info.url, info)


def _children(folder: Folder) -> Iterator[Entry]:
    """What is directly in a folder."""
    for found in folder.client.list_folder(f"/{folder.prefix}"):
        url = url_in_listing(found)
        yield Entry(url[len(folder.url) :], url, None if isinstance(found, str) else found)


def _entry_json(entry: Entry) -> dict[str, Any]:
    if entry.info is None:
        return {"name": entry.name, "type": "folder", "url": entry.url}
    return {"name": entry.name, "type": "object", **json_of(entry.info)}


def _long_line(entry: Entry) -> str:
    if entry.info is None:
        return f"{'-':>12}  {'-':20}  {entry.name}"
    return f"{entry.info.size:>12}  {human_time(entry.info.last_modified):20}  {entry.name}"


def _show(info: ObjectInfo, *, blank_line: bool) -> None:
    if blank_line:
        say("")
    facts = {
        "url": info.url,
        "size": f"{info.size} ({human_size(info.size)})",
        "modified": human_time(info.last_modified),
        "etag": info.etag,
        "checksum": info.checksum,
        "version": info.version,
        **{f"metadata {key}": value for key, value in sorted((info.metadata or {}).items())},
    }
    for name, value in facts.items():
        if value is not None:
            say(f"{name + ':':12} {value}")
