"""Access points: the bucket of a URL is the ARN, on the client, the filesystem and the command line."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import pytest

from gllm_storage import get_storage_client, storage_client_from_url
from gllm_storage.cli.places import Address, parse
from gllm_storage.s3.filesystem import S3FileSystem

ARNS = {
    "arn:aws:s3:eu-west-1:123456789012:accesspoint/point": "point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com",
    "arn:aws:s3:eu-west-1:123456789012:accesspoint:point": "point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com",
    "arn:aws:s3-outposts:eu-west-1:123456789012:outpost/op-01234567890123456/accesspoint/point": (
        "point-123456789012.op-01234567890123456.s3-outposts.eu-west-1.amazonaws.com"
    ),
    "arn:aws:s3-object-lambda:eu-west-1:123456789012:accesspoint/point": (
        "point-123456789012.s3-object-lambda.eu-west-1.amazonaws.com"
    ),
    "arn:aws-cn:s3:cn-north-1:123456789012:accesspoint/p": "p-123456789012.s3-accesspoint.cn-north-1.amazonaws.com.cn",
}
KEYS = {"region_name": "eu-west-1", "aws_access_key_id": "k", "aws_secret_access_key": "s"}


@pytest.mark.parametrize("arn", ARNS)
def test_round_trip(arn: str) -> None:
    """A client made from a URL has the ARN as its bucket, and takes its own URLs."""
    region = arn.split(":")[3]
    client = storage_client_from_url(f"s3://{arn}/team/a", {**KEYS, "region_name": region})

    assert client.config["bucket_name"] == arn
    url = client.url("v1/model.bin")
    assert url == f"s3://{arn}/team/a/v1/model.bin"
    assert client.url(url) == url
    assert client == get_storage_client("s3", {**KEYS, "region_name": region, "bucket_name": arn, "prefix": "team/a"})


@pytest.mark.parametrize("arn", ARNS)
def test_request(arn: str) -> None:
    """boto3 sends the request for such a URL to the access point, with the key as its path."""
    client = storage_client_from_url(f"s3://{arn}", {**KEYS, "region_name": arn.split(":")[3]})
    parts = urlsplit(client.presign("v1/model.bin"))

    assert (parts.netloc, unquote(parts.path)) == (ARNS[arn], "/v1/model.bin")


@pytest.mark.parametrize("arn", ARNS)
def test_command_line(arn: str) -> None:
    """The command line splits the URL likewise."""
    assert parse(f"s3://{arn}/v1/model.bin") == Address(f"s3://{arn}", "v1/model.bin")
    assert parse(f"s3://{arn}") == Address(f"s3://{arn}", "")


@pytest.mark.parametrize("arn", ARNS)
def test_filesystem(arn: str) -> None:
    """The filesystem splits the path likewise."""
    filesystem = S3FileSystem(key="k", secret="s", skip_instance_cache=True)
    assert filesystem._split(f"s3://{arn}/v1/model.bin") == (arn, "v1/model.bin")


@pytest.mark.parametrize("bucket", ["arn:aws:s3:eu-west-1:123456789012:accesspoint/point/key", "arn:aws:s3:::models"])
def test_not_a_bucket(bucket: str) -> None:
    """An ARN with a key, or of a bucket, is not a bucket name."""
    with pytest.raises(ValueError, match="bucket_name"):
        get_storage_client("s3", {"bucket_name": bucket})
