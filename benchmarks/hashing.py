"""The price of the hashes of published versions: ``python -m benchmarks.hashing``.

A directory is published over https, published again, fetched, and downloaded without hashes. Each step is a process of its
own. ``publish`` computes the SHA-256 of all files before it sends the first byte, unless the index of checksums knows them;
``fetch`` computes it while the bytes arrive.

The server is Ceph's radosgw of the tests, which keeps its objects in memory and shares the processors: compare CPU seconds,
too, which are those of the client alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import servers
from benchmarks.command import measured, parser_of
from benchmarks.peers.ours import config_of
from benchmarks.run import environment_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.folders import Tree

_BEGIN = """
import json, sys
from gllm_storage import S3StorageClient, versions
client, place = S3StorageClient(json.loads(sys.argv[1])), sys.argv[2]
"""
_PUBLISH = _BEGIN + 'versions.publish(client, place, "models/m", version="v1")'
_FETCH = _BEGIN + 'versions.fetch(client, "models/m", "v1", place)'
_DOWNLOAD = _BEGIN + 'client.download_dir(versions.resolve(client, "models/m", "v1").url, place)'
_UPLOAD = _BEGIN + 'client.upload_dir(place, "plain")'
_DELETE = _BEGIN + 'client.delete_dir("plain")'

STEPS = (
    ("`upload_dir`", _UPLOAD, "source", False),
    ("", _DELETE, "source", False),
    ("`publish`", _PUBLISH, "source", False),
    ("`publish` again, without the index", _PUBLISH, "source", False),
    ("`publish` again, with the index", _PUBLISH, "source", True),
    ("`fetch`", _FETCH, "fetched", False),
    ("`download_dir`", _DOWNLOAD, "downloaded", False),
)
"""The name, the program, its folder, and whether it keeps the index of the step before. One without a name is not shown."""


def measure(folder: Path, tree: Tree) -> dict[str, list[float]]:
    """Do all steps.

    Args:
        folder: For all files.
        tree: The directory.

    Returns:
        The wall and the CPU seconds of each step.

    Raises:
        subprocess.CalledProcessError: If a step fails.
    """
    tree.make(folder / "source")
    found = {}
    with servers.rig_server("ceph", str(folder), tls=True) as server:
        config = json.dumps({**config_of(server), "conditional_writes": "enforced"})
        for name, code, place, keeps_index in STEPS:
            home = folder / "home"
            if not keeps_index:
                shutil.rmtree(home, ignore_errors=True)
                home.mkdir()
            command, environment = [sys.executable, "-c", code, config, str(folder / place)], environment_of()
            os.sync()
            began, before = time.monotonic(), os.times()
            subprocess.run(command, check=True, env=environment | {"HOME": str(home)}, cwd=servers.ROOT)
            after = os.times()
            cpu = after.children_user + after.children_system - before.children_user - before.children_system
            if name:
                found[name] = [time.monotonic() - began, cpu]
            if place != "source":
                shutil.rmtree(folder / place)
    return found


def to_markdown(found: Mapping[str, dict[str, list[float]]]) -> str:
    """The table."""
    lines = ["| | wall s | CPU s |", "|---|---|---|"]
    lines += [f"| {name} | {wall:.1f} | {cpu:.1f} |" for name, (wall, cpu) in found["hashing"].items()]
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        given: The arguments. Default: the arguments of the process.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    options = parser_of("hashing", "Measure the price of the hashes.").parse_args(given)
    return measured(options, 2, {}, lambda folder, tree: ("hashing", measure(folder, tree)), to_markdown)


if __name__ == "__main__":
    servers.end_on_sigterm()
    sys.exit(main())
