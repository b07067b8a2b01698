"""`publish`: a directory becomes a version by one exclusive create, or the store is as before but for files nothing names.

The design, with the failure sequences, is docs/design/versions.md. The order of the requests is the protocol:

1. Read the newest entry of the version: a manifest decides at once. If a listing shows that another tool has deleted files
   of it, a publisher of equal files stores them again.
2. Write a mark that names the slot of the coming entry; *then* look for a tombstone of the directory.
3. Store the files that are missing, never replacing one.
4. Create the entry exclusively: the commit.
5. Remove the marks, and only after an entry was read in the slot.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import gllm_storage
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    OURS,
    ConflictCheckUnsupportedError,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    Remedy,
    StorageUnavailableError,
)
from gllm_storage.files.names import local_directory
from gllm_storage.files.source import MemorySource, open_source
from gllm_storage.store.port import UploadItem
from gllm_storage.store.transfer import Progress
from gllm_storage.versions import entries
from gllm_storage.versions.catalog import Version, version_of
from gllm_storage.versions.entries import LARGEST_ENTRY, Manifest, encode_entry
from gllm_storage.versions.layout import (
    mark_prefix,
    model_of,
    place_of,
    require_atomic,
    require_name,
    require_outside,
    require_short,
    require_short_name,
)
from gllm_storage.versions.local_tree import hashed_tree
from gllm_storage.versions.log import require_own, version_log
from gllm_storage.versions.register import enter
from gllm_storage.versions.reuse import Earlier, earlier_files
from gllm_storage.versions.stored_file import Content, holds, listed_files

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from fsspec.callbacks import Callback

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.errors import ErrorDetails, StorageError
    from gllm_storage.info import Stored
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.local_tree import HashedSource
    from gllm_storage.versions.log import Decision, Log
    from gllm_storage.versions.tree import TreeFile

_OPERATION = "publish"
_RESTARTS = 5
"""How often a publisher begins again after a collector, or it itself, has aborted its slot."""
_MOST_FOREIGN = 8
"""How many directories of one content may hold something else before a publisher fails. Tombstones do not count."""
_PASSES = 2
"""How often the files of a directory are stored, if another tool deletes some of them meanwhile."""
_BATCH = 1000
"""Files that are stored before the next mark may be written."""
_PATIENCE, _LONGEST_PATIENCE = 1.0, 10.0
"""Seconds for which a publisher waits for a file that another one of the same content should send: for an empty one, and at
most."""
_SLOW = 16 * 2**20
"""Bytes per second that the other one should send."""
_HEARTBEAT_SECONDS = 600
"""Time between two marks of one publisher, so that the newest one shows that it lives."""


class SourceFile(Protocol):
    """A file to publish, with known content: a local one, or one of another model."""

    @property
    def entry(self) -> TreeFile:
        """The line of the tree list."""

    @property
    def content(self) -> Content:
        """The content."""

    def opened(self, details: ErrorDetails) -> AbstractContextManager[HashedSource]:
        """The bytes, which are compared with the content while they are read.

        Args:
            details: The upload that reads them, for errors.

        Raises:
            StorageError: If they cannot be read, or are not the content.
        """

    def changed(self, details: ErrorDetails) -> StorageError:
        """The error for a file of which other bytes than its content were stored."""


class SourceTree(Protocol):
    """The files to publish: the attributes of `LocalTree`."""

    @property
    def digest(self) -> str:
        """The digest of the tree."""

    @property
    def files(self) -> int:
        """Number of files."""

    @property
    def size(self) -> int:
        """Size of all files in bytes."""

    @property
    def list_path(self) -> str:
        """The local file with the tree list."""

    @property
    def list_size(self) -> int:
        """The size of the tree list in bytes."""

    @property
    def list_sha256(self) -> str:
        """The SHA-256 of the tree list, hexadecimal."""

    def batches(self, count: int, details: ErrorDetails) -> Iterator[Sequence[SourceFile]]:
        """The files in their order, at most so many at a time."""


def publish(
    client: CloudStorageClient,
    local_dir: str | os.PathLike[str],
    model: str,
    *,
    version: str,
    metadata: Mapping[str, Any] | None = None,
    callback: Callback | None = None,
) -> Version:
    """Publish a directory as a version of a model: completely, or not at all.

    All files are hashed first; a file whose hashes the index of this user has is read only if it must be sent. Of several
    publishers of one version, exactly one wins, unless their files and metadata are equal: then all succeed. A publisher
    that is run again, also on another machine, sends only the missing files. Files that an earlier version has are copied
    within the store. If the version exists with equal files and metadata, and another tool has deleted some of its files,
    they are stored again: names and sizes are compared, not contents. Symbolic links to files are followed; empty folders
    are left out.

    Args:
        client: The client of the store.
        local_dir: The directory.
        model: The path of the model, as for `upload_file`: relative to the prefix of the client, absolute, or a URL.
        version: The name of the version: up to 128 letters, digits, ``.``, ``_`` and ``-``.
        metadata: Facts to keep with the version: names, and values that JSON can hold; below 1 MiB in all.
        callback: Receives the number of bytes of all files, and the bytes as they are stored or found.

    Returns:
        The version.

    Raises:
        ValueError: If a name, the path of the model, or the metadata are not valid, the key of a file would be longer than
            1024 bytes, or the directory is a URL, empty text, or has no file.
        FileNotFoundError: If the directory does not exist.
        NotADirectoryError: If `local_dir` is a file.
        FileExistsError: If the version exists with other files or metadata, or the name is that of an alias, or differs
            from another name only in case (`ObjectExistsError`).
        RuntimeError: If a file changes while it is read (`StorageError`); if the store cannot create exclusively
            (`ConflictCheckUnsupportedError`); if the version exists, and another tool has put other files there
            (`IntegrityError`); or if a request fails (`StorageError`).

    Examples:
        >>> version = publish(client, "./out", "models/llama-ft", version="v3", metadata={"loss": 0.7})
        >>> version.name, version.files
        ('v3', 1)
    """
    place = model_of(client, model)
    require_short_name(place, require_name(version))
    details = place.store.details(place.key("versions", version), _OPERATION)
    require_atomic(place, _OPERATION)
    with hashed_tree(local_directory("local_dir", local_dir), details, partial(require_short, place)) as tree:
        manifest = new_manifest(place, tree, version, metadata)
        require_outside(place)
        enter(place, version, "version", _OPERATION)
        progress = Progress(callback)
        progress.expect(tree.size)
        return version_of(place, Publisher(place, tree, manifest, progress).run())


def new_manifest(model: Model, tree: SourceTree, version: str, metadata: Mapping[str, Any] | None = None) -> Manifest:
    """The entry that publishes a tree in its first directory.

    Raises:
        ValueError: If the metadata is not JSON, or too large.
    """
    manifest = Manifest(
        model.prefix,
        version,
        tree.digest,
        place_of(tree.digest, 0),
        tree.files,
        tree.size,
        tree.list_size,
        tree.list_sha256,
        f"gllm-storage/{gllm_storage.__version__}",
        entries.now(),
        _as_json(metadata or {}),
    )
    if len(encode_entry(manifest)) > LARGEST_ENTRY - 64:  # the number of the directory may grow
        raise ValueError(f"the metadata is too large: the limit is about {LARGEST_ENTRY} bytes with the manifest")
    return manifest


def _as_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as they will be read back: JSON has no tuples, and only texts as names.

    Raises:
        ValueError: If JSON cannot hold a value.
    """
    try:
        given = dict(metadata)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the metadata of a version must be JSON: names with values, not {metadata!r}") from error
    for name, value in given.items():
        if not isinstance(name, str | int | float | None):
            raise ValueError(f"the metadata of a version must be JSON, which has only texts as names, not {name!r}")
        try:
            json.loads(json.dumps({name: value}, allow_nan=False, ensure_ascii=False).encode(), object_pairs_hook=_distinct)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(
                f"the metadata of a version must be JSON, and {name!r} is not: {_problem(value, error)}"
            ) from error
    try:
        values: dict[str, Any] = json.loads(json.dumps(given), object_pairs_hook=_distinct)
    except ValueError as error:
        raise ValueError(f"the metadata of a version must be JSON: {error}") from error
    return values


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of JSON with these names and values.

    Raises:
        ValueError: If a name is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for number, (name, _) in enumerate(pairs) if any(name == each for each, _ in pairs[:number]))
        raise ValueError(f"two of its names are {name!r} in JSON, as 1 and '1' are; rename one")
    return found


