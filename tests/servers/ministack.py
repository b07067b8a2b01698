"""MiniStack: AWS's conditional writes, on PutObject and on CompleteMultipartUpload, and its checksums.

It is the only available server that enforces both conditional writes and verifies checksums (400 BadDigest for a wrong
one). It accepts any credentials. Unlike AWS, it treats a FULL_OBJECT checksum of a multipart upload as COMPOSITE, and
answers BadDigest to a completion with the correct full-object CRC.
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
        # Not the `ministack` program: with TLS, it also listens on port 443 if it has the permission. "--workers 0"
        # serves in this process, without child processes. -P prevents imports from the current directory.
        command = [python, "-P", str(Path(__file__).with_name("ministack_child.py")), "ministack.app:app"]
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
            # For any BIND_HOST and SERVICES, the first service listens on 0.0.0.0:8883, and the second does on demand.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            # MiniStack removes containers at its start and end: keep it away from the Docker of a developer.
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
