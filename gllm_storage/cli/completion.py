"""Completion of arguments in a shell: URL schemes, local files and keys of settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gllm_storage.cli.settings import IN_THE_URL
from gllm_storage.registry import CloudStorageRegistry

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

VARIABLE = "_GLLM_STORAGE_COMPLETE"
"""The environment variable by which a shell asks for completions."""
_SCHEMES = ("s3://", "gs://", "az://", "abfs://", "file:///")


def complete_url(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete schemes and local files. No request is sent to a store: a key press must not wait for the network."""
    from click.shell_completion import CompletionItem  # only a shell that completes needs it

    schemes = [CompletionItem(scheme) for scheme in _SCHEMES if scheme.startswith(incomplete)]
    return [*schemes, CompletionItem(incomplete, type="file")]


def complete_setting(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the keys of the built-in providers' settings."""
    from click.shell_completion import CompletionItem  # only a shell that completes needs it

    keys: set[str] = set()
    for name in ("s3", "gcs", "azure", "file", "memory"):
        keys.update(getattr(CloudStorageRegistry.client_class(name), "config_keys", tuple)())
    return [CompletionItem(f"{key}=") for key in sorted(keys - IN_THE_URL) if key.startswith(incomplete)]
