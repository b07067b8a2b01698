"""The execution of a plan: files move in batches, many at a time, and deletions come last.

A file that is in another state than the plan says is not transferred: it is a failure. So is a deletion of a file that was
replaced since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, FolderError, ObjectNotFoundError, Remedy, StorageError, ends_all
from gllm_storage.files.source import open_source
from gllm_storage.files.target import Preserved
from gllm_storage.folders.attributes import as_metadata, of_metadata, of_status
from gllm_storage.folders.compare import ALGORITHM, COPY, Checksums, may_be_md5
from gllm_storage.folders.entries import Entry, LocalFolder, Problem, StoredFolder, moment_of, state_of
from gllm_storage.folders.filters import Filter
from gllm_storage.folders.index import is_new, is_settled
from gllm_storage.folders.plan import in_order, merged
from gllm_storage.folders.records import Records
from gllm_storage.info import NO_PROPERTIES, ObjectInfo
from gllm_storage.store.port import ReadItem, UploadItem, unwatched
from gllm_storage.store.transfer import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from gllm_storage.files.source import Source
    from gllm_storage.folders.entries import Folder
    from gllm_storage.folders.index import ChecksumIndex
    from gllm_storage.folders.plan import Plan, Step
    from gllm_storage.info import ObjectProperties, Stored
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.store.transfer import Transfer

    Callback = Any

ON_ERROR = ("stop", "collect")
"""``"stop"``: no file begins after the first failure. ``"collect"``: all others are transferred, unless `ends_all`."""
_BATCH_FILES = 1000
_BATCH_BYTES = 2**30
_KEPT_FAILURES = 1000
_SHOWN_FAILURES = 20
_COPIES = 16
"""Copies on a server, and exclusive creates of small files, at a time."""
_SMALL = 2**20
_SETTLED_SECONDS = 0.025
"""After this time, another change of a file gives it another time: longer than a tick of the clock of a filesystem."""


@dataclass(frozen=True)
class Outcome:
    """The outcome for one file.

    Attributes:
        action: ``"transferred"``, ``"deleted"`` or ``"failed"``.
        path: Its path below the folder.
        size: Its size in bytes.
        error: The reason of a failure.
    """

    action: str
    path: str
    size: int
    error: str | None = None


@dataclass
class FolderResult:
    """The result of a transfer of a folder.

    Attributes:
        plan: The plan. `FolderResult.skipped` lists the files that were equal.
        transferred: Number of transferred files.
        transferred_bytes: Their bytes.
        deleted: Number of deleted files.
        failed: Number of files that failed.
        not_begun: Number of files that were not transferred or deleted because another one failed before.
    """

    plan: Plan
    transferred: int = 0
    transferred_bytes: int = 0
    deleted: int = 0
    failed: int = 0
    not_begun: int = 0
    _records: Records = field(default_factory=Records, repr=False)

    @property
    def skipped(self) -> int:
        """Number of files that were equal, and so not transferred."""
        return self.plan.skipped

    @property
    def skipped_bytes(self) -> int:
        """The bytes of the skipped files."""
        return self.plan.skipped_bytes

    def outcomes(self, *actions: str) -> Iterator[Outcome]:
        """The outcomes; skipped files are in ``plan.steps("skip")``.

        Args:
            *actions: The actions of `Outcome` to list; all without any.
        """
        for record in self._records:
            outcome = Outcome(**record)
            if not actions or outcome.action in actions:
                yield outcome

    def add(self, action: str, file: Entry, error: Exception | None = None) -> None:
        """Add the outcome for a file."""
        text = None if error is None else str(error)
        self._records.add({"action": action, "path": file.path, "size": file.size, "error": text})
        if action == "transferred":
            self.transferred += 1
            self.transferred_bytes += file.size
        elif action == "deleted":
            self.deleted += 1
        else:
            self.failed += 1

    def __str__(self) -> str:
        return (
            f"{self.transferred} files transferred ({self.transferred_bytes} bytes), {self.skipped} equal, "
            f"{self.deleted} deleted, {self.failed} failed, {self.not_begun} not begun"
        )


class _NotBegunError(Exception):
    """Another file failed before this one began."""


class Progresses:
    """Reports the progress of many files to one callback.

    Args:
        callback: An fsspec callback, which receives the number of files, then 1 for each complete file, and has a child for
            the bytes of each file; or a function, which is called with each number of bytes. None reports nothing.
    """

    def __init__(self, callback: Callback) -> None:
        self._callback = callback
        self._counts_files = hasattr(callback, "branched")
        self._lock = threading.Lock()

    def expect(self, files: int) -> None:
        """Report the number of files."""
        if self._counts_files:
            self._callback.set_size(files)

    def of(self, source: str, target: str) -> Callable[[], contextlib.AbstractContextManager[Progress]]:
        """The `watch` of a file: see `UploadItem`."""
        return unwatched if self._callback is None else partial(self._one, source, target)

    @contextlib.contextmanager
    def _one(self, source: str, target: str) -> Iterator[Progress]:
        if not self._counts_files:
            yield Progress(self._callback)
            return
        with self._callback.branched(source, target) as child:
            yield Progress(child)
        with self._lock:
            self._callback.relative_update(1)


def _not_shown(plan: Plan) -> None:
    """Show nothing of a plan."""


def _unreported(action: str, file: Entry, error: Exception | None) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Manner:
    """How a plan is run.

    Attributes:
        on_error: As in `ON_ERROR`.
        callback: As in `Progresses`.
        properties: The properties of uploaded objects.
        preserve: The facts about files that are preserved, as in `attributes.PRESERVED`.
        exclusive: Whether each file is created exclusively: one that exists is a failure.
        learns: Whether local files are read once more where their checksums are not known otherwise, to remember these.
        removes: Whether a file is deleted at the source when it is complete at the target.
        lists_again: Whether the target is listed again before deletions, so that files that were replaced since are kept.
        keeps_folders: Whether local folders stay when they become empty.
        began: Called with the plan before the first file moves.
        report: Called with each outcome: its action, as in `Outcome`, the file, and the reason of a failure.
    """

    on_error: str = "stop"
    callback: Callback = None
    properties: ObjectProperties = NO_PROPERTIES
    preserve: Sequence[str] = ()
    exclusive: bool = False
    learns: bool = True
    removes: bool = False
    lists_again: bool = True
    keeps_folders: bool = False
    began: Callable[[Plan], object] = _not_shown
    report: Callable[[str, Entry, Exception | None], object] = _unreported

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: If `on_error` is unknown.
        """
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error={self.on_error!r}: it must be one of {', '.join(map(repr, ON_ERROR))}")


