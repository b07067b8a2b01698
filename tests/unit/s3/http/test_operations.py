"""Requests equal those of boto3, and answers are read as boto3 reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm_storage.s3.errors import UnreadableAnswerError
from gllm_storage.s3.http.client import DirectClient, _head
from tests.unit.s3.http.scripted import ScriptedServer, boto_request, made_client

BOTO3_ONLY = {"expect", "amz-sdk-invocation-id", "amz-sdk-request", "user-agent", "authorization", "x-amz-date"} | {
    "content-md5"  # `add_digest` adds it to a body without a digest; the direct client's callers add a CRC
}
"""Headers that only boto3 sends, or that depend on the time."""
DIRECT_ONLY = {"accept-encoding", "host", "authorization", "x-amz-date", "user-agent"}
"""Headers that boto3's HTTP library adds after boto3 has built the request, or that depend on the time."""


@pytest.fixture(scope="module")
def client() -> DirectClient:
    return made_client("http://127.0.0.1:9", sign_bodies="always")


def direct_request(client: DirectClient, method: str, parameters: dict[str, Any]) -> tuple[str, str, dict[str, str]] | None:
    """Method, target and headers of a direct request; None if the request is left to boto3."""
    prepared = client._prepared(method, parameters)
    if prepared is None:
        return None
    place, _, request = prepared
    first, *lines = _head(place, request).decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    sent, target, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    assert len(headers) == len(lines)
    assert headers["host"] == "127.0.0.1:9"
    # In HTTP, spaces around a value are not a part of it; boto3 leaves them out.
    return sent, target, {name: value.strip() for name, value in headers.items() if name not in DIRECT_ONLY}


def boto3_request(client: DirectClient, method: str, parameters: dict[str, Any]) -> tuple[str, str, dict[str, str]]:
    """Method, target and headers of boto3's request."""
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
    mine, boto = direct_request(client, method, parameters), boto3_request(client, method, parameters)
    assert mine is not None
    assert mine[:1] + mine[2:] == boto[:1] + boto[2:]
    path, _, query = mine[1].partition("?")
    boto_path, _, boto_query = boto[1].partition("?")
    assert path == boto_path
    assert sorted(query.split("&")) == sorted(boto_query.split("&"))


PARTS = [
    {"PartNumber": 1, "ETag": '"a&b<c>"', "ChecksumCRC64NVME": "AAAAAAAAAAA="},
    {"ETag": "unquoted", "PartNumber": 2},
]
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
        ("create_multipart_upload", {}),
        (
            "create_multipart_upload",
            {
                "ChecksumAlgorithm": "CRC64NVME",
                "ChecksumType": "FULL_OBJECT",
                "Metadata": {"a": "b"},
                "StorageClass": "STANDARD_IA",
            },
        ),
        ("complete_multipart_upload", {"UploadId": "a+b/c=d e", "MultipartUpload": {"Parts": PARTS}, "IfNoneMatch": "*"}),
        (
            "complete_multipart_upload",
            {
                "UploadId": "u",
                "MultipartUpload": {"Parts": PARTS},
                "ChecksumCRC64NVME": "AAAAAAAAAAA=",
                "ChecksumType": "FULL_OBJECT",
                "MpuObjectSize": 2**40,
            },
        ),
        ("abort_multipart_upload", {"UploadId": "a+b/c=d e"}),
    ],
)
def test_request_parameters(client: DirectClient, method: str, parameters: dict[str, Any]) -> None:
    """A request equals the one that boto3 sends."""
    assert_same(client, method, {**PLACE, **parameters})


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=80, deadline=None)
@given(key=KEYS)
def test_path_of_any_key(key: str) -> None:
    """Any key has the same path as with boto3."""
    assert_same(_shared(), "head_object", {"Bucket": "bucket", "Key": key})


