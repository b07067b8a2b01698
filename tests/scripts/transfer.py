"""A transfer in a process that the test interrupts or kills. The argument is a JSON object.

Keys: provider, config, action ("upload", "create", "stream" or "download"), local, remote. With "pause", the read
of a local file stops after the first piece, prints "halfway", and waits for the kill. "stop_seconds" replaces the seconds
that an interrupted library call waits for a stalled server.
"""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client
from gllm_storage.files import source

if TYPE_CHECKING:
    from types import ModuleType


def pause_after_first_piece() -> None:
    """Patch the read of local files: the second read prints "halfway" and sleeps."""
    read_at = source.LocalSource.read_at

    def read_once(self: source.LocalSource, offset: int, length: int) -> bytes:
        if offset:
            print("halfway", flush=True)
            time.sleep(600)
        return read_at(self, offset, length)

    source.LocalSource.read_at = read_once  # type: ignore[method-assign]  # replaced for the test


def stop_modules() -> list[ModuleType]:
    """The modules with `_STOP_SECONDS`, the limit of the wait for a stalled server after an interruption."""
    names = ("concurrency.interrupt", "concurrency.workers", "http.pool")
    return [importlib.import_module(f"gllm_storage.{name}") for name in names]


def main(job: dict[str, Any]) -> None:
    """Run the action."""
    # A shell that runs pytest in the background makes its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "stop_seconds" in job:
        for module in stop_modules():
            assert module._STOP_SECONDS  # fails if the library renames the constant
            vars(module)["_STOP_SECONDS"] = job["stop_seconds"]
    client = get_storage_client(job["provider"], job["config"])
    if job.get("pause"):
        pause_after_first_piece()
    if job["action"] == "download":
        client.download_file(job["remote"], job["local"])
    elif job["action"] == "stream":
        with open(job["local"], "rb") as content, client.open(job["remote"], "xb") as file:
            shutil.copyfileobj(content, file, 2**20)
    else:
        client.upload_file(job["local"], job["remote"], check_conflict=job["action"] == "create")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
