"""`AzureWrite`: writes one blob, by Put Blob or by blocks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import secrets
import string
import threading
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, product
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.core.exceptions import HttpResponseError, ResourceExistsError

from gllm_storage.azure.errors import SDK_ERRORS, UnreadableAnswerError, code_of, is_flipped, is_refusal, status_of
from gllm_storage.azure.requests import lowered, url_of
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import StorageError
from gllm_storage.files.source import CHUNK
from gllm_storage.info import Stored, plain_etag
from gllm_storage.store import checksums
from gllm_storage.store.checksums import CHECKSUM_UNDERSCORED, MD5_UNDERSCORED, WRITE_ID_UNDERSCORED
from gllm_storage.store.create import Answer
from gllm_storage.store.http import SameContent, Unchanged, body_in_flight
from gllm_storage.store.retry import BLOCK_CONFLICT
from gllm_storage.store.transfer import part_ranges, part_size_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from azure.storage.blob import BlobProperties

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.concurrency.stop import Stop
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.files.source import Source
    from gllm_storage.http.sender import Reply
    from gllm_storage.info import ObjectInfo, ObjectProperties
    from gllm_storage.store.http import SourceBody
    from gllm_storage.store.port import UploadRequest

MAX_BLOCKS = 50_000
"""https://learn.microsoft.com/rest/api/storageservices/put-block-list"""
_CONTENT = ("content_type", "content_encoding", "content_disposition", "content_language", "cache_control")
_TIERS = ("hot", "cool", "cold", "archive")
_BLOCK_NAME = re.compile(rb"<Name>([^<]*)</Name>")
_BLOCK = re.compile(rb"<Name>([^<]*)</Name>\s*<Size>([0-9]+)</Size>")
_ID_LENGTH = 32
_CRC_DIGITS = 11
"""Characters of a CRC of 64 bits, each of which has 6."""
_ALPHABET = string.ascii_letters + string.digits + "-_"
_SHORTEST_TOKEN = 4
"""Random characters that distinguish the blocks of two writers: 16 million tokens."""
_OTHER_LENGTH = frozenset({"InvalidBlobOrBlock", "InvalidBlockId"})
_MAX_PUT = 5000 * 2**20
"""The largest Put Blob, in bytes: https://learn.microsoft.com/rest/api/storageservices/put-blob"""
_POLL_SECONDS = 0.05
_NO_CRC = frozenset({"FeatureNotSupported", "NotImplemented", "UnsupportedHeader"})
"""Refusals of a CRC-64 by an emulator. Azure's CRC-64 is CRC-64/NVME, with its bytes in the other order."""
EXISTS_CODES = frozenset({"BlobAlreadyExists", "UnauthorizedBlobOverwrite"})
"""The second is the answer to a SAS token that permits to create and not to overwrite."""
_PRECONDITION_FAILED = 412


def options_of(properties: ObjectProperties) -> dict[str, Any]:
    """Properties as options of an upload.

    Raises:
        ValueError: If Azure does not accept a value.
    """
    given = properties.given()
    settings = {name: given[name] for name in _CONTENT if name in given}
    options: dict[str, Any] = {"metadata": metadata_of(given.get("metadata", {})), "content": content_of(settings)}
    if properties.storage_class:
        options["tier"] = tier_of(properties.storage_class)
    if properties.tags:
        options["tags"] = properties.given()["tags"]
    if properties.kms_key:
        options["encryption_scope"] = properties.kms_key
    return options


def options_to_copy(source: BlobProperties, tags: Mapping[str, str]) -> dict[str, Any]:
    """The properties of a blob as options of an upload, for a copy through this machine.

    Args:
        source: The properties.
        tags: The tags.
    """
    fields = vars(source.content_settings)
    content = {name: fields[name] for name in _CONTENT if fields.get(name)}
    options: dict[str, Any] = {"metadata": lowered(source.metadata), "content": content}
    return {**options, **tier_to_copy(source), **({"tags": dict(tags)} if tags else {})}


def tier_to_copy(source: BlobProperties) -> dict[str, Any]:
    """The access tier of a blob as an option; nothing if it is the account's default."""
    tier = str(source.blob_tier or "").lower()
    return {} if source.blob_tier_inferred or tier not in _TIERS else {"tier": tier}


def tier_of(name: str) -> str:
    """Check the name of an access tier.

    Raises:
        ValueError: If it is unknown.
    """
    if name.lower() not in _TIERS:
        raise ValueError(f"storage_class={name!r}: Azure has the access tiers {', '.join(_TIERS)}")
    return name.lower()


