"""`FsspecStorageClient`: the methods of all built-in clients, on an `ObjectStore`; and the provider ``fsspec``."""

from __future__ import annotations

import contextlib
import dataclasses
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Unpack

from gllm_storage.client import CloudStorageClient
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import Stop, TransferStopped, running_stop, set_after
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import (
    ErrorDetails,
    Remedy,
    StorageError,
    StorageUnavailableError,
    timed,
)
from gllm_storage.files.content import local_path as path_of
from gllm_storage.files.content import open_content
from gllm_storage.info import NO_PROPERTIES, ObjectProperties
from gllm_storage.paths import ExactKey, Location, hidden_user, hides_user, not_a_string, split_url, without_user
from gllm_storage.settings import DISK_OPTIONS, as_strings, disk_options, keys_of, require_mapping

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping

    from _typeshed import DataclassInstance
    from fsspec import AbstractFileSystem
    from fsspec.callbacks import Callback

    from gllm_storage.folders import ApplyOptions, FolderOptions, FolderResult, Plan, RemoteFolder, TransferOptions
    from gllm_storage.folders.entries import Folder, StoredFolder
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.port import ObjectStore


_LONGEST = 10**9
"""Seconds, 30 years: no store permits longer."""


class FsspecStorageClient(CloudStorageClient):
    """Storage client for any fsspec filesystem, and the base class of the built-in clients.

    As provider ``fsspec`` it uses any protocol that fsspec knows (``sftp``, ``webdav``, ``hdfs``, …). There it refuses
    ``check_conflict=True``, because fsspec does not promise exclusive creates.

    Threads may share a client. It can be pickled, and used in a forked child. Two clients are equal if their settings are.

    Examples:
        >>> from gllm_storage import storage_client_from_url
        >>> client = storage_client_from_url("memory://models/team-a")  # likewise s3://, gs://, az://, file://
        >>> client.upload_file("model.safetensors", "v3/model.safetensors")
        'memory://models/team-a/v3/model.safetensors'
        >>> client.file_exists("v3/model.safetensors")
        True
    """

    provider: ClassVar[str] = "fsspec"
    settings_class: ClassVar[type[DataclassInstance] | None] = None
    """The dataclass of the config's keys; None if the config takes any key."""

    def __init__(self, config: Dict[str, str]) -> None:
        """Initialize the client.

        Args:
            config: Configuration parameters:

                - url: The folder of the objects, such as ``"sftp://host/folder"``.
                - fsync: Whether a downloaded file is on the disk when the call returns; without it, a power cut can leave
                  zeros under its name. Default ``"true"``.
                - sync_source: Whether the dirty pages of a file are written to the disk before its upload. Default
                  ``"false"``.
                - any other key: a storage option of that filesystem.

        Raises:
            ValueError: If the configuration is wrong. One error names all mistakes.
        """
        require_mapping(config, self.provider)
        if self.settings_class is not None:
            config = as_strings(self.settings_class, config)
        super().__init__(config)
        self._location = self.read_config(config)
        # Both may have connections or an event loop, which must not cross a fork.
        self._store: PerProcess[ObjectStore] = PerProcess(self.make_store)
        self._filesystem: PerProcess[AbstractFileSystem] = PerProcess(self.make_filesystem)

    # ------------------------------------------------------------------ hooks for providers

    def read_config(self, config: Dict[str, str]) -> Location:
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
        disk_options(config)
        return Location(scheme, _with_slash(rest.rstrip("/")) if rest.strip("/") else rest)

    def make_store(self) -> ObjectStore:
        """Make the store that the verbs use: a hook that a provider replaces. Called once in each process, on first use.

        Raises:
            StorageError: If the store cannot be made.
        """
        from gllm_storage.filesystem.foreign import ForeignStore

        return ForeignStore(self.filesystem, self._location.scheme, self._location.base, disk_options(self.config))

    def make_filesystem(self) -> AbstractFileSystem:
        """Make the fsspec filesystem: a hook that a provider replaces. Called once in each process, on first use.

        Raises:
            StorageError: If the filesystem cannot be made.
        """
        from fsspec.core import url_to_fs

        try:
            filesystem, _ = url_to_fs(self.config["url"], **self.storage_options, skip_instance_cache=True)
        except Exception as error:  # a missing package, a host that is down: each filesystem has its own exceptions
            url = without_user(self.config["url"])
            raise StorageError(
                f"fsspec cannot open {url}: {type(error).__name__}: {error}",
                ErrorDetails("fsspec", url, "open"),
                Remedy.CHECK_OPTIONS,
            ) from error
        return filesystem

    def filesystem_to_open(self, mode: str, options: Mapping[str, Any]) -> AbstractFileSystem:
        """The filesystem that `open` uses: a hook for a provider whose `filesystem` takes long to import.

        Args:
            mode: The mode of the file.
            options: The further arguments of `open`.

        Raises:
            StorageError: If the filesystem cannot be made.
        """
        del mode, options
        return self.filesystem

    # ------------------------------------------------------------------ the verbs

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config of a client for a URL, as `storage_client_from_url` makes it.

        Raises:
            ValueError: If the URL is not one of this provider.
        """
        return {"url": url}

    @classmethod
    def config_keys(cls) -> tuple[str, ...]:
        """The keys of the config, sorted; empty for the provider ``fsspec``, which takes any key."""
        return keys_of(cls.settings_class) if cls.settings_class else ()

    def upload_file(self, local_path: str | Path, remote_path: str, check_conflict: bool = False) -> str:
        """Upload a file. After an error or Ctrl-C the store is unchanged.

        Args:
            local_path: Path to the local file to upload: a text or a path object.
            remote_path: Path of the object: relative to the client's prefix, or from the bucket's root if it begins with
                ``/``, or a URL of this store.
            check_conflict: When True, fail atomically if the object already exists: of several writers at a time, exactly
                one succeeds. Defaults to False, which replaces an existing object.

        Returns:
            URL of the stored object. `fsspec.open` takes it together with `storage_options`.

        Raises:
            ValueError: If the remote path is not valid, or the local path is a URL or begins with ``~/``.
            TypeError: If the local path is something else, such as bytes, which `upload` takes.
            FileNotFoundError: If the local file does not exist.
            FileExistsError: If check_conflict is True and the object exists (`ObjectExistsError`).
            RuntimeError: If the upload fails (`StorageError`); `ConflictCheckUnsupportedError` if check_conflict is True and
                the store cannot create exclusively.

        Examples:
            >>> client.upload_file("model.safetensors", "v4/model.safetensors", check_conflict=True)
            'memory://models/team-a/v4/model.safetensors'
            >>> client.upload_file("model.safetensors", "v4/model.safetensors", check_conflict=True)
            Traceback (most recent call last):
                ...
            gllm_storage.errors.ObjectExistsError: memory://models/team-a/v4/model.safetensors exists and was not changed...
        """
        return self.upload_with_progress(local_path, remote_path, None, check_conflict=check_conflict)

    def download_file(self, remote_path: str, local_path: str | Path) -> Path:
        """Download a file. It appears complete and verified; after an error the local file is unchanged.

        Args:
            remote_path: Path of the object, as in `upload_file`.
            local_path: Path of the local file; missing folders are created, an existing file is replaced.

        Returns:
            Path to the downloaded file.

        Raises:
            ValueError: If the remote path is not valid, or the local path is a URL or begins with ``~/``.
            FileNotFoundError: If the object does not exist (`ObjectNotFoundError`).
            RuntimeError: If the download fails (`StorageError`); `IntegrityError` if the content does not match its
                checksum.

        Examples:
            >>> client.download_file("v3/model.safetensors", "copy.safetensors")
            PosixPath('copy.safetensors')
        """
        return self.download_with_progress(remote_path, local_path, None)

    def file_exists(self, remote_path: str) -> bool:
        """Check whether an object exists now. A folder (a prefix of other objects) does not count as an object.

        Args:
            remote_path: Path to check, as in `upload_file`.

        Returns:
            True if the object exists, False if it does not.

        Raises:
            ValueError: If the remote path is not valid.
            RuntimeError: If the request fails (`StorageError`); `AccessDeniedError` without read permission.

        Examples:
            >>> client.file_exists("v3/model.safetensors"), client.file_exists("v3")
            (True, False)
        """
        with self._verb("exists", remote_path):
            return self.store.exists(self._location.key(remote_path))

    def delete_file(self, remote_path: str) -> bool:
        """Delete an object.

        Args:
            remote_path: Path of the object, as in `upload_file`.

        Returns:
            True.

        Raises:
            ValueError: If the remote path is not valid.
            FileNotFoundError: If the object does not exist (`ObjectNotFoundError`).
            RuntimeError: If the deletion fails (`StorageError`).

        Examples:
            >>> client.delete_file("v4/model.safetensors")
            True
        """
        store, key = self.store, self._location.key(remote_path)
        with self._verb("delete", remote_path):
            store.run_write(partial(store.delete, key), Stop(running_stop()))
        return True

    def upload_with_progress(
        self,
        local_path: str | Path,
        remote_path: str,
        callback: Callback | Callable[[int], object] | None,
        *,
        check_conflict: bool = False,
    ) -> str:
        """Upload a file as `upload_file` does, and report the progress.

        Args:
            local_path: As in `upload_file`.
            remote_path: As in `upload_file`.
            callback: An fsspec callback, which receives the size in bytes, then the number of bytes as they are sent,
                together never more than the size; or a function, which is called with each number of bytes. None reports
                nothing. An exception that it raises ends the transfer, and is raised as it is.
            check_conflict: As in `upload_file`.

        Returns:
            URL of the stored object.

        Raises:
            Exception: As `upload_file`.

        Examples:
            >>> from fsspec.callbacks import Callback
            >>> callback = Callback()  # or fsspec.callbacks.TqdmCallback() for a progress bar
            >>> url = client.upload_with_progress("model.safetensors", "v3/model.safetensors", callback)
            >>> callback.value == callback.size
            True
        """
        path = path_of(local_path, "`upload` takes bytes and file objects")
        return self.upload(path, remote_path, check_conflict=check_conflict, callback=callback)

    def upload(
        self,
        source: Any,
        remote_path: str,
        *,
        check_conflict: bool = False,
        callback: Callback | Callable[[int], object] | None = None,
        properties: ObjectProperties | None = None,
        **named: Any,
    ) -> str:
        """Upload a file, bytes or a binary file object, with properties. After an error or Ctrl-C the store is unchanged.

        Args:
            source: The content: a path; bytes or another buffer; or a binary file object, from its current position to its
                end. The file object is not closed. If it is not a regular file at its beginning, its content is first
                copied into memory, or into a temporary file if it is large.
            remote_path: As in `upload_file`.
            check_conflict: As in `upload_file`.
            callback: As in `upload_with_progress`.
            properties: The properties of the object, such as its content type and its metadata.
            **named: Properties by name; they come before `properties`. `ObjectProperties` lists the names.

        Returns:
            URL of the stored object.

        Raises:
            TypeError: If the source is of another type, such as a text file, or a property is unknown.
            ValueError: If the remote path or a property is not valid, or a local path is a URL or begins with ``~/``.
            FileNotFoundError: If the local file does not exist.
            FileExistsError: If check_conflict is True and the object exists (`ObjectExistsError`).
            RuntimeError: If the upload fails (`StorageError`); `UnsupportedOperationError`, before anything is sent, if the
                store cannot keep a property; `ConflictCheckUnsupportedError` as in `upload_file`.

        Examples:
            >>> client.upload(b'{"layers": 12}', "v4/config.json", content_type="application/json", metadata={"run": "17"})
            'memory://models/team-a/v4/config.json'
            >>> client.info("v4/config.json").content_type
            'application/json'
        """
        wanted = _properties(properties, named)
        key = self._location.key(remote_path)
        store = self.store
        transfer = store.transfer(key, "upload", callback)
        options = store.options_of(wanted, transfer.details)
        with self._verb("upload", remote_path, transfer.stop), open_content(source, transfer) as content:
            transfer.progress.expect(content.size)
            store.upload(store.request(key, content, transfer, check_conflict, options))
        transfer.progress.finish()
        return self._location.url(key)

    def copy_file(self, source: str, target: str, *, check_conflict: bool = False) -> str:
        """Copy an object with its properties. On S3, GCS and Azure the server copies, without a download.

        An exclusive copy is a copy on the server as well, unless the store is an S3-compatible one that creates exclusively
        in one PutObject only: there the content passes through this machine.

        Args:
            source: Path of the object, as in `upload_file`.
            target: Path of the copy, likewise; in the same bucket.
            check_conflict: When True, fail atomically if the target exists. Defaults to False, which replaces the target.

        Returns:
            URL of the copy.

        Raises:
            ValueError: If a path is not valid, or both are the same.
            FileNotFoundError: If the source does not exist (`ObjectNotFoundError`).
            FileExistsError: If check_conflict is True and the target exists (`ObjectExistsError`).
            RuntimeError: If the copy fails, and then the target is unchanged (`StorageError`);
                `ConflictCheckUnsupportedError` as in `upload_file`.

        Examples:
            >>> client.copy_file("v4/config.json", "v5/config.json", check_conflict=True)
            'memory://models/team-a/v5/config.json'
        """
        key, target_key = self._two_keys(source, target)
        store = self.store
        transfer = store.transfer(key, "copy")
        copy = partial(store.copy_version, key, target_key, transfer, exclusive=check_conflict)
        with self._verb("copy", source, transfer.stop):
            run_all([copy], 1, transfer.stop)  # as in `delete_file`; a copy may take long, and have parts
        return self._location.url(target_key)

    def move_file(self, source: str, target: str, *, check_conflict: bool = False) -> str:
        """Move an object with its properties.

        One version of the source is copied as by `copy_file`, and when the copy is complete, that version is deleted. If
        another writer replaces the source meanwhile, the replacement stays, and the call fails. Amazon S3, GCS and Azure
        compare the version when they delete; on other S3-compatible stores a HEAD request does it just before. The provider
        ``file`` renames the file.

        Args:
            source: Path of the object, as in `upload_file`.
            target: Its new path, likewise; in the same bucket.
            check_conflict: When True, fail atomically if the target exists. Defaults to False, which replaces the target.

        Returns:
            The new URL.

        Raises:
            ValueError: If a path is not valid, or both are the same.
            FileNotFoundError: If the source does not exist (`ObjectNotFoundError`).
            FileExistsError: If check_conflict is True and the target exists (`ObjectExistsError`).
            RuntimeError: If the copy fails, and then nothing was changed (`StorageError`); or if the source was replaced or
                cannot be deleted, and then both exist.

        Examples:
            >>> client.move_file("v5/config.json", "v6/config.json")
            'memory://models/team-a/v6/config.json'
            >>> client.file_exists("v5/config.json")
            False
        """
        key, target_key = self._two_keys(source, target)
        store = self.store
        transfer = store.transfer(key, "move")
        with self._verb("move", source, transfer.stop):
            run_all([partial(store.move, key, target_key, transfer, exclusive=check_conflict)], 1, transfer.stop)
        return self._location.url(target_key)

    def presign(self, remote_path: str, *, expires: float | timedelta = 3600, method: str = "GET") -> str:
        """A URL with which anyone can read or write one object for some time, without credentials. Sends no request.

        The URL is a secret: it gives access to anyone.

        Args:
            remote_path: Path of the object, as in `upload_file`. It need not exist.
            expires: How long the URL is valid, in seconds or as a `timedelta`; at most 7 days on S3 and GCS. Default 1 hour.
            method: ``"GET"`` to read, ``"PUT"`` to write.

        Returns:
            The URL. On Azure a PUT request also needs the header ``x-ms-blob-type: BlockBlob``.

        Raises:
            ValueError: If the path, the time or the method is not valid.
            RuntimeError: `UnsupportedOperationError` if the store has no such URLs, or the credentials cannot sign;
                `StorageError` if they cannot be read.

        Examples:
            >>> client.presign("v6/config.json")
            Traceback (most recent call last):
                ...
            gllm_storage.errors.UnsupportedOperationError: memory://models/team-a/v6/config.json: the provider 'memory'...
        """
        if method not in {"GET", "PUT"}:
            raise ValueError(f"method must be 'GET' or 'PUT', not {method!r}")
        key = self._location.key(remote_path)
        with timed():
            return self.store.presign(key, _seconds(expires), method)

    def close(self) -> None:
        """Close the idle connections of this process. ``with client:`` does it at its end.

        Transfers of other threads go on. The client, its open files and its `filesystem` can be used again: the next request
        opens new connections.

        Examples:
            >>> with client:
            ...     client.file_exists("v6/config.json")
            True
        """
        store = self._store.peek()
        if store is not None:
            store.close()

    def _two_keys(self, source: str, target: str) -> tuple[str, str]:
        key, target_key = self._location.key(source), self._location.key(target)
        if key == target_key:
            raise ValueError(f"{self._location.url(key)}: source and target are the same")
        return key, target_key

    def download_with_progress(
        self, remote_path: str, local_path: str | Path, callback: Callback | Callable[[int], object] | None
    ) -> Path:
        """Download a file as `download_file` does, and report the progress.

        Args:
            remote_path: As in `download_file`.
            local_path: As in `download_file`.
            callback: As in `upload_with_progress`.

        Returns:
            Path to the downloaded file.

        Raises:
            Exception: As `download_file`.
        """
        path, store = path_of(local_path, "`open` gives a file object"), self.store
        key = self._location.key(remote_path)
        with self._verb("download", remote_path):
            store.download(key, path, store.transfer(key, "download", callback))
        return Path(path)

    def url(self, remote_path: str) -> str:
        """The URL of an object, whether it exists or not. `upload_file` returns the same URL.

        Args:
            remote_path: Path of the object, as in `upload_file`.

        Raises:
            ValueError: If the remote path is not valid.

        Examples:
            >>> client.url("v3/model.safetensors")
            'memory://models/team-a/v3/model.safetensors'
            >>> client.url("/other/model.safetensors")
            'memory://models/other/model.safetensors'
        """
        return self._location.url(self._location.key(remote_path))

    def open(self, remote_path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open an object as a Python file object.

        A file that is written appears when it is closed. If a ``with`` block ends with an exception, nothing is stored. (The
        provider ``fsspec`` leaves this to the filesystem below it.)

        Args:
            remote_path: Path of the object, as in `upload_file`.
            mode: As for the built-in `open`: ``"rb"``, ``"r"``, ``"wb"``, ``"w"``, ``"xb"`` (exclusive), ….
            **kwargs: Options of the filesystem's `open`, such as ``block_size`` in bytes, or ``encoding``.

        Raises:
            ValueError: If the remote path is not valid.
            FileNotFoundError: If the object is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive and the object exists.
            RuntimeError: If the store refuses or cannot be reached (`StorageError`).

        Examples:
            >>> with client.open("v3/config.json", "w") as file:
            ...     _ = file.write("{}")
            >>> with client.open("v3/config.json") as file:
            ...     file.read()
            b'{}'
        """
        path = self._location.path(self._location.key(remote_path))
        filesystem = self.filesystem_to_open(mode, kwargs)
        if isinstance(remote_path, ExactKey) and filesystem._strip_protocol(path) != path:  # noqa: SLF001 - fsspec's rule
            raise ValueError(f"open cannot name the key {str(remote_path)!r}, since fsspec changes it; use download_file")
        return filesystem.open(path, mode, **kwargs)

    def info(self, remote_path: str) -> ObjectInfo:
        """Size, ETag, time, checksum and metadata of an object, as the store has them now.

        Args:
            remote_path: Path of the object, as in `upload_file`.

        Raises:
            ValueError: If the remote path is not valid.
            FileNotFoundError: If the object does not exist (`ObjectNotFoundError`).
            RuntimeError: If the request fails (`StorageError`).

        Examples:
            >>> client.info("v3/config.json").size
            2
        """
        with self._verb("info", remote_path):
            return self.store.info(self._location.key(remote_path))

    def _verb(self, operation: str, path: str, stop: Stop | None = None) -> contextlib.AbstractContextManager[None]:
        """One verb, which ends after the setting ``total_timeout``.

        Args:
            operation: The verb, for errors.
            path: The caller's path, for errors.
            stop: The stop of the verb's transfer; by default a new one for this thread.

        Raises:
            StorageUnavailableError: If the verb takes longer.
        """
        seconds = self.store.settings.total_timeout
        return timed() if seconds is None else self._limited(seconds, operation, path, stop)

    @contextlib.contextmanager
    def _limited(self, seconds: float, operation: str, path: str, stop: Stop | None) -> Iterator[None]:
        stop, before = stop or Stop(running_stop()), running_stop()
        with timed():
            try:
                with set_after(seconds, stop):
                    yield
            except TransferStopped as error:
                if before is not None and before.is_set():
                    raise
                details = self.store.details(self._location.key(path) if path else "", operation)
                raise StorageUnavailableError(
                    f"{details.operation} of {details.url}: not finished within total_timeout ({seconds:g} s)",
                    details,
                    Remedy.RAISE_TIMEOUT,
                ) from error

    def _within_timeout(self, found: Iterator[Any]) -> Iterator[Any]:
        """A listing, each page of which ends after the setting ``total_timeout``."""
        if self.store.settings.total_timeout is None:
            yield from found
            return
        end = object()
        while True:
            with self._verb("list", ""):
                each: Any = next(found, end)
            if each is end:
                return
            yield each

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose path begins with a prefix, at any depth, in key order.

        Args:
            prefix: Beginning of a remote path, with or without a ``/`` at the end. ``"v3"`` also matches ``"v30/x"``. All
                objects of the client if empty.

        Raises:
            ValueError: If a remote path cannot begin with the prefix.
            RuntimeError: If listing fails (`StorageError`), also while the objects are iterated.

        Examples:
            >>> for each in client.list_files("v3/"):
            ...     print(each.url)
            memory://models/team-a/v3/config.json
            memory://models/team-a/v3/model.safetensors
        """
        return self._within_timeout(self.store.list(self._location.listing_prefix(prefix)))

    def list_folder(self, folder: str = "") -> Iterator[ObjectInfo | str]:
        """The objects and the folders directly in a folder, in the order of their URLs.

        The content of those folders is not listed, so that this is fast for a folder with a large tree below it.

        Args:
            folder: A remote path, with or without a ``/`` at the end; the client's prefix if empty.

        Yields:
            An `ObjectInfo` for each object; for each folder its URL, which ends with ``/``.

        Raises:
            ValueError: If a remote path cannot begin with the folder.
            RuntimeError: If listing fails (`StorageError`).

        Examples:
            >>> list(client.list_folder())
            ['memory://models/team-a/v3/', 'memory://models/team-a/v4/', 'memory://models/team-a/v6/']
        """
        below = self._location.listing_prefix(folder)
        return self._within_timeout(self.store.list_folder(f"{below}/" if below and not below.endswith("/") else below))

    # ------------------------------------------------------------------ folders

    def upload_dir(
        self, local_dir: str | os.PathLike[str], remote_dir: str, **options: Unpack[TransferOptions]
    ) -> FolderResult:
        """Upload the files of a folder that differ from the objects there, by size and checksum.

        All checks come before the first byte moves. Files of the target that the source does not have stay. Empty folders
        are not kept: stores have none.

        Args:
            local_dir: The local folder.
            remote_dir: The remote folder: a remote path as in `upload_file`; the client's prefix if empty.
            **options: See `TransferOptions`. Properties of `upload`, such as ``content_type``, are options as well.

        Returns:
            The counts and the outcome of each file.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a path or an option is not valid.
            FileNotFoundError: If the local folder does not exist.
            RuntimeError: `FolderError` if files failed, or names are refused; `StorageError` if listing fails.

        Examples:
            >>> import os
            >>> os.makedirs("out", exist_ok=True)
            >>> for name in ("config.json", "model.safetensors", "notes.txt"):
            ...     with open(f"out/{name}", "w") as file:
            ...         _ = file.write(name)
            >>> client.upload_dir("out", "v7", exclude=["*.txt"]).transferred
            2
            >>> client.upload_dir("out", "v7", exclude=["*.txt"]).skipped
            2
        """
        from gllm_storage.folders import transfer  # most processes move no folders

        given = transfer.Options.of(options)
        return transfer.transfer(transfer.local_folder(local_dir, given.links), self._remote_folder(remote_dir), given)

    def download_dir(
        self, remote_dir: str, local_dir: str | os.PathLike[str], **options: Unpack[TransferOptions]
    ) -> FolderResult:
        """Download the objects of a folder that differ from the local files, by size and checksum.

        Each file appears complete and verified. Names that lead out of the local folder, or that its disk cannot hold beside
        each other, are refused before anything moves.

        Args:
            remote_dir: The remote folder, as in `upload_dir`.
            local_dir: The local folder; made if it is missing.
            **options: See `TransferOptions`.

        Returns:
            The counts and the outcome of each file.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a path or an option is not valid.
            FileNotFoundError: If there are no objects in the folder (`ObjectNotFoundError`).
            RuntimeError: `FolderError` if files failed, or names are refused; `StorageError` if listing fails.

        Examples:
            >>> client.download_dir("v7", "copy").transferred
            2
        """
        from gllm_storage.folders import transfer

        given = transfer.Options.of(options)
        return transfer.transfer(self._remote_folder(remote_dir), transfer.local_folder(local_dir), given)

    def sync_dir(
        self,
        source: str | os.PathLike[str] | RemoteFolder,
        target: str | os.PathLike[str] | RemoteFolder,
        *,
        delete: bool = False,
        max_delete: int | None = None,
        **options: Unpack[TransferOptions],
    ) -> FolderResult:
        """Make a folder equal to another one: local to remote, remote to local, or remote to remote.

        Deletions come last, and never after a failure or because the source is empty.

        Args:
            source: The source: a URL, a local path, or a `RemoteFolder` of a client. A URL outside this client's bucket is
                opened by `storage_client_from_url`.
            target: The target, likewise.
            delete: Whether to delete files that only the target has. Files that the filter leaves out are kept.
            max_delete: The most deletions. If there would be more, nothing is changed. None for any number.
            **options: See `TransferOptions`.

        Returns:
            The counts and the outcome of each file.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a path or an option is not valid, both folders are local, or one lies in the other.
            FileNotFoundError: If the source does not exist.
            RuntimeError: `FolderError` if files failed, or names or deletions are refused; `StorageError` if listing fails.

        Examples:
            >>> print(client.sync_dir("out", client.url("v7"), dry_run=True).plan)  # doctest: +ELLIPSIS
            /.../out -> memory://models/team-a/v7/
              transfer notes.txt (9 bytes, new)
            1 files to transfer (9 bytes), 0 to delete, 2 equal (28 bytes), 0 problems
        """
        from gllm_storage.folders import transfer

        given = transfer.Options.of(options)
        one, other = self._any_folder(source, given.links), self._any_folder(target)
        if not (transfer.is_remote(one) or transfer.is_remote(other)):
            raise ValueError(f"{one.url!r} and {other.url!r} are both local; name a URL, such as client.url('v2')")
        return transfer.transfer(one, other, given, delete=delete, max_delete=max_delete)

    def copy_dir(self, source_dir: str, target_dir: str, **options: Unpack[TransferOptions]) -> FolderResult:
        """Copy the objects of a folder that differ from those of another folder of the bucket, on the server if possible.

        Args:
            source_dir: The remote folder, as in `upload_dir`.
            target_dir: The remote folder of the copies.
            **options: See `TransferOptions`.

        Returns:
            The counts and the outcome of each file.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a path or an option is not valid, or one folder lies in the other.
            FileNotFoundError: If there are no objects in the folder (`ObjectNotFoundError`).
            RuntimeError: `FolderError` if files failed, or names are refused; `StorageError` if listing fails.

        Examples:
            >>> client.copy_dir("v7", "v8").transferred
            2
        """
        from gllm_storage.folders import transfer

        source, target = self._remote_folder(source_dir), self._remote_folder(target_dir)
        return transfer.transfer(source, target, transfer.Options.of(options))

    def delete_dir(self, remote_dir: str, **options: Unpack[FolderOptions]) -> FolderResult:
        """Delete the objects of a folder.

        Args:
            remote_dir: The remote folder, as in `upload_dir`, but not empty: ``"/"`` deletes all objects of the bucket.
            **options: See `FolderOptions`.

        Returns:
            The counts and the outcome of each object; all counts are 0 if there are no objects.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a path or an option is not valid.
            RuntimeError: `FolderError` if objects could not be deleted; `StorageError` if listing fails.

        Examples:
            >>> client.delete_dir("v8", exclude=["*.json"]).deleted
            1
        """
        from gllm_storage.folders import transfer

        if isinstance(remote_dir, str) and not remote_dir:
            raise ValueError("remote_dir is empty; name a folder, or '/' for all objects of the bucket")
        return transfer.delete(self._remote_folder(remote_dir), transfer.Options.of(options, transfer.FolderOptions))

    def check_dir(
        self,
        source: str | os.PathLike[str] | RemoteFolder,
        target: str | os.PathLike[str] | RemoteFolder,
        **options: Unpack[TransferOptions],
    ) -> Plan:
        """Compare two folders, by size and checksum; nothing moves.

        Args:
            source: As in `sync_dir`.
            target: As in `sync_dir`.
            **options: See `TransferOptions`.

        Returns:
            The differences, as the plan of `sync_dir` with ``delete=True``. `Plan.is_empty` is True if there are none.

        Raises:
            TypeError: If an option is unknown.
            ValueError: If a path or an option is not valid.
            FileNotFoundError: If the source does not exist.
            RuntimeError: If listing fails (`StorageError`).

        Examples:
            >>> client.check_dir("copy", client.url("v7")).is_empty
            True
        """
        from gllm_storage.folders import transfer

        given = transfer.Options.of(options)
        return transfer.check(self._any_folder(source, given.links), self._any_folder(target, given.links), given)

    def apply_plan(self, plan: Plan, **options: Unpack[ApplyOptions]) -> FolderResult:
        """Run a plan that was made before, such as one from `Plan.load`.

        A source file, or a file to delete, that has changed since is a failure. It is not transferred, and not deleted.

        Args:
            plan: The plan. URLs outside this client's bucket are opened by `storage_client_from_url`.
            **options: See `ApplyOptions`. Properties of `upload`, such as ``content_type``, are options as well.

        Returns:
            The counts and the outcome of each file.

        Raises:
            TypeError: If an option is unknown, or `plan` is not a plan.
            ValueError: If an option is not valid, or a URL outside this client's bucket had a user, which plans hide.
            RuntimeError: `FolderError` if files failed or have changed, or something is refused: names, deletions because of
                a source without files, objects of published versions, or an endpoint that is not that of the plan.

        Examples:
            >>> from gllm_storage.folders import Plan
            >>> client.sync_dir("out", client.url("v9"), dry_run=True).plan.save("plan.jsonl")
            >>> client.apply_plan(Plan.load("plan.jsonl")).transferred
            3
        """
        from gllm_storage.folders import plan as plans
        from gllm_storage.folders import transfer

        if not isinstance(plan, plans.Plan):
            raise TypeError(f"plan is a Plan, as from Plan.load(path), not {type(plan).__name__}")
        source = self._any_folder(plan.source) if plan.source else None
        given = transfer.Options.of(options, transfer.ApplyOptions)
        return transfer.apply(plan, source, self._any_folder(plan.target), given)

    def _remote_folder(self, path: str, links: str = "follow") -> StoredFolder:
        from gllm_storage.folders.entries import StoredFolder

        if not isinstance(path, str):
            raise not_a_string("a remote folder", path)
        below = self._location.listing_prefix(path)
        return StoredFolder(self.store, f"{below}/" if below and not below.endswith("/") else below, links, self)

    def _any_folder(self, where: str | os.PathLike[str] | RemoteFolder, links: str = "follow") -> Folder:
        """The folder of an argument of `sync_dir`."""
        from gllm_storage.folders import transfer

        if isinstance(where, transfer.RemoteFolder):
            if not isinstance(where.client, FsspecStorageClient):
                raise TypeError(f"{type(where.client).__name__} has no folders; the built-in clients have")
            return where.client._remote_folder(where.path, links)  # noqa: SLF001 - of this class
        if not isinstance(where, str) or "://" not in where:
            return transfer.local_folder(where, links)
        for url in (where, f"{where}/"):  # the URL of a bucket may lack the slash
            with contextlib.suppress(ValueError):
                return self._remote_folder(url, links)
        if hides_user(where):  # as the URLs of plans do
            own = self._location.url("")
            shown = without_user(own)
            if shown == own or not _with_slash(where).startswith(shown):
                raise hidden_user(where)
            return self._remote_folder(own + where[len(shown) :], links)
        other: Any = self._of_url(where)
        return FsspecStorageClient._remote_folder(other, "", links)

    @property
    def store(self) -> ObjectStore:
        """The store that the client uses; each process makes its own.

        Raises:
            StorageError: If the store cannot be made.
        """
        return self._store.get()

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem of the same store; each process makes its own.

        Raises:
            StorageError: If the filesystem cannot be made.
        """
        return self._filesystem.get()

    @property
    def storage_options(self) -> dict[str, Any]:
        """The ``storage_options`` that pandas, torch, dask and `fsspec.open` need beside a URL.

        They contain the secrets of the config: do not log them.

        Examples:
            ``pandas.read_csv(client.url("data.csv"), storage_options=client.storage_options)``
        """
        return {name: value for name, value in self.config.items() if name not in {"url", *DISK_OPTIONS}}

    def _identity(self) -> object:
        return self._location, tuple(sorted(self.config.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._described()})"

    def _described(self) -> str:
        hidden = [f"{name}='***'" for name in sorted(self.config) if name != "url"]
        return ", ".join([f"url={without_user(self.config['url'])!r}", *hidden])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)


