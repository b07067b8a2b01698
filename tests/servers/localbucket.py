"""LocalBucket: a server that stores objects as files, so that they can be larger than the memory.

It enforces both conditional writes. It does not check credentials, checksums or `If-Match`, does not keep user metadata,
and stores the received part of a truncated request. Only tests of large objects use it.
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
