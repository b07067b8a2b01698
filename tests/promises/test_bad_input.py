"""Bad input and bad endpoints raise the documented exception, name the cause in the message, and change nothing."""

from __future__ import annotations

import errno
import os
import resource
import socket
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from gllm_storage import (
    AccessDeniedError,
    BucketNotFoundError,
    ConflictCheckUnsupportedError,
    ObjectNotFoundError,
    S3StorageClient,
    StorageError,
    StorageUnavailableError,
)
from gllm_storage.s3 import probe as capabilities
from gllm_storage.testing.faults import Answer, Fault, FaultProxy, Match
from tests.conftest import make_rig
from tests.rig import BUCKET, MIB, SMALL_PARTS, TRAITS, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers
    from tests.rig import Rig

LARGE = 6 * MIB
"""A size above the multipart threshold of `SMALL_PARTS`."""


class Desk:
    """A folder with two files: one to upload, and one that a failed download must not change."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.small = folder / "small.bin"
        self.small.write_bytes(b"weights")
        self.kept = folder / "kept.bin"
        self.kept.write_bytes(b"what was here before")

    def large(self) -> Path:
        path = self.folder / "large.bin"
        path.write_bytes(bytes(LARGE))
        return path

    def tree(self) -> dict[str, int | None]:
        found = self.folder.rglob("*")
        return {str(each): each.lstat().st_size if each.is_file() else None for each in found}


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A `Desk` outside pytest's temporary folder, which other users cannot enter (see `as_nobody`)."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - other users must enter
        yield Desk(Path(folder).resolve())


def _write(client: FsspecStorageClient, path: str, mode: str) -> None:
    with client.open(path, mode) as file:
        file.write(b"x")


VERBS: dict[str, Callable[[FsspecStorageClient, str, Desk], object]] = {
    "upload": lambda client, path, desk: client.upload_file(desk.small, path),
    "create": lambda client, path, desk: client.upload_file(desk.small, path, check_conflict=True),
    "download": lambda client, path, desk: client.download_file(path, desk.kept),
    "exists": lambda client, path, _: client.file_exists(path),
    "delete": lambda client, path, _: client.delete_file(path),
    "info": lambda client, path, _: client.info(path),
    "list": lambda client, path, _: list(client.list_files(path)),
    "open rb": lambda client, path, _: client.open(path).read(),
    "open wb": lambda client, path, _: _write(client, path, "wb"),
    "open xb": lambda client, path, _: _write(client, path, "xb"),
    "url": lambda client, path, _: client.url(path),
}
RIGS = [name for name in TRAITS if not name.endswith("-tls")]
"""All stores, without the TLS variants: TLS makes no difference for bad input."""


@pytest.fixture(params=RIGS)
def rig(request: pytest.FixtureRequest) -> Rig:
    """Each store in turn."""
    return make_rig(request.param, request)


def open_uploads(rig: Rig) -> list[str]:
    """Keys of the multipart uploads that are open."""
    try:
        return rig.second.open_uploads()
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchUpload":  # rclone's answer for a bucket that never had an upload
            raise
        return []


@contextmanager
def nothing_changes(rig: Rig, desk: Desk) -> Iterator[None]:
    """Assert that the block changes neither the store nor the local files."""

    def state() -> tuple[object, ...]:
        return rig.second.all_keys(), open_uploads(rig), desk.tree(), desk.kept.read_bytes()

    before = state()
    yield
    assert state() == before


IMPOSSIBLE = ["a//b", "//a", ".", "..", "../a", "a/../../b", "a/.", "/..", "a::b", "a?versionId=1", "a\0b", "a\nb", "\ud800"]
IMPOSSIBLE += ["x" * 1025, "https://example.com/a", "://a", "nope://models/a"]
NO_OBJECT = ["", "/", "a/"]
"""Paths that cannot be an object's key, but are valid prefixes of a listing."""


def outcome(act: Callable[[], object]) -> str | Exception:
    """Call `act` and return its exception, or a text with its return value."""
    try:
        return f"returned {act()!r}"
    except Exception as error:  # noqa: BLE001 - the caller checks the type
        return error


def others_than(expected: type[Exception], acts: Mapping[str, Callable[[], object]], *names: str) -> dict[str, object]:
    """The outcomes of all acts that do not raise `expected` with one of the names in its message."""
    ends = {what: outcome(act) for what, act in acts.items()}
    return {
        what: repr(end)
        for what, end in ends.items()
        if not (isinstance(end, expected) and any(name in str(end) for name in names))
    }


