"""Checks of exclusive create: several writers race for one name, and one must win."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gllm_storage.cli.commands.check.report import IN_PARTS, LARGE, ONE_REQUEST, PARTS, SMALL, Row, Verdict
from gllm_storage.errors import ConflictCheckUnsupportedError
from gllm_storage.settings import MIB
from gllm_storage.testing.checks import content, race

if TYPE_CHECKING:
    from gllm_storage.cli.commands.check.bench import Bench

_SMALL_SIZE = 1024
GIB = 2**30


@dataclass(frozen=True)
class Round:
    """One race.

    Attributes:
        winners: The numbers of the writers that succeeded.
        is_intact: Whether the object has the content of a winner.
    """

    winners: tuple[int, ...]
    is_intact: bool


def race_small(bench: Bench) -> Row:
    """Race with objects that go in one request."""
    return _raced(bench, SMALL, _SMALL_SIZE, bench.writers, bench.rounds)


def race_large(bench: Bench) -> Row:
    """Race with objects that are large enough to go in parts."""
    row = _raced(bench, LARGE, bench.large_size, bench.writers, bench.rounds)
    if row.values.get("sent") == ONE_REQUEST:
        row.values["limit"] = _text(bench.client.store.settings.exclusive_put_limit)
    return row


def race_in_parts(bench: Bench) -> Row:
    """Race with objects in parts, where the store gets them in one request: larger ones can go in parts only."""
    large = bench.values.get(LARGE, {})
    if large.get("sent") != ONE_REQUEST:
        return Row(IN_PARTS, Verdict.SKIPPED, f"see {LARGE!r}" if large else f"needs races of {LARGE!r}")
    trusting = dataclasses.replace(bench, folder=dataclasses.replace(bench.folder, client=_trusting(bench.client)))
    row = _raced(trusting, IN_PARTS, bench.large_size, bench.writers, bench.rounds)
    # The library does not rely on it, unless conditional_writes="enforced" says so: no promise is broken.
    return dataclasses.replace(row, verdict=Verdict.NO) if row.verdict is Verdict.BAD else row


def _trusting(client: Any) -> Any:
    """A client of the same bucket that creates large objects in parts."""
    return type(client)({**client.config, "conditional_writes": "enforced"})


def _text(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{size / MIB:.0f} MiB"


def _raced(bench: Bench, name: str, size: int, writers: int, rounds: int) -> Row:
    short = name.rpartition(" ")[2]
    bench.warnings.clear()
    try:
        if not _refuses_second(bench, f"{short}-first", size):
            return Row(name, Verdict.BAD, "an existing object was overwritten")
        found = [_race(bench, f"{short}-{number}", size, writers) for number in range(rounds)]
    except ConflictCheckUnsupportedError as error:
        return Row(name, Verdict.NO, f"refused: {error.describe(None)}")
    sent = _way_of_sending(bench, f"{short}-first")
    row = _judged(name, found, writers, sent, warned=bool(bench.warnings))
    bench.values[name] = row.values
    return row


def _refuses_second(bench: Bench, name: str, size: int) -> bool:
    bench.put(name, content(0, size), exclusive=True)
    try:
        bench.put(name, content(1, size), exclusive=True)
    except FileExistsError:
        return True
    return False


def _race(bench: Bench, name: str, size: int, writers: int) -> Round:
    path = bench.path(name)
    files = [bench.file(f"writer-{number}", content(number, size)) for number in range(writers)]
    winners = race([partial(bench.client.upload_file, file, path, check_conflict=True) for file in files])
    stored = bench.get(name)
    for file in files:
        os.unlink(file)
    return Round(winners, any(stored == content(number, size) for number in winners))


def _way_of_sending(bench: Bench, name: str) -> str:
    """`PARTS` or `ONE_REQUEST` on S3, where the ETag of a multipart upload ends as in ``-2``; empty elsewhere."""
    etag = bench.client.info(bench.path(name)).etag or ""
    if bench.client.provider != "s3":
        return ""
    return PARTS if "-" in etag else ONE_REQUEST


def _judged(name: str, rounds: list[Round], writers: int, sent: str, *, warned: bool) -> Row:
    counts = [len(each.winners) for each in rounds]
    values = {
        "writers": writers,
        "winners": counts,
        "content_is_winners": all(each.is_intact for each in rounds),
        "sent": sent,
    }
    races = f"{len(rounds)} race{'s' if len(rounds) > 1 else ''} of {writers} writers"
    one = "one winner each" if len(rounds) > 1 else "one winner"
    how = f", sent {sent}" if sent else ""
    if any(count != 1 for count in counts):
        found = ", ".join(f"{number} x {count}" for count, number in sorted(Counter(counts).items()))
        return Row(name, Verdict.BAD, f"{races}: not one winner each (races x winners: {found}){how}", values)
    if not values["content_is_winners"]:
        return Row(name, Verdict.BAD, f"{races}: {one}, but the object is not the winner's{how}", values)
    if warned:
        return Row(name, Verdict.NO, f"not atomic: a HEAD request, then the write ({races}: {one} by luck){how}", values)
    return Row(name, Verdict.OK, f"{races}: {one}, and the object is the winner's{how}", values)
