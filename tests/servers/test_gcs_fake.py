"""`gcs_fake` answers Google's client and plain requests as Google's JSON API is documented to answer."""

from __future__ import annotations

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
from google.api_core.exceptions import BadRequest, NotFound, PreconditionFailed

from tests.rig import BUCKET, GoogleClient
from tests.servers import GCSServer
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from tests.conftest import Servers

KIB = 1024
CHUNK = 256 * KIB


@pytest.fixture
def server(servers: Servers) -> GCSServer:
    found = servers.get("gcs-fake")
    assert isinstance(found, GCSServer)
    return found


@pytest.fixture
def blob(server: GCSServer) -> Any:
    """A blob of Google's client without an object."""
    return GoogleClient(server).bucket.blob(f"fake/{uuid.uuid4().hex} +#?é")


@pytest.mark.parametrize("size", [0, 10, 3 * CHUNK + 5])
@pytest.mark.parametrize("chunk", [None, CHUNK])
def test_write_and_read(blob: Any, size: int, chunk: int | None) -> None:
    """Google's client reads the content that it wrote."""
    content = bytes(range(256)) * (size // 256) + bytes(size % 256)
    blob.chunk_size = chunk
    blob.upload_from_string(content, checksum="crc32c")
    assert blob.download_as_bytes(checksum="crc32c") == content
    assert blob.download_as_bytes(start=5, end=8) == content[5:9] if size > 10 else True
    blob.reload()
    assert blob.size == size
    assert [each.name for each in blob.client.list_blobs(BUCKET, prefix=blob.name)] == [blob.name]
    blob.delete()
    with pytest.raises(NotFound):
        blob.reload()


def test_move(blob: Any) -> None:
    """A move keeps content and metadata, and deletes the source."""
    blob.metadata = {"kept": "yes"}
    blob.upload_from_string(b"content")
    moved = blob.bucket.move_blob(blob, f"{blob.name}-moved")
    assert moved.download_as_bytes() == b"content"
    assert moved.metadata == {"kept": "yes"}
    assert not blob.exists()


@pytest.mark.parametrize("chunk", [None, CHUNK])
def test_precondition(blob: Any, chunk: int | None) -> None:
    """A precondition keeps the existing object."""
    blob.chunk_size = chunk
    blob.upload_from_string(b"first" * CHUNK, if_generation_match=0)
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"second" * CHUNK, if_generation_match=0)
    assert blob.download_as_bytes() == b"first" * CHUNK
    with pytest.raises(PreconditionFailed):
        blob.delete(if_generation_match=1)
    with pytest.raises(NotFound):
        blob.client.bucket(BUCKET).blob(blob.name, generation=1).download_as_bytes()


def test_race(blob: Any, server: GCSServer) -> None:
    """Of 32 writers, one wins."""
    barrier = threading.Barrier(32)
    google = GoogleClient(server)

    def write(number: int) -> bool:
        mine = google.bucket.blob(blob.name)
        barrier.wait(PATIENCE)
        try:
            mine.upload_from_string(str(number), if_generation_match=0)
        except PreconditionFailed:
            return False
        return True

    with ThreadPoolExecutor(32) as threads:
        outcomes = list(threads.map(write, range(32)))
    assert outcomes.count(True) == 1
    assert blob.download_as_text() == str(outcomes.index(True))


def test_wrong_checksum(blob: Any) -> None:
    """A wrong checksum is refused."""
    blob.md5_hash = "rL0Y20zC+Fzt72VPzMSk2A=="  # the MD5 of other content
    with pytest.raises(BadRequest):
        blob.upload_from_string(b"content")
    assert not blob.exists()


