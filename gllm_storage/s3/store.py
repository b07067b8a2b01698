"""`S3Store`: one bucket of S3 or of a compatible service."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    Remedy,
    StorageError,
    UnsupportedOperationError,
    redacted,
)
from gllm_storage.files.durability import folders_synced_once
from gllm_storage.files.source import open_source
from gllm_storage.http.pool import run_in_place
from gllm_storage.info import NO_PROPERTIES, in_order, url_in_listing
from gllm_storage.s3.errors import attempts_of_answer, is_refusal, require_deletion, translated
from gllm_storage.s3.read import S3Reader
from gllm_storage.s3.requests import S3Requests, delete_objects, objects_in
from gllm_storage.s3.settings import settings_of_call
from gllm_storage.store.create import exists_error, require_size, write_object
from gllm_storage.store.port import ObjectStore, SpooledWriter, UploadRequest, guess_content_type
from gllm_storage.store.reader import replaced_too_often
from gllm_storage.store.retry import RESTART, rescued

# The modules of uploads and copies are imported where they are needed: together they take 12 ms, and the first verb of most
# processes looks for an object or reads one.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from typing import TypeVar

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo, ObjectProperties, Stored
    from gllm_storage.s3.connection import S3Connection
    from gllm_storage.s3.copy import Copy
    from gllm_storage.s3.probe import ConditionalWrites, UploadPlan
    from gllm_storage.s3.settings import S3TransferSettings
    from gllm_storage.store.port import ObjectWriter, ReadItem, UploadItem
    from gllm_storage.store.transfer import Transfer

    T = TypeVar("T")

_SIDE_BY_SIDE = 4
"""Objects of a list that are moved at a time after the small ones; each may go in several parts side by side."""
_ONE_REQUEST_EACH = 16
"""The same if small objects may be among them."""
_COPY_IN_PARTS_ABOVE = 150 * 2**20
"""Bytes; as s3fs."""
LONGEST_URL = 7 * 24 * 3600
"""Seconds: https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html"""
_PRECONDITION_FAILED = 412
_NOT_IMPLEMENTED = 501


def _require_reported(found: Mapping[int, object], on_error: str) -> None:
    """Raise the failure of a callback among the results of small objects, if failures are raised."""
    failure = next((each for each in found.values() if isinstance(each, Exception)), None)
    if failure is not None and on_error == "raise":
        raise failure


class S3Store(ObjectStore):
    """The objects of one bucket.

    Args:
        connection: The endpoint, and the settings of the transfers.
        bucket: The bucket.
    """

    provider: ClassVar[str] = "s3"
    creates_exclusively: ClassVar[bool] = True

    def __init__(self, connection: S3Connection, bucket: str) -> None:
        self.connection = connection
        self.bucket = bucket
        self.requests = S3Requests(connection, bucket)

    @property
    def place(self) -> str:
        """The provider and the endpoint."""
        return f"s3 {redacted(self.connection.endpoint_url)}"

    def is_one_with(self, other: ObjectStore) -> bool:
        """As `ObjectStore.is_one_with`; users of one endpoint may have different buckets of one name."""
        if not (isinstance(other, S3Store) and super().is_one_with(other)):
            return False
        one, another = self.connection, other.connection
        return one.shares_buckets_with(another) and one.has_parameters_of(another)

    @property
    def settings(self) -> S3TransferSettings:
        """Part sizes, concurrency and preconditions."""
        return self.connection.settings

    def url(self, key: str) -> str:
        """The URL of a key."""
        return f"s3://{self.bucket}/{key}"

    def upload(self, request: UploadRequest) -> Stored:
        """Store an object: in one PutObject, or in parts; see `ObjectStore.upload`.

        The options of the request are parameters of PutObject and CreateMultipartUpload, and s3fs's ``chunksize`` and
        ``max_concurrency`` for this upload alone.

        Raises:
            ValueError: If the options ask for impossible parts.
            ObjectExistsError: If the request is exclusive, and the object exists.
            ConflictCheckUnsupportedError: If the request is exclusive, and the endpoint cannot do that.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind, except parts for the
                next upload with the same `content_id`.
        """
        from gllm_storage.s3.upload import S3Upload, S3Write

        settings = settings_of_call(self.settings, request.options)
        stop = request.transfer.stop
        with translated(request.details), stopped_by(stop):
            plan = self._plan(
                request.key,
                request.source.size,
                settings,
                request.details.operation,
                exclusive=request.exclusive,
                has_one_content=bool(request.content_id),
            )
            upload = S3Upload(request, self.requests, plan, settings)
            write_id = request.content_id or None
            stored = write_object(S3Write(upload), exclusive=request.exclusive, write_id=write_id, stop=stop)
            stored = upload.require_size(stored, request.source.size)
            if request.key.endswith("/") and stored.size:
                self._require_kept(request, stored)
            return stored

    def _require_kept(self, request: UploadRequest, stored: Stored) -> None:
        """Check that content behind a key that ends with ``/`` was stored: SeaweedFS makes an empty folder, and says 200.

        Raises:
            IntegrityError: If it was not.
        """
        with contextlib.suppress(AccessDeniedError, ObjectNotFoundError):  # no read permission; deleted since
            found = self.info(request.key, request.details.operation)
            if found.etag == stored.etag:
                require_size(replace(stored, size=found.size), stored.size, request.details)

    def open_writer(self, request: UploadRequest) -> ObjectWriter:
        """Send the parts of an object while it is written, if possible; see `ObjectStore.open_writer`.

        Raises:
            ValueError: If the options ask for impossible parts.
            StorageError: If the probe of the endpoint fails.
        """
        from gllm_storage.s3.probe import Condition, UploadPlan, put_limit, warn_of_race
        from gllm_storage.s3.stream import StreamedWriter
        from gllm_storage.s3.upload import S3Upload

        settings = settings_of_call(self.settings, request.options)
        collect = None
        if request.exclusive:
            with stopped_by(request.transfer.stop):
                enforced = self._enforced(request.key)
            if enforced.complete is Condition.CHECKED and enforced.put is Condition.ENFORCED:
                # One PutObject is atomic, and needs the complete content. Only larger content goes in parts.
                collect = put_limit(settings, enforced)
            elif enforced.complete is not Condition.ENFORCED:
                # Parts could only overwrite here. The complete content goes in one PutObject, if that is possible.
                return SpooledWriter(self, request)
        plan = UploadPlan(multipart=True, part_size=settings.part_size, conditional=request.exclusive)
        upload = S3Upload(request, self.requests, plan, settings)
        if collect is None:
            return StreamedWriter(upload, self.upload)
        return StreamedWriter(upload, self.upload, collect, partial(warn_of_race, settings, enforced, request.details))

    def open_reader(self, key: str, operation: str = "read") -> S3Reader:
        """A reader of an object."""
        return S3Reader(self.requests, key, self.requests.details(key, operation))

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts about an object, from a HeadObject.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            StorageError: If the request fails.
        """
        return self.open_reader(key, operation).head()

    def exists(self, key: str) -> bool:
        """Whether an object exists now, from a HeadObject without the checksum, whatever size it states.

        Raises:
            StorageError: If the request fails.
        """
        try:
            self.requests.head(key, "exists")
        except ObjectNotFoundError:
            return False
        return True

    def options_of(self, properties: ObjectProperties, details: ErrorDetails) -> Mapping[str, Any]:  # noqa: ARG002 - S3 has all
        """Translate properties into parameters of PutObject.

        Raises:
            ValueError: If S3 does not accept a value.
        """
        if properties is NO_PROPERTIES:
            return {}
        from gllm_storage.s3.upload import parameters_of

        return parameters_of(properties, self.connection.parameters("PutObject"))

    def with_content_type(self, key: str, source: Source, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the guessed content type to parameters of PutObject, unless the caller or the connection gives one."""
        if "ContentType" in options or "ContentType" in self.connection.parameters("PutObject"):
            return options
        guessed = guess_content_type(key, source)
        return {**options, "ContentType": guessed} if guessed else options

    def presign(self, key: str, seconds: int, method: str) -> str:
        """A URL with a signature of version 4.

        Raises:
            ValueError: If the time is longer than 7 days.
            UnsupportedOperationError: If requests are anonymous, or the object needs a customer key, which no URL carries.
            StorageError: If there are no credentials.
        """
        details = self.details(key, "presign")
        if seconds > LONGEST_URL:
            raise ValueError(f"expires must be at most {LONGEST_URL} seconds (7 days) on S3, not {seconds}")
        if self.connection.endpoint.anonymous:
            raise UnsupportedOperationError(
                f"{details.url}: a presigned URL needs credentials, and requests are anonymous",
                details,
                Remedy.NEEDS_SIGNING_KEY,
            )
        if "SSECustomerKey" in self.connection.parameters("GetObject"):
            raise UnsupportedOperationError(
                f"{details.url}: the object is encrypted with a customer key, which a presigned URL cannot carry", details
            )
        operation = {"GET": "get_object", "PUT": "put_object"}[method]
        with translated(details):
            return self.connection.presigner.generate_presigned_url(
                operation, Params={"Bucket": self.bucket, "Key": key}, ExpiresIn=seconds
            )

    def close(self) -> None:
        """Close the idle connections of this process."""
        self.connection.close()

    def run_write(self, task: Callable[[], T], stop: Stop) -> T:
        """As `ObjectStore.run_write`, in this thread if the requests are direct ones."""
        return run_in_place(task, stop) if self.connection.writes_in_place else super().run_write(task, stop)

    def delete_version(self, key: str, version: ObjectInfo, transfer: Transfer) -> None:
        """Delete an object if it is still a certain version; see `ObjectStore.delete_version`.

        A HEAD request compares the version, and the delete carries its ETag as a precondition, which Amazon enforces. Stores
        that do not know this precondition ignore it or refuse it; the HEAD request is all that they have.

        Raises:
            StorageUnavailableError: If the object is another version; it was not deleted.
            StorageError: If it cannot be deleted.
        """
        try:
            self.require_version(key, version, transfer.details)
            self._delete(key, **({"IfMatch": f'"{version.etag}"'} if version.etag else {}))
        except ObjectNotFoundError:
            return
        except StorageError as error:
            if error.status == _PRECONDITION_FAILED:
                self._settle_delete(key, version, transfer)
            elif error.status == _NOT_IMPLEMENTED:
                self._delete(key)
            else:
                raise

    def _settle_delete(self, key: str, version: ObjectInfo, transfer: Transfer) -> None:
        """Find out the reason for a failed precondition: an earlier request, whose answer was lost, may have deleted."""
        with contextlib.suppress(ObjectNotFoundError):
            self.require_version(key, version, transfer.details)
            self._delete(key)  # it is still there: the store does not compare ETags as Amazon does

    def delete(self, key: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist; credentials without read permission do not notice.
            StorageError: If it cannot be deleted.
        """
        with contextlib.suppress(AccessDeniedError):  # credentials may permit deletes, but no reads
            self.requests.head(key, "delete")  # DeleteObject answers 204 for a key that never existed
        self._delete(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order; without folder markers (empty, with a ``/`` at the end).

        Raises:
            StorageError: If the request for any page fails.
        """
        for page in self.requests.pages(prefix):
            yield from objects_in(page, self.bucket)

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with a prefix, folder markers included.

        Raises:
            StorageError: If the request for any page fails.
        """
        for page in self.requests.pages(prefix):
            yield from (each["Key"] for each in page.get("Contents", []))

    def list_folder(self, prefix: str = "") -> Iterator[ObjectInfo | str]:
        """The objects directly behind a prefix, and the URLs of the folders there, which end with ``/``.

        Raises:
            StorageError: If the request for any page fails.
        """
        for page in self.requests.pages(prefix, Delimiter="/"):
            folders = [self.url(each["Prefix"]) for each in page.get("CommonPrefixes", [])]
            yield from in_order([*objects_in(page, self.bucket), *folders])

    @property
    def finds_first(self) -> bool:
        """Whether listings are in key order. Those of directory buckets are not.

        https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html
        """
        return not self.bucket.endswith(("--x-s3", "--xa-s3"))

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """The first object whose key begins with a prefix, by pages of one key.

        Raises:
            StorageError: If the request for a page fails.
        """
        if not self.finds_first:
            return min(self.list(prefix), key=url_in_listing, default=None)
        pages = self.requests.pages(prefix, MaxKeys=1)  # a page may be empty, and another one follow it
        return next((each for page in pages for each in objects_in(page, self.bucket)), None)

    def is_prefix(self, prefix: str) -> bool:
        """Whether any key begins with a prefix.

        Raises:
            StorageError: If the request fails.
        """
        page = next(self.requests.pages(prefix, MaxKeys=1))
        return bool(page.get("Contents"))

    def require_bucket(self, operation: str = "info", *, recently: bool = True) -> None:
        """Check that the bucket exists.

        Raises:
            BucketNotFoundError: If it does not exist.
            StorageError: If the request fails.
        """
        self.requests.require_bucket(self.details("", operation), recently=recently)

    def require_create(self, key: str, operation: str = "open") -> None:
        """Check, before there is any content, that an object can be created exclusively.

        Raises:
            ConflictCheckUnsupportedError: If the endpoint cannot create exclusively.
            ObjectExistsError: If the object exists.
            StorageError: If a request fails.
        """
        self._plan(key, 0, self.settings, operation, exclusive=True)
        with contextlib.suppress(AccessDeniedError):  # without read permission the write itself decides
            if self.requests.find(key, operation) is not None:
                raise exists_error(self.details(key, operation))

    def require_atomic(self, key: str, operation: str) -> None:
        """Check that the endpoint enforces the precondition of small objects, whatever the config accepts.

        Raises:
            ConflictCheckUnsupportedError: If it does not.
            StorageError: If the probe of the endpoint fails.
        """
        settings = self.settings
        if settings.conditional_writes == "best-effort":
            settings = replace(settings, conditional_writes="auto")
        self._plan(key, 0, settings, operation, exclusive=True)

    def upload_many(
        self, items: Sequence[UploadItem], stop: Stop, workers: int = 0, *, on_error: str = "raise"
    ) -> Sequence[Any]:
        """Store several objects: the small ones by requests that do not wait for each other's answers.

        Raises:
            Exception: The first failure, if `on_error` is ``"raise"``.
        """
        pipeline = self.connection.pipeline if len(items) > 1 else None
        if pipeline is None:
            return super().upload_many(items, stop, workers or _ONE_REQUEST_EACH, on_error=on_error)
        from gllm_storage.s3.small import upload_small

        done, left = upload_small(self, pipeline, items, stop)
        _require_reported(done, on_error)
        rest = super().upload_many([items[number] for number in left], stop, workers or _SIDE_BY_SIDE, on_error=on_error)
        found: dict[int, Stored | Exception] = {**done, **dict(zip(left, rest, strict=True))}
        return [found[number] for number in range(len(items))]

    def read_many(
        self, items: Sequence[ReadItem], stop: Stop, *, on_error: str = "raise", workers: int = 0
    ) -> Sequence[bytes | Exception | None]:
        """Read several objects: the small ones by requests that do not wait for each other's answers.

        Raises:
            Exception: The first failure, if `on_error` is ``"raise"``.
        """
        pipeline = self.connection.pipeline if len(items) > 1 else None
        if pipeline is None:
            return super().read_many(items, stop, on_error=on_error, workers=workers or _ONE_REQUEST_EACH)
        from gllm_storage.s3.small import read_small

        with folders_synced_once():
            small, left = read_small(self, pipeline, items, stop)
            _require_reported(small, on_error)
            rest = super().read_many(
                [items[number] for number in left], stop, on_error=on_error, workers=workers or _SIDE_BY_SIDE
            )
        found: dict[int, bytes | Exception | None] = {**small, **dict(zip(left, rest, strict=True))}
        return [found[number] for number in range(len(items))]

    def unfinished_uploads(self, prefix: str) -> Iterable[tuple[str, datetime | None]]:
        """The keys of the multipart uploads, the first thousand of them. Without the permission to list them there are none.

        Raises:
            StorageError: If a request fails.
        """
        from gllm_storage.s3.unfinished import unfinished_uploads

        with contextlib.suppress(AccessDeniedError), translated(self.details(prefix, "list")):
            return list(unfinished_uploads(self.connection, self.bucket, prefix))
        return ()

    def discard_parts(self, prefix: str) -> None:
        """Abort the multipart uploads of all keys with a prefix. Without the permission to list them they stay.

        Raises:
            StorageError: If a request fails.
        """
        from gllm_storage.s3.unfinished import abort_uploads

        with contextlib.suppress(AccessDeniedError), translated(self.details(prefix, "delete")):
            abort_uploads(self.connection, self.bucket, prefix)

    def delete_many(self, keys: Sequence[str], transfer: Transfer) -> None:
        """Delete several objects by DeleteObjects; an object that does not exist is not an error.

        Raises:
            StorageError: If one cannot be deleted; others may have been.
        """
        if len(keys) == 1:
            self._delete(keys[0])
        elif keys:
            delete_objects(self.requests, keys, transfer)

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Copy an object within S3; an existing target is replaced.

        Args:
            key: The key of the source object.
            target: The store of the copy; at another endpoint, or with another customer key, the content passes through
                this machine.
            target_key: The key of the copy.
            transfer: The operation, the settings, the progress, and the stop.
            options: Parameters of CopyObject and CreateMultipartUpload; ``preserve_etag`` copies in the parts in which the
                source was uploaded, ``version_id`` names a version of it, ``in_parts_above`` is the size in bytes above
                which the copy goes in parts.

        Raises:
            ObjectNotFoundError: If the source object does not exist.
            StorageError: If the copy fails; nothing was changed then, and nothing is left behind.
        """
        # The request goes to the endpoint of the target, which may have another bucket with the name of the source.
        if not (
            isinstance(target, S3Store)
            and target.connection.shares_buckets_with(self.connection)
            and target.connection.has_key_of(self.connection)
        ):
            super().copy(key, target, target_key, transfer, options)
            return
        from gllm_storage.s3.copy import Copy, Place, copy_object

        given = dict(options or {})
        copy = Copy(
            source=Place(self.bucket, key, given.pop("version_id", None)),
            target=Place(target.bucket, target_key),
            threshold=given.pop("in_parts_above", _COPY_IN_PARTS_ABOVE),
            keep_etag=bool(given.pop("preserve_etag", False)),
            options=given,
            transfer=transfer,
        )
        with stopped_by(transfer.stop):
            copy_object(target.requests, copy)

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy an object on the server, with its properties; see `ObjectStore.copy_version`.

        An exclusive copy is a copy in parts, whose completion carries the precondition. Where the endpoint enforces it in
        PutObject only, the content passes through this machine, as do empty objects, which have no parts. So do objects that
        the endpoint does not copy itself: Ceph answers 501 NotImplemented for encrypted ones.

        Raises:
            ObjectNotFoundError: If the source object does not exist.
            ObjectExistsError: If `exclusive` is set, and the target exists.
            ConflictCheckUnsupportedError: If `exclusive` is set, and the endpoint cannot do that.
            StorageError: If the copy fails, or the source object is another version; nothing is left behind.
        """
        from gllm_storage.s3.copy import Copy, Place, copy_object
        from gllm_storage.s3.probe import Condition

        copy = Copy(
            source=Place(self.bucket, key),
            target=Place(self.bucket, target_key),
            threshold=_COPY_IN_PARTS_ABOVE,
            keep_etag=False,
            options={},
            transfer=transfer,
            exclusive=exclusive,
            etag=version.etag if version else None,
        )
        with stopped_by(transfer.stop):
            if exclusive and not (self.info(key, "copy").size and self._enforced(target_key).complete is Condition.ENFORCED):
                self._copy_through(copy)
                return
            try:
                copy_object(self.requests, copy)
            except StorageError as error:
                if error.status != _NOT_IMPLEMENTED:
                    raise
                self._copy_through(copy)

    def _copy_through(self, copy: Copy) -> None:
        """Copy one version of an object through this machine, with its properties."""
        from gllm_storage.s3.copy import properties_to_copy

        if copy.exclusive:
            self.require_create(copy.target.key, "copy")  # before the content is read
        key, transfer = copy.source.key, copy.transfer
        with self.scratch(transfer.details) as scratch:
            for attempt in itertools.count(1):
                options, version = properties_to_copy(self.requests, copy)
                self.fetch(key, scratch, transfer)
                if self.requests.head(key, "copy").get("ETag") == version.get("ETag"):
                    break
                if attempt == RESTART.limit:
                    raise replaced_too_often(transfer.details, attempt)
                RESTART.again(transfer.details, attempt, "the source object was replaced", "restart", transfer.stop)
            with open_source(scratch.temporary, transfer.details) as source:
                receiving = self.receiving(copy.target.key, transfer)
                transfer.stored(self.upload(UploadRequest(copy.target.key, source, receiving, copy.exclusive, options)))

    def _delete(self, key: str, **condition: Any) -> None:
        connection = self.connection
        details = self.details(key, "delete")
        with translated(details):
            try:
                answer = connection.client.delete_object(
                    Bucket=self.bucket, Key=key, **connection.parameters("DeleteObject"), **condition
                )
                require_deletion(answer)
            except ClientError as error:
                # An earlier request, whose answer was lost, may have deleted the object. Some stores then answer 404.
                if is_refusal(error) or not self._is_gone(key):
                    raise
                rescued(details, attempts_of_answer(error), self.settings.max_attempts, error)

    def _is_gone(self, key: str) -> bool:
        try:
            return self.requests.find(key, "delete") is None
        except StorageError:
            return False

    def _plan(
        self,
        key: str,
        size: int,
        settings: S3TransferSettings,
        operation: str,
        *,
        exclusive: bool,
        has_one_content: bool = False,
    ) -> UploadPlan:
        from gllm_storage.s3.probe import plan_create, plan_overwrite

        if not exclusive:
            return plan_overwrite(size, settings)
        details = self.details(key, operation)
        return plan_create(size, settings, self._enforced(key), details, has_one_content=has_one_content)

    def _enforced(self, key: str) -> ConditionalWrites:
        from gllm_storage.s3.probe import ALL_ENFORCED, conditional_writes

        if self.settings.conditional_writes == "enforced":
            return ALL_ENFORCED
        return conditional_writes(self.connection, self.bucket, key[: key.rfind("/") + 1])
