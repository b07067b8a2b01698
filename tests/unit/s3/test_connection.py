"""boto3 sends the requests if the direct engine does not work."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ProfileNotFound
from botocore.utils import parse_timestamp

from gllm_storage import get_storage_client
from gllm_storage.s3.connection import Endpoint
from gllm_storage.s3.http import client as direct_client
from gllm_storage.s3.listing import time_of
from tests.promises.faulty import CEPH, NAME, behind_proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Servers


def break_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the import of the direct engine fail, as if botocore had removed a name."""
    monkeypatch.setitem(sys.modules, "gllm_storage.s3.http.client", None)


def break_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the direct engine fail, as if it did not know a name of botocore."""

    def operations() -> None:
        raise KeyError("HeadObject")

    monkeypatch.setattr(direct_client, "operations", operations)


@pytest.mark.parametrize("breaks", [break_import, break_model])
def test_broken_direct_engine(
    breaks: Callable[[pytest.MonkeyPatch], None],
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the direct engine does not work, boto3 sends all requests, and one warning is logged."""
    breaks(monkeypatch)
    (tmp_path / "file").write_bytes(b"content")
    with behind_proxy(CEPH, servers) as faulty, caplog.at_level(logging.WARNING):
        client = faulty.client()
        client.upload_file(tmp_path / "file", NAME, check_conflict=True)
        assert client.download_file(NAME, tmp_path / "again").read_bytes() == b"content"
        assert {"amz-sdk-invocation-id" in entry.headers for entry in faulty.proxy.requests} == {True}
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("gllm_storage")]
    assert "boto3 sends all requests" in told


def test_missing_profile() -> None:
    """A missing profile is an error, not a reason to use boto3 instead."""
    with pytest.raises(ProfileNotFound):
        Endpoint({"region_name": "us-east-1"}, {}, profile_name="nobody").make_client()


def test_bulk_without_direct_engine(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the direct engine, many objects are written and read one by one."""
    break_model(monkeypatch)
    with behind_proxy(CEPH, servers) as faulty:
        filesystem = get_storage_client("s3", faulty.rig.config).filesystem
        paths = [f"models/{faulty.rig.key(str(number))}" for number in range(3)]
        filesystem.pipe(dict.fromkeys(paths, b"content"))
        assert filesystem.cat(paths) == dict.fromkeys(paths, b"content")


TIMES = [
    "2026-01-02T03:04:05.678Z", "2026-01-02T03:04:05Z", "2024-02-29T23:59:59.123456Z", "2026-01-02T03:04:05.123456789Z",
    "2026-01-02T03:04:05+02:00", "Fri, 02 Jan 2026 03:04:05 GMT", "1767322800", 1767322800,
]  # fmt: skip


@pytest.mark.parametrize("value", TIMES, ids=str)
def test_time_of(value: Any) -> None:
    """A time in an answer is that of botocore's parser, which is slow."""
    assert time_of(value) == parse_timestamp(value)
    assert time_of(value).tzinfo is not None


@pytest.mark.parametrize("value", ["2026-13-02T03:04:05Z", "yesterday"])
def test_no_time(value: str) -> None:
    """A text that is not a time is a `ValueError`, as botocore's parser raises."""
    with pytest.raises(ValueError, match="Invalid timestamp"):
        time_of(value)
