"""`MovingMethods`: copies and deletes of the providers' own filesystems, which Ctrl-C and a cancellation end.

S3 has its own (`gllm_storage.s3.s3fs.moves`).
"""

from __future__ import annotations

from typing import Any

from gllm_storage.concurrency.interrupt import ending_its_tasks, run_interruptible

UNDER_WAY = 64
"""Objects that are copied or moved at a time. fsspec begins over a thousand, and those are waited for after Ctrl-C."""


class MovingMethods:
    """Mixed into a filesystem, before `InheritedMethods`."""

    loop: Any
    batch_size: int | None
    _cp_file: Any

    # fsspec would make these of the coroutines, too; Ctrl-C would not end them then.

    def cp_file(self, path1: str, path2: str, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``cp_file``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._cp_file, path1, path2, *args, **kwargs)

    def copy(self, *args: Any, **kwargs: Any) -> None:
        """As fsspec's ``copy``; Ctrl-C ends it."""
        run_interruptible(self.loop, self._copy, *args, **kwargs)

    def rm(self, *args: Any, **kwargs: Any) -> Any:
        """As the provider's ``rm``; Ctrl-C ends it."""
        return run_interruptible(self.loop, self._rm, *args, **kwargs)

    async def _copy(self, path1: Any, path2: Any, *args: Any, batch_size: int | None = None, **kwargs: Any) -> None:
        below: Any = super()
        most = batch_size or self.batch_size or UNDER_WAY
        async with ending_its_tasks():
            await below._copy(path1, path2, *args, batch_size=most, **kwargs)  # noqa: SLF001 - fsspec's own

    async def _rm(self, *args: Any, **kwargs: Any) -> Any:
        below: Any = super()
        async with ending_its_tasks():
            return await below._rm(*args, **kwargs)  # noqa: SLF001 - as above
