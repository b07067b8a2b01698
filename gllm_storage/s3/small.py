"""Small objects as the jobs of `gllm_storage.s3.bulk`: put from files or memory, got into files or memory."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from botocore.client import BaseClient

from gllm_storage.concurrency.budget import in_flight
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.files.target import atomic_target
from gllm_storage.s3.connection import is_amazon
from gllm_storage.s3.requests import info_from_head
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM, WRITE_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo
    from gllm_storage.s3.http.client import DirectClient, Started
    from gllm_storage.s3.store import S3Store


_UNCOUNTED = 2**18
"""Bytes of an object that counts for nothing in the budget of memory: each thread has one in its hands at a time."""


@dataclass(frozen=True)
class SmallObjects:
    """What the jobs of one filesystem have in common.

    Attributes:
        client: Sends the requests.
        most: Bytes in an object that is small.
        memory_limit: Bytes in memory of all transfers.
        put_parameters: For each PutObject.
        get_parameters: For each GetObject.
        sends_checksum: Whether the endpoint takes the header with the checksum, as far as we know.
        keeps_checksum: Whether the store keeps a checksum of the whole object by itself.
    """

    client: DirectClient
    most: int
    memory_limit: int
    put_parameters: Mapping[str, Any]
    get_parameters: Mapping[str, Any]
    sends_checksum: bool
    keeps_checksum: bool

    def in_memory(self, size: int) -> contextlib.AbstractContextManager[None]:
        """Count an object while this thread holds it."""
        if size <= _UNCOUNTED:
            return contextlib.nullcontext()
        return in_flight(size, self.memory_limit, running_stop() or Stop())


def small_objects(store: S3Store) -> SmallObjects | None:
    """Small objects of a store; None where all requests go through boto3."""
    client: Any = store.requests.client
    if isinstance(client, BaseClient) or client.refusal is not None:
        return None
    return SmallObjects(
        client=client,
        most=min(store.settings.part_size, store.settings.multipart_threshold),
        memory_limit=store.settings.memory_limit,
        put_parameters=store.requests.parameters("PutObject"),
        get_parameters=store.requests.parameters("GetObject"),
        sends_checksum=store.takes_checksums("put_object"),
        keeps_checksum=is_amazon(store.requests.client),
    )


@dataclass(frozen=True)
class SmallPut:
    """An object to be written; what is there is replaced.

    Attributes:
        objects: What all have in common.
        place: Bucket and key.
        opened: Opens its content.
        options: Further parameters of PutObject; ``Metadata`` among them.
        told: Told how many bytes were sent.
    """

    objects: SmallObjects
    place: tuple[str, str]
    opened: Callable[[], contextlib.AbstractContextManager[Source]]
    options: Mapping[str, Any]
    told: Callable[[int], None]
    _sent: list[int] = field(default_factory=list)

    def begin(self) -> Started | None:
        """PutObject."""
        with self.opened() as source:
            if source.size > self.objects.most:
                return None
            with self.objects.in_memory(source.size):
                data = source.read_at(0, source.size)
                source.require_unchanged()
                return self._begin(data)

    def _begin(self, data: bytes) -> Started | None:
        objects = self.objects
        crc = checksums.encode(checksums.crc64nvme(data))
        metadata = {**(self.options.get("Metadata") or {}), WRITE_ID: secrets.token_hex(16)}
        if not objects.keeps_checksum:
            metadata[CHECKSUM] = f"{crc}-{len(data)}"
        bucket, key = self.place
        parameters = {
            **objects.put_parameters,
            **self.options,
            "Bucket": bucket,
            "Key": key,
            "Metadata": metadata,
            "Body": data,
        }
        if objects.sends_checksum:
            parameters["ChecksumCRC64NVME"] = crc
        self._sent.append(len(data))
        return objects.client.begin("put_object", parameters)

    def end(self, answer: Mapping[str, Any]) -> int | None:
        """How many bytes were stored; None if it was not."""
        if not answer.get("ETag"):
            return None
        self.told(self._sent[-1])
        return self._sent[-1]


@dataclass(frozen=True)
class SmallGet:
    """An object to be read: one answer, so that it is of one version.

    Attributes:
        objects: What all have in common.
        place: Bucket and key.
        details: What it is about, for errors.
        keep: Takes the content.
    """

    objects: SmallObjects
    place: tuple[str, str]
    details: ErrorDetails
    keep: Callable[[bytes], None]

    def begin(self) -> Started | None:
        """GetObject."""
        bucket, key = self.place
        parameters = {**self.objects.get_parameters, "Bucket": bucket, "Key": key, "ChecksumMode": "ENABLED"}
        return self.objects.client.begin("get_object", parameters)

    def end(self, answer: Mapping[str, Any]) -> int | None:
        """How many bytes were read; None unless it is whole, and is what its checksum says."""
        with contextlib.closing(answer["Body"]) as body:
            info = info_from_head(answer, self.details.url)
            if info.size > self.objects.most:
                return None
            with self.objects.in_memory(info.size):
                content = body.read()
                if not _is_whole(content, info):
                    return None
                self.keep(content)
                return info.size


def _is_whole(content: bytes, info: ObjectInfo) -> bool:
    if len(content) != info.size:
        return False
    if info.checksum is None:
        return True
    algorithm, expected = info.checksum.split(":", 1)
    return (
        checksums.checksum_of(lambda offset, length: content[offset : offset + length], len(content), algorithm) == expected
    )


def write_file(path: str, details: ErrorDetails, content: bytes) -> None:
    """Put a small object's content where a download puts it: whole, or not at all."""
    with atomic_target(path, details) as target:
        target.write_at(0, content)