class Session:
    """A resumable upload by plain requests."""

    def __init__(self, server: GCSServer, name: str, **params: str) -> None:
        url = f"{server.endpoint_url}/upload/storage/v1/b/{BUCKET}/o"
        query = {"uploadType": "resumable", "name": name, **params}
        self.started = requests.post(url, params=query, data=json.dumps({}), timeout=PATIENCE)
        self.url = self.started.headers["Location"]

    def put(self, data: bytes, content_range: str) -> requests.Response:
        return requests.put(self.url, data=data, headers={"Content-Range": content_range}, timeout=PATIENCE)


def test_session(server: GCSServer, blob: Any) -> None:
    """A session reports its received bytes, and stores each chunk once."""
    session, total = Session(server, blob.name), 2 * CHUNK + 10
    asked = session.put(b"", f"bytes */{total}")
    assert (asked.status_code, asked.headers.get("Range")) == (308, None)
    for _ in range(2):
        kept = session.put(b"a" * CHUNK, f"bytes 0-{CHUNK - 1}/{total}")
        assert (kept.status_code, kept.headers["Range"]) == (308, f"bytes=0-{CHUNK - 1}")
    assert not blob.exists()
    assert session.put(b"b" * 10, f"bytes {CHUNK}-{CHUNK + 9}/{total}").status_code == 400
    gap = session.put(b"c" * 10, f"bytes {2 * CHUNK + 100}-{2 * CHUNK + 109}/{total}")
    assert gap.status_code >= 400
    last = session.put(b"b" * (CHUNK + 10), f"bytes {CHUNK}-{total - 1}/{total}")
    assert (last.status_code, last.json()["size"]) == (200, str(total))
    again = session.put(b"", f"bytes */{total}")
    assert (again.status_code, again.json()["generation"]) == (200, last.json()["generation"])
    assert blob.download_as_bytes() == b"a" * CHUNK + b"b" * (CHUNK + 10)


def test_session_meets_object(server: GCSServer, blob: Any) -> None:
    """The last chunk of a session is refused if an object has appeared."""
    session = Session(server, blob.name, ifGenerationMatch="0")
    blob.upload_from_string(b"theirs")
    assert session.put(b"ours", "bytes 0-3/4").status_code == 412
    assert blob.download_as_bytes() == b"theirs"
    assert session.put(b"", "bytes */4").status_code == 404


def test_cancelled_session(server: GCSServer, blob: Any) -> None:
    """A cancelled session creates no object."""
    session = Session(server, blob.name)
    assert requests.delete(session.url, timeout=PATIENCE).status_code == 499
    assert session.put(b"ours", "bytes 0-3/4").status_code == 499
    assert not blob.exists()


def test_compose_and_rewrite(server: GCSServer, blob: Any) -> None:
    """Objects are composed and rewritten."""
    google = GoogleClient(server)
    parts = [google.bucket.blob(f"{blob.name}-{number}") for number in range(3)]
    for number, part in enumerate(parts):
        part.upload_from_string(str(number) * 5)
    blob.compose(parts, if_generation_match=0)
    assert blob.download_as_bytes() == b"000001111122222"
    assert blob.component_count == 3
    with pytest.raises(PreconditionFailed):
        blob.compose(parts, if_generation_match=0)
    copied = google.bucket.copy_blob(blob, google.bucket, f"{blob.name} copied")
    assert copied.download_as_bytes() == blob.download_as_bytes()


def test_listings(server: GCSServer) -> None:
    """Listings come in pages and by delimiter."""
    google, top = GoogleClient(server), f"listed-{uuid.uuid4().hex}"
    names = [f"{top}/{each}" for each in ("a", "b/1", "b/2", "c", "d/3")]
    for name in names:
        google.put(name, b"")
    assert [each.name for each in google.client.list_blobs(BUCKET, prefix=f"{top}/", page_size=2)] == names
    level = google.client.list_blobs(BUCKET, prefix=f"{top}/", delimiter="/")
    assert [each.name for each in level] == [f"{top}/a", f"{top}/c"]
    assert sorted(level.prefixes) == [f"{top}/b/", f"{top}/d/"]
