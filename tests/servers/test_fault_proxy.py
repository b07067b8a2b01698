"""The effect of each fault on the client, and on the content of the store."""

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    FlexibleChecksumError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from gllm_storage.testing.faults import (
    Action,
    Answer,
    AnswerAfter,
    Call,
    CallAfter,
    Delay,
    DropResponse,
    Fault,
    FaultProxy,
    FlipBit,
    FlipRequestBit,
    Match,
    Refuse,
    RequestLog,
    ResetRequest,
    StallBody,
    Throttle,
    TruncateBody,
)
from gllm_storage.testing.faults.http1 import operation_of
from tests.servers import S3Server, ministack, require
from tests.servers.process import make_certificate
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "faults"
KEY = "a b/ü.bin"
MIB = 1024 * 1024
BODY = bytes(range(256)) * 4096  # 1 MiB: boto3 sends it after "100 Continue"
ANY = Match()


def s3_client(
    server: S3Server, endpoint_url: str, *, attempts: int = 1, verify: str | None = None, **settings: Any
) -> "S3Client":
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": attempts}, **settings)
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        verify=verify,
        config=config,
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with require(ministack, tmp_path_factory.mktemp("ministack")) as running:
        yield running


@pytest.fixture
def store(server: S3Server) -> Iterator["S3Client"]:
    """The store without the proxy, with an empty bucket."""
    with closing(s3_client(server, server.endpoint_url)) as client:
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)
        for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=found["Key"])
        yield client


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultProxy]:
    with FaultProxy(upstream=server.endpoint_url) as running:
        yield running
        assert running.errors == []
        assert running.unfired == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fault-proxy")]


@pytest.fixture
def client(server: S3Server, proxy: FaultProxy, store: "S3Client") -> Iterator["S3Client"]:
    """A client of the proxy that does not retry."""
    assert store
    with closing(s3_client(server, proxy.url)) as made:
        yield made


@pytest.fixture
def hasty(server: S3Server, proxy: FaultProxy) -> Iterator["S3Client"]:
    """A client with a short read timeout."""
    with closing(s3_client(server, proxy.url, read_timeout=1)) as made:
        yield made


def keys(store: "S3Client") -> list[str]:
    return [found["Key"] for found in store.list_objects_v2(Bucket=BUCKET).get("Contents", [])]


def read(client: "S3Client", key: str = KEY, **arguments: Any) -> bytes:
    return client.get_object(Bucket=BUCKET, Key=key, **arguments)["Body"].read()


def put(client: "S3Client", body: bytes = BODY, **arguments: Any) -> None:
    client.put_object(Bucket=BUCKET, Key=KEY, Body=body, **arguments)


# ---- nothing injected


def test_no_fault(proxy: FaultProxy, client: "S3Client") -> None:
    """Without a fault, the proxy passes all requests, and records their operations."""
    put(client)
    assert read(client) == BODY
    assert read(client, Range="bytes=10-19") == BODY[10:20]
    assert read(client, Range="bytes=-1") == BODY[-1:]
    client.head_bucket(Bucket=BUCKET)
    client.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": KEY})
    upload = client.create_multipart_upload(Bucket=BUCKET, Key="m")["UploadId"]
    sent = {"Bucket": BUCKET, "Key": "m", "UploadId": upload}
    part = client.upload_part(Bucket=BUCKET, Key="m", UploadId=upload, PartNumber=1, Body=BODY)
    client.list_parts(Bucket=BUCKET, Key="m", UploadId=upload)
    client.list_multipart_uploads(Bucket=BUCKET)
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    client.complete_multipart_upload(**sent, MultipartUpload=parts)  # type: ignore[arg-type]  # arguments as a dict
    client.abort_multipart_upload(
        Bucket=BUCKET, Key="m", UploadId=client.create_multipart_upload(Bucket=BUCKET, Key="m")["UploadId"]
    )
    assert client.list_objects_v2(Bucket=BUCKET)["KeyCount"] == 3
    client.delete_object(Bucket=BUCKET, Key="copy")
    with pytest.raises(ClientError, match="404"):
        client.head_object(Bucket=BUCKET, Key="copy")
    log = proxy.requests
    assert [entry.operation for entry in log] == [
        "PutObject",
        "GetObject",
        "GetObject",
        "GetObject",
        "HeadBucket",
        "CopyObject",
        "CreateMultipartUpload",
        "UploadPart",
        "ListParts",
        "ListMultipartUploads",
        "CompleteMultipartUpload",
        "CreateMultipartUpload",
        "AbortMultipartUpload",
        "ListObjectsV2",
        "DeleteObject",
        "HeadObject",
    ]
    assert [entry.status for entry in log] == [entry.upstream_status for entry in log]
    assert (log[0].method, log[0].path, log[0].query) == ("PUT", "/faults/a%20b/%C3%BC.bin", "")
    assert (log[0].body_bytes, log[0].response_bytes, log[0].status) == (MIB, 0, 200)
    assert log[0].headers["expect"] == "100-continue"
    assert (log[2].headers["range"], log[2].response_bytes, log[2].status) == ("bytes=10-19", 10, 206)
    assert (log[-1].status, log[-1].response_bytes) == (404, 0)
    assert {entry.fault for entry in log} == {None}
    proxy.clear()
    assert proxy.requests == []


