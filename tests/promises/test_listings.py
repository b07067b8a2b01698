"""Listings are complete, or an error: never short, never without an end, and nothing but listings."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.sax.saxutils import escape

import pytest

from gllm_storage import StorageError
from gllm_storage.testing import no_waits
from tests.cli.support import run
from tests.servers.hostile import BUCKET, CLOUDS, Asked, Hostile, Reply, client_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.fsspec_client import FsspecStorageClient

FLAT = [f"a{number:04}" for number in range(25)]
TREE = [f"d{number:02}/{leaf}" for number in range(12) for leaf in ("x", "y")] + ["top-1", "top-2"]
DATE = "2026-01-01T00:00:00.000Z"
ENGINES = ("direct", "boto3")


class Desk:
    """A server and one client of it: to make a client takes longer than a test. Tests replace the server's answers."""

    def __init__(self, cloud: str, server: Hostile) -> None:
        self.cloud = cloud
        self.server = server
        self.client = client_of(cloud, server.url)

    @property
    def fs(self) -> Any:
        return self.client.filesystem

    def serve(self, answer: Callable[[Asked], Reply]) -> None:
        self.server.answer = answer
        self.server.asked.clear()


@pytest.fixture(scope="module")
def desks() -> Iterator[dict[str, Desk]]:
    """The desk of each cloud."""
    with no_waits(), contextlib.ExitStack() as stack:
        yield {cloud: Desk(cloud, stack.enter_context(Hostile(lambda _: Reply(404)))) for cloud in CLOUDS}


@pytest.fixture(params=CLOUDS)
def desk(request: pytest.FixtureRequest, desks: dict[str, Desk]) -> Desk:
    """A desk of any cloud."""
    return desks[request.param]


@pytest.fixture(params=ENGINES)
def s3(request: pytest.FixtureRequest, desks: dict[str, Desk]) -> Desk:
    """A desk of an engine of S3."""
    return desks[request.param]


def _pages_of(keys: list[str], asked: Asked, after: str, size: int = 10) -> tuple[list[str], list[str], bool]:
    """The keys and prefixes of a page, and whether another one follows."""
    prefix, delimiter = asked.query.get("prefix", ""), asked.query.get("delimiter", "")
    most = min(size, int(asked.query.get("max-keys", size)))
    names: list[str] = []
    for key in sorted(keys):
        if not key.startswith(prefix):
            continue
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        name = f"{prefix}{head}/" if found else key
        # Amazon's marker hides the keys below a prefix that it names.
        if name > after and not (after.endswith("/") and key.startswith(after)) and name not in names:
            names.append(name)
    shown = names[:most]
    folders = [each for each in shown if delimiter and each.endswith(delimiter)]
    return [each for each in shown if each not in folders], folders, len(names) > most


def _listing(keys: list[str], folders: list[str], *, truncated: bool, more: str = "") -> Reply:
    contents = "".join(
        f'<Contents><Key>{escape(quote(key))}</Key><Size>1</Size><ETag>"e"</ETag><LastModified>{DATE}</LastModified></Contents>'
        for key in keys
    )
    prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(quote(each))}</Prefix></CommonPrefixes>" for each in folders)
    flag = "true" if truncated else "false"
    body = (
        f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{BUCKET}</Name>'
        f"<EncodingType>url</EncodingType><IsTruncated>{flag}</IsTruncated>{more}{contents}{prefixes}</ListBucketResult>"
    )
    return Reply(body=body.encode(), headers={"Content-Type": "application/xml"})


