"""Remote paths, keys and URLs: accepted ones survive a round trip unchanged, and others raise ValueError."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import fsspec
import pytest
import s3fs
from fsspec.core import strip_protocol, url_to_fs
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gllm_storage import LocalStorageClient, MemoryStorageClient, S3StorageClient, versions
from gllm_storage.paths import MAX_KEY_BYTES, Location, clean_prefix, split_url, validate_key
from gllm_storage.store.port import url_of_bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from gllm_storage import FsspecStorageClient

TOKENS = [
    "/",
    "//",
    ".",
    "..",
    "...",
    ":",
    "::",
    "://",
    "?versionId=",
    "?x=1&versionId=2",
    "?",
    "#",
    "%2F",
    "%",
    "+",
    " ",
    "~",
]
TOKENS += [
    "a",
    "B",
    "é",
    "e\u0301",
    "漢",
    "🎉",
    "[",
    "]",
    "*",
    "**",
    "{a,b}",
    "\\",
    "&",
    "=",
    "@",
    "'",
    '"',
    "<",
    "|",
    "!",
    "$",
    ";",
]
TOKENS += [
    "s3:",
    "file:",
    "s3://models/",
    "memory://",
    "arn:aws:s3:",
    "\u200b",
    "\u2028",
    "\xa0",
    "\n",
    "\0",
    "\x7f",
    "\ud800",
]

anything = st.one_of(
    st.lists(st.sampled_from(TOKENS), max_size=12).map("".join),
    st.text(st.characters(), max_size=40),  # includes lone surrogates
)


def is_ordinary(path: str) -> bool:
    """Return whether a relative path is valid, by an implementation that is independent of the library's."""
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        return False
    parts = path.split("/")
    special = ("::", "://", "?versionId=")
    control = any(ord(each) < 32 or 127 <= ord(each) < 160 for each in path)
    return size <= 1024 and not control and not {"", ".", ".."} & set(parts) and not any(each in path for each in special)


ordinary = anything.filter(is_ordinary)
prefixes = st.one_of(st.just(""), ordinary.filter(lambda path: len(path.encode()) < 300))
few = settings(max_examples=40, deadline=None)
many = settings(max_examples=150, deadline=None)
S3 = Location("s3", "models/", "team/v3", aliases=("s3a",))

REFUSED = {
    "empty": "",
    "dot": ".",
    "dot dot": "..",
    "dot dot first": "../x",
    "dot dot inside": "a/../b",
    "dot dot last": "a/..",
    "dot inside": "a/./b",
    "empty segment": "a//b",
    "trailing slash": "a/",
    "only a slash": "/",
    "two slashes": "//a",
    "root dot dot": "/../a",
    "chain": "a::b",
    "version": "a?versionId=1",
    "newline": "a\nb",
    "null": "a\0b",
    "delete": "a\x7fb",
    "C1 control": "a\x85b",
    "lone surrogate": "a\ud800b",
    "too long": "a" * 1025,
    "too long in UTF-8": "é" * 513,
    "a URL inside": "a/s3://b/c",
    "another scheme": "gs://models/a",
    "another bucket": "s3://other/a",
    "a bucket that begins the same": "s3://models-2/a",
    "no key": "s3://models",
    "no key, slash": "s3://models/",
    "a URL with dot dot": "s3://models/../a",
    "a URL with an empty segment": "s3://models//a",
    "a URL without a scheme": "://models/a",
}


@pytest.mark.parametrize("path", REFUSED.values(), ids=REFUSED)
def test_impossible_path(path: str) -> None:
    """An impossible path is refused, and the error names it."""
    with pytest.raises(ValueError, match=r".") as caught:
        S3.key(path)
    key = path.removeprefix("s3://models").removeprefix("/")
    assert repr(path) in str(caught.value) or repr(key) in str(caught.value)


