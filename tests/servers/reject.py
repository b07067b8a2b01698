"""Snailmail: a store that refuses every conditional write with 501 NotImplemented."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import S3Server
from .process import answers, clean_environment, endpoint, find_python, reserved_ports, running

INSTALL = "tests/install-servers"


@contextmanager
def reject(directory: Path) -> Iterator[S3Server]:
    """Run Snailmail's object store in a process of its own, because it uses moto, and moto patches boto3."""
    python = find_python("snailmail", INSTALL)
    with reserved_ports() as (port,):
        command = [python, "-P", str(Path(__file__).with_name("reject_child.py")), str(port)]
        log = directory / "reject.log"
        with running(command, log, clean_environment(directory), lambda: answers(port)) as pid:
            yield S3Server("reject", endpoint(port), "test", "test", pids=(pid,))
