"""One client shared by threads, pickled for a spawned process, and used in forked children, as in training jobs."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.conftest import make_rig
from tests.rig import MIB, SMALL_PARTS
from tests.scripts.verbs import use_all_verbs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rig import Rig

STORES = ["ministack", "ceph", "file", "azurite", "gcs-fake"]
THREADS = 16
SMALL = 100_000
LARGE = 6 * MIB  # two parts

pytestmark = pytest.mark.slow


@pytest.fixture(params=[*STORES, "memory"])
def shared_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store with clients that can be shared by threads and used in forked children."""
    return make_rig(request.param, request)


@pytest.fixture(params=STORES)
def outer_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store that is visible to other processes."""
    return make_rig(request.param, request)


def config(rig: Rig) -> dict[str, str]:
    return SMALL_PARTS if rig.server else {}


def size_for(rig: Rig) -> int:
    """Size for a multipart upload; smaller on MiniStack: Ceph stands for large objects on S3."""
    return SMALL if rig.name == "ministack" else LARGE


def contents(count: int, size: int) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number in range(count)]


def test_threads_share_client(shared_rig: Rig, tmp_path: Path) -> None:
    """Many threads can use one client."""
    client = shared_rig.client(**config(shared_rig))
    names = [f"thread-{number:02}" for number in range(THREADS)]
    each = contents(THREADS, size_for(shared_rig))

    with ThreadPoolExecutor(THREADS) as threads:
        wrong = list(threads.map(lambda name, content: use_all_verbs(client, name, str(tmp_path), content), names, each))

    assert wrong == [[]] * THREADS
    assert shared_rig.keys() == [*(f"own/{name}" for name in names), "shared"]
    assert [shared_rig.second.get(shared_rig.key(f"own/{name}")) for name in names] == each
    assert shared_rig.second.get(shared_rig.key("shared")) in each
    assert shared_rig.open_uploads() == []
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {".up", ".down"}


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
def test_pickled_client_in_process(outer_rig: Rig, used: bool, tmp_path: Path) -> None:
    """A pickled client works in a spawned process."""
    client = outer_rig.client(**config(outer_rig))
    (content,) = contents(1, size_for(outer_rig))
    if used:
        assert use_all_verbs(client, "parent", str(tmp_path), content) == []

    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        wrong = processes.submit(use_all_verbs, client, "spawned", str(tmp_path), content).result(60)

    assert wrong == []
    assert outer_rig.second.get(outer_rig.key("own/spawned")) == content
    assert outer_rig.open_uploads() == []
    assert pickle.loads(pickle.dumps(client)) == client


@pytest.mark.parametrize("fork", ["os", "multiprocessing"])
def test_fork_uses_client(shared_rig: Rig, fork: str, tmp_path: Path) -> None:
    """The client and the filesystem of the parent work in a forked child."""
    assert_children_work(shared_rig, tmp_path, fork, ["verbs", "filesystem"], children=1, busy=False)


@pytest.mark.parametrize("fork", ["os", "multiprocessing"])
def test_fork_uses_inherited(shared_rig: Rig, fork: str, tmp_path: Path) -> None:
    """Methods that the parent's filesystem inherits from fsspec work in a forked child."""
    assert_children_work(shared_rig, tmp_path, fork, ["inherited"], children=1, busy=False)


@pytest.mark.parametrize("store", ["ministack", "memory"])  # no local file: parent and child share its position
@pytest.mark.parametrize("fork", ["os", "multiprocessing"])
def test_fork_reads_on(store: str, fork: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A forked child can continue to read an object that its parent opened."""
    assert_children_work(make_rig(store, request), tmp_path, fork, ["reader"], children=2, busy=False)


@pytest.mark.parametrize("fork", ["os", "multiprocessing"])
def test_fork_during_transfer(shared_rig: Rig, fork: str, tmp_path: Path) -> None:
    """Children that are forked during a transfer in another thread can use the client."""
    assert_children_work(shared_rig, tmp_path, fork, ["verbs"], children=3, busy=True)


def assert_children_work(rig: Rig, folder: Path, fork: str, uses: list[str], *, children: int, busy: bool) -> None:
    """Fork in a separate process: Python warns if a process with threads, such as pytest's, is forked."""
    local, scratch = folder / "local", folder / "scratch"
    scratch.mkdir()
    (content,) = contents(1, size_for(rig))
    local.write_bytes(content)
    job = {
        "provider": rig.provider,
        "config": rig.settings(**config(rig)),
        "local": str(local),
        "scratch": str(scratch),
        "fork": fork,
        "uses": uses,
        "children": children,
        "busy": busy,
    }

    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.scripts.forks", json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["children"] == ["ok"] * children, "\n".join([*outcome["children"], done.stderr])
    assert bool(outcome["moved meanwhile"]) is busy
    if not rig.traits.in_process:
        made = {use: [f"child-{number}-{use}" for number in range(children)] for use in uses if use != "reader"}
        expected = [name for of_use in made.values() for name in of_use]
        assert {rig.second.get(rig.key(name)) for name in expected} <= {content}
        assert set(expected) <= set(rig.keys())
        assert rig.open_uploads() == []
