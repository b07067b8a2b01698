"""The provider of examples/webdav, on a real WebDAV server: the suite, and its entry points."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree as ET

import pytest

from examples.webdav.gllm_webdav.store import WebDAVStore
from gllm_storage.settings import TransferSettings
from gllm_storage.testing import StoreSuite
from gllm_storage.testing.checks import store_bytes
from tests.rig import MIB
from tests.servers.webdav import WebDAVServer, wsgidav

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.store.port import ObjectStore

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "webdav"
TEMPORARY = "/second-client.tmp"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDAVServer]:
    """The server."""
    with wsgidav(tmp_path_factory.mktemp("webdav")) as server:
        yield server


@pytest.fixture
def server(running_server: WebDAVServer) -> WebDAVServer:
    """The server, without files."""
    for each in running_server.folder.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()
    return running_server


class DavClient:
    """Plain http.client."""

    def __init__(self, server: WebDAVServer) -> None:
        self._server = server
        token = base64.b64encode(f"{server.username}:{server.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}"}

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        connection = http.client.HTTPConnection(self._server.address, timeout=60)
        try:
            connection.request(method, quote(path), body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def put(self, path: str, content: bytes) -> None:
        """Store a file as a careful client does: PUT elsewhere, then MOVE. A PUT overwrites the file in place."""
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            assert self.request("MKCOL", "/" + "/".join(parts[:depth]))[0] in {201, 405}
        assert self.request("PUT", TEMPORARY, content)[0] in {201, 204}
        destination = {"Destination": f"http://{self._server.address}{quote(path)}", "Overwrite": "T"}
        assert self.request("MOVE", TEMPORARY, b"", destination)[0] in {201, 204}

    def files(self) -> list[str]:
        """The paths of all files."""
        status, _, body = self.request("PROPFIND", "/", b"", {"Depth": "infinity"})
        assert status == 207
        found = ET.fromstring(body).iter("{DAV:}response")  # noqa: S314 - the test's own server
        files = [each for each in found if each.find(".//{DAV:}collection") is None]
        return sorted(unquote(urlsplit(each.findtext("{DAV:}href", "")).path) for each in files)


class TestWebDAV(StoreSuite):
    """What the store declares: no exclusive create, no checksum."""

    checksums = False
    objects = 200  # there are no pages
    names = tuple(name for name in StoreSuite.names if not set("?;") & set(name))
    server: WebDAVServer
    second: DavClient

    @pytest.fixture(autouse=True)
    def _server(self, server: WebDAVServer) -> None:
        self.server = server
        self.second = DavClient(server)

    @property
    def endpoint_url(self) -> str:
        return f"http://{self.server.address}"

    def make_store(self) -> ObjectStore:
        return self.make_store_at(self.endpoint_url)

    def make_store_at(self, endpoint_url: str) -> ObjectStore:
        settings = TransferSettings(part_size=MIB, multipart_threshold=MIB)
        return WebDAVStore(
            endpoint_url, f"webdav://{self.server.address}", (self.server.username, self.server.password), settings
        )

    def put(self, key: str, content: bytes) -> None:
        self.second.put(f"/{key}", content)

    def get(self, key: str) -> bytes:
        status, _, body = self.second.request("GET", f"/{key}")
        assert status == 200
        return body

    def remove(self, key: str) -> None:
        assert self.second.request("DELETE", f"/{key}")[0] == 204

    def keys(self) -> list[str]:
        return [path[1:] for path in self.second.files()]

    def test_no_secret(self) -> None:
        """No error and no representation contains the password."""
        store = WebDAVStore(self.endpoint_url, "webdav://x", ("writer", "Wr0ng-pAssword"))
        with pytest.raises(PermissionError) as caught:
            store.info("x")
        assert caught.value.status == 401  # type: ignore[attr-defined]  # a `StorageError`
        assert "Wr0ng-pAssword" not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"

    @pytest.mark.parametrize("key", ["q?x=1", "v1/a;b"])
    def test_refused_names(self, key: str) -> None:
        """Keys that wsgidav would store under another name are refused; nothing is written."""
        self.put("q", b"x")
        with pytest.raises(ValueError, match="has a character"):
            store_bytes(self.make_store(), key, b"y")
        assert (self.keys(), self.get("q")) == (["q"], b"x")

    def test_folder_in_the_way(self) -> None:
        """An upload does not replace a folder, which MOVE would delete with its files."""
        self.put("folder/file", b"x")
        store = self.make_store()
        with pytest.raises(RuntimeError, match="is a folder"):
            store_bytes(store, "folder", b"y")
        assert self.keys() == ["folder/file"]


def test_server_ranges(server: WebDAVServer) -> None:
    """The server keeps to the conditions that the reader relies on: Range, and If-Match with an ETag."""
    client = DavClient(server)
    client.put("/file", b"0123456789")
    status, headers, body = client.request("GET", "/file", headers={"Range": "bytes=2-4"})
    assert (status, body, headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    tag = headers["ETag"]
    assert client.request("GET", "/file", headers={"If-Match": tag})[0] == 200
    client.put("/file", b"9876543210")
    assert client.request("GET", "/file", headers={"If-Match": tag, "Range": "bytes=2-4"})[0] == 412


SCRIPT = """
import json, sys
import fsspec
from gllm_storage import CloudStorageRegistry, get_storage_client, storage_client_from_url

