"""A torch DataLoader in a process of its own, over a client that was used before; its argument is a JSON object.

Keys: provider, config, start ("fork" or "spawn"). It exits with an error unless each worker got the right data.
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
    """What is stored under a number."""
    return random.Random(number).randbytes(10_000 + number)


class Stored(Dataset):  # type: ignore[misc]  # torch is 800 MB, and not looked at
    """Items that are read by a client, by its filesystem, and from a file that was open before the workers began.

    Args:
        client: Was used already, as by whoever looked how many items there are.
        shares_file: Whether the workers get the open file: those that are spawned cannot.
    """

    def __init__(self, client: CloudStorageClient, *, shares_file: bool) -> None:
        self.client: Any = client
        self.file = self.client.open("0") if shares_file else None
        if self.file:
            self.file.read(10)

    def __len__(self) -> int:
        return ITEMS

    def __getitem__(self, number: int) -> tuple[int, int]:
        """The process that read it, and how many of the ways gave something else than what is stored."""
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
    """Store the items, and have workers read them."""
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
        assert items[3] == (os.getpid(), 0)  # and the parent goes on


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