@pytest.mark.parametrize("path", [None, 3, b"a", ["a"], PurePosixPath("v3/a")], ids=repr)
def test_path_not_a_string(path: Any) -> None:
    """A path that is not a string raises ValueError, of each verb; for a path object it says what to pass."""
    client: Any = MemoryStorageClient({"bucket_name": "not-a-string"})
    calls: list[Callable[[], object]] = [
        lambda: S3.key(path),
        lambda: S3.listing_prefix(path),
        lambda: client.file_exists(path),
        lambda: client.upload(b"x", path),
        lambda: client.open(path, "rb"),
        lambda: list(client.list_files(path)),
        lambda: client.delete_dir(path),
        lambda: client.move_file("a", path),
        lambda: versions.resolve(client, path, "v1"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"is a string, not {type(path).__name__}") as caught:
            call()
        assert ("pass str(path)" in str(caught.value)) == isinstance(path, PurePosixPath)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a", "team/v3/a"),
        ("a/b.bin", "team/v3/a/b.bin"),
        ("/a/b.bin", "a/b.bin"),
        ("s3://models/a/b.bin", "a/b.bin"),
        ("S3://models/a", "a"),
        ("s3a://models/a", "a"),
        ("a b+c%20d#e[f]*g?h", "team/v3/a b+c%20d#e[f]*g?h"),
        ("...", "team/v3/..."),
        ("a/.hidden", "team/v3/a/.hidden"),
        ("..a/b..", "team/v3/..a/b.."),
        ("~root/x", "team/v3/~root/x"),
        ("s3:/models/a", "team/v3/s3:/models/a"),
        (" ", "team/v3/ "),
        ("模型/é.bin", "team/v3/模型/é.bin"),
    ],
)
def test_key_of_a_path(path: str, key: str) -> None:
    """A possible path names one key."""
    assert S3.key(path) == key
    assert S3.url(key) == f"s3://models/{key}"


def test_length_limit() -> None:
    """The limit of 1024 bytes includes the prefix."""
    room = MAX_KEY_BYTES - len("team/v3/")
    assert len(S3.key("a" * room)) == MAX_KEY_BYTES
    with pytest.raises(ValueError, match="1025"):
        S3.key("a" * (room + 1))
    assert len(S3.key("/" + "a" * MAX_KEY_BYTES)) == MAX_KEY_BYTES


@pytest.mark.parametrize(
    ("prefix", "meant"),
    [
        ("", "team/v3/"),
        ("a", "team/v3/a"),
        ("a/", "team/v3/a/"),
        ("/", ""),
        ("/a", "a"),
        ("/a/", "a/"),
        ("s3://models/", ""),
        ("s3://models/a/", "a/"),
    ],
)
def test_listing_prefix(prefix: str, meant: str) -> None:
    """A listing prefix may be empty or end with a slash."""
    assert S3.listing_prefix(prefix) == meant


@pytest.mark.parametrize("prefix", ["..", "../", "a/../b", "a//", "//", "s3://other/", "gs://models/a", "a\nb", "a::b"])
def test_impossible_listing_prefix(prefix: str) -> None:
    """A listing prefix that a key cannot have is refused."""
    with pytest.raises(ValueError, match=r"."):
        S3.listing_prefix(prefix)


@pytest.mark.parametrize(("given_prefix", "clean"), [("", ""), ("/", ""), ("a", "a"), ("/a/b/", "a/b"), ("//a", "a")])
def test_slashes_of_a_prefix(given_prefix: str, clean: str) -> None:
    """A prefix loses the slashes at its ends."""
    assert clean_prefix(given_prefix) == clean


@pytest.mark.parametrize("prefix", ["..", "a/..", "a//b", "a::b", "s3://models/a", "a\0", "a" * 1025])
def test_impossible_prefix(prefix: str) -> None:
    """An impossible prefix is refused."""
    with pytest.raises(ValueError, match="prefix"):
        clean_prefix(prefix)


@pytest.mark.parametrize("url", ["", "bucket/key", "/folder", "s3:", "s3:/b", "://b", "3s://b", None, 7, b"s3://b"])
def test_not_a_url(url: Any) -> None:
    """A value that is not a storage URL is refused."""
    with pytest.raises(ValueError, match="storage URL"):
        split_url(url)


@given(anything)
@example("s3://models/a")
@example("s3://models/..")
@many
def test_any_path(path: str) -> None:
    """Any text is an accepted path below the prefix, or raises ValueError."""
    try:
        key = S3.key(path)
    except ValueError:
        assert not is_ordinary(path) or len(path.encode()) + len("team/v3/") > MAX_KEY_BYTES
        return
    assert is_ordinary(key)
    if "://" not in path and not path.startswith("/"):
        assert key == f"team/v3/{path}", "a relative path left the prefix"


@given(anything)
@many
def test_any_listing_prefix(prefix: str) -> None:
    """Any text is an accepted listing prefix below the client's prefix, or raises ValueError."""
    try:
        meant = S3.listing_prefix(prefix)
    except ValueError:
        return
    if "://" not in prefix and not prefix.startswith("/"):
        assert meant.startswith("team/v3/"), "a relative prefix left the client's prefix"


