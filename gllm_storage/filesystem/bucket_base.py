"""`BucketBase`: what the methods of our filesystems on buckets stand on."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

from fsspec.asyn import get_loop
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.interrupt import task_of_call
from gllm_storage.concurrency.workers import Stop, running_stop, stopped_by
from gllm_storage.errors import ErrorDetails
from gllm_storage.filesystem.opening import AtomicOpening
from gllm_storage.store.progress import Progress
from gllm_storage.store.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.store.port import BucketStore

OF_READERS = ("cache_type", "cache_options", "fill_cache")
"""Arguments of `open` that only readers know."""
OF_FILES = (*OF_READERS, "autocommit", "size", "acl")
"""Arguments of `open` that say nothing of the object's content."""


class BucketBase(AtomicOpening):
    """Paths, threads and errors of a filesystem on buckets; the other classes bring its methods.

    Mixed into one of fsspec's asynchronous filesystems, before it.
    """

    provider: ClassVar[str]
    """Name of the provider, for errors."""
    scheme: ClassVar[str]
    """Scheme of the URLs."""
    protocol: tuple[str, ...]
    store: BucketStore
    version_aware: bool
    _pid: int  # fsspec's: the process that made the instance
    _loop: Any

    def _attach(self, store: BucketStore) -> None:
        """Finish the construction."""
        self.store = store
        workers = store.settings.max_concurrency
        self._threads: PerProcess[ThreadPoolExecutor] = PerProcess(
            lambda: ThreadPoolExecutor(workers, thread_name_prefix="gllm-storage-async")
        )

    @property
    def loop(self) -> Any:
        """The event loop of this process. In a forked child, what had been made in the parent is made anew."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._loop = get_loop()
            self._after_fork()
        below: Any = super()
        return below.loop

    def _after_fork(self) -> None:
        """Forget connections of the parent; each provider's filesystem has its own."""

    def _write_options(self, exclusive: bool, kwargs: dict[str, Any]) -> tuple[bool, Mapping[str, Any]]:
        """Read the further arguments of a write: whether it is exclusive after all, and the store's options.

        Raises:
            TypeError: If there is one that nobody knows.
        """
        return exclusive, kwargs

    def _is_of_version(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether a version other than the current one may be meant, which we leave to the provider's filesystem."""
        return bool(self.version_aware or kwargs.get("version_id") or kwargs.get("generation"))

    def _names_version(self, path: str, kwargs: Mapping[str, Any]) -> bool:
        """Whether a certain version is meant, and not only that the filesystem is aware of them."""
        below: Any = self
        return bool(kwargs.get("version_id") or kwargs.get("generation") or below.split_path(path)[2])

    def _forget_listings(self, path: str) -> None:
        below: Any = self
        below.invalidate_cache(path)

    def _directory(self, name: str) -> dict[str, Any]:
        return {"name": name, "type": "directory", "size": 0}

    def _transfer(
        self, bucket: str, key: str, operation: str, callback: Callback = DEFAULT_CALLBACK, stop: Stop | None = None
    ) -> Transfer:
        return Transfer(
            self._error_details(bucket, key, operation),
            self.store.settings,
            progress=Progress(callback),
            stop=stop or Stop(running_stop()),
        )

    def _error_details(self, bucket: str, key: str, operation: str) -> ErrorDetails:
        return ErrorDetails(self.provider, f"{self.scheme}://{bucket}/{key}".rstrip("/"), operation)

    def _split(self, path: str) -> tuple[str, str]:
        """Bucket and key of a path or URL; a key is taken as it is, whatever characters it holds."""
        bucket, _, key = self._without_protocol(path).partition("/")
        return bucket, key

    def _place(self, path: str) -> tuple[str, str]:
        bucket, key = self._split(path)
        if not (bucket and key):
            raise ValueError(f"{path!r} names no object: it needs a bucket and a key")
        return bucket, key

    def _without_protocol(self, path: str) -> str:
        """Like `_strip_protocol`, which would take a trailing ``/`` off."""
        start = next((f"{name}://" for name in self.protocol if path.startswith(f"{name}://")), "")
        return path.removeprefix(start).lstrip("/")

    async def _in_thread(self, work: Callable[[Stop], Any]) -> Any:
        """Run blocking work beside the event loop, on whichever loop runs; when the task is cancelled, so is the work."""
        stop = Stop()

        def run() -> Any:
            stop.check()
            with stopped_by(stop):
                return work(stop)

        with task_of_call():
            future = asyncio.get_running_loop().run_in_executor(self._threads.get(), run)
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.wait([future])  # what was begun is taken back before the task ends
                future.exception()  # asyncio complains of failures that nobody looked at
                raise
