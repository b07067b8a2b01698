"""Sending requests of Google's JSON API: a session for each filesystem and process, with sane waits and whole answers."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import requests
from google.auth.transport.requests import AuthorizedSession

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.gcs.errors import RefusedError, UnreadableAnswerError, is_transient
from gllm_storage.store.http import StoppingAdapter
from gllm_storage.store.retry import with_retries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gllm_storage.errors import ErrorDetails

T = TypeVar("T")

_SUCCESS = range(200, 300)


@dataclass(frozen=True)
class Connection:
    """How to reach the store.

    Attributes:
        endpoint_url: Gives its URL, without a path.
        credentials: Gives google-auth's credentials, or None for anonymous requests.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer to begin or go on.
        max_attempts: How often a request is sent in all.
        pool_size: How many connections are kept open; those above are closed after use, with a warning in urllib3's log.
        ca_bundle: Path of a file with the CA certificates to trust.
        parameters: Query parameters of every request, such as ``userProject``.
    """

    endpoint_url: Callable[[], str]
    credentials: Callable[[], Any] = field(repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    max_attempts: int = 5
    pool_size: int = 100
    ca_bundle: str | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)

    def make_session(self) -> requests.Session:
        """A new session, for use by threads."""
        credentials = self.credentials()
        session: Any = requests.Session() if credentials is None else _authorized(credentials)
        adapter = StoppingAdapter(pool_connections=2, pool_maxsize=self.pool_size)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if self.ca_bundle:
            session.verify = self.ca_bundle
        made: requests.Session = session
        return made


class GCSConnections:
    """The session of a filesystem, made once in each process on first use.

    Args:
        connection: How to reach the store.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._session: PerProcess[requests.Session] = PerProcess(connection.make_session)

    @property
    def endpoint_url(self) -> str:
        """The store's URL, without a path."""
        return self.connection.endpoint_url()

    def ask(
        self, method: str, path: str, details: ErrorDetails, *, most: int | None = None, **request: Any
    ) -> dict[str, Any]:
        """Send a request, again after an error that may pass, and read the JSON of its answer.

        Args:
            method: HTTP method.
            path: Path from the endpoint's root, or a whole URL.
            details: What it is about, for errors.
            most: How often it is sent in all; by default as often as the connection says.
            **request: As for `requests.Session.request`.

        Raises:
            RefusedError: If the answer is no success.
            UnreadableAnswerError: If it is no JSON object.
            requests.RequestException: If there is no answer.
            google.auth.exceptions.GoogleAuthError: If there are no credentials.
        """
        return self.retry(lambda: _json_of(self.send(method, path, **request)), details, most)

    def retry(self, call: Callable[[], T], details: ErrorDetails, most: int | None = None) -> T:
        """Call, and call again after an error that may pass.

        Raises:
            Exception: The last one of `call`.
        """
        return with_retries(call, is_transient, details, most or self.connection.max_attempts)

    def send(self, method: str, path: str, *, accepted: frozenset[int] = frozenset(), **request: Any) -> requests.Response:
        """Send a request once.

        Args:
            method: HTTP method.
            path: Path from the endpoint's root, or a whole URL.
            accepted: Statuses that are answers, beside success.
            **request: As for `requests.Session.request`.

        Raises:
            RefusedError: If the answer is no success.
            requests.RequestException: If there is no answer.
            google.auth.exceptions.GoogleAuthError: If there are no credentials.
        """
        given, connection = request.pop("params", {}), self.connection
        whole = path.startswith(("http://", "https://"))
        try:
            answer = self._session.get().request(
                method,
                path if whole else f"{self.endpoint_url}{path}",
                params={} if whole else {**connection.parameters, **given},
                timeout=(connection.connect_timeout, connection.read_timeout),
                allow_redirects=False,
                **request,
            )
        except requests.RequestException:
            raise
        except OSError as error:  # such as a ca_bundle that is not there any more
            raise requests.ConnectionError(str(error)) from error
        if answer.status_code in _SUCCESS or answer.status_code in accepted:
            return answer
        with contextlib.closing(answer):
            raise refused(answer)


def _authorized(credentials: Any) -> Any:
    make: Any = AuthorizedSession  # google-auth leaves it without types
    return make(credentials)


def refused(answer: requests.Response) -> RefusedError:
    """Read an answer that is no success."""
    request_id = answer.headers.get("X-GUploader-UploadID")
    said: Any = None
    with contextlib.suppress(ValueError, requests.RequestException):  # RequestException: the explanation itself broke
        said = answer.json()
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return RefusedError(answer.status_code, str(answer.status_code), answer.reason or "no explanation", request_id)
    first = (error.get("errors") or [{}])[0]
    reason = first.get("reason") if isinstance(first, dict) else None
    return RefusedError(
        answer.status_code, str(reason or answer.status_code), str(error.get("message") or "no explanation"), request_id
    )


def _json_of(answer: requests.Response) -> dict[str, Any]:
    if not answer.content:
        return {}
    try:
        found = answer.json()
    except ValueError as error:
        raise UnreadableAnswerError(f"its answer is no JSON: {answer.text[:80]!r}") from error
    if found is None:  # some emulators' answer to a delete
        return {}
    if not isinstance(found, dict):
        raise UnreadableAnswerError("its answer is no JSON object")
    return found