def _problem(value: object, error: Exception) -> str:
    if isinstance(value, float):
        return f"JSON has no {value!r}; leave it out, or give it as a text"
    if hasattr(value, "__float__") and not isinstance(value, int):
        return f"it is a {type(value).__module__}.{type(value).__name__}; convert it with float() or int()"
    return str(error)


class Publisher:
    """One publisher of one version.

    Args:
        model: The model.
        tree: The files.
        manifest: The entry to create.
        progress: Receives the bytes as they are stored or found.
    """

    def __init__(self, model: Model, tree: SourceTree, manifest: Manifest, progress: Progress) -> None:
        self._model = model
        self._store = model.store
        self._tree = tree
        self._manifest = manifest
        self._progress = progress
        self._waits_for_others = True
        self._log: Log = version_log(model, manifest.version, _OPERATION)
        self._details = self._store.details(model.key("versions", manifest.version), _OPERATION)

    def run(self) -> Manifest:
        """Publish.

        Returns:
            The manifest of the version, which another publisher of the same content may have made.

        Raises:
            ObjectExistsError: If the version exists with other files or metadata.
            IntegrityError: If the version exists, lacks files, and cannot get them again; or its log is damaged.
            StorageError: If a request fails, or the slot was aborted again and again.
        """
        failure: StorageError | None = None
        for _ in range(_RESTARTS):
            slot, entry = self._log.newest()
            require_own(entry, self._manifest.version, self._details)
            if isinstance(entry, Manifest) and self._is_ours(entry) and not self._seems_complete(entry):
                self._repair(slot, entry)
                slot, entry = self._log.newest()
            if not isinstance(entry, Manifest):
                decision = self._attempt(slot + 1)
                entry, failure = decision.entry, decision.failure
            if isinstance(entry, Manifest):
                return self._accepted(entry)
        if failure is not None:
            raise failure
        raise StorageUnavailableError(
            f"{self._details.url}: garbage collection ended each of {_RESTARTS} attempts to publish",
            self._details,
            Remedy.REPEAT,
        )

    def _attempt(self, slot: int) -> Decision:
        """Store the files, and commit.

        Raises:
            IntegrityError: If several directories in a row hold something else.
            StorageError: If a request fails.
        """
        foreign = 0
        for number in itertools.count():
            place = place_of(self._tree.digest, number)
            marks = Marks(self._model, place, self._manifest.version, slot)
            marks.write()
            has_tomb = self._has_tomb(place)
            if has_tomb or not self._store_files(place, marks):
                marks.remove()
                foreign += not has_tomb
                if foreign == _MOST_FOREIGN:
                    raise self._all_foreign(place)
                continue
            decision = self._log.decide(slot, replace(self._manifest, place=place))
            marks.remove()
            return decision
        raise AssertionError  # the loop has no end

    def _all_foreign(self, place: str) -> IntegrityError:
        details = self._store.details(self._model.data(place), _OPERATION)
        return IntegrityError(
            f"{self._details.url} was not published: each of {_MOST_FOREIGN} directories for its files, the last of them "
            f"{details.url}, has a file with another content or another name, or lost files meanwhile",
            details,
            Remedy.COLLECT_GARBAGE,
        )

    def _accepted(self, found: Manifest) -> Manifest:
        """The manifest, if it publishes our files and metadata.

        Raises:
            ObjectExistsError: If it does not.
        """
        if self._is_ours(found):
            self._progress.finish()
            return found
        what = "metadata" if found.digest == self._manifest.digest else "files"
        raise ObjectExistsError(
            f"{self._details.url} is published with other {what}, and was not changed",
            self._details,
            Remedy.OTHER_VERSION_NAME,
        )

    def _is_ours(self, found: Manifest) -> bool:
        # As JSON: for Python, True is equal to 1.
        facts, ours = (json.dumps(each.metadata, sort_keys=True) for each in (found, self._manifest))
        return found.digest == self._manifest.digest and facts == ours

    # ------------------------------------------------------------------ files that another tool has changed

    def _seems_complete(self, found: Manifest) -> bool:
        """Whether a version has its files and their list, all of the right size: one HEAD request and one listing."""
        try:
            size = self._store.info(self._model.tree(found.place)).size
        except ObjectNotFoundError:
            return False
        return size == found.tree_size and self._lists_tree(found.place)

    def _lists_tree(self, place: str) -> bool:
        """Whether the listing of a directory has the files of the tree, with their sizes, and no other ones."""
        batches = self._tree.batches(_BATCH, self._details)
        expected = ((each.entry.path, each.entry.size) for batch in batches for each in batch)
        unmatched: set[tuple[str, int] | None] = set()  # empty but for one pair, unless a store lists in another order
        for pair in itertools.zip_longest(expected, listed_files(self._model, place)):
            if pair[0] != pair[1]:
                unmatched.symmetric_difference_update(pair)
        return not unmatched

    def _repair(self, slot: int, found: Manifest) -> None:
        """Store the missing files of a version again, in the directory that its manifest names.

        No collector deletes there while the manifest is the newest entry. If the version is deleted meanwhile, the files are
        garbage, which the next collection deletes. The mark names the slot of the manifest: a collector that ends the
        publishers of the directory finds that slot taken, so it cannot hide the manifest behind an "aborted" entry.

        Raises:
            IntegrityError: If something else is in the directory, and the manifest is the newest entry still.
            StorageError: If a request fails.
        """
        marks = Marks(self._model, found.place, found.version, slot)
        marks.write()
        is_list_ours = (self._tree.list_size, self._tree.list_sha256) == (found.tree_size, found.tree_sha256)
        is_complete = is_list_ours and self._store_files(found.place, marks)
        marks.remove()
        if not is_complete and self._log.newest() == (slot, found):
            details = self._store.details(self._model.data(found.place), _OPERATION)
            raise IntegrityError(
                f"{details.url} or the list of its files, {self._store.url(self._model.tree(found.place))}, has other files "
                f"than version {found.version!r}, which was published there; they were not changed",
                details,
                Remedy.DELETE_VERSION,
            )

    def _has_tomb(self, place: str) -> bool:
        return self._store.exists(self._model.tomb(place))

    # ------------------------------------------------------------------ the files

    def _store_files(self, place: str, marks: Marks) -> bool:
        """Store the missing files of a directory. Returns False if the directory holds something else, or loses files.

        Another tool, which does not know the marks, may delete files meanwhile: a first upload may take hours. So the files
        are listed at its end, and the missing ones are stored again.
        """
        prefix = self._model.data(place)
        for _ in range(_PASSES):
            if not self._store_list(place):
                return False
            was_empty = self._store.first(prefix) is None
            if not self._store_tree(prefix, marks, was_empty=was_empty):
                return False
            if was_empty and not self._store.shows_writes_at_once:
                return True  # a listing may miss files that another machine has just stored
            # A file that is not of this tree would be read by programs that read the directory by its prefix.
            if self._lists_tree(place):
                return True
            marks.write()  # it may be gone, as may the entry of the name
            enter(self._model, self._manifest.version, "version", _OPERATION)
        return False

    def _store_tree(self, prefix: str, marks: Marks, *, was_empty: bool) -> bool:
        """Store the missing files, but not their list. Returns False if something else is in their place."""
        rank, publishers = marks.position()
        is_alone = was_empty and publishers == 1
        with self._reusable() as earlier:
            for batch in self._tree.batches(_BATCH, self._details):
                marks.write_if_due()
                is_alone = is_alone and not earlier and self._store_at_once(prefix, batch)
                if is_alone:
                    continue
                # Publishers of the same content share the files, so that together they send each one about once. A publisher
                # begins with its own files, and then sends those of others that do not appear.
                start, end = rank * len(batch) // publishers, (rank + 1) * len(batch) // publishers
                if not self._store_with_care(prefix, batch[start:end], earlier, is_ours=True):
                    return False
                # Not more at a time than ours, or those that do not wait would all send most of the files.
                others = [*batch[end:], *batch[:start]]
                if not self._store_with_care(prefix, others, earlier, is_ours=False, most=max(end - start, 1)):
                    return False
        return True

    def _reusable(self) -> AbstractContextManager[Earlier]:
        """The files that the store can copy."""
        return earlier_files(self._model, self._tree)

    def _store_list(self, place: str) -> bool:
        key = self._model.tree(place)
        transfer = self._store.transfer(key, "upload")
        with open_source(self._tree.list_path, transfer.details) as source, contextlib.suppress(ObjectExistsError):
            self._store.upload(self._store.request(key, source, transfer, exclusive=True))
            return True
        return holds(self._store, key, Content(self._tree.list_size, self._tree.list_sha256))

    def _store_at_once(self, prefix: str, batch: Sequence[SourceFile]) -> bool:
        """Store the files of a directory that was empty. Returns False if another publisher works there, too."""
        sent: set[SourceFile] = set()
        items = [self._item(prefix, each, sent) for each in batch]
        try:
            stored = self._store.upload_many(items, Stop(running_stop()))
        except (ObjectExistsError, ConflictCheckUnsupportedError):
            return False
        for file, each in zip(batch, stored, strict=True):
            self._require_stored(file, prefix + file.entry.path, each, sent)
        return True

    def _item(self, prefix: str, file: SourceFile, sent: set[SourceFile]) -> UploadItem:
        @contextlib.contextmanager
        def watch() -> Iterator[Progress]:
            yield Progress(self._progress)

        return UploadItem(
            prefix + file.entry.path, partial(_opened, file, sent), watch, exclusive=True, content_id=file.entry.sha256
        )

    def _store_with_care(
        self, prefix: str, batch: Sequence[SourceFile], earlier: Earlier, *, is_ours: bool, most: int = 0
    ) -> bool:
        tasks = [partial(self._keep_or_store, prefix, each, earlier, is_ours=is_ours) for each in batch]
        workers = self._store.settings.max_concurrency
        return not tasks or all(run_all(tasks, min(workers, most or workers), Stop(running_stop())))

    def _appears(self, key: str, size: int) -> bool:
        """Whether a file is there, or another publisher stores it soon. After one that did not, none is awaited."""
        wait, until = 0.02, time.monotonic() + min(_PATIENCE + size / _SLOW, _LONGEST_PATIENCE)
        while not (found := self._store.exists(key)) and self._waits_for_others and time.monotonic() < until:
            Stop(running_stop()).wait(wait)
            wait = min(2 * wait, 0.5)
        self._waits_for_others = self._waits_for_others and found
        return found

    def _keep_or_store(self, prefix: str, file: SourceFile, earlier: Earlier, *, is_ours: bool) -> bool:
        """Store a file unless it is there. Returns False if something else is there."""
        key, size = prefix + file.entry.path, file.entry.size
        if not (self._store.exists(key) if is_ours else self._appears(key, size)):
            if earlier.copy(file.content, key):
                self._progress(size)
                return True
            try:
                self._upload(key, file)
            except ObjectExistsError:
                pass
            else:
                self._progress(size)
                return True
        is_there = holds(self._store, key, file.content)
        self._progress(size if is_there else 0)
        return is_there

    def _upload(self, key: str, file: SourceFile) -> None:
        sent: set[SourceFile] = set()
        transfer = self._store.transfer(key, "upload")
        with _opened(file, sent, transfer.details) as source:
            request = self._store.request(key, source, transfer, exclusive=True)
            request = replace(request, content_id=file.entry.sha256)
            try:
                stored = self._store.upload(request)
            except ConflictCheckUnsupportedError:
                # Not enforced for multipart uploads, as on some stores. All publishers write the same content to this key.
                stored = self._store.upload(replace(request, exclusive=False))
        self._require_stored(file, key, stored, sent)

    def _require_stored(self, file: SourceFile, key: str, stored: Stored, sent: set[SourceFile]) -> None:
        """Check that an object has the content that was hashed, although the file may have changed unnoticed.

        Raises:
            SourceChangedError: If it has not.
            StorageError: If a request fails.
        """
        agrees = file.content.agrees(stored.checksum)
        if agrees is None:
            agrees = file in sent or holds(self._store, key, file.content)
        if not agrees:
            raise file.changed(self._store.details(key, "upload"))


