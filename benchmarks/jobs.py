"""The jobs: what is measured, in which sizes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from benchmarks.layout import GIB, KIB, MIB

_QUICK_LARGE = 64  # a quick run's large objects are so many times smaller
_QUICK_COUNT = 40


@dataclass(frozen=True)
class Job:
    """A job.

    Attributes:
        name: What `--jobs` calls it.
        verb: The method of a `Peer` that does it.
        size: Bytes of the object, or of each of many.
        count: How many objects, calls or reads.
        step: Bytes of each read or write of an open file.
        by_default: Whether it is run when no job is named.
        counted: Whether its requests and bytes are counted, in a run more that is not timed.
        sparse: Whether its file has no content, for sizes that would take the disk too long to fill.
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
        """For people."""
        return _TITLES[self.verb].format(size=spell(self.size), step=spell(self.step), count=self.count)

    @property
    def yardstick(self) -> str:
        """The peer that all are compared with, beside the best one."""
        return "gllm-storage, unchecked" if "exclusive" in self.verb else "s3fs"

    @property
    def many(self) -> bool:
        """Whether it moves many objects in one call."""
        return self.verb in {"upload_many", "download_many"}

    @property
    def downloads(self) -> bool:
        """Whether it leaves files behind."""
        return self.verb in {"download", "download_many", "download_small"}

    @property
    def reads(self) -> bool:
        """Whether it needs objects that are there already."""
        return self.downloads or self.verb in {"exists", "read", "read_at"}

    def quick(self) -> Job:
        """The same, small enough to try the command out."""
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
    """The jobs that the patterns name, in their order above; without any, the default ones.

    Raises:
        ValueError: If a pattern names none.
    """
    for pattern in patterns:
        if not any(_names(pattern, job) for job in JOBS):
            raise ValueError(f"no job is called {pattern!r}; there are: {', '.join(job.name for job in JOBS)}")
    chosen = [job for job in JOBS if (any(_names(each, job) for each in patterns) if patterns else job.by_default)]
    return [job.quick() for job in chosen] if quick else chosen


def _names(pattern: str, job: Job) -> bool:
    return fnmatchcase(job.name, pattern) or job.name.startswith(f"{pattern}-")


def spell(size: int) -> str:
    """Bytes as people write them."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
