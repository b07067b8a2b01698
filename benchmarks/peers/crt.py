"""The AWS CRT without a library around it: the upper limit for a library that is built on it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import awscrt.s3
from awscrt.auth import AwsCredentialsProvider
from awscrt.http import HttpHeaders, HttpRequest
from awscrt.io import ClientBootstrap, ClientTlsContext, DefaultHostResolver, EventLoopGroup, TlsContextOptions

from benchmarks.layout import MIB
from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_AT_ONCE = 256
_PART = 8 * MIB
_MISSING = 404


class BareCrt(Peer):
    """`awscrt.s3.S3Client`. It reads and writes the files by itself, without Python."""

    how = {
        "upload": "`make_request(PUT_OBJECT, send_filepath=…)`",
        "download": "`make_request(GET_OBJECT, recv_filepath=…)`",
        "upload_many": f"the same, {_AT_ONCE} at a time",
        "download_many": f"the same, {_AT_ONCE} at a time",
        "upload_small": "`make_request(PUT_OBJECT, send_filepath=…)`",
        "exists": '`make_request(DEFAULT, "HeadObject")`',
        "download_small": "`make_request(GET_OBJECT, recv_filepath=…)`",
        "serial": "`make_request` of PUT_OBJECT, HeadObject, GET_OBJECT",
    }
    cannot = {
        "read": "no file to read from",
        "read_at": "no file to read from",
        "write": "no file to write to",
    }

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        url = urlsplit(endpoint.url)
        self.host = url.netloc
        group = EventLoopGroup()
        tls, connections = awscrt.s3.S3RequestTlsMode.DISABLED, None
        if url.scheme == "https":
            tls, context = awscrt.s3.S3RequestTlsMode.ENABLED, TlsContextOptions()
            if endpoint.ca:
                context.override_default_trust_store_from_path(None, endpoint.ca)
            connections = ClientTlsContext(context).new_connection_options()
            connections.set_server_name(str(url.hostname))
        self.client: Any = awscrt.s3.S3Client(
            bootstrap=ClientBootstrap(group, DefaultHostResolver(group)),
            region=endpoint.region,
            tls_mode=tls,
            tls_connection_options=connections,
            credential_provider=AwsCredentialsProvider.new_static(endpoint.access_key, endpoint.secret_key),
            part_size=_PART,
            throughput_target_gbps=10.0,
        )

    def upload(self, path: str, key: str) -> None:
        self._send(path, key).finished_future.result()

    def download(self, key: str, path: str) -> None:
        self._fetch(key, path).finished_future.result()

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        self._all([lambda path=path, key=key: self._send(path, key) for path, key in transfers])

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        self._all([lambda path=path, key=key: self._fetch(key, path) for path, key in transfers])

    def upload_small(self, path: str, key: str) -> None:
        self.upload(path, key)

    def exists(self, key: str) -> bool:
        request = self._request("HEAD", key)
        kind = awscrt.s3.S3RequestType.DEFAULT
        try:
            self.client.make_request(type=kind, request=request, operation_name="HeadObject").finished_future.result()
        except awscrt.s3.S3ResponseError as error:
            if error.status_code == _MISSING:
                return False
            raise
        return True

    def download_small(self, key: str, path: str) -> None:
        self.download(key, path)

    def _request(self, method: str, key: str, length: int | None = None) -> Any:
        headers = HttpHeaders([("Host", self.host)])
        if length is not None:
            headers.add("Content-Length", str(length))
        return HttpRequest(method, f"/{self.endpoint.bucket}/{quote(key)}", headers)

    def _send(self, path: str, key: str) -> Any:
        request = self._request("PUT", key, os.path.getsize(path))
        return self.client.make_request(type=awscrt.s3.S3RequestType.PUT_OBJECT, request=request, send_filepath=path)

    def _fetch(self, key: str, path: str) -> Any:
        request = self._request("GET", key)
        return self.client.make_request(type=awscrt.s3.S3RequestType.GET_OBJECT, request=request, recv_filepath=path)

    def _all(self, starts: list[Any]) -> None:
        free = threading.Semaphore(_AT_ONCE)
        running = []
        for start in starts:
            free.acquire()
            request = start()
            request.finished_future.add_done_callback(lambda _: free.release())
            running.append(request)
        for request in running:
            request.finished_future.result()
