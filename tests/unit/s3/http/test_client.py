"""The direct client: how often it tries, when it leaves a request to boto3, and what it raises."""

from __future__ import annotations

import itertools
import logging
import ssl
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import Stop, TransferStopped, stopped_by
from gllm_storage.errors import AccessDeniedError
from gllm_storage.s3.body import ViewSection
from gllm_storage.s3.filesystem import S3FileSystem
from gllm_storage.s3.http.client import DirectClient
from gllm_storage.s3.http.wire import Connection
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


# ---- how often


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


def give_up_soon(server: ScriptedServer, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many answers are waited for 0.2 s only, from when the server has the request: none that comes is late."""
    read_head, numbers = Connection.read_head, itertools.count(1)

    def read(self: Connection) -> tuple[int, dict[str, str]]:
        number = next(numbers)
        eventually(lambda: len(server.requests) >= number)
        if number <= times:
            self._set_timeout(0.2)
        return read_head(self)

    monkeypatch.setattr(Connection, "read_head", read)


@pytest.mark.parametrize("step", PASSING)
def test_what_passes_is_tried_again_with_the_whole_body(step: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 1000
    with ScriptedServer(step, step, EMPTY) as server:
        if step is wait:
            give_up_soon(server, 2, monkeypatch)
        client = server.client(sign_bodies="always")
        client.put_object(**PLACE, Body=ViewSection(memoryview(content), Stop()))
        assert [body for _, body in server.requests] == [content] * 3
        assert not any(by_boto3(head) for head, _ in server.requests)
        assert client.refusal is None


@pytest.mark.parametrize("step", PASSING)
@pytest.mark.parametrize("attempts", [1, 3])
def test_what_stays_is_tried_as_often_as_one_may_and_not_oftener(
    step: Any, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(step) as server:
        if step is wait:
            give_up_soon(server, attempts, monkeypatch)
        client = server.client(attempts=attempts)
        with pytest.raises((ClientError, boto.HTTPClientError)):
            client.put_object(**PLACE, Body=b"x")
        assert len(server.requests) == attempts
        assert not any(by_boto3(head) for head, _ in server.requests)


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchKey"), (412, "x"), (501, "x"), (400, "BadDigest")]
)
def test_what_will_not_pass_is_not_tried_again(status: int, code: str) -> None:
    with ScriptedServer(answer(status, code)) as server:
        with pytest.raises(ClientError):
            server.client().put_object(**PLACE, Body=b"x")
        assert len(server.requests) == 1


def test_a_kept_connection_that_was_given_up_costs_an_attempt_but_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "S3_FIRST_WAIT", 100.0)
    with ScriptedServer(OK, hang_up, OK) as server:
        client = server.client(attempts=2)
        for _ in range(2):
            client.get_object(**PLACE)["Body"].read()
        assert server.connections == 2


def test_a_wait_ends_when_the_transfer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_body_that_breaks_off_is_an_error_that_we_know() -> None:
    with ScriptedServer(then_hang_up(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9\r\n\r\nx")) as server:
        body = server.client().get_object(**PLACE)["Body"]
        with pytest.raises(boto.HTTPClientError):
            body.read()


def test_a_body_that_is_given_up_is_told_as_that() -> None:
    stop = Stop()
    with ScriptedServer(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9\r\n\r\nx") as server, stopped_by(stop):
        body = server.client().get_object(**PLACE)["Body"]
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(TransferStopped):
            body.read()


def test_a_generator_that_is_dropped_and_a_body_that_is_closed_leave_no_socket() -> None:
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
        assert not client._places["bucket"].pool._free.get()  # type: ignore[union-attr]
    assert open_sockets() <= before


# ---- errors


def raised(call: Callable[[], object]) -> type[BaseException]:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its type is compared
        call()
    return caught.type


def test_what_cannot_be_reached_fails_as_with_boto3() -> None:
    for url in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        client = made_client(url, attempts=1)
        assert raised(lambda: client.head_object(**PLACE)) is raised(lambda: client.boto.head_object(**PLACE))  # noqa: B023


@pytest.mark.parametrize("step", [hang_up, reset, wait])
def test_an_answer_that_does_not_come_fails_as_with_boto3(step: Any) -> None:
    with ScriptedServer(step) as server:
        client = server.client(attempts=1, config={"read_timeout": 0.3} if step is wait else {})
        assert raised(lambda: client.head_object(**PLACE)) is raised(lambda: client.boto.head_object(**PLACE))


@pytest.mark.parametrize("trust", ["unknown", "wrong name"])
def test_a_server_that_cannot_be_trusted_fails_as_with_boto3(trust: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example" if trust == "wrong name" else "127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    verify = str(tmp_path / "ca.pem") if trust == "wrong name" else True
    with ScriptedServer(EMPTY, tls=None if trust == "plain http" else context) as server:
        client = made_client(f"https://127.0.0.1:{server.port}", attempts=1, verify=verify)
        assert (
            raised(lambda: client.head_object(**PLACE)) is raised(lambda: client.boto.head_object(**PLACE)) is boto.SSLError
        )
        assert client.refusal is None


@pytest.mark.parametrize("way", ["option", "environment", "profile", "none"])
def test_certificates_are_trusted_as_boto3_trusts_them(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_certificate_file_that_is_missing_fails_as_with_boto3() -> None:
    client = made_client("https://127.0.0.1:9", attempts=1, verify="/no/such/file")
    assert raised(lambda: client.head_object(**PLACE)) is raised(lambda: client.boto.head_object(**PLACE))


def test_missing_credentials_are_our_error() -> None:
    fs = S3FileSystem(endpoint_url="http://127.0.0.1:9", skip_instance_cache=True)
    with pytest.raises(AccessDeniedError):
        fs.cat_file("bucket/k")


def test_requests_of_nobody_are_not_signed() -> None:
    with ScriptedServer(EMPTY) as server:
        client = server.client(anonymous=True)
        client.put_object(**PLACE, Body=b"content")
        (head, _), *_ = server.requests
        assert not by_boto3(head)
        assert (header(head, "authorization"), header(head, "x-amz-date")) == (None, None)


# ---- boto3 instead


def only_boto3(peer: Peer) -> None:
    """A server that understands boto3 and nobody else."""
    peer.send(EMPTY if by_boto3(peer.head) else b"What?\r\n\r\n")


@pytest.mark.parametrize("threads", [1, 16])
def test_a_server_that_only_boto3_can_talk_to_is_served_by_it_from_then_on(
    threads: int, caplog: pytest.LogCaptureFixture
) -> None:
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


def test_a_server_that_nobody_can_talk_to_is_no_reason_to_give_up(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedServer(b"What?\r\n\r\n") as server, caplog.at_level(logging.WARNING, LOGGER):
        client = server.client(attempts=1)
        with pytest.raises(boto.HTTPClientError):
            client.head_object(**PLACE)
        assert client.refusal is None
        assert caplog.records == []


def test_a_server_that_refuses_our_signature_is_served_by_boto3() -> None:
    def picky(peer: Peer) -> None:
        peer.send(EMPTY if by_boto3(peer.head) else answer(403, "SignatureDoesNotMatch"))

    with ScriptedServer(picky) as server:
        client = server.client()
        client.put_object(**PLACE, Body=b"content")
        assert "SignatureDoesNotMatch" in str(client.refusal)


def test_a_wrong_secret_is_an_error_and_no_reason_to_give_up() -> None:
    with ScriptedServer(answer(403, "SignatureDoesNotMatch")) as server:
        client = server.client()
        with pytest.raises(ClientError):
            client.head_object(**PLACE) if False else client.get_object(**PLACE)
        assert client.refusal is None


def test_a_signed_body_that_changed_on_the_way_is_an_error_and_no_reason_to_give_up() -> None:
    with ScriptedServer(answer(400, "XAmzContentSHA256Mismatch"), EMPTY) as server:
        client = server.client()
        with pytest.raises(ClientError):
            client.put_object(**PLACE, Body=b"content")
        client.put_object(**PLACE, Body=b"content")
        assert client.refusal is None
        assert not any(by_boto3(head) for head, _ in server.requests)


def test_a_server_that_wants_bodies_signed_is_served_by_boto3() -> None:
    def picky(peer: Peer) -> None:
        unsigned = header(peer.head, "x-amz-content-sha256") == "UNSIGNED-PAYLOAD"
        peer.send(answer(400, "XAmzContentSHA256Mismatch") if unsigned else EMPTY)

    with ScriptedServer(picky) as server:
        client = server.client(sign_bodies="never")
        client.put_object(**PLACE, Body=b"content")
        assert client.refusal is not None


def test_bodies_are_signed_until_the_checksum_comes_back() -> None:
    shown = EMPTY.replace(b"\r\n\r\n", f"\r\nx-amz-checksum-crc64nvme: {CRC}\r\n\r\n".encode())
    with ScriptedServer(EMPTY, shown, EMPTY) as server:
        client = server.client()
        for _ in range(4):
            client.put_object(**PLACE, Body=b"content", ChecksumCRC64NVME=CRC)
        unsigned = [header(head, "x-amz-content-sha256") == "UNSIGNED-PAYLOAD" for head, _ in server.requests]
        assert unsigned == [False, False, True, True]


def amazon(server: ScriptedServer, **options: Any) -> DirectClient:
    """A client that takes a server for Amazon."""
    made = server.client(config={"s3": {"addressing_style": "path"}}, **options)
    client = DirectClient(made.boto, made._credentials, max_attempts=2, is_amazon=True, pool_size=4)
    # Our own hook keeps boto3 from looking for another region at any server but Amazon's.
    handlers = client.meta.events._emitter._handlers.prefix_search("before-call.s3.HeadObject")  # type: ignore[attr-defined]
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
def test_a_bucket_in_another_region_is_found_by_boto3_and_then_asked_directly(elsewhere: bytes) -> None:
    def there(peer: Peer) -> None:
        right = "/eu-west-1/s3/" in str(header(peer.head, "authorization"))
        peer.send(EMPTY if right else elsewhere)

    with ScriptedServer(there) as server:
        client = amazon(server)
        for _ in range(3):
            client.head_object(**PLACE) if elsewhere.startswith(b"HTTP/1.1 400 B") else client.get_object(**PLACE)[
                "Body"
            ].close()
        assert client.refusal is None
        last = server.requests[-1][0]
        assert not by_boto3(last)
        assert "/eu-west-1/s3/" in str(header(last, "authorization"))


def test_a_refusal_that_names_the_right_region_is_one() -> None:
    with ScriptedServer(answer(403, "AccessDenied", "x-amz-bucket-region: us-east-1")) as server:
        with pytest.raises(ClientError):
            amazon(server).get_object(**PLACE)
        assert len(server.requests) == 1


# ---- many at a time


def test_threads_share_a_client() -> None:
    with ScriptedServer(OK) as server:
        client = server.client()
        with ThreadPoolExecutor(32) as threads:
            found = list(threads.map(lambda _: client.get_object(**PLACE)["Body"].read(), range(320)))
        assert found == [b"ok"] * 320
        assert len(client._pools) == 1
        assert not any(by_boto3(head) for head, _ in server.requests)


def test_a_request_that_was_begun_keeps_nothing_of_its_body() -> None:
    class Content(bytearray):
        """Can be referred to weakly."""

    content = Content(b"content")
    kept = weakref.ref(content)
    with ScriptedServer(EMPTY) as server:
        started = server.client().begin("put_object", {**PLACE, "Body": content})
        assert started is not None
        del content
        assert kept() is None
        assert started.finish()["ETag"] == '"e"'
        assert server.requests[0][1] == b"content"


def test_a_half_made_client_has_no_attributes() -> None:
    with pytest.raises(AttributeError):
        DirectClient.__new__(DirectClient).boto  # noqa: B018
