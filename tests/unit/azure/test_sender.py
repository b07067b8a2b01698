"""Requests that the library sends to Azure itself, compared with those of the SDK."""

from __future__ import annotations

import base64
import mmap
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from azure.core.credentials import AccessToken
from azure.core.pipeline import PipelineContext, PipelineRequest
from azure.core.pipeline.transport import HttpRequest
from azure.storage.blob import BlobServiceClient
from azure.storage.blob._shared.authentication import SharedKeyCredentialPolicy
from azure.storage.extensions.checksums import crc64

from gllm_storage import IntegrityError, StorageError
from gllm_storage.azure.account import AzureAccount
from gllm_storage.azure.connection import connection_of
from gllm_storage.azure.sender import signature
from gllm_storage.files.source import LocalSource
from gllm_storage.settings import MIB
from gllm_storage.store.retry import no_waits
from tests.servers.hostile import client_of
from tests.unit.s3.http.scripted import ScriptedServer, header

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.s3.http.scripted import Peer

KEY = base64.b64encode(b"a key").decode()
HEADERS = {
    "content-length": "5",
    "content-md5": "bWQ1",
    "content-type": "application/xml",
    "if-none-match": "*",
    "x-ms-blob-content-type": "text/plain",
    "x-ms-content-crc64": "AAAAAAAAAAA=",
    "x-ms-date": "Sat, 28 Nov 2026 12:00:00 GMT",
    "x-ms-encryption-key": "a",
    "x-ms-encryption-key-sha256": "b",
    "x-ms-meta-A1": "capital",
    "x-ms-meta-a_b": "underscore",
    "x-ms-meta-ab": "letters",
    "x-ms-meta-a2": "digit",
    "x-ms-meta-_x": "first",
    "x-ms-version": "2023-11-03",
}


@pytest.mark.parametrize("query", [[], [("comp", "block"), ("blockid", "a+b/c==")]], ids=["none", "block"])
@pytest.mark.parametrize("path", ["/c/k", "/account/c/a%20%C3%A9/~b"])
def test_signature(path: str, query: list[tuple[str, str]]) -> None:
    """The signature is the SDK's, whose order of headers is that of Azure."""
    request = HttpRequest("PUT", f"https://host{path}", headers=dict(HEADERS))
    request.format_parameters({name: value.replace("+", "%2B") for name, value in query})
    make: Any = SharedKeyCredentialPolicy
    policy = make("account", KEY)
    policy.on_request(PipelineRequest(request, PipelineContext(None)))
    found = signature(("account", base64.b64decode(KEY)), "PUT", path, query, HEADERS)
    assert found == request.headers["Authorization"]


SAS = "sv=2023-11-03&sig=a%2Fb"
CONNECTION_STRINGS = {
    "portal": f"DefaultEndpointsProtocol=https;AccountName=acc;AccountKey={KEY};EndpointSuffix=core.windows.net",
    "http": f"DefaultEndpointsProtocol=http;AccountName=acc;AccountKey={KEY};EndpointSuffix=core.chinacloudapi.cn",
    "no suffix": f"DefaultEndpointsProtocol=http;AccountName=acc;AccountKey={KEY}",
    "endpoint": f"AccountName=acc;AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/acc/;QueueEndpoint=http://q/",
    "lower case": f"accountname=acc;accountkey={KEY};blobendpoint=http://127.0.0.1:10000/acc",
    "SAS": f"BlobEndpoint=https://acc.blob.core.windows.net/;SharedAccessSignature={SAS}",
    "SAS with ?": f"BlobEndpoint=https://acc.blob.core.windows.net;SharedAccessSignature=?{SAS};",
    "SAS in endpoint": f"BlobEndpoint=https://acc.blob.core.windows.net/?{SAS}",
    "emulator": "UseDevelopmentStorage=true",
    "anonymous": "BlobEndpoint=https://acc.blob.core.windows.net",
}


@pytest.mark.parametrize("text", CONNECTION_STRINGS.values(), ids=CONNECTION_STRINGS)
def test_connection_string(text: str) -> None:
    """The address and the credentials of a connection string are those that the SDK finds."""
    theirs: Any = BlobServiceClient.from_connection_string(text)
    sender: Any = connection_of({"connection_string": text}).sender
    url, _, sas = theirs.url.partition("?")
    assert (sender.url.rstrip("/"), sender._sas) == (url.rstrip("/"), sas)
    key = theirs.credential and (theirs.credential.account_name, base64.b64decode(theirs.credential.account_key))
    assert sender._key == key


def test_wrong_key() -> None:
    """An account key that is not base64 is an error of this library, without the key."""
    with pytest.raises(ValueError, match="not base64"):
        AzureAccount("acc", "https://acc", account_key="abcde").plain()
    client = client_of("azure", "http://127.0.0.1:1", account_key="abcde")
    with pytest.raises(StorageError) as caught:
        client.file_exists("x")
    assert "abcde" not in str(caught.value)


