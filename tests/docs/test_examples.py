"""The programs of examples/publish_and_fetch, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import storage_client_from_url, versions

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAMS = Path(__file__).parents[2] / "examples" / "publish_and_fetch"


def train(url: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, PROGRAMS / "train.py", url], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a trained model's store."""
    url = f"file://{tmp_path}/store"
    assert train(url)[-1] == "deleted     ['epoch-1', 'epoch-2'], kept ['epoch-3', 'epoch-4', 'epoch-5']"
    return url


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the running inference server."""
    command = [sys.executable, str(PROGRAMS / "serve.py"), url, str(tmp_path / "served"), "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        assert child.stdout is not None
        words = child.stdout.readline().split()
        yield f"http://127.0.0.1:{words[3]}/?x=2"
        child.kill()


def answer(server: str) -> Any:
    with urllib.request.urlopen(server) as reply:  # noqa: S310 - an http URL of this machine
        return json.load(reply)


def test_train_again(url: str) -> None:
    """A training run that is started again goes on with the newest checkpoint."""
    assert train(url)[0] == "resuming    epoch-5"


def test_train_after_kill(url: str) -> None:
    """After a kill between the publication and the move of the alias, training goes on from the published checkpoint."""
    client = storage_client_from_url(url)
    versions.set_alias(client, "line", "latest", "epoch-4")
    assert train(url)[0] == "resuming    epoch-5"
    assert versions.resolve(client, "line", "latest").name == "epoch-5"


@pytest.mark.parametrize(
    ("command", "told"),
    [(["train.py"], "usage"), (["serve.py"], "usage"), (["serve.py", "{url}", "{folder}", "0"], "run train.py first")],
    ids=["train", "serve", "empty store"],
)
def test_wrong_use(command: list[str], told: str, tmp_path: Path) -> None:
    """A program that cannot begin says what is missing, without a traceback."""
    program, *rest = (each.format(url=f"file://{tmp_path}/empty", folder=tmp_path / "served") for each in command)
    done = subprocess.run(
        [sys.executable, PROGRAMS / program, *rest], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_served(url: str, server: str) -> None:
    """The server answers with the newest version, and follows the alias."""
    first = answer(server)
    assert first["version"] == "epoch-5"
    assert abs(first["y"] - 7) < 0.1
    versions.set_alias(storage_client_from_url(url), "line", "latest", "epoch-4")
    until = time.monotonic() + 20
    while (found := answer(server))["version"] != "epoch-4":
        assert time.monotonic() < until
        time.sleep(0.05)
    assert found["y"] != first["y"]
