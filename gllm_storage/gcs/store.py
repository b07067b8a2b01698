"""`GCSStore`: the objects of one bucket: https://cloud.google.com/storage/docs/json_api/v1/objects."""

from __future__ import annotations

import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote

from gllm_storage.concurrency.stop import stopped_by
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    ConflictCheckUnsupportedError,
    ErrorDetails,
    ObjectNotFoundError,
    Remedy,
    UnsupportedOperationError,
    redacted,
)
from gllm_storage.gcs.copy import ExclusiveCopy
from gllm_storage.gcs.errors import (
    RefusedError,
    UnreadableAnswerError,
    bucket_not_found,
    is_missing_object,
    is_transient,
    not_found,
    translated,
)
from gllm_storage.gcs.read import GCSReader
from gllm_storage.gcs.requests import BATCH, SUCCESS, GCSRequests, checked_page, info_of, path_of, require_resource
from gllm_storage.gcs.upload import GCSWrite, options_of
from gllm_storage.info import in_order
from gllm_storage.store.create import require_size, write_object
from gllm_storage.store.pages import PageCheck
from gllm_storage.store.port import ObjectStore, guess_content_type
from gllm_storage.store.reader import ObjectChangedError, replaced_too_often
from gllm_storage.store.retry import RESTART, TRANSIENT_STATUSES, deleting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from gllm_storage.files.source import Source
    from gllm_storage.gcs.connection import GCSConnection
    from gllm_storage.info import ObjectInfo, ObjectProperties, Stored
    from gllm_storage.settings import TransferSettings
    from gllm_storage.store.port import UploadRequest
    from gllm_storage.store.transfer import Transfer

_RECENTLY = 30.0
_DENIED = 403
_NOT_FOUND = 404
_LONGEST_URL = 7 * 24 * 3600
"""Seconds: https://cloud.google.com/storage/docs/access-control/signed-urls"""


