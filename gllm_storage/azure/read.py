"""`AzureReader`: reads one blob, pinned to its ETag."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from azure.core.exceptions import HttpResponseError, ServiceResponseError
from urllib3.exceptions import HTTPError

from gllm_storage.azure.errors import UnreadableAnswerError, is_transient, status_of, translated
from gllm_storage.azure.requests import GARBLED, facts_in, info_of, is_folder
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.sender import BROKEN
from gllm_storage.info import plain_etag
from gllm_storage.store.checksums import MD5_UNDERSCORED
from gllm_storage.store.diagnosis import of_connection
from gllm_storage.store.reader import (
    ObjectChangedError,
    ObjectReader,
    ReadInterruptedError,
    lengths_differ,
    measured,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from contextlib import AbstractContextManager

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.http.sender import Reply
    from gllm_storage.info import ObjectInfo
    from gllm_storage.store.reader import Memory

_NOT_FOUND = 404
_NOT_SATISFIABLE = 416
_RANGE = re.compile(r"bytes ([0-9]+)-[0-9]+/([0-9]+)")
_CHANGED = frozenset({412, _NOT_SATISFIABLE})
"""HTTP statuses of a range of another version: the precondition failed, or the range begins behind the end."""


@dataclass(frozen=True)
class AzureAnswer:
    """An answer with a complete blob; or with its beginning, if the blob is larger than a part.

    Attributes:
        version: The facts about the blob, from the headers.
        reply: The answer.
    """

    version: ObjectInfo
    reply: Reply

    def chunks(self, buffer: Memory | None) -> Generator[bytes | memoryview, None, None]:
        """The content.

        Raises:
            ReadInterruptedError: If the body broke.
        """
        yield from _chunks(self.reply, buffer)

    def close(self) -> None:
        """Close the answer; its connection serves further requests if the body was read to its end."""
        self.reply.close()


class AzureReader(ObjectReader):
    """Reads one blob.

    Args:
        requests: Requests to the container.
        key: The blob's name.
        details: The operation, for errors.
    """

    asks_for_places: ClassVar[bool] = True

    def __init__(self, requests: AzureRequests, key: str, details: ErrorDetails) -> None:
        self._requests = requests
        self._key = key
        self._details = details

    def head(self) -> ObjectInfo:
        """Get Blob Properties; a size of 0 is confirmed by Get Blob."""
        return measured(lambda: self._requests.info(self._key, self._details), self, self._details)

    def begin(self) -> AzureAnswer | None:
        """Get Blob of the first part, without Get Blob Properties before: the headers hold the same facts.

        Returns:
            The answer; None if the caller has to send Get Blob Properties, because the request was refused, as that of an
            empty blob, or the headers do not say enough.

        Raises:
            azure.core.exceptions.AzureError: If the blob does not exist, or the store is busy, fails, or does not answer.
        """
        part_size = self._requests.connection.settings.part_size
        try:
            reply = self._requests.send(partial(self._get, 0, part_size), self._details)
        except (HttpResponseError, UnreadableAnswerError) as error:
            if is_transient(error) or status_of(error) == _NOT_FOUND:
                raise
            return None
        version = self._version_in(reply, part_size)
        if version is None:
            reply.close()
            return None
        return AzureAnswer(version, reply)

    def _version_in(self, reply: Reply, part_size: int) -> ObjectInfo | None:
        """The version in the headers of the first part of a blob; None if they do not tell, or if it is not an object."""
        headers = reply.headers
        found = _RANGE.fullmatch(headers.get("content-range", ""))
        if found is None or int(found[1]) or headers.get("content-length", "") != str(min(int(found[2]), part_size)):
            return None
        try:
            facts = facts_in(headers, self._requests.name, self._key, found[2])
        except (UnreadableAnswerError, *GARBLED):
            return None
        # A server that leaves the MD5 of the blob out of an answer with a range would hide that our checksum counts.
        if is_folder(facts.metadata) or (MD5_UNDERSCORED in facts.metadata and not facts.content_settings.content_md5):
            return None
        return info_of(facts)

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: Memory | None = None,
    ) -> Generator[bytes | memoryview, None, None]:
        """Get Blob of a range, with ``If-Match``.

        Raises:
            ObjectChangedError: If the object, or the answer, is of another version.
            ReadInterruptedError: If the body broke; the bytes that arrived were yielded.
            UnreadableAnswerError: If the answer has no body.
            azure.core.exceptions.AzureError: If the store refuses, or does not answer.
        """
        # Azure has no range without bytes, and refuses a range of an empty blob.
        get = partial(self._get, start, max(1, length), f'"{version.etag}"')
        try:
            reply = self._requests.send(get, self._details)
        except HttpResponseError as error:
            if status_of(error) == _NOT_SATISFIABLE and not length:
                return
            if status_of(error) in _CHANGED:
                raise ObjectChangedError from error
            raise
        with contextlib.closing(reply):
            self._check(reply.headers, version, start)
            yield from _chunks(reply, buffer)

    def _get(self, start: int, length: int, etag: str = "") -> Reply:
        """A range whose content has not been read. The stored bytes: size, ranges and checksum are of these."""
        connection = self._requests.connection
        headers = {"x-ms-range": f"bytes={start}-{start + length - 1}", **connection.key_headers}
        if etag:
            headers["if-match"] = etag
        return connection.sender.send("GET", self._requests.name, self._key, headers, stream=True)

    def _check(self, headers: Mapping[str, str], version: ObjectInfo, start: int) -> None:
        """Check that the answer is of the requested range and version.

        Args:
            headers: The headers of the answer.
            version: The version.
            start: Offset of the first byte.

        Raises:
            ObjectChangedError: If it is not.
            StorageError: If the object is longer or shorter than the version.
            UnreadableAnswerError: If the answer is not a range of Azure.
        """
        etag, found = headers.get("etag", ""), _RANGE.fullmatch(headers.get("content-range", ""))
        if plain_etag(etag) == version.etag and headers.get("content-length") == "0" == str(version.size):
            return  # Azurite's answer for an empty blob
        if not etag or found is None:
            raise UnreadableAnswerError(f"its answer has no {'Content-Range' if etag else 'ETag'}")
        if plain_etag(etag) != version.etag:
            raise ObjectChangedError
        if int(found[2]) != version.size:
            raise lengths_differ(self._details, version.size, int(found[2]))
        if int(found[1]) != start:
            raise ObjectChangedError

    def translated(self) -> AbstractContextManager[None]:
        """Raise errors of this library in place of the SDK's."""
        return translated(self._details)


def _chunks(reply: Reply, buffer: Memory | None) -> Iterator[bytes | memoryview]:
    try:
        for chunk in reply.chunks(buffer):
            check_stop()
            yield chunk
    except BROKEN as error:
        check_stop()
        diagnosis = of_connection(error)
        said = str(error.args[0] if isinstance(error, HTTPError) and error.args else error)
        message = diagnosis.cause if diagnosis else said
        raise ReadInterruptedError from ServiceResponseError(message or "the body of the answer broke")
