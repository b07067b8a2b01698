"""Serve the version that the alias "latest" names, and change to a new one without a pause.

pip install '.[s3]' numpy safetensors      # the extra of the store: s3, gcs or azure; a folder needs none
python examples/publish_and_fetch/serve.py s3://bucket/models folder 8000
curl localhost:8000/?x=2
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import safetensors.numpy

from gllm_storage import CloudStorageClient, StorageError, storage_client_from_url, versions

MODEL = "line"
POLL_SECONDS = 0.5


class Served:
    """The version that answers requests now."""

    def __init__(self, client: CloudStorageClient, folder: Path) -> None:
        self._client = client
        self._folder = folder
        self.version, self.weights = self._load()

    def follow(self) -> None:
        """Look at the alias again and again, and change to the version that it names."""
        while True:
            time.sleep(POLL_SECONDS)
            try:
                if versions.resolve(self._client, MODEL, "latest").digest != self.version.digest:
                    self.version, self.weights = self._load()
                    print(f"serving     {self.version.name}", flush=True)
            except (StorageError, FileNotFoundError) as error:  # the store or the alias is missing: serve the present model
                print(f"still on    {self.version.name}: {error}", flush=True)

    def _load(self) -> tuple[versions.Version, dict[str, float]]:
        found = versions.resolve(self._client, MODEL, "latest")
        local = self._folder / found.digest.removeprefix("sha256:")
        if not local.exists():  # a directory with this name is complete: `fetch` makes it in one step
            versions.fetch(self._client, MODEL, found.digest, local)
        weights = safetensors.numpy.load_file(local / "model.safetensors")
        return found, {name: float(each) for name, each in weights.items()}


class Handler(BaseHTTPRequestHandler):
    """Answers ``GET /?x=2``."""

    served: Served

    def do_GET(self) -> None:
        """Send the prediction, and the version that made it."""
        version, weights = self.served.version, self.served.weights
        x = float(parse_qs(urlsplit(self.path).query).get("x", ["0"])[0])
        answer = {"y": weights["slope"] * x + weights["offset"], "version": version.name, "digest": version.digest}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    if not sys.argv[3:]:
        sys.exit("usage: serve.py URL FOLDER PORT")
    try:
        Handler.served = Served(storage_client_from_url(sys.argv[1]), Path(sys.argv[2]))
    except FileNotFoundError as missing:
        sys.exit(f"there is nothing to serve; run train.py first: {missing}")
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), Handler)
    threading.Thread(target=Handler.served.follow, daemon=True).start()
    print(f"listening   on port {server.server_port} with {Handler.served.version.name}", flush=True)
    server.serve_forever()