def test_impossible_path(rig: Rig, desk: Desk) -> None:
    """Every verb raises ValueError for an invalid remote path."""
    client = rig.client()
    mine = f"{rig.scheme}://{rig.base}"
    with nothing_changes(rig, desk):
        for path in [*NO_OBJECT, mine, *IMPOSSIBLE, f"{mine}../a", f"{mine}a//b"]:
            verbs = [verb for verb in VERBS if verb != "list" or path not in {*NO_OBJECT, mine}]
            acts = {verb: partial(VERBS[verb], client, path, desk) for verb in verbs}
            key = path.removeprefix(mine).removeprefix("/")
            assert others_than(ValueError, acts, repr(path)[1:-1], repr(key)) == {}, path


def test_url_of_another_place(rig: Rig, desk: Desk) -> None:
    """Every verb raises ValueError for a URL of another bucket or provider."""
    elsewhere = "/elsewhere/" if rig.scheme == "file" else "elsewhere/"
    client = rig.client()
    with nothing_changes(rig, desk):
        other = "s3" if rig.scheme == "gs" else "gs"
        for url in (
            f"{rig.scheme}://{elsewhere}a.bin",
            f"{other}://{rig.base}a.bin",
            f"{rig.scheme}://{rig.base[:-1]}-2/a.bin",
        ):
            acts = {verb: partial(VERBS[verb], client, url, desk) for verb in VERBS}
            assert others_than(ValueError, acts, url) == {}, url


UPLOADS = {"upload": False, "create": True}


def test_missing_local_file(rig: Rig, desk: Desk) -> None:
    """A missing local file raises FileNotFoundError, not ObjectNotFoundError."""
    client = rig.client()
    with nothing_changes(rig, desk):
        for missing in (desk.folder / "none.bin", desk.folder / "no/such/none.bin", desk.small / "none.bin"):
            for check_conflict in (False, True):
                with pytest.raises(FileNotFoundError, match=r"none\.bin") as caught:
                    client.upload_file(missing, "v3/model.bin", check_conflict=check_conflict)
                assert not isinstance(caught.value, ObjectNotFoundError)


def unreadable_files(desk: Desk) -> list[Path]:
    """Existing local paths that cannot be uploaded."""
    folder, pipe, denied = desk.folder / "folder", desk.folder / "pipe", desk.folder / "denied"
    folder.mkdir()
    os.mkfifo(pipe)
    denied.write_bytes(b"secret")
    denied.chmod(0)
    return [folder, pipe, denied, desk.folder.joinpath(os.devnull)]


def test_unreadable_local_path(rig: Rig, desk: Desk) -> None:
    """A local path that cannot be read as a file raises StorageError."""
    client = rig.client()
    client.file_exists("v3/model.bin")  # load the SDK now, with root's permissions
    paths = unreadable_files(desk)
    with nothing_changes(rig, desk):
        for path in paths:
            acts = {
                name: partial(client.upload_file, path, "v3/model.bin", check_conflict)
                for name, check_conflict in UPLOADS.items()
            }
            with as_nobody():
                wrong = others_than(StorageError, acts, str(path))
            assert wrong == {}, path


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run the block with an unprivileged user id, because root can read and write every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def impossible_destinations(desk: Desk) -> list[Path]:
    """Local paths at which no file can be created."""
    folder, pipe, null = (desk.folder / name for name in ("folder", "pipe", "null"))
    folder.mkdir()
    os.mkfifo(pipe)
    null.symlink_to(os.devnull)
    return [folder, pipe, null, desk.small / "model.bin", desk.small / "a/b/model.bin"]


def test_impossible_destination(rig: Rig, desk: Desk) -> None:
    """A download to a path that cannot be a file raises StorageError."""
    rig.second.put(rig.key("small.bin"), b"small")
    client = rig.client()
    paths = impossible_destinations(desk)
    locked = desk.folder / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    with nothing_changes(rig, desk):
        for path in paths:
            assert others_than(StorageError, {"download": partial(client.download_file, "small.bin", path)}, str(path)) == {}
        acts = {"download": partial(client.download_file, "small.bin", locked / "new/model.bin")}
        with as_nobody():
            wrong = others_than(StorageError, acts, str(locked / "new/model.bin"))
        assert wrong == {}


