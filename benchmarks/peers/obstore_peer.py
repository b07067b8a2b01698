"""obstore: Python bindings of Rust's object_store."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from benchmarks.layout import MIB
from benchmarks.peers.base import Peer, write_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_AT_ONCE = 64
_RANGE = 8 * MIB
_RANGES_AT_ONCE = 10


class Obstore(Peer):
    """Files are passed as `Path`, which obstore reads by itself; many files go by its async calls, 64 at a time."""

    how: ClassVar[Mapping[str, str]] = {
        "upload": "`obstore.put(store, key, Path)`",
        "download": "`obstore.get(store, key).stream()`, written by Python",
        "upload_many": f"`obstore.put_async(store, key, Path)`, {_AT_ONCE} at a time",
        "download_many": f"`obstore.get_async`, {_AT_ONCE} at a time",
        "upload_small": "`obstore.put(store, key, Path)`",
        "exists": "`obstore.head`",
        "download_small": "`obstore.get(store, key).bytes()`",
        "read": "`obstore.open_reader(store, key, buffer_size=8 MiB)`",
        "read_at": "`obstore.open_reader(store, key, buffer_size=step)`",
        "write": "`obstore.open_writer(store, key)`",
        "serial": "`obstore.put`, `obstore.head`, `obstore.get(…).bytes()`",
        "first": "`obstore.head`",
    }
    cannot: ClassVar[Mapping[str, str]] = {"first_chain": "reads no credentials file"}

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.client_options: Any = {"allow_http": True}
        if endpoint.ca:
            self.client_options["root_certificate"] = Path(endpoint.ca).read_text()
        self.store: Any = self.open_store()

    def open_store(self) -> Any:
        """The store of the endpoint."""
        endpoint = self.endpoint
        return S3Store(
            endpoint.bucket,
            endpoint=endpoint.url,
            region=endpoint.region,
            access_key_id=endpoint.access_key,
            secret_access_key=endpoint.secret_key,
            virtual_hosted_style_request=False,
            client_options=self.client_options,
        )

    def upload(self, path: str, key: str) -> None:
        obstore.put(self.store, key, Path(path))

    def download(self, key: str, path: str) -> None:
        with open(path, "wb") as file:
            file.writelines(obstore.get(self.store, key).stream())

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        async def upload(free: asyncio.Semaphore, path: str, key: str) -> None:
            async with free:
                await obstore.put_async(self.store, key, Path(path))

        async def upload_all() -> None:
            free = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(upload(free, path, key) for path, key in transfers))

        asyncio.run(upload_all())

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        async def download(free: asyncio.Semaphore, path: str, key: str) -> None:
            async with free:
                content = await (await obstore.get_async(self.store, key)).bytes_async()
                write_file(path, memoryview(content))

        async def download_all() -> None:
            free = asyncio.Semaphore(_AT_ONCE)
            await asyncio.gather(*(download(free, path, key) for path, key in transfers))

        asyncio.run(download_all())

    def upload_small(self, path: str, key: str) -> None:
        self.upload(path, key)

    def exists(self, key: str) -> bool:
        try:
            obstore.head(self.store, key)
        except FileNotFoundError:
            return False
        return True

    def download_small(self, key: str, path: str) -> None:
        write_file(path, memoryview(obstore.get(self.store, key).bytes()))

    def read(self, key: str, step: int) -> int:
        total = 0
        with closing(obstore.open_reader(self.store, key, buffer_size=_RANGE)) as file:
            while block := file.read(step):
                total += len(block)
        return total

    def read_at(self, key: str, offsets: Sequence[int], size: int) -> int:
        total = 0
        with closing(obstore.open_reader(self.store, key, buffer_size=size)) as file:
            for offset in offsets:
                file.seek(offset)
                total += len(file.read(size))
        return total

    def write(self, key: str, block: bytes, count: int) -> None:
        with obstore.open_writer(self.store, key) as file:
            for _ in range(count):
                file.write(block)


class ObstoreRanges(Obstore):
    """A download in parallel ranges, built from calls of obstore, which has no such call itself."""

    how = {
        "download": f"`obstore.get_range_async` of {_RANGE // MIB} MiB, {_RANGES_AT_ONCE} at a time, `os.pwrite`",
    }
    cannot = {}

    def download(self, key: str, path: str) -> None:
        size = obstore.head(self.store, key)["size"]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

        async def fetch(free: asyncio.Semaphore, start: int) -> None:
            async with free:
                content = await obstore.get_range_async(self.store, key, start=start, end=min(start + _RANGE, size))
                await asyncio.to_thread(os.pwrite, descriptor, memoryview(content), start)

        async def fetch_all() -> None:
            free = asyncio.Semaphore(_RANGES_AT_ONCE)
            await asyncio.gather(*(fetch(free, start) for start in range(0, size, _RANGE)))

        try:
            asyncio.run(fetch_all())
        finally:
            os.close(descriptor)


_ON_CLOUDS = {
    **{verb: Obstore.how[verb] for verb in ("upload", "upload_many", "download_many")},
    "download": ObstoreRanges.how["download"],
}


class ObstoreOnGCS(ObstoreRanges):
    """The store of GCS, with a token."""

    how = _ON_CLOUDS

    def open_store(self) -> Any:
        endpoint = self.endpoint
        token: Any = lambda: {"token": "x", "expires_at": None}  # noqa: E731 - otherwise uploads ask Google for one
        return GCSStore(
            endpoint.bucket,
            config={"base_url": endpoint.url},
            credential_provider=token,
            client_options=self.client_options,
        )


class ObstoreOnAzure(ObstoreRanges):
    """The store of Azure, with an account key."""

    how = _ON_CLOUDS

    def open_store(self) -> Any:
        endpoint = self.endpoint
        return AzureStore(
            endpoint.bucket,
            endpoint=endpoint.url,
            account_name=endpoint.access_key,
            account_key=endpoint.secret_key,
            client_options=self.client_options,
        )
