"""Requests are those that boto3 sends, and answers are read as boto3 reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm_storage.s3.http.client import DirectClient, _head
from gllm_storage.s3.http.operations import operations_of
from tests.unit.s3.http.scripted import ScriptedServer, boto_request, made_client

BOTO3_ONLY = {"expect", "amz-sdk-invocation-id", "amz-sdk-request", "user-agent", "authorization", "x-amz-date"}
"""Headers of boto3's that we do not send, or that are of the moment."""
OURS_ONLY = {"accept-encoding", "host", "authorization", "x-amz-date", "user-agent"}
"""Headers that boto3's HTTP library adds after boto3 has done, or that are of the moment."""


@pytest.fixture(scope="module")
def client() -> DirectClient:
    return made_client("http://127.0.0.1:9", sign_bodies="always")


def ours(client: DirectClient, method: str, parameters: dict[str, Any]) -> tuple[str, str, dict[str, str]] | None:
    """Method, target and headers that we send."""
    prepared = client._prepared(method, parameters)
    if prepared is None:
        return None
    place, _, request = prepared
    first, *lines = _head(place, request).decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    sent, target, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert headers["host"] == "127.0.0.1:9"
    # Spaces around a value are none of it, in HTTP; boto3 leaves them out.
    return sent, target, {name: value.strip() for name, value in headers.items() if name not in OURS_ONLY}


