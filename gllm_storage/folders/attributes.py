"""Times and modes of files that a transfer preserves: in the metadata of objects, in the form of rclone.

| name | on S3 | on other stores |
|---|---|---|
| ``mtime`` | seconds since 1970, as in ``1700000000.123456789`` | as in ``2023-11-14T22:13:20.123456789Z`` |
| ``mode`` | octal, with the kind of the file, as in ``100644`` | the same |

Times outside the years 1 to 9999 have the form of S3 on all stores.

https://rclone.org/s3/#modification-times-and-hashes, https://rclone.org/docs/#metadata
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gllm_storage.files.target import Preserved

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

PRESERVED = ("mtime", "mode")
_SECOND = 1_000_000_000
_SECONDS = re.compile(r"(-?\d{1,12})(?:\.(\d{1,9})\d*)?\Z")
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_DATE, _LAST_DATE = -62_135_596_800, 253_402_300_799
"""The first and the last second that `datetime` has, since 1970."""


def checked(names: Iterable[str]) -> tuple[str, ...]:
    """The names of facts to preserve.

    Raises:
        ValueError: If one is unknown.
        TypeError: If they are not texts.
    """
    if not hasattr(names, "__iter__"):
        raise TypeError(f"preserve={names!r}: it is a list of {', '.join(map(repr, PRESERVED))}")
    found = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [each for each in found if each not in PRESERVED]:
        raise ValueError(f"preserve={unknown[0]!r}: it must be one of {', '.join(map(repr, PRESERVED))}")
    return found


def of_status(status: os.stat_result, names: Iterable[str]) -> Preserved:
    """The facts about a local file."""
    wanted = set(names)
    return Preserved(status.st_mtime_ns if "mtime" in wanted else None, status.st_mode if "mode" in wanted else None)


def of_metadata(metadata: Mapping[str, str], names: Iterable[str]) -> Preserved:
    """The facts in the metadata of an object; None for those that are missing, or have another form."""
    wanted = set(names)
    given = {name.lower(): text for name, text in metadata.items()}
    return Preserved(
        _nanoseconds(given.get("mtime", "")) if "mtime" in wanted else None,
        _mode(given.get("mode", "")) if "mode" in wanted else None,
    )


def as_metadata(preserved: Preserved, provider: str) -> dict[str, str]:
    """The metadata of an object with these facts.

    Args:
        preserved: The facts.
        provider: The provider of the store.
    """
    found = {}
    if preserved.mtime_ns is not None:
        seconds, rest = divmod(preserved.mtime_ns, _SECOND)
        # tmpfs and XFS have times that RFC 3339 does not have.
        if provider == "s3" or not _FIRST_DATE <= seconds <= _LAST_DATE:
            found["mtime"] = f"{seconds}.{rest:09d}" if seconds >= 0 else str(seconds)
        else:
            found["mtime"] = f"{(_EPOCH + timedelta(seconds=seconds)).replace(tzinfo=None).isoformat()}.{rest:09d}Z"
    if preserved.mode is not None:
        found["mode"] = f"{preserved.mode:o}"
    return found


def _nanoseconds(text: str) -> int | None:
    if found := _SECONDS.match(text):
        sign = -1 if text.startswith("-") else 1
        return int(found[1]) * _SECOND + sign * int((found[2] or "0").ljust(9, "0"))
    if found := _RFC3339.match(text):
        zone = "+00:00" if found[3] == "Z" else found[3]
        try:
            moment = datetime.fromisoformat(f"{found[1]}{zone}")
        except ValueError:
            return None
        return (moment - _EPOCH) // timedelta(seconds=1) * _SECOND + int((found[2] or "0").ljust(9, "0"))
    return None


def _mode(text: str) -> int | None:
    return int(text, 8) if re.fullmatch(r"[0-7]{1,7}", text) else None
