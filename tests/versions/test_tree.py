"""The digest of a tree, and the list of its files."""

from __future__ import annotations

import hashlib
import json
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import ErrorDetails, IntegrityError, UnsupportedOperationError
from gllm_storage.versions.tree import TreeDigest, TreeFile, read_tree, tree_header
from tests.versions.support import digest_of, tree_file

if TYPE_CHECKING:
    from collections.abc import Iterator

DETAILS = ErrorDetails("memory", "memory://b/trees/x.jsonl", "fetch")
VECTORS: list[tuple[dict[str, bytes], str]] = [
    (
        {},
        "sha256:d8f8861b08b0db1071f0d3d6041c621a78e778dcd4385c8549e65b6eb9a1f5a4",
    ),
    (
        {"a.txt": b""},
        "sha256:5031420db641e2b915f48bdd3148624977a69ee92ee26698660d9b08df9f76da",
    ),
    (
        {"config.json": b"{}", "weights/model.bin": b"\x00" * 1000},
        "sha256:81e9e72c949c05277cfd23481bf67a4a19928630b06ebe990fb3d0c41f8481f1",
    ),
    (
        {"a-b": b"1", "a/b": b"2", "z": b"3", "ä": b"4", "\U0001f600": b"5", "\uff21": b"6"},
        "sha256:0912c773a60cbe59ecfd391311386e88ca2ddec77e83821e1b31ea0bf754a9aa",
    ),
]


@pytest.mark.parametrize(("files", "digest"), VECTORS)
def test_published_vectors(files: dict[str, bytes], digest: str) -> None:
    """The digests are those of docs/design/versions.md."""
    assert digest_of(files) == digest


@pytest.mark.parametrize("files", [each for each, _ in VECTORS])
def test_definition(files: dict[str, bytes]) -> None:
    """The digest is the one that the design note defines, computed in another way."""
    data = b"gllm-storage tree 1\0"
    for path, content in sorted((path.encode(), content) for path, content in files.items()):
        data += struct.pack(f">Q{len(path)}sQ", len(path), path, len(content)) + hashlib.sha256(content).digest()
    assert digest_of(files) == f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize(
    "other",
    [{"ab": b"c"}, {"a": b"bd"}, {"a": b"b"}, {"b": b"bc"}, {"a": b"bc", "b": b""}, {"A": b"bc"}, {}],
)
def test_digest_of_other_trees(other: dict[str, bytes]) -> None:
    """Another path, size, content or number of files makes another digest."""
    assert digest_of(other) != digest_of({"a": b"bc"})


@pytest.mark.parametrize(
    "paths", [["b", "a"], ["a", "a"], ["ä", "z"], ["a", "a/b"], ["a", "a-b", "a/b"], ["a/b", "a/b/c/d"]]
)
def test_impossible_trees(paths: list[str]) -> None:
    """Paths out of order, twice, or of a file that is also a folder are refused."""
    digest = TreeDigest()
    for path in paths[:-1]:
        digest.add(tree_file(path, b""))
    with pytest.raises(ValueError, match=r"not in its place|is a file, and a folder"):
        digest.add(tree_file(paths[-1], b""))


def test_folder_with_similar_names() -> None:
    """Names that only begin like a folder are no conflict."""
    digest = TreeDigest()
    for path in ["a-", "a-b", "a.txt", "a/b", "a/b.txt", "a/bc/d", "ab"]:
        digest.add(tree_file(path, b""))
    assert digest.files == 7


def test_list_and_back() -> None:
    """The files of a list are those that were written, any characters included."""
    files = [tree_file(path, path.encode()) for path in ['"quoted"', "a b", "line\u2028break", "ünï"]]
    rows = [tree_header(), *(each.line() for each in files)]
    assert all(row.count(b"\n") == 1 for row in rows)
    assert list(read_tree(rows, DETAILS)) == files


def line(**changes: Any) -> bytes:
    fields = {"path": "a", "size": 1, "sha256": "ab" * 32, "crc64nvme": "AAAAAAAAAAA=", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode() + b"\n"


@pytest.mark.parametrize(
    "row",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b"not json\n",
        line()[:-1],
        line()[:20],
        b"\xff\n",
        b"[" * 10_000 + b"\n",
        line(path=None),
        line(path=3),
        line(path="../x"),
        line(path="/etc/passwd"),
        line(path="a\\..\\b"),
        line(path="x" * 20_000),
        line(size=-1),
        line(size=1.5),
        line(size=True),
        line(size="1"),
        line(size=2**63),
        line(sha256="AB" * 32),
        line(sha256="ab"),
        line(sha256=None),
        line(crc64nvme="AAAA"),
        line(crc64nvme=None),
    ],
)
def test_damaged_list(row: bytes) -> None:
    """A line that is cut, damaged, or names a file outside the directory is refused, with the URL of the list."""
    with pytest.raises(IntegrityError, match=r"memory://b/trees/x\.jsonl"):
        list(read_tree([tree_header(), row], DETAILS))


@pytest.mark.parametrize("header", [b"", b"{}\n", line(), b'{"format":1,"kind":"other"}\n', b'{"format":true,"kind":"x"}\n'])
def test_list_without_header(header: bytes) -> None:
    """A list without its header is refused."""
    with pytest.raises(IntegrityError):
        list(read_tree([header], DETAILS))


def test_list_of_a_later_format() -> None:
    """A list of a later format is refused with the advice to update."""
    with pytest.raises(UnsupportedOperationError, match=r"format 2.*Update gllm-storage"):
        list(read_tree([b'{"format":2,"kind":"something new"}\n'], DETAILS))


def test_memory_of_many_files() -> None:
    """A tree of 10 000 files is read and digested in less than 1 MiB; the lines alone have 1.5."""

    def rows() -> Iterator[bytes]:
        yield tree_header()
        for number in range(10_000):
            yield TreeFile(f"{number // 1000:04}/{number:07}.bin", number, "ab" * 32, "AAAAAAAAAAA=").line()

    digest = TreeDigest()
    tracemalloc.start()
    try:
        for file in read_tree(rows(), DETAILS):
            digest.add(file)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert digest.files == 10_000
