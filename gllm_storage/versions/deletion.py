"""`delete_version`: the log of a version ends with "deleted". Garbage collection deletes its files later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import IntegrityError, StorageError
from gllm_storage.versions import entries
from gllm_storage.versions.catalog import alias_names, newest_move
from gllm_storage.versions.entries import Aborted, Deleted, Manifest
from gllm_storage.versions.layout import model_of, require_atomic, require_name
from gllm_storage.versions.log import alias_log, version_log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.layout import Model

_OPERATION = "delete"


@dataclass(frozen=True)
class Deletion:
    """The result of `delete_version`. It is true if the call deleted the version.

    Attributes:
        deleted: Whether this call deleted the version; if not, there was none, or another process deleted it.
        aliases: The aliases that point to the deleted version, which `resolve` refuses now.
    """

    deleted: bool
    aliases: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.deleted


def delete_version(client: CloudStorageClient, model: str, version: str) -> Deletion:
    """Delete a version. Its name can be published again, with any files.

    Readers that have begun may still finish: the files stay until garbage collection deletes them. An alias to the version
    is refused by `resolve` from now on. A version with a damaged newest entry can be deleted, too.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        version: The name of the version; an alias is not one.

    Returns:
        Whether this call deleted the version, and the aliases that point to it.

    Raises:
        ValueError: If the path or the name is not valid.
        RuntimeError: If an entry is of a later format (`UnsupportedOperationError`); if the store cannot create exclusively
            (`ConflictCheckUnsupportedError`), or if a request fails (`StorageError`). If the entry of an alias is damaged
            (`IntegrityError`), the version was deleted, as the message says.

    Examples:
        >>> delete_version(client, "models/llama-ft", "v3")
        Deletion(deleted=True, aliases=('latest',))
    """
    place = model_of(client, model)
    require_name(version)
    require_atomic(place, _OPERATION)
    entry = mark_deleted(place, version)
    if entry is None:
        return Deletion(deleted=False)
    # After the entry: of a mover and a deleter at the same moment, at least one sees the other.
    digest = entry.digest if isinstance(entry, Deleted) else None
    return Deletion(deleted=True, aliases=tuple(_aliases(place, {(version, digest)})))


def mark_deleted(model: Model, version: str, *, only: Manifest | None = None) -> Aborted | Deleted | None:
    """End the log of a version with "deleted"; raises as `delete_version`.

    Args:
        model: The model.
        version: The name of the version.
        only: The manifest to delete; None for any.

    Returns:
        The entry, which is "aborted" after a damaged one, since the digest is not known; None if there was no such version,
        or another process deleted it.
    """
    log = version_log(model, version, _OPERATION)
    slot = log.newest_slot()
    try:
        found = log.entry(slot) if slot else None
    except IntegrityError:
        if only is not None:
            raise
        return Aborted() if log.create(slot + 1, Aborted()) is None else None
    if not isinstance(found, Manifest) or (only is not None and found != only):
        return None
    # Only another deleter can take this slot: publishers leave the log of a published version alone.
    entry = Deleted(found.digest, found.place, entries.now())
    return entry if log.create(slot + 1, entry) is None else None


def aliases_to(model: Model, manifests: Iterable[Manifest]) -> list[str]:
    """The aliases that point to one of some versions. Read after their deletion, as in `delete_version`.

    Raises:
        StorageError: If a request fails, or an entry is damaged.
    """
    versions: set[tuple[str, str | None]] = {(each.version, each.digest) for each in manifests}
    return _aliases(model, versions) if versions else []


def _aliases(model: Model, versions: set[tuple[str, str | None]]) -> list[str]:
    """The aliases that point to one of some deleted versions, each given with its digest, or with None for any."""
    found = []
    try:
        for alias in alias_names(model):
            _, entry = newest_move(alias_log(model, alias, _OPERATION))
            if entry is not None and not versions.isdisjoint({(entry.version, entry.digest), (entry.version, None)}):
                found.append(alias)
    except StorageError as error:
        names = ", ".join(sorted(version for version, _ in versions))
        raise type(error)(f"{names}: deleted, but the aliases could not be read: {error.message}", error.details) from error
    return found
