"""Calls with lists of objects on each provider: fsspec's rules, and no writes after Ctrl-C or cancellation."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from fsspec.asyn import sync
from fsspec.callbacks import Callback

from gllm_storage.testing.faults import Answer, Call, Fault, FaultProxy, Match
from tests.rig import BUCKET, Rig, server_rig
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers

NAMES = [f"{number:03}.bin" for number in range(150)]
CONTENT = b"content"
LATER_SECONDS = 1.5
WRITES = {
    "ministack": {"put": "PutObject", "pipe": "PutObject", "copy": "CopyObject", "rm": "DeleteObject"},
    "gcs-fake": {"put": "UploadMultipart", "pipe": "UploadMultipart", "copy": "ObjectsRewrite", "rm": "ObjectsDelete"},
    "azurite": {"put": "PutBlob", "pipe": "PutBlob", "copy": "PutBlob", "rm": "DeleteBlob"},
}
READS = {"ministack": "GetObject", "gcs-fake": "ObjectsGetMedia", "azurite": "GetBlob"}


@dataclass(frozen=True)
class Held:
    """A store behind a proxy that holds the requests of one operation until `answered` is set."""

    rig: Rig
    proxy: FaultProxy
    operation: str
    answered: threading.Event

    @property
    def folder(self) -> str:
        return f"{BUCKET}/{self.rig.prefix}"

    def fill(self) -> None:
        """Store all objects with the second client."""
        for name in NAMES:
            self.rig.second.put(self.rig.key(name), CONTENT)

    def is_held(self) -> bool:
        return any(entry.fault and entry.operation == self.operation for entry in self.proxy.requests)

    def sent(self) -> int:
        return sum(entry.operation == self.operation for entry in self.proxy.requests)


@contextmanager
def holding(servers: Servers, server: str, operation: str) -> Iterator[Held]:
    """A store, and a proxy that holds requests of the library's clients."""
    running, answered = servers.get(server), threading.Event()
    parts = urlsplit(running.endpoint_url)
    with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy:
        proxy.inject(Fault(Match(operation=operation), Call(partial(answered.wait, PATIENCE)), times=None))
        yield Held(server_rig(server, running, f"{proxy.url}{parts.path}"), proxy, operation, answered)
        answered.set()


