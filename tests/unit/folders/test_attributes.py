"""Times and modes of files in the metadata of objects."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gllm_storage.files.target import Preserved
from gllm_storage.folders.attributes import as_metadata, checked, of_metadata, of_status

if TYPE_CHECKING:
    from pathlib import Path

BOTH = ("mtime", "mode")


@pytest.mark.parametrize("provider", ["s3", "gcs", "azure"])
@pytest.mark.parametrize(
    "mtime_ns",
    [
        0, 1_700_000_000_123_456_789, 1_700_000_000_000_000_000, 253_402_300_799_999_999_999, 253_402_300_800_000_000_000,
        -62_135_596_801_000_000_000, -62_135_596_800_000_000_000, -40_000_000_000_000_000_000,
    ],
)  # fmt: skip
def test_round(provider: str, mtime_ns: int) -> None:
    """The metadata keep all digits."""
    given = Preserved(mtime_ns, 0o100640)
    assert of_metadata(as_metadata(given, provider), BOTH) == given


def test_rclone_forms() -> None:
    """The forms that rclone writes on S3, GCS and Azure; other texts count as missing."""
    assert as_metadata(Preserved(1_700_000_000_123_456_789, 0o100644), "s3") == {
        "mtime": "1700000000.123456789",
        "mode": "100644",
    }
    assert as_metadata(Preserved(1_700_000_000_123_456_789), "azure") == {"mtime": "2023-11-14T22:13:20.123456789Z"}
    read = {
        "1700000000": 1_700_000_000_000_000_000,
        "1700000000.5": 1_700_000_000_500_000_000,
        "-1.5": -1_500_000_000,
        "2023-11-14T23:13:20.5+01:00": 1_700_000_000_500_000_000,
        "2023-11-14T22:13:20Z": 1_700_000_000_000_000_000,
        "yesterday": None,
        "2023-99-99T22:13:20Z": None,
        "": None,
    }
    assert {text: of_metadata({"Mtime": text}, BOTH).mtime_ns for text in read} == read
    assert of_metadata({"mtime": "1", "mode": "rw"}, ("mode",)) == Preserved()


def test_names() -> None:
    """Unknown names are refused."""
    assert checked(["mode", "mtime"]) == ("mode", "mtime")
    assert checked("mtime") == ("mtime",)
    with pytest.raises(ValueError, match="preserve='owner'"):
        checked(["owner"])


def test_give(tmp_path: Path) -> None:
    """A file gets its time and its permissions, and no other bits of the mode."""
    (tmp_path / "a").write_bytes(b"a")
    Preserved(5_000_000_001, 0o104751).give(str(tmp_path / "a"))
    status = os.stat(tmp_path / "a")
    assert (status.st_mtime_ns, status.st_mode & 0o7777) == (5_000_000_001, 0o751)
    assert of_status(status, BOTH) == Preserved(5_000_000_001, 0o100751)
