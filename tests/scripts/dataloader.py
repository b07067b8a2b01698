"""A torch DataLoader in a process of its own, over a used client. The argument is a JSON object.

Keys: provider, config, start ("fork" or "spawn"). The process exits with an error unless each worker read the right content.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

from torch.utils.data import DataLoader, Dataset

from gllm_storage import CloudStorageClient, get_storage_client

ITEMS = 24
WORKERS = 3
EPOCHS = 2


def content_of(number: int) -> bytes:
    """The content of the object with a number."""
    return random.Random(number).randbytes(10_000 + number)


class Stored(Dataset):  # type: ignore[misc]  # mypy skips torch
    """Items that are read by a client, by its filesystem, and from a file that was opened before the workers started.

    Args:
        client: A used client, as in a program that has counted the items.
        shares_file: Whether the workers get the open file. Spawned workers cannot get it.
    """

    def __init__(self, client: CloudStorageClient, *, shares_file: bool) -> None:
        self.client: Any = client
        self.file = self.client.open("0") if shares_file else None
        if self.file:
            self.file.read(10)

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, number: int) -> tuple[int, int]:
        """Read an item; returns the process id, and the number of reads with wrong content."""
        expected = content_of(number)
        filesystem, path = self.client.filesystem, self.client.url(str(number))
        found = [self._by_open(number), filesystem.cat_file(path), filesystem.cat([path])[path.partition("://")[2]]]
        wrong = sum(each != expected for each in found)
        if self.file:
            self.file.seek(20)
            wrong += self.file.read(50) != content_of(0)[20:70]
        return os.getpid(), wrong

    def _by_open(self, number: int) -> bytes:
        with self.client.open(str(number)) as file:
            content: bytes = file.read()
            return content


def main(job: dict[str, Any]) -> None:
    """Store the items, and read them by workers."""
    client: Any = get_storage_client(job["provider"], job["config"])
    urls = [client.url(str(number)) for number in range(ITEMS)]
    client.filesystem.pipe({url: content_of(number) for number, url in enumerate(urls)})
    forked = job["start"] == "fork"
    items = Stored(client, shares_file=forked)
    loader = DataLoader(
        items,
        batch_size=2,
        num_workers=WORKERS,
        persistent_workers=True,
        multiprocessing_context=job["start"],
    )
    for _ in range(EPOCHS):
        read = [
            (int(process), int(wrong))
            for processes, wrongs in loader
            for process, wrong in zip(processes, wrongs, strict=True)
        ]
        assert len(read) == ITEMS
        assert not any(wrong for _, wrong in read)
        assert len({process for process, _ in read} - {os.getpid()}) == WORKERS
        assert items[3] == (os.getpid(), 0)  # the parent can still read


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
