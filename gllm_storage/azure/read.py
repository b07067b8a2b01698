"""`AzureReader`: reads one blob, pinned to its ETag; and `BodyAdapter`, which makes its downloads end at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError, ServiceResponseError
from urllib3.exceptions import HTTPError

from gllm_storage.azure.errors import status_of, translated
from gllm_storage.azure.requests import info_of
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.store.diagnosis import of_connection
from gllm_storage.store.http import StoppingAdapter
from gllm_storage.store.reader import ObjectChangedError, ObjectReader, ReadInterruptedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from requests import PreparedRequest, Response

    from gllm_storage.azure.requests import AzureRequests
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.info import ObjectInfo

_CONTENT = frozenset({200, 206})
_CHANGED = frozenset({412, 416})
"""HTTP statuses of a range of another version: the precondition failed, or the range begins behind the end."""


class BrokenBodyError(Exception):
    """The body of a download broke.

    Args:
        message: The failure of the connection.
        received: The chunks that arrived before.
        etag: The answer's ETag.
    """

    def __init__(self, message: str, received: list[bytes], etag: str) -> None:
        super().__init__(message)
        self.received = received
        self.etag = etag


class AzureReader(ObjectReader):
    """Reads one blob.

    Args:
        requests: Requests to the container.
        key: The blob's name.
        details: The operation, for errors.
    """

    def __init__(self, requests: AzureRequests, key: str, details: ErrorDetails) -> None:
        self._requests = requests
        self._key = key
        self._details = details

    def head(self) -> ObjectInfo:
        """Get Blob Properties."""
        return info_of(self._requests.properties(self._key, self._details))

    def read(
        self,
        version: ObjectInfo,
        start: int,
        length: int,
        buffer: memoryview | None = None,  # noqa: ARG002 - the SDK has its own
    ) -> Generator[bytes, None, None]:
        """Get Blob of a range, with ``If-Match``.

        Raises:
            ObjectChangedError: If the object, or the answer, is of another version.
            ReadInterruptedError: If the body broke; the bytes that arrived were yielded.
            azure.core.exceptions.AzureError: If the store refuses, or does not answer.
        """
        client = self._requests.blob(self._key)

        def download() -> tuple[Any, str]:
            stream = client.download_blob(
                start,
                length,
                etag=f'"{version.etag}"',
                match_condition=MatchConditions.IfNotModified,
                max_concurrency=1,
                decompress=False,  # the stored bytes: size, ranges and checksum are of these
                **self._requests.connection.key_options,
            )
            return stream.readall(), str(stream.properties.etag)

        try:
            data, etag = self._requests.send(download, self._details)
        except HttpResponseError as error:
            if status_of(error) in _CHANGED:
                raise ObjectChangedError from error
            raise
        except BrokenBodyError as error:
            _require_version(error.etag, version)
            yield from error.received
            raise ReadInterruptedError from ServiceResponseError(str(error) or "the body of the answer broke")
        _require_version(etag, version)
        yield data

    def translated(self) -> AbstractContextManager[None]:
        """Raise errors of this library in place of the SDK's."""
        return translated(self._details)


def _require_version(etag: str, version: ObjectInfo) -> None:
    if etag.strip('"') != version.etag:
        raise ObjectChangedError


class BodyAdapter(StoppingAdapter):
    """An adapter whose downloads end at once when they are cancelled, and report the received bytes when they break."""

    def send(self, request: PreparedRequest, *args: Any, stream: bool = False, **kwargs: Any) -> Response:
        """Send a request."""
        response = super().send(request, *args, stream=stream, **kwargs)
        if stream and response.status_code in _CONTENT:
            response.raw.stream = partial(_body, response, response.raw.stream)  # type: ignore[method-assign]
        return response


def _body(response: Response, stream: Callable[..., Iterator[bytes]], *args: Any, **kwargs: Any) -> Iterator[bytes]:
    """The body of a download.

    The SDK repeats a download whose body broke by itself, after an uncancellable `time.sleep`, from the start. It does so
    after the exceptions of requests and azure-core; `BrokenBodyError` passes through it.
    """
    received: list[bytes] = []
    try:
        for chunk in stream(*args, **kwargs):
            check_stop()
            received.append(chunk)
            yield chunk
    except (HTTPError, OSError) as error:
        response.close()
        diagnosis = of_connection(error)
        message = (
            diagnosis.cause if diagnosis else str(error.args[0] if isinstance(error, HTTPError) and error.args else error)
        )
        raise BrokenBodyError(message, received, response.headers.get("ETag", "")) from error
    except BaseException:
        response.close()
        raise
