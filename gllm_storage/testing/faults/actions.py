"""What a test says to the proxy (which requests to break, and how) and what the proxy says back (its log)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class RequestLog:
    """One request as the client sent it, and what became of it."""

    method: str
    path: str  # raw, still url-encoded
    query: str  # raw
    headers: dict[str, str]  # names in lower case
    operation: str
    body_bytes: int = 0  # read from the client
    status: int | None = None  # sent to the client; None: it saw no answer
    response_bytes: int = 0  # body bytes sent to the client
    upstream_status: int | None = None  # None: the server was not asked, or never answered
    fault: str | None = None  # names of the actions that fired, joined by "+"


@dataclass(frozen=True)
class Match:
    """Which requests a fault concerns; None means any."""

    method: str | None = None
    path: str | None = None  # a substring of the decoded path
    key: str | None = None  # the whole object key, decoded (path-style addressing)
    query: str | None = None  # a substring of the raw query
    operation: str | None = None  # see `http1.operation_of`
    header: tuple[str, str] | None = None  # name, substring of the value

    def __call__(self, request: RequestLog) -> bool:
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
    """The server does the work; the client's connection closes without a byte (FIN, or RST)."""

    reset: bool = False


@dataclass(frozen=True)
class ResetRequest:
    """RST once (at least) `after` bytes of the request's body were read; the server sees nothing of the request."""

    after: int = 0


@dataclass(frozen=True)
class Refuse:
    """RST right after the request's head."""


@dataclass(frozen=True)
class Answer:
    """Answer without asking the server, after reading the request's body.

    Without a `body` the answer is an S3 error document with this code. `body=b"<Error>..."` with status 200 plays the
    CompleteMultipartUpload that fails after its head was sent.
    """

    status: int
    code: str = "SlowDown"
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AnswerAfter:
    """The server does the work; the client gets this answer instead of the real one."""

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
    """One bit of byte `at` of the response's body is wrong. A body too short for that goes to `FaultProxy.errors`."""

    at: int


@dataclass(frozen=True)
class FlipRequestBit:
    """One bit of byte `at` of the request's body is wrong (with aws-chunked the chunk heads count as body)."""

    at: int


@dataclass(frozen=True)
class Delay:
    """Whatever the client is to see, it sees it this much later; the server is asked at once."""

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
    """Do `action` to matching requests: let the first `skip` pass, break the next `times` (None: all)."""

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