def test_https(server: S3Server, store: "S3Client", tmp_path: Path) -> None:
    """With TLS settings, the proxy is an https endpoint, with the same faults."""
    certificate = make_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.both)
    with FaultProxy(server.endpoint_url, tls) as proxy:
        assert proxy.url.startswith("https://127.0.0.1:")
        with closing(s3_client(server, proxy.url, verify=certificate.authority)) as client:
            put(client)
            assert read(client) == BODY
            assert read(store) == BODY
            for reset in (False, True):
                proxy.inject(Fault(Match(method="GET"), TruncateBody(1000, reset=reset)))
                with pytest.raises((IncompleteReadError, ResponseStreamingError)):
                    read(client)
            assert (proxy.unfired, proxy.errors) == ([], [])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fault-proxy")]


def test_kept_connection(server: S3Server, proxy: FaultProxy) -> None:
    """One connection serves many requests."""
    address = proxy.url.removeprefix("http://")
    with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
        for _ in range(5):
            connection.request("GET", "/no-such-bucket/key")
            first = connection.sock
            connection.getresponse().read()
            assert connection.sock is first is not None
    assert proxy.requests[0].headers["host"] == address != server.endpoint_url.removeprefix("http://")


def test_many_connections(server: S3Server, proxy: FaultProxy, store: "S3Client") -> None:
    """Many connections are served concurrently."""

    def round_trip(number: int) -> bool:
        body = os.urandom(20_000)
        crowd.put_object(Bucket=BUCKET, Key=f"n{number}", Body=body)
        return read(crowd, f"n{number}") == body

    with closing(s3_client(server, proxy.url, max_pool_connections=16)) as crowd, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(64)))
    assert len(keys(store)) == 64
    assert len(proxy.requests) == 128


# ---- writes


@pytest.mark.parametrize("reset", [False, True])
def test_drop_response(proxy: FaultProxy, client: "S3Client", store: "S3Client", *, reset: bool) -> None:
    """DropResponse drops the answer to a put after the store has completed it."""
    proxy.inject(Fault(Match(operation="PutObject"), DropResponse(reset=reset)))
    with pytest.raises(ConnectionClosedError):
        put(client)
    assert read(store) == BODY
    log = proxy.requests[0]
    assert (log.status, log.upstream_status, log.fault) == (None, 200, "DropResponse")


def test_retry_meets_own_object(server: S3Server, proxy: FaultProxy, store: "S3Client") -> None:
    """A retry after a dropped response finds the object of the first attempt."""
    proxy.inject(Fault(Match(method="PUT", key=KEY), DropResponse()))
    with (
        closing(s3_client(server, proxy.url, attempts=2)) as retrying,
        pytest.raises(ClientError, match="PreconditionFailed"),
    ):
        put(retrying, IfNoneMatch="*")
    assert read(store) == BODY
    assert [entry.upstream_status for entry in proxy.requests] == [200, 412]


@pytest.mark.parametrize("action", [ResetRequest(), ResetRequest(after=100_000), ResetRequest(after=MIB), Refuse()])
def test_reset_put(proxy: FaultProxy, client: "S3Client", store: "S3Client", action: ResetRequest | Refuse) -> None:
    """A put that is reset or refused does not reach the store."""
    proxy.inject(Fault(Match(method="PUT"), action))
    with pytest.raises(ConnectionClosedError):
        put(client)
    assert keys(store) == []
    log = proxy.requests[0]
    assert (log.status, log.upstream_status) == (None, None)
    assert log.body_bytes >= getattr(action, "after", 0)
    assert log.body_bytes <= getattr(action, "after", 0) + 64 * 1024


