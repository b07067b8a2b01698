"""LocalBucket: objects are files in folders, so that it takes more than would fit into memory.

It enforces both conditional writes, and checks neither credentials nor checksums, nor `If-Match`; it keeps no user
metadata, and stores what arrived of a request that broke off. So only large objects go there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import S3Server
from .process import LOOPBACK, answers, clean_environment, endpoint, find_program, reserved_ports, running

INSTALL = "tests/install-servers"


@contextmanager
def localbucket(directory: Path) -> Iterator[S3Server]:
    """Run LocalBucket over http."""
    program = find_program("localbucket", INSTALL)
    buckets = directory / "buckets"
    buckets.mkdir()
    with reserved_ports() as (port,):
        command = [program, "--host", LOOPBACK, "--port", str(port), str(buckets)]
        log = directory / "localbucket.log"
        with running(command, log, clean_environment(directory), lambda: answers(port)) as pid:
            yield S3Server("localbucket", endpoint(port), "test", "test", pids=(pid,))
