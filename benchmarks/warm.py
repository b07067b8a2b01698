"""The state of memory and disk cache before a run: the same for each run."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks.layout import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = 16 * MIB


def take_memory(folder: str, size: int) -> None:
    """Write a file and delete it, so that the machine has `size` bytes of free memory at the start of a run.

    A virtual machine may return free memory to its host within seconds (free page reporting), and the next write to that
    memory waits for the host. Measured: `dd` of 4 GiB into the disk cache takes 0.9 to 2.7 s directly after such a file was
    deleted, but 6.5 s when the file was deleted 15 s before; 90 % of it in the kernel's copy. Without this function, the
    result of a run would depend on the time since the previous run. Other kinds of memory do not help: after the same
    amount in a memfd or in an anonymous mapping, `dd` took 6.5 s.

    Args:
        folder: A folder on the disk of the run.
        size: Number of bytes.
    """
    path = os.path.join(folder, "memory")
    block = bytes(min(_BLOCK, size))
    with open(path, "wb", buffering=0) as file:
        try:
            file.writelines(block for _ in range(0, size, len(block)))
        finally:
            os.unlink(path)


def read_files(paths: Iterable[str]) -> None:
    """Read files, so that they are in the disk cache, from which the kernel drops unused files in time."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
