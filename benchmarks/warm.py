"""What is in memory when a run begins: the same for each."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks.layout import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

_BLOCK = 16 * MIB


def take_memory(folder: str, size: int) -> None:
    """Write a file of so many bytes and delete it, so that a run finds memory which this machine has already.

    A virtual machine may give memory that is free back to its host within seconds (free page reporting), and whoever is
    next to write to it waits for the host: measured, `dd` of 4 GiB into the disk's cache takes 0.9 to 2.7 s just after such
    a file was deleted and 6.5 s fifteen seconds later, 90 % of it in the kernel's copy. A run would measure how long ago
    another one ended. Memory of another kind does not help: after as much in a memfd or in an anonymous mapping, `dd` took
    6.5 s as before.
    """
    path = os.path.join(folder, "memory")
    block = bytes(min(_BLOCK, size))
    with open(path, "wb", buffering=0) as file:
        try:
            file.writelines(block for _ in range(0, size, len(block)))
        finally:
            os.unlink(path)


def read_files(paths: Iterable[str]) -> None:
    """Have the files in the disk's cache, from which a machine drops in time what nobody reads."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass
