"""Limits on the answers of servers: on their speed, and on the parts that have no declared length.

A server, or a proxy before it, can keep a request busy for ever without breaking a timeout that begins anew with each byte:
with interim answers (1xx), trailers or an error document that do not end, or with one byte each half second.
`gllm_storage.http` applies `Throughput` and the limits below to direct connections, `store.answers` to those of urllib3.
"""

from __future__ import annotations

MAX_LINES = 2**18
"""The most bytes of lines without content between them: status lines, headers, sizes of chunks, trailers."""
MAX_INTERIM = 100
"""The most interim answers (1xx) before the final one."""
MAX_ERROR = 2**16
"""Bytes of an error document that are read. The errors of the stores have less than 2 KiB."""


COMPLETION_PATIENCE = 60
"""How many times longer the answer to a write may take: a store sends a space now and then while it completes an upload."""


class MalformedHTTPError(Exception):
    """An answer is not HTTP/1.1, or exceeds a limit of this module. The same request would get the same answer."""


class SlowAnswerError(TimeoutError):
    """The server sends fewer bytes than the settings demand."""


class Throughput:
    """Measures how fast an answer arrives. The time before its first byte does not count, nor that of the reader.

    Args:
        least: The fewest bytes per second; 0 for no limit.
        seconds: The time over which they are counted.
    """

    def __init__(self, least: float, seconds: float | None) -> None:
        self._least = least if seconds else 0.0
        self._usual = self._seconds = seconds or 0.0
        self._waited = 0.0
        self._received = 0

    def restart(self, patience: int = 1) -> None:
        """Begin to count anew, as for another answer.

        Args:
            patience: Over how many times as many seconds than usually the bytes are counted.
        """
        self._waited, self._received, self._seconds = 0.0, 0, self._usual * patience

    def add(self, seconds: float, received: int) -> None:
        """Count a wait and the bytes that ended it.

        Raises:
            SlowAnswerError: If fewer bytes than required arrived.
        """
        if not self._least:
            return
        self._waited += seconds
        self._received += received
        if self._waited >= self._seconds:
            if self._received < self._least * self._waited:
                raise SlowAnswerError(
                    f"only {self._received} bytes arrived in {self._waited:.0f} s of waiting, which is less than "
                    f"min_throughput ({self._least:.0f} bytes per second)"
                )
            self._waited, self._received = 0.0, 0
