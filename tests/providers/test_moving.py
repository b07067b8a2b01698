"""Copies, moves and presigned URLs by the client, and the end of its connections."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from gllm_storage import (
    AccessDeniedError,
    ConflictCheckUnsupportedError,
    InsecureTLSWarning,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StorageUnavailableError,
    UnsupportedOperationError,
    get_storage_client,
)
from gllm_storage.testing.checks import race
from gllm_storage.testing.faults import DropResponse, FaultProxy, Match
from tests.conftest import make_rig
from tests.promises.faulty import behind_proxy, no_waits
from tests.rig import MIB
from tests.servers.process import make_certificate
from tests.servers.tls import tls_before
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers
    from tests.rig import Rig

COPYING = ["memory", "file", "ministack", "ceph", "azurite", "gcs-fake"]
VERBS = ["copy_file", "move_file"]


@pytest.fixture(params=COPYING)
def copying(request: pytest.FixtureRequest) -> Rig:
    """The stores with exclusive creates, one of each kind."""
    return make_rig(request.param, request)


def run(client: FsspecStorageClient, verb: str, *args: str, **options: Any) -> str:
    result: str = getattr(client, verb)(*args, **options)
    return result


@pytest.mark.parametrize("exclusive", [False, True], ids=["overwrite", "exclusive"])
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("size", [0, 100, 6 * MIB], ids=["empty", "small", "parts"])
def test_copied(copying: Rig, verb: str, size: int, exclusive: bool) -> None:
    """The target has the content, also in a new folder; a copy leaves the source, and a move does not."""
    client, content = copying.client(), os.urandom(size)
    copying.second.put(copying.key("a"), content)
    url = run(client, verb, "a", "new/b", check_conflict=exclusive)
    assert url == client.url("new/b")
    assert copying.second.get(copying.key("new/b")) == content
    assert copying.keys() == (["a", "new/b"] if verb == "copy_file" else ["new/b"])
    assert copying.open_uploads() == []


@pytest.mark.parametrize("verb", VERBS)
def test_replaces(copying: Rig, verb: str) -> None:
    """By default the target is replaced; with `check_conflict` neither object changes."""
    client = copying.client()
    copying.second.put(copying.key("a"), b"new")
    copying.second.put(copying.key("b"), b"old")
    with pytest.raises(ObjectExistsError) as caught:
        run(client, verb, "a", "b", check_conflict=True)
    assert caught.value.url == client.url("b")
    assert copying.second.get(copying.key("b")) == b"old"
    assert copying.second.get(copying.key("a")) == b"new"
    run(client, verb, "a", "b")
    assert copying.second.get(copying.key("b")) == b"new"


@pytest.mark.parametrize("exclusive", [False, True], ids=["overwrite", "exclusive"])
@pytest.mark.parametrize("verb", VERBS)
def test_missing(copying: Rig, verb: str, exclusive: bool) -> None:
    """A source that does not exist is an error, and the target is unchanged."""
    copying.second.put(copying.key("b"), b"old")
    target = "c" if exclusive else "b"
    with pytest.raises(ObjectNotFoundError):
        run(copying.client(), verb, "a", target, check_conflict=exclusive)
    assert copying.keys() == ["b"]
    assert copying.second.get(copying.key("b")) == b"old"


@pytest.mark.parametrize("verb", VERBS)
def test_onto_itself(copying: Rig, verb: str) -> None:
    """Source and target must differ, however they are spelled."""
    client = copying.client()
    client.upload(b"x", "a")
    with pytest.raises(ValueError, match="the same"):
        run(client, verb, "a", client.url("a"))
    assert copying.second.get(copying.key("a")) == b"x"


@pytest.mark.parametrize("verb", VERBS)
def test_one_winner(copying: Rig, verb: str) -> None:
    """Of several exclusive copies or moves to one target exactly one succeeds, and no source of a loser is lost."""
    client, writers = copying.client(), 6
    for number in range(writers):
        copying.second.put(copying.key(f"source-{number}"), str(number).encode())

    def write(number: int) -> None:
        run(client, verb, f"source-{number}", "target", check_conflict=True)

    winners = race([partial(write, number) for number in range(writers)])
    assert len(winners) == 1
    assert copying.second.get(copying.key("target")) == str(winners[0]).encode()
    left = [f"source-{number}" for number in range(writers) if verb == "copy_file" or number != winners[0]]
    assert copying.keys() == [*left, "target"]


@pytest.mark.parametrize("name", [each for each in COPYING if each != "file"])
def test_replaced_while_moved(name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another writer replaces the source during a move, the replacement stays; a rename has one step."""
    rig = make_rig(name, request)
    client = rig.client()
    rig.second.put(rig.key("a"), b"one")
    kind: Any = type(client.store)
    delete = kind.delete_version

    def late(store: Any, *args: Any) -> None:
        rig.second.put(rig.key("a"), b"another")
        delete(store, *args)

    monkeypatch.setattr(kind, "delete_version", late)
    with pytest.raises(StorageUnavailableError, match="replaced"):
        client.move_file("a", "b")
    assert rig.second.get(rig.key("a")) == b"another"
    assert rig.second.get(rig.key("b")) == b"one"


