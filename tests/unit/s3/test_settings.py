"""S3 settings: each key of the config reaches boto3, s3fs and the filesystem of this library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import botocore
import fsspec
import pytest
import s3fs

from gllm_storage import S3StorageClient, StorageError
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.settings import S3Settings
from gllm_storage.settings import parse_config
from tests.conftest import make_rig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "hunter2-very-secret"
PAIR = {"aws_access_key_id": "AKID", "aws_secret_access_key": SECRET}
BUCKET = {"bucket_name": "models"}


def boto_of(config: dict[str, str]) -> Any:
    """The boto3 client that a config makes."""
    return S3StorageClient({**BUCKET, "region_name": "us-east-1", **config}).filesystem.connection.client


def credentials(client: Any) -> tuple[str, str, str | None]:
    found = client._request_signer._credentials
    return found.access_key, found.secret_key, found.token


def attempts(client: Any) -> tuple[int, Any]:
    """The number of attempts by the policy of the library, and the retry settings of botocore."""
    return client._policy.limit, client.meta.config.retries


BOTO3: dict[str, tuple[dict[str, str], Callable[[Any], Any], Any]] = {
    "endpoint_url": ({"endpoint_url": "http://127.0.0.1:9"}, lambda c: c.meta.endpoint_url, "http://127.0.0.1:9"),
    "region_name": ({"region_name": "eu-central-1"}, lambda c: c.meta.region_name, "eu-central-1"),
    "keys": (PAIR, credentials, ("AKID", SECRET, None)),
    "token": ({**PAIR, "aws_session_token": "T"}, credentials, ("AKID", SECRET, "T")),
    "anonymous": ({"anonymous": "true"}, lambda c: c.meta.config.signature_version, botocore.UNSIGNED),
    "addressing_style": ({"addressing_style": "path"}, lambda c: c.meta.config.s3["addressing_style"], "path"),
    "connect_timeout": ({"connect_timeout": "500ms"}, lambda c: c.meta.config.connect_timeout, 0.5),
    "read_timeout": ({"read_timeout": "2m"}, lambda c: c.meta.config.read_timeout, 120.0),
    "max_attempts": ({"max_attempts": "3"}, attempts, (3, {"mode": "standard", "total_max_attempts": 3})),
    "default timeouts": ({}, lambda c: (c.meta.config.connect_timeout, c.meta.config.read_timeout), (10.0, 60.0)),
    "default attempts": ({}, attempts, (5, {"mode": "standard", "total_max_attempts": 5})),
    "connections": (
        {"max_concurrency": "40"},
        lambda c: c.meta.config.max_pool_connections >= 40,
        True,
    ),
}


@pytest.mark.parametrize(("config", "look", "expected"), BOTO3.values(), ids=BOTO3)
def test_boto3_setting(config: dict[str, str], look: Callable[[Any], Any], expected: object) -> None:
    """A key of the config reaches the boto3 client."""
    assert look(boto_of(config)) == expected


def test_ca_bundle(tmp_path: Path) -> None:
    """A CA bundle reaches the boto3 client."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    client = boto_of({"ca_bundle": str(bundle), "endpoint_url": "https://127.0.0.1:9"})
    assert client._endpoint.http_session._verify == str(bundle)


