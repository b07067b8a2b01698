"""`GCSWrite`: one upload, in one request or by a session: https://cloud.google.com/storage/docs/json_api/v1/objects/insert."""

from __future__ import annotations

import json
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import AccessDeniedError, ErrorDetails, StorageError, attempts_of
from gllm_storage.gcs.errors import (
    SDK_ERRORS,
    RefusedError,
    is_flipped,
    is_lost_session,
    is_refusal,
    lost_session,
)
from gllm_storage.gcs.requests import NAMES, info_of, require_resource
from gllm_storage.gcs.session import ResumableUpload
from gllm_storage.info import Stored
from gllm_storage.store import checksums
from gllm_storage.store.checksums import WRITE_ID_UNDERSCORED
from gllm_storage.store.create import Answer
from gllm_storage.store.http import SameContent, body_in_flight
from gllm_storage.store.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.gcs.store import GCSStore
    from gllm_storage.info import ObjectInfo, ObjectProperties
    from gllm_storage.store.port import UploadRequest

_LOST = RetryPolicy(limit=3)
"""Uploads whose session is lost."""
_FLIPPED = RetryPolicy(limit=2)
"""Uploads whose content arrives changed."""
_ACLS = {
    "private": "private",
    "public-read": "publicRead",
    "authenticated-read": "authenticatedRead",
    "project-private": "projectPrivate",
    "bucket-owner-read": "bucketOwnerRead",
    "bucket-owner-full-control": "bucketOwnerFullControl",
}
_ACLS |= {name: name for name in _ACLS.values()}
"""The names of S3, and Google's own: https://cloud.google.com/storage/docs/json_api/v1/objects/insert"""
_CONFLICT = 409
_PRECONDITION_FAILED = 412


def options_of(properties: ObjectProperties) -> dict[str, Any]:
    """Properties as options of an upload.

    Raises:
        ValueError: If an ACL is unknown.
    """
    given = properties.given()
    parameters = {}
    if properties.acl:
        if properties.acl not in _ACLS:
            raise ValueError(f"acl={properties.acl!r}: GCS has {', '.join(sorted(_ACLS))}")
        parameters["predefinedAcl"] = _ACLS[properties.acl]
    if properties.kms_key:
        parameters["kmsKeyName"] = properties.kms_key
    resource = {NAMES[name]: value for name, value in given.items() if name in NAMES}
    return {"resource": resource, "parameters": parameters}


