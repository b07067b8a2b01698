"""Which objects belong to the published versions of a model, and so are not deleted or replaced by mistake.

The versions of a model are logs of objects that are never changed (`gllm_storage.versions`). A slot that became free again
could be taken by a process that read the log long ago, and files of a version that changed have another digest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gllm_storage.errors import ErrorDetails, FolderError, Remedy
from gllm_storage.folders.entries import LocalFolder, StoredFolder, files_of
from gllm_storage.folders.filters import Filter
from gllm_storage.folders.plan import in_order, merged
from gllm_storage.paths import VERSION_NAME, possible_models

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gllm_storage.folders.entries import Folder
    from gllm_storage.folders.plan import Plan
    from gllm_storage.store.port import ObjectStore

_LOG = re.compile(rf"{VERSION_NAME}/[0-9]{{8}}\.json")
_MARK = re.compile(r"[0-9a-f]{64}-[0-9]+/.+")
"""A publisher works there, who has no entry of a log yet if this is the first version."""
_SHOWN = 5
"""The most keys that an error lists."""
_UNKNOWN = frozenset({"asked"})
"""The reasons of transfers that do not tell whether the target has the file: the plan was made without a look at it."""
_UNKNOWN_LATER = frozenset({"asked", "new"})
"""The same for a plan that was made some time ago."""


def require_unpublished(
    plan: Plan, folder: Folder, *, replaces: bool = True, removes: bool = False, is_old: bool = False
) -> None:
    """Check that a plan deletes and replaces no object of a published version. New objects may be added.

    Args:
        plan: The plan.
        folder: The target; or the source, if `removes` is set.
        replaces: Whether a transfer replaces a file that exists.
        removes: Whether the plan removes the files that it transfers from the folder.
        is_old: Whether the plan was made some time ago: a file that was new then may be that of a version now.

    Raises:
        FolderError: If it does.
        StorageError: If a model cannot be listed.
    """
    if not (plan.deletions or plan.replacements or (is_old and plan.transfers)):
        return
    models = _Models(folder)
    refused, count = list[str](), 0
    unknown = _UNKNOWN_LATER if is_old else _UNKNOWN
    for path in _moved(plan) if removes else _changed(plan, models, folder, unknown, replaces=replaces):
        if (model := models.of(path)) is not None:
            count += 1
            if count <= _SHOWN:
                refused.append(f"{path!r} of the model {model!r}")
    if not count:
        return
    more = f", and {count - _SHOWN} more" if count > _SHOWN else ""
    raise FolderError(
        f"objects of published versions would be deleted or replaced in {folder.url}: {', '.join(refused)}{more}; "
        "nothing was changed",
        ErrorDetails(url=folder.url, operation="plan"),
        Remedy.FORCE,
    )


def require_unpublished_object(store: ObjectStore, key: str) -> None:
    """Check that an object that is to be deleted or replaced is not one of a published version, if it exists.

    Raises:
        FolderError: If it is.
        StorageError: If a request fails.
    """
    model = _Models(StoredFolder(store, "")).of(key)
    if model is None or not store.exists(key):
        return
    details = store.details(key, "plan")
    raise FolderError(
        f"{details.url} is an object of the published versions of the model {model!r}, and was not changed",
        details,
        Remedy.FORCE,
    )


def _moved(plan: Plan) -> Iterator[str]:
    return (step.file.path for step in plan.steps("transfer"))


def _changed(plan: Plan, models: _Models, target: Folder, unknown: frozenset[str], *, replaces: bool) -> Iterator[str]:
    """The files of the target that a plan deletes or replaces."""
    asks = False
    for step in plan.steps():
        if step.reason in unknown:
            asks = asks or (replaces and models.of(step.file.path) is not None)
        elif step.reason != "new" and (replaces or step.action == "delete"):
            yield step.file.path
    if asks:
        yield from in_order(lambda: list(_existing(plan, models, target, unknown)))


def _existing(plan: Plan, models: _Models, target: Folder, unknown: frozenset[str]) -> Iterator[str]:
    asked = (
        step.file for step in plan.steps("transfer") if step.reason in unknown and models.of(step.file.path) is not None
    )
    for one, other in merged(asked, files_of(target)):
        if one is not None and other is not None:
            yield one.path


class _Models:
    """The models of a target."""

    def __init__(self, target: Folder) -> None:
        self._target = target
        self._known: dict[str, bool] = {}

    def of(self, path: str) -> str | None:
        """The model to whose published versions a file belongs."""
        key = self._key(path)
        for base in possible_models(key):
            if base not in self._known:
                self._known[base] = self._has(f"{base}versions/", _LOG) or self._has(f"{base}marks/", _MARK)
            if self._known[base]:
                return base.rstrip("/")
        return None

    def _key(self, path: str) -> str:
        folder = self._target
        if folder.local is not None:
            return folder.local.local_path(path)
        return folder.key(path) if isinstance(folder, StoredFolder) else path

    def _has(self, prefix: str, pattern: re.Pattern[str]) -> bool:
        """Whether there is a key of a form below a prefix; the first one tells mostly."""
        folder = self._target
        if folder.local is not None:
            paths: Iterable[str] = (each.path for each in LocalFolder(prefix).entries(Filter()))
        elif isinstance(folder, StoredFolder):
            paths = (key.removeprefix(prefix) for key in folder.store.list_keys(prefix))
        else:
            paths = ()
        return any(pattern.fullmatch(each) for each in paths)
