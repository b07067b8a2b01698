"""A local server that records the requests, and answers as Google Cloud Storage, its token server and its metadata server.

It is also an HTTP proxy: with ``http_proxy`` set to its URL it receives the requests to ``http://storage.googleapis.com``.
"""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from gllm_storage.store import checksums

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

CONTENT = b"content"
OBJECT = {
    "kind": "storage#object",
    "generation": "1",
    "size": "7",
    "crc32c": checksums.encode(checksums.crc32c(CONTENT), "crc32c"),
}
TOKEN = {"access_token": "of-machine", "expires_in": 3600, "token_type": "Bearer"}


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    authorization: str | None
    body: bytes


@dataclass
class Recorder:
    """The recorded requests, and the next answers.

    Attributes:
        url: URL of the server.
        requests: The requests, except requests for tokens.
        logins: The requests for tokens.
        rewrites: Answers to the next rewrites. Later rewrites are complete after one request.
        missing: Keys that do not exist.
        refused: Keys without permission to delete.
        busy: Keys whose next delete is answered with 503.
    """

    url: str
    requests: list[Request] = field(default_factory=list)
    logins: list[Request] = field(default_factory=list)
    rewrites: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)

    def authorizations(self) -> set[str | None]:
        """The credentials of all requests."""
        return {each.authorization for each in self.requests}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorder: Recorder

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        request = Request(self.command, unquote(parts.path), query, self.headers.get("Authorization"), body)
        is_login = parts.path == "/token" or "computeMetadata" in parts.path or parts.path == "/"
        (self.recorder.logins if is_login else self.recorder.requests).append(request)
        if is_login:
            self._send(200, self._login(parts.path))
        elif parts.path == "/batch/storage/v1":
            self._batch(body.decode())
        elif query.get("alt") == "media":
            self._send_bytes(200, CONTENT, "application/octet-stream")
        else:
            self._send(*self._answer(request))

    do_GET = do_POST = do_DELETE = _handle  # noqa: N815 - http.server's names

    def _login(self, path: str) -> dict[str, Any]:
        if path == "/token":
            return {**TOKEN, "access_token": "of-key-file"}
        if path.endswith("/token"):
            return TOKEN
        return {"email": "machine@example.com", "scopes": [], "aliases": ["default"]}

    def _answer(self, request: Request) -> tuple[int, dict[str, Any]]:
        if request.path.startswith("/upload/"):
            return 200, {**OBJECT, "name": "uploaded"}
        key = request.path.partition("/o/")[2]
        if "/rewriteTo/" in key:
            done = (200, {"kind": "storage#rewriteResponse", "done": True, "resource": OBJECT})
            return self.recorder.rewrites.pop(0) if self.recorder.rewrites else done
        if key in self.recorder.missing:
            return 404, {"error": {"code": 404, "message": f"No such object: {key}"}}
        if request.method == "DELETE":
            return self._delete(key)
        named = {"generation": request.query["generation"]} if "generation" in request.query else {}
        return 200, {**OBJECT, **named, "name": key} if key else {"kind": "storage#objects", "items": []}

    def _delete(self, key: str) -> tuple[int, dict[str, Any]]:
        if key in self.recorder.busy:
            self.recorder.busy.remove(key)
            return 503, {"error": {"code": 503, "message": "busy", "errors": [{"reason": "backendError"}]}}
        if key in self.recorder.refused:
            return 403, {"error": {"code": 403, "message": "denied", "errors": [{"reason": "forbidden"}]}}
        return 204, {}

    def _batch(self, body: str) -> None:
        parts: list[str] = []
        for number, path in re.findall(r"Content-ID: <([^>]+)>\r\n\r\nDELETE (\S+) HTTP", body):
            asked = urlsplit(path)
            query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
            status, _ = self._answer(Request("DELETE", unquote(asked.path), query, None, b""))
            head = f"--of-batch\r\nContent-Type: application/http\r\nContent-ID: <response-{number}>\r\n\r\n"
            parts.insert(0, f"{head}HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n\r\n")  # in another order
        content = "".join([*parts, "--of-batch--\r\n"]).encode()
        self._send_bytes(200, content, "multipart/mixed; boundary=of-batch")

    def _send(self, status: int, content: dict[str, Any]) -> None:
        self._send_bytes(status, json.dumps(content).encode(), "application/json")

    def _send_bytes(self, status: int, content: bytes, content_type: str) -> None:
        has_content = status != 204
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", content_type)
        if has_content:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if has_content:
            self.wfile.write(content)


@contextmanager
def recording(context: ssl.SSLContext | None = None) -> Iterator[Recorder]:
    """Run the server, over TLS if there is a context."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    recorder = Recorder(f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"recorder": recorder})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
