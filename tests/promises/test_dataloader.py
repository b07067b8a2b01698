"""torch's DataLoader with forked or spawned workers, after the parent process has used a client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from tests.conftest import make_rig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("torch") is None and os.environ.get("CI") != "true",
        reason="torch takes 800 MB: `make torch` installs it, and CI has it",
    ),
]


@pytest.mark.parametrize(
    ("store", "start"), [("ceph", "fork"), ("ceph", "spawn"), ("gcs-fake", "fork"), ("azurite", "fork"), ("file", "fork")]
)
def test_dataloader(store: str, start: str, request: pytest.FixtureRequest) -> None:
    """The workers of a DataLoader read the stored content."""
    rig = make_rig(store, request)
    job = {"provider": rig.provider, "config": rig.settings(), "start": start}

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.scripts.dataloader", json.dumps(job)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr
