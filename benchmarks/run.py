"""The runs: one worker process after another, measured from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import first, objects, servers, warm
from benchmarks.figures import far_behind, leaders, order, rivals_in
from benchmarks.layout import FLOOR_PROGRAM, GIB, MIB, Endpoint, Layout, Task
from benchmarks.peers import BEFORE, entry_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.figures import Runs
    from benchmarks.jobs import Job

_TIMEOUT_SECONDS = 900.0
_SPARE_DISK = 5 * GIB
_PROCESS_MEMORY = 512 * MIB  # for a worker, and the kernel's buffers of its connections
_TAIL_CHARACTERS = 600
_MAIN = "from benchmarks.worker import main; main()"


class WorkerError(RuntimeError):
    """A worker failed. The message is the end of its standard error."""


@dataclass(frozen=True)
class Pythons:
    """The interpreters of the peers.

    Attributes:
        peers: The Python in which the peers are installed.
        before: The Python in which another version of this library is installed; None if it is not measured.
        floor: The program of the floor.
        code: A folder with the package `benchmarks` and no other: the working directory of the workers, from which they must
            not import this library.
    """

    peers: str
    before: str | None
    floor: str
    code: str

    def of(self, peer: str) -> str:
        """The Python of a peer."""
        return (self.before or self.peers) if peer.endswith(BEFORE) else self.peers


@dataclass(frozen=True)
class Bench:
    """A place to run jobs.

    Attributes:
        pythons: The interpreters of the peers.
        endpoint: The endpoint of the workers.
        direct: The same endpoint without a proxy, to fill and clean.
        layout: Names of the files and objects.
        proxy: The compiled proxy.
        counter: Counts the connections of the endpoint; None if that is not possible.
        settle: Whether to bring disk and memory into the same state before each run.
        keep_all: Whether also peers that are far behind have all runs.
    """

    pythons: Pythons
    endpoint: Endpoint
    direct: Endpoint
    layout: Layout
    proxy: str
    counter: servers.Counter | None = None
    settle: bool = True
    keep_all: bool = False


@dataclass
class Found:
    """The figures of the runs of one job.

    Attributes:
        runs: The figures, by peer.
        failures: The reasons for missing figures, by peer.
        behind: The peers that had one run only, because they were far behind.
        counts: The counted requests and bytes, by peer.
    """

    runs: dict[str, Runs] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    behind: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, peer: str, figures: Mapping[str, float]) -> None:
        """Add the figures of a run."""
        for name, value in figures.items():
            self.runs.setdefault(peer, {}).setdefault(name, []).append(round(value, 5))

    def to_dict(self) -> dict[str, Any]:
        """The findings as values of JSON."""
        return asdict(self)


def describe_peers(pythons: Pythons, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The abilities of each peer. The call also brings each peer's modules into the disk cache."""
    described = {}
    for name in names:
        done = subprocess.run(
            [pythons.of(name), "-c", _MAIN, name, "--describe"],
            cwd=pythons.code,
            env={**environment_of(), FLOOR_PROGRAM: pythons.floor, "HOME": pythons.code},
            capture_output=True,
            text=True,
            check=False,
        )
        described[name] = json.loads(done.stdout) if done.returncode == 0 else {"missing": _tail(done.stderr)}
    return described


def prepare(bench: Bench, jobs: Sequence[Job]) -> None:
    """Make the files and objects that the jobs need."""
    objects.make_files(bench.layout, jobs)
    objects.make_download_folders(bench.layout, jobs)
    _make_homes(bench)
    reading = [job for job in jobs if job.reads]
    if bench.direct.served is not None:
        objects.link_objects(bench.layout, reading, bench.direct.served)
        return
    names = dict.fromkeys(name for job in reading for name in objects.names_of(job))
    uploads = [(bench.layout.file(size, index), bench.layout.key(size, index)) for size, index in names]
    _ask_objects(bench, "fill", {"uploads": uploads})


def _make_homes(bench: Bench) -> None:
    os.makedirs(bench.layout.home, exist_ok=True)
    folder = Path(bench.layout.home_with_keys) / ".aws"
    folder.mkdir(parents=True, exist_ok=True)
    keys = f"aws_access_key_id = {bench.direct.access_key}\naws_secret_access_key = {bench.direct.secret_key}\n"
    (folder / "credentials").write_text(f"[default]\n{keys}")
    (folder / "config").write_text(f"[default]\nregion = {bench.direct.region}\n")