def test_profile_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile reaches the boto3 client, and the options of s3fs."""
    file = tmp_path / "aws"
    file.write_text(
        "[profile training]\nregion = eu-west-3\naws_access_key_id = FROMPROFILE\naws_secret_access_key = s\n"
        "endpoint_url = http://127.0.0.1:9\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    client = S3StorageClient({**BUCKET, "profile_name": "training"})
    boto = client.filesystem.connection.client
    assert credentials(boto)[0] == "FROMPROFILE"
    assert boto.meta.region_name == "eu-west-3"
    assert boto.meta.endpoint_url == "http://127.0.0.1:9"
    assert client.storage_options["profile"] == "training"


REQUESTS = {
    "server_side_encryption": ("aws:kms", "ServerSideEncryption", "aws:kms", {"PutObject", "CreateMultipartUpload"}),
    "sse_kms_key_id": ("alias/k", "SSEKMSKeyId", "alias/k", {"PutObject", "CreateMultipartUpload"}),
    "storage_class": ("STANDARD_IA", "StorageClass", "STANDARD_IA", {"PutObject", "CreateMultipartUpload"}),
    "requester_pays": (
        "true",
        "RequestPayer",
        "requester",
        {"PutObject", "CreateMultipartUpload", "UploadPart", "GetObject", "HeadObject", "ListObjectsV2", "DeleteObject"},
    ),
    "expected_bucket_owner": (
        "123456789012",
        "ExpectedBucketOwner",
        "123456789012",
        {"PutObject", "CreateMultipartUpload", "UploadPart", "GetObject", "HeadObject", "ListObjectsV2", "HeadBucket"},
    ),
}
OPERATIONS = set[str]().union(*(operations for _, _, _, operations in REQUESTS.values()))


@pytest.mark.parametrize("key", REQUESTS)
def test_request_parameter(key: str) -> None:
    """A key of the config becomes a parameter of each request that accepts it."""
    value, parameter, sent, operations = REQUESTS[key]
    requests = S3StorageClient({**BUCKET, "region_name": "us-east-1", key: value}).filesystem.connection
    assert {each for each in OPERATIONS if requests.parameters(each).get(parameter) == sent} >= operations


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("multipart_threshold", "5GB", 5 * 10**9),
        ("multipart_threshold", "1", 1),
        ("part_size", "64MiB", 64 * 2**20),
        ("max_concurrency", "3", 3),
        ("max_attempts", "2", 2),
        ("conditional_writes", "Best-Effort", "best-effort"),
        ("conditional_writes", "enforced", "enforced"),
    ],
)
def test_transfer_setting(key: str, value: str, meant: object) -> None:
    """A key of the config reaches the transfer settings."""
    client = S3StorageClient({**BUCKET, key: value})
    assert getattr(client.filesystem.connection.settings, key) == meant


def test_transfer_defaults() -> None:
    """The defaults are the documented ones."""
    transfer = S3StorageClient(BUCKET).filesystem.connection.settings
    assert transfer.multipart_threshold == 16 * 2**20
    assert transfer.part_size == 8 * 2**20
    assert transfer.max_concurrency == 16
    assert transfer.max_attempts == 5
    assert transfer.conditional_writes == "auto"


EVERYTHING = {
    **BUCKET,
    **PAIR,
    "prefix": "team/",
    "endpoint_url": "http://127.0.0.1:9",
    "region_name": "eu-central-1",
    "aws_session_token": "T" + SECRET,
    "addressing_style": "path",
    "server_side_encryption": "AES256",
    "sse_kms_key_id": "k",
    "storage_class": "STANDARD_IA",
    "requester_pays": "true",
    "expected_bucket_owner": "123456789012",
    "multipart_threshold": "32MiB",
    "part_size": "16MiB",
    "max_concurrency": "4",
    "connect_timeout": "1s",
    "read_timeout": "2s",
    "max_attempts": "2",
    "conditional_writes": "enforced",
    "ca_bundle": __file__,  # any existing file
}


@pytest.mark.parametrize("config", [{}, {"anonymous": "true"}, {"profile_name": "p"}, {"sign_bodies": "never"}, EVERYTHING])
def test_verbs_and_filesystem(config: dict[str, str]) -> None:
    """The verbs have the same connection settings as a filesystem with the same options."""
    client: Any = S3StorageClient({**BUCKET, **config})
    alone = S3FileSystem(**client.settings.filesystem_options(), skip_instance_cache=True)
    connection = client.store.connection
    assert connection.endpoint == alone.connection.endpoint
    assert connection._parameters == {**alone.s3_additional_kwargs, **alone.req_kw}
    assert connection.settings == alone.connection.settings


def test_shared_connections() -> None:
    """The verbs and the filesystem of a client share their connections."""
    client: Any = S3StorageClient({**BUCKET, **PAIR, "region_name": "us-east-1"})
    assert client.filesystem.bucket_store("models") is client.store
    assert client.filesystem.connection.client is client.store.connection.client


OF_FSSPEC = {
    "endpoint_url": "http://127.0.0.1:9",
    "key": "AKID",
    "secret": SECRET,
    "s3_additional_kwargs": {"ACL": "private"},
}


def test_fsspec_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of fsspec also applies to the verbs."""
    monkeypatch.setitem(fsspec.config.conf, "s3", OF_FSSPEC)
    client = S3StorageClient({**BUCKET, "region_name": "us-east-1", "max_attempts": "1"})
    with pytest.raises(StorageError) as caught:
        client.info("a")
    assert '"http://127.0.0.1:9"' in str(caught.value.__cause__)  # a port without a server
    assert client.filesystem.endpoint_url == "http://127.0.0.1:9"
    assert client.filesystem.connection.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert client.filesystem.connection.parameters("PutObject") == {"ACL": "private"}


