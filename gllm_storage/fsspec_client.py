"""`FsspecStorageClient`: the verbs, written once, on any fsspec filesystem."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Dict  # noqa: UP035 - the documented signatures say Dict

from gllm_storage.client import CloudStorageClient
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, ObjectNotFoundError, Remedy, StorageError, timed
from gllm_storage.files.source import open_source
from gllm_storage.paths import Location, split_url, without_password
from gllm_storage.settings import keys_of, require_mapping
from gllm_storage.store.port import UploadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import DataclassInstance
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import Callback

    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore


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

                - url: The folder of the objects, as in ``"sftp://host/folder"``.
                - any other key is a storage option of that filesystem.

        Raises:
            ValueError: If the configuration is wrong: one error that names all mistakes.
        """
        require_mapping(config, self.provider)
        super().__init__(config)
        self._location = self.read_config(config)
        # Both may hold connections or an event loop, which must not cross a fork.
        self._store: PerProcess[ObjectStore] = PerProcess(self.make_store)
        self._filesystem: PerProcess[AbstractFileSystem] = PerProcess(self.make_filesystem)

    # ------------------------------------------------------------------ hooks for providers

    def read_config(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        """Read the config: a hook that a provider replaces. The constructor calls it once.

        Args:
            config: The config of the caller.

        Returns:
            The location of the objects: the scheme and base of URLs, and the prefix of relative remote paths.

        Raises:
            ValueError: If the config is wrong.
        """
        if "url" not in config:
            raise ValueError("fsspec config: missing key 'url'. Known keys: url, and the filesystem's storage options")
        scheme, rest = split_url(config["url"])
        if not is_fsspec_protocol(scheme):
            raise ValueError(f"unknown URL scheme {scheme!r}: fsspec has no such protocol")
        return Location(scheme, _with_slash(rest.rstrip("/")) if rest.strip("/") else rest)

    def make_store(self) -> ObjectStore:
        """Make the store that the verbs use: a hook that a provider replaces. Called once in each process, on first use.

        Raises:
            StorageError: If the store cannot be made.
        """
        from gllm_storage.filesystem.foreign import ForeignStore  # noqa: PLC0415 - fsspec takes 50 ms to import

        return ForeignStore(self.filesystem, self._location.scheme, self._location.base)

    def make_filesystem(self) -> AbstractFileSystem:
        """Make the fsspec filesystem: a hook that a provider replaces. Called once in each process, on first use.

        Raises:
            StorageError: If the filesystem cannot be made.
        """
        from fsspec.core import url_to_fs  # noqa: PLC0415 - fsspec takes 50 ms to import

        try:
            filesystem, _ = url_to_fs(self.config["url"], **self.storage_options, skip_instance_cache=True)
        except Exception as error:  # a missing package, a host that is down: each filesystem has its own exceptions
            url = without_password(self.config["url"])
            raise StorageError(
                f"fsspec cannot open {url}: {type(error).__name__}: {error}",
                ErrorDetails("fsspec", url, "open"),
                Remedy.CHECK_OPTIONS,
            ) from error
        return filesystem

    # ------------------------------------------------------------------ the verbs

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
        with timed():
            try:
                self.store.info(self._location.key(remote_path), "exists")
            except ObjectNotFoundError:
                return False
        return True

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
        # In a thread: Ctrl-C, which interrupts the main thread, must not leave the request in progress.
        delete = partial(self.store.delete, self._location.key(remote_path))
        with timed():
            run_all([delete], 1, Stop(running_stop()))
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
        store = self.store
        transfer = store.transfer(key, "upload", callback)
        with timed(), open_source(os.fspath(local_path), transfer.details) as source:
            transfer.progress.expect(source.size)
            store.upload(UploadRequest(key, source, transfer, exclusive=check_conflict))
        transfer.progress.finish()
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
        key = self._location.key(remote_path)
        with timed():
            self.store.download(key, os.fspath(local_path), self.store.transfer(key, "download", callback))
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
        with timed():
            return self.store.info(self._location.key(remote_path))

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose path begins with `prefix`, at any depth, in key order.

        Args:
            prefix: The beginning of a remote path, with or without a ``/`` at its end: ``"v3"`` also begins ``"v30/x"``.

        Raises:
            ValueError: If no remote path can begin so.
            RuntimeError: If listing fails (`StorageError`).
        """
        return self.store.list(self._location.listing_prefix(prefix))

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
        return self.store.list_folder(f"{below}/" if below and not below.endswith("/") else below)

    @property
    def store(self) -> ObjectStore:
        """The store of the verbs, which `filesystem` shares; each process has its own."""
        return self._store.get()

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem that the client uses; each process has its own."""
        return self._filesystem.get()

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch, dask and `fsspec.open` need beside a URL. It holds the secrets of the config, if any."""
        return {name: value for name, value in self.config.items() if name != "url"}

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


def is_fsspec_protocol(scheme: str) -> bool:
    """Whether fsspec, or a package that registers with it, knows a protocol."""
    from fsspec import available_protocols  # noqa: PLC0415 - fsspec takes 50 ms to import
    from fsspec.registry import registry  # noqa: PLC0415 - fsspec takes 50 ms to import

    return scheme in available_protocols() or scheme in registry
