"""The program of the `gcs_fake` server: Google's JSON API over HTTP. The argument is the port.

Tests can list the open upload sessions as ``bucket/name`` by ``GET /_fake/sessions``, which is not a part of the API.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import gzip
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers.gcs_fake_store import ApiError, Conditions, Resource, Store

_PAGE = 1000
_CHUNK = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_CONDITION_NAMES = ("ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch")


class Server(ThreadingHTTPServer):
    """A server with one store and one thread for each connection."""

    request_queue_size = 256
    daemon_threads = True
    store: Store


class Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self._body()
        if body is None:
            self.close_connection = True  # the body was truncated
            return
        self.body = body
        try:
            self._route(parts.path)
        except ApiError as error:
            found = {"domain": "global", "reason": error.reason, "message": error.message}
            self._answer(error.status, {"error": {"code": error.status, "message": error.message, "errors": [found]}})

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _handle  # noqa: N815 - http.server's names

    def _body(self) -> bytes | None:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            data = b""
            while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        length = int(self.headers.get("Content-Length") or 0)
        data = self.rfile.read(length)
        return data if len(data) == length else None

    def _route(self, path: str) -> None:
        store = self.server.store
        if path == "/_fake/sessions":
            with store.lock:
                open_ones = [each for each in store.sessions.values() if not each.cancelled and not each.done]
                self._answer(200, [f"{each.bucket}/{each.resource['name']}" for each in open_ones])
            return
        uploads = re.fullmatch(r"(?:/resumable)?/upload/storage/v1/b/([^/]+)/o", path)
        rest = re.fullmatch(r"(?:/download)?/storage/v1/b(?:/([^/]+)(?:/(o|storageLayout)(?:/([^/]+)(?:/(.+))?)?)?)?", path)
        if uploads:
            self._upload(unquote(uploads[1]))
        elif rest is None:
            raise ApiError(404, "notFound", "Not Found")
        elif not rest[1]:
            self._buckets()
        elif not rest[2]:
            self._answer(200, store.bucket(unquote(rest[1])))
        elif rest[2] == "storageLayout":
            bucket = store.bucket(unquote(rest[1]))
            layout = {"kind": "storage#storageLayout", "bucket": bucket["name"], "location": bucket["location"]}
            self._answer(200, {**layout, "locationType": bucket["locationType"]})
        elif not rest[3]:
            self._list(unquote(rest[1]))
        else:
            self._object(unquote(rest[1]), unquote(rest[3]), rest[4])

    def _buckets(self) -> None:
        store = self.server.store
        if self.command == "POST":
            self._answer(200, store.make_bucket(json.loads(self.body)))
        else:
            self._answer(200, {"kind": "storage#buckets", "items": list(store.buckets.values())})

    def _conditions(self) -> Conditions:
        values = (self.query.get(name) for name in _CONDITION_NAMES)
        return Conditions(*(None if value is None else int(value) for value in values))

    def _object(self, bucket: str, name: str, action: str | None) -> None:
        store, conditions = self.server.store, self._conditions()
        request: Resource = json.loads(self.body) if self.body else {}
        generation = int(self.query["generation"]) if "generation" in self.query else None
        if action == "compose":
            self._answer(200, store.compose(bucket, name, request, conditions))
        elif action and action.startswith("moveTo/o/"):
            key = unquote(action.removeprefix("moveTo/o/"))
            moved = store.copy((bucket, name), (bucket, key), request, conditions)
            store.delete(bucket, name, Conditions(), None)
            self._answer(200, moved)
        elif action:
            verb, _, target, _, key = (unquote(each) for each in action.split("/", 4))
            of_source = int(self.query["sourceGeneration"]) if "sourceGeneration" in self.query else None
            made = store.copy((bucket, name), (target, key), request, conditions, of_source)
            size = {"objectSize": made["size"], "totalBytesRewritten": made["size"]}
            rewritten = {"kind": "storage#rewriteResponse", "done": True, **size, "resource": made}
            self._answer(200, rewritten if verb == "rewriteTo" else made)
        elif self.command == "DELETE":
            store.delete(bucket, name, conditions, generation)
            self._send(204, b"", {})
        elif self.command == "PATCH":
            self._answer(200, store.patch(bucket, name, request, conditions))
        elif self.query.get("alt") == "media":
            self._media(*store.get(bucket, name, conditions, generation))
        else:
            self._answer(200, store.get(bucket, name, conditions, generation)[0])

    def _media(self, resource: Resource, data: bytes) -> None:
        headers = {
            "Content-Type": resource["contentType"],
            "ETag": resource["etag"],
            "X-Goog-Generation": resource["generation"],
            "X-Goog-Metageneration": resource["metageneration"],
            "X-Goog-Hash": f"crc32c={resource['crc32c']}",
            "X-Goog-Stored-Content-Length": resource["size"],
        }
        packed = resource.get("contentEncoding") == "gzip"
        if packed and "gzip" not in self.headers.get("Accept-Encoding", ""):
            self._send(200, gzip.decompress(data), headers)  # transcoding: ranges are ignored
            return
        if packed:
            headers["Content-Encoding"] = "gzip"
        wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not wanted:
            self._send(200, data, headers)
            return
        start, end = self._span(wanted, len(data))
        if start > end:
            self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(data)}"
        self._send(206, data[start : end + 1], headers)

    def _span(self, wanted: re.Match[str], size: int) -> tuple[int, int]:
        if not wanted[1]:
            return max(0, size - int(wanted[2])), size - 1
        start = int(wanted[1])
        return start, min(int(wanted[2]), size - 1) if wanted[2] else size - 1

    def _list(self, bucket: str) -> None:
        store, query = self.server.store, self.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after, most = query.get("pageToken", ""), int(query.get("maxResults", _PAGE))
        items: list[Resource] = []
        prefixes: list[str] = []
        token, last = None, ""
        for name in store.names(bucket):
            if not name.startswith(prefix) or name < query.get("startOffset", "") or (after and name <= after):
                continue
            if after.endswith(delimiter or "\0") and name.startswith(after):
                continue  # the previous page has listed the folder of this object
            if query.get("endOffset") and name >= query["endOffset"]:
                continue
            if len(items) + len(prefixes) >= most:
                token = last
                break
            cut = name.find(delimiter, len(prefix)) if delimiter else -1
            last = name if cut < 0 else name[: cut + len(delimiter)]
            if cut < 0:
                with contextlib.suppress(ApiError):  # another request has deleted the object
                    items.append(store.get(bucket, name)[0])
            elif last not in prefixes:
                prefixes.append(last)
        page: Resource = {"kind": "storage#objects"}
        page |= {"items": items} if items else {}
        page |= {"prefixes": prefixes} if prefixes else {}
        self._answer(200, page | ({"nextPageToken": token} if token else {}))

    # --- uploads ---

    def _upload(self, bucket: str) -> None:
        if "upload_id" in self.query:
            self._session(self.query["upload_id"])
            return
        kind, store = self.query.get("uploadType"), self.server.store
        if kind == "media":
            resource = {"name": self.query["name"], "contentType": self.headers.get("Content-Type")}
            self._answer(200, store.insert(bucket, resource, self.body, self._conditions()))
        elif kind == "multipart":
            resource, data = self._parts()
            self._answer(200, store.insert(bucket, self._named(resource), data, self._conditions()))
        elif kind == "resumable":
            resource = self._named(json.loads(self.body) if self.body else {})
            upload_id = store.start(bucket, resource, self._conditions())
            host = self.headers["Host"]
            url = f"http://{host}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload_id}"
            self._send(200, b"", {"Location": url, "X-GUploader-UploadID": upload_id})
        else:
            raise ApiError(400, "badRequest", "uploadType must be media, multipart or resumable.")

    def _named(self, resource: Resource) -> Resource:
        if "name" in self.query:
            resource = {**resource, "name": self.query["name"]}
        if not resource.get("name"):
            raise ApiError(400, "required", "Required: name")
        return resource

    def _parts(self) -> tuple[Resource, bytes]:
        header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        boundary = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(header).get_boundary()
        if not boundary:
            raise ApiError(400, "badRequest", "Malformed multipart body.")
        mark = f"--{boundary}".encode()
        # The content may contain the boundary. It begins after the header of the second part and ends at the last boundary.
        first = self.body.index(mark) + len(mark)
        second = self.body.index(b"\n" + mark, first)
        description = re.split(rb"\r?\n\r?\n", self.body[first:second], maxsplit=1)[1]
        content_start = re.compile(rb"\r?\n\r?\n").search(self.body, second + len(mark))
        end = self.body.rindex(b"\n" + mark)
        if content_start is None:
            raise ApiError(400, "badRequest", "Malformed multipart body.")
        data = self.body[content_start.end() : end]
        return json.loads(description), data.removesuffix(b"\r") if self.body[end - 1 : end] == b"\r" else data

    def _session(self, upload_id: str) -> None:
        store = self.server.store
        if self.command == "DELETE":
            store.cancel(upload_id)
            raise ApiError(499, "cancelled", "Client Closed Request")
        said = self.headers.get("Content-Range")
        chunk = _CHUNK.fullmatch(said or f"bytes 0-{len(self.body) - 1}/{len(self.body)}")
        if chunk is None:
            raise ApiError(400, "badRequest", f"Invalid Content-Range: {said}")
        start = int(chunk[1]) if chunk[1] else None
        total = None if chunk[3] == "*" else int(chunk[3])
        session = store.append(upload_id, start, self.body, total)
        if session.done:
            self._answer(200, session.done)
            return
        kept = len(session.data)
        self._send(308, b"", {"Range": f"bytes=0-{kept - 1}"} if kept else {})

    # --- answers ---

    def _answer(self, status: int, found: Any) -> None:
        self._send(status, json.dumps(found).encode(), {"Content-Type": "application/json; charset=UTF-8"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until killed."""
    server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
    server.store = Store()
    server.serve_forever()


if __name__ == "__main__":
    main()