def test_missing_object(rig: Rig, desk: Desk) -> None:
    """A missing object raises ObjectNotFoundError, and the download creates no folders."""
    rig.second.put(rig.key("v3/model.bin"), b"x")
    client = rig.client()
    with nothing_changes(rig, desk):
        for path in ("v3/none.bin", "v3"):  # a prefix of other objects is not an object
            acts: dict[str, Callable[[], object]] = {
                "download": partial(client.download_file, path, desk.kept),
                "download into new folders": partial(client.download_file, path, desk.folder / "new/folder/model.bin"),
                "delete": partial(client.delete_file, path),
                "info": partial(client.info, path),
            }
            assert others_than(ObjectNotFoundError, acts, client.url(path)) == {}
            assert client.file_exists(path) is False
        opens = {"open": lambda: client.open("v3/none.bin").read()}
        assert others_than(FileNotFoundError, opens, "v3/none.bin") == {}


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Limit the files of this process to `limit` bytes. Python ignores the signal, so the write raises OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.hostile
def test_full_disk(rig: Rig, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk raises StorageError, and the previous file is unchanged."""
    rig.second.put(rig.key("large.bin"), bytes(LARGE))
    client = rig.client(**(SMALL_PARTS if rig.provider == "s3" else {}))
    client.file_exists("large.bin")
    for _ in ("found out before a byte is fetched", "found out while writing"):
        for path in (desk.kept, desk.folder / "new/folder/model.bin"):
            with nothing_changes(rig, desk):
                with full_disk(MIB), pytest.raises(StorageError) as caught:
                    client.download_file("large.bin", path)
                assert str(path) in str(caught.value)
                assert os.strerror(errno.EFBIG) in str(caught.value)
                assert isinstance(caught.value.__cause__, OSError)
        monkeypatch.setattr("gllm_storage.files.target.allocate", lambda *_: None)


@pytest.mark.hostile
@pytest.mark.parametrize("check_conflict", [False, True])
def test_full_disk_of_store(check_conflict: bool, desk: Desk, request: pytest.FixtureRequest) -> None:
    """An upload to a local store on a full disk raises StorageError."""
    rig = make_rig("file", request)
    large = desk.large()
    with nothing_changes(rig, desk), full_disk(MIB), pytest.raises(StorageError, match=r"v3/model\.bin"):
        rig.client().upload_file(large, "v3/model.bin", check_conflict)


@pytest.mark.hostile
def test_full_disk_in_open_file(request: pytest.FixtureRequest, desk: Desk) -> None:
    """If the disk becomes full while an open file is written, no object appears."""
    rig = make_rig("file", request)
    client = rig.client()
    with (
        nothing_changes(rig, desk),
        full_disk(MIB),
        pytest.raises((StorageError, OSError), match=r"."),
        client.open("v3/model.bin", "wb") as file,
    ):
        file.write(bytes(LARGE))


# --- S3 ---------------------------------------------------------------------------------------------------------------

WITH_BUCKETS = [name for name in RIGS if TRAITS[name].has_buckets]
PROMPT_SECONDS = 50  # enough for a busy machine; one read timeout takes 60


def every_verb(client: FsspecStorageClient, desk: Desk) -> dict[str, Callable[[], object]]:
    """Each verb on one path, except `url`, which sends no request."""
    return {verb: partial(VERBS[verb], client, "v3/model.bin", desk) for verb in VERBS if verb != "url"}


def uploads_in_parts(client: FsspecStorageClient, desk: Desk) -> dict[str, Callable[[], object]]:
    """An overwriting and an exclusive multipart upload, by a client with `SMALL_PARTS`."""
    large = desk.large()
    return {f"{name} in parts": partial(client.upload_file, large, "v3/model.bin", check) for name, check in UPLOADS.items()}


@pytest.mark.parametrize("name", WITH_BUCKETS)
def test_missing_bucket(name: str, desk: Desk, request: pytest.FixtureRequest) -> None:
    """Every verb raises BucketNotFoundError if the bucket is missing."""
    rig = make_rig(name, request)
    client = rig.client_of("no-such-bucket", **SMALL_PARTS)
    acts = {**every_verb(client, desk), **uploads_in_parts(client, desk)}
    with nothing_changes(rig, desk):
        assert others_than(BucketNotFoundError, acts, "no-such-bucket") == {}


@pytest.mark.parametrize("name", ["ceph", "rclone"])
@pytest.mark.parametrize("wrong", ["aws_secret_access_key", "aws_access_key_id"])
def test_wrong_credentials(
    name: str, wrong: str, desk: Desk, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every verb raises AccessDeniedError for wrong credentials."""
    monkeypatch.setattr(capabilities, "_found", {})  # forget earlier probes with valid credentials
    rig = make_rig(name, request)
    client = rig.client(**{wrong: "wrong" * 4})
    with nothing_changes(rig, desk):
        ends = {verb: outcome(act) for verb, act in every_verb(client, desk).items()}
    for verb, end in ends.items():
        assert isinstance(end, AccessDeniedError), (verb, end)
        assert f"s3://{BUCKET}/{rig.prefix}" in str(end)
        assert "credentials" in str(end)
        assert rig.config["aws_secret_access_key"] not in str(end)
        assert "wrongwrong" not in str(end)


def s3_client(endpoint_url: str, **config: str) -> S3StorageClient:
    """A client of an endpoint that is not one of the rig's servers."""
    keys = {"aws_access_key_id": "AKID", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    return S3StorageClient({"bucket_name": BUCKET, "endpoint_url": endpoint_url, "prefix": "team", **keys, **config})


def timed(act: Callable[[], object]) -> object:
    """Call `act`, assert that it ends within `PROMPT_SECONDS`, and return its result."""
    started = time.monotonic()
    try:
        return act()
    finally:
        assert time.monotonic() - started < PROMPT_SECONDS


@pytest.mark.slow
def test_endpoint_down(desk: Desk) -> None:
    """Every verb raises StorageUnavailableError if the endpoint is down."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # but does not listen
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        client = s3_client(endpoint, **SMALL_PARTS)
        acts = {**every_verb(client, desk), **uploads_in_parts(client, desk)}
        before = desk.tree()
        ends = {name: outcome(partial(timed, act)) for name, act in acts.items()}
    assert desk.tree() == before
    for name, end in ends.items():
        assert isinstance(end, StorageUnavailableError), (name, end)
        assert end.retryable
        assert endpoint in str(end)
        assert f"s3://{BUCKET}" in str(end)


def _web_server(status: int, page: bytes) -> type[BaseHTTPRequestHandler]:
    """A web server with the same answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self.rfile.read(length)
            self.send_response(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler


class Garbage(BaseRequestHandler):
    """Answers with bytes that are not HTTP."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"\x16\x03\x01\x02\x00\x01garbage\xff\xfe\r\n\r\n")


HTML = b"<!doctype html><p>Welcome & hello<br>"
XHTML = b"<html><head><title>Sign in</title></head><body>Please sign in</body></html>"
STRANGERS: dict[str, type[BaseRequestHandler]] = {
    "200 html": _web_server(200, HTML),
    "200 xhtml": _web_server(200, XHTML),
    "200 empty": _web_server(200, b""),
    "302 html": _web_server(302, XHTML),
    "404 html": _web_server(404, XHTML),
    "405 html": _web_server(405, XHTML),
    "garbage": Garbage,
}


@pytest.fixture(params=STRANGERS)
def stranger(request: pytest.FixtureRequest) -> Iterator[str]:
    """An endpoint that does not speak S3."""
    server = ThreadingTCPServer(("127.0.0.1", 0), STRANGERS[request.param])
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_endpoint_of_another_kind(stranger: str, desk: Desk) -> None:
    """A call to an endpoint that does not speak S3 never succeeds."""
    client = s3_client(stranger, **SMALL_PARTS)
    acts = {**every_verb(client, desk), **uploads_in_parts(client, desk)}
    for conditional_writes in ("enforced", "best-effort"):
        trusting = s3_client(stranger, conditional_writes=conditional_writes, **SMALL_PARTS)
        more: dict[str, Callable[[], object]] = {
            "create": partial(VERBS["create"], trusting, "v3/model.bin", desk),
            **uploads_in_parts(trusting, desk),
        }
        acts.update({f"{name}, {conditional_writes}": act for name, act in more.items()})
    before = desk.tree()
    assert others_than(StorageError, {name: partial(timed, act) for name, act in acts.items()}, f"s3://{BUCKET}") == {}
    assert desk.tree() == before
    assert desk.kept.read_bytes() == b"what was here before"


@pytest.mark.parametrize("page", [b"", XHTML], ids=["empty", "xhtml"])
@pytest.mark.parametrize("operation", ["PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_captive_portal(operation: str, page: bytes, desk: Desk, servers: Servers) -> None:
    """A 200 from a captive portal or load balancer, for a request that the store did not receive, is not a success."""
    server = servers.s3("ministack")
    with FaultProxy(server.endpoint_url) as proxy:
        proxy.inject(Fault(Match(operation=operation), Answer(200, body=page), times=None))
        rig = server_rig("ministack", server, proxy.url)
        client = rig.client(conditional_writes="enforced", **SMALL_PARTS)
        acts = uploads_in_parts(client, desk)
        if operation == "PutObject":
            acts = {name: partial(VERBS[name], client, "v3/model.bin", desk) for name in UPLOADS}
        with nothing_changes(rig, desk):
            assert others_than(StorageError, acts, client.url("v3/model.bin")) == {}
        assert proxy.unfired == []
        assert proxy.errors == []


def test_expired_token(desk: Desk, servers: Servers) -> None:
    """Every verb's error message for an expired token says that it is expired."""
    server = servers.s3("ministack")
    with FaultProxy(server.endpoint_url) as proxy:
        proxy.inject(Fault(Match(), Answer(400, "ExpiredToken"), times=None))
        rig = server_rig("ministack", server, proxy.url)
        client = rig.client(**SMALL_PARTS)
        acts = {**every_verb(client, desk), **uploads_in_parts(client, desk)}
        with nothing_changes(rig, desk):
            ends = {name: outcome(act) for name, act in acts.items()}
        assert proxy.errors == []
    for name, end in ends.items():
        assert isinstance(end, AccessDeniedError), (name, end)
        assert end.code == "ExpiredToken", name
        assert "ExpiredToken" in str(end)
        assert f"s3://{BUCKET}/{rig.prefix}" in str(end)


@pytest.mark.parametrize("status", [400, 500, 503])
def test_exists_without_guess(status: int, servers: Servers) -> None:
    """If HeadBucket fails, `file_exists` raises an error: HeadObject answers 404 for a missing bucket, too."""
    server = servers.s3("ministack")
    with FaultProxy(server.endpoint_url) as proxy:
        proxy.inject(Fault(Match(operation="HeadBucket"), Answer(status, "Whatever"), times=None))
        client = server_rig("ministack", server, proxy.url).client(max_attempts="1")
        with pytest.raises(StorageError, match=BUCKET):
            client.file_exists("none.bin")
        assert proxy.unfired == []


def test_bucket_without_permission(servers: Servers) -> None:
    """Without permission for HeadBucket, the library assumes that the bucket exists."""
    server = servers.s3("ministack")
    with FaultProxy(server.endpoint_url) as proxy:
        proxy.inject(Fault(Match(operation="HeadBucket"), Answer(403, "AccessDenied"), times=None))
        client = server_rig("ministack", server, proxy.url).client()
        assert client.file_exists("none.bin") is False
        assert proxy.unfired == []


# --- stores without exclusive create, and keys with ".." --------------------------------------------------------------


def test_conflict_check_refused(careless_rig: Rig, desk: Desk) -> None:
    """If the store has no exclusive create, `check_conflict` raises an error before any write."""
    careless_rig.second.put(careless_rig.key("there.bin"), b"theirs")
    client = careless_rig.client(**SMALL_PARTS)
    large = desk.large()
    with nothing_changes(careless_rig, desk):
        for name in ("there.bin", "new.bin"):
            for path in (desk.small, large):
                with pytest.raises(ConflictCheckUnsupportedError) as caught:
                    client.upload_file(path, name, check_conflict=True)
                assert client.url(name) in str(caught.value)
    assert careless_rig.second.get(careless_rig.key("there.bin")) == b"theirs"


KEEPS_ANY_KEY = ["memory", "ministack", "ceph"]


@pytest.fixture(params=KEEPS_ANY_KEY)
def dotted(request: pytest.FixtureRequest) -> Rig:
    """A store with two objects of another client: one key contains "..", the other is normal."""
    rig = make_rig(request.param, request)
    rig.second.put(rig.key("in/../../../escaped.bin"), b"outside")
    rig.second.put(rig.key("in/fine.bin"), b"inside")
    assert rig.key("in/../../../escaped.bin") in rig.second.all_keys()
    return rig


def test_dotted_key_refused(dotted: Rig, desk: Desk) -> None:
    """A listed key with ".." is refused by the verbs."""
    client = dotted.client()
    found = [info.url for info in client.list_files("in/")]
    assert client.url("in/fine.bin") in found
    with nothing_changes(dotted, desk):
        for url in found:
            if ".." in url:
                with pytest.raises(ValueError, match=r"\.\."):
                    client.download_file(url, desk.folder / "model.bin")


def test_recursive_get_stays_inside(dotted: Rig, desk: Desk) -> None:
    """A recursive get writes no file outside its target folder."""
    before = desk.tree()
    inside = desk.folder / "a/b/c/inside"
    inside.mkdir(parents=True)
    client = dotted.client()
    path = client.filesystem._strip_protocol(client.url("in"))
    with suppress(ValueError, StorageError):  # refusing the complete call is allowed
        client.filesystem.get(path + "/", str(inside) + "/", recursive=True)
    outside = {
        path for path in desk.tree() if Path(path) not in {inside, *inside.parents} and inside not in Path(path).parents
    }
    assert outside == set(before)
