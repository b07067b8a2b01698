"""Aliases, such as "latest": pointers to versions that move by one exclusive create, with their history.

A mover reads the newest entry, and creates the next one. If another process created it first, the mover is told, and nothing
of its move remains: so of any number of movers no move is lost or reported wrongly.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import ObjectExistsError, Remedy
from gllm_storage.versions import entries
from gllm_storage.versions.catalog import Version, alias_names, manifest_of, newest_move, pointed_to, version_of
from gllm_storage.versions.entries import AliasEntry
from gllm_storage.versions.layout import model_of, require_atomic, require_name, require_outside
from gllm_storage.versions.log import alias_log
from gllm_storage.versions.register import enter, require_free

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.entries import Manifest
    from gllm_storage.versions.layout import Model

_OPERATION = "alias"


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias.

    Attributes:
        version: The name of the version that it was moved to.
        digest: The digest that the version had.
        time: When it was moved, by the clock of the mover, in ISO 8601.
    """

    version: str
    digest: str
    time: str


def set_alias(client: CloudStorageClient, model: str, alias: str, version: str, *, expected: str | None = None) -> Version:
    """Point an alias to a version, atomically. To roll back, move it to an earlier version.

    Without `expected`, an alias whose newest move is damaged is moved, too.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        alias: The name of the alias; as those of versions, with which it shares one namespace.
        version: The name of the version.
        expected: The version that the alias must point to now; None if any will do, also if the alias does not exist yet.

    Returns:
        The version that the alias points to.

    Raises:
        ValueError: If the path or a name is not valid.
        FileNotFoundError: If the version does not exist, or was deleted; also if it is deleted at the same moment: the
            alias was moved then, and `resolve` refuses it (`ObjectNotFoundError`).
        FileExistsError: If the alias does not point to `expected`, or another process moved it at the same moment, and the
            alias was not moved; or if the name is that of a version, or differs from another name only in case
            (`ObjectExistsError`).
        RuntimeError: If the store cannot create exclusively (`ConflictCheckUnsupportedError`), an entry is damaged
            (`IntegrityError`) or of a later format (`UnsupportedOperationError`), or a request fails (`StorageError`).

    Examples:
        >>> set_alias(client, "models/llama-ft", "latest", "v3").name
        'v3'
    """
    place = model_of(client, model)
    require_name(alias)
    require_atomic(place, _OPERATION)
    require_outside(place)
    target = manifest_of(place, require_name(version), _OPERATION)
    if expected is not None:
        require_name(expected)
    return version_of(place, move(place, alias, target, expected))


def require_alias(client: CloudStorageClient, model: str, alias: str, version: str) -> None:
    """Check, before a version is published, that an alias may have its name then.

    Raises:
        ValueError: If a name is not valid, or the alias has the name of the version.
        FileExistsError: If another version has the name, or another name differs only in case (`ObjectExistsError`).
        RuntimeError: If a request fails (`StorageError`).
    """
    if require_name(alias).lower() == require_name(version).lower():
        raise ValueError(f"alias {alias!r} has the name of the version; give it another one")
    require_free(model_of(client, model), alias, "alias", _OPERATION)


def alias_history(client: CloudStorageClient, model: str, alias: str) -> Iterator[AliasMove]:
    """The moves of an alias, the newest first. The first one is where it points now.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        alias: The name of the alias.

    Raises:
        ValueError: If the path or the name is not valid.
        RuntimeError: If an entry is damaged (`IntegrityError`) or of a later format (`UnsupportedOperationError`), or a
            request fails (`StorageError`).

    Examples:
        >>> next(alias_history(client, "models/llama-ft", "latest")).version
        'v3'
    """
    log = alias_log(model_of(client, model), require_name(alias), _OPERATION)
    return (
        AliasMove(entry.version, entry.digest, entry.time) for _, entry in log.entries() if isinstance(entry, AliasEntry)
    )


def list_aliases(client: CloudStorageClient, model: str) -> dict[str, AliasMove]:
    """The aliases of a model in the order of their names, each with its newest move.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.

    Raises:
        ValueError: If the path is not valid.
        RuntimeError: If an entry is damaged (`IntegrityError`) or of a later format (`UnsupportedOperationError`), or a
            request fails (`StorageError`).

    Examples:
        >>> list_aliases(client, "models/llama-ft")["latest"].version
        'v3'
    """
    place = model_of(client, model)
    found = {alias: newest_move(alias_log(place, alias, _OPERATION))[1] for alias in sorted(alias_names(place))}
    return {alias: AliasMove(entry.version, entry.digest, entry.time) for alias, entry in found.items() if entry is not None}


def move(model: Model, alias: str, target: Manifest, expected: str | None) -> Manifest:
    """Enter the name of an alias, and append a move to its log; raises as `set_alias`."""
    log = alias_log(model, alias, _OPERATION)
    if expected is None:
        slot = log.newest_slot()  # its entry may be damaged: the new one counts then
    else:
        slot, current = newest_move(log)
        if current is None or current.version != expected:
            require_free(model, alias, "alias", _OPERATION)
            found = "points to nothing" if current is None else f"points to {current.version!r}"
            raise _conflict(model, alias, f"{found}, and not to {expected!r}")
    enter(model, alias, "alias", _OPERATION)  # not before: a name that was entered stays taken
    entry = AliasEntry(target.version, target.digest, secrets.token_hex(16), entries.now(), alias)
    decision = log.decide(slot + 1, entry)
    if decision.entry == entry:
        # A deleter that did not see this move is seen here; one that did has the manifest after it.
        return pointed_to(model, alias, entry, _OPERATION)
    if isinstance(decision.entry, AliasEntry):
        raise _conflict(
            model, alias, f"was moved to {decision.entry.version!r} at the same moment, so not to {target.version!r}"
        )
    if decision.failure is not None:
        raise decision.failure
    raise _conflict(model, alias, "was being moved at the same moment, by a process whose request failed")


def _conflict(model: Model, alias: str, state: str) -> ObjectExistsError:
    details = model.store.details(model.key("aliases", alias), _OPERATION)
    return ObjectExistsError(
        f"alias {alias!r} of {model.store.url(model.prefix)} {state}; it was not moved", details, Remedy.READ_ALIAS_AGAIN
    )
