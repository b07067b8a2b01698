"""Servers that the command starts: ``nulls3``, a server of the tests, and a slow proxy in front of either."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.layout import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
NULLS3 = ROOT.parent / "shared" / "bench" / "nulls3.c"
SLOWPROXY = Path(__file__).with_name("slowproxy.c")
RIG_SERVERS = ("ceph", "ministack", "rclone")

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 10.0
_BUCKET = "bench"


def compile_c(source: Path, folder: str) -> str:
    """Compile a program of one file.

    Raises:
        RuntimeError: If the compiler is missing, or the program does not compile.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError(f"no C compiler (`cc`) to build {source.name} with")
    program = os.path.join(folder, source.stem)
    done = subprocess.run(
        [compiler, "-O2", "-pthread", "-o", program, str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"cc cannot build {source.name}:\n{done.stderr}")
    return program


@contextlib.contextmanager
def nulls3(source: Path, folder: str) -> Iterator[tuple[Endpoint, str]]:
    """Run ``nulls3``, a server that needs almost no CPU.

    Yields:
        The endpoint, and the folder that it serves as a bucket.
    """
    objects = os.path.join(folder, "nulls3-objects")
    os.makedirs(objects, exist_ok=True)
    program = compile_c(source, folder)
    port = _free_port()
    with _running([program, str(port), objects]):
        _await_port(port)
        yield Endpoint(f"http://{_LOOPBACK}:{port}", _BUCKET, "x", "y", stores=False), objects


@contextlib.contextmanager
def rig_server(name: str, folder: str) -> Iterator[Endpoint]:
    """Run a server of the tests, with an empty bucket."""
    import tests.servers  # noqa: PLC0415 - it needs the extra `test`
    from tests.rig import BUCKET, make_bucket  # noqa: PLC0415

    place = Path(folder) / name
    place.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(getattr(tests.servers, name)(place))
        except tests.servers.ServerUnavailableError as why:
            raise SystemExit(str(why)) from None
        make_bucket(server)
        yield Endpoint(server.endpoint_url, BUCKET, server.access_key, server.secret_key)


class Proxy:
    """A running ``slowproxy``.

    Attributes:
        url: URL of the proxy.
        seen: The counted requests and bytes, after the proxy has ended.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen: dict[str, Any] = {}


@contextlib.contextmanager
def proxy(program: str, endpoint: Endpoint, delay_ms: int = 0, bandwidth: int = 0) -> Iterator[Proxy]:
    """Run a proxy in front of an endpoint.

    Args:
        program: The compiled ``slowproxy``.
        endpoint: The endpoint behind the proxy.
        delay_ms: Milliseconds by which each answer is delayed.
        bandwidth: Bytes per second for each direction of each connection; 0 for no limit.

    Yields:
        The proxy.

    Raises:
        RuntimeError: If the endpoint speaks https: its certificate is not valid for the address of the proxy.
    """
    target = urlsplit(endpoint.url)
    if target.scheme != "http":
        raise RuntimeError("the proxy can only stand before an http endpoint")
    command = [program, str(target.hostname), str(target.port or 80), str(delay_ms), str(bandwidth)]
    with _running(command, stdout=subprocess.PIPE) as child:
        if child.stdout is None:
            raise RuntimeError("no output of the proxy")
        found = Proxy(f"http://{_LOOPBACK}:{int(child.stdout.readline())}")
        yield found
        child.send_signal(signal.SIGTERM)
        found.seen = json.loads(child.stdout.readline())


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind((_LOOPBACK, 0))
        port: int = taken.getsockname()[1]
        return port


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection((_LOOPBACK, port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


@contextlib.contextmanager
def _running(command: list[str], stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own, so that Ctrl-C does not reach it: the workers end first, then the servers with their blocks.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, start_new_session=True) as child:
        try:
            yield child
        finally:
            child.terminate()