class GCSWrite:
    """One write, as `gllm_storage.store.create.Write` describes it.

    Args:
        store: The store.
        request: The upload.
    """

    def __init__(self, store: GCSStore, request: UploadRequest) -> None:
        self._store = store
        self._request = request
        options = store.connection.options
        resource = {"storageClass": options.storage_class} if options.storage_class else {}
        parameters = {"kmsKeyName": options.kms_key_name} if options.kms_key_name else {}
        self._resource = {**resource, **request.options.get("resource", {})}
        self._parameters = {**parameters, **request.options.get("parameters", {})}
        self._path = f"/upload/storage/v1/b/{quote(store.bucket, safe='')}/o"
        self._session: ResumableUpload | None = None
        self._crc: int | None = None
        self._in_one = request.source.size <= store.settings.multipart_threshold

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors."""
        return self._request.details

    @property
    def conditional(self) -> bool:
        """Whether the write carries ``ifGenerationMatch=0``, which Google enforces when the object becomes visible."""
        return self._request.exclusive

    def head(self) -> ObjectInfo | None:
        """Objects: get."""
        return self._store.existing(self._request.key, self.details)

    def write(self, write_id: str) -> Stored:
        """Send the object, with the write-id in its metadata; again if its content arrived changed or its session was lost.

        Raises:
            RefusedError: If the store refuses.
            requests.RequestException: If no answer arrives.
            StorageError: If the source changed.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._send_in_one(write_id) if self._in_one else self._send_by_session(write_id)
            except RefusedError as error:
                flipped = is_flipped(error)
                policy = _FLIPPED if flipped else _LOST
                if attempt >= policy.limit or not (flipped or self._nothing_was_stored(error)):
                    raise
                failure = error
            self.discard()
            policy.again(self.details, attempt, failure, "corruption" if flipped else "retry", self._request.transfer.stop)

    def _nothing_was_stored(self, error: RefusedError) -> bool:
        """Whether the session was lost before its last chunk was sent."""
        return is_lost_session(error) and self._session is not None and not self._session.committing

    def discard(self) -> None:
        """Cancel the upload session, if there is one."""
        if self._session:
            self._session.discard()

    def judge(self, error: Exception) -> Answer:
        """The meaning of Google's answer, or of a missing one."""
        if not isinstance(error, SDK_ERRORS) or is_flipped(error):
            return Answer.FAILED
        status = error.status if isinstance(error, RefusedError) else 0
        session = self._session
        if self.conditional and status in {_PRECONDITION_FAILED, _CONFLICT}:
            return Answer.EXISTS if status == _PRECONDITION_FAILED else Answer.CONCURRENT
        if session is not None and not session.committing:
            return Answer.FAILED
        repeated = (attempts_of(error) or 1) > 1 if session is None else session.doubtful
        return Answer.FAILED if is_refusal(error, repeated=repeated) else Answer.UNKNOWN

    def _query(self, upload_type: str) -> dict[str, str]:
        """Query parameters of the request that begins the upload."""
        condition = {"ifGenerationMatch": "0"} if self._request.exclusive else {}
        return {"uploadType": upload_type, **condition, **self._parameters}

    def _described(self, write_id: str, crc: int) -> dict[str, Any]:
        """The object resource to send. Google compares the CRC32C with the received bytes, and keeps it."""
        metadata = {**(self._resource.get("metadata") or {}), WRITE_ID_UNDERSCORED: write_id}
        checksum = checksums.encode(crc, "crc32c")
        return {**self._resource, "name": self._request.key, "metadata": metadata, "crc32c": checksum}

    def _stored(self, resource: Mapping[str, Any]) -> Stored:
        return Stored.of(info_of(resource, self._store.url(self._request.key)))

    def _send_in_one(self, write_id: str) -> Stored:
        """Upload by one request."""
        # In a thread: Ctrl-C, which interrupts the main thread, must not leave the request in progress.
        (resource,) = run_all([partial(self._send_multipart, write_id)], 1, self._request.transfer.attempt().stop)
        return self._stored(resource)

    def _send_multipart(self, write_id: str) -> dict[str, Any]:
        """The object resource and the content, in the two parts of one request."""
        source = self._request.source
        crc = checksums.crc_of(source.read_at, source.size, "crc32c")
        boundary = f"gllm-{secrets.token_hex(16)}"
        around = _around(boundary, self._described(write_id, crc))
        part = (0, source.size)
        check = SameContent(source, part, crc, "crc32c")
        with body_in_flight(source, part, self._request.transfer, check, around) as body:
            answer = self._store.requests.ask(
                "POST",
                self._path,
                self.details,
                params=self._query("multipart"),
                headers={
                    "Content-Type": f'multipart/related; boundary="{boundary}"',
                    **self._store.connection.options.customer_key_headers(),
                },
                data=body,
            )
        require_resource(answer)
        self._request.transfer.progress(source.size)
        return answer

    def _send_by_session(self, write_id: str) -> Stored:
        """Upload by a session, whose last request makes the object visible."""
        source = self._request.source
        if self._crc is None:
            self._crc = checksums.crc_of(source.read_at, source.size, "crc32c")
        self._session = ResumableUpload(
            requests=self._store.requests,
            path=self._path,
            query=self._query("resumable"),
            resource=self._described(write_id, self._crc),
            source=source,
            crc=self._crc,
            transfer=self._request.transfer.attempt(),
            headers=self._store.connection.options.customer_key_headers(),
        )
        resource = self._session.send()
        if not self._session.doubtful:
            return self._stored(resource)
        stored = self._ours(write_id, resource)
        self._session.report_rescue()
        return stored

    def _ours(self, write_id: str, resource: Mapping[str, Any]) -> Stored:
        """Check that the object is ours, because only the answer to a repeated request said that it is complete.

        A session whose last chunk was refused, because another object had appeared, may answer that
        it is complete: Google's testbench does, and describes the other writer's object. Google's documentation does not
        define the answer of Google's servers.

        Raises:
            RefusedError: If the object is not ours, or if that is unknown.
        """
        try:
            found = self.head()
        except AccessDeniedError:
            if not self.conditional:
                return self._stored(resource)  # without a precondition nothing can have been refused
            raise lost_session(
                "it says that the object is complete, and the credentials do not permit a HEAD request"
            ) from None
        except StorageError as error:
            raise lost_session(f"it says that the object is complete, and the HEAD request failed: {error}") from error
        if found and (found.metadata or {}).get(WRITE_ID_UNDERSCORED) == write_id:
            return Stored.of(found)
        if found and self.conditional:
            raise RefusedError(_PRECONDITION_FAILED, "conditionNotMet", "another object has appeared")
        raise lost_session("it says that the object is complete, but the object is missing, or of another writer")


def _around(boundary: str, description: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The bytes before and behind the content in a body of two parts, of which the first is the object resource."""
    head = (
        f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n{json.dumps(description)}\r\n"
        f"--{boundary}\r\nContent-Type: {description.get('contentType', 'application/octet-stream')}\r\n\r\n"
    )
    return head.encode(), f"\r\n--{boundary}--".encode()
