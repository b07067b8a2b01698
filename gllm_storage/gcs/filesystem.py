"""`GCSFileSystem`: gcsfs's filesystem, on the stores of this library."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import ssl
import sys
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import aiohttp
import requests
from gcsfs.core import GCSFileSystem as _GCSFileSystem
from gcsfs.retry import HttpError

from gllm_storage.concurrency.interrupt import decided, task_of_call
from gllm_storage.concurrency.loops import OfLoop, takes_work
from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import OURS, ErrorDetails
from gllm_storage.filesystem.base import StoreFileSystem
from gllm_storage.gcs.connection import OPTIONS, connection_of
from gllm_storage.gcs.errors import RefusedError, UnreadableAnswerError, translated
from gllm_storage.gcs.requests import checked_page
from gllm_storage.gcs.store import GCSStore
from gllm_storage.info import aware
from gllm_storage.store.pages import PageCheck

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Mapping

    from gllm_storage.gcs.connection import GCSConnection

_IGNORED = frozenset({"batch_size", "chunksize", "consistency", "max_concurrency", "timeout"})
"""gcsfs's arguments of writes that only concern speed, or request checks that are always made here."""
_FIXED = {
    "content_type": "contentType",
    "content_encoding": "contentEncoding",
    "cache_control": "cacheControl",
    "content_disposition": "contentDisposition",
    "content_language": "contentLanguage",
    "custom_time": "customTime",
}
_POSITIONAL = tuple(inspect.signature(_GCSFileSystem.__init__).parameters)[1:]
_DENIED = 403
_OF_LISTINGS = {"includeFoldersAsPrefixes"}
"""Further parameters of gcsfs's listings."""
_GARBLED = (AttributeError, json.JSONDecodeError, LookupError, RecursionError)
"""Exceptions of gcsfs for an answer without a field that it requires."""
_READS = {"GET", "HEAD"}


