"""Fixtures: servers that run for the session, and the rig."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import boto3
import botocore.loaders
import botocore.session
import pytest
from botocore.exceptions import ClientError
from botocore.retries.standard import ExponentialBackoff
from moto import mock_aws

from tests.rig import BUCKET, TRAITS, Boto3Client, FolderClient, MemoryClient, Rig, new_prefix, plain_boto3, server_rig
from tests.servers import ceph, ceph_tls, ministack, ministack_tls, rclone, rclone_tls, reject, require

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import S3Server
    from tests.servers.base import ServerFactory

_LOADER = botocore.loaders.create_loader()
_FACTORIES: dict[str, ServerFactory] = {
    "ministack": ministack,
    "ministack-tls": ministack_tls,
    "ceph": ceph,
    "ceph-tls": ceph_tls,
    "rclone": rclone,
    "rclone-tls": rclone_tls,
    "reject": reject,
}


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """No AWS settings of the machine, and no long waits between botocore's retries (the product keeps them)."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # botocore reads its models for each client, which takes 0.15 s; here once.
    monkeypatch.setattr(botocore.session, "create_loader", lambda *_: _LOADER)
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: random.uniform(0, 0.02))


class Servers:
    """Servers of this test process, each started when it is first asked for."""

    def __init__(self, directory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> None:
        self._directory = directory
        self._request = request
        self._running: dict[str, S3Server] = {}

    def get(self, name: str) -> S3Server:
        """A running server, with an empty bucket of the name `BUCKET`.

        Args:
            name: One of the rig's servers.
        """
        if name not in self._running:
            context = require(_FACTORIES[name], self._directory.mktemp(name))
            server = context.__enter__()
            self._request.addfinalizer(lambda: context.__exit__(None, None, None))
            plain_boto3(server).create_bucket(Bucket=BUCKET)
            self._running[name] = server
        return self._running[name]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Servers:
    """All servers."""
    return Servers(tmp_path_factory, request)


def make_rig(name: str, request: pytest.FixtureRequest) -> Rig:
    """The rig of a provider, for the test that asks."""
    if name == "memory":
        return Rig(
            name, "memory", {"bucket_name": BUCKET}, TRAITS[name], MemoryClient(BUCKET), new_prefix(), "memory", f"{BUCKET}/"
        )
    if name == "file":
        folder: Path = request.getfixturevalue("tmp_path") / "store"
        return Rig(
            name, "file", {"root": str(folder)}, TRAITS[name], FolderClient(folder), new_prefix(), "file", f"{folder}/"
        )
    if name == "moto":
        request.getfixturevalue("mocked_aws")
        second = Boto3Client(boto3.session.Session().client("s3", region_name="us-east-1"))
        return Rig(name, "s3", {"bucket_name": BUCKET}, TRAITS[name], second, new_prefix(), "s3", f"{BUCKET}/")
    servers: Servers = request.getfixturevalue("servers")
    return server_rig(name, servers.get(name))


@pytest.fixture
def mocked_aws() -> Iterator[None]:
    """Moto in this process, with a bucket."""
    with mock_aws():
        try:
            boto3.session.Session().client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
        except ClientError as error:
            raise AssertionError("moto did not start") from error
        yield


@pytest.fixture(params=list(TRAITS))
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each store in turn."""
    return make_rig(request.param, request)


def _those(**wanted: bool) -> list[str]:
    return [name for name, traits in TRAITS.items() if all(getattr(traits, key) == value for key, value in wanted.items())]


@pytest.fixture(params=_those(creates_small=True))
def creating_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store that creates exclusively, at least in one request."""
    return make_rig(request.param, request)


@pytest.fixture(params=_those(creates_large=True))
def parts_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store that creates exclusively at any size."""
    return make_rig(request.param, request)


@pytest.fixture(params=_those(creates_small=False))
def careless_rig(request: pytest.FixtureRequest) -> Rig:
    """Each store that cannot create exclusively."""
    return make_rig(request.param, request)
