"""Servers whose TLS does not fit: certificates, versions, handshakes that fail, http at an https port and the reverse."""

from __future__ import annotations

import contextlib
import datetime as dt
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from gllm_storage import StorageError, StorageUnavailableError
from gllm_storage.errors import Remedy
from tests.servers.hostile import BUCKET, CLOUDS, Hostile, Reply, client_of
from tests.servers.rclone import rclone_tls
from tests.unit.s3.http.scripted import OK, ScriptedServer
from tests.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient

MANY = "9"
"""`max_attempts`: a fault that lasts is not tried so often."""

pytestmark = [pytest.mark.hostile, pytest.mark.usefixtures("no_waits")]


# ---- servers


class Authority:
    """A certificate authority that the clients trust."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.file = str(folder / "authority.pem")
        self._authority.cert_pem.write_to_path(self.file)

    def context(self, *names: str, ca: trustme.CA | None = None, **options: Any) -> ssl.SSLContext:
        """The settings of a server with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (ca or self._authority).issue_cert(*(names or ("127.0.0.1",)), **options).configure_cert(context)
        return context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def expired(authority: Authority) -> ssl.SSLContext:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    return authority.context(not_before=past - dt.timedelta(days=9), not_after=past)


def future(authority: Authority) -> ssl.SSLContext:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    return authority.context(not_before=soon, not_after=soon + dt.timedelta(days=9))


def other_host(authority: Authority) -> ssl.SSLContext:
    return authority.context("store.example.com")


def self_signed(authority: Authority) -> ssl.SSLContext:
    return authority.context(ca=trustme.CA())


def old_tls(authority: Authority) -> ssl.SSLContext:
    context = authority.context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def other_cipher(authority: Authority) -> ssl.SSLContext:
    """A cipher with a key exchange that the server's certificate does not allow."""
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")
    return context


@dataclass(frozen=True)
class Misfit:
    """A server that no repetition of the request helps.

    Attributes:
        made: Makes its TLS settings; None if it speaks http.
        says: A regular expression that the message matches.
        remedy: The advice.
    """

    made: Callable[[Authority], ssl.SSLContext] | None
    says: str
    remedy: Remedy


MISFITS = {
    "http": Misfit(None, "the server does not speak TLS at this port", Remedy.CHECK_ENDPOINT),
    "expired": Misfit(expired, "certificate has expired", Remedy.RENEW_CERTIFICATE),
    "not-yet": Misfit(future, "not yet valid", Remedy.SET_CLOCK),
    "other-host": Misfit(other_host, "of another host.*127.0.0.1", Remedy.CHECK_ENDPOINT),
    "self-signed": Misfit(self_signed, "is not trusted", Remedy.TRUST_CERTIFICATE),
    "old-tls": Misfit(old_tls, "no TLS version in common", Remedy.UPDATE_TLS),
    "other-cipher": Misfit(other_cipher, "refuses the TLS handshake", Remedy.UPDATE_TLS),
}


