"""`LocalStorageClient`: the verbs on a local folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Dict

from gllm_storage.fsspec_client import FsspecStorageClient
from gllm_storage.local.store import LocalStore
from gllm_storage.paths import Location, clean_prefix, split_url
from gllm_storage.settings import TransferSettings, describe, disk_options_of, flag, parse_config, setting, text

if TYPE_CHECKING:
    from gllm_storage.local.filesystem import LocalStoreFileSystem


def _folder(value: str) -> str:
    folder = os.path.abspath(os.path.expanduser(text(value)))
    if "::" in folder or "\0" in folder:
        raise ValueError("contains '::' or a null character, which no fsspec URL can carry")
    return folder


@dataclass(frozen=True)
class LocalSettings:
    """Settings of a local folder.

    Attributes:
        root: The folder, absolute; ``~`` is expanded. The first upload makes it.
        prefix: Prefix of relative remote paths.
        publish_on_error: As in `TransferSettings`.
        fsync: As in `TransferSettings`.
        sync_source: As in `TransferSettings`.
    """

    root: str = setting(_folder, natural=os.PathLike)
    prefix: str = setting(clean_prefix, default="")
    publish_on_error: bool = setting(flag, default=False)
    fsync: bool = setting(flag, default=True)
    sync_source: bool = setting(flag, default=False)


class LocalStorageClient(FsspecStorageClient):
    """Storage client on a local folder, such as a shared file system.

    Exclusive creates are atomic (by a hard link, or ``renameat2``), files appear when they are complete, and URLs are
    ``file:///…``.

    Examples:
        >>> from gllm_storage import LocalStorageClient
        >>> client = LocalStorageClient({"root": "/data/models", "prefix": "team-a"})
        >>> client.url("v3/model.safetensors")
        'file:///data/models/team-a/v3/model.safetensors'
    """

    provider: ClassVar[str] = "file"
    settings_class = LocalSettings

    def __init__(self, config: Dict[str, str]) -> None:
        """Initialize the client.

        Args:
            config: Configuration parameters:

                - root: The folder.
                - prefix: Optional prefix (folder) within it.
                - publish_on_error: ``"true"`` lets `close` of a written file publish also at the end of a ``with`` block
                  that failed. Default ``"false"``: nothing is stored then.
                - fsync: Whether a stored or downloaded file is on the disk when the call returns; without it, a power cut
                  can leave zeros under its name. Default ``"true"``.
                - sync_source: Whether the dirty pages of a file are written to the disk before its upload, so that a write
                  by mmap meanwhile is noticed. Default ``"false"``.

        Raises:
            ValueError: If the configuration is wrong: one error that names all mistakes.
        """
        super().__init__(config)

    @classmethod
    def config_from_url(cls, url: str) -> dict[str, str]:
        """The config that ``file:///folder`` stands for.

        Raises:
            ValueError: If the URL does not name an absolute folder.
        """
        _, folder = split_url(url)
        if not folder.startswith("/"):
            raise ValueError(f"{url!r} does not name an absolute folder; write 'file:///data/models', with three slashes")
        return {"root": folder}

    @property
    def storage_options(self) -> dict[str, Any]:
        """Only ``fsync`` and ``sync_source``, if they differ from their defaults: a ``file://`` URL needs no options."""
        return disk_options_of(self.settings)

    def read_config(self, config: Dict[str, str]) -> Location:
        """Read the settings.

        Raises:
            ValueError: If the config is wrong: one error that names all mistakes.
        """
        self.settings = parse_config(LocalSettings, self.provider, config)
        self.config["root"] = self.settings.root  # absolute: a worker with another working directory gets the same folder
        return Location("file", self.settings.root.rstrip("/") + "/", self.settings.prefix, aliases=("local",))

    def make_store(self) -> LocalStore:
        """The files below the folder."""
        settings = TransferSettings(publish_on_error=self.settings.publish_on_error, **disk_options_of(self.settings))
        return LocalStore(self.settings.root, settings)

    def make_filesystem(self) -> LocalStoreFileSystem:
        """The local filesystem of fsspec, which writes by the store of the client."""
        from gllm_storage.local.filesystem import LocalStoreFileSystem

        filesystem = LocalStoreFileSystem(auto_mkdir=True, skip_instance_cache=True, **self.storage_options)
        filesystem.use_store(self.store)
        return filesystem

    def _identity(self) -> object:
        return self.settings

    def _described(self) -> str:
        return describe(self.settings)
