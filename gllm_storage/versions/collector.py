"""`collect_garbage`: deletes the files that no version names, beside publishers and readers, and safe at any clock.

The design, with the failure sequences, is docs/design/versions.md. The order of the requests is the protocol, for all
candidates in one batch:

1. Create the tombstones, so that no publisher begins there any more.
2. List the marks; create the slot that each one names as "aborted", so that its publisher can never commit.
3. List the logs anew, and read the newest entry of each: a directory that one names is kept.
4. Delete the files of the others, and the marks last. The tombstones stay.
"""

from __future__ import annotations

import datetime as dt
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import ObjectExistsError, Remedy, UnsupportedOperationError
from gllm_storage.store.port import nothing
from gllm_storage.versions.entries import Aborted, Deleted, Manifest
from gllm_storage.versions.layout import is_place, mark_of, model_of, require_atomic, require_period, time_before
from gllm_storage.versions.log import create_exclusively, logged_entries, newest_in, read_entries, version_log

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.info import ObjectInfo
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.log import LoggedEntry

_OPERATION = "gc"
_AT_ONCE = 1000
"""Keys that are deleted at a time."""
DEFAULT_GRACE = dt.timedelta(days=1)
"""The default of `collect_garbage`."""


@dataclass(frozen=True)
class Garbage:
    """A directory that no version names.

    Attributes:
        url: The URL of the directory.
        files: Number of files, the list of the files included.
        size: Their size in bytes.
    """

    url: str
    files: int
    size: int


def collect_garbage(
    client: CloudStorageClient,
    model: str,
    *,
    grace: dt.timedelta = DEFAULT_GRACE,
    dry_run: bool = False,
    one_machine: bool = False,
) -> list[Garbage]:
    """Delete the files of a model that no version names: those of deleted versions, and of publishers that did not end.

    A published version is safe, whatever the clocks say. The grace period spares publishers that are alive: they would have
    to send their files again. It also spares readers of a version that was just deleted.

    Args:
        client: The client of the store.
        model: The path of the model, as for `publish`.
        grace: A directory is left alone if a mark, a file, or the deletion of its version is younger, by the clock of the
            store. Default 1 day.
        dry_run: Whether only to return the directories that would be deleted. Nothing is written then, and the time of now
            is that of this machine.
        one_machine: Whether no other machine writes to the model meanwhile. Needed on a disk that machines share through a
            cache of names, such as NFS: there a listing may miss the newest writes of other machines.

    Returns:
        The deleted directories.

    Raises:
        ValueError: If the path is not valid, or the grace period is negative or not a `timedelta`.
        RuntimeError: If the store is a disk such as NFS, and `one_machine` is not set (`UnsupportedOperationError`); if the
            store cannot create exclusively (`ConflictCheckUnsupportedError`), an entry of a log is damaged
            (`IntegrityError`), or a request fails (`StorageError`). All versions are complete then, too.

    Examples:
        >>> collect_garbage(client, "models/llama-ft", dry_run=True)
        []
    """
    require_period("grace", grace)
    place = model_of(client, model)
    collector = Collector(place)
    candidates = collector.candidates(grace, dry_run=dry_run)
    if dry_run:
        return [collector.described(each) for each in candidates]
    require_atomic(place, _OPERATION)
    if not (one_machine or place.store.shows_writes_at_once):
        details = place.store.details(place.key("data"), _OPERATION)
        raise UnsupportedOperationError(
            f"{details.url} is on a disk where a listing may miss the newest writes of another machine, so files of a "
            "version that is being published could be deleted; nothing was deleted",
            details,
            Remedy.ONE_MACHINE,
        )
    deleted = collector.collect(candidates)
    collector.discard_parts(grace)
    return deleted


