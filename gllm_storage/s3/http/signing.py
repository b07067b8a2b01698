"""AWS Signature Version 4: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.

The signature covers method, path, query and headers. It covers the body only if the header ``x-amz-content-sha256`` holds
the SHA-256 of the body instead of ``UNSIGNED-PAYLOAD``; that costs half a second of CPU per GiB. `BodySigning` decides.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping

UNSIGNED = "UNSIGNED-PAYLOAD"
CRC_HEADER = "x-amz-checksum-crc64nvme"
_PIECE = 2**18
_ORDERS = 256
"""The most sets of header names that a signer remembers: callers choose the names of metadata."""
EMPTY = hashlib.sha256(b"").hexdigest()


def digest_of(body: Any) -> str:
    """SHA-256 of the body of a request, in hex.

    Args:
        body: Bytes, or an object with `read` and `seek`, which is rewound.
    """
    if not hasattr(body, "read"):
        return hashlib.sha256(body).hexdigest()
    digest = hashlib.sha256()
    while data := body.read(_PIECE):
        digest.update(data)
    body.seek(0)
    return digest.hexdigest()


class BodySigning:
    """Whether the bodies of requests to one server are signed.

    Over https TLS protects the body, and it is not signed. Over http a body that is not signed may change on the way
    without notice, unless the server compares it with the CRC-64/NVME in the header ``x-amz-checksum-crc64nvme``, which
    every upload carries and every signature covers. Servers that do not know this header, such as Ceph 16, ignore it
    silently. A server that knows it repeats it in its answer. So with ``"auto"`` bodies over http are signed until one
    answer has repeated the header; from then on the CRC is enough.

    Args:
        mode: ``"auto"``; ``"always"`` signs, over https as well; ``"never"`` does not sign.
        encrypted: Whether requests go over https.
    """

    def __init__(self, mode: str, *, encrypted: bool) -> None:
        self.needed = mode == "always" or (mode == "auto" and not encrypted)
        self._learns = mode == "auto"

    def learn(self, sent: Mapping[str, str], answered: Mapping[str, str]) -> None:
        """Learn from a successful request whether the server checks the CRC of bodies.

        Args:
            sent: The headers of the request.
            answered: The headers of the answer.
        """
        if self.needed and self._learns and CRC_HEADER in sent and sent[CRC_HEADER] == answered.get(CRC_HEADER):
            self.needed = False


@dataclass(frozen=True)
class Scope:
    """The scope of a signature: a server accepts it for this region and service only.

    Attributes:
        region: The region, such as ``"us-east-1"``.
        service: ``"s3"``.
    """

    region: str
    service: str


class Signer:
    """Signs requests of one scope. The signing key is derived anew for each day and secret, and kept in between.

    Args:
        scope: The scope of the signatures.
        credentials: botocore's credentials. They are read for each request, because botocore may refresh them.
    """

    def __init__(self, scope: Scope, credentials: Any) -> None:
        self._scope = scope
        self._credentials = credentials
        self._derived: tuple[str, str, Any] = ("", "", None)
        self._orders: dict[tuple[str, ...], tuple[list[str], str]] = {}

    def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> dict[str, str]:
        """Sign a request.

        Args:
            method: HTTP method.
            path: The path as it is sent, percent-encoded.
            query: The query as it is sent, from `canonical_query`.
            headers: The headers to sign, with names in lower case; ``host`` and ``x-amz-content-sha256`` are among them.

        Returns:
            The headers, with the date, the session token if there is one, and ``authorization``.

        Raises:
            Exception: Any exception of botocore, if the credentials have expired and cannot be refreshed.
        """
        frozen = self._credentials.get_frozen_credentials()
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        signed = {**headers, "x-amz-date": now}
        if frozen.token:
            signed["x-amz-security-token"] = frozen.token
        names, listed = self._order(tuple(signed))
        values = [signed[name] for name in names]
        canonical = "\n".join(
            [
                f"{name}:{value if ' ' not in value else ' '.join(value.split())}"
                for name, value in zip(names, values, strict=True)
            ]
        )
        digest = signed["x-amz-content-sha256"]
        request = f"{method}\n{path}\n{query}\n{canonical}\n\n{listed}\n{digest}"
        scope = f"{now[:8]}/{self._scope.region}/{self._scope.service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        keyed = self._keyed(now[:8], frozen.secret_key).copy()
        keyed.update(text.encode())
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={frozen.access_key}/{scope}, SignedHeaders={listed}, Signature={keyed.hexdigest()}"
        )
        return signed

    def _order(self, names: tuple[str, ...]) -> tuple[list[str], str]:
        """The names of headers in the order of the signature, and their list in it; most requests have the same ones."""
        found = self._orders.get(names)
        if found is None:
            if len(self._orders) >= _ORDERS:
                self._orders.clear()
            ordered = sorted(names)
            found = self._orders[names] = ordered, ";".join(ordered)
        return found

    def _keyed(self, day: str, secret: str) -> Any:
        """An HMAC with the key of a day, to be copied: that takes half the time of a new one."""
        known_day, known_secret, keyed = self._derived
        if known_day == day and known_secret == secret:
            return keyed
        key = f"AWS4{secret}".encode()
        for part in (day, self._scope.region, self._scope.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        keyed = hmac.new(key, digestmod="sha256")
        self._derived = (day, secret, keyed)
        return keyed


def canonical_query(parameters: Mapping[str, str]) -> str:
    """The query string of some parameters, in the order and the encoding that a signature requires."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)