class GCSFileSystem(StoreFileSystem, _GCSFileSystem):
    """gcsfs's filesystem with the promises of this library.

    The methods of `StoreFileSystem` use Google's JSON API; the others are gcsfs's, with listings that are always fresh. The
    class below is gcsfs's own class and not its extended one, which asks by gRPC for the type of each bucket first.

    Args:
        *args: As for gcsfs: the project, the access, the token, ….
        connection: The connection to use; one is made from the other options if None. It is not pickled.
        endpoint_url: URL of the store, without a path. Default: gcsfs's.
        requester_pays: Project that pays for requests to buckets of other owners, or True for `project`.
        storage_class: Storage class of the stored objects.
        kms_key_name: Key that encrypts the stored objects.
        multipart_threshold: Files of more bytes than this are sent by a resumable upload. Default: 16 MiB.
        part_size: Bytes in a chunk of it, and in a ranged read. Default: 16 MiB.
        max_concurrency: Ranges of one object that are read at a time. Default: 16.
        max_attempts: The most attempts at a request. Default: 5.
        publish_on_error: Whether a written file appears also if other code closes it at the end of a block that failed.
        connect_timeout: Seconds to wait for a connection. Default: 10.
        read_timeout: Seconds to wait for an answer to begin or go on. Default: 60.
        ca_bundle: Path of a file with the CA certificates to trust.
        verify_tls: Whether TLS certificates are verified; False issues a warning. Default: True.
        sse_customer_key: Key of the caller that encrypts and decrypts all objects: 32 bytes in base64.
        fsync: Whether downloaded files are on the disk when the call returns. Default: True; see `TransferSettings`.
        sync_source: Whether files are written to the disk before their upload. Default: False.
        **options: gcsfs's options, such as ``project`` and ``token``.

    Raises:
        google.auth.exceptions.GoogleAuthError: If there are no credentials although the options name some.
        ValueError: If the credentials cannot be read.

    Examples:
        >>> filesystem = GCSFileSystem(token="anon")
        >>> filesystem.cat_file("gs://public-bucket/model.json")  # doctest: +SKIP
    """

    provider: ClassVar[str] = "gcs"
    scheme: ClassVar[str] = "gs"
    upstream: ClassVar[bool] = True
    _session = OfLoop(close=lambda session: session.close())
    _ssl_context_task = OfLoop()
    # fsspec: options that neither the cache of instances nor a pickle holds.
    _strip_tokenize_options: ClassVar[tuple[str, ...]] = ("connection",)

    def __init__(self, *args: Any, connection: GCSConnection | None = None, **options: Any) -> None:
        options |= dict(zip(_POSITIONAL, args, strict=False))
        # A cached listing that another process has outdated makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        self.connection = connection or connection_of(options)
        account = self.connection.account
        of_upstream = {name: each for name, each in options.items() if name not in OPTIONS}
        # gcsfs gets the credentials themselves, so that it does not search for them once more.
        token = "anon" if account.credentials is None else account.credentials
        super().__init__(**{**of_upstream, "token": token, "project": account.project or ""})

    async def _set_session(self) -> Any:
        """The session of gcsfs's own methods, which gets no TLS settings from gcsfs."""
        options = self.connection.options
        if self._session is None and (options.ca_bundle or not options.verify_tls):
            tls = ssl.create_default_context(cafile=options.ca_bundle) if options.ca_bundle else False
            typed: Any = self  # gcsfs publishes no types
            typed.session_kwargs = {**typed.session_kwargs, "connector": aiohttp.TCPConnector(ssl=tls)}
        return await super()._set_session()

    @staticmethod
    def close_session(loop: Any, session: Any, asynchronous: bool = False) -> None:
        """Close gcsfs's session. gcsfs's own finalizer adds a task to the loop, but does not wake the loop up.

        Args:
            loop: The loop that the session belongs to.
            session: The session, if there is one.
            asynchronous: Whether the caller runs the loop.
        """
        if session is None or session.closed or loop is None or loop.is_closed():
            return
        if asynchronous:
            _GCSFileSystem.close_session(loop, session, asynchronous)
        elif takes_work(loop):
            asyncio.run_coroutine_threadsafe(session.close(), loop)

    def after_fork(self) -> None:
        """Drop gcsfs's session, and a lock that another thread of the parent process may have held."""
        self._session = None
        self._ssl_context_task = None
        self.credentials.lock = threading.Lock()

    def bucket_store(self, bucket: str) -> GCSStore:
        """The store of a bucket."""
        return self.connection.store(bucket)

    @property
    def async_workers(self) -> int:
        """Coroutines that work at a time."""
        return self.connection.options.transfer.max_concurrency

    def entry(self, bucket: str, key: str) -> dict[str, Any]:
        """An object as gcsfs's `info` returns it.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If the request fails.
        """
        store = self.bucket_store(bucket)
        found = store.resource(key, store.details(key, "info"))
        return _entry_of(f"{bucket}/{key}", found)

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Make an empty object. A path that ends with ``/`` names the marker of a folder.

        Raises:
            NotImplementedError: If it exists, and `truncate` is False.
            StorageError: If it cannot be stored.
        """
        if not path.endswith("/"):
            super().touch(path, truncate, **kwargs)
        elif truncate or not self.exists(path):
            self.pipe_file(path, b"", **kwargs)

    def directory(self, name: str) -> dict[str, Any]:
        """A prefix or bucket as gcsfs's `info` returns it."""
        return {**super().directory(name), "storageClass": "DIRECTORY"}

    def write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read gcsfs's arguments of writes.

        Raises:
            TypeError: If an argument is unknown.
        """
        given = {name: value for name, value in kwargs.items() if name not in _IGNORED and value is not None}
        given.update(given.pop("fixed_key_metadata", {}))
        resource = {_FIXED[name]: given.pop(name) for name in list(given) if name in _FIXED}
        metadata = given.pop("metadata", None)
        acl = given.pop("acl", None)
        if given:
            raise TypeError(f"unknown arguments: {', '.join(sorted(given))}")
        options = {
            "resource": {**resource, "metadata": metadata} if metadata else resource,
            "parameters": {"predefinedAcl": acl} if acl else {},
        }
        return exclusive, options

    @contextlib.contextmanager
    def translated_upstream(self, path: Any, operation: str) -> Iterator[None]:
        """Raise errors of this library in place of gcsfs's."""
        url = f"gs://{self._strip_protocol(path)}" if isinstance(path, str) else "gs://"
        with translated(ErrorDetails(self.provider, url, operation)):
            try:
                yield
            except OURS:
                raise
            except (*_GARBLED, AssertionError) as error:
                raise UnreadableAnswerError(f"{type(error).__name__}: {error}") from error
            except HttpError as error:
                raise RefusedError(int(error.code or 0), str(error.code), str(error.message)) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise requests.ConnectionError(str(error) or type(error).__name__) from error
            except OSError as error:  # gcsfs's exception for HTTP 403
                if str(error).startswith("Forbidden"):
                    raise RefusedError(_DENIED, "forbidden", str(error)) from error
                raise

    async def _request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The place where gcsfs's own methods send requests; a cancellation ends them."""
        with task_of_call():
            answer = super()._request(method, *args, **kwargs)
            return await (answer if method in _READS else decided(answer))

    async def _sequential_list_objects_helper(  # noqa: PLR0917 - gcsfs's signature
        self,
        bucket: str,
        delimiter: str,
        start_offset: str | None,
        end_offset: str | None,
        prefix: str | None,
        versions: bool,
        max_results: int | None,
        items_per_call: int = 1000,
        **kwargs: Any,
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """As gcsfs's own, with the checks of `checked_page`."""
        query = {name: value for name, value in kwargs.items() if name in _OF_LISTINGS}
        query |= {"delimiter": delimiter, "prefix": prefix, "startOffset": start_offset, "endOffset": end_offset}
        query["versions"] = "true" if versions else None
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        most = max_results or sys.maxsize
        pages = self._pages(
            "b/{}/o", bucket, page_size=lambda: min(items_per_call, most - len(items) - len(prefixes)), **query
        )
        async with contextlib.aclosing(pages):
            async for page in pages:
                prefixes += page.get("prefixes", [])
                items += page.get("items", [])
                if len(items) + len(prefixes) >= most:
                    break
        return [self._process_object(bucket, each) for each in items], prefixes

    async def _list_buckets(self) -> list[dict[str, Any]]:
        """As gcsfs's own, with the checks of `checked_page`."""
        found = [each async for page in self._pages("b", project=self.project) for each in page.get("items", [])]
        return [{**each, "name": f"{each['name']}/", "size": 0, "type": "directory"} for each in found]

    async def _pages(
        self, path: str, *args: str, page_size: Callable[[], int] | None = None, **query: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The pages of a listing by gcsfs's requests."""
        check, token = PageCheck(), None
        while True:
            more = {} if page_size is None else {"maxResults": page_size()}
            try:
                page = await self._call("GET", path, *args, json_out=True, pageToken=token, **more, **query)
            except (ValueError, RecursionError) as error:
                raise UnreadableAnswerError("its answer is not JSON") from error
            token = checked_page(page, check, query.get("prefix") or "")
            yield page
            if token is None:
                return

    # ------------------------------------------------------------------ reads of versions that paths or arguments name

    def store_to_read(self, path: str, options: Mapping[str, Any] = MappingProxyType({})) -> tuple[GCSStore, str]:
        """The store that reads an object, or the version of it that the path or ``generation`` names.

        Raises:
            ValueError: If `path` is not the path of an object; or if both name a version, and not the same.
        """
        bucket, key = self._place(path)
        given = options.get("generation")
        if not self._names_version(path, options):
            return self.bucket_store(bucket), key
        bucket, key, named = self.split_path(path)
        if given and named and str(given) != named:
            raise ValueError(f"generation={given!r} contradicts the path {path!r}")
        return GCSStore(self.connection, bucket, named or str(given)), key

    def _is_left_to_upstream(self, kwargs: Mapping[str, Any]) -> bool:  # noqa: ARG002 - the store reads all versions
        return False

    def info(self, path: str, generation: str | int | None = None, **kwargs: Any) -> dict[str, Any]:
        """An object, a prefix or a bucket as gcsfs describes it; or a version of an object.

        Args:
            path: The path; of a version-aware filesystem it may name a version: ``bucket/key#generation``.
            generation: The version.
            **kwargs: As for gcsfs.

        Raises:
            ObjectNotFoundError: If neither an object nor a prefix exists, or the version does not exist.
            StorageError: If the request fails.
        """
        version = {"generation": generation}
        if not self._names_version(path, version):
            return super().info(path, **kwargs)
        store, key = self.store_to_read(path, version)
        found = _entry_of(f"{store.bucket}/{key}", store.resource(key, store.details(key, "info")))
        if not found["size"]:
            store.info(key)  # some stores state 0 where there is content, which this refuses
        return found

    # ------------------------------------------------------------------ moves of one object; versions that paths name

    def mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Move an object: copy it, and then delete the source."""
        self._move_pairs(path1, [(path1, path2)], Stop(running_stop()), kwargs, lenient=False)

    async def _mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        await self._in_thread(lambda stop: self._move_pairs(path1, [(path1, path2)], stop, kwargs, lenient=False))

    def rm_file(self, path: str, **kwargs: Any) -> None:
        """Delete an object, or the version that the path of a version-aware filesystem names.

        Raises:
            ObjectNotFoundError: If it does not exist.
            StorageError: If it cannot be deleted.
        """
        bucket, key, generation = self.split_path(path)
        if generation is None:
            super().rm_file(path, **kwargs)
            return
        run_all([lambda: self.bucket_store(bucket).delete(key, generation)], 1, Stop(running_stop()))
        self._forget_listings(path)

    def _copy_object(self, path1: str, path2: str, options: Mapping[str, Any]) -> None:
        if self._names_version(path2, {}):
            raise ValueError(f"{path2!r} names a version, which cannot be written")
        bucket, key, generation = self.split_path(path1)
        if generation is not None:
            path1, options = f"{bucket}/{key}", {**options, "generation": generation}
        super()._copy_object(path1, path2, options)

    def _may_exist(self, path: str, *, unknown: bool) -> bool:
        return self._names_version(path, {}) or super()._may_exist(path, unknown=unknown)

    def _delete_objects(self, places: list[tuple[str, str]], stop: Stop) -> list[str]:
        paths = [f"{bucket}/{key}" for bucket, key in places]
        versions = [path for path in paths if self._names_version(path, {})]
        for path in versions:
            stop.check()
            self.rm_file(path)
        super()._delete_objects([place for place, path in zip(places, paths, strict=True) if path not in versions], stop)
        return paths


def _entry_of(name: str, resource: Mapping[str, Any]) -> dict[str, Any]:
    of_fsspec = {"name": name, "type": "file", "size": int(resource.get("size", 0))}
    times = {"mtime": aware(resource.get("updated")), "ctime": aware(resource.get("timeCreated"))}
    return {**resource, **of_fsspec, **times}
