"""Servers that the command starts: ``nulls3``, ``nullclouds``, a server of the tests, and a slow proxy in front of any."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from benchmarks.layout import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
NULLS3 = ROOT.parent / "shared" / "bench" / "nulls3.c"
SLOWPROXY = Path(__file__).with_name("slowproxy.c")
NULLCLOUDS = Path(__file__).with_name("nullclouds.c")
COUNT = Path(__file__).with_name("count.c")
FLOOR = NULLS3.with_name("floor.py")
RIG_SERVERS = ("ceph", "ministack", "rclone")

_LOOPBACK = "127.0.0.1"
_START_SECONDS = 10.0
_BUCKET = "bench"
_ACCOUNT = "nullaccount"


def compile_c(source: Path, folder: str, *options: str, name: str = "") -> str:
    """Compile a program of one file.

    Args:
        source: The file.
        folder: Where to put the program.
        *options: Further options of the compiler.
        name: Name of the program. Default: that of the file.

    Raises:
        RuntimeError: If the compiler is missing, or the program does not compile.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise RuntimeError(f"no C compiler (`cc`) to build {source.name} with")
    program = os.path.join(folder, name or source.stem)
    command = [compiler, "-O2", "-pthread", "-o", program, str(source), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cc cannot build {source.name}:\n{done.stderr}")
    return program


class Counter:
    """The connections and handshakes of a server, which `count.c` counts.

    Args:
        folder: A folder for the program and its file.
        name: Name of the file.
    """

    def __init__(self, folder: str, name: str) -> None:
        self._file = os.path.join(folder, name)
        self._program = compile_c(COUNT, folder, "-shared", "-fPIC", "-ldl", name="count.so")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the server."""
        return {**os.environ, "LD_PRELOAD": self._program, "COUNT_FILE": self._file}

    def read(self) -> dict[str, int]:
        """The numbers since the server's start."""
        numbers = struct.unpack("3q", Path(self._file).read_bytes())
        return dict(zip(("connections", "handshakes", "resumed"), numbers, strict=True))


def make_certificate(folder: str) -> tuple[str, str, str]:
    """Make a certificate for this machine's loopback address.

    Returns:
        The files of the authority's certificate, of the server's certificate, and of its key.
    """
    import trustme

    authority, path = trustme.CA(), Path(folder)
    server = authority.issue_cert(_LOOPBACK, "localhost")
    authority.cert_pem.write_to_path(path / "ca.pem")
    for number, blob in enumerate(server.cert_chain_pems):
        blob.write_to_path(path / "server.pem", append=number > 0)
    server.private_key_pem.write_to_path(path / "server.key")
    return str(path / "ca.pem"), str(path / "server.pem"), str(path / "server.key")


@contextlib.contextmanager
def nulls3(source: Path, folder: str, *, tls: bool) -> Iterator[tuple[Endpoint, Counter]]:
    """Run ``nulls3``, a server that needs almost no CPU.

    Args:
        source: Its source.
        folder: A folder for the program and the objects.
        tls: Whether it speaks https.

    Yields:
        The endpoint, and the counter of its connections.
    """
    objects, port = _objects(folder), _free_port()
    if tls:
        authority, *certificate = make_certificate(folder)
        program = compile_c(source, folder, "-DTLS", "-lssl", "-lcrypto", name="nulls3-tls")
        endpoint = Endpoint(f"https://{_LOOPBACK}:{port}", _BUCKET, "x", "y", stores=False, ca=authority, served=objects)
    else:
        program, certificate = compile_c(source, folder), []
        endpoint = Endpoint(f"http://{_LOOPBACK}:{port}", _BUCKET, "x", "y", stores=False, served=objects)
    counter = Counter(folder, f"counts-{port}")
    with _running([program, str(port), objects, *certificate], environment=counter.environment):
        _await_port(port)
        yield endpoint, counter


@contextlib.contextmanager
def nullclouds(name: str, folder: str) -> Iterator[tuple[Endpoint, Counter]]:
    """Run the server that stands for Google Cloud Storage or Azure Blob Storage, over https.

    Args:
        name: ``gcs`` or ``azure``.
        folder: A folder for the program and the objects.

    Yields:
        The endpoint, and the counter of its connections. On Azure its keys are the account's name and key.
    """
    objects, port = _objects(folder), _free_port()
    authority, *certificate = make_certificate(folder)
    crc = ["-msse4.2"] if platform.machine() == "x86_64" else []
    program = compile_c(NULLCLOUDS, folder, *crc, "-DTLS", "-lssl", "-lcrypto")
    counter = Counter(folder, f"counts-{port}")
    path, account = (f"/{_ACCOUNT}", _ACCOUNT) if name == "azure" else ("", "x")
    key = base64.b64encode(b"key").decode()
    url = f"https://{_LOOPBACK}:{port}{path}"
    with _running([program, str(port), objects, *certificate], environment=counter.environment):
        _await_port(port)
        yield Endpoint(url, _BUCKET, account, key, stores=False, ca=authority, served=objects), counter


def _objects(folder: str) -> str:
    objects = os.path.join(folder, "objects")
    os.makedirs(objects, exist_ok=True)
    return objects


@contextlib.contextmanager
def rig_server(name: str, folder: str, *, tls: bool = False) -> Iterator[Endpoint]:
    """Run a server of the tests, with an empty bucket.

    Args:
        name: One of `RIG_SERVERS`.
        folder: A folder for the data of the server.
        tls: Whether it speaks https.
    """
    import tests.servers
    from tests.rig import BUCKET, make_bucket

    place = Path(folder) / name
    place.mkdir()
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(getattr(tests.servers, f"{name}_tls" if tls else name)(place))
        except tests.servers.ServerUnavailableError as why:
            raise SystemExit(str(why)) from None
        make_bucket(server)
        yield Endpoint(server.endpoint_url, BUCKET, server.access_key, server.secret_key, ca=server.ca_bundle)


class Proxy:
    """A running ``slowproxy``.

    Attributes:
        url: URL of the proxy.
        seen: The counted requests and bytes, after the proxy has ended.
    """

    def __init__(self, url: str, child: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self.url = url
        self.seen: dict[str, Any] = {}
        self._child = child
        self._output = output

    def read(self, ask: signal.Signals = signal.SIGUSR1) -> dict[str, Any]:
        """The requests and bytes so far, as in `seen`.

        Args:
            ask: The signal that is sent to the proxy; SIGTERM ends it.
        """
        self._child.send_signal(ask)
        found: dict[str, Any] = json.loads(self._output.readline())
        return found


@contextlib.contextmanager
def proxy(program: str, endpoint: Endpoint, delay_ms: int = 0, bandwidth: int = 0) -> Iterator[Proxy]:
    """Run a proxy in front of an endpoint.

    Args:
        program: The compiled ``slowproxy``.
        endpoint: The endpoint behind the proxy.
        delay_ms: Milliseconds by which each answer is delayed.
        bandwidth: Bytes per second for each direction of each connection; 0 for no limit.

    Yields:
        The proxy. Over https it passes the ciphertext on, and counts no requests.
    """
    target = urlsplit(endpoint.url)
    port = target.port or (443 if target.scheme == "https" else 80)
    command = [program, str(target.hostname), str(port), str(delay_ms), str(bandwidth)]
    with _running(command, stdout=subprocess.PIPE) as child:
        if child.stdout is None:
            raise RuntimeError("no output of the proxy")
        found = Proxy(f"{target.scheme}://{_LOOPBACK}:{int(child.stdout.readline())}", child, child.stdout)
        yield found
        found.seen = found.read(signal.SIGTERM)


def end_on_sigterm() -> None:
    """Let SIGTERM interrupt the command as Ctrl-C does, so that its servers end, and its files are deleted."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


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
def _running(
    command: list[str], stdout: int | None = None, environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    # In a session of its own, so that Ctrl-C does not reach it: the workers end first, then the servers with their blocks.
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, env=environment, start_new_session=True
    ) as child:
        try:
            yield child
        finally:
            child.terminate()
