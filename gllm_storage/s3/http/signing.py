"""AWS Signature Version 4: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.

SHA-256 of a body costs half a second of CPU per GiB, so it is not always part of the signature; see `BodySigning`.
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
EMPTY = hashlib.sha256(b"").hexdigest()


def digest_of(body: Any) -> str:
    """SHA-256 of a request's body, in hex; a body that is read is rewound.

    Args:
        body: Bytes, or what has `read` and `seek`.
    """
    if not hasattr(body, "read"):
        return hashlib.sha256(body).hexdigest()
    digest = hashlib.sha256()
    while data := body.read(_PIECE):
        digest.update(data)
    body.seek(0)
    return digest.hexdigest()


class BodySigning:
    """Whether bodies are part of the signature, for one server.

    Over https they need not be. Over http, what is not signed may change on the way; the signed header with the body's
    CRC-64/NVME prevents that where the server checks it. Servers that do not know it, such as Ceph 16, ignore it silently:
    so bodies are signed until the server has shown that it knows it, by repeating it in its answer.

    Args:
        mode: ``"auto"`` as above, ``"always"``, or ``"never"``.
        encrypted: Whether requests go over https.
    """

    def __init__(self, mode: str, *, encrypted: bool) -> None:
        self.needed = mode == "always" or (mode == "auto" and not encrypted)
        self._learns = mode == "auto"

    def learn(self, sent: Mapping[str, str], answered: Mapping[str, str]) -> None:
        """Look at the headers of a request that succeeded, and of its answer."""
        if self.needed and self._learns and CRC_HEADER in sent and sent[CRC_HEADER] == answered.get(CRC_HEADER):
            self.needed = False


@dataclass(frozen=True)
class Scope:
    """What a signature is good for.

    Attributes:
        region: Such as ``"us-east-1"``.
        service: ``"s3"``.
    """

    region: str
    service: str


class Signer:
    """Signs requests of one scope; derives a key per day and credentials.

    Args:
        scope: What the signatures are good for.
        credentials: botocore's; asked for each request, since they may be refreshed meanwhile.
    """

    def __init__(self, scope: Scope, credentials: Any) -> None:
        self._scope = scope
        self._credentials = credentials
        self._derived: tuple[str, str, bytes] = ("", "", b"")

    def sign(self, method: str, path: str, query: str, headers: dict[str, str]) -> dict[str, str]:
        """The headers with those that sign them.

        Args:
            method: HTTP method.
            path: As it is sent, percent-encoded.
            query: As it is sent, its parameters in order.
            headers: All that are signed, ``host`` among them; names in lower case.
        """
        frozen = self._credentials.get_frozen_credentials()
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        signed = {**headers, "x-amz-date": now}
        if frozen.token:
            signed["x-amz-security-token"] = frozen.token
        names = sorted(signed)
        canonical = "\n".join([f"{name}:{' '.join(signed[name].split())}" for name in names])
        listed = ";".join(names)
        digest = signed["x-amz-content-sha256"]
        request = f"{method}\n{path}\n{query}\n{canonical}\n\n{listed}\n{digest}"
        scope = f"{now[:8]}/{self._scope.region}/{self._scope.service}/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(self._key(now[:8], frozen.secret_key), text.encode(), "sha256").hex()
        signed["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={frozen.access_key}/{scope}, SignedHeaders={listed}, Signature={signature}"
        )
        return signed

    def _key(self, day: str, secret: str) -> bytes:
        known_day, known_secret, key = self._derived
        if (known_day, known_secret) == (day, secret):
            return key
        key = f"AWS4{secret}".encode()
        for part in (day, self._scope.region, self._scope.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        self._derived = (day, secret, key)
        return key


def canonical_query(parameters: Mapping[str, str]) -> str:
    """Query parameters in the order and the encoding in which they are signed and sent."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)
