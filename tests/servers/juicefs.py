"""The JuiceFS gateway: MinIO's S3 code over a file system. Its header ``Server`` says MinIO.

Unlike MinIO it answers 200 to a conditional write, and overwrites an existing object. It refuses DeleteObjects without
Content-MD5, and keeps keys as files and folders, which it lists as keys that end with ``/``.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .base import S3Server
from .process import LOOPBACK, answers, clean_environment, endpoint, find_program, reserved_ports, run, running

INSTALL = "tests/install-servers"


@contextmanager
def juicefs(directory: Path) -> Iterator[S3Server]:
    """Run the JuiceFS gateway over http, with SQLite for metadata and a folder for data."""
    program = find_program("juicefs", INSTALL)
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    environment = clean_environment(directory) | {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key}
    log = directory / "juicefs.log"
    metadata = f"sqlite3://{directory}/meta.db"
    # --no-agent: without it the program listens on port 6060 for a debugger.
    juicefs = [program, "--no-agent"]
    storage = ["--storage", "file", "--bucket", f"{directory}/data/", "--trash-days", "0"]
    run([*juicefs, "format", *storage, metadata, "jfs"], log, environment)
    with reserved_ports(2) as (port, metrics):
        command = [*juicefs, "gateway", "--multi-buckets", "--object-meta", "--keep-etag", "--no-usage-report"]
        command += ["--backup-meta", "0", "--cache-size", "0", "--cache-dir", str(directory / "cache")]
        command += ["--log", str(log), "--metrics", f"{LOOPBACK}:{metrics}", metadata, f"{LOOPBACK}:{port}"]
        with running(command, log, environment, lambda: answers(port)) as pid:
            yield S3Server("juicefs", endpoint(port), access_key, secret_key, pids=(pid,))
