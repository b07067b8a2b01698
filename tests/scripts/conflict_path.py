"""Count the modules that `check_conflict` passes on S3: python -m tests.scripts.conflict_path.

A small file is uploaded with ``check_conflict=True`` to a server in this process. The script records the stack at two
places: the line that adds ``IfNoneMatch`` to the parameters of PutObject, and the line that makes the header from it. The
stack of a thread includes the stack that started the thread.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client

if TYPE_CHECKING:
    from types import FrameType

LIMITS = {"IfNoneMatch": 6, "header": 8}
_PACKAGE = "gllm_storage."


class _Server(BaseHTTPRequestHandler):
    """A server without objects, which accepts every PUT."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path.count("/") == 1 else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("ETag", '"e"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


class _Stacks:
    """Records the functions of the package that are on the stack at each place."""

    def __init__(self) -> None:
        self.found: dict[str, list[tuple[str, str]]] = {}
        self._starters: dict[threading.Thread, list[tuple[str, str]]] = {}
        self._start = threading.Thread.start

    def install(self) -> None:
        """Trace all threads from now on."""
        stacks = self

        def start(thread: threading.Thread) -> None:
            stacks._starters[thread] = stacks._now(sys._getframe(1))
            stacks._start(thread)

        patched: Any = threading.Thread
        patched.start = start
        threading.settrace(self._trace)
        sys.settrace(self._trace)

    def uninstall(self) -> None:
        """Stop tracing."""
        sys.settrace(None)
        untyped: Any = threading
        untyped.settrace(None)
        untyped.Thread.start = self._start

    def _trace(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._look if frame.f_globals.get("__name__", "").startswith(_PACKAGE) else None

    def _look(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            for value in list(frame.f_locals.values()):
                if isinstance(value, dict) and value.get("IfNoneMatch") == "*":
                    self.found.setdefault("IfNoneMatch", self._now(frame))
                if isinstance(value, dict) and "if-none-match" in value:
                    self.found.setdefault("header", self._now(frame))
        return self._look

    def _now(self, frame: FrameType | None) -> list[tuple[str, str]]:
        below = list(self._starters.get(threading.current_thread(), []))
        mine: list[tuple[str, str]] = []
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith(_PACKAGE):
                mine.append((module, frame.f_code.co_qualname))
            frame = frame.f_back
        return below + mine[::-1]


def count() -> dict[str, list[tuple[str, str]]]:
    """Upload a file; returns the modules and functions on the stack at each of the two places."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "bucket_name": "models",
        "endpoint_url": f"http://127.0.0.1:{server.server_port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "key",
        "aws_secret_access_key": "secret",
        "addressing_style": "path",
        "conditional_writes": "enforced",
    }
    client = get_storage_client("s3", config)
    client.file_exists("first")  # so that imports and the creation of boto3's client are not traced
    stacks = _Stacks()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "file").write_bytes(b"content")
        stacks.install()
        try:
            client.upload_file(Path(folder) / "file", "file", check_conflict=True)
        finally:
            stacks.uninstall()
            server.shutdown()
            server.server_close()
    return stacks.found


def main() -> int:
    """Print the counts; returns 1 if a count is above its limit."""
    found = count()
    code = 0
    for place, limit in LIMITS.items():
        functions = list(dict.fromkeys(found[place]))
        modules = list(dict.fromkeys(module for module, _ in functions))
        print(f"to {place}: {len(modules)} modules, {len(functions)} functions (at most {limit} modules)")
        for module, function in functions:
            print(f"    {module}: {function}")
        code |= len(modules) > limit
    return code


if __name__ == "__main__":
    sys.exit(main())
