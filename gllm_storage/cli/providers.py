"""``providers``: which stores this installation can reach."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from gllm_storage.cli.output import say, say_json
from gllm_storage.registry import CloudStorageRegistry
from gllm_storage.settings import require_extra

_EXTRAS = {"gcs": ("gcsfs",), "azure": ("adlfs", "azure.storage.blob")}
"""What the extra of a provider's own name installs."""


@dataclass(frozen=True)
class Provider:
    """A provider.

    Attributes:
        name: Its name.
        aliases: Other names, and URL schemes.
        installed: Whether what it needs is installed.
        problem: What to do if not.
        config_keys: The keys of its config; empty if it takes any.
    """

    name: str
    aliases: tuple[str, ...]
    installed: bool
    problem: str | None
    config_keys: tuple[str, ...]


def show_providers(*, as_json: bool) -> None:
    """Print all providers."""
    found = [_look_at(name) for name in CloudStorageRegistry.list_available_providers()]
    if as_json:
        say_json([asdict(each) for each in found])
        return
    for each in found:
        names = f"{each.name} ({', '.join(each.aliases)})" if each.aliases else each.name
        say(f"{names:32} {each.problem or 'installed'}")


def _look_at(name: str) -> Provider:
    problem: str | None = None
    keys: tuple[str, ...] = ()
    try:
        require_extra(name, *_EXTRAS.get(name, ()))
        keys = _keys(name)
    except (ImportError, ValueError) as error:  # an extra that is missing, a plug-in that cannot be loaded
        problem = str(error)
    return Provider(name, CloudStorageRegistry.aliases(name), problem is None, problem, keys)


def _keys(name: str) -> tuple[str, ...]:
    found = CloudStorageRegistry.client_class(name)
    keys = getattr(found, "config_keys", None)
    return tuple(keys()) if keys else ()
