"""Answers that are wrong: lengths that differ, parts for the complete object, lost parts, refused writes that happened."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests

from gllm_storage.errors import BucketNotFoundError, FolderError, IntegrityError, StorageError, StorageUnavailableError
from gllm_storage.store import checksums
from gllm_storage.testing.faults import Action, Answer, AnswerAfter, Call, DropResponse, Match
from tests.promises.faulty import (
    AZURE,
    GCS,
    MINISTACK,
    NAME,
    PREVIOUS,
    SMALL,
    UPLOADS,
    Faulty,
    Upload,
    behind_proxy,
    content_of,
    one_each,
)
from tests.rig import BUCKET, MIB, server_rig
from tests.servers.hostile import CLOUDS as HOSTILE_CLOUDS
from tests.servers.hostile import Asked, Hostile, Reply, client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

ENGINES = ("auto", "boto3")
CONTENT = content_of(2000)
HTML = b"<html><body>Please log in</body></html>"
DIRECT_AND_BOTO3 = [
    pytest.param(dataclasses.replace(MINISTACK, config={**MINISTACK.config, "engine": engine}), id=f"s3-{engine}")
    for engine in ENGINES
]
"""S3 by both engines."""
EVERY = [*DIRECT_AND_BOTO3, pytest.param(GCS, id="gcs"), pytest.param(AZURE, id="azure")]
on_every = pytest.mark.parametrize("faulty", EVERY, indirect=True)
on_s3 = pytest.mark.parametrize("faulty", DIRECT_AND_BOTO3, indirect=True)


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A local file that exists."""
    path = tmp_path / "local.bin"
    path.write_bytes(PREVIOUS)
    return path


def filesystem(faulty: Faulty) -> tuple[FsspecStorageClient, str]:
    """A client, and the path of `NAME` for its filesystem."""
    client = faulty.client()
    return client, f"{BUCKET}/{faulty.rig.key(NAME)}"


# ---- the size in a HEAD answer is not the length of the content


def inject_length(faulty: Faulty, length: int) -> None:
    """Let every request for the facts of `NAME` state this length."""
    key = faulty.rig.key(NAME)
    url = faulty.rig.config["endpoint_url"]
    if faulty.cloud.provider == "gcs":
        path = f"{url}/storage/v1/b/{BUCKET}/o/{quote(key, safe='')}"
        resource = {**requests.get(path, timeout=30).json(), "size": str(length)}
        faulty.proxy.clear()
        faulty.inject(faulty.cloud.head, AnswerAfter(200, body=json.dumps(resource).encode()), times=None)
        return
    headers: tuple[tuple[str, str], ...]
    if faulty.cloud.provider == "azure":
        etag = faulty.rig.microsoft.container.get_blob_client(key).get_blob_properties().etag
        headers = (
            ("ETag", f'"{etag}"'),
            ("x-ms-blob-type", "BlockBlob"),
            ("Last-Modified", "Sat, 28 Nov 2026 10:00:00 GMT"),
        )
    else:
        headers = (("ETag", faulty.boto3.head_object(Bucket=BUCKET, Key=key)["ETag"]),)
    faulty.inject(faulty.cloud.head, AnswerAfter(200, body=b"x" * length, headers=headers), times=None)


READS: dict[str, Callable[[FsspecStorageClient, str, Path], object]] = {
    "download_file": lambda client, _, local: client.download_file(NAME, local),
    "cat_file": lambda client, path, _: client.filesystem.cat_file(path),
    "cat": lambda client, path, _: client.filesystem.cat([path, path])[path],
    "get": lambda client, path, local: client.filesystem.get([path], [str(local)]),
    "get_file": lambda client, path, local: client.filesystem.get_file(path, str(local)),
    "end": lambda client, path, _: client.filesystem.cat_file(path, -10, -5),
    "rest": lambda client, path, _: client.filesystem.cat_file(path, 1990, None),
    "cat_ranges": lambda client, path, _: client.filesystem.cat_ranges([path], [0], [None], on_error="raise")[0],
    "open": lambda client, path, _: client.filesystem.open(path).read(),
    "head": lambda client, path, _: client.filesystem.head(path, 2000),
}
EXPECTED = {"end": CONTENT[-10:-5], "rest": CONTENT[1990:]}


