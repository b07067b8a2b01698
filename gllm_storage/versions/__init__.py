"""Published versions: a directory that is in the store completely or not at all, on any store that creates exclusively.

`publish` stores a directory as a version of a model, `fetch` brings it to another machine, verified against the digest of
all its files. Aliases point to versions, and move atomically. `delete_version`, `retain` and
`collect_garbage` remove the rest.

Examples:
    >>> from gllm_storage import versions
    >>> version = versions.publish(client, "./out", "models/llama-ft", version="v3", metadata={"loss": 0.7})
    >>> versions.set_alias(client, "models/llama-ft", "latest", "v3").name
    'v3'
    >>> versions.fetch(client, "models/llama-ft", "latest", "./local").digest == version.digest
    True
"""

from gllm_storage.versions.aliases import AliasMove, alias_history, list_aliases, set_alias
from gllm_storage.versions.cache import CachedVersion, list_cache, prune_cache
from gllm_storage.versions.catalog import Version, list_versions, resolve
from gllm_storage.versions.collector import Garbage, collect_garbage
from gllm_storage.versions.comparison import Change, diff
from gllm_storage.versions.copying import copy_version
from gllm_storage.versions.deletion import Deletion, delete_version
from gllm_storage.versions.fetching import fetch
from gllm_storage.versions.publisher import publish
from gllm_storage.versions.retention import Retention, retain
from gllm_storage.versions.signing import sign_version, verify_signature
from gllm_storage.versions.verification import verify

__all__ = [
    "AliasMove",
    "CachedVersion",
    "Change",
    "Deletion",
    "Garbage",
    "Retention",
    "Version",
    "alias_history",
    "collect_garbage",
    "copy_version",
    "delete_version",
    "diff",
    "fetch",
    "list_aliases",
    "list_cache",
    "list_versions",
    "prune_cache",
    "publish",
    "resolve",
    "retain",
    "set_alias",
    "sign_version",
    "verify",
    "verify_signature",
]
