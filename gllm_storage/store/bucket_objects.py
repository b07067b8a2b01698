"""`BucketObjects`: the verbs of a client on a bucket.

It knows nothing of fsspec and of the provider's filesystem, which can take longer to import than a transfer takes.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gllm_storage.concurrency.workers import Stop, run_all, running_stop
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError
from gllm_storage.store.download import download_object
from gllm_storage.store.port import Destination
from gllm_storage.store.progress import Progress
from gllm_storage.store.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec.callbacks import Callback

    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import BucketStore


class BucketObjects:
    """What `FsspecStorageClient` needs of a store. Paths are ``bucket/key``.

    Args:
        store: The objects of the provider.
        bucket: The bucket.
        provider: Name of the provider, for errors.
        scheme: Scheme of its URLs.
    """

    def __init__(self, store: BucketStore, bucket: str, provider: str, scheme: str) -> None:
        self._store = store
        self._bucket = bucket
        self._provider = provider
        self._scheme = scheme

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback | None = None) -> None:
        """Upload a local file.

        Args:
            lpath: The local file.
            rpath: The object.
            exclusive: Whether to fail if it exists, atomically.
            callback: Told the size, and the bytes as they are sent.

        Raises:
            FileNotFoundError: If the local file does not exist.
            ObjectExistsError: If `exclusive`, and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        key = self._key(rpath)
        destination = Destination(self._bucket, key, self._transfer(key, "upload", callback), exclusive, {})
        destination.take_file(self._store, lpath)

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback | None = None) -> None:
        """Download an object: whole, one version of it, verified against its checksum, or not at all.

        Args:
            rpath: The object.
            lpath: Where to put it. What is there is replaced when the download is complete.
            callback: Told the size, and the bytes as they arrive.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; what was at `lpath` is as it was.
        """
        key = self._key(rpath)
        transfer = self._transfer(key, "download", callback)
        download_object(self._store.reader(self._bucket, key, transfer.details), lpath, transfer)

    def rm_file(self, path: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
        run_all([partial(self._store.delete, self._bucket, self._key(path))], 1, Stop(running_stop()))

    def object_info(self, path: str) -> ObjectInfo:
        """What the store knows of an object now.

        Raises:
            ObjectNotFoundError: If there is no such object; a prefix of others is none.
            StorageError: If it cannot be told.
        """
        return self._store.info(self._bucket, self._key(path), "info")

    def object_exists(self, path: str) -> bool:
        """Whether there is such an object now; a prefix of others is none.

        Raises:
            StorageError: If it cannot be told.
        """
        try:
            self._store.info(self._bucket, self._key(path), "exists")
        except ObjectNotFoundError:
            return False
        return True

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """All objects whose path begins so, in key order.

        Raises:
            StorageError: If listing fails.
        """
        yield from self._store.list(self._bucket, self._key(path))

    def iter_folder(self, path: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind a path: objects, and URLs of folders, which end with ``/``; in their order.

        Raises:
            StorageError: If listing fails.
        """
        yield from self._store.list_folder(self._bucket, self._key(path))

    def _key(self, path: str) -> str:
        return path.removeprefix(f"{self._bucket}/")

    def _transfer(self, key: str, operation: str, callback: Callback | None) -> Transfer:
        details = ErrorDetails(self._provider, f"{self._scheme}://{self._bucket}/{key}", operation)
        return Transfer(details, self._store.settings, progress=Progress(callback), stop=Stop(running_stop()))
