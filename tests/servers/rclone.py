"""`rclone serve s3`: a store that answers 200 to a conditional write, and overwrites an existing object."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import S3Server
from .process import (
    LOOPBACK,
    Certificate,
    answers,
    clean_environment,
    endpoint,
    find_program,
    make_certificate,
    reserved_ports,
    running,
)

INSTALL = "tests/install-servers"


@contextmanager
def rclone(directory: Path) -> Iterator[S3Server]:
    """Run rclone over http."""
    with _serve(directory, None) as server:
        yield server


@contextmanager
def rclone_tls(directory: Path) -> Iterator[S3Server]:
    """Run rclone over https."""
    with _serve(directory, make_certificate(directory)) as server:
        yield server


@contextmanager
def _serve(directory: Path, certificate: Certificate | None) -> Iterator[S3Server]:
    program = find_program("rclone", INSTALL)
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    buckets = directory / "buckets"
    buckets.mkdir()
    with reserved_ports() as (port,):
        command = [program, "serve", "s3", "--addr", f"{LOOPBACK}:{port}", "--vfs-cache-mode", "off"]
        command += ["--auth-key", f"{access_key},{secret_key}"]
        command += ["--config", str(directory / "rclone.conf"), "--cache-dir", str(directory / "cache")]
        if certificate:
            command += ["--cert", certificate.chain, "--key", certificate.key]
        log = directory / "rclone.log"
        with running([*command, str(buckets)], log, clean_environment(directory), lambda: answers(port, certificate)) as pid:
            yield S3Server(
                "rclone",
                endpoint(port, certificate),
                access_key,
                secret_key,
                certificate.authority if certificate else None,
                (pid,),
            )
