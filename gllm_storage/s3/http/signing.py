"""AWS Signature Version 4: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html.

The signature covers method, path, query and headers. It covers the body only if the header ``x-amz-content-sha256`` holds
the SHA-256 of the body instead of ``UNSIGNED-PAYLOAD``; that costs half a second of CPU per GiB. `BodySigning` decides.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UNSIGNED = "UNSIGNED-PAYLOAD"
CRC_HEADER = "x-amz-checksum-crc64nvme"
_PIECE = 2**18
_FORMS = 256
"""The most sets of header names that a signer remembers: callers choose the names of metadata."""
EMPTY = hashlib.sha256(b"").hexdigest()
_BLOCK = 64
"""Bytes of a block of SHA-256."""


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


class _Form(NamedTuple):
    """How requests with the same header names are signed and sent.

    Attributes:
        values: Reads the values of these headers, in the order of the signature.
        canonical: The canonical headers, with a place for each value.
        listed: The names, as the signature lists them.
        lines: The lines of the request in its own order, with a place for each value.
    """

    values: Callable[[Mapping[str, str]], tuple[str, ...]]
    canonical: str
    listed: str
    lines: str

    @classmethod
    def of(cls, names: tuple[str, ...]) -> _Form:
        """The form of some header names, at least two."""
        ordered = sorted(names)
        canonical = "\n".join([f"{_quoted(name)}:%s" for name in ordered])
        lines = "\r\n".join([f"{_quoted(name)}: %s" for name in names])
        return cls(itemgetter(*ordered), canonical, ";".join(ordered), lines)


def _quoted(name: str) -> str:
    return name.replace("%", "%%")  # names of metadata may have it


class _Key:
    """The signing key of one day: it is derived once.

    The inner and the outer hash of HMAC are copied for each signature: that takes half the time of a copied `hmac.HMAC`.

    Args:
        day: The day, as in a date of a signature.
        access_key: The access key.
        secret: The secret key.
        scope: The scope of the signatures.
    """

    def __init__(self, day: str, access_key: str, secret: str, scope: Scope) -> None:
        self.owner = day, access_key, secret
        self.scope = f"{day}/{scope.region}/{scope.service}/aws4_request"
        self.beginning = f"AWS4-HMAC-SHA256 Credential={access_key}/{self.scope}, SignedHeaders="
        key = f"AWS4{secret}".encode()
        for part in (day, scope.region, scope.service, "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        key = key.ljust(_BLOCK, b"\0")
        self._inner = hashlib.sha256(bytes([each ^ 0x36 for each in key]))  # https://www.rfc-editor.org/rfc/rfc2104
        self._outer = hashlib.sha256(bytes([each ^ 0x5C for each in key]))

    def signature(self, text: str) -> str:
        """The HMAC of a text, in hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode())
        outer.update(inner.digest())
        return outer.hexdigest()


class Signer:
    """Signs requests of one scope. The signing key is derived anew for each day and secret, and kept in between.

    Args:
        scope: The scope of the signatures.
        credentials: botocore's credentials. They are read for each request, because botocore may refresh them.
    """

    def __init__(self, scope: Scope, credentials: Any) -> None:
        self._scope = scope
        self._credentials = credentials
        self._key: _Key | None = None
        self._forms: dict[tuple[str, ...], _Form] = {}

    def lines(self, method: str, path: str, query: str, headers: dict[str, str]) -> str:
        """The headers of a signed request.

        Args:
            method: HTTP method.
            path: The path as it is sent, percent-encoded.
            query: The query as it is sent, from `canonical_query`.
            headers: The headers to sign, with names in lower case; ``host`` and ``x-amz-content-sha256`` are among them. The
                date is added, and the session token if there is one.

        Returns:
            The lines of these headers and of ``authorization``.

        Raises:
            Exception: Any exception of botocore, if the credentials have expired and cannot be refreshed.
        """
        frozen = self._credentials.get_frozen_credentials()
        now = _now()
        headers["x-amz-date"] = now
        if frozen.token:
            headers["x-amz-security-token"] = frozen.token
        form = self._form(tuple(headers))
        values = form.values(headers)
        canonical = form.canonical % values
        if " " in canonical:
            canonical = form.canonical % tuple([" ".join(value.split()) if " " in value else value for value in values])
        key, day = self._key, now[:8]
        if key is None or key.owner != (day, frozen.access_key, frozen.secret_key):
            key = self._key = _Key(day, frozen.access_key, frozen.secret_key, self._scope)
        request = f"{method}\n{path}\n{query}\n{canonical}\n\n{form.listed}\n{headers['x-amz-content-sha256']}"
        digest = hashlib.sha256(request.encode()).hexdigest()
        signature = key.signature(f"AWS4-HMAC-SHA256\n{now}\n{key.scope}\n{digest}")
        lines = form.lines % tuple(headers.values())
        return f"{lines}\r\nauthorization: {key.beginning}{form.listed}, Signature={signature}"

    def _form(self, names: tuple[str, ...]) -> _Form:
        """The form of a request; most requests have the same header names."""
        found = self._forms.get(names)
        if found is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            found = self._forms[names] = _Form.of(names)
        return found


_second = 0, ""
"""The last second in which a request was signed, and its text."""


def _now() -> str:
    """The date of a signature."""
    global _second  # noqa: PLW0603 - one immutable value of the process
    now = int(time.time())
    second, text = _second
    if second != now:
        text = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        _second = now, text
    return text


def canonical_query(parameters: Mapping[str, str]) -> str:
    """The query string of some parameters, in the order and the encoding that a signature requires."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in parameters.items())
    return "&".join(f"{name}={value}" for name, value in pairs)
