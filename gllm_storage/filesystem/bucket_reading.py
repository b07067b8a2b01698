"""`ReadingMethods`: objects and ranges of them, one version of each, verified."""

from __future__ import annotations

import io
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync
from fsspec.callbacks import DEFAULT_CALLBACK, Callback

from gllm_storage.concurrency.workers import Stop, running_stop
from gllm_storage.filesystem.bucket_base import BucketBase
from gllm_storage.store.download import download_object, read_object
from gllm_storage.store.ranges import DEFAULT_GAP, ObjectSlices, ranges_of, read_into, read_ranges, read_slice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.ranges import Range, Slice


class ReadingMethods(BucketBase):
    """`get_file`, `cat_file`, `cat_ranges`, and what files that are open for reading ask for."""

    def get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        """Download an object: whole, one version of it, verified against its checksum, or not at all.

        Args:
            rpath: The object: ``bucket/key``, or a URL.
            lpath: Where to put it. What is there is replaced when the download is complete.
            callback: Told the size, and the bytes as they arrive.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If its content does not match its checksum.
            StorageError: If the download fails; what was at `lpath` is as it was.
        """
        self._download(rpath, os.fspath(lpath), callback, Stop())

    async def _get_file(self, rpath: str, lpath: str, callback: Callback = DEFAULT_CALLBACK, **_: Any) -> None:
        if os.path.isdir(lpath):  # noqa: ASYNC240 - a recursive get names folders, too
            return
        told = callback or DEFAULT_CALLBACK
        await self._in_thread(lambda stop: self._download(rpath, os.fspath(lpath), told, stop))

    def _download(self, rpath: str, lpath: str, callback: Callback, stop: Stop) -> None:
        bucket, key = self._place(rpath)
        transfer = self._transfer(bucket, key, "download", callback, stop)
        download_object(self.store.reader(bucket, key, transfer.details), lpath, transfer)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Read an object: one version, verified; or a slice of it, which the provider's filesystem reads by one request.

        Args:
            path: The object.
            start: First byte; counted from the end if negative.
            end: Byte before which it ends; counted from the end if negative.
            **kwargs: What names another version than the current one goes to the provider's filesystem.

        Raises:
            ObjectNotFoundError: If the object does not exist.
            IntegrityError: If the content does not match its checksum.
            StorageError: If it cannot be read.
        """
        if self._is_left_to_provider(start, end, kwargs):
            found: bytes = sync(self.loop, self._cat_file, path, start=start, end=end, **kwargs)
            return found
        return self._read(path, start, end, Stop(running_stop()))

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        if self._is_left_to_provider(start, end, kwargs):
            below: Any = super()
            read: bytes = await below._cat_file(path, start=start, end=end, **kwargs)  # noqa: SLF001 - fsspec's own
            return read
        found: bytes = await self._in_thread(lambda stop: self._read(path, start, end, stop))
        return found

    def _is_left_to_provider(self, start: int | None, end: int | None, kwargs: Mapping[str, Any]) -> bool:
        """Whether one answer is all there is to read: it is of one version, and needs no look before."""
        is_slice = start is not None and end is not None and 0 <= start < end <= start + self.store.settings.part_size
        return is_slice or self._is_of_version(kwargs)

    def _read(self, path: str, start: int | None, end: int | None, stop: Stop) -> bytes:
        bucket, key = self._place(path)
        transfer = self._transfer(bucket, key, "read", stop=stop)
        reader = self.store.reader(bucket, key, transfer.details)
        if start is None and end is None:
            return read_object(reader, transfer)
        return read_slice(ObjectSlices(reader, transfer, [(start, end)]))

    def cat_ranges(  # noqa: PLR0917 - fsspec's signature
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        on_error: str = "return",
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        """Read ranges of objects: neighbours by one request, all those of an object of one version, and side by side.

        Args:
            paths: The object of each range.
            starts: First byte of each, or of all; counted from the end if negative.
            ends: Byte before which each ends, or all; counted from the end if negative.
            max_gap: How many bytes may lie between two ranges of an object that are read by one request; 64 KiB if None.
            on_error: ``"return"`` gives an exception in place of what cannot be read; ``"raise"`` raises the first.
            batch_size: The most requests to be under way, if that is less than `max_concurrency`.
            **kwargs: What names another version than the current one goes to the provider's filesystem.

        Returns:
            What was read, in the order of `paths`; cut where the object ends.

        Raises:
            TypeError: If `paths` is no list.
            ValueError: If there are not as many starts or ends as paths, or `max_gap` is negative.
            Exception: What `cat_file` raises, if `on_error` says so.
        """
        if self._is_of_version(kwargs):
            found: list[bytes | Exception] = sync(
                self.loop, self._cat_ranges, paths, starts, ends, max_gap, batch_size, on_error, **kwargs
            )
            return found
        return self._read_ranges(ranges_of(paths, starts, ends), max_gap, batch_size, on_error, Stop(running_stop()))

    async def _cat_ranges(  # noqa: PLR0917 - fsspec's signature
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **kwargs: Any,
    ) -> list[bytes | Exception]:
        if self._is_of_version(kwargs):
            below: Any = super()
            of_versions: list[bytes | Exception] = await below._cat_ranges(  # noqa: SLF001 - fsspec's own
                paths, starts, ends, max_gap, batch_size, on_error, **kwargs
            )
            return of_versions
        ranges = ranges_of(paths, starts, ends)
        found: list[bytes | Exception] = await self._in_thread(
            lambda stop: self._read_ranges(ranges, max_gap, batch_size, on_error, stop)
        )
        return found

    def _read_ranges(
        self, ranges: list[Range], max_gap: int | None, batch_size: int | None, on_error: str, stop: Stop
    ) -> list[bytes | Exception]:
        most = self.store.settings.max_concurrency
        workers = min(most, batch_size) if batch_size and batch_size > 0 else most
        gap = DEFAULT_GAP if max_gap is None else max_gap
        if gap < 0:
            raise ValueError(f"max_gap must be at least 0, not {gap}")
        found = read_ranges(ranges, partial(self._slices_of, gap, stop), workers, stop)
        failed = next((each for each in found if isinstance(each, Exception)), None)
        if failed is not None and on_error != "return":
            raise failed
        return found

    def _slices_of(self, max_gap: int, stop: Stop, path: str, slices: list[Slice]) -> ObjectSlices:
        bucket, key = self._place(path)
        transfer = self._transfer(bucket, key, "read", stop=stop)
        return ObjectSlices(self.store.reader(bucket, key, transfer.details), transfer, slices, max_gap)

    def read_version(self, path: str, version: ObjectInfo, start: int, end: int) -> bytes:
        """Bytes ``start`` to ``end`` (not included) of one version of an object.

        Raises:
            ObjectChangedError: If the object is another version now.
            ObjectNotFoundError: If it was deleted.
            StorageError: If it cannot be read.
        """
        found = io.BytesIO(bytes(end - start))  # gives out its bytes without a copy, as a bytearray does not
        with found.getbuffer() as target:
            self.read_version_into(path, version, start, target, Stop(running_stop()))
        return found.getvalue()

    def read_version_into(self, path: str, version: ObjectInfo, start: int, target: memoryview, stop: Stop) -> None:
        """Fill a buffer with bytes of one version of an object, from an offset on, unless it is stopped.

        Raises:
            Exception: As `read_version`.
        """
        bucket, key = self._place(path)
        transfer = self._transfer(bucket, key, "read", stop=stop)
        read_into(self.store.reader(bucket, key, transfer.details), version, start, target, transfer)
