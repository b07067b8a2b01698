"""The first verb of a process imports no more than it needs: boto3's client takes half a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from gllm_storage.store.checksums import crc64nvme, encode
from tests.unit.s3.http.scripted import KEYS, ScriptedServer

if TYPE_CHECKING:
    from pathlib import Path

BOTO = {"boto3", "botocore.client", "botocore.compat", "botocore.parsers", "botocore.session", "botocore.utils"}
SLOW = {"aiohttp", "asyncio", "awscrt", "email", "fsspec", "http.client", "s3fs", "urllib3", "xml"} | BOTO
UNUSED = {
    "difflib",
    "gllm_storage.cli.plan",
    "gllm_storage.cli.transfers",
    "gllm_storage.s3.upload",
    "json",
    "rich",
    "tempfile",
}
"""Further modules that the command ``exists`` does not need."""
CONTENT = b"content"
FOUND = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\nETag: "321c3cf486ed509164edec1e1981fec8"\r\n'
    b"x-amz-checksum-crc64nvme: %s\r\nx-amz-checksum-type: FULL_OBJECT\r\n\r\n" % encode(crc64nvme(CONTENT)).encode()
)
MISSING = b"HTTP/1.1 404 Not Found\r\n\r\n"
RANGE = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 7\r\nContent-Range: bytes 0-6/7\r\n"
    b'ETag: "321c3cf486ed509164edec1e1981fec8"\r\n\r\n' + CONTENT
)
LISTING = (
    b"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated><Contents><Key>a/k</Key><Size>7</Size>"
    b'<ETag>"e"</ETag><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>'
)
LISTED = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(LISTING), LISTING)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
STORED = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "321c3cf486ed509164edec1e1981fec8"\r\n\r\n'
NO_KEY = b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>"
REFUSED = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(NO_KEY), NO_KEY)

VERB = """
import json, os, sys
from gllm_storage import ObjectNotFoundError, get_storage_client

config, verb, names, file = json.loads(sys.argv[1]), sys.argv[2], set(json.loads(sys.argv[3])), sys.argv[4]
client = get_storage_client("s3", config)
try:
    result = eval(verb)
except ObjectNotFoundError:
    result = "missing"
print(json.dumps([str(result), sorted(names & sys.modules.keys())]))
"""


def run(verb: str, *answers: bytes, slow: set[str], file: Path | str = "", keys: bool = True, **variables: str) -> str:
    """Run a verb in a new process, and check the modules that it has imported; the result of the verb."""
    with ScriptedServer(*answers) as server:
        config = {"bucket_name": "bucket", "endpoint_url": server.url, **(KEYS if keys else {})}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        command = [sys.executable, "-c", VERB, json.dumps(config), verb, json.dumps(sorted(slow)), str(file)]
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env={**environment, "HOME": "/", **variables}
        )
        assert child.returncode == 0, child.stderr
        result, imported = json.loads(child.stdout)
        assert imported == []
        return str(result)


@pytest.mark.parametrize(
    ("verb", "answers", "needed", "expected"),
    [
        ("client.file_exists('k')", [FOUND], (), "True"),
        ("client.file_exists('k')", [MISSING, STORED], (), "False"),
        ("client.info('k').size", [FOUND], (), "7"),
        ("client.delete_file('k')", [FOUND, EMPTY], (), "True"),
        ("client.delete_file('k')", [MISSING, STORED], (), "missing"),
        ("client.upload_file(file, 'k')", [STORED], ("awscrt",), "s3://bucket/k"),
        ("client.download_file('k', file).read_bytes()", [FOUND + CONTENT], ("awscrt",), "b'content'"),
        ("client.download_file('k', file)", [REFUSED], ("xml",), "missing"),
        ("[each.size for each in client.list_files('a')]", [LISTED], ("xml",), "[7]"),
        ("[each.url for each in client.list_folder('a')]", [LISTED], ("xml",), "['s3://bucket/a/k']"),
    ],
    ids=[
        "exists",
        "missing",
        "info",
        "delete",
        "delete missing",
        "upload",
        "download",
        "download missing",
        "list",
        "folder",
    ],
)
def test_first_verb(verb: str, answers: list[bytes], needed: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    """The first verb imports neither boto3's client nor other slow packages."""
    file = tmp_path / "file"
    file.write_bytes(b"uploaded")
    assert run(verb, *answers, slow=SLOW - set(needed), file=file) == expected


