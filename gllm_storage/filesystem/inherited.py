"""`InheritedMethods`: what gcsfs and adlfs do themselves, with their errors in our words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fsspec.asyn import sync_wrapper

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class InheritedMethods:
    """Mixed into a filesystem, before the provider's own.

    Their names are bound here once more, because gcsfs and adlfs bind some of them to their own coroutines.
    """

    def _in_our_words(self, path: Any, operation: str) -> AbstractContextManager[None]:
        """Raise our errors in place of those of the provider's filesystem."""
        raise NotImplementedError

    async def _ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
        below: Any = super()
        with self._in_our_words(path, "list"):
            return await below._ls(path, *args, **kwargs)  # noqa: SLF001 - fsspec's own

    async def _find(self, path: str, *args: Any, **kwargs: Any) -> Any:
        below: Any = super()
        with self._in_our_words(path, "list"):
            return await below._find(path, *args, **kwargs)  # noqa: SLF001 - as above

    async def _cat_file(self, path: str, *args: Any, **kwargs: Any) -> Any:
        below: Any = super()
        with self._in_our_words(path, "read"):
            return await below._cat_file(path, *args, **kwargs)  # noqa: SLF001 - as above

    async def _cp_file(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        below: Any = super()
        with self._in_our_words(path1, "copy"):
            await below._cp_file(path1, path2, *args, **kwargs)  # noqa: SLF001 - as above

    async def _rm(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        below: Any = super()
        with self._in_our_words(path, "delete"):
            return await below._rm(path, *args, **kwargs)  # noqa: SLF001 - as above

    async def _mkdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        below: Any = super()
        with self._in_our_words(path, "mkdir"):
            await below._mkdir(path, *args, **kwargs)  # noqa: SLF001 - as above

    async def _rmdir(self, path: str, *args: Any, **kwargs: Any) -> None:
        below: Any = super()
        with self._in_our_words(path, "rmdir"):
            await below._rmdir(path, *args, **kwargs)  # noqa: SLF001 - as above

    mkdir = sync_wrapper(_mkdir)
    rmdir = sync_wrapper(_rmdir)
