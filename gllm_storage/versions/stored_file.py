"""Whether an object has a certain content: by its size and checksum, or else by its bytes."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import IntegrityError, ObjectNotFoundError
from gllm_storage.files.source import CHUNK, open_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.files.source import Source
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.tree import TreeFile


@dataclass(frozen=True)
class Content:
    """The content that an object should have.

    Attributes:
        size: Size in bytes.
        sha256: SHA-256, hexadecimal.
        crc64nvme: CRC-64/NVME in base64; empty if it is not known.
        crc32c: CRC32C in base64, as GCS computes it; empty if it is not known.
    """

    size: int
    sha256: str
    crc64nvme: str = ""
    crc32c: str = ""

    @classmethod
    def of(cls, file: TreeFile) -> Content:
        """The content of a file of a tree list."""
        return cls(file.size, file.sha256, file.crc64nvme)

    def agrees(self, checksum: str | None) -> bool | None:
        """Whether a checksum of a store, such as ``"crc64nvme:…"``, is of this content; None if that cannot be told."""
        algorithm, _, value = (checksum or "").partition(":")
        known = {"crc64nvme": self.crc64nvme, "crc32c": self.crc32c, "sha256": _in_base64(self.sha256)}.get(algorithm)
        return value == known if known else None


def holds(store: ObjectStore, key: str, content: Content) -> bool:
    """Whether an object exists and has a certain content.

    The checksum of the store decides, if it is one that is known for the content: a HEAD request. Otherwise the object is
    read.

    Args:
        store: The store.
        key: The key.
        content: The content.

    Raises:
        StorageError: If a request fails.
    """
    try:
        info = store.info(key)
        if info.size != content.size:
            return False
        agrees = content.agrees(info.checksum)
        return sha256_of(store, key) == content.sha256 if agrees is None else agrees
    except ObjectNotFoundError:
        return False
    except IntegrityError:  # the content does not match the checksum that the store has of it
        return False


def listed_files(model: Model, place: str) -> Iterator[tuple[str, int]]:
    """The paths and sizes of all files in a directory of a model, in the order of the listing; without folder markers.

    Raises:
        StorageError: If a request fails.
    """
    start = model.store.url(model.data(place))
    for info in model.store.list(model.data(place)):
        if not info.url.endswith("/"):
            yield info.url.removeprefix(start), info.size


def sha256_of(store: ObjectStore, key: str) -> str:
    """SHA-256 of an object, hexadecimal. The object passes through a temporary file.

    Raises:
        ObjectNotFoundError: If the object does not exist.
        StorageError: If the object cannot be read.
    """
    transfer = store.transfer(key, "download")
    with store.scratch(transfer.details) as target:
        store.fetch(key, target, transfer)
        with open_source(target.temporary, transfer.details) as source:
            return sha256_of_source(source)


def sha256_of_source(source: Source) -> str:
    """SHA-256 of a source, hexadecimal."""
    digest = hashlib.sha256()
    for offset in range(0, source.size, CHUNK):
        check_stop()
        digest.update(source.read_at(offset, min(CHUNK, source.size - offset)))
    return digest.hexdigest()


def _in_base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()
