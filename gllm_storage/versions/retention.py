"""`retain`: deletes the versions that no rule keeps; by default it only tells which ones."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.versions.catalog import Version, alias_names, newest_move, version_of
from gllm_storage.versions.collector import time_of_store
from gllm_storage.versions.deletion import aliases_to, mark_deleted
from gllm_storage.versions.entries import Manifest
from gllm_storage.versions.layout import model_of, require_atomic, require_count, require_period, time_before
from gllm_storage.versions.log import alias_log, logged_entries, newest_in, read_entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.log import LoggedEntry

_OPERATION = "retain"
_LONG_AGO = dt.datetime.min.replace(tzinfo=dt.UTC)


@dataclass(frozen=True)
class Retention:
    """The result of `retain`.

    Attributes:
        kept: The names of the versions that stay, the oldest first, each with the rules that keep it, such as
            ``("alias latest", "last 3")``.
        deleted: The versions that were deleted, or would be in a dry run, the oldest first.
        aliases: The aliases that were moved to one of these versions meanwhile, and which `resolve` refuses now.
    """

    kept: Mapping[str, tuple[str, ...]]
    deleted: tuple[Version, ...]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Published:
    """A published version, with the facts that the rules are about."""

    manifest: Manifest
    time: dt.datetime
    number: int
    """The position of its name among all that the model ever had, by their first entries, from 1."""


def retain(
    client: CloudStorageClient,
    model: str,
    *,
    keep_last: int = 0,
    keep_every: int = 0,
    keep_younger: dt.timedelta | None = None,
    dry_run: bool = True,
) -> Retention:
    """Delete the versions that no rule keeps. A version that an alias names is always kept.

    The files go with the next `collect_garbage`, after its grace period.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        keep_last: How many of the newest versions to keep.
        keep_every: Keep each version whose number is a multiple of this. The names of a model are numbered from 1 in the
            order in which they first appeared; deleted ones count, so a second call keeps the same versions. 0 for no such
            rule.
        keep_younger: Keep the versions that were published within this time, by the clock of the store.
        dry_run: Whether only to return the versions that would be deleted, the default. The time of now is that of this
            machine then, and nothing is written.

    Returns:
        The versions that stay, and those that were deleted.

    Raises:
        ValueError: If the path is not valid, no rule is given, or one is negative or of another type.
        RuntimeError: If an entry is damaged (`IntegrityError`) or of a later format (`UnsupportedOperationError`); if the
            store cannot create exclusively (`ConflictCheckUnsupportedError`); or if a request fails (`StorageError`): some
            of the versions may be deleted then.

    Examples:
        >>> retain(client, "models/llama-ft", keep_last=10).deleted
        ()
    """
    require_count("rule of retention keep_last", keep_last)
    require_count("rule of retention keep_every", keep_every)
    if keep_younger is not None:
        require_period("rule of retention keep_younger", keep_younger)
    if not (keep_last or keep_every or keep_younger):
        raise ValueError("name a rule of retention: keep_last, keep_every or keep_younger")
    place = model_of(client, model)
    if not dry_run:
        require_atomic(place, _OPERATION)
    published = _published(place)
    named = _aliases_by_version(place)  # after the versions: an alias to a later one keeps nothing of these
    since = time_before(time_of_store(place, write=not dry_run), keep_younger) if keep_younger else None
    kept: dict[str, tuple[str, ...]] = {}
    doomed: list[Manifest] = []
    for position, each in enumerate(published):
        rules = [f"alias {alias}" for alias in named.get(each.manifest.version, ())]
        rules += [f"last {keep_last}"] if position >= len(published) - keep_last else []
        rules += [f"every {keep_every}"] if keep_every and each.number % keep_every == 0 else []
        rules += ["younger"] if since and each.time > since else []
        if rules:
            kept[each.manifest.version] = tuple(rules)
        else:
            doomed.append(each.manifest)
    if dry_run:
        return Retention(kept, tuple(version_of(place, each) for each in doomed))
    # A version that was replaced since it was read is not the one that the rules are about.
    deleted = [each for each in doomed if mark_deleted(place, each.version, only=each) is not None]
    return Retention(kept, tuple(version_of(place, each) for each in deleted), tuple(aliases_to(place, deleted)))


def _published(model: Model) -> list[_Published]:
    """The published versions, the oldest first."""
    logged = list(logged_entries(model))
    # The oldest entry is that of slot 1, unless another program has removed it.
    oldest = {each.version: each for each in sorted(logged, key=lambda each: each.slot, reverse=True)}
    firsts = sorted(oldest.values(), key=lambda each: (each.time or _LONG_AGO, each.version))
    numbers = {each.version: number for number, each in enumerate(firsts, 1)}
    found = [
        _Published(entry, _time_of(each, entry), numbers[each.version])
        for each, entry in read_entries(model, newest_in(logged))
        if isinstance(entry, Manifest)
    ]
    return sorted(found, key=lambda each: (each.time, each.manifest.version))


def _time_of(logged: LoggedEntry, manifest: Manifest) -> dt.datetime:
    """When a version was published: by the clock of the store, or else by that of the publisher.

    Raises:
        ValueError: If neither tells the time.
    """
    if logged.time is not None:
        return logged.time
    found = dt.datetime.fromisoformat(manifest.time)
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _aliases_by_version(model: Model) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for alias in alias_names(model):
        _, entry = newest_move(alias_log(model, alias, _OPERATION))
        if entry is not None:
            found.setdefault(entry.version, []).append(alias)
    return found
