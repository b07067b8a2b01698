"""`LookingMethods`: what there is, asked from the store."""

from __future__ import annotations

from typing import Any

from gllm_storage.errors import BucketNotFoundError, ObjectNotFoundError
from gllm_storage.filesystem.bucket_base import BucketBase


class LookingMethods(BucketBase):
    """`info`, `exists`, `isfile`, `isdir`."""

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """What fsspec wants to know of an object, a prefix or a bucket; always asked from the store.

        Raises:
            ObjectNotFoundError: If there is neither object nor prefix.
            StorageError: If it cannot be told.
        """
        bucket, key = self._split(path)
        key = key.rstrip("/")
        if not key:
            if bucket:
                self.store.require_bucket(bucket, self._error_details(bucket, "", "info"), recently=False)
            return self._directory(bucket)
        try:
            return self.store.entry(bucket, key)
        except ObjectNotFoundError:
            if self.store.is_prefix(bucket, f"{key}/"):
                return self._directory(f"{bucket}/{key}")
            raise

    async def _info(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if self._is_of_version(kwargs):
            below: Any = super()
            of_version: dict[str, Any] = await below._info(path, *args, **kwargs)  # noqa: SLF001 - fsspec's own
            return of_version
        found: dict[str, Any] = await self._in_thread(lambda _: self.info(path))
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is an object, a prefix or a bucket now.

        Raises:
            StorageError: If it cannot be told.
        """
        return self._type(path) is not None

    async def _exists(self, path: str, **_: Any) -> bool:
        return await self._type_later(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether there is an object now.

        Raises:
            StorageError: If it cannot be told.
        """
        return self._type(path) == "file"

    async def _isfile(self, path: str) -> bool:
        return await self._type_later(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether there is a prefix or a bucket now.

        Raises:
            StorageError: If it cannot be told.
        """
        return self._type(path) == "directory"

    async def _isdir(self, path: str) -> bool:
        return await self._type_later(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except (FileNotFoundError, BucketNotFoundError):
            return None

    async def _type_later(self, path: str) -> str | None:
        try:
            return str((await self._info(path))["type"])
        except (FileNotFoundError, BucketNotFoundError):
            return None
