"""Move many objects at the same time, and print the growth of the process. The argument is a JSON object.

Keys: provider, config, mode (a name in `MODES`), source (a local file), times (how many at once), folder (of downloads).
"""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client
from tests.scripts.memory_use import peak

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 2**20


def upload(client: Any, source: Path, number: int, _: Path) -> None:
    """Upload a file."""
    client.upload_file(source, f"many/{number}")


def write(client: Any, source: Path, number: int, _: Path) -> None:
    """Write an object piece by piece."""
    with client.open(f"many/{number}", "wb") as file, source.open("rb") as content:
        while piece := content.read(_PIECE):
            file.write(piece)


def download(client: Any, _: Path, number: int, folder: Path) -> None:
    """Download the object 0, which exists."""
    client.download_file("many/0", folder / str(number))


def each(work: Callable[..., None]) -> Callable[..., None]:
    """Work on each object in a thread of its own; all threads begin together."""

    def run(client: Any, source: Path, times: int, folder: Path) -> None:
        together = threading.Barrier(times)

        def one(number: int) -> None:
            together.wait()
            work(client, source, number, folder)

        with ThreadPoolExecutor(times) as threads:
            list(threads.map(one, range(times)))

    return run


def put(client: Any, source: Path, times: int, _: Path) -> None:
    """Put a list of files."""
    client.filesystem.put([str(source)] * times, [client.url(f"many/{number}") for number in range(times)])


def get(client: Any, _: Path, times: int, folder: Path) -> None:
    """Get a list of copies of the object 0, which exists."""
    client.filesystem.get([client.url("many/0")] * times, [str(folder / str(number)) for number in range(times)])


MODES = {"upload": each(upload), "write": each(write), "download": each(download), "put": put, "get": get}


def main(job: dict[str, Any]) -> None:
    """Print the growth in MiB."""
    client: Any = get_storage_client(job["provider"], job["config"])
    source, folder = Path(job["source"]), Path(job["folder"])
    small = folder / "small"
    small.write_bytes(b"small")
    client.upload_file(small, "small")
    client.download_file("small", small)
    client.filesystem.cat_file(client.url("small"))
    idle = peak()
    MODES[job["mode"]](client, source, job["times"], folder)
    print(json.dumps({"grown": peak() - idle}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
