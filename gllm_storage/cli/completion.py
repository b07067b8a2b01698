"""Shell completion: click's, with the schemes of URLs and the keys of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import BashComplete, CompletionItem, get_completion_class

from gllm_storage.cli.output import PROGRAM
from gllm_storage.cli.settings import _IN_THE_URL
from gllm_storage.registry import CloudStorageRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "_GLLM_STORAGE_COMPLETE"
SHELLS = ("bash", "zsh", "fish")
_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "file:///")
_PLAIN = "COMPREPLY+=($value)"
_NO_SPACE = "[[ $value == *:// || $value == */ || $value == *= ]] && compopt -o nospace"


def complete_url(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Schemes, and local files. Stores are not asked: a key press should cost no request."""
    schemes = [CompletionItem(scheme) for scheme in _SCHEMES if scheme.startswith(incomplete)]
    return [*schemes, CompletionItem(incomplete, type="file")]


def complete_setting(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Keys of all providers."""
    keys = {f"{key}=" for key in _known_keys() if key.startswith(incomplete)}
    return [CompletionItem(key) for key in sorted(keys)]


def print_script(command: click.Command, shell: str) -> None:
    """Print what a shell has to be told."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell!r}")
    script = found(command, {}, PROGRAM, VARIABLE).source()
    if issubclass(found, BashComplete):
        # Without it bash puts a space after "s3://".
        script = script.replace(_PLAIN, f"{_PLAIN}\n            {_NO_SPACE}")
    click.echo(script)


def _known_keys() -> set[str]:
    classes = [CloudStorageRegistry.client_class(name) for name in ("s3", "gcs", "azure", "file", "memory")]
    keys: Callable[[type], tuple[str, ...]] = lambda each: getattr(each, "config_keys", tuple)()  # noqa: E731 - typed
    return {key for each in classes for key in keys(each)} - _IN_THE_URL