@contextlib.contextmanager
def _opened(file: SourceFile, sent: set[SourceFile], details: ErrorDetails) -> Iterator[HashedSource]:
    """Open a file, and add it to `sent` if all bytes that were read of it are those that were hashed."""
    with file.opened(details) as source:
        yield source
    if source.is_complete:
        sent.add(file)


class Marks:
    """The marks of one publisher in one directory. Each has a name of its own, and is never written again.

    Args:
        model: The model.
        place: The directory.
        version: The version that the publisher means to commit.
        slot: The slot that it means to create.
    """

    def __init__(self, model: Model, place: str, version: str, slot: int) -> None:
        self._store = model.store
        self._folder = model.marks(place)
        self._prefix = mark_prefix(model, place, version, slot)
        self._keys: list[str] = []
        self._written = 0.0

    def write(self) -> None:
        """Write a mark.

        Raises:
            StorageError: If the request fails.
        """
        key = self._prefix + secrets.token_hex(16)
        transfer = self._store.transfer(key, "upload")
        self._store.upload(self._store.request(key, MemorySource(b"", transfer.details), transfer))
        self._keys.append(key)
        self._written = time.monotonic()

    def write_if_due(self) -> None:
        """Write a further mark if the last one is old, which shows collectors that this publisher lives.

        The earlier marks stay until the end: a listing of several pages is not a snapshot, and could miss both.

        Raises:
            StorageError: If the request fails.
        """
        if time.monotonic() - self._written >= _HEARTBEAT_SECONDS:
            self.write()

    def position(self) -> tuple[int, int]:
        """The position of this publisher among those that work in the directory, from 0, and their number.

        Publishers that were killed count, and those that begin later do not: it is a hint for the order of the files.

        Raises:
            StorageError: If the request fails.
        """
        found = (each for each in self._store.list_keys(self._folder) if not each.endswith("/"))  # without folder markers
        marks = sorted({*found, *self._keys})
        return marks.index(self._keys[0]), len(marks)

    def remove(self) -> None:
        """Remove the marks. A mark that cannot be removed does no harm: garbage collection removes it."""
        transfer = self._store.transfer(self._prefix, "delete")
        with contextlib.suppress(*OURS):
            self._store.delete_many(self._keys, transfer)
