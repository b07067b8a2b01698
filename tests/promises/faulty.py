"""The clouds that the fault suites run on, and a library client behind a fault proxy.

`Cloud` describes a provider once: its server, the names of its requests, and how it words a refusal. The suites
(`test_upload_faults`, `test_download_faults`, `test_control_faults`) are written against this description, so that a new
provider gets every fault for one `Cloud`. Faults that only one provider can have are in `test_s3_*`, `test_gcs_faults` and
`test_azure_faults`.
"""

from __future__ import annotations

import dataclasses
import json
import random
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from gllm_storage.store import checksums, retry
from gllm_storage.store.checksums import CHECKSUM
from gllm_storage.testing.faults import Action, Answer, AnswerAfter, Delay, Fault, FaultProxy, Match, RequestLog, StallBody
from tests.rig import BUCKET, MIB, TRAITS, Boto3Client, Rig, new_prefix, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import pytest
    from mypy_boto3_s3.client import S3Client

    from gllm_storage.fsspec_client import FsspecStorageClient
    from tests.conftest import Servers

NAME = "v1/model.bin"
CONTENT = b"content"
PREVIOUS = b"the previous good file"
THEIRS = b"theirs"
SMALL = 100_000
MANY_TIMES = "60"
"""Attempts with which a client with a short read timeout outlasts a busy machine."""


@dataclass(frozen=True)
class Says:
    """The store answers with this status, in its own words.

    Attributes:
        status: HTTP status.
        after: Whether the store does the work first, so that a success is reported as this failure.
    """

    status: int
    after: bool = False


def _in_xml(status: int, code: str) -> Answer:
    return Answer(status, code)


def _in_json(status: int, code: str) -> Answer:
    error = {"code": status, "message": "made by the fault proxy", "errors": [{"reason": code, "domain": "global"}]}
    return Answer(status, code, json.dumps({"error": error}).encode())


def _in_header(status: int, code: str) -> Answer:
    return Answer(status, code, headers=(("x-ms-error-code", code),))


@dataclass(frozen=True, eq=False)
class Cloud:
    """One provider, on one server.

    Attributes:
        server: Name of the server in the rig.
        provider: Name of the provider.
        head: Request for the metadata of an object.
        put: Request that writes a small object.
        parts: Requests that begin a large upload and send its parts; the last one carries the bytes.
        commit: Request that makes a large object visible.
        asked_again: Request that follows when the answer to `commit` was lost: the same one, or the state of a session.
        read: Request for the content of an object.
        delete: Request that deletes an object.
        list: Request that lists objects.
        conditional: Requests that carry the precondition of an exclusive create: of a small and of a large one.
        conflict: Answer to a precondition that failed: status and code.
        codes: The provider's code for a status.
        words: Makes an answer of a status and a code.
        repeated: Answers that a store may give to `asked_again` after the object was made, `conflict` excepted.
        config: Config that all clients have.
        part: Size of a part, in bytes.
        large: Size of an object that goes up in parts, in bytes.
        large_config: Config of a client that uploads it.
        sent: Requests of a large exclusive create, between `head` and `commit`.
        heads_before_delete: Whether a delete begins with a `head`: the store does not say whether there was an object.
        own_checksums: Whether the store keeps a checksum of an object that another client stored.
        accepts_delete: Statuses that say "deleted", whatever the body is.
        secrets: Config values that no error may tell.
    """

    server: str
    provider: str
    head: str
    put: str
    parts: tuple[str, ...]
    commit: str
    asked_again: str
    read: str
    delete: str
    list: str
    conditional: tuple[str, str]
    conflict: tuple[int, str]
    codes: Mapping[int, str]
    words: Callable[[int, str], Answer]
    repeated: tuple[Answer, ...]
    part: int
    large: int
    sent: tuple[str, ...]
    accepts_delete: frozenset[int]
    config: Mapping[str, str] = field(default_factory=dict)
    large_config: Mapping[str, str] = field(default_factory=dict)
    heads_before_delete: bool = False
    own_checksums: bool = True
    secrets: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.server

    @property
    def ranges(self) -> int:
        """Size of an object that is downloaded in at least three ranges, in bytes."""
        return max(2 * self.part, 3 * MIB) + SMALL

    @property
    def creates_large(self) -> bool:
        """Whether the store enforces the precondition of a large exclusive create."""
        return TRAITS[self.server].creates_large

    def answer(self, status: int, code: str | None = None) -> Answer:
        """An answer with this status, as the provider words it."""
        return self.words(status, code or self.codes.get(status, "InternalError"))

    @property
    def denied(self) -> Answer:
        """The answer to credentials without the permission."""
        return self.answer(403)

    def action(self, action: Action | Says) -> Action:
        """The fault that `action` means on this provider."""
        if not isinstance(action, Says):
            return action
        answer = self.answer(action.status)
        return AnswerAfter(answer.status, answer.code, answer.body, answer.headers) if action.after else answer


