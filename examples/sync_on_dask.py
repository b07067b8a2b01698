"""Sync a folder on the workers of Dask, twice: the second run finds nothing to do.

python examples/sync_on_dask.py                                                # two processes, in a folder of its own
python examples/sync_on_dask.py DATA s3://bucket/data tcp://scheduler:8786     # your own data, store and cluster

On a cluster of several machines, DATA must be on a disk that all of them share, and each must have gllm-storage.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from gllm_storage import storage_client_from_url
from gllm_storage.errors import FolderError


def make_data(folder: Path) -> Path:
    """A small dataset."""
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04}.txt").write_text(f"sample {number}\n" * 20)
    return folder


def sync(data: str, url: str, cluster: Any) -> None:
    """Upload files that differ, on the workers of the cluster."""
    client: Any = storage_client_from_url(url)
    with Client(cluster) as dask:
        for _ in range(2):
            try:
                print(client.upload_dir(data, "", executor=dask.get_executor(), on_error="collect"))
            except FolderError as error:  # the next run transfers only the missing files
                sys.exit(str(error))


def main(*arguments: str) -> None:
    """Sync the data of the caller, or a small dataset."""
    if arguments:
        sync(*arguments)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
        sync(str(make_data(folder / "data")), f"file://{folder}/store", cluster)


if __name__ == "__main__":
    main(*sys.argv[1:])