@on_every
@pytest.mark.parametrize("length", [0, 1500, 2500], ids=["empty", "shorter", "longer"])
def test_wrong_length(faulty: Faulty, local: Path, length: int) -> None:
    """If HEAD states another length than GET sends, a read returns the complete content, or raises; never less."""
    faulty.put(CONTENT)
    inject_length(faulty, length)
    client, path = filesystem(faulty)
    for name, read in READS.items():
        local.write_bytes(PREVIOUS)
        try:
            found = read(client, path, local)
        except StorageError:
            assert local.read_bytes() == PREVIOUS, name
            continue
        got = found if isinstance(found, bytes) else local.read_bytes()
        assert got == EXPECTED.get(name, CONTENT), name


@on_every
def test_length_zero_is_named(faulty: Faulty) -> None:
    """The error for a wrong length of 0 names both lengths."""
    faulty.put(CONTENT)
    inject_length(faulty, 0)
    client, path = filesystem(faulty)
    for read in (client.info, lambda _: client.filesystem.info(path), lambda _: client.filesystem.open(path)):
        with pytest.raises(StorageError, match="states 0 bytes, and sends 2000"):
            read(NAME)


@on_every
def test_empty_object(faulty: Faulty, local: Path) -> None:
    """An object without bytes is read as such."""
    faulty.put(b"")
    client, path = filesystem(faulty)
    assert client.info(NAME).size == client.filesystem.info(path)["size"] == 0
    assert client.filesystem.open(path).read() == client.filesystem.cat_file(path) == b""
    assert client.filesystem.cat([path]) == {path: b""}
    client.download_file(NAME, local)
    assert local.read_bytes() == b""


@on_s3
@pytest.mark.parametrize("length", [5 * MIB, 12 * MIB], ids=["shorter", "longer"])
def test_wrong_length_of_copy(faulty: Faulty, length: int) -> None:
    """A copy in parts is refused if HEAD states another length than GET."""
    faulty.put(content_of(6 * MIB))
    inject_length(faulty, length)
    store, key = faulty.client().filesystem.connection.store(BUCKET), faulty.rig.key(NAME)
    with pytest.raises(StorageError, match=f"states {length} bytes"):
        store.copy(key, store, faulty.rig.key("copy"), store.transfer(key, "copy"), {"in_parts_above": MIB})
    faulty.assert_holds(content_of(6 * MIB))


# ---- answers that are not the complete object


def part_of(content: bytes, etag: str) -> list[tuple[str, Action]]:
    """Answers in place of the complete object."""
    half = content[:1000]
    headers = (("ETag", etag),)
    return [
        ("206", AnswerAfter(206, body=half, headers=(*headers, ("Content-Range", f"bytes 0-999/{len(content)}")))),
        ("206-bare", AnswerAfter(206, body=half, headers=headers)),
        ("range-200", AnswerAfter(200, body=half, headers=(*headers, ("Content-Range", f"bytes 0-999/{len(content)}")))),
        ("short", AnswerAfter(200, body=half, headers=headers)),
        ("html", AnswerAfter(200, body=HTML, headers=(("ETag", '"page"'),))),
    ]


@on_s3
@pytest.mark.parametrize("ours", [True, False], ids=["ours", "theirs"])
@pytest.mark.parametrize("times", [1, None], ids=["once", "always"])
@pytest.mark.parametrize("kind", ["206", "206-bare", "range-200", "short", "html"])
def test_not_complete(faulty: Faulty, tmp_path: Path, kind: str, times: int | None, ours: bool) -> None:
    """A part, a cut answer or an HTML page is not taken for the object, by single reads and by reads of lists."""
    client, path = filesystem(faulty)
    names = [f"{path}-{number}" for number in range(3)]
    for name in names:
        if ours:
            client.filesystem.pipe_file(name, CONTENT)
        else:
            faulty.boto3.put_object(Bucket=BUCKET, Key=name.partition("/")[2], Body=CONTENT)
    etag = faulty.boto3.head_object(Bucket=BUCKET, Key=names[0].partition("/")[2])["ETag"]
    action = dict(part_of(CONTENT, etag))[kind]
    targets = [tmp_path / str(number) for number in range(3)]
    for target in targets:
        target.write_bytes(PREVIOUS)
    filesystem_ = client.filesystem
    reads: list[tuple[int, Callable[[], list[bytes]]]] = [
        (3, lambda: list(filesystem_.cat(names).values())),
        (1, lambda: [filesystem_.cat_file(each) for each in names]),
        (3, lambda: filesystem_.get(names, [str(each) for each in targets]) or [each.read_bytes() for each in targets]),
    ]
    in_bulk = faulty.cloud.config["engine"] == "auto"  # one GET request for each object, before any is repeated
    for first, read in reads:
        faulty.proxy.clear()
        faulty.inject(Match(operation="GetObject"), action, times=times and (first if in_bulk else 1))
        try:
            found = read()
        except StorageError:
            assert times is None
        else:
            assert found == [CONTENT] * 3
        assert {each.read_bytes() for each in targets} <= {PREVIOUS, CONTENT}


@on_s3
@pytest.mark.parametrize("size", [len(CONTENT), MIB], ids=["small", "1 MiB"])
@pytest.mark.parametrize("to", ["memory", "files"])
def test_bulk_without_checksum(faulty: Faulty, tmp_path: Path, to: str, size: int) -> None:
    """Objects without a checksum take a GET and a HEAD request each, and no more."""
    client, path = filesystem(faulty)
    names, content = [f"{path}-{number}" for number in range(5)], content_of(size)
    for name in names:
        faulty.boto3.put_object(Bucket=BUCKET, Key=name.partition("/")[2], Body=content)
    if to == "memory":
        found = list(client.filesystem.cat(names).values())
    else:
        targets = [tmp_path / str(number) for number in range(5)]
        client.filesystem.get(names, [str(each) for each in targets])
        found = [each.read_bytes() for each in targets]
    assert found == [content] * 5
    assert sorted(faulty.operations()) == ["GetObject"] * 5 + ["HeadObject"] * 5


# ---- stores that lose a part


def lose_a_part(faulty: Faulty, etag: bytes | None, action: Action | None = None) -> None:
    """Let the store complete an upload without its last part, and report success with this ETag; or do that action."""

    def complete() -> None:
        (upload,) = [
            each
            for each in faulty.boto3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
            if each["Key"].startswith(faulty.rig.prefix)
        ]
        place: Any = {"Bucket": BUCKET, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        found = faulty.boto3.list_parts(**place)["Parts"][:-1]
        parts: Any = [{"PartNumber": each["PartNumber"], "ETag": each["ETag"]} for each in found]
        faulty.boto3.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})

    faulty.inject("CompleteMultipartUpload", Call(complete))
    text = b'<ETag>"00000000000000000000000000000000-1"</ETag>' if etag is None else etag
    body = b"<?xml version='1.0'?>\n<CompleteMultipartUploadResult><Key>k</Key>%b</CompleteMultipartUploadResult>" % text
    faulty.inject("CompleteMultipartUpload", action or AnswerAfter(200, body=body))


ETAGS = [
    pytest.param(None, id="fewer"),
    pytest.param(b"", id="none"),
    pytest.param(b'<ETag>"00000000000000000000000000000000-2"</ETag>', id="right-count"),
    pytest.param(b'<ETag>"opaque"</ETag>', id="opaque"),
]


@pytest.fixture
def losing(request: pytest.FixtureRequest, servers: Servers, no_waits: None) -> Iterator[Faulty]:
    """S3 behind a proxy, without an object."""
    with behind_proxy(request.param, servers) as each:
        yield each


# Ceph refuses to complete an upload without all parts that it has, so it cannot play this store.
on_losing = pytest.mark.parametrize("losing", DIRECT_AND_BOTO3, indirect=True)


