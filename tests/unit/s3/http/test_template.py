"""Address and signing scope of requests equal those of boto3, or the request is left to boto3."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import BotoCoreError, NoCredentialsError, ParamValidationError

from gllm_storage.s3.http.client import refusal_of
from gllm_storage.s3.http.signing import Scope
from gllm_storage.s3.http.template import NotDirectError, template_of
from tests.unit.s3.http.scripted import boto_request, made_client

POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/point"


@pytest.mark.parametrize(
    ("bucket", "url", "options", "expected"),
    [
        ("b1x", None, {}, "https s3.amazonaws.com 443 /b1x/ us-east-1"),
        ("b1x", None, {"config": {"s3": {}}}, "https b1x.s3.amazonaws.com 443 / us-east-1"),
        ("b.x.y", None, {"config": {"s3": {}}}, "https s3.amazonaws.com 443 /b.x.y/ us-east-1"),
        (
            "b1x",
            None,
            {"region_name": "eu-central-1", "config": {"s3": {"addressing_style": "virtual"}}},
            "https b1x.s3.eu-central-1.amazonaws.com 443 / eu-central-1",
        ),
        (
            "b1x",
            None,
            {"config": {"s3": {"use_accelerate_endpoint": True}}},
            "https b1x.s3-accelerate.amazonaws.com 443 / us-east-1",
        ),
        (
            "b1x",
            None,
            {"config": {"s3": {"use_dualstack_endpoint": True, "addressing_style": "path"}}},
            "https s3.dualstack.us-east-1.amazonaws.com 443 /b1x/ us-east-1",
        ),
        (
            POINT,
            None,
            {"region_name": "eu-west-1", "config": {"s3": {}}},
            "https point-123456789012.s3-accesspoint.eu-west-1.amazonaws.com 443 / eu-west-1",
        ),
        ("b1x", "http://127.0.0.1:9000", {}, "http 127.0.0.1 9000 /b1x/ us-east-1"),
        ("b1x", "http://localhost", {}, "http localhost 80 /b1x/ us-east-1"),
        ("b1x", "https://store.example/base/", {}, "https store.example 443 /base/b1x/ us-east-1"),
        ("b1x", "http://[::1]:9000", {}, "http ::1 9000 /b1x/ us-east-1"),
        ("b1x", "https://[::1]", {}, "https ::1 443 /b1x/ us-east-1"),
        (
            "b1x",
            "http://store.example:81",
            {"config": {"s3": {"addressing_style": "virtual"}}},
            "http b1x.store.example 81 / us-east-1",
        ),
        ("b1x", "http://127.0.0.1:9000", {"anonymous": True}, "http 127.0.0.1 9000 /b1x/ None"),
    ],
)
def test_bucket_address(bucket: str, url: str | None, options: dict[str, Any], expected: str) -> None:
    """A bucket has the same host, path and signing scope as with boto3."""
    client = made_client(url, **options)
    template = template_of(client.boto, bucket)
    scheme, host, port, path, region = expected.split(" ")
    assert (template.scheme, template.host, template.port, template.path) == (scheme, host, int(port), path)
    assert template.scope == (None if region == "None" else Scope(region, "s3"))
    request = boto_request(client, "head_object", Bucket=bucket, Key="k")
    assert request.url == f"{template.endpoint_url}{template.path}k"
    assert template.host_header == urlsplit(request.url).netloc.removesuffix(f":{ {'http': 80, 'https': 443}[scheme] }")


@pytest.mark.parametrize(
    ("bucket", "options"),
    [
        ("b1x--use1-az4--x-s3", {"config": {"s3": {}}}),
        ("b1x", {"config": {"signature_version": "s3"}}),
        ("b1x", {"aws_access_key_id": "AKID\n"}),
        ("b1x", {"aws_session_token": "token\r\nx-amz-acl: public-read"}),
        ("b1x", {"aws_session_token": "tök"}),
        ("arn:aws:s3-outposts:us-east-1:123456789012:outpost/op-01234567890123456/accesspoint/p", {"config": {"s3": {}}}),
        ("arn:aws:s3-object-lambda:us-east-1:123456789012:accesspoint/p", {"config": {"s3": {}}}),
        ("arn:aws:s3::123456789012:accesspoint/mfzwi23gnjvgw.mrap", {"config": {"s3": {}}}),
    ],
    ids=["directory", "s3-signature", "access-key", "token", "odd-token", "outpost", "lambda", "multi-region"],
)
def test_special_buckets(bucket: str, options: dict[str, Any]) -> None:
    """Special buckets and unusual signatures are left to boto3."""
    client = made_client(None, **options)
    try:
        template_of(client.boto, bucket)
    except (NotDirectError, BotoCoreError):  # sessions of a directory bucket need the network
        return
    raise AssertionError("it would go directly")


@pytest.mark.parametrize(
    ("options", "environment", "why"),
    [
        ({"config": {"proxies": {"http": "http://127.0.0.1:1"}}}, {}, "proxy"),
        ({}, {"HTTP_PROXY": "http://127.0.0.1:1"}, "proxy"),
        ({}, {"http_proxy": "http://127.0.0.1:1", "NO_PROXY": "other.example"}, "proxy"),
        ({}, {"HTTPS_PROXY": "http://127.0.0.1:1"}, None),
        ({}, {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": "store.example"}, None),
        ({}, {"HTTP_PROXY": "http://127.0.0.1:1", "NO_PROXY": ".example"}, None),
        ({"config": {"client_cert": "client.pem"}}, {}, "certificate"),
        ({"config": {"s3": {"payload_signing_enabled": True}}}, {}, "payload_signing_enabled"),
        ({}, {}, None),
    ],
)
def test_special_settings(
    options: dict[str, Any], environment: dict[str, str], why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a setting needs boto3, boto3 sends all requests of the client."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = made_client("http://store.example", **options)
    if why is None:
        assert client.refusal is None
    else:
        assert client.refusal is not None
        assert why in client.refusal


def test_missing_credentials() -> None:
    """A client without credentials raises the same exception as boto3."""
    client = made_client("http://127.0.0.1:9", aws_access_key_id=None, aws_secret_access_key=None)
    for each in (client, client.boto):
        with pytest.raises(NoCredentialsError):
            each.head_object(Bucket="b", Key="k")
    assert client.refusal is None


def test_invalid_bucket_name() -> None:
    """An invalid bucket name raises the same exception as with boto3."""
    client = made_client("http://127.0.0.1:9")
    with pytest.raises(ParamValidationError):
        client.head_object(Bucket="no/bucket", Key="k")


def test_other_buckets(caplog: pytest.LogCaptureFixture) -> None:
    """A bucket that needs boto3 does not affect other buckets, and is logged once."""
    client = made_client(None, config={"signature_version": "s3v4", "s3": {}})
    object_lambda = "arn:aws:s3-object-lambda:us-east-1:123456789012:accesspoint/p"
    for _ in range(3):
        assert client._prepared("head_object", {"Bucket": object_lambda, "Key": "k"}) is None
    assert client.refusal is None
    assert client._prepared("head_object", {"Bucket": "b1x", "Key": "k"}) is not None
    assert len(caplog.records) == 1


@pytest.mark.parametrize("missing", ["_endpoint", "http_session", "_proxy_config", "_cert_file"])
def test_changed_botocore(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If internals of botocore are missing, the direct client refuses to work."""
    client = made_client("http://127.0.0.1:9", engine="boto3")
    owner: Any = client
    if missing != "_endpoint":
        owner = owner._endpoint
    if missing.startswith(("_proxy", "_cert")):
        owner = owner.http_session
    monkeypatch.delattr(owner, missing)
    assert refusal_of(client) is not None  # type: ignore[arg-type]  # a stand-in
