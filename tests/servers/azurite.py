"""Azurite: Microsoft's emulator of Azure Blob Storage. It enforces ``If-None-Match: *`` on both kinds of write."""

import base64
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import AzureServer, ServerUnavailableError
from .process import LOOPBACK, SERVERS_VENV, clean_environment, endpoint, listens, reserved_ports, running

INSTALL = "tests/install-servers"
_PROGRAM = SERVERS_VENV.parent / "node" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"


@contextmanager
def azurite(directory: Path, account: tuple[str, str] | None = None) -> Iterator[AzureServer]:
    """Run Azurite, in memory.

    Args:
        directory: Folder of the log.
        account: Name and key of the account; an account of its own if None.
    """
    node = shutil.which("node")
    if node is None or not _PROGRAM.is_file():
        raise ServerUnavailableError(f"Azurite, or node, is missing; install it with: {INSTALL}")
    name, key = account or (f"test{secrets.token_hex(4)}", base64.b64encode(secrets.token_bytes(64)).decode())
    environment = clean_environment(directory) | {"AZURITE_ACCOUNTS": f"{name}:{key}"}
    with reserved_ports() as (port,):
        command = [node, str(_PROGRAM), "--blobHost", LOOPBACK, "--blobPort", str(port), "--inMemoryPersistence"]
        # By default, Azurite refuses the API version of a newer SDK, and sends telemetry.
        command += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        with running(command, directory / "azurite.log", environment, lambda: listens(port)) as pid:
            yield AzureServer("azurite", f"{endpoint(port)}/{name}", name, key, (pid,))