@given(anything)
@many
def test_any_key(key: str) -> None:
    """A key is checked and never changed."""
    try:
        assert validate_key(key) == key
        assert is_ordinary(key)
    except ValueError:
        assert not is_ordinary(key)


@given(ordinary, prefixes)
@example("a?x=1&versionId=2", "")
@few
def test_url_in_s3fs(path: str, prefix: str) -> None:
    """A URL of the client names the same object in s3fs."""
    client = S3StorageClient(
        {"bucket_name": "models", "prefix": prefix, "aws_access_key_id": "k", "aws_secret_access_key": "s"}
    )
    url = client.url(path)
    key = f"{clean_prefix(prefix)}/{path}".removeprefix("/")
    assert client.url(url) == url, "what upload_file returned goes into download_file"
    assert strip_protocol(url) == f"models/{key}"
    filesystem, found = url_to_fs(url, **client.storage_options)
    assert isinstance(filesystem, s3fs.S3FileSystem)
    assert tuple(filesystem.split_path(found)) == ("models", key, None)
    assert client.filesystem._split(found) == ("models", key)


def memory_client(prefix: str) -> MemoryStorageClient:
    """Return a client on an empty store: fsspec's store keeps files and folders from one example to the next."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return MemoryStorageClient({"bucket_name": "paths", "prefix": prefix})


def local_client(prefix: str, root: str = "/no/such/root") -> LocalStorageClient:
    return LocalStorageClient({"root": root, "prefix": prefix})


@given(ordinary, prefixes)
@few
def test_url_in_fsspec(path: str, prefix: str) -> None:
    """A URL of the client names the same object in fsspec."""
    clients: list[FsspecStorageClient] = [memory_client(prefix), local_client(prefix)]
    for client, base in zip(clients, ("/paths/", "/no/such/root/"), strict=True):
        url = client.url(path)
        expected = base + f"{clean_prefix(prefix)}/{path}".removeprefix("/")
        assert client.url(url) == url
        assert strip_protocol(url) == expected
        assert url_to_fs(url)[1] == expected


@given(ordinary, prefixes, st.binary(max_size=20))
@few
def test_object_of_the_client(path: str, prefix: str, content: bytes) -> None:
    """An object that the client wrote can be read through fsspec."""
    client = memory_client(prefix)
    with client.open(path, "wb") as file:
        file.write(content)
    with fsspec.open(client.url(path), "rb") as file:
        assert file.read() == content
    assert client.delete_file(client.url(path))
    assert not client.filesystem.exists(client.url(path))


@given(ordinary, prefixes, st.binary(max_size=20))
@few
def test_object_of_fsspec(path: str, prefix: str, content: bytes) -> None:
    """An object that fsspec wrote can be read through the client."""
    client = memory_client(prefix)
    with fsspec.open(client.url(path), "wb") as file:
        file.write(content)
    with client.open(path) as file:
        assert file.read() == content
    assert [info.url for info in client.list_files(path) if info.url == client.url(path)] == [client.url(path)]
    assert client.delete_file(path)


@given(anything, prefixes)
@few
def test_local_root(path: str, prefix: str) -> None:
    """An accepted path never leaves the local root."""
    client = local_client(prefix)
    try:
        url = client.url(path)
    except ValueError:
        return
    target = client.filesystem._strip_protocol(url)
    assert os.path.normpath(target) == target
    assert os.path.commonpath([target, "/no/such/root"]) == "/no/such/root"
    assert target != "/no/such/root"


@pytest.mark.parametrize("root", ["/", "/data", "/data/", "/data/../data", "/a b/#c[d]*"])
def test_urls_of_any_root(root: str) -> None:
    """Any local root gives URLs that the client accepts as paths."""
    client = local_client("p", root)
    url = client.url("x/y")
    assert urlsplit(url).scheme == "file"
    assert client.url(url) == url
    assert strip_protocol(url) == os.path.join(os.path.abspath(root), "p/x/y")


@pytest.mark.parametrize("url", ["file:///data/../etc/passwd", "file:///etc/passwd", "file:///database/x", "file://data/x"])
def test_url_outside_the_root(url: str) -> None:
    """A file URL outside the root is refused."""
    with pytest.raises(ValueError, match=r"."):
        local_client("", "/data").url(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("s3://b/", "s3://b"), ("memory://", "memory://"), ("file:///", "file:///"), ("file:///data/", "file:///data")],
)
def test_url_of_bucket(url: str, expected: str) -> None:
    """The URL of a bucket or folder ends without a slash in errors; the URL of a root stays."""
    assert url_of_bucket(url) == expected