def _seconds(expires: float | timedelta) -> int:
    seconds = expires.total_seconds() if isinstance(expires, timedelta) else expires
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 1 <= seconds <= _LONGEST:
        raise ValueError(f"expires must be a number of seconds of at least 1, or a timedelta, not {expires!r}")
    return int(seconds)


def _properties(given: ObjectProperties | None, named: dict[str, Any]) -> ObjectProperties:
    """The properties of an upload.

    Raises:
        TypeError: If `given` is of another type, or a name is unknown.
        ValueError: If a value is not valid.
    """
    if given is not None and not isinstance(given, ObjectProperties):
        raise TypeError(f"properties is an ObjectProperties, not {type(given).__name__}; or pass the properties by name")
    if not named:
        return given or NO_PROPERTIES
    known = [each.name for each in dataclasses.fields(ObjectProperties)]
    for name in named:
        if name not in known:
            import difflib

            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known are {', '.join(known)}"
            raise TypeError(f"upload has no property {name!r}{hint}")
    return dataclasses.replace(given or ObjectProperties(), **named)


def _with_slash(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


def is_fsspec_protocol(scheme: str) -> bool:
    """Whether a protocol is registered with fsspec, by fsspec itself or by another package."""
    from fsspec import available_protocols
    from fsspec.registry import registry

    return scheme in available_protocols() or scheme in registry
