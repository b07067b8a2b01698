"""The memory and the time of a version with many files: `python -m benchmarks.version_memory [FILES] [DIRECTORY]`.

Publishes a directory to a local store, publishes it again (nothing is sent), verifies the stored version, and fetches it.
Each step is a process of its own, so that its highest memory is its own. FILES is 1 000 000, and DIRECTORY is the one for
temporary files; it needs 8 KiB for each file. On a disk the time is that of fsync: a file system in memory (``/dev/shm``)
shows ours. The files have 1000 different contents and are hard links, so that the source needs no memory there.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage import CloudStorageClient

CONTENTS = 1000
OF_DIRECTORY = 1000
MODEL = "models/many"
VERSION = "v1"


def make(source: str, files: int) -> None:
    """Make the files: 1000 in each directory."""
    contents = f"{source}.contents"
    os.makedirs(contents)
    for number in range(min(files, CONTENTS)):
        with open(f"{contents}/{number}", "w", encoding="ascii") as file:
            file.write(f"{number}\n" * 20)
    for number in range(files):
        parent = f"{source}/part-{number // OF_DIRECTORY:05}"
        if number % OF_DIRECTORY == 0:
            os.makedirs(parent)
        os.link(f"{contents}/{number % CONTENTS}", f"{parent}/record-{number:09}.json")


def of_root(root: str) -> CloudStorageClient:
    """The client of the store."""
    from gllm_storage import storage_client_from_url  # the memory before counts, too

    return storage_client_from_url(f"file://{root}/store")


def publish(root: str) -> str:
    """Publish the source, or find that it is published."""
    from gllm_storage.versions import publish as publish_version

    return publish_version(of_root(root), f"{root}/source", MODEL, version=VERSION).digest


def verify(root: str) -> str:
    """Read each file of the stored version."""
    from gllm_storage.versions import verify as verify_version

    return str(verify_version(of_root(root), MODEL, VERSION))


def fetch(root: str) -> str:
    """Fetch the version."""
    from gllm_storage.versions import fetch as fetch_version

    return str(fetch_version(of_root(root), MODEL, VERSION, f"{root}/fetched"))


def measured(step: Callable[[str], str], root: str) -> None:
    """Run a step, and print its time and the highest memory of this process."""
    began = time.monotonic()
    text = step(root)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    wall, cpu = time.monotonic() - began, usage.ru_utime + usage.ru_stime
    memory = usage.ru_maxrss / 1024
    sys.stdout.write(f"{step.__name__}: {wall:.0f} s, CPU {cpu:.0f} s, at most {memory:.0f} MiB  {text[:70]}\n")
    sys.stdout.flush()


def main(files: int, directory: str) -> None:
    """Make the files, and run each step in a process of its own."""
    context = multiprocessing.get_context("spawn")
    root = tempfile.mkdtemp(prefix="gllm-storage-bench-", dir=directory)
    os.environ["XDG_CACHE_HOME"] = f"{root}/index"
    try:
        make(f"{root}/source", files)
        for step in (publish, publish, verify, fetch):
            process = context.Process(target=measured, args=(step, root))
            process.start()
            process.join()
            if process.exitcode:
                sys.exit(f"{step.__name__} failed")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["1000000"])[0]), (sys.argv[2:] or [tempfile.gettempdir()])[0])
