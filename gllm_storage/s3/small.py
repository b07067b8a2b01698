"""Many small objects: one thread has many requests in progress, instead of one thread for each request.

The price of a small object in Python is its thread, its locks and its thread switches; the requests themselves are cheap
(`gllm_storage.s3.http`). Here each request is sent once. If the object is not small, or the request does not succeed at
once, the object is left to the normal way, which tries again, decides and explains.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from botocore.exceptions import ClientError

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import OURS, StorageError, attempts_of
from gllm_storage.files.durability import folders_synced_once, start_write_back
from gllm_storage.files.target import Draft
from gllm_storage.info import Stored
from gllm_storage.s3.errors import is_transient
from gllm_storage.s3.read import is_complete
from gllm_storage.s3.requests import info_from_head
from gllm_storage.s3.upload import write_parameters
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM, WRITE_ID
from gllm_storage.store.retry import s3_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.durability import FolderSyncs
    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.store import S3Store
    from gllm_storage.store.port import ReadItem, UploadItem
    from gllm_storage.store.retry import Kind

IN_PROGRESS = 64
"""Requests in progress: a store that answers after 20 ms gives 3200 answers per second to 64 of them."""
MORE = -1
"""The result of a job that has another request to send."""
_AT_FIRST = 4
"""The same until the first answer, which shows whether the objects are heavy."""
_HEAVY = 2**17
"""Bytes of an object from which on two threads are faster than one. Measured on 2 cores, wall and CPU seconds with one
thread and with two: 2000 × 16 KiB up 0.38 and 0.37, 0.58 and 0.67; 200 × 1 MiB up 0.23 and 0.22, 0.16 and 0.21. With small
objects, two threads mostly hand Python's lock to each other."""
_UNCOUNTED = 2**18
"""Bytes of an object that the memory budget does not count: each thread holds one at a time."""
_WAITING = 128
"""Files that get their names together; each holds a descriptor until then."""
_WAITING_BYTES = 2**26
"""Bytes of such files: the disk should begin early."""
_DISK_WORKERS = 8
"""Files that are written to the disk at a time."""


class StartedRequest(Protocol):
    """A request that was sent; its answer was not read yet."""

    def finish(self) -> dict[str, Any]:
        """Wait for the answer and read it; raises if it is an error, or if there is none."""


class Pipeline(Protocol):
    """Sends requests, and reads their answers later."""

    def begin(self, method: str, parameters: dict[str, Any]) -> StartedRequest | None:
        """Send a request.

        Args:
            method: boto3's name of the method.
            parameters: Its arguments.

        Returns:
            None if this request has to go through boto3.

        Raises:
            Exception: If the request cannot be sent; `attempts_of` the exception is 1 if the sending had begun.
        """


_InProgress: TypeAlias = deque[tuple[int, StartedRequest]]
"""Numbers of jobs, and their requests."""


class _Job(Protocol):
    """One small object to move."""

    def begin(self) -> StartedRequest | None:
        """Send the request; None if the object has to go the normal way."""

    def end(self, answer: dict[str, Any]) -> int | None:
        """Take the answer.

        Returns:
            The number of moved bytes; None if the object has to go the normal way; `MORE` if `begin` has to be called again.
        """

    def failed(self, error: Exception) -> None:
        """Report a failure after which the normal way sends the request again."""


def upload_small(
    store: S3Store, pipeline: Pipeline, items: Sequence[UploadItem], stop: Stop
) -> tuple[dict[int, Stored], list[int]]:
    """Store the small objects among some uploads.

    Args:
        store: The store.
        pipeline: Sends the requests.
        items: The uploads.
        stop: Cancels them.

    Returns:
        The stored objects by number, and the numbers that have to go the normal way.

    Raises:
        TransferStopped: If `stop` was set.
    """
    numbers = [number for number, item in enumerate(items) if not item.exclusive]
    common = _Common(store, pipeline)
    done: dict[int, Stored] = {}
    left = _run([_Put(common, items[number], number, done) for number in numbers], stop)
    exclusive = [number for number, item in enumerate(items) if item.exclusive]
    return done, sorted([*exclusive, *(numbers[each] for each in left)])


