"""`ManyObjects`: `put`, `get`, `cat` and `pipe` of several objects, without the price of a thread for each that is small."""

from __future__ import annotations

import contextlib
import mimetypes
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.files.source import MemorySource, open_source
from gllm_storage.filesystem.base import BucketFileSystem
from gllm_storage.filesystem.opening import is_create
from gllm_storage.s3.bulk import run_jobs
from gllm_storage.s3.small import SmallGet, SmallPut, small_objects, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.files.source import Source
    from gllm_storage.filesystem.lists import Counted
    from gllm_storage.s3.bulk import Job
    from gllm_storage.s3.small import SmallObjects
    from gllm_storage.s3.store import S3Store

_SIDE_BY_SIDE = 4
"""Objects that go the normal way at a time; each of them may go in several parts side by side."""
_ONE_REQUEST_EACH = 16
"""The same where they may be small."""


class ManyObjects(BucketFileSystem):
    """A filesystem on buckets that moves many small objects at once, and the others as `ManyMethods` does."""

    store: S3Store

    def _put_pairs(
        self, pairs: Sequence[tuple[str, str]], counted: Counted, kwargs: Mapping[str, Any], stop: Stop, workers: int = 0
    ) -> None:
        given = {name: value for name, value in kwargs.items() if name != "mode"}

        def job(objects: SmallObjects, pair: tuple[str, str]) -> Job:
            lpath, rpath = pair
            place = self._place(rpath)
            details = self._error_details(*place, "upload")
            _, options = self._write_options(False, with_content_type(lpath, given))
            opened = partial(open_source, os.fspath(lpath), details)
            return SmallPut(objects, place, opened, options, partial(counted.small, lpath, rpath))

        left, workers = self._move_small(pairs, None if is_create(kwargs.get("mode", "overwrite")) else job, stop)
        super()._put_pairs(left, counted, kwargs, stop, workers)
        for _, rpath in pairs:
            self._forget_listings(rpath)

    def _options_of_file(self, lpath: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        return with_content_type(lpath, kwargs)

    def _get_pairs(self, pairs: Sequence[tuple[str, str]], counted: Counted, stop: Stop, workers: int = 0) -> None:
        def job(objects: SmallObjects, pair: tuple[str, str]) -> Job:
            rpath, lpath = pair
            place = self._place(rpath)
            details = self._error_details(*place, "download")

            def keep(content: bytes) -> None:
                write_file(os.fspath(lpath), details, content)
                counted.small(rpath, lpath, len(content))

            return SmallGet(objects, place, details, keep)

        left, workers = self._move_small(pairs, job, stop)
        super()._get_pairs(left, counted, stop, workers)

    def _cat_paths(self, paths: Sequence[str], found: dict[str, Any], stop: Stop, workers: int = 0) -> None:
        def job(objects: SmallObjects, path: str) -> Job:
            place = self._place(path)
            details = self._error_details(*place, "read")
            return SmallGet(objects, place, details, partial(found.__setitem__, path))

        left, workers = self._move_small(paths, job, stop)
        super()._cat_paths(left, found, stop, workers)

    def _pipe_values(self, values: Mapping[str, Any], kwargs: Mapping[str, Any], stop: Stop, workers: int = 0) -> None:
        given = {name: value for name, value in kwargs.items() if name != "mode"}
        normal = is_create(kwargs.get("mode", "overwrite")) or self._intrans

        def job(objects: SmallObjects, path: str) -> Job:
            place = self._place(path)
            details = self._error_details(*place, "upload")
            _, options = self._write_options(False, given)
            source: Source = MemorySource(values[path], details)
            return SmallPut(objects, place, lambda: contextlib.nullcontext(source), options, lambda _: None)

        left, workers = self._move_small(list(values), None if normal else job, stop)
        super()._pipe_values({path: values[path] for path in left}, kwargs, stop, workers)
        for path in values:
            self._forget_listings(path)

    def _move_small(
        self, things: Sequence[Any], job: Callable[[SmallObjects, Any], Job] | None, stop: Stop
    ) -> tuple[Sequence[Any], int]:
        """Move those objects that are small, many at a time.

        Args:
            things: What names them.
            job: Makes the job of a small one; None if all go the normal way.
            stop: Ends it when set.

        Returns:
            What has to go the normal way, and how many of them at a time.
        """
        objects = small_objects(self.store) if job is not None and len(things) > 1 else None
        if objects is None or job is None:
            return things, _ONE_REQUEST_EACH
        return [things[number] for number in run_jobs([job(objects, each) for each in things], stop)], _SIDE_BY_SIDE


def with_content_type(lpath: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the content type that s3fs, too, takes from the name."""
    guessed, _ = mimetypes.guess_type(os.fspath(lpath))
    return dict(options) if "ContentType" in options or guessed is None else {**options, "ContentType": guessed}