@on_losing
@pytest.mark.parametrize("etag", ETAGS)
def test_lost_part_of_upload(losing: Faulty, tmp_path: Path, etag: bytes | None) -> None:
    """An upload fails if the store has lost a part; what it replaced is gone, and the message says so."""
    losing.put(b"before")
    (tmp_path / "file").write_bytes(content_of(5 * MIB + SMALL))
    lose_a_part(losing, etag)
    with pytest.raises(IntegrityError, match=f"holds {5 * MIB} of {5 * MIB + SMALL} bytes; the incomplete object is still"):
        losing.client().upload_file(tmp_path / "file", NAME)
    losing.assert_holds(content_of(5 * MIB + SMALL)[: 5 * MIB])


@on_losing
@pytest.mark.parametrize("mode", ["wb", "xb"])
def test_lost_part_of_stream(losing: Faulty, mode: str) -> None:
    """The same for a stream; the incomplete object of an exclusive create is deleted."""
    lose_a_part(losing, None)
    client, path = filesystem(losing)
    file = client.filesystem.open(path, mode)
    file.write(content_of(5 * MIB + SMALL))
    with pytest.raises(IntegrityError):
        file.close()
    losing.assert_holds(content_of(5 * MIB + SMALL)[: 5 * MIB] if mode == "wb" else None)


