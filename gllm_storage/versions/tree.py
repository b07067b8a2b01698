r"""The tree of a version: the list of its files, and the digest that identifies all of them.

The digest is SHA-256 over ``b"gllm-storage tree 1\0"`` and then, for each file in the order of the UTF-8 bytes of their
paths: the length of the path in bytes (8 bytes, big-endian), the path, the size of the file (8 bytes, big-endian), and the
SHA-256 of its content (32 bytes). The lengths keep ``a`` + ``bc`` apart from ``ab`` + ``c``.

The list is an object of JSON lines: a header, then one line for each file, in the same order. It is written and read as a
stream, so a tree of a million files takes little memory.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import ErrorDetails, IntegrityError, Remedy, UnsupportedOperationError
from gllm_storage.store.checksums import is_well_formed
from gllm_storage.versions.layout import require_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FORMAT = 1
"""The format of tree lists and of log entries that this version of the library writes."""
LONGEST_LINE = 2**14
"""The most bytes of a line of a tree list: the longest path, escaped, takes 6 KiB."""

_KIND = "gllm-storage tree"
_FIRST = b"gllm-storage tree 1\0"
_HEX = frozenset("0123456789abcdef")
_SHA256_DIGITS = 64


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file of a version.

    Attributes:
        path: The path relative to the directory of the version, with ``/`` between its segments.
        size: Size in bytes.
        sha256: SHA-256 of the content, hexadecimal.
        crc64nvme: CRC-64/NVME of the content in base64, as stores keep it.
    """

    path: str
    size: int
    sha256: str
    crc64nvme: str

    def line(self) -> bytes:
        """The line of the tree list."""
        fields = {"path": self.path, "size": self.size, "sha256": self.sha256, "crc64nvme": self.crc64nvme}
        return _encoded(fields)


class TreeDigest:
    """Computes the digest of a tree, file by file.

    Examples:
        >>> digest = TreeDigest()
        >>> digest.add(TreeFile("a.txt", 0, hashlib.sha256().hexdigest(), "AAAAAAAAAAA="))
        >>> digest.value()
        'sha256:5031420db641e2b915f48bdd3148624977a69ee92ee26698660d9b08df9f76da'
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256(_FIRST)
        self._last: bytes | None = None
        self._files_above: list[bytes] = []
        self.files = 0
        self.size = 0

    def add(self, file: TreeFile) -> None:
        """Add the next file.

        Raises:
            ValueError: If its path is not behind the path before, or a file of the tree is a folder of the path.
        """
        path = file.path.encode()
        if self._last is not None and path <= self._last:
            raise ValueError(
                f"{file.path!r} is not in its place: paths must be in the order of their UTF-8 bytes, each once"
            )
        self._require_folder(path)
        self._last = path
        self._hash.update(len(path).to_bytes(8, "big") + path + file.size.to_bytes(8, "big") + bytes.fromhex(file.sha256))
        self.files += 1
        self.size += file.size

    def value(self) -> str:
        """The digest of the files so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def _require_folder(self, path: bytes) -> None:
        # Of the paths before, only those that this path begins with can be files where this path needs folders. Between
        # `a` and `a/b` the order has `a-b`, so all of them are kept; there is one for each beginning at the most.
        above = self._files_above
        while above and not path.startswith(above[-1]):
            above.pop()
        for each in above:
            if path[len(each) : len(each) + 1] == b"/":
                raise ValueError(f"{each.decode()!r} is a file, and a folder of {path.decode()!r}")
        above.append(path)


def tree_header() -> bytes:
    """The first line of a tree list."""
    return _encoded({"format": FORMAT, "kind": _KIND})


def read_tree(lines: Iterable[bytes], details: ErrorDetails) -> Iterator[TreeFile]:
    """The files of a tree list.

    Args:
        lines: The lines, such as a binary file.
        details: The operation, for errors.

    Raises:
        IntegrityError: If the list is damaged, or names a file outside the directory, or names files in another order.
        UnsupportedOperationError: If a later version of this library wrote the list.
    """
    details = replace(details, remedy=Remedy.DELETE_VERSION)
    rows = iter(lines)
    header = _decoded(next(rows, b""), details)
    require_format(header, details)
    if header.get("kind") != _KIND:
        raise damaged(details, "its first line is not the header of a tree list")
    for row in rows:
        fields = _decoded(row, details)
        try:
            yield _file_of(fields)
        except ValueError as error:
            raise damaged(details, str(error)) from error


def _file_of(fields: dict[str, Any]) -> TreeFile:
    path, size, sha256, crc = (fields.get(name) for name in ("path", "size", "sha256", "crc64nvme"))
    if not isinstance(path, str):
        raise ValueError("a line has no path")
    if type(size) is not int or not 0 <= size < 2**63:
        raise ValueError(f"the size of {path!r} is not a number of bytes")
    if not isinstance(sha256, str) or len(sha256) != _SHA256_DIGITS or not _HEX.issuperset(sha256):
        raise ValueError(f"the SHA-256 of {path!r} is not one")
    if not isinstance(crc, str) or not is_well_formed(crc, "crc64nvme"):
        raise ValueError(f"the CRC-64/NVME of {path!r} is not one")
    return TreeFile(require_path(path), size, sha256, crc)


def require_format(fields: dict[str, Any], details: ErrorDetails) -> None:
    """Check the format of a tree list or a log entry.

    Raises:
        IntegrityError: If there is none.
        UnsupportedOperationError: If it is a later one.
    """
    found = fields.get("format")
    if type(found) is not int or found < 1:
        raise damaged(details, "it has no format number")
    if found > FORMAT:
        raise UnsupportedOperationError(
            f"{details.url} has format {found}; this version of the library reads formats up to {FORMAT}",
            details,
            Remedy.UPDATE_LIBRARY,
        )


def damaged(details: ErrorDetails, cause: str) -> IntegrityError:
    """The error for a log entry or a tree list that cannot be as it was written.

    Its advice is that of the details, if they have one.
    """
    remedy = details.remedy or Remedy.RESTORE_BACKUP
    return IntegrityError(f"{details.operation} of {details.url}: the object is damaged: {cause}", details, remedy)


def encode_json(fields: dict[str, Any]) -> bytes:
    """The canonical JSON of log entries: sorted names, no spaces, UTF-8."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def decode_json(data: bytes, details: ErrorDetails) -> dict[str, Any]:
    """The object that a JSON text stands for.

    Raises:
        IntegrityError: If the text is not a JSON object.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise damaged(details, "it is not JSON") from error
    if not isinstance(fields, dict):
        raise damaged(details, "it is not a JSON object")
    return fields


def _encoded(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def _decoded(row: bytes, details: ErrorDetails) -> dict[str, Any]:
    if not row.endswith(b"\n") or len(row) > LONGEST_LINE:
        raise damaged(details, "a line is cut, or too long")
    return decode_json(row, details)