def test_answer_without_store(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """Answer answers a request without sending it to the store."""
    proxy.inject(Fault(Match(operation="PutObject"), Answer(503, headers=(("Retry-After", "7"),))))
    proxy.inject(Fault(Match(operation="HeadObject"), Answer(403, "AccessDenied")))
    proxy.inject(Fault(Match(operation="GetObject"), Answer(400, "ExpiredToken")))
    with pytest.raises(ClientError) as slow_down:
        put(client)
    assert slow_down.value.response["Error"]["Code"] == "SlowDown"
    assert slow_down.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "7"
    with pytest.raises(ClientError) as bare:
        client.head_object(Bucket=BUCKET, Key=KEY)
    assert bare.value.response["Error"]["Code"] == "403"
    with pytest.raises(ClientError, match="ExpiredToken"):
        read(client)
    assert keys(store) == []
    put(client)  # on the same connection
    assert keys(store) == [KEY]
    assert [(entry.status, entry.upstream_status, entry.body_bytes) for entry in proxy.requests] == [
        (503, None, MIB),
        (403, None, 0),
        (400, None, 0),
        (200, 200, MIB),
    ]


def test_bare_400(proxy: FaultProxy, client: "S3Client") -> None:
    """boto3 treats a 400 answer without a body as a wrong region, and sends a HeadBucket."""
    proxy.inject(Fault(Match(operation="HeadObject"), Answer(400, "ExpiredToken"), times=2))
    with pytest.raises(ClientError, match="400"):
        client.head_object(Bucket=BUCKET, Key=KEY)
    assert [entry.operation for entry in proxy.requests] == ["HeadObject", "HeadBucket", "HeadObject"]


def test_answer_after(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """AnswerAfter answers after the store has completed a put."""
    proxy.inject(Fault(Match(method="PUT"), AnswerAfter(500)))
    with pytest.raises(ClientError, match="InternalError"):
        put(client)
    assert read(store) == BODY
    assert (proxy.requests[0].status, proxy.requests[0].upstream_status) == (500, 200)


@pytest.mark.parametrize(
    ("action", "code", "done"),
    [
        (AnswerAfter(404, "NoSuchUpload"), "NoSuchUpload", True),
        (Answer(200, "InternalError"), "InternalError", False),  # an error in the body of a 200 answer
    ],
)
def test_answers_to_complete(
    proxy: FaultProxy, client: "S3Client", store: "S3Client", action: Action, code: str, *, done: bool
) -> None:
    """A completion can be answered by an error with or without its effect on the store."""
    upload = client.create_multipart_upload(Bucket=BUCKET, Key=KEY)["UploadId"]
    tag = client.upload_part(Bucket=BUCKET, Key=KEY, UploadId=upload, PartNumber=1, Body=BODY)["ETag"]
    proxy.inject(Fault(Match(operation="CompleteMultipartUpload"), action))
    with pytest.raises(ClientError, match=code):
        client.complete_multipart_upload(
            Bucket=BUCKET,
            Key=KEY,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": tag}]},
        )
    assert keys(store) == ([KEY] if done else [])
    if not done:
        store.abort_multipart_upload(Bucket=BUCKET, Key=KEY, UploadId=upload)


def test_flipped_bit_of_request(server: S3Server, proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """FlipRequestBit flips one bit of a body, which only a checksum reveals."""
    proxy.inject(Fault(Match(method="PUT"), FlipRequestBit(at=70_000), times=2))
    with pytest.raises(ClientError, match="BadDigest"):  # the request carries the client's CRC32
        put(client)
    assert keys(store) == []
    with closing(s3_client(server, proxy.url, request_checksum_calculation="when_required")) as careless:
        put(careless)
    assert read(store) == BODY[:70_000] + bytes([BODY[70_000] ^ 1]) + BODY[70_001:]


# ---- reads


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [0, 1000, 100_000])
def test_truncated_body(proxy: FaultProxy, client: "S3Client", store: "S3Client", after: int, *, reset: bool) -> None:
    """TruncateBody ends the body of an answer early."""
    put(store)
    proxy.inject(Fault(Match(method="GET"), TruncateBody(after, reset=reset)))
    body = client.get_object(Bucket=BUCKET, Key=KEY)["Body"]
    with pytest.raises(ResponseStreamingError):
        body.read()
    assert (proxy.requests[0].status, proxy.requests[0].response_bytes) == (200, after)


def test_truncated_body_in_pieces(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """A truncated body that is read in pieces also raises an error."""
    put(store)
    proxy.inject(Fault(Match(method="GET"), TruncateBody(1000)))
    body = client.get_object(Bucket=BUCKET, Key=KEY)["Body"]
    assert body.read(600) == BODY[:600]
    with pytest.raises((ResponseStreamingError, IncompleteReadError)):  # by urllib3 or by botocore, depending on the version
        list(iter(lambda: body.read(600), b""))


def test_stalled_body(server: S3Server, proxy: FaultProxy, store: "S3Client") -> None:
    """StallBody stops in the middle of a body until the client's timeout."""
    put(store)
    proxy.inject(Fault(Match(header=("range", "bytes=0-")), StallBody(after=1000, seconds=60), times=None))
    with closing(s3_client(server, proxy.url, read_timeout=1, attempts=60)) as hasty:  # answers are late on a busy machine
        body = hasty.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=0-")["Body"]
        assert body.read(1000) == BODY[:1000]
        with pytest.raises(ReadTimeoutError):
            body.read(1)
    # At its end, the fixture verifies that a stall does not outlive the proxy.


def test_flipped_bit_of_response(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """FlipBit flips one bit of an answer, which only a checksum reveals."""
    put(store)
    proxy.inject(Fault(Match(method="GET"), FlipBit(at=3), times=2))
    assert read(client, Range="bytes=0-9") == b"\0\1\2\2\4\5\6\7\10\11"
    with pytest.raises(FlexibleChecksumError):  # the complete answer has the CRC32 of the stored object
        read(client)


# ---- time, and calls


def test_delayed_answer(proxy: FaultProxy, hasty: "S3Client", store: "S3Client") -> None:
    """Delay delays the answer, and the store completes the request."""
    proxy.inject(Fault(Match(method="PUT"), Delay(60)))
    with pytest.raises(ReadTimeoutError):
        put(hasty, b"little")  # small, so that it is sent before the timeout on a busy machine, too
    eventually(lambda: proxy.requests and proxy.requests[0].upstream_status == 200)
    assert read(store) == b"little"


def test_throttle(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """Throttle slows down both directions."""
    proxy.inject(Fault(ANY, Throttle(4 * MIB), times=2))
    start = time.monotonic()
    put(client)
    middle = time.monotonic()
    assert read(client) == BODY
    assert middle - start >= 0.25
    assert time.monotonic() - middle >= 0.2  # the proxy sends the last bytes before the end of their share of the time
    assert keys(store) == [KEY]


def test_call_between_reads(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """Call replaces the object between two reads."""
    put(store)
    proxy.inject(Fault(Match(method="GET"), Call(lambda: put(store, b"other")), skip=1))
    found = client.get_object(Bucket=BUCKET, Key=KEY, Range="bytes=0-4")
    assert found["Body"].read() == BODY[:5]
    with pytest.raises(ClientError, match="PreconditionFailed"):
        read(client, Range="bytes=5-9", IfMatch=found["ETag"])


def test_call_raises_signal(proxy: FaultProxy, client: "S3Client") -> None:
    """Call raises a signal in the main thread."""

    class InterruptedTestError(BaseException):  # botocore turns an Exception into its HTTPClientError
        pass

    def handler(*_: object) -> None:
        raise InterruptedTestError

    proxy.inject(Fault(Match(method="PUT"), Call(lambda: os.kill(os.getpid(), signal.SIGUSR1))))
    proxy.inject(Fault(Match(method="PUT"), Delay(60)))
    previous = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(InterruptedTestError):
            put(client)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert proxy.requests[0].fault == "Call+Delay"


def test_call_after(proxy: FaultProxy, client: "S3Client", store: "S3Client") -> None:
    """CallAfter runs after the store has completed the write, and before the answer."""
    seen: list[object] = []
    proxy.inject(Fault(Match(method="PUT"), CallAfter(lambda: seen.append((keys(store), proxy.requests[0].status)))))
    put(client)
    assert seen == [([KEY], None)]
    proxy.inject(Fault(Match(method="GET"), CallAfter(lambda: store.delete_object(Bucket=BUCKET, Key=KEY))))
    assert read(client) == BODY
    assert keys(store) == []


# ---- which requests


def test_skip_times_and_order(proxy: FaultProxy, client: "S3Client") -> None:
    """A fault can skip requests and has a number of uses; faults are tried in order."""
    proxy.inject(Fault(Match(method="HEAD"), Answer(501), skip=1, times=2))
    proxy.inject(Fault(Match(path="b/ü"), Answer(503), times=None))
    proxy.inject(Fault(ANY, Delay(0.01), skip=3))
    statuses = []
    for _ in range(5):
        with pytest.raises(ClientError) as caught:
            client.head_object(Bucket=BUCKET, Key=KEY)
        statuses.append(caught.value.response["ResponseMetadata"]["HTTPStatusCode"])
    assert statuses == [503, 501, 501, 503, 503]
    assert [entry.fault for entry in proxy.requests] == ["Answer", "Answer", "Answer", "Answer+Delay", "Answer"]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(), True),
        (Match(method="PUT", path="bucket/k ", key="k y", query="partNumber=2"), True),
        (Match(method="GET"), False),
        (Match(path="k%20y"), False),
        (Match(key="y"), False),
        (Match(query="partNumber=1"), False),
        (Match(operation="UploadPart"), True),
        (Match(operation="PutObject"), False),
        (Match(header=("Range", "bytes=0-")), True),
        (Match(header=("range", "bytes=1-")), False),
        (Match(header=("if-match", "")), False),
    ],
)
def test_match(match: Match, *, expected: bool) -> None:
    """A match compares all fields that it sets."""
    request = RequestLog("PUT", "/bucket/k%20y", "partNumber=2&uploadId=x", {"range": "bytes=0-9"}, "UploadPart")
    assert match(request) is expected


@pytest.mark.parametrize(
    ("request_line", "operation"),
    [
        ("GET /", "Other"),
        ("GET /b/k?versionId=1&response-content-type=x&x-id=GetObject&X-Amz-Signature=0", "GetObject"),
        ("GET /b/k?acl", "Other"),
        ("GET /b/", "Other"),
        ("GET /b/?list-type=2&prefix=a&max-keys=3&continuation-token=x", "ListObjectsV2"),
        ("PUT /b", "CreateBucket"),
        ("PUT /b?versioning", "Other"),
        ("PUT /b/k?tagging", "Other"),
        ("POST /b?delete", "DeleteObjects"),
        ("DELETE /b", "Other"),
        ("POST /b/k?uploads=", "CreateMultipartUpload"),
    ],
)
def test_s3_operation(request_line: str, operation: str) -> None:
    """Requests of the S3 API have names."""
    method, target = request_line.split(" ")
    path, _, query = target.partition("?")
    assert operation_of(method, path, query, {}) == operation


def test_copied_part() -> None:
    """A copied part is not an uploaded part."""
    assert operation_of("PUT", "/b/k", "partNumber=1&uploadId=x", {"x-amz-copy-source": "b/j"}) == "UploadPartCopy"


# ---- HTTP of other clients and servers


class _Echo(BaseHTTPRequestHandler):
    """Answers with the body of the request, in the framing that the path names."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"hello")

    def do_POST(self) -> None:
        body = b""
        if "Content-Length" in self.headers:
            left = int(self.headers["Content-Length"])
            while piece := self.rfile.read(min(left, MIB)):
                left -= len(piece)
        else:
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while (line := self.rfile.readline()) != b"\r\n":
                body += b"|" + line.strip()
        self._answer(body + b"|" + str(self.headers.get("Expect")).encode())

    def _answer(self, body: bytes) -> None:
        if self.path == "/early":
            self.send_response(102)
            self.end_headers()
        self.send_response(204 if self.path == "/empty" else 200)
        if self.path == "/chunked":
            self.send_header("Transfer-Encoding", "chunked")
            body = b"".join(b"%x;x=y\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body))) + b"0\r\nT: 1\r\n\r\n"
        elif self.path == "/eof":
            self.close_connection = True
        elif self.path == "/empty":
            body = b""
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[FaultProxy]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as upstream:
        thread = threading.Thread(target=upstream.serve_forever, args=(0.01,))
        thread.start()
        with FaultProxy(f"http://127.0.0.1:{upstream.server_port}") as running:
            yield running
        upstream.shutdown()
        thread.join()


def connect(proxy: FaultProxy) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=PATIENCE)


@pytest.mark.parametrize(
    ("method", "path", "query", "content_range", "operation"),
    [
        ("GET", "/storage/v1/b/b/o/a%2Fk", "", "", "ObjectsGet"),
        ("GET", "/download/storage/v1/b/b/o/k", "alt=media", "", "ObjectsGetMedia"),
        ("DELETE", "/storage/v1/b/b/o/k", "", "", "ObjectsDelete"),
        ("GET", "/storage/v1/b/b/o", "prefix=a", "", "ObjectsList"),
        ("GET", "/storage/v1/b/b", "", "", "BucketsGet"),
        ("GET", "/storage/v1/b/b/storageLayout", "", "", "GetStorageLayout"),
        ("POST", "/upload/storage/v1/b/b/o", "uploadType=multipart", "", "UploadMultipart"),
        ("POST", "/upload/storage/v1/b/b/o", "uploadType=resumable&name=k", "", "ResumableStart"),
        ("PUT", "/upload/storage/v1/b/b/o", "uploadType=resumable&upload_id=u", "bytes 0-9/20", "ResumableChunk"),
        ("PUT", "/upload/storage/v1/b/b/o", "uploadType=resumable&upload_id=u", "bytes 10-19/20", "ResumableFinal"),
        ("PUT", "/upload/storage/v1/b/b/o", "uploadType=resumable&upload_id=u", "bytes */20", "ResumableStatus"),
        ("DELETE", "/upload/storage/v1/b/b/o", "uploadType=resumable&upload_id=u", "", "ResumableCancel"),
        ("POST", "/storage/v1/b/b/o/k/compose", "", "", "ObjectsCompose"),
    ],
)
def test_google_operation(method: str, path: str, query: str, content_range: str, operation: str) -> None:
    """Requests of Google's API have names."""
    assert operation_of(method, path, query, {"content-range": content_range}) == operation


@pytest.mark.parametrize(
    ("method", "path", "query", "operation"),
    [
        ("PUT", "/account/b/a/k", "", "PutBlob"),
        ("PUT", "/account/b/k", "comp=block&blockid=x", "PutBlock"),
        ("PUT", "/account/b/k", "comp=blocklist", "PutBlockList"),
        ("GET", "/account/b/k", "", "GetBlob"),
        ("HEAD", "/account/b/k", "", "HeadBlob"),
        ("DELETE", "/account/b/k", "", "DeleteBlob"),
        ("GET", "/account/b", "restype=container&comp=list", "ListBlobs"),
        ("GET", "/account/b", "restype=container", "GetContainerProperties"),
    ],
)
def test_azure_operation(method: str, path: str, query: str, operation: str) -> None:
    """Requests of Azure's API have names."""
    assert operation_of(method, path, query, {"x-ms-version": "2026-10-06"}) == operation


def test_framings(echo: FaultProxy) -> None:
    """Bodies of all framings pass through the proxy."""
    with closing(connect(echo)) as connection:
        for path, body in {
            "/length": b"hello",
            "/chunked": b"hello",
            "/empty": b"",
            "/early": b"hello",
            "/eof": b"hello",
            "/again": b"hello",
        }.items():
            connection.request("GET", path)
            assert connection.getresponse().read() == body
        connection.request("POST", "/chunked", iter([b"ab", b"cdef"]), encode_chunked=True)
        assert connection.getresponse().read() == b"abcdef|None"
    assert [entry.body_bytes for entry in echo.requests] == [0, 0, 0, 0, 0, 0, 6]
    assert [entry.response_bytes for entry in echo.requests] == [5, 5, 0, 5, 5, 5, 11]


def test_faults_in_chunks(echo: FaultProxy) -> None:
    """Faults count the bytes of a chunked body without its framing."""
    echo.inject(Fault(ANY, TruncateBody(3)))
    echo.inject(Fault(ANY, FlipBit(3)))
    with closing(connect(echo)) as connection:
        connection.request("GET", "/chunked")
        with pytest.raises(http.client.IncompleteRead) as caught:
            connection.getresponse().read()
        assert caught.value.partial == b"hel"
    with closing(connect(echo)) as connection:
        connection.request("GET", "/chunked")
        assert connection.getresponse().read() == b"helmo"


def raw(proxy: FaultProxy, request: bytes) -> bytes:
    """Send a request; returns all bytes until the proxy closes the connection."""
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_expect_and_pipelining(echo: FaultProxy) -> None:
    """The proxy supports 100-continue, trailers and pipelined requests."""
    answer = raw(
        echo,
        b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n0\r\nSum: 1\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\nabc|Sum: 1|NoneHTTP/1.1 200 OK\r\n" in answer
    assert answer.endswith(b"hello")


def test_http_1_0(echo: FaultProxy) -> None:
    """A connection of HTTP/1.0 is closed after the answer."""
    assert raw(echo, b"GET / HTTP/1.0\r\nHost: x\r\n\r\n").endswith(b"hello")


def test_memory_of_large_body(echo: FaultProxy) -> None:
    """A large body is not held in memory."""
    tracemalloc.start()
    try:
        with closing(connect(echo)) as connection:
            chunk = bytes(MIB)
            connection.request("POST", "/", (chunk for _ in range(64)), {"Content-Length": str(64 * MIB)})
            assert connection.getresponse().read() == b"|None"
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()
    assert echo.requests[0].body_bytes == 64 * MIB


# ---- processes, threads and errors of the proxy


def test_child_process(echo: FaultProxy) -> None:
    """A child process can send requests to the proxy."""
    echo.inject(Fault(ANY, Answer(418, body=b"tea")))
    program = (
        "import sys, http.client as h; c = h.HTTPConnection(sys.argv[1]); c.request('GET', '/'); "
        "r = c.getresponse(); print(r.status, r.read()); c.close()"
    )
    command = [sys.executable, "-c", program, echo.url.removeprefix("http://")]
    assert subprocess.run(command, capture_output=True, check=True, text=True).stdout == "418 b'tea'\n"


def test_client_leaves(echo: FaultProxy) -> None:
    """A client that closes its connection does not affect other clients."""
    echo.inject(Fault(ANY, Delay(0.05)))
    for request in (b"GET / HTTP/1.1\r\n\r\n", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", b""):
        host, port = echo.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
            sock.sendall(request)
    with closing(connect(echo)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
    assert echo.errors == []


def test_server_gone() -> None:
    """If the server is missing, the proxy closes the connection of the client."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with FaultProxy(f"http://127.0.0.1:{port}") as proxy, closing(connect(proxy)) as connection:
            connection.request("GET", "/")
            with pytest.raises(http.client.RemoteDisconnected):
                connection.getresponse()
            assert proxy.errors == []
            assert (proxy.requests[0].status, proxy.requests[0].upstream_status) == (None, None)


@pytest.mark.parametrize("kind", [Call, CallAfter])
def test_error_of_call(echo: FaultProxy, kind: Callable[[Callable[[], object]], Call | CallAfter]) -> None:
    """An error of a call is recorded, and the request continues."""

    def fail() -> None:
        raise ConnectionResetError("the test's own")  # the proxy must not treat it as an error of its connection

    echo.inject(Fault(ANY, kind(fail)))
    with closing(connect(echo)) as connection:
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hello"
    assert [str(error) for error in echo.errors] == ["the test's own"]


def test_errors_of_proxy(echo: FaultProxy) -> None:
    """Errors of the proxy are recorded."""
    assert raw(echo, b"\x16\x03\x01 TLS\r\n\r\n") == b""
    echo.inject(Fault(ANY, FlipBit(at=5)))
    assert raw(echo, b"GET / HTTP/1.1\r\n\r\n").endswith(b"hello")
    first, second = echo.errors
    assert isinstance(first, ValueError)
    assert str(second) == "no bit to flip at 5: the body has only 5 bytes"


def test_close(echo: FaultProxy) -> None:
    """Closing the proxy ends all its threads at once."""
    with FaultProxy(echo.url) as proxy:
        proxy.inject(Fault(ANY, Delay(2 * PATIENCE)))
        proxy.inject(Fault(ANY, StallBody(0, 2 * PATIENCE), skip=1))
        clients = [connect(proxy) for _ in range(4)]
        for number, one in enumerate(clients):
            if number < 3:
                one.request("GET", "/")
            else:
                one.connect()
        eventually(lambda: len(proxy.requests) == 3)
        started = time.monotonic()
    assert time.monotonic() - started < PATIENCE / 2
    assert len([thread for thread in threading.enumerate() if thread.name == "fault-proxy"]) == 1  # the fixture's
    for one in clients:
        one.close()
