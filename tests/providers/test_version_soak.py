"""Publishers, deleters, movers, collectors and readers of one model, in processes that are killed at random moments."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from gllm_storage import versions
from tests.rig import server_rig
from tests.scripts.soakers import ALIAS, MODEL, soak

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from tests.conftest import Servers

SECONDS = float(os.environ.get("SOAK", "6"))
"""How long the processes run; `make soak` lets them run for minutes."""
PROCESSES = 3


@pytest.mark.slow
@pytest.mark.hostile
def test_soak(servers: Servers, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """No published version is ever incomplete, and after the last kill every content can be published, and collected."""
    rig = server_rig("ceph", servers.get("ceph"))
    client = rig.client()
    contents = [tmp_path / "contents" / str(number) for number in range(3)]
    for number, folder in enumerate(contents):
        folder.mkdir(parents=True)
        (folder / "shared.bin").write_bytes(b"\x01" * 70_000)  # large enough that a second version copies it
        (folder / "own.bin").write_bytes(b"%d" % number * 1000)
        (folder / "config.json").write_bytes(b"{}")
    versions.publish(client, contents[0], MODEL, version="v0")  # the children inherit all imports and the probe

    chance, seed = random.Random(14), 0
    fork = multiprocessing.get_context("fork")

    def start() -> BaseProcess:
        nonlocal seed
        seed += 1
        process = fork.Process(target=soak, args=[rig.provider, rig.settings(), str(tmp_path), seed], daemon=True)
        process.start()
        return process

    running = [start() for _ in range(PROCESSES)]
    until = time.monotonic() + SECONDS
    while time.monotonic() < until and not list(tmp_path.glob("wrong-*")):
        time.sleep(chance.uniform(0.05, 0.5))
        victim = running.pop(chance.randrange(len(running)))
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        running.append(start())
    for each in running:
        each.kill()
        each.join()

    done = [line for each in tmp_path.glob("done-*") for line in each.read_text().split()]
    record_property("soak", f"{len(done)} calls, {seed} kills: { {each: done.count(each) for each in sorted(set(done))} }")
    assert [each.read_text() for each in tmp_path.glob("wrong-*")] == []
    assert len(done) > SECONDS
    for version in versions.list_versions(client, MODEL):
        assert versions.verify(client, MODEL, version.name) == version
        versions.delete_version(client, MODEL, version.name)
    for number, folder in enumerate(contents):
        version = versions.publish(client, folder, MODEL, version=f"last-{number}")
        assert versions.verify(client, MODEL, version.name) == version
    versions.set_alias(client, MODEL, ALIAS, "last-0")
    versions.collect_garbage(client, MODEL, grace=dt.timedelta())
    assert versions.collect_garbage(client, MODEL, grace=dt.timedelta(), dry_run=True) == []
    assert [versions.verify(client, MODEL, f"last-{number}").files for number in range(3)] == [3, 3, 3]
