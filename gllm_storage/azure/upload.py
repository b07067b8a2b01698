"""Uploads and reads of one blob, with the promises."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
import secrets
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ResourceExistsError
from azure.storage.blob import BlobBlock, ContentSettings, StandardBlobTier

from gllm_storage.azure.errors import (
    SDK_ERRORS,
    UnreadableAnswerError,
    code_of,
    is_broken,
    is_transient,
    status_of,
    translated,
)
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.source import CHUNK
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM_UNDERSCORED, MD5_UNDERSCORED, WRITE_ID_UNDERSCORED
from gllm_storage.store.create import Answer, Sighting
from gllm_storage.store.reader import ObjectChangedError
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Generator, Mapping

    from azure.storage.blob import BlobClient

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.files.source import Source
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.transfer import Transfer

_logger = logging.getLogger(__name__)

MAX_BLOCKS = 50_000
"""https://learn.microsoft.com/rest/api/storageservices/put-block-list"""
_BLOCK_NAME = re.compile(rb"<Name>([^<]*)</Name>")
_ID_LENGTH = 32
_ID_DIGITS = 6
_EXISTS_CODES = frozenset({"BlobAlreadyExists", "UnauthorizedBlobOverwrite"})
"""The second is the answer to a SAS token that may create and not overwrite."""
_PRECONDITION_FAILED = 412
_RANGE_NOT_SATISFIABLE = 416
_SERVER_ERROR = 500


@dataclass(frozen=True)
class AzureReader:
    """One blob, as `gllm_storage.store.download` reads it.

    Attributes:
        requests: The control requests, and the SDK's clients.
        container: The container.
        blob: The blob's name.
        details: What it is about, for errors.
    """

    requests: AzureRequests
    container: str
    blob: str
    details: ErrorDetails

    def head(self) -> ObjectInfo:
        """Get Blob Properties."""
        return self.requests.info(self.container, self.blob, self.details)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - the SDK has its own
    ) -> Generator[bytes, None, None]:
        """Get Blob of a range, with ``If-Match``. The SDK asks again, up to three times, where the answer's body breaks.

        Raises:
            ObjectChangedError: If another version is there, or the answer is of another one.
            azure.core.exceptions.AzureError: If the store refuses, or there is no answer.
        """
        client = self.requests.connections.blob(self.container, self.blob)

        def download() -> tuple[bytes, str]:
            stream = client.download_blob(
                start,
                length,
                etag=f'"{version.etag}"',
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=1,
                decompress=False,  # what is stored, not what it unpacks to: size, ranges and checksum are of that
            )
            return stream.readall(), str(stream.properties.etag).strip('"')

        try:
            data, etag = self.requests.connections.call(download, self.details, again_if_broken=False)
        except HttpResponseError as error:
            if status_of(error) in {_PRECONDITION_FAILED, _RANGE_NOT_SATISFIABLE}:
                raise ObjectChangedError from error
            raise
        if etag != version.etag:
            raise ObjectChangedError
        yield data

    def translated(self) -> contextlib.AbstractContextManager[None]:
        """Raise our errors in place of the SDK's."""
        return translated(self.details)


@dataclass(frozen=True)
class AzureUpload:
    """One file to become one blob.

    Attributes:
        source: The file.
        client: The blob's client.
        requests: The control requests.
        container: The container.
        blob: The blob's name.
        transfer: What it is about, who watches, and what stops it.
        exclusive: Whether the write carries ``If-None-Match: *``.
        metadata: User metadata.
        content: Content type and the like.
        options: Further arguments of the SDK's uploads, such as ``standard_blob_tier``.
    """

    source: Source
    client: BlobClient
    requests: AzureRequests
    container: str
    blob: str
    transfer: Transfer
    exclusive: bool
    metadata: Mapping[str, str] = field(default_factory=dict)
    content: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def condition(self) -> dict[str, Any]:
        """The precondition, as the SDK takes it."""
        return {"match_condition": MatchConditions.IfMissing} if self.exclusive else {}

    def metadata_of(self, write_id: str, crc: int, md5: bytes) -> dict[str, str]:
        """All metadata of the blob."""
        ours = {
            WRITE_ID_UNDERSCORED: write_id,
            CHECKSUM_UNDERSCORED: f"{checksums.encode(crc)}-{self.source.size}",
            MD5_UNDERSCORED: base64.b64encode(md5).decode(),
        }
        return {**self.metadata, **ours}