@contextlib.contextmanager
def serving(case: Misfit, authority: Authority) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run such a server. Yields its URL, and a function that counts its connections."""
    if case.made is None:
        with handshakes("http") as (url, accepted):
            yield url, lambda: len(accepted)
        return
    with ScriptedServer(OK, tls=case.made(authority)) as server:
        yield server.url, lambda: server.connections


# ---- verbs


def _source(folder: Path, size: int) -> Path:
    (folder / "source").write_bytes(bytes(size))
    return folder / "source"


def _download(client: FsspecStorageClient, folder: Path) -> None:
    client.download_file("x", folder / "local")


def _read(client: FsspecStorageClient, _: Path) -> None:
    with client.open("x", "rb") as file:
        file.read()


def _write(client: FsspecStorageClient, _: Path) -> None:
    with client.open("x", "wb") as file:
        file.write(b"x")


def _put_many(client: FsspecStorageClient, folder: Path) -> None:
    filesystem: Any = client.filesystem
    source = str(_source(folder, 10))
    filesystem.put([source] * 3, [f"{BUCKET}/{number}" for number in range(3)])


def _get_many(client: FsspecStorageClient, folder: Path) -> None:
    filesystem: Any = client.filesystem
    names = [f"{number}" for number in range(3)]
    filesystem.get([f"{BUCKET}/{name}" for name in names], [str(folder / name) for name in names])


VERBS: dict[str, Callable[[FsspecStorageClient, Path], object]] = {
    "exists": lambda client, _: client.file_exists("x"),
    "list": lambda client, _: list(client.list_files()),
    "download": _download,
    "upload": lambda client, folder: client.upload_file(_source(folder, 10), "x"),
    "create": lambda client, folder: client.upload_file(_source(folder, 10), "x", check_conflict=True),
    "parts": lambda client, folder: client.upload_file(_source(folder, 9 * 2**20), "x"),
    "read": _read,
    "write": _write,
    "put-many": _put_many,
    "get-many": _get_many,
}
BEFORE = b"before"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with a file that stays as it is, beside which no other file appears."""
    (tmp_path / "local").write_bytes(BEFORE)
    yield tmp_path
    assert (tmp_path / "local").read_bytes() == BEFORE
    assert {path.name for path in tmp_path.iterdir()} <= {"local", "source"}


def failure(run: Callable[[], object]) -> StorageError:
    with pytest.raises(StorageError) as caught:
        run()
    return caught.value


# ---- faults that last


@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_misfit(cloud: str, misfit: str, authority: Authority) -> None:
    """A server that never fits: the error tells the cause and the remedy, after one connection."""
    case = MISFITS[misfit]
    with serving(case, authority) as (url, connections):
        client = client_of(cloud, url, max_attempts=MANY, ca_bundle=authority.file)
        error = failure(lambda: client.info("x"))
        assert connections() == 1
    assert not isinstance(error, StorageUnavailableError)
    assert error.remedy is case.remedy
    assert str(error).count(case.remedy.value) == 1
    with pytest.raises(StorageError, match=case.says):
        raise error


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("misfit", ["http", "expired", "old-tls"])
def test_misfit_of_verb(verb: str, misfit: str, authority: Authority, folder: Path) -> None:
    """The same for each verb: few connections, and the local file is unchanged."""
    case = MISFITS[misfit]
    with serving(case, authority) as (url, connections):
        client = client_of("direct", url, max_attempts=MANY, ca_bundle=authority.file, conditional_writes="enforced")
        error = failure(lambda: VERBS[verb](client, folder))
        assert connections() <= (12 if verb == "put-many" else 6)  # three objects, each with its own error
    assert error.remedy is case.remedy


PERHAPS = "perhaps this port speaks https, and the URL says http"
SURELY = "this port of the server speaks https, and the URL says http"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_tls_behind_http(cloud: str, authority: Authority) -> None:
    """An https server behind an http URL, in Python, resets the connection: the error says what it may be."""
    with ScriptedServer(OK, tls=authority.context()) as server:
        client = client_of(cloud, server.url.replace("https:", "http:"), max_attempts="2", read_timeout="2s")
        for call in (lambda: client.info("x"), lambda: client.upload(b"x", "y"), lambda: list(client.list_files())):
            error = failure(call)
            assert error.remedy is Remedy.CHECK_NETWORK
            assert str(error).count(PERHAPS) == 1


ANSWERS = {
    "openssl": b"",
    "alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "go": b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    "nginx": (
        b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\nContent-Type: text/html\r\nContent-Length: 87\r\n"
        b"Connection: close\r\n\r\n"
        b"<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>"
    ),
}
"""What servers with TLS answer to http: OpenSSL and Node close, others send an alert, or an error page."""


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("cloud", CLOUDS)
def test_answers_to_http(cloud: str, answer: str) -> None:
    """The same for each way to refuse http; where the server tells that it is the reason, the error is sure."""
    with Hostile(lambda _: Reply(raw=[ANSWERS[answer]])) as server:
        client = client_of(cloud, server.url, max_attempts="2", read_timeout="2s")
        error = failure(lambda: list(client.list_files()))
    if cloud == "boto3" and answer in {"go", "nginx"}:
        return  # botocore does not show the text of such an answer
    is_sure = answer != "openssl" and cloud != "boto3"
    assert str(error).count(SURELY if is_sure else PERHAPS) == 1
    assert error.remedy is (Remedy.CHECK_ENDPOINT if is_sure else Remedy.CHECK_NETWORK)


