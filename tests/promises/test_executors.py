"""A sync on processes, Dask and Ray, with a worker killed in the middle: every object is there, and little is sent twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import FolderError, Remedy
from gllm_storage.testing.faults import FaultProxy, RequestLog
from tests.rig import Rig, server_rig
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

FILES = 2000
KILL_AT = 700
"""Uploads: within a batch of each of two workers, which have 200 files."""
SERVER = "ministack"

pytestmark = pytest.mark.slow


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with many files."""
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    for number in range(FILES):
        (folder / "deep" / f"{number:04}.bin").write_bytes(content(number))
    return folder


def content(number: int) -> bytes:
    return b"%04d" % number * (100 + number % 300)


TOTAL = sum(len(content(number)) for number in range(FILES))


@pytest.fixture
def proxy(servers: Servers) -> Iterator[FaultProxy]:
    """A proxy that counts the bytes."""
    with FaultProxy(servers.get(SERVER).endpoint_url) as made:
        yield made


@pytest.fixture
def rig(servers: Servers, proxy: FaultProxy) -> Rig:
    return server_rig(SERVER, servers.get(SERVER), proxy.url)


def puts(proxy: FaultProxy) -> list[RequestLog]:
    return [each for each in proxy.requests if each.method == "PUT"]


def require_all(rig: Rig, proxy: FaultProxy) -> None:
    """Every object is there, and at most 1.1 × the bytes were sent."""
    assert rig.files() == [f"v1/deep/{number:04}.bin" for number in range(FILES)]
    sizes = rig.client().list_files("v1")
    assert [each.size for each in sizes] == [len(content(number)) for number in range(FILES)]
    assert rig.second.get(rig.key("v1/deep/0777.bin")) == content(777)
    sent = sum(each.body_bytes for each in puts(proxy))
    assert sent <= 1.1 * TOTAL


@pytest.mark.hostile
@pytest.mark.parametrize("engine", ["dask", "ray"])
def test_engine(engine: str, source: Path, tmp_path: Path, rig: Rig, proxy: FaultProxy) -> None:
    """The engine runs the batch of a killed worker again, which transfers only what is missing."""
    job = {"engine": engine, "config": rig.settings(), "source": str(source)}
    command = [sys.executable, "-m", "tests.scripts.engines", json.dumps(job)]
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    log = tmp_path / "log"
    with (
        log.open("w") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        victim = int(process.stdout.readline())
        eventually(lambda: len(puts(proxy)) >= KILL_AT)
        os.kill(victim, signal.SIGKILL)
        outcome = json.loads(process.stdout.readlines()[-1])
    assert outcome == {"transferred": FILES, "failed": 0, "not_begun": 0, "moved": TOTAL}, log.read_text()
    require_all(rig, proxy)
    assert all(word not in log.read_text() for word in (rig.config["aws_secret_access_key"], "Signature="))


def test_threads(source: Path, rig: Rig, proxy: FaultProxy) -> None:
    """Threads share the client of the caller. A second run sends one LIST request for each 1000 files, and nothing else."""
    client = rig.client()
    with ThreadPoolExecutor(2) as pool:
        assert client.sync_dir(source, client.url("v1"), executor=pool).transferred == FILES
        sent = len(proxy.requests)
        assert client.sync_dir(source, client.url("v1"), executor=pool).skipped == FILES
    assert [each.operation for each in proxy.requests[sent:]] == ["ListObjectsV2"] * (FILES // 1000)
    require_all(rig, proxy)


@pytest.mark.hostile
def test_broken_pool(source: Path, rig: Rig, proxy: FaultProxy) -> None:
    """A pool of processes does not survive a dead worker: what is unfinished is reported, and another pool completes it."""
    client = rig.client()
    moved = [0]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:

        def kill(more: int) -> None:
            before, moved[0] = moved[0], moved[0] + more
            if before < TOTAL // 3 <= moved[0]:
                os.kill(next(iter(pool._processes)), signal.SIGKILL)

        with pytest.raises(FolderError) as caught:
            client.sync_dir(source, client.url("v1"), delete=True, executor=pool, callback=kill)
    error, result = caught.value, caught.value.result
    assert result.transferred + result.failed + result.not_begun == FILES
    assert min(result.transferred, result.failed) > 0
    assert isinstance(error.failures[0][1].__cause__, BrokenProcessPool)
    assert error.failures[0][1].remedy is Remedy.NEW_EXECUTOR  # type: ignore[attr-defined]  # a `StorageError`
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        done = client.sync_dir(source, client.url("v1"), executor=pool)
    assert done.skipped >= result.transferred
    assert done.transferred + done.skipped == FILES
    require_all(rig, proxy)
    assert client.sync_dir(source, client.url("v1")).transferred == 0


def test_example(tmp_path: Path) -> None:
    """The example of Dask works: its second run transfers nothing."""
    done = subprocess.run(
        [sys.executable, "examples/sync_on_dask.py"],
        env={**os.environ, "GLLM_STORAGE_CACHE": str(tmp_path)},
        stdout=subprocess.PIPE,
        timeout=2 * PATIENCE,
        text=True,
        check=True,
    )
    assert [line.split(" transferred")[0] for line in done.stdout.splitlines()] == ["1000 files", "0 files"]
