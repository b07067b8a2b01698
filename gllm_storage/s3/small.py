"""Many small objects: one thread has many requests in progress, instead of one thread for each request.

The price of a small object in Python is its thread, its locks and its thread switches; the requests themselves are cheap
(`gllm_storage.s3.http`). Here each request is sent once. If the object is not small, or the request does not succeed at
once, the object is left to the normal way, which tries again, decides and explains.
"""

from __future__ import annotations

import contextlib
import mimetypes
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from botocore.exceptions import ClientError

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import OURS, StorageError, attempts_of
from gllm_storage.files.durability import folders_synced_once
from gllm_storage.files.source import content_of
from gllm_storage.files.target import Draft, Folders
from gllm_storage.info import ObjectInfo, Stored, plain_etag
from gllm_storage.s3.errors import is_transient
from gllm_storage.s3.requests import checksum_in
from gllm_storage.s3.upload import write_parameters
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM, WRITE_ID
from gllm_storage.store.create import new_write_id
from gllm_storage.store.port import unwatched
from gllm_storage.store.retry import s3_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.durability import FolderSyncs
    from gllm_storage.s3.store import S3Store
    from gllm_storage.store.port import ReadItem, UploadItem
    from gllm_storage.store.retry import Kind
    from gllm_storage.store.transfer import Progress

    Content: TypeAlias = bytes | bytearray | memoryview

IN_PROGRESS = 64
"""Requests in progress: a store that answers after 20 ms gives 3200 answers per second to 64 of them."""
_HEAVY_IN_PROGRESS = 16
"""The same for heavy objects: 16 MiB in 20 ms are 800 MiB/s."""
MORE = -1
"""The result of a job that has another request to send."""
_AT_FIRST = 4
"""Requests in progress at first: a near store keeps up with them, and each needs a connection of its own."""
_SHORT_WAIT = 0.0005
"""Seconds of a wait for an answer in which another request could have been sent and another answer read."""
_WINDOW = 0.01
"""Seconds over which waits are averaged: a single one may be that of a busy machine, and another connection is no help."""
_MUCH = 0.25
"""The share of the time for which threads wait, from which on more requests in progress are worth their connections. A
thread that receives heavy objects also waits while the other one holds Python's lock."""
_HEAVY = 2**17
"""Bytes of an object from which on two threads are faster than one. Measured on 2 cores, wall and CPU seconds with one
thread and with two: 2000 × 16 KiB up 0.38 and 0.37, 0.58 and 0.67; 200 × 1 MiB up 0.23 and 0.22, 0.16 and 0.21. With small
objects, two threads mostly hand Python's lock to each other."""
_UNCOUNTED = 2**20
"""Bytes of an object that the memory budget does not count: each thread holds one at a time."""
_WAITING = 128
"""Files that get their names together; each holds a descriptor until then."""
_WAITING_BYTES = 2**26
"""Bytes of such files: the disk should begin early."""
_OPTIONS = 16
"""Different options among the uploads of a call that are prepared once each."""
_ENDINGS = 256
"""Endings of names whose content type a call remembers."""
_OK = 200
_WRITE_ID, _CHECKSUM, _CRC = f"x-amz-meta-{WRITE_ID}", f"x-amz-meta-{CHECKSUM}", "x-amz-checksum-crc64nvme"
_DIGESTS = {"ChecksumCRC64NVME": _CRC, "ContentMD5": "content-md5"}
_META = "x-amz-meta-"
_NO_HEADERS: dict[str, str] = {}
_NOTHING = contextlib.nullcontext()
_DISK_WORKERS = 8
"""Files that are written to the disk at a time."""


class Answer(Protocol):
    """An answer of the store that is not an error."""

    status: int
    headers: Mapping[str, str]
    length: int | None

    def content(self, buffer: memoryview | None = None) -> bytes | bytearray | memoryview:
        """Read the complete body, perhaps into a buffer."""

    def close(self) -> None:
        """Close the connection, unless the complete body was read."""


