"""The direct client: attempts, exceptions, and requests that are left to boto3."""

from __future__ import annotations

import itertools
import logging
import ssl
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.errors import AccessDeniedError
from gllm_storage.http.wire import Connection
from gllm_storage.s3.body import ViewSection
from gllm_storage.s3.errors import UnreadableAnswerError
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.http import error_document
from gllm_storage.s3.http.client import BotoAccess, DirectClient
from gllm_storage.store import retry
from tests.unit.s3.http.scripted import (
    EMPTY,
    OK,
    Peer,
    ScriptedServer,
    hang_up,
    header,
    made_client,
    open_sockets,
    reset,
    then_hang_up,
    wait,
)
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gllm_storage.store.retry import RetryEvent

PLACE: dict[str, Any] = {"Bucket": "bucket", "Key": "k"}
CRC = "AAAAAAAAAAA="
LOGGER = "gllm_storage.s3.http.client"


def answer(status: int, code: str, *headers: str) -> bytes:
    region = "<Region>eu-west-1</Region>" if code == "AuthorizationHeaderMalformed" else ""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>why</Message>{region}</Error>".encode()
    lines = "".join(f"{each}\r\n" for each in headers)
    return f"HTTP/1.1 {status} X\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


def by_boto3(head: bytes) -> bool:
    """Whether boto3 sent a request."""
    return header(head, "amz-sdk-invocation-id") is not None


# ---- attempts


