"""``providers``: the providers, and the packages that they need."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from gllm_storage.cli.options import debug_option, json_option
from gllm_storage.cli.output import say, say_json
from gllm_storage.registry import CloudStorageRegistry
from gllm_storage.settings import require_extra

_EXTRAS = {"gcs": ("gcsfs",), "azure": ("adlfs", "azure.storage.blob")}
"""The modules that the extra with a provider's name installs."""


@dataclass(frozen=True)
class Provider:
    """A provider, as ``--json`` prints it.

    Attributes:
        name: Its name.
        aliases: Other names, and URL schemes.
        installed: Whether the packages that it needs are installed.
        problem: The missing package and the command that installs it; None if nothing is missing.
        config_keys: The keys of its config; empty if it takes any key.
    """

    name: str
    aliases: tuple[str, ...]
    installed: bool
    problem: str | None
    config_keys: tuple[str, ...]


@click.command()
@json_option
@debug_option
def providers(as_json: bool) -> None:
    """List the providers and their missing packages."""
    found = [_provider(name) for name in CloudStorageRegistry.list_available_providers()]
    if as_json:
        say_json([asdict(each) for each in found])
        return
    for each in found:
        names = f"{each.name} ({', '.join(each.aliases)})" if each.aliases else each.name
        say(f"{names:32} {each.problem or 'installed'}")


def _provider(name: str) -> Provider:
    problem: str | None = None
    keys: tuple[str, ...] = ()
    try:
        require_extra(name, *_EXTRAS.get(name, ()))
        keys = tuple(getattr(CloudStorageRegistry.client_class(name), "config_keys", tuple)())
    except (ImportError, ValueError) as error:  # a missing extra, or a plug-in that cannot be loaded
        problem = str(error)
    return Provider(name, CloudStorageRegistry.aliases(name), problem is None, problem, keys)
