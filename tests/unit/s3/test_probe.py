"""The probe of conditional writes: which endpoints are probed, how often, and which results are cached."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from gllm_storage.errors import StorageError
from gllm_storage.s3.body import ChecksumHeaders
from gllm_storage.s3.connection import Endpoint, is_amazon
from gllm_storage.s3.probe import ALL_ENFORCED, Condition, ConditionalWrites, conditional_writes
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AMAZON = [
    "https://s3.amazonaws.com",
    "https://s3.eu-central-1.amazonaws.com",
    "https://models.s3.eu-central-1.amazonaws.com",
    "https://s3.dualstack.us-east-1.amazonaws.com",
    "https://s3-fips.us-gov-west-1.amazonaws.com",
    "https://s3.cn-north-1.amazonaws.com.cn",
    "https://S3.AMAZONAWS.COM",
    "https://s3.eu-central-1.api.aws",
]
OTHERS = [
    "http://127.0.0.1:9000",
    "https://minio.example.com",
    "https://s3.amazonaws.com.example.org",
    "https://notamazonaws.com",
    "https://example.org/s3.amazonaws.com",
    "https://s3.amazonaws.com@example.org",
    "https://storage.googleapis.com",
]


def new_client(**client_options: Any) -> Any:
    """A boto3 client, as a filesystem makes it."""
    profile = client_options.pop("profile_name", None)
    return Endpoint({"region_name": "eu-central-1", **client_options}, {}, profile_name=profile).make_client()


@pytest.mark.parametrize("url", AMAZON)
def test_amazon_endpoint(url: str) -> None:
    """An endpoint of Amazon is recognized."""
    assert is_amazon(Store(url))  # type: ignore[arg-type]  # a stand-in


@pytest.mark.parametrize("url", OTHERS)
def test_other_endpoint(url: str) -> None:
    """Another endpoint is not recognized as Amazon."""
    assert not is_amazon(Store(url))  # type: ignore[arg-type]  # a stand-in


def test_default_endpoint() -> None:
    """The default endpoint is Amazon."""
    assert is_amazon(new_client())


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_endpoint_in_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another endpoint in the environment is not recognized as Amazon."""
    monkeypatch.setenv(name, "http://127.0.0.1:9000")
    assert not is_amazon(new_client())