class StartedRequest(Protocol):
    """A request that was sent; its answer was not read yet."""

    def answer(self) -> Answer:
        """Wait for the answer; raises if it is an error, or if there is none. The caller reads the body of a GetObject."""

    def second(self) -> Answer | None:
        """Wait for the answer to the second request, after the body of the first; None if only one request was sent.

        Raises if it is an error, or if there is none: then the first answer cannot be trusted.
        """

    def close(self) -> None:
        """Close the connection, if there is a second answer that was not read."""


class PreparedRequest(Protocol):
    """The common part of many requests."""

    def begin(self, key: str, headers: Mapping[str, str], body: bytes = b"") -> StartedRequest | None:
        """Send a request.

        Args:
            key: The key.
            headers: Further headers, whose values are known to be printable ASCII.
            body: The body.

        Returns:
            None if this request has to go through boto3.

        Raises:
            Exception: If the request cannot be sent; `attempts_of` the exception is 1 if the sending had begun.
        """

    def begin_pair(self, key: str, second: Any) -> StartedRequest | None:
        """Send a request, and if the server is known to cope with that, another one directly behind it.

        Args:
            key: The key.
            second: The other request, also a `PreparedRequest`.

        Returns:
            As for `begin`.

        Raises:
            Exception: As for `begin`.
        """


class Pipeline(Protocol):
    """Sends requests, and reads their answers later."""

    def prepare(self, method: str, parameters: Mapping[str, Any]) -> PreparedRequest | None:
        """Prepare many requests that differ by their keys.

        Args:
            method: boto3's name of the method.
            parameters: The arguments that all requests have, with the bucket.

        Returns:
            None if these requests have to go through boto3.
        """


_InProgress: TypeAlias = deque[tuple[int, StartedRequest]]
"""Numbers of jobs, and their requests."""


class _Job(Protocol):
    """One small object to move."""

    def begin(self) -> StartedRequest | None:
        """Send the request; None if the object has to go the normal way."""

    def end(self, answer: Answer) -> int | None:
        """Take the answer.

        Returns:
            The number of moved bytes; None if the object has to go the normal way; `MORE` if `begin` has to be called again.
        """

    def failed(self, error: Exception) -> None:
        """Report a failure after which the normal way sends the request again."""


def upload_small(
    store: S3Store, pipeline: Pipeline, items: Sequence[UploadItem], stop: Stop
) -> tuple[dict[int, Stored | Exception], list[int]]:
    """Store the small objects among some uploads.

    Args:
        store: The store.
        pipeline: Sends the requests.
        items: The uploads.
        stop: Cancels them.

    Returns:
        The stored objects by number, or the failures of their callbacks; and the numbers that have to go the normal way.

    Raises:
        TransferStopped: If `stop` was set.
    """
    numbers = [number for number, item in enumerate(items) if not item.exclusive]
    common = _Common(store, pipeline)
    done: dict[int, Stored] = {}
    left = _run([_Put(common, items[number], number, done) for number in numbers], common, stop)
    exclusive = [number for number, item in enumerate(items) if item.exclusive]
    return {**done, **common.unreported}, sorted([*exclusive, *(numbers[each] for each in left)])


def read_small(
    store: S3Store, pipeline: Pipeline, items: Sequence[ReadItem], stop: Stop
) -> tuple[dict[int, bytes | Exception | None], list[int]]:
    """Read the small objects among some; as `upload_small`."""
    common = _Common(store, pipeline)
    requests = _Reads(
        common.prepare("get_object", "GetObject", ChecksumMode="ENABLED"),
        common.prepare("head_object", "HeadObject", ChecksumMode="ENABLED"),
    )
    done: dict[int, bytes | None] = {}
    with folders_synced_once() as syncs, contextlib.closing(_Files(syncs, stop, durable=store.settings.fsync)) as files:
        numbers = [number for number, item in enumerate(items) if not item.exclusive]
        left = _run([_Get(common, requests, items[number], number, done, files) for number in numbers], common, stop)
        files.publish()
    exclusive = [number for number, item in enumerate(items) if item.exclusive]
    left_over = sorted([*exclusive, *(numbers[each] for each in left), *files.failed])
    return {**done, **common.unreported}, left_over


