"""Signatures equal those of Amazon's examples, and those of botocore."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, RefreshableCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from gllm_storage.concurrency.stop import Stop
from gllm_storage.errors import ErrorDetails
from gllm_storage.files.source import MemorySource
from gllm_storage.s3.body import FileSection, ViewSection
from gllm_storage.s3.http import signing
from gllm_storage.s3.http.signing import (
    CRC_HEADER,
    EMPTY,
    UNSIGNED,
    BodySigning,
    Scope,
    Signer,
    canonical_query,
    digest_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
HOST = "examplebucket.s3.amazonaws.com"
US = Scope("us-east-1", "s3")


def sign(signer: Signer, method: str, path: str, query: str, headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of a signed request, as they are sent."""
    lines = signer.lines(method, path, query, dict(headers)).split("\r\n")
    signed = {name: value for name, _, value in (line.partition(": ") for line in lines)}
    assert (
        next(iter(signed)) == "host"
    )  # https://www.rfc-editor.org/rfc/rfc9110#section-7.2: first, where that is practicable
    return signed


# https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
@pytest.mark.parametrize(
    ("method", "path", "query", "headers", "signature"),
    [
        (
            "GET",
            "/test.txt",
            {},
            {"range": "bytes=0-9", "x-amz-content-sha256": EMPTY},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "PUT",
            "/test%24file.text",
            {},
            {
                "date": "Fri, 24 May 2013 00:00:00 GMT",
                "x-amz-storage-class": "REDUCED_REDUNDANCY",
                "x-amz-content-sha256": digest_of(b"Welcome to Amazon S3."),
            },
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/",
            {"lifecycle": ""},
            {"x-amz-content-sha256": EMPTY},
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            {"prefix": "J", "max-keys": "2"},
            {"x-amz-content-sha256": EMPTY},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["get", "put", "lifecycle", "list"],
)
def test_amazons_examples(  # noqa: PLR0917 - one argument for each part of a request
    method: str, path: str, query: dict[str, str], headers: dict[str, str], signature: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signatures equal those of Amazon's documented examples."""
    monkeypatch.setattr(signing, "_now", lambda: "20130524T000000Z")
    signed = sign(Signer(US, EXAMPLE), method, path, canonical_query(query), {"host": HOST, **headers})
    listed = ";".join(sorted(["host", "x-amz-date", *headers]))
    assert signed["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={EXAMPLE.access_key}/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders={listed}, Signature={signature}"
    )


def by_botocore(scope: Scope, credentials: Any, method: str, url: str, signed: Mapping[str, str]) -> str:
    """The Authorization that botocore computes for a request, its headers given."""
    headers = {name: value for name, value in signed.items() if name != "authorization"}
    request = AWSRequest(method, url, headers)
    request.context["timestamp"] = signed["x-amz-date"]
    auth = S3SigV4Auth(credentials, scope.service, scope.region)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    listed = auth.signed_headers(auth.headers_to_sign(request))
    signature = auth.signature(text, request)
    return f"AWS4-HMAC-SHA256 Credential={auth.scope(request)}, SignedHeaders={listed}, Signature={signature}"


VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
NAMES = st.from_regex(r"x-amz-meta-[a-z0-9\-]{1,12}", fullmatch=True)
PATHS = st.from_regex(r"/[A-Za-z0-9/._~\-]{0,40}(%[0-9A-F]{2}){0,3}", fullmatch=True)


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["GET", "PUT", "HEAD", "DELETE"]),
    path=PATHS,
    query=st.dictionaries(st.sampled_from(["uploadId", "partNumber", "versionId", "response-content-type"]), VALUES),
    headers=st.dictionaries(NAMES, VALUES, max_size=4),
    token=st.none() | st.from_regex(r"[A-Za-z0-9+/=]{1,80}", fullmatch=True),
    digest=st.sampled_from([UNSIGNED, EMPTY, digest_of(b"x")]),
    region=st.sampled_from(["us-east-1", "eu-central-1", "default"]),
)
def test_any_request(  # noqa: PLR0917 - one argument for each part of a request
    method: str, path: str, query: dict[str, str], headers: dict[str, str], token: str | None, digest: str, region: str
) -> None:
    """The signature of any request equals that of botocore."""
    credentials, scope = Credentials("AKIDEXAMPLE", "secret/+key", token), Scope(region, "s3")
    given_headers = {"host": "localhost:9000", **headers, "x-amz-content-sha256": digest}
    sent_query = canonical_query(query)
    signed = sign(Signer(scope, credentials), method, path, sent_query, given_headers)
    url = f"http://localhost:9000{path}" + (f"?{sent_query}" if sent_query else "")
    assert signed["authorization"] == by_botocore(scope, credentials, method, url, signed)
    assert signed.get("x-amz-security-token") == token


def test_derived_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A derived key is not used for another day or another secret."""
    credentials = Credentials("AKIDEXAMPLE", "one")
    signer = Signer(US, credentials)
    headers = {"host": "h", "x-amz-content-sha256": EMPTY}
    for day, secret in (("20240101", "one"), ("20240102", "one"), ("20240102", "two"), ("20240101", "one")):
        credentials.secret_key = secret
        monkeypatch.setattr(signing, "_now", lambda day=day: f"{day}T000000Z")
        signed = sign(signer, "GET", "/b/k", "", headers)
        assert signed["authorization"] == by_botocore(US, credentials, "GET", "http://h/b/k", signed)


def test_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """The date of a signature is that of the present second, although it is computed once a second."""
    headers = {"host": "h", "x-amz-content-sha256": EMPTY}
    signer = Signer(US, EXAMPLE)
    for second in (1e9, 1e9 + 0.9, 1e9 + 1, 1e9 + 86400, 1e9):
        monkeypatch.setattr(time, "time", lambda second=second: second)
        expected = datetime.fromtimestamp(int(second), UTC).strftime("%Y%m%dT%H%M%SZ")
        assert sign(signer, "GET", "/b/k", "", headers)["x-amz-date"] == expected


def test_refreshed_credentials() -> None:
    """Refreshed credentials are used from the next request on."""
    rounds = iter(range(1, 100))

    def refresh() -> dict[str, str]:
        number = next(rounds)
        soon = datetime.now(UTC) + timedelta(seconds=1)  # expires so soon that botocore refreshes it at each request
        return {
            "access_key": f"AKID{number}",
            "secret_key": f"secret{number}",
            "token": f"token{number}",
            "expiry_time": soon.isoformat(),
        }

    credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")
    signer = Signer(US, credentials)
    headers = {"host": "h", "x-amz-content-sha256": EMPTY}
    seen = []
    for _ in range(3):
        signed = sign(signer, "GET", "/b/k", "", headers)
        number = signed["x-amz-security-token"].removeprefix("token")
        same = Credentials(f"AKID{number}", f"secret{number}", f"token{number}")
        assert signed["authorization"] == by_botocore(US, same, "GET", "http://h/b/k", signed)
        seen.append(number)
    assert len(set(seen)) == 3


def test_digest_of_body() -> None:
    """A body is rewound after its digest is computed."""
    content = bytes(range(256)) * 3000
    details = ErrorDetails("s3", "s3://b/k", "upload")
    view = ViewSection(memoryview(content), Stop())
    section = FileSection(MemorySource(content, details), 5, 600_000, Stop())
    assert digest_of(view) == digest_of(memoryview(content)) == digest_of(content) == hashlib.sha256(content).hexdigest()
    assert digest_of(section) == hashlib.sha256(content[5:600_005]).hexdigest()
    assert (view.tell(), section.tell()) == (0, 0)


@pytest.mark.parametrize(
    ("mode", "encrypted", "before", "after"),
    [
        ("auto", False, True, False),
        ("auto", True, False, False),
        ("always", False, True, True),
        ("always", True, True, True),
        ("never", False, False, False),
        ("never", True, False, False),
    ],
)
def test_need_of_signed_bodies(mode: str, encrypted: bool, before: bool, after: bool) -> None:
    """In mode auto, bodies over HTTP are signed until the server shows that it verifies checksums."""
    bodies = BodySigning(mode, encrypted=encrypted)
    assert bodies.needed == before
    for sent, answered in (
        ({}, {CRC_HEADER: "a"}),
        ({CRC_HEADER: "a"}, {}),
        ({CRC_HEADER: "a"}, {CRC_HEADER: "b"}),
        ({}, {}),
    ):
        bodies.learn(sent, answered)
        assert bodies.needed == before
    bodies.learn({CRC_HEADER: "a"}, {CRC_HEADER: "a"})
    assert bodies.needed == after
