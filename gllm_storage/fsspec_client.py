"""`FsspecStorageClient`: the verbs, written once, on any fsspec filesystem."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Protocol  # noqa: UP035 - the documented signatures say Dict

from gllm_storage.client import CloudStorageClient
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.paths import Location, split_url, without_password
from gllm_storage.settings import keys_of, require_mapping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import Callback

    from gllm_storage.info import ObjectInfo


class ObjectStore(Protocol):
    """What the verbs need: `BucketObjects` of buckets, the filesystems of files and memory, `ForeignStore` of others."""

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback | None = None) -> None:
        """Upload; `put_file` is fsspec's name for it, and may take folders, too."""

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback | None = None) -> None:
        """Download; `get_file` is fsspec's name for it, and may take folders, too."""

    def rm_file(self, path: str) -> None:
        """Delete."""

    def object_info(self, path: str) -> ObjectInfo:
        """Describe."""

    def object_exists(self, path: str) -> bool:
        """Look."""

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """List."""

    def iter_folder(self, path: str) -> Iterator[ObjectInfo | str]:
        """List one level."""


class FsspecStorageClient(CloudStorageClient):
    """Storage client on any fsspec filesystem, and the base of the built-in clients.

    As provider ``fsspec`` it stores by any protocol that fsspec knows (``sftp``, ``webdav``, ``hdfs``, …). The verbs work
    there; ``check_conflict=True`` is refused, because fsspec promises no exclusive create.

    Clients may be shared by threads, pickled, and used in a forked child. Two are equal if their settings are.
    """

    provider: ClassVar[str] = "fsspec"
    settings_class: ClassVar[type[DataclassInstance] | None] = None
    """What the config is read into; None if it takes any key."""

    def __init__(self, config: Dict[str, str]) -> None:  # noqa: UP006 - as documented
        """Initialize the client.

        Args:
            config: Configuration parameters:

                - url: Where to store, as in ``"sftp://host/folder"``.
                - anything else is a storage option of that filesystem.

        Raises:
            ValueError: If the configuration is wrong: one error that names all mistakes.
        """
        require_mapping(config, self.provider)
        super().__init__(config)
        self._location = self._configure(config)
        # A filesystem may hold an event loop or connections, which must not cross a fork.
        self._filesystem: PerProcess[AbstractFileSystem] = PerProcess(self._make_filesystem)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that a URL stands for.

        Raises:
            ValueError: If it is no URL of this provider.
        """
        return {"url": url}

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        """The keys that the config takes, sorted; none for the provider ``fsspec``, which passes on any."""
        return keys_of(cls.settings_class) if cls.settings_class else ()

    def upload_file(self, local_path: str | Path, remote_path: str, check_conflict: bool = False) -> str:
        """Upload a file.

        Args:
            local_path: Path to the local file to upload.
            remote_path: Where to store it: relative to the prefix, from the bucket's root if it begins with ``/``, or a
                URL of this store.
            check_conflict: When True, fail if there is an object already, atomically: of any number of writers, one
                succeeds. Defaults to False, which replaces what is there.

        Returns:
            URL of the stored object, which `fsspec.open` takes with `storage_options`.

        Raises:
            ValueError: If the remote path is impossible.
            FileNotFoundError: If the local file does not exist.
            FileExistsError: If check_conflict is True and the object exists (`ObjectExistsError`).
            RuntimeError: If the upload fails (`StorageError`); nothing was changed then.
        """
        return self.upload_with_progress(local_path, remote_path, None, check_conflict=check_conflict)

    def download_file(self, remote_path: str, local_path: str | Path) -> Path:
        """Download a file. The local file is complete and verified, or as it was before.

        Args:
            remote_path: Path of the object, as in `upload_file`.
            local_path: Where to save it; folders are made.

        Returns:
            Path to the downloaded file.

        Raises:
            ValueError: If the remote path is impossible.
            FileNotFoundError: If the object does not exist (`ObjectNotFoundError`).
            RuntimeError: If the download fails (`StorageError`).
        """
        return self.download_with_progress(remote_path, local_path, None)

    def file_exists(self, remote_path: str) -> bool:
        """Check whether an object exists now. A prefix of other objects does not count.

        Args:
            remote_path: Path to check, as in `upload_file`.

        Returns:
            True if the object exists, False if it does not.

        Raises:
            ValueError: If the remote path is impossible.
            RuntimeError: If it cannot be told (`StorageError`).
        """
        return self._store().object_exists(self._location.path(self._location.key(remote_path)))

    def delete_file(self, remote_path: str) -> bool:
        """Delete an object.

        Args:
            remote_path: Path of the object, as in `upload_file`.

        Returns:
            True.

        Raises:
            ValueError: If the remote path is impossible.
            FileNotFoundError: If the object does not exist (`ObjectNotFoundError`).
            RuntimeError: If the deletion fails (`StorageError`).
        """
        self._store().rm_file(self._location.path(self._location.key(remote_path)))
        return True

    def upload_with_progress(
        self, local_path: str | Path, remote_path: str, callback: Callback | None, *, check_conflict: bool = False
    ) -> str:
        """As `upload_file`, watched.

        Args:
            local_path: As in `upload_file`.
            remote_path: As in `upload_file`.
            callback: An fsspec callback, such as ``fsspec.callbacks.TqdmCallback()``; told the size, and the bytes as they
                are sent; more than the size where something had to be sent again. None if nobody watches.
            check_conflict: As in `upload_file`.

        Returns:
            URL of the stored object.

        Raises:
            Exception: What `upload_file` raises.
        """
        key = self._location.key(remote_path)
        path = self._location.path(key)
        self._store().store_file(os.fspath(local_path), path, exclusive=check_conflict, callback=callback)
        return self._location.url(key)

    def download_with_progress(self, remote_path: str, local_path: str | Path, callback: Callback | None) -> Path:
        """As `download_file`, watched.

        Args:
            remote_path: As in `download_file`.
            local_path: As in `download_file`.
            callback: As in `upload_with_progress`.

        Returns:
            Path to the downloaded file.

        Raises:
            Exception: What `download_file` raises.
        """
        path = self._location.path(self._location.key(remote_path))
        self._store().fetch_file(path, os.fspath(local_path), callback=callback)
        return Path(local_path)

    def url(self, remote_path: str) -> str:
        """The URL of an object, whether it exists or not; `upload_file` returns the same.

        Raises:
            ValueError: If the remote path is impossible.
        """
        return self._location.url(self._location.key(remote_path))

    def open(self, remote_path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open an object as a Python file object, by the client's filesystem.

        Args:
            remote_path: Path of the object, as in `upload_file`.
            mode: As for the built-in `open`: ``"rb"``, ``"r"``, ``"wb"``, ``"w"``, ``"xb"``, ….
            **kwargs: What the filesystem's own `open` takes, such as ``block_size`` or ``encoding``.

        Raises:
            ValueError: If the remote path is impossible.
            FileNotFoundError: If the object is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive and the object exists.
            RuntimeError: If the store refuses or cannot be reached (`StorageError`).
        """
        return self.filesystem.open(self._location.path(self._location.key(remote_path)), mode, **kwargs)

    def info(self, remote_path: str) -> ObjectInfo:
        """What the store knows of an object now.

        Raises:
            ValueError: If the remote path is impossible.
            FileNotFoundError: If the object does not exist (`ObjectNotFoundError`).
            RuntimeError: If it cannot be told (`StorageError`).
        """
        return self._store().object_info(self._location.path(self._location.key(remote_path)))

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose path begins with `prefix`, at any depth, in key order.

        Args:
            prefix: The beginning of a remote path, with or without a ``/`` at its end: ``"v3"`` also begins ``"v30/x"``.

        Raises:
            ValueError: If no remote path can begin so.
            RuntimeError: If listing fails (`StorageError`).
        """
        return self._store().iter_objects(self._location.path(self._location.listing_prefix(prefix)))

    def list_folder(self, folder: str = "") -> Iterator[ObjectInfo | str]:
        """What is directly in a folder, in the order of the URLs. Stores are not asked for what is below its folders.

        Args:
            folder: A remote path, with or without a ``/`` at its end; the client's prefix if empty.

        Yields:
            An `ObjectInfo` for each object, and for each folder its URL, which ends with ``/``.

        Raises:
            ValueError: If no remote path can begin so.
            RuntimeError: If listing fails (`StorageError`).
        """
        below = self._location.listing_prefix(folder)
        path = f"{below}/" if below and not below.endswith("/") else below
        return self._store().iter_folder(self._location.path(path))

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem that the client uses; each process has its own."""
        return self._filesystem.get()

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch, dask and `fsspec.open` need beside a URL. It holds the secrets of the config, if any."""
        return {name: value for name, value in self.config.items() if name != "url"}

    def _configure(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        """Read the config; called once, by the constructor.

        Raises:
            ValueError: If it is wrong.
        """
        if "url" not in config:
            raise ValueError("fsspec config: missing key 'url'. Known keys: url, and the filesystem's storage options")
        scheme, rest = split_url(config["url"])
        _require_known_protocol(scheme)
        return Location(scheme, _with_slash(rest.rstrip("/")) if rest.strip("/") else rest)

    def _make_filesystem(self) -> AbstractFileSystem:
        from fsspec.core import url_to_fs  # noqa: PLC0415 - fsspec takes 50 ms to import

        try:
            filesystem, _ = url_to_fs(self.config["url"], **self.storage_options, skip_instance_cache=True)
        except Exception as error:  # a package that is missing, a host that is down: each filesystem has its own
            url = without_password(self.config["url"])
            raise StorageError(
                f"fsspec cannot open {url}: {type(error).__name__}: {error}. Check the URL and the storage options",
                ErrorDetails("fsspec", url, "open"),
            ) from error
        return filesystem

    def _store(self) -> ObjectStore:
        from gllm_storage.filesystem.foreign import ForeignStore  # noqa: PLC0415 - only where it is needed

        return ForeignStore(self.filesystem, self._location.scheme, self._location.base)

    def _identity(self) -> object:
        return self._location, tuple(sorted(self.config.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._described()})"

    def _described(self) -> str:
        hidden = [f"{name}='***'" for name in sorted(self.config) if name != "url"]
        return ", ".join([f"url={without_password(self.config['url'])!r}", *hidden])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)


def _with_slash(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


def _require_known_protocol(scheme: str) -> None:
    from fsspec import available_protocols  # noqa: PLC0415 - fsspec takes 50 ms to import
    from fsspec.registry import registry  # noqa: PLC0415 - as above

    if scheme not in available_protocols() and scheme not in registry:
        from gllm_storage.registry import CloudStorageRegistry  # noqa: PLC0415 - the registry knows the clients

        known = ", ".join(CloudStorageRegistry.list_available_providers())
        raise ValueError(
            f"unknown URL scheme {scheme!r}: neither a storage provider ({known}) nor a protocol that fsspec knows"
        )
