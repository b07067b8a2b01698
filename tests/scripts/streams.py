"""Write objects by `open` in a process of its own. The argument is a JSON object.

Keys: config, name, mode, size, and job: "fork" (fork children while an object is open), "forget" (end without closing the
file; with the key forget = "cycle", the file is in a reference cycle) or "memory" (measure the growth of the process while
it writes "size" MiB).
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client
from tests.scripts.memory_use import peak

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 2**20
kept: list[Any] = []


def outcome_in_child(work: Callable[[], None], *, leave: bool = False) -> str:
    """Call `work` in a forked child; returns "ok" or the error message."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            said = "ok"
        except Exception as error:  # noqa: BLE001 - the parent reports it
            said = str(error)
        os.write(writing, said.encode())
        if leave:
            sys.exit()  # runs the exit handlers, unlike os._exit
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        return answer.read()


def fork(client: Any, job: dict[str, Any]) -> dict[str, str]:
    """Write, close, discard and drop the file in forked children, then complete it in the parent."""
    kept.append(client.open(job["name"], job["mode"]))
    kept[0].write(bytes(job["size"]))

    def drop() -> None:
        kept.clear()
        gc.collect()

    said = {
        "write": outcome_in_child(lambda: kept[0].write(b"from the child")),
        "close": outcome_in_child(kept[0].close),
        "discard": outcome_in_child(kept[0].discard),
        "drop": outcome_in_child(drop),
        "exit": outcome_in_child(lambda: None, leave=True),
    }
    kept[0].write(bytes(4))
    kept[0].close()
    return said


def forget(client: Any, job: dict[str, Any]) -> dict[str, str]:
    """Write to a file and leave it open."""
    kept.append(client.open(job["name"], job["mode"]))
    kept[0].write(bytes(job["size"]))
    if job["forget"] == "cycle":
        kept.append(kept)
    return {}


def memory(client: Any, job: dict[str, Any]) -> dict[str, float]:
    """Write a small object and a large one in pieces; returns the growth in MiB."""
    data = os.urandom(MIB)
    before = 0.0
    for size in (1, job["size"]):
        before = peak()
        with client.open(job["name"], job["mode"]) as file:
            file.writelines(data for _ in range(size))
    return {"grown": peak() - before}


JOBS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {"fork": fork, "forget": forget, "memory": memory}


def main(job: dict[str, Any]) -> None:
    """Run the job, and print its result."""
    client = get_storage_client("s3", job["config"])
    print(json.dumps(JOBS[job["job"]](client, job)), flush=True)


if __name__ == "__main__":
    with suppress(SystemExit):
        main(json.loads(sys.argv[1]))
