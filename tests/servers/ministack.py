"""MiniStack: AWS's conditional writes, on PutObject and on CompleteMultipartUpload, and its checksums.

Of the servers one can install, the only one with both and with checksums that are really compared (a wrong one gets
400 BadDigest). It accepts every key and secret. Unlike AWS it knows no FULL_OBJECT checksum of a multipart upload: it
takes every one for COMPOSITE, and so refuses with BadDigest a completion that carries the right full-object CRC.
"""

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
    find_python,
    make_certificate,
    reserved_ports,
    running,
)

INSTALL = "tests/install-servers"
ACCESS_KEY = "test"
SECRET_KEY = "test"


@contextmanager
def ministack(directory: Path) -> Iterator[S3Server]:
    """Run MiniStack over http."""
    with _serve(directory, None) as server:
        yield server


@contextmanager
def ministack_tls(directory: Path) -> Iterator[S3Server]:
    """Run MiniStack over https."""
    with _serve(directory, make_certificate(directory)) as server:
        yield server


@contextmanager
def _serve(directory: Path, certificate: Certificate | None) -> Iterator[S3Server]:
    python = find_python("ministack", INSTALL)
    with reserved_ports() as (port,):
        # The `ministack` program would do, but with TLS it also takes port 443 when it may. Zero workers: serve in
        # this very process, so that there is no grandchild to lose. -P: nothing is imported from the directory.
        command = [python, "-P", "-m", "hypercorn", "ministack.app:app"]
        command += ["--bind", f"{LOOPBACK}:{port}", "--workers", "0", "--keep-alive", "75", "--log-level", "WARNING"]
        if certificate:
            command += ["--certfile", certificate.chain, "--keyfile", certificate.key]
        environment = clean_environment(directory) | {
            "BIND_HOST": LOOPBACK,
            "GATEWAY_PORT": str(port),
            "SERVICES": "s3,sts,iam",
            "LOG_LEVEL": "WARNING",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "S3_DATA_DIR": str(directory / "s3"),
            "STATE_DIR": str(directory / "state"),
            # Whatever BIND_HOST and SERVICES say, the first listens on 0.0.0.0:8883, and the second would on demand.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # It removes "its" containers at start and stop: keep it from a developer's Docker.
            "DOCKER_HOST": f"unix://{directory}/no-docker",
        }
        log = directory / "ministack.log"
        with running(command, log, environment, lambda: answers(port, certificate)) as pid:
            yield S3Server(
                "ministack",
                endpoint(port, certificate),
                ACCESS_KEY,
                SECRET_KEY,
                certificate.authority if certificate else None,
                (pid,),
            )
