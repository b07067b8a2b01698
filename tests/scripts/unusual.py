"""Calls all verbs, and the filesystem's methods, where other programs seldom do: at the exit, among greenlets.

Arguments: where (``atexit``, ``thread``, ``gevent``, ``eventlet``); ``first`` or ``later``, whether the store is used there
for the first time; the provider; its config as JSON. Prints ``done`` at the end.
"""

# ruff: noqa: E402 - greenlets replace modules before anything else is imported
from __future__ import annotations

import sys

WHERE = sys.argv[1]
if WHERE == "gevent":
    import gevent.monkey

    gevent.monkey.patch_all()
elif WHERE == "eventlet":
    import eventlet

    eventlet.monkey_patch()

import atexit
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from gllm_storage import get_storage_client


def use(client: Any) -> None:
    """Call everything once, with small and large content."""
    filesystem, folder = client.filesystem, Path(tempfile.mkdtemp())
    small, large = folder / "small", folder / "large"
    small.write_bytes(b"small")
    large.write_bytes(os.urandom(6 * 2**20))

    def path(name: str) -> str:
        return str(client._location.path(client._location.key(name)))

    client.upload_file(small, "small", check_conflict=True)
    client.upload_file(large, "large")
    client.download_file("large", folder / "copy")
    assert (folder / "copy").read_bytes() == large.read_bytes()
    with client.open("written", "wb") as file:
        file.write(large.read_bytes())
    with client.open("written") as file:
        assert file.read() == large.read_bytes()
    filesystem.put([str(small), str(large)], [path("p/1"), path("p/2")])
    filesystem.get([path("p/1"), path("p/2")], [str(folder / "g1"), str(folder / "g2")])
    assert (folder / "g2").read_bytes() == large.read_bytes()
    assert filesystem.cat([path("p/1"), path("p/2")])[path("p/1")] == b"small"
    filesystem.pipe({path("q/1"): b"1", path("q/2"): b"2"})
    assert len(filesystem.ls(path("q"))) == len(filesystem.glob(path("q/*"))) == len(filesystem.find(path("q"))) == 2
    filesystem.copy(path("q/1"), path("q/3"))
    filesystem.mv(path("q/3"), path("q/4"))
    filesystem.rm([path("q/1"), path("q/2"), path("q/4")])
    filesystem.rm(path("p"), recursive=True)
    assert sorted(each.url.rpartition("/")[2] for each in client.list_files()) == ["large", "small", "written"]


def main() -> None:
    """Use the store where the arguments say."""
    later, provider, config = sys.argv[2] == "later", sys.argv[3], json.loads(sys.argv[4])
    made: Any = get_storage_client(provider, config) if later else None
    if made is not None:
        with made.open("first", "wb") as file:
            file.write(b"first")
        made.filesystem.cat([made.filesystem._strip_protocol(made.url("first"))])
        made.delete_file("first")

    def work() -> None:
        use(made or get_storage_client(provider, config))
        print("done", flush=True)

    def work_after_main() -> None:
        threading.main_thread().join()
        work()

    if WHERE == "atexit":
        atexit.register(work)
    elif WHERE == "thread":
        threading.Thread(target=work_after_main).start()
    else:
        greenlets = [threading.Thread(target=in_greenlet, args=(provider, config, number)) for number in range(3)]
        for each in greenlets:
            each.start()
        for each in greenlets:
            each.join()
        work()


def in_greenlet(provider: str, config: dict[str, str], number: int) -> None:
    """Use the store in one greenlet of several."""
    use(get_storage_client(provider, {**config, "prefix": f"{config['prefix']}-{number}"}))
    print("greenlet", flush=True)


main()
