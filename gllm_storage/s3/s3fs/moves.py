"""`MovingMethods`: copying, moving and deleting objects, as fsspec's filesystems do it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import s3fs.core
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import has_magic

from gllm_storage.concurrency.stop import Stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import AccessDeniedError, BucketNotFoundError, ObjectNotFoundError
from gllm_storage.filesystem.base import BucketFileSystem
from gllm_storage.filesystem.opening import is_create
from gllm_storage.s3.copy import Copy, Place, copy_object
from gllm_storage.s3.deleting import delete_objects

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.s3.requests import S3Requests


class MovingMethods(BucketFileSystem):
    """Mixed into `S3FileSystem`, before s3fs's own class, whose lists and patterns it goes by."""

    requests: S3Requests
    split_path: Any
    _strip_protocol: Any
    _find: Any
    _glob: Any
    _rmdir: Any
    _is_bucket_versioned: Any
    _rm_versioned_bucket_contents: Any

    def cp_file(self, path1: str, path2: str, preserve_etag: bool | None = None, **kwargs: Any) -> None:
        """Copy an object within S3, with its metadata, tags and storage class; what is at the target is replaced.

        Args:
            path1: The object.
            path2: Where to.
            preserve_etag: Whether to copy in the parts in which the object was uploaded, which gives the same ETag.
            **kwargs: Parameters of CopyObject, such as ``StorageClass``, or ``MetadataDirective="REPLACE"``.

        Raises:
            ValueError: If a path is impossible, or an exclusive copy is asked for.
            ObjectNotFoundError: If the object does not exist.
            StorageError: If the copy fails; nothing was changed then, and nothing is left behind.
        """
        self._copy_object(path1, path2, Stop(running_stop()), preserve_etag, kwargs)

    async def _cp_file(
        self,
        path1: str,
        path2: str,
        preserve_etag: bool | None = None,
        pairs: list[tuple[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        if pairs is None:
            await self._in_thread(lambda stop: self._copy_object(path1, path2, stop, preserve_etag, kwargs))
        else:
            pairs.append((path1, path2))

    def _copy_object(
        self, path1: str, path2: str, stop: Stop, preserve_etag: bool | None, options: Mapping[str, Any]
    ) -> None:
        if is_create(options.get("mode", "overwrite")):
            raise ValueError("mode='create': S3 cannot copy exclusively; look first, or download and upload")
        bucket, key, version_id = self._place_of_version(path1)
        target_bucket, target_key, target_version = self._place_of_version(path2)
        if target_version:
            raise ValueError(f"{path2!r} names a version, which cannot be written")
        copy = Copy(
            source=Place(bucket, key, version_id),
            target=Place(target_bucket, target_key),
            options=options,
            threshold=s3fs.core.MANAGED_COPY_THRESHOLD,
            keep_etag=bool(preserve_etag),
            transfer=self._transfer(bucket, key, "copy", stop=stop),
        )
        copy_object(self.requests, copy)
        self._forget_listings(path2)

    def _place_of_version(self, path: str) -> tuple[str, str, str | None]:
        bucket, key = self._split(path)
        if not key:  # a recursive copy names the bucket, too
            details = self._error_details(bucket, "", "copy")
            raise ObjectNotFoundError(f"{path!r} names no object: it needs a bucket and a key", details)
        return bucket, key, self.split_path(path)[2]

    def copy(
        self,
        path1: str | list[str],
        path2: str | list[str],
        recursive: bool = False,
        maxdepth: int | None = None,
        on_error: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy objects, as fsspec's filesystems do; what is at a target is replaced.

        Args:
            path1: One path or several; with ``*`` and the like for all that match.
            path2: Where to: an object, a folder, or a target for each.
            recursive: Whether to copy what is below a path.
            maxdepth: How deep, with `recursive`.
            on_error: ``"ignore"`` goes on where an object is not there, which is the default with `recursive`; or
                ``"raise"``.
            **kwargs: As for `cp_file`.

        Raises:
            FileNotFoundError: If there is nothing to copy.
            StorageError: If a copy fails; those that were made stay.
        """
        pairs = sync(self.loop, self._pairs_of, path1, path2, recursive, maxdepth)
        self._copy_pairs(pairs, Stop(running_stop()), kwargs, lenient=_is_lenient(on_error, recursive=recursive))

    async def _copy(  # noqa: PLR0917 - fsspec's signature
        self,
        path1: str | list[str],
        path2: str | list[str],
        recursive: bool = False,
        on_error: str | None = None,
        maxdepth: int | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - fsspec's; max_concurrency says how many at a time
        **kwargs: Any,
    ) -> None:
        pairs = await self._pairs_of(path1, path2, recursive, maxdepth)
        lenient = _is_lenient(on_error, recursive=recursive)
        await self._in_thread(lambda stop: self._copy_pairs(pairs, stop, kwargs, lenient=lenient))

    def mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        """Move objects: copy them, and delete those that were copied, when all of them were.

        Args:
            path1: As for `copy`.
            path2: As for `copy`.
            recursive: As for `copy`.
            maxdepth: As for `copy`.
            **kwargs: As for `cp_file`.

        Raises:
            ObjectNotFoundError: If there is nothing to move.
            StorageError: If a copy fails, and nothing was deleted; or if one cannot be deleted.
        """
        if self._strip_protocol(path1) != self._strip_protocol(path2):
            pairs = sync(self.loop, self._pairs_of, path1, path2, recursive, maxdepth)
            self._move_pairs(path1, pairs, Stop(running_stop()), kwargs, lenient=recursive)

    async def _mv(self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None, **kwargs: Any) -> None:
        if self._strip_protocol(path1) != self._strip_protocol(path2):
            pairs = await self._pairs_of(path1, path2, recursive, maxdepth)
            await self._in_thread(lambda stop: self._move_pairs(path1, pairs, stop, kwargs, lenient=recursive))

    async def _pairs_of(self, path1: Any, path2: Any, recursive: bool, maxdepth: int | None) -> list[tuple[str, str]]:
        """What `copy` copies, and where to, by fsspec's rules; nothing is copied yet."""
        pairs: list[tuple[str, str]] = []
        below: Any = self
        await AsyncFileSystem._copy(below, path1, path2, recursive=recursive, maxdepth=maxdepth, pairs=pairs)  # noqa: SLF001 - past our own
        return pairs

    def _copy_pairs(
        self, pairs: list[tuple[str, str]], stop: Stop, options: Mapping[str, Any], *, lenient: bool
    ) -> list[tuple[str, str]]:
        """Copy side by side; which were copied. Here and not on the loop, where Ctrl-C would let them go on."""

        def copy(source: str, target: str) -> bool:
            parameters = {name: value for name, value in options.items() if name != "preserve_etag"}
            try:
                self._copy_object(source, target, stop, options.get("preserve_etag"), parameters)
            except FileNotFoundError:  # a folder, which S3 does not have
                if not lenient:
                    raise
                return False
            return True

        done = run_all([partial(copy, *pair) for pair in pairs], self.store.settings.max_concurrency, stop) if pairs else []
        return [pair for pair, copied in zip(pairs, done, strict=True) if copied]

    def _move_pairs(
        self, path1: str, pairs: list[tuple[str, str]], stop: Stop, options: Mapping[str, Any], *, lenient: bool
    ) -> None:
        copied = self._copy_pairs(pairs, stop, options, lenient=lenient)
        if not copied:
            details = self._error_details(*self._split(str(path1)), "move")
            raise ObjectNotFoundError(f"{details.url} is no object; recursive=True moves what is below it", details)
        targets = {self._split(target) for _, target in copied}
        self._delete_objects([place for source, _ in copied if (place := self._split(source)) not in targets], stop)

    def rm(self, path: str | list[str], recursive: bool = False, maxdepth: int | None = None, **_: Any) -> list[str]:
        """Delete objects, all below a prefix, or buckets.

        Args:
            path: One path or several; with ``*`` and the like for all that match.
            recursive: Whether to delete what is below a path, and buckets with all that is in them.
            maxdepth: How deep, with `recursive`.

        Returns:
            The paths of the objects that were deleted.

        Raises:
            ObjectNotFoundError: If there is nothing at one of the paths; nothing was deleted then.
            OSError: If a bucket is not empty, and `recursive` was not asked for.
            StorageError: If one cannot be deleted.
        """
        places = sync(self.loop, self._all_places_at, path, maxdepth, recursive=recursive)
        deleted = self._delete_objects([place for place in places if place[1]], Stop(running_stop()))
        sync(self.loop, self._remove_buckets, [bucket for bucket, key in places if not key], recursive=recursive)
        return deleted

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,  # noqa: ARG002 - fsspec's; DeleteObjects takes a thousand
        maxdepth: int | None = None,
        **_: Any,
    ) -> list[str]:
        places = await self._all_places_at(path, maxdepth, recursive=recursive)
        deleted: list[str] = await self._in_thread(
            lambda stop: self._delete_objects([place for place in places if place[1]], stop)
        )
        await self._remove_buckets([bucket for bucket, key in places if not key], recursive=recursive)
        return deleted

    async def _remove_buckets(self, buckets: list[str], *, recursive: bool) -> None:
        for bucket in buckets:
            if recursive and await self._is_bucket_versioned(bucket):
                await self._rm_versioned_bucket_contents(bucket)
            await self._rmdir(bucket)

    async def _all_places_at(self, path: str | list[str], maxdepth: int | None, *, recursive: bool) -> list[tuple[str, str]]:
        places: dict[tuple[str, str], None] = {}  # a set that keeps the order
        for each in [path] if isinstance(path, str) else list(path):
            places.update(dict.fromkeys(await self._places_at(self._strip_protocol(each), maxdepth, recursive=recursive)))
        return list(places)

    async def _places_at(self, path: str, maxdepth: int | None, *, recursive: bool) -> list[tuple[str, str]]:
        """Bucket and key of the objects that `rm` of a path deletes; of a bucket, it itself without a key, at the end."""
        if has_magic(path):
            matches = await self._glob(path)
            if not recursive or maxdepth == 1:
                return [self._split(each) for each in matches]
            deeper = None if maxdepth is None else maxdepth - 1
            below = [await self._places_at(each, deeper, recursive=True) for each in matches]
            return [place for places in below for place in places]
        bucket, key = self._split(path)
        found = [self._split(each) for each in await self._find(path, maxdepth=maxdepth)] if recursive else []
        if not key:
            return [*found, (bucket, "")]
        if (bucket, key) not in found and await self._in_thread(lambda _: self._may_exist(path, unknown=not found)):
            found.append((bucket, key))
        if not found:
            details = self._error_details(bucket, key, "delete")
            raise ObjectNotFoundError(f"{details.url} does not exist (s3 delete)", details)
        return found

    def _may_exist(self, path: str, *, unknown: bool) -> bool:
        try:
            self.store.info(*self._place(path), "delete")
        except ObjectNotFoundError:
            return False
        except AccessDeniedError:  # who may write and delete need not be able to read
            return unknown
        except BucketNotFoundError:
            return False
        return True

    async def _bulk_delete(self, pathlist: list[str], **_: Any) -> list[str]:
        places = [self._place(path) for path in pathlist]
        deleted: list[str] = await self._in_thread(lambda stop: self._delete_objects(places, stop))
        return deleted

    def _delete_objects(self, places: list[tuple[str, str]], stop: Stop) -> list[str]:
        """Delete objects, which may be gone already."""
        by_bucket: dict[str, list[str]] = {}
        for bucket, key in places:
            by_bucket.setdefault(bucket, []).append(key)
        # In a thread: Ctrl-C, which comes to this one, must not leave a request on its way.
        if by_bucket:
            run_all([partial(self._delete_keys, *each, stop) for each in by_bucket.items()], 1, stop)
        for bucket, key in places:
            self._forget_listings(f"{bucket}/{key}")
        return [f"{bucket}/{key}" for bucket, key in places]

    def _delete_keys(self, bucket: str, keys: list[str], stop: Stop) -> None:
        if len(keys) == 1:
            self.requests.delete(bucket, keys[0])
        else:
            delete_objects(self.requests, bucket, keys, self._transfer(bucket, "", "delete", stop=stop))


def _is_lenient(on_error: str | None, *, recursive: bool) -> bool:
    return recursive if on_error is None else on_error == "ignore"
