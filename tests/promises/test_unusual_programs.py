"""Programs at their exit, with greenlets, and with a second event loop: verbs and filesystems work, and the process ends."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.concurrency import loops
from gllm_storage.concurrency.loops import CallersLoop, DaemonPool
from tests.conftest import make_rig

if TYPE_CHECKING:
    import threading

    from tests.rig import Rig

pytestmark = pytest.mark.slow
SECONDS = 300
CLOUDS = ["ministack", "gcs-fake", "azurite"]


def run(rig: Rig, *where: str, **config: str) -> list[str]:
    """Run the program in a new process; returns its output lines."""
    small_parts = {} if rig.provider == "file" else {"multipart_threshold": "5MiB"}
    settings = json.dumps(rig.settings(**small_parts, **config))
    command = [sys.executable, "-W", "ignore", "-m", "tests.scripts.unusual", *where, rig.provider, settings]
    root = Path(__file__).parents[2]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=root)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.split()


# Each program takes seconds: two of the four combinations of the place and the use, with each store and engine once.
@pytest.mark.parametrize(
    ("store", "engine", "where"),
    [
        ("ministack", "auto", ("atexit", "first")),
        ("ministack", "boto3", ("thread", "later")),
        ("gcs-fake", "", ("atexit", "first")),
        ("azurite", "", ("thread", "later")),
    ],
)
def test_exit(store: str, engine: str, where: tuple[str, str], request: pytest.FixtureRequest) -> None:
    """Everything works in an atexit function, and in a thread that outlives the main thread; then the process ends."""
    assert run(make_rig(store, request), *where, **({"engine": engine} if engine else {})) == ["done"]


@pytest.mark.parametrize("where", [("atexit", "later"), ("thread", "first")], ids="-".join)
@pytest.mark.parametrize("store", ["ministack", "file"])
def test_other_exit(store: str, where: tuple[str, str], request: pytest.FixtureRequest) -> None:
    """Likewise for the other combinations, and for a local folder."""
    assert run(make_rig(store, request), *where) == ["done"]


def test_host_name(request: pytest.FixtureRequest) -> None:
    """The name of a host is resolved at the exit, too: event loops use an executor for that."""
    rig = make_rig("ministack", request)
    endpoint = rig.config["endpoint_url"].replace("127.0.0.1", "localhost")
    assert run(rig, "atexit", "later", endpoint_url=endpoint) == ["done"]


@pytest.mark.parametrize(("store", "library"), [("ministack", "gevent"), ("ministack", "eventlet"), ("gcs-fake", "gevent")])
def test_greenlets(store: str, library: str, request: pytest.FixtureRequest) -> None:
    """Everything works after gevent's or eventlet's monkey patch, in several greenlets at a time."""
    assert run(make_rig(store, request), library, "first") == [*["greenlet"] * 3, "done"]


@pytest.mark.parametrize("store", CLOUDS)
@pytest.mark.parametrize("cached", [True, False])
def test_second_loop(store: str, cached: bool, request: pytest.FixtureRequest) -> None:
    """A filesystem with ``asynchronous=True`` works in the loops of several `asyncio.run`, cached or not."""
    rig = make_rig(store, request)
    client: Any = rig.client()
    options = client.settings.filesystem_options()
    kind, folder = type(client.filesystem), f"{rig.base}{rig.prefix}"
    kept = kind(asynchronous=True, skip_instance_cache=True, **options)
    seen = []

    async def use(number: int) -> None:
        filesystem = kind(asynchronous=True, **options) if cached else kept
        seen.append(filesystem)
        await filesystem._pipe_file(f"{folder}/{number}", b"content")
        assert await filesystem._cat_file(f"{folder}/{number}") == b"content"
        listed = await asyncio.gather(*(filesystem._ls(folder) for _ in range(5)))
        assert [len(each) for each in listed] == [number] * 5
        assert len(await filesystem._find(folder)) == number
        await filesystem._cp_file(f"{folder}/{number}", f"{folder}-copy")
        await filesystem._rm([f"{folder}-copy"])

    for number in (1, 2, 3):
        asyncio.run(use(number))
    assert seen[0] is seen[1] is seen[2]


def test_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, a pool and a loop work in the caller's thread."""

    def refuse(_: threading.Thread) -> bool:
        return False

    monkeypatch.setattr(loops, "start", refuse)
    pool = DaemonPool(2, "test")
    assert pool.submit(sum, [1, 2]).result(0) == 3
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(0)

    async def work() -> int:
        return await asyncio.wrap_future(pool.submit(sum, [3, 4]))

    loop = CallersLoop()
    assert asyncio.run_coroutine_threadsafe(work(), loop).result(0) == 7
    loop.close()


def test_pool() -> None:
    """A pool has at most its number of threads, reuses them, and ends them when it is dropped."""
    pool = DaemonPool(2, "gllm-test-pool")
    assert sorted(each.result(60) for each in [pool.submit(pow, 2, number) for number in range(20)]) == [
        2**number for number in range(20)
    ]
    assert pool._started <= 2
