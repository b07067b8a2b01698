"""`WebDAVClient` and `WebDAVFileSystem`: the two faces of `WebDAVStore`, which the entry points name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Dict  # noqa: UP035 - the documented signatures say Dict
from urllib.parse import urlsplit

from gllm_storage import FsspecStorageClient
from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.paths import Location, clean_prefix
from gllm_storage.settings import TransferSettings, count, describe, flag, parse_config, setting, size, text

from .store import FORBIDDEN, WebDAVStore

if TYPE_CHECKING:
    from gllm_storage.store.port import ObjectStore


@dataclass(frozen=True)
class WebDAVSettings:
    """The config. `parse_config` reports all wrong keys and values in one error."""

    url: str = setting(text)
    username: str = setting(text, default="")
    password: str = setting(text, default="", secret=True)
    tls: bool = setting(flag, default=False)
    part_size: int = setting(size, default=TransferSettings.part_size)
    max_attempts: int = setting(count, default=TransferSettings.max_attempts)

    def store(self, server: str) -> WebDAVStore:
        """The store of a server, ``"host:port"``."""
        return WebDAVStore(
            f"{'https' if self.tls else 'http'}://{server}",
            f"webdav://{server}",
            (self.username, self.password) if self.username else None,
            TransferSettings(part_size=self.part_size, multipart_threshold=self.part_size, max_attempts=self.max_attempts),
        )


class WebDAVClient(FsspecStorageClient):
    """A folder of a WebDAV server.

    Example:
        >>> client = get_storage_client("webdav", {"url": "webdav://dav.example.com/models", "tls": "true"})
    """

    provider: ClassVar[str] = "webdav"
    settings_class = WebDAVSettings

    def read_config(self, config: Dict[str, str]) -> Location:  # noqa: UP006 - as documented
        """Read the config.

        Raises:
            ValueError: If a key or value is wrong.
        """
        self.settings = parse_config(WebDAVSettings, self.provider, config)
        parts = urlsplit(self.settings.url)
        if parts.scheme != "webdav" or not parts.netloc or "@" in parts.netloc:
            raise ValueError("webdav config: url must be such as 'webdav://host:port/folder'; the password has its own key")
        self.server = parts.netloc
        return Location("webdav", f"{self.server}/", clean_prefix(parts.path), forbidden=FORBIDDEN)

    def make_store(self) -> ObjectStore:
        """The store of the verbs."""
        return self.settings.store(self.server)

    def make_filesystem(self) -> WebDAVFileSystem:
        """The filesystem, with the store of the verbs."""
        filesystem = WebDAVFileSystem(**self.storage_options, skip_instance_cache=True)
        filesystem.stores[self.server] = self.store
        return filesystem

    def _described(self) -> str:
        return describe(self.settings)


class WebDAVFileSystem(StoreFileSystem):
    """``webdav://host:port/path`` for fsspec; the bucket is the server.

    Args:
        **options: The keys of the config, except ``url``.
    """

    provider: ClassVar[str] = "webdav"
    scheme: ClassVar[str] = "webdav"
    protocol: Any = "webdav"

    def __init__(self, *args: Any, **options: Any) -> None:
        names = WebDAVClient.config_keys()
        given = {name: str(options.pop(name)) for name in names if name in options}
        super().__init__(*args, **options)
        self._settings = parse_config(WebDAVSettings, "webdav", {"url": "webdav://", **given})
        self.stores: dict[str, ObjectStore] = {}

    def bucket_store(self, bucket: str) -> ObjectStore:
        """The store of a server."""
        return self.stores.get(bucket) or self.stores.setdefault(bucket, self._settings.store(bucket))