PROFILES = {
    "endpoint": "[profile own]\nendpoint_url = http://127.0.0.1:9000\n",
    "services": "[profile own]\nservices = mine\n[services mine]\ns3 =\n  endpoint_url = http://127.0.0.1:9000\n",
}


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
@pytest.mark.parametrize("by", ["config", "environment"])
def test_endpoint_in_profile(profile: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another endpoint in a profile is not recognized as Amazon."""
    (tmp_path / "aws").write_text(profile)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "aws"))
    if by == "environment":
        monkeypatch.setenv("AWS_PROFILE", "own")
    assert not is_amazon(new_client(profile_name="own") if by == "config" else new_client())


def test_amazon_endpoint_in_config() -> None:
    """An endpoint of Amazon in the config is recognized."""
    assert is_amazon(new_client(endpoint_url="https://s3.eu-central-1.amazonaws.com"))


def failed(status: int, code: str = "") -> ClientError:
    metadata: Any = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code or str(status)}, "ResponseMetadata": metadata}, "Operation")


ANSWERS: dict[str, tuple[ClientError | None, Condition]] = {
    "412": (failed(412, "PreconditionFailed"), Condition.ENFORCED),
    "200": (None, Condition.IGNORED),
    "501": (failed(501, "NotImplemented"), Condition.REFUSED),
    "400": (failed(400, "InvalidArgument"), Condition.REFUSED),
    "405": (failed(405, "MethodNotAllowed"), Condition.REFUSED),
}


BOTH = ConditionalWrites(Condition.ENFORCED, Condition.CHECKED)


@dataclass
class Store:
    """A fake boto3 client with fixed answers, which records its requests, objects and open uploads."""

    url: str = field(default_factory=lambda: f"http://{uuid.uuid4().hex}:9000")
    put: Exception | None = None
    complete: Exception | None = None
    create: Exception | None = None
    part: Exception | None = None
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    objects: set[str] = field(default_factory=set)
    uploads: set[str] = field(default_factory=set)
    versioned: bool = False
    versions: set[str] = field(default_factory=set)
    delete_version: Exception | None = None

    @property
    def meta(self) -> Any:
        return SimpleNamespace(endpoint_url=self.url)

    def put_object(self, **parameters: Any) -> Any:
        self._log("PutObject", parameters, self.put if "IfNoneMatch" in parameters else None)
        self.objects.add(parameters["Key"])
        return {"ETag": '"e"', **self._new_version()}

    def delete_object(self, **parameters: Any) -> Any:
        self._log("DeleteObject", parameters, self.delete_version if "VersionId" in parameters else None)
        self.objects.discard(parameters["Key"])
        self.versions.discard(parameters.get("VersionId", ""))

    def create_multipart_upload(self, **parameters: Any) -> Any:
        self._log("CreateMultipartUpload", parameters, self.create)
        self.uploads.add("U1")
        return {"UploadId": "U1"}

    def upload_part(self, **parameters: Any) -> Any:
        self._log("UploadPart", parameters, self.part)
        return {"ETag": '"e"'}

    def complete_multipart_upload(self, **parameters: Any) -> Any:
        self._log("CompleteMultipartUpload", parameters, self.complete)
        self.uploads.discard(parameters["UploadId"])
        return self._new_version()

    def abort_multipart_upload(self, **parameters: Any) -> Any:
        self._log("AbortMultipartUpload", parameters)
        if parameters["UploadId"] not in self.uploads:
            raise failed(404, "NoSuchUpload")
        self.uploads.discard(parameters["UploadId"])

    def probe(self, bucket: str = "models", folder: str = "team/", **common: str) -> ConditionalWrites:
        client: Any = self
        connection: Any = SimpleNamespace(
            client=client,
            endpoint_url=self.url,
            is_amazon=is_amazon(client),
            parameters=lambda _: dict(common),
            checksum_headers=ChecksumHeaders(1),
        )
        return conditional_writes(connection, bucket, folder)

    def _new_version(self) -> dict[str, str]:
        if not self.versioned:
            return {}
        version = uuid.uuid4().hex
        self.versions.add(version)
        return {"VersionId": version}

    def _log(self, name: str, parameters: dict[str, Any], failure: Exception | None = None) -> None:
        self.requests.append((name, parameters))
        if failure:
            raise failure


@pytest.mark.parametrize("put", ANSWERS)
@pytest.mark.parametrize("complete", ANSWERS)
def test_probe_results(put: str, complete: str) -> None:
    """PutObject and CompleteMultipartUpload are probed separately, and the probe leaves no object or upload."""
    store = Store(put=ANSWERS[put][0], complete=ANSWERS[complete][0])
    # The probe has one writer: it does not see whether the check of a completion is atomic.
    of_completion = {**{name: condition for name, (_, condition) in ANSWERS.items()}, "412": Condition.CHECKED}
    assert store.probe() == ConditionalWrites(ANSWERS[put][1], of_completion[complete])
    assert (store.objects, store.uploads) == (set(), set())


@pytest.mark.parametrize("put", ANSWERS)
@pytest.mark.parametrize("complete", ANSWERS)
def test_probe_with_versions(put: str, complete: str) -> None:
    """In a bucket with versions the probe deletes each version that it has made, and leaves no delete marker."""
    store = Store(put=ANSWERS[put][0], complete=ANSWERS[complete][0], versioned=True)
    store.probe()
    assert (store.objects, store.versions) == (set(), set())
    deletes = [parameters for name, parameters in store.requests if name == "DeleteObject"]
    assert all("VersionId" in parameters for parameters in deletes)


def test_versions_that_stay() -> None:
    """If the version may not be deleted, the object is."""
    store = Store(put=failed(412), versioned=True, delete_version=failed(403, "AccessDenied"))
    store.probe()
    assert store.objects == set()


def test_probe_digests() -> None:
    """Every body of the probe carries a digest: buckets with Object Lock demand one."""
    store = Store(put=failed(412))
    store.probe()
    bodies = [parameters for _, parameters in store.requests if "Body" in parameters]
    assert len(bodies) == 3
    assert all("ChecksumCRC64NVME" in parameters for parameters in bodies)


def test_no_multipart_uploads() -> None:
    """A store without multipart uploads counts as refusing their precondition."""
    store = Store(put=failed(412), create=failed(501, "NotImplemented"))
    assert store.probe() == ConditionalWrites(Condition.ENFORCED, Condition.REFUSED)
    assert store.objects == set()


FAILURES = {
    "put": lambda: Store(put=failed(503, "SlowDown")),
    "create": lambda: Store(create=failed(403, "AccessDenied")),
    "part": lambda: Store(part=failed(500, "InternalError")),
    "complete": lambda: Store(complete=failed(503, "SlowDown")),
    "connection": lambda: Store(complete=EndpointConnectionError(endpoint_url="x")),
    "interrupted": lambda: Store(part=KeyboardInterrupt()),  # type: ignore[arg-type]  # a stand-in
}


@pytest.mark.parametrize("broken", FAILURES.values(), ids=FAILURES)
def test_failed_probe(broken: Callable[[], Store]) -> None:
    """A failed probe leaves no object or upload, and is not cached."""
    store = broken()
    with pytest.raises((StorageError, KeyboardInterrupt)) as caught:
        store.probe()
    assert isinstance(caught.value.__cause__ or caught.value, (ClientError, EndpointConnectionError, KeyboardInterrupt))
    assert (store.objects, store.uploads) == (set(), set())
    healed = Store(store.url, put=failed(412), complete=failed(412))
    assert healed.probe() == BOTH
    assert healed.requests


def test_probe_requests() -> None:
    """The probe sends small objects beside the target, with the common parameters."""
    store = Store(put=failed(412), complete=failed(412))
    store.probe("models", "team/v3/", RequestPayer="requester")
    keys = {parameters["Key"] for _, parameters in store.requests}
    assert len(keys) == 1
    assert keys.pop().startswith("team/v3/.gllm-probe-")
    assert {parameters["Bucket"] for _, parameters in store.requests} == {"models"}
    assert {parameters["RequestPayer"] for _, parameters in store.requests} == {"requester"}
    assert all(len(parameters.get("Body", b"")) <= 16 for _, parameters in store.requests)


def test_probe_keys() -> None:
    """Each probe has its own key."""
    stores = [Store(put=failed(412)) for _ in range(20)]
    for store in stores:
        store.probe()
    assert len({store.requests[0][1]["Key"] for store in stores}) == 20


def test_cached_result() -> None:
    """Each endpoint and bucket is probed once."""
    store = Store(put=failed(412), complete=failed(412))
    assert store.probe("one") == store.probe("one", "elsewhere/")
    sent = len(store.requests)
    assert {parameters["Bucket"] for _, parameters in store.requests} == {"one"}
    store.probe("two")
    assert len(store.requests) == 2 * sent
    assert Store(store.url).probe("one") == BOTH, "another client of that endpoint"
    assert Store().probe("one") == ConditionalWrites(Condition.IGNORED, Condition.IGNORED), "another endpoint"


def test_amazon_without_probe() -> None:
    """Amazon is not probed."""
    store = Store("https://s3.eu-central-1.amazonaws.com")
    assert store.probe() == ALL_ENFORCED
    assert store.requests == []


def test_concurrent_probes() -> None:
    """Sixteen concurrent threads send one probe."""
    barrier = threading.Barrier(16)
    store = Store(put=failed(412), complete=failed(412))

    def probe(_: int) -> ConditionalWrites:
        barrier.wait(PATIENCE)
        return Store(store.url, store.put, store.complete, requests=store.requests).probe()

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(probe, range(16))) == {BOTH}
    assert [name for name, _ in store.requests].count("CreateMultipartUpload") == 1
