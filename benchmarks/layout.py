"""Where a run keeps its files and objects: what the command and its workers both have to know."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

KIB = 2**10
MIB = 2**20
GIB = 2**30


@dataclass(frozen=True)
class Endpoint:
    """Where the objects are.

    Attributes:
        url: The endpoint's URL.
        bucket: A bucket that is there.
        access_key: A key that may read, write, list and delete in it.
        secret_key: The secret that belongs to it.
        region: The region to sign for.
        stores: Whether it keeps what is uploaded; ``nulls3`` does not, so no client can find out what it enforces.
    """

    url: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    stores: bool = True

    def at(self, url: str) -> Endpoint:
        """The same endpoint, seen through a proxy."""
        return Endpoint(**{**asdict(self), "url": url})


@dataclass(frozen=True)
class Layout:
    """Names of a run's files and objects.

    Attributes:
        folder: A folder of this run's own.
        prefix: A prefix of this run's own, without slash.
    """

    folder: str
    prefix: str

    def file(self, size: int, index: int | None = None) -> str:
        """A file to upload: the one of its size, or one of many."""
        return os.path.join(self.folder, "files", _name(size, index))

    def key(self, size: int, index: int | None = None) -> str:
        """An object to download, with the content of the file of that name."""
        return f"{self.prefix}/objects/{_name(size, index)}"

    def downloaded(self, size: int, index: int | None = None) -> str:
        """Where a download goes."""
        return os.path.join(self.folder, "downloads", _name(size, index))

    @property
    def uploads(self) -> str:
        """Prefix of all uploads."""
        return f"{self.prefix}/uploads/"

    def uploaded(self, size: int, index: int | None = None) -> str:
        """Where an upload goes."""
        return f"{self.uploads}{_name(size, index)}"


def _name(size: int, index: int | None) -> str:
    return f"{size}" if index is None else f"many-{size}/{index:05d}"


@dataclass(frozen=True)
class Task:
    """What a worker is told on its standard input."""

    endpoint: Endpoint
    layout: Layout
    verb: str
    size: int
    count: int
    step: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Task:
        """The inverse of `to_dict`."""
        return cls(**{**data, "endpoint": Endpoint(**data["endpoint"]), "layout": Layout(**data["layout"])})
