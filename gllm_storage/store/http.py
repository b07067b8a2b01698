"""Request bodies for `requests`, on GCS and Azure, that end in the middle when their transfer is cancelled.

`requests` sends a body of type `bytes` by one call, which nothing can interrupt. On a slow line it would still be sent long
after Ctrl-C, and the request would then take effect: an object would appear after the call had failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.store.answers import guarded_pools, require_known_coding

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
    """An adapter of `requests` that sends bodies of more than 256 KiB as `StoppableBody`, and limits answers.

    Args:
        min_throughput: The fewest bytes per second of an answer; 0 for no limit.
        read_timeout: The time over which they are counted, in seconds.
        **options: As for `HTTPAdapter`.
    """

    def __init__(self, *, min_throughput: int = 0, read_timeout: float | None = None, **options: Any) -> None:
        self._limits = (min_throughput, read_timeout)
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """As the base class, with connections that apply the limits."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = guarded_pools(*self._limits)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """As the base class, with connections that apply the limits."""
        manager: Any = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = self.poolmanager.pool_classes_by_scheme
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request.

        Args:
            request: The request. Its ``Content-Length`` is set already, so the body is not sent in chunked encoding.
            *args: As in `HTTPAdapter.send`.
            **kwargs: As in `HTTPAdapter.send`.

        Raises:
            TransferStopped: If the transfer of this thread was cancelled while the body was sent.
            MalformedHTTPError: If the transfer coding of the answer is unknown.
        """
        body: Any = request.body
        if isinstance(body, bytes) and len(body) > _PIECE:
            body = request.body = StoppableBody(body)  # type: ignore[assignment]  # requests takes any iterable
        answer = super().send(request, *args, **kwargs)
        require_known_coding(answer.headers)
        return answer
