"""`AzureBlobFileSystem`: adlfs's filesystem on the stores of an account."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from adlfs import AzureBlobFileSystem as _AzureBlobFileSystem
from azure.core.exceptions import AzureError
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.utils import stringify_path

from gllm_storage.azure.account import ACCOUNT_HOSTS
from gllm_storage.azure.connection import AzureConnection, connection_of
from gllm_storage.azure.errors import UnreadableAnswerError, translated
from gllm_storage.azure.listing import checked_listings
from gllm_storage.azure.requests import GARBLED, is_folder
from gllm_storage.azure.upload import content_of, metadata_of
from gllm_storage.concurrency.interrupt import task_of_call
from gllm_storage.concurrency.loops import OfLoop, takes_work
from gllm_storage.errors import OURS, ErrorDetails, ObjectNotFoundError
from gllm_storage.files.target import atomic_target
from gllm_storage.filesystem.base import StoreFileSystem, not_there

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from gllm_storage.azure.store import AzureStore
    from gllm_storage.concurrency.stop import Stop

_CLOSE_SECONDS = 0.5
_OWN_PACKAGES = frozenset({"adlfs", "fsspec", "gllm_storage"})
_IGNORED = frozenset({"batch_size", "chunksize", "delimiter", "max_concurrency", "timeout"})
"""Arguments of adlfs that only concern speed."""
_OF_CONNECTION = frozenset({
    "account_host", "anon", "client_id", "client_secret", "credential", "endpoint_url", "ca_bundle", "access_tier",
    "verify_tls", "sse_customer_key",
    "multipart_threshold", "part_size", "max_attempts", "max_concurrency", "publish_on_error", "sas_token", "tenant_id",
    "connection_timeout", "read_timeout", "fsync", "sync_source", "min_throughput", "total_timeout",
})  # fmt: skip
"""Options that `connection_of` reads, and adlfs does not need."""


class AzureBlobFileSystem(StoreFileSystem, _AzureBlobFileSystem):
    """adlfs's filesystem with the guarantees of this library.

    `StoreFileSystem` describes them. The other methods are adlfs's, with listings that are always fresh.

    Args:
        account_name: Name of the account.
        account_key: Its key.
        connection_string: Names the account, the endpoint and the credentials instead.
        connection: The connection; made from the options if None.
        **options: Further options; adlfs's own are passed to it.

            - sas_token: A shared access signature.
            - tenant_id, client_id, client_secret: A service principal.
            - anon: Whether requests carry no credentials.
            - account_host: Host of the account, if it is not ``ACCOUNT.blob.core.windows.net``.
            - endpoint_url: URL of the account, likewise.
            - ca_bundle: Path of a file with the CA certificates to trust.
            - verify_tls: Whether TLS certificates are verified; False issues a warning. Default True.
            - sse_customer_key: Key of the caller that encrypts and decrypts all blobs: 32 bytes in base64.
            - access_tier: ``"hot"``, ``"cool"``, ``"cold"`` or ``"archive"``, for stored blobs.
            - multipart_threshold: Files of more bytes are uploaded in blocks. Default 16 MiB.
            - part_size: Bytes of a block and of a ranged read. Default 8 MiB.
            - max_concurrency: Blocks of one file at a time. Default 16; adlfs's default is 2500.
            - max_attempts: How often a request is sent at most. Default 5.
            - publish_on_error: Whether a written file appears also if other code closes it at the end of a failed block.
            - connection_timeout: Seconds to wait for a connection. Default 10.
            - read_timeout: Seconds to wait for an answer to begin or to continue. Default 60.
            - fsync: Whether downloaded files are on the disk when the call returns. Default True; see `TransferSettings`.
            - sync_source: Whether files are written to the disk before their upload. Default False.

    Raises:
        ValueError: If no account is named, or the connection string is malformed.

    Examples:
        >>> filesystem = AzureBlobFileSystem(account_name="models", anon=True)
        >>> filesystem.ls("public")
    """

    provider: ClassVar[str] = "azure"
    scheme: ClassVar[str] = "az"
    upstream: ClassVar[bool] = True
    service_client = OfLoop(
        make=lambda filesystem: filesystem.connection.make_async_client(), close=lambda client: client.close()
    )
    _strip_tokenize_options = ("connection",)  # fsspec keeps it out of storage_options, and so out of pickles

    def __init__(
        self,
        account_name: str | None = None,
        account_key: str | None = None,
        connection_string: str | None = None,
        *,
        connection: AzureConnection | None = None,
        **options: Any,
    ) -> None:
        named = {"account_name": account_name, "account_key": account_key, "connection_string": connection_string}
        self.connection = connection or connection_of({**options, **named})
        account = self.connection.account
        of_adlfs = {name: value for name, value in options.items() if name not in _OF_CONNECTION}
        # An entry of a cached listing that another process outdated would make `exists` and `open` answer wrongly.
        of_adlfs.setdefault("use_listings_cache", False)
        # anon=True: adlfs would make credentials of its own, from an environment that may name another account.
        super().__init__(
            account_name=account.name,
            account_key=account.account_key,
            anon=True,
            max_concurrency=self.connection.settings.max_concurrency,
            **of_adlfs,
        )
        self._replace_finalizer()
        self.connection_string, self.sas_token = account.connection_string, account.sas_token
        self.anon = account.anonymous

    def bucket_store(self, bucket: str) -> AzureStore:
        """The store of a container. Sends no request."""
        return self.connection.store(bucket)

    @property
    def async_workers(self) -> int:
        """Coroutines that work at a time."""
        return self.connection.settings.max_concurrency

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """A blob, with the fields that adlfs returns; or a folder of a hierarchical namespace.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If the request fails.
        """
        store = self.bucket_store(bucket)
        found = store.requests.head(key, store.details(key, "info"))
        if is_folder(found.metadata):
            return self.directory(f"{bucket}/{key}")
        return {
            "name": f"{bucket}/{key}",
            "type": "file",
            "size": int(found.size),
            "etag": f'"{str(found.etag).strip(chr(34))}"',
            "last_modified": found.last_modified,
            "creation_time": found.creation_time,
            "content_settings": found.content_settings,
            "metadata": dict(found.metadata or {}),
            "version_id": getattr(found, "version_id", None),
        }

    def _is_folder(self, bucket: str, key: str) -> bool:
        if super()._is_folder(bucket, key):
            return True
        return self._is_folder_blob(bucket, key)

    def _is_folder_blob(self, bucket: str, key: str) -> bool:
        """Whether a key is a folder of a hierarchical namespace: a blob with a mark in its metadata."""
        store = self.bucket_store(bucket)
        try:
            return is_folder(store.requests.head(key, store.details(key, "info")).metadata)
        except ObjectNotFoundError:
            return False

    def write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read adlfs's arguments of a write.

        Raises:
            TypeError: If an argument is unknown.
            ValueError: If Azure does not accept the metadata or content settings.
        """
        given = {name: value for name, value in kwargs.items() if name not in _IGNORED and value is not None}
        exclusive = not given.pop("overwrite", True) or exclusive
        content = content_of(given.pop("content_settings", {}))
        options = {"metadata": metadata_of(given.pop("metadata", {})), "content": content}
        if given:
            raise TypeError(f"unknown arguments: {', '.join(sorted(given))}")
        return exclusive, options

    @contextlib.contextmanager
    def translated_upstream(self, path: Any, operation: str) -> Iterator[None]:
        """Raise errors of this library in place of adlfs's."""
        for each in path if isinstance(path, (list, tuple, set)) else [path]:
            self._without_protocol(stringify_path(each))  # refuses URLs of another account, which adlfs would not notice
        url = f"az://{self._strip_protocol(path)}" if isinstance(path, str) else "az://"
        with translated(ErrorDetails(self.provider, url, operation)), checked_listings():
            try:
                yield
            except (*OURS, UnreadableAnswerError, AzureError):
                raise
            except GARBLED as error:
                if _is_of_caller(error):
                    raise
                raise UnreadableAnswerError(f"{type(error).__name__}: {error}") from error
            except RuntimeError as error:  # adlfs's, after a failure to delete several blobs
                cause = error.__cause__
                if isinstance(cause, (*OURS, AzureError)):
                    raise cause from cause.__cause__
                raise

    def after_fork(self) -> None:
        """Make adlfs's client anew, in a forked child."""
        self.do_connect()

    def do_connect(self) -> None:
        """Make adlfs's client, for the same account and with the same credentials as the stores."""
        self.service_client = self.connection.make_async_client()
        self.account_url = self.service_client.url

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """A blob, a prefix or a container; or a version of a blob, which the path or ``version_id`` names.

        Raises:
            ObjectNotFoundError: If neither a blob nor a prefix exists, or the version does not exist.
            StorageError: If the request fails.
        """
        if not self._names_version(path, kwargs):
            return super().info(path)
        of_version: dict[str, Any] = sync(self.loop, self._info, path, **kwargs)
        return of_version

    async def _info(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if not self._names_version(path, kwargs):
            return await super()._info(path, *args, **kwargs)
        container, blob, _ = self.split_path(path)
        try:
            with self.translated_upstream(path, "info"):
                of_version: dict[str, Any] = await super()._info(path, *args, **kwargs)
                return of_version
        except FileNotFoundError as error:
            if isinstance(error, OURS):
                raise
            raise not_there(self._error_details(container, blob, "info")) from error

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        """Download a blob; see `StoreFileSystem.get_file`. The path may name a version of it.

        Raises:
            ObjectNotFoundError: If the blob, or that version of it, does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; the local file is unchanged then.
        """
        if self._names_version(rpath, {}):
            sync(self.loop, self._get_file, rpath, lpath, callback=callback, **kwargs)
        else:
            super().get_file(rpath, lpath, callback, **kwargs)

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **kwargs: Any) -> None:
        if not self._names_version(rpath, {}):
            await super()._get_file(rpath, lpath, callback, **kwargs)
            return
        details = self._error_details(*self._place(rpath), "download")
        durable = self.connection.settings.fsync
        with (
            task_of_call(),
            self.translated_upstream(rpath, "download"),
            atomic_target(os.fspath(lpath), details, durable=durable) as target,
        ):
            try:
                await _AzureBlobFileSystem._get_file(self, rpath, target.temporary, callback=callback or DEFAULT_CALLBACK)  # noqa: SLF001 - adlfs's own download
            except FileNotFoundError as error:  # adlfs's, for a missing version as well
                raise not_there(details) from error

    def open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Open a blob, as `StoreFileSystem` does.

        Raises:
            ValueError: If the path is a URL of another account.
        """
        return super().open(self._without_protocol(stringify_path(path)), *args, **kwargs)

    def _without_protocol(self, path: str) -> str:
        path = super()._without_protocol(path)
        host, rest = _host_of(path)
        account = self.connection.account.name
        if host and account and host.partition(".")[0] != account:
            raise ValueError(f"{path!r} is not in the account {account!r} of this filesystem")
        return rest

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A path without its scheme, otherwise unchanged: adlfs would parse ``#`` and ``?`` of a key as parts of a URL."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = str(path)
        protocols = (cls.protocol,) if isinstance(cls.protocol, str) else cls.protocol
        start = next((f"{name}://" for name in protocols if path.startswith(f"{name}://")), "")
        path = path.removeprefix(start)
        return (_host_of(path)[1] if start else path).strip("/")

    def _delete_objects(self, places: list[tuple[str, str]], stop: Stop) -> list[str]:
        # The store does not delete a folder of a hierarchical namespace before its content.
        above = {(bucket, key[: each.start()]) for bucket, key in places for each in re.finditer("/", key)}
        levels: dict[int, list[tuple[str, str]]] = {}
        for place in places:
            levels.setdefault(place[1].count("/") if place in above else sys.maxsize, []).append(place)
        deleted = []
        for level in sorted(levels, reverse=True):
            deleted += super()._delete_objects(levels[level], stop)
        return deleted

    async def _places_below(self, path: str, maxdepth: int | None) -> list[tuple[str, str]]:
        found = await self._find(path, maxdepth=maxdepth, withdirs=True, detail=True)
        # The folders of a hierarchical namespace are blobs; the others are only parts of names.
        return [self._split(name) for name, each in found.items() if each["type"] == "file" or "metadata" in each]

    def _may_exist(self, path: str, *, unknown: bool) -> bool:
        return super()._may_exist(path, unknown=unknown) or self._is_folder_blob(*self._split(path))

    async def _rmdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        bucket, key = self._split(path)
        if bucket and not key and await self._in_thread(lambda _: self.bucket_store(bucket).is_prefix("")):
            raise OSError(
                errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), f"az://{bucket}"
            )  # adlfs deletes it with its content
        await super()._rmdir(path, *args, **kwargs)

    async def _expand_path(self, path: Any, recursive: bool = False, maxdepth: int | None = None, **options: Any) -> Any:
        # adlfs's own ignores maxdepth.
        if self.version_aware:
            return await super()._expand_path(path, recursive=recursive, maxdepth=maxdepth, **options)
        literal = bool(options.get("assume_literal"))
        return await AsyncFileSystem._expand_path(self, path, recursive, maxdepth, assume_literal=literal)  # noqa: SLF001 - fsspec's rules

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        prefix: str = "",
        **kwargs: Any,
    ) -> Any:
        # adlfs's own drops a '/' at the end of a name, and so loses the blob; and it ignores maxdepth.
        if self._is_of_version(kwargs) or kwargs.get("versions"):
            return await super()._find(path, withdirs=withdirs, prefix=prefix, detail=detail, **kwargs)
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        root = self._strip_protocol(path)
        with self.translated_upstream(path, "list"):
            blobs = await self._in_thread(lambda _: self._blobs_below(root, prefix))
            entries = await self._details(blobs)
        found = {}
        for blob, entry in zip(blobs, entries, strict=True):
            if entry["type"] == "file":
                entry["name"] = f"{blob.container}/{blob.name}"
            found[entry["name"]] = entry
        if withdirs:
            found = self._folders_of(root, found) | found
        else:
            found = {name: each for name, each in found.items() if each["type"] == "file"}
        deepest = sys.maxsize if maxdepth is None else root.count("/") + maxdepth
        found = {name: found[name] for name in sorted(found) if name.count("/") <= deepest}
        return found if detail else list(found)

    def _blobs_below(self, root: str, prefix: str) -> list[Any]:
        """The SDK's blobs below a folder; or the blob of that name."""
        container, key = self._split(root)
        store = self.bucket_store(container)
        start = (f"{key}/" if key else "") + prefix
        listing = store.requests.container.list_blobs(name_starts_with=start or None, include=["metadata"])
        found = [each for page in store.requests.pages(listing, store.details(start, "list")) for each in page]
        if found or prefix or not key:
            return found
        try:
            blob = store.requests.head(key, store.details(key, "info"))
        except ObjectNotFoundError:
            return []
        return [] if is_folder(blob.metadata) else [blob]

    def _folders_of(self, root: str, names: Iterable[str]) -> dict[str, Any]:
        """The folders between a folder and the names below it."""
        parts = {name[: each.start()] for name in names for each in re.finditer("/", name)}
        return {name: self.directory(name) for name in parts if name.startswith(f"{root}/")}

    async def _ls_containers(self, return_glob: bool = False) -> Any:  # noqa: ARG002 - adlfs's signature
        # adlfs's own reads its cache, which is empty here.
        found = self.service_client.list_containers(include_metadata=True)
        return await self._details([each async for each in found])

    async def _ls_blobs(self, target_path: str, container: str, path: str, delimiter: str = "/", **options: Any) -> Any:
        # adlfs's own shows an empty blob ``folder/``, which marks a folder, as a file, and hides the content of the folder.
        if delimiter != "/" or self.version_aware or options.get("versions") or options.get("version_id"):
            return await super()._ls_blobs(target_path, container, path, delimiter=delimiter, **options)
        found = await self._in_thread(lambda _: self._blobs_in(container, path.strip("/")))
        entries = await self._details(found, return_glob=options.get("return_glob", False))
        # A folder of a hierarchical namespace is a blob and a prefix.
        return list({(each["name"], each["type"]): each for each in entries}.values())

    def _blobs_in(self, container: str, key: str) -> list[Any]:
        """The SDK's blobs and prefixes directly in a folder, without its marker; or the blob of that name."""
        store, prefix = self.bucket_store(container), f"{key}/" if key else ""
        listing = store.requests.container.walk_blobs(name_starts_with=prefix or None, include=["metadata"])
        found = [each for page in store.requests.pages(listing, store.details(prefix, "list")) for each in page]
        below = [each for each in found if each.name != prefix]
        if found or not key:
            return below
        blob = store.requests.head(key, store.details(key, "info"))
        return [] if is_folder(blob.metadata) else [blob]

    def _forget_listings(self, path: str) -> None:
        super()._forget_listings(path)
        path = self._strip_protocol(path)
        while path:
            self.invalidate_cache(path)
            path = self._parent(path)

    def _replace_finalizer(self) -> None:
        """Replace adlfs's finalizer, which keeps the instance alive for ever, and waits for ever in a forked child.

        Only the registry of `weakref.finalize` holds it.
        """
        registry: Mapping[Any, Any] = getattr(weakref.finalize, "_registry", {})
        for finalizer in list(registry):
            known = finalizer.peek()
            if known and known[0] is self and known[1] is sync:
                finalizer.detach()
        weakref.finalize(self, _close, os.getpid(), self._loop, self.service_client)


def _host_of(path: str) -> tuple[str, str]:
    """The account's host in a path, or an empty string; and the path without it.

    The path is one of ``container/key``, ``container@ACCOUNT.dfs.core.windows.net/key`` and
    ``ACCOUNT.dfs.core.windows.net/container/key``.
    """
    first, _, rest = path.partition("/")
    container, at, host = first.partition("@")
    if at:
        return host, f"{container}/{rest}"
    return (first, rest) if first.endswith(ACCOUNT_HOSTS) else ("", path)


def _is_of_caller(error: BaseException) -> bool:
    """Whether adlfs or fsspec raised an exception themselves, for the caller's arguments, and not the SDK for an answer."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))
    return module.partition(".")[0] in _OWN_PACKAGES


def _close(pid: int, loop: Any, client: Any) -> None:
    """Close adlfs's client, within a moment. It cannot be closed if its loop does not run any more, as in a forked child."""
    if pid != os.getpid() or not takes_work(loop):
        return
    with contextlib.suppress(Exception):  # at the interpreter's end there is no remedy
        closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
        if asyncio._get_running_loop() is not loop:  # documented; garbage may be collected in any thread
            closing.result(_CLOSE_SECONDS)