@settings(max_examples=40, deadline=None)
@given(
    metadata=st.dictionaries(
        st.from_regex(r"[A-Za-z0-9_\-.]{1,10}", fullmatch=True),
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20),
        max_size=4,
    )
)
def test_any_metadata(metadata: dict[str, str]) -> None:
    """Any metadata are sent as boto3 sends them, or the request is left to boto3."""
    parameters = {"Bucket": "bucket", "Key": "k", "Body": b"x", "Metadata": metadata}
    if direct_request(_shared(), "put_object", parameters) is None:
        assert len({name.lower() for name in metadata}) < len(metadata)
    else:
        assert_same(_shared(), "put_object", parameters)


_clients: list[DirectClient] = []


def _shared() -> DirectClient:
    if not _clients:
        _clients.append(made_client("http://127.0.0.1:9", sign_bodies="always"))
    return _clients[0]


def test_path_of_long_key(client: DirectClient) -> None:
    """A very long key has the same path as with boto3."""
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
    ids=lambda each: re.sub(r" at 0x[0-9a-f]+", "", str(each)),  # xdist needs the same ids in each process
)
def test_unusual_parameters(client: DirectClient, method: str, parameters: dict[str, Any]) -> None:
    """A request with unusual parameters is left to boto3."""
    body = {"Body": b"x"} if method == "put_object" else {}
    assert direct_request(client, method, {**PLACE, **body, **parameters}) is None


