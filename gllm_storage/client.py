"""`CloudStorageClient`: the documented interface that all providers implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Dict, Self

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from datetime import timedelta
    from pathlib import Path
    from types import TracebackType
    from typing import Unpack

    from fsspec import AbstractFileSystem
    from fsspec.callbacks import Callback

    from gllm_storage.folders import (
        ApplyOptions,
        FolderOptions,
        FolderResult,
        Plan,
        RemoteFolder,
        TransferOptions,
    )
    from gllm_storage.info import ObjectInfo, ObjectProperties


class CloudStorageClient(ABC):
    """Abstract base class for cloud storage clients.

    This class defines the interface that all cloud storage implementations must follow. It provides methods for uploading
    and downloading files from cloud storage services.

    A third party's client needs the four abstract methods only. The others (`upload`, `copy_file`, `move_file`, `presign`,
    `url`, `open`, `info`, `list_files`, `list_folder`, `filesystem`, `storage_options`, and the methods for folders) raise
    `NotImplementedError` by default; `FsspecStorageClient` implements them all. `close` does nothing by default.

    Clients of one class are equal if their configs are equal. A repr shows the keys of a config and none of its values.
    """

    def __init__(self, config: Dict[str, str]) -> None:
        """Initialize the cloud storage client with provider-specific configuration.

        Args:
            config: Configuration parameters for the storage client. The exact keys will depend on the specific cloud
                provider implementation.
        """
        self.config: dict[str, str] = dict(config)

    @staticmethod
    def get_storage_client(provider: str, config: Dict[str, str]) -> CloudStorageClient:
        """Factory method to get the appropriate storage client.

        Args:
            provider: The storage provider to use (e.g., "s3", "gcs", "azure").
            config: Configuration for the storage client.

        Returns:
            The storage client for the specified provider.

        Raises:
            ValueError: If the provider is not supported.

        Examples:
            >>> client = CloudStorageClient.get_storage_client("memory", {"bucket_name": "models", "prefix": "team-a"})
            >>> client.url("v3/model.safetensors")
            'memory://models/team-a/v3/model.safetensors'
        """
        from gllm_storage.registry import CloudStorageRegistry  # the registry imports this module

        return CloudStorageRegistry.get_client(provider, config)

    @staticmethod
    def _of_url(url: str) -> CloudStorageClient:
        """The client of a URL; see `storage_client_from_url`."""
        from gllm_storage.registry import storage_client_from_url  # the registry imports this module

        return storage_client_from_url(url)

    @abstractmethod
    def upload_file(self, local_path: str | Path, remote_path: str, check_conflict: bool = False) -> str:
        """Upload a file to cloud storage.

        Args:
            local_path: Path to the local file to upload.
            remote_path: Path in the cloud storage where the file should be saved.
            check_conflict: When True, fail atomically if the remote object already exists (avoids TOCTOU race between
                existence check and upload). Defaults to False.

        Returns:
            URL or identifier of the uploaded file in the cloud storage.

        Raises:
            FileNotFoundError: If the local file does not exist.
            FileExistsError: If check_conflict is True and the remote object already exists.
            RuntimeError: If the upload fails.
        """

    @abstractmethod
    def download_file(self, remote_path: str, local_path: str | Path) -> Path:
        """Download a file from cloud storage.

        Args:
            remote_path: Path to the file in cloud storage.
            local_path: Path where the downloaded file should be saved.

        Returns:
            Path to the downloaded file.

        Raises:
            FileNotFoundError: If the remote file does not exist.
            RuntimeError: If the download fails.
        """

    @abstractmethod
    def file_exists(self, remote_path: str) -> bool:
        """Check whether a file exists in cloud storage.

        Args:
            remote_path: Path to check in cloud storage.

        Returns:
            True if the file exists, False if it does not.

        Raises:
            RuntimeError: If the existence check fails due to an auth or API error.
        """

    @abstractmethod
    def delete_file(self, remote_path: str) -> bool:
        """Delete a file from cloud storage.

        Args:
            remote_path: Path to the file in cloud storage.

        Returns:
            True if the file was deleted successfully, False otherwise.

        Raises:
            FileNotFoundError: If the remote file does not exist.
            RuntimeError: If the deletion fails.
        """

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
        """Upload a file, bytes or a binary file object, with properties such as the content type.

        Args:
            source: The content.
            remote_path: Path in the cloud storage where the file should be saved.
            check_conflict: As in `upload_file`.
            callback: Receives the progress.
            properties: The properties of the object.
            **named: Properties by name, such as ``content_type="application/json"``.

        Raises:
            FileExistsError: If check_conflict is True and the remote object already exists.
            RuntimeError: If the upload fails.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("upload"))

    def copy_file(self, source: str, target: str, *, check_conflict: bool = False) -> str:
        """Copy a file within the cloud storage.

        Args:
            source: Path of the file in the cloud storage.
            target: Path of the copy.
            check_conflict: When True, fail atomically if the target exists.

        Raises:
            FileNotFoundError: If the source does not exist.
            FileExistsError: If check_conflict is True and the target exists.
            RuntimeError: If the copy fails.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("copy_file"))

    def move_file(self, source: str, target: str, *, check_conflict: bool = False) -> str:
        """Move a file within the cloud storage.

        Args:
            source: Path of the file in the cloud storage.
            target: Its new path.
            check_conflict: When True, fail atomically if the target exists.

        Raises:
            FileNotFoundError: If the source does not exist.
            FileExistsError: If check_conflict is True and the target exists.
            RuntimeError: If the move fails.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("move_file"))

    def presign(self, remote_path: str, *, expires: float | timedelta = 3600, method: str = "GET") -> str:
        """An https URL with which anyone can read or write a file for some time, without credentials.

        Args:
            remote_path: Path in the cloud storage.
            expires: Seconds, or a timedelta.
            method: ``"GET"`` or ``"PUT"``.

        Raises:
            RuntimeError: If the store or the credentials cannot make such a URL.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("presign"))

    def close(self) -> None:  # noqa: B027 - most clients of third parties have nothing to close
        """Close idle connections. The client can be used again, and then opens new ones. By default nothing is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def url(self, remote_path: str) -> str:
        """The URL of a file, whether it exists or not. `upload_file` returns the same URL.

        Args:
            remote_path: Path in the cloud storage.

        Raises:
            ValueError: If the path is not valid.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("url"))

    def open(self, remote_path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open a file in cloud storage as a Python file object.

        Args:
            remote_path: Path in the cloud storage.
            mode: As for the built-in `open`.
            **kwargs: Options of the client's filesystem.

        Raises:
            FileNotFoundError: If the file is opened for reading and does not exist.
            FileExistsError: If the mode is exclusive (``"x"``) and the file exists.
            RuntimeError: If the store refuses or cannot be reached.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("open"))

    def info(self, remote_path: str) -> ObjectInfo:
        """Size, ETag, time, checksum and metadata of a file, as the store has them now.

        Args:
            remote_path: Path in the cloud storage.

        Raises:
            FileNotFoundError: If the file does not exist.
            RuntimeError: If the request fails.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("info"))

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All files under paths that begin with a prefix, in key order.

        Args:
            prefix: Beginning of a path; all files of the client if empty.

        Raises:
            RuntimeError: If listing fails.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("list_files"))

    def list_folder(self, folder: str = "") -> Iterator[ObjectInfo | str]:
        """The files directly in a folder, and the URLs of the folders in it, which end with ``/``.

        Args:
            folder: Path of the folder; the client's own prefix if empty.

        Raises:
            RuntimeError: If listing fails.
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("list_folder"))

    def upload_dir(
        self, local_dir: str | os.PathLike[str], remote_dir: str, **options: Unpack[TransferOptions]
    ) -> FolderResult:
        """Upload the files of a folder that differ from those there, by size and checksum.

        Arguments, result and errors are those of `FsspecStorageClient.upload_dir`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("upload_dir"))

    def download_dir(
        self, remote_dir: str, local_dir: str | os.PathLike[str], **options: Unpack[TransferOptions]
    ) -> FolderResult:
        """Download the files of a folder that differ from the local ones, by size and checksum.

        Arguments, result and errors are those of `FsspecStorageClient.download_dir`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("download_dir"))

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

        Arguments, result and errors are those of `FsspecStorageClient.sync_dir`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("sync_dir"))

    def copy_dir(self, source_dir: str, target_dir: str, **options: Unpack[TransferOptions]) -> FolderResult:
        """Copy the files of a folder that differ from those of another folder of the store.

        Arguments, result and errors are those of `FsspecStorageClient.copy_dir`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("copy_dir"))

    def delete_dir(self, remote_dir: str, **options: Unpack[FolderOptions]) -> FolderResult:
        """Delete the files of a folder.

        Arguments, result and errors are those of `FsspecStorageClient.delete_dir`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("delete_dir"))

    def check_dir(
        self,
        source: str | os.PathLike[str] | RemoteFolder,
        target: str | os.PathLike[str] | RemoteFolder,
        **options: Unpack[TransferOptions],
    ) -> Plan:
        """Compare two folders, by size and checksum; nothing moves.

        Arguments, result and errors are those of `FsspecStorageClient.check_dir`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("check_dir"))

    def apply_plan(self, plan: Plan, **options: Unpack[ApplyOptions]) -> FolderResult:
        """Run a plan that was made before, by a dry run or by `check_dir`.

        Arguments, result and errors are those of `FsspecStorageClient.apply_plan`.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("apply_plan"))

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem of the same store.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("filesystem"))

    @property
    def storage_options(self) -> dict[str, Any]:
        """The ``storage_options`` that pandas, torch and dask need beside a URL.

        Raises:
            NotImplementedError: If the client implements the four abstract methods only.
        """
        raise NotImplementedError(self._lacks("storage_options"))

    def _lacks(self, name: str) -> str:
        return f"{type(self).__name__} implements only the four abstract methods, not {name!r}; FsspecStorageClient has it"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloudStorageClient):
            return NotImplemented
        return type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))

    def __repr__(self) -> str:
        # Any key of a third party's config may be a secret, so no value is shown.
        keys = ", ".join(sorted(getattr(self, "config", {})))
        return f"{type(self).__name__}(config keys: {keys})"

    def _identity(self) -> object:
        """A hashable value that is equal for equal clients of one class."""
        return tuple(sorted(getattr(self, "config", {}).items()))