class GCSStore(ObjectStore):
    """The objects of one bucket.

    Args:
        connection: The server, the credentials and the session.
        bucket: Name of the bucket.
        generation: The version that reads return; the current one if None.
    """

    provider: ClassVar[str] = "gcs"
    creates_exclusively: ClassVar[bool] = True

    def __init__(self, connection: GCSConnection, bucket: str, generation: str | None = None) -> None:
        self.connection = connection
        self.bucket = bucket
        self.generation = generation
        self.requests = GCSRequests(connection)
        self._path = f"/storage/v1/b/{quote(bucket, safe='')}"
        self._seen = -_RECENTLY
        self._is_zonal: bool | None = None

    @property
    def place(self) -> str:
        """The provider and the endpoint."""
        return f"gcs {redacted(self.connection.endpoint_url)}"

    def is_one_with(self, other: ObjectStore) -> bool:
        """As `ObjectStore.is_one_with`; a copy within the store has the key of the store."""
        if not (isinstance(other, GCSStore) and super().is_one_with(other)):
            return False
        one, another = self.connection.options, other.connection.options
        return (one.sse_customer_key, one.kms_key_name) == (another.sse_customer_key, another.kms_key_name)

    @property
    def settings(self) -> TransferSettings:
        """Part sizes, concurrency, attempts and memory."""
        return self.connection.options.transfer

    def url(self, key: str) -> str:
        """The URL of a key, whether the object exists or not; with the generation of the reads, as gcsfs writes it."""
        return f"gs://{self.bucket}/{key}" + (f"#{self.generation}" if key and self.generation else "")

    # ------------------------------------------------------------------ content

    def upload(self, request: UploadRequest) -> Stored:
        """Store an object; the options are ``resource``, properties of the object, and ``parameters`` of the query.

        Raises:
            ObjectExistsError: If the request is exclusive, and the object exists.
            ConflictCheckUnsupportedError: If the request is exclusive, and the bucket is zonal.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        stop = request.transfer.stop
        with translated(request.details), stopped_by(stop):
            if request.exclusive:
                self._require_conditions(request.details)
            stored = write_object(GCSWrite(self, request), exclusive=request.exclusive, stop=stop)
        delete = partial(self.delete, request.key, stored.version) if request.exclusive and stored.version else None
        return require_size(stored, request.source.size, request.details, delete)

    def options_of(self, properties: ObjectProperties, details: ErrorDetails) -> Mapping[str, Any]:
        """Translate properties into options of `upload`.

        Raises:
            ValueError: If an ACL is unknown, or `kms_key` contradicts the customer key of the connection.
            UnsupportedOperationError: If there are tags, which GCS does not have, or `encryption`, which `kms_key` implies.
        """
        known = ("content_encoding", "content_disposition", "content_language", "cache_control", "metadata", "storage_class")
        self.require_properties(properties, details, "content_type", *known, "acl", "kms_key")
        if properties.kms_key and self.connection.options.sse_customer_key:
            raise ValueError("kms_key contradicts sse_customer_key of the client; leave one out")
        return options_of(properties)

    def with_content_type(self, key: str, source: Source, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the guessed content type to options without one."""
        resource = options.get("resource", {})
        guessed = None if resource.get("contentType") else guess_content_type(key, source)
        return {**options, "resource": {**resource, "contentType": guessed}} if guessed else options

    def presign(self, key: str, seconds: int, method: str) -> str:
        """A URL with a signature of version 4, by the key of a service account.

        Raises:
            ValueError: If the time is longer than 7 days.
            UnsupportedOperationError: If the credentials have no key that signs; or the object needs a customer key.
            StorageError: If the credentials cannot be read.
        """
        details = self.details(key, "presign")
        if seconds > _LONGEST_URL:
            raise ValueError(f"expires must be at most {_LONGEST_URL} seconds (7 days) on GCS, not {seconds}")
        if self.connection.options.sse_customer_key:
            raise UnsupportedOperationError(
                f"{details.url}: the object is encrypted with a customer key, which a presigned URL cannot carry", details
            )
        with translated(details):
            if not self.connection.signs:
                raise UnsupportedOperationError(
                    f"{details.url}: a presigned URL needs the key of a service account, and the credentials have none",
                    details,
                    Remedy.NEEDS_SIGNING_KEY,
                )
            return self.connection.signed_url(self.bucket, key, seconds, method)

    def close(self) -> None:
        """Close the idle connections of this process."""
        self.connection.close()

    def require_create(self, key: str, operation: str = "open") -> None:
        """As the base class; a zonal bucket is refused.

        Raises:
            ConflictCheckUnsupportedError: If the bucket is zonal.
            ObjectExistsError: If the object exists.
            StorageError: If a request fails.
        """
        self._require_conditions(self.details(key, operation))
        super().require_create(key, operation)

    def open_reader(self, key: str, operation: str = "read") -> GCSReader:
        """A reader of an object. Sends no request."""
        return GCSReader(self, key, self.details(key, operation))

    # ------------------------------------------------------------------ facts

    def info(self, key: str, operation: str = "info") -> ObjectInfo:
        """The facts about an object.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            StorageError: If the request fails.
        """
        return self.open_reader(key, operation).head()

    def resource(self, key: str, details: ErrorDetails) -> dict[str, Any]:
        """The object resource, as Google answers it.

        Args:
            key: The key.
            details: The operation, for errors.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            BucketNotFoundError: If the bucket does not exist.
            StorageError: If the request fails, or the store ignores the generation.
        """
        params = {"generation": self.generation} if self.generation else {}
        with translated(details):
            try:
                headers = self.connection.options.customer_key_headers()
                answer = self.requests.ask("GET", path_of(self.bucket, key), details, params=params, headers=headers)
                return require_resource(answer, self.generation)
            except RefusedError as error:
                if is_missing_object(error):
                    raise self.missing(error, details) from error
                raise

    def existing(self, key: str, details: ErrorDetails) -> ObjectInfo | None:
        """The object that exists now; None if there is none.

        Raises:
            StorageError: If the request fails.
        """
        try:
            return info_of(self.resource(key, details), self.url(key))
        except ObjectNotFoundError:
            return None

    def missing(self, error: RefusedError, details: ErrorDetails) -> ObjectNotFoundError:
        """The error for an object that does not exist.

        Raises:
            BucketNotFoundError: If it is the bucket that does not exist.
            StorageError: If the question whether it exists fails.
        """
        self._require_bucket_of(error, details)
        return not_found(details)

    def require_bucket(self, operation: str = "info", *, recently: bool = True) -> None:
        """Check that the bucket exists. Credentials without permission to ask pass.

        Raises:
            BucketNotFoundError: If the bucket does not exist.
            StorageError: If the request fails.
        """
        self._require_bucket(self.details("", operation), recently=recently)

    def _require_bucket(self, details: ErrorDetails, *, recently: bool = True) -> None:
        if recently and time.monotonic() - self._seen < _RECENTLY:
            return
        with translated(details):
            try:
                self.requests.ask("GET", self._path, details, params={"fields": "name"})
            except RefusedError as error:
                if error.status == _NOT_FOUND:
                    raise bucket_not_found(details, self.bucket, self.connection.endpoint_url) from error
                if error.status != _DENIED:  # credentials for objects need not permit questions about buckets
                    raise
        self._seen = time.monotonic()

    def _require_bucket_of(self, error: RefusedError, details: ErrorDetails) -> None:
        """Check that the object is missing and not the bucket, if a 404 does not say so itself."""
        if not error.message.startswith("No such object"):
            self._require_bucket(details)

    def _require_conditions(self, details: ErrorDetails) -> None:
        """Refuse exclusive creates in a zonal bucket ("Rapid Storage"). The type of the bucket is requested once.

        A bucket of unknown type passes: no permission to ask, or an emulator without this call.
        """
        if self._is_zonal is None:
            with translated(details):
                try:
                    layout = self.requests.ask("GET", f"{self._path}/storageLayout", details)
                except (RefusedError, UnreadableAnswerError) as error:
                    if is_transient(error):
                        raise
                    layout = {}
            self._is_zonal = str(layout.get("locationType", "")).lower() == "zone"
        if self._is_zonal:
            raise ConflictCheckUnsupportedError(
                f"{details.url}: the bucket is zonal (Rapid Storage) and cannot create exclusively; nothing was written",
                details,
                Remedy.NO_CONFLICT_CHECK,
            )

    # ------------------------------------------------------------------ lists

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key begins with a prefix, in key order; folder markers (``…/``) are left out.

        Raises:
            StorageError: If a request for a page fails.
        """
        for page in self._pages({"prefix": prefix}):
            yield from self._objects_in(page)

    def list_folder(self, prefix: str = "") -> Iterator[ObjectInfo | str]:
        """The objects directly behind a prefix, and the URLs of the folders there, which end with ``/``.

        Raises:
            StorageError: If a request for a page fails.
        """
        for page in self._pages({"prefix": prefix, "delimiter": "/"}):
            folders = [self.url(each) for each in page.get("prefixes", [])]
            yield from in_order([*self._objects_in(page), *folders])

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """All keys that begin with a prefix, folder markers included.

        Raises:
            StorageError: If a request for a page fails.
        """
        for page in self._pages({"prefix": prefix}):
            yield from (each["name"] for each in page.get("items", []))

    @property
    def finds_first(self) -> bool:
        """Always: listings are in key order, and a page may have one key."""
        return True

    def first(self, prefix: str = "") -> ObjectInfo | None:
        """The first object whose key begins with a prefix, by pages of one key.

        Raises:
            StorageError: If the request for a page fails.
        """
        pages = self._pages({"prefix": prefix, "maxResults": "1"})
        return next((each for page in pages for each in self._objects_in(page)), None)

    def is_prefix(self, prefix: str) -> bool:
        """Whether any key begins with a prefix; a folder marker counts.

        Raises:
            StorageError: If the request fails.
        """
        return any(page.get("items") for page in self._pages({"prefix": prefix, "maxResults": "1"}))

    def _pages(self, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        details, check = self.details(query["prefix"], "list"), PageCheck()
        token: str | None = None
        while True:
            params = {**query, "pageToken": token} if token else dict(query)
            with translated(details):
                page = self.requests.ask("GET", f"{self._path}/o", details, params=params)
                token = checked_page(page, check, query["prefix"])
            yield page
            if not token:
                return

    def _objects_in(self, page: Mapping[str, Any]) -> Iterator[ObjectInfo]:
        for each in page.get("items", []):
            found = info_of(each, self.url(each["name"]), listed=True)
            if found.size or not each["name"].endswith("/"):  # without folder markers
                yield found

    # ------------------------------------------------------------------ delete, copy

    def delete_version(self, key: str, version: ObjectInfo, transfer: Transfer) -> None:
        """Delete an object if it is still a certain version, in one step; see `ObjectStore.delete_version`.

        Raises:
            StorageUnavailableError: If the object is another version; it was not deleted.
            StorageError: If it cannot be deleted.
        """
        self._delete_conditionally(partial(self.delete, key, only_if=version.version), key, transfer)

    def delete(self, key: str, generation: str | None = None, only_if: str | None = None) -> None:
        """Delete an object.

        Args:
            key: The key.
            generation: The version to delete; the current one if None.
            only_if: The generation that the current version must have.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        details, policy = self.details(key, "delete"), self.requests.policy
        given = {"generation": generation, "ifGenerationMatch": only_if}
        params = {name: value for name, value in given.items() if value}
        send = partial(self.requests.send_deletion, path_of(self.bucket, key), params=params)
        with translated(details):
            try:
                policy.call(deleting(send, is_missing_object, details, policy.limit), is_transient, details)
            except RefusedError as error:
                if is_missing_object(error):
                    self._require_bucket_of(error, details)
                    raise not_found(details) from error
                raise

    def delete_many(self, keys: Sequence[str], transfer: Transfer) -> None:
        """Delete several objects; an object that does not exist is not an error.

        Google takes 100 deletes in one request, which counts where a request takes long. Emulators do not.

        Raises:
            StorageError: If one cannot be deleted; others may have been.
        """
        if not self.connection.is_google or len(keys) <= 1:
            super().delete_many(keys, transfer)
            return
        batches = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
        tasks = [partial(self._delete_batch, each, transfer.details) for each in batches]
        run_all(tasks, self.settings.max_concurrency, transfer.stop)

    def _delete_batch(self, keys: Sequence[str], details: ErrorDetails) -> None:
        with translated(details):
            statuses = self.requests.delete_batch(self.bucket, keys, details)
        # A request of its own for each of the others: it is retried, and its error names the object.
        for key, status in zip(keys, statuses, strict=True):
            if status in SUCCESS:
                continue
            if status is None or status in TRANSIENT_STATUSES:
                cause = f"refused in a batch (HTTP {status})" if status else "not answered in a batch"
                self.requests.policy.report(self.details(key, "delete"), 1, cause, wait=0.0)
            self._delete_if_there(key)

    def copy(
        self, key: str, target: ObjectStore, target_key: str, transfer: Transfer, options: Mapping[str, Any] | None = None
    ) -> None:
        """Copy an object on the server, with its metadata; an existing target is replaced.

        Args:
            key: The key of the source object.
            target: The store of the copy; of another server, the content passes through this machine.
            target_key: The key of the copy.
            transfer: The operation, the settings, the progress, and the stop.
            options: ``acl``, a predefined ACL of the copy; ``generation``, the version to copy. Others are ignored, as
                gcsfs does.

        Raises:
            ObjectNotFoundError: If the source object does not exist.
            StorageError: If the copy fails; the target is unchanged then.
        """
        options = options or {}
        if not (isinstance(target, GCSStore) and target.connection.endpoint_url == self.connection.endpoint_url):
            super().copy(key, target, target_key, transfer)
            return
        kms_key = target.connection.options.kms_key_name
        given = {
            "destinationPredefinedAcl": options.get("acl"),
            "destinationKmsKeyName": kms_key,
            "sourceGeneration": options.get("generation"),
        }
        params = {name: value for name, value in given.items() if value}
        with translated(transfer.details), stopped_by(transfer.stop):
            try:
                send = partial(self.rewrite, key, target, target_key)
                if not send(params, transfer)["done"]:
                    self._rewrite_pinned(key, send, params, transfer)
            except RefusedError as error:
                if is_missing_object(error):
                    self._require_bucket_of(error, transfer.details)
                    target._require_bucket_of(error, transfer.details)  # noqa: SLF001 - of this class
                    raise not_found(transfer.details) from error
                raise

    def copy_version(
        self, key: str, target_key: str, transfer: Transfer, *, exclusive: bool = False, version: ObjectInfo | None = None
    ) -> None:
        """Copy an object on the server, with its metadata; see `ObjectStore.copy_version`.

        Raises:
            ObjectNotFoundError: If the source object does not exist, or is another version.
            ObjectExistsError: If `exclusive` is set, and the target exists.
            ConflictCheckUnsupportedError: If `exclusive` is set, and the bucket is zonal.
            StorageError: If the copy fails; the target is unchanged then.
        """
        generation = version.version if version else None
        if not exclusive:
            self.copy(key, self, target_key, transfer, {"generation": generation})
            return
        kms_key = self.connection.options.kms_key_name
        parameters = {"destinationKmsKeyName": kms_key} if kms_key else {}
        copy = ExclusiveCopy(self, key, target_key, parameters, generation, transfer)
        with translated(transfer.details), stopped_by(transfer.stop):
            self._require_conditions(transfer.details)
            try:
                write_object(copy, exclusive=True, stop=transfer.stop)
            except RefusedError as error:
                if is_missing_object(error):
                    self._require_bucket_of(error, transfer.details)
                    raise not_found(transfer.details) from error
                raise

    def _rewrite_pinned(
        self, key: str, send: Callable[..., dict[str, Any]], params: Mapping[str, str], transfer: Transfer
    ) -> None:
        """Rewrite an object by several requests, all of one version.

        A single request reads one version, so most copies need no pin. A large object that moves to another location or
        storage class takes several requests, and could be replaced between two of them.
        """
        details = transfer.details
        for attempt in count(1):
            generation = params.get("sourceGeneration") or self.resource(key, details)["generation"]
            try:
                answer: Mapping[str, Any] = {"done": False}
                while not answer["done"]:
                    token = {"rewriteToken": answer["rewriteToken"]} if "rewriteToken" in answer else {}
                    answer = send({**params, "sourceGeneration": generation, **token}, transfer)
            except RefusedError as error:
                if "sourceGeneration" in params or not is_missing_object(error):
                    raise
                if attempt == RESTART.limit:
                    raise replaced_too_often(details, attempt) from error
                RESTART.again(details, attempt, ObjectChangedError("the object was replaced"), "restart", transfer.stop)
            else:
                return

    def rewrite(
        self,
        key: str,
        target: GCSStore,
        target_key: str,
        params: Mapping[str, str],
        transfer: Transfer,
        *,
        resource: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One request of https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite.

        Args:
            key: The key of the source object.
            target: The store of the copy.
            target_key: The key of the copy.
            params: Query parameters.
            transfer: The operation.
            resource: The properties of the copy; those of the source object if None.

        Returns:
            The answer; ``done`` says whether the copy is complete.

        Raises:
            RefusedError: If the store refuses.
            requests.RequestException: If no answer arrives.
        """
        path = f"{path_of(self.bucket, key)}/rewriteTo{path_of(target.bucket, target_key, '')}"
        of_source, of_copy = self.connection.options, target.connection.options
        headers = {**of_source.customer_key_headers(of_source=True), **of_copy.customer_key_headers()}
        body = {} if resource is None else {"json": resource}
        answer = self.requests.ask("POST", path, transfer.details, params=params, headers=headers, **body)
        if not (answer.get("done") or answer.get("rewriteToken")):
            raise UnreadableAnswerError("its answer does not describe a copy")
        return {**answer, "done": bool(answer.get("done"))}
