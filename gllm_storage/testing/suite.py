"""`StoreSuite`: every promise of the library as a test of one store."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import pickle
import socket
import threading
import time
import traceback
import warnings
from functools import partial
from pathlib import Path  # noqa: TC003 - pytest reads the annotations of tests
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import mock
from urllib.parse import urlsplit

from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.concurrency.stop import Stop, TransferStopped
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    OURS,
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    IntegrityError,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.files.source import MemorySource, SourceChangedError
from gllm_storage.files.target import Preserved, atomic_target
from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.info import Stored
from gllm_storage.store.download import fetch_object
from gllm_storage.store.port import ReadItem, UploadItem, UploadRequest, nothing, unwatched
from gllm_storage.store.reader import ObjectChangedError, ObjectReader
from gllm_storage.store.retry import RetryPolicy, no_waits
from gllm_storage.testing.checks import (
    content,
    is_checksum_of,
    race,
    race_in_processes,
    read_while_replaced,
    store_bytes,
    wrong_ranges,
)
from gllm_storage.testing.faults import (
    Answer,
    Call,
    DropResponse,
    Fault,
    FaultProxy,
    FlipBit,
    Match,
    Refuse,
    ResetRequest,
    TruncateBody,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.testing.faults import RequestLog

NAME = "v1/model.bin"
OTHER = "v1/other.bin"
_PATIENCE = 60.0
_ENDING = 15.0
"""Seconds in which the threads of a failed transfer end: the library waits 10 s for them, and they may be late."""
_LONG_WAIT = 20.0
"""Seconds of the wait that a cancellation ends."""
_CANCELLED_AFTER = 0.3
"""Seconds after a request is received by the proxy until its transfer is cancelled: the transfer waits by then."""
_WRITERS, _ROUNDS, _LARGE_WRITERS = 8, 5, 4
_LOCAL = b"the previous local file"
_STATUS_DENIED = 403


class StoreSuite:
    """The tests of a store. A subclass describes the store, and pytest collects the tests with it.

    A subclass implements `make_store`, and a second client that is independent of the library: `put`, `get`, `remove`,
    `keys` and, if the store has multipart uploads, `open_uploads`. For the tests with faults it implements `make_store_at`
    and `endpoint_url` as well, or sets ``faults = False``.

    A capability that the description does not declare is tested to be refused. pytest makes an instance for each test; the
    bucket is empty when a test begins, and `make_store`, `make_store_at` and the second client use this bucket.

    Examples:
        >>> class TestFolder(StoreSuite):
        ...     faults = False  # there is no HTTP
        ...
        ...     @pytest.fixture(autouse=True)
        ...     def _folder(self, tmp_path):
        ...         self.folder = tmp_path / "bucket"
        ...
        ...     def make_store(self):
        ...         return FolderStore(self.folder)
    """

    faults: ClassVar[bool] = True
    """Whether the tests with faults run. They need `make_store_at`, and an `endpoint_url` with ``http://``."""
    processes: ClassVar[bool] = True
    """Whether other processes use the same objects. False for a store in the memory of one process."""
    pickles: ClassVar[bool] = False
    """Whether a store can be pickled. If not, pickling must raise."""
    checksums: ClassVar[bool] = True
    """Whether the store keeps a full-object checksum of the objects that it uploads."""
    secrets: tuple[str, ...] = ()
    """Texts that no error may contain, such as the password of `make_store`."""
    large: ClassVar[int | None] = None
    """Bytes of an object that goes in parts. None computes it from the settings: more than two parts."""
    objects: ClassVar[int] = 1100
    """Number of objects in the test of a long listing: more than one page of the store's."""
    names: ClassVar[tuple[str, ...]] = (
        "a b",
        "ümlaut/日本語",
        "emoji \U0001f642",
        "100%",
        "a%20b",
        "a%2Fb",
        "a+b",
        "a&b=c;d,e",
        "q?x=1",
        "h#1",
        "(x)[y]{z}",
        'it\'s "quoted"',
        "~$!@^`",
        ".hidden",
        "x." * 40,
    )
    """Keys that the store must keep as they are."""

    # ------------------------------------------------------------------ the description

    def make_store(self) -> ObjectStore:
        """Make a store of the bucket. A test may make several."""
        raise NotImplementedError

    def put(self, key: str, content: bytes) -> None:
        """Second client: store an object, atomically if the service can do that."""
        raise NotImplementedError

    def get(self, key: str) -> bytes:
        """Second client: read an object."""
        raise NotImplementedError

    def remove(self, key: str) -> None:
        """Second client: delete an object."""
        raise NotImplementedError

    def keys(self) -> list[str]:
        """Second client: the keys of all objects in the bucket, temporary objects of the provider included."""
        raise NotImplementedError

    def open_uploads(self) -> list[str]:
        """Second client: the keys of unfinished multipart uploads. None by default."""
        return []

    @property
    def endpoint_url(self) -> str:
        """The URL of the service."""
        raise NotImplementedError

    def make_store_at(self, endpoint_url: str) -> ObjectStore:
        """Make a store of the bucket that reaches the service at another URL: through a proxy, or at a dead port."""
        raise NotImplementedError

    # ------------------------------------------------------------------ collection

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.faults:  # declared: pytest does not collect an attribute that is None
            for name in dir(StoreSuite):
                if name.startswith("test_fault_"):
                    setattr(cls, name, None)

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Make the tests of a class; called by pytest.

        Raises:
            TypeError: If the description is not complete.
        """
        needed = ["make_store", "put", "get", "remove", "keys"]
        needed += ["endpoint_url", "make_store_at"] if self.faults else []
        missing = [name for name in needed if getattr(type(self), name) is getattr(StoreSuite, name)]
        if missing:
            hint = "; or set `faults = False` if there is no HTTP endpoint" if "endpoint_url" in missing else ""
            raise TypeError(f"{type(self).__name__} is a StoreSuite: implement {', '.join(missing)}{hint}")
        starts = ["threads", *(["fork"] if self.processes else [])]
        starts += ["spawn"] if self.processes and self.pickles else []
        for name, values in {
            "size": ["empty", "small", "large"],
            "filled": ["small", "large"],
            "start": starts,
            "name": self.names,
            "exists": [False, True],
        }.items():
            if name in metafunc.fixturenames:
                ids = [f"exists={each}" for each in values] if name == "exists" else None
                metafunc.parametrize(name, values, ids=ids)

    # ------------------------------------------------------------------ A: exclusive create

    def test_create(self, size: str) -> None:
        """An exclusive create stores the object once; a second one changes nothing and leaves nothing."""
        store = self.make_store()
        first, second = self._contents(store, size, 2)
        if self._is_refused(partial(store_bytes, store, NAME, first, exclusive=True), store):
            return
        stored = store_bytes(store, NAME, first, exclusive=True)
        assert (stored.url, stored.size) == (store.url(NAME), len(first))
        error = failure(partial(store_bytes, store, NAME, second, exclusive=True), ObjectExistsError)
        self._check_error(error, store, NAME, "upload")
        self._check({NAME: first})

    def test_create_theirs(self, size: str) -> None:
        """An exclusive create does not change an object of another client."""
        store = self.make_store()
        first, second = self._contents(store, size, 2)
        self.put(NAME, first)
        create = partial(store_bytes, store, NAME, second, exclusive=True)
        if not self._is_refused(create, store, {NAME: first}):
            failure(create, ObjectExistsError)
            self._check({NAME: first})

    def test_create_again(self) -> None:
        """After a delete the key can be created again."""
        store = self.make_store()
        if self._is_refused(partial(store_bytes, store, NAME, b"1", exclusive=True), store):
            return
        store_bytes(store, NAME, b"1", exclusive=True)
        self.remove(NAME)
        store_bytes(store, NAME, b"2", exclusive=True)
        self._check({NAME: b"2"})

    def test_create_race(self, start: str) -> None:
        """Of several writers in threads or processes exactly one creates a small object, and the object is intact."""
        store = self.make_store()
        contents = self._contents(store, "small", _WRITERS if start == "threads" else _LARGE_WRITERS)
        keys = [f"round-{number}" for number in range(_ROUNDS)]
        if self._is_refused(partial(store_bytes, store, keys[0], contents[0], exclusive=True), store):
            return
        if start == "threads":
            rounds = [self._race(store, key, contents) for key in keys]
        else:
            context: Any = multiprocessing.get_context(start)
            rounds = race_in_processes(store, keys, contents, context)
        assert [len(winners) for winners in rounds] == [1] * _ROUNDS, rounds
        self._check({key: contents[winners[0]] for key, winners in zip(keys, rounds, strict=True)})

    def test_create_race_large(self) -> None:
        """Of several writers exactly one creates an object that goes in parts, and the object is intact."""
        store = self.make_store()
        contents = self._contents(store, "large", _LARGE_WRITERS)
        if self._is_refused(partial(store_bytes, store, NAME, contents[0], exclusive=True), store):
            return
        winners = self._race(store, NAME, contents)
        assert len(winners) == 1, winners
        self._check({NAME: contents[winners[0]]})

    def test_create_by_open(self, size: str) -> None:
        """``open("xb")`` creates exclusively, or refuses before a byte is written."""
        store = self.make_store()
        fs = _SuiteFileSystem(store)
        first, second = self._contents(store, size, 2)
        if self._is_refused(partial(fs.open, f"bucket/{NAME}", "xb"), store, operation="open"):
            return
        _write(fs, NAME, first, "xb")
        failure(partial(_write, fs, NAME, second, "xb"), FileExistsError)
        self._check({NAME: first})

    def test_create_by_writer(self) -> None:
        """A writer that was opened before another client created the object does not replace it."""
        store = self.make_store()
        transfer = store.transfer(NAME, "upload")
        request = UploadRequest(NAME, nothing(transfer.details), transfer, exclusive=True)
        if self._is_refused(partial(store_bytes, store, NAME, b"", exclusive=True), store):
            return
        writer = store.open_writer(request)
        writer.write(b"ours")
        self.put(NAME, b"theirs")
        failure(writer.commit, ObjectExistsError)
        self._check({NAME: b"theirs"})

    def test_create_many(self) -> None:
        """`upload_many` creates each object exclusively."""
        store = self.make_store()
        self.put("b", b"theirs")
        create = partial(self._upload_many, store, {key: key.encode() for key in "abc"}, exclusive=True)
        if self._is_refused(create, store, {"b": b"theirs"}):
            return
        failure(create, ObjectExistsError)
        assert self.get("b") == b"theirs"
        assert self.open_uploads() == []

    # ------------------------------------------------------------------ B: no false conflict

    def test_fault_answer_lost(self, size: str) -> None:
        """An upload of which any answer is lost succeeds: a lost answer is neither a failure nor a conflict."""
        with self._behind_proxy() as (store, proxy):
            for step, key, data in self._steps(store, proxy, size):
                proxy.inject(Fault(Match(), DropResponse(), skip=step))
                store_bytes(store, key, data, exclusive=store.creates_exclusively)
                assert self.get(key) == data, f"request {step + 1}"
                assert proxy.unfired == []

    def test_fault_answer_lost_theirs(self, size: str) -> None:
        """An object that another client stores in the middle of an exclusive create is not replaced."""
        with self._behind_proxy() as (store, proxy):
            if self._is_refused(partial(store_bytes, store, NAME, b"", exclusive=True), store):
                return
            for step, key, data in self._steps(store, proxy, size):
                proxy.inject(Fault(Match(), Call(partial(self.put, key, b"theirs")), skip=step))
                with contextlib.suppress(ObjectExistsError):
                    store_bytes(store, key, data, exclusive=True)
                assert self.get(key) == b"theirs", f"request {step + 1}"
                assert proxy.unfired == []

    # ------------------------------------------------------------------ C: complete downloads

    def test_download_sizes(self, tmp_path: Path) -> None:
        """Objects of all sizes around the limits are downloaded and read completely."""
        store = self.make_store()
        part = store.settings.part_size
        for size in (0, 1, part - 1, part, part + 1, self._size(store, "large")):
            data = content(size % 97, size)
            self.put(NAME, data)
            self._download(store, tmp_path / "file")
            assert (tmp_path / "file").read_bytes() == data, size
            assert store.read(NAME, store.transfer(NAME, "read")) == data, size
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        self._check_memory()

    def test_download_missing(self, tmp_path: Path) -> None:
        """A download of an object that does not exist changes no local file."""
        store = self.make_store()
        local = _previous(tmp_path)
        error = failure(partial(self._download, store, local), ObjectNotFoundError)
        self._check_error(error, store, NAME, "download")
        assert not isinstance(error, RuntimeError)
        _check_previous(local)
        failure(partial(self._download, store, tmp_path / "folder" / "file"), ObjectNotFoundError)
        assert not (tmp_path / "folder").exists()

    def test_reader_pinned(self) -> None:
        """A reader reads the version of its `head`, and of no other."""
        store = self.make_store()
        old, new = self._contents(store, "large", 2)
        self.put(NAME, old)
        reader = store.open_reader(NAME)
        version = reader.head()
        assert version.size == len(old)
        half = len(old) // 2
        beginning = b"".join(bytes(piece) for piece in reader.read(version, 0, half))
        assert beginning == old[: len(beginning)]
        self.put(NAME, new)
        rest = b""
        with contextlib.suppress(ObjectChangedError):
            rest = b"".join(bytes(piece) for piece in reader.read(version, half, len(old) - half))
        assert rest == old[half : half + len(rest)]

    def test_download_replaced(self, tmp_path: Path) -> None:
        """A download of an object that is replaced between two ranges has one version."""
        store = self.make_store()
        old, new = self._contents(store, "large", 2)
        self.put(NAME, old)
        reader = _HookedReader(store.open_reader(NAME), at_read=2, hook=partial(self.put, NAME, new))
        with no_waits():
            transfer = store.transfer(NAME, "download")
            with atomic_target(str(tmp_path / "file"), transfer.details) as target:
                fetch_object(reader, target, transfer)
        assert (tmp_path / "file").read_bytes() in {old, new}

    def test_download_while_written(self, tmp_path: Path) -> None:
        """Downloads while another thread replaces the object again and again have one version, or fail."""
        store, writing = self.make_store(), self.make_store()
        # Versions of several sizes: some servers tell versions within one second apart by their size alone.
        versions = [content(number, self._size(store, "large") + number) for number in range(4)]
        store_bytes(writing, NAME, versions[0])
        ended = threading.Event()

        def write() -> None:
            while not ended.is_set():
                for version in versions:
                    store_bytes(writing, NAME, version)

        def read() -> None:
            try:
                for _ in range(5):
                    with contextlib.suppress(ObjectNotFoundError, StorageUnavailableError):
                        self._download(store, tmp_path / "file")
                        assert (tmp_path / "file").read_bytes() in versions
            finally:
                ended.set()

        with no_waits():
            run_all([write, read], 2, Stop())
        self._check_memory()

    def test_checksum(self, size: str) -> None:
        """The store keeps a right checksum of the complete object, or none at all."""
        store = self.make_store()
        (data,) = self._contents(store, size, 1)
        store_bytes(store, NAME, data)
        kept = store.info(NAME).checksum
        assert (kept is not None) is self.checksums, kept
        assert kept is None or is_checksum_of(kept, data) is True

    def test_fault_body_cut(self, filled: str, tmp_path: Path) -> None:
        """A download with a truncated answer is completed."""
        with self._behind_proxy() as (store, proxy):
            step, _, data = self._body(store, proxy, filled, tmp_path)
            local = _previous(tmp_path)
            proxy.inject(Fault(Match(), TruncateBody(1), skip=step))
            self._download(store, local)
            assert local.read_bytes() == data
            assert proxy.unfired == []

    def test_fault_bodies_cut(self, filled: str, tmp_path: Path) -> None:
        """A download is an error and changes no local file if all answers are truncated."""
        with self._behind_proxy() as (store, proxy):
            _, match, _ = self._body(store, proxy, filled, tmp_path)
            local = _previous(tmp_path)
            proxy.inject(Fault(match, TruncateBody(1), times=None))
            error = failure(partial(self._download, store, local), StorageUnavailableError)
            self._check_error(error, store, NAME, "download")
            _check_previous(local)
        self._check_memory()

    def test_fault_bit_flipped(self, filled: str, tmp_path: Path) -> None:
        """A download with a flipped bit is repeated, if the store keeps a checksum."""
        with self._behind_proxy() as (store, proxy):
            step, _, data = self._body(store, proxy, filled, tmp_path)
            local = _previous(tmp_path)
            proxy.inject(Fault(Match(), FlipBit(0), skip=step))
            self._download(store, local)
            assert (local.read_bytes() == data) is self.checksums  # without a checksum, the flipped bit stays
            assert proxy.unfired == []

    def test_fault_bits_flipped(self, filled: str, tmp_path: Path) -> None:
        """A download that has a flipped bit again and again is an error, if the store keeps a checksum."""
        with self._behind_proxy() as (store, proxy):
            _, match, data = self._body(store, proxy, filled, tmp_path)
            local = _previous(tmp_path)
            proxy.inject(Fault(match, FlipBit(0), times=None))
            if not self.checksums:
                self._download(store, local)
                assert local.read_bytes() != data
                return
            error = failure(partial(self._download, store, local), IntegrityError)
            self._check_error(error, store, NAME, "download")
            _check_previous(local)

    def test_fault_download_request(self, size: str, tmp_path: Path) -> None:
        """A download of which any request fails once succeeds."""
        with self._behind_proxy() as (store, proxy):
            (data,) = self._contents(store, size, 1)
            store_bytes(store, NAME, data)
            requests = _recorded(proxy, partial(self._download, store, tmp_path / "file"))
            for action in (Answer(503), Refuse(), DropResponse()):
                for step in range(len(requests)):
                    local = _previous(tmp_path)
                    proxy.inject(Fault(Match(), action, skip=step))
                    self._download(store, local)
                    assert local.read_bytes() == data, (action, step)
                    assert proxy.unfired == []
                    proxy.clear()

    # ------------------------------------------------------------------ D: nothing left behind

    def test_source_fails(self, filled: str, exists: bool) -> None:
        """A source that fails, or Ctrl-C while it is read, changes nothing in the store."""
        store = self.make_store()
        before = self._before(exists)
        for error in (SourceChangedError("the source changed"), KeyboardInterrupt()):
            for read in self._reads(store, filled):
                raised = failure(partial(self._upload_source, store, filled, _raise_at(read, error)), BaseException)
                assert raised is error, raised
                self._check(before)

    def test_stopped(self, filled: str, exists: bool) -> None:
        """A cancelled upload changes nothing, or is complete; and no write takes effect later."""
        store = self.make_store()
        before = self._before(exists)
        (data,) = self._contents(store, filled, 1)
        reads = self._reads(store, filled)
        for read in reads:
            stop = Stop()
            try:
                self._upload_source(store, filled, _call_at(read, stop.set), stop)
            except TransferStopped:
                self._check(before)
            else:
                assert read == reads[-1], "the upload continued after its first byte"
                self._check({NAME: data})
                self._reset(before)

    def test_stopped_before(self, exists: bool) -> None:
        """An upload that was cancelled before it began changes nothing."""
        store = self.make_store()
        before = self._before(exists)
        stop = Stop()
        stop.set()
        failure(partial(self._upload_source, store, "large", lambda _: None, stop), TransferStopped)
        self._check(before)

    def test_discard(self, size: str, exists: bool) -> None:
        """A writer that is discarded leaves nothing, in whatever state it is."""
        store = self.make_store()
        before = self._before(exists)
        (data,) = self._contents(store, size, 1)
        transfer = store.transfer(NAME, "upload")
        writer = store.open_writer(UploadRequest(NAME, nothing(transfer.details), transfer))
        writer.write(data)
        writer.discard()
        writer.discard()
        self._check(before)

    def test_block_fails(self, size: str, exists: bool) -> None:
        """An exception in the block of ``open("wb")`` stores nothing."""
        store = self.make_store()
        before = self._before(exists)
        (data,) = self._contents(store, size, 1)

        def write() -> None:
            with _SuiteFileSystem(store).open(f"bucket/{NAME}", "wb") as file:
                file.write(data)
                raise ZeroDivisionError

        failure(write, ZeroDivisionError)
        self._check(before)

    def test_fault_upload_request(self, size: str) -> None:
        """An upload of which any request fails once succeeds, and leaves nothing else."""
        with self._behind_proxy() as (store, proxy):
            for action in (Answer(503), Refuse(), ResetRequest(1)):
                for step, key, data in self._steps(store, proxy, size):
                    proxy.inject(Fault(Match(), action, skip=step))
                    store_bytes(store, key, data, exclusive=store.creates_exclusively)
                    assert proxy.unfired == []
                    self._check({key: data})
                    self.remove(key)

    def test_fault_upload_fails(self, size: str, exists: bool) -> None:
        """An upload of which any request fails again and again changes nothing, and leaves nothing."""
        with self._behind_proxy() as (store, proxy):
            exclusive = store.creates_exclusively and not exists
            before = self._before(exists)
            (data,) = self._contents(store, size, 1)
            upload = partial(store_bytes, store, NAME, data, exclusive=exclusive)
            kinds = {(each.method, each.operation): None for each in _recorded(proxy, upload)}
            self._reset(before)
            for method, operation in kinds:
                proxy.inject(Fault(Match(method=method, operation=operation), Answer(503), times=None))
                try:
                    upload()
                except StorageUnavailableError as error:
                    self._check_error(error, store, NAME, "upload")
                    self._check(before)
                else:  # the request was not needed
                    self._check({NAME: data})
                    self._reset(before)
                assert proxy.unfired == []
                proxy.clear()

    def test_fault_cancelled(self, tmp_path: Path) -> None:
        """A transfer that waits to send any of its requests again ends at once when another thread cancels it."""
        with self._behind_proxy() as (store, proxy):
            for operation in ("upload", "download", "copy"):
                before = {} if operation == "upload" else {NAME: b"content"}
                self._reset(before)
                requests = _recorded(proxy, partial(self._transfer, store, operation, tmp_path, Stop()))
                for step in range(len(requests)):
                    # Another content each time: a store may remember facts about a version.
                    before = dict.fromkeys(before, b"content %d" % step)
                    self._reset(before)
                    local = _previous(tmp_path)
                    self._cancel(store, proxy, operation, step, tmp_path)
                    self._check(before)
                    _check_previous(local)

    def _cancel(self, store: ObjectStore, proxy: FaultProxy, operation: str, step: int, folder: Path) -> None:
        """Cancel a transfer in its wait after the failure of one of its requests."""
        stop = Stop()
        proxy.inject(Fault(Match(), Call(threading.Timer(_CANCELLED_AFTER, stop.set).start), skip=step))
        proxy.inject(Fault(Match(), Answer(503), skip=step))
        began = time.monotonic()
        with mock.patch.object(RetryPolicy, "seconds", lambda _, attempt: _LONG_WAIT if attempt == 1 else 0.0):
            failure(partial(self._transfer, store, operation, folder, stop), TransferStopped)
        assert time.monotonic() - began < _LONG_WAIT / 2, f"request {step + 1} of the {operation}"
        assert proxy.unfired == []
        proxy.clear()

    def _transfer(self, store: ObjectStore, operation: str, folder: Path, stop: Stop) -> None:
        """Transfer a small object: an upload creates `NAME`, a download and a copy read it."""
        transfer = store.transfer(NAME, operation, stop=stop)
        if operation == "upload":
            source = MemorySource(b"content", transfer.details)
            store.upload(UploadRequest(NAME, source, transfer, exclusive=store.creates_exclusively))
        elif operation == "download":
            store.download(NAME, str(folder / "file"), transfer)
        else:
            store.copy(NAME, store, OTHER, transfer)

    # ------------------------------------------------------------------ E: a fresh view

    def test_info(self) -> None:
        """`info` returns the facts about the current object, also of another writer."""
        store = self.make_store()
        failure(partial(store.info, NAME), ObjectNotFoundError)
        self.put(NAME, b"one")
        first = store.info(NAME)
        assert (first.url, first.size) == (store.url(NAME), 3)
        self.put(NAME, b"three")
        second = store.info(NAME)
        assert second.size == 5  # noqa: PLR2004 - b"three"
        assert second.etag is None or second.etag != first.etag
        self.remove(NAME)
        error = failure(partial(store.info, NAME), ObjectNotFoundError)
        self._check_error(error, store, NAME, "info")

    def test_info_prefix(self) -> None:
        """A prefix of other keys is not an object."""
        store = self.make_store()
        self.put("folder/object", b"")
        failure(partial(store.info, "folder"), ObjectNotFoundError)
        failure(partial(store.delete, "folder"), ObjectNotFoundError)
        failure(partial(store.read, "folder", store.transfer("folder", "read")), ObjectNotFoundError)
        assert self.keys() == ["folder/object"]

    def test_list(self) -> None:
        """Listings are complete, in key order, and fresh."""
        store = self.make_store()
        assert _keys_of(store) == []
        keys = ["a.txt", "a/b", "a/c/d", "a0", "b"]
        for key in reversed(keys):
            self.put(key, key.encode())
        assert _keys_of(store) == keys
        assert [info.size for info in store.list()] == [len(key) for key in keys]
        assert _keys_of(store, "a") == keys[:4]
        assert _keys_of(store, "a/") == ["a/b", "a/c/d"]
        assert _keys_of(store, "a/c") == ["a/c/d"]
        assert _keys_of(store, "c") == []
        self.remove("a/b")
        assert _keys_of(store) == ["a.txt", "a/c/d", "a0", "b"]

    def test_list_folder(self) -> None:
        """The objects and folders directly in a folder, in the order of their URLs."""
        store = self.make_store()
        for key in ("a.txt", "a/b", "a/c/d", "a0"):
            self.put(key, b"")
        found = [each if isinstance(each, str) else each.url for each in store.list_folder()]
        assert found == [store.url(name) for name in ("a.txt", "a/", "a0")]
        found = [each if isinstance(each, str) else each.url for each in store.list_folder("a/")]
        assert found == [store.url(name) for name in ("a/b", "a/c/")]
        assert list(store.list_folder("x/")) == []
        assert store.is_prefix("a/")
        assert not store.is_prefix("x/")

    def test_first(self) -> None:
        """The first object of a prefix in key order, and none if no key begins with it."""
        store = self.make_store()
        assert store.first() is None
        for key in ("b", "a/c/d", "a0", "a/b"):
            self.put(key, key.encode())
        found = {prefix: store.first(prefix) for prefix in ("", "a", "a/", "a/c", "a/b", "b", "c", "a/x")}
        urls = {prefix: info and info.url.removeprefix(store.url("")) for prefix, info in found.items()}
        assert urls == {"": "a/b", "a": "a/b", "a/": "a/b", "a/c": "a/c/d", "a/b": "a/b", "b": "b", "c": None, "a/x": None}
        assert all(info is None or info.size == len(urls[prefix] or "") for prefix, info in found.items())

    def test_list_many(self) -> None:
        """A listing of several pages is complete; `upload_many` and `delete_many` miss nothing."""
        store = self.make_store()
        keys = [f"many/{number:05}" for number in range(self.objects)]
        stored = self._upload_many(store, {key: key.encode() for key in keys})
        assert [each.url for each in stored] == [store.url(key) for key in keys]
        assert _keys_of(store) == keys
        assert sorted(self.keys()) == keys
        store.delete_many([*keys, "many/absent"], store.transfer("", "delete"))
        self._check({})
        assert _keys_of(store) == []

    # ------------------------------------------------------------------ the verbs

    def test_upload(self, size: str, exists: bool) -> None:
        """An upload stores or replaces the complete object, and tells its progress."""
        store = self.make_store()
        self._before(exists)
        (data,) = self._contents(store, size, 1)
        stored = store_bytes(store, NAME, data)
        assert (stored.url, stored.size) == (store.url(NAME), len(data))
        self._check({NAME: data})
        info = store.info(NAME)
        assert info.size == len(data)
        assert stored.etag in {None, info.etag}
        assert stored.checksum in {None, info.checksum}

    def test_names(self, name: str) -> None:
        """A key is kept as it is, whatever characters it has."""
        store = self.make_store()
        store_bytes(store, name, name.encode())
        assert self.keys() == [name]
        assert self.get(name) == name.encode()
        assert store.read(name, store.transfer(name, "read")) == name.encode()
        assert _keys_of(store) == [name]
        assert store.info(name).url == store.url(name)
        store.copy(name, store, f"{name}-copy", store.transfer(name, "copy"))
        assert sorted(self.keys()) == [name, f"{name}-copy"]
        store.delete(name)
        assert self.keys() == [f"{name}-copy"]

    def test_delete(self) -> None:
        """A delete removes one object; a second one finds nothing."""
        store = self.make_store()
        self.put(NAME, b"x")
        self.put(OTHER, b"y")
        store.delete(NAME)
        error = failure(partial(store.delete, NAME), ObjectNotFoundError)
        self._check_error(error, store, NAME, "delete")
        self._check({OTHER: b"y"})

    def test_copy(self, size: str) -> None:
        """A copy is complete, and replaces its target."""
        store = self.make_store()
        data, previous = self._contents(store, size, 2)
        self.put(NAME, data)
        self.put(OTHER, previous)
        store.copy(NAME, store, OTHER, store.transfer(NAME, "copy"))
        self._check({NAME: data, OTHER: data})

    def test_copy_missing(self) -> None:
        """A copy of an object that does not exist leaves the target as it is."""
        store = self.make_store()
        self.put(OTHER, b"previous")
        failure(partial(store.copy, NAME, store, OTHER, store.transfer(NAME, "copy")), ObjectNotFoundError)
        self._check({OTHER: b"previous"})

    def test_read_many(self, tmp_path: Path) -> None:
        """`read_many` reads into memory and into files, in order, and reports an object that is missing."""
        store = self.make_store()
        (large,) = self._contents(store, "large", 1)
        self.put("a", b"a")
        self.put("b", large)
        local = tmp_path / "b"
        items = [ReadItem("a", unwatched), ReadItem("b", unwatched, str(local)), ReadItem("absent", unwatched)]
        first, second, third = store.read_many(items, Stop(), on_error="return")
        assert (first, second) == (b"a", None)
        assert isinstance(third, ObjectNotFoundError)
        assert local.read_bytes() == large
        failure(partial(store.read_many, items, Stop()), ObjectNotFoundError)
        self._check_memory()

    def test_accept(self, tmp_path: Path, size: str) -> None:
        """`read_many` tells each version before its file appears, and then the file; a refused version does not appear."""
        store = self.make_store()
        (data,) = self._contents(store, size, 1)
        self.put(NAME, data)
        self.put(OTHER, data)
        versions: list[ObjectInfo] = []
        states: list[os.stat_result] = []
        refusal, preserved = ValueError("refused by the test"), Preserved(mtime_ns=5_000_000_001)

        def refuse(_: ObjectInfo) -> None:
            raise refusal

        one, other = tmp_path / "one", tmp_path / "other"
        one.write_bytes(b"before")
        other.write_bytes(b"before")
        items = [
            ReadItem(NAME, unwatched, str(one), versions.append, states.append, preserved=lambda: preserved),
            ReadItem(OTHER, unwatched, str(other), refuse),
        ]
        answers = store.read_many(items, Stop(), on_error="return")
        assert answers[0] is None
        assert answers[1] is refusal
        assert (one.read_bytes(), other.read_bytes()) == (data, b"before")
        now = store.info(NAME)
        assert (versions[-1].url, versions[-1].size) == (store.url(NAME), len(data))
        assert versions[-1].version == now.version if versions[-1].version else versions[-1].etag in {None, now.etag}
        assert one.stat().st_mtime_ns == preserved.mtime_ns
        assert [each.st_ino for each in states] in ([], [one.stat().st_ino])

    def test_read_new(self, tmp_path: Path, size: str) -> None:
        """`read_many` with `exclusive` makes new files only."""
        store = self.make_store()
        (data,) = self._contents(store, size, 1)
        self.put(NAME, data)
        one, other = tmp_path / "one", tmp_path / "other"
        other.write_bytes(b"before")
        items = [ReadItem(NAME, unwatched, str(each), exclusive=True) for each in (one, other)]
        answers = store.read_many(items, Stop(), on_error="return")
        assert answers[0] is None
        assert isinstance(answers[1], ObjectExistsError)
        assert (one.read_bytes(), other.read_bytes()) == (data, b"before")
        assert sorted(each.name for each in tmp_path.iterdir() if each.is_file()) == ["one", "other"]

    def test_upload_failures(self) -> None:
        """`upload_many` with ``on_error="return"`` stores the other objects."""
        store = self.make_store()
        failed = ValueError("refused by the test")

        def broken(_: ErrorDetails) -> Any:
            raise failed

        items = [UploadItem(NAME, partial(_in_memory, b"x"), unwatched), UploadItem(OTHER, broken, unwatched)]
        stored, error = store.upload_many(items, Stop(), on_error="return")
        assert isinstance(stored, Stored)
        assert error is failed
        self._check({NAME: b"x"})

    def test_writer(self, size: str) -> None:
        """A writer stores the content that was written piece by piece."""
        store = self.make_store()
        (data,) = self._contents(store, size, 1)
        _write(_SuiteFileSystem(store), NAME, data, "wb")
        self._check({NAME: data})

    def test_open(self, size: str) -> None:
        """``open("rb")`` reads from the beginning, and from anywhere."""
        store = self.make_store()
        (data,) = self._contents(store, size, 1)
        self.put(NAME, data)
        with _SuiteFileSystem(store).open(f"bucket/{NAME}", "rb") as file:
            assert file.size == len(data)
            assert file.read() == data
            assert wrong_ranges(file, data, [len(data) // 2, 0, max(0, len(data) - 10), len(data)]) == []
            file.seek(-min(10, len(data)), io.SEEK_END)
            assert file.read() == data[-10:]
        self._check_memory()

    def test_open_replaced(self) -> None:
        """An open file continues with its version after the object was replaced, or raises."""
        store = self.make_store()
        old, new = self._contents(store, "large", 2)
        self.put(NAME, old)
        with _SuiteFileSystem(store).open(f"bucket/{NAME}", "rb", block_size=2**16) as file:
            read = read_while_replaced(file, partial(self.put, NAME, new), 2**16)
        assert read in {None, old}
        self._check_memory()

    def test_filesystem(self, tmp_path: Path) -> None:
        """The methods of an fsspec filesystem that is made of the store."""
        fs = _SuiteFileSystem(self.make_store())
        local = tmp_path / "local"
        local.mkdir()
        for name in ("x", "y"):
            (local / name).write_bytes(name.encode())
        fs.put(f"{local}/", "bucket/put/", recursive=True)
        fs.pipe("bucket/piped", b"0123456789")
        assert fs.find("bucket") == ["bucket/piped", "bucket/put/x", "bucket/put/y"]
        assert sorted(fs.ls("bucket", detail=False)) == ["bucket/piped", "bucket/put"]
        assert fs.cat_file("bucket/piped", 2, -2) == b"234567"
        assert fs.cat_ranges(["bucket/piped"] * 2, [0, 8], [2, 10]) == [b"01", b"89"]
        assert fs.cat(["bucket/put/x", "bucket/put/y"]) == {"bucket/put/x": b"x", "bucket/put/y": b"y"}
        assert fs.isdir("bucket/put")
        assert not fs.exists("bucket/absent")
        fs.get("bucket/put/", f"{tmp_path}/got/", recursive=True)
        assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == {"x": b"x", "y": b"y"}
        fs.mv("bucket/piped", "bucket/moved")
        fs.copy("bucket/put/x", "bucket/copied")
        fs.rm("bucket/put", recursive=True)
        self._check({"copied": b"x", "moved": b"0123456789"})

    def test_filesystem_root(self) -> None:
        """A folder is copied and moved onto the root of the bucket, which has no key."""
        fs = _SuiteFileSystem(self.make_store())
        fs.pipe({"bucket/d/x": b"x", "bucket/d/e/y": b"y"})
        fs.cp("bucket/d/", "bucket/", recursive=True)
        self._check({"d/x": b"x", "d/e/y": b"y", "x": b"x", "e/y": b"y"})
        fs.rm(["bucket/x", "bucket/e/y"])
        fs.mv("bucket/d/", "bucket/", recursive=True)
        self._check({"x": b"x", "e/y": b"y"})
        for paths in (("bucket/x", "bucket"), ("bucket", "bucket/x")):
            failure(partial(fs.cp_file, *paths), ObjectNotFoundError)
        self._check({"x": b"x", "e/y": b"y"})

    def test_filesystem_input(self) -> None:
        """Arguments of a wrong type are refused where they stand, and nothing is stored."""
        fs = _SuiteFileSystem(self.make_store())
        failure(lambda: fs.pipe(["bucket/x"], b"x"), TypeError)
        paths: list[Any] = [None, "bucket/absent"]
        found = fs.cat_ranges(paths, [0, 0], [1, 1], on_error="return")
        assert [type(each) for each in found] == [AttributeError, ObjectNotFoundError]
        self._check({})

    # ------------------------------------------------------------------ G: honest errors

    def test_fault_dead_endpoint(self, tmp_path: Path) -> None:
        """A service that does not answer is a `StorageUnavailableError` with the attempts, from every method."""
        with _dead_port() as url, no_waits():
            store = self.make_store_at(url)
            for operation, call in self._operations(store, tmp_path).items():
                error = failure(call, StorageUnavailableError)
                self._check_error(error, store, "" if operation == "list" else NAME, operation)
                assert (error.attempts or 0) > 1, operation
                assert error.retryable
        self._check_memory()

    def test_fault_denied(self, tmp_path: Path) -> None:
        """A refusal for lack of permission is an `AccessDeniedError`, from every method."""
        with self._behind_proxy() as (store, proxy):
            proxy.inject(Fault(Match(), Answer(_STATUS_DENIED, "AccessDenied"), times=None))
            for operation, call in self._operations(store, tmp_path).items():
                error = failure(call, AccessDeniedError)
                self._check_error(error, store, "" if operation == "list" else NAME, operation)
                assert error.status == _STATUS_DENIED, operation
        self._check({})

    # ------------------------------------------------------------------ H: threads, pickle, fork

    def test_threads(self) -> None:
        """Threads share a store."""
        store = self.make_store()

        def use(number: int) -> None:
            key, data = f"thread-{number}", content(number, 10_000)
            store_bytes(store, key, data)
            assert store.read(key, store.transfer(key, "read")) == data
            assert store.info(key).size == len(data)
            assert key in _keys_of(store)
            store.delete(key)

        run_all([partial(use, number) for number in range(_WRITERS)], _WRITERS, Stop())
        self._check({})

    def test_fork(self) -> None:
        """A forked child uses the store of its parent, which has used it before."""
        store = self.make_store()
        store_bytes(store, "parent", b"parent")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # pytest's process may have threads
            child = multiprocessing.get_context("fork").Process(target=_use_in_child, args=(store,))
            child.start()
        child.join(_PATIENCE)
        child.kill()
        child.join()
        assert child.exitcode == 0
        store_bytes(store, "parent", b"again")
        self._check({"parent": b"again", **({"child": b"child"} if self.processes else {})})

    def test_pickle(self) -> None:
        """A pickled store works; a store that cannot be pickled says so."""
        store = self.make_store()
        store_bytes(store, NAME, b"content")
        if not self.pickles:
            failure(partial(pickle.dumps, store), Exception)
            return
        copied: ObjectStore = pickle.loads(pickle.dumps(store))  # noqa: S301 - made in this line
        assert copied.read(NAME, copied.transfer(NAME, "read")) == b"content"

    # ------------------------------------------------------------------ support

    def _size(self, store: ObjectStore, size: str) -> int:
        settings = store.settings
        large = self.large or max(settings.multipart_threshold, 2 * settings.part_size) + 12_345
        return {"empty": 0, "small": min(10_000, settings.part_size), "large": large}[size]

    def _contents(self, store: ObjectStore, size: str, count: int) -> list[bytes]:
        return [content(number, self._size(store, size)) for number in range(count)]

    def _is_refused(
        self,
        create: Callable[[], object],
        store: ObjectStore,
        before: Mapping[str, bytes] | None = None,
        operation: str = "upload",
    ) -> bool:
        """Whether the store declares that it cannot create exclusively; then it must refuse, and write nothing."""
        if store.creates_exclusively:
            return False
        error = failure(create, ConflictCheckUnsupportedError)
        self._check_error(error, store, "", operation)
        assert error.remedy is not None
        self._check(before or {})
        return True

    def _race(self, store: ObjectStore, key: str, contents: list[bytes]) -> tuple[int, ...]:
        return race([partial(store_bytes, store, key, each, exclusive=True) for each in contents])

    def _upload_many(self, store: ObjectStore, objects: Mapping[str, bytes], *, exclusive: bool = False) -> Any:
        items = [UploadItem(key, partial(_in_memory, data), unwatched, exclusive) for key, data in objects.items()]
        return store.upload_many(items, Stop())

    def _upload_source(
        self, store: ObjectStore, size: str, on_read: Callable[[int], object], stop: Stop | None = None
    ) -> int:
        """Upload by a source that calls a function at each read; returns the number of reads."""
        transfer = store.transfer(NAME, "upload", stop=stop)
        (data,) = self._contents(store, size, 1)
        source = _HookedSource(data, transfer.details, on_read)
        store.upload(UploadRequest(NAME, source, transfer))
        return source.reads

    def _reads(self, store: ObjectStore, size: str) -> list[int]:
        """Numbers of the first and of the last read of the source in an upload."""
        before = {key: self.get(key) for key in self.keys()}
        last = self._upload_source(store, size, lambda _: None)
        self._reset(before)
        return sorted({1, last})

    def _before(self, exists: bool) -> dict[str, bytes]:
        """The objects at the begin of a test: none, or a previous one."""
        before = {NAME: b"previous"} if exists else {}
        self._reset(before)
        return before

    def _reset(self, objects: Mapping[str, bytes]) -> None:
        for key in set(self.keys()) - set(objects):
            self.remove(key)
        for key, data in objects.items():
            self.put(key, data)

    def _check(self, objects: Mapping[str, bytes]) -> None:
        """The second client finds these objects, nothing else, and no open upload; and no memory is taken."""
        assert sorted(self.keys()) == sorted(objects)
        for key, data in objects.items():
            assert self.get(key) == data, f"{key} differs"
        assert self.open_uploads() == []
        self._check_memory()

    def _check_memory(self) -> None:
        """The memory budget of the process is free again."""
        deadline = time.monotonic() + _ENDING
        while memory_budget().taken and time.monotonic() < deadline:
            time.sleep(0.01)
        assert memory_budget().taken == 0

    def _check_error(self, error: Any, store: ObjectStore, key: str, operation: str) -> None:
        """An error has its facts, and no secret."""
        assert isinstance(error, OURS)
        assert error.provider == store.provider
        assert error.url.startswith(store.url(key).rstrip("/")), error.url
        assert error.operation == operation
        if isinstance(error, StorageError) and not isinstance(error, ConflictCheckUnsupportedError):
            assert error.elapsed is not None
        shown = "\n".join([repr(error), *traceback.format_exception(error)])
        assert not [secret for secret in self.secrets if secret in shown]
        copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - made in this line
        assert (type(copied), str(copied)) == (type(error), str(error))

    def _kept_by(self, store: ObjectStore) -> str | None:
        store_bytes(store, NAME, b"content")
        return store.info(NAME).checksum

    def _download(self, store: ObjectStore, local: Path) -> None:
        store.download(NAME, str(local), store.transfer(NAME, "download"))

    def _operations(self, store: ObjectStore, folder: Path) -> dict[str, Callable[[], object]]:
        """A call of each operation."""
        return {
            "info": partial(store.info, NAME),
            "upload": partial(store_bytes, store, NAME, b"content"),
            "download": partial(self._download, store, folder / "file"),
            "read": partial(store.read, NAME, store.transfer(NAME, "read")),
            "delete": partial(store.delete, NAME),
            "list": lambda: list(store.list()),
        }

    @contextlib.contextmanager
    def _behind_proxy(self) -> Iterator[tuple[ObjectStore, FaultProxy]]:
        """A store whose requests pass a proxy. A first upload has passed it: no probe of the endpoint follows."""
        parts = urlsplit(self.endpoint_url)
        with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy, no_waits():
            store = self.make_store_at(f"{proxy.url}{parts.path}")
            store_bytes(store, NAME, b"", exclusive=store.creates_exclusively)
            self.remove(NAME)
            proxy.clear()
            yield store, proxy
            assert proxy.errors == []

    def _steps(self, store: ObjectStore, proxy: FaultProxy, size: str) -> Iterator[tuple[int, str, bytes]]:
        """For each request of an upload: how many precede it, a new key in the same folder, and the content."""
        (data,) = self._contents(store, size, 1)
        upload = partial(store_bytes, store, NAME, data, exclusive=store.creates_exclusively)
        requests = _recorded(proxy, upload)
        assert self.get(NAME) == data
        self.remove(NAME)
        for step in range(len(requests)):
            yield step, f"v1/step-{step}", data
            proxy.clear()

    def _body(self, store: ObjectStore, proxy: FaultProxy, size: str, folder: Path) -> tuple[int, Match, bytes]:
        """The download request with the largest answer: the number of earlier requests, its match, and the content."""
        (data,) = self._contents(store, size, 1)
        store_bytes(store, NAME, data)
        requests = _recorded(proxy, partial(self._download, store, folder / "file"))
        step = max(range(len(requests)), key=lambda number: requests[number].response_bytes)
        kind = Match(method=requests[step].method, operation=requests[step].operation)
        return step, kind, data


def failure(call: Callable[[], object], expected: type[BaseException]) -> Any:
    """The exception that a call raises.

    Args:
        call: The call.
        expected: The class of the exception.

    Raises:
        AssertionError: If the call raises nothing.
        BaseException: If the call raises another exception.
    """
    try:
        result = call()
    except expected as error:
        return error
    raise AssertionError(f"{expected.__name__} was expected, and the call returned {result!r}")


def _recorded(proxy: FaultProxy, call: Callable[[], object]) -> list[RequestLog]:
    """The requests of a call."""
    proxy.clear()
    call()
    requests = proxy.requests
    proxy.clear()
    return requests


def _keys_of(store: ObjectStore, prefix: str = "") -> list[str]:
    start = len(store.url(""))
    return [info.url[start:] for info in store.list(prefix)]


def _write(fs: StoreFileSystem, key: str, data: bytes, mode: str) -> None:
    with fs.open(f"bucket/{key}", mode) as file:
        for start in range(0, len(data), 2**20):
            file.write(data[start : start + 2**20])


def _previous(folder: Path) -> Path:
    """A local file that a download replaces, alone in its folder."""
    path = folder / "file"
    path.write_bytes(_LOCAL)
    return path


def _check_previous(path: Path) -> None:
    assert path.read_bytes() == _LOCAL
    assert list(path.parent.iterdir()) == [path]


@contextlib.contextmanager
def _in_memory(data: bytes, details: ErrorDetails) -> Iterator[MemorySource]:
    yield MemorySource(data, details)


def _call_at(number: int, function: Callable[[], object]) -> Callable[[int], None]:
    def on_read(read: int) -> None:
        if read == number:
            function()

    return on_read


def _raise_at(number: int, error: BaseException) -> Callable[[int], None]:
    def fail() -> None:
        raise error

    return _call_at(number, fail)


@contextlib.contextmanager
def _dead_port() -> Iterator[str]:
    """The URL of a port at which no server listens, and that no other program can take."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}"


