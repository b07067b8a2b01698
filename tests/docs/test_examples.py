"""The programs of examples/publish_and_fetch and examples/sync_dataset.py, as a user runs them."""

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

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = EXAMPLES / "publish_and_fetch"


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


def sync(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / "sync_dataset.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_sync_dataset() -> None:
    """Without arguments the program syncs a dataset of its own three times, and downloads one part."""
    done = sync()
    assert done.returncode == 0, done.stderr
    told = [
        line.partition("  ")[2].strip() for line in done.stdout.splitlines() if line.startswith(("synced", "downloaded"))
    ]
    assert [each.partition(", 0 failed")[0] for each in told] == [
        "10 files transferred (2960 bytes), 0 equal, 0 deleted",
        "1 files transferred (16 bytes), 8 equal, 1 deleted",
        "0 files transferred (0 bytes), 9 equal, 0 deleted",
        "2 files transferred (560 bytes), 0 equal, 0 deleted",
    ]
    assert done.stdout.endswith("0 files to transfer (0 bytes), 0 to delete, 2 equal (560 bytes), 0 problems\n")


def test_sync_own_dataset(tmp_path: Path) -> None:
    """With a folder and a store, nothing moves without `--run`."""
    data, url = tmp_path / "data", f"file://{tmp_path}/store"
    data.mkdir()
    (data / "a.bin").write_bytes(b"abc")
    assert "transfer a.bin (3 bytes, new)" in sync(data, url).stdout
    assert not (tmp_path / "store" / "a.bin").exists()
    assert "1 files transferred" in sync(data, url, "--run").stdout
    assert (tmp_path / "store" / "a.bin").read_bytes() == b"abc"


@pytest.mark.parametrize(
    "arguments", [["{folder}/missing", "file://{folder}/store"], ["{folder}"]], ids=["missing", "no store"]
)
def test_wrong_dataset(arguments: list[str], tmp_path: Path) -> None:
    """A folder that does not exist, or no store, ends the program with a message."""
    done = sync(*(each.format(folder=tmp_path) for each in arguments))
    assert done.returncode != 0
    assert done.stderr
    assert "Traceback" not in done.stderr
