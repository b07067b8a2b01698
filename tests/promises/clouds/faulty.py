"""What the tests of GCS and Azure faults share: our client behind a proxy, and what must hold when the fault is over."""

from __future__ import annotations

import dataclasses
import random
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gllm_storage.store import create as exclusive
from tests.faults import Action, Answer, Delay, Fault, FaultProxy, Match, RequestLog, StallBody
from tests.rig import MIB, Rig, new_prefix, server_rig

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

NAME = "v1/model.bin"
CONTENT = b"content"
SMALL = 100_000
LARGE = 3 * MIB + SMALL  # four parts
SMALL_PARTS = {"part_size": "1MiB", "multipart_threshold": "1MiB"}


@dataclass(frozen=True)
class Cloud:
    """The names that a provider's operations have.

    Attributes:
        server: Name of the server in the rig.
        provider: Name of the provider.
        look: What looks at an object.
        put: What writes a small one.
        parts: What sends the parts of a large one, the commit excepted.
        commit: What makes a large one visible.
        read: What reads the content.
        delete: What deletes.
        list: What lists.
        conflict: The answer to a failed precondition.
        denied: The answer to who may not.
    """

    server: str
    provider: str
    look: str
    put: str
    parts: tuple[str, ...]
    commit: str
    read: str
    delete: str
    list: str
    conflict: Answer
    denied: Answer

    def __str__(self) -> str:
        return self.provider


GCS = Cloud(
    server="gcs-fake",
    provider="gcs",
    look="ObjectsGet",
    put="UploadMultipart",
    parts=("ResumableStart", "ResumableChunk"),
    commit="ResumableFinal",
    read="ObjectsGetMedia",
    delete="ObjectsDelete",
    list="ObjectsList",
    conflict=Answer(412, "conditionNotMet"),
    denied=Answer(403, "forbidden"),
)
AZURE = Cloud(
    server="azurite",
    provider="azure",
    look="HeadBlob",
    put="PutBlob",
    parts=("PutBlock",),
    commit="PutBlockList",
    read="GetBlob",
    delete="DeleteBlob",
    list="ListBlobs",
    conflict=Answer(409, "BlobAlreadyExists"),
    denied=Answer(403, "AuthorizationFailure", headers=(("x-ms-error-code", "AuthorizationFailure"),)),
)
CLOUDS = [GCS, AZURE]


def impatient(action: Action, **config: str) -> dict[str, str]:
    """Config of a client that soon gives up waiting, where the fault is silence; elsewhere a busy machine is only late."""
    return {"read_timeout": "0.3s", **config} if isinstance(action, (Delay, StallBody)) else {}


MANY_TIMES = "60"
"""Attempts by which a client that soon gives up waiting outlasts a busy machine."""


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes in which no two parts are alike; another seed gives others."""
    return random.Random(seed).randbytes(size)


def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts take no time, ours and those of Azure's SDK within a download."""
    still = SimpleNamespace(sleep=lambda _: None)
    monkeypatch.setattr(exclusive, "time", still)
    monkeypatch.setattr("azure.storage.blob._download.time", still)


@dataclass(frozen=True)
class Faulty:
    """A server whose second client looks at it directly, while ours goes through the proxy."""

    cloud: Cloud
    rig: Rig
    proxy: FaultProxy

    def client(self, **config: str) -> FsspecStorageClient:
        """A client of ours that has small parts."""
        return self.rig.client(**{**SMALL_PARTS, **config})

    def inject(self, on: str, action: Action, *, skip: int = 0, times: int | None = 1) -> None:
        """Break requests of an operation."""
        self.proxy.inject(Fault(Match(operation=on), action, skip, times))

    def sent(self, operation: str) -> list[RequestLog]:
        """The requests of an operation so far."""
        return [entry for entry in self.proxy.requests if entry.operation == operation]

    def operations(self) -> list[str]:
        """What was sent so far, without the question whether a GCS bucket is a zonal one."""
        return [entry.operation for entry in self.proxy.requests if entry.operation != "GetStorageLayout"]

    def put(self, content: bytes, name: str = NAME) -> None:
        """Somebody else stores an object."""
        self.rig.second.put(self.rig.key(name), content)

    def get(self, name: str = NAME) -> bytes:
        """Somebody else reads an object."""
        return self.rig.second.get(self.rig.key(name))

    def assert_holds(self, content: bytes | None) -> None:
        """The store holds just this under `NAME`, or nothing at all, and no upload is open."""
        assert self.rig.keys() == ([] if content is None else [NAME])
        assert content is None or self.get() == content
        assert self.rig.open_uploads() == []


_RIGS: dict[str, Rig] = {}


def proxied(rig: Rig, proxy: FaultProxy) -> Rig:
    """The same store, whose clients of ours go through a proxy."""
    url = f"{proxy.url}{urlsplit(rig.config['endpoint_url']).path}"
    return dataclasses.replace(rig, config={**rig.config, "endpoint_url": url}, prefix=new_prefix())


@contextmanager
def behind_proxy(cloud: Cloud, servers: Servers) -> Iterator[Faulty]:
    """A server behind a proxy; at the end every fault must have happened, and nothing gone wrong in the proxy itself."""
    server = servers.get(cloud.server)
    rig = _RIGS.setdefault(cloud.server, server_rig(cloud.server, server))
    parts = urlsplit(server.endpoint_url)
    with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy:
        yield Faulty(cloud, proxied(rig, proxy), proxy)
        assert proxy.unfired == []
        assert proxy.errors == []
