"""Measurements of clock skew, latency and throughput."""

from __future__ import annotations

import statistics
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gllm_storage.cli.commands.check.report import Row, Verdict
from gllm_storage.cli.output import human_size
from gllm_storage.testing.checks import content

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage.cli.commands.check.bench import Bench

CLOCK, LATENCY, THROUGHPUT = "clock skew", "latency, small", "throughput, large"
_TRIES = 5
_SMALL_SIZE = 1024
_SKEW_SECONDS = 60.0


def compare_clocks(bench: Bench) -> Row:
    """Compare the time of a new object with the local clock: stores reject signatures that are 15 minutes off."""
    before = datetime.now(UTC)
    bench.put("clock", b"the current time")
    after = datetime.now(UTC)
    written = bench.client.info(bench.path("clock")).last_modified
    if written is None:
        return Row(CLOCK, Verdict.NO, "unknown: the store does not keep the time of a write")
    resolution = 0.0 if written.microsecond else 1.0
    skew = (written - before).total_seconds() + resolution / 2 - (after - before).total_seconds() / 2
    uncertain = ((after - before).total_seconds() + resolution) / 2
    values = {"seconds": skew, "uncertainty_seconds": uncertain}
    detail = f"the store's clock is {abs(skew):.1f} s {'ahead' if skew > 0 else 'behind'} (± {uncertain:.1f} s)"
    if abs(skew) > _SKEW_SECONDS + uncertain:
        return Row(CLOCK, Verdict.BAD, f"{detail}; set the clock: signed requests fail from 15 minutes on", values)
    return Row(CLOCK, Verdict.OK, detail, values)


def measure_latency(bench: Bench) -> Row:
    """Measure the median time of small operations."""
    data = content(11, _SMALL_SIZE)
    path = bench.path("latency")
    medians = {
        "upload": _median(lambda: bench.put("latency", data)),
        "info": _median(lambda: bench.client.info(path)),
        "download": _median(lambda: bench.get("latency")),
    }
    shown = ", ".join(f"{name} {value:.0f} ms" for name, value in medians.items())
    return Row(LATENCY, Verdict.OK, f"median of {_TRIES}: {shown}", {f"{name}_ms": value for name, value in medians.items()})


def measure_throughput(bench: Bench) -> Row:
    """Measure the upload and the download of one large object, and compare the content."""
    data = content(12, bench.large_size)
    up = _seconds(lambda: bench.put("throughput", data))
    received: list[bytes] = []
    down = _seconds(lambda: received.append(bench.get("throughput")))
    if received != [data]:
        return Row(THROUGHPUT, Verdict.BAD, "the download differs from the upload")
    rates = {"up": bench.large_size / up, "down": bench.large_size / down}
    values = {"bytes": bench.large_size, **{f"{name}_bytes_per_second": rate for name, rate in rates.items()}}
    shown = ", ".join(f"{name} {human_size(rate)}/s" for name, rate in rates.items())
    return Row(THROUGHPUT, Verdict.OK, f"{human_size(bench.large_size)}: {shown}", values)


def _median(action: Callable[[], object]) -> float:
    return statistics.median(_seconds(action) for _ in range(_TRIES)) * 1000


def _seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return max(time.perf_counter() - begun, 1e-9)
