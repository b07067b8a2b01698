"""The memory and the time of transfers of folders with many names: `python -m benchmarks.folder_memory [NAMES]`.

A server of this module lists any number of objects, and answers DeleteObjects. The client plans a download (listing, checks
of names as on a disk that ignores case, plan), deletes the folder (plan, result), and saves and loads the plan.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import tempfile
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

PAGE = 1000
MIB = 2**20
_SPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Listing(BaseHTTPRequestHandler):
    """Lists `names` objects of 1 KiB below ``v1/``."""

    protocol_version = "HTTP/1.1"
    names = 0

    def do_GET(self) -> None:
        """Answer a listing."""
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        end = min(self.names, start + PAGE)
        entries = "".join(
            f"<Contents><Key>{key_of(number)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>&quot;{number:032x}&quot;</ETag><Size>1024</Size></Contents>"
            for number in range(start, end)
        )
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < self.names else ""
        is_truncated = "true" if more else "false"
        head = f"<Name>bucket</Name><MaxKeys>{PAGE}</MaxKeys><IsTruncated>{is_truncated}</IsTruncated>"
        self._answer(f"<ListBucketResult {_SPACE}>{head}{more}{entries}</ListBucketResult>")

    def do_POST(self) -> None:
        """Answer DeleteObjects: all were deleted."""
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(f"<DeleteResult {_SPACE}></DeleteResult>")

    def _answer(self, text: str) -> None:
        body = f'<?xml version="1.0"?>{text}'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def key_of(number: int) -> str:
    """The key of an object."""
    return f"v1/shard-{number // 1000:05}/part-of-the-dataset-{number:09}.parquet"


def serve(names: int, port: Connection) -> None:
    """Run the server."""
    Listing.names = names
    server = ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    port.send(server.server_port)
    server.serve_forever()


def measure(port: int) -> None:
    """Print the time and the highest memory of this process after each step."""
    from gllm_storage import S3StorageClient  # the memory before counts, too
    from gllm_storage.files import names as of_disk
    from gllm_storage.folders import Plan, plan

    setattr(plan, "fold_of_disk", lambda _: of_disk.fold_of(ignores_case=True, ignores_form=True))  # noqa: B010 - for this run
    endpoint = {"endpoint_url": f"http://127.0.0.1:{port}", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client = S3StorageClient({"bucket_name": "bucket", "region_name": "us-east-1", **endpoint})
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        found = client.download_dir("v1", f"{folder}/target", dry_run=True).plan
        began = _show(f"plan of {found.transfers} downloads", began)
        found.save(f"{folder}/plan")
        size = os.path.getsize(f"{folder}/plan") / MIB
        began = _show(f"plan saved, {size:.0f} MiB", began)
        loaded = Plan.load(f"{folder}/plan").transfers
        began = _show(f"plan of {loaded} downloads loaded", began)
        done = client.delete_dir("v1", force=True)
        began = _show(f"{done.deleted} objects deleted", began)
        _show(f"result of {sum(1 for _ in done.outcomes('deleted'))} deletions read", began)


def _show(step: str, began: float) -> float:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    now = time.monotonic()
    sys.stdout.write(f"{step}: {now - began:.1f} s, at most {used:.0f} MiB so far\n")
    sys.stdout.flush()
    return now


def main(names: int) -> None:
    """Run the server and the client in processes of their own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=serve, args=(names, theirs), daemon=True)
    server.start()
    client = context.Process(target=measure, args=(ours.recv(),))
    client.start()
    client.join()
    server.terminate()
    sys.exit(client.exitcode)


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["1000000"])[0]))
