"""fast-s3: many small objects by aiohttp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fast_s3

from benchmarks.peers.base import Peer, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers.base import Transfer


class FastS3(Peer):
    """Its defaults: 256 requests at a time. It trusts the certificates of the system, which SSL_CERT_FILE replaces."""

    how = {
        "upload_many": "`Uploader.queue_upload`, `await_upload`",
        "download_many": "`Fetcher(keys)`, written by Python",
    }
    cannot = {
        "upload": "for small objects only",
        "download": "for small objects only",
    }

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        with fast_s3.Uploader(**self._options()) as uploader:
            uploader.queue_upload(source=[path for path, _ in transfers], destination=[key for _, key in transfers])
            failed = [each.exception for each in uploader.await_upload() if each.exception]
        if failed:
            raise failed[0]

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        paths = {key: path for path, key in transfers}
        for file in fast_s3.Fetcher(paths=list(paths), **self._options()):
            if file.status != fast_s3.Status.succeeded:
                raise file.exception or RuntimeError("fast-s3 failed without an exception")
            write_file(paths[str(file.path)], file.content)

    def _options(self) -> dict[str, Any]:
        return {
            "endpoint_url": self.endpoint.url,
            "aws_access_key_id": self.endpoint.access_key,
            "aws_secret_access_key": self.endpoint.secret_key,
            "region_name": self.endpoint.region,
            "bucket_name": self.endpoint.bucket,
        }
