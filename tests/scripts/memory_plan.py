"""Plan the transfer of many files, and print the growth of the process in MiB.

The arguments: the target folder, and the number of files.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from gllm_storage import MemoryStorageClient, ObjectInfo
from gllm_storage.concurrency.stop import Stop
from gllm_storage.files.names import fold_of
from gllm_storage.folders import plan, records
from gllm_storage.folders.entries import LocalFolder, StoredFolder
from gllm_storage.folders.filters import Filter
from gllm_storage.folders.index import ChecksumIndex
from gllm_storage.memory.store import MemoryStore
from tests.scripts.memory_use import peak

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.folders import Plan


class Many(MemoryStore):
    """A store with many objects, which needs no memory for them."""

    count = 1000

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return (ObjectInfo(self.url(f"{prefix}folder/{number:07}.bin"), 10, str(number)) for number in range(self.count))


def planned(folder: str) -> Plan:
    """The plan of a download of all objects to a disk that ignores case, so that each name is compared with all others."""
    store = Many(MemoryStorageClient({"bucket_name": "models"}).filesystem, "models")
    return plan.plan_transfer(
        StoredFolder(store, "v1/"), LocalFolder(folder), plan.Wanted(Filter()), ChecksumIndex(None), Stop()
    )


def main(folder: str, count: int) -> None:
    """Print the number of steps, and the growth, where a thousand steps are in memory before they are on the disk."""
    vars(plan)["fold_of_disk"] = lambda _: fold_of(ignores_case=True, ignores_form=True)
    records._IN_MEMORY = records._BLOCK
    planned(folder)
    idle = peak()
    Many.count = count
    found = planned(folder)
    print(json.dumps({"steps": sum(1 for _ in found.steps("transfer")), "grown": peak() - idle}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
