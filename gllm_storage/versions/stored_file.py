"""Whether an object has a certain content: by its size and checksum, or else by its bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import IntegrityError, ObjectNotFoundError
from gllm_storage.files.source import CHUNK, open_source
from gllm_storage.store.checksums import checksum_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.store.port import ObjectStore
    from gllm_storage.versions.tree import TreeFile


@dataclass(frozen=True)
class Content:
    """A content that is not a file of a tree; the attributes are those of `TreeFile`."""

    size: int
    sha256: str
    crc64nvme: str = ""


def holds(
    store: ObjectStore,
    key: str,
    content: Content | TreeFile,
    opened: Callable[[ErrorDetails], AbstractContextManager[Source]] | None = None,
) -> bool:
    """Whether an object exists and has a certain content.

    The checksum of the store decides, if it is one that is known for the content: a HEAD request. Otherwise the object is
    read.

    Args:
        store: The store.
        key: The key.
        content: The content.
        opened: Opens the content on this machine, for a checksum of another algorithm; None if it is not here.

    Raises:
        StorageError: If a request fails.
    """
    try:
        info = store.info(key)
        if info.size != content.size:
            return False
        algorithm, _, value = (info.checksum or "").partition(":")
        if algorithm == "crc64nvme" and content.crc64nvme:
            return value == content.crc64nvme
        if algorithm and opened is not None:
            with opened(store.details(key, "upload")) as source:
                return checksum_of(source.read_at, source.size, algorithm) == value
        return sha256_of(store, key) == content.sha256
    except ObjectNotFoundError:
        return False
    except IntegrityError:  # the content does not match the checksum that the store has of it
        return False


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
