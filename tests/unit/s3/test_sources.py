"""Every source of the endpoint and of credentials reaches the requests of the verbs, the filesystem and s3fs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import fsspec.config
import pytest

from gllm_storage import S3StorageClient
from gllm_storage.s3.settings import ENGINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BUCKET = "models"
LISTING = (
    b"<?xml version='1.0'?><ListBucketResult><Name>models</Name><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys>"
    b"<IsTruncated>false</IsTruncated><Contents><Key>a</Key><Size>7</Size><ETag>&quot;e&quot;</ETag>"
    b"<LastModified>2024-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
)
CREDENTIAL = re.compile(r"Credential=([^/]+)/\d{8}/([^/]+)/s3/aws4_request")


@dataclass(frozen=True)
class Signed:
    """The identity of a request.

    Attributes:
        key: The access key; None if the request is not signed.
        region: The region of the signature.
        token: The session token.
    """

    key: str | None = "AKID"
    region: str | None = "us-east-1"
    token: str | None = None


ANONYMOUS = Signed(None, None)


class Recorder(ThreadingHTTPServer):
    """A store with an object ``a`` in every bucket, which records the identities of its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.identities: list[Signed] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Recorder

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/credentials":  # the credentials endpoint of a container
            keys = {"AccessKeyId": "AKID", "SecretAccessKey": "s", "Token": "TOKEN", "Expiration": "2999-01-01T00:00:00Z"}
            self._send(200, json.dumps(keys).encode())
            return
        found = CREDENTIAL.search(self.headers.get("Authorization", ""))
        token = self.headers.get("x-amz-security-token")
        self.server.identities.append(Signed(found[1], found[2], token) if found else Signed(None, None, token))
        if self.path.partition("?")[0].rstrip("/") == f"/{BUCKET}":
            self._send(200, LISTING)
        elif self.command == "PUT":
            self._send(200, b"")
        elif self.path.partition("?")[0].endswith("/a"):
            self._send(200, b"content")
        else:
            self._send(404, b"")

    do_GET = do_HEAD = do_PUT = do_DELETE = _answer  # noqa: N815 - names of the standard library

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@dataclass
class World:
    """The settings of one test outside the config."""

    url: str
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    fsspec: dict[str, Any] = field(default_factory=dict)

    def env(self, **variables: str) -> None:
        """Set environment variables."""
        for name, value in variables.items():
            self.monkeypatch.setenv(name, value)

    def keys(self) -> None:
        """Set credentials by environment variables."""
        self.env(AWS_ACCESS_KEY_ID="AKID", AWS_SECRET_ACCESS_KEY="s")

    def file(self, variable: str, text: str) -> None:
        """Write a file, and name it by an environment variable."""
        path = self.folder / variable
        path.write_text(text)
        self.env(**{variable: str(path)})

    def configure_fsspec(self, file: dict[str, Any] | None = None, **variables: str) -> None:
        """Configure fsspec by a file or by environment variables, and read them as its import does."""
        self.env(**variables)
        found: dict[str, Any] = {}
        if file is not None:
            (self.folder / "fsspec.json").write_text(json.dumps(file))
            fsspec.config.set_conf_files(str(self.folder), found)
        fsspec.config.set_conf_env(found)
        for protocol, options in found.items():
            self.monkeypatch.setitem(fsspec.config.conf, protocol, options)


PAIR = {"aws_access_key_id": "AKID", "aws_secret_access_key": "s"}
PROFILE = "aws_access_key_id = AKID\naws_secret_access_key = s\n"
OTHER = {"AWS_ACCESS_KEY_ID": "OTHER", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "OTHER"}

SOURCES: dict[str, tuple[Callable[[World], dict[str, str]], Signed]] = {}


def source(signed: Signed = Signed()) -> Callable[[Callable[[World], dict[str, str]]], None]:
    """Register a source: a function that changes the world outside the config, and returns the config."""

    def register(setup: Callable[[World], dict[str, str]]) -> None:
        SOURCES[setup.__name__] = (setup, signed)

    return register


# ---- the config


@source()
def config(world: World) -> dict[str, str]:
    return {"endpoint_url": world.url, **PAIR}


@source(Signed(token="TOKEN"))
def config_token(world: World) -> dict[str, str]:
    return {"endpoint_url": world.url, **PAIR, "aws_session_token": "TOKEN"}


@source(Signed(region="eu-west-3"))
def config_region(world: World) -> dict[str, str]:
    return {"endpoint_url": world.url, **PAIR, "region_name": "eu-west-3"}


