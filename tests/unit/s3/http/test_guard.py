"""A mock of boto3's network, and a listener to its events, receives all requests."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock, Mock, patch

import boto3
import botocore.awsrequest
import pytest
from botocore.awsrequest import AWSResponse
from botocore.stub import ANY, Stubber
from moto import mock_aws

from gllm_storage.s3.filesystem import S3FileSystem
from tests.unit.s3.http.scripted import EMPTY, KEYS, ScriptedServer, made_client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.s3.http.client import DirectClient

PLACE: dict[str, Any] = {"Bucket": "bucket", "Key": "k"}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(EMPTY) as running:
        yield running


def direct(client: DirectClient) -> bool:
    """Whether a request would go directly."""
    return client._prepared("head_object", PLACE) is not None


def do_nothing(*_: Any, **__: Any) -> None:
    """A handler."""


class Tracer:
    def see(self, **_: Any) -> None:
        """A handler that is a method."""


EVENTS = [
    "before-send.s3.GetObject",
    "before-send.s3",
    "before-call.*.*",
    "before-call.s3.PutObject",
    "request-created.s3",
    "before-sign.s3.UploadPart",
    "after-call.s3.HeadObject",
    "response-received.s3.DeleteObject",
    "needs-retry.s3.GetObject",
    "provide-client-params.s3.PutObject",
    "before-parameter-build.s3.HeadObject",
    "choose-signer.s3",
]
HANDLERS: dict[str, Any] = {
    "function": lambda **_: None,
    "partial": partial(do_nothing, 1),
    "mock": Mock(return_value=None),
    "magic": MagicMock(return_value=None),
    "method": Tracer().see,
}


@pytest.mark.parametrize("event", EVENTS)
def test_registered_handler(event: str, server: ScriptedServer) -> None:
    """A registered handler counts as a listener until it is unregistered."""
    client = server.client()
    assert direct(client)
    client.meta.events.register(event, handler := lambda **_: None)
    assert not direct(client)
    client.meta.events.unregister(event, handler)
    assert direct(client)


@pytest.mark.parametrize("kind", HANDLERS)
def test_kind_of_handler(kind: str, server: ScriptedServer) -> None:
    """Each kind of handler counts as a listener."""
    client = server.client()
    client.meta.events.register("before-send.s3", HANDLERS[kind])
    assert not direct(client)


def test_requests_of_handler(server: ScriptedServer) -> None:
    """A handler receives every request."""
    client = server.client()
    client.head_object(**PLACE)
    seen: list[str] = []
    client.meta.events.register("before-send.s3", lambda request, **_: seen.append(request.method))
    client.head_object(**PLACE)
    client.get_object(**PLACE)
    client.put_object(**PLACE, Body=b"")
    client.delete_object(**PLACE)
    assert seen == ["HEAD", "GET", "PUT", "DELETE"]


def test_answer_of_handler(server: ScriptedServer) -> None:
    """The answer of a handler is used."""
    client = server.client()
    headers: Any = {"Content-Length": "4"}
    answer = AWSResponse("http://x", 200, headers, Mock(stream=list))
    events: Any = client.meta.events
    events.register("before-send.s3", lambda **_: answer)
    assert client.head_object(**PLACE)["ContentLength"] == 4
    assert server.requests == []


def test_stubber(server: ScriptedServer) -> None:
    """The answers of botocore's Stubber are used."""
    client = server.client()
    assert direct(client)
    with Stubber(client.boto) as stubber:
        stubber.add_response("head_object", {"ContentLength": 7}, {"Bucket": "bucket", "Key": ANY})
        assert client.head_object(**PLACE)["ContentLength"] == 7
        stubber.add_client_error("get_object", "NoSuchKey")
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(**PLACE)
    assert server.requests == []
    assert direct(client)


def fake_call(*_: Any, **__: Any) -> dict[str, Any]:
    return {"ContentLength": 11, "ETag": '"e"'}


PATCHES: dict[str, Any] = {
    "call": lambda: patch("botocore.client.BaseClient._make_api_call", fake_call),
    "call, by a mock": lambda: patch("botocore.client.BaseClient._make_api_call"),
    "call, by its likeness": lambda: patch("botocore.client.BaseClient._make_api_call", autospec=True),
    "request": lambda: patch("botocore.client.BaseClient._make_request", autospec=True),
    "endpoint": lambda: patch("botocore.endpoint.Endpoint._send", autospec=True),
    "session": lambda: patch("botocore.httpsession.URLLib3Session.send", autospec=True),
    "connection": lambda: patch.object(
        botocore.awsrequest, "AWSHTTPConnection", type("Recorded", (botocore.awsrequest.AWSHTTPConnection,), {})
    ),
    "tls connection": lambda: patch.object(botocore.awsrequest, "AWSHTTPSConnection", Mock()),
}


