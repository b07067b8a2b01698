"""Whether a plan would change files that it reads, because one folder lies in the other.

One folder may have several URLs, such as two names of an endpoint. So folders with different URLs are compared as well, by
the facts about their objects.
"""

from __future__ import annotations

import dataclasses
import os
from itertools import islice
from typing import TYPE_CHECKING

from gllm_storage.errors import ErrorDetails, FolderError, ObjectNotFoundError
from gllm_storage.folders.entries import StoredFolder
from gllm_storage.folders.plan import merged
from gllm_storage.store.port import is_same_version

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.folders.entries import Entry, Folder
    from gllm_storage.folders.plan import Plan

_SHOWN = 5
"""The most files that an error lists, and the most objects that are compared."""


def require_apart(source: Folder, target: Folder) -> None:
    """Check that neither folder lies in the other, as far as their URLs tell.

    Raises:
        ValueError: If one does.
    """
    if _is_nested(source, target):
        raise ValueError(f"{source.url} and {target.url}: one folder lies in the other; name folders that are apart")


def require_kept_sources(plan: Plan, source: Folder, target: Folder, *, removes: bool = False) -> None:
    """Check that a plan deletes and replaces no file that it reads.

    Args:
        plan: The plan.
        source: The source.
        target: The target.
        removes: Whether a source is deleted after its transfer, so that it must not be its own target either.

    Raises:
        FolderError: If it does.
        StorageError: If a request for the facts about an object fails.
    """
    roots = _roots_of(source, target)
    if roots is None or (roots[0] == roots[1] and not removes):
        return
    one, other = roots
    if not (one.startswith(other) or other.startswith(one)):
        return
    found = list(islice(_targets_among_sources(plan, one, other), _SHOWN))
    if not _is_nested(source, target):
        found = [path for path in found if _is_one_object(path, f"{one}{path}".removeprefix(other), source, target)]
    if found:
        raise FolderError(
            f"{plan.source} and {plan.target}: one folder lies in the other, and files of the source would be replaced or "
            f"deleted, such as {', '.join(map(repr, found))}; nothing was changed",
            ErrorDetails(url=plan.target, operation="plan"),
        )


def _root_of(folder: Folder) -> str:
    if folder.local is not None:
        return f"{os.path.realpath(folder.local.path).rstrip('/')}/"
    return f"{folder.store.place} {folder.url}" if isinstance(folder, StoredFolder) else folder.url


def _is_nested(source: Folder, target: Folder) -> bool:
    one, other = _root_of(source), _root_of(target)
    return one.startswith(other) or other.startswith(one)


def _roots_of(source: Folder, target: Folder) -> tuple[str, str] | None:
    """Where two folders begin, if they may have files in common: local paths, prefixes of keys, or parts of URLs."""
    if source.local is not None and target.local is not None:
        return _root_of(source), _root_of(target)
    if not (isinstance(source, StoredFolder) and isinstance(target, StoredFolder)):
        return None
    if source.local is not None or target.local is not None or source.store.provider != target.store.provider:
        return None
    if source.store.provider == "fsspec":  # the key of a file depends on the client, and sftp:// may also be called ssh://
        return source.url.partition("://")[2], target.url.partition("://")[2]
    return source.prefix, target.prefix


def _targets_among_sources(plan: Plan, source: str, target: str) -> Iterator[str]:
    """The paths in the source of files that the plan changes in the target, if both are of one store."""
    for change in ("transfer", "delete"):
        for read in ("transfer", "skip"):
            changed = _changed(plan, change, source, target)
            for one, other in merged(changed, (step.file for step in plan.steps(read))):
                if one is not None and other is not None:
                    yield one.path


def _changed(plan: Plan, change: str, source: str, target: str) -> Iterator[Entry]:
    for step in plan.steps(change):
        key = f"{target}{step.file.path}"
        if step.reason != "new" and key.startswith(source):
            yield dataclasses.replace(step.file, path=key.removeprefix(source))


def _is_one_object(path: str, target_path: str, source: Folder, target: Folder) -> bool:
    """Whether two paths, whose names are equal, are those of one object."""
    if not (isinstance(source, StoredFolder) and isinstance(target, StoredFolder)):
        return True
    try:
        one = source.store.info(source.key(path), "plan")
        return is_same_version(one, target.store.info(target.key(target_path), "plan"))
    except ObjectNotFoundError:
        return False
