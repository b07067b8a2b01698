"""`Template`: host, path and signing scope of the requests to one bucket, copied from one request of boto3.

We do not compute endpoints or signing rules. botocore knows path style and virtual hosts, access points, dual stack, FIPS,
acceleration, and the rules of future releases. So for each bucket boto3 builds and signs one HeadObject, of the key ``k``.
A hook on botocore's event ``before-send`` raises an exception with this request, and nothing is sent. The requests to all
other keys have the same host, the same path up to the key, and the same region in their signature.

The hook is registered for all requests of the client, and other threads may send requests through boto3 meanwhile. It
therefore intercepts a request only if a thread-local variable says that this thread is making a template.
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
    """The direct client cannot send these requests, but boto3 may. The text is the reason."""


class _CaughtError(BaseException):
    """Carries a request out of botocore before it is sent. A `BaseException`, because botocore retries any `Exception`."""

    def __init__(self, request: Any) -> None:
        super().__init__()
        self.request = request


def catch_if_asked(request: Any, **_: Any) -> None:
    """A ``before-send`` hook for botocore: intercept the request if this thread is making a template."""
    if getattr(_catching, "on", False):
        raise _CaughtError(request)


@dataclass(frozen=True)
class Template:
    """The parts that all requests to one bucket share.

    Attributes:
        scheme: ``"http"`` or ``"https"``.
        host: Host name or IP address of the server.
        port: TCP port.
        host_header: The ``Host`` header.
        path: The path up to the key, percent-encoded.
        user_agent: The ``User-Agent`` header of boto3.
        scope: The scope of signatures; None for anonymous requests.
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
        """The URL of the server, for messages."""
        return f"{self.scheme}://{self.host_header}"


def template_of(client: S3Client, bucket: str) -> Template:
    """Let boto3 build a request to a bucket, and copy its parts. Nothing is sent.

    Raises:
        NotDirectError: If the request is of a kind that only boto3 can build.
        botocore.exceptions.BotoCoreError: If boto3 cannot build it, as without credentials.
    """
    request = _caught(client, bucket)
    url = urlsplit(request.url)
    headers = {name.lower(): _text(value) for name, value in request.headers.items()}
    if url.query or url.scheme not in _PORTS or not url.hostname or not url.path.endswith(f"/{_KEY}"):
        raise NotDirectError(f"requests go to {url.scheme}://{url.hostname}{url.path}, which has an unknown form")
    if not all(_PLAIN.fullmatch(text) for text in headers.values()):
        raise NotDirectError("requests have headers that are not printable ASCII")
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
    raise NotDirectError("boto3 returned an answer without a request: a stub is active")


def _scope(headers: dict[str, str]) -> Scope | None:
    if "x-amz-s3session-token" in headers:
        raise NotDirectError("requests to a directory bucket are signed with session credentials")
    if "authorization" not in headers:
        return None
    match = _AUTHORIZATION.fullmatch(headers["authorization"])
    if match is None:
        raise NotDirectError("requests are not signed with Signature Version 4 for S3")
    return Scope(match["region"], match["service"])


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
