"""Causes of failures that all clouds share: a certificate, the clock, a redirect, a server that is too slow."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import AccessDeniedError, ErrorDetails, Remedy, StorageError, StorageUnavailableError
from gllm_storage.store.limits import SlowAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_OK = 200
_TOLERANCE = 15 * 60
"""Seconds by which a clock may be wrong: https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-auth-using-authorization-header.html.
Azure permits the same."""
_VERIFY = re.compile(r"certificate verify failed: (.*?)(?: \(_ssl|$)", re.DOTALL)
_PERHAPS_TLS = "perhaps this port speaks https, and the URL says http"
_OTHER_HOST = re.compile(r"hostname '[^']*' doesn't match .*")
_FAILED_HANDSHAKES = (
    (
        ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"),
        "the server does not speak TLS at this port",
        Remedy.CHECK_ENDPOINT,
    ),
    (
        ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION", "NO_PROTOCOLS_AVAILABLE"),
        "the server and this machine have no TLS version in common",
        Remedy.UPDATE_TLS,
    ),
    (
        ("ALERT_HANDSHAKE_FAILURE", "ALERT_INSUFFICIENT_SECURITY"),
        "the server refuses the TLS handshake: it accepts no cipher of this machine, or demands a client certificate",
        Remedy.UPDATE_TLS,
    ),
)
"""Reasons of OpenSSL, the cause that they mean, and the advice."""


@dataclass(frozen=True)
class Diagnosis:
    """A cause, and the remedy.

    Attributes:
        cause: The cause, as a part of a sentence.
        remedy: The advice.
        passes: Whether the same request may succeed later.
    """

    cause: str
    remedy: Remedy
    passes: bool = False

    def error(self, what: str, details: ErrorDetails, *, denied: bool = False) -> StorageError:
        """The error with this cause.

        Args:
            what: The beginning of the message.
            details: The operation.
            denied: Whether the store refused.
        """
        kind = AccessDeniedError if denied else StorageUnavailableError if self.passes else StorageError
        return kind(f"{what}{self.cause}", details, self.remedy)


def of_connection(error: BaseException) -> Diagnosis | None:
    """The diagnosis of a failed connection; None if the exception says enough.

    Args:
        error: The exception of an HTTP library, with its causes.
    """
    for each in causes_of(error):
        if isinstance(each, SlowAnswerError):
            return Diagnosis(str(each), Remedy.LOWER_THROUGHPUT, passes=True)
        if (isinstance(each, ssl.SSLError) or "SSL" in type(each).__name__) and (found := _of_tls(str(each))):
            return found
    return None


def _of_tls(text: str) -> Diagnosis | None:
    if "certificate verify failed" in text.lower():
        return _of_certificate(text)
    if other := _OTHER_HOST.search(text):  # urllib3's own comparison
        return Diagnosis(f"the certificate of the server is of another host: {other[0]}", Remedy.CHECK_ENDPOINT)
    for words, cause, remedy in _FAILED_HANDSHAKES:
        if any(word in text for word in words):
            return Diagnosis(cause, remedy)
    return None


def passes(error: BaseException) -> bool:
    """Whether a failed connection may succeed later; False for a certificate that is not trusted."""
    known = of_connection(error)
    return known is None or known.passes


def suspect_tls(error: BaseException) -> None:
    """Note on the failure of a connection without TLS that the server has never answered on one."""
    error.add_note(_PERHAPS_TLS)


def suspicion(error: BaseException) -> str:
    """The end of a message about a failed connection: that the port perhaps speaks TLS; empty without a reason for it.

    Args:
        error: The exception of an HTTP library, with its causes.
    """
    noted = any(_PERHAPS_TLS in getattr(each, "__notes__", ()) for each in causes_of(error))
    return f"; {_PERHAPS_TLS}" if noted else ""


def _of_certificate(text: str) -> Diagnosis:
    found = _VERIFY.search(text)
    why = found[1] if found else text
    if "mismatch" in why.lower():
        return Diagnosis(f"the certificate of the server is of another host: {why}", Remedy.CHECK_ENDPOINT)
    if "has expired" in why:
        return Diagnosis(f"the certificate of the server is not trusted: {why}", Remedy.RENEW_CERTIFICATE)
    if "not yet valid" in why:
        return Diagnosis(f"the certificate of the server is not trusted: {why}", Remedy.SET_CLOCK)
    return Diagnosis(f"the certificate of the server is not trusted: {why}", Remedy.TRUST_CERTIFICATE)


def causes_of(error: BaseException, *, contexts: bool = True) -> Iterator[BaseException]:
    """An exception and those behind it, those that an HTTP library keeps in attributes included.

    Args:
        error: The exception.
        contexts: Whether to follow also those during whose handling an exception was raised.
    """
    found: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        each = waiting.pop()
        if not isinstance(each, BaseException) or id(each) in found:
            continue
        found.add(id(each))
        yield each
        kwargs = vars(each).get("kwargs")
        in_kwargs = list(kwargs.values()) if isinstance(kwargs, dict) else []  # botocore's
        named = [vars(each).get(name) for name in ("reason", "inner_exception")]  # urllib3's, azure-core's
        context = each.__context__ if contexts and not each.__suppress_context__ else None
        waiting += [each.__cause__, context, *each.args, *in_kwargs, *named]


def of_clock(date: str | None, *, surely: bool = False) -> Diagnosis | None:
    """The diagnosis of a refused request, if the clock of this machine is wrong.

    Args:
        date: The ``Date`` header of the answer.
        surely: Whether the store says that it is the clock.
    """
    import email.utils  # it takes 5 ms to import, and only a refusal needs it

    try:
        theirs = email.utils.parsedate_to_datetime(date or "")
        ahead = (datetime.now(UTC) - (theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        ahead = 0.0
    if abs(ahead) <= _TOLERANCE:
        return Diagnosis("the clock of this machine and the store's differ", Remedy.SET_CLOCK) if surely else None
    side = "ahead of" if ahead > 0 else "behind"
    return Diagnosis(f"the clock of this machine is {_spoken(abs(ahead))} {side} the store's", Remedy.SET_CLOCK)


def _spoken(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def of_redirect(location: str | None) -> Diagnosis:
    """The diagnosis of a redirect: the requests are signed for this host, so they cannot be sent to another one.

    Args:
        location: The ``Location`` header of the answer.
    """
    where = f"to {location[:200]}" if location else "without saying where to"
    return Diagnosis(f"the server redirects {where}", Remedy.FOLLOW_REDIRECT)


def is_web_page(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the success of a deletion is that of a web server or a login page, which answers 200 to any request.

    Stores answer 204 to a deletion, or 200 without content.

    Args:
        status: The HTTP status.
        headers: The headers, by their names in lower case.
    """
    is_html = headers.get("content-type", "").lower().startswith("text/html")
    return status == _OK and is_html and headers.get("content-length") != "0"
