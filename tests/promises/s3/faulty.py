"""What the tests of S3 faults share: our client behind a fault proxy, and what must hold when the fault is over."""

from __future__ import annotations

import dataclasses
import random
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING

import botocore.session
from botocore.loaders import Loader

from gllm_storage.store import checksums
from gllm_storage.store import create as exclusive
from gllm_storage.store.checksums import CHECKSUM
from tests.faults import Action, Answer, Delay, Fault, FaultProxy, Match, RequestLog, StallBody
from tests.rig import BUCKET, MIB, SMALL_PARTS, Boto3Client, Rig, new_prefix, server_rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest
    from mypy_boto3_s3.client import S3Client

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

_MODELS = Loader()
NAME = "v1/model.bin"
SMALL = 100_000
TWO_PARTS = 5 * MIB + SMALL

SLOW_DOWN = Answer(503, "SlowDown")
DENIED = Answer(403, "AccessDenied")


def impatient(action: Action, **config: str) -> dict[str, str]:
    """Config of a client that soon gives up waiting, where the fault is silence; elsewhere a busy machine is only late."""
    return {"read_timeout": "0.3s", **config} if isinstance(action, (Delay, StallBody)) else {}


MANY_TIMES = "60"
"""Attempts by which a client that soon gives up waiting outlasts a busy machine."""


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes in which no two parts are alike; another seed gives others."""
    return random.Random(seed).randbytes(size)


def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own waits between attempts take no time, and botocore reads its models once, not for each client."""
    monkeypatch.setattr(exclusive, "time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(botocore.session, "create_loader", lambda *_: _MODELS)


@dataclass(frozen=True)
class Faulty:
    """A server whose second client looks at it directly, while ours goes through the proxy."""

    rig: Rig
    proxy: FaultProxy

    def client(self, **config: str) -> FsspecStorageClient:
        """A client of ours that has small parts, and trusts the server without a probe."""
        return self.rig.client(**{**SMALL_PARTS, "conditional_writes": "enforced", **config})

    def inject(self, on: Match | str, action: Action, *, skip: int = 0, times: int | None = 1) -> None:
        """Break requests of this test; a string names their operation."""
        self.proxy.inject(Fault(Match(operation=on) if isinstance(on, str) else on, action, skip, times))

    def sent(self, operation: str) -> list[RequestLog]:
        """The requests of an operation so far."""
        return [entry for entry in self.proxy.requests if entry.operation == operation]

    def put(self, content: bytes, name: str = NAME) -> None:
        """Somebody else stores an object."""
        self.rig.second.put(self.rig.key(name), content)

    def put_with_checksum(self, content: bytes, name: str = NAME) -> None:
        """Store an object as our uploads do, with a checksum of the whole."""
        checksum = f"{checksums.encode(checksums.crc64nvme(content))}-{len(content)}"
        self.boto3.put_object(Bucket=BUCKET, Key=self.rig.key(name), Body=content, Metadata={CHECKSUM: checksum})

    def delete(self, name: str = NAME) -> None:
        """Somebody else deletes an object."""
        self.boto3.delete_object(Bucket=BUCKET, Key=self.rig.key(name))

    @property
    def boto3(self) -> S3Client:
        """The second client."""
        assert isinstance(self.rig.second, Boto3Client)
        return self.rig.second.client

    def get(self, name: str = NAME) -> bytes:
        """Somebody else reads an object."""
        return self.rig.second.get(self.rig.key(name))

    def assert_holds(self, **expected: bytes) -> None:
        """The store holds just this under `NAME` (``content=``), or nothing at all, and no upload is open."""
        assert self.rig.keys() == ([NAME] if expected else [])
        assert {name: self.get() for name in expected} == expected
        assert self.rig.open_uploads() == []


_RIGS: dict[str, Rig] = {}
"""The servers run for the whole session; a second client for each test would take longer than most of them."""


@contextmanager
def behind_proxy(name: str, servers: Servers) -> Iterator[Faulty]:
    """A server behind a proxy; at the end every fault must have happened, and nothing gone wrong in the proxy itself."""
    server = servers.s3(name)
    if name not in _RIGS:
        _RIGS[name] = server_rig(name, server)
    with FaultProxy(server.endpoint_url) as proxy:
        config = {**_RIGS[name].config, "endpoint_url": proxy.url}
        yield Faulty(dataclasses.replace(_RIGS[name], config=config, prefix=new_prefix()), proxy)
        assert proxy.unfired == []
        assert proxy.errors == []


@dataclass(frozen=True)
class UploadCase:
    """One way to upload: in parts or in one request, exclusively or not, and to which server.

    ministack compares checksums byte by byte in Python, at about 5 MiB/s, so that one part of a little size must do there.
    """

    server: str
    create: bool
    size: int = SMALL
    in_parts: bool = False

    def __str__(self) -> str:
        how = f"{-(-self.size // (5 * MIB))}-parts" if self.in_parts else "put"
        return f"{how}-{'create' if self.create else 'overwrite'}-{self.server}"


SMALL_CREATES = [UploadCase("ceph", create=True), UploadCase("ministack", create=True)]
SMALL_OVERWRITE = UploadCase("ceph", create=False)
# Not on ceph, which ignores the condition of a completion.
LARGE_CREATE = UploadCase("ministack", create=True, in_parts=True)
LARGE_OVERWRITE = UploadCase("ceph", create=False, size=TWO_PARTS, in_parts=True)
TWO_PARTS_CREATE = UploadCase("ministack", create=True, size=TWO_PARTS, in_parts=True)
CREATES = [*SMALL_CREATES, LARGE_CREATE]
LARGES = [LARGE_CREATE, UploadCase("ministack", create=False, in_parts=True), LARGE_OVERWRITE]
UPLOADS = [*SMALL_CREATES, SMALL_OVERWRITE, *LARGES]


class Upload:
    """An upload that is about to meet a fault. Where it overwrites, there is an object already."""

    def __init__(self, case: UploadCase, faulty: Faulty, folder: Path) -> None:
        self.case = case
        self.faulty = faulty
        self.content = content_of(case.size)
        self.before = None if case.create else b"before"
        self.local = folder / "model.bin"
        self.local.write_bytes(self.content)
        if self.before is not None:
            faulty.put(self.before)

    @property
    def commit(self) -> str:
        """The operation that makes the object visible."""
        return "CompleteMultipartUpload" if self.case.in_parts else "PutObject"

    @property
    def send(self) -> str:
        """The operation that carries the bytes."""
        return "UploadPart" if self.case.in_parts else "PutObject"

    def run(self, **config: str) -> None:
        """Upload."""
        threshold = "1KiB" if self.case.in_parts else "5GiB"
        client = self.faulty.client(**{"multipart_threshold": threshold, **config})
        client.upload_file(self.local, NAME, check_conflict=self.case.create)

    def assert_stored(self) -> None:
        """The object is there, whole, and nothing else."""
        self.faulty.assert_holds(content=self.content)

    def assert_nothing_changed(self) -> None:
        """The store is as it was."""
        self.faulty.assert_holds(**({} if self.before is None else {"content": self.before}))


def messages(error: BaseException) -> list[str]:
    """All that a traceback would print of an error and of those behind it."""
    found: list[str] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        each = ahead.pop()
        if each is not None:
            found += [str(each), repr(each)]
            ahead += [each.__cause__, each.__context__]
    return found
