"""Functions that all servers use: programs, ports, child processes, certificates."""

import ctypes
import http.client
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import trustme

from .base import ServerUnavailableError

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0  # for a busy machine with cold caches; an idle machine needs at most two seconds
STOP_SECONDS = 5.0
POLL_SECONDS = 0.01
LOG_TAIL_CHARACTERS = 3000
PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>

# --- Programs -------------------------------------------------------------------------------------------------------


# Servers from PyPI are in a venv of their own, made by tests/install-servers, because ministack pins a version of botocore
# that users of the library do not get.
SERVERS_VENV = Path(__file__).parents[2] / ".venv-servers" / "bin"


def find_program(name: str, install: str) -> str:
    """Find a program in the servers' venv, on the PATH, or beside the running Python, also if its venv is not active.

    Raises:
        ServerUnavailableError: If the program is missing. The message names the command `install`.
    """
    beside = os.pathsep.join((str(SERVERS_VENV), os.environ.get("PATH", os.defpath), os.path.dirname(sys.executable)))
    found = shutil.which(name, path=beside)
    if found is None:
        raise ServerUnavailableError(f"the program `{name}` is missing; install it with: {install}")
    return found


def find_python(module: str, install: str) -> str:
    """Find the Python that can import a server's package: the Python of the servers' venv, or the running Python.

    Raises:
        ServerUnavailableError: If neither can import it. The message names the command `install`.
    """
    for python in (str(SERVERS_VENV / "python"), sys.executable):
        if _can_import(python, module):
            return python
    raise ServerUnavailableError(f"the Python package `{module}` is missing; install it with: {install}")


@cache
def _can_import(python: str, module: str) -> bool:
    check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return os.path.exists(python) and subprocess.run([python, "-P", "-c", check], check=False).returncode == 0


def clean_environment(directory: Path) -> dict[str, str]:
    """Environment variables without the caller's AWS and proxy settings. Home and TMPDIR are `directory`."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "HOME": str(directory),
        "TMPDIR": str(directory),
    }


# --- Ports ----------------------------------------------------------------------------------------------------------


def _reserve(port: int) -> socket.socket:
    reservation = socket.socket()
    try:
        # Without SO_REUSEADDR, the bind fails if any socket is bound to the port, also a reservation like this one.
        reservation.bind((LOOPBACK, port))
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        reservation.close()
        raise
    return reservation


@contextmanager
def reserved_ports(count: int = 1) -> Iterator[range]:
    """Reserve consecutive ports of the loopback interface for a server while the block runs.

    A bound socket that does not listen keeps its port from other processes, such as the servers of another pytest run.
    Linux still lets a server with SO_REUSEADDR listen on the port, and all servers here set it. The reservation lasts
    until the end of the server, so no other process can bind the port before the server does.
    The ports are below 32768, where the range of Linux for outgoing connections begins.
    """
    for _ in range(100):
        first = 20000 + secrets.randbelow(12000)
        ports = range(first, first + count)
        with ExitStack() as stack:
            try:
                for port in ports:
                    stack.enter_context(_reserve(port))
            except OSError:
                continue
            yield ports
            return
    raise RuntimeError(f"found no {count} consecutive free ports")


# --- Processes ------------------------------------------------------------------------------------------------------

_LIBC = ctypes.CDLL(None)


def _die_with(parent: int) -> None:
    """Let the kernel kill this new child process when `parent` ends for any reason.

    The kernel kills it when the *thread* that started it ends: start servers from a thread that outlives them.
    """
    if sys.platform == "linux":
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent has ended before the call of prctl
            os._exit(1)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-LOG_TAIL_CHARACTERS:]


def run(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Run a short command of a server's setup. Its output is appended to `log`, and is part of the error if it fails."""
    try:
        with log.open("ab") as output:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env=environment,
                timeout=START_SECONDS,
                check=True,
            )
    except subprocess.SubprocessError as error:
        raise RuntimeError(f"{error}\n{_tail(log)}") from error


def run_until_it_works(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
    """Repeat a short command until it succeeds, because its server may not be ready yet."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return run(command, log, environment)
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS * 20)


@contextmanager
def running(
    command: Sequence[str], log: Path, environment: Mapping[str, str], ready: Callable[[], bool], *, kill: bool = False
) -> Iterator[int]:
    """Run a server in its own session while the block runs. Yields its pid when `ready()` returns true.

    Args:
        command: The program and its arguments.
        log: The file for its output.
        environment: Its environment.
        ready: Whether the server is ready.
        kill: Whether to end it by SIGKILL at once.

    Raises:
        RuntimeError: If the server ended, or was not ready in time. The message has the end of its log.
    """
    parent = os.getpid()
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: _die_with(parent),  # noqa: PLW1509 - it makes only two system calls
        )
    try:
        _await(child, ready, log)
        yield child.pid
    finally:
        _stop(child, kill)


def _await(child: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        if child.poll() is not None:
            raise RuntimeError(f"`{child.args!r}` ended with {child.returncode}:\n{_tail(log)}")
        if ready():
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"`{child.args!r}` was not ready after {START_SECONDS} s:\n{_tail(log)}")
        time.sleep(POLL_SECONDS)


def _stop(child: subprocess.Popen[bytes], kill: bool) -> None:
    if kill:
        child.kill()
    child.terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # remaining processes of its session


def listens(port: int) -> bool:
    """Whether the server listens on its port."""
    try:
        socket.create_connection((LOOPBACK, port), STOP_SECONDS).close()
    except OSError:
        return False
    return True


# --- HTTP -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificate:
    """Files, in PEM, of a certificate for 127.0.0.1 and localhost.

    Attributes:
        chain: The certificate that the server sends.
        key: Its private key.
        both: Key and chain in one file.
        authority: The CA certificate, which the client must trust.
    """

    chain: str
    key: str
    both: str
    authority: str


def make_certificate(directory: Path) -> Certificate:
    """Make a certificate authority, and a certificate that it signed."""
    authority = trustme.CA()
    issued = authority.issue_cert(LOOPBACK, "localhost")
    certificate = Certificate(*(str(directory / f"{name}.pem") for name in ("chain", "key", "both", "authority")))
    issued.cert_chain_pems[0].write_to_path(certificate.chain)
    issued.private_key_pem.write_to_path(certificate.key)
    issued.private_key_and_cert_chain_pem.write_to_path(certificate.both)
    authority.cert_pem.write_to_path(certificate.authority)
    return certificate


def endpoint(port: int, certificate: Certificate | None = None) -> str:
    """The URL of a server's endpoint."""
    return f"{'https' if certificate else 'http'}://{LOOPBACK}:{port}"


def answers(port: int, certificate: Certificate | None = None) -> bool:
    """Whether the server answers an HTTP request with any status."""
    if certificate:
        context = ssl.create_default_context(cafile=certificate.authority)
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            LOOPBACK, port, timeout=STOP_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=STOP_SECONDS)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