class Collector:
    """One garbage collection of a model.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.store = model.store

    def candidates(self, grace: dt.timedelta, *, dry_run: bool) -> list[str]:
        """The directories that no version names now, and that are older than the grace period.

        Raises:
            StorageError: If a request fails, or an entry of a log is damaged.
        """
        logged = list(logged_entries(self.model))
        named = self._named_in(logged)
        found = [each for each in sorted(self._places() - named) if not self._is_empty(each)]
        if not grace or not found:
            return found
        latest = self._latest(grace, write=not dry_run)
        # A directory may be one of several deleted versions, and a later entry may have followed the deletion.
        young = [each for each in logged if each.time is not None and each.time > latest]
        spared = {entry.place for _, entry in read_entries(self.model, young) if isinstance(entry, Deleted)}
        return [each for each in found if each not in spared and self._is_older(each, latest)]

    def collect(self, places: Iterable[str]) -> list[Garbage]:
        """Delete the directories that no version names, and none ever will.

        Raises:
            StorageError: If a request fails, or an entry of a log is damaged.
        """
        places = list(places)
        for each in places:
            self.bury(each)
        marks = {each: self.marks(each) for each in places}
        for each in places:
            self.end_publishers(each, marks[each])
        kept = self.named() if places else set()
        kept |= {each for each in places if self._has_foreign_mark(each, marks[each])}
        return [self.empty(each, marks[each]) for each in places if each not in kept]

    def discard_parts(self, grace: dt.timedelta) -> None:
        """Remove the parts of files that publishers did not end, also in directories of versions.

        Another publisher of the same content may have sent the file in parts of another size: then no publisher needs them.

        Raises:
            StorageError: If a request fails.
        """
        prefix = f"{self.model.key('data')}/"
        begun: dict[str, list[dt.datetime | None]] = {}
        for key, time in self.store.unfinished_uploads(prefix):
            begun.setdefault(key.removeprefix(prefix).partition("/")[0], []).append(time)
        latest = self._latest(grace, write=True) if grace and begun else None
        for place in filter(is_place, begun):
            if latest is None or (_are_older(begun[place], latest) and self._is_older(place, latest)):
                self.store.discard_parts(self.model.data(place))

    def bury(self, place: str) -> None:
        """Create the tombstone of a directory, unless it has one."""
        try:
            create_exclusively(self.store, self.model.tomb(place), b"")
        except ObjectExistsError:
            return

    def marks(self, place: str) -> list[str]:
        """The keys of the marks of a directory."""
        return list(self.store.list_keys(self.model.marks(place)))

    def end_publishers(self, place: str, marks: Iterable[str]) -> None:
        """Take the slots that marks name, so that their publishers can never commit."""
        found = {mark_of(each.removeprefix(self.model.marks(place))) for each in marks}
        for mark in sorted(each for each in found if each is not None):
            version_log(self.model, mark.version, _OPERATION).create(mark.slot, Aborted())

    def named(self) -> set[str]:
        """The directories that the newest entry of a version names."""
        return self._named_in(logged_entries(self.model))

    def empty(self, place: str, marks: list[str]) -> Garbage:
        """Delete the files of a directory, and then its marks."""
        garbage = self.described(place)
        self.store.discard_parts(self.model.data(place))
        self._delete(self.store.list_keys(self.model.data(place)))
        self._delete([self.model.tree(place)])
        self._delete(marks)
        return garbage

    def described(self, place: str) -> Garbage:
        """The files of a directory, and the list of them."""
        files = size = 0
        for info in self._objects(place):
            files, size = files + 1, size + info.size
        return Garbage(self.store.url(self.model.data(place)), files, size)

    def _named_in(self, logged: Iterable[LoggedEntry]) -> set[str]:
        entries = read_entries(self.model, newest_in(logged))
        return {entry.place for _, entry in entries if isinstance(entry, Manifest)}

    def _delete(self, keys: Iterable[str]) -> None:
        transfer = self.store.transfer(self.model.key("data"), "delete")
        waiting: list[str] = []
        for key in keys:
            waiting.append(key)
            if len(waiting) == _AT_ONCE:
                self.store.delete_many(waiting, transfer)
                waiting = []
        if waiting:
            self.store.delete_many(waiting, transfer)

    def _places(self) -> set[str]:
        """All directories that have a file, a list, or a mark. A tombstone alone is not garbage."""
        found: set[str] = set()
        for folder in ("data", "marks"):
            prefix = f"{self.model.key(folder)}/"
            start = self.store.url(prefix)
            urls = (each for each in self.store.list_folder(prefix) if isinstance(each, str))
            found.update(each.removeprefix(start).removesuffix("/") for each in urls)
        trees = f"{self.model.key('trees')}/"
        found.update(each.removeprefix(trees).removesuffix(".jsonl") for each in self.store.list_keys(trees))
        return {each for each in found if is_place(each)}

    def _has_foreign_mark(self, place: str, marks: Iterable[str]) -> bool:
        """Whether an object is among the marks that is not one: it may be the mark of a publisher of a later version."""
        names = (each.removeprefix(self.model.marks(place)) for each in marks if not each.endswith("/"))
        return any(mark_of(each) is None for each in names)

    def _is_empty(self, place: str) -> bool:
        """Whether nothing is there. On a disk and in a hierarchical namespace, the folders of deleted files stay."""
        prefixes = (self.model.data(place), self.model.tree(place), self.model.marks(place))
        return all(self.store.first(each) is None for each in prefixes)

    def _objects(self, place: str) -> Iterator[ObjectInfo]:
        yield from self.store.list(self.model.data(place))
        yield from self.store.list(self.model.tree(place))

    def _is_older(self, place: str, latest: dt.datetime) -> bool:
        objects = [*self.store.list(self.model.marks(place)), *self._objects(place)]
        return _are_older((each.last_modified for each in objects), latest)

    def _latest(self, grace: dt.timedelta, *, write: bool) -> dt.datetime:
        return time_before(time_of_store(self.model, write=write), grace)


def _are_older(times: Iterable[dt.datetime | None], latest: dt.datetime) -> bool:
    return all(each is None or each <= latest for each in times)


def time_of_store(model: Model, *, write: bool) -> dt.datetime:
    """The time of now by the clock of the store, of which an object that is written and deleted tells.

    Args:
        model: The model.
        write: Whether anything may be written. If not, and if the store tells no time, it is that of this machine.

    Raises:
        StorageError: If a request fails.
    """
    here = dt.datetime.now(tz=dt.UTC)
    if not write:
        return here
    store, key = model.store, model.key("tombs", f"clock-{secrets.token_hex(16)}")
    transfer = store.transfer(key, "upload")
    store.upload(store.request(key, nothing(transfer.details), transfer))
    try:
        return store.info(key).last_modified or here
    finally:
        store.delete_many([key], store.transfer(key, "delete"))
