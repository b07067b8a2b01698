"""`ManyObjects`: `put`, `get`, `cat` and `pipe` of several objects, without the price of a task and a thread for each."""

from __future__ import annotations

import contextlib
import contextvars
import mimetypes
import os
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback, NoOpCallback

from gllm_storage.bucket_filesystem import BucketFileSystem
from gllm_storage.interruptible import run_interruptible
from gllm_storage.local_files import open_source
from gllm_storage.opening import is_create
from gllm_storage.parallel import Stop, run_all
from gllm_storage.s3.bulk import run_jobs
from gllm_storage.s3.small_objects import SmallGet, SmallPut, small_objects, write_file
from gllm_storage.sources import MemorySource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gllm_storage.s3.bulk import Job
    from gllm_storage.s3.small_objects import SmallObjects
    from gllm_storage.s3.store import S3Store
    from gllm_storage.sources import Source

_SIDE_BY_SIDE = 4
"""Objects that go the normal way at a time; each of them may go in several parts side by side."""
_ONE_REQUEST_EACH = 16
"""The same where they are small."""
_pairs: contextvars.ContextVar[list[tuple[str, str]] | None] = contextvars.ContextVar("pairs", default=None)


def is_collected(source: str, target: str) -> bool:
    """Whether a `_put_file` or `_get_file` is only asked for what is to be moved, and not to move it."""
    pairs = _pairs.get()
    if pairs is None:
        return False
    pairs.append((source, target))
    return True


@contextlib.contextmanager
def _collecting() -> Any:
    pairs: list[tuple[str, str]] = []
    token = _pairs.set(pairs)
    try:
        yield pairs
    finally:
        _pairs.reset(token)


@dataclass(frozen=True)
class _Counted:
    """Tells a callback of several objects, from any thread, about each of them."""

    callback: Callback
    lock: threading.Lock

    def small(self, source: str, target: str, size: int) -> None:
        """One was moved at once."""
        if isinstance(self.callback, NoOpCallback):
            return
        with self.lock, self.callback.branched(source, target) as child:
            child.set_size(size)
            child.relative_update(size)
        with self.lock:
            self.callback.relative_update(1)

    def normal(self, move: Callable[[Callback], object], source: str, target: str) -> object:
        """Move one, which tells its own callback."""
        if isinstance(self.callback, NoOpCallback):
            return move(DEFAULT_CALLBACK)
        with self.callback.branched(source, target) as child:
            moved = move(child)
        with self.lock:
            self.callback.relative_update(1)
        return moved