@on_losing
def test_lost_part_of_copy(losing: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy in parts fails if the store has lost a part."""
    monkeypatch.setattr("gllm_storage.s3.copy.PART_SIZE", 5 * MIB)
    losing.put(content_of(6 * MIB), "source")
    store, key = losing.client().filesystem.connection.store(BUCKET), losing.rig.key("source")
    lose_a_part(losing, None)
    with pytest.raises(IntegrityError, match=f"holds {5 * MIB} of {6 * MIB} bytes"):
        store.copy(key, store, losing.rig.key(NAME), store.transfer(key, "copy"), {"in_parts_above": MIB})


@on_losing
def test_lost_part_and_answer(losing: Faulty, tmp_path: Path) -> None:
    """If the answer was lost as well, the incomplete object does not count as rescued."""
    (tmp_path / "file").write_bytes(content_of(5 * MIB + SMALL))
    lose_a_part(losing, None, DropResponse())
    losing.inject("CompleteMultipartUpload", Answer(404, "NoSuchUpload"), times=None)
    with pytest.raises(IntegrityError):
        losing.client().upload_file(tmp_path / "file", NAME)


@pytest.mark.parametrize("losing", [MINISTACK], ids=str, indirect=True)
def test_requests_of_complete_upload(losing: Faulty, tmp_path: Path) -> None:
    """An ETag that is computed from the parts costs no further request."""
    (tmp_path / "file").write_bytes(content_of(5 * MIB + SMALL))
    losing.client().upload_file(tmp_path / "file", NAME)
    assert sorted(losing.operations()) == ["CompleteMultipartUpload", "CreateMultipartUpload", "UploadPart", "UploadPart"]


# ---- refusals of writes that happened

CUT = b"<?xml version='1.0'?>\n<Error><Code>NoSuchUp"
JUNK = [(404, b""), (404, CUT), (404, HTML), (400, HTML), (403, b""), (405, HTML), (410, b"")]
WITH_ENGINES = [
    pytest.param(dataclasses.replace(case, cloud=dataclasses.replace(case.cloud, config=config)), id=f"{case}-{engine}")
    for case in one_each(UPLOADS)
    for engine in (ENGINES if case.cloud.provider == "s3" else ("sdk",))
    for config in [{**case.cloud.config, **({"engine": engine} if case.cloud.provider == "s3" else {})}]
]
on_uploads = pytest.mark.parametrize("upload", WITH_ENGINES, indirect=True)


@on_uploads
@pytest.mark.parametrize(("status", "body"), JUNK, ids=["404-empty", "404-cut", "404-html", "400", "403", "405", "410"])
def test_refused_but_stored(upload: Upload, status: int, body: bytes) -> None:
    """A write that was carried out, and whose answer is junk, is a success."""
    upload.faulty.inject(upload.commit, AnswerAfter(status, body=body), times=None)
    upload.run()
    upload.assert_stored()


@on_uploads
@pytest.mark.parametrize("status", [400, 403, 405])
def test_lost_then_refused(upload: Upload, status: int) -> None:
    """A write whose answer was lost is a success, whatever the store answers to the repeated request."""
    upload.faulty.inject(upload.commit, DropResponse())
    upload.faulty.inject(upload.case.asked_again, upload.case.cloud.answer(status, "InvalidRequest"), times=None)
    upload.run()
    upload.assert_stored()


@on_uploads
def test_refused_and_not_stored(upload: Upload) -> None:
    """A write that was not carried out, and whose answer is junk, fails."""
    upload.faulty.inject(upload.commit, Answer(404, body=HTML), times=None)
    with pytest.raises(StorageError):
        upload.run()
    upload.assert_nothing_changed()


@on_every
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "first"])
def test_delete_refused(faulty: Faulty, lost: bool) -> None:
    """A delete that was carried out is a success, although the answer, or that to the repeated request, is a 404."""
    faulty.put(CONTENT)
    if lost:
        faulty.inject(faulty.cloud.delete, DropResponse())
        faulty.inject(faulty.cloud.delete, Answer(404, body=HTML), times=None)
    else:
        faulty.inject(faulty.cloud.delete, AnswerAfter(404, body=HTML))
    if lost or faulty.cloud.provider == "s3":
        faulty.client().delete_file(NAME)
    else:
        with pytest.raises(FileNotFoundError):  # the answer of these stores for an object that is not there
            faulty.client().delete_file(NAME)
    faulty.assert_holds()


@on_every
def test_delete_answered_by_page(faulty: Faulty) -> None:
    """A web page, as of a login, is not the answer to a deletion: the object is there."""
    faulty.put(CONTENT)
    page = Answer(200, body=HTML, headers=(("Content-Type", "text/html; charset=utf-8"),))
    faulty.inject(faulty.cloud.delete, page, times=None)
    with pytest.raises(StorageError):
        faulty.client().delete_file(NAME)
    with pytest.raises(FolderError):
        faulty.client().delete_dir("v1")
    faulty.assert_holds(CONTENT)


@on_s3
def test_delete_refused_and_there(faulty: Faulty) -> None:
    """A 404 to a delete that was not carried out is an error."""
    faulty.put(CONTENT)
    faulty.inject(faulty.cloud.delete, Answer(404, body=HTML), times=None)
    with pytest.raises(StorageError):
        faulty.client().delete_file(NAME)
    faulty.assert_holds(CONTENT)


# ---- statuses that pass


@on_every
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507, 509, 520, 522, 524, 530, 599])
def test_busy_status(faulty: Faulty, status: int) -> None:
    """A request that is answered with such a status, and the page of a gateway, is sent again."""
    faulty.put(CONTENT)
    for operation in (faulty.cloud.head, faulty.cloud.read, faulty.cloud.put, faulty.cloud.list):
        faulty.inject(operation, Answer(status, body=HTML))
    client = faulty.client()
    assert client.info(NAME).size == len(CONTENT)
    assert client.filesystem.cat_file(f"{BUCKET}/{faulty.rig.key(NAME)}") == CONTENT
    client.filesystem.pipe_file(f"{BUCKET}/{faulty.rig.key(NAME)}", b"new")
    assert [each.size for each in client.list_files()] == [3]


@on_every
@pytest.mark.parametrize(("status", "kind"), [(520, StorageUnavailableError), (501, StorageError), (505, StorageError)])
def test_status_lasts(faulty: Faulty, status: int, kind: type[StorageError]) -> None:
    """A status that lasts is an error; 501 and 505 are not repeated."""
    faulty.put(CONTENT)
    faulty.inject(faulty.cloud.head, Answer(status, body=HTML), times=None)
    with pytest.raises(kind) as caught:
        faulty.client(max_attempts="3").info(NAME)
    assert type(caught.value) is kind
    assert len(faulty.sent(faulty.cloud.head)) == (3 if kind is StorageUnavailableError else 1)


# ---- the connection ends in the middle of the headers


@pytest.mark.parametrize("end", [10, 26, 40, -2], ids=["status", "line", "name", "blank-line"])
@pytest.mark.parametrize("cloud", HOSTILE_CLOUDS)
def test_cut_head(cloud: str, end: int, no_waits: None) -> None:
    """An answer that ends before its headers do says nothing: the request is sent again."""
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    replies = [Reply(raw=[answer[:end]])]
    with Hostile(lambda _: replies.pop() if replies else Reply(404)) as server:
        client = client_of(cloud, server.url)
        with contextlib.suppress(BucketNotFoundError):
            assert not client.file_exists("x")
        assert server.asked[0].path == server.asked[1].path
        assert server.asked[0].path.endswith("/x")


@pytest.mark.parametrize("looked", [False, True], ids=["unknown", "looked"])
@pytest.mark.parametrize("cloud", ["direct", "boto3"])
def test_checksum_in_head_only(cloud: str, looked: bool, local: Path) -> None:
    """A checksum that only HEAD states is compared in each attempt, also if a HEAD request came before."""
    good, bad = b"good content", b"BAD! content"
    named = {"ETag": '"e"', "Last-Modified": "Sat, 28 Nov 2026 16:00:00 GMT"}
    stated = {"x-amz-checksum-crc64nvme": checksums.encode(checksums.crc64nvme(good)), "x-amz-checksum-type": "FULL_OBJECT"}
    local.write_bytes(PREVIOUS)
    with Hostile(lambda asked: Reply(200, bad, named | (stated if asked.method == "HEAD" else {}))) as server:
        client: Any = client_of(cloud, server.url)
        if looked:
            assert client.file_exists("x")
            assert client.info("x").checksum
        with pytest.raises(IntegrityError):
            client.download_file("x", local)
        with pytest.raises(IntegrityError):
            client.filesystem.cat(["bucket/x", "bucket/y"])
    assert local.read_bytes() == PREVIOUS


@pytest.mark.parametrize("engine", ENGINES)
def test_weak_etags(engine: str, servers: Servers, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy that weakens ETags, files of folders are downloaded, copied and moved, and parts are completed."""
    monkeypatch.setenv("GLLM_STORAGE_CACHE", str(local.parent / "cache"))
    server = servers.s3("ministack")
    rig, parts = server_rig("ministack", server), {"multipart_threshold": "5MiB", "part_size": "5MiB"}

    def weakened(asked: Asked) -> Reply:
        headers = {name: value for name, value in asked.headers.items() if name != "accept-encoding"}
        url = f"{server.endpoint_url}{quote(asked.path)}"
        answer = requests.request(asked.method, url, params=asked.query, headers=headers, data=asked.body, timeout=30)
        kept = {
            name: value for name, value in answer.headers.items() if name.lower() not in {"transfer-encoding", "connection"}
        }
        if etag := answer.headers.get("ETag"):
            kept["ETag"] = f"W/{etag}"
        return Reply(answer.status_code, answer.content, kept)

    with Hostile(weakened) as proxy:
        client = dataclasses.replace(
            rig, config={**rig.config, "endpoint_url": proxy.url, "engine": engine, **parts}
        ).client()
        client.upload(b"x" * 1000, "weak/a")
        client.upload(b"y" * 6 * MIB, "weak/b")
        assert client.info("weak/a").etag == next(each.etag for each in client.list_files("weak/a"))
        assert client.copy_dir("weak", "copied").transferred == 2
        assert client.download_dir("copied", local.parent / "weak").transferred == 2
        assert client.open("weak/a", "rb").read() == b"x" * 1000
        client.move_file("weak/a", "weak/c")
        assert client.delete_dir("weak").deleted == 2
    assert (local.parent / "weak" / "b").stat().st_size == 6 * MIB