@pytest.mark.parametrize("where", ["variable", "file"])
def test_fsspec_config_before_import(where: str, tmp_path: Path) -> None:
    """The configuration of fsspec applies even if the process has not imported fsspec."""
    environ = {"FSSPEC_CONFIG_DIR": str(tmp_path)}
    if where == "variable":
        environ |= {"FSSPEC_S3_ENDPOINT_URL": "http://127.0.0.1:9", "FSSPEC_S3_KEY": "AKID", "FSSPEC_S3_SECRET": SECRET}
    else:
        (tmp_path / "conf.json").write_text(json.dumps({"s3": OF_FSSPEC}))
    program = """
from gllm_storage import S3StorageClient, StorageError
client = S3StorageClient({"bucket_name": "models", "region_name": "us-east-1", "max_attempts": "1"})
try:
    client.info("a")
except StorageError as error:
    print(error.__cause__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, **environ},
    )
    assert '"http://127.0.0.1:9"' in done.stdout


def test_storage_options_in_s3fs() -> None:
    """Plain s3fs accepts the storage options."""
    filesystem = s3fs.S3FileSystem(**S3StorageClient(EVERYTHING).storage_options, skip_instance_cache=True)
    assert (filesystem.key, filesystem.secret, filesystem.token) == ("AKID", SECRET, "T" + SECRET)
    assert filesystem.endpoint_url == "http://127.0.0.1:9"
    assert filesystem.client_kwargs == {"region_name": "eu-central-1", "verify": __file__}
    assert filesystem.config_kwargs["s3"] == {"addressing_style": "path"}
    assert filesystem.config_kwargs["connect_timeout"] == 1.0
    assert filesystem.config_kwargs["retries"] == {"mode": "standard", "total_max_attempts": 2}
    assert filesystem.s3_additional_kwargs == {
        "ServerSideEncryption": "AES256",
        "SSEKMSKeyId": "k",
        "StorageClass": "STANDARD_IA",
        "ExpectedBucketOwner": "123456789012",
    }
    assert filesystem.req_kw == {"RequestPayer": "requester"}
    assert filesystem.max_concurrency == 4


def test_storage_options_of_bucket() -> None:
    """The storage options of a bare bucket leave credentials to the default chain."""
    options = S3StorageClient(BUCKET).storage_options
    assert not {"key", "secret", "token", "anon", "profile", "endpoint_url"} & set(options)


def test_anonymous_in_s3fs() -> None:
    """The storage options of an anonymous client are anonymous in s3fs."""
    assert s3fs.S3FileSystem(**S3StorageClient({**BUCKET, "anonymous": "true"}).storage_options).anon is True


@pytest.mark.parametrize("path", ["模型/a b+c%20d#e[f]*.bin", "a?x=1&versionId=2"])
def test_upload_read_by_s3fs(path: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Plain s3fs opens an object that the client uploaded."""
    rig = make_rig("ministack", request)
    client = rig.client()
    local = tmp_path / "model.bin"
    local.write_bytes(b"weights")
    url = client.upload_file(local, path)
    options = {**client.storage_options, "skip_instance_cache": True}
    with fsspec.open(url, "rb", **options) as file:
        assert type(file.fs) is s3fs.S3FileSystem
        assert file.read() == b"weights"


@pytest.mark.parametrize("half", [{"aws_access_key_id": "AKID"}, {"aws_secret_access_key": SECRET}])
def test_half_key_pair(half: dict[str, str]) -> None:
    """Half a key pair is refused."""
    with pytest.raises(ValueError, match="go together") as caught:
        S3StorageClient({**BUCKET, **half})
    assert SECRET not in str(caught.value)


