"""`AzureBlobFileSystem`: adlfs's, with our data path below the methods that carry promises."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from adlfs import AzureBlobFileSystem as _AzureBlobFileSystem
from azure.core.exceptions import AzureError
from azure.storage.blob import ContentSettings
from fsspec.asyn import sync
from fsspec.utils import stringify_path

from gllm_storage.azure.account import AzureAccount
from gllm_storage.azure.connection import AzureConnections, Connection
from gllm_storage.azure.errors import translate, translated
from gllm_storage.azure.requests import AzureRequests
from gllm_storage.azure.store import AzureStore
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import OURS, ErrorDetails, ObjectNotFoundError, redact
from gllm_storage.filesystem.base import BucketFileSystem
from gllm_storage.filesystem.inherited import InheritedMethods
from gllm_storage.filesystem.moving import MovingMethods
from gllm_storage.settings import TransferSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PATIENCE = 0.5
_IGNORED = frozenset({"batch_size", "chunksize", "delimiter", "max_concurrency", "timeout"})
"""Arguments of adlfs that only say how fast."""


class AzureBlobFileSystem(MovingMethods, BucketFileSystem, InheritedMethods, _AzureBlobFileSystem):  # type: ignore[misc]  # no types
    """adlfs's filesystem with the promises of this library.

    What `BucketFileSystem` names goes through azure-storage-blob; the rest is adlfs's, with listings that are always fresh.

    Args:
        account_name: The account.
        connection_string: What names account, endpoint and credentials instead.
        account_key: Its key.
        sas_token: A shared access signature.
        tenant_id: With `client_id` and `client_secret`: a service principal.
        client_id: As above.
        client_secret: As above.
        anon: Whether to send no credentials.
        account_host: Host of the account, where that is not ``ACCOUNT.blob.core.windows.net``.
        endpoint_url: URL of the account, likewise.
        ca_bundle: Path of a file with the CA certificates to trust.
        access_tier: Where blobs are kept: ``"hot"``, ``"cool"``, ``"cold"``, ``"archive"``.
        multipart_threshold: Files of more bytes than this are uploaded in blocks.
        part_size: Bytes in a block and in a ranged read.
        max_concurrency: How many blocks of one file are under way at a time. adlfs's default here is 2500.
        max_attempts: How often a request is sent in all.
        connection_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or go on.
        **options: adlfs's further options.

    Raises:
        ValueError: If no account is named, or the connection string is malformed.
    """

    provider: ClassVar[str] = "azure"
    scheme: ClassVar[str] = "az"

    def __init__(
        self,
        account_name: str | None = None,
        account_key: str | None = None,
        connection_string: str | None = None,
        *,
        sas_token: str | None = None,
        tenant_id: str | None = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        anon: bool | None = None,
        account_host: str | None = None,
        endpoint_url: str | None = None,
        ca_bundle: str | None = None,
        access_tier: str | None = None,
        multipart_threshold: int = TransferSettings.multipart_threshold,
        part_size: int = TransferSettings.part_size,
        max_concurrency: int | None = None,
        max_attempts: int = TransferSettings.max_attempts,
        connection_timeout: float | None = None,
        read_timeout: float | None = None,
        **options: Any,
    ) -> None:
        if options.pop("credential", None) is not None:
            raise ValueError(
                "credential objects cannot be used here: give account_key, sas_token, connection_string or tenant_id, "
                "client_id and client_secret, or nothing, for azure-identity's DefaultAzureCredential"
            )
        if account_host and not endpoint_url:
            endpoint_url = f"https://{account_host}"
        self.account = AzureAccount.resolve(
            account_name=account_name,
            connection_string=connection_string,
            account_key=account_key,
            sas_token=sas_token,
            principal=(tenant_id, client_id, client_secret) if tenant_id and client_id and client_secret else None,
            anonymous=bool(anon),
            endpoint_url=endpoint_url,
        )
        settings = TransferSettings(
            multipart_threshold=multipart_threshold,
            part_size=part_size,
            max_concurrency=max_concurrency or TransferSettings.max_concurrency,
            max_attempts=max_attempts,
        )
        self.connections = AzureConnections(
            Connection(
                account=self.account,
                connect_timeout=connection_timeout or 10.0,
                read_timeout=read_timeout or 60.0,
                max_attempts=max_attempts,
                max_put=multipart_threshold,
                part_size=part_size,
                ca_bundle=ca_bundle,
            )
        )
        # An entry of a listing that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        # anon=True: adlfs would make credentials of its own here, from an environment that may mean another account.
        super().__init__(
            account_name=self.account.name,
            account_key=self.account.account_key,
            anon=True,
            max_concurrency=settings.max_concurrency,
            **options,
        )
        self._close_with_patience()
        self.connection_string, self.sas_token = self.account.connection_string, self.account.sas_token
        self.anon = self.account.anonymous
        self.requests = AzureRequests(self.connections)
        self._attach(AzureStore(self.requests, settings, access_tier))

    def do_connect(self) -> None:
        """Make adlfs's client, of the same account and with the same credentials as ours."""
        self.service_client = self.connections.connection.make_async_client()
        self.account_url = self.service_client.url

    def open(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Open a blob, as `BucketFileSystem` does.

        Raises:
            ValueError: If the path is a URL of another account.
        """
        return super().open(self._without_protocol(stringify_path(path)), *args, **kwargs)

    def _without_protocol(self, path: str) -> str:
        path = super()._without_protocol(path)
        container, at, rest = path.partition("@")
        if not at or "/" in container:
            return path
        host, _, key = rest.partition("/")  # abfs://container@account.dfs.core.windows.net/key
        if self.account.name and host.partition(".")[0] != self.account.name:
            raise ValueError(f"{path!r} is not in the account {self.account.name!r}, which this filesystem is for")
        return f"{container}/{key}"

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a blob within the account; it is complete when this returns.

        Raises:
            ObjectNotFoundError: If there is no such blob.
            StorageError: If it cannot be copied.
        """
        # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
        run_all([partial(self._copy_blob, path1, path2)], 1, Stop(running_stop()))

    async def _cp_file(self, path1: str, path2: str, **_: Any) -> None:
        await self._in_thread(lambda _: self._copy_blob(path1, path2))

    def _copy_blob(self, path1: str, path2: str) -> None:
        source, target = self._place(path1), self._place(path2)
        self.requests.copy(source, target, self._error_details(*source, "copy"))
        self._forget_listings(path2)

    async def _rm_files(self, container_name: str, file_paths: Any, **_: Any) -> None:
        # adlfs sends all requests at once, and does not wait for their answers when it is cancelled.
        files, markers = await self._separate_directory_markers_for_non_empty_directories(file_paths)
        await self._in_thread(lambda stop: self._delete_blobs(container_name, files, markers, stop))

    def _delete_blobs(self, container: str, files: list[str], markers: list[str], stop: Stop) -> None:
        """Delete blobs, which may be gone already; those that stand for folders at last, and what is deepest first."""

        def delete(blob: str) -> None:
            with contextlib.suppress(ObjectNotFoundError):
                self.store.delete(container, blob)

        workers = self.store.settings.max_concurrency
        run_all([partial(delete, each) for each in files], workers, stop)
        if markers:
            run_all([partial(delete, each) for each in reversed(markers)], 1, stop)
        for each in [*files, *markers]:
            self._forget_listings(f"{container}/{each}")

    async def _paths_to_read(self, path: Any, *, recursive: bool) -> list[str]:
        paths: list[str] = await self._expand_path(path, recursive=recursive, skip_noexist=False)
        return paths

    async def _ls_containers(self, return_glob: bool = False) -> Any:  # noqa: ARG002 - adlfs's signature
        # adlfs's own looks for what it found in its cache, which keeps nothing.
        found = self.service_client.list_containers(include_metadata=True)
        return await self._details([each async for each in found])

    @contextlib.contextmanager
    def _in_our_words(self, path: Any, operation: str) -> Iterator[None]:
        for each in path if isinstance(path, (list, tuple, set)) else [path]:
            self._without_protocol(stringify_path(each))  # or else adlfs takes another account's blobs for this one's
        url = f"az://{self._strip_protocol(path)}" if isinstance(path, str) else "az://"
        details = ErrorDetails(self.provider, url, operation)
        with translated(details):
            try:
                yield
            except RuntimeError as error:  # adlfs's, of what failed while several blobs were deleted
                cause = error.__cause__
                if isinstance(cause, OURS):
                    raise cause from cause.__cause__
                if isinstance(cause, AzureError):
                    redact(cause)
                    raise translate(cause, details) from cause
                raise

    def _forget_listings(self, path: str) -> None:
        path = self._strip_protocol(path)
        while path:
            self.invalidate_cache(path)
            path = self._parent(path)

    def _after_fork(self) -> None:
        self.do_connect()

    def _close_with_patience(self) -> None:
        """Replace the finalizer of adlfs, which holds the instance for ever, and in a forked child waits for ever.

        It is not kept anywhere but in the registry of `weakref.finalize`.
        """
        registry: Mapping[Any, Any] = getattr(weakref.finalize, "_registry", {})
        for finalizer in list(registry):
            known = finalizer.peek()
            if known and known[0] is self and known[1] is sync:
                finalizer.detach()
        weakref.finalize(self, _close, os.getpid(), self._loop, self.service_client)

    def _write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read adlfs's arguments of writes.

        Raises:
            TypeError: If there is one that nobody knows.
        """
        given = {name: value for name, value in kwargs.items() if name not in _IGNORED and value is not None}
        exclusive = not given.pop("overwrite", True) or exclusive
        content = _content(given.pop("content_settings", {}))
        options = {"metadata": _metadata(given.pop("metadata", {})), "content": content}
        if given:
            raise TypeError(f"unknown arguments: {', '.join(sorted(given))}")
        return exclusive, options

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        """A path without its scheme, as it is otherwise: adlfs would take ``#`` and ``?`` of a key for parts of a URL."""
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        path = str(path)
        start = next((f"{name}://" for name in cls.protocol if path.startswith(f"{name}://")), "")
        path = path.removeprefix(start)
        container, at, rest = path.partition("@")
        if start and at and "/" not in container:  # abfs://container@account.dfs.core.windows.net/key
            path = "/".join([container, *rest.split("/")[1:]])
        return path.strip("/")


def _metadata(given: Any) -> dict[str, str]:
    for name, value in given.items():
        if not (isinstance(value, str) and value.isascii() and value.isprintable() and str(name).isidentifier()):
            raise ValueError(f"metadata {name!r}={value!r}: Azure takes identifiers as names, and printable ASCII as values")
    return dict(given)


def _content(given: Any) -> dict[str, str]:
    """The fields of content settings that were given; the MD5 is ours."""
    fields: dict[str, Any] = given if isinstance(given, dict) else vars(given) if isinstance(given, ContentSettings) else {}
    known = {name for name in vars(ContentSettings()) if name != "content_md5"}
    unknown = fields.keys() - known - {"content_md5"}
    if unknown or not (fields or given == {}):
        raise TypeError(
            f"content_settings: unknown {', '.join(sorted(unknown)) or repr(given)}; known: {', '.join(sorted(known))}"
        )
    for name, value in fields.items():
        if name in known and value is not None and not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ValueError(f"content_settings {name}={value!r}: must be printable ASCII")
    return {name: value for name, value in fields.items() if name in known and value is not None}


def _close(pid: int, loop: Any, client: Any) -> None:
    """Close adlfs's client, for a moment at most: where its loop does not run any more, as in a forked child, nobody can."""
    if pid != os.getpid() or loop is None or not loop.is_running():
        return
    with contextlib.suppress(Exception):  # at the interpreter's end, nobody could do anything about it
        closing = asyncio.run_coroutine_threadsafe(client.close(), loop)
        if asyncio._get_running_loop() is not loop:  # noqa: SLF001 - documented; garbage may be collected in any thread
            closing.result(_PATIENCE)
