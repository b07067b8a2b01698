"""The entries of logs: canonical JSON, each one object below 1 MiB that one PutObject writes."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from gllm_storage.versions.layout import hex_of, is_name, is_place
from gllm_storage.versions.tree import FORMAT, damaged, decode_json, encode_json, require_format

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gllm_storage.errors import ErrorDetails

LARGEST_ENTRY = 2**20
"""The most bytes of an entry."""


@dataclass(frozen=True)
class Manifest:
    """The entry that publishes a version.

    Attributes:
        model: The prefix of the model.
        version: The name of the version.
        digest: The digest of the tree.
        place: The name of the directory, in ``data/``.
        files: Number of files.
        size: Size of all files in bytes.
        tree_size: Size of the tree list in bytes.
        tree_sha256: SHA-256 of the tree list, hexadecimal.
        creator: The program that published.
        time: The time of the publisher's clock, in ISO 8601.
        metadata: The metadata of the user.
    """

    model: str
    version: str
    digest: str
    place: str
    files: int
    size: int
    tree_size: int
    tree_sha256: str
    creator: str
    time: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If one is not valid.
        """
        if not is_name(self.version):
            raise ValueError(f"{self.version!r} is not the name of a version")
        if not is_place(self.place) or not self.place.startswith(f"{hex_of(self.digest)}-"):
            raise ValueError(f"directory {self.place!r} is not one of {self.digest}")
        hex_of(f"sha256:{self.tree_sha256}")
        for name in ("files", "size", "tree_size"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"{name} is not a number")


@dataclass(frozen=True)
class Aborted:
    """The entry with which a publisher that could have committed this slot never can."""


@dataclass(frozen=True)
class Deleted:
    """The entry that deletes a version.

    Attributes:
        digest: The digest of the deleted version.
        place: The name of its directory.
        time: The time of the deleter's clock, in ISO 8601.
    """

    digest: str
    place: str
    time: str


@dataclass(frozen=True)
class AliasEntry:
    """The entry that points an alias to a version.

    Attributes:
        version: The name of the version.
        digest: The digest that the version has.
        id: Identifies the move.
        time: The time of the mover's clock, in ISO 8601.
        alias: The name of the alias; empty if an earlier version of this library wrote the entry.
    """

    version: str
    digest: str
    id: str
    time: str
    alias: str = ""

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If one is not valid.
        """
        if not is_name(self.version):
            raise ValueError(f"{self.version!r} is not the name of a version")
        hex_of(self.digest)


def now() -> str:
    """The time of this machine's clock, in ISO 8601."""
    return dt.datetime.now(tz=dt.UTC).isoformat(timespec="milliseconds")


Entry = Manifest | Aborted | Deleted | AliasEntry

_KINDS: dict[str, type[Entry]] = {"manifest": Manifest, "aborted": Aborted, "deleted": Deleted, "alias": AliasEntry}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_OPTIONAL = frozenset({"alias"})
"""Fields that were added later; without one, it has its default."""


def encode_entry(entry: Entry) -> bytes:
    """The object of an entry.

    Raises:
        ValueError: If it is not below 1 MiB, or the metadata is not JSON.
    """
    try:
        data = encode_json({"format": FORMAT, "kind": _NAMES[type(entry)], **asdict(entry)})
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"the metadata of a version must be JSON: {error}") from error
    if len(data) >= LARGEST_ENTRY:
        raise ValueError(f"the manifest has {len(data)} bytes with its metadata; the limit is {LARGEST_ENTRY - 1}")
    return data


def decode_entry(data: bytes, details: ErrorDetails) -> Entry:
    """The entry that an object holds. Fields that this version of the library does not know are ignored.

    Raises:
        IntegrityError: If the object is damaged.
        UnsupportedOperationError: If a later version of this library wrote it.
    """
    if len(data) >= LARGEST_ENTRY:
        raise damaged(details, f"it has {len(data)} bytes")
    fields = decode_json(data, details)
    require_format(fields, details)
    kind = _KINDS.get(str(fields.get("kind")))
    if kind is None:
        raise damaged(details, "it has no known kind")
    names = [name for name in kind.__dataclass_fields__ if name in fields or name not in _OPTIONAL]
    try:
        entry = kind(**{name: fields[name] for name in names})
        _require_types(entry)
    except KeyError as error:
        raise damaged(details, f"it has no {error}") from error
    except (ValueError, TypeError) as error:
        raise damaged(details, str(error)) from error
    return entry


def _require_types(entry: Entry) -> None:
    for name, value in vars(entry).items():
        expected = int if name in {"files", "size", "tree_size"} else dict if name == "metadata" else str
        if type(value) is not expected:
            raise ValueError(f"{name} is not a {expected.__name__}")