@pytest.mark.parametrize("cloud", ["direct", "gcs", "azure"])
def test_server_in_go(cloud: str, tmp_path: Path) -> None:
    """A real server whose error is sure: rclone with TLS."""
    with rclone_tls(tmp_path) as server:
        client = client_of(cloud, server.endpoint_url.replace("https:", "http:"), max_attempts="2", read_timeout="5s")
        for call in (lambda: client.info("x"), lambda: client.upload(b"x", "y")):
            with pytest.raises(StorageError, match=SURELY):
                call()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_no_suspicion(cloud: str) -> None:
    """A server that has answered before speaks http: when it closes the connection later, that is no reason for https."""
    answers = [Reply(404), Reply(404), Reply(404)]
    with Hostile(lambda _: answers.pop() if answers else Reply(raw=[])) as server:
        client = client_of(cloud, server.url, max_attempts="1", read_timeout="2s")
        with pytest.raises((StorageError, FileNotFoundError)):
            client.info("x")
        answers.clear()
        error = failure(lambda: client.info("x"))
    assert error.remedy is Remedy.CHECK_NETWORK
    assert PERHAPS not in str(error)


# ---- faults that pass


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("how", ["closes", "resets", "stalls"])
def test_handshake_breaks(verb: str, how: str, authority: Authority, folder: Path) -> None:
    """A server that breaks off each handshake is a retryable error, after `max_attempts` within the timeout."""
    with handshakes(how) as (url, connections):
        config = {"max_attempts": "2", "connect_timeout": "0.2s", "read_timeout": "5s", "conditional_writes": "enforced"}
        client = client_of("direct", url, ca_bundle=authority.file, **config)
        began = time.monotonic()
        error = failure(lambda: VERBS[verb](client, folder))
        assert time.monotonic() - began < PATIENCE / 2
        assert 2 <= len(connections) <= (24 if verb == "put-many" else 12)  # three objects, each with its own error
    assert isinstance(error, StorageUnavailableError)
    assert error.remedy is Remedy.CHECK_NETWORK
    assert PERHAPS not in str(error)


@contextlib.contextmanager
def handshakes(how: str) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that reads the beginning of a handshake, and closes, resets, stalls, or answers in http and closes."""
    accepted: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = listener.accept()
                accepted.append(sock)
                sock.recv(2**14)
                if how == "http":
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                if how == "resets":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                if how != "stalls":
                    sock.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", accepted
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
        for sock in accepted:
            sock.close()


# ---- a server that changes between two connections

HEAD = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n'
    b"Connection: close\r\n\r\n"
)


@pytest.mark.parametrize("cloud", ["direct", "boto3"])
def test_expires_later(cloud: str, authority: Authority) -> None:
    """A certificate that is replaced by an expired one: the next connection is an error, after one attempt."""
    with ScriptedServer(HEAD, tls=authority.context()) as server:
        client = client_of(cloud, server.url, max_attempts=MANY, ca_bundle=authority.file)
        assert client.file_exists("x")
        before = server.connections
        server._tls = expired(authority)
        error = failure(lambda: client.file_exists("x"))
        assert server.connections == before + 1
    assert error.remedy is Remedy.RENEW_CERTIFICATE


@pytest.mark.parametrize("cloud", ["direct", "boto3"])
def test_tls12(cloud: str, authority: Authority) -> None:
    """A server that speaks TLS 1.2 only serves."""
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with ScriptedServer(HEAD, tls=context) as server:
        client = client_of(cloud, server.url, ca_bundle=authority.file)
        assert client.file_exists("x")
        assert client.file_exists("x")
        eventually(lambda: server.connections >= 2)
