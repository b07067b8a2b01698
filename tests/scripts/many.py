"""Transfer many objects in a process that the test interrupts. The argument is a JSON object.

Keys: provider, config, action (one of `ACTIONS`), folder (of the bucket), local, names. The script prints "heard" at
Ctrl-C and "interrupted" when the call has ended. Then it waits for a line on standard input: any later request or change
comes from work that the call left running.
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
    """Print "heard", and handle SIGINT as Python does."""
    print("heard", flush=True)
    raise KeyboardInterrupt


def main(job: dict[str, Any]) -> None:
    """Run the action, and print "interrupted" after Ctrl-C."""
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