class Execution:
    """Runs one plan.

    Args:
        plan: The plan.
        source: The source; None for a plan that only deletes.
        target: The target.
        manner: How it is run.
        index: Remembers checksums.
        stop: Cancels everything.
    """

    def __init__(  # noqa: PLR0917 - the plan, its two ends, and the means
        self, plan: Plan, source: Folder | None, target: Folder, manner: Manner, index: ChecksumIndex, stop: Stop
    ) -> None:
        self._plan = plan
        self._source = source
        self._target = target
        self._manner = manner
        self._stop = stop
        self._progress = Progresses(manner.callback)
        self._source_sums = None if source is None else Checksums(source, index, stop)
        self._target_sums = Checksums(target, index, stop)
        self._result = FolderResult(plan)
        self._failures: list[tuple[str, Exception]] = []
        self._has_failed = False

    def run(self) -> FolderResult:
        """Run the plan.

        Raises:
            FolderError: If files failed. Everything else was done, or nothing more if `Manner.on_error` is ``"stop"``.
        """
        self._manner.began(self._plan)
        for each in self._plan.problems:
            self._fail(Entry(each.path, 0), each.error)
        self._progress.expect(self._plan.transfers)
        for batch in _batches(self._plan.steps("transfer")):
            if self._must_end:
                self._result.not_begun += len(batch)
            else:
                self._move(batch)
        if self._failures:
            self._result.not_begun += self._plan.deletions
        else:
            self._delete()
        if self._failures:
            raise self._error()
        return self._result

    @property
    def _must_end(self) -> bool:
        return self._has_failed or (bool(self._failures) and self._manner.on_error == "stop")

    def _note(self, action: str, file: Entry, error: Exception | None = None) -> None:
        self._result.add(action, file, error)
        self._manner.report(action, file, error)

    def _fail(self, file: Entry, error: Exception) -> None:
        self._note("failed", file, error)
        self._has_failed |= ends_all(error)
        if len(self._failures) < _KEPT_FAILURES:
            self._failures.append((file.path, error))

    def _error(self) -> FolderError:
        result = self._result
        shown = "; ".join(f"{path!r}: {error}" for path, error in self._failures[:_SHOWN_FAILURES])
        more = f"; and {result.failed - _SHOWN_FAILURES} more" if result.failed > _SHOWN_FAILURES else ""
        kept = (
            f", and so {self._plan.deletions} files were not deleted" if self._plan.deletions and not result.deleted else ""
        )
        where = f"{self._plan.source} to {self._plan.target}" if self._plan.source else f"{self._plan.target}"
        counts = f"{result.failed} files failed, {result.transferred} were transferred, {result.not_begun} not begun"
        error = FolderError(
            f"{where}: {counts}{kept}: {shown}{more}",
            ErrorDetails(url=self._plan.target, operation="transfer"),
            Remedy.REPEAT,
            self._failures,
        )
        error.result = result
        error.__cause__ = self._failures[0][1]
        return error

    # ------------------------------------------------------------------ transfers

    def _move(self, batch: Sequence[Step]) -> None:
        source, target = self._source, self._target
        if isinstance(source, LocalFolder) and isinstance(target, StoredFolder):
            self._upload(batch, source, target)
        elif isinstance(source, StoredFolder) and isinstance(target, LocalFolder):
            self._download(batch, source, target)
        elif isinstance(source, StoredFolder) and isinstance(target, StoredFolder):
            self._copy(batch, source, target)

    def _upload(self, batch: Sequence[Step], source: LocalFolder, target: StoredFolder) -> None:
        store, now = target.store, time.time_ns()
        common = store.options_of(self._manner.properties, store.details(target.prefix, "upload"))
        before = [source.status(step.file.path) for step in batch]
        items = [
            self._upload_item(step, status, source, target, self._with_facts(status, target, common))
            for step, status in zip(batch, before, strict=True)
        ]
        if any(status is not None and is_new(status.st_mtime_ns, status.st_ctime_ns, now) for status in before):
            time.sleep(_SETTLED_SECONDS)  # then a change during the upload shows, and the files are remembered
        began = time.time_ns()
        done: list[tuple[Entry, Stored]] = []
        settled: list[tuple[Entry, Stored]] = []
        answers = store.upload_many(items, self._stop, self._workers(batch), on_error="return")
        for step, each in zip(batch, answers, strict=True):
            file, status = step.file, source.status(step.file.path)
            if isinstance(each, Exception):
                self._failed(file, each)
            elif status is None or state_of(status) != file.state:
                self._fail(file, changed(source.local_path(file.path), "so the object may have its new content"))
            elif (problem := self._settled(file, status, source, target)) is not None:
                self._fail(file, problem)
            else:
                self._note("transferred", file)
                done.append((file, each))
                if is_settled(status.st_mtime_ns, status.st_ctime_ns, began):
                    settled.append((file, each))
        if not self._manner.removes:
            self._remember_uploads(done, settled)

    def _workers(self, batch: Sequence[Step]) -> int:
        """How many exclusive creates of small files go side by side; 0 leaves that to the store."""
        return _COPIES if self._manner.exclusive and all(step.file.size <= _SMALL for step in batch) else 0

    def _with_facts(
        self, status: os.stat_result | None, target: StoredFolder, common: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The options of an upload, with the facts that are preserved."""
        if not self._manner.preserve or status is None or target.local is not None:
            return common
        return self._options_with(of_status(status, self._manner.preserve), target)

    def _options_with(self, facts: Preserved, target: StoredFolder) -> Mapping[str, Any]:
        given, store = self._manner.properties, target.store
        metadata = {**as_metadata(facts, store.provider), **(given.metadata or {})}
        return store.options_of(dataclasses.replace(given, metadata=metadata), store.details(target.prefix, "upload"))

    def _settled(self, file: Entry, status: os.stat_result, source: LocalFolder, target: StoredFolder) -> Exception | None:
        """Do what is left after an upload: the facts about a target file on this machine, and the end of the source.

        Returns:
            The failure.
        """
        try:
            if self._manner.preserve and target.local is not None:
                of_status(status, self._manner.preserve).give(target.local.local_path(file.path))
        except OSError as error:
            return error
        return _unlinked(source.local_path(file.path)) if self._manner.removes else None

    def _upload_item(
        self,
        step: Step,
        status: os.stat_result | None,
        source: LocalFolder,
        target: StoredFolder,
        options: Mapping[str, Any],
    ) -> UploadItem:
        store, key, path = target.store, target.key(step.file.path), source.local_path(step.file.path)
        opened = partial(_open_planned, path, step.file, sync=store.settings.sync_source)
        # With `path`, a store may read the file without `opened`, which refuses a file that has changed.
        is_planned = status is not None and state_of(status) == step.file.state
        may_read = is_planned and not store.settings.sync_source
        watch = self._watch(step, path, target)
        return UploadItem(key, opened, watch, self._manner.exclusive, options, path if may_read else None)

    def _remember_uploads(self, done: Sequence[tuple[Entry, Stored]], settled: Sequence[tuple[Entry, Stored]]) -> None:
        """Remember the checksums of uploaded files and of their objects.

        Args:
            done: The files of the plan, and their objects.
            settled: Those of them that cannot have changed since the upload began, because that would show in their times.
        """
        if self._source_sums is None:
            return
        self._source_sums.remember((file, each.checksum) for file, each in settled if each.checksum is not None)
        if self._target.local is not None:
            self._learn(self._source_sums, [file for file, _ in done])
            self._remember_written([file for file, _ in done])
            return
        found = [(_at(file, each.etag), each.checksum) for file, each in done if each.checksum is not None]
        # A store without checksums: the local file has not changed, so its checksum is that of the object.
        without = [(file, each) for file, each in settled if each.checksum is None and each.etag is not None]
        learned = self._learn(self._source_sums, [file for file, _ in without])
        for (file, each), checksum in zip(without, learned, strict=True):
            if checksum is not None:
                found.append((_at(file, each.etag), checksum))
        self._target_sums.remember(found)

    def _download(self, batch: Sequence[Step], source: StoredFolder, target: LocalFolder) -> None:
        arrived = _Arrived({}, {})
        items = [
            ReadItem(
                source.key(step.file.path),
                self._watch(step, source.store.details(source.key(step.file.path), "download").url, target),
                target.local_path(step.file.path),
                partial(_accept, step.file, source, arrived.versions),
                partial(arrived.states.__setitem__, step.file.path),
                self._manner.exclusive,
                partial(self._facts_of, step.file, source, arrived.versions) if self._manner.preserve else None,
            )
            for step in batch
        ]
        done = []
        answers = source.store.read_many(items, self._stop, on_error="return", workers=self._workers(batch))
        if self._manner.removes:
            answers = self._removed(batch, answers, source)
        for step, each in zip(batch, answers, strict=True):
            if isinstance(each, Exception):
                self._failed(step.file, each)
            elif source.local is not None and source.local.state(step.file.path) != step.file.state:
                self._fail(
                    step.file, changed(source.local.local_path(step.file.path), "so the copy may have its new content")
                )
            else:
                self._note("transferred", step.file)
                done.append(step.file)
        if not self._manner.removes:
            self._remember_downloads(done, arrived)

    def _facts_of(self, file: Entry, source: StoredFolder, versions: Mapping[str, ObjectInfo]) -> Preserved:
        """The facts about a source file in a store; a HEAD request finds them if the answer to its download has none."""
        if source.local is not None:
            status = source.local.status(file.path)
            return Preserved() if status is None else of_status(status, self._manner.preserve)
        version = versions.get(file.path)
        if version is None or version.metadata is None:
            version = source.store.info(source.key(file.path), "download")
        return of_metadata(version.metadata or {}, self._manner.preserve)

    def _removed(self, batch: Sequence[Step], answers: Sequence[Any], source: StoredFolder) -> list[Any]:
        """Delete the source objects that are complete at the target, in the version of the plan.

        Args:
            batch: The files.
            answers: The failures of their transfers; all other values are successes.
            source: The source.

        Returns:
            The answers, with the failures of the deletions.
        """
        removals = [
            partial(_kept, each) if isinstance(each, Exception) else partial(_removed_version, source, step.file)
            for step, each in zip(batch, answers, strict=True)
        ]
        removed = run_all(removals, _COPIES, self._stop)
        return [problem or answer for problem, answer in zip(removed, answers, strict=True)]

    def _remember_downloads(self, files: Sequence[Entry], arrived: _Arrived) -> None:
        """Remember the checksums of objects, and of the files that they became.

        A file has the content of its object as long as it is in the state in which it got its name. Nothing else tells so:
        another program may have put another file there since, also one with an old time.
        """
        if self._source_sums is None:
            return
        stated, without, others = list[tuple[Entry, Entry, str]](), list[tuple[Entry, Entry]](), list[Entry]()
        for file in files:
            written, checksum = arrived.written(file), arrived.checksum(file)
            if written is None:
                others.append(file)
            elif checksum is None and file.path in arrived.versions:
                without.append((file, written))
            elif checksum is None:
                others.append(file)
            else:
                stated.append((file, written, checksum))
        self._target_sums.remember((written, checksum) for _, written, checksum in stated)
        if self._source_is_remote:
            certain = [(file, checksum) for file in files if (checksum := arrived.checksum(file)) is not None]
            self._source_sums.remember(certain)
        self._remember_written(others, [arrived.algorithm(file) for file in others])
        self._remember_without(self._source_sums, without, arrived)

    def _remember_without(self, sums: Checksums, pairs: Sequence[tuple[Entry, Entry]], arrived: _Arrived) -> None:
        """Remember objects of a store that states no checksums, and the files that they became.

        The file has the checksums that are known of the object. Without any, an ETag that may be an MD5 serves for later
        comparisons, and until then both have a random value in common. Otherwise the file is read.
        """
        known = sums.known([file for file, _ in pairs])
        of_source, of_target = list[tuple[Entry, str]](), list[tuple[Entry, str]]()
        unknown: list[tuple[Entry, Entry]] = []
        for (file, written), values in zip(pairs, known, strict=True):
            if values:
                of_target += [(written, f"{name}:{value}") for name, value in values.items()]
            elif self._source_is_remote and may_be_md5(arrived.versions[file.path].etag or ""):
                common = f"{COPY}:{secrets.token_hex(16)}"
                of_source.append((file, common))
                of_target.append((written, common))
            else:
                unknown.append((file, written))
        if unknown and self._manner.learns:
            time.sleep(_SETTLED_SECONDS)
            learned = self._learn(self._target_sums, [written for _, written in unknown])
            of_source += [(file, each) for (file, _), each in zip(unknown, learned, strict=True) if each is not None]
        self._target_sums.remember(of_target)
        sums.remember(of_source if self._source_is_remote else [])

    @property
    def _source_is_remote(self) -> bool:
        return self._source is not None and self._source.local is None

    def _copy(self, batch: Sequence[Step], source: StoredFolder, target: StoredFolder) -> None:
        if self._manner.removes and _is_one_store(source.store, target.store):
            self._move_within(batch, source, target)
            return
        results = run_all([partial(self._copied, each, source, target) for each in batch], _COPIES, self._stop)
        if self._manner.removes:
            results = self._removed(batch, results, source)
        done: list[_Copied] = []
        for step, each in zip(batch, results, strict=True):
            if isinstance(each, Exception):
                self._failed(step.file, each)
            else:
                self._note("transferred", step.file)
                done.append(each)
        if not self._manner.removes:
            self._remember_copies(done)

    def _move_within(self, batch: Sequence[Step], source: StoredFolder, target: StoredFolder) -> None:
        results = run_all([partial(self._moved, each, source, target) for each in batch], _COPIES, self._stop)
        for step, error in zip(batch, results, strict=True):
            if error is None:
                self._note("transferred", step.file)
            else:
                self._failed(step.file, error)

    def _moved(self, step: Step, source: StoredFolder, target: StoredFolder) -> Exception | None:
        """Move an object within its store; the failure."""
        key, store = source.key(step.file.path), source.store
        try:
            with self._watch(step, store.details(key, "move").url, target)() as progress:
                progress.expect(step.file.size)
                transfer = store.transfer(key, "move", None, Stop(self._stop))
                store.move(key, target.key(step.file.path), transfer, exclusive=self._manner.exclusive)
                progress.finish()
        except Exception as error:  # noqa: BLE001 - each file's failure is a result
            return error
        return None

    def _remember_copies(self, done: Sequence[_Copied]) -> None:
        """Remember the checksums of both objects: all of each for both, if the target is certainly the copy."""
        if self._source_sums is None:
            return
        if self._target.local is not None:
            self._remember_written([each.file for each in done])
        of_source, of_target = list[tuple[Entry, str]](), list[tuple[Entry, str]]()
        for each, known in zip(done, self._source_sums.known([each.file for each in done]), strict=True):
            copy = _at(each.file, each.after.etag)
            of_source += [(each.file, checksum) for checksum in (each.before.checksum,) if checksum is not None]
            of_target += [(copy, checksum) for checksum in (each.after.checksum,) if checksum is not None]
            if each.is_certain:
                found = [f"{name}:{value}" for name, value in known.items()]
                found += [info.checksum for info in (each.before, each.after) if info.checksum is not None]
                found = found or [f"{COPY}:{secrets.token_hex(16)}"]
                of_source += [(each.file, checksum) for checksum in found]
                of_target += [(copy, checksum) for checksum in found]
        self._source_sums.remember(of_source)
        if self._target.local is None:
            self._target_sums.remember(of_target)

    def _copied(self, step: Step, source: StoredFolder, target: StoredFolder) -> _Copied | Exception:
        """Copy an object.

        Returns:
            The facts about both objects; or the failure.
        """
        file = step.file
        key, target_key = source.key(file.path), target.key(file.path)
        answers: list[Stored] = []
        try:
            with self._watch(step, source.store.details(key, "copy").url, target)() as progress:
                transfer = source.store.transfer(key, "copy", progress, Stop(self._stop))
                accept = partial(_accept, file, source, {})
                transfer = dataclasses.replace(transfer, accept=accept, stored=answers.append)
                progress.expect(file.size)
                self._copy_one(file, source, target, transfer)
                before, after = source.store.info(key, "copy"), target.store.info(target_key, "copy")
                if not _is_planned(file, source, before):
                    return changed(source.store.details(key, "copy").url, "so the copy may have its new content")
                copied = _Copied(file, before, after, answers[-1] if answers else None)
                if copied.is_replaced:
                    return changed(target.store.details(target_key, "copy").url, "so it is not the copy any more")
                if self._manner.preserve and target.local is not None:
                    self._facts_of(file, source, {}).give(target.local.local_path(file.path))
                progress.finish()
        except Exception as error:  # noqa: BLE001 - each file's failure is a result
            return error
        return copied

    def _copy_one(self, file: Entry, source: StoredFolder, target: StoredFolder, transfer: Transfer) -> None:
        store, key, target_key = source.store, source.key(file.path), target.key(file.path)
        exclusive, properties = self._manner.exclusive, self._manner.properties
        if self._manner.preserve and target.local is None and not _is_one_store(store, target.store):
            options = self._options_with(self._facts_of(file, source, {}), target)
            store.copy_through(key, target.store, target_key, transfer, options, exclusive=exclusive)
        elif properties.given():  # a copy on the server keeps the properties of the source
            options = target.store.options_of(properties, target.store.details(target_key, "copy"))
            store.copy_through(key, target.store, target_key, transfer, options, exclusive=exclusive)
        elif _is_one_store(store, target.store):
            version = _version_of(file, source)
            store.copy_version(key, target_key, transfer, exclusive=exclusive, version=version)
        elif exclusive:
            store.copy_through(key, target.store, target_key, transfer, exclusive=True)
        else:
            store.copy(key, target.store, target_key, transfer)

    def _watch(self, step: Step, source: str, target: Folder) -> Callable[[], contextlib.AbstractContextManager[Progress]]:
        where = f"{target.url.rstrip('/')}/{step.file.path}"
        return partial(self._watched, self._progress.of(source, where))

    @contextlib.contextmanager
    def _watched(self, watch: Callable[[], contextlib.AbstractContextManager[Progress]]) -> Iterator[Progress]:
        if self._has_failed:
            raise _NotBegunError
        try:
            with watch() as progress:
                yield progress
        except Exception as error:
            self._has_failed |= self._manner.on_error == "stop" or ends_all(error)
            raise

    def _failed(self, file: Entry, error: Exception) -> None:
        if isinstance(error, _NotBegunError):
            self._result.not_begun += 1
        else:
            self._fail(file, error)

    def _learn(self, sums: Checksums, files: Sequence[Entry]) -> list[str | None]:
        """Read local files once more, if `Manner.learns`; as `Checksums.learn`."""
        return sums.learn(files, [ALGORITHM] * len(files)) if self._manner.learns else [None] * len(files)

    def _remember_written(self, files: Sequence[Entry], algorithms: Sequence[str] = ()) -> None:
        """Remember the checksums of local files that were written just now.

        They are read once more, from the memory of the system, when a change by another program would show in their times.

        Args:
            files: The files of the plan.
            algorithms: One for each file; `ALGORITHM` without any.
        """
        local = self._target.local
        if local is None or not files or not self._manner.learns:
            return
        time.sleep(_SETTLED_SECONDS)
        now = [
            (_at(file, state), algorithm)
            for file, algorithm in zip(files, algorithms or [ALGORITHM] * len(files), strict=True)
            if (state := local.state(file.path)) is not None
        ]
        self._target_sums.learn([file for file, _ in now], [algorithm for _, algorithm in now])

    # ------------------------------------------------------------------ deletions

    def _delete(self) -> None:
        """Delete the files that are still in the state of the plan."""
        if not self._plan.deletions:
            return
        if self._manner.lists_again:
            for file in in_order(self._delete_unchanged):
                self._fail(file, changed(f"{self._target.url.rstrip('/')}/{file.path}", "so it was not deleted"))
        else:
            for batch in _batches(self._plan.steps("delete")):
                self._delete_batch([step.file for step in batch])
        if self._target.local is not None:
            if not self._manner.keeps_folders:
                self._remove_folders(self._target.local)
        elif isinstance(self._target, StoredFolder) and not (self._plan.source or self._failures):
            self._delete_markers(self._target)

    def _delete_unchanged(self) -> list[Entry]:
        """List the target again, and delete the files of the plan; those that are gone need nothing.

        Returns:
            The files that are in another state now.
        """
        replaced: list[Entry] = []
        waiting: list[Entry] = []
        planned = (step.file for step in self._plan.steps("delete"))
        for file, found in merged(planned, _files_of(self._target)):
            if file is None or found is None:
                continue
            (waiting if (found.state, found.size) == (file.state, file.size) else replaced).append(file)
            if len(waiting) == _BATCH_FILES:
                self._delete_batch(waiting)
                waiting = []
        self._delete_batch(waiting)
        return replaced

    def _delete_batch(self, files: Sequence[Entry]) -> None:
        if not files or self._must_end:
            self._result.not_begun += len(files)
            return
        target = self._target
        if isinstance(target, StoredFolder):
            self._delete_objects(files, target)
        elif isinstance(target, LocalFolder):
            for file in files:
                self._settle(file, _unlinked(target.local_path(file.path)))

    def _delete_objects(self, files: Sequence[Entry], target: StoredFolder) -> None:
        store = target.store
        try:
            transfer = store.transfer(target.prefix, "delete", None, Stop(self._stop))
            keys = [target.key(each.path) for each in files]
            run_all([partial(store.delete_many, keys, transfer)], 1, transfer.stop)  # as in `_delete_markers`
        except (StorageError, OSError) as error:  # one by one, to learn which of them failed
            if ends_all(error):
                self._fail(files[0], error)
                self._result.not_begun += len(files) - 1
                return
            results = run_all([partial(_deleted, store, target.key(each.path)) for each in files], _COPIES, self._stop)
            for file, problem in zip(files, results, strict=True):
                self._settle(file, problem)
            return
        for file in files:
            self._settle(file, None)

    def _delete_markers(self, target: StoredFolder) -> None:
        """Delete the markers of folders that became empty, which consoles and other tools have made."""
        if markers := target.empty_markers():
            transfer = target.store.transfer(target.prefix, "delete", None, Stop(self._stop))
            # In a thread, for which `run_all` waits after Ctrl-C: the request must not take effect after this call.
            run_all([partial(target.store.delete_many, markers, transfer)], 1, transfer.stop)

    def _settle(self, file: Entry, error: Exception | None) -> None:
        if error is None:
            self._note("deleted", file)
        else:
            self._fail(file, error)

    def _remove_folders(self, target: LocalFolder) -> None:
        """Remove the folders that became empty."""
        tried = ""
        for outcome in self._result.outcomes("deleted"):
            folder = os.path.dirname(outcome.path)
            while folder and folder != tried:
                tried = folder
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(target.local_path(folder))
                folder = os.path.dirname(folder)
        if not self._plan.source and isinstance(self._target, StoredFolder) and self._target.prefix:
            with contextlib.suppress(OSError):
                os.rmdir(target.path)


def changed(where: str, consequence: str) -> StorageError:
    """The error for a file that is in another state than in the plan.

    Args:
        where: The path or URL of the file.
        consequence: The end of the sentence.
    """
    details = ErrorDetails(url=where, operation="transfer")
    return StorageError(f"{where} changed after the plan was made, {consequence}", details, Remedy.REPEAT_NOW)


@contextlib.contextmanager
def _open_planned(path: str, file: Entry, details: ErrorDetails, *, sync: bool) -> Iterator[Source]:
    with open_source(path, details, sync=sync) as source:
        if state_of(source.status()) != file.state:
            raise changed(path, "so it was not uploaded")
        yield source


def _accept(file: Entry, source: StoredFolder, delivered: dict[str, ObjectInfo], version: ObjectInfo) -> None:
    """Refuse a version that is not the one of the plan, and note the one that is delivered."""
    if not _is_planned(file, source, version):
        raise changed(version.url, "so it was not transferred")
    delivered[file.path] = version


def _at(file: Entry, state: str | None) -> Entry:
    """The same file in another state, or at the other end."""
    return dataclasses.replace(file, state=state)


@dataclass(frozen=True)
class _Arrived:
    """The facts about downloaded files.

    Attributes:
        versions: The versions that were delivered, by path.
        states: The states in which the files got their names.
    """

    versions: dict[str, ObjectInfo]
    states: dict[str, os.stat_result]

    def written(self, file: Entry) -> Entry | None:
        """The file in the state in which it got its name; None if a later change need not show in its times."""
        state = self.states.get(file.path)
        if state is None or not is_settled(state.st_mtime_ns, state.st_mtime_ns, state.st_ctime_ns):
            return None
        return _at(file, state_of(state))

    def checksum(self, file: Entry) -> str | None:
        """The checksum that the store states."""
        version = self.versions.get(file.path)
        return None if version is None else version.checksum

    def algorithm(self, file: Entry) -> str:
        """The algorithm in which the file is compared with the object."""
        return (self.checksum(file) or ALGORITHM).partition(":")[0]


@dataclass(frozen=True)
class _Copied:
    """The facts about a copied object.

    Attributes:
        file: The file of the plan.
        before: The source object.
        after: The target object.
        answer: The store's answer to the copy; None if it states nothing.
    """

    file: Entry
    before: ObjectInfo
    after: ObjectInfo
    answer: Stored | None

    @property
    def _checksums_agree(self) -> bool | None:
        """Whether both objects have one checksum; None if they have none of one algorithm."""
        one, other = [(info.checksum or "").partition(":") for info in (self.before, self.after)]
        return one == other if one[0] and one[0] == other[0] else None

    @property
    def _is_of_answer(self) -> bool | None:
        """Whether the target has the ETag of the answer; None if that states none."""
        etag = None if self.answer is None else self.answer.etag
        return None if etag is None or self.after.etag is None else etag == self.after.etag

    @property
    def is_replaced(self) -> bool:
        """Whether the target is another object than the copy."""
        if self.after.size != self.file.size or self._checksums_agree is False:
            return True
        return self._checksums_agree is None and self._is_of_answer is False

    @property
    def is_certain(self) -> bool:
        """Whether the target is certainly the copy."""
        return not self.is_replaced and (self._checksums_agree or self._is_of_answer) is True


def _is_planned(file: Entry, source: StoredFolder, version: ObjectInfo) -> bool:
    if source.local is not None:
        return source.local.state(file.path) == file.state
    if version.size != file.size:
        return False
    if file.version is not None and version.version is not None:  # a GET answer of GCS has no ETag of the listing's kind
        return version.version == file.version
    return file.state in {None, version.etag}


def _version_of(file: Entry, source: StoredFolder) -> ObjectInfo | None:
    if source.local is not None or file.state is None:
        return None
    url = source.store.url(source.key(file.path))
    return ObjectInfo(url, file.size, file.state, moment_of(file.modified_ns), version=file.version)


def _is_one_store(one: ObjectStore, other: ObjectStore) -> bool:
    return one is other or (type(one) is type(other) and one.place == other.place and one.url("") == other.url(""))


def _files_of(folder: Folder) -> Iterator[Entry]:
    return (each for each in folder.entries(Filter()) if not isinstance(each, Problem))


def _unlinked(path: str) -> Exception | None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    return None


def _kept(_: Exception) -> None:
    """Delete nothing."""


def _removed_version(source: StoredFolder, file: Entry) -> Exception | None:
    """Delete a source object, if it is still in the version of the plan; the failure."""
    store, key = source.store, source.key(file.path)
    transfer = store.transfer(key, "move")
    try:
        version = store.info(key, "move")  # a listing may state the time more exactly, and so another version
        if not _is_planned(file, source, version):
            return store.replaced(transfer.details)
        store.delete_version(key, version, transfer)
    except ObjectNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - each file's failure is a result
        return error
    return None


def _deleted(store: ObjectStore, key: str) -> Exception | None:
    try:
        store.delete(key)
    except ObjectNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001 - each file's failure is a result
        return error
    return None


def _batches(steps: Iterable[Step]) -> Iterator[list[Step]]:
    batch: list[Step] = []
    size = 0
    for step in steps:
        if batch and (len(batch) == _BATCH_FILES or size + step.file.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(step)
        size += step.file.size
    if batch:
        yield batch
