"""The list of providers: their names, URL schemes, extras, clients and filesystems.

A class is named by a dotted string and imported on first use, so that a provider costs nothing where it is not used.
Other packages announce providers in the entry-point group ``gllm_storage.providers``, as ``name = "package.module:Client"``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Dict, Type

from gllm_storage.client import CloudStorageClient
from gllm_storage.paths import split_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from importlib.metadata import EntryPoint, EntryPoints

ENTRY_POINTS = "gllm_storage.providers"
"""The entry-point group in which packages announce providers."""


@dataclass(frozen=True)
class Provider:
    """A built-in provider.

    Attributes:
        name: Its name, which is also a URL scheme.
        client: The client class, as ``"package.module:Class"``.
        filesystem: The fsspec filesystem class, likewise; empty if it is fsspec's own.
        aliases: Other names, which are also URL schemes.
        protocols: The fsspec protocols that `register_filesystems` gives to the filesystem.
        extra: The extra that installs the packages of the provider; empty if it needs none.
        modules: Modules that the extra installs.
    """

    name: str
    client: str
    filesystem: str = ""
    aliases: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    extra: str = ""
    modules: tuple[str, ...] = ()

    def require_installed(self) -> None:
        """Check that the packages of the provider are installed.

        Raises:
            ImportError: If one is missing; the message names the command that installs it.
        """
        from gllm_storage.settings import require_extra  # it takes 4 ms to import, and the package 23

        require_extra(self.extra, *self.modules)


PROVIDERS = (
    Provider(
        name="s3",
        client="gllm_storage.s3.client:S3StorageClient",
        filesystem="gllm_storage.s3.filesystem:S3FileSystem",
        aliases=("s3a",),
        protocols=("s3", "s3a"),
        extra="s3",
        modules=("s3fs",),
    ),
    Provider(
        name="gcs",
        client="gllm_storage.gcs.client:GCSStorageClient",
        filesystem="gllm_storage.gcs.filesystem:GCSFileSystem",
        aliases=("gs",),
        protocols=("gs", "gcs"),
        extra="gcs",
        modules=("gcsfs",),
    ),
    Provider(
        name="azure",
        client="gllm_storage.azure.client:AzureStorageClient",
        filesystem="gllm_storage.azure.filesystem:AzureBlobFileSystem",
        aliases=("abfs", "abfss", "az"),
        protocols=("az", "abfs", "abfss"),
        extra="azure",
        modules=("adlfs", "azure.storage.blob"),
    ),
    Provider(
        name="file",
        client="gllm_storage.local.client:LocalStorageClient",
        filesystem="gllm_storage.local.filesystem:LocalStoreFileSystem",
        aliases=("local",),
    ),
    Provider(
        name="memory",
        client="gllm_storage.memory.client:MemoryStorageClient",
        filesystem="gllm_storage.memory.filesystem:MemoryFileSystem",
    ),
    Provider(name="fsspec", client="gllm_storage.fsspec_client:FsspecStorageClient"),
)
"""All built-in providers. A new one is one entry here."""

BUILT_IN = {each.name: each for each in PROVIDERS}
"""The built-in providers by name."""
_NAMES = {alias: each.name for each in PROVIDERS for alias in each.aliases}
_OF_PROTOCOL = {protocol: each for each in PROVIDERS for protocol in each.protocols}


class CloudStorageRegistry:
    """Registry for available cloud storage clients.

    Names are case-insensitive, and some have aliases: ``local`` is ``file``, ``gs`` is ``gcs``, ``az`` and ``abfs`` are
    ``azure``. A class given to `register` comes before the built-in provider of that name, and the built-in providers come
    before the providers that installed packages announce in the entry-point group ``gllm_storage.providers``.
    """

    _registered: ClassVar[dict[str, type[CloudStorageClient]]] = {}

    @classmethod
    def register(cls, provider: str, client_class: Type[CloudStorageClient]) -> None:
        """Register a cloud storage client class.

        Args:
            provider: Identifier for the storage provider (e.g., "s3", "gcs", "azure").
            client_class: The storage client class.

        Raises:
            ValueError: If `provider` is not a name.
            TypeError: If `client_class` is not a subclass of `CloudStorageClient`.

        Examples:
            >>> from gllm_storage import CloudStorageRegistry, MemoryStorageClient
            >>> class TapeClient(MemoryStorageClient):
            ...     provider = "tape"
            >>> CloudStorageRegistry.register("tape", TapeClient)
        """
        if not (isinstance(client_class, type) and issubclass(client_class, CloudStorageClient)):
            raise TypeError(f"{client_class!r} is not a subclass of CloudStorageClient")
        cls._registered[_canonical(provider)] = client_class

    @classmethod
    def get_client(cls, provider: str, config: Dict[str, str]) -> CloudStorageClient:
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
        return sorted({*cls._registered, *BUILT_IN, *announced})

    @classmethod
    def aliases(cls, provider: str) -> tuple[str, ...]:
        """Other names of a provider, sorted.

        Args:
            provider: Name of the storage provider, or an alias.

        Raises:
            ValueError: If it is not a name.
        """
        name = _canonical(provider)
        return BUILT_IN[name].aliases if name in BUILT_IN else ()

    @classmethod
    def client_class(cls, provider: str) -> type[CloudStorageClient]:
        """The client class of a provider.

        Args:
            provider: Name of the storage provider.

        Raises:
            ValueError: If the provider name is not recognized, or a package announces something that is not a client class.
        """
        name = _canonical(provider)
        if name in cls._registered:
            return cls._registered[name]
        if name in BUILT_IN:
            found: type[CloudStorageClient] = _imported(BUILT_IN[name].client)
            return found
        for each in _announced():
            if _canonical(each.name) == name:
                return _load(each)
        raise ValueError(f"unknown storage provider {provider!r}; known are: {', '.join(_described(cls))}")


def get_storage_client(provider: str, config: Dict[str, str]) -> CloudStorageClient:
    """Get a storage client instance by provider type.

    Args:
        provider: The type of storage provider.
        config: Configuration parameters for the storage client.

    Returns:
        A storage client instance.

    Raises:
        ValueError: If the provider name is not recognized, or the config is wrong.

    Examples:
        >>> from gllm_storage import get_storage_client
        >>> client = get_storage_client("file", {"root": "/data/models"})
        >>> client.url("v3/model.safetensors")
        'file:///data/models/v3/model.safetensors'
    """
    return CloudStorageRegistry.get_client(provider, config)


def storage_client_from_url(url: str, config: Mapping[str, Any] | None = None) -> CloudStorageClient:
    """Get a storage client by URL: the scheme selects the provider, the rest names the bucket or folder, and the prefix.

    Args:
        url: Such as ``"s3://bucket/prefix"``, ``"file:///data/models"``, ``"memory://bucket/prefix"``; any other protocol
            that fsspec knows selects the provider ``fsspec``.
        config: Further configuration parameters, as for `get_storage_client`.

    Returns:
        A storage client that stores below the URL.

    Raises:
        ValueError: If the URL is not a URL, its scheme is unknown, or the config is wrong or contradicts the URL.

    Examples:
        >>> from gllm_storage import storage_client_from_url
        >>> storage_client_from_url("memory://models/team-a").url("model.bin")
        'memory://models/team-a/model.bin'
    """
    # On first use, as every provider: the verbs take longer to import than the rest of the package.
    from gllm_storage.fsspec_client import FsspecStorageClient, is_fsspec_protocol
    from gllm_storage.settings import as_strings

    scheme, _ = split_url(url)
    client_class: type[CloudStorageClient] = FsspecStorageClient
    try:
        client_class = CloudStorageRegistry.client_class(scheme)
    except ValueError:
        if not is_fsspec_protocol(scheme):
            known = ", ".join(CloudStorageRegistry.list_available_providers())
            raise ValueError(
                f"unknown URL scheme {scheme!r}: neither a storage provider ({known}) nor a protocol that fsspec knows"
            ) from None
    if not issubclass(client_class, FsspecStorageClient):
        # A ValueError, not a TypeError: the URL is wrong, not the type of an argument.
        raise ValueError(f"provider {scheme!r} cannot be made from a URL; use get_storage_client({scheme!r}, config)")
    from_url = client_class.config_from_url(url)
    given = dict(config or {})
    if client_class.settings_class is not None:
        given = as_strings(client_class.settings_class, given)
    for key in from_url.keys() & given.keys():
        if given[key] != from_url[key]:
            raise ValueError(f"config {key}={given[key]!r} contradicts the URL {url!r}; leave it out")
    return client_class({**given, **from_url})


def register_filesystems(*protocols: str) -> list[str]:
    """Let ``fsspec.open``, pandas, torch, dask, … open URLs by the filesystems of this library, in this process.

    Other processes are not affected, except for processes forked afterwards: call it in each worker that is started in
    another way, or install ``gllm-storage-fsspec`` (docs/workers.md). Filesystems made earlier stay as they are. The SDKs
    are imported when the first URL is opened.

    Args:
        *protocols: ``"s3"``, ``"s3a"``, ``"gs"``, ``"gcs"``, ``"az"``, ``"abfs"``, ``"abfss"``. Default: all whose extra is
            installed.

    Returns:
        The protocols that are registered now.

    Raises:
        ValueError: If the library has no filesystem for a named protocol.
        ImportError: If the extra of a named protocol is not installed; the message names the command that installs it.

    Examples:
        >>> import gllm_storage, pandas
        >>> gllm_storage.register_filesystems("s3")  # doctest: +SKIP
        ['s3']
        >>> pandas.read_parquet("s3://models/losses.parquet")  # doctest: +SKIP
    """
    for protocol in protocols:
        if protocol not in _OF_PROTOCOL:
            raise ValueError(f"gllm_storage has no filesystem for protocol {protocol!r}, only for {', '.join(_OF_PROTOCOL)}")
        _OF_PROTOCOL[protocol].require_installed()
    chosen = protocols or tuple(protocol for protocol, each in _OF_PROTOCOL.items() if _is_installed(each))
    for protocol in chosen:
        _register_filesystem(protocol)
    return list(chosen)


def _register_filesystem(protocol: str) -> None:
    from fsspec.registry import register_implementation, registry

    provider = _OF_PROTOCOL[protocol]
    if protocol in registry:  # a class that was used already comes before a name
        register_implementation(protocol, _imported(provider.filesystem), clobber=True)
        return
    # By name: the SDKs of all clouds take a second to import, and a worker needs one of them, or none.
    name = provider.filesystem.replace(":", ".")
    register_implementation(protocol, name, clobber=True, errtxt=f"{name} cannot be imported for {protocol}://")


def _is_installed(provider: Provider) -> bool:
    try:
        provider.require_installed()
    except ImportError:
        return False
    return True


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _announced() -> EntryPoints:
    from importlib.metadata import entry_points  # it takes half as long to import as the package does

    return entry_points(group=ENTRY_POINTS)


def _canonical(provider: str) -> str:
    if not (isinstance(provider, str) and provider.strip()):
        raise ValueError(f"a storage provider is named by a string, such as 's3', not {provider!r}")
    name = provider.strip().lower()
    return _NAMES.get(name, name)


def _described(registry: type[CloudStorageRegistry]) -> list[str]:
    """The names of all providers, with their aliases."""
    shown = []
    for name in registry.list_available_providers():
        aliases = registry.aliases(name)
        shown.append(f"{name} ({', '.join(aliases)})" if aliases else name)
    return shown


def _load(announced: EntryPoint) -> type[CloudStorageClient]:
    what = f"storage provider {announced.name!r}, announced as {announced.value!r},"
    try:
        found = announced.load()
    except Exception as error:  # importing another package's module may raise anything
        raise ValueError(f"{what} cannot be loaded: {error}") from error
    if isinstance(found, type) and issubclass(found, CloudStorageClient):
        return found
    raise ValueError(f"{what} is not a subclass of CloudStorageClient")
