"""Request bodies for `requests`, on GCS and Azure, that end in the middle when their transfer is cancelled.

`requests` sends a body of type `bytes` by one call, which nothing can interrupt. On a slow line it would still be sent long
after Ctrl-C, and the request would then take effect: an object would appear after the call had failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

from gllm_storage.concurrency.stop import check_stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

_PIECE = 2**18
"""Bytes that are sent between two checks."""


class StoppableBody:
    """A request body that is sent in pieces of 256 KiB. It can be sent again, from the start.

    Args:
        data: The content.

    Raises:
        TransferStopped: From the iterator, if the transfer of this thread was cancelled.
    """

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        for start in range(0, len(self._data), _PIECE):
            check_stop()
            yield self._data[start : start + _PIECE]


class StoppingAdapter(HTTPAdapter):
    """An adapter of `requests` that sends bodies of more than 256 KiB as `StoppableBody`."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request.

        Args:
            request: The request. Its ``Content-Length`` is set already, so the body is not sent in chunked encoding.
            *args: As in `HTTPAdapter.send`.
            **kwargs: As in `HTTPAdapter.send`.

        Raises:
            TransferStopped: If the transfer of this thread was cancelled while the body was sent.
        """
        body: Any = request.body
        if isinstance(body, bytes) and len(body) > _PIECE:
            body = request.body = StoppableBody(body)  # type: ignore[assignment]  # requests takes any iterable
        return super().send(request, *args, **kwargs)
