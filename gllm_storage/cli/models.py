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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.versions import Version

_FOLDERS = ("names", "versions", "marks", "trees")
"""Each model has the first one, unless another tool has deleted it."""

model_argument = click.argument("model", metavar="MODEL", shell_complete=complete_url)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Show no progress bar on a terminal.")


class LocalDirectory(click.Path):
    """A directory of this machine, and not a stream: a variable of a script could hold ``-`` for other commands."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse ``-``."""
        if value == "-":
            self.fail("'-' is not allowed here; name a directory, such as './-'", param, ctx)
        return super().convert(value, param, ctx)


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
    """Check that there is a model: its path may have a typing error, or be a folder of models.

    Raises:
        FileNotFoundError: If none of the folders of a model has an object.
        StorageError: If a request fails.
    """
    url, store = stored.client.url(stored.path), stored.client.store
    prefix = url.removeprefix(store.url(""))
    if not any(store.is_prefix(f"{prefix}/{folder}/") for folder in _FOLDERS):
        raise FileNotFoundError(errno.ENOENT, "no model", url)


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
