"""`WritingStore`: an `S3Store` in which each write may go its own way, and whoever wants to know hears what came of it."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from gllm_storage.s3.boto import BotoEngine
from gllm_storage.s3.options import settings_of_call
from gllm_storage.s3.store import S3Store

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from gllm_storage.bucket_store import Destination
    from gllm_storage.s3.boto import Receipt
    from gllm_storage.sources import Source
    from gllm_storage.transfer import Transfer
    from gllm_storage.writer import WritableFile


class WritingStore(S3Store):
    """An `S3Store` that takes ``chunksize`` and ``max_concurrency``, as s3fs's methods do, among the options of a write."""

    _receipt: Receipt | None = None

    def noting(self, receipt: Receipt) -> WritingStore:
        """The same store, which tells what became of an upload.

        Args:
            receipt: Told, each time.
        """
        store = copy.copy(self)
        store._receipt = receipt  # noqa: SLF001 - its own
        return store

    def upload(
        self, source: Source, bucket: str, key: str, transfer: Transfer, *, exclusive: bool, options: Mapping[str, Any]
    ) -> None:
        """As `S3Store.upload`.

        Raises:
            ValueError: If parts cannot be as `options` say.
            ObjectExistsError: If `exclusive`, and the object exists.
            StorageError: If the upload fails; nothing was changed then, and nothing is left behind.
        """
        store = self._of_call(options)
        of_call = dataclasses.replace(transfer, settings=store.settings)
        S3Store.upload(store, source, bucket, key, of_call, exclusive=exclusive, options=options)

    def open_stream(self, destination: Destination, part_size: int | None) -> AbstractContextManager[WritableFile]:
        """As `S3Store.open_stream`.

        Raises:
            ValueError: If parts cannot be as `part_size` and the destination's options say, or these differ.
            StorageError: If it cannot be told how the endpoint creates exclusively.
        """
        wanted = destination.options.get("chunksize")
        if wanted is not None and part_size is not None and wanted != part_size:
            raise ValueError(f"block_size={part_size!r} and chunksize={wanted!r} are two sizes of one part; leave one out")
        store = self._of_call(destination.options)
        transfer = dataclasses.replace(destination.transfer, settings=store.settings)
        of_call = dataclasses.replace(destination, transfer=transfer)
        return S3Store.open_stream(store, of_call, wanted if part_size is None else part_size)

    def _of_call(self, options: Mapping[str, Any]) -> WritingStore:
        store = copy.copy(self)  # what was learnt of the endpoint is shared
        store.settings = settings_of_call(self.settings, options)
        return store

    def _engine(self) -> BotoEngine:
        return BotoEngine(self.requests.client, self.requests.parameters, self._checksum_headers, self._receipt)
