"""`ManyMethods`: `put`, `get`, `cat` and `pipe` of several objects, by threads of ours, which Ctrl-C and a cancellation end.

fsspec says which file goes where, and moves nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback, NoOpCallback

from gllm_storage.concurrency.interrupt import ending_its_tasks, run_interruptible
from gllm_storage.concurrency.workers import Stop, run_all
from gllm_storage.filesystem.bucket_reading import ReadingMethods
from gllm_storage.filesystem.bucket_writing import WritingMethods
from gllm_storage.filesystem.opening import is_create

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
class Counted:
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


class ManyMethods(ReadingMethods, WritingMethods):
    """Lists of objects. Whatever is said of one object holds for each of a list."""

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

    async def _put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        if not is_collected(lpath, rpath):
            await super()._put_file(lpath, rpath, *args, **kwargs)

    async def _get_file(self, rpath: str, lpath: str, *args: Any, **kwargs: Any) -> None:
        if not is_collected(rpath, lpath):
            await super()._get_file(rpath, lpath, *args, **kwargs)

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
        counted = Counted(callback, threading.Lock())
        await self._in_thread(lambda stop: self._put_pairs(pairs, counted, kwargs, stop))

    def _put_pairs(
        self, pairs: Sequence[tuple[str, str]], counted: Counted, kwargs: Mapping[str, Any], stop: Stop, workers: int = 0
    ) -> None:
        """Upload files side by side.

        Args:
            pairs: Each file, and where it goes.
            counted: Told about each.
            kwargs: As for `put_file`.
            stop: Ends it when set.
            workers: How many at a time; `max_concurrency` if 0.
        """
        exclusive = is_create(kwargs.get("mode", "overwrite"))
        given = {name: value for name, value in kwargs.items() if name != "mode"}

        def task(lpath: str, rpath: str) -> Callable[[], object]:
            def move(child: Callback) -> None:
                moved_exclusively, options = self._write_options(exclusive, self._options_of_file(lpath, given))
                self._upload(os.fspath(lpath), rpath, child, Stop(stop), exclusive=moved_exclusively, options=options)

            return partial(counted.normal, move, lpath, rpath)

        self._run([task(*pair) for pair in pairs], workers, stop)

    def _options_of_file(self, lpath: str, kwargs: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - for those whose names say more
        """The arguments of a write, with what the file's name says."""
        return kwargs

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
            async with ending_its_tasks():
                await below._get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **kwargs)  # noqa: SLF001
            return
        with _collecting() as pairs:
            await below._get(rpath, lpath, recursive=recursive, maxdepth=maxdepth)  # noqa: SLF001 - fsspec's own
        pairs = [(source, target) for source, target in pairs if not os.path.isdir(target)]  # noqa: ASYNC240 - folders are named, too
        callback.set_size(len(pairs))
        counted = Counted(callback, threading.Lock())
        await self._in_thread(lambda stop: self._get_pairs(pairs, counted, stop))

    def _get_pairs(self, pairs: Sequence[tuple[str, str]], counted: Counted, stop: Stop, workers: int = 0) -> None:
        """Download objects side by side; as `_put_pairs`."""

        def task(rpath: str, lpath: str) -> Callable[[], object]:
            def move(child: Callback) -> None:
                self._download(rpath, os.fspath(lpath), child, Stop(stop))

            return partial(counted.normal, move, rpath, lpath)

        self._run([task(*pair) for pair in pairs], workers, stop)

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
            async with ending_its_tasks():
                return await below._cat(  # noqa: SLF001 - fsspec's own
                    path, recursive=recursive, on_error=on_error, batch_size=batch_size, **kwargs
                )
        paths = await self._paths_to_read(path, recursive=recursive)
        found: dict[str, Any] = dict.fromkeys(paths)
        await self._in_thread(lambda stop: self._cat_paths(paths, found, stop))
        if on_error == "raise":
            for each in found.values():
                if isinstance(each, Exception):
                    raise each
        kept = {name: each for name, each in found.items() if on_error != "omit" or not isinstance(each, Exception)}
        # As fsspec has it: what was named as one file, and is one, is its content.
        return kept[path] if isinstance(path, str) and list(kept) == [below._strip_protocol(path)] else kept  # noqa: SLF001

    async def _paths_to_read(self, path: Any, *, recursive: bool) -> list[str]:
        """What `cat` reads, by fsspec's rules; a path of a list is among it, whether there is an object or not."""
        below: Any = super()
        paths: list[str] = await below._expand_path(path, recursive=recursive)  # noqa: SLF001 - fsspec's own
        return paths

    def _cat_paths(self, paths: Sequence[str], found: dict[str, Any], stop: Stop, workers: int = 0) -> None:
        """Read objects side by side; `found` gets the content of each, or the exception in its place."""

        def task(path: str) -> Callable[[], object]:
            def read() -> None:
                try:
                    found[path] = self._read(path, None, None, Stop(stop))
                except Exception as error:  # noqa: BLE001 - given back in place of the content, or raised by the caller
                    found[path] = error

            return read

        self._run([task(path) for path in paths], workers, stop)

    async def _pipe(self, path: Any, value: bytes | None = None, batch_size: int | None = None, **kwargs: Any) -> None:  # noqa: ARG002 - as for `put`
        values: Mapping[str, Any] = {path: value} if isinstance(path, str) else path
        await self._in_thread(lambda stop: self._pipe_values(values, kwargs, stop))

    def _pipe_values(self, values: Mapping[str, Any], kwargs: Mapping[str, Any], stop: Stop, workers: int = 0) -> None:
        """Store contents side by side; as `_put_pairs`."""
        self._run([partial(self.pipe_file, path, value, **kwargs) for path, value in values.items()], workers, stop)

    def _run(self, tasks: Sequence[Callable[[], object]], workers: int, stop: Stop) -> None:
        if tasks:
            run_all(tasks, workers or self.store.settings.max_concurrency, stop)
