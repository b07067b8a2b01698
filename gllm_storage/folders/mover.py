"""`Mover`: transfers batches of files from one folder to another.

A file that is in another state than the plan says is not transferred: it is a failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError, Remedy, StorageError, ends_all, user_code
from gllm_storage.files.source import open_source
from gllm_storage.files.target import Preserved
from gllm_storage.folders.attributes import as_metadata, of_metadata, of_status
from gllm_storage.folders.compare import ALGORITHM, COPY, Checksums, differences, may_be_md5
from gllm_storage.folders.entries import (
    Entry,
    LocalFolder,
    StoredFolder,
    is_same_but_for_ctime,
    may_be_one_time,
    moment_of,
    nanoseconds,
    state_of,
)
from gllm_storage.folders.index import is_new, is_settled
from gllm_storage.info import NO_PROPERTIES, ObjectInfo
from gllm_storage.store.port import ReadItem, UploadItem, unwatched
from gllm_storage.store.transfer import NO_PROGRESS, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor
    from types import TracebackType

    from gllm_storage.files.source import Source
    from gllm_storage.folders.entries import Folder
    from gllm_storage.folders.index import Facts
    from gllm_storage.folders.plan import Plan, Step
    from gllm_storage.info import ObjectProperties, Stored
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.store.transfer import Transfer

    Callback = Any

ON_ERROR = ("stop", "collect")
"""``"stop"``: no file begins after the first failure. ``"collect"``: all others are transferred, unless `ends_all`."""
_REQUESTS = 32
"""HEAD requests at a time."""
_COPIES = 16
"""Copies on a server, and exclusive creates of small files, at a time."""
_SMALL = 2**20
_SETTLED_SECONDS = 0.025
"""After this time, another change of a file gives it another time: longer than a tick of the clock of a filesystem."""


class NotBegunError(Exception):
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

    @property
    def is_shown(self) -> bool:
        """Whether there is a callback."""
        return self._callback is not None

    def of(self, source: str, target: str) -> Callable[[], contextlib.AbstractContextManager[Progress]]:
        """The `watch` of a file: see `UploadItem`."""
        return partial(self._one, source, target) if self.is_shown else unwatched

    @contextlib.contextmanager
    def _one(self, source: str, target: str) -> Iterator[Progress]:
        if not self._counts_files:
            yield Progress(self._callback)
            return
        with self._callback.branched(source, target) as child:
            yield Progress(child)
        with self._lock, user_code():
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
        executor: Runs the transfers; None runs them in threads of this process.
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
    executor: Executor | None = None
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
            TypeError: If `executor` is not an executor.
        """
        executor: Any = self.executor
        if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
            raise TypeError(f"executor is a concurrent.futures.Executor, not {executor!r}")
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error={self.on_error!r}: it must be one of {', '.join(map(repr, ON_ERROR))}")

    @property
    def portable(self) -> Manner:
        """The same for another process, which calls nothing of this one."""
        return dataclasses.replace(self, callback=None, executor=None, began=_not_shown, report=_unreported)


Result = Exception | None
"""The outcome for one file: None if it was transferred, `NotBegunError`, or the failure."""


