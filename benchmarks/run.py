"""The runs: one worker process after another, measured from outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import objects, servers, warm
from benchmarks.figures import Sample, order
from benchmarks.layout import GIB, MIB, Endpoint, Layout, Task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.jobs import Job

_TIMEOUT_SECONDS = 900.0
_SPARE_DISK = 5 * GIB
_PROCESS_MEMORY = 512 * MIB  # for a worker, and the kernel's buffers of its connections
_TAIL_CHARACTERS = 600


class WorkerError(RuntimeError):
    """A worker failed. The message is the end of its standard error."""


@dataclass(frozen=True)
class Bench:
    """A place to run jobs.

    Attributes:
        python: The Python in which the peers are installed.
        endpoint: The endpoint of the workers.
        direct: The same endpoint without a proxy, to fill and clean.
        layout: Names of the files and objects.
        served: The folder that the server serves; None if it serves none.
        counter: The compiled proxy, which counts requests; None to count none.
        settle: Whether to bring disk and memory into the same state before each run.
    """

    python: str
    endpoint: Endpoint
    direct: Endpoint
    layout: Layout
    served: str | None = None
    counter: str | None = None
    settle: bool = True


@dataclass
class Outcome:
    """The results of the runs.

    Attributes:
        samples: All samples.
        failures: The reasons for missing figures, by job and peer.
        counts: The counted requests and bytes, by job and peer.
    """

    samples: list[Sample] = field(default_factory=list)
    failures: dict[str, dict[str, str]] = field(default_factory=dict)
    counts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def fail(self, job: Job, peer: str, reason: str) -> None:
        """Note the reason why a peer has no figure for a job."""
        self.failures.setdefault(job.name, {})[peer] = reason


def describe_peers(python: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The abilities of each peer. The call also brings each peer's modules into the disk cache."""
    described = {}
    for name in names:
        command = [python, "-m", "benchmarks.worker", name, "--describe"]
        done = subprocess.run(command, cwd=servers.ROOT, env=_environment(None), capture_output=True, text=True, check=False)
        described[name] = json.loads(done.stdout) if done.returncode == 0 else {"missing": _tail(done.stderr)}
    return described


def prepare(bench: Bench, jobs: Sequence[Job]) -> None:
    """Make the files and objects that the jobs need."""
    objects.make_files(bench.layout, jobs)
    objects.make_download_folders(bench.layout, jobs)
    reading = [job for job in jobs if job.reads]
    if bench.served is not None:
        objects.link_objects(bench.layout, reading, bench.served)
        return
    names = dict.fromkeys(name for job in reading for name in objects.names_of(job))
    uploads = [(bench.layout.file(size, index), bench.layout.key(size, index)) for size, index in names]
    _ask_objects(bench, "fill", {"uploads": uploads})


def run_job(bench: Bench, job: Job, peers: Sequence[str], repeats: int, outcome: Outcome) -> None:
    """Run a job several times with each peer, in turn. A peer that fails once is left out of the other rounds."""
    left = list(peers)
    if _too_large(bench, job):
        for peer in left:
            outcome.fail(job, peer, "the disk has no room for the file")
        return
    for repeat in range(repeats):
        for peer in order([each for each in peers if each in left], repeat):
            try:
                figures = _run_once(bench, job, peer, first=repeat == 0)
            except WorkerError as error:
                outcome.fail(job, peer, str(error))
                left.remove(peer)
                continue
            outcome.samples.append(Sample(job.name, peer, repeat, figures))
            print(f"  {job.name} #{repeat + 1} {peer}: {figures['wall']:.2f} s, {figures['cpu']:.2f} s CPU", file=sys.stderr)
    if job.counted and bench.counter is not None:
        for peer in left:
            try:
                outcome.counts.setdefault(job.name, {})[peer] = _count(bench, job, peer, bench.counter)
            except WorkerError as error:
                outcome.fail(job, peer, f"not counted: {error}")


def _run_once(bench: Bench, job: Job, peer: str, *, first: bool) -> dict[str, float]:
    if bench.settle:
        _settle(bench.layout, job)
    try:
        figures = _measure(bench, job, peer, bench.endpoint)
        if first and job.downloads:
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


def _count(bench: Bench, job: Job, peer: str, program: str) -> dict[str, Any]:
    with servers.proxy(program, bench.direct) as counter:
        try:
            _measure(bench, job, peer, bench.direct.at(counter.url))
        finally:
            _forget(bench, job)
    return counter.seen


def _measure(bench: Bench, job: Job, peer: str, endpoint: Endpoint) -> dict[str, float]:
    task = Task(endpoint, bench.layout, job.verb, job.size, job.count, job.step)
    start = time.perf_counter()
    with subprocess.Popen(
        [bench.python, "-m", "benchmarks.worker", peer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=servers.ROOT,
        env=_environment(endpoint),
    ) as child:
        if child.stdin is None or child.stdout is None or child.stderr is None:
            raise RuntimeError("Popen made no pipes")
        errors = child.stderr
        timer = threading.Timer(_TIMEOUT_SECONDS, child.kill)
        timer.start()
        said: list[bytes] = []
        listener = threading.Thread(target=lambda: said.append(errors.read()))
        listener.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # the worker has ended; its exit code gives the reason
                child.stdin.write(json.dumps(task.to_dict()).encode())
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
    if child.returncode and not crashed:
        raise WorkerError(_tail(said[0].decode(errors="replace")) or f"ended with {child.returncode}")
    figures: dict[str, float] = json.loads(answer)
    if crashed:
        figures["crashed"] = -child.returncode
    figures.update(process_wall=wall, process_cpu=usage.ru_utime + usage.ru_stime, ru_maxrss=usage.ru_maxrss * 1024)
    return figures


def _environment(endpoint: Endpoint | None) -> dict[str, str]:
    """An environment without the machine's settings of AWS, proxies and Python."""
    keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    ours = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if endpoint is not None:
        ours |= {
            "AWS_ACCESS_KEY_ID": endpoint.access_key,
            "AWS_SECRET_ACCESS_KEY": endpoint.secret_key,
            "AWS_REGION": endpoint.region,
            "AWS_DEFAULT_REGION": endpoint.region,
        }
    return keep | ours


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
        env=_environment(bench.direct),
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"cannot {command} the endpoint:\n{_tail(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _compare(layout: Layout, job: Job) -> None:
    """Compare the downloaded files with the files of the same name."""
    for size, index in objects.names_of(job):
        wanted, got = layout.file(size, index), layout.downloaded(size, index)
        if subprocess.run(["cmp", "--silent", wanted, got], check=False).returncode:
            raise WorkerError("the downloaded content differs from the stored content")


def _forget(bench: Bench, job: Job) -> dict[str, Any]:
    """Delete the downloads or uploads of a run.

    Returns:
        The number of uploaded ``objects`` and ``bytes``; empty after downloads, or if the endpoint stores nothing.
    """
    if job.downloads and job.many:
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
    paths = [Path(layout.downloaded(size, index)) for size, index in objects.names_of(job)]
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