def test_token_without_key_pair() -> None:
    """A session token without a key pair is refused."""
    with pytest.raises(ValueError, match="aws_session_token") as caught:
        S3StorageClient({**BUCKET, "aws_session_token": SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("more", [PAIR, {"profile_name": "p"}])
def test_anonymous_and_credentials(more: dict[str, str]) -> None:
    """Credentials of an anonymous client are refused."""
    with pytest.raises(ValueError, match="anonymous"):
        S3StorageClient({**BUCKET, "anonymous": "true", **more})


ENDPOINTS = ["http://127.0.0.1:9000", "https://minio.example.com", "https://minio.example.com/", "http://[::1]:9000"]
ENDPOINTS += ["https://host.example.com/path/to/s3", "http://localhost:80"]
NO_ENDPOINTS = ["", " ", "minio:9000", "//minio", "ftp://minio", "http://", "https://:9000", "http://h?x=1", "http://h#f"]
NO_ENDPOINTS += ["http://[::1", "http://h:99999", "http://h:port", "http://two words", "s3://bucket", "http:/h"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_valid_endpoint(endpoint: str) -> None:
    """A valid endpoint is used unchanged."""
    assert boto_of({"endpoint_url": endpoint}).meta.endpoint_url == endpoint


@pytest.mark.parametrize("endpoint", NO_ENDPOINTS)
def test_invalid_endpoint(endpoint: str) -> None:
    """An invalid endpoint is refused when the client is created."""
    with pytest.raises(ValueError, match="endpoint_url"):
        S3StorageClient({**BUCKET, "endpoint_url": endpoint})


def test_password_in_endpoint() -> None:
    """A password in the endpoint is never shown."""
    try:
        shown = repr(S3StorageClient({**BUCKET, "endpoint_url": f"https://user:{SECRET}@minio.example.com"}))
    except ValueError as error:
        shown = str(error)
    assert SECRET not in shown


@pytest.mark.parametrize(
    "bucket", ["models", "my.models-2", "Old_Style", "ab", "arn:aws:s3:eu-west-1:123456789012:accesspoint/a"]
)
def test_valid_bucket_name(bucket: str) -> None:
    """A valid bucket name is accepted."""
    assert parse_config(S3Settings, "s3", {"bucket_name": bucket}).bucket_name == bucket


@pytest.mark.parametrize(
    "bucket", ["", "a", "a/b", "s3://models", "models/", " models", "-models", "a" * 256, "mod els", "..", "é"]
)
def test_invalid_bucket_name(bucket: str) -> None:
    """An invalid bucket name is refused."""
    with pytest.raises(ValueError, match="bucket_name"):
        S3StorageClient({"bucket_name": bucket})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("part_size", "1MiB"),
        ("part_size", "6GiB"),
        ("multipart_threshold", "6GiB"),
        ("multipart_threshold", "0"),
        ("addressing_style", "dns"),
        ("conditional_writes", "yes"),
        ("max_concurrency", "0"),
        ("connect_timeout", "0"),
        ("prefix", "a/../b"),
        ("region_name", ""),
        ("aws_access_key_id", " "),
    ],
)
def test_invalid_value(key: str, value: str) -> None:
    """An invalid value is refused, and the message names its key."""
    with pytest.raises(ValueError, match=f"{key}="):
        S3StorageClient({**BUCKET, key: value})


def test_misspelled_endpoint() -> None:
    """A misspelled endpoint_url is refused; otherwise a model would be sent to Amazon."""
    with pytest.raises(ValueError, match=r"'endpont_url' .did you mean 'endpoint_url'"):
        S3StorageClient({**BUCKET, "endpont_url": "http://minio:9000"})


def test_secrets_in_client_text() -> None:
    """The texts of a client do not contain a secret."""
    client = S3StorageClient(EVERYTHING)
    for shown in (repr(client), str(client), repr(client.settings), repr(client.filesystem.connection.endpoint)):
        assert SECRET not in shown
    assert repr(client).startswith("S3StorageClient(bucket_name='models', prefix='team', ")
    with pytest.raises(ValueError, match="part_size") as caught:
        S3StorageClient({**EVERYTHING, "part_size": "x", "aws_session_token": ""})
    assert SECRET not in str(caught.value)


def test_secrets_in_filesystem_text() -> None:
    """The text of a filesystem does not contain a secret."""
    assert SECRET not in repr(S3StorageClient(EVERYTHING).filesystem)
