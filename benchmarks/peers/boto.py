"""boto3: its transfer manager for large objects, single requests for small ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import s3transfer.manager  # boto3 would import it during the first transfer
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from benchmarks.peers.base import Peer, read_file, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_THREADS = 16
_CLASSIC = TransferConfig(preferred_transfer_client="classic")  # the CRT client is measured as "awscrt"
_MISSING = 404


class Boto3(Peer):
    """The fastest calls of boto3 for each size."""

    how = {
        "upload": "`client.upload_file`",
        "download": "`client.download_file`",
        "upload_many": f"`client.put_object(Body=bytes)` in {_THREADS} threads",
        "download_many": f"`client.get_object` in {_THREADS} threads",
        "upload_small": "`client.put_object(Body=bytes)`",
        "exists": "`client.head_object`",
        "download_small": "`client.get_object`",
        "read": '`client.get_object()["Body"].read(step)`',
        "read_at": "`client.get_object(Range=…)`",
        "serial": "`client.put_object`, `head_object`, `get_object`",
        "first": "`client.head_object`",
        "first_chain": "`client.head_object`",
    }
    cannot = {"write": "no file to write to"}

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.client: Any = boto3.session.Session().client(
            "s3",
            endpoint_url=endpoint.url,
            region_name=endpoint.region,
            aws_access_key_id=endpoint.access_key,
            aws_secret_access_key=endpoint.secret_key,
            verify=endpoint.ca,
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=_THREADS,
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def upload(self, path: str, key: str) -> None:
        self.client.upload_file(path, self.endpoint.bucket, key, Config=_CLASSIC)

    def download(self, key: str, path: str) -> None:
        self.client.download_file(self.endpoint.bucket, key, path, Config=_CLASSIC)

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.upload_small(*each), transfers))

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(lambda each: self.download_small(each[1], each[0]), transfers))

    def upload_small(self, path: str, key: str) -> None:
        self.client.put_object(Bucket=self.endpoint.bucket, Key=key, Body=read_file(path))

    def exists(self, key: str) -> bool:
        try:
            self.client.head_object(Bucket=self.endpoint.bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == _MISSING:
                return False
            raise
        return True

    def download_small(self, key: str, path: str) -> None:
        write_file(path, self.client.get_object(Bucket=self.endpoint.bucket, Key=key)["Body"].read())

    def read(self, key: str, step: int) -> int:
        total = 0
        body = self.client.get_object(Bucket=self.endpoint.bucket, Key=key)["Body"]
        while block := body.read(step):
            total += len(block)
        return total

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        total = 0
        for offset in offsets:
            span = f"bytes={offset}-{offset + size - 1}"
            total += len(self.client.get_object(Bucket=self.endpoint.bucket, Key=key, Range=span)["Body"].read())
        return total


class Boto3Transfer(Boto3):
    """The transfer manager for all files, as in most code."""

    how = {
        "upload_small": "`client.upload_file`",
        "download_small": "`client.download_file`",
    }
    cannot = {}

    def upload_small(self, path: str, key: str) -> None:
        self.upload(path, key)

    def download_small(self, key: str, path: str) -> None:
        self.download(key, path)


__all__ = ["Boto3", "Boto3Transfer", "s3transfer"]