def run_job(bench: Bench, job: Job, peers: Mapping[str, Mapping[str, Any]], repeats: int, found: Found) -> None:
    """Run a job several times with each peer, in turn.

    A peer that fails once is left out of the other rounds, and so is a rival that is far behind in the first.

    Args:
        bench: The place.
        job: The job.
        peers: The abilities of the peers that run it.
        repeats: Number of runs.
        found: Gets the figures after each run.
    """
    left = list(peers)
    if _too_large(bench, job):
        found.failures = dict.fromkeys(left, "the disk has no room for the file")
        return
    with _slowed(bench, job) as place:
        for repeat in range(min(repeats, job.most_runs)):
            for peer in order([each for each in peers if each in left], repeat):
                warms = job.warm and peers[peer].get("warms", True) and (job.warms_rivals or not rivals_in([peer]))
                try:
                    figures = _run_peer(place, job, peer, warms=warms, first_round=repeat == 0)
                except WorkerError as error:
                    found.failures[peer] = str(error)
                    left.remove(peer)
                    continue
                found.add(peer, figures)
                _say(job, repeat, peer, figures)
            if repeat == 0 and not (bench.keep_all or job.is_first):  # there boto3 is the measure
                found.behind = far_behind(found.runs, left)
                left = [each for each in left if each not in found.behind]
        if job.counted and bench.direct.url.startswith("http:"):
            _count_all(place, job, left, found)