def theirs(client: DirectClient, method: str, parameters: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers that boto3 sends."""
    request = boto_request(client, method, **parameters)
    url = urlsplit(request.url)
    headers = {
        name.lower(): value.decode("latin-1") if isinstance(value, bytes) else value
        for name, value in request.headers.items()
        if name.lower() not in BOTO3_ONLY
    }
    assert headers.pop("host", url.netloc) == url.netloc
    return request.method, url.path + (f"?{url.query}" if url.query else ""), headers


def assert_same(client: DirectClient, method: str, parameters: dict[str, Any]) -> None:
    mine, boto = ours(client, method, parameters), theirs(client, method, parameters)
    assert mine is not None
    assert mine[:1] + mine[2:] == boto[:1] + boto[2:]
    path, _, query = mine[1].partition("?")
    boto_path, _, boto_query = boto[1].partition("?")
    assert path == boto_path
    assert sorted(query.split("&")) == sorted(boto_query.split("&"))


PLACE = {"Bucket": "bucket", "Key": "a/b c+d%20é~!'()*//.././k"}


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("head_object", {}),
        ("head_object", {"ChecksumMode": "ENABLED", "VersionId": "a+b/c=", "RequestPayer": "requester"}),
        ("get_object", {"Range": "bytes=0-9", "IfMatch": '"etag"'}),
        (
            "get_object",
            {"PartNumber": 3, "ResponseContentType": "text/plain; charset=utf-8", "ExpectedBucketOwner": "1" * 12},
        ),
        ("put_object", {"Body": b""}),
        ("put_object", {"Body": b"content"}),
        (
            "put_object",
            {"Body": bytearray(b"content"), "ContentType": "text/plain", "CacheControl": "a  b", "IfNoneMatch": "*"},
        ),
        ("put_object", {"Body": b"x", "Metadata": {"a": "", "B-b": "x   y", "c_d": "z", "e": " f "}, "ACL": "private"}),
        ("put_object", {"Body": b"x", "ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k", "BucketKeyEnabled": True}),
        (
            "put_object",
            {"Body": b"x", "StorageClass": "STANDARD_IA", "Tagging": "a=b&c=d", "ChecksumCRC64NVME": "AAAAAAAAAAA="},
        ),
        ("put_object", {"Body": b"x", "ContentEncoding": "gzip", "ContentLanguage": "de", "ContentDisposition": "inline"}),
        ("upload_part", {"Body": b"x", "UploadId": "a+b/c=d e", "PartNumber": 10000, "ChecksumCRC64NVME": "AAAAAAAAAAA="}),
        ("delete_object", {"VersionId": "v", "BypassGovernanceRetention": True}),
    ],
)
def test_a_request_is_the_one_that_boto3_sends(client: DirectClient, method: str, parameters: dict[str, Any]) -> None:
    assert_same(client, method, {**PLACE, **parameters})


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(key=KEYS)
def test_any_key_has_the_path_that_boto3_gives_it(key: str) -> None:
    assert_same(_shared(), "head_object", {"Bucket": "bucket", "Key": key})


@settings(max_examples=40, deadline=None)
@given(
    metadata=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_\-.]{1,10}", fullmatch=True),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
        max_size=4,
    )
)
def test_any_metadata_are_those_that_boto3_sends_or_go_through_boto3(metadata: dict[str, str]) -> None:
    parameters = {"Bucket": "bucket", "Key": "k", "Body": b"x", "Metadata": metadata}
    if ours(_shared(), "put_object", parameters) is None:
        assert len({name.lower() for name in metadata}) < len(metadata)
    else:
        assert_same(_shared(), "put_object", parameters)


_clients: list[DirectClient] = []


def _shared() -> DirectClient:
    if not _clients:
        _clients.append(made_client("http://127.0.0.1:9", sign_bodies="always"))
    return _clients[0]


def test_a_very_long_key_has_the_path_that_boto3_gives_it(client: DirectClient) -> None:
    assert_same(client, "get_object", {"Bucket": "bucket", "Key": "é/" * 300 + "k" * 400})


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("put_object", {"Metadata": {"a": "x\r\nx-amz-acl: public-read"}}),
        ("put_object", {"Metadata": {"a\r\nx-amz-acl: public-read\r\nx": "y"}}),
        ("put_object", {"Metadata": {"a: b": "y"}}),
        ("put_object", {"Metadata": {"a b": "y"}}),
        ("put_object", {"Metadata": {"": "y", "é": "y"}}),
        ("put_object", {"Metadata": {"a": "é"}}),
        ("put_object", {"Metadata": {"a": "\x00"}}),
        ("put_object", {"Metadata": {"a": "x", "A": "y"}}),
        ("put_object", {"Metadata": {"a": 1}}),
        ("put_object", {"Metadata": None}),
        ("put_object", {"ContentType": "text/plain\r\nx: y"}),
        ("put_object", {"CacheControl": "\tx"}),
        ("put_object", {"ChecksumAlgorithm": "SHA256"}),
        ("put_object", {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}),
        ("put_object", {"Expires": datetime(2030, 1, 1, tzinfo=UTC)}),
        ("put_object", {"Body": "text"}),
        ("put_object", {"Body": iter([b"x"])}),
        ("put_object", {"Body": None}),
        ("get_object", {"IfModifiedSince": datetime(2030, 1, 1, tzinfo=UTC)}),
        ("get_object", {"Range": None}),
        ("get_object", {"Unknown": "x"}),
        ("get_object", {"Key": ""}),
        ("get_object", {"Key": None}),
        ("get_object", {"Bucket": None}),
        ("get_object", {"Bucket": "arn:aws:s3:us-east-1:123456789012:accesspoint/x", "Key": 3}),
    ],
    ids=lambda each: re.sub(r" at 0x[0-9a-f]+", "", str(each)),  # xdist wants the same names in each process
)
def test_what_is_unusual_is_left_to_boto3(client: DirectClient, method: str, parameters: dict[str, Any]) -> None:
    body = {"Body": b"x"} if method == "put_object" else {}
    assert ours(client, method, {**PLACE, **body, **parameters}) is None


ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "abc-2"\r\nLast-Modified: Wed, 12 Oct 2022 17:50:00 GMT\r\n'
    b"x-amz-meta-one: 1  2\r\nx-amz-meta-two:\r\nx-amz-checksum-crc64nvme: AAAA=\r\nx-amz-checksum-type: FULL_OBJECT\r\n"
    b"x-amz-version-id: v\r\nx-amz-delete-marker: false\r\nx-amz-missing-meta: 3\r\nContent-Range: bytes 0-4/9\r\n"
    b"x-amz-server-side-encryption-bucket-key-enabled: TRUE\r\nx-amz-request-id: R\r\nx-amz-id-2: H\r\n%s"
    b"Content-Encoding: gzip\r\nx-amz-storage-class: GLACIER\r\nx-unknown: y\r\n\r\nhello"
)
EXPIRES = [b"", b"Expires: Thu, 01 Dec 1994 16:00:00 GMT\r\n", b"Expires: 0\r\n", b"Expires: never\r\n"]


def without_moment(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without what differs from call to call."""
    found = dict(answer)
    metadata = dict(found.pop("ResponseMetadata"))
    headers = {name: value for name, value in dict(metadata.pop("HTTPHeaders")).items() if name != "expires"}
    body = found.pop("Body", None)
    return {**found, "metadata": metadata, "headers": headers, "body": body and body.read()}


@pytest.mark.parametrize("expires", EXPIRES, ids=["none", "date", "zero", "never"])
def test_an_answer_is_read_as_boto3_reads_it(expires: bytes) -> None:
    with ScriptedServer(ANSWER % expires) as server:
        client = server.client()
        place: dict[str, Any] = {"Bucket": "b", "Key": "k"}
        assert without_moment(client.get_object(**place)) == without_moment(dict(client.boto.get_object(**place)))
        assert client.refusal is None


def test_the_body_of_an_answer_is_not_decoded() -> None:
    with ScriptedServer(
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Encoding: gzip\r\nETag: e\r\n\r\n\x1f\x8b\x00\xff"
    ) as server:
        assert server.client().get_object(Bucket="b", Key="k")["Body"].read() == b"\x1f\x8b\x00\xff"


XML = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>why</Message><RequestId>R</RequestId><Extra>x</Extra></Error>"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, XML % b"AccessDenied"),
        (404, XML % b"NoSuchKey"),
        (404, b""),
        (412, XML % b"PreconditionFailed"),
        (400, b"<html>oops"),
        (400, b"not xml"),
        (502, b"<html><body>Bad Gateway</body></html>"),
        (503, XML % b"SlowDown"),
        (301, XML % b"PermanentRedirect"),
        (307, b""),
        (304, b""),
        (416, XML % b"InvalidRange"),
        (501, XML % b"NotImplemented"),
    ],
)
@pytest.mark.parametrize("method", ["get_object", "delete_object"])
def test_a_refusal_is_read_as_boto3_reads_it(method: str, status: int, body: bytes) -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nx-amz-request-id: Q\r\nx-amz-id-2: H\r\n\r\n".encode()
    parameters: dict[str, Any] = {"Bucket": "b", "Key": "k"}
    with ScriptedServer(head + body) as server:
        client = server.client(attempts=1)
        raised = []
        for each in (client, client.boto):
            with pytest.raises(ClientError) as caught:
                getattr(each, method)(**parameters)
            raised.append(caught.value)
    mine, boto = raised
    assert str(mine) == str(boto).replace(" (reached max retries: 0)", "")
    assert mine.response["Error"] == boto.response["Error"]
    ignored = {"HTTPHeaders": None, "MaxAttemptsReached": None}
    assert {**mine.response["ResponseMetadata"], **ignored} == {**boto.response["ResponseMetadata"], **ignored}
    assert client.refusal is None


def test_an_error_under_status_200_is_an_error() -> None:
    late = XML % b"InternalError"
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "e"\r\n\r\n%s' % (len(late), late)
    with ScriptedServer(answer) as server:
        client = server.client(attempts=2)
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket="b", Key="k", Body=b"x")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert caught.value.response["Error"]["Code"] == "InternalError"
        assert len(server.requests) == 2


def test_there_are_five_operations(client: DirectClient) -> None:
    assert {method: each.method for method, each in operations_of(client.boto).items()} == {
        "head_object": "HEAD",
        "get_object": "GET",
        "put_object": "PUT",
        "upload_part": "PUT",
        "delete_object": "DELETE",
    }
