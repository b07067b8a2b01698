"""The test stores of all providers: configuration, capabilities, and a second client independent of the library."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import boto3
import fsspec
import requests
from azure.storage.blob import BlobServiceClient
from botocore.config import Config
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from gllm_storage import get_storage_client
from tests.servers import AzureServer, GCSServer, S3Server
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.servers import Server

BUCKET = "models"
MIB = 2**20

SMALL_PARTS = {"part_size": "5MiB", "multipart_threshold": "5MiB"}
"""Configuration with which files of 6 MiB and more are multipart uploads."""


@dataclass(frozen=True)
class Traits:
    """The capabilities of a store, declared here so that no test must detect them or skip.

    Attributes:
        creates_small: Whether it supports exclusive create in one PutObject (or the provider's equivalent).
        creates_large: Whether it supports exclusive create at any size, in parts.
        any_key: Whether it accepts all keys that S3 accepts; others reject unusual segments, and ``x`` beside ``x/y``.
        has_buckets: Whether a bucket can be missing.
        has_uploads: Whether it has multipart uploads, which can be left open.
        in_process: Whether the store exists in this process only.
        ordered: Whether listings are in key order; others are in the order of a folder walk.
        backslashes: Whether a key may contain backslashes.
        exact_urls: Whether fsspec's own filesystem opens the URL of any key: gcsfs parses ``#1`` at the end as a generation,
            adlfs drops a ``?`` at the end and the text between a ``#`` and a ``?``.
    """

    creates_small: bool = True
    creates_large: bool = True
    any_key: bool = True
    has_buckets: bool = True
    has_uploads: bool = True
    in_process: bool = False
    exact_urls: bool = True
    backslashes: bool = True
    ordered: bool = True


TRAITS = {
    "memory": Traits(has_buckets=False, has_uploads=False, in_process=True),
    "file": Traits(any_key=False, has_buckets=False, has_uploads=False),
    "moto": Traits(in_process=True),
    "ministack": Traits(),
    "ministack-tls": Traits(),
    "ceph": Traits(creates_large=False),
    "ceph-tls": Traits(creates_large=False),
    "rclone": Traits(creates_small=False, creates_large=False, any_key=False),
    "rclone-tls": Traits(creates_small=False, creates_large=False, any_key=False),
    "reject": Traits(creates_small=False, creates_large=False),
    # A write creates a missing bucket, for an identity that may create buckets.
    "seaweedfs": Traits(creates_large=False, any_key=False, has_buckets=False, backslashes=False, ordered=False),
    "juicefs": Traits(creates_small=False, creates_large=False, any_key=False),
    "azurite": Traits(has_uploads=False, any_key=False, exact_urls=False, backslashes=False),
    "gcs-fake": Traits(exact_urls=False),
    # The precondition is enforced on uploads in one request only, and the suite's small files are such uploads.
    "fake-gcs-server": Traits(creates_large=False, exact_urls=False),
}


class SecondClient(Protocol):
    """A client that does not use this library."""

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""

    def get(self, key: str) -> bytes:
        """Read an object."""

    def delete(self, key: str) -> None:
        """Delete an object."""

    def all_keys(self, prefix: str = "") -> list[str]:
        """The keys with a prefix, sorted."""

    def open_uploads(self) -> list[str]:
        """Keys of the multipart uploads that are open."""


class Boto3Client:
    """Plain boto3."""

    def __init__(self, client: S3Client, bucket: str = BUCKET) -> None:
        self.client = client
        self.bucket = bucket

    def put(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=self.bucket, Key=key)

    def all_keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def open_uploads(self) -> list[str]:
        try:
            answer = self.client.list_multipart_uploads(Bucket=self.bucket)
        except self.client.exceptions.NoSuchUpload:  # rclone's answer until the bucket has had an upload
            return []
        return [each["Key"] for each in answer.get("Uploads", [])]


class GoogleClient:
    """Plain google-cloud-storage."""

    def __init__(self, server: GCSServer, bucket: str = BUCKET) -> None:
        self.server = server
        options = {"api_endpoint": server.endpoint_url}
        nobody: Any = AnonymousCredentials
        self.client = storage.Client(project="p", credentials=nobody(), client_options=options)
        self.bucket = self.client.bucket(bucket)

    def put(self, key: str, content: bytes) -> None:
        self.bucket.blob(key).upload_from_string(content)

    def get(self, key: str) -> bytes:
        content: bytes = self.bucket.blob(key).download_as_bytes(raw_download=True)
        return content

    def delete(self, key: str) -> None:
        self.bucket.blob(key).delete()

    def all_keys(self, prefix: str = "") -> list[str]:
        return sorted(each.name for each in self.client.list_blobs(self.bucket, prefix=prefix or None))

    def open_uploads(self) -> list[str]:
        if self.server.name != "gcs-fake":
            return []  # the API has no listing of sessions
        found = requests.get(f"{self.server.endpoint_url}/_fake/sessions", timeout=PATIENCE).json()
        start = f"{self.bucket.name}/"
        return [each.removeprefix(start) for each in found if each.startswith(start)]


class MicrosoftClient:
    """Plain azure-storage-blob."""

    def __init__(self, server: AzureServer, container: str = BUCKET) -> None:
        self.service = BlobServiceClient(server.endpoint_url, credential=server.account_key, retry_total=0)
        self.container = self.service.get_container_client(container)

    def put(self, key: str, content: bytes) -> None:
        self.container.upload_blob(key, content, overwrite=True)

    def get(self, key: str) -> bytes:
        content: bytes = self.container.download_blob(key).readall()
        return content

    def delete(self, key: str) -> None:
        self.container.delete_blob(key)

    def all_keys(self, prefix: str = "") -> list[str]:
        return sorted(each.name for each in self.container.list_blobs(name_starts_with=prefix or None))

    def open_uploads(self) -> list[str]:
        return []


class FolderClient:
    """Plain pathlib."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, key: str, content: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def get(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def delete(self, key: str) -> None:
        (self.folder / key).unlink()

    def all_keys(self, prefix: str = "") -> list[str]:
        keys = (str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())
        return sorted(key for key in keys if key.startswith(prefix))

    def open_uploads(self) -> list[str]:
        return []


class MemoryClient:
    """Plain fsspec."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.filesystem = fsspec.filesystem("memory")

    def put(self, key: str, content: bytes) -> None:
        self.filesystem.pipe_file(f"/{self.bucket}/{key}", content)

    def get(self, key: str) -> bytes:
        content: bytes = self.filesystem.cat_file(f"/{self.bucket}/{key}")
        return content

    def delete(self, key: str) -> None:
        self.filesystem.rm_file(f"/{self.bucket}/{key}")

    def all_keys(self, prefix: str = "") -> list[str]:
        start = f"/{self.bucket}/"
        keys = (path.removeprefix(start) for path in self.filesystem.find(start))
        return sorted(key for key in keys if key.startswith(prefix))

    def open_uploads(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Rig:
    """A store for tests.

    Attributes:
        name: Name of the store, such as ``"ceph"``.
        provider: Name of the provider, such as ``"s3"``.
        config: Configuration of a client, without prefix.
        traits: The capabilities of the store.
        second: A client that does not use this library.
        prefix: The prefix of the current test.
        scheme: URL scheme of the store.
        base: The part of the store's URLs before the key.
        server: The server of the store, or None for a store in memory or in a folder.
    """

    name: str
    provider: str
    config: dict[str, str]
    traits: Traits
    second: SecondClient
    prefix: str
    scheme: str
    base: str
    server: Server | None = None

    def client(self, **config: str) -> FsspecStorageClient:
        """A client of the library, with this test's prefix."""
        made: Any = get_storage_client(self.provider, {**self.config, "prefix": self.prefix, **config})
        client: FsspecStorageClient = made
        return client

    def client_of(self, bucket: str, **config: str) -> FsspecStorageClient:
        """A client of the library for another bucket."""
        return self.client(**config, **{"container_name" if self.provider == "azure" else "bucket_name": bucket})

    def settings(self, **config: str) -> dict[str, str]:
        """The configuration of `client`, for other processes."""
        return {**self.config, "prefix": self.prefix, **config}

    def key(self, remote_path: str) -> str:
        """The key of a remote path of `client`."""
        return f"{self.prefix}/{remote_path}"

    @property
    def boto3(self) -> Boto3Client:
        """The second client of an S3 server."""
        assert isinstance(self.second, Boto3Client)
        return self.second

    @property
    def google(self) -> GoogleClient:
        """The second client of a GCS server."""
        assert isinstance(self.second, GoogleClient)
        return self.second

    @property
    def microsoft(self) -> MicrosoftClient:
        """The second client of an Azure server."""
        assert isinstance(self.second, MicrosoftClient)
        return self.second

    def keys(self) -> list[str]:
        """The second client's listing below this test's prefix, as remote paths."""
        start = f"{self.prefix}/"
        # Only this test's: the keys of all tests before would fill several pages.
        return [key.removeprefix(start) for key in self.second.all_keys(start)]

    def files(self) -> list[str]:
        """The same without folder markers: JuiceFS lists emptied folders."""
        return [path for path in self.keys() if not path.endswith("/")]

    def open_uploads(self) -> list[str]:
        """The open multipart uploads below this test's prefix."""
        return [key for key in self.second.open_uploads() if key.startswith(self.prefix)]


def new_prefix() -> str:
    """A prefix that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}"


def s3_config(server: S3Server, bucket: str = BUCKET) -> dict[str, str]:
    """The client configuration for a server."""
    config = {
        "bucket_name": bucket,
        "endpoint_url": server.endpoint_url,
        "region_name": "us-east-1",
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
    }
    return {**config, "ca_bundle": server.ca_bundle} if server.ca_bundle else config


@cache
def plain_boto3(server: S3Server, endpoint_url: str | None = None) -> S3Client:
    """A plain boto3 client for a server; one for all tests, because to make one takes 0.1 s."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=endpoint_url or server.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        verify=server.ca_bundle,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def gcs_config(server: GCSServer, bucket: str = BUCKET) -> dict[str, str]:
    """The client configuration for a server."""
    return {"bucket_name": bucket, "endpoint_url": server.endpoint_url, "token": "anon"}


def azure_config(server: AzureServer, container: str = BUCKET) -> dict[str, str]:
    """The client configuration for a server."""
    account = {"account_name": server.account_name, "account_key": server.account_key}
    return {"container_name": container, "endpoint_url": server.endpoint_url, **account}


def make_bucket(server: Server) -> None:
    """Create the tests' bucket on a server."""
    if isinstance(server, S3Server):
        plain_boto3(server).create_bucket(Bucket=BUCKET)
    elif isinstance(server, GCSServer):
        GoogleClient(server).client.create_bucket(BUCKET)
    else:
        MicrosoftClient(server).service.create_container(BUCKET)


def server_rig(name: str, server: Server, endpoint_url: str | None = None) -> Rig:
    """The rig of a server; the library's clients use `endpoint_url`, such as a proxy's, and the second client does not."""
    provider, scheme, config, second = _parts_of(server)
    return Rig(
        name=name,
        provider=provider,
        config=config | ({"endpoint_url": endpoint_url} if endpoint_url else {}),
        traits=TRAITS[name],
        second=second,
        prefix=new_prefix(),
        scheme=scheme,
        base=f"{BUCKET}/",
        server=server,
    )


def _parts_of(server: Server) -> tuple[str, str, dict[str, str], SecondClient]:
    if isinstance(server, S3Server):
        return "s3", "s3", s3_config(server), Boto3Client(plain_boto3(server))
    if isinstance(server, GCSServer):
        return "gcs", "gs", gcs_config(server), _google(server)
    return "azure", "az", azure_config(server), _microsoft(server)


_google, _microsoft = cache(GoogleClient), cache(MicrosoftClient)