def _say(job: Job, repeat: int, peer: str, figures: Mapping[str, float]) -> None:
    kinds = (("process", "process_wall", "process_cpu"), ("warm", "warm_wall", "warm_cpu"))
    said = [f"{kind} {figures[wall]:.2f} s, {figures[cpu]:.2f} s CPU" for kind, wall, cpu in kinds if wall in figures]
    print(f"  {job.name} #{repeat + 1} {peer}: {'; '.join(said)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _slowed(bench: Bench, job: Job) -> Any:
    """The place of a job: behind a slow proxy, if the job asks for one."""
    if not (job.delay_ms or job.bandwidth):
        yield bench
        return
    with servers.proxy(bench.proxy, bench.direct, job.delay_ms, job.bandwidth) as slow:
        yield replace(bench, endpoint=bench.direct.at(slow.url))


def _run_peer(bench: Bench, job: Job, peer: str, *, warms: bool, first_round: bool) -> dict[str, float]:
    """A complete process that is not warm, and after it a process that is."""
    if not warms:
        return _run_once(bench, job, peer, compare=first_round)
    only_warm = peer.startswith("floor") or "synced" in peer  # they are compared with each other, and nothing else is
    figures = {} if only_warm else _run_once(bench, job, peer, compare=first_round)
    again = _run_once(bench, job, peer, warm_process=True, compare=only_warm and first_round)
    figures |= {"warm_wall": again["wall"], "warm_cpu": again["cpu"]}
    kept = ("connections", "handshakes", "resumed", "peak_rss") if only_warm else ()
    return figures | {name: again[name] for name in ("per_call_us", *kept) if name in again}


def _run_once(bench: Bench, job: Job, peer: str, *, warm_process: bool = False, compare: bool = False) -> dict[str, float]:
    if bench.settle and not job.is_first:
        _settle(bench.layout, job)
    before = bench.counter.read() if bench.counter else {}
    try:
        figures = _measure(bench, job, peer, warm_process=warm_process)
        if bench.counter:
            figures |= {name: number - before[name] for name, number in bench.counter.read().items()}
        # The floor writes no file in the job "serial".
        if job.downloads and not (job.verb == "serial" and peer.startswith("floor")):
            _check_sizes(bench.layout, job)
            if compare:
                _compare(bench.layout, job)
    finally:
        stored = _forget(bench, job)
    if stored and stored["bytes"] != job.size * job.count:
        raise WorkerError(f"stored {stored['bytes']} bytes in place of {job.size * job.count}")
    return figures


def _settle(layout: Layout, job: Job) -> None:
    os.sync()  # a run must not wait for the writes of the previous run
    if not job.sparse:
        warm.read_files(layout.file(size, index) for size, index in objects.names_of(job))
    warm.take_memory(layout.folder, _PROCESS_MEMORY + (job.size * job.count if job.downloads else 0))


def _count_all(bench: Bench, job: Job, peers: Sequence[str], found: Found) -> None:
    for peer in peers:
        try:
            with servers.proxy(bench.proxy, bench.direct) as counting:
                try:
                    _measure(replace(bench, endpoint=bench.direct.at(counting.url)), job, peer)
                finally:
                    _forget(bench, job)
        except WorkerError as error:
            found.failures[peer] = f"not counted: {error}"
        else:
            found.counts[peer] = counting.seen


def _measure(bench: Bench, job: Job, peer: str, *, warm_process: bool = False) -> dict[str, float]:
    endpoint, python = bench.endpoint, bench.pythons.of(peer)
    if job.is_first:
        chain = job.verb == "first_chain"
        key = bench.layout.key(job.size)
        command, task = first.command(peer, python, endpoint, key, chain=chain), b""
    else:
        chain = False
        command = [python, "-c", _MAIN, peer]
        given = Task(endpoint, bench.layout, job.verb, job.size, job.count, job.step, warm_process)
        task = json.dumps(given.to_dict()).encode()
    environment = environment_of(endpoint) | {
        "HOME": bench.layout.home_with_keys if chain else bench.layout.home,
        FLOOR_PROGRAM: bench.pythons.floor,
    }
    if not chain and (entry_of(peer).by_environment or peer == "gllm-storage, command"):
        environment |= keys_of(endpoint)
    if job.cores:
        command = ["taskset", "--cpu-list", ",".join(map(str, sorted(os.sched_getaffinity(0))[: job.cores])), *command]
    output, figures = run_process(command, environment, bench.pythons.code, task)
    return figures | ({} if job.is_first else json.loads(output))


def run_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    task: bytes = b"",
    seconds: float = _TIMEOUT_SECONDS,
) -> tuple[bytes, dict[str, float]]:
    """Run a process to its end.

    Args:
        command: The program and its arguments.
        environment: Its environment.
        folder: Its working directory.
        task: Its standard input.
        seconds: The time after which it is killed.

    Returns:
        The last line of its output, and the figures of the complete process.

    Raises:
        WorkerError: If it fails, or does not end in time.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, env=environment
    ) as child:
        if child.stdin is None or child.stdout is None or child.stderr is None:
            raise RuntimeError("Popen made no pipes")
        errors = child.stderr
        timer = threading.Timer(seconds, child.kill)
        timer.start()
        said: list[bytes] = []
        listener = threading.Thread(target=lambda: said.append(errors.read()))
        listener.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the worker has ended; its exit code gives the reason
                child.stdin.write(task)
                child.stdin.close()
            output = child.stdout.read()
            # Not `child.wait()`: only wait4 reports the resources of this child and its own children.
            _, status, usage = os.wait4(child.pid, 0)
            wall = time.perf_counter() - start
            child.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
            listener.join()
    answer = (output.splitlines() or [b""])[-1]
    # Some native runtimes crash sometimes when the interpreter ends, after the job.
    crashed = child.returncode < 0 and answer.endswith(b"}")
    if wall > seconds and child.returncode == -signal.SIGKILL:
        raise WorkerError(f"did not end in {seconds:.0f} s")
    if child.returncode and not crashed:
        raise WorkerError(_tail(said[0].decode(errors="replace")) or f"ended with {child.returncode}")
    return answer, {"process_wall": wall, "process_cpu": usage.ru_utime + usage.ru_stime}


def environment_of(endpoint: Endpoint | None = None) -> dict[str, str]:
    """An environment without the machine's settings of AWS, proxies and Python, which trusts the endpoint's certificate."""
    keep = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    if endpoint is None or endpoint.ca is None:
        return keep
    return keep | {"SSL_CERT_FILE": endpoint.ca, "REQUESTS_CA_BUNDLE": endpoint.ca}


def keys_of(endpoint: Endpoint) -> dict[str, str]:
    """The environment variables with the keys and the region of an endpoint."""
    keys = {"AWS_ACCESS_KEY_ID": endpoint.access_key, "AWS_SECRET_ACCESS_KEY": endpoint.secret_key}
    return keys | {"AWS_REGION": endpoint.region, "AWS_DEFAULT_REGION": endpoint.region}


def _tail(text: str) -> str:
    return text.strip()[-_TAIL_CHARACTERS:]


def _ask_objects(bench: Bench, command: str, given: dict[str, Any]) -> dict[str, Any]:
    task = json.dumps({"endpoint": bench.direct.__dict__, **given})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.objects", command],
        input=task,
        capture_output=True,
        text=True,
        cwd=servers.ROOT,
        env=environment_of(bench.direct) | keys_of(bench.direct) | {"HOME": bench.layout.home},
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"cannot {command} the endpoint:\n{_tail(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _downloaded(layout: Layout, job: Job) -> list[tuple[str, str]]:
    """The files of a job that downloads, each with the file of the same content."""
    if not job.makes_many:
        return [(layout.downloaded(job.size), layout.file(job.size))]
    wanted = [layout.file(job.size, index if job.many else None) for index in range(job.count)]
    return [(layout.downloaded(job.size, index), file) for index, file in enumerate(wanted)]


def _check_sizes(layout: Layout, job: Job) -> None:
    for path, _ in _downloaded(layout, job):
        got = os.path.getsize(path) if os.path.exists(path) else 0
        if got != job.size:
            raise WorkerError(f"downloaded {got} bytes instead of {job.size}")


def _compare(layout: Layout, job: Job) -> None:
    """Compare the downloaded files with the files of the same name."""
    for got, wanted in _downloaded(layout, job):
        if subprocess.run(["cmp", "--silent", wanted, got], check=False).returncode:
            raise WorkerError("the downloaded content differs from the stored content")


def _forget(bench: Bench, job: Job) -> dict[str, Any]:
    """Delete the downloads or uploads of a run.

    Returns:
        The number of uploaded ``objects`` and ``bytes``; empty after downloads, or if the endpoint stores nothing.
    """
    if job.makes_many:
        _set_aside(bench.layout, job)
    elif job.downloads:
        Path(bench.layout.downloaded(job.size)).unlink(missing_ok=True)
    elif not job.reads and bench.direct.stores:
        return _ask_objects(bench, "clean", {"prefix": bench.layout.uploads})
    return {}


def _set_aside(layout: Layout, job: Job) -> None:
    """Empty many downloaded files, and rename their folder, so that the next run has a new one.

    The files are not deleted. For some minutes after many deletions, ext4 examines each freed inode before it allocates
    another (`recently_deleted` in fs/ext4/ialloc.c), so that creating a file takes ten times as long: measured, 0.3 ms
    instead of 0.03 ms. The next run would measure that.
    """
    paths = [Path(path) for path, _ in _downloaded(layout, job)]
    for path in paths:
        if path.exists():
            os.truncate(path, 0)
    folder = paths[0].parent
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-done-{time.monotonic_ns()}"))
    folder.mkdir(parents=True)


def _too_large(bench: Bench, job: Job) -> bool:
    written = job.size * (job.count if job.many else 1) if job.downloads else 0
    return shutil.disk_usage(bench.layout.folder).free < written + _SPARE_DISK


def clean_up(bench: Bench) -> None:
    """Delete all objects of this run."""
    if bench.direct.stores:
        _ask_objects(bench, "clean", {"prefix": f"{bench.layout.prefix}/"})


def able(
    job: Job, endpoint: str, peers: Mapping[str, Mapping[str, Any]], before: Found | None
) -> dict[str, Mapping[str, Any]]:
    """The peers that run a job.

    Args:
        job: The job.
        endpoint: Name of the endpoint.
        peers: The abilities of the peers.
        before: The figures of the job of `Job.rivals_of`.
    """
    names = [
        name for name, each in peers.items() if job.verb in each.get("how", {}) and endpoint in entry_of(name).endpoints
    ]
    if job.only:
        names = [name for name in names if name in job.only]
    if not job.synced:
        names = [name for name in names if not name.endswith(", synced")]
    names = [name for name in names if name not in job.without]
    if before is not None:
        chosen = leaders(before.runs)
        names = [name for name in names if name in chosen or not rivals_in([name])]
    return {name: peers[name] for name in names}
