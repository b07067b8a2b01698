"""All verbs of one client, used by a worker: a thread, or a process that received the client as a pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def use_all_verbs(client: Any, worker: str, scratch: str, content: bytes) -> list[str]:
    """Use all verbs on an object of the worker, and on an object that all workers share.

    Returns:
        The names of the checks that failed.
    """
    local, copy = Path(scratch) / f"{worker}.up", Path(scratch) / f"{worker}.down"
    local.write_bytes(content)
    wrong = []

    def check(what: str, passed: bool) -> None:
        if not passed:
            wrong.append(f"{worker}: {what}")

    name = f"own/{worker}"
    check("file_exists before", not client.file_exists(name))
    check("upload_file", client.upload_file(local, name, check_conflict=True) == client.url(name))
    check("exclusive upload_file again", raises(FileExistsError, client.upload_file, local, name, True))
    check("file_exists", client.file_exists(name))
    check("info", client.info(name).size == len(content))
    check("list_files", client.url(name) in [info.url for info in client.list_files("own/")])
    check("download_file", client.download_file(name, copy).read_bytes() == content)
    with client.open(name) as file:
        check("open to read", file.read() == content)
    with client.open(f"{name}-opened", "wb") as file:
        file.write(content[::-1])
    check("open to write", client.download_file(f"{name}-opened", copy).read_bytes() == content[::-1])
    check("exclusive open", raises(FileExistsError, client.open, name, "xb"))
    check("filesystem", client.filesystem.cat_file(client.url(name)) == content)
    check("delete_file", client.delete_file(f"{name}-opened"))
    check("delete_file again", raises(FileNotFoundError, client.delete_file, f"{name}-opened"))
    check("download_file of nothing", raises(FileNotFoundError, client.download_file, f"{name}-opened", copy))
    client.upload_file(local, "shared")
    check("shared", len(client.download_file("shared", copy).read_bytes()) == len(content))
    return wrong


def raises(kind: type[Exception], call: Any, *arguments: Any) -> bool:
    """Whether a call raises an exception of this class."""
    try:
        call(*arguments)
    except kind:
        return True
    return False
