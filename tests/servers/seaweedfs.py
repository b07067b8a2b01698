"""SeaweedFS: a server that checks the precondition of CompleteMultipartUpload, but not atomically.

PutObject with ``If-None-Match: *`` is atomic. CompleteMultipartUpload answers 412 if the object exists, and lets two
concurrent writers of a new object win. The server keeps folders as objects of their own: a conditional PutObject to the name
of a folder is answered by 412 too.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from .base import S3Server
from .process import LOOPBACK, clean_environment, endpoint, find_program, reserved_ports, running

INSTALL = "tests/install-servers"
_WARM_UP = "warm-up"


@contextmanager
def seaweedfs(directory: Path) -> Iterator[S3Server]:
    """Run SeaweedFS over http: master, volume server, filer and S3 gateway, in one process."""
    program = find_program("weed", INSTALL)
    access_key, secret_key = secrets.token_hex(10), secrets.token_hex(20)
    identity = {
        "name": "test",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    # One volume for each bucket instead of seven. The server finds this file in its working directory, that of its log.
    (directory / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
    data = directory / "data"
    data.mkdir()
    with reserved_ports(8) as ports:
        s3, *others = ports
        # Without a port of its own, each part would listen on a fixed one, or on another part's port plus 10,000.
        names = ("s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
        flags = {name: str(port) for name, port in zip((*names, "filer.port.grpc"), others, strict=True)}
        flags |= {"s3.port": str(s3), "s3.port.iceberg": "0", "s3.port.lance": "0", "s3.config": str(config)}
        flags |= {"filer.localSocket": str(directory / "filer.sock"), "s3.localSocket": str(directory / "s3.sock")}
        flags |= {"ip": LOOPBACK, "ip.bind": LOOPBACK, "dir": str(data), "volume.max": "2000", "master.telemetry": "false"}
        command = [program, "-logtostderr=true", "server", "-filer", "-s3", *(f"-{name}={flags[name]}" for name in flags)]
        server = S3Server("seaweedfs", endpoint(s3), access_key, secret_key)
        log = directory / "seaweedfs.log"
        # SIGKILL: after SIGTERM the server waits for its clients for seconds.
        with running(command, log, clean_environment(directory), lambda: _stores(server), kill=True) as pid:
            yield S3Server("seaweedfs", endpoint(s3), access_key, secret_key, pids=(pid,))


def _stores(server: S3Server) -> bool:
    """Whether the server stores an object. It answers requests some seconds before it can."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )
    try:
        with suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            client.create_bucket(Bucket=_WARM_UP)
        client.put_object(Bucket=_WARM_UP, Key="object", Body=b"content")
        client.delete_object(Bucket=_WARM_UP, Key="object")
        client.delete_bucket(Bucket=_WARM_UP)
    except (ClientError, BotoCoreError):
        return False
    finally:
        client.close()
    return True
