"""The jobs of the benchmark, and their sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from benchmarks.layout import GIB, KIB, MIB

# The divisors of a quick run, for large sizes and for counts.
_QUICK_LARGE = 64
_QUICK_COUNT = 40


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        name: Name for ``--jobs``.
        verb: The method of `Peer` that does the job.
        size: Bytes of each object.
        count: Number of objects, calls or reads.
        step: Bytes of each read or write of an open file.
        by_default: Whether the job runs if ``--jobs`` is not given.
        counted: Whether an additional run without timing counts its requests and bytes.
        sparse: Whether its file is sparse, because writing that many bytes to the disk takes too long.
    """

    name: str
    verb: str
    size: int
    count: int = 1
    step: int = MIB
    by_default: bool = True
    counted: bool = False
    sparse: bool = False

    @property
    def title(self) -> str:
        """The title in tables."""
        return _TITLES[self.verb].format(size=spell(self.size), step=spell(self.step), count=self.count)

    @property
    def yardstick(self) -> str:
        """The peer with which all peers are compared, beside the best peer."""
        return "gllm-storage, unchecked" if "exclusive" in self.verb else "s3fs"

    @property
    def many(self) -> bool:
        """Whether the job transfers many objects in one call."""
        return self.verb in {"upload_many", "download_many"}

    @property
    def downloads(self) -> bool:
        """Whether the job makes local files."""
        return self.verb in {"download", "download_many", "download_small"}

    @property
    def reads(self) -> bool:
        """Whether the job needs existing objects."""
        return self.downloads or self.verb in {"exists", "read", "read_at"}

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
    "read": "open, read {size} in steps of {step}",
    "read_at": "open, {count} random reads of {step} in {size}",
    "write": "open, write {size} in steps of {step}",
    "upload_exclusive": "{size} up, with and without check_conflict",
    "upload_small_exclusive": "{size} up, with and without check_conflict, {count} one after another",
}

JOBS = (
    Job("upload-1g", "upload", GIB),
    Job("download-1g", "download", GIB),
    Job("upload-4g", "upload", 4 * GIB),
    Job("download-4g", "download", 4 * GIB),
    Job("upload-16k", "upload_many", 16 * KIB, 2000),
    Job("download-16k", "download_many", 16 * KIB, 2000),
    Job("upload-1m", "upload_many", MIB, 200),
    Job("download-1m", "download_many", MIB, 200),
    Job("latency-upload", "upload_small", KIB, 1000, counted=True),
    Job("latency-exists", "exists", KIB, 1000, counted=True),
    Job("latency-download", "download_small", KIB, 1000, counted=True),
    Job("read", "read", GIB),
    Job("read-random", "read_at", GIB, 1000, 64 * KIB, counted=True),
    Job("write", "write", GIB),
    Job("conflict-1g", "upload_exclusive", GIB, counted=True),
    Job("conflict-1k", "upload_small_exclusive", KIB, 1000, counted=True),
    *(
        Job(f"memory-{verb}-{gib}g", verb, gib * GIB, by_default=False, sparse=True)
        for gib in (1, 4, 16)
        for verb in ("upload", "download")
    ),
)


def choose_jobs(patterns: list[str], *, quick: bool = False) -> list[Job]:
    """The chosen jobs, in the order of `JOBS`.

    Args:
        patterns: Names, first words of names, or shell patterns; empty for the default jobs.
        quick: Whether to return their small variants.

    Raises:
        ValueError: If a pattern matches no job.
    """
    for pattern in patterns:
        if not any(_names(pattern, job) for job in JOBS):
            raise ValueError(f"no job is called {pattern!r}; there are: {', '.join(job.name for job in JOBS)}")
    chosen = [job for job in JOBS if (any(_names(each, job) for each in patterns) if patterns else job.by_default)]
    return [job.quick() for job in chosen] if quick else chosen


def _names(pattern: str, job: Job) -> bool:
    return fnmatchcase(job.name, pattern) or job.name.startswith(f"{pattern}-")


def spell(size: int) -> str:
    """A number of bytes with its unit, such as ``16 KiB``."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
