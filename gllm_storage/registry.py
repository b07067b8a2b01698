"""Provider names and URL schemes, and the client classes behind them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, ClassVar, Dict, Type  # noqa: UP035 - the documented signatures say Dict and Type

from gllm_storage.client import CloudStorageClient
from gllm_storage.paths import split_url

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

ENTRY_POINTS = "gllm_storage.providers"
"""The entry-point group by which packages announce providers: ``name = "package.module:ClientClass"``."""

_ALIASES = {
    "local": "file",
    "s3a": "s3",
    "gs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
}
_BUILT_IN = {
    # Loaded on first use: no provider's SDK costs those who do not use it.
    "s3": "gllm_storage.s3.client:S3StorageClient",
    "gcs": "gllm_storage.gcs.client:GCSStorageClient",
    "azure": "gllm_storage.azure.client:AzureStorageClient",
    "file": "gllm_storage.local.client:LocalStorageClient",
    "memory": "gllm_storage.memory.client:MemoryStorageClient",
    "fsspec": "gllm_storage.fsspec_client:FsspecStorageClient",
}


class CloudStorageRegistry:
    """Registry for available cloud storage clients.

    Names are case-insensitive, and some have aliases: ``local`` is ``file``, ``gs`` is ``gcs``, ``az`` and ``abfs`` are
    ``azure``. What was registered by `register` comes before the built-in providers, and these before those that installed
    packages announce in the entry-point group ``gllm_storage.providers``.
    """

    _registered: ClassVar[dict[str, type[CloudStorageClient]]] = {}

    @classmethod
    def register(cls, provider: str, client_class: Type[CloudStorageClient]) -> None:  # noqa: UP006 - as documented
        """Register a cloud storage client class.

        Args:
            provider: Identifier for the storage provider (e.g., "s3", "gcs", "azure").
            client_class: The storage client class.

        Raises:
            ValueError: If `provider` is no name.
            TypeError: If `client_class` is not a subclass of `CloudStorageClient`.
        """
        if not (isinstance(client_class, type) and issubclass(client_class, CloudStorageClient)):
            raise TypeError(f"{client_class!r} is not a subclass of CloudStorageClient")
        cls._registered[_canonical(provider)] = client_class

    @classmethod
    def get_client(cls, provider: str, config: Dict[str, str]) -> CloudStorageClient:  # noqa: UP006 - as documented
        """Get an instantiated storage client by provider name.

        Args:
            provider: Name of the storage provider.
            config: Configuration parameters for the storage client.

        Returns:
            An instance of the storage client.

        Raises:
            ValueError: If the provider name is not recognized, or the config is wrong.
        """
        return cls.client_class(provider)(config)

    @classmethod
    def list_available_providers(cls) -> list[str]:
        """List all registered storage provider names.

        Returns:
            A list of storage provider names, sorted; aliases are not listed.
        """
        announced = {_canonical(each.name) for each in _announced()}
        return sorted({*cls._registered, *_BUILT_IN, *announced})

    @classmethod
    def aliases(cls, provider: str) -> tuple[str, ...]:
        """Other names of a provider, sorted.

        Args:
            provider: Name of the storage provider, or an alias.

        Raises:
            ValueError: If it is no name.
        """
        name = _canonical(provider)
        return tuple(sorted(alias for alias, meant in _ALIASES.items() if meant == name))

    @classmethod
    def client_class(cls, provider: str) -> type[CloudStorageClient]:
        """The client class of a provider.

        Args:
            provider: Name of the storage provider.

        Raises:
            ValueError: If the provider name is not recognized, or what a package announces is no client class.
        """
        name = _canonical(provider)
        if name in cls._registered:
            return cls._registered[name]
        if name in _BUILT_IN:
            module, _, attribute = _BUILT_IN[name].partition(":")
            found: type[CloudStorageClient] = getattr(importlib.import_module(module), attribute)
            return found
        for each in _announced():
            if _canonical(each.name) == name:
                return _load(each)
        raise ValueError(f"unknown storage provider {provider!r}; known are: {', '.join(_names(cls))}")


def get_storage_client(provider: str, config: Dict[str, str]) -> CloudStorageClient:  # noqa: UP006 - as documented
    """Get a storage client instance by provider type.

    Args:
        provider: The type of storage provider.
        config: Configuration parameters for the storage client.

    Returns:
        A storage client instance.

    Raises:
        ValueError: If the provider name is not recognized, or the config is wrong.
    """
    return CloudStorageRegistry.get_client(provider, config)


def storage_client_from_url(url: str, config: dict[str, str] | None = None) -> CloudStorageClient:
    """Get a storage client by URL: the scheme picks the provider, the rest says where it stores.

    Swapping the provider is swapping the URL, nothing else.

    Args:
        url: Such as ``"s3://bucket/prefix"``, ``"file:///data/models"``, ``"memory://bucket/prefix"``; any other protocol
            that fsspec knows goes to the provider ``fsspec``.
        config: Further configuration parameters, as for `get_storage_client`.

    Returns:
        A storage client that stores below the URL.

    Raises:
        ValueError: If the URL is none, its scheme is unknown, or the config is wrong or contradicts the URL.
    """
    from gllm_storage.fsspec_client import FsspecStorageClient  # noqa: PLC0415 - it knows fsspec, which is slow to import

    scheme, _ = split_url(url)
    try:
        client_class = CloudStorageRegistry.client_class(scheme)
    except ValueError:
        client_class = FsspecStorageClient
    if not issubclass(client_class, FsspecStorageClient):
        # A ValueError, not a TypeError: it is the URL that is wrong, not a type that the caller gave.
        raise ValueError(  # noqa: TRY004
            f"provider {scheme!r} cannot be made from a URL; use get_storage_client({scheme!r}, config)"
        )
    from_url = client_class.config_from_url(url)
    given = dict(config or {})
    for key in from_url.keys() & given.keys():
        if given[key] != from_url[key]:
            raise ValueError(f"config {key}={given[key]!r} contradicts the URL {url!r}; leave it out")
    return client_class({**given, **from_url})


def _announced() -> EntryPoints:
    # Imported here: it takes half of the time that importing gllm_storage would.
    from importlib.metadata import entry_points  # noqa: PLC0415

    return entry_points(group=ENTRY_POINTS)


def _canonical(provider: str) -> str:
    if not (isinstance(provider, str) and provider.strip()):
        raise ValueError(f"a storage provider is named by a string, such as 's3', not {provider!r}")
    name = provider.strip().lower()
    return _ALIASES.get(name, name)


def _names(registry: type[CloudStorageRegistry]) -> list[str]:
    shown = []
    for name in registry.list_available_providers():
        aliases = registry.aliases(name)
        shown.append(f"{name} ({', '.join(aliases)})" if aliases else name)
    return shown


def _load(announced: EntryPoint) -> type[CloudStorageClient]:
    what = f"storage provider {announced.name!r}, announced as {announced.value!r},"
    try:
        found = announced.load()
    except Exception as error:  # importing somebody else's module may raise anything
        raise ValueError(f"{what} cannot be loaded: {error}") from error
    if isinstance(found, type) and issubclass(found, CloudStorageClient):
        return found
    raise ValueError(f"{what} is no subclass of CloudStorageClient")
