"""S3 settings: each key of the config arrives at boto3, at s3fs and at our own filesystem."""

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
    """How often a request is sent by the library's policy, and the settings of botocore's retries."""
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
def test_a_key_arrives_at_boto3(config: dict[str, str], look: Callable[[Any], Any], expected: object) -> None:
    assert look(boto_of(config)) == expected


def test_a_ca_bundle_arrives_at_boto3(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    client = boto_of({"ca_bundle": str(bundle), "endpoint_url": "https://127.0.0.1:9"})
    assert client._endpoint.http_session._verify == str(bundle)


def test_a_profile_arrives_at_boto3_and_at_s3fs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_key_arrives_in_the_requests_that_take_it(key: str) -> None:
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
def test_a_key_arrives_at_our_data_path(key: str, value: str, meant: object) -> None:
    client = S3StorageClient({**BUCKET, key: value})
    assert getattr(client.filesystem.connection.settings, key) == meant


def test_the_defaults_are_the_documented_ones() -> None:
    transfer = S3StorageClient(BUCKET).filesystem.connection.settings
    assert transfer.multipart_threshold == 16 * 2**20
    assert transfer.part_size == 8 * 2**20
    assert transfer.max_concurrency == 10
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
    "ca_bundle": __file__,  # any file will do
}


@pytest.mark.parametrize("config", [{}, {"anonymous": "true"}, {"profile_name": "p"}, {"sign_bodies": "never"}, EVERYTHING])
def test_the_verbs_reach_the_store_as_the_filesystem_of_the_same_options_does(config: dict[str, str]) -> None:
    client: Any = S3StorageClient({**BUCKET, **config})
    alone = S3FileSystem(**client.settings.filesystem_options(), skip_instance_cache=True)
    connection = client.store.connection
    assert connection.endpoint == alone.connection.endpoint
    assert connection._parameters == {**alone.s3_additional_kwargs, **alone.req_kw}
    assert connection.settings == alone.connection.settings


def test_the_verbs_and_the_filesystem_of_a_client_share_their_connections() -> None:
    client: Any = S3StorageClient({**BUCKET, **PAIR, "region_name": "us-east-1"})
    assert client.filesystem.bucket_store("models") is client.store
    assert client.filesystem.connection.client is client.store.connection.client


OF_FSSPEC = {
    "endpoint_url": "http://127.0.0.1:9",
    "key": "AKID",
    "secret": SECRET,
    "s3_additional_kwargs": {"ACL": "private"},
}


def test_what_fsspec_is_configured_with_counts_for_the_verbs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", OF_FSSPEC)
    client = S3StorageClient({**BUCKET, "region_name": "us-east-1", "max_attempts": "1"})
    with pytest.raises(StorageError) as caught:
        client.info("a")
    assert '"http://127.0.0.1:9"' in str(caught.value.__cause__)  # nobody listens there
    assert client.filesystem.endpoint_url == "http://127.0.0.1:9"
    assert client.filesystem.connection.client.meta.endpoint_url == "http://127.0.0.1:9"
    assert client.filesystem.connection.parameters("PutObject") == {"ACL": "private"}


@pytest.mark.parametrize("where", ["variable", "file"])
def test_what_fsspec_is_configured_with_counts_in_a_process_that_has_not_imported_it(where: str, tmp_path: Path) -> None:
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


def test_plain_s3fs_takes_the_storage_options() -> None:
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


def test_storage_options_of_a_bare_bucket_leave_credentials_to_the_chain() -> None:
    options = S3StorageClient(BUCKET).storage_options
    assert not {"key", "secret", "token", "anon", "profile", "endpoint_url"} & set(options)


def test_an_anonymous_client_is_anonymous_in_s3fs() -> None:
    assert s3fs.S3FileSystem(**S3StorageClient({**BUCKET, "anonymous": "true"}).storage_options).anon is True


@pytest.mark.parametrize("path", ["模型/a b+c%20d#e[f]*.bin", "a?x=1&versionId=2"])
def test_plain_s3fs_opens_what_the_client_wrote(path: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
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
def test_half_a_key_pair_is_refused(half: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="go together") as caught:
        S3StorageClient({**BUCKET, **half})
    assert SECRET not in str(caught.value)


def test_a_token_without_a_key_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="aws_session_token") as caught:
        S3StorageClient({**BUCKET, "aws_session_token": SECRET})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("more", [PAIR, {"profile_name": "p"}])
def test_anonymous_with_credentials_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="anonymous"):
        S3StorageClient({**BUCKET, "anonymous": "true", **more})


ENDPOINTS = ["http://127.0.0.1:9000", "https://minio.example.com", "https://minio.example.com/", "http://[::1]:9000"]
ENDPOINTS += ["https://host.example.com/path/to/s3", "http://localhost:80"]
NO_ENDPOINTS = ["", " ", "minio:9000", "//minio", "ftp://minio", "http://", "https://:9000", "http://h?x=1", "http://h#f"]
NO_ENDPOINTS += ["http://[::1", "http://h:99999", "http://h:port", "http://two words", "s3://bucket", "http:/h"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_an_endpoint_is_used_as_it_is(endpoint: str) -> None:
    assert boto_of({"endpoint_url": endpoint}).meta.endpoint_url == endpoint


@pytest.mark.parametrize("endpoint", NO_ENDPOINTS)
def test_what_is_no_endpoint_is_refused_when_the_client_is_made(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint_url"):
        S3StorageClient({**BUCKET, "endpoint_url": endpoint})


def test_a_password_in_the_endpoint_is_never_shown() -> None:
    try:
        shown = repr(S3StorageClient({**BUCKET, "endpoint_url": f"https://user:{SECRET}@minio.example.com"}))
    except ValueError as error:
        shown = str(error)
    assert SECRET not in shown


@pytest.mark.parametrize(
    "bucket", ["models", "my.models-2", "Old_Style", "ab", "arn:aws:s3:eu-west-1:123456789012:accesspoint/a"]
)
def test_a_bucket_name_is_taken(bucket: str) -> None:
    assert parse_config(S3Settings, "s3", {"bucket_name": bucket}).bucket_name == bucket


@pytest.mark.parametrize(
    "bucket", ["", "a", "a/b", "s3://models", "models/", " models", "-models", "a" * 256, "mod els", "..", "é"]
)
def test_what_is_no_bucket_name_is_refused(bucket: str) -> None:
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
def test_a_value_that_s3_cannot_take_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"{key}="):
        S3StorageClient({**BUCKET, key: value})


def test_a_typo_must_not_send_a_model_to_the_wrong_cloud() -> None:
    with pytest.raises(ValueError, match=r"'endpont_url' .did you mean 'endpoint_url'"):
        S3StorageClient({**BUCKET, "endpont_url": "http://minio:9000"})


def test_no_secret_is_in_any_text_about_the_client() -> None:
    client = S3StorageClient(EVERYTHING)
    for shown in (repr(client), str(client), repr(client.settings), repr(client.filesystem.connection.endpoint)):
        assert SECRET not in shown
    assert repr(client).startswith("S3StorageClient(bucket_name='models', prefix='team', ")
    with pytest.raises(ValueError, match="part_size") as caught:
        S3StorageClient({**EVERYTHING, "part_size": "x", "aws_session_token": ""})
    assert SECRET not in str(caught.value)


def test_a_filesystem_shows_no_secret() -> None:
    assert SECRET not in repr(S3StorageClient(EVERYTHING).filesystem)
