"""s5cmd: a program in Go. The worker starts it and waits; the figures include this child process."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import distribution
from typing import TYPE_CHECKING

from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer


def _program() -> str:
    # Not the entry point of the package: it is a Python script that starts an additional process.
    files = distribution("s5cmd").files or []
    return next(str(each.locate()) for each in files if str(each).startswith("s5cmd/bin/s5cmd"))


class S5cmd(Peer):
    """One command for each job, with wildcards for many files. It trusts the certificates that SSL_CERT_FILE names."""

    how = {
        "upload": "`s5cmd cp FILE URL`",
        "download": "`s5cmd cp URL FILE`",
        "upload_many": "`s5cmd cp 'FOLDER/*' URL/`",
        "download_many": "`s5cmd cp 'URL/*' FOLDER/`",
    }
    warms = False  # a process for each call
    cannot = {
        "upload_small": "a process for each call",
        "exists": "a process for each call",
        "download_small": "a process for each call",
        "serial": "a process for each call",
        "read": "no file to read from",
        "read_at": "no file to read from",
        "write": "no file to write to",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.program = _program()

    def upload(self, path: str, key: str) -> None:
        self._run("cp", path, self._url(key))

    def download(self, key: str, path: str) -> None:
        self._run("cp", self._url(key), path)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        path, key = transfers[0]
        self._run("cp", f"{os.path.dirname(path)}/*", f"{self._url(os.path.dirname(key))}/")

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        path, key = transfers[0]
        self._run("cp", f"{self._url(os.path.dirname(key))}/*", f"{os.path.dirname(path)}/")

    def _url(self, key: str) -> str:
        return f"s3://{self.endpoint.bucket}/{key}"

    def _run(self, *arguments: str) -> None:
        command = [self.program, "--log", "error", "--endpoint-url", self.endpoint.url, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