_COMPLETED = (
    b"<?xml version='1.0'?>\n<CompleteMultipartUploadResult><ETag>&quot;x-2&quot;</ETag></CompleteMultipartUploadResult>"
)
_COMPLETE_SESSION = json.dumps({"kind": "storage#object", "name": NAME, "generation": "1"}).encode()

MINISTACK = Cloud(
    server="ministack",
    provider="s3",
    head="HeadObject",
    put="PutObject",
    parts=("CreateMultipartUpload", "UploadPart"),
    commit="CompleteMultipartUpload",
    asked_again="CompleteMultipartUpload",
    read="GetObject",
    delete="DeleteObject",
    list="ListObjectsV2",
    conditional=("PutObject", "CompleteMultipartUpload"),
    conflict=(412, "PreconditionFailed"),
    codes={403: "AccessDenied", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown", 504: "GatewayTimeout"},
    words=_in_xml,
    repeated=(Answer(200, body=_COMPLETED), Answer(404, "NoSuchUpload"), Answer(500, "InternalError")),
    # Without a probe of the endpoint.
    config={"part_size": "5MiB", "multipart_threshold": "5MiB", "conditional_writes": "enforced"},
    part=5 * MIB,
    # It compares checksums in Python, at 5 MiB/s, so that one part of a little size must do.
    large=SMALL,
    large_config={"multipart_threshold": "1KiB"},
    sent=("CreateMultipartUpload", "UploadPart"),
    heads_before_delete=True,
    own_checksums=False,
    accepts_delete=frozenset({200, 204}),
    secrets={
        "aws_access_key_id": "AKIAQ7KD2VEXAMPLEKEY",
        "aws_secret_access_key": "zX81mQpL0sEcReTkEyzX81mQpL0sEcReTkEy",
        "aws_session_token": "t0kEn4TheSeSsIoN/w==",
    },
)
CEPH = dataclasses.replace(
    MINISTACK, server="ceph", large=5 * MIB + SMALL, large_config={}, sent=("CreateMultipartUpload", *["UploadPart"] * 2)
)
RCLONE = dataclasses.replace(MINISTACK, server="rclone")
"""It ignores If-Match, and answers to ranges with 200."""
GCS = Cloud(
    server="gcs-fake",
    provider="gcs",
    head="ObjectsGet",
    put="UploadMultipart",
    parts=("ResumableStart", "ResumableChunk"),
    commit="ResumableFinal",
    asked_again="ResumableStatus",
    read="ObjectsGetMedia",
    delete="ObjectsDelete",
    list="ObjectsList",
    conditional=("UploadMultipart", "ResumableStart"),
    conflict=(412, "conditionNotMet"),
    codes={403: "forbidden", 429: "rateLimitExceeded", 500: "backendError", 503: "backendError", 504: "gatewayTimeout"},
    words=_in_json,
    repeated=(Answer(404, "gone"), Answer(410, "gone"), Answer(499, "gone"), Answer(200, body=_COMPLETE_SESSION)),
    config={"part_size": "1MiB", "multipart_threshold": "1MiB"},
    part=MIB,
    large=3 * MIB + SMALL,
    sent=("ResumableStart", *["ResumableChunk"] * 3),
    accepts_delete=frozenset({200, 204}),
)
AZURE = Cloud(
    server="azurite",
    provider="azure",
    head="HeadBlob",
    put="PutBlob",
    parts=("PutBlock",),
    commit="PutBlockList",
    asked_again="PutBlockList",
    read="GetBlob",
    delete="DeleteBlob",
    list="ListBlobs",
    conditional=("PutBlob", "PutBlockList"),
    conflict=(409, "BlobAlreadyExists"),
    codes={
        403: "AuthorizationFailure",
        429: "TooManyRequests",
        500: "InternalError",
        503: "ServerBusy",
        504: "GatewayTimeout",
    },
    words=_in_header,
    repeated=(_in_header(500, "InternalError"),),
    config={"part_size": "1MiB", "multipart_threshold": "1MiB"},
    part=MIB,
    large=3 * MIB + SMALL,
    sent=("PutBlock",) * 4,
    accepts_delete=frozenset({202}),
    secrets={"account_key": "c2VjcmV0LW9mLXRoaXMtdGVzdA=="},
)
CLOUDS = [CEPH, MINISTACK, GCS, AZURE]
CLOUD_OF = {cloud.server: cloud for cloud in [*CLOUDS, RCLONE]}


# ---- the library's client behind a proxy


def impatient(action: Action | Says, **config: str) -> dict[str, str]:
    """Config with a short read timeout, where the fault is silence; elsewhere a busy machine is only late."""
    return {"read_timeout": "0.3s", **config} if isinstance(action, (Delay, StallBody)) else {}


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes in which no two parts are alike; another seed gives others."""
    return random.Random(seed).randbytes(size)


def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between attempts take no time."""
    monkeypatch.setattr(retry._Waits, "on", False)


@dataclass(frozen=True)
class Faulty:
    """A server that the second client reaches directly, and the library's client through the proxy."""

    cloud: Cloud
    rig: Rig
    proxy: FaultProxy

    def client(self, **config: str) -> FsspecStorageClient:
        """A client of the library that has small parts."""
        return self.rig.client(**{**self.cloud.config, **config})

    def inject(self, on: Match | str, action: Action | Says, *, skip: int = 0, times: int | None = 1) -> None:
        """Break requests of this test; a string names their operation."""
        match = Match(operation=on) if isinstance(on, str) else on
        self.proxy.inject(Fault(match, self.cloud.action(action), skip, times))

    def inject_heads(self, action: Action | Says, *, skip: int = 0) -> None:
        """Break every request for metadata: of objects, and of the bucket where HEAD asks for it."""
        match = Match(operation=self.cloud.head) if self.cloud is GCS else Match(method="HEAD")
        self.inject(match, action, skip=skip, times=None)

    def sent(self, operation: str) -> list[RequestLog]:
        """The requests of an operation so far."""
        return [entry for entry in self.proxy.requests if entry.operation == operation]

    def operations(self) -> list[str]:
        """The operations on objects so far; those that ask about the bucket are left out."""
        about_bucket = {"HeadBucket", "GetStorageLayout"}
        return [entry.operation for entry in self.proxy.requests if entry.operation not in about_bucket]

    def put(self, content: bytes, name: str = NAME) -> None:
        """Another client stores an object."""
        self.rig.second.put(self.rig.key(name), content)

    def put_with_checksum(self, content: bytes, name: str = NAME) -> None:
        """Store an object so that its content can be verified, as uploads of the library are stored."""
        if self.cloud.own_checksums:
            return self.put(content, name)
        checksum = f"{checksums.encode(checksums.crc64nvme(content))}-{len(content)}"
        self.boto3.put_object(Bucket=BUCKET, Key=self.rig.key(name), Body=content, Metadata={CHECKSUM: checksum})
        return None

    def delete(self, name: str = NAME) -> None:
        """Another client deletes an object."""
        self.rig.second.delete(self.rig.key(name))

    @property
    def boto3(self) -> S3Client:
        """The second client, of S3."""
        assert isinstance(self.rig.second, Boto3Client)
        return self.rig.second.client

    def get(self, name: str = NAME) -> bytes:
        """Another client reads an object."""
        return self.rig.second.get(self.rig.key(name))

    def assert_holds(self, content: bytes | None = None) -> None:
        """The store holds just this under `NAME`, or nothing at all, and no upload is open."""
        assert self.rig.keys() == ([] if content is None else [NAME])
        assert content is None or self.get() == content
        assert self.rig.open_uploads() == []


_RIGS: dict[str, Rig] = {}
"""The servers run for the whole session; a second client for each test would take longer than most of them."""


def proxied(rig: Rig, proxy: FaultProxy) -> Rig:
    """The same store, whose clients of the library go through a proxy, with a prefix of its own."""
    url = f"{proxy.url}{urlsplit(rig.config['endpoint_url']).path}"
    return dataclasses.replace(rig, config={**rig.config, "endpoint_url": url}, prefix=new_prefix())


@contextmanager
def behind_proxy(cloud: Cloud | str, servers: Servers) -> Iterator[Faulty]:
    """A server behind a proxy; at the end every fault must have happened, and the proxy itself have had no error."""
    cloud = CLOUD_OF[cloud] if isinstance(cloud, str) else cloud
    server = servers.get(cloud.server)
    rig = _RIGS.setdefault(cloud.server, server_rig(cloud.server, server))
    parts = urlsplit(server.endpoint_url)
    with FaultProxy(f"{parts.scheme}://{parts.netloc}") as proxy:
        yield Faulty(cloud, proxied(rig, proxy), proxy)
        assert proxy.unfired == []
        assert proxy.errors == []


# ---- transfers that are about to meet a fault


@dataclass(frozen=True)
class UploadCase:
    """One way to upload: to which cloud, in parts or in one request, exclusively or not."""

    cloud: Cloud
    large: bool
    create: bool

    def __str__(self) -> str:
        return f"{self.cloud}-{'large' if self.large else 'small'}-{'create' if self.create else 'overwrite'}"

    @property
    def commit(self) -> str:
        """The request that makes the object visible."""
        return self.cloud.commit if self.large else self.cloud.put

    @property
    def send(self) -> str:
        """The request that carries the bytes."""
        return self.cloud.parts[-1] if self.large else self.cloud.put

    @property
    def asked_again(self) -> str:
        """The request that follows when the answer to `commit` was lost."""
        return self.cloud.asked_again if self.large else self.cloud.put

    @property
    def steps(self) -> tuple[str, ...]:
        """All its requests that write."""
        return (*self.cloud.parts, self.cloud.commit) if self.large else (self.cloud.put,)


@dataclass(frozen=True)
class DownloadCase:
    """One way to download: from which cloud, in one request or in ranges."""

    cloud: Cloud
    ranges: bool

    def __str__(self) -> str:
        return f"{self.cloud}-{'ranges' if self.ranges else 'whole'}"


UPLOADS = [
    UploadCase(cloud, large, create)
    for cloud in CLOUDS
    for large in (False, True)
    for create in (True, False)
    if cloud.creates_large or not (large and create)
]
CREATES = [case for case in UPLOADS if case.create]
LARGES = [case for case in UPLOADS if case.large]
WHOLES = [DownloadCase(cloud, ranges=False) for cloud in CLOUDS]
RANGES = [DownloadCase(cloud, ranges=True) for cloud in CLOUDS]
DOWNLOADS = [*WHOLES, *RANGES]


Case = TypeVar("Case", UploadCase, DownloadCase)


def of(cloud: Cloud, cases: list[Case]) -> list[Case]:
    """Those of the cases that belong to the cloud's provider, on any server."""
    return [case for case in cases if case.cloud.provider == cloud.provider]


def one_each(cases: list[Case]) -> list[Case]:
    """One case for each provider and path: for faults in which the proxy answers, and the server takes no part."""
    found: dict[str, Case] = {}
    for case in cases:
        found.setdefault(str(case).replace(str(case.cloud), case.cloud.provider), case)
    return list(found.values())


class Upload:
    """An upload that is about to meet a fault. Where it overwrites, there is an object already."""

    def __init__(self, case: UploadCase, faulty: Faulty, folder: Path) -> None:
        self.case = case
        self.faulty = faulty
        self.content = content_of(case.cloud.large if case.large else SMALL)
        self.before = None if case.create else b"before"
        self.local = folder / "model.bin"
        self.local.write_bytes(self.content)
        if self.before is not None:
            faulty.put(self.before)

    @property
    def commit(self) -> str:
        """The request that makes the object visible."""
        return self.case.commit

    @property
    def send(self) -> str:
        """The request that carries the bytes."""
        return self.case.send

    def client(self, **config: str) -> FsspecStorageClient:
        """A client that uploads in parts, or in one request, as the case says."""
        return self.faulty.client(**{**(self.case.cloud.large_config if self.case.large else {}), **config})

    def run(self, **config: str) -> None:
        """Upload."""
        self.client(**config).upload_file(self.local, NAME, check_conflict=self.case.create)

    def assert_stored(self) -> None:
        """The object is there, complete, and nothing else."""
        self.faulty.assert_holds(self.content)

    def assert_nothing_changed(self) -> None:
        """The store is as it was."""
        self.faulty.assert_holds(self.before)


class Download:
    """A download that is about to meet a fault, onto a file that is there already."""

    def __init__(self, case: DownloadCase, faulty: Faulty, folder: Path) -> None:
        self.case = case
        self.faulty = faulty
        self.size = case.cloud.ranges if case.ranges else SMALL
        self.content = content_of(self.size)
        self.local = folder / "local" / "model.bin"
        self.local.parent.mkdir()
        self.local.write_bytes(PREVIOUS)
        faulty.put_with_checksum(self.content)

    @property
    def read(self) -> str:
        """The request for the content."""
        return self.case.cloud.read

    def store_ours(self) -> None:
        """Replace the object by an upload of the library, where it differs from another client's."""
        if not self.case.cloud.own_checksums:
            return
        self.local.write_bytes(self.content)
        self.faulty.client().upload_file(self.local, NAME)
        self.local.write_bytes(PREVIOUS)
        self.faulty.proxy.clear()

    def run(self, **config: str) -> None:
        """Download."""
        assert self.faulty.client(**config).download_file(NAME, self.local) == self.local

    def assert_is(self, content: bytes) -> None:
        """The local file is this, and nothing is beside it."""
        assert self.local.read_bytes() == content
        assert list(self.local.parent.iterdir()) == [self.local]

    def assert_as_before(self) -> None:
        """The local file is what it was."""
        self.assert_is(PREVIOUS)


def messages(error: BaseException) -> list[str]:
    """All that a traceback would print of an error and of its causes."""
    found: list[str] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        each = ahead.pop()
        if each is not None:
            found += [str(each), repr(each)]
            ahead += [each.__cause__, each.__context__]
    return found
