"""``stat``: the facts that a store keeps about objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import exact_option, json_option, store_options, stored_at, urls_argument
from gllm_storage.cli.output import human_size, human_time, info_as_json, say, say_json
from gllm_storage.cli.places import address, no_folder, require_object

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.info import ObjectInfo


@click.command()
@urls_argument
@json_option
@exact_option
@store_options
def stat(urls: Sequence[str], as_json: bool, exact: bool) -> None:
    """Show size, time, ETag and checksum of objects."""
    addresses = [address(each, exact=exact) for each in urls]
    failures = Failures()
    found: list[ObjectInfo] = []
    for where, stored in zip(addresses, stored_at(addresses), strict=True):
        with failures.tolerated():
            require_object(where)
            with no_folder(stored, "name an object in it"):
                found.append(stored.client.info(stored.remote_path))
    if as_json:
        say_json([info_as_json(info) for info in found])
    else:
        for number, info in enumerate(found):
            _show(info, blank_line=number > 0)
    failures.finish()


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
        "type": info.content_type,
        "encoding": info.content_encoding,
        "disposition": info.content_disposition,
        "language": info.content_language,
        "cache": info.cache_control,
        "class": info.storage_class,
        "kms key": info.kms_key,
        **{f"metadata {key}": value for key, value in sorted((info.metadata or {}).items())},
    }
    for name, value in facts.items():
        if value is not None:
            say(f"{name + ':':12} {value}")
