"""Request bodies for `requests`, which GCS and Azure use: they end in the middle when the transfer is cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter

from gllm_storage.concurrency.stop import check_stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    import requests

_PIECE = 2**18


class StoppableBody:
    """Bytes that are sent piece by piece.

    In one piece they would all go out, on a slow line long after Ctrl-C, and the request would take effect then. It can be
    sent again, from the start.

    Args:
        data: The bytes.
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
    """An adapter of `requests` that sends large bodies so."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request, whose ``Content-Length`` is set already."""
        body: Any = request.body
        if isinstance(body, bytes) and len(body) > _PIECE:
            body = request.body = StoppableBody(body)  # type: ignore[assignment]  # requests takes any iterable
        return super().send(request, *args, **kwargs)