ANSWER = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: "abc-2"\r\nLast-Modified: Wed, 12 Oct 2022 17:50:00 GMT\r\n'
    b"x-amz-meta-one: 1  2\r\nx-amz-meta-two:\r\nx-amz-checksum-crc64nvme: AAAA=\r\nx-amz-checksum-type: FULL_OBJECT\r\n"
    b"x-amz-version-id: v\r\nx-amz-delete-marker: false\r\nx-amz-missing-meta: 3\r\nContent-Range: bytes 0-4/9\r\n"
    b"x-amz-server-side-encryption-bucket-key-enabled: TRUE\r\nx-amz-request-id: R\r\nx-amz-id-2: H\r\n%s"
    b"Content-Encoding: gzip\r\nx-amz-storage-class: GLACIER\r\nx-unknown: y\r\n\r\nhello"
)
EXPIRES = [b"", b"Expires: Thu, 01 Dec 1994 16:00:00 GMT\r\n", b"Expires: 0\r\n", b"Expires: never\r\n"]


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer without the values that differ from call to call."""
    found = dict(answer)
    metadata = dict(found.pop("ResponseMetadata"))
    headers = {name: value for name, value in dict(metadata.pop("HTTPHeaders")).items() if name != "expires"}
    body = found.pop("Body", None)
    return {**found, "metadata": metadata, "headers": headers, "body": body and body.read()}


@pytest.mark.parametrize("expires", EXPIRES, ids=["none", "date", "zero", "never"])
def test_successful_answer(expires: bytes) -> None:
    """A successful answer is read as boto3 reads it."""
    with ScriptedServer(ANSWER % expires) as server:
        client = server.client()
        place: dict[str, Any] = {"Bucket": "b", "Key": "k"}
        assert without_time(client.get_object(**place)) == without_time(dict(client.boto.get_object(**place)))
        assert client.refusal is None


def test_encoded_body() -> None:
    """The body of an answer is not decoded."""
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
def test_error_answer(method: str, status: int, body: bytes) -> None:
    """An error answer is read as boto3 reads it."""
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


def test_error_under_status_200() -> None:
    """An error under status 200 is raised as an error, after all attempts."""
    late = XML % b"InternalError"
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: "e"\r\n\r\n%s' % (len(late), late)
    with ScriptedServer(answer) as server:
        client = server.client(attempts=2)
        with pytest.raises(ClientError) as caught:
            client.put_object(Bucket="b", Key="k", Body=b"x")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
        assert caught.value.response["Error"]["Code"] == "InternalError"
        assert len(server.requests) == 2


CREATED = b"""<?xml version="1.0" encoding="UTF-8"?>
<InitiateMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<Bucket>b</Bucket><Key>a&amp;b</Key><UploadId>u/+=</UploadId></InitiateMultipartUploadResult>"""
COMPLETED = b"""<CompleteMultipartUploadResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Location>http://h/b/k</Location>
<Bucket>b</Bucket><Key>k</Key><ETag>&quot;e-2&quot;</ETag><ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME>
<ChecksumType>FULL_OBJECT</ChecksumType><Other><ETag>x</ETag></Other></CompleteMultipartUploadResult>"""
UPLOAD: dict[str, Any] = {"Bucket": "b", "Key": "k", "UploadId": "u"}


def document(body: bytes, status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(body)}\r\nx-amz-request-id: Q\r\nx-amz-version-id: v\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("body", [CREATED, CREATED.replace(b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b"")])
def test_created_upload(body: bytes) -> None:
    """The answer to CreateMultipartUpload is read as boto3 reads it."""
    with ScriptedServer(document(body)) as server:
        client = server.client()
        place: dict[str, Any] = {"Bucket": "b", "Key": "k"}
        mine, boto = client.create_multipart_upload(**place), client.boto.create_multipart_upload(**place)
        assert without_time(mine) == without_time(dict(boto))
        assert mine["UploadId"] == "u/+="


@pytest.mark.parametrize("body", [COMPLETED, b"<?xml version='1.0'?>" + COMPLETED, b"<CompleteMultipartUploadResult/>"])
def test_completed_upload(body: bytes) -> None:
    """The answer to CompleteMultipartUpload is read as boto3 reads it."""
    with ScriptedServer(document(body)) as server:
        client = server.client()
        parameters = {**UPLOAD, "MultipartUpload": {"Parts": PARTS}}
        mine, boto = client.complete_multipart_upload(**parameters), client.boto.complete_multipart_upload(**parameters)
        assert without_time(mine) == without_time(dict(boto))


def test_spaces_before_document() -> None:
    """A store sends spaces while it completes an upload; the result, or an error, comes behind them."""
    parameters = {**UPLOAD, "MultipartUpload": {"Parts": PARTS}}
    with ScriptedServer(document(b" " * 1000 + b"\n" + COMPLETED)) as server:
        assert server.client().complete_multipart_upload(**parameters)["ETag"] == '"e-2"'
    with ScriptedServer(document(b" " * 1000 + b"\n" + XML % b"InternalError")) as server:
        with pytest.raises(ClientError) as caught:
            server.client(attempts=2).complete_multipart_upload(**parameters)
        assert caught.value.response["Error"]["Code"] == "InternalError"
        assert len(server.requests) == 2


@pytest.mark.parametrize("body", [b"oops", COMPLETED[:-20], COMPLETED.replace(b"<Key>k</Key>", b"<Key>k</Key><Key>l</Key>")])
def test_damaged_document(body: bytes) -> None:
    """A damaged document is not a result: the caller asks what is stored."""
    with ScriptedServer(document(body)) as server, pytest.raises(UnreadableAnswerError):
        server.client().complete_multipart_upload(**UPLOAD, MultipartUpload={"Parts": PARTS})


@pytest.mark.parametrize(
    "upload", [None, {}, {"Parts": None}, {"Parts": [{"ETag": "e"}]}, {"Parts": [{"ETag": "é", "PartNumber": 1}]}]
)
def test_unusual_parts(client: DirectClient, upload: Any) -> None:
    """Parts that only boto3 can encode or refuse are left to it."""
    assert direct_request(client, "complete_multipart_upload", {**UPLOAD, "MultipartUpload": upload}) is None


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"Prefix": "", "Delimiter": ""},
        {"Prefix": "a/b c+d%20é~!'()*//.././\x01", "Delimiter": "/", "MaxKeys": 2},
        {"ContinuationToken": "a+b/c=", "RequestPayer": "requester", "ExpectedBucketOwner": "1" * 12},
        {"StartAfter": "ü&b=c", "FetchOwner": True},
    ],
    ids=["all", "empty", "folder", "token", "start"],
)
def test_listing_request(client: DirectClient, parameters: dict[str, Any]) -> None:
    """The request of a listing equals the one that boto3 sends."""
    assert_same(client, "list_objects_v2", {"Bucket": "bucket", **parameters})


@settings(max_examples=40, deadline=None)
@given(prefix=KEYS)
def test_any_prefix(prefix: str) -> None:
    """Any prefix is sent as boto3 sends it."""
    assert_same(_shared(), "list_objects_v2", {"Bucket": "bucket", "Prefix": prefix})


@pytest.mark.parametrize(
    "parameters",
    [{"EncodingType": "url"}, {"OptionalObjectAttributes": ["RestoreStatus"]}, {"Prefix": "\ud800"}, {"Prefix": None}],
    ids=["encoding", "attributes", "surrogate", "none"],
)
def test_unusual_listing(client: DirectClient, parameters: dict[str, Any]) -> None:
    """Parameters of a listing that only boto3 can encode, decode or refuse are left to it."""
    assert direct_request(client, "list_objects_v2", {"Bucket": "bucket", **parameters}) is None


ENTRY = b"""<Contents><Key>a%20b+c%2Bd%C3%A9&amp;</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>
<ETag>&quot;e&quot;</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass><ChecksumAlgorithm>CRC32</ChecksumAlgorithm>
<ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType><Other>1</Other>
<Owner><ID>i</ID><DisplayName>d</DisplayName></Owner>
<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress><RestoreExpiryDate>2026-01-02T03:04:05Z</RestoreExpiryDate>
</RestoreStatus></Contents>"""
LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><Prefix>a%%20</Prefix><Delimiter>%%2F</Delimiter>
<StartAfter>%%61</StartAfter><KeyCount>2</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>
<EncodingType>url</EncodingType>%s<CommonPrefixes><Prefix>a%%20/</Prefix></CommonPrefixes></ListBucketResult>"""


