"""The log of a version or of an alias: entries in contiguous slots, each created exclusively, never overwritten or removed.

Only the newest entry counts. Its slot has the smallest key, so one listing of one key finds it. Where listings are not in
order, or walk everything, HEAD requests find it: at slots 1, 2, 4, 8, … up to a missing one, then between the last two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError, StorageError
from gllm_storage.files.source import MemorySource
from gllm_storage.versions.entries import Aborted, Entry, decode_entry, encode_entry
from gllm_storage.versions.layout import slot_name, slot_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.store.port import ObjectStore
    from gllm_storage.versions.layout import Model


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
    """

    def __init__(self, store: ObjectStore, prefix: str, operation: str) -> None:
        self._store = store
        self._prefix = prefix
        self._operation = operation

    def newest(self) -> tuple[int, Entry | None]:
        """The newest entry and its slot; (0, None) if there is none.

        Raises:
            IntegrityError: If the entry is damaged, or was removed.
            UnsupportedOperationError: If a later version of this library wrote it.
            StorageError: If a request fails.
        """
        slot = self._first_slot() if self._store.finds_first else self._gallop()
        return slot, self.entry(slot) if slot else None

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
            raise IntegrityError(f"{details.operation} of {details.url}: an entry of the log was removed", details)
        return found

    def read(self, slot: int) -> Entry | None:
        """The entry of a slot; None if the slot is empty. Raises as `entry`."""
        key = self._key(slot)
        transfer = self._store.transfer(key, "read")
        try:
            data = self._store.read(key, transfer)
        except ObjectNotFoundError:
            return None
        return decode_entry(data, transfer.details)

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
        if found is None:
            return 0
        name = found.url.removeprefix(self._store.url(self._prefix))
        slot = slot_of(name.removesuffix(".json"))
        if slot is None:
            details = self._store.details(self._prefix + name, self._operation)
            raise IntegrityError(f"{details.url} is not an entry of the log that it is in", details)
        return slot

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
    return Log(model.store, f"{model.key('versions', version)}/", operation)


def alias_log(model: Model, alias: str, operation: str) -> Log:
    """The log of an alias."""
    return Log(model.store, f"{model.key('aliases', alias)}/", operation)


def create_exclusively(store: ObjectStore, key: str, data: bytes) -> None:
    """Create a small object.

    Raises:
        ObjectExistsError: If it exists.
        StorageError: If the request fails.
    """
    transfer = store.transfer(key, "upload")
    store.upload(store.request(key, MemorySource(data, transfer.details), transfer, exclusive=True))
