"""`wsgidav`: a WebDAV server on a folder."""

from __future__ import annotations

import json
import secrets
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .process import LOOPBACK, answers, clean_environment, find_program, reserved_ports, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class WebDAVServer:
    """A running WebDAV server.

    Attributes:
        address: ``"127.0.0.1:PORT"``.
        username: The only user.
        password: The user's password.
        folder: The files.
    """

    address: str
    username: str
    password: str
    folder: Path


@contextmanager
def wsgidav(directory: Path) -> Iterator[WebDAVServer]:
    """Run wsgidav on cheroot."""
    program = find_program("wsgidav", "pip install wsgidav cheroot")
    username, password = "writer", secrets.token_hex(10)
    folder = directory / "files"
    folder.mkdir()
    with reserved_ports() as (port,):
        config = directory / "wsgidav.json"
        config.write_text(
            json.dumps(
                {
                    "host": LOOPBACK,
                    "port": port,
                    "server": "cheroot",
                    "server_args": {"numthreads": 32, "request_queue_size": 128},
                    "provider_mapping": {"/": str(folder)},
                    "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
                    "simple_dc": {"user_mapping": {"*": {username: {"password": password}}}},
                    "verbose": 1,
                }
            )
        )
        command = [program, "--config", str(config)]
        with running(command, directory / "wsgidav.log", clean_environment(directory), lambda: answers(port, None)):
            yield WebDAVServer(f"{LOOPBACK}:{port}", username, password, folder)