def read_small(
    store: S3Store, pipeline: Pipeline, items: Sequence[ReadItem], stop: Stop
) -> tuple[dict[int, bytes | None], list[int]]:
    """Read the small objects among some; as `upload_small`."""
    common = _Common(store, pipeline)
    done: dict[int, bytes | None] = {}
    with folders_synced_once() as folders, contextlib.closing(_Files(folders, stop, durable=store.settings.fsync)) as files:
        left = _run([_Get(common, item, number, done, files) for number, item in enumerate(items)], stop)
        files.publish()
    return done, sorted([*left, *files.failed])


class _Files:
    """Files that are complete and wait for their names: their contents go to the disk side by side.

    One by one, 2000 files of 16 KiB take the disk 0.9 s more. Some at a time: a filesystem commits them together.

    Args:
        folders: Synchronizes the folders.
        stop: Ends the transfer.
        durable: Whether the files go to the disk before they get their names; if not, none waits.
    """

    def __init__(self, folders: FolderSyncs, stop: Stop, *, durable: bool) -> None:
        self._folders = folders
        self._stop = stop
        self._durable = durable
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._bytes = 0
        self.failed: list[int] = []
        """The numbers of the objects whose files could not get their names; they have to go the normal way."""

    def add(self, job: _Get, path: str, details: ErrorDetails, content: bytes) -> None:
        """Write a file; its job is told when the file has its name."""
        draft = Draft(path, details, durable=self._durable)
        try:
            draft.target.write_at(0, content)
        except BaseException:
            draft.discard()
            raise
        if self._durable:
            start_write_back(draft.target.fd)
        with self._lock:
            self._waiting.append(_Waiter(job, draft, len(content)))
            self._bytes += len(content)
            is_full = not self._durable or len(self._waiting) >= _WAITING or self._bytes >= _WAITING_BYTES
        if is_full:
            self.publish()

    def publish(self) -> None:
        """Give the waiting files their names.

        Raises:
            TransferStopped: If the transfer was stopped.
        """
        with self._lock:
            waiting, self._waiting, self._bytes = self._waiting, [], 0
        try:
            tasks = [partial(_is_done, waiter.draft.settle) for waiter in waiting]
            settled = run_all(tasks, _DISK_WORKERS, self._stop) if self._durable and tasks else [task() for task in tasks]
            with self._folders.joined():
                for waiter, is_settled in zip(waiting, settled, strict=True):
                    if is_settled and _is_done(waiter.draft.publish):
                        waiter.job.finish(waiter.size, None)
                    else:
                        self.failed.append(waiter.job.number)
        finally:
            for waiter in waiting:
                waiter.draft.discard()

    def close(self) -> None:
        """Discard the files that have no name yet."""
        for waiter in self._waiting:
            waiter.draft.discard()


@dataclass(frozen=True)
class _Waiter:
    """A file that waits for its name."""

    job: _Get
    draft: Draft
    size: int


def _is_done(step: Callable[[], None]) -> bool:
    """Do a step of a file; whether it succeeded. After a failure, the normal way meets the same one, and explains it."""
    try:
        step()
    except (StorageError, OSError):
        return False
    return True


