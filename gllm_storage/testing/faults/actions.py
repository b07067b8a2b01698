"""Faults: which requests the proxy breaks, and how; and the log that it keeps of all requests."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class RequestLog:
    """One request as the client sent it, and its outcome.

    Attributes:
        method: HTTP method.
        path: Path, still percent-encoded.
        query: Query, still percent-encoded.
        headers: Headers; the names are in lower case.
        operation: Name of the operation, such as ``"PutObject"``; see `http1.operation_of`. ``"Other"`` if unknown.
        body_bytes: Bytes of the body that were read from the client.
        status: Status that the client received; None if it received no answer.
        response_bytes: Bytes of the answer's body that were sent to the client.
        upstream_status: Status of the server's answer; None if the request was not forwarded, or never answered.
        fault: Names of the actions that happened, joined by ``"+"``; None if the request passed unchanged.
        began: When the head of the request had arrived, by `time.monotonic`.
        ended: When the last bytes of the answer were sent, likewise; None before.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    operation: str
    body_bytes: int = 0
    status: int | None = None
    response_bytes: int = 0
    upstream_status: int | None = None
    fault: str | None = None
    began: float = field(default_factory=time.monotonic)
    ended: float | None = None


@dataclass(frozen=True)
class Match:
    """The requests that a fault is for. A field that is None matches every request.

    Attributes:
        method: HTTP method.
        path: A substring of the decoded path.
        key: The complete object key, decoded, in path-style addressing.
        query: A substring of the query as it was sent.
        operation: Name of the operation, as in `RequestLog`.
        header: Name of a header, and a substring of its value.
    """

    method: str | None = None
    path: str | None = None
    key: str | None = None
    query: str | None = None
    operation: str | None = None
    header: tuple[str, str] | None = None

    def __call__(self, request: RequestLog) -> bool:
        """Whether the fault is for this request."""
        path = unquote(request.path)
        name, part = self.header or ("", "")
        return (
            self.method in {None, request.method}
            and (self.path is None or self.path in path)
            and (self.key is None or path[1:].partition("/")[2] == self.key)
            and (self.query is None or self.query in request.query)
            and self.operation in {None, request.operation}
            and (self.header is None or (name.lower() in request.headers and part in request.headers[name.lower()]))
        )


@dataclass(frozen=True)
class DropResponse:
    """The server handles the request, and the client's connection closes without an answer: by FIN, or by RST."""

    reset: bool = False


@dataclass(frozen=True)
class ResetRequest:
    """RST after at least `after` bytes of the request's body were read; the server receives nothing of the request."""

    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """RST right after the request's head."""


@dataclass(frozen=True)
class Answer:
    """Answer in place of the server, after reading the request's body.

    Without a `body` the answer is an S3 error document with this code. `body=b"<Error>..."` with status 200 is the answer
    to a CompleteMultipartUpload that fails after its head was sent.
    """

    status: int
    code: str = "SlowDown"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AnswerAfter:
    """The server handles the request, and the client gets this answer instead of the server's."""

    status: int
    code: str = "InternalError"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class TruncateBody:
    """The real head, `after` bytes of body, then FIN (or RST)."""

    after: int
    reset: bool = False


@dataclass(frozen=True)
class StallBody:
    """The real head, `after` bytes of body, nothing for `seconds`, then FIN."""

    after: int
    seconds: float


@dataclass(frozen=True)
class FlipBit:
    """One bit of byte `at` of the answer's body is wrong. A body too short for that is an error in `FaultProxy.errors`."""

    at: int


@dataclass(frozen=True)
class FlipRequestBit:
    """One bit of byte `at` of the request's body is wrong (with aws-chunked the chunk heads count as body)."""

    at: int


@dataclass(frozen=True)
class Delay:
    """The answer comes this much later. The server gets the request at once."""

    seconds: float


@dataclass(frozen=True)
class Throttle:
    """Both bodies pass at this rate."""

    bytes_per_second: int


@dataclass(frozen=True)
class Call:
    """Call `function` in the proxy's thread before the request is forwarded."""

    function: Callable[[], object]


@dataclass(frozen=True)
class CallAfter:
    """Call `function` once the answer (its first MiB at least) was read and before the client gets any of it."""

    function: Callable[[], object]


Terminal = DropResponse | ResetRequest | Refuse | Answer | AnswerAfter | TruncateBody | StallBody | FlipBit | FlipRequestBit
Action = Terminal | Delay | Throttle | Call | CallAfter


@dataclass(frozen=True)
class Fault:
    """Do `action` to matching requests.

    Attributes:
        on: The requests.
        action: The fault.
        skip: Number of matching requests that pass unchanged first.
        times: Number of requests to break after these; None breaks all.
    """

    on: Match
    action: Action
    skip: int = 0
    times: int | None = 1


@dataclass
class Armed:
    """A fault in the proxy, with its counters."""

    fault: Fault
    seen: int = 0
    fired: int = 0

    def fires(self, request: RequestLog) -> bool:
        """Count this request and say whether it is one to break."""
        if self.fired == self.fault.times or not self.fault.on(request):
            return False
        self.seen += 1
        if self.seen <= self.fault.skip:
            return False
        self.fired += 1
        return True