@pytest.mark.parametrize(
    ("verb", "answers", "needed", "expected"),
    [
        ("client.open('k').read()", [FOUND, RANGE], (), "b'content'"),
        ("client.open('k', 'r', encoding='ascii').readline()", [FOUND, RANGE], (), "content"),
        ("client.open('k', block_size=2**20).read(1)", [FOUND, RANGE], (), "b'c'"),
        ("client.open('k')", [FOUND], (), "<File-like object S3FileSystem, bucket/k>"),
        ("client.open('k', 'wb', ContentType='a/b').__exit__(None, None, None)", [STORED], ("awscrt",), "None"),
        ("client.open('k', 'w').__exit__(None, None, None)", [STORED], ("awscrt",), "None"),
        ("client.open('k', 'r', errors='strict')", [MISSING, STORED], (), "missing"),
    ],
    ids=["read", "text", "block size", "repr", "write", "write text", "missing"],
)
def test_open(verb: str, answers: list[bytes], needed: tuple[str, ...], expected: str) -> None:
    """`open` imports neither fsspec and s3fs nor boto3's client."""
    assert run(verb, *answers, slow=SLOW - set(needed)) == expected


LATE_IMPORT = """
file = client.open("k")
def is_of_fsspec():
    import fsspec
    return isinstance(file, fsspec.spec.AbstractBufferedFile)
def is_of_s3fs():
    import s3fs
    return isinstance(file, s3fs.S3File)
result = is_of_fsspec(), is_of_s3fs()
"""


def test_late_import() -> None:
    """A file is an instance of fsspec's class, and of s3fs's, also if they are imported after it was opened."""
    run_late(LATE_IMPORT, "(True, True)", 1, "")


KEYS_IN_FILE = "[default]\naws_access_key_id = a\naws_secret_access_key = b\n"
PROCESS = """[default]
credential_process = echo '{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b"}'
"""


@pytest.mark.parametrize("where", ["environment", "file", "process"])
def test_chain(where: str, tmp_path: Path) -> None:
    """Keys of the environment or a file need no session of botocore; those of a process need no client."""
    variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    if where != "environment":
        file = tmp_path / "file"
        file.write_text(KEYS_IN_FILE if where == "file" else PROCESS)
        variables = {"AWS_SHARED_CREDENTIALS_FILE" if where == "file" else "AWS_CONFIG_FILE": str(file)}
    slow = {"boto3", "s3fs", "aiohttp"} if where == "process" else SLOW
    assert run("client.file_exists('k')", FOUND, slow=slow, keys=False, **variables) == "True"


