"""The clouds that the fault suites run on, and a library client behind a fault proxy.

`Cloud` describes a provider once: its server, the names of its requests, and the format of its error answers. The suites
(`test_upload_faults`, `test_download_faults`, `test_control_faults`) use only this description, so one new `Cloud` runs
every fault against a new provider. Faults that are specific to one provider are in `test_s3_*`, `test_gcs_faults` and
`test_azure_faults`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from gllm_storage.store import checksums, retry
from gllm_storage.store.checksums import CHECKSUM
from gllm_storage.testing.faults import Action, Answer, AnswerAfter, Delay, Fault, FaultProxy, Match, RequestLog, StallBody
from tests.rig import BUCKET, MIB, TRAITS, Rig, new_prefix, server_rig
from tests.servers.process import Certificate, make_certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

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
"""`max_attempts` for clients with a short read timeout: enough attempts even on a slow, busy machine."""


@dataclass(frozen=True)
class Says:
    """A fault: the store answers with this status, in the provider's own error format.

    Attributes:
        status: HTTP status.
        after: Whether the store executes the request first, so that a successful request is answered with this error.
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
        asked_again: Request after a lost answer to `commit`: `commit` again, or a query of the upload session's state.
        read: Request for the content of an object.
        delete: Request that deletes an object.
        list: Request that lists objects.
        conditional: Requests with the precondition of an exclusive create: for a small object, and for a large object.
        conflict: Status and error code of the answer to a failed precondition.
        codes: The provider's error code for each HTTP status.
        words: Builds an answer from a status and an error code.
        repeated: Possible answers to `asked_again` when the object already exists, except `conflict`.
        config: Configuration of every client.
        part: Size of a part, in bytes.
        large: Size of an object that is uploaded in parts, in bytes.
        large_config: Additional configuration of a client that uploads a large object.
        sent: Requests of a large exclusive create, between `head` and `commit`.
        heads_before_delete: Whether a delete begins with a `head`, because its answer does not tell if the object existed.
        own_checksums: Whether the store computes a checksum for an object that another client uploaded without one.
        accepts_delete: Statuses that mean "deleted" with any response body.
        secrets: Configuration values that no error message may contain.
        tls: Whether the library's client sends by https: the proxy ends the TLS.
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
    tls: bool = False

    def __str__(self) -> str:
        return f"{self.server}-https" if self.tls else self.server

    @property
    def ranges(self) -> int:
        """Size of an object that needs at least three ranged reads, in bytes."""
        return max(2 * self.part, 3 * MIB) + SMALL

    @property
    def creates_large(self) -> bool:
        """Whether the store enforces the precondition of a large exclusive create."""
        return TRAITS[self.server].creates_large

    def answer(self, status: int, code: str | None = None) -> Answer:
        """Build an answer with this status, in the provider's error format."""
        return self.words(status, code or self.codes.get(status, "InternalError"))

    @property
    def denied(self) -> Answer:
        """The answer to credentials without the necessary permission."""
        return self.answer(403)

    def action(self, action: Action | Says) -> Action:
        """Translate `Says` into this provider's fault; other actions are returned unchanged."""
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
    # Setting this skips the probe of the endpoint.
    config={"part_size": "5MiB", "multipart_threshold": "5MiB", "conditional_writes": "enforced"},
    part=5 * MIB,
    # The server computes checksums in Python, at 5 MiB/s, so the tests use a single, small part.
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
"""rclone ignores If-Match and answers Range requests with 200."""
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
MINISTACK_HTTPS = dataclasses.replace(MINISTACK, tls=True)
"""The direct engine over https."""
TRANSFERRING = [*CLOUDS, MINISTACK_HTTPS]
"""The clouds of uploads and downloads."""


# ---- the library's client behind a proxy


def impatient(action: Action | Says, **config: str) -> dict[str, str]:
    """Configuration with a short read timeout if the fault is a missing answer; other faults need no short timeout."""
    return {"read_timeout": "0.3s", **config} if isinstance(action, (Delay, StallBody)) else {}


def content_of(size: int, seed: int = 0) -> bytes:
    """Generate content without two equal parts; each seed generates different content."""
    return random.Random(seed).randbytes(size)