@source()
def config_before_env(world: World) -> dict[str, str]:
    world.env(**OTHER, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    return {"endpoint_url": world.url, **PAIR}


@source(ANONYMOUS)
def config_anonymous(world: World) -> dict[str, str]:
    return {"endpoint_url": world.url, "anonymous": "true"}


@source(ANONYMOUS)
def config_anonymous_before_env(world: World) -> dict[str, str]:
    world.env(**OTHER)
    return {"endpoint_url": world.url, "anonymous": "true"}


# ---- boto3's own sources


@source()
def env_keys(world: World) -> dict[str, str]:
    world.keys()
    return {"endpoint_url": world.url}


@source(Signed(token="TOKEN"))
def env_token(world: World) -> dict[str, str]:
    world.keys()
    world.env(AWS_SESSION_TOKEN="TOKEN")
    return {"endpoint_url": world.url}


@source()
def env_endpoint(world: World) -> dict[str, str]:
    world.keys()
    world.env(AWS_ENDPOINT_URL=world.url)
    return {}


@source()
def env_endpoint_s3(world: World) -> dict[str, str]:
    world.keys()
    world.env(AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ENDPOINT_URL_S3=world.url)
    return {}


@source(Signed(region="eu-west-3"))
def env_region(world: World) -> dict[str, str]:
    world.keys()
    world.env(AWS_DEFAULT_REGION="eu-west-3")
    return {"endpoint_url": world.url}


@source()
def credentials_file(world: World) -> dict[str, str]:
    world.file("AWS_SHARED_CREDENTIALS_FILE", f"[default]\n{PROFILE}")
    return {"endpoint_url": world.url}


@source(Signed(region="eu-west-3"))
def config_file(world: World) -> dict[str, str]:
    world.file("AWS_CONFIG_FILE", f"[default]\n{PROFILE}region = eu-west-3\nendpoint_url = {world.url}\n")
    return {}


@source()
def config_file_services(world: World) -> dict[str, str]:
    text = f"[default]\n{PROFILE}services = mine\n[services mine]\ns3 =\n  endpoint_url = {world.url}\n"
    world.file("AWS_CONFIG_FILE", text)
    return {}


@source(Signed(region="eu-west-3"))
def profile(world: World) -> dict[str, str]:
    world.env(**OTHER)
    text = f"[profile training]\n{PROFILE}region = eu-west-3\nendpoint_url = {world.url}\n"
    world.file("AWS_CONFIG_FILE", text)
    return {"profile_name": "training"}


@source()
def env_profile(world: World) -> dict[str, str]:
    world.env(AWS_PROFILE="training")
    world.file("AWS_SHARED_CREDENTIALS_FILE", f"[training]\n{PROFILE}")
    return {"endpoint_url": world.url}


@source(Signed(token="TOKEN"))
def process(world: World) -> dict[str, str]:
    answer = {"Version": 1, "AccessKeyId": "AKID", "SecretAccessKey": "s", "SessionToken": "TOKEN"}
    (world.folder / "answer").write_text(json.dumps(answer))
    world.file("AWS_CONFIG_FILE", f"[default]\ncredential_process = cat {world.folder}/answer\n")
    return {"endpoint_url": world.url}


@source(Signed(token="TOKEN"))
def container(world: World) -> dict[str, str]:
    world.env(AWS_CONTAINER_CREDENTIALS_FULL_URI=f"{world.url}/credentials")
    return {"endpoint_url": world.url}


# ---- fsspec's configuration


@source()
def fsspec_env(world: World) -> dict[str, str]:
    world.configure_fsspec(FSSPEC_S3_ENDPOINT_URL=world.url, FSSPEC_S3_KEY="AKID", FSSPEC_S3_SECRET="s")
    return {}


@source()
def fsspec_env_s3a(world: World) -> dict[str, str]:
    world.configure_fsspec(FSSPEC_S3A_ENDPOINT_URL=world.url, FSSPEC_S3A_KEY="AKID", FSSPEC_S3A_SECRET="s")
    return {}


@source(Signed(token="TOKEN"))
def fsspec_env_json(world: World) -> dict[str, str]:
    options = {"endpoint_url": world.url, "key": "AKID", "secret": "s", "token": "TOKEN"}
    world.configure_fsspec(FSSPEC_S3=json.dumps(options))
    return {}


@source(Signed(region="eu-west-3"))
def fsspec_file(world: World) -> dict[str, str]:
    client = {"region_name": "eu-west-3"}
    world.configure_fsspec({"s3": {"endpoint_url": world.url, "key": "AKID", "secret": "s", "client_kwargs": client}})
    return {}


@source()
def fsspec_file_username(world: World) -> dict[str, str]:
    world.configure_fsspec({"s3": {"endpoint_url": world.url, "username": "AKID", "password": "s"}})
    return {}


@source()
def fsspec_client_kwargs(world: World) -> dict[str, str]:
    client = {"endpoint_url": world.url, "aws_access_key_id": "AKID", "aws_secret_access_key": "s"}
    world.configure_fsspec({"s3": {"client_kwargs": client}})
    return {}


@source()
def fsspec_profile(world: World) -> dict[str, str]:
    world.file("AWS_SHARED_CREDENTIALS_FILE", f"[training]\n{PROFILE}")
    world.configure_fsspec({"s3": {"endpoint_url": world.url, "profile": "training"}})
    return {}


@source(ANONYMOUS)
def fsspec_anonymous(world: World) -> dict[str, str]:
    world.env(**OTHER)
    world.configure_fsspec({"s3": {"endpoint_url": world.url, "anon": True}})
    return {}


@source()
def fsspec_before_env(world: World) -> dict[str, str]:
    world.env(**OTHER, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    world.configure_fsspec({"s3": {"endpoint_url": world.url, "key": "AKID", "secret": "s"}})
    return {}


@source()
def config_before_fsspec(world: World) -> dict[str, str]:
    world.configure_fsspec({"s3": {"endpoint_url": "http://127.0.0.1:9", "key": "OTHER", "secret": "o"}})
    return {"endpoint_url": world.url, **PAIR}


# ---- the tests


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SOURCES)
def test_source(name: str, engine: str, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verbs, the filesystem, and s3fs's own methods reach the same server with the same identity."""
    setup, signed = SOURCES[name]
    world = World(recorder.url, tmp_path, monkeypatch)
    made = S3StorageClient({"bucket_name": BUCKET, "engine": engine, "max_attempts": "1", **setup(world)})
    filesystem = made.filesystem
    calls: dict[str, Callable[[], Any]] = {
        "info": lambda: made.info("a"),
        "list": lambda: list(made.list_files()),
        "download": lambda: made.download_file("a", tmp_path / "down"),
        "upload": lambda: made.upload_file(tmp_path / "down", "b"),
        "fs.info": lambda: filesystem.info(f"{BUCKET}/a"),
        "fs.cat": lambda: filesystem.cat_file(f"{BUCKET}/a"),
        "fs.ls": lambda: filesystem.ls(BUCKET),  # by s3fs
    }
    for each, call in calls.items():
        recorder.identities.clear()
        call()
        assert set(recorder.identities) == {signed}, each


def test_storage_options(recorder: Recorder) -> None:
    """A filesystem with the client's storage options has the identity of the client."""
    made = S3StorageClient({"bucket_name": BUCKET, "endpoint_url": recorder.url, **PAIR, "aws_session_token": "TOKEN"})
    with fsspec.open(made.url("a"), "rb", **made.storage_options, skip_instance_cache=True) as file:
        assert file.read() == b"content"
    assert set(recorder.identities) == {Signed(token="TOKEN")}


VERBS = """
import sys
from gllm_storage import ObjectExistsError, S3StorageClient
client = S3StorageClient({"bucket_name": "models", "endpoint_url": sys.argv[1], "conditional_writes": "enforced",
                          "aws_access_key_id": "AKID", "aws_secret_access_key": "s", "engine": sys.argv[3]})
assert client.info("a").size == 7
assert client.file_exists("a") and not client.file_exists("b")
assert len(list(client.list_files())) == 1
local = client.download_file("a", sys.argv[2] + "/down")
client.upload_file(local, "b", check_conflict=True)
client.upload_file(local, "a")
try:
    client.upload_file(local, "a", check_conflict=True)
except ObjectExistsError:
    print("conflict")
try:
    client.delete_file("b")
except FileNotFoundError:
    print("missing")
print(sorted({"s3fs", "aiohttp", "aiobotocore", "gcsfs", "adlfs"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_imports(engine: str, recorder: Recorder, tmp_path: Path) -> None:
    """The verbs import neither s3fs nor aiohttp."""
    environ = {**os.environ, "FSSPEC_CONFIG_DIR": str(tmp_path / "none")}
    done = subprocess.run(
        [sys.executable, "-c", VERBS, recorder.url, str(tmp_path), engine],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=environ,
    )
    assert done.stdout.split("\n")[:3] == ["conflict", "missing", "[]"], done.stderr