def metadata_of(given: Any) -> dict[str, str]:
    """Check user metadata.

    Raises:
        ValueError: If Azure does not accept a name or a value.
    """
    for name, value in given.items():
        if not (isinstance(value, str) and value.isascii() and value.isprintable() and _is_identifier(name)):
            raise ValueError(
                f"metadata {name!r}={value!r}: Azure accepts identifiers as names, and printable ASCII as values"
            )
    return dict(given)


def _is_identifier(name: object) -> bool:
    return str(name).isascii() and str(name).isidentifier()


def content_of(given: Any) -> dict[str, str]:
    """The given fields of content settings, without the MD5, which is computed.

    Raises:
        TypeError: If a field is unknown.
        ValueError: If Azure does not accept a value.
    """
    fields: dict[str, Any] = given if isinstance(given, dict) else vars(given) if hasattr(given, "content_md5") else {}
    known = set(_CONTENT)
    unknown = fields.keys() - known - {"content_md5"}
    if unknown or not (fields or given == {}):
        raise TypeError(
            f"content_settings: unknown {', '.join(sorted(unknown)) or repr(given)}; known: {', '.join(sorted(known))}"
        )
    for name, value in fields.items():
        if name in known and value is not None and not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ValueError(f"content_settings {name}={value!r}: must be printable ASCII")
    return {name: value for name, value in fields.items() if name in known and value is not None}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _flipped(found: str) -> HttpResponseError:
    """The error for a block of which the store states another CRC-64."""
    error = HttpResponseError(f"the store received other bytes than were sent: it states the CRC-64 {found[:20]}")
    fields: Any = error  # the SDK sets this attribute, and does not declare it
    fields.error_code = "Crc64Mismatch"
    return error


def _digits_for(blocks: int) -> int:
    """Characters that number so many blocks."""
    return next(digits for digits in range(1, 8) if len(_ALPHABET) ** digits >= blocks)


class _Digest:
    """One pass over a source, block by block and in order: the MD5 of all, and a CRC-64/NVME of each block.

    Azure keeps the MD5 for other clients, and does not compute it of blocks. It takes 1.5 s for a GiB, so a worker sends its
    block while the next worker reads the next one.

    Args:
        source: The source.
        stop: Ends the pass.
    """

    def __init__(self, source: Source, stop: Stop) -> None:
        self._source = source
        self._stop = stop
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._end = 0
        self._turn = threading.Condition()

    def add(self, offset: int, length: int) -> int:
        """Read a block, after the blocks before it.

        Returns:
            Its CRC-64/NVME.

        Raises:
            StorageError: If the source cannot be read.
            TransferStopped: If the transfer was cancelled, or a block before this one could not be read.
        """
        with self._turn:
            while self._end != offset:
                self._stop.check()
                self._turn.wait(_POLL_SECONDS)
        crc = 0
        for start in range(offset, offset + length, CHUNK):
            self._stop.check()
            piece = self._source.read_at(start, min(CHUNK, offset + length - start))
            self._md5.update(piece)
            crc = checksums.update(piece, crc, "crc64nvme")
        with self._turn:
            self._end = offset + length
            self._turn.notify_all()
        return crc

    def md5(self) -> bytes:
        """The MD5 of the blocks so far."""
        return self._md5.digest()


@dataclass(frozen=True)
class _BlockIds:
    """The ids of the blocks of one upload.

    Attributes:
        token: Their beginning.
        has_crc: Whether an id names the CRC-64/NVME of the content of its block, which Azure has compared. Then equal
            contents have equal ids, and a block of an interrupted upload can be committed by the next one.
        left: The blocks that Azure has: ids and sizes in bytes.
    """

    token: str
    has_crc: bool = False
    left: Mapping[str, int] = field(default_factory=dict)

    def of(self, number: str, crc: int) -> str:
        """The id of a block."""
        if not self.has_crc:
            return f"{self.token}{number}"
        digits = (_ALPHABET[crc >> shift & 63] for shift in range(0, 6 * _CRC_DIGITS, 6))
        return f"{self.token}{number}{''.join(digits)}"


