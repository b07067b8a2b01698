"""`AtomicTransaction`: fsspec's transaction of the filesystems of this library."""

from __future__ import annotations

from typing import Any

from fsspec.transaction import Transaction


class AtomicTransaction(Transaction):
    """fsspec's transaction, which ends also if a commit fails: older releases of fsspec then defer all later writes."""

    def complete(self, commit: bool = True) -> None:
        """Publish all files, in the order in which they were opened, or discard them.

        Args:
            commit: Whether to publish.

        Raises:
            Exception: The exception of the first file that cannot be published; the files after it are discarded.
        """
        mine: Any = self
        filesystem, files = mine.fs, list(mine.files)
        mine.files.clear()
        try:
            while commit and files:
                files.pop(0).commit()
        finally:
            for each in files:
                each.discard()
            if filesystem is not None:
                filesystem._intrans = False  # noqa: SLF001 - as fsspec's own does
                filesystem._transaction = None  # noqa: SLF001 - as fsspec's own does
            mine.fs = None
