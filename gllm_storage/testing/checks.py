"""Checks of a store that `StoreSuite` and ``gllm-storage check`` share: races, reads of a replaced object, checksums."""

from __future__ import annotations

import errno
import threading
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.concurrency.stop import Stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import StorageError
from gllm_storage.files.source import MemorySource
from gllm_storage.settings import MIB
from gllm_storage.store.port import UploadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.context import ForkContext, SpawnContext
    from typing import IO

    from gllm_storage.info import Stored
    from gllm_storage.store.port import ObjectStore

_WAIT_SECONDS = 120.0


def content(seed: int, size: int) -> bytes:
    """Content of a size in bytes in which any 32 bytes tell the seed and the offset."""
    block = b"".join(f"{seed:07d}{line:08d}\n".encode() for line in range(min(size, MIB) // 16 + 1))
    return (block * (size // len(block) + 1))[:size]


def store_bytes(store: ObjectStore, key: str, data: bytes, *, exclusive: bool = False) -> Stored:
    """Upload bytes.

    Raises:
        Exception: The exceptions of `ObjectStore.upload`.
    """
    transfer = store.transfer(key, "upload")
    return store.upload(UploadRequest(key, MemorySource(data, transfer.details), transfer, exclusive))


def race(writers: Sequence[Callable[[], object]]) -> tuple[int, ...]:
    """Run writers that create one object exclusively, all at the same moment, each in a thread.

    Args:
        writers: Each returns if it created the object, and raises `FileExistsError` if the object exists.

    Returns:
        The numbers of the writers that created the object. Exclusive create holds if there is exactly one.

    Raises:
        Exception: Any other exception of a writer.
    """
    barrier = threading.Barrier(len(writers))

    def run(writer: Callable[[], object]) -> bool:
        barrier.wait(_WAIT_SECONDS)
        return _wins(writer)

    won = run_all([partial(run, writer) for writer in writers], len(writers), Stop())
    return tuple(number for number, wins in enumerate(won) if wins)


def race_in_processes(
    store: ObjectStore, keys: Sequence[str], contents: Sequence[bytes], context: SpawnContext | ForkContext
) -> list[tuple[int, ...]]:
    """Create objects exclusively by several processes at the same moment.

    Args:
        store: The store. It is pickled for processes that are spawned.
        keys: The keys, one for each round.
        contents: The content of each process.
        context: How processes are made: ``multiprocessing.get_context("spawn")`` or ``"fork"``.

    Returns:
        For each round, the numbers of the processes that created the object.

    Raises:
        Exception: Any exception of a process but `FileExistsError`.
    """
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - slow to import, and ``gllm-storage`` needs none

    barrier = context.Barrier(len(contents))
    spawned = context.get_start_method() == "spawn"
    inherited, sent = (None, store) if spawned else (store, None)
    with warnings.catch_warnings():
        # Python warns when a process with threads is forked. The library supports that: see `concurrency.fork`.
        warnings.simplefilter("ignore", DeprecationWarning)
        with ProcessPoolExecutor(
            len(contents), context, initializer=_start_process, initargs=(barrier, inherited)
        ) as processes:
            # A task waits at the barrier until the others run, so that each task has a process of its own.
            tasks = [processes.submit(_create_all, sent, keys, each) for each in contents]
            failures = [failure for task in tasks if (failure := task.exception()) is not None]
    for failure in sorted(failures, key=lambda each: isinstance(each, threading.BrokenBarrierError)):
        raise failure
    return [tuple(number for number, task in enumerate(tasks) if task.result()[which]) for which in range(len(keys))]


_in_process: dict[str, Any] = {}
"""The barrier of this process, and its store if that was inherited by fork: neither can be sent to it."""


def _start_process(barrier: Any, store: ObjectStore | None) -> None:
    _in_process.update(barrier=barrier, store=store)


def _create_all(store: ObjectStore | None, keys: Sequence[str], data: bytes) -> list[bool]:
    used = store or _in_process["store"]
    won = []
    for key in keys:
        _in_process["barrier"].wait(_WAIT_SECONDS)
        try:
            won.append(_wins(partial(store_bytes, used, key, data, exclusive=True)))
        except BaseException:
            _in_process["barrier"].abort()  # the other processes do not wait for this one
            raise
    return won


def _wins(writer: Callable[[], object]) -> bool:
    try:
        writer()
    except FileExistsError:
        return False
    return True


def wrong_ranges(file: IO[bytes], expected: bytes, offsets: Sequence[int], length: int = 100) -> list[int]:
    """Read ranges of an open object.

    Args:
        file: The object, open for reading.
        expected: The content of the object.
        offsets: Where the ranges begin.
        length: Number of bytes in each range.

    Returns:
        The offsets at which the bytes are wrong.
    """
    wrong = []
    for offset in offsets:
        file.seek(offset)
        if file.read(length) != expected[offset : offset + length]:
            wrong.append(offset)
    return wrong


def read_while_replaced(file: IO[bytes], replace: Callable[[], object], first: int) -> bytes | None:
    """Read the beginning of an open object, replace the object, and read the rest.

    Args:
        file: The object, open for reading.
        replace: Replaces the object.
        first: Number of bytes to read before.

    Returns:
        The bytes, which must be those of the previous object; None if the file raised an error, which is right as well.

    Raises:
        OSError: An error with another reason.
    """
    beginning = file.read(first)
    replace()
    try:
        return beginning + file.read()
    except (StorageError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in {errno.EBUSY, errno.ENOENT}:
            raise
        return None


def is_checksum_of(kept: str, data: bytes) -> bool | None:
    """Whether the checksum that a store keeps is right.

    Args:
        kept: The checksum, as in `ObjectInfo`: ``"algorithm:value"``.
        data: The content of the object.

    Returns:
        None if the library does not know the algorithm.
    """
    from gllm_storage.store import checksums  # noqa: PLC0415 - it imports awscrt, which ``gllm-storage --help`` does not need

    algorithm, _, value = kept.partition(":")
    if algorithm not in {*checksums.ALGORITHMS, "md5"}:
        return None
    return checksums.checksum_of(lambda offset, length: data[offset : offset + length], len(data), algorithm) == value
