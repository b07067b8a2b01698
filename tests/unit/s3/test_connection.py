"""boto3 serves where the direct engine cannot."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ProfileNotFound

from gllm_storage import get_storage_client
from gllm_storage.s3.connection import Endpoint
from gllm_storage.s3.http import client as direct_client
from tests.promises.s3.faulty import NAME, behind_proxy

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Servers


def is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a module of it imports a name that botocore has no more."""
    monkeypatch.setitem(sys.modules, "gllm_storage.s3.http.template", None)


def finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where botocore's model of S3 is another."""

    def operations_of(_: object) -> None:
        raise KeyError("HeadObject")

    monkeypatch.setattr(direct_client, "operations_of", operations_of)


@pytest.mark.parametrize("breaks", [is_gone, finds_nothing])
def test_where_the_direct_engine_breaks_boto3_does_everything_and_one_line_says_so(
    breaks: Callable[[pytest.MonkeyPatch], None],
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    breaks(monkeypatch)
    (tmp_path / "file").write_bytes(b"content")
    with behind_proxy("ceph", servers) as faulty, caplog.at_level(logging.WARNING):
        client = faulty.client()
        client.upload_file(tmp_path / "file", NAME, check_conflict=True)
        assert client.download_file(NAME, tmp_path / "again").read_bytes() == b"content"
        assert {"amz-sdk-invocation-id" in entry.headers for entry in faulty.proxy.requests} == {True}
    (told,) = [record.getMessage() for record in caplog.records if record.name.startswith("gllm_storage")]
    assert "boto3 sends all requests" in told


def test_a_profile_that_does_not_exist_is_no_reason_to_go_on() -> None:
    with pytest.raises(ProfileNotFound):
        Endpoint({"region_name": "us-east-1"}, {}, profile_name="nobody").make_client()


def test_many_objects_go_one_by_one_where_the_direct_engine_breaks(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds_nothing(monkeypatch)
    with behind_proxy("ceph", servers) as faulty:
        filesystem = get_storage_client("s3", faulty.rig.config).filesystem
        paths = [f"models/{faulty.rig.key(str(number))}" for number in range(3)]
        filesystem.pipe(dict.fromkeys(paths, b"content"))
        assert filesystem.cat(paths) == dict.fromkeys(paths, b"content")


_WITHOUT_A_NAME = """
import boto3, botocore.utils, s3fs
del botocore.utils.parse_timestamp
from gllm_storage.s3.filesystem import S3FileSystem
filesystem = S3FileSystem(endpoint_url="http://127.0.0.1:9", key="k", secret="s", client_kwargs={"region_name": "us-east-1"})
print(type(filesystem.connection.client).__module__)
"""


def test_a_release_of_botocore_of_which_the_direct_engine_cannot_be_imported_leaves_boto3() -> None:
    child = subprocess.run([sys.executable, "-c", _WITHOUT_A_NAME], check=True, capture_output=True, text=True, timeout=120)
    assert child.stdout.strip() == "botocore.client"
    assert "boto3 sends all requests" in child.stderr
