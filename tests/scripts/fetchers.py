"""Processes that fetch one version with a shared cache. The processes do not import pytest."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gllm_storage import LocalStorageClient, versions
from gllm_storage.files.partial import PartialFile
from tests.scripts.racers import wait

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gllm_storage.store.port import ReadItem

MODEL = "models/llama-ft"
PART = 2**18
"""Bytes of a part, and of a piece of an answer: the most that is lost of each connection if the process is killed."""
CONNECTIONS = 2


@dataclass(frozen=True)
class Fetch:
    """A fetch in a process of its own.

    Attributes:
        root: The folder of the store.
        version: The name of the version, an alias, or a digest.
        cache: The directory of the cache; None fetches without one.
        target: The directory to make; None makes none.
        log: The file that gets one line for each piece that was downloaded: its bytes, and the process.
        killed_after: The process kills itself after it has written so many bytes of large files; 0 for never.
        waits_for_first: The process begins when another one has downloaded something.
        stopped_after: The process stops itself, until SIGCONT, after it has downloaded so many bytes of small files.
    """

    root: str
    version: str
    cache: str | None
    target: str | None
    log: str
    killed_after: int = 0
    waits_for_first: bool = False
    stopped_after: int = 0


def client_of(root: str) -> LocalStorageClient:
    """A client with small parts, so that a large file is not large."""
    client = LocalStorageClient({"root": root, "fsync": "false"})
    settings = replace(client.store.settings, part_size=PART, max_concurrency=CONNECTIONS)  # not keys of the config
    vars(client.store)["_settings"] = settings
    return client


def fetch(each: Fetch) -> str | None:
    """Fetch, at the same moment as the other processes; returns the path."""
    client = client_of(each.root)
    _count(client, each)
    wait()
    while each.waits_for_first and not os.path.exists(each.log):
        time.sleep(0.001)
    return versions.fetch(client, MODEL, each.version, each.target, cache=each.cache).path


def _count(client: LocalStorageClient, each: Fetch) -> None:
    left = each.killed_after
    read_many, write_at = client.store.read_many, PartialFile.write_at

    def record(size: int) -> None:
        with open(each.log, "a", encoding="ascii") as log:
            log.write(f"{size} {os.getpid()}\n")

    def many(items: Sequence[ReadItem], *args: Any, **options: Any) -> Any:
        found = read_many(items, *args, **options)
        for item in items:
            record(os.path.getsize(str(item.path)))
        if each.stopped_after and sum(os.path.getsize(str(item.path)) for item in items) >= each.stopped_after:
            os.kill(os.getpid(), signal.SIGSTOP)
        return found

    def write(self: PartialFile, offset: int, data: bytes | memoryview) -> None:
        nonlocal left
        write_at(self, offset, data)
        record(len(data))
        left -= len(data)
        if each.killed_after and left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    client.store.read_many = many  # type: ignore[method-assign]  # replaced for the test
    PartialFile.write_at = write  # type: ignore[method-assign]  # this process fetches once
