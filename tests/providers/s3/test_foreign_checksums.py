"""Objects that plain boto3 has uploaded, with each of its checksums, in one request and in parts, on every S3 server."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from gllm_storage import get_storage_client
from tests.rig import BUCKET, MIB, new_prefix, s3_config
from tests.servers import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Servers

ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"]
SERVERS = ["moto", "ministack", "ceph", "rclone"]
CONTENT = bytes(range(256)) * (6 * MIB // 256) + b"end"


@pytest.fixture(scope="module")
def moto() -> Iterator[dict[str, str]]:
    """Moto's server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "bucket_name": BUCKET,
        "endpoint_url": f"http://{host}:{port}",
        "region_name": "us-east-1",
        "aws_access_key_id": "k",
        "aws_secret_access_key": "s",
    }
    server.stop()


@pytest.fixture(params=SERVERS)
def config(request: pytest.FixtureRequest, servers: Servers, moto: dict[str, str]) -> dict[str, str]:
    """The configuration of a client for each server."""
    if request.param == "moto":
        return {**moto, "prefix": new_prefix()}
    server = servers.get(request.param)
    assert isinstance(server, S3Server)
    return {**s3_config(server), "prefix": new_prefix()}


def plain(config: dict[str, str]) -> Any:
    names = ("endpoint_url", "region_name", "aws_access_key_id", "aws_secret_access_key")
    return boto3.client("s3", **{name: config[name] for name in names}, config=Config(s3={"addressing_style": "path"}))  # type: ignore[call-overload]  # arguments as a dict


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_checksum_of_boto3(config: dict[str, str], tmp_path: Path, algorithm: str) -> None:
    """Sound objects are read, whichever checksum boto3 has sent with them, by both engines."""
    client = plain(config)
    with contextlib.suppress(ClientError):  # the bucket exists already
        client.create_bucket(Bucket=BUCKET)
    for name, threshold in {"small": 2**30, "parts": 5 * MIB}.items():
        client.upload_fileobj(
            io.BytesIO(CONTENT),
            BUCKET,
            f"{config['prefix']}/{name}",
            ExtraArgs={"ChecksumAlgorithm": algorithm},
            Config=TransferConfig(multipart_threshold=threshold, multipart_chunksize=5 * MIB),
        )
    for engine in ("auto", "boto3"):
        ours: Any = get_storage_client("s3", {**config, "engine": engine})
        for name in ("small", "parts"):
            path = f"{BUCKET}/{config['prefix']}/{name}"
            ours.download_file(name, tmp_path / "local")
            assert (tmp_path / "local").read_bytes() == CONTENT
            filesystem = ours.filesystem
            assert filesystem.cat([path, path])[path] == filesystem.cat_file(path) == CONTENT
            with filesystem.open(path) as file:
                assert file.read() == CONTENT
            filesystem.get([path], [str(tmp_path / "got")])
            assert (tmp_path / "got").read_bytes() == CONTENT
