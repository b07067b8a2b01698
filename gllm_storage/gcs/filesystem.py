"""`GCSFileSystem`: gcsfs's, with our data path below the methods that carry promises."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import aiohttp
import requests
from gcsfs.core import GCSFileSystem as _GCSFileSystem
from gcsfs.retry import HttpError

from gllm_storage.concurrency.interrupt import decided, ending_its_tasks, run_interruptible, task_of_call
from gllm_storage.errors import OURS, ErrorDetails
from gllm_storage.filesystem.base import BucketFileSystem
from gllm_storage.filesystem.inherited import InheritedMethods
from gllm_storage.filesystem.moving import UNDER_WAY, MovingMethods
from gllm_storage.gcs.connection import Connection, GCSConnections
from gllm_storage.gcs.errors import RefusedError, translated
from gllm_storage.gcs.requests import GCSRequests
from gllm_storage.gcs.store import GCSStore
from gllm_storage.settings import MIB, TransferSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_IGNORED = frozenset({"batch_size", "chunksize", "consistency", "max_concurrency", "timeout"})
"""Arguments of gcsfs that only say how fast, or ask for checks that we make anyway."""
_FIXED = {
    "content_type": "contentType",
    "content_encoding": "contentEncoding",
    "cache_control": "cacheControl",
    "content_disposition": "contentDisposition",
    "content_language": "contentLanguage",
    "custom_time": "customTime",
}
PART_SIZE = 16 * MIB
_DENIED = 403
_READS = {"GET", "HEAD"}


class GCSFileSystem(MovingMethods, BucketFileSystem, InheritedMethods, _GCSFileSystem):  # type: ignore[misc]  # gcsfs has no types
    """gcsfs's filesystem with the promises of this library.

    What `BucketFileSystem` names goes by Google's JSON API; the rest is gcsfs's, with listings that are always fresh. It is
    gcsfs's own class below and not its extended one, which asks by gRPC for each bucket's type before anything else.

    Args:
        endpoint_url: URL of the store, without a path. Default: gcsfs's.
        requester_pays: Project that pays for requests to others' buckets, or True for `project`.
        storage_class: For what is stored.
        kms_key_name: Key that encrypts what is stored.
        multipart_threshold: Files of more bytes than this go by a resumable upload.
        part_size: Bytes in a chunk of it, and in a ranged read.
        max_concurrency: How many ranges of one object are read at a time.
        max_attempts: How often a request is sent in all.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or go on.
        ca_bundle: Path of a file with the CA certificates to trust.
        **options: gcsfs's options, such as ``project`` and ``token``.

    Raises:
        google.auth.exceptions.GoogleAuthError: If there are no credentials where some were named.
        ValueError: If the credentials cannot be read.
    """

    provider: ClassVar[str] = "gcs"
    scheme: ClassVar[str] = "gs"

    def __init__(
        self,
        *args: Any,
        storage_class: str | None = None,
        kms_key_name: str | None = None,
        multipart_threshold: int = TransferSettings.multipart_threshold,
        part_size: int = PART_SIZE,
        max_concurrency: int = TransferSettings.max_concurrency,
        max_attempts: int = TransferSettings.max_attempts,
        connect_timeout: float = 10.0,
        read_timeout: float = 60.0,
        ca_bundle: str | None = None,
        **options: Any,
    ) -> None:
        # An entry of a listing that another process has outdated since makes `exists` and `open` lie (promise E).
        options.setdefault("use_listings_cache", False)
        super().__init__(*args, **options)
        self.connections = GCSConnections(
            Connection(
                endpoint_url=lambda: str(self._location).rstrip("/"),
                credentials=lambda: self.credentials.credentials,
                connect_timeout=connect_timeout,
                read_timeout=read_timeout,
                max_attempts=max_attempts,
                pool_size=max(100, 2 * max_concurrency),
                ca_bundle=ca_bundle,
                parameters=self._get_params({}),
            )
        )
        settings = TransferSettings(
            multipart_threshold=multipart_threshold,
            part_size=part_size,
            max_concurrency=max_concurrency,
            max_attempts=max_attempts,
        )
        resource = {"storageClass": storage_class} if storage_class else {}
        parameters = {"kmsKeyName": kms_key_name} if kms_key_name else {}
        self._attach(GCSStore(GCSRequests(self.connections), settings, resource, parameters))

    @staticmethod
    def close_session(loop: Any, session: Any, asynchronous: bool = False) -> None:
        """Close gcsfs's session, which gcsfs's own finalizer tells to a loop that nobody wakes up.

        Args:
            loop: The loop that the session belongs to.
            session: The session, if there is one.
            asynchronous: Whether the caller runs the loop.
        """
        if session is None or session.closed or loop is None or loop.is_closed():
            return
        if asynchronous:
            _GCSFileSystem.close_session(loop, session, asynchronous)
        elif loop.is_running():
            asyncio.run_coroutine_threadsafe(session.close(), loop)

    def _after_fork(self) -> None:
        self._session = None
        self._ssl_context_task = None
        self.credentials.lock = threading.Lock()

    def mv(self, path1: Any, path2: Any, *args: Any, **kwargs: Any) -> None:
        """As gcsfs's ``mv``; Ctrl-C ends it."""
        if hasattr(_GCSFileSystem, "_mv"):
            run_interruptible(self.loop, self._mv, path1, path2, *args, **kwargs)
        else:  # gcsfs 2026.2 copies and deletes
            super().mv(path1, path2, *args, **kwargs)

    async def _mv(self, path1: Any, path2: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        most = batch_size or self.batch_size or UNDER_WAY
        async with ending_its_tasks():
            await super()._mv(path1, path2, *args, batch_size=most, **kwargs)

    def mv_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """As gcsfs's ``mv_file``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._mv_file, path1, path2, **kwargs)

    async def _request(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Where gcsfs's own methods ask the store."""
        with task_of_call():
            asked = super()._request(method, *args, **kwargs)
            return await (asked if method in _READS else decided(asked))

    @contextlib.contextmanager
    def _in_our_words(self, path: Any, operation: str) -> Iterator[None]:
        url = f"gs://{self._strip_protocol(path)}" if isinstance(path, str) else "gs://"
        with translated(ErrorDetails(self.provider, url, operation)):
            try:
                yield
            except OURS:
                raise
            except HttpError as error:
                raise RefusedError(int(error.code or 0), str(error.code), str(error.message)) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise requests.ConnectionError(str(error) or type(error).__name__) from error
            except OSError as error:  # gcsfs's word for HTTP 403
                if str(error).startswith("Forbidden"):
                    raise RefusedError(_DENIED, "forbidden", str(error)) from error
                raise

    def _directory(self, name: str) -> dict[str, Any]:
        return {**super()._directory(name), "storageClass": "DIRECTORY"}

    def _write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read gcsfs's arguments of writes.

        Raises:
            TypeError: If there is one that nobody knows.
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
