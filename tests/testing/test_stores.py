"""The stores of the library pass the suite that other providers run."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar

import fsspec
import pytest

from gllm_storage.azure.connection import connection_of as azure_connection
from gllm_storage.gcs.connection import connection_of as gcs_connection
from gllm_storage.local.store import LocalStore
from gllm_storage.memory.store import MemoryStore
from gllm_storage.s3.connection import connection_of as s3_connection
from gllm_storage.testing import StoreSuite
from tests.rig import (
    MIB,
    Boto3Client,
    FolderClient,
    GoogleClient,
    MemoryClient,
    MicrosoftClient,
    SecondClient,
    plain_boto3,
)

if TYPE_CHECKING:
    from pathlib import Path

    from gllm_storage.store.port import ObjectStore
    from tests.conftest import Servers
    from tests.servers import AzureServer, GCSServer, S3Server

pytestmark = pytest.mark.slow


class _Described(StoreSuite):
    """A suite whose second client is one of the rig's."""

    second: SecondClient
    bucket: str

    @pytest.fixture(autouse=True)
    def _new_bucket(self) -> None:
        self.bucket = f"suite-{uuid.uuid4().hex[:12]}"

    def put(self, key: str, content: bytes) -> None:
        self.second.put(key, content)

    def get(self, key: str) -> bytes:
        return self.second.get(key)

    def remove(self, key: str) -> None:
        self.second.delete(key)

    def keys(self) -> list[str]:
        return self.second.all_keys()

    def open_uploads(self) -> list[str]:
        return self.second.open_uploads()


class _S3Suite(_Described):
    multipart_threshold: ClassVar[int] = 5 * MIB
    server: S3Server

    def start(self, server: S3Server) -> None:
        self.server = server
        client = plain_boto3(server)
        client.create_bucket(Bucket=self.bucket)
        self.second = Boto3Client(client, self.bucket)

    @property
    def endpoint_url(self) -> str:
        return self.server.endpoint_url

    def make_store(self) -> ObjectStore:
        return self.make_store_at(self.endpoint_url)

    def make_store_at(self, endpoint_url: str) -> ObjectStore:
        options = {"key": self.server.access_key, "secret": self.server.secret_key, "endpoint_url": endpoint_url}
        sizes = {"part_size": 5 * MIB, "multipart_threshold": self.multipart_threshold}
        return s3_connection({**options, **sizes, "client_kwargs": {"region_name": "us-east-1"}}).store(self.bucket)


class TestCeph(_S3Suite):
    """It creates exclusively in one request only, and keeps our checksum in the metadata."""

    @pytest.fixture(autouse=True)
    def _server(self, _new_bucket: None, servers: Servers) -> None:
        self.start(servers.s3("ceph"))


class TestMiniStack(_S3Suite):
    """It creates exclusively at any size, and keeps the checksum.

    It computes checksums in Python, at 5 MiB/s, so an upload in parts has one small part. Ceph has objects of several parts.
    """

    multipart_threshold = 1024
    large = 100_000

    @pytest.fixture(autouse=True)
    def _server(self, _new_bucket: None, servers: Servers) -> None:
        self.start(servers.s3("ministack"))


class TestGCS(_Described):
    """The fake of this test suite."""

    server: GCSServer

    @pytest.fixture(autouse=True)
    def _server(self, _new_bucket: None, servers: Servers) -> None:
        server: Any = servers.get("gcs-fake")
        self.server = server
        self.second = GoogleClient(server, self.bucket)
        self.second.client.create_bucket(self.bucket)

    @property
    def endpoint_url(self) -> str:
        return self.server.endpoint_url

    def make_store(self) -> ObjectStore:
        return self.make_store_at(self.endpoint_url)

    def make_store_at(self, endpoint_url: str) -> ObjectStore:
        options = {"endpoint_url": endpoint_url, "token": "anon", "part_size": MIB, "multipart_threshold": MIB}
        return gcs_connection(options).store(self.bucket)


class TestAzure(_Described):
    """Azurite."""

    objects = 200  # a page has 5000
    secrets = ("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq",)
    server: AzureServer

    @pytest.fixture(autouse=True)
    def _server(self, _new_bucket: None, servers: Servers) -> None:
        server: Any = servers.get("azurite")
        self.server = server
        self.second = MicrosoftClient(server, self.bucket)
        self.second.service.create_container(self.bucket)

    @property
    def endpoint_url(self) -> str:
        return self.server.endpoint_url

    def make_store(self) -> ObjectStore:
        return self.make_store_at(self.endpoint_url)

    def make_store_at(self, endpoint_url: str) -> ObjectStore:
        account = {"account_name": self.server.account_name, "account_key": self.server.account_key}
        options = {**account, "endpoint_url": endpoint_url, "part_size": MIB, "multipart_threshold": MIB}
        connection = azure_connection(options)
        connection.checks.crc64 = False  # Azurite refuses a CRC-64 of the first blocks, and the suite counts requests
        return connection.store(self.bucket)


class TestLocal(_Described):
    """A folder."""

    faults = False
    pickles = True
    checksums = False
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.folder = tmp_path_factory.mktemp("store")
        self.second = FolderClient(self.folder)

    def make_store(self) -> ObjectStore:
        return LocalStore(str(self.folder))


class TestMemory(_Described):
    """The memory of this process."""

    faults = False
    processes = False
    pickles = True
    checksums = False

    @pytest.fixture(autouse=True)
    def _memory(self, _new_bucket: None) -> None:
        self.second = MemoryClient(self.bucket)

    def make_store(self) -> ObjectStore:
        return MemoryStore(fsspec.filesystem("memory"), self.bucket)
