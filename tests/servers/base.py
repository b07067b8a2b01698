"""What a test gets to know about a running server, and what happens when one cannot be run here."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class S3Server:
    """A running S3 server.

    Attributes:
        name: What runs there: "ministack", "ceph", "rclone", "reject" or "moto-server".
        endpoint_url: `http(s)://127.0.0.1:PORT`; use path-style addressing with it.
        access_key: The key it was started with.
        secret_key: The secret that belongs to the key.
        ca_bundle: The PEM file that vouches for an https endpoint.
        pids: The server's processes, for the tests that kill them.
    """

    name: str
    endpoint_url: str
    access_key: str
    secret_key: str
    ca_bundle: str | None = None
    pids: tuple[int, ...] = ()


ServerFactory = Callable[[Path], AbstractContextManager[S3Server]]


class ServerUnavailableError(RuntimeError):
    """A program is missing; the message names it and the command that installs it."""


@contextmanager
def require(factory: ServerFactory, directory: Path) -> Iterator[S3Server]:
    """Run a server for a fixture; where it cannot be had, skip, but fail under CI=true.

    A server that is installed and does not start is a failure everywhere.
    """
    with ExitStack() as stack:
        try:
            server = stack.enter_context(factory(directory))
        except ServerUnavailableError as why:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(why))
        yield server
