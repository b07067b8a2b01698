"""`CloudStorageClient`: the documented interface that all providers implement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Dict  # noqa: UP035 - the documented signatures say Dict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fsspec import AbstractFileSystem

    from gllm_storage.info import ObjectInfo


class CloudStorageClient(ABC):
    """Abstract base class for cloud storage clients.

    This class defines the interface that all cloud storage implementations must follow. It provides methods for uploading
    and downloading files from cloud storage services.

    A third party implements the four abstract verbs and nothing else. What stands below them (`url`, `open`, `info`,
    `list_files`, `list_folder`, `filesystem`, `storage_options`) then raises `NotImplementedError`; `FsspecStorageClient`
    has all of it.
    """

    def __init__(self, config: Dict[str, str]) -> None:  # noqa: UP006 - as documented
        """Initialize the cloud storage client with provider-specific configuration.

        Args:
            config: Configuration parameters for the storage client. The exact keys will depend on the specific cloud
                provider implementation.
        """
        self.config: dict[str, str] = dict(config)

    @staticmethod
    def get_storage_client(provider: str, config: Dict[str, str]) -> CloudStorageClient:  # noqa: UP006 - as documented
        """Factory method to get the appropriate storage client.

        Args:
            provider: The storage provider to use (e.g., "s3", "gcs", "azure").
            config: Configuration for the storage client.

        Returns:
            The storage client for the specified provider.

        Raises:
            ValueError: If the provider is not supported.
        """
        from gllm_storage.registry import CloudStorageRegistry  # noqa: PLC0415 - the registry knows the clients

        return CloudStorageRegistry.get_client(provider, config)

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

    def url(self, remote_path: str) -> str:
        """The URL of a file, whether it exists or not; `upload_file` returns the same."""
        raise self._only_verbs("url")

    def open(self, remote_path: str, mode: str = "rb", **kwargs: Any) -> Any:
        """Open a file in cloud storage as a Python file object."""
        raise self._only_verbs("open")

    def info(self, remote_path: str) -> ObjectInfo:
        """What the store knows of a file now."""
        raise self._only_verbs("info")

    def list_files(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All files whose path begins with `prefix`, in key order."""
        raise self._only_verbs("list_files")

    def list_folder(self, folder: str = "") -> Iterator[ObjectInfo | str]:
        """What is directly in a folder: objects, and URLs of folders, which end with ``/``."""
        raise self._only_verbs("list_folder")

    @property
    def filesystem(self) -> AbstractFileSystem:
        """The fsspec filesystem that the client uses."""
        raise self._only_verbs("filesystem")

    @property
    def storage_options(self) -> dict[str, Any]:
        """What pandas, torch and dask need beside a URL."""
        raise self._only_verbs("storage_options")

    def _only_verbs(self, name: str) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} has the four verbs only, and no {name}; FsspecStorageClient has it"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CloudStorageClient):
            return NotImplemented
        return type(self) is type(other) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash((type(self), self._identity()))

    def __repr__(self) -> str:
        # Which of an unknown provider's keys are secrets, nobody knows: show none of the values.
        keys = ", ".join(sorted(getattr(self, "config", {})))
        return f"{type(self).__name__}(config keys: {keys})"

    def _identity(self) -> object:
        """What makes two clients of one class equal; hashable."""
        return tuple(sorted(getattr(self, "config", {}).items()))