class AzureWrite:
    """A write of one blob, as `gllm_storage.store.create` requires it.

    Args:
        requests: Requests to the container.
        request: The upload.
    """

    def __init__(self, requests: AzureRequests, request: UploadRequest) -> None:
        self._requests = requests
        self._request = request
        self._committing = False

    @property
    def details(self) -> ErrorDetails:
        """The operation, for errors."""
        return self._request.details

    @property
    def conditional(self) -> bool:
        """Whether the request carries ``If-None-Match: *``, which Azure enforces on Put Blob and Put Block List."""
        return self._request.exclusive

    def head(self) -> ObjectInfo | None:
        """Get Blob Properties; a folder of a hierarchical namespace counts as an existing blob."""
        return self._requests.existing(self._request.key, self.details)

    def write(self, write_id: str) -> Stored:
        """Send the blob, with the write-id in its metadata.

        Raises:
            azure.core.exceptions.AzureError: If the store refuses, or does not answer.
            StorageError: If the source changed.
        """
        self._committing = False
        transfer = self._request.transfer
        if self._request.source.size > transfer.settings.multipart_threshold:
            return self._put_blocks(write_id)
        try:
            return self._in_thread(partial(self._put, write_id), transfer.attempt().stop)
        except ResourceExistsError as error:
            if not (self.conditional and self._finds_nothing()):
                raise
            # Azurite refuses Put Blob if another client sent blocks and never committed them, although no blob exists. It
            # decides Put Block List by the existing blobs.
            BLOCK_CONFLICT.again(self.details, 1, error, "conflict", transfer.stop)
            return self._put_blocks(write_id)

    def discard(self) -> None:
        """Nothing to do: uncommitted blocks are not visible, cannot be deleted, and expire after a week."""

    def judge(self, error: Exception) -> Answer:
        """The meaning of an error of `write`."""
        if not isinstance(error, SDK_ERRORS):
            return Answer.FAILED
        status, code = status_of(error), code_of(error)
        if self.conditional and self._says_exists(status, code):
            return Answer.EXISTS
        if not self._committing:
            return Answer.FAILED
        if code == "InvalidBlockList":
            return Answer.CONCURRENT  # another writer committed this blob, which discards the blocks of all others
        return Answer.FAILED if is_refusal(error) else Answer.UNKNOWN

    def _says_exists(self, status: int, code: str) -> bool:
        if code == "InvalidBlobType":
            return True  # a page blob or an append blob, to which no blocks can be sent
        return self._committing and (code in EXISTS_CODES or status == _PRECONDITION_FAILED)

    def _finds_nothing(self) -> bool:
        try:
            return self.head() is None
        except StorageError:
            return False

    def _in_thread(self, request: Callable[[], Stored], stop: Stop) -> Stored:
        """Send a request in a thread: Ctrl-C, which interrupts this thread, must not leave it in progress."""
        return run_all([request], 1, stop)[0]

    def _put(self, write_id: str) -> Stored:
        """Put Blob. Azure checks the content's MD5, and keeps it."""
        source = self._request.source
        md5, crc = self._digests(0, source.size)
        check = SameContent(source, (0, source.size), crc, "crc64nvme")
        with body_in_flight(source, (0, source.size), self._request.transfer, check) as body:
            headers = {
                "x-ms-blob-type": "BlockBlob",
                "content-type": "application/octet-stream",
                "content-md5": _base64(md5),
                **self._properties(write_id, crc, md5),
            }
            stored = self._commit(partial(self._put_request, headers, body if source.size else b""), crc)
        self._request.transfer.progress(source.size)
        return stored

    def _digests(self, offset: int, length: int) -> tuple[bytes, int]:
        """MD5 and CRC-64/NVME of a part of the source; Azure compares the MD5 with the bytes that arrive."""
        source, md5, crc = self._request.source, hashlib.md5(usedforsecurity=False), 0
        for start in range(offset, offset + length, CHUNK):
            check_stop()
            piece = source.read_at(start, min(CHUNK, offset + length - start))
            md5.update(piece)
            crc = checksums.update(piece, crc, "crc64nvme")
        return md5.digest(), crc

    def _put_blocks(self, write_id: str) -> Stored:
        """Put Block for each part, several at a time, and then Put Block List, which alone makes the blob visible."""
        try:
            return self._put_blocks_with_ids(write_id, _ID_LENGTH)
        except HttpResponseError as error:
            refused = error
            # Another client sent blocks for a blob of this name and did not commit them, perhaps a week ago, and Azure
            # accepts ids of one length only: https://learn.microsoft.com/rest/api/storageservices/put-block#uri-parameters
            length = self._id_length_of_others() if code_of(error) in _OTHER_LENGTH else _ID_LENGTH
            if length == _ID_LENGTH:
                raise
            BLOCK_CONFLICT.again(self.details, 1, error, "conflict", self._request.transfer.stop)
        source, settings = self._request.source, self._request.transfer.settings
        count = len(part_ranges(source.size, part_size_for(source.size, settings.part_size, MAX_BLOCKS)))
        if length - _digits_for(count) >= _SHORTEST_TOKEN:
            return self._put_blocks_with_ids(write_id, length)
        # Ids of this length would not distinguish the blocks of two writers. Put Blob needs no ids, and discards the blocks.
        if source.size > _MAX_PUT:
            raise refused
        return self._in_thread(partial(self._put, write_id), self._request.transfer.attempt().stop)

    def _id_length_of_others(self) -> int:
        names: list[bytes] = []

        def read_names(answer: Any) -> None:
            # From the XML: the SDK returns ids that are not UTF-8 in base64, and all others decoded.
            names.extend(_BLOCK_NAME.findall(answer.http_response.body()))

        client = self._requests.blob(self._request.key)
        ask = partial(client.get_block_list, "uncommitted", raw_response_hook=read_names)
        self._requests.send(ask, self.details)
        return len(base64.b64decode(names[0])) if names else _ID_LENGTH

    def _put_blocks_with_ids(self, write_id: str, length: int) -> Stored:
        source, transfer = self._request.source, self._request.transfer.attempt()
        step = part_size_for(source.size, transfer.settings.part_size, MAX_BLOCKS)
        ranges = part_ranges(source.size, step)
        digits = _digits_for(len(ranges))
        numbers = map("".join, islice(product(_ALPHABET, repeat=digits), len(ranges)))
        ids = self._block_ids(step, length, digits)
        digest = _Digest(source, transfer.stop)
        tasks = [partial(self._put_block, digest, ids, *each) for each in zip(numbers, ranges, strict=True)]
        sent = run_all(tasks, transfer.settings.max_concurrency, transfer.stop, paced=True)
        source.require_unchanged()
        crc = checksums.fold_crc64nvme((each, size) for (_, each), (_, size) in zip(sent, ranges, strict=True))
        names = "".join(f"<Latest>{_base64(each.encode())}</Latest>" for each, _ in sent)
        document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{names}</BlockList>'.encode()
        headers = {
            "content-type": "application/xml",
            "content-md5": _base64(hashlib.md5(document, usedforsecurity=False).digest()),
            **self._properties(write_id, crc, digest.md5()),
        }
        put_list = partial(self._put_request, headers, document, ("comp", "blocklist"))
        return self._in_thread(partial(self._commit, put_list, crc), transfer.stop)

    def _block_ids(self, step: int, length: int, digits: int) -> _BlockIds:
        """The ids of the blocks, and the blocks that an interrupted upload of this content has left."""
        content_id = self._request.content_id
        if not content_id or length != _ID_LENGTH:
            # Ids of this write alone: two writers with the same ids would mix their blocks.
            return _BlockIds("".join(secrets.choice(_ALPHABET) for _ in range(length - digits)))
        token = hashlib.sha256(f"{content_id} {step}".encode()).hexdigest()[: length - digits - _CRC_DIGITS]
        return _BlockIds(token, has_crc=True, left=self._blocks_left())

    def _blocks_left(self) -> dict[str, int]:
        """The ids and sizes of the uncommitted blocks. Only for speed: a failure of the request finds none."""
        found: dict[str, int] = {}

        def read(answer: Any) -> None:
            for name, size in _BLOCK.findall(answer.http_response.body()):
                found[base64.b64decode(name).decode(errors="replace")] = int(size)

        ask = partial(self._requests.blob(self._request.key).get_block_list, "uncommitted", raw_response_hook=read)
        with contextlib.suppress(StorageError, *SDK_ERRORS):
            self._requests.send(ask, self.details)
        return found

    def _put_block(self, digest: _Digest, ids: _BlockIds, number: str, part: tuple[int, int]) -> tuple[str, int]:
        """Put Block. Azure checks a CRC-64 of the content, and states it in its answer; an emulator checks an MD5 alone.

        Returns:
            The id and the CRC-64/NVME of the block.
        """
        source, crc = self._request.source, digest.add(*part)
        block_id = ids.of(number, crc)
        if ids.left.get(block_id) == part[1]:
            self._request.transfer.progress(part[1])
            return block_id, crc
        # Where the store compares the CRC-64, a pass less: 0.2 s for a GiB.
        is_checked = self._requests.connection.checks.crc64
        check = Unchanged(source, part) if is_checked else SameContent(source, part, crc, "crc64nvme")
        try:
            with body_in_flight(source, part, self._request.transfer, check) as body:
                if not self._put_with_crc(block_id, body, crc):
                    md5, found = self._digests(*part)
                    if found != crc:  # a write by mmap need not change the modification time
                        raise source.changed()
                    self._requests.send(partial(self._stage, block_id, body, {"content-md5": _base64(md5)}), self.details)
        except HttpResponseError as error:
            if is_flipped(error) and self._digests(*part)[1] != crc:
                raise source.changed() from error
            raise
        self._request.transfer.progress(part[1])
        return block_id, crc

    def _put_with_crc(self, block_id: str, body: SourceBody, crc: int) -> bool:
        """Send a block with its CRC-64.

        Returns:
            Whether the server has checked it: an emulator refuses or ignores it, and its answer does not state the CRC-64.
        """
        checks, expected = self._requests.connection.checks, _base64(crc.to_bytes(8, "little"))

        def stage() -> bool:
            try:
                answer = self._stage(block_id, body, {"x-ms-content-crc64": expected})
            except HttpResponseError as error:
                if code_of(error) not in _NO_CRC:
                    raise
                return False
            found = answer.headers.get("x-ms-content-crc64")
            if found and found != expected:
                raise _flipped(found)
            return found is not None

        if checks.crc64 is not False:
            checks.crc64 = self._requests.send(stage, self.details)
        return checks.crc64

    def _stage(self, block_id: str, body: SourceBody, checksum: Mapping[str, str]) -> Reply:
        """Put Block, once."""
        scope = self._request.options.get("encryption_scope")
        headers = {"content-type": "application/octet-stream", **checksum, **self._requests.connection.key_headers}
        headers |= {"x-ms-encryption-scope": scope} if scope else {}
        block = ("blockid", _base64(block_id.encode()))
        return self._send(headers, body, ("comp", "block"), block)

    def _send(self, headers: Mapping[str, str], body: bytes | SourceBody, *query: tuple[str, str]) -> Reply:
        sender = self._requests.connection.sender
        return sender.send("PUT", self._requests.name, self._request.key, headers, query=query, body=body)

    def _put_request(self, headers: Mapping[str, str], body: bytes | SourceBody, *query: tuple[str, str]) -> Reply:
        """Send the request that makes the blob visible, once."""
        condition = {"if-none-match": "*"} if self.conditional else {}
        return self._send({**headers, **condition}, body, *query)

    def _properties(self, write_id: str, crc: int, md5: bytes) -> dict[str, str]:
        """The blob's properties, as headers of both kinds of write."""
        options, connection = self._request.options, self._requests.connection
        tier, content = options.get("tier") or connection.access_tier, options.get("content", {})
        ours = {
            WRITE_ID_UNDERSCORED: write_id,
            CHECKSUM_UNDERSCORED: f"{checksums.encode(crc)}-{self._request.source.size}",
            MD5_UNDERSCORED: _base64(md5),
        }
        headers = {f"x-ms-blob-{name.replace('_', '-')}": content[name] for name in _CONTENT if content.get(name)}
        # Azure's names have no case, and it refuses two headers of the same name.
        metadata = {name.lower(): (name, value) for name, value in {**options.get("metadata", {}), **ours}.items()}
        headers |= {f"x-ms-meta-{name}": value for name, value in metadata.values()}
        headers["x-ms-blob-content-md5"] = _base64(md5)
        if options.get("tags"):
            tags = options["tags"].items()
            headers["x-ms-tags"] = "&".join(f"{quote(name, '.-')}={quote(value, '.-')}" for name, value in tags)
        if options.get("encryption_scope"):
            headers["x-ms-encryption-scope"] = options["encryption_scope"]
        if tier:
            headers["x-ms-access-tier"] = tier.capitalize()
        return headers | connection.key_headers

    def _commit(self, request: Callable[[], Reply], crc: int) -> Stored:
        """Send the request that makes the blob visible."""
        self._committing = True
        answer = self._requests.send(request, self.details).headers
        if not answer.get("etag"):
            raise UnreadableAnswerError("its answer has no ETag")
        return Stored(
            url=url_of(self._requests.name, self._request.key),
            size=self._request.source.size,
            etag=plain_etag(answer["etag"]),
            version=answer.get("x-ms-version-id"),
            checksum=f"crc64nvme:{checksums.encode(crc)}",
        )
