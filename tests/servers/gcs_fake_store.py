"""The objects and upload sessions of `gcs_fake`, as Google documents them, without HTTP.

https://cloud.google.com/storage/docs/json_api/v1/objects, …/docs/request-preconditions and …/docs/resumable-uploads. Every
method holds one lock from its check to its change, so that preconditions are atomic.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import google_crc32c

QUANTUM = 256 * 1024
_COPIED = ("contentType", "metadata", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl")
"""Properties that a copy keeps if the request does not name any."""
Resource = dict[str, Any]


class ApiError(Exception):
    """An error answer."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Conditions:
    """The preconditions of a request. A missing precondition is None."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None

    def check(self, there: Resource | None) -> None:
        """Raise 412 if a precondition does not hold."""
        generation = int(there["generation"]) if there else 0
        metageneration = int(there["metageneration"]) if there else 0
        wrong = self.generation is not None and self.generation != generation
        wrong |= self.not_generation is not None and self.not_generation == generation
        wrong |= self.metageneration is not None and self.metageneration != metageneration
        if wrong:
            raise ApiError(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")


@dataclass
class Session:
    """A resumable upload."""

    bucket: str
    resource: Resource
    conditions: Conditions
    data: bytearray = field(default_factory=bytearray)
    done: Resource | None = None
    cancelled: bool = False


def digests(data: bytes) -> tuple[str, str]:
    """CRC32C and MD5 in Google's encoding."""
    crc = google_crc32c.value(data).to_bytes(4, "big")
    return base64.b64encode(crc).decode(), base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class Store:
    """Buckets with objects."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.buckets: dict[str, Resource] = {}
        self.sessions: dict[str, Session] = {}
        self._objects: dict[tuple[str, str], tuple[Resource, bytes]] = {}
        self._last_generation = 0

    def bucket(self, name: str) -> Resource:
        with self.lock:
            if name not in self.buckets:
                raise ApiError(404, "notFound", "The specified bucket does not exist.")
            return self.buckets[name]

    def make_bucket(self, resource: Resource) -> Resource:
        with self.lock:
            name = resource["name"]
            if name in self.buckets:
                raise ApiError(409, "conflict", "Your previous request to create the named bucket succeeded.")
            location = {"location": "US", "locationType": resource.get("locationType", "multi-region")}
            self.buckets[name] = {"kind": "storage#bucket", "id": name, **location, **resource}
            return self.buckets[name]

    def get(
        self, bucket: str, name: str, conditions: Conditions = Conditions(), generation: int | None = None
    ) -> tuple[Resource, bytes]:
        with self.lock:
            self.bucket(bucket)
            found = self._objects.get((bucket, name))
            if found is None or (generation is not None and int(found[0]["generation"]) != generation):
                raise ApiError(404, "notFound", f"No such object: {bucket}/{name}")
            conditions.check(found[0])
            return found

    def names(self, bucket: str) -> list[str]:
        with self.lock:
            self.bucket(bucket)
            return sorted(name for of, name in self._objects if of == bucket)

    def delete(self, bucket: str, name: str, conditions: Conditions, generation: int | None) -> None:
        with self.lock:
            self.get(bucket, name, conditions, generation)
            del self._objects[bucket, name]

    def insert(self, bucket: str, resource: Resource, data: bytes, conditions: Conditions, *, parts: int = 0) -> Resource:
        """Make an object, or replace it."""
        with self.lock:
            self.bucket(bucket)
            name = resource["name"]
            there = self._objects.get((bucket, name))
            crc32c, md5 = digests(data)
            resource = {key: value for key, value in resource.items() if value is not None}
            if resource.get("crc32c", crc32c) != crc32c:
                raise ApiError(400, "invalid", f"Provided CRC32C {resource['crc32c']!r} doesn't match {crc32c!r}.")
            if resource.get("md5Hash", md5) != md5:
                raise ApiError(400, "invalid", f"Provided MD5 hash {resource['md5Hash']!r} doesn't match {md5!r}.")
            conditions.check(there[0] if there else None)
            self._last_generation = generation = max(self._last_generation + 1, time.time_ns() // 1000)
            now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            made: Resource = {
                "contentType": "application/octet-stream",
                "storageClass": "STANDARD",
                **resource,
                "kind": "storage#object",
                "id": f"{bucket}/{name}/{generation}",
                "bucket": bucket,
                "generation": str(generation),
                "metageneration": "1",
                "size": str(len(data)),
                "crc32c": crc32c,
                "etag": base64.b64encode(generation.to_bytes(8, "big")).decode(),
                "timeCreated": now,
                "updated": now,
            }
            made |= {"componentCount": parts} if parts else {"md5Hash": md5}
            self._objects[bucket, name] = (made, data)
            return made

    def compose(self, bucket: str, name: str, request: Resource, conditions: Conditions) -> Resource:
        with self.lock:
            sources = request.get("sourceObjects", [])
            if not 1 <= len(sources) <= 32:
                raise ApiError(400, "invalid", "The number of source components must be between 1 and 32.")
            data = b""
            for each in sources:
                wanted = each.get("objectPreconditions", {}).get("ifGenerationMatch")
                of = Conditions(int(wanted)) if wanted is not None else Conditions()
                data += self.get(bucket, each["name"], of, int(each["generation"]) if "generation" in each else None)[1]
            return self.insert(
                bucket, {**request.get("destination", {}), "name": name}, data, conditions, parts=len(sources)
            )

    def copy(
        self,
        source: tuple[str, str],
        target: tuple[str, str],
        request: Resource,
        conditions: Conditions,
        generation: int | None = None,
    ) -> Resource:
        with self.lock:
            resource, data = self.get(*source, generation=generation)
            kept: Resource = {key: resource[key] for key in _COPIED if key in resource}
            return self.insert(target[0], {**kept, **request, "name": target[1]}, data, conditions)

    def patch(self, bucket: str, name: str, request: Resource, conditions: Conditions) -> Resource:
        with self.lock:
            resource, data = self.get(bucket, name, conditions)
            metageneration = str(int(resource["metageneration"]) + 1)
            changed = {**resource, **request, "metageneration": metageneration}
            self._objects[bucket, name] = (changed, data)
            return changed

    # --- resumable uploads ---

    def start(self, bucket: str, resource: Resource, conditions: Conditions) -> str:
        with self.lock:
            self.bucket(bucket)
            there = self._objects.get((bucket, resource["name"]))
            conditions.check(there[0] if there else None)
            upload_id = secrets.token_urlsafe(24)
            self.sessions[upload_id] = Session(bucket, resource, conditions)
            return upload_id

    def session(self, upload_id: str) -> Session:
        with self.lock:
            if upload_id not in self.sessions:
                raise ApiError(404, "notFound", "Upload session not found.")
            session = self.sessions[upload_id]
            if session.cancelled:
                raise ApiError(499, "cancelled", "The upload was cancelled.")
            return session

    def append(self, upload_id: str, start: int | None, data: bytes, total: int | None) -> Session:
        """Append a chunk, and create the object after the last one. With `start=None`, only return the session."""
        with self.lock:
            session = self.session(upload_id)
            if session.done:
                return session
            if start is not None:
                if start > len(session.data):
                    raise ApiError(503, "backendError", "The chunk begins after what was received.")
                session.data += data[len(session.data) - start :]
            if total is None or len(session.data) < total:
                if start is not None and len(data) % QUANTUM:
                    raise ApiError(400, "badRequest", "A chunk must be a multiple of 256 KiB.")
                return session
            try:
                session.done = self.insert(session.bucket, session.resource, bytes(session.data), session.conditions)
            except ApiError:
                del self.sessions[upload_id]
                raise
            session.data = bytearray()
            return session

    def cancel(self, upload_id: str) -> None:
        with self.lock:
            session = self.session(upload_id)
            if session.done is None:
                session.cancelled = True
                session.data = bytearray()