LATE = """
import json, sys
from gllm_storage import get_storage_client
config, file = json.loads(sys.argv[1]), sys.argv[2]
client = get_storage_client("s3", config)
"""
MOTO = """
first = client.file_exists("k")
import os
os.environ["MOTO_S3_CUSTOM_ENDPOINTS"] = config["endpoint_url"]
import boto3
from moto import mock_aws
with mock_aws():
    boto3.client("s3", region_name="us-east-1", endpoint_url=config["endpoint_url"]).create_bucket(Bucket="bucket")
    client.upload_file(file, "k")
    inside = client.file_exists("k"), client.file_exists("other")
result = first, inside, client.file_exists("k")
"""
PATCH = """
first = client.file_exists("k")
from unittest.mock import patch
found = {"ContentLength": 3, "ETag": '"e"', "ResponseMetadata": {"HTTPStatusCode": 200}}
with patch("botocore.client.BaseClient._make_api_call", return_value=found):
    inside = client.info("k").size
result = first, inside, client.info("k").size
"""
TRACER = """
import wrapt
calls = []
def traced(wrapped, instance, args, kwargs):
    calls.append(args[0])
    return wrapped(*args, **kwargs)
def patch(module):
    wrapt.wrap_function_wrapper(module, "BaseClient._make_api_call", traced)
wrapt.register_post_import_hook(patch, "botocore.client")
result = client.file_exists("k"), calls
"""
SESSION = """
from unittest.mock import Mock, patch
calls = []
def send(session, request):
    from botocore.awsrequest import AWSResponse
    calls.append(request.method)
    return AWSResponse(request.url, 200, {"Content-Length": "3", "ETag": '"e"'}, Mock(stream=list))
with patch("botocore.httpsession.URLLib3Session.send", send):
    inside = client.info("k").size
result = inside, calls, client.info("k").size
"""
INITIALIZER = """
import botocore
calls = [client.file_exists("k")] if "late" in file else []
def initialize(session):
    session.register("before-send.s3", lambda request, **_: calls.append(request.method))
botocore.register_initializer(initialize)
result = client.file_exists("k"), calls
"""
MAKER = """
import importlib
calls = [client.file_exists("k")] if "late" in file else []
def see(request, **_):
    calls.append(request.method)
def replace(module, name, method):
    owner = getattr(importlib.import_module(module), name)
    original = getattr(owner, method)
    def replacement(self, *args, **kwargs):
        made = original(self, *args, **kwargs)
        (self if made is None else made).meta.events.register("before-send.s3", see)
        return made
    setattr(owner, method, replacement)
replace({place})
result = client.file_exists("k"), calls
"""
MAKERS = {
    "constructor": '"botocore.client", "BaseClient", "__init__"',
    "creator": '"botocore.client", "ClientCreator", "create_client"',
    "botocore session": '"botocore.session", "Session", "create_client"',
    "boto3 session": '"boto3.session", "Session", "client"',
}
HANDLER = """
calls = [client.file_exists("k")]
client.store.connection.client.meta.events.register("before-send.s3", lambda request, **_: calls.append(request.method))
result = client.file_exists("k"), calls
"""


@pytest.mark.parametrize(
    ("code", "expected", "requests"),
    [
        (MOTO, "(True, (True, False), True)", 2),
        (PATCH, "(True, 3, 7)", 2),
        (TRACER, "(True, ['HeadObject'])", 1),
        (HANDLER, "(True, [True, 'HEAD'])", 2),
        (SESSION, "(3, ['HEAD'], 7)", 1),
    ],
    ids=["moto", "patch", "tracer", "handler", "session"],
)
def test_late_listener(code: str, expected: str, requests: int, tmp_path: Path) -> None:
    """Stubs, tracers and handlers that come after the first verb, or patch at the import of botocore, see all requests."""
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    run_late(code, expected, requests, file)


@pytest.mark.parametrize("when", ["early", "late"])
@pytest.mark.parametrize("kind", ["initializer", *MAKERS])
def test_hook_of_client(kind: str, when: str) -> None:
    """Code that registers a handler on each new client sees all requests, also if it comes after the first verb."""
    code = INITIALIZER if kind == "initializer" else MAKER.replace("{place}", MAKERS[kind])
    late = when == "late"
    run_late(code, f"(True, {[True, 'HEAD'] if late else ['HEAD']})", 2 if late else 1, when)


def run_late(code: str, expected: str, requests: int, file: Path | str) -> None:
    """Run code with a client in a new process; check its result, and the number of requests that the server received."""
    with ScriptedServer(FOUND) as server:
        config = {"bucket_name": "bucket", "endpoint_url": server.url, "region_name": "us-east-1", **KEYS}
        command = [sys.executable, "-c", f"{LATE}{code}\nprint(result)", json.dumps(config), str(file)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, env={**environment, "HOME": "/"}
        )
        assert child.returncode == 0, child.stderr
        assert child.stdout.strip() == expected
        assert len(server.requests) == requests


def test_command_line() -> None:
    """The command ``exists`` imports no more than the verb, and click."""
    code = (
        "import sys; from gllm_storage.cli.app import run\n"
        "print(int(run(sys.argv[2:])), sorted({*sys.argv[1].split()} & {*sys.modules}))"
    )
    with ScriptedServer(FOUND) as server:
        options = ["--endpoint-url", server.url, "--region", "us-east-1", "s3://bucket/k"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GLLM_"))}
        names = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "HOME": "/"}
        command = [sys.executable, "-c", code, " ".join(SLOW | UNUSED), "exists", *options]
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, env={**environment, **names}
        )
        assert child.stdout.strip() == "0 []"