PASSING: list[Any] = [
    pytest.param(answer(503, "SlowDown"), id="503"),
    pytest.param(answer(500, "InternalError"), id="500"),
    pytest.param(answer(502, "x"), id="502"),
    pytest.param(answer(429, "x"), id="429"),
    pytest.param(answer(400, "RequestTimeout"), id="timeout-code"),
    pytest.param(hang_up, id="fin"),
    pytest.param(reset, id="rst"),
    pytest.param(then_hang_up(b"HTTP/1.1 200 OK\r\nContent-Le"), id="half-a-head"),
    pytest.param(then_hang_up(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9\r\n\r\nx"), id="half-a-body"),
    pytest.param(wait, id="silence"),
]


def shorten_timeouts(server: ScriptedServer, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the wait for the first answers to 0.2 s, counted from the arrival of the request at the server."""
    read_head, numbers = Connection.read_head, itertools.count(1)

    def read(self: Connection) -> tuple[int, dict[str, str]]:
        number = next(numbers)
        eventually(lambda: len(server.requests) >= number)
        if number <= times:
            self._transport.set_timeout(0.2)
        return read_head(self)

    monkeypatch.setattr(Connection, "read_head", read)


@pytest.mark.parametrize("step", PASSING)
def test_passing_fault(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that meets a passing fault is sent again with its complete body."""
    content = bytes(range(256)) * 1000
    with ScriptedServer(step, step, EMPTY) as server:
        if step is wait:
            shorten_timeouts(server, 2, monkeypatch)
        client = server.client(sign_bodies="always")
        client.put_object(**PLACE, Body=ViewSection(memoryview(content), Stop()))
        assert [body for _, body in server.requests] == [content] * 3
        assert not any(by_boto3(head) for head, _ in server.requests)
        assert client.refusal is None


@pytest.mark.parametrize("step", PASSING)
@pytest.mark.parametrize("attempts", [1, 3])
def test_lasting_fault(step: Any, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that meets a lasting fault is sent exactly as often as the limit of attempts allows."""
    with ScriptedServer(step) as server:
        if step is wait:
            shorten_timeouts(server, attempts, monkeypatch)
        client = server.client(attempts=attempts)
        with pytest.raises((ClientError, boto.HTTPClientError)):
            client.put_object(**PLACE, Body=b"x")
        assert len(server.requests) == attempts
        assert not any(by_boto3(head) for head, _ in server.requests)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey"), (412, "x"), (501, "x"), (400, "BadDigest")]
)
def test_permanent_error(status: int, code: str) -> None:
    """A request that meets a permanent error is not sent again."""
    with ScriptedServer(answer(status, code)) as server:
        with pytest.raises(ClientError):
            server.client().put_object(**PLACE, Body=b"x")
        assert len(server.requests) == 1


def test_closed_kept_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kept connection that the server closed costs an attempt, but no wait."""
    monkeypatch.setattr(retry, "S3_FIRST_WAIT", 100.0)
    with ScriptedServer(OK, hang_up, OK) as server:
        client = server.client(attempts=2)
        for _ in range(2):
            client.get_object(**PLACE)["Body"].read()
        assert server.connections == 2


def test_stop_during_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait between attempts ends when the transfer is cancelled."""
    stop = Stop()

    def long_wait(_: float, __: float) -> float:
        threading.Timer(0.2, stop.set).start()
        return 2 * PATIENCE

    monkeypatch.setattr("random.uniform", long_wait)
    with ScriptedServer(answer(503, "SlowDown")) as server:
        client = server.client()
        begun = time.monotonic()
        with stopped_by(stop), pytest.raises(TransferStopped):
            client.head_object(**PLACE)
        assert time.monotonic() - begun < PATIENCE
        assert len(server.requests) == 1
    assert stop._callbacks == []


def test_truncated_body() -> None:
    """A truncated body raises an exception of botocore."""
    with ScriptedServer(then_hang_up(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9\r\n\r\nx")) as server:
        body = server.client().get_object(**PLACE)["Body"]
        with pytest.raises(boto.HTTPClientError):
            body.read()


def test_stop_during_body() -> None:
    """A body that is read raises TransferStopped when the transfer is cancelled."""
    stop = Stop()
    with ScriptedServer(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9\r\n\r\nx") as server, stopped_by(stop):
        body = server.client().get_object(**PLACE)["Body"]
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(TransferStopped):
            body.read()


def test_closed_body() -> None:
    """A dropped generator and a closed body close their sockets."""
    before = open_sockets()
    with ScriptedServer(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 999\r\n\r\n" + bytes(500)) as server:
        client = server.client()
        for _ in range(3):
            body = client.get_object(**PLACE)["Body"]
            pieces = body.iter_chunks(100)
            next(pieces)
            del pieces
            body.close()
        time.sleep(0.1)
        assert not client._places["bucket"].pool._free.get()  # type: ignore[union-attr]  # there is a pool
    assert open_sockets() <= before


# ---- errors


def error_type(call: Callable[[], object]) -> type[BaseException]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the type is compared
        call()
    return caught.type


def test_unreachable_server() -> None:
    """An unreachable server raises the same exception as with boto3."""
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        client = made_client(url, attempts=1)
        assert error_type(partial(client.head_object, **PLACE)) is error_type(partial(client.boto.head_object, **PLACE))


@pytest.mark.parametrize("step", [hang_up, reset, wait])
def test_missing_answer(step: Any) -> None:
    """A missing answer raises the same exception as with boto3."""
    with ScriptedServer(step) as server:
        client = server.client(attempts=1, config={"read_timeout": 0.3} if step is wait else {})
        assert error_type(lambda: client.head_object(**PLACE)) is error_type(lambda: client.boto.head_object(**PLACE))


@pytest.mark.parametrize("trust", ["unknown", "wrong name"])
def test_untrusted_server(trust: str, tmp_path: Path) -> None:
    """A server with an untrusted certificate raises the same exception as with boto3."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example" if trust == "wrong name" else "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    verify = str(tmp_path / "ca.pem") if trust == "wrong name" else True
    with ScriptedServer(EMPTY, tls=None if trust == "plain http" else context) as server:
        client = made_client(f"https://127.0.0.1:{server.port}", attempts=1, verify=verify)
        assert (
            error_type(lambda: client.head_object(**PLACE))
            is error_type(lambda: client.boto.head_object(**PLACE))
            is boto.SSLError
        )
        assert client.refusal is None


@pytest.mark.parametrize("way", ["option", "environment", "profile", "none"])
def test_trusted_server(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate is trusted by the same settings as with boto3."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    options: dict[str, Any] = {}
    if way in {"option", "none"}:
        options["verify"] = str(bundle) if way == "option" else False
    if way == "environment":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    if way == "profile":
        config = tmp_path / "config"
        config.write_text(f"[profile own]\nca_bundle = {bundle}\naws_access_key_id = a\naws_secret_access_key = b\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        options["profile_name"] = "own"
    with ScriptedServer(EMPTY, tls=context) as server:
        client = server.client(**options)
        client.head_object(**PLACE)
        assert not by_boto3(server.requests[0][0])


def test_missing_certificate_file() -> None:
    """A missing certificate file raises the same exception as with boto3."""
    client = made_client("https://127.0.0.1:9", attempts=1, verify="/no/such/file")
    assert error_type(lambda: client.head_object(**PLACE)) is error_type(lambda: client.boto.head_object(**PLACE))


def test_missing_credentials() -> None:
    """Missing credentials raise AccessDeniedError."""
    fs = S3FileSystem(endpoint_url="http://127.0.0.1:9", skip_instance_cache=True)
    with pytest.raises(AccessDeniedError):
        fs.cat_file("bucket/k")


def test_anonymous_request() -> None:
    """An anonymous request is not signed."""
    with ScriptedServer(EMPTY) as server:
        client = server.client(anonymous=True)
        client.put_object(**PLACE, Body=b"content")
        (head, _), *_ = server.requests
        assert not by_boto3(head)
        assert (header(head, "authorization"), header(head, "x-amz-date")) == (None, None)


# ---- boto3 instead


def only_boto3(peer: Peer) -> None:
    """Answer boto3, and send an invalid answer to other clients."""
    peer.send(EMPTY if by_boto3(peer.head) else b"What?\r\n\r\n")


@pytest.mark.parametrize("threads", [1, 16])
def test_server_for_boto3_only(threads: int, caplog: pytest.LogCaptureFixture) -> None:
    """If only boto3 understands a server, boto3 sends the request and all further requests."""
    with ScriptedServer(only_boto3) as server, caplog.at_level(logging.WARNING, LOGGER):
        client = server.client()
        gate = threading.Barrier(threads)

        def run(_: int) -> Any:
            gate.wait(PATIENCE)
            return client.put_object(**PLACE, Body=ViewSection(memoryview(b"content"), Stop()))["ETag"]

        with ThreadPoolExecutor(threads) as pool:
            assert list(pool.map(run, range(threads))) == ['"e"'] * threads
        (said,) = [each.getMessage() for each in caplog.records if each.name == LOGGER]
        assert server.url in said
        assert client.refusal is not None
        count = len(server.requests)
        client.put_object(**PLACE, Body=b"content")
        assert [by_boto3(head) for head, _ in server.requests[count:]] == [True]
        assert {body for head, body in server.requests if by_boto3(head)} == {b"content"}


@pytest.mark.parametrize(
    "line",
    [
        "Last-Modified: Thu, 99 Foo 2026 99:99:99 GMT",
        "Last-Modified: Thu, 32 Jan 2026 00:00:00 GMT",
        "x-amz-missing-meta: many",
        "x-amz-object-lock-retain-until-date: soon",
        "Content-Length: 5e3",
        "Content-Length: 7, 8",
        f"x-long: {'x' * 300_000}",
    ],
    ids=lambda line: line[:30],
)
@pytest.mark.parametrize("method", ["head_object", "get_object"])
def test_impossible_header(method: str, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """An answer with an impossible header is an error, and the direct client stays in use."""
    length = "" if line.startswith("Content-Length") else "Content-Length: 0\r\n"
    bad = f'HTTP/1.1 200 OK\r\n{length}ETag: "e"\r\n{line}\r\n\r\n'.encode()

    def answer_once(peer: Peer) -> None:
        peer.send(EMPTY if by_boto3(peer.head) or b"/good" in peer.head.split(b"\r\n")[0] else bad)

    with ScriptedServer(answer_once) as server, caplog.at_level(logging.WARNING, LOGGER):
        client = server.client()
        with pytest.raises(UnreadableAnswerError):
            getattr(client, method)(**PLACE)
        assert client.refusal is None
        client.head_object(**{**PLACE, "Key": "good"})
        assert not any(by_boto3(head) for head, _ in server.requests)
        assert caplog.records == []


def test_server_for_no_client(caplog: pytest.LogCaptureFixture) -> None:
    """If boto3 does not understand a server either, the direct client stays in use."""
    with ScriptedServer(b"What?\r\n\r\n") as server, caplog.at_level(logging.WARNING, LOGGER):
        client = server.client(attempts=1)
        with pytest.raises(boto.HTTPClientError):
            client.head_object(**PLACE)
        assert client.refusal is None
        assert caplog.records == []


@pytest.mark.parametrize("busy", [0, 1])
@pytest.mark.parametrize(
    ("step", "cause"),
    [(b"What?\r\n\r\n", "not HTTP"), (answer(403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch")],
    ids=["malformed", "signature"],
)
def test_event_before_boto3(busy: int, step: bytes, cause: str, events: list[RetryEvent]) -> None:
    """A request that boto3 sends after the direct client has an event, with the number of the failed attempt."""

    def picky(peer: Peer) -> None:
        peer.send(EMPTY if by_boto3(peer.head) else step)

    with ScriptedServer(*[answer(503, "SlowDown")] * busy, picky) as server:
        server.client().put_object(**PLACE, Body=b"content")
        assert [by_boto3(head) for head, _ in server.requests] == [False] * (busy + 1) + [True]
        event = events[-1]
        assert len(events) == busy + 1
        assert (event.kind, event.operation, event.attempt, event.wait) == ("retry", "PutObject", busy + 1, 0.0)
        assert event.url == f"{server.url}/bucket/k"
        assert cause in event.cause


def test_no_event_for_boto3_alone(events: list[RetryEvent]) -> None:
    """A request that only boto3 sends has no event."""
    with ScriptedServer(only_boto3) as server:
        client = server.client()
        client.put_object(**PLACE, Body=b"content")
        assert len(events) == 1
        client.put_object(**PLACE, Body=b"content")
        assert len(events) == 1


def test_refused_signature() -> None:
    """If a server accepts only the signature of boto3, boto3 sends the requests."""

    def picky(peer: Peer) -> None:
        peer.send(EMPTY if by_boto3(peer.head) else answer(403, "SignatureDoesNotMatch"))

    with ScriptedServer(picky) as server:
        client = server.client()
        client.put_object(**PLACE, Body=b"content")
        assert "SignatureDoesNotMatch" in str(client.refusal)


def test_wrong_secret() -> None:
    """A wrong secret is an error, and the direct client stays in use."""
    with ScriptedServer(answer(403, "SignatureDoesNotMatch")) as server:
        client = server.client()
        with pytest.raises(ClientError):
            client.head_object(**PLACE) if False else client.get_object(**PLACE)
        assert client.refusal is None


def test_changed_signed_body() -> None:
    """A signed body that changed on the way is an error, and the direct client stays in use."""
    with ScriptedServer(answer(400, "XAmzContentSHA256Mismatch"), EMPTY) as server:
        client = server.client()
        with pytest.raises(ClientError):
            client.put_object(**PLACE, Body=b"content")
        client.put_object(**PLACE, Body=b"content")
        assert client.refusal is None
        assert not any(by_boto3(head) for head, _ in server.requests)


def test_required_body_signature() -> None:
    """If a server requires signed bodies, but the settings forbid them, boto3 sends the requests."""

    def picky(peer: Peer) -> None:
        unsigned = header(peer.head, "x-amz-content-sha256") == "UNSIGNED-PAYLOAD"
        peer.send(answer(400, "XAmzContentSHA256Mismatch") if unsigned else EMPTY)

    with ScriptedServer(picky) as server:
        client = server.client(sign_bodies="never")
        client.put_object(**PLACE, Body=b"content")
        assert client.refusal is not None


def test_signed_bodies() -> None:
    """Bodies are signed until an answer repeats the checksum."""
    shown = EMPTY.replace(b"\r\n\r\n", f"\r\nx-amz-checksum-crc64nvme: {CRC}\r\n\r\n".encode())
    with ScriptedServer(EMPTY, shown, EMPTY) as server:
        client = server.client()
        for _ in range(4):
            client.put_object(**PLACE, Body=b"content", ChecksumCRC64NVME=CRC)
        unsigned = [header(head, "x-amz-content-sha256") == "UNSIGNED-PAYLOAD" for head, _ in server.requests]
        assert unsigned == [False, False, True, True]


def amazon_client(server: ScriptedServer, **options: Any) -> DirectClient:
    """A client that treats the server as Amazon."""
    made = server.client(config={"s3": {"addressing_style": "path"}}, **options)
    access = BotoAccess(made.boto, made._credentials, is_amazon=True)
    client = DirectClient(access, lambda: made.boto, max_attempts=2, pool_size=4)
    # Remove the library's hook that keeps boto3 from searching another region on servers other than Amazon's.
    handlers = client.meta.events._emitter._handlers.prefix_search("before-call.s3.HeadObject")
    for handler in list(handlers):
        if getattr(handler, "__name__", "") == "_stay_at_endpoint":
            client.meta.events.unregister("before-call.s3", handler)
    return client


@pytest.mark.parametrize(
    "elsewhere",
    [
        answer(301, "PermanentRedirect", "x-amz-bucket-region: eu-west-1"),
        answer(400, "AuthorizationHeaderMalformed", "x-amz-bucket-region: eu-west-1"),
        b"HTTP/1.1 400 Bad Request\r\nx-amz-bucket-region: eu-west-1\r\nContent-Length: 0\r\n\r\n",
        answer(307, "TemporaryRedirect", "x-amz-bucket-region: eu-west-1"),
    ],
    ids=["301", "malformed", "bare-400", "307"],
)
def test_bucket_in_other_region(elsewhere: bytes) -> None:
    """If a bucket is in another region, boto3 finds the region, and further requests are sent directly."""

    def there(peer: Peer) -> None:
        right = "/eu-west-1/s3/" in str(header(peer.head, "authorization"))
        peer.send(EMPTY if right else elsewhere)

    with ScriptedServer(there) as server:
        client = amazon_client(server)
        for _ in range(3):
            client.head_object(**PLACE) if elsewhere.startswith(b"HTTP/1.1 400 B") else client.get_object(**PLACE)[
                "Body"
            ].close()
        assert client.refusal is None
        last = server.requests[-1][0]
        assert not by_boto3(last)
        assert "/eu-west-1/s3/" in str(header(last, "authorization"))


def test_refusal_in_right_region() -> None:
    """A refusal that names the region of the client is raised, and is not treated as a redirect."""
    with ScriptedServer(answer(403, "AccessDenied", "x-amz-bucket-region: us-east-1")) as server:
        with pytest.raises(ClientError):
            amazon_client(server).get_object(**PLACE)
        assert len(server.requests) == 1


# ---- many requests


def test_shared_client() -> None:
    """Many threads share a client and its pool."""
    with ScriptedServer(OK) as server:
        client = server.client()
        with ThreadPoolExecutor(32) as threads:
            found = list(threads.map(lambda _: client.get_object(**PLACE)["Body"].read(), range(320)))
        assert found == [b"ok"] * 320
        assert len(client._pools) == 1
        assert not any(by_boto3(head) for head, _ in server.requests)


def test_body_after_begin() -> None:
    """A request that was begun does not keep its body in memory."""

    class Content(bytearray):
        """Supports weak references."""

    content = Content(b"content")
    kept = weakref.ref(content)
    with ScriptedServer(EMPTY) as server:
        started = server.client().begin("put_object", {**PLACE, "Body": content})
        assert started is not None
        del content
        assert kept() is None
        assert started.finish()["ETag"] == '"e"'
        assert server.requests[0][1] == b"content"


def test_uninitialized_client() -> None:
    """A client without `__init__` raises AttributeError."""
    with pytest.raises(AttributeError):
        _ = DirectClient.__new__(DirectClient).boto


ODD_DATE = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\nLast-Modified: 2022-10-12T17:50:00Z\r\n\r\n'
NESTED = b"<Error><Code>AccessDenied</Code><Message>why</Message><More><Code>x</Code></More></Error>"


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("utils.parse_timestamp", ODD_DATE),
        ("parsers.create_parser", b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(NESTED), NESTED)),
    ],
    ids=["date", "error"],
)
def test_incompatible_botocore(missing: str, told: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an answer needs a part of botocore that the installed release does not have, boto3 sends the request."""
    error_document._parser.cache_clear()
    with ScriptedServer(told) as server:
        client = server.client(attempts=1)
        boto = client.boto  # it has imported the part already
        monkeypatch.delattr(f"botocore.{missing}")
        assert facts_of(client) == facts_of(boto)
        assert [by_boto3(head) for head, _ in server.requests] == [False, True, True]


def facts_of(client: Any) -> Any:
    """The date of an object, or the error of the store."""
    try:
        return client.get_object(**PLACE)["LastModified"]
    except ClientError as error:
        return error.response["Error"]
