"""The jobs of the benchmark, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from benchmarks.layout import CLOUDS, GIB, KIB, MIB, S3

# The divisors of a quick run, for large sizes and for counts.
_QUICK_LARGE = 64
_QUICK_COUNT = 40


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        name: Name for ``--jobs``.
        verb: The method of `Peer` that does the job; ``first`` and ``first_chain`` are commands of `benchmarks.first`.
        size: Bytes of each object.
        count: Number of objects, calls or reads.
        step: Bytes of each read or write of an open file.
        endpoints: The endpoints on which the job runs.
        by_default: Whether the job runs if ``--jobs`` is not given.
        warm: Whether the job is also measured in a process that is warm.
        synced: Whether downloads that last through a power cut are measured too.
        most_runs: The highest number of runs, for jobs that take long.
        rivals_of: Name of the job whose best rivals this job measures, and no others.
        only: The measured peers, if it is not all of them.
        without: Peers that are not measured.
        cores: Number of processors for the process; 0 for all.
        delay_ms: Milliseconds by which each answer is delayed.
        bandwidth: Bytes per second for each direction of each connection; 0 for no limit.
        counted: Whether an additional run over http, without timing, counts its requests and bytes.
        sparse: Whether its file is sparse, because writing that many bytes to the disk takes too long.
    """

    name: str
    verb: str
    size: int
    count: int = 1
    step: int = MIB
    endpoints: tuple[str, ...] = S3
    by_default: bool = True
    warm: bool = False
    synced: bool = False
    most_runs: int = 100
    rivals_of: str = ""
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    cores: int = 0
    delay_ms: int = 0
    bandwidth: int = 0
    counted: bool = False
    sparse: bool = False

    @property
    def title(self) -> str:
        """The title in tables."""
        title = _TITLES[self.verb].format(size=spell(self.size), step=spell(self.step), count=self.count)
        if self.cores:
            title += f", on {self.cores} processor{'s' * (self.cores > 1)}"
        if self.delay_ms:
            title += f", {self.delay_ms} ms away, {spell(self.bandwidth)}/s for each connection"
        return title

    @property
    def many(self) -> bool:
        """Whether the job transfers many objects in one call."""
        return self.verb in {"upload_many", "download_many"}

    @property
    def downloads(self) -> bool:
        """Whether the job makes local files."""
        return self.verb in {"download", "download_many", "download_small", "serial"}

    @property
    def makes_many(self) -> bool:
        """Whether the job makes many local files. Each is new: ext4 flushes a file that replaces another by a rename."""
        return self.downloads and self.verb != "download"

    @property
    def reads(self) -> bool:
        """Whether the job needs existing objects."""
        return self.downloads or self.verb in {"exists", "read", "read_at", "first", "first_chain"}

    @property
    def warms_rivals(self) -> bool:
        """Whether rivals are measured in warm processes, too. For large objects their start makes no difference."""
        return self.size < GIB

    @property
    def is_first(self) -> bool:
        """Whether the job is the first verb of a process, and nothing else."""
        return self.verb in {"first", "first_chain"}

    def quick(self) -> Job:
        """A small variant of the job, for trials of the command."""
        size = max(self.size // _QUICK_LARGE, 9 * MIB) if self.size >= GIB else self.size
        return replace(self, size=size, count=max(1, self.count // _QUICK_COUNT))


_TITLES = {
    "upload": "{size} up",
    "download": "{size} down, to a file",
    "upload_many": "{count} × {size} up",
    "download_many": "{count} × {size} down, to files",
    "upload_small": "{size} up, {count} one after another",
    "exists": "exists, {count} one after another",
    "download_small": "{size} down, {count} one after another",
    "serial": "1 KiB up, exists, {size} down, {count} of each one after another",
    "read": "open, read {size} in steps of {step}",
    "read_at": "open, {count} random reads of {step} in {size}",
    "write": "open, write {size} in steps of {step}",
    "upload_exclusive": "{size} up, with and without check_conflict",
    "upload_small_exclusive": "{size} up, with and without check_conflict, {count} one after another",
    "first": "first file_exists of a process, keys given",
    "first_chain": "first file_exists of a process, keys in the credentials file",
}

_BOTH = ("upload", "download")
_FLOOR = ("gllm-storage", "gllm-storage, before", "floor")

JOBS = (
    Job("first-keys", "first", KIB, endpoints=("https",)),
    Job("first-chain", "first_chain", KIB, endpoints=("https",)),
    Job("upload-16k", "upload_many", 16 * KIB, 2000, warm=True),
    Job("download-16k", "download_many", 16 * KIB, 2000, warm=True, synced=True),
    Job("upload-1m", "upload_many", MIB, 200, warm=True),
    Job("download-1m", "download_many", MIB, 200, warm=True),
    Job("latency-upload", "upload_small", KIB, 300, warm=True),
    Job("latency-exists", "exists", KIB, 300, warm=True),
    Job("latency-download", "download_small", KIB, 300, warm=True),
    Job("serial", "serial", 16 * KIB, 200, warm=True),
    Job("upload-1g", "upload", GIB, warm=True),
    Job("download-1g", "download", GIB, warm=True, synced=True),
    Job("read", "read", GIB, warm=True),
    Job("write", "write", GIB, warm=True),
    *(
        Job(f"{verb}-4g", verb, 4 * GIB, endpoints=("https",), most_runs=3, rivals_of=f"{verb}-1g", without=("awscrt",))
        for verb in _BOTH
    ),
    *(
        Job(
            f"slow-{verb}",
            verb,
            GIB,
            endpoints=("https",),
            most_runs=3,
            rivals_of=f"{verb}-1g",
            without=("floor", "floor, MemoryBIO"),
            delay_ms=20,
            bandwidth=50 * MIB,
        )
        for verb in _BOTH
    ),
    *(Job(f"one-core-{verb}", verb, GIB, endpoints=("https",), most_runs=3, only=_FLOOR, cores=1) for verb in _BOTH),
    Job("upload-1g", "upload", GIB, endpoints=CLOUDS),
    Job("download-1g", "download", GIB, endpoints=CLOUDS),
    Job("upload-16k", "upload_many", 16 * KIB, 1000, endpoints=CLOUDS),
    Job("download-16k", "download_many", 16 * KIB, 1000, endpoints=CLOUDS),
    Job("read-random", "read_at", GIB, 1000, 64 * KIB, by_default=False, counted=True),
    Job("conflict-1g", "upload_exclusive", GIB, by_default=False, counted=True),
    Job("conflict-1k", "upload_small_exclusive", KIB, 1000, by_default=False, counted=True),
    *(
        Job(f"memory-{verb}-{gib}g", verb, gib * GIB, by_default=False, only=("gllm-storage",), sparse=True)
        for gib in (1, 4, 16)
        for verb in _BOTH
    ),
)


def choose_jobs(patterns: list[str], endpoint: str = "https", *, quick: bool = False) -> list[Job]:
    """The chosen jobs of an endpoint, in the order of `JOBS`.

    Args:
        patterns: Names, first words of names, or shell patterns; empty for the default jobs.
        endpoint: One of `ENDPOINTS`.
        quick: Whether to return their small variants, without those that need a large size.

    Raises:
        ValueError: If a pattern matches no job of any endpoint.
    """
    for pattern in patterns:
        if not any(_names(pattern, job) for job in JOBS):
            names = dict.fromkeys(job.name for job in JOBS)
            raise ValueError(f"no job is called {pattern!r}; there are: {', '.join(names)}")
    of_endpoint = [job for job in JOBS if endpoint in job.endpoints]
    chosen = [job for job in of_endpoint if (any(_names(each, job) for each in patterns) if patterns else job.by_default)]
    return [job.quick() for job in chosen] if quick else chosen


def _names(pattern: str, job: Job) -> bool:
    return fnmatchcase(job.name, pattern) or job.name.startswith(f"{pattern}-")


def spell(size: int) -> str:
    """A number of bytes with its unit, such as ``16 KiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
