"""Where the objects of a bucket are, and how requests to them are signed: as botocore does it, asked once per bucket.

botocore knows path style and virtual hosts, access points, dual stack, FIPS, acceleration and whatever comes next. It is let
make one request, which is caught before it leaves; those to other keys differ by the key.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gllm_storage.s3.http.signing import Scope

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_KEY = "k"
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=[^,\s]*/[0-9]{8}/(?P<region>[^/,]+)/(?P<service>s3)/aws4_request,.*"
)
_PLAIN = re.compile(r"[\x20-\x7e]*")
_PORTS = {"http": 80, "https": 443}
_catching = threading.local()


class NotDirectError(Exception):
    """Requests have to go through boto3; the text says why."""


class _CaughtError(BaseException):
    """Carries a request away before it is sent; botocore would take an `Exception` for a failure, and try again."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def catch_if_asked(request: Any, **_: Any) -> None:
    """A ``before-send`` hook for botocore: take the request away, if this thread only wants to see it."""
    if getattr(_catching, "on", False):
        raise _CaughtError(request)


@dataclass(frozen=True)
class Template:
    """What the requests to one bucket have in common.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: The server.
        port: Its port.
        host_header: As it is sent.
        path: What comes before the key.
        user_agent: boto3's.
        scope: What signatures are good for; None for anonymous requests.
    """

    scheme: str
    host: str
    port: int
    host_header: str
    path: str
    user_agent: str
    scope: Scope | None

    @property
    def endpoint_url(self) -> str:
        """The server as a URL, for messages."""
        return f"{self.scheme}://{self.host_header}"


def template_of(client: S3Client, bucket: str) -> Template:
    """Have boto3 make a request to a bucket.

    Raises:
        NotDirectError: If it is of a kind that only boto3 makes.
        botocore.exceptions.BotoCoreError: If it cannot be made, as without credentials.
    """
    request = _caught(client, bucket)
    url = urlsplit(request.url)
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    if url.query or url.scheme not in _PORTS or not url.hostname or not url.path.endswith(f"/{_KEY}"):
        raise NotDirectError(f"its requests go to {url.scheme}://{url.hostname}{url.path}")
    if not all(_PLAIN.fullmatch(text) for text in headers.values()):
        raise NotDirectError("its requests have headers with other characters than those of ASCII")
    port = url.port or _PORTS[url.scheme]
    usual = port == _PORTS[url.scheme]
    name = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    return Template(
        scheme=url.scheme,
        host=url.hostname,
        port=port,
        host_header=headers.get("host") or (name if usual else f"{name}:{port}"),
        path=url.path.removesuffix(_KEY),
        user_agent=headers.get("user-agent", ""),
        scope=_scope(headers),
    )


def _caught(client: S3Client, bucket: str) -> Any:
    _catching.on = True
    try:
        client.head_object(Bucket=bucket, Key=_KEY)
    except _CaughtError as caught:
        return caught.request
    finally:
        _catching.on = False
    raise NotDirectError("boto3 was answered without a request")


def _scope(headers: dict[str, str]) -> Scope | None:
    if "x-amz-s3session-token" in headers:
        raise NotDirectError("it is a directory bucket, whose requests are signed with credentials of a session")
    if "authorization" not in headers:
        return None
    match = _AUTHORIZATION.fullmatch(headers["authorization"])
    if match is None:
        raise NotDirectError("its requests are not signed by Signature Version 4 for S3")
    return Scope(match["region"], match["service"])


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
