"""A local server that records requests, and answers as an empty account of Azure Blob Storage."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import ssl
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMPTY_LISTING = b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs/><NextMarker/></EnumerationResults>'
VERSION = "2026-11-28T12:00:00.0000000Z"
"""The only version of each blob; reads of it return `CONTENT`."""
CONTENT = b"content"
_CONTENT_HEADERS = ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date"]
_SIGNED = [*_CONTENT_HEADERS, "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range"]


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        method: The HTTP method.
        path: The path without the query.
        query: The parameters.
        headers: The headers, with names in lower case.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def account(self) -> str:
        """The account, the first part of the path."""
        return self.path.split("/")[1]

    def credential(self, *keys: str) -> str:
        """The credential: an account key, ``"sas SIGNATURE"``, ``"Bearer TOKEN"`` or ``"anonymous"``.

        Args:
            *keys: The account keys that may have signed the request.
        """
        authorization = self.headers.get("authorization", "")
        if "sig" in self.query:
            assert not authorization
            return f"sas {self.query['sig']}"
        if not authorization.startswith("SharedKey "):
            return authorization or "anonymous"
        signers = [key for key in keys if authorization == f"SharedKey {self.account}:{self.signature(key)}"]
        return "".join(signers) or "a key of another source"

    def signature(self, key: str) -> str:
        """The signature by an account key.

        https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        signed = [self.headers.get(name, "") for name in _SIGNED]
        lines = [self.method, *("" if line == "0" else line for line in signed)]
        lines += [f"{name}:{self.headers[name]}" for name in sorted(self.headers) if name.startswith("x-ms-")]
        lines += [f"/{self.account}{self.path}", *(f"{name}:{self.query[name]}" for name in sorted(self.query))]
        digest = hmac.digest(base64.b64decode(key), "\n".join(lines).encode(), hashlib.sha256)
        return base64.b64encode(digest).decode()


@dataclass
class Recorder:
    """The recorded requests, and the next answers.

    Attributes:
        url: URL of the server.
        ca_bundle: Path of the file with its CA certificate; None for http.
        requests: The requests.
        copy_status: The state of each new copy.
    """

    url: str
    ca_bundle: str | None = None
    requests: list[Request] = field(default_factory=list)
    copy_status: str = "success"

    def take(self) -> list[Request]:
        """Remove and return the recorded requests."""
        taken, self.requests[:] = list(self.requests), []
        return taken


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorder: Recorder

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)), headers)
        self.recorder.requests.append(request)
        if "versionid" in request.query:
            self._send_version(request)
        elif request.method == "GET":
            self._send(200, EMPTY_LISTING)
        elif request.query.get("comp") == "copy":
            self._send(204)
        elif request.method == "DELETE":
            self._send(202)
        elif request.method == "PUT" and "x-ms-copy-source" in headers:
            self._send(202, headers=self._copying())
        elif request.method == "PUT":
            self._send(201, headers={"ETag": '"1"'})
        elif self.recorder.copy_status != "success":
            self._send(200, headers=self._copying())
        else:
            self._send(404, headers={"x-ms-error-code": "BlobNotFound"})

    do_GET = do_HEAD = do_PUT = do_DELETE = _handle  # noqa: N815 - http.server's names

    def _send_version(self, request: Request) -> None:
        if request.query["versionid"] != VERSION:
            self._send(404, headers={"x-ms-error-code": "BlobNotFound"})
            return
        of_blob = {"ETag": '"1"', "x-ms-version-id": VERSION, "Last-Modified": "Sat, 28 Nov 2026 12:00:00 GMT"}
        of_blob |= {"x-ms-blob-type": "BlockBlob", "x-ms-creation-time": "Sat, 28 Nov 2026 12:00:00 GMT"}
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", request.headers.get("x-ms-range", ""))
        if asked is None:
            self._send(200, CONTENT, of_blob)
            return
        found = CONTENT[int(asked[1]) : int(asked[2] or len(CONTENT)) + 1]
        last = int(asked[1]) + len(found) - 1
        self._send(206, found, {**of_blob, "Content-Range": f"bytes {asked[1]}-{last}/{len(CONTENT)}"})

    def _copying(self) -> dict[str, str]:
        return {"ETag": '"1"', "x-ms-copy-id": "copy-1", "x-ms-copy-status": self.recorder.copy_status}

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if body:
            self.send_header("Content-Type", "application/xml")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def recording(certificates: Path | None = None) -> Iterator[Recorder]:
    """Run the server.

    Args:
        certificates: A folder for the CA certificate of an https server; None for http.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    recorder = Recorder(f"http://127.0.0.1:{server.server_address[1]}")
    if certificates is not None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        authority.cert_pem.write_to_path(certificates / "ca.pem")
        recorder = Recorder(recorder.url.replace("http:", "https:"), str(certificates / "ca.pem"))
    server.RequestHandlerClass = type("Handler", (_Handler,), {"recorder": recorder})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