class Tenants:
    """A token credential that notes the requested scopes and tenants."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked.append((scopes[0], options.get("tenant_id")))
        return AccessToken(f"token-{len(self.asked)}", 2**31)


def test_challenge(tmp_path: Path) -> None:
    """After a 401 that names tenant and resource, the request is sent again with a token for these."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    challenge = (
        "Bearer authorization_uri=https://login.microsoftonline.com/tenant-1/oauth2/authorize resource_id=https://storage"
    )
    refused = f"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: {challenge}\r\nContent-Length: 0\r\n\r\n".encode()
    found = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 1\r\n\r\n'
    credential = Tenants()
    with ScriptedServer(refused, found, tls=tls) as server:
        options = {"account_name": "acc", "endpoint_url": f"{server.url}/acc", "ca_bundle": str(tmp_path / "ca.pem")}
        store = connection_of({**options, "credential": credential}).store("models")
        for _ in range(2):
            assert store.info("x").size == 1
        sent = [header(head, "authorization") for head, _ in server.requests]
    assert sent == ["Bearer token-1", "Bearer token-2", "Bearer token-2"]
    assert credential.asked == [("https://storage.azure.com/.default", None), ("https://storage/.default", "tenant-1")]


def answered(status: str, **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        'ETag: "e"',
        "Content-Length: 0",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class Azure(ScriptedServer):
    """Checks the CRC-64 of blocks as Azure does, with Microsoft's implementation.

    Args:
        lies: How many answers state another CRC-64.
    """

    def __init__(self, lies: int = 0) -> None:
        super().__init__(self._step)
        self._lies = lies
        self.refused = 0

    def _step(self, peer: Peer) -> None:
        if b"comp=block&" not in peer.head:
            peer.send(answered("201 Created"))
            return
        body = next(body for head, body in self.requests if head is peer.head)
        assert header(peer.head, "content-md5") is None
        computed = base64.b64encode(crc64.compute(body, 0).to_bytes(8, "little")).decode()
        if computed != header(peer.head, "x-ms-content-crc64"):
            self.refused += 1
            peer.send(answered("400 Bad Request", **{"x-ms-error-code": "Crc64Mismatch"}))
            return
        self._lies -= 1
        stated = "AAAAAAAAAAA=" if self._lies >= 0 else computed
        peer.send(answered("201 Created", **{"x-ms-content-crc64": stated}))


SMALL_PARTS = {"multipart_threshold": "1MiB", "part_size": "1MiB", "max_concurrency": "1"}


@pytest.mark.parametrize(("lies", "blocks"), [(0, 4), (1, 5)], ids=["equal", "once another"])
def test_crc_of_blocks(lies: int, blocks: int, tmp_path: Path) -> None:
    """Blocks carry the CRC-64 of Azure and no MD5; a block of which the answer states another CRC-64 is sent again."""
    (tmp_path / "a").write_bytes(bytes(range(256)) * 16 * 1024)
    with no_waits(), Azure(lies) as server:
        client_of("azure", server.url, **SMALL_PARTS).upload_file(tmp_path / "a", "a")
        assert sum(b"comp=block&" in head for head, _ in server.requests) == blocks
        commit = server.requests[-1][0]
    assert b"comp=blocklist" in commit
    assert header(commit, "x-ms-blob-content-md5") == header(commit, "x-ms-meta-gllm_md5") == "YxssdiZ+VozLIhGTqyPhNA=="


def test_wrong_crc(tmp_path: Path) -> None:
    """A store that always states another CRC-64 has received other bytes."""
    (tmp_path / "a").write_bytes(bytes(2 * MIB))
    with no_waits(), Azure(lies=100) as server, pytest.raises(IntegrityError):
        client_of("azure", server.url, **SMALL_PARTS).upload_file(tmp_path / "a", "a")


def test_changed_by_mmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that changed after its CRC-64 was computed is refused by the store, and reported as a changed source."""
    from gllm_storage.azure import upload  # patched

    (tmp_path / "a").write_bytes(bytes(3 * MIB))
    original = upload._Digest.add

    def add(digest: Any, offset: int, length: int) -> int:
        crc = original(digest, offset, length)
        if offset == 2 * MIB:
            with open(tmp_path / "a", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                mapped[offset] = 1
        return crc

    monkeypatch.setattr(upload._Digest, "add", add)
    with no_waits(), Azure() as server, pytest.raises(StorageError, match="changed"):
        client_of("azure", server.url, **SMALL_PARTS).upload_file(tmp_path / "a", "a")
    assert not any(b"comp=blocklist" in head for head, _ in server.requests)


# ---- a proxy that changes the case of names


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Makes a client of ``http://azure.test``, behind the proxy of a URL."""

    def make(url: str) -> Any:
        monkeypatch.setenv("http_proxy", url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        return client_of("azure", "http://azure.test")

    return make


def test_case_of_proxy(proxied: Callable[[str], Any], tmp_path: Path) -> None:
    """A proxy may change the case of headers, as Go does: metadata are found, and so is the write-id after a lost answer."""
    (tmp_path / "a").write_bytes(b"content")
    ids: list[str] = []

    def step(peer: Peer) -> None:
        if peer.head.startswith(b"PUT"):
            ids.append(str(header(peer.head, "x-ms-meta-gllm_write_id")))
            lost = len(ids) == 1
            peer.end() if lost else peer.send(answered("409 Conflict", **{"X-Ms-Error-Code": "BlobAlreadyExists"}))
        elif not ids:
            peer.send(answered("404 Not Found", **{"X-Ms-Error-Code": "BlobNotFound"}))
        else:
            lines = f"X-Ms-Meta-Gllm_write_id: {ids[0]}\r\nX-Ms-Meta-Color: red\r\nContent-Length: 7"
            peer.send(f'HTTP/1.1 200 OK\r\nEtag: "e"\r\n{lines}\r\n\r\n'.encode())

    with no_waits(), ScriptedServer(step) as server:
        client = proxied(server.url)
        client.upload_file(tmp_path / "a", "a", check_conflict=True)
        assert client.info("a").metadata == {"color": "red", "gllm_write_id": ids[0]}
    assert len(ids) == 2


# ---- tokens


@pytest.fixture
def tls_server(tmp_path: Path) -> ssl.SSLContext:
    """The context of an https server; the CA certificate is in ``ca.pem``."""
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tls


@pytest.mark.parametrize("challenge", ["", 'WWW-Authenticate: Bearer error="invalid_token"\r\n'], ids=["none", "invalid"])
def test_revoked_token(challenge: str, tls_server: ssl.SSLContext, tmp_path: Path) -> None:
    """After any 401 the token is forgotten, and the request is sent once more with a new one."""
    refused = f"HTTP/1.1 401 Unauthorized\r\n{challenge}Content-Length: 0\r\n\r\n".encode()
    found = b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 1\r\n\r\n'
    with ScriptedServer(found, refused, found, tls=tls_server) as server:
        options = {"account_name": "acc", "endpoint_url": f"{server.url}/acc", "ca_bundle": str(tmp_path / "ca.pem")}
        store = connection_of({**options, "credential": Tenants()}).store("models")
        for _ in range(3):
            assert store.info("x").size == 1
        sent = [header(head, "authorization") for head, _ in server.requests]
        assert server.connections == 1
    assert sent == ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2"]


class Cached:
    """A token credential that always returns the same token."""

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        return AccessToken("token", 2**31)


def test_same_token(tls_server: ssl.SSLContext, tmp_path: Path) -> None:
    """If the credential returns the refused token again, the request is not repeated."""
    with ScriptedServer(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", tls=tls_server) as server:
        options = {"account_name": "acc", "endpoint_url": f"{server.url}/acc", "ca_bundle": str(tmp_path / "ca.pem")}
        store = connection_of({**options, "credential": Cached()}).store("models")
        with pytest.raises(StorageError):
            store.info("x")
        assert len(server.requests) == 1


# ---- settings


def test_sas_with_space() -> None:
    """Characters of a SAS token that do not belong into a URL are encoded, as by the SDK; others are sent as they are."""
    with ScriptedServer(b'HTTP/1.1 200 OK\r\nETag: "e"\r\nContent-Length: 1\r\n\r\n') as server:
        options = {"account_name": "acc", "endpoint_url": f"{server.url}/acc", "sas_token": "?sv=a b&sig=a%2Fbé"}
        connection = connection_of(options)
        assert connection.store("models").info("x").size == 1
        connection.service.get_blob_client("models", "x").exists()
        targets = [head.split(b"\r\n")[0].split(b" ", 1)[1].rpartition(b" ")[0] for head, _ in server.requests]
    assert targets == [b"/acc/models/x?sv=a%20b&sig=a%2Fb%C3%A9"] * 2


def test_no_scheme() -> None:
    """The URL of an account without a scheme is one of https, as for the SDK."""
    options = {"account_name": "acc", "account_key": KEY, "endpoint_url": "acc.blob.core.windows.net"}
    connection = connection_of(options)
    assert connection.sender.url == connection.service.url.rstrip("/") == "https://acc.blob.core.windows.net"


def test_changed_after_crc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that changed between its CRC-64, which the server ignored, and its MD5 is reported as a changed source."""
    (tmp_path / "a").write_bytes(bytes(2 * MIB))
    monkeypatch.setattr(LocalSource, "require_unchanged", lambda _: None)  # a write by mmap need not change the times

    def step(peer: Peer) -> None:
        if header(peer.head, "x-ms-content-crc64"):
            with open(tmp_path / "a", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
                mapped[0] = 1
        peer.send(answered("201 Created"))

    with no_waits(), ScriptedServer(step) as server, pytest.raises(StorageError, match="changed"):
        client_of("azure", server.url, **SMALL_PARTS).upload_file(tmp_path / "a", "a")
    assert not any(b"comp=blocklist" in head for head, _ in server.requests)