def local_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def interrupted(held: Held, action: str, local: Path, see: Callable[[], object]) -> tuple[object, object]:
    """Interrupt a process during its first requests; return the state after the call ends, and a second later."""
    job = {
        "provider": held.rig.provider,
        "config": held.rig.settings(),
        "action": action,
        "folder": held.folder,
        "local": str(local),
        "names": NAMES,
    }
    command = [sys.executable, "-m", "tests.scripts.many", json.dumps(job)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            eventually(held.is_held)
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "heard\n"
            threading.Timer(0.5, held.answered.set).start()
            assert child.stdout.readline() == "interrupted\n"
            held.answered.set()
            first = see()
            time.sleep(LATER_SECONDS)
            return first, see()
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("server", "action", "write"),
    [
        (server, action, write)
        for server in WRITES
        for action, write in [
            ("put", "put"),
            ("pipe", "pipe"),
            ("pipe one", "pipe"),
            ("copy", "copy"),
            ("copy one", "copy"),
            ("mv", "copy"),
            ("rm", "rm"),
            ("rm one", "rm"),
        ]
        if (server, action) != ("ministack", "rm")  # a single request deletes all objects
    ],
)
def test_ctrl_c_ends_writes(server: str, action: str, write: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C ends a call with a list of writes, and no write follows later."""
    with holding(servers, server, WRITES[server][write]) as held:
        if action == "put":
            for name in NAMES:
                (tmp_path / name).write_bytes(CONTENT)
        elif "pipe" not in action:
            held.fill()
        # gcs-fake does not implement moveTo, and after its answer gcsfs retries for 30 seconds before it copies: answer 400.
        held.proxy.inject(Fault(Match(operation="Other"), Answer(400, "invalid"), times=None))
        first, later = interrupted(held, action, tmp_path, lambda: (held.sent(), held.rig.keys()))
        assert later == first
        assert held.sent() < len(NAMES)


@pytest.mark.parametrize("server", READS)
@pytest.mark.parametrize("action", ["get", "cat"])
def test_ctrl_c_ends_reads(server: str, action: str, servers: Servers, tmp_path: Path) -> None:
    """Ctrl-C ends a call with a list of reads, and no file appears later."""
    with holding(servers, server, READS[server]) as held:
        held.fill()
        first, later = interrupted(held, action, tmp_path, lambda: local_files(tmp_path))
        assert later == first
        assert held.sent() < len(NAMES)


# fsspec creates the coroutines of all objects at once; a cancellation drops the coroutines that have not started.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(
    ("server", "action"), [(server, action) for server in WRITES for action in ("pipe_file", "rm_file", "copy", "rm")]
)
def test_cancelled_task(server: str, action: str, servers: Servers) -> None:
    """After a cancelled call for one or many objects, no request follows later."""
    operation = WRITES[server][{"pipe_file": "pipe", "rm_file": "rm"}.get(action, action)]
    if (server, action) == ("ministack", "rm"):
        operation = "DeleteObjects"
    with holding(servers, server, operation) as held:
        held.fill()
        filesystem: Any = held.rig.client().filesystem
        paths = [f"{held.folder}/{name}" for name in NAMES]
        begin: dict[str, Callable[[], Any]] = {
            "pipe_file": lambda: filesystem._pipe_file(f"{held.folder}/new", CONTENT),
            "rm_file": lambda: filesystem._rm_file(paths[0]),
            "copy": lambda: filesystem._copy(paths, [f"{path}.copy" for path in paths]),
            "rm": lambda: filesystem._rm(paths),
        }

        async def cancelled() -> None:
            task = asyncio.ensure_future(begin[action]())
            await asyncio.to_thread(eventually, held.is_held)
            task.cancel()
            threading.Timer(0.5, held.answered.set).start()
            with pytest.raises(asyncio.CancelledError):
                await task

        sync(filesystem.loop, cancelled)
        first = (held.sent(), held.rig.keys())
        time.sleep(LATER_SECONDS)
        assert (held.sent(), held.rig.keys()) == first


@pytest.mark.parametrize(
    ("server", "look"), [("ministack", "HeadObject"), ("gcs-fake", "ObjectsGet"), ("azurite", "HeadBlob")]
)
def test_cancelled_info(server: str, look: str, servers: Servers) -> None:
    """After a cancelled HEAD request, no other request follows."""
    with holding(servers, server, look) as held:
        filesystem: Any = held.rig.client().filesystem

        async def cancelled() -> None:
            task = asyncio.ensure_future(filesystem._info(f"{held.folder}/nothing"))
            await asyncio.to_thread(eventually, held.is_held)
            task.cancel()
            threading.Timer(0.5, held.answered.set).start()
            with pytest.raises(asyncio.CancelledError):
                await task

        sync(filesystem.loop, cancelled)
        first = len(held.proxy.requests)
        time.sleep(LATER_SECONDS)
        assert len(held.proxy.requests) == first


@pytest.mark.parametrize("server", WRITES)
def test_lists_by_fsspec_rules(server: str, servers: Servers, tmp_path: Path) -> None:
    """Lists of paths are expanded by fsspec's rules."""
    rig = server_rig(server, servers.get(server))
    filesystem: Any = rig.client().filesystem
    folder = f"{BUCKET}/{rig.prefix}"
    (tmp_path / "from" / "deep").mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        (tmp_path / "from" / name).write_bytes(name.encode())
    told = Callback()

    filesystem.put(f"{tmp_path}/from/", f"{folder}/to/", recursive=True, callback=told)

    assert rig.keys() == ["to/a", "to/b", "to/deep/c"]
    assert told.size == told.value == 3
    with pytest.raises(FileExistsError):
        filesystem.put([f"{tmp_path}/from/a", f"{tmp_path}/from/b"], [f"{folder}/new", f"{folder}/to/b"], mode="create")
    with pytest.raises(FileExistsError):
        filesystem.pipe({f"{folder}/to/a": b"x"}, mode="create")
    filesystem.pipe({f"{folder}/one": b"1", f"{folder}/two": b"2"})
    filesystem.pipe(f"{folder}/three", b"3")
    paths = [f"{folder}/{name}" for name in ("one", "two", "three")]
    assert filesystem.cat(paths) == dict(zip(paths, (b"1", b"2", b"3"), strict=True))
    assert filesystem.cat(paths[0]) == b"1"
    missing = f"{folder}/missing"
    found = filesystem.cat([paths[0], missing], on_error="return")
    assert found[paths[0]] == b"1"
    assert isinstance(found[missing], FileNotFoundError)
    assert filesystem.cat([paths[0], missing], on_error="omit") == {paths[0]: b"1"}
    with pytest.raises(FileNotFoundError):
        filesystem.cat([paths[0], missing])
    filesystem.get(f"{folder}/to/", f"{tmp_path}/back/", recursive=True)
    assert (tmp_path / "back" / "deep" / "c").read_bytes() == b"deep/c"
    filesystem.mv(f"{folder}/one", f"{folder}/moved")
    filesystem.rm([f"{folder}/moved", f"{folder}/two"])
    assert not {"one", "moved", "two"} & set(rig.keys())
