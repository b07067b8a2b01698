"""The port: the interface that a provider implements, so that it gets every verb and an fsspec filesystem.

A store is one bucket (or container, or folder). A provider implements seven members of `ObjectStore`: `settings`, `url`,
`upload`, `open_reader`, `info`, `delete` and `list`. Everything else has a default here, which a provider replaces if the
service offers something better: `open_writer` (a default collects the content and uploads it at the end), `download`
(pinned ranges), `copy` (through this machine), and the methods for many objects.

`gllm_storage.testing.StoreSuite` tests an implementation against the promises.
"""

from __future__ import annotations

import dataclasses
import io
import mimetypes
import os
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, overload

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    ErrorDetails,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
)
from gllm_storage.files.durability import folders_synced_once
from gllm_storage.files.source import MemorySource, Source, open_source
from gllm_storage.files.spool import spool_of
from gllm_storage.files.target import Draft, atomic_target, rename, scratch_target, temporary_beside
from gllm_storage.info import directly_in
from gllm_storage.store.create import exists_error
from gllm_storage.store.download import fetch_object, read_object
from gllm_storage.store.transfer import NO_PROGRESS, Progress, Transfer, progress_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from _typeshed import ReadableBuffer
    from fsspec.callbacks import Callback

    from gllm_storage.files.durability import FolderSyncs
    from gllm_storage.files.spool import Spool
    from gllm_storage.files.target import LocalTarget, Preserved
    from gllm_storage.info import ObjectInfo, ObjectProperties, Stored
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.reader import ObjectReader

_PRECONDITION_FAILED = 412

T = TypeVar("T")


