"""`MemoryStorageClient`: the verbs on the memory of this process, for tests and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Dict

from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.paths import Location, clean_prefix, split_url
from gllm_storage.settings import TransferSettings, describe, disk_options_of, flag, parse_config, setting

if TYPE_CHECKING:
    from gllm_storage.memory.filesystem import MemoryFileSystem
    from gllm_storage.memory.store import MemoryStore


def _bucket(value: str) -> str:
    if "/" in value.strip("/"):
        raise ValueError("must not contain '/'; put the rest into prefix")
    return clean_prefix(value)


@dataclass(frozen=True)
class MemorySettings:
    """Settings of a store in memory.

    Attributes:
        bucket_name: First segment of every path; may be left out.
        prefix: Prefix of relative remote paths.
        publish_on_error: As in `TransferSettings`.
        fsync: As in `TransferSettings`.
        sync_source: As in `TransferSettings`.
    """

    bucket_name: str = setting(_bucket, default="")
    prefix: str = setting(clean_prefix, default="")
    publish_on_error: bool = setting(flag, default=False)
    fsync: bool = setting(flag, default=True)
    sync_source: bool = setting(flag, default=False)


class MemoryStorageClient(FsspecStorageClient):
    """Storage client on the memory of this process, which it shares with fsspec; URLs are ``memory://…``.

    Examples:
        >>> from gllm_storage import MemoryStorageClient
        >>> client = MemoryStorageClient({"bucket_name": "models"})
        >>> with client.open("v3/config.json", "x") as file:
        ...     _ = file.write("{}")
        >>> client.file_exists("v3/config.json")
        True
    """

    provider: ClassVar[str] = "memory"
    settings_class = MemorySettings

    def __init__(self, config: Dict[str, str]) -> None:
        """Initialize the client.

        Args:
            config: Configuration parameters, all optional:

                - bucket_name: First segment of every path.
                - prefix: Optional prefix (folder) within it.
                - publish_on_error: ``"true"`` lets `close` of a written file publish also at the end of a ``with`` block
                  that failed. Default ``"false"``: nothing is stored then.
                - fsync: Whether a downloaded file is on the disk when the call returns; without it, a power cut can leave
                  zeros under its name. Default ``"true"``.
                - sync_source: Whether the dirty pages of a file are written to the disk before its upload, so that a write
                  by mmap meanwhile is noticed. Default ``"false"``.

        Raises:
            ValueError: If the configuration is wrong: one error that names all mistakes.
        """
        super().__init__(config)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``memory://bucket/prefix`` stands for.

        Raises:
            ValueError: If it is not a URL.
        """
        bucket, _, prefix = split_url(url)[1].lstrip("/").partition("/")
        return {name: value for name, value in (("bucket_name", bucket), ("prefix", prefix)) if value}

    @property
    def storage_options(self) -> dict[str, Any]:
        """Only ``fsync`` and ``sync_source``, if they differ from their defaults: a ``memory://`` URL needs no options."""
        return disk_options_of(self.settings)

    def read_config(self, config: Dict[str, str]) -> Location:
        """Read the settings.

        Raises:
            ValueError: If the config is wrong: one error that names all mistakes.
        """
        self.settings = parse_config(MemorySettings, self.provider, config)
        base = f"{self.settings.bucket_name}/" if self.settings.bucket_name else ""
        return Location("memory", base, self.settings.prefix)

    def make_store(self) -> MemoryStore:
        """The objects of the bucket, in the memory that all filesystems of fsspec share."""
        from fsspec.implementations.memory import MemoryFileSystem

        from gllm_storage.memory.store import MemoryStore  # it imports fsspec

        settings = TransferSettings(publish_on_error=self.settings.publish_on_error, **disk_options_of(self.settings))
        return MemoryStore(MemoryFileSystem(), self.settings.bucket_name, settings)

    def make_filesystem(self) -> MemoryFileSystem:
        """The memory filesystem of fsspec, which writes by the store of the client."""
        from gllm_storage.memory.filesystem import MemoryFileSystem  # it imports fsspec

        filesystem = MemoryFileSystem(skip_instance_cache=True, **self.storage_options)
        filesystem.use_store(self.store)
        return filesystem

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