@pytest.mark.parametrize("exclusive", [False, True], ids=["overwrite", "exclusive"])
def test_replaced_before_copy(copying: Rig, exclusive: bool) -> None:
    """A copy of a version that does not exist any more fails, and the target is unchanged."""
    store = copying.client().store
    copying.second.put(copying.key("a"), b"one")
    version = store.info(copying.key("a"))
    copying.second.put(copying.key("a"), b"another")
    key, target, transfer = copying.key("a"), copying.key("b"), store.transfer(copying.key("a"), "move")
    with pytest.raises((StorageError, ObjectNotFoundError)):
        store.copy_version(key, target, transfer, exclusive=exclusive, version=version)
    assert copying.keys() == ["a"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", ["rclone", "reject"])
def test_no_exclusive_create(name: str, verb: str, request: pytest.FixtureRequest) -> None:
    """A store that cannot create exclusively refuses, and nothing changes."""
    rig = make_rig(name, request)
    rig.second.put(rig.key("a"), b"x")
    with pytest.raises(ConflictCheckUnsupportedError):
        run(rig.client(), verb, "a", "b", check_conflict=True)
    assert rig.keys() == ["a"]


def test_links(tmp_path: Path) -> None:
    """The file behind a local link is moved; two names of one file become one; a folder is never moved or replaced."""
    client: Any = get_storage_client("file", {"root": str(tmp_path)})
    client.upload(b"content", "a")
    (tmp_path / "link").symlink_to("a")
    client.move_file("link", "sub/b")
    assert sorted(os.listdir(tmp_path)) == ["a", "sub"]
    assert (tmp_path / "sub/b").read_bytes() == b"content"
    assert not (tmp_path / "sub/b").is_symlink()
    os.link(tmp_path / "a", tmp_path / "twin")
    client.move_file("a", "twin")
    assert sorted(os.listdir(tmp_path)) == ["sub", "twin"]
    with pytest.raises(StorageError):
        client.move_file("twin", "sub")
    with pytest.raises(ObjectNotFoundError):
        client.move_file("sub", "c")
    with pytest.raises(ObjectNotFoundError):
        client.move_file("missing", "made/c")
    assert sorted(os.listdir(tmp_path)) == ["sub", "twin"]


LOST = {  # the requests whose answer is lost: the copy, and the delete
    "ministack": (Match(operation="CompleteMultipartUpload"), Match(method="DELETE")),
    "azurite": (Match(method="PUT"), Match(method="DELETE")),
    "gcs-fake": (Match(path="rewriteTo"), Match(method="DELETE")),
}


@pytest.mark.parametrize("step", [0, 1], ids=["copy", "delete"])
@pytest.mark.parametrize("cloud", LOST)
def test_lost_answer(cloud: str, step: int, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the answer to the copy or to the delete is lost, an exclusive move succeeds nevertheless."""
    no_waits(monkeypatch)
    with behind_proxy(cloud, servers) as faulty:
        rig = faulty.rig
        rig.second.put(rig.key("source"), b"content")
        client = rig.client(**({"conditional_writes": "enforced"} if rig.provider == "s3" else {}))
        faulty.inject(LOST[cloud][step], DropResponse())
        client.move_file("source", "target", check_conflict=True)
        assert rig.keys() == ["target"]
        assert rig.second.get(rig.key("target")) == b"content"


# ------------------------------------------------------------------ presigned URLs


def fetch(url: str, content: bytes | None = None, **headers: str) -> bytes:
    """Send a request without credentials, by another HTTP client."""
    method = "GET" if content is None else "PUT"
    request = urllib.request.Request(url, content, headers, method=method)  # noqa: S310 - a URL of a test server
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310 - likewise
        found: bytes = answer.read()
    return found


@pytest.fixture(params=["ministack", "ceph", "seaweedfs", "azurite"])
def signing(request: pytest.FixtureRequest) -> Rig:
    return make_rig(request.param, request)


@pytest.mark.parametrize("name", ["a.json", "a b+c&d=e%20", "ü/日本語"])
def test_presigned(signing: Rig, name: str) -> None:
    """Whoever has the URL can read, or write, this object alone."""
    client = signing.client()
    written = {"x-ms-blob-type": "BlockBlob"} if signing.provider == "azure" else {}
    fetch(client.presign(name, method="PUT"), b"content", **written)
    assert signing.second.get(signing.key(name)) == b"content"
    url = client.presign(name)
    assert fetch(url) == b"content"
    with pytest.raises(urllib.error.HTTPError):
        fetch(url, b"another", **written)
    signing.second.put(signing.key("other"), b"secret")
    plain = client.presign("other").partition("?")[0]
    with pytest.raises(urllib.error.HTTPError):
        fetch(f"{plain}?{url.partition('?')[2]}")


@pytest.mark.parametrize("expires", [90, 90.9, timedelta(seconds=90)], ids=str)
def test_expiry(signing: Rig, expires: Any) -> None:
    """The time is seconds or a timedelta."""
    query = parse_qs(urlsplit(signing.client().presign("a", expires=expires)).query)
    if signing.provider == "s3":
        assert query["X-Amz-Expires"] == ["90"]
    else:
        left = datetime.fromisoformat(query["se"][0]) - datetime.now(UTC)
        assert timedelta(seconds=0) < left <= timedelta(seconds=91)


def test_expired() -> None:
    """A URL of the past is refused: a wrong time is a ValueError."""
    client: Any = get_storage_client("s3", S3_CONFIG)
    for wrong in (0, -1, 0.5, True, "3600", None, float("nan"), float("inf"), 7 * 24 * 3600 + 1, timedelta(days=8)):
        with pytest.raises(ValueError, match="expires"):
            client.presign("a", expires=wrong)
    for method in ("get", "DELETE", ""):
        with pytest.raises(ValueError, match="method"):
            client.presign("a", method=method)
    with pytest.raises(ValueError, match="remote path"):
        client.presign("")


S3_CONFIG = {
    "bucket_name": "models",
    "region_name": "eu-central-1",
    "aws_access_key_id": "AKIA",
    "aws_secret_access_key": "secret",
}


def test_signature_version() -> None:
    """URLs of Amazon have a signature of version 4, also in regions where boto3's default is version 2."""
    client: Any = get_storage_client("s3", {**S3_CONFIG, "region_name": "us-east-1"})
    assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in client.presign("a")


@pytest.mark.parametrize(
    ("provider", "config"),
    [
        ("memory", {"bucket_name": "models"}),
        ("file", {"root": "/tmp"}),  # noqa: S108 - nothing is written
        ("fsspec", {"url": "memory://models"}),
        ("s3", {"bucket_name": "models", "anonymous": "true"}),
        ("gcs", {"bucket_name": "models", "anonymous": "true"}),
        ("azure", {"container_name": "models", "account_name": "acme", "anonymous": "true"}),
        ("azure", {"container_name": "models", "account_name": "acme", "sas_token": "sv=1&sig=abcdef"}),
    ],
    ids=lambda each: each if isinstance(each, str) else "-".join(each),
)
def test_cannot_sign(provider: str, config: dict[str, str]) -> None:
    """A store without presigned URLs, or credentials that cannot sign, are an error of their own."""
    client: Any = get_storage_client(provider, config)
    with pytest.raises(UnsupportedOperationError, match="presigned") as caught:
        client.presign("a")
    assert caught.value.operation == "presign"
    assert "abcdef" not in str(caught.value)


def test_no_credentials() -> None:
    """Without any credentials, the error names them."""
    client: Any = get_storage_client("s3", {"bucket_name": "models", "region_name": "us-east-1"})
    with pytest.raises(AccessDeniedError):
        client.presign("a")


def test_signed_by_service_account(tmp_path: Path) -> None:
    """On GCS the key of a service account signs, as Google documents it: https://cloud.google.com/storage/docs/authentication/signatures."""
    key = rsa.generate_private_key(65537, 2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    account = {
        "type": "service_account",
        "client_email": "a@example.com",
        "private_key": private,
        "token_uri": "https://oauth2.googleapis.com/token",
        "project_id": "p",
    }
    (tmp_path / "key.json").write_text(json.dumps(account))
    client: Any = get_storage_client("gcs", {"bucket_name": "models", "token": str(tmp_path / "key.json")})
    parts = urlsplit(client.presign("a b/ü", expires=timedelta(minutes=2)))
    assert parts.path == "/models/a%20b/%C3%BC"
    query, _, signature = parts.query.rpartition("&X-Goog-Signature=")
    assert parse_qs(query)["X-Goog-Expires"] == ["120"]
    canonical = "\n".join(["GET", parts.path, query, f"host:{parts.hostname}", "", "host", "UNSIGNED-PAYLOAD"])
    found = parse_qs(query)
    scope = found["X-Goog-Credential"][0].partition("/")[2]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    signed = "\n".join(["GOOG4-RSA-SHA256", found["X-Goog-Date"][0], scope, digest])
    key.public_key().verify(bytes.fromhex(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())


# ------------------------------------------------------------------ close, TLS


def test_with_client(copying: Rig) -> None:
    """`with client:` closes it; `close` may be called again, and the client opens new connections if it is used again."""
    with copying.client() as client:
        client.upload(b"x", "a")
        filesystem = client.filesystem
        file = client.open("a")
    client.close()
    assert client.file_exists("a")
    assert filesystem.cat_file(client.url("a")) == b"x"
    assert file.read() == b"x"
    file.close()
    copying.client().close()


def test_connections_close(copying: Rig) -> None:
    """`close` closes the idle connections of the client."""
    if copying.server is None:
        return
    client = copying.client()
    client.upload(b"x", "a")
    client.info("a")
    port = urlsplit(copying.config["endpoint_url"]).port
    before = connections_to(port)
    assert before
    client.close()
    assert len(connections_to(port)) < len(before)


def connections_to(port: int | None) -> list[str]:
    """The established connections of this process to a port, as the kernel lists them."""
    own = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            own.add(os.readlink(f"/proc/self/fd/{name}"))
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    found = [line.split() for line in lines]
    return [
        each[9] for each in found if each[2].endswith(f":{port:04X}") and each[3] == "01" and f"socket:[{each[9]}]" in own
    ]


def test_close_while_used(signing: Rig) -> None:
    """Transfers of other threads survive a `close`."""
    client = signing.client()
    client.upload(os.urandom(100_000), "a")
    expected = signing.second.get(signing.key("a"))

    def read(number: int) -> bytes:
        if number % 5 == 0:
            client.close()
        found: bytes = client.filesystem.cat_file(client.url("a"))
        return found

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(read, range(60))) == {expected}


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")  # urllib3's own, beside ours
@pytest.mark.parametrize(
    ("name", "config"),
    [("ministack", {"engine": "auto"}), ("ministack", {"engine": "boto3"}), ("azurite", {}), ("gcs-fake", {})],
    ids=["direct", "boto3", "azurite", "gcs-fake"],
)
def test_verify_tls(
    name: str, config: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``verify_tls="false"`` any certificate is accepted, with a warning; by default it is not."""
    rig = make_rig(name, request)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", make_certificate(tmp_path).authority)  # of another authority
    monkeypatch.setenv("AWS_CA_BUNDLE", os.environ["REQUESTS_CA_BUNDLE"])
    (tmp_path / "tls").mkdir()
    with tls_before(rig.config["endpoint_url"], tmp_path / "tls") as (url, authority):
        config = {**config, "endpoint_url": url, "max_attempts": "1"}
        with pytest.raises(StorageError):
            rig.client(**config).file_exists("a")
        trusting = rig.client(**config, ca_bundle=authority)
        trusting.upload(b"x", "a")
        assert trusting.filesystem.cat_file(trusting.url("a")) == b"x"
        assert f"{rig.base}{rig.key('a')}" in trusting.filesystem.find(rig.base)
        client = rig.client(**config, verify_tls="false")
        with pytest.warns(InsecureTLSWarning, match="verify_tls"):
            assert client.file_exists("a")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            filesystem = client.filesystem
            assert filesystem.cat_file(client.url("a")) == b"x"
            assert f"{rig.base}{rig.key('a')}" in filesystem.find(rig.base)  # the method of the class below
        with pytest.raises(ValueError, match="verify_tls"):
            rig.client(**config, verify_tls="false", ca_bundle=authority)


def test_azure_customer_key(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A customer key needs https on Azure, and goes with each request; Azurite refuses it."""
    rig = make_rig("azurite", request)
    key = base64.b64encode(bytes(32)).decode()
    with pytest.raises(ValueError, match="https"):
        rig.client(sse_customer_key=key)
    rig.second.put(rig.key("a"), b"content")
    place = urlsplit(rig.config["endpoint_url"])
    with FaultProxy(f"{place.scheme}://{place.netloc}") as proxy, tls_before(proxy.url, tmp_path) as (url, authority):
        config = {"endpoint_url": f"{url}{place.path}", "ca_bundle": authority, "max_attempts": "1"}
        client = rig.client(**config, sse_customer_key=key, multipart_threshold="1MiB", part_size="1MiB")
        for call in (
            lambda: client.upload(b"x", "b"),
            lambda: client.upload(bytes(3 * MIB), "b"),
            lambda: client.info("a"),
        ):
            proxy.clear()
            with contextlib.suppress(StorageError):
                call()
            sent = proxy.requests
            assert sent
            assert {each.headers.get("x-ms-encryption-key") for each in sent} == {key}
            assert {each.headers.get("x-ms-encryption-algorithm") for each in sent} == {"AES256"}
        plain = rig.client(**config).store
        with pytest.raises(StorageError):  # and not a copy on the server, without the key
            plain.copy(rig.key("a"), client.store, rig.key("c"), plain.transfer(rig.key("a"), "copy"))
    assert rig.keys() == ["a"]
