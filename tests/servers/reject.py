"""Snailmail: a store that refuses every conditional write with 501 NotImplemented."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import S3Server
from .process import answers, clean_environment, endpoint, find_module, reserved_ports, running

INSTALL = "pip install 'snailmail[s3]'"


@contextmanager
def reject(directory: Path) -> Iterator[S3Server]:
    """Run snailmail's object store, in a process of its own: it is moto inside, and moto patches boto3."""
    find_module("snailmail", INSTALL)
    find_module("moto", INSTALL)
    with reserved_ports() as (port,):
        command = [sys.executable, "-P", str(Path(__file__).with_name("reject_child.py")), str(port)]
        log = directory / "reject.log"
        with running(command, log, clean_environment(directory), lambda: answers(port)) as pid:
            yield S3Server("reject", endpoint(port), "test", "test", pids=(pid,))
