"""Many objects moved by a process of its own that is interrupted in the middle; its argument is a JSON object.

Keys: provider, config, action (one of `ACTIONS`), folder (of the bucket), local, names. It says "heard" when Ctrl-C comes,
"interrupted" when it came out of the call, and then waits to be told to end: what happens from then on was left behind.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIONS: dict[str, Callable[[Any, list[str], list[str]], object]] = {
    "put": lambda fs, local, remote: fs.put(local, remote),
    "get": lambda fs, local, remote: fs.get(remote, local),
    "cat": lambda fs, _, remote: fs.cat(remote),
    "pipe": lambda fs, _, remote: fs.pipe(dict.fromkeys(remote, b"content")),
    "pipe one": lambda fs, _, remote: fs.pipe(remote[0], b"content"),
    "copy": lambda fs, _, remote: fs.copy(remote, [f"{each}.copy" for each in remote]),
    "copy one": lambda fs, _, remote: fs.cp_file(remote[0], f"{remote[0]}.copy"),
    "mv": lambda fs, _, remote: fs.mv(remote, [f"{each}.moved" for each in remote]),
    "rm": lambda fs, _, remote: fs.rm(remote),
    "rm one": lambda fs, _, remote: fs.rm_file(remote[0]),
}


def interrupt(*_: object) -> None:
    """Handle SIGINT as Python does, and say so."""
    print("heard", flush=True)
    raise KeyboardInterrupt


def main(job: dict[str, Any]) -> None:
    """Do what is asked."""
    signal.signal(signal.SIGINT, interrupt)
    made: Any = get_storage_client(job["provider"], job["config"])
    filesystem = made.filesystem
    remote = [f"{job['folder']}/{name}" for name in job["names"]]
    local = [f"{job['local']}/{name}" for name in job["names"]]
    try:
        ACTIONS[job["action"]](filesystem, local, remote)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