@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.parametrize("first", [True, False], ids=["before the client", "after the client"])
def test_patched_botocore(kind: str, first: bool, server: ScriptedServer) -> None:
    """A patched part of botocore counts as a listener until the patch ends."""
    client = None if first else server.client()
    with PATCHES[kind]():
        client = client or server.client()
        assert not direct(client)
    assert direct(client)


@pytest.mark.parametrize("name", ["_make_api_call", "get_object", "head_object"])
def test_patched_method(name: str, server: ScriptedServer) -> None:
    """A patched method of one client is called."""
    client = server.client()
    with patch.object(client.boto, name, side_effect=fake_call):
        found = (client.get_object if name == "get_object" else client.head_object)(**PLACE)
    assert found["ContentLength"] == 11
    assert server.requests == []


BEFORE_IMPORT = """
import json, sys
from unittest.mock import patch
import botocore.client, botocore.awsrequest, botocore.httpsession
target, kind = sys.argv[1:3]
name = target.rpartition(".")[2]
with patch(target, **({"autospec": True} if kind == "likeness" else {})) as fake:
    from tests.unit.s3.http.scripted import made_client
    from gllm_storage.s3.http.guard import Listeners
    client = made_client("http://127.0.0.1:9", engine="boto3")
    during = Listeners(client).any()
print(json.dumps([during, Listeners(client).any()]))
"""


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("botocore.client.BaseClient._make_api_call", "mock"),
        ("botocore.client.BaseClient._make_api_call", "likeness"),
        ("botocore.httpsession.URLLib3Session.send", "likeness"),
        ("botocore.awsrequest.AWSHTTPConnection", "mock"),
    ],
)
def test_patch_before_import(target: str, kind: str) -> None:
    """A part of botocore that was patched before the import of the library counts as a listener."""
    command = [sys.executable, "-c", BEFORE_IMPORT, target, kind]
    during, _ = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert during


def filesystem(**options: Any) -> S3FileSystem:
    keys: dict[str, Any] = {"key": KEYS["aws_access_key_id"], "secret": KEYS["aws_secret_access_key"]}
    return S3FileSystem(**keys, client_kwargs={"region_name": "us-east-1"}, skip_instance_cache=True, **options)


@pytest.mark.parametrize("first", [True, False], ids=["before the client", "after the client"])
def test_filesystem_under_moto(first: bool, tmp_path: Any) -> None:
    """Under moto, a filesystem sends all its requests to moto, for small and large objects."""
    fs = filesystem(part_size=5 * 2**20, multipart_threshold=5 * 2**20)
    if not first:
        assert fs.connection.client.refusal is None  # type: ignore[attr-defined]  # of the direct client
    files = {f"bucket/{number}": bytes([number]) * number for number in range(20)}
    with mock_aws():
        plain = boto3.session.Session().client("s3", region_name="us-east-1")
        plain.create_bucket(Bucket="bucket")
        fs.pipe(files)
        fs.pipe_file("bucket/large", bytes(6 * 2**20))
        assert fs.cat(list(files)) == files
        fs.get(list(files), str(tmp_path) + "/")
        assert {f"bucket/{path.name}": path.read_bytes() for path in tmp_path.iterdir()} == files
        fs.put([str(path) for path in sorted(tmp_path.iterdir())], "bucket/again/")
        found = plain.list_objects_v2(Bucket="bucket")["Contents"]
        assert len(found) == 41
        assert plain.get_object(Bucket="bucket", Key="again/7")["Body"].read() == bytes([7]) * 7
        assert plain.head_object(Bucket="bucket", Key="large")["ContentLength"] == 6 * 2**20


def test_requests_after_moto(server: ScriptedServer) -> None:
    """After moto has ended, requests are sent directly again."""
    client = server.client()
    with mock_aws():
        assert not direct(client)
        boto3.session.Session().client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
    assert direct(client)
    client.head_object(**PLACE)
    assert b"amz-sdk-invocation-id" not in server.requests[0][0]


def test_client_created_under_moto() -> None:
    """A client that was created under moto sends requests directly afterwards."""
    with mock_aws():
        client = made_client(None)
        boto3.session.Session().client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
        client.put_object(**PLACE, Body=b"content")
        assert client.get_object(**PLACE)["Body"].read() == b"content"
    assert direct(client)