class AzureWrite:
    """A write as `gllm_storage.store.create` takes it.

    Args:
        upload: What to write.
    """

    def __init__(self, upload: AzureUpload) -> None:
        self._upload = upload
        self._committing = False

    @property
    def details(self) -> ErrorDetails:
        """What the write is about."""
        return self._upload.transfer.details

    @property
    def conditional(self) -> bool:
        """Whether the request carries ``If-None-Match: *``, which Azure enforces on Put Blob and Put Block List."""
        return self._upload.exclusive

    def look(self) -> Sighting | None:
        """Get Blob Properties."""
        upload = self._upload
        found = upload.requests.metadata(upload.container, upload.blob, self.details)
        return None if found is None else Sighting(found.get(WRITE_ID_UNDERSCORED))

    def write(self, write_id: str) -> None:
        """Send the blob, with the write-id in its metadata.

        Raises:
            azure.core.exceptions.AzureError: If the store refuses, or there is no answer.
            StorageError: If the file changed.
        """
        self._committing = False
        if self._upload.source.size <= self._upload.transfer.settings.multipart_threshold:
            try:
                # In a thread: Ctrl-C, which comes to this one, must not leave the request on its way.
                run_all([partial(self._put, write_id)], 1, self._upload.transfer.attempt().stop)
            except ResourceExistsError:
                if not (self.conditional and self._sees_nothing()):
                    raise
                # Azurite refuses Put Blob where somebody else has sent blocks that were never committed, though nothing is
                # there; Put Block List it decides by what is there.
                _logger.info("%s: refused as existing, but nothing is there; trying by blocks", self.details.url)
                self._put_blocks(write_id)
        else:
            self._put_blocks(write_id)

    def discard(self) -> None:
        """Nothing to do: blocks that were not committed are not visible, cannot be deleted, and are gone after a week."""

    def judge(self, error: Exception) -> Answer:
        """What an answer of Azure, or none, says about the write."""
        if not isinstance(error, SDK_ERRORS):
            return Answer.FAILED
        status, code = status_of(error), code_of(error)
        if self.conditional and self._says_exists(status, code):
            return Answer.EXISTS
        if not self._committing:
            return Answer.FAILED
        if code == "InvalidBlockList":
            return Answer.CONCURRENT  # Another write to this name was committed, which throws away the blocks of all others.
        open_ended = isinstance(error, UnreadableAnswerError) or is_transient(error) or is_broken(error)
        return Answer.UNKNOWN if open_ended or status >= _SERVER_ERROR else Answer.FAILED

    def _says_exists(self, status: int, code: str) -> bool:
        if code == "InvalidBlobType":
            return True  # a page or append blob, which takes no blocks
        return self._committing and (code in _EXISTS_CODES or status == _PRECONDITION_FAILED)

    def _sees_nothing(self) -> bool:
        try:
            return self.look() is None
        except StorageError:
            return False

    def _put(self, write_id: str) -> None:
        """Put Blob. Azure checks the content's MD5, and keeps it."""
        upload, source = self._upload, self._upload.source
        data = source.read_at(0, source.size)
        source.require_unchanged()
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        self._committing = True
        put = partial(
            upload.client.upload_blob,
            data,
            length=len(data),
            overwrite=not upload.exclusive,
            metadata=upload.metadata_of(write_id, checksums.crc64nvme(data), md5),
            content_settings=ContentSettings(**upload.content, content_md5=bytearray(md5)),
            validate_content=True,
            max_concurrency=1,
            **upload.options,
        )
        _require_etag(upload.requests.connections.call(put, self.details))
        upload.transfer.progress(source.size)

    def _put_blocks(self, write_id: str) -> None:
        """Put Block for each part, side by side, and then Put Block List, which alone makes the blob visible."""
        try:
            self._put_blocks_with_ids(write_id, _ID_LENGTH)
        except HttpResponseError as error:
            # Others sent blocks for a blob of this name and did not commit them, perhaps a week ago, and Azure takes
            # ids of one length only: https://learn.microsoft.com/rest/api/storageservices/put-block#uri-parameters
            length = self._id_length_of_others() if code_of(error) == "InvalidBlobOrBlock" else _ID_LENGTH
            if length == _ID_LENGTH or length < _ID_DIGITS + 6:
                raise
            self._put_blocks_with_ids(write_id, length)

    def _id_length_of_others(self) -> int:
        names: list[bytes] = []

        def read_names(answer: Any) -> None:
            # From the XML: the SDK shows ids that are not UTF-8 in base64, and all others decoded.
            names.extend(_BLOCK_NAME.findall(answer.http_response.body()))

        ask = partial(self._upload.client.get_block_list, "uncommitted", raw_response_hook=read_names)
        self._upload.requests.connections.call(ask, self.details)
        return len(base64.b64decode(names[0])) if names else _ID_LENGTH

    def _put_blocks_with_ids(self, write_id: str, length: int) -> None:
        upload, source = self._upload, self._upload.source
        transfer = upload.transfer.attempt()
        step = part_size_for(source.size, transfer.settings.part_size, MAX_BLOCKS)
        ranges = part_ranges(source.size, step)
        # Ids of this write alone: two writers with the same ids would mix their blocks.
        token = secrets.token_urlsafe(length)[: length - _ID_DIGITS]
        ids = [f"{token}{number:0{_ID_DIGITS}d}" for number in range(len(ranges))]
        digest = hashlib.md5(usedforsecurity=False)
        tasks = [
            partial(self._digest, digest, transfer.stop),
            *(partial(self._put_block, *each) for each in zip(ids, ranges, strict=True)),
        ]
        crcs = run_all(tasks, transfer.settings.max_concurrency + 1, transfer.stop)[1:]
        source.require_unchanged()
        whole = checksums.fold_crc64nvme((crc, length) for crc, (_, length) in zip(crcs, ranges, strict=True))
        commit = partial(self._commit, write_id, ids, whole, digest.digest())
        # In a thread: Ctrl-C, which comes to this one, must not leave a completion on its way.
        run_all([commit], 1, transfer.stop)

    def _digest(self, digest: Any, stop: Stop) -> int:
        """MD5 of the whole file: Azure keeps it for other clients to check, and does not compute it of blocks."""
        source = self._upload.source
        for offset in range(0, source.size, CHUNK):
            stop.check()
            digest.update(source.read_at(offset, min(CHUNK, source.size - offset)))
        return 0

    def _put_block(self, block_id: str, part: tuple[int, int]) -> int:
        upload, (offset, length) = self._upload, part
        data = upload.source.read_at(offset, length)
        stage = partial(upload.client.stage_block, block_id, data, length=length, validate_content=True)
        upload.requests.connections.call(stage, self.details)
        upload.transfer.progress(length)
        return checksums.crc64nvme(data)

    def _commit(self, write_id: str, ids: list[str], crc: int, md5: bytes) -> None:
        upload = self._upload
        commit = partial(
            upload.client.commit_block_list,
            [BlobBlock(block_id=each) for each in ids],
            metadata=upload.metadata_of(write_id, crc, md5),
            content_settings=ContentSettings(**upload.content, content_md5=bytearray(md5)),
            validate_content=True,
            **upload.condition(),
            **upload.options,
        )
        self._committing = True
        _require_etag(upload.requests.connections.call(commit, self.details))


def _require_etag(answer: Mapping[str, Any]) -> None:
    if not answer.get("etag"):
        raise UnreadableAnswerError("its answer holds no ETag")


def tier_of(name: str | None) -> dict[str, Any]:
    """The access tier, as the SDK takes it."""
    return {"standard_blob_tier": StandardBlobTier(name.capitalize())} if name else {}
