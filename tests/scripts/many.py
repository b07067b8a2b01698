"""Many objects moved by a process of its own that is interrupted in the middle; its argument is a JSON object.

Keys: config, action ("put", "get", "cat" or "pipe"), folder (of the bucket), local, names. It says "interrupted" when Ctrl-C
came out of the call, and then waits to be told to end: what happens from then on was left behind.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from gllm_storage import get_storage_client


def main(job: dict[str, Any]) -> None:
    """Do what is asked."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    made: Any = get_storage_client("s3", job["config"])
    filesystem = made.filesystem
    remote = [f"{job['folder']}/{name}" for name in job["names"]]
    local = [f"{job['local']}/{name}" for name in job["names"]]
    try:
        if job["action"] == "put":
            filesystem.put(local, remote)
        elif job["action"] == "get":
            filesystem.get(remote, local)
        elif job["action"] == "cat":
            filesystem.cat(remote)
        else:
            filesystem.pipe(dict.fromkeys(remote, b"content"))
    except KeyboardInterrupt:
        print("interrupted", flush=True)  # noqa: T201 - the test reads it
    sys.stdin.readline()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
