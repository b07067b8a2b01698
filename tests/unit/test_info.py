"""`ObjectInfo`, made from the entry of any fsspec filesystem."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from gllm_storage import ObjectInfo
from gllm_storage.info import aware, info_from_fsspec
from gllm_storage.s3.requests import info_from_head, info_from_listing

MOMENT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

ENTRIES: dict[str, tuple[dict[str, Any], ObjectInfo]] = {
    "s3fs": (
        {"name": "b/k", "size": 3, "ETag": '"abc"', "LastModified": MOMENT, "type": "file"},
        ObjectInfo("u", 3, "abc", MOMENT),
    ),
    "gcsfs": (
        {"name": "b/k", "size": 3, "etag": "xyz", "mtime": MOMENT, "metadata": {"a": "b"}},
        ObjectInfo("u", 3, "xyz", MOMENT, metadata={"a": "b"}),
    ),
    "local": ({"name": "/k", "size": 3, "mtime": MOMENT.timestamp()}, ObjectInfo("u", 3, None, MOMENT)),
    "memory": ({"name": "/k", "size": 3, "created": MOMENT.replace(tzinfo=None)}, ObjectInfo("u", 3, None, MOMENT)),
    "webdav": ({"size": 3, "modified": MOMENT, "created": MOMENT - timedelta(1)}, ObjectInfo("u", 3, None, MOMENT)),
    "md5": ({"size": 3, "md5": "m"}, ObjectInfo("u", 3, "m")),
    "text time": ({"size": 3, "LastModified": "2026-03-01T12:30:00Z"}, ObjectInfo("u", 3, None, MOMENT)),
    "http": ({"size": 3, "Last-Modified": "Sun, 01 Mar 2026 12:30:00 GMT"}, ObjectInfo("u", 3, None, MOMENT)),
    "ftp": ({"size": 3, "modify": "20260301123000"}, ObjectInfo("u", 3, None, MOMENT)),
    "ftp, exact": ({"size": 3, "modify": "20260301123000.000"}, ObjectInfo("u", 3, None, MOMENT)),
    "ftp by LIST": ({"size": 3, "modify": "Mar 01 12:30"}, ObjectInfo("u", 3)),
    "no size": ({"size": None}, ObjectInfo("u", 0)),
    "nothing": ({}, ObjectInfo("u", 0)),
    "empty": ({"size": 0, "ETag": "", "LastModified": ""}, ObjectInfo("u", 0)),
    "empty tag": ({"size": 0, "ETag": '""'}, ObjectInfo("u", 0)),
    "number tag": ({"size": 3, "etag": 17}, ObjectInfo("u", 3, "17")),
}


@pytest.mark.parametrize(("entry", "expected"), ENTRIES.values(), ids=ENTRIES)
def test_entry(entry: dict[str, Any], expected: ObjectInfo) -> None:
    """The entry of any filesystem becomes an ObjectInfo."""
    assert info_from_fsspec(entry, "u") == expected


@pytest.mark.parametrize(("tag", "expected"), [('""', None), ("", None), ('"abc"', "abc"), ("abc", "abc")])
def test_tag_of_s3(tag: str, expected: str | None) -> None:
    """A HEAD request and a listing state the same ETag, also none at all."""
    assert info_from_head({"ContentLength": 3, "ETag": tag}, "u").etag == expected
    assert info_from_listing({"Size": 3, "ETag": tag}, "u").etag == expected


@pytest.mark.parametrize(
    ("moment", "meant"),
    [
        (MOMENT, MOMENT),
        (MOMENT.replace(tzinfo=None), MOMENT),
        (MOMENT.astimezone(timezone(timedelta(hours=7))), MOMENT),
        (MOMENT.timestamp(), MOMENT),
        (0, datetime(1970, 1, 1, tzinfo=UTC)),
        ("2026-03-01T12:30:00+00:00", MOMENT),
        ("2026-03-01T19:30:00+07:00", MOMENT),
        ("2026-03-01 12:30", MOMENT),
        ("yesterday", None),
        ("", None),
        (None, None),
        (b"2026", None),
    ],
)
def test_time_zone(moment: object, meant: datetime | None) -> None:
    """A time in any form gets a time zone, and a value that is not a time becomes None."""
    found = aware(moment)
    assert found == meant
    assert found is None or found.tzinfo is not None


def test_immutability() -> None:
    """An ObjectInfo is compared by value and cannot be changed."""
    info = ObjectInfo("u", 3)
    assert info == ObjectInfo("u", 3, None, None, None, None)
    with pytest.raises(AttributeError):
        info.size = 4  # type: ignore[misc]  # frozen: it raises
