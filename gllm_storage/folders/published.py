"""Which objects belong to the published versions of a model, and so are not deleted or replaced by mistake.

The versions of a model are logs of objects that are never changed (`gllm_storage.versions`). A slot that became free again
could be taken by a process that read the log long ago, and files of a version that changed have another digest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gllm_storage.errors import ErrorDetails, FolderError, Remedy
from gllm_storage.folders.entries import LocalFolder, StoredFolder
from gllm_storage.folders.filters import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.folders.entries import Folder
    from gllm_storage.folders.plan import Plan

_PLACE = r"[0-9a-f]{64}-(?:0|[1-9][0-9]*)"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
# The keys that gllm_storage.versions.layout makes. It imports this package, so this package does not import it.
_OF_MODEL = re.compile(
    rf"(?:^|/)(?=(?:data|marks)/{_PLACE}/|trees/{_PLACE}\.jsonl\Z|tombs/{_PLACE}\Z"
    rf"|(?:versions|aliases)/{_NAME}/[0-9]{{8}}\.json\Z|names/{_NAME}\.json\Z)"
)
_LOG = re.compile(rf"{_NAME}/[0-9]{{8}}\.json")
_SHOWN = 5
"""The most keys that an error lists."""


def require_unpublished(plan: Plan, target: Folder) -> None:
    """Check that a plan deletes and replaces no object of a published version. New objects may be added.

    Raises:
        FolderError: If it does.
        StorageError: If a model cannot be listed.
    """
    if not (plan.deletions or plan.replacements):
        return
    models = _Models(target)
    refused, count = list[str](), 0
    for step in plan.steps():
        if step.reason != "new" and (model := models.of(step.file.path)) is not None:
            count += 1
            if count <= _SHOWN:
                refused.append(f"{step.file.path!r} of the model {model!r}")
    if not count:
        return
    more = f", and {count - _SHOWN} more" if count > _SHOWN else ""
    raise FolderError(
        f"objects of published versions would be deleted or replaced in {target.url}: {', '.join(refused)}{more}; "
        "nothing was changed",
        ErrorDetails(url=target.url, operation="plan"),
        Remedy.FORCE,
    )


class _Models:
    """The models of a target."""

    def __init__(self, target: Folder) -> None:
        self._target = target
        self._known: dict[str, bool] = {}

    def of(self, path: str) -> str | None:
        """The model to whose published versions a file belongs."""
        key = self._key(path)
        for found in _OF_MODEL.finditer(key):
            base = key[: found.end()]
            if base not in self._known:
                self._known[base] = any(_LOG.fullmatch(each) for each in self._versions(base))
            if self._known[base]:
                return base.rstrip("/")
        return None

    def _key(self, path: str) -> str:
        folder = self._target
        if folder.local is not None:
            return folder.local.local_path(path)
        return folder.key(path) if isinstance(folder, StoredFolder) else path

    def _versions(self, base: str) -> Iterator[str]:
        """The paths below the versions of a model; the first one tells mostly."""
        prefix, folder = f"{base}versions/", self._target
        if folder.local is not None:
            return (each.path for each in LocalFolder(prefix).entries(Filter()))
        store = folder.store if isinstance(folder, StoredFolder) else None
        return (key.removeprefix(prefix) for key in store.list_keys(prefix)) if store is not None else iter(())