def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set all waits between attempts to zero seconds."""
    monkeypatch.setattr(retry._Waits, "on", False)


@dataclass(frozen=True)
class Faulty:
    """A server with two clients: the library's client sends through the proxy, the second client directly."""

    cloud: Cloud
    rig: Rig
    proxy: FaultProxy

    def client(self, **config: str) -> FsspecStorageClient:
        """A client of the library, configured with small parts."""
        return self.rig.client(**{**self.cloud.config, **config})

    def inject(self, on: Match | str, action: Action | Says, *, skip: int = 0, times: int | None = 1) -> None:
        """Inject a fault into requests of this test; a string selects the requests by their operation."""
        match = Match(operation=on) if isinstance(on, str) else on
        self.proxy.inject(Fault(match, self.cloud.action(action), skip, times))

    def inject_heads(self, action: Action | Says, *, skip: int = 0) -> None:
        """Inject a fault into every metadata request: for objects, and for the bucket if the provider uses HEAD for it."""
        match = Match(operation=self.cloud.head) if self.cloud is GCS else Match(method="HEAD")
        self.inject(match, action, skip=skip, times=None)

    def sent(self, operation: str) -> list[RequestLog]:
        """The requests of an operation that the proxy has received."""
        return [entry for entry in self.proxy.requests if entry.operation == operation]

    def operations(self) -> list[str]:
        """The operations on objects that the proxy has received, without requests about the bucket."""
        about_bucket = {"HeadBucket", "GetStorageLayout"}
        return [entry.operation for entry in self.proxy.requests if entry.operation not in about_bucket]

    def answered(self) -> list[str]:
        """As `operations`, without the blocks that Azurite refuses because they have a CRC-64, which it does not know."""
        about_bucket = {"HeadBucket", "GetStorageLayout"}
        entries = (entry for entry in self.proxy.requests if (entry.operation, entry.status) != ("PutBlock", 500))
        return [entry.operation for entry in entries if entry.operation not in about_bucket]

    def put(self, content: bytes, name: str = NAME) -> None:
        """Store an object with the second client."""
        self.rig.second.put(self.rig.key(name), content)

    def put_with_checksum(self, content: bytes, name: str = NAME) -> None:
        """Store an object with a checksum, as the library's own uploads do, so that downloads verify the content."""
        if self.cloud.own_checksums:
            return self.put(content, name)
        checksum = f"{checksums.encode(checksums.crc64nvme(content))}-{len(content)}"
        self.boto3.put_object(Bucket=BUCKET, Key=self.rig.key(name), Body=content, Metadata={CHECKSUM: checksum})
        return None

    def delete(self, name: str = NAME) -> None:
        """Delete an object with the second client."""
        self.rig.second.delete(self.rig.key(name))

    @property
    def boto3(self) -> S3Client:
        """The boto3 client of the second client (S3 only)."""
        return self.rig.boto3.client

    def get(self, name: str = NAME) -> bytes:
        """Read an object with the second client."""
        return self.rig.second.get(self.rig.key(name))

    def assert_holds(self, content: bytes | None = None) -> None:
        """Assert that the store holds only `NAME` with this content (None: no object), and that no upload is open."""
        assert self.rig.keys() == ([] if content is None else [NAME])
        assert content is None or self.get() == content
        assert self.rig.open_uploads() == []


def proxied(rig: Rig, proxy: FaultProxy) -> Rig:
    """Copy a rig: same store, a new prefix, and library clients that send through the proxy."""
    url = f"{proxy.url}{urlsplit(rig.config['endpoint_url']).path}"
    trust = {"ca_bundle": certificate().authority} if proxy.tls else {}
    return dataclasses.replace(rig, config={**rig.config, "endpoint_url": url, **trust}, prefix=new_prefix())


@functools.cache
def certificate() -> Certificate:
    """The certificate of all proxies of this process that speak https."""
    return make_certificate(Path(_FOLDER.name))


_FOLDER = TemporaryDirectory()


@functools.cache
def _server_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate().both)
    return context


@contextmanager
def behind_proxy(cloud: Cloud | str, servers: Servers, tls: Any = None) -> Iterator[Faulty]:
    """Put a proxy before a server. At the end, assert that every fault has occurred and the proxy itself had no error.

    Args:
        cloud: The cloud, or the name of its server.
        servers: The running servers.
        tls: TLS settings of the proxy, such as a `RecordLayer`, for a cloud over https.
    """
    cloud = CLOUD_OF[cloud] if isinstance(cloud, str) else cloud
    server = servers.get(cloud.server)
    rig = server_rig(cloud.server, server)
    parts = urlsplit(server.endpoint_url)
    with FaultProxy(f"{parts.scheme}://{parts.netloc}", (tls or _server_tls()) if cloud.tls else None) as proxy:
        yield Faulty(cloud, proxied(rig, proxy), proxy)
        assert proxy.unfired == []
        assert proxy.errors == [], proxy.errors


# ---- transfers with faults