@dataclass(frozen=True)
class UploadRequest:
    """One upload. The caller makes it once, and it reaches the provider as it is.

    Attributes:
        key: The key of the object.
        source: The content.
        transfer: The operation for errors, the settings, the progress, and the stop.
        exclusive: Whether the upload fails if the object exists, atomically.
        options: Properties of the object beside its content, in the provider's own terms, such as ``ContentType``; see
            `ObjectStore.options_of`.
        content_id: Identifies the content, if nothing else is ever uploaded to this key. An object with this id counts as
            stored by this upload, and parts of an interrupted upload are kept in the store and used by the next one. Empty
            for an upload like any other.
    """

    key: str
    source: Source
    transfer: Transfer
    exclusive: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    content_id: str = ""

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors."""
        return self.transfer.details


class ObjectWriter(Protocol):
    """An object that is being written. `commit` publishes it, `discard` leaves nothing; no context manager publishes."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write the bytes of a buffer.

        Returns:
            Their number.

        Raises:
            StorageError: If they cannot be stored; then nothing is stored at all.
        """

    def tell(self) -> int:
        """The position in bytes."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Move the position.

        Raises:
            OSError: If the writer is not `seekable`.
        """

    def seekable(self) -> bool:
        """Whether `seek` works."""

    def commit(self) -> Stored:
        """Publish the object.

        Raises:
            ObjectExistsError: If the request is exclusive, and the object exists.
            StorageError: If the object cannot be stored; nothing was changed then.
        """

    def discard(self) -> None:
        """Cancel the write; nothing of it stays. May be called by any thread, and again."""


@dataclass(frozen=True)
class UploadItem:
    """One of many uploads.

    Attributes:
        key: The key of the object.
        open_source: Opens the content; called when the upload begins.
        watch: A context around the upload that gives its progress; leaving it reports the end of this object.
        exclusive: As in `UploadRequest`.
        options: As in `UploadRequest`.
        path: The local file that `open_source` opens, if a store may read it in another way; None if it may not.
        content_id: As in `UploadRequest`.
        is_meant: Whether the open file of `path` is in the state to upload: for a store that reads it in another way.
    """

    key: str
    open_source: Callable[[ErrorDetails], AbstractContextManager[Source]]
    watch: Callable[[], AbstractContextManager[Progress]]
    exclusive: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    path: str | None = None
    content_id: str = ""
    is_meant: Callable[[os.stat_result], bool] | None = None


@dataclass(frozen=True)
class ReadItem:
    """One of many reads.

    Attributes:
        key: The key of the object.
        watch: As in `UploadItem`.
        path: The local file to replace; None reads the object into memory.
        accept: As in `Transfer`.
        named: As in `Transfer`.
        exclusive: Whether to fail if the local file exists, atomically.
        preserved: As in `Transfer`; then `accept` gets the metadata, where the answer states them.
        listed: Size in bytes and ETag of the object, as a listing has stated them; None if there was none. An answer that
            states the same needs no HEAD request to confirm it.
    """

    key: str
    watch: Callable[[], AbstractContextManager[Progress]]
    path: str | None = None
    accept: Callable[[ObjectInfo], object] | None = None
    named: Callable[[os.stat_result], object] | None = None
    exclusive: bool = False
    preserved: Callable[[], Preserved] | None = None
    listed: tuple[int, str] | None = None


@contextmanager
def unwatched() -> Iterator[Progress]:
    """The `watch` of an item that reports to no callback."""
    yield NO_PROGRESS


class ObjectStore(ABC):
    """The objects of one bucket.

    Arguments that many methods have:

    - `key` is the complete key of an object, and `prefix` the beginning of keys: any text, in which slashes have no meaning.
      All keys begin with the empty prefix.
    - `transfer` is the operation of the caller: its facts for errors, the settings, the progress, and the stop.
    - `operation` or `details` describes the operation, for errors.
    """

    provider: ClassVar[str] = ""
    """Name of the provider, for errors."""
    creates_exclusively: ClassVar[bool] = False
    """Whether `upload` honours `UploadRequest.exclusive` atomically. If not, `request` refuses, and so must `upload`."""
    replaces_at_once: ClassVar[bool] = True
    """Whether a copy that replaces an object does so atomically: readers find the old or the new content, at any moment."""
    is_in_process: bool = False
    """Whether the objects are in the memory of this process, so that no other one reaches them."""
    serves_threads: ClassVar[bool] = True
    """Whether several threads may call the store at a time."""
    forbidden: ClassVar[str] = ""
    """Characters of keys that the store does not keep unchanged. Transfers of folders refuse names with them."""
    names_targets: ClassVar[bool] = False
    """Whether `fetch` gives the path of its target to code that may rename another file to that path."""

    @property
    def place(self) -> str:
        """Identifies the service, without secrets: two stores with one place have one object under one URL.

        By default the name of the provider. A provider with endpoints adds the endpoint.
        """
        return self.provider

    def is_one_with(self, other: ObjectStore) -> bool:
        """Whether another store has the same objects under the same keys, and writes them in the same way.

        Then a copy from one to the other is one within the store.
        """
        return type(self) is type(other) and self.place == other.place and self.url("") == other.url("")

    def local_folder(self, prefix: str) -> str | None:  # noqa: ARG002 - for stores that have one
        """The folder of this machine that holds the objects below a prefix as files; None if there is none.

        Args:
            prefix: Empty, or with a slash at its end.
        """
        return None

    @property
    @abstractmethod
    def settings(self) -> TransferSettings:
        """Part sizes, concurrency, attempts and memory."""

    @abstractmethod
    def url(self, key: str) -> str:
        """The URL of a key, whether the object exists or not."""

    def shown_url(self, key: str) -> str:
        """The URL of a key for errors, and for the index of checksums; by default `url`.

        A store whose URLs may have a password leaves it out here.
        """
        return self.url(key)

    @abstractmethod
    def upload(self, request: UploadRequest) -> Stored:
        """Store an object.

        Returns:
            The stored object; a field that the store did not tell is None.

        Raises:
            ObjectExistsError: If the request is exclusive, and the object exists.
            ConflictCheckUnsupportedError: If the request is exclusive, and the store cannot do that; nothing was written.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """

    @abstractmethod
    def open_reader(self, key: str, operation: str = "read") -> ObjectReader:
        """A reader of an object. Sends no request.

        Args:
            key: The key.
            operation: The operation that reads, for errors.
        """

    @abstractmethod
    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts about an object, from a HEAD request.

        Args:
            key: The key.
            operation: The operation that asks, for errors.

        Raises:
            ObjectNotFoundError: If the object does not exist; a prefix of other keys is not an object.
            StorageError: If the request fails.
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist; without read permission this may remain unnoticed.
            StorageError: If it cannot be deleted.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order.

        A folder marker, which is an empty object whose key ends with ``/``, may be left out; an object with content may not.

        Raises:
            StorageError: If a request for a page fails; a listing is never cut short.
        """

    def exists(self, key: str) -> bool:
        """Whether an object exists now.

        Raises:
            StorageError: If the request fails.
        """
        try:
            self.info(key, "exists")
        except ObjectNotFoundError:
            return False
        return True

    def run_write(self, task: Callable[[], T], stop: Stop) -> T:
        """Run a task that changes the store. After Ctrl-C the call waits until no request of the task is in progress.

        By default another thread runs it: Ctrl-C interrupts the main thread only.

        Args:
            task: The task. It must end soon after `stop` was set.
            stop: Set if the task fails or this thread is interrupted.

        Raises:
            BaseException: The exception of the task, or the one that interrupted this thread.
        """
        (result,) = run_all([task], 1, stop)
        return result

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with a prefix, in key order, also those of folder markers, which `list` may leave out.

        A folder marker has a key that ends with a slash. The folders of a hierarchical namespace of Azure are not objects.

        Raises:
            StorageError: If a request for a page fails; a listing is never cut short.
        """
        start = self.url("")
        return (info.url.removeprefix(start) for info in self.list(prefix))

    @property
    def shows_writes_at_once(self) -> bool:
        """Whether each listing and HEAD request shows all writes that ended before it, also those of other machines."""
        return True

    @property
    def finds_first(self) -> bool:
        """Whether `first` costs one request, however many objects there are. By default it may list all of them."""
        return False

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """The object whose key is the first, in key order, of those that begin with a prefix; None if there is none.

        Raises:
            StorageError: If the request fails.
        """
        return next(iter(self.list(prefix)), None)

    def details(self, key: str, operation: str) -> ErrorDetails:
        """The facts about an operation on a key, for errors."""
        return ErrorDetails(self.provider, self.shown_url(key) if key else url_of_bucket(self.shown_url("")), operation)

    def transfer(
        self,
        key: str,
        operation: str,
        callback: Callback | Callable[[int], object] | Progress | None = None,
        stop: Stop | None = None,
    ) -> Transfer:
        """A transfer of an object.

        Args:
            key: The key.
            operation: The operation, for errors.
            callback: Receives the size in bytes, and the bytes as they move; see `Progress`.
            stop: Cancels the transfer; by default the stop of this thread's work.
        """
        progress = callback if isinstance(callback, Progress) else progress_of(callback)
        details = self.details(key, operation)
        return Transfer(details, self.settings, progress=progress, stop=stop or Stop(running_stop()))

    def request(
        self,
        key: str,
        source: Source,
        transfer: Transfer,
        exclusive: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> UploadRequest:
        """The request of an upload. Every verb and filesystem makes its requests here.

        Args:
            key: As in `UploadRequest`.
            source: As in `UploadRequest`.
            transfer: As in `UploadRequest`.
            exclusive: As in `UploadRequest`.
            options: As in `UploadRequest`.

        Raises:
            ConflictCheckUnsupportedError: If the upload is exclusive, and the store does not create exclusively.
        """
        if exclusive and not self.creates_exclusively:
            raise self.no_exclusive_create(transfer.details)
        return UploadRequest(key, source, transfer, exclusive, self.with_content_type(key, source, options or {}))

    def options_of(self, properties: ObjectProperties, details: ErrorDetails) -> Mapping[str, Any]:
        """Translate properties into the provider's own terms: the options of an `UploadRequest`.

        By default no property can be kept.

        Args:
            properties: The properties.
            details: The upload, for errors.

        Raises:
            ValueError: If the store does not accept a value.
            UnsupportedOperationError: If the store cannot keep a given property.
        """
        self.require_properties(properties, details)
        return {}

    def require_properties(self, properties: ObjectProperties, details: ErrorDetails, *known: str) -> None:
        """Check that the store can keep the given properties.

        Args:
            properties: The properties.
            details: The upload, for errors.
            *known: The names of those that the store keeps.

        Raises:
            UnsupportedOperationError: If it cannot keep one of them.
        """
        lost = [name for name in properties.given() if name not in known]
        if lost:
            raise UnsupportedOperationError(
                f"{details.url}: the provider {self.provider!r} cannot keep {', '.join(lost)}; nothing was sent",
                details,
                Remedy.LEAVE_PROPERTIES_OUT,
            )

    def with_content_type(self, key: str, source: Source, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add a content type to options that have none: the type that the key suggests, or else the name of the local file.

        By default nothing is added. A provider that keeps content types replaces this with `guess_content_type`.
        """
        del key, source
        return options

    def no_exclusive_create(self, details: ErrorDetails) -> ConflictCheckUnsupportedError:
        """The error for an exclusive create, if the store does not create exclusively."""
        return ConflictCheckUnsupportedError(
            f"{details.url}: the provider {self.provider!r} cannot create exclusively; nothing was written",
            details,
            Remedy.NO_CONFLICT_CHECK,
        )

    def open_writer(self, request: UploadRequest) -> ObjectWriter:
        """Write an object piece by piece.

        By default the content is collected, in memory or in a temporary file, and uploaded by `commit`.

        Args:
            request: The upload; its source is not read.
        """
        return SpooledWriter(self, request)

    def writer_of(self, key: str, *, exclusive: bool, options: Mapping[str, Any] | None = None) -> ObjectWriter:
        """The writer of a file that is opened for writing.

        Args:
            key: The key.
            exclusive: Whether the file must not exist, as for ``open(path, "xb")``.
            options: As in `UploadRequest`.

        Raises:
            ConflictCheckUnsupportedError: If `exclusive`, and the store cannot do that.
        """
        transfer = self.transfer(key, "upload")
        if exclusive:
            self.require_create(key)  # before there is a writer to discard
        return self.open_writer(self.request(key, nothing(transfer.details), transfer, exclusive, options))

    def download(self, key: str, path: str, transfer: Transfer) -> None:
        """Download an object: complete, one version of it, verified against its checksum, or not at all.

        Args:
            key: The key.
            path: The local file. It is replaced when the download is complete, and on the disk when this returns.
            transfer: The operation, the settings, the progress, and the stop.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If the content does not match its checksum, twice.
            StorageError: If the download fails; the local file is unchanged then.
        """
        manner = {"durable": transfer.settings.fsync, "named": self.names_targets}
        with atomic_target(path, transfer.details, **manner, note=transfer.named, preserved=transfer.preserved) as target:
            self.fetch(key, target, transfer)
        transfer.progress.finish()

    def download_new(self, key: str, path: str, transfer: Transfer) -> None:
        """Download an object to a new file.

        Args:
            key: The key.
            path: The local file.
            transfer: As in `download`.

        Raises:
            ObjectExistsError: If the file exists.
            ConflictCheckUnsupportedError: If its folder's filesystem has neither hard links nor `renameat2`.
            Exception: As `download`.
        """
        details = transfer.details
        temporary = temporary_beside(path)
        try:
            Draft(path, details, exclusive=True).discard()  # before the download: the folder may refuse exclusive creates
            self.download(key, temporary, transfer)
            rename(temporary, path, details, exclusive=True, durable=transfer.settings.fsync)
        except FileExistsError as error:
            raise exists_error(ErrorDetails("file", path, details.operation)) from error
        finally:
            with suppress(OSError):
                os.unlink(temporary)

    def fetch(self, key: str, target: LocalTarget, transfer: Transfer) -> None:
        """Download an object to a file that the caller has opened; as `download`, which calls this.

        Args:
            key: The key.
            target: Receives the content. After an error it holds bytes that do not count.
            transfer: As in `download`.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If the content does not match its checksum, twice.
            StorageError: If the download fails.
        """
        fetch_object(self.open_reader(key, transfer.details.operation), target, transfer)

    def read(self, key: str, transfer: Transfer) -> bytes:
        """Read an object into memory; as `download`."""
        return read_object(self.open_reader(key, transfer.details.operation), transfer)

    def require_create(self, key: str, operation: str = "open") -> None:
        """Check, before there is any content, that an object can be created exclusively.

        Raises:
            ConflictCheckUnsupportedError: If the store cannot create exclusively.
            ObjectExistsError: If the object exists.
            StorageError: If a request fails.
        """
        details = self.details(key, operation)
        if not self.creates_exclusively:
            raise self.no_exclusive_create(details)
        try:
            self.info(key, operation)
        except (ObjectNotFoundError, AccessDeniedError):  # without read permission, the write itself decides
            return
        raise exists_error(details)

    def require_atomic(self, key: str, operation: str) -> None:
        """Check that small objects are created exclusively by the store itself, and not by a check that can race.

        Args:
            key: The key of such an object.
            operation: The operation, for errors.

        Raises:
            ConflictCheckUnsupportedError: If they are not.
            StorageError: If a request fails.
        """
        if not self.creates_exclusively:
            raise self.no_exclusive_create(self.details(key, operation))

    def is_prefix(self, prefix: str) -> bool:
        """Whether any key begins with a prefix.

        Raises:
            StorageError: If the request fails.
        """
        return next(iter(self.list(prefix)), None) is not None

    def list_folder(self, prefix: str = "") -> Iterator[ObjectInfo | str]:
        """The objects directly behind a prefix, and the URLs of the folders there, which end with ``/``; in URL order.

        Raises:
            StorageError: If a request for a page fails.
        """
        return directly_in(self.list(prefix), self.url(prefix))

    def require_bucket(self, operation: str = "info", *, recently: bool = True) -> None:  # noqa: ARG002 - for providers that can ask
        """Check that the bucket exists. By default nothing is checked.

        Args:
            operation: The operation that asks, for errors.
            recently: Whether a check within the last seconds is enough.

        Raises:
            BucketNotFoundError: If the bucket does not exist.
            StorageError: If the request fails.
        """
        return

    @overload
    def upload_many(
        self, items: Sequence[UploadItem], stop: Stop, workers: int = 0, *, on_error: Literal["raise"] = "raise"
    ) -> Sequence[Stored]: ...

    @overload
    def upload_many(
        self, items: Sequence[UploadItem], stop: Stop, workers: int = 0, *, on_error: str
    ) -> Sequence[Stored | Exception]: ...

    def upload_many(
        self, items: Sequence[UploadItem], stop: Stop, workers: int = 0, *, on_error: str = "raise"
    ) -> Sequence[Stored | Exception]:
        """Store several objects, some at a time.

        Args:
            items: The uploads.
            stop: Cancels them.
            workers: How many at a time; `max_concurrency` if 0.
            on_error: ``"raise"`` ends all uploads at the first failure; ``"return"`` puts the exception into the result.

        Returns:
            The stored objects, in the order of the items.

        Raises:
            Exception: The first failure, if `on_error` is ``"raise"``; uploads that were not begun by then do not begin.
        """
        stored: Sequence[Stored | Exception] = self._side_by_side(
            [partial(self._upload_item, each, stop, on_error) for each in items], stop, workers
        )
        return stored

    def read_many(
        self, items: Sequence[ReadItem], stop: Stop, *, on_error: str = "raise", workers: int = 0
    ) -> Sequence[bytes | Exception | None]:
        """Read several objects, some at a time.

        Args:
            items: The reads.
            stop: Cancels them.
            on_error: ``"raise"`` ends all reads at the first failure; ``"return"`` puts the exception into the result.
            workers: As in `upload_many`.

        Returns:
            For each item its content; None if it went to a local file.

        Raises:
            Exception: The first failure, if `on_error` is ``"raise"``.
        """
        with folders_synced_once() as folders:
            tasks = [partial(self._read_item, each, stop, on_error, folders) for each in items]
            contents: Sequence[bytes | Exception | None] = self._side_by_side(tasks, stop, workers)
        return contents

    def unfinished_uploads(self, prefix: str) -> Iterable[tuple[str, datetime | None]]:  # noqa: ARG002 - as `discard_parts`
        """The keys with a prefix to which an upload was interrupted, and when each began. By default there are none.

        Raises:
            StorageError: If a request fails.
        """
        return ()

    def discard_parts(self, prefix: str) -> None:  # noqa: ARG002 - for providers whose uploads leave parts
        """Remove the parts of interrupted uploads to keys with a prefix. By default there are none.

        An upload in progress fails.

        Raises:
            StorageError: If a request fails.
        """
        return

    def delete_many(self, keys: Sequence[str], transfer: Transfer) -> None:
        """Delete several objects, some at a time; an object that does not exist is not an error.

        Raises:
            StorageError: If one cannot be deleted; others may have been.
        """
        self._side_by_side([partial(self._delete_if_there, each) for each in keys], transfer.stop, 0)

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Copy an object; an existing target is replaced. By default the content passes through this machine.

        Args:
            key: The key of the source object.
            target: The store of the copy.
            target_key: The key of the copy.
            transfer: The operation, the settings, the progress, and the stop.
            options: As in `UploadRequest`.

        Raises:
            ObjectNotFoundError: If the source object does not exist.
            StorageError: If the copy fails; the target is unchanged then.
        """
        self.copy_through(key, target, target_key, transfer, options)

    def copy_through(
        self,
        key: str,
        target: ObjectStore,
        target_key: str,
        transfer: Transfer,
        options: Mapping[str, Any] | None = None,
        *,
        exclusive: bool = False,
        version: ObjectInfo | None = None,
    ) -> None:
        """Copy an object through this machine; see `copy` and `copy_version`."""
        if exclusive:
            target.require_create(target_key, transfer.details.operation)  # before the content is read
        with self.scratch(transfer.details) as scratch:
            self.fetch(key, scratch, transfer)
            self.require_version(key, version, transfer.details)
            with open_source(scratch.temporary, transfer.details) as source:
                receiving = target.receiving(target_key, transfer)
                transfer.stored(target.upload(target.request(target_key, source, receiving, exclusive, options)))

    def receiving(self, key: str, transfer: Transfer) -> Transfer:
        """A transfer as that of the target of a copy, so that its errors name the target."""
        return dataclasses.replace(transfer, details=self.details(key, transfer.details.operation))

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy an object within the store, with its properties. By default `copy`, or exclusively through this machine.

        Args:
            key: The key of the source object.
            target_key: The key of the copy.
            transfer: The operation, the settings, the progress, and the stop.
            exclusive: Whether to fail if the target exists, atomically. If not, an existing target is replaced.
            version: The version of the source object to copy, from `info`; None for any.

        Raises:
            ObjectNotFoundError: If the source object does not exist.
            ObjectExistsError: If `exclusive` is set, and the target exists.
            ConflictCheckUnsupportedError: If `exclusive` is set, and the store cannot do that.
            StorageError: If the copy fails, or the source object is another version; the target is unchanged then.
        """
        if exclusive:
            self.copy_through(key, self, target_key, transfer, exclusive=True, version=version)
        else:
            self.require_version(key, version, transfer.details)
            self.copy(key, self, target_key, transfer)

    def move(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Move an object within the store: copy one version of it, and then delete that version.

        Args:
            key: The key of the object.
            target_key: Its new key.
            transfer: The operation, the settings, the progress, and the stop.
            exclusive: Whether to fail if the target exists, atomically.
            version: The version to move; None for the one of now.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            ObjectExistsError: If `exclusive` is set, and the target exists.
            ConflictCheckUnsupportedError: If `exclusive` is set, and the store cannot do that.
            StorageUnavailableError: If the object was replaced meanwhile. The replacement was not deleted.
            StorageError: If the copy fails, and then nothing was changed; or if the object cannot be deleted.
        """
        version = version or self.info(key, transfer.details.operation)
        self.copy_version(key, target_key, transfer, exclusive=exclusive, version=version)
        self.delete_version(key, version, transfer)

    def delete_version(self, key: str, version: ObjectInfo, transfer: Transfer) -> None:
        """Delete an object if it is still a certain version; an object that does not exist any more is not an error.

        By default a HEAD request compares the version before the delete. A store with conditional deletes needs none.

        Raises:
            StorageUnavailableError: If the object is another version; it was not deleted.
            StorageError: If it cannot be deleted.
        """
        try:
            self.require_version(key, version, transfer.details)
            self.delete(key)
        except ObjectNotFoundError:
            return

    def _delete_conditionally(self, delete: Callable[[], None], key: str, transfer: Transfer) -> None:
        """`delete_version` with a conditional delete.

        Args:
            delete: Deletes the object if it is the version, and fails with HTTP status 412 if it is another.
            key: The key.
            transfer: The context of the operation.
        """
        try:
            delete()
        except ObjectNotFoundError:
            return
        except StorageError as error:
            if error.status != _PRECONDITION_FAILED:
                raise
            with suppress(ObjectNotFoundError):  # an earlier request, whose answer was lost, had deleted it
                self.info(key, transfer.details.operation)
                raise self.replaced(transfer.details) from error

    def require_version(self, key: str, version: ObjectInfo | None, details: ErrorDetails) -> None:
        """Check that an object is still a certain version.

        Raises:
            ObjectNotFoundError: If it does not exist any more.
            StorageUnavailableError: If it is another version.
            StorageError: If the request fails.
        """
        if version is not None and not is_same_version(self.info(key, details.operation), version):
            raise self.replaced(details)

    def replaced(self, details: ErrorDetails) -> StorageUnavailableError:
        """The error for a source object that was replaced during its operation."""
        message = f"{details.operation} of {details.url}: the object was replaced meanwhile"
        if details.operation == "copy":
            return StorageUnavailableError(message, details, Remedy.REPEAT)
        return StorageUnavailableError(f"{message}, so it was not deleted", details, Remedy.CHECK_FIRST)

    def presign(self, key: str, seconds: int, method: str) -> str:
        """A URL with which anyone can read or write an object for some time. By default there is none.

        Args:
            key: The key.
            seconds: How long the URL is valid.
            method: ``"GET"`` or ``"PUT"``.

        Raises:
            UnsupportedOperationError: If the store, or the credentials, cannot make such a URL.
            ValueError: If the time is longer than the store permits.
            StorageError: If the credentials cannot be read.
        """
        del seconds, method
        raise UnsupportedOperationError(
            f"{self.details(key, 'presign').url}: the provider {self.provider!r} has no presigned URLs",
            self.details(key, "presign"),
        )

    def close(self) -> None:
        """Close idle connections; the next request opens new ones. By default nothing is done."""
        return

    @contextmanager
    def scratch(self, details: ErrorDetails) -> Iterator[LocalTarget]:
        """A temporary file for `fetch`, for content that passes through this machine.

        Args:
            details: The operation, for errors.

        Raises:
            StorageError: If the file cannot be made.
        """
        if not self.names_targets:
            with scratch_target(details) as target:
                yield target
            return
        import tempfile  # it takes 4 ms to import, and most verbs need none

        with tempfile.TemporaryDirectory(prefix="gllm-storage-") as folder:
            draft = Draft(os.path.join(folder, "content"), details, durable=False, named=True)
            try:
                yield draft.as_target()
            finally:
                draft.discard()

    def _upload_item(self, item: UploadItem, stop: Stop, on_error: str) -> Stored | Exception:
        try:
            with item.watch() as progress:
                transfer = self.transfer(item.key, "upload", progress, Stop(stop))
                with item.open_source(transfer.details) as source:
                    progress.expect(source.size)
                    request = self.request(item.key, source, transfer, item.exclusive, item.options)
                    stored = self.upload(dataclasses.replace(request, content_id=item.content_id))
                progress.finish()
        except Exception as error:  # each object's failure is a result, as `on_error` says
            if on_error == "raise":
                raise
            return error
        return stored

    def _read_item(self, item: ReadItem, stop: Stop, on_error: str, folders: FolderSyncs) -> bytes | Exception | None:
        operation = "read" if item.path is None else "download"
        try:
            with item.watch() as progress, folders.joined():
                transfer = self.transfer(item.key, operation, progress, Stop(stop))
                if item.accept is not None:
                    transfer = dataclasses.replace(transfer, accept=item.accept)
                if item.named is not None:
                    transfer = dataclasses.replace(transfer, named=item.named)
                if item.preserved is not None:
                    transfer = dataclasses.replace(transfer, preserved=item.preserved)
                if item.path is None:
                    return self.read(item.key, transfer)
                if item.exclusive:
                    self.download_new(item.key, item.path, transfer)
                else:
                    self.download(item.key, item.path, transfer)
        except Exception as error:  # each object's failure is a result, as `on_error` says
            if on_error == "raise":
                raise
            return error
        return None

    def _delete_if_there(self, key: str) -> None:
        try:
            self.delete(key)
        except ObjectNotFoundError:
            return

    def _side_by_side(self, tasks: Sequence[Callable[[], Any]], stop: Stop, workers: int) -> Any:
        return run_all(tasks, workers or self.settings.max_concurrency, stop) if tasks else []


class SpooledWriter:
    """An `ObjectWriter` that collects the content, and uploads it by `commit`.

    Args:
        store: The store.
        request: The upload; its source is not read.
    """

    def __init__(self, store: ObjectStore, request: UploadRequest) -> None:
        self._store = store
        self._request = request
        self._spool: Spool = spool_of(request.transfer.settings, request.details)
        self._pid = os.getpid()

    def write(self, data: ReadableBuffer) -> int:
        """Write the bytes of a buffer.

        Raises:
            StorageError: If the disk is full or fails.
        """
        return self._spool.write(data)

    def tell(self) -> int:
        """The position in bytes."""
        return self._spool.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; a gap becomes zeros.

        Raises:
            ValueError: If the position would be negative.
        """
        return self._spool.seek(offset, whence)

    def seekable(self) -> bool:
        """Always."""
        return True

    def commit(self) -> Stored:
        """Upload the content.

        Raises:
            ObjectExistsError: If the request is exclusive, and the object exists.
            StorageError: If the upload fails; nothing was changed then.
        """
        try:
            return self._store.upload(dataclasses.replace(self._request, source=self._spool.source()))
        finally:
            self._spool.close()

    def discard(self) -> None:
        """Drop the content."""
        if self._pid == os.getpid():  # a forked child has only a copy
            self._spool.close()


def guess_content_type(key: str, source: Source) -> str | None:
    """The content type that the key suggests, or else the name of the local file; None if neither suggests one.

    As gcloud and aws do: by the name alone, and ``x.tar.gz`` is a tar archive.
    """
    found, path = _content_type(key), getattr(source, "path", "")
    if found or path.rpartition("/")[2] == key.rpartition("/")[2]:
        return found
    return _content_type(path)


def _content_type(name: str) -> str | None:
    # `mimetypes` takes 3 microseconds, and looks for a dot in a name, and for the scheme of a URL.
    return mimetypes.guess_type(name)[0] if "." in name or ":" in name else None


def is_same_version(one: ObjectInfo, other: ObjectInfo) -> bool:
    """Whether two descriptions of an object are of one version of its content."""
    return all(getattr(one, name) == getattr(other, name) for name in ("size", "etag", "last_modified", "version"))


def url_of_bucket(url: str) -> str:
    """The URL of a bucket or folder without the slash at its end, unless it is a root, such as ``memory://``."""
    shorter = url.removesuffix("/")
    return url if shorter.endswith("/") else shorter


def nothing(details: ErrorDetails) -> MemorySource:
    """The source of a request for `ObjectStore.open_writer`."""
    return MemorySource(b"", details)
