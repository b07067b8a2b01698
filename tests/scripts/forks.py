"""Use a client in a process, and then in forked children of the process. The argument is a JSON object.

Keys: provider, config, local (a file of the test), scratch (a folder), fork ("os" or "multiprocessing"), uses (names of the
functions in `USES` that the children call), children (their number), busy (whether another thread transfers data during the
fork). The script prints the outcome of each child: "ok", its traceback, or "hung".
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gllm_storage import get_storage_client

if TYPE_CHECKING:
    from collections.abc import Callable

CHILD_SECONDS = 60.0


@dataclass(frozen=True)
class Before:
    """The objects of the parent before the fork.

    Attributes:
        client: The used client.
        filesystem: The client's filesystem.
        reader: A file object that the parent has opened and read in part.
        content: The content of the reader's object.
        scratch: A folder.
    """

    client: Any
    filesystem: Any
    reader: Any
    content: bytes
    scratch: Path


def verbs(before: Before, name: str) -> None:
    """Use all verbs of the parent's client."""
    client, local = before.client, before.scratch / name
    assert client.file_exists("parent")
    assert client.download_file("parent", local).read_bytes() == before.content
    client.upload_file(local, name, check_conflict=True)
    try:
        client.upload_file(local, name, check_conflict=True)
    except FileExistsError:
        pass
    else:
        raise AssertionError("the second exclusive create was not refused")
    assert client.info(name).size == len(before.content)
    assert client.url(name) in [info.url for info in client.list_files()]
    with client.open(f"{name}-opened", "wb") as file:
        file.write(before.content)
    with client.open(f"{name}-opened") as file:
        assert file.read() == before.content
    assert client.delete_file(f"{name}-opened")
    assert not client.file_exists(f"{name}-opened")


def reader(before: Before, _: str) -> None:
    """Read from the parent's file object. Not for local files: parent and child share one position in the OS."""
    before.reader.seek(10)
    assert before.reader.read() == before.content[10:]


def filesystem(before: Before, name: str) -> None:
    """Use the parent's filesystem."""
    fs, url, local = before.filesystem, before.client.url, str(before.scratch / name)
    fs.get_file(url("parent"), local)
    assert Path(local).read_bytes() == before.content
    fs.put_file(local, url(name), mode="create")
    assert fs.info(url(name))["size"] == len(before.content)
    with fs.open(url(name)) as file:
        assert file.read() == before.content
    fs.rm_file(url(name))
    fs.put_file(local, url(name))


def inherited(before: Before, name: str) -> None:
    """Use the methods that the parent's filesystem inherits from fsspec or s3fs."""
    fs, url = before.filesystem, before.client.url
    assert fs.exists(url("parent"))
    fs.pipe_file(url(name), before.content)
    assert not fs.exists(url(f"{name}-missing"))
    assert fs.cat_file(url(name)) == before.content
    folder = url(name).rpartition("/")[0]
    assert name in [entry["name"].rpartition("/")[2] for entry in fs.ls(folder, detail=True)]


USES: dict[str, Callable[[Before, str], None]] = {
    "verbs": verbs,
    "reader": reader,
    "filesystem": filesystem,
    "inherited": inherited,
}


def main(job: dict[str, Any]) -> None:
    """Fork children while the client is in use."""
    client = get_storage_client(job["provider"], job["config"])
    client.upload_file(job["local"], "parent")
    with client.open("parent") as opened, Busy(client, job) as busy:
        assert opened.read(10)
        before = Before(client, client.filesystem, opened, Path(job["local"]).read_bytes(), Path(job["scratch"]))
        outcomes = [forked(job, before, f"child-{number}") for number in range(job["children"])]
        for use in job["uses"]:
            USES[use](before, f"parent-{use}")  # the parent can still use the client
    print(json.dumps({"children": outcomes, "moved meanwhile": busy.moved}))


class Busy:
    """A thread that uploads and downloads without pause, if the job has `busy`."""

    def __init__(self, client: Any, job: dict[str, Any]) -> None:
        self._client = client
        self._local = job["local"]
        self._target = os.path.join(job["scratch"], "busy")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._move) if job["busy"] else None
        self.moved = 0

    def _move(self) -> None:
        while not self._stop.is_set():
            self._client.upload_file(self._local, "busy")
            self._client.download_file("busy", self._target)
            self.moved += 1

    def __enter__(self) -> Self:
        if self._thread:
            self._thread.start()
            while not self.moved:
                time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()


def forked(job: dict[str, Any], before: Before, name: str) -> str:
    """Fork a child, wait for it, and return its outcome."""
    outcome = before.scratch / f"{name}.outcome"

    def child() -> None:
        faulthandler.dump_traceback_later(CHILD_SECONDS - 5)
        try:
            for use in job["uses"]:
                USES[use](before, f"{name}-{use}")
            outcome.write_text("ok")
        except BaseException:  # noqa: BLE001 - the parent reports it
            outcome.write_text(traceback.format_exc())

    if job["fork"] == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(CHILD_SECONDS)
        hung = process.is_alive()
        process.kill()
        process.join()
    else:
        hung = not os_forked(child)
    return "hung" if hung else outcome.read_text()


def os_forked(work: Callable[[], None]) -> bool:
    """Call `work` in a child of os.fork; returns whether the child ended in time."""
    pid = os.fork()
    if pid == 0:
        work()
        sys.stderr.flush()
        os._exit(0)
    deadline = time.monotonic() + CHILD_SECONDS
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return False
        time.sleep(0.01)
    return True


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
