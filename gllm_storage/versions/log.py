"""The log of a version or of an alias: entries in contiguous slots, each created exclusively, never overwritten or removed.

Only the newest entry counts. Its slot has the smallest key, so one listing of one key finds it. Where listings are not in
order, or walk everything, HEAD requests find it: at slots 1, 2, 4, 8, … up to a missing one, then between the last two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, cast

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError, Remedy, StorageError
from gllm_storage.files.source import MemorySource
from gllm_storage.store.port import ReadItem, unwatched
from gllm_storage.versions.entries import Aborted, AliasEntry, Entry, Manifest, decode_entry, encode_entry
from gllm_storage.versions.layout import exclusive_creates, is_name, slot_name, slot_of
from gllm_storage.versions.tree import damaged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.versions.layout import Model

_AT_A_TIME = 1000
"""Entries that are read side by side before the next ones."""


@dataclass(frozen=True)
class Decision:
    """The result of an attempt to create an entry.

    Attributes:
        entry: The entry that the slot holds, for ever.
        failure: The failure of the request that was to create the entry; None if it was answered.
    """

    entry: Entry
    failure: StorageError | None = None


class Log:
    """The log of one name.

    Args:
        store: The store.
        prefix: The key prefix of the entries; it ends with a slash.
        operation: The operation, for errors.
        remedy: The advice about a damaged entry.
    """

    def __init__(self, store: ObjectStore, prefix: str, operation: str, remedy: Remedy) -> None:
        self._store = store
        self._prefix = prefix
        self._name = prefix.removesuffix("/").rpartition("/")[2]
        self._operation = operation
        self._remedy = remedy

    def newest(self) -> tuple[int, Entry | None]:
        """The newest entry and its slot; (0, None) if there is none.

        Raises:
            IntegrityError: If the entry is damaged, or was removed.
            UnsupportedOperationError: If a later version of this library wrote it.
            StorageError: If a request fails.
        """
        slot = self.newest_slot()
        return slot, self.entry(slot) if slot else None

    def newest_slot(self) -> int:
        """The slot of the newest entry, which may be damaged; 0 if there is none.

        Raises:
            StorageError: If a request fails.
        """
        return self._first_slot() if self._store.finds_first else self._gallop()

    def entry(self, slot: int) -> Entry:
        """The entry of a slot that is taken.

        Raises:
            IntegrityError: If the entry is damaged, or was removed.
            UnsupportedOperationError: If a later version of this library wrote it.
            StorageError: If the request fails.
        """
        found = self.read(slot)
        if found is None:
            details = self._store.details(self._key(slot), self._operation)
            raise IntegrityError(
                f"{details.operation} of {details.url}: an entry of the log was removed", details, self._remedy
            )
        return found

    def read(self, slot: int) -> Entry | None:
        """The entry of a slot; None if the slot is empty. Raises as `entry`."""
        key = self._key(slot)
        transfer = self._store.transfer(key, "read")
        try:
            data = self._store.read(key, transfer)
        except ObjectNotFoundError:
            return None
        details = replace(transfer.details, remedy=self._remedy)
        entry = decode_entry(data, details)
        if isinstance(entry, AliasEntry) and entry.alias not in {"", self._name}:
            raise damaged(details, f"it is a move of the alias {entry.alias!r}")
        return entry

    def create(self, slot: int, entry: Entry) -> Entry | None:
        """Create an entry, exclusively.

        Args:
            slot: The slot behind the newest entry.
            entry: The entry.

        Returns:
            None if it was created; otherwise the entry that the slot holds.

        Raises:
            ConflictCheckUnsupportedError: If the store cannot create exclusively.
            StorageError: If the request fails. The entry may still appear, at any time, until the slot is taken.
        """
        try:
            create_exclusively(self._store, self._key(slot), encode_entry(entry))
        except ObjectExistsError:
            return self.entry(slot)
        return None

    def decide(self, slot: int, entry: Entry) -> Decision:
        """Create an entry, and know at the end the entry of the slot, although the answer to the request may be lost.

        A request without an answer may still take effect, at any time. So an empty slot is taken by an `Aborted` entry:
        then the request cannot take effect any more.

        Args:
            slot: The slot behind the newest entry.
            entry: The entry.

        Raises:
            StorageError: If the slot could not be decided: the entry may still appear.
        """
        try:
            return Decision(self.create(slot, entry) or entry)
        except StorageError as error:
            found = self.read(slot)
            if found is None:
                found = self.create(slot, Aborted()) or Aborted()
            return Decision(found, error)

    def entries(self) -> Iterator[tuple[int, Entry]]:
        """All entries with their slots, the newest first.

        Raises:
            StorageError: If a request fails, or an entry is damaged.
        """
        newest, entry = self.newest()
        if entry is not None:
            yield newest, entry
        for slot in range(newest - 1, 0, -1):
            yield slot, self.entry(slot)

    def _key(self, slot: int) -> str:
        return f"{self._prefix}{slot_name(slot)}.json"

    def _first_slot(self) -> int:
        found = self._store.first(self._prefix)
        slot = self._slot_of(found) if found else 0
        if slot is not None:
            return slot
        # Something else is in the folder, as the object of an S3 probe may be.
        return next((slot for each in self._store.list(self._prefix) if (slot := self._slot_of(each)) is not None), 0)

    def _slot_of(self, info: ObjectInfo) -> int | None:
        name = info.url.removeprefix(self._store.url(self._prefix))
        return slot_of(name.removesuffix(".json")) if name.endswith(".json") else None

    def _gallop(self) -> int:
        """The newest slot. Between two HEAD requests other entries may appear: the result was the newest at one moment."""
        below, above = 0, 1
        while self._is_taken(above):
            below, above = above, 2 * above
        while above - below > 1:
            middle = (below + above) // 2
            if self._is_taken(middle):
                below = middle
            else:
                above = middle
        return below

    def _is_taken(self, slot: int) -> bool:
        try:
            self._store.info(self._key(slot), "exists")
        except ObjectNotFoundError:
            return False
        return True


def version_log(model: Model, version: str, operation: str) -> Log:
    """The log of a version."""
    return Log(model.store, f"{model.key('versions', version)}/", operation, Remedy.DELETE_VERSION)


def alias_log(model: Model, alias: str, operation: str) -> Log:
    """The log of an alias."""
    return Log(model.store, f"{model.key('aliases', alias)}/", operation, Remedy.MOVE_ALIAS)


@dataclass(frozen=True)
class LoggedEntry:
    """An entry of the log of a version.

    Attributes:
        version: The name of the version.
        slot: The slot.
        time: When it was written, by the clock of the store; None if the store tells no time.
    """

    version: str
    slot: int
    time: datetime | None


def logged_entries(model: Model) -> Iterator[LoggedEntry]:
    """The entries of the logs of all versions, in the order of the listing, without their content: one listing.

    Entries are never removed, and each one that exists when the listing begins is in it. So the newest one of a log in it is
    the newest at one moment since then, also if the listing has several pages.

    Raises:
        StorageError: If a request fails.
    """
    prefix = f"{model.key('versions')}/"
    start = model.store.url(prefix)
    for info in model.store.list(prefix):
        version, _, name = info.url.removeprefix(start).partition("/")
        slot = slot_of(name.removesuffix(".json")) if name.endswith(".json") else None
        if slot is not None and is_name(version):
            yield LoggedEntry(version, slot, info.last_modified)


def newest_in(logged: Iterable[LoggedEntry]) -> list[LoggedEntry]:
    """The newest entry of each log, in the order of the names."""
    newest: dict[str, LoggedEntry] = {}
    for each in logged:
        if each.version not in newest or newest[each.version].slot < each.slot:
            newest[each.version] = each
    return [newest[version] for version in sorted(newest)]


def read_entries(model: Model, logged: Iterable[LoggedEntry]) -> Iterator[tuple[LoggedEntry, Entry]]:
    """The content of entries, many at a time.

    Raises:
        IntegrityError: If one is damaged, was removed, or is the manifest of another version.
        UnsupportedOperationError: If a later version of this library wrote it.
        StorageError: If a request fails.
    """
    rest = iter(logged)
    while batch := list(islice(rest, _AT_A_TIME)):
        keys = [model.key("versions", each.version, f"{slot_name(each.slot)}.json") for each in batch]
        try:
            found = model.store.read_many([ReadItem(key, unwatched) for key in keys], Stop(running_stop()))
        except ObjectNotFoundError as error:
            message = f"{error.message}: an entry of the log was removed"
            raise IntegrityError(message, error.details, Remedy.DELETE_VERSION) from error
        for each, key, data in zip(batch, keys, found, strict=True):
            details = replace(model.store.details(key, "read"), remedy=Remedy.DELETE_VERSION)
            entry = decode_entry(cast("bytes", data), details)
            require_own(entry, each.version, model.store.details(model.key("versions", each.version), "read"))
            yield each, entry


def require_own(entry: Entry | None, version: str, details: ErrorDetails) -> None:
    """Check that an entry in the log of a version is not the manifest of another one, which a tool has put there.

    Raises:
        IntegrityError: If it is.
    """
    if isinstance(entry, Manifest) and entry.version != version:
        raise IntegrityError(
            f"{details.url} has the manifest of another version, {entry.version!r}", details, Remedy.DELETE_VERSION
        )


def create_exclusively(store: ObjectStore, key: str, data: bytes) -> None:
    """Create a small object.

    Raises:
        ObjectExistsError: If it exists.
        StorageError: If the request fails.
    """
    transfer = store.transfer(key, "upload")
    with exclusive_creates(transfer.details):
        store.upload(store.request(key, MemorySource(data, transfer.details), transfer, exclusive=True))