class Mover:
    """Transfers batches of files. Threads may share it.

    Args:
        source: The source.
        target: The target.
        manner: How files are transferred.
        index: Remembers checksums.
        stop: Cancels everything.
    """

    def __init__(self, source: Folder, target: Folder, manner: Manner, index: Facts, stop: Stop) -> None:
        self.source = source
        self.target = target
        self.manner = manner
        self.stop = stop
        self._index = index
        self.progress = Progresses(manner.callback)
        self._source_sums = Checksums(source, index, stop)
        self._target_sums = Checksums(target, index, stop)
        self._has_failed = False
        self._unwatched = _Unwatched(self)

    def move(self, batch: Sequence[Step]) -> list[Result]:
        """Transfer files.

        Args:
            batch: The steps of a plan.

        Returns:
            For each file its outcome.
        """
        source, target = self.source, self.target
        if isinstance(source, LocalFolder) and isinstance(target, StoredFolder):
            return self._upload(batch, source, target)
        if isinstance(source, StoredFolder) and isinstance(target, LocalFolder):
            return self._download(batch, source, target)
        if isinstance(source, StoredFolder) and isinstance(target, StoredFolder):
            return self._copy(batch, source, target)
        raise AssertionError(f"{source.url} and {target.url} are both local")

    def arrived(self, batch: Sequence[Step]) -> list[bool]:
        """Which files the target has already, with the content of the source, as after an earlier run of the batch.

        Args:
            batch: The steps of a plan.
        """
        there = run_all([partial(self._at_target, step.file.path) for step in batch], self._requests, self.stop)
        found = {step.file.path: (step.file, each[0]) for step, each in zip(batch, there, strict=True) if each is not None}
        self._target_sums.remember((each[0], each[1]) for each in there if each is not None and each[1] is not None)
        reasons = differences(self._source_sums, self._target_sums, list(found.values()))
        equal = {path for path, reason in zip(found, reasons, strict=True) if reason is None}
        return [step.file.path in equal for step in batch]

    @property
    def _requests(self) -> int:
        return 1 if isinstance(self.target, StoredFolder) and not self.target.store.serves_threads else _REQUESTS

    def _at_target(self, path: str) -> tuple[Entry, str | None] | None:
        """The file of the target, with the checksum that the store states."""
        target = self.target
        if target.local is not None:
            status = target.local.status(path)
            return None if status is None else (Entry(path, status.st_size, status.st_mtime_ns, state_of(status)), None)
        if not isinstance(target, StoredFolder):
            return None
        try:
            info = target.store.info(target.key(path), "check")
        except (ObjectNotFoundError, StorageError):  # without read permission as well: then it is transferred again
            return None
        return Entry(path, info.size, nanoseconds(info.last_modified), info.etag, info.version), info.checksum

    def _upload(self, batch: Sequence[Step], source: LocalFolder, target: StoredFolder) -> list[Result]:
        store, now = target.store, time.time_ns()
        common = store.options_of(self.manner.properties, store.details(target.prefix, "upload"))
        before = [source.status(step.file.path) for step in batch]
        items = [
            self._upload_item(step, status, source, target, self._with_facts(status, target, common))
            for step, status in zip(batch, before, strict=True)
        ]
        if any(status is not None and is_new(status.st_mtime_ns, status.st_ctime_ns, now) for status in before):
            time.sleep(_SETTLED_SECONDS)  # then a change during the upload shows, and the files are remembered
        began = time.time_ns()
        results = list[Result]()
        done: list[tuple[Entry, Stored]] = []
        settled: list[tuple[Entry, Stored]] = []
        answers = store.upload_many(items, self.stop, self._workers(batch), on_error="return")
        for step, each in zip(batch, answers, strict=True):
            file, status = step.file, source.status(step.file.path)
            if isinstance(each, Exception):
                results.append(each)
            elif status is None or state_of(status) != file.state:
                results.append(changed(source.local_path(file.path), "so the object may have its new content"))
            elif (problem := self._settled(file, status, source, target)) is not None:
                results.append(problem)
            else:
                results.append(None)
                done.append((file, each))
                if is_settled(status.st_mtime_ns, status.st_ctime_ns, began):
                    settled.append((file, each))
        if not self.manner.removes:
            self._remember_uploads(done, settled)
        return results

    def _workers(self, batch: Sequence[Step]) -> int:
        """How many exclusive creates of small files go side by side; 0 leaves that to the store."""
        return _COPIES if self.manner.exclusive and all(step.file.size <= _SMALL for step in batch) else 0

    def _with_facts(
        self, status: os.stat_result | None, target: StoredFolder, common: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """The options of an upload, with the facts that are preserved."""
        if not self.manner.preserve or status is None or target.local is not None:
            return common
        return self._options_with(of_status(status, self.manner.preserve), target)

    def _options_with(self, facts: Preserved, target: StoredFolder) -> Mapping[str, Any]:
        given, store = self.manner.properties, target.store
        metadata = {**as_metadata(facts, store.provider), **(given.metadata or {})}
        return store.options_of(dataclasses.replace(given, metadata=metadata), store.details(target.prefix, "upload"))

    def _settled(self, file: Entry, status: os.stat_result, source: LocalFolder, target: StoredFolder) -> Exception | None:
        """Do what is left after an upload: the facts about a target file on this machine, and the end of the source.

        Returns:
            The failure.
        """
        try:
            if self.manner.preserve and target.local is not None:
                of_status(status, self.manner.preserve).give(target.local.local_path(file.path))
        except OSError as error:
            return error
        return unlinked(source.local_path(file.path)) if self.manner.removes else None

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
        readable = path if may_read else None
        is_meant = partial(_is_in_state, step.file.state)
        return UploadItem(key, opened, self._watch(step), self.manner.exclusive, options, readable, is_meant=is_meant)

    def _remember_uploads(self, done: Sequence[tuple[Entry, Stored]], settled: Sequence[tuple[Entry, Stored]]) -> None:
        """Remember the checksums of uploaded files and of their objects.

        Args:
            done: The files of the plan, and their objects.
            settled: Those of them that cannot have changed since the upload began, because that would show in their times.
        """
        self._source_sums.remember((file, each.checksum) for file, each in settled if each.checksum is not None)
        if self.target.local is not None:
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

    def _download(self, batch: Sequence[Step], source: StoredFolder, target: LocalFolder) -> list[Result]:
        arrived = _Arrived({}, {})
        items = [
            ReadItem(
                source.key(step.file.path),
                self._watch(step),
                target.local_path(step.file.path),
                partial(_accept, step.file, source, arrived.versions),
                partial(arrived.states.__setitem__, step.file.path),
                self.manner.exclusive,
                partial(self._facts_of, step.file, source, arrived.versions) if self.manner.preserve else None,
                None if step.file.state is None else (step.file.size, step.file.state),
            )
            for step in batch
        ]
        results, done = list[Result](), list[Entry]()
        answers = source.store.read_many(items, self.stop, on_error="return", workers=self._workers(batch))
        for step, each in zip(batch, answers, strict=True):
            if isinstance(each, Exception):
                results.append(each)
            elif source.local is not None and source.local.state(step.file.path) != step.file.state:
                results.append(changed(source.local.local_path(step.file.path), "so the copy may have its new content"))
            else:
                results.append(None)
                done.append(step.file)
        if self.manner.removes:
            return self._removed(batch, results, source)
        self._remember_downloads(done, arrived)
        return results

    def _facts_of(self, file: Entry, source: StoredFolder, versions: Mapping[str, ObjectInfo]) -> Preserved:
        """The facts about a source file in a store; a HEAD request finds them if the answer to its download has none."""
        if source.local is not None:
            status = source.local.status(file.path)
            return Preserved() if status is None else of_status(status, self.manner.preserve)
        version = versions.get(file.path)
        if version is None or version.metadata is None:
            version = source.store.info(source.key(file.path), "download")
        return of_metadata(version.metadata or {}, self.manner.preserve)

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
        removed = run_all(removals, _COPIES, self.stop)
        return [problem or answer for problem, answer in zip(removed, answers, strict=True)]

    def _remember_downloads(self, files: Sequence[Entry], arrived: _Arrived) -> None:
        """Remember the checksums of objects, and of the files that they became.

        A file has the content of its object as long as it is in the state in which it got its name. Nothing else tells so:
        another program may have put another file there since, also one with an old time.
        """
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
        self._remember_without(without, arrived)

    def _remember_without(self, pairs: Sequence[tuple[Entry, Entry]], arrived: _Arrived) -> None:
        """Remember objects of a store that states no checksums, and the files that they became.

        The file has the checksums that are known of the object. Without any, an ETag that may be an MD5 serves for later
        comparisons, and until then both have a random value in common. Otherwise the file is read.
        """
        known = self._source_sums.known([file for file, _ in pairs])
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
        if unknown and self.manner.learns:
            time.sleep(_SETTLED_SECONDS)
            learned = self._learn(self._target_sums, [written for _, written in unknown])
            of_source += [(file, each) for (file, _), each in zip(unknown, learned, strict=True) if each is not None]
        self._target_sums.remember(of_target)
        self._source_sums.remember(of_source if self._source_is_remote else [])

    @property
    def _source_is_remote(self) -> bool:
        return self.source.local is None

    def _copy(self, batch: Sequence[Step], source: StoredFolder, target: StoredFolder) -> list[Result]:
        if self.manner.removes and self.renames:
            return run_all([partial(self._moved, each, source, target) for each in batch], _COPIES, self.stop)
        results = run_all([partial(self._copied, each, source, target) for each in batch], _COPIES, self.stop)
        if self.manner.removes:
            results = self._removed(batch, results, source)
        if not self.manner.removes:
            self._remember_copies([each for each in results if isinstance(each, _Copied)])
        return [each if isinstance(each, Exception) else None for each in results]

    @property
    def renames(self) -> bool:
        """Whether a move is done by the store, within itself."""
        source, target = self.source, self.target
        if not (isinstance(source, StoredFolder) and isinstance(target, StoredFolder)):
            return False
        return _is_one_store(source.store, target.store)

    def copier(self) -> Mover:
        """The same, which leaves the sources as they are."""
        manner = dataclasses.replace(self.manner, removes=False)
        return Mover(self.source, self.target, manner, self._index, self.stop)

    def _moved(self, step: Step, source: StoredFolder, target: StoredFolder) -> Exception | None:
        """Move an object within its store; the failure."""
        key, store = source.key(step.file.path), source.store
        try:
            with self._watch(step)() as progress:
                progress.expect(step.file.size)
                transfer = store.transfer(key, "move", None, Stop(self.stop))
                version = store.info(key, "move")
                if not (_is_planned(step.file, source, version) or _is_renamed_link(step.file, source)):
                    return changed(transfer.details.url, "so it was not moved")
                store.move(key, target.key(step.file.path), transfer, exclusive=self.manner.exclusive, version=version)
                progress.finish()
        except Exception as error:  # noqa: BLE001 - each file's failure is a result
            return error
        return None

    def _remember_copies(self, done: Sequence[_Copied]) -> None:
        """Remember the checksums of both objects: all of each for both, if the target is certainly the copy."""
        if self.target.local is not None:
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
        if self.target.local is None:
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
            with self._watch(step)() as progress:
                transfer = source.store.transfer(key, "copy", progress, Stop(self.stop))
                if source.local is not None and source.local.state(file.path) not in {file.state, None}:
                    return changed(transfer.details.url, "so it was not copied")
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
                if self.manner.preserve and target.local is not None:
                    self._facts_of(file, source, {}).give(target.local.local_path(file.path))
                progress.finish()
        except ObjectNotFoundError as error:
            return self._missing(error, file, source)
        except Exception as error:  # noqa: BLE001 - each file's failure is a result
            return error
        return copied

    @staticmethod
    def _missing(error: Exception, file: Entry, source: StoredFolder) -> Exception:
        """The failure of a copy whose source was not found; Google says so of an older version, too."""
        with contextlib.suppress(StorageError, ObjectNotFoundError):
            key = source.key(file.path)
            if not _is_planned(file, source, source.store.info(key, "copy")):
                return changed(source.store.details(key, "copy").url, "so it was not copied")
        return error

    def _copy_one(self, file: Entry, source: StoredFolder, target: StoredFolder, transfer: Transfer) -> None:
        store, key, target_key = source.store, source.key(file.path), target.key(file.path)
        exclusive, properties = self.manner.exclusive, self.manner.properties
        # A copy on the server keeps the facts with the other metadata, unless the call gives properties in place of them.
        keeps_facts = _is_one_store(store, target.store) and not properties.given()
        if self.manner.preserve and target.local is None and not keeps_facts:
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

    def report(self, step: Step) -> None:
        """Report the transfer of a file that another process has done."""
        with self._progress_of(step)() as progress:
            progress.expect(step.file.size)
            progress.finish()

    def _progress_of(self, step: Step) -> Callable[[], contextlib.AbstractContextManager[Progress]]:
        if not self.progress.is_shown:
            return unwatched
        source, path = self.source, step.file.path
        where = source.local_path(path) if isinstance(source, LocalFolder) else f"{source.url.rstrip('/')}/{path}"
        return self.progress.of(where, f"{self.target.url.rstrip('/')}/{path}")

    def _watch(self, step: Step) -> Callable[[], contextlib.AbstractContextManager[Progress]]:
        return partial(_Watched, self, self._progress_of(step)) if self.progress.is_shown else self._unwatched

    def require_no_failure(self) -> None:
        """Check that another file may begin.

        Raises:
            NotBegunError: If it may not.
        """
        if self._has_failed:
            raise NotBegunError

    def note_failure(self, error: Exception) -> None:
        """Note the failure of a file, after which no other may begin, unless failures are collected."""
        self._has_failed |= self.manner.on_error == "stop" or ends_all(error)

    def _learn(self, sums: Checksums, files: Sequence[Entry]) -> list[str | None]:
        """Read local files once more, if `Manner.learns`; as `Checksums.learn`."""
        return sums.learn(files, [ALGORITHM] * len(files)) if self.manner.learns else [None] * len(files)

    def _remember_written(self, files: Sequence[Entry], algorithms: Sequence[str] = ()) -> None:
        """Remember the checksums of local files that were written just now.

        They are read once more, from the memory of the system, when a change by another program would show in their times.

        Args:
            files: The files of the plan.
            algorithms: One for each file; `ALGORITHM` without any.
        """
        local = self.target.local
        if local is None or not files or not self.manner.learns:
            return
        time.sleep(_SETTLED_SECONDS)
        now = [
            (_at(file, state), algorithm)
            for file, algorithm in zip(files, algorithms or [ALGORITHM] * len(files), strict=True)
            if (state := local.state(file.path)) is not None
        ]
        self._target_sums.learn([file for file, _ in now], [algorithm for _, algorithm in now])


class _Unwatched(contextlib.AbstractContextManager[Progress]):
    """The `watch` of each file where no progress is shown: it notes the failure of the file.

    Args:
        mover: Transfers the files.
    """

    __slots__ = ("_mover",)

    def __init__(self, mover: Mover) -> None:
        self._mover = mover

    def __call__(self) -> _Unwatched:
        """The context around one file."""
        return self

    def __enter__(self) -> Progress:
        self._mover.require_no_failure()
        return NO_PROGRESS

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, Exception):
            self._mover.note_failure(error)


