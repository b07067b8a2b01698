"""Many objects by fsspec's rules: fsspec plans which path goes where, and the store moves the objects.

fsspec computes the pairs inside its coroutines `_put`, `_get` and `_copy`, and calls `_put_file`, `_get_file` or `_cp_file`
for each pair. Here these coroutines run on a `_Planner`, which looks like the filesystem and records the pairs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.asyn import AsyncFileSystem
from fsspec.callbacks import Callback, NoOpCallback

from gllm_storage.errors import user_code
from gllm_storage.store.port import unwatched
from gllm_storage.store.transfer import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Pair = tuple[str, str]
"""A source path and a target path."""


def listed(paths: Any) -> list[str]:
    """The texts among a path or several, as fsspec takes them."""
    return [each for each in (paths if isinstance(paths, (list, tuple, set)) else [paths]) if isinstance(each, str)]


class _Planner:
    """Stands in for a filesystem while fsspec plans: it answers like it, but only records the pairs."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem
        self.pairs: list[Pair] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    async def _record(self, source: str, target: str, **_: Any) -> None:
        self.pairs.append((source, target))

    _put_file = _get_file = _cp_file = _record


async def plan_put(filesystem: Any, lpath: Any, rpath: Any, *, recursive: bool, maxdepth: int | None) -> list[Pair]:
    """The pairs of fsspec's `put`: local files, and where they go."""
    # fsspec makes a task for each file, which takes half as long as its upload.
    if isinstance(lpath, list) and isinstance(rpath, list) and not any(map(os.path.isdir, lpath)):
        return list(zip(lpath, rpath, strict=False))
    planner: Any = _Planner(filesystem)
    await AsyncFileSystem._put(planner, lpath, rpath, recursive=recursive, maxdepth=maxdepth)
    return list(planner.pairs)


async def plan_get(filesystem: Any, rpath: Any, lpath: Any, *, recursive: bool, maxdepth: int | None) -> list[Pair]:
    """The pairs of fsspec's `get`: objects, and the local files to write; and folders, which fsspec makes."""
    if isinstance(lpath, list) and isinstance(rpath, list):  # as in `plan_put`
        for folder in dict.fromkeys(map(os.path.dirname, lpath)):
            os.makedirs(folder, exist_ok=True)
        return list(zip(rpath, lpath, strict=False))
    planner: Any = _Planner(filesystem)
    await AsyncFileSystem._get(planner, rpath, lpath, recursive=recursive, maxdepth=maxdepth)
    return list(planner.pairs)


async def plan_copy(filesystem: Any, path1: Any, path2: Any, *, recursive: bool, maxdepth: int | None) -> list[Pair]:
    """The pairs of fsspec's `copy`: objects, and where they go. Folders, which no object store has, are among them."""
    planner: Any = _Planner(filesystem)
    await AsyncFileSystem._copy(planner, path1, path2, recursive=recursive, maxdepth=maxdepth)
    return list(planner.pairs)


@dataclass(frozen=True)
class Watched:
    """An fsspec callback that counts the objects of a list; each object has a child callback for its bytes.

    Attributes:
        callback: The callback of the list.
    """

    callback: Callback
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def of(self, source: str, target: str) -> Callable[[], contextlib.AbstractContextManager[Progress]]:
        """The `watch` of an item: see `UploadItem`.

        Args:
            source: Its source path.
            target: Its target path.
        """
        return unwatched if isinstance(self.callback, NoOpCallback) else partial(self._one, source, target)

    @contextlib.contextmanager
    def _one(self, source: str, target: str) -> Iterator[Progress]:
        with self.callback.branched(source, target) as child:
            yield Progress(child)
        with self._lock, user_code():
            self.callback.relative_update(1)