class ManyObjects(BucketFileSystem):
    """A filesystem on buckets that moves many objects at once. fsspec says which file goes where; moving them is ours."""

    store: S3Store
    _intrans: bool  # fsspec's: whether a transaction is open

    # fsspec would make these of the coroutines, too; Ctrl-C would not end them then.

    def put(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``put``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._put, *args, **kwargs)

    def get(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``get``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._get, *args, **kwargs)

    def cat(self, *args: Any, **kwargs: Any) -> Any:
        """As fsspec's ``cat``; Ctrl-C ends it."""
        return run_interruptible(self.loop, self._cat, *args, **kwargs)

    def pipe(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``pipe``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._pipe, *args, **kwargs)

    async def _put(  # noqa: PLR0917 - fsspec's signature
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        batch_size: int | None = None,  # noqa: ARG002 - fsspec's; how many go at a time is ours
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        below: Any = super()
        with _collecting() as pairs:
            await below._put(lpath, rpath, recursive=recursive, maxdepth=maxdepth)  # noqa: SLF001 - fsspec's own
        callback.set_size(len(pairs))
        await self._in_thread(lambda stop: self._put_pairs(pairs, callback, kwargs, stop))

    def _put_pairs(self, pairs: Sequence[tuple[str, str]], callback: Callback, kwargs: dict[str, Any], stop: Stop) -> None:
        counted = _Counted(callback, threading.Lock())
        exclusive = is_create(kwargs.pop("mode", "overwrite"))

        def job(objects: SmallObjects, pair: tuple[str, str]) -> Job:
            lpath, rpath = pair
            place = self._place(rpath)
            details = self._error_details(*place, "upload")
            _, options = self._write_options(False, with_content_type(lpath, kwargs))
            opened = partial(open_source, os.fspath(lpath), details)
            return SmallPut(objects, place, opened, options, partial(counted.small, lpath, rpath))

        def normal(pair: tuple[str, str]) -> Callable[[], object]:
            lpath, rpath = pair
            options = with_content_type(lpath, kwargs)

            def move(child: Callback) -> None:
                moved_exclusively, given = self._write_options(exclusive, options)
                upload = self._upload
                upload(os.fspath(lpath), rpath, child, Stop(stop), exclusive=moved_exclusively, options=given)

            return partial(counted.normal, move, lpath, rpath)

        self._move(pairs, None if exclusive else job, normal, stop)
        for _, rpath in pairs:
            self._forget_listings(rpath)

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Callback = DEFAULT_CALLBACK,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        below: Any = super()
        kwargs.pop("batch_size", None)  # fsspec's; how many go at a time is ours
        if self._is_of_version(kwargs):
            await below._get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs)  # noqa: SLF001
            return
        with _collecting() as pairs:
            await below._get(rpath, lpath, recursive=recursive, maxdepth=maxdepth)  # noqa: SLF001 - fsspec's own
        pairs = [(source, target) for source, target in pairs if not os.path.isdir(target)]  # noqa: ASYNC240 - folders are named, too
        callback.set_size(len(pairs))
        await self._in_thread(lambda stop: self._get_pairs(pairs, callback, stop))

    def _get_pairs(self, pairs: Sequence[tuple[str, str]], callback: Callback, stop: Stop) -> None:
        counted = _Counted(callback, threading.Lock())

        def job(objects: SmallObjects, pair: tuple[str, str]) -> Job:
            rpath, lpath = pair
            place = self._place(rpath)
            details = self._error_details(*place, "download")

            def keep(content: bytes) -> None:
                write_file(os.fspath(lpath), details, content)
                counted.small(rpath, lpath, len(content))

            return SmallGet(objects, place, details, keep)

        def normal(pair: tuple[str, str]) -> Callable[[], object]:
            rpath, lpath = pair
            download = self._download
            return partial(counted.normal, lambda child: download(rpath, os.fspath(lpath), child, Stop(stop)), rpath, lpath)

        self._move(pairs, job, normal, stop)

    async def _cat(
        self,
        path: Any,
        recursive: bool = False,
        on_error: str = "raise",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        below: Any = super()
        one = isinstance(path, str) and not recursive
        if one or kwargs or self._is_of_version(kwargs):
            return await below._cat(  # noqa: SLF001 - fsspec's own
                path, recursive=recursive, on_error=on_error, batch_size=batch_size, **kwargs
            )
        paths = await below._expand_path(path, recursive=recursive)  # noqa: SLF001 - fsspec's own
        found: dict[str, Any] = await self._in_thread(lambda stop: self._cat_paths(paths, stop))
        if on_error == "raise":
            for each in found.values():
                if isinstance(each, Exception):
                    raise each
        kept = {name: each for name, each in found.items() if on_error != "omit" or not isinstance(each, Exception)}
        # As fsspec has it: what was named as one file, and is one, is its content.
        return kept[path] if isinstance(path, str) and list(kept) == [below._strip_protocol(path)] else kept  # noqa: SLF001

    def _cat_paths(self, paths: Sequence[str], stop: Stop) -> dict[str, Any]:
        found: dict[str, Any] = dict.fromkeys(paths)

        def job(objects: SmallObjects, path: str) -> Job:
            place = self._place(path)
            details = self._error_details(*place, "read")
            return SmallGet(objects, place, details, partial(found.__setitem__, path))

        def normal(path: str) -> Callable[[], object]:
            def read() -> None:
                try:
                    found[path] = self._read(path, None, None, Stop(stop))
                except Exception as error:  # noqa: BLE001 - given back in place of the content, or raised by the caller
                    found[path] = error

            return read

        self._move(paths, job, normal, stop)
        return found

    async def _pipe(self, path: Any, value: bytes | None = None, batch_size: int | None = None, **kwargs: Any) -> None:
        below: Any = super()
        if isinstance(path, str) or self._intrans:
            await below._pipe(path, value, batch_size=batch_size, **kwargs)  # noqa: SLF001 - fsspec's own
            return
        await self._in_thread(lambda stop: self._pipe_values(path, kwargs, stop))

    def _pipe_values(self, values: Mapping[str, bytes], kwargs: dict[str, Any], stop: Stop) -> None:
        exclusive = is_create(kwargs.get("mode", "overwrite"))
        given = {name: value for name, value in kwargs.items() if name != "mode"}

        def job(objects: SmallObjects, path: str) -> Job:
            place = self._place(path)
            details = self._error_details(*place, "upload")
            _, options = self._write_options(False, given)
            source: Source = MemorySource(values[path], details)
            return SmallPut(objects, place, lambda: contextlib.nullcontext(source), options, lambda _: None)

        def normal(path: str) -> Callable[[], object]:
            return partial(self.pipe_file, path, values[path], **kwargs)

        self._move(list(values), None if exclusive else job, normal, stop)
        for path in values:
            self._forget_listings(path)

    def _move(
        self,
        things: Sequence[Any],
        job: Callable[[SmallObjects, Any], Job] | None,
        normal: Callable[[Any], Callable[[], object]],
        stop: Stop,
    ) -> None:
        """Move objects: those that are small many at a time, and the others the normal way.

        Args:
            things: What names them.
            job: Makes the job of a small one; None if all go the normal way.
            normal: Makes the task of one that goes the normal way.
            stop: Ends it when set.
        """
        objects = small_objects(self.store) if job is not None and len(things) > 1 else None
        left: Sequence[Any] = things
        workers = _SIDE_BY_SIDE
        if objects is None or job is None:
            workers = _ONE_REQUEST_EACH
        else:
            left = [things[number] for number in run_jobs([job(objects, each) for each in things], stop)]
        if left:
            run_all([normal(each) for each in left], workers, stop)


def with_content_type(lpath: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the content type that s3fs, too, takes from the name."""
    guessed, _ = mimetypes.guess_type(os.fspath(lpath))
    return dict(options) if "ContentType" in options or guessed is None else {**options, "ContentType": guessed}