@dataclass(frozen=True)
class UploadCase:
    """One kind of upload: the cloud, in parts or in one request, with or without exclusive create."""

    cloud: Cloud
    large: bool
    create: bool

    def __str__(self) -> str:
        return f"{self.cloud}-{'large' if self.large else 'small'}-{'create' if self.create else 'overwrite'}"

    @property
    def commit(self) -> str:
        """The operation that makes the object visible."""
        return self.cloud.commit if self.large else self.cloud.put

    @property
    def send(self) -> str:
        """The operation that sends the content."""
        return self.cloud.parts[-1] if self.large else self.cloud.put

    @property
    def asked_again(self) -> str:
        """The operation that follows a lost answer to `commit`."""
        return self.cloud.asked_again if self.large else self.cloud.put

    @property
    def steps(self) -> tuple[str, ...]:
        """All write operations of the upload, in order."""
        return (*self.cloud.parts, self.cloud.commit) if self.large else (self.cloud.put,)


@dataclass(frozen=True)
class DownloadCase:
    """One kind of download: the cloud, in one request or in ranges."""

    cloud: Cloud
    ranges: bool

    def __str__(self) -> str:
        return f"{self.cloud}-{'ranges' if self.ranges else 'whole'}"


UPLOADS = [
    UploadCase(cloud, large, create)
    for cloud in TRANSFERRING
    for large in (False, True)
    for create in (True, False)
    if cloud.creates_large or not (large and create)
]
CREATES = [case for case in UPLOADS if case.create]
LARGES = [case for case in UPLOADS if case.large]
WHOLES = [DownloadCase(cloud, ranges=False) for cloud in TRANSFERRING]
RANGES = [DownloadCase(cloud, ranges=True) for cloud in TRANSFERRING]
DOWNLOADS = [*WHOLES, *RANGES]


Case = TypeVar("Case", UploadCase, DownloadCase)


def of(cloud: Cloud, cases: list[Case]) -> list[Case]:
    """Select the cases of the cloud's provider, on all its servers, without TLS."""
    return [case for case in cases if case.cloud.provider == cloud.provider and not case.cloud.tls]


def over_https(cases: list[Case]) -> list[Case]:
    """Select the cases over https."""
    return [case for case in cases if case.cloud.tls]


def one_each(cases: list[Case]) -> list[Case]:
    """Select one case for each provider and kind of transfer, without TLS: for faults that the proxy answers itself."""
    found: dict[str, Case] = {}
    for case in cases:
        if not case.cloud.tls:
            found.setdefault(str(case).replace(str(case.cloud), case.cloud.provider), case)
    return list(found.values())


class Upload:
    """An upload for one test. For an overwriting upload, the object already exists."""

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
        """The operation that makes the object visible."""
        return self.case.commit

    @property
    def send(self) -> str:
        """The operation that sends the content."""
        return self.case.send

    def client(self, **config: str) -> FsspecStorageClient:
        """A client that uploads in parts or in one request, according to the case."""
        return self.faulty.client(**{**(self.case.cloud.large_config if self.case.large else {}), **config})

    def run(self, **config: str) -> None:
        """Run the upload."""
        self.client(**config).upload_file(self.local, NAME, check_conflict=self.case.create)

    def assert_stored(self) -> None:
        """Assert that the store holds only the complete new object."""
        self.faulty.assert_holds(self.content)

    def assert_nothing_changed(self) -> None:
        """Assert that the store is unchanged."""
        self.faulty.assert_holds(self.before)


class Download:
    """A download for one test. The local file already exists."""

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
        """The operation that reads the content."""
        return self.case.cloud.read

    def store_ours(self) -> None:
        """Replace the object by an upload of the library, if such an upload differs from another client's."""
        if not self.case.cloud.own_checksums:
            return
        self.local.write_bytes(self.content)
        self.faulty.client().upload_file(self.local, NAME)
        self.local.write_bytes(PREVIOUS)
        self.faulty.proxy.clear()

    def run(self, **config: str) -> None:
        """Run the download."""
        assert self.faulty.client(**config).download_file(NAME, self.local) == self.local

    def assert_is(self, content: bytes) -> None:
        """Assert that the local file has this content and that its folder holds no other file."""
        assert self.local.read_bytes() == content
        assert list(self.local.parent.iterdir()) == [self.local]

    def assert_as_before(self) -> None:
        """Assert that the local file is unchanged."""
        self.assert_is(PREVIOUS)


def messages(error: BaseException) -> list[str]:
    """All texts that a traceback prints for an error and its causes."""
    found: list[str] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        each = ahead.pop()
        if each is not None:
            found += [str(each), repr(each)]
            ahead += [each.__cause__, each.__context__]
    return found