class _Common:
    """The facts that the jobs of one call share, computed once."""

    def __init__(self, store: S3Store, pipeline: Pipeline) -> None:
        connection, settings = store.connection, store.settings
        self.store = store
        self.pipeline = pipeline
        self.most = min(settings.part_size, settings.multipart_threshold)
        self.put_parameters = connection.parameters("PutObject")
        self.get_parameters = connection.parameters("GetObject")
        self.head_parameters = connection.parameters("HeadObject")
        self.checksum_headers = connection.checksum_headers
        self.keeps_checksum = connection.is_amazon
        self._memory_limit = settings.memory_limit
        self._policy = s3_requests(settings.max_attempts)

    def begin(self, method: str, parameters: dict[str, Any], operation: str) -> StartedRequest | None:
        """Send a request, as `Pipeline.begin`, and report if the attempt fails: the normal way sends the request again.

        A request that cannot be built or signed was not attempted, and has no report.
        """
        try:
            return self.pipeline.begin(method, parameters)
        except Exception as error:
            if attempts_of(error) is not None:
                self.report(parameters["Key"], operation, error)
            raise

    def report(self, key: str, operation: str, error: Exception | str, kind: Kind = "retry") -> None:
        """Report that a request failed and is sent again. Other failures are the same the second time: no report."""
        if isinstance(error, OURS) or (isinstance(error, ClientError) and not is_transient(error)):
            return
        self._policy.report(self.store.details(key, operation), 1, error, kind, wait=0.0)

    def in_memory(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Count an object in the memory budget while this thread holds it."""
        if size <= _UNCOUNTED:
            return contextlib.nullcontext()
        return in_flight(size, self._memory_limit, running_stop() or Stop())


@dataclass(frozen=True)
class _Put:
    """PutObject of a small object; an existing object is replaced."""

    common: _Common
    item: UploadItem
    number: int
    done: dict[int, Stored]
    _sent: list[tuple[int, str]] = field(default_factory=list)

    def begin(self) -> StartedRequest | None:
        common = self.common
        with self.item.open_source(common.store.details(self.item.key, "upload")) as source:
            if source.size > common.most or self.item.key.endswith("/"):  # the normal way looks whether such a key is kept
                return None
            options = common.store.with_content_type(self.item.key, source, self.item.options)
            with common.in_memory(source.size):
                data = source.read_at(0, source.size)
                source.require_unchanged()
                return self._begin(data, options)

    def _begin(self, data: bytes, options: Mapping[str, Any]) -> StartedRequest | None:
        common = self.common
        crc = checksums.encode(checksums.crc64nvme(data))
        metadata = {**(options.get("Metadata") or {}), WRITE_ID: secrets.token_hex(16)}
        if not common.keeps_checksum:
            metadata[CHECKSUM] = f"{crc}-{len(data)}"
        parameters = {
            **common.put_parameters,
            **write_parameters(options),
            "Bucket": common.store.bucket,
            "Key": self.item.key,
            "Metadata": metadata,
            "Body": data,
        }
        parameters.update(common.checksum_headers.digests("put_object", {"ChecksumCRC64NVME": crc}, data))
        self._sent.append((len(data), crc))
        return common.begin("put_object", parameters, "upload")

    def failed(self, error: Exception) -> None:
        self.common.report(self.item.key, "upload", error)

    def end(self, answer: Mapping[str, Any]) -> int | None:
        etag = str(answer.get("ETag") or "").strip('"')
        if not etag:
            self.common.report(self.item.key, "upload", "the answer holds no ETag")
            return None
        size, crc = self._sent[-1]
        url = self.common.store.url(self.item.key)
        self.done[self.number] = Stored(url, size, etag, answer.get("VersionId"), f"crc64nvme:{crc}")
        with self.item.watch() as progress:
            progress.expect(size)
            progress.finish()
        return size


@dataclass(frozen=True)
class _Get:
    """GetObject of a small object: one answer, and so one version."""

    common: _Common
    item: ReadItem
    number: int
    done: dict[int, bytes | None]
    files: _Files

    _unconfirmed: list[tuple[ObjectInfo, bytes]] = field(default_factory=list)

    def begin(self) -> StartedRequest | None:
        common = self.common
        place = {"Bucket": common.store.bucket, "Key": self.item.key, "ChecksumMode": "ENABLED"}
        if self._unconfirmed:
            return common.begin("head_object", {**common.head_parameters, **place}, self._operation)
        return common.begin("get_object", {**common.get_parameters, **place}, self._operation)

    def failed(self, error: Exception) -> None:
        self.common.report(self.item.key, self._operation, error)

    @property
    def _operation(self) -> str:
        return "read" if self.item.path is None else "download"

    def end(self, answer: Mapping[str, Any]) -> int | None:
        if self._unconfirmed:
            return self._confirm(answer)
        with contextlib.closing(answer["Body"]) as body:
            if not is_complete(answer):
                return None
            info = info_from_head(answer, self.common.store.url(self.item.key))
            if info.size > self.common.most:
                return None
            with self.common.in_memory(info.size):
                content = body.read()
                if not _is_complete(content, info):
                    cause = "the content does not match its size or checksum"
                    self.common.report(self.item.key, self._operation, cause, "corruption")
                    return None
                if info.checksum is None:
                    return self._begin_to_confirm(info, content)
                self._keep(content)
        return info.size

    def _begin_to_confirm(self, info: ObjectInfo, content: bytes) -> int | None:
        """Without a checksum, the answer may be a page of a proxy, or cut: a HeadObject has to state the same facts."""
        if info.size > _UNCOUNTED:
            return None
        self._unconfirmed.append((info, content))
        return MORE

    def _confirm(self, answer: Mapping[str, Any]) -> int | None:
        found, (info, content) = info_from_head(answer, self.common.store.url(self.item.key)), self._unconfirmed.pop()
        if (found.size, found.etag, found.checksum) != (info.size, info.etag, None):
            return None
        self._keep(content)
        return info.size

    def _keep(self, content: bytes) -> None:
        if self.item.path is None:
            self.finish(len(content), content)
        else:
            self.files.add(self, self.item.path, self.common.store.details(self.item.key, "download"), content)

    def finish(self, size: int, content: bytes | None) -> None:
        """Report the end of the object.

        Args:
            size: Its size in bytes.
            content: Its content; None if that is in a file.
        """
        with self.item.watch() as progress:
            progress.expect(size)
            progress.finish()
        self.done[self.number] = content


def _is_complete(content: bytes, info: ObjectInfo) -> bool:
    if len(content) != info.size:
        return False
    if info.checksum is None:
        return True
    algorithm, expected = info.checksum.split(":", 1)
    found = checksums.checksum_of(lambda offset, length: content[offset : offset + length], len(content), algorithm)
    return found == expected


def _run(jobs: Sequence[_Job], stop: Stop) -> list[int]:
    """Run jobs, many at a time; returns the numbers of those that have to go the normal way."""
    team = _Team(jobs)
    run_all([partial(team.lead, stop), partial(team.help, stop)], 2, stop)
    return sorted(team.left)


class _Team:
    """Two threads that share the jobs; the second begins when an object has turned out to be heavy."""

    def __init__(self, jobs: Sequence[_Job]) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._numbers = iter(range(len(jobs)))
        self._help = threading.Event()
        self._most = _AT_FIRST
        self.left: list[int] = []

    def lead(self, stop: Stop) -> None:
        """Work in the first thread."""
        try:
            self._work(stop)
        finally:
            self._help.set()

    def help(self, stop: Stop) -> None:
        """Work in the second thread, once that is worth it."""
        self._help.wait()
        self._work(stop)

    def _work(self, stop: Stop) -> None:
        in_progress: _InProgress = deque()
        try:
            more = True
            while more or in_progress:
                stop.check()
                if more and len(in_progress) < self._most:
                    more = self._begin_next(in_progress)
                else:
                    self._finish(*in_progress.popleft(), in_progress)
        finally:
            # Each sent request is answered before this ends: no write may take effect later.
            while in_progress:
                with contextlib.suppress(Exception, TransferStopped):
                    self._finish(*in_progress.popleft(), in_progress)

    def _begin_next(self, in_progress: _InProgress) -> bool:
        with self._lock:
            number = next(self._numbers, None)
        if number is None:
            return False
        self._begin(number, in_progress)
        return True

    def _begin(self, number: int, in_progress: _InProgress) -> None:
        started = None
        # The normal way meets the same failure, and explains it. The job has reported a failed attempt to send.
        with contextlib.suppress(Exception):
            started = self._jobs[number].begin()
        if started is None:
            self.left.append(number)
        else:
            in_progress.append((number, started))

    def _finish(self, number: int, started: StartedRequest, in_progress: _InProgress) -> None:
        moved = None
        try:
            moved = self._jobs[number].end(started.finish())
        except Exception as error:  # noqa: BLE001 - the normal way meets the same failure, and explains it
            self._jobs[number].failed(error)
        if moved is None:
            self.left.append(number)
        elif moved == MORE:
            self._begin(number, in_progress)
        elif moved >= _HEAVY:
            self._help.set()
        self._most = IN_PROGRESS // 2 if self._help.is_set() else IN_PROGRESS
