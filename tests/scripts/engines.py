"""A sync on the workers of an engine. The test kills one of them in the middle.

The argument is a JSON object: ``engine``, ``config`` of an S3 client, ``source``. Prints the process id of a worker, then a
JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client
from gllm_storage.errors import FolderError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Executor


@contextlib.contextmanager
def dask() -> Iterator[Executor]:
    """Two processes of Dask."""
    from distributed import Client, LocalCluster  # takes 1 s

    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(processes=True, **options) as cluster, Client(cluster) as client:
        executor: Executor = client.get_executor()
        yield executor


@contextlib.contextmanager
def ray() -> Iterator[Executor]:
    """Two processes of Ray."""
    import ray as engine  # takes 2 s

    from gllm_storage.executors import RayExecutor

    engine.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    try:
        with RayExecutor() as executor:
            yield executor
    finally:
        engine.shutdown()


ENGINES = {"dask": dask, "ray": ray}


def main(engine: str, config: dict[str, str], source: str) -> dict[str, int]:
    """Upload the source."""
    client: Any = get_storage_client("s3", config)
    moved: list[int] = []
    with ENGINES[engine]() as executor:
        print(executor.submit(os.getpid).result(), flush=True)
        try:
            done = client.sync_dir(source, client.url("v1"), executor=executor, callback=moved.append)
        except FolderError as error:
            print(error, file=sys.stderr)
            done = error.result
    return {"transferred": done.transferred, "failed": done.failed, "not_begun": done.not_begun, "moved": sum(moved)}


if __name__ == "__main__":
    print(json.dumps(main(**json.loads(sys.argv[1]))))