def at(time: bytes) -> bytes:
    """A listing of an object with another time."""
    return LISTING % ENTRY.replace(b"2026-01-02T03:04:05.678Z", time)


@pytest.mark.parametrize(
    "body",
    [
        LISTING % (ENTRY + ENTRY),
        (LISTING % ENTRY).replace(b' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"', b""),
        (LISTING % ENTRY).replace(b"<EncodingType>url</EncodingType>", b""),
        at(b"Fri, 02 Jan 2026 03:04:05 GMT"),
        at(b"2026-01-02T03:04:05+01:00"),
        at(b"1767323045"),
        LISTING % b"<Contents/>",
        b"<ListBucketResult/>",
        b"<html/>",
        b"",
    ],
    ids=["two", "bare", "not encoded", "http time", "zone", "number", "empty entry", "empty", "other", "nothing"],
)
def test_listing(body: bytes) -> None:
    """A listing is read as boto3 reads it."""
    with ScriptedServer(document(body)) as server:
        client = server.client()
        mine = client.list_objects_v2(Bucket="b")
        if b"<Contents/>" in body:  # boto3 cannot decode the key that is missing
            assert mine["Contents"] == [{}]
        else:
            assert without_time(mine) == without_time(dict(client.boto.list_objects_v2(Bucket="b")))


BOMB = b'<!DOCTYPE a [<!ENTITY e0 "x">%s]><a><Name>&e9;</Name></a>' % b"".join(
    b'<!ENTITY e%d "%s">' % (number, b"&e%d;" % (number - 1) * 10) for number in range(1, 10)
)
"""A document that grows to a gigabyte."""


@pytest.mark.parametrize(
    "body",
    [
        b"oops",
        (LISTING % ENTRY)[:-20],
        LISTING % ENTRY.replace(b"<Size>", b"<Size>1</Size><Size>"),
        LISTING % ENTRY.replace(b"<Key>a", b"<Key><b>a</b>"),
        LISTING % ENTRY.replace(b"<Size>5", b"<Size>5e3"),
        at(b"2026-02-30T03:04:05Z"),
        (LISTING % ENTRY).replace(b"<IsTruncated>false", b"<IsTruncated>no"),
        BOMB,
    ],
    ids=["text", "cut", "two sizes", "nested", "size", "time", "truth", "entities"],
)
def test_damaged_listing(body: bytes) -> None:
    """A damaged listing is an error."""
    with ScriptedServer(document(body)) as server, pytest.raises(UnreadableAnswerError):
        server.client().list_objects_v2(Bucket="b")