def _use_in_child(store: ObjectStore) -> None:
    assert store.read("parent", store.transfer("parent", "read")) == b"parent"
    store_bytes(store, "child", b"child")
    assert store.info("child").size == len(b"child")
    os._exit(0)  # the child must not run what pytest does at its end


class _HookedSource:
    """Bytes in memory that call a function at each read, with the number of the read."""

    def __init__(self, data: bytes, details: ErrorDetails, on_read: Callable[[int], object]) -> None:
        self._data = data
        self._details = details
        self._on_read = on_read
        self._lock = threading.Lock()
        self.reads = 0

    @property
    def size(self) -> int:
        return len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        self._count()
        return self._data[offset : offset + length]

    def read_into(self, offset: int, view: memoryview) -> None:
        self._count()
        view[:] = self._data[offset : offset + len(view)]

    def require_unchanged(self) -> None:
        return

    def changed(self) -> StorageError:
        return SourceChangedError("the source changed", self._details)

    def _count(self) -> None:
        with self._lock:
            self.reads += 1
            number = self.reads
        self._on_read(number)


class _HookedReader(ObjectReader):
    """A reader that calls a function once, before a read."""

    def __init__(self, reader: ObjectReader, at_read: int, hook: Callable[[], object]) -> None:
        self._reader = reader
        self._at_read = at_read
        self._hook = hook
        self._lock = threading.Lock()
        self._reads = 0

    def head(self) -> ObjectInfo:
        return self._reader.head()

    def read(
        self, version: ObjectInfo, start: int, length: int, buffer: memoryview | None = None
    ) -> Generator[bytes | memoryview, None, None]:
        with self._lock:
            self._reads += 1
            if self._reads == self._at_read:
                self._hook()
        yield from self._reader.read(version, start, length, buffer)

    def translated(self) -> contextlib.AbstractContextManager[None]:
        return self._reader.translated()


class _SuiteFileSystem(StoreFileSystem):
    """A filesystem with one store, whatever the name of the bucket is."""

    provider: ClassVar[str] = "suite"
    scheme: ClassVar[str] = "suite"
    protocol: Any = "suite"
    cachable = False

    def __init__(self, store: ObjectStore) -> None:
        super().__init__()
        self._store = store

    def bucket_store(self, bucket: str) -> ObjectStore:  # noqa: ARG002 - see the class
        return self._store