address, options, folder = json.loads(sys.argv[1])
url = f"webdav://{address}/by-url/model.bin"
with fsspec.open(url, "wb", **options) as file:
    file.write(b"weights")
with fsspec.open(url, "rb", **options) as file:
    read = file.read().decode()
fs, path = fsspec.url_to_fs(url, **options)
client = get_storage_client("webdav", {"url": f"webdav://{address}/by-client", **options})
stored = client.upload_file(f"{folder}/local", "v1/model.bin")
with client.open("v1/model.bin") as file:
    opened = file.read().decode()
from_url = storage_client_from_url(f"webdav://{address}/by-client", options)
from_url.download_file("v1/model.bin", f"{folder}/downloaded")
try:
    client.upload_file(f"{folder}/local", "v2/model.bin", check_conflict=True)
    refused = ""
except RuntimeError as error:
    refused = type(error).__name__
print(json.dumps({
    "read": read, "filesystem": f"{type(fs).__module__}.{type(fs).__name__}", "found": fs.find(f"{address}/by-url"),
    "stored": stored, "opened": opened, "equal": client == from_url, "refused": refused, "shown": repr(client),
    "files": [info.url for info in client.list_files()], "known": CloudStorageRegistry.list_available_providers(),
    "shared": client.filesystem.bucket_store(address) is client.store,
}))
"""


def test_entry_points(server: WebDAVServer, tmp_path: Path) -> None:
    """An installed package is found by its entry points: by the library, and by fsspec."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    installed = tmp_path / "site" / f"gllm_webdav-{project['version']}.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    sections = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    (installed / "entry_points.txt").write_text("\n".join(sections) + "\n")
    (tmp_path / "local").write_bytes(b"local")
    options = {"username": server.username, "password": server.password}
    search = os.pathsep.join([str(installed.parent), str(EXAMPLE), str(ROOT)])

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps([server.address, options, str(tmp_path)])],
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["read"] == "weights"
    assert outcome["filesystem"] == "gllm_webdav.client.WebDAVFileSystem"
    assert outcome["found"] == [f"{server.address}/by-url/model.bin"]
    assert outcome["stored"] == f"webdav://{server.address}/by-client/v1/model.bin"
    assert outcome["files"] == [outcome["stored"]]
    assert outcome["opened"] == "local"
    assert (tmp_path / "downloaded").read_bytes() == b"local"
    assert outcome["equal"]
    assert outcome["shared"]
    assert outcome["refused"] == "ConflictCheckUnsupportedError"
    assert "webdav" in outcome["known"]
    assert server.password not in outcome["shown"]
    assert DavClient(server).files() == ["/by-client/v1/model.bin", "/by-url/model.bin"]
