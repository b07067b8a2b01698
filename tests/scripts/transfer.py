"""A transfer in a process of its own, to be interrupted or killed in the middle; its argument is a JSON object.

Keys: provider, config, action ("upload", "create", "stream" or "download"), local, remote. With "pause" the file
provider stops after its first piece, says so on stdout, and waits to be killed.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from typing import Any

from gllm_storage import get_storage_client
from gllm_storage.files import source


def pause_after_first_piece() -> None:
    """Make the reading of local files stop when something was read."""
    read_at = source.LocalSource.read_at

    def read_once(self: source.LocalSource, offset: int, length: int) -> bytes:
        if offset:
            print("halfway", flush=True)
            time.sleep(600)
        return read_at(self, offset, length)

    source.LocalSource.read_at = read_once  # type: ignore[method-assign]


def main(job: dict[str, Any]) -> None:
    """Do what is asked."""
    # Whoever runs pytest in the background makes its children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