class _Files:
    """Files that are complete and wait for their names: their contents go to the disk side by side.

    One by one, 2000 files of 16 KiB take the disk 0.9 s more. Some at a time: a filesystem commits them together.

    Args:
        syncs: Synchronizes the folders.
        stop: Ends the transfer.
        durable: Whether the files go to the disk before they get their names; if not, none waits.
    """

    def __init__(self, syncs: FolderSyncs, stop: Stop, *, durable: bool) -> None:
        self._syncs = syncs
        self._stop = stop
        self._durable = durable
        self._folders = Folders()
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._bytes = 0
        self._unnamed: set[Draft] = set()
        self.failed: list[int] = []
        """The numbers of the objects whose files could not get their names; they have to go the normal way."""

    def write(self, item: ReadItem, path: str, details: ErrorDetails, content: Content) -> Draft:
        """Write a file that gets its name later, or never.

        Raises:
            StorageError: If it cannot be written.
        """
        manner = {"durable": self._durable, "late": True}
        draft = Draft(path, details, folders=self._folders, note=item.named, preserved=item.preserved, **manner)
        self._unnamed.add(draft)
        try:
            draft.fill(content)
        except BaseException:
            self.discard(draft)
            raise
        return draft

    def discard(self, draft: Draft) -> None:
        """Remove a file that gets no name."""
        self._unnamed.discard(draft)
        draft.discard()

    def name(self, job: _Get, draft: Draft, size: int) -> bool:
        """Give a file its name, at once or together with others.

        Returns:
            Whether it has its name; if not, its job is told when it has.

        Raises:
            StorageError: If it cannot get its name.
        """
        if not self._durable:
            try:
                draft.settle()
                draft.publish()
            except BaseException:
                self.discard(draft)
                raise
            self._unnamed.discard(draft)
            return True
        with self._lock:
            self._unnamed.discard(draft)
            self._waiting.append(_Waiter(job, draft, size))
            self._bytes += size
            is_full = len(self._waiting) >= _WAITING or self._bytes >= _WAITING_BYTES
        if is_full:
            self.publish()
        return False

    def publish(self) -> None:
        """Give the waiting files their names.

        Raises:
            TransferStopped: If the transfer was stopped.
        """
        with self._lock:
            waiting, self._waiting, self._bytes = self._waiting, [], 0
        if not waiting:
            return
        try:
            settled = run_all([partial(_is_done, waiter.draft.settle) for waiter in waiting], _DISK_WORKERS, self._stop)
            with self._syncs.joined():
                for waiter, is_settled in zip(waiting, settled, strict=True):
                    if is_settled and _is_done(waiter.draft.publish):
                        waiter.job.finish(waiter.size, None)
                    else:
                        self.failed.append(waiter.job.number)
        finally:
            for waiter in waiting:
                waiter.draft.discard()

    def close(self) -> None:
        """Discard the files that have no name."""
        for draft in (*self._unnamed, *(waiter.draft for waiter in self._waiting)):
            draft.discard()


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
        self.requests = store.requests
        self.most = min(settings.part_size, settings.multipart_threshold)
        self.keeps_checksum = connection.is_amazon
        self.checksum_headers = connection.checksum_headers
        self._pipeline = pipeline
        self._memory_limit = settings.memory_limit
        self._policy = s3_requests(settings.max_attempts)
        self._buffers = threading.local()
        self.states_checksums = True
        """Whether the last answer to a GetObject stated a checksum."""
        self._puts: list[tuple[Mapping[str, Any], PreparedRequest | None, bool]] = []
        self._types: dict[str, str | None] = {}
        self.unreported: dict[int, Exception] = {}
        """The failures of callbacks, by the numbers of their objects, which are complete."""

    def report_end(self, number: int, watch: Callable[[], contextlib.AbstractContextManager[Progress]], size: int) -> None:
        """Report the end of an object. After a callback failed, nothing more is reported, and no request begins here."""
        if watch is unwatched or self.unreported:
            return
        try:
            with watch() as progress:
                progress.expect(size)
                progress.finish()
        except Exception as error:  # noqa: BLE001 - not a failure of the request, which must not be sent again
            self.unreported[number] = error

    def prepare(self, method: str, operation: str, **parameters: Any) -> PreparedRequest | None:
        """Prepare the requests of an operation."""
        common = {"Bucket": self.store.bucket, **self.store.connection.parameters(operation), **parameters}
        return self._pipeline.prepare(method, common)

    def put(self, options: Mapping[str, Any]) -> tuple[PreparedRequest | None, bool]:
        """The prepared PutObject with these options, and whether it needs a guessed content type."""
        for known, prepared, guesses in self._puts:
            if known is options or known == options:
                return prepared, guesses
        given = {"Metadata": options.get("Metadata") or {}, **write_parameters(options)}
        guesses = "ContentType" not in given and "ContentType" not in self.store.connection.parameters("PutObject")
        prepared = self.prepare("put_object", "PutObject", **given)
        if len(self._puts) < _OPTIONS:
            self._puts.append((options, prepared, guesses))
        return prepared, guesses

    def content_type(self, key: str, path: str) -> str | None:
        """The content type that the key suggests, or else the name of the local file; as `guess_content_type`."""
        found = self._type_of(key)
        return found if found or path.rpartition("/")[2] == key.rpartition("/")[2] else self._type_of(path)

    def _type_of(self, name: str) -> str | None:
        # The type follows from the name behind the first dot of the last segment, unless the name is a URL to `mimetypes`.
        last = name.rpartition("/")[2].lstrip(".")
        ending = name if ":" in name else last[last.find(".") :] if "." in last else ""
        if ending not in self._types:
            if len(self._types) >= _ENDINGS:
                self._types.clear()
            self._types[ending] = mimetypes.guess_type(name)[0]
        return self._types[ending]

    def report(self, key: str, operation: str, error: Exception | str, kind: Kind = "retry") -> None:
        """Report that a request failed and is sent again. Other failures are the same the second time: no report."""
        if isinstance(error, OURS) or (isinstance(error, ClientError) and not is_transient(error)):
            return
        self._policy.report(self.store.details(key, operation), 1, error, kind, wait=0.0)

    def confirms(self, key: str) -> bool:
        """Whether the answer to a GetObject will probably need a HeadObject that confirms it."""
        return not (self.states_checksums or self.requests.knows(key))

    @property
    def buffer(self) -> memoryview:
        """Memory of this thread for the content of one object, until that is in its file."""
        found: memoryview | None = getattr(self._buffers, "view", None)
        if found is None:
            found = self._buffers.view = memoryview(bytearray(_UNCOUNTED))
        return found

    def in_memory(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Count an object in the memory budget while this thread holds it."""
        if size <= _UNCOUNTED:
            return _NOTHING
        return in_flight(size, self._memory_limit, running_stop() or Stop())


class _Put:
    """PutObject of a small object; an existing object is replaced."""

    __slots__ = ("_common", "_crc", "_done", "_item", "_number", "_size")

    def __init__(self, common: _Common, item: UploadItem, number: int, done: dict[int, Stored]) -> None:
        self._common = common
        self._item = item
        self._number = number
        self._done = done

    def begin(self) -> StartedRequest | None:
        item, common = self._item, self._common
        if item.key.endswith("/"):  # the normal way looks whether the store keeps such a key
            return None
        if item.path is not None:
            data = content_of(item.path, min(common.most, _UNCOUNTED), item.is_meant)
            if data is not None:
                return self._begin(data, item.path)
        with item.open_source(common.store.details(item.key, "upload")) as source:
            if source.size > common.most:
                return None
            with common.in_memory(source.size):
                data = source.read_at(0, source.size)
                source.require_unchanged()
                return self._begin(data, getattr(source, "path", ""))

    def _begin(self, data: bytes, path: str) -> StartedRequest | None:
        common, key = self._common, self._item.key
        prepared, guesses = common.put(self._item.options)
        if prepared is None:
            return None
        digests = common.checksum_headers
        crc = checksums.encode(checksums.crc64nvme(data))
        headers = {_WRITE_ID: new_write_id()}
        if not common.keeps_checksum:
            headers[_CHECKSUM] = f"{crc}-{len(data)}"
        if digests.accepted.get("put_object") is not False and "put_object" not in digests.demand_md5:
            headers[_CRC] = crc
        else:
            for name, value in digests.digests("put_object", {"ChecksumCRC64NVME": crc}, data).items():
                headers[_DIGESTS[name]] = value
        guessed = common.content_type(key, path) if guesses else None
        if guessed:
            headers["content-type"] = guessed
        self._size, self._crc = len(data), crc
        try:
            return prepared.begin(key, headers, data)
        except Exception as error:  # reported, and raised again
            if attempts_of(error) is not None:  # a request that cannot be built or signed was not attempted
                self.failed(error)
            raise

    def failed(self, error: Exception) -> None:
        self._common.report(self._item.key, "upload", error)

    def end(self, answer: Answer) -> int | None:
        headers, item = answer.headers, self._item
        etag = plain_etag(headers.get("etag", ""))
        if not etag:
            self._common.report(item.key, "upload", "the answer holds no ETag")
            return None
        size, url = self._size, self._common.store.url(item.key)
        self._done[self._number] = Stored(url, size, etag, headers.get("x-amz-version-id"), f"crc64nvme:{self._crc}")
        self._common.report_end(self._number, item.watch, size)
        return size


class _Get:
    """GetObject of a small object: one answer, and so one version."""

    __slots__ = ("_common", "_done", "_files", "_item", "_pair", "_requests", "_unconfirmed", "number")

    def __init__(  # noqa: PLR0917 - the job, and what it shares with the others
        self, common: _Common, requests: _Reads, item: ReadItem, number: int, done: dict[int, bytes | None], files: _Files
    ) -> None:
        self._common = common
        self._requests = requests
        self._item = item
        self.number = number
        self._done = done
        self._files = files
        self._unconfirmed: _Unconfirmed | None = None
        self._pair: StartedRequest | None = None

    def begin(self) -> StartedRequest | None:
        started = None
        try:
            started = self._begin()
        finally:
            if started is None:
                self._discard_unconfirmed()
        return started

    def _begin(self) -> StartedRequest | None:
        requests, key = self._requests, self._item.key
        prepared = requests.get if self._unconfirmed is None else requests.head
        if prepared is None:
            return None
        try:
            # If the answers state no checksum, a HeadObject has to confirm the next one, too.
            is_pair = prepared is requests.get and self._item.listed is None and self._common.confirms(key)
            if is_pair and requests.head is not None:
                self._pair = prepared.begin_pair(key, requests.head)
                return self._pair
            return prepared.begin(key, _NO_HEADERS)
        except Exception as error:  # reported, and raised again
            if attempts_of(error) is not None:  # as in `_Put`
                self.failed(error)
            raise

    def failed(self, error: Exception) -> None:
        self._common.report(self._item.key, self._operation, error)
        self._close_pair()
        self._discard_unconfirmed()

    @property
    def _operation(self) -> str:
        return "read" if self._item.path is None else "download"

    def end(self, answer: Answer) -> int | None:
        if self._unconfirmed is not None:
            return self._confirm(answer, self._unconfirmed)
        try:
            headers, size = answer.headers, answer.length
            etag = plain_etag(headers.get("etag", ""))
            is_complete = answer.status == _OK and "content-range" not in headers and etag
            if not is_complete or size is None or size > self._common.most:
                return None
            with self._common.in_memory(size):
                content = answer.content(None if self._item.path is None else self._common.buffer)
                # Before the content is used: a server that confuses the two answers sends another content.
                second = None if self._pair is None else self._pair.second()
                metadata = None if self._item.preserved is None else _metadata_in(headers)
                return self._take(content, _Facts(size, etag, metadata), checksum_in(headers, size), second)
        finally:
            answer.close()
            self._close_pair()

    def _close_pair(self) -> None:
        pair, self._pair = self._pair, None
        if pair is not None:
            pair.close()

    def _take(self, content: Content, facts: _Facts, checksum: str | None, second: Answer | None) -> int | None:
        size = facts.size
        if len(content) != size or (checksum is not None and not _matches(content, checksum)):
            cause = "the content does not match its size or checksum"
            self._common.report(self._item.key, self._operation, cause, "corruption")
            return None
        if self._item.accept is not None:
            url = self._common.store.url(self._item.key)
            self._item.accept(ObjectInfo(url, size, facts.etag, checksum=checksum, metadata=facts.metadata))
        self._common.states_checksums = checksum is not None
        if checksum is None and second is not None and not self._is_confirmed_by(second, facts):
            return None
        kept = self._kept(content)
        if checksum is None and second is None and not self._is_known(facts):
            # The answer may be a page of a proxy, or cut: a HeadObject has to state the same facts.
            self._unconfirmed = _Unconfirmed(facts, kept)
            return MORE
        self._end(size, kept)
        return size

    def _is_known(self, facts: _Facts) -> bool:
        """Whether a listing or an earlier HeadObject has stated the same facts."""
        stated = facts.size, facts.etag
        return self._item.listed == stated or self._common.requests.is_confirmed(self._item.key, *stated)

    def _confirm(self, answer: Answer, found: _Unconfirmed) -> int | None:
        if not self._is_confirmed_by(answer, found.facts):
            self._discard_unconfirmed()
            return None
        self._end(found.facts.size, found.kept)
        return found.facts.size

    def _is_confirmed_by(self, answer: Answer, facts: _Facts) -> bool:
        """Whether the answer to a HeadObject states the same facts, which are remembered then."""
        headers, size = answer.headers, facts.size
        stated = answer.status, plain_etag(headers.get("etag", "")), headers.get("content-length")
        if stated != (_OK, facts.etag, str(size)) or checksum_in(headers, size) is not None:
            return False
        self._common.requests.confirm(self._item.key, size, facts.etag)
        return True

    def _kept(self, content: Content) -> bytes | Draft:
        """The content in a file without a name, or in memory if the caller wants it there."""
        path = self._item.path
        if path is None:
            return bytes(content)
        return self._files.write(self._item, path, self._common.store.details(self._item.key, "download"), content)

    def _discard_unconfirmed(self) -> None:
        if self._unconfirmed is not None and isinstance(self._unconfirmed.kept, Draft):
            self._files.discard(self._unconfirmed.kept)

    def _end(self, size: int, kept: bytes | Draft) -> None:
        if not isinstance(kept, Draft):
            self.finish(size, kept)
        elif self._files.name(self, kept, size):
            self.finish(size, None)

    def finish(self, size: int, content: bytes | None) -> None:
        """Report the end of the object.

        Args:
            size: Its size in bytes.
            content: Its content; None if that is in a file.
        """
        self._common.report_end(self.number, self._item.watch, size)
        self._done[self.number] = content


@dataclass(frozen=True)
class _Facts:
    """The facts about the object in the answer to a GetObject."""

    size: int
    etag: str
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True)
class _Unconfirmed:
    """A received object without a checksum, until a HeadObject states the same facts."""

    facts: _Facts
    kept: bytes | Draft


@dataclass(frozen=True)
class _Reads:
    """The prepared requests that read objects."""

    get: PreparedRequest | None
    head: PreparedRequest | None


def _metadata_in(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(_META): value for name, value in headers.items() if name.startswith(_META)}


def _matches(content: Content, checksum: str) -> bool:
    algorithm, expected = checksum.split(":", 1)
    if algorithm == "crc64nvme":
        return checksums.encode(checksums.crc64nvme(content)) == expected
    found = checksums.checksum_of(lambda offset, length: bytes(content[offset : offset + length]), len(content), algorithm)
    return found == expected


def _run(jobs: Sequence[_Job], common: _Common, stop: Stop) -> list[int]:
    """Run jobs, many at a time; returns the numbers of those that have to go the normal way."""
    team = _Team(jobs, common)
    run_all([partial(team.lead, stop), partial(team.help, stop)], 2, stop)
    return sorted(team.left)


class _Team:
    """Two threads that share the jobs; the second begins when an object has turned out to be heavy."""

    def __init__(self, jobs: Sequence[_Job], common: _Common) -> None:
        self._jobs = jobs
        self._common = common
        self._lock = threading.Lock()
        self._numbers = iter(range(len(jobs)))
        self._help = threading.Event()
        self._most = _AT_FIRST
        self._answers, self._waited, self._began = 0, 0.0, time.monotonic()
        self._is_heavy = False
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
                if more and len(in_progress) < (max(1, self._most // 2) if self._is_heavy else self._most):
                    more = self._begin_next(in_progress)
                else:
                    self._finish(*in_progress.popleft(), in_progress)
        finally:
            # Each sent request is answered before this ends: no write may take effect later.
            while in_progress:
                with contextlib.suppress(Exception, TransferStopped):
                    self._finish(*in_progress.popleft(), in_progress)

    def _observe(self, began: float) -> None:
        """Judge the wait for an answer.

        A distant store: more requests in progress fill the wait. A near one: each more costs a connection.
        """
        now = time.monotonic()
        self._waited += now - began
        self._answers += 1
        if self._answers < self._most or now - self._began < _WINDOW:
            return
        average = self._waited / self._answers
        threads = 2 if self._is_heavy else 1
        if average > _SHORT_WAIT and self._waited > _MUCH * threads * (now - self._began):
            most = _HEAVY_IN_PROGRESS if self._is_heavy else IN_PROGRESS
            self._most = max(self._most, min(most, self._most + int(self._most * average / _SHORT_WAIT)))
        self._answers, self._waited, self._began = 0, 0.0, now

    def _begin_next(self, in_progress: _InProgress) -> bool:
        with self._lock:
            number = next(self._numbers, None)
        if number is None:
            return False
        if self._common.unreported:
            self.left.append(number)
        else:
            self._begin(number, in_progress)
        return True

    def _begin(self, number: int, in_progress: _InProgress) -> None:
        try:
            started = self._jobs[number].begin()
        except Exception:  # noqa: BLE001 - the normal way meets the same failure; the job has reported a failed attempt to send
            started = None
        if started is None:
            self.left.append(number)
        else:
            in_progress.append((number, started))

    def _finish(self, number: int, started: StartedRequest, in_progress: _InProgress) -> None:
        moved, began = None, time.monotonic()
        try:
            answer = started.answer()
            self._observe(began)
            moved = self._jobs[number].end(answer)
        except Exception as error:  # noqa: BLE001 - the normal way meets the same failure, and explains it
            self._jobs[number].failed(error)
        if moved is None:
            self.left.append(number)
        elif moved == MORE:
            self._begin(number, in_progress)
        elif moved >= _HEAVY and not self._is_heavy:
            self._is_heavy = True
            self._help.set()