class OldS3:
    """An S3 store whose listings have no continuation token.

    Args:
        keys: The keys.
        start_after: Whether it knows ``start-after``; if not, it takes each listing for the older ListObjects.
        marker: Whether it knows the marker of ListObjects.
    """

    def __init__(self, keys: list[str], *, start_after: bool = False, marker: bool = True) -> None:
        self.keys = list(keys)
        self.start_after = start_after
        self.marker = marker

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "POST":
            self.keys = [key for key in self.keys if f"<Key>{key}</Key>".encode() not in asked.body]
            return Reply(body=b"<DeleteResult></DeleteResult>")
        if asked.method == "DELETE":
            self.keys.remove(asked.path.removeprefix(f"/{BUCKET}/"))
            return Reply(204)
        if asked.method == "HEAD":
            return self._head(asked)
        after = asked.query.get("start-after", "") if self.start_after else ""
        after = after or (asked.query.get("marker", "") if self.marker else "")
        keys, folders, truncated = _pages_of(self.keys, asked, after)
        marker = f"<NextMarker>{max([*keys, *folders])}</NextMarker>" if truncated and "delimiter" in asked.query else ""
        return _listing(keys, folders, truncated=truncated, more=marker)

    def _head(self, asked: Asked) -> Reply:
        key = asked.path.removeprefix(f"/{BUCKET}").strip("/")
        if key and key not in self.keys:
            return Reply(404)
        return Reply(200, b"1", {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"})


def _found(fs: Any, method: str) -> list[str]:
    found = getattr(fs, method)(BUCKET)
    if method == "walk":
        return [f"{folder}/{name}" for folder, _, names in found for name in names]
    return list(found)


@pytest.mark.parametrize("start_after", [True, False], ids=["start-after", "marker"])
@pytest.mark.parametrize("keys", [FLAT, TREE], ids=["flat", "tree"])
class TestNoToken:
    """A store that says IsTruncated, and gives no token of the next page."""

    def test_verbs(self, s3: Desk, start_after: bool, keys: list[str]) -> None:
        """`list_files` and `list_folder` find all keys, and all folders once."""
        s3.serve(OldS3(keys, start_after=start_after))
        files = [each.url.removeprefix(f"s3://{BUCKET}/") for each in s3.client.list_files()]
        folder = [str(getattr(each, "url", each)).removeprefix(f"s3://{BUCKET}/") for each in s3.client.list_folder()]
        assert files == sorted(keys)
        assert folder == sorted({key.partition("/")[0] + "/" * ("/" in key) for key in keys})

    def test_filesystem(self, s3: Desk, start_after: bool, keys: list[str]) -> None:
        """`find`, `walk` and `glob` find all keys, `ls` and `du` too; `rm` removes them."""
        store = OldS3(keys, start_after=start_after)
        s3.serve(store)
        paths = sorted(f"{BUCKET}/{key}" for key in keys)
        assert sorted(_found(s3.fs, "find")) == paths
        assert sorted(_found(s3.fs, "walk")) == paths
        assert set(s3.fs.glob(f"{BUCKET}/**")) >= set(paths)
        assert sorted(s3.fs.ls(BUCKET, detail=False)) == sorted({"/".join(path.split("/")[:2]) for path in paths})
        assert s3.fs.du(BUCKET) == len(keys)
        s3.fs.rm(sorted({f"{BUCKET}/{key.partition('/')[0]}" for key in keys}), recursive=True)
        assert store.keys == []


def test_command_line() -> None:
    """``rm -r`` leaves nothing of a store without tokens."""
    store = OldS3(FLAT)
    env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    with Hostile(store) as server:
        done = run("rm", "-r", f"s3://{BUCKET}/", "--endpoint-url", server.url, env=env)
    assert (done.code, done.err, store.keys) == (0, "", [])


def test_no_way_on(s3: Desk) -> None:
    """A cut listing that neither knows start-after nor a marker is an error."""
    s3.serve(OldS3(FLAT, marker=False))
    with pytest.raises(StorageError, match="is cut"):
        list(s3.client.list_files())
    for method in ("find", "ls", "du"):
        with pytest.raises(StorageError, match="is cut"):
            getattr(s3.fs, method)(BUCKET)


def test_versions_cut(desks: dict[str, Desk]) -> None:
    """A cut listing of versions without a marker is an error."""
    body = (
        f"<ListVersionsResult><Name>{BUCKET}</Name><IsTruncated>true</IsTruncated><Version><Key>a</Key><VersionId>1</VersionId>"
        "<IsLatest>true</IsLatest><Size>1</Size></Version></ListVersionsResult>"
    )
    desks["direct"].serve(lambda _: Reply(body=body.encode()))
    fs = desks["direct"].fs
    aware = type(fs)(**{**fs.storage_options, "version_aware": True}, skip_instance_cache=True)
    with pytest.raises(StorageError, match="is cut"):
        aware.ls(BUCKET)


def _s3_page(names: list[str], token: str | None) -> Reply:
    more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return _listing(names, [], truncated=token is not None, more=more)


def _gcs_page(names: list[str], token: str | None) -> Reply:
    items = [{"name": name, "size": "1", "generation": "1", "updated": DATE} for name in names]
    more = {"nextPageToken": token} if token else {}
    return Reply(body=json.dumps({"kind": "storage#objects", "items": items, **more}).encode())


def _azure_page(names: list[str], token: str | None) -> Reply:
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Content-Length>1</Content-Length><Etag>e</Etag><BlobType>BlockBlob</BlobType>"
        "<Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified></Properties></Blob>"
        for name in names
    )
    body = (
        f'<?xml version="1.0"?><EnumerationResults ContainerName="{BUCKET}"><Blobs>{blobs}</Blobs>'
        f"<NextMarker>{token or ''}</NextMarker></EnumerationResults>"
    )
    return Reply(body=body.encode(), headers={"Content-Type": "application/xml"})


PAGE: dict[str, Callable[[list[str], str | None], Reply]] = {
    "direct": _s3_page,
    "boto3": _s3_page,
    "gcs": _gcs_page,
    "azure": _azure_page,
}


def _token_of(asked: Asked) -> str | None:
    return next((asked.query[name] for name in ("continuation-token", "pageToken", "marker") if name in asked.query), None)


def _is_listing(asked: Asked) -> bool:
    at_root = asked.path.rstrip("/").endswith((f"/{BUCKET}", f"/b/{BUCKET}/o"))
    return (asked.method == "GET" and at_root and asked.query.get("restype") != "container") or "comp" in asked.query


def _page(cloud: str, asked: Asked, names: list[str], token: str | None) -> Reply:
    """A page of names below the requested prefix."""
    return PAGE[cloud]([f"{asked.query.get('prefix', '')}{name}" for name in names], token)


def _on_listings(listing: Callable[[Asked], Reply]) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        return listing(asked) if _is_listing(asked) else Reply(404)

    return answer


def same_token(cloud: str) -> Callable[[Asked], Reply]:
    """New names, and always the same token."""
    numbers = itertools.count()
    return _on_listings(lambda asked: _page(cloud, asked, [f"a{next(numbers):06}"], "t"))


def two_tokens(cloud: str) -> Callable[[Asked], Reply]:
    """New names, and two tokens in turn."""
    numbers = itertools.count()
    return _on_listings(lambda asked: _page(cloud, asked, [f"a{next(numbers):06}"], "b" if _token_of(asked) == "a" else "a"))


def same_page(cloud: str) -> Callable[[Asked], Reply]:
    """New tokens, and always the same names."""
    numbers = itertools.count()
    return _on_listings(lambda asked: _page(cloud, asked, ["a", "b"], f"t{next(numbers)}"))


def pages_in_turn(cloud: str) -> Callable[[Asked], Reply]:
    """New tokens, and two pages in turn."""
    numbers = itertools.count()

    def listing(asked: Asked) -> Reply:
        number = next(numbers)
        return _page(cloud, asked, [["a", "b"], ["c", "d"]][number % 2], f"t{number}")

    return _on_listings(listing)


def other_names(cloud: str) -> Callable[[Asked], Reply]:
    """Names without the requested prefix."""
    return _on_listings(lambda _: PAGE[cloud](["other/x"], None))


def html(_: str) -> Callable[[Asked], Reply]:
    """The page of a web server."""
    page = b"<!DOCTYPE html><html><head><title>Log in</title></head><body><br>Welcome</body></html>"
    return lambda _: Reply(body=page, headers={"Content-Type": "text/html"})


def xhtml(_: str) -> Callable[[Asked], Reply]:
    """The same, as well-formed XML."""
    return lambda _: Reply(body=b"<html><body><p>Log in</p></body></html>", headers={"Content-Type": "text/html"})


def empty(_: str) -> Callable[[Asked], Reply]:
    """Success without a body."""
    return lambda _: Reply()


def empty_json(_: str) -> Callable[[Asked], Reply]:
    """A JSON document of something else."""
    return lambda _: Reply(body=b'{"status": "ok"}', headers={"Content-Type": "application/json"})


def json_list(_: str) -> Callable[[Asked], Reply]:
    """A JSON document that is not an object."""
    return lambda _: Reply(body=b"[1, 2]", headers={"Content-Type": "application/json"})


NOT_LISTINGS = (html, xhtml, empty, empty_json, json_list)
HOSTILE = (same_token, two_tokens, same_page, pages_in_turn, other_names, *NOT_LISTINGS)

LISTINGS: dict[str, Callable[[FsspecStorageClient], object]] = {
    "list_files": lambda client: list(client.list_files("p/")),
    "list_folder": lambda client: list(client.list_folder("p")),
    "ls": lambda client: client.filesystem.ls(f"{BUCKET}/p"),
    "ls-bucket": lambda client: client.filesystem.ls(f"{BUCKET}"),
    "ls-root": lambda client: client.filesystem.ls(""),
    "find": lambda client: client.filesystem.find(f"{BUCKET}/p"),
    "walk": lambda client: list(client.filesystem.walk(f"{BUCKET}/p", on_error="raise")),
    "glob": lambda client: client.filesystem.glob(f"{BUCKET}/p/*"),
    "rm": lambda client: client.filesystem.rm(f"{BUCKET}/p", recursive=True),
    "du": lambda client: client.filesystem.du(f"{BUCKET}/p"),
    "get": lambda client: client.filesystem.get(f"{BUCKET}/p/", "/nonexistent/", recursive=True),
}


BUCKETS = {
    "s3": (
        "<ListAllMyBucketsResult><Owner><ID>1</ID></Owner><Buckets>{}</Buckets></ListAllMyBucketsResult>",
        "<Bucket><Name>{}</Name></Bucket>",
    ),
    "gcs": ('{{"kind": "storage#buckets", "items": [{}]}}', '{{"kind": "storage#bucket", "name": "{}"}}'),
    "azure": (
        "<EnumerationResults><Containers>{}</Containers><NextMarker /></EnumerationResults>",
        "<Container><Name>{}</Name><Properties><Etag>e</Etag></Properties></Container>",
    ),
}
"""The listing of buckets, and an entry of it."""


def _buckets(cloud: str, entries: str) -> Reply:
    page, _ = BUCKETS.get(cloud, BUCKETS["s3"])
    kind = "application/json" if cloud == "gcs" else "application/xml"
    return Reply(body=page.format(entries).encode(), headers={"Content-Type": kind})


@pytest.mark.parametrize("names", [[], ["one"], ["one", "two"]], ids=len)
def test_buckets(desk: Desk, names: list[str]) -> None:
    """The buckets of an account, also of an account without any."""
    _, entry = BUCKETS.get(desk.cloud, BUCKETS["s3"])
    glue = ", " if desk.cloud == "gcs" else ""
    desk.serve(lambda _: _buckets(desk.cloud, glue.join(entry.format(name) for name in names)))
    assert [each.strip("/") for each in desk.fs.ls("", detail=False)] == names
    assert {each["type"] for each in desk.fs.ls("", detail=True)} <= {"directory"}


@pytest.mark.parametrize("name", ["", None], ids=["empty", "none"])
def test_nameless_bucket(desk: Desk, name: str | None) -> None:
    """An entry without a name is an error."""
    _, entry = BUCKETS.get(desk.cloud, BUCKETS["s3"])
    nameless = (
        entry.format("") if name == "" else entry.replace("<Name>{}</Name>", "").replace(', "name": "{}"', "").format()
    )
    desk.serve(lambda _: _buckets(desk.cloud, nameless))
    with pytest.raises(StorageError):
        desk.fs.ls("")


def test_buckets_in_pages(s3: Desk) -> None:
    """S3 lists many buckets in pages; a page that comes again is an error."""
    page = "<ListAllMyBucketsResult><Buckets><Bucket><Name>{}</Name></Bucket></Buckets>{}</ListAllMyBucketsResult>"
    more = "<ContinuationToken>t</ContinuationToken>"

    def answer(asked: Asked) -> Reply:
        body = page.format("b", "") if "continuation-token" in asked.query else page.format("a", more)
        return Reply(body=body.encode())

    s3.serve(answer)
    assert s3.fs.ls("", detail=False) == ["a", "b"]
    s3.serve(lambda _: Reply(body=page.format("a", more).encode()))
    with pytest.raises(StorageError, match="repeats"):
        s3.fs.ls("")


@pytest.mark.parametrize("page", [xhtml, empty], ids=["html", "empty"])
def test_ls_buckets_command(page: Callable[[str], Callable[[Asked], Reply]]) -> None:
    """``ls s3://`` of a web server is an error."""
    env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    with Hostile(page("direct")) as server:
        done = run("ls", "s3://", "--endpoint-url", server.url, env=env)
    assert (done.code != 0, done.out) == (True, "")
    assert "does not speak S3" in done.err


TRUTHS = ["True", "TRUE", " true ", "1"]


@pytest.mark.parametrize("flag", [*TRUTHS, "yes", "", "x"])
def test_other_truths(s3: Desk, flag: str) -> None:
    """A listing is complete or an error, however its flag is written."""

    def listing(asked: Asked) -> Reply:
        reply = _s3_page(["b"], None) if _token_of(asked) else _s3_page(["a"], "t")
        reply.body = reply.body.replace(b">true<", f">{flag}<".encode())
        return reply

    s3.serve(_on_listings(listing))
    listings: list[Callable[[], list[str]]] = [
        lambda: [each.url.rpartition("/")[2] for each in s3.client.list_files()],
        lambda: [each.rpartition("/")[2] for each in s3.fs.find(BUCKET)],
    ]
    for listed in listings:
        if flag in TRUTHS:
            assert listed() == ["a", "b"]
        else:
            with pytest.raises(StorageError, match="IsTruncated"):
                listed()


@pytest.mark.parametrize("flag", ["False", "FALSE", "0"])
def test_other_untruths(s3: Desk, flag: str) -> None:
    """A complete listing ends, however its flag is written."""
    reply = _s3_page(["a"], None)
    reply.body = reply.body.replace(b">false<", f">{flag}<".encode())
    s3.serve(_on_listings(lambda _: reply))
    assert len(list(s3.client.list_files())) == 1


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda each: str(each.__name__))
def test_hostile(desk: Desk, hostile: Callable[[str], Callable[[Asked], Reply]]) -> None:
    """A listing that repeats itself, or that is not a listing, is an error of every method, after few requests."""
    quiet = {}
    for name, listing in LISTINGS.items():
        if (hostile is other_names and name == "ls-bucket") or (hostile not in NOT_LISTINGS and name == "ls-root"):
            continue
        desk.serve(hostile(desk.cloud))
        with contextlib.suppress(StorageError):
            quiet[name] = listing(desk.client)
        assert len(desk.server.asked) < 30, name
    assert quiet == {}


def test_inclusive_token(desk: Desk) -> None:
    """A store that begins a page with the last key of the page before: each key once."""
    names = [f"a{number}" for number in range(7)]

    def listing(asked: Asked) -> Reply:
        start = int(_token_of(asked) or 0)
        end = start + 3
        return PAGE[desk.cloud](names[start:end], str(end - 1) if end < len(names) else None)

    desk.serve(_on_listings(listing))
    assert [each.url.rpartition("/")[2] for each in desk.client.list_files()] == names
    assert [each.rpartition("/")[2] for each in desk.fs.find(BUCKET)] == names


def test_tokens_are_base64(s3: Desk) -> None:
    """A token with characters that are special in URLs arrives as it was given."""
    token = base64.b64encode(b"\xff\xfe/+&=").decode()

    def listing(asked: Asked) -> Reply:
        return _s3_page(["b"], None) if _token_of(asked) == token else _s3_page(["a"], token)

    s3.serve(_on_listings(listing))
    assert [each.url for each in s3.client.list_files()] == ["s3://bucket/a", "s3://bucket/b"]