class _Watched(contextlib.AbstractContextManager[Progress]):
    """The progress of one file, which notes its failure.

    Args:
        mover: Transfers the file.
        watch: The `watch` without the note.
    """

    __slots__ = ("_inner", "_mover")

    def __init__(self, mover: Mover, watch: Callable[[], contextlib.AbstractContextManager[Progress]]) -> None:
        self._mover = mover
        self._inner = watch()

    def __enter__(self) -> Progress:
        self._mover.require_no_failure()
        try:
            return self._inner.__enter__()
        except Exception as error:  # of the callback, whatever it raises
            self._mover.note_failure(error)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        try:
            suppresses = bool(self._inner.__exit__(kind, error, trace))
        except Exception as failure:  # as in `__enter__`
            self._mover.note_failure(failure)
            raise
        if isinstance(error, Exception) and not suppresses:
            self._mover.note_failure(error)
        return suppresses


def changed(where: str, consequence: str) -> StorageError:
    """The error for a file that is in another state than in the plan.

    Args:
        where: The path or URL of the file.
        consequence: The end of the sentence.
    """
    details = ErrorDetails(url=where, operation="transfer")
    return StorageError(f"{where} changed after the plan was made, {consequence}", details, Remedy.REPEAT_NOW)


def _is_in_state(state: str | None, status: os.stat_result) -> bool:
    return state_of(status) == state


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
    return Entry(file.path, file.size, file.modified_ns, state, file.version)


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
    if file.state is not None:
        return file.state == version.etag
    return may_be_one_time(file.modified_ns, nanoseconds(version.last_modified))


def _is_renamed_link(file: Entry, source: StoredFolder) -> bool:
    """Whether a local file looks changed only because another of its names (a hard link) was renamed."""
    status = None if source.local is None else source.local.status(file.path)
    return status is not None and status.st_nlink > 1 and is_same_but_for_ctime(state_of(status), file.state)


def _version_of(file: Entry, source: StoredFolder) -> ObjectInfo | None:
    if source.local is not None or file.state is None:
        return None
    url = source.store.url(source.key(file.path))
    return ObjectInfo(url, file.size, file.state, moment_of(file.modified_ns), version=file.version)


def _is_one_store(one: ObjectStore, other: ObjectStore) -> bool:
    return one is other or one.is_one_with(other)


def unlinked(path: str) -> Exception | None:
    """Delete a local file, which may be gone already; the failure."""
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
