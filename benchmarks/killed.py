"""``publish`` and ``fetch`` that are killed and repeated: ``python -m benchmarks.killed``.

A directory is published over https by a process that is killed (SIGKILL) at random moments and started again until it is
complete; then it is fetched the same way, and compared. A proxy counts the bytes that pass, with those of TLS and HTTP, and
with those that a killed process had given to the kernel.

The server is Ceph's radosgw of the tests, which keeps its objects in memory. It lists the uploaded parts of a file
(ListParts), which a publisher needs to resume within it. Unlike Amazon S3 it ignores the precondition of
CompleteMultipartUpload, which costs a HEAD request for each file. With ``--conditional-writes enforced`` the client is told
that the precondition is enforced, and does the same as at Amazon S3.
"""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import servers
from benchmarks.command import measured, parser_of
from benchmarks.layout import GIB, MIB
from benchmarks.peers.ours import config_of
from benchmarks.run import environment_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.folders import Tree

_MODEL, _VERSION = "models/killed", "v1"
_LATEST = 0.97
"""The last kill comes before this part of the bytes has passed."""
_PAUSE_SECONDS = 0.5
"""A kill comes up to so long after its byte: also during hashes, lists and the commit."""
_POLL_SECONDS = 0.02
_PUBLISH = f"""
import json, sys
from gllm_storage import S3StorageClient, versions
versions.publish(S3StorageClient(json.loads(sys.argv[1])), sys.argv[2], {_MODEL!r}, version={_VERSION!r})
"""
_FETCH = f"""
import json, sys
from gllm_storage import S3StorageClient, versions
versions.fetch(S3StorageClient(json.loads(sys.argv[1])), {_MODEL!r}, {_VERSION!r}, sys.argv[2])
"""


@dataclass(frozen=True)
class Repeats:
    """A call that is killed and repeated.

    Attributes:
        command: The process.
        environment: Its environment.
        proxy: Counts the bytes.
        direction: ``bytes_up`` or ``bytes_down``.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    proxy: servers.Proxy
    direction: str

    def run(self, size: int, kills: int, random_numbers: random.Random) -> dict[str, Any]:
        """Run the process, kill it at random moments, and run it until it is complete.

        Args:
            size: Bytes of the directory.
            kills: How often it is killed.
            random_numbers: Gives the moments.

        Returns:
            The bytes of each process, and the seconds of all of them.
        """
        began, passed = time.monotonic(), list[int]()
        for goal in sorted(random_numbers.uniform(0, _LATEST * size) for _ in range(kills)):
            start = self._count()
            with self._begun() as child:
                while child.poll() is None and sum(passed) + self._count() - start < goal:
                    time.sleep(_POLL_SECONDS)
                time.sleep(random_numbers.uniform(0, _PAUSE_SECONDS))
                if child.poll() is not None:
                    raise RuntimeError(f"the process ended with {child.returncode} before it was killed")
            passed.append(self._count() - start)
            print(f"  killed at {sum(passed) / size:.0%} of the bytes", file=sys.stderr, flush=True)
        start = self._count()
        with self._begun() as child:
            if child.wait():
                raise RuntimeError(f"the last process ended with {child.returncode}")
        passed.append(self._count() - start)
        return {"bytes": passed, "seconds": round(time.monotonic() - began, 1)}

    @contextlib.contextmanager
    def _begun(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process. If it still runs at the end, it is killed, with the processes that it has started."""
        child = subprocess.Popen(self.command, env=self.environment, cwd=servers.ROOT, start_new_session=True)
        try:
            yield child
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def _count(self) -> int:
        count: int = self.proxy.read()[self.direction]
        return count


def measure(folder: Path, tree: Tree, conditional_writes: str, kills: int, seed: int) -> dict[str, Any]:
    """Publish and fetch a directory.

    Args:
        folder: For all files.
        tree: The directory.
        conditional_writes: The setting of the client.
        kills: How often each of both is killed.
        seed: Of the random moments.

    Returns:
        For ``publish`` and ``fetch`` the values of `Repeats.run`.

    Raises:
        RuntimeError: If a process fails, or the fetched directory is another one.
    """
    source, target, home = folder / "source", folder / "target", folder / "home"
    home.mkdir()
    tree.make(source)
    size, moments = tree.count * tree.size, random.Random(seed)  # noqa: S311 - moments, not secrets
    slow = servers.compile_c(servers.SLOWPROXY, str(folder))
    with servers.rig_server("ceph", str(folder), tls=True) as direct, servers.proxy(slow, direct) as proxy:
        config = json.dumps({**config_of(direct.at(proxy.url)), "conditional_writes": conditional_writes})
        environment = environment_of() | {"HOME": str(home)}
        found = {}
        for name, code, place, direction in (
            ("publish", _PUBLISH, source, "bytes_up"),
            ("fetch", _FETCH, target, "bytes_down"),
        ):
            print(name, file=sys.stderr, flush=True)
            command = [sys.executable, "-c", code, config, str(place)]
            found[name] = Repeats(command, environment, proxy, direction).run(size, kills, moments)
    _require_equal(source, target)
    return found


def _require_equal(source: Path, target: Path) -> None:
    names = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    if names != sorted(path.relative_to(target) for path in target.rglob("*") if path.is_file()):
        raise RuntimeError("the fetched directory has other files")
    if differing := [name for name in names if not filecmp.cmp(source / name, target / name, shallow=False)]:
        raise RuntimeError(f"{differing[0]} differs after the fetch")


def to_markdown(found: Mapping[str, Any]) -> str:
    """The table."""
    about = found["about"]
    head = (
        f"A directory of {about['tree']} over https, each call killed {about['kills']} times at random moments (seed "
        f"{about['seed']}) and repeated until it was complete; the server is Ceph's radosgw, on the same "
        f'{found["machine"]["cores"]} processors, with `conditional_writes="{about["conditional_writes"]}"`.'
    )
    lines = [
        head,
        "",
        "| | bytes in all | to the directory's | more, for each kill | seconds in all |",
        "|---|---|---|---|---|",
    ]
    for name, each in found["killed"].items():
        passed, size = sum(each["bytes"]), about["bytes"]
        more = (passed - size) / MIB / max(1, about["kills"])
        lines.append(f"| {name} | {passed / GIB:.3f} GiB | {passed / size:.3f} | {more:.1f} MiB | {each['seconds']:.0f} |")
    return "\n".join(lines) + "\n"


def main(given: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        given: The arguments. Default: the arguments of the process.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    parser = parser_of("killed", "Kill publish and fetch, and resume them.")
    parser.add_argument("--kills", type=int, default=10, help="of publish, and of fetch")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of the moments")
    parser.add_argument("--conditional-writes", choices=("auto", "enforced"), default="auto", help="see the module")
    options = parser.parse_args(given)
    about = {name: getattr(options, name) for name in ("kills", "seed", "conditional_writes")}
    return measured(options, 3, about, lambda folder, tree: ("killed", measure(folder, tree, **about)), to_markdown)


if __name__ == "__main__":
    servers.end_on_sigterm()
    sys.exit(main())
