"""The arguments and the output of the commands about published versions."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.completion import complete_url
from gllm_storage.cli.options import clients
from gllm_storage.cli.output import human_size, say, say_json
from gllm_storage.cli.places import address
from gllm_storage.cli.settings import Store
from gllm_storage.settings import duration

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.versions import Version

model_argument = click.argument("model", metavar="MODEL", shell_complete=complete_url)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress bar on a terminal.")


@dataclass(frozen=True)
class StoredModel:
    """A model.

    Attributes:
        client: The client of its bucket.
        path: Its path, for the functions of `gllm_storage.versions`.
    """

    client: FsspecStorageClient
    path: str


def models_at(*urls: str) -> list[StoredModel]:
    """The models at some URLs, with the settings that the options gave.

    Raises:
        ValueError: If a URL or a setting is wrong, or a URL names a bucket.
        ImportError: If a provider's extra is not installed.
    """
    addresses = [address(each) for each in urls]
    for each in addresses:
        if not each.key.strip("/"):
            raise ValueError(f"{each.url} is a bucket; name a model in it, as in {each.url.removesuffix('/')}/models/llama")
    made = clients(Store(each.root) for each in addresses)
    return [StoredModel(made[Store(each.root)], f"/{each.key.rstrip('/')}") for each in addresses]


def require_model(stored: StoredModel) -> None:
    """Check that there is a model, for commands that found nothing: its path may have a typing error.

    Raises:
        FileNotFoundError: If there is no object below its path.
        StorageError: If the request fails.
    """
    url = stored.client.url(stored.path)
    if stored.client.store.first(f"{url.removeprefix(stored.client.store.url(''))}/") is None:
        raise FileNotFoundError(errno.ENOENT, "no model", url)


def period(option: str, text: str) -> dt.timedelta:
    """The time of an option, such as ``12h`` or ``30d``; ``0`` is none.

    Raises:
        ValueError: If the text is not a time.
    """
    import datetime as dt  # most commands need none

    number = text.removesuffix("d")
    try:
        if number != text and number.isascii() and number.isdigit():
            return dt.timedelta(days=int(number))
        return dt.timedelta(seconds=0 if text == "0" else duration(text))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{option} {text!r} is not a time such as 12h or 30d: {error}") from None


@contextlib.contextmanager
def bar(name: str, *, quiet: bool) -> Iterator[Callback]:
    """The callback that shows a progress bar on a terminal."""
    from gllm_storage.cli.progress import bars

    with bars(quiet=quiet) as shown, shown.watching(name) as callback:
        yield callback


def show_version(version: Version, *, as_json: bool) -> None:
    """Print a version."""
    if as_json:
        say_json(version_as_json(version))
        return
    facts = {
        "version": version.name,
        "digest": version.digest,
        "url": version.url,
        "files": version.files,
        "size": f"{version.size} ({human_size(version.size)})",
        "published": version.time,
        **{f"metadata {key}": value for key, value in sorted(version.metadata.items())},
    }
    for name, value in facts.items():
        say(f"{name + ':':12} {value}")


def version_as_json(version: Version) -> dict[str, Any]:
    """A version as JSON values."""
    found = {**dataclasses.asdict(version), "metadata": dict(version.metadata)}
    if version.path is None:
        del found["path"]
    return found
