"""Names of the files and objects of a run, for the command and its workers."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

S3 = ("https", "http")
CLOUDS = ("gcs", "azure")
ENDPOINTS = (*S3, *CLOUDS)
"""The endpoints of a run: nulls3 over https and http, and a server for each cloud, over https."""

KIB = 2**10
MIB = 2**20
GIB = 2**30

FLOOR_PROGRAM = "GLLM_STORAGE_BENCH_FLOOR"
"""The variable that names the program of the floor to its workers."""
TRIAL = 32 * MIB
"""Bytes of the object that a warm process moves before the measured job."""
TRIALS = 32
"""Objects or calls of the same."""


@dataclass(frozen=True)
class Endpoint:
    """An endpoint and a bucket.

    Attributes:
        url: URL of the endpoint.
        bucket: An existing bucket.
        access_key: Access key with permission to read, write, list and delete.
        secret_key: Secret of the access key.
        region: Region of the signatures.
        stores: Whether the endpoint keeps uploaded objects. ``nulls3`` does not, so clients cannot probe its preconditions.
        ca: File with the certificate that signed the endpoint's certificate, over https; None for the system's own.
        served: The folder that the endpoint serves as a bucket; None if it serves none.
    """

    url: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"
    stores: bool = True
    ca: str | None = None
    served: str | None = None

    def at(self, url: str) -> Endpoint:
        """The same endpoint behind the URL of a proxy."""
        return Endpoint(**{**asdict(self), "url": url})


@dataclass(frozen=True)
class Layout:
    """Names of the files and objects of one run.

    Attributes:
        folder: A local folder that only this run uses.
        prefix: A key prefix that only this run uses, without ``/`` at the end.
    """

    folder: str
    prefix: str

    def file(self, size: int, index: int | None = None) -> str:
        """Path of a file to upload: the single file of a size, or one of many."""
        return os.path.join(self.folder, "files", _name(size, index))

    def key(self, size: int, index: int | None = None) -> str:
        """Key of an object to download. The object has the content of `file` with the same arguments."""
        return f"{self.prefix}/objects/{_name(size, index)}"

    def downloaded(self, size: int, index: int | None = None) -> str:
        """Path of a downloaded file."""
        return os.path.join(self.folder, "downloads", _name(size, index))

    def tried(self, size: int, index: int | None = None) -> str:
        """Path of a file that this process downloads before it is measured."""
        return os.path.join(self.folder, f"trial-{os.getpid()}", _name(size, index))

    @property
    def home(self) -> str:
        """The home folder of the processes. It is empty."""
        return os.path.join(self.folder, "home")

    @property
    def home_with_keys(self) -> str:
        """A home folder with the configuration and the credentials file of AWS."""
        return os.path.join(self.folder, "home-with-keys")

    @property
    def uploads(self) -> str:
        """Key prefix of all uploads."""
        return f"{self.prefix}/uploads/"

    def uploaded(self, size: int, index: int | None = None) -> str:
        """Key of an uploaded object."""
        return f"{self.uploads}{_name(size, index)}"


def _name(size: int, index: int | None) -> str:
    return f"{size}" if index is None else f"many-{size}/{index:05d}"


@dataclass(frozen=True)
class Task:
    """The task of a worker, which it reads from standard input; see `Job`.

    Attributes:
        warm: Whether the worker does a small job of the same kind first, which is not measured.
    """

    endpoint: Endpoint
    layout: Layout
    verb: str
    size: int
    count: int
    step: int
    warm: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The task as values of JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Task:
        """The inverse of `to_dict`."""
        return cls(**{**data, "endpoint": Endpoint(**data["endpoint"]), "layout": Layout(**data["layout"])})
