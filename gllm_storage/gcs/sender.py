"""`Sender`: sends a request to Google's API once, with the credentials.

It uses direct connections (`gllm_storage.http.sender`), and requests where these cannot serve.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import requests
import requests.utils
from google.auth.transport import mtls
from requests.adapters import HTTPAdapter

from gllm_storage.http.adapter import TLS, Pools, keep_headers
from gllm_storage.http.sender import DirectSender, send_by_requests, send_directly
from gllm_storage.store.http import StoppingAdapter

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from google.auth.credentials import Credentials

    from gllm_storage.gcs.connection import GCSConnection
    from gllm_storage.http.sender import Reply
    from gllm_storage.store.http import SourceBody

_UNAUTHORIZED = 401
_REFRESHES = 2
"""How often a refused access token is replaced by a new one, as by google-auth's session."""
_URL = re.compile(r"[!$-~]+")
"""URLs that are sent as they are: printable ASCII without spaces, quotation marks and fragments."""
_TOKEN_RETRIES = 3


class Sender(DirectSender):
    """The connections of one process, which its threads share.

    Args:
        connection: The server and the options.

    Raises:
        CredentialsError: If there are no credentials where the options request some.
    """

    def __init__(self, connection: GCSConnection) -> None:
        self._connection = connection
        self._credentials: Credentials | None = connection.account.credentials
        options = connection.options
        pools = Pools(options.connect_timeout, options.read_timeout, options.transfer.min_throughput, _pool_size(connection))
        super().__init__(pools, TLS(connection.verify, _certificate(connection)))
        self._session: requests.Session | None = None
        self._tokens: Any = None

    def close(self) -> None:
        """Close the idle connections."""
        super().close()
        if self._session is not None:
            self._session.close()

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | SourceBody, *, stream: bool) -> Reply:
        """Send a request; again with a new access token if the store refuses the token.

        Args:
            method: HTTP method.
            url: The complete URL.
            headers: Headers, with names in lower case.
            body: The content of the request.
            stream: Whether the content of a successful answer is read by the caller.

        Raises:
            requests.RequestException: If no answer arrives.
            MalformedHTTPError: If the answer is not HTTP.
            google.auth.exceptions.GoogleAuthError: If there is no access token.
            TransferStopped: If this thread's transfer was cancelled.
        """
        if not _URL.fullmatch(url):
            url = requests.utils.requote_uri(url.partition("#")[0])
        scheme, _, rest = url.partition("://")
        server, slash, target = rest.partition("/")
        found = self.pool(f"{scheme}://{server}")
        if found is None:
            return self._send_by_requests(method, url, headers, body, stream=stream)
        host, pool = found
        sent = {"host": host, "accept-encoding": "identity", **headers}
        for refreshes in range(_REFRESHES + 1):
            typed: Any = self._credentials
            if typed is not None:
                typed.before_request(self._token_request(), method, url, sent)
            reply = send_directly(pool, method, slash + target or "/", sent, body, stream=stream)
            if typed is None or reply.status_code != _UNAUTHORIZED or refreshes == _REFRESHES:
                break
            typed.refresh(self._token_request())
        return reply

    def _token_request(self) -> Any:
        """google-auth's way to send a request for a token."""
        if self._tokens is None:
            from google.auth.transport.requests import Request  # imports `cryptography`, which takes 0.1 s

            session = requests.Session()
            session.auth = keep_headers
            session.mount("https://", HTTPAdapter(max_retries=_TOKEN_RETRIES))
            make: Any = Request
            self._tokens = make(session)
        return self._tokens

    def _send_by_requests(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | SourceBody, *, stream: bool
    ) -> Reply:
        connection = self._connection
        if self._session is None:
            self._session = self._new_session()
        return send_by_requests(
            self._session,
            method,
            url,
            headers,
            body,
            stream=stream,
            timeout=(connection.options.connect_timeout, connection.options.read_timeout),
            verify=connection.verify,  # here and not on the session, where REQUESTS_CA_BUNDLE would replace it
        )

    def _new_session(self) -> requests.Session:
        connection = self._connection
        context = _certificate(connection)
        options, pool_size = connection.options, _pool_size(connection)
        limits: dict[str, Any] = {"min_throughput": options.transfer.min_throughput, "read_timeout": options.read_timeout}
        # urllib3 closes connections above the size of the pool after use, with a warning in its log.
        adapter = _Adapter(context, pool_connections=2, pool_maxsize=pool_size, **limits)
        session = requests.Session() if self._credentials is None else self._authorized_session()
        session.auth = keep_headers
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    def _authorized_session(self) -> requests.Session:
        from google.auth.transport.requests import AuthorizedSession  # imports `cryptography`

        make: Any = AuthorizedSession  # google-auth publishes no types for it
        session: requests.Session = make(self._credentials, auth_request=self._token_request())
        return session


def _pool_size(connection: GCSConnection) -> int:
    return max(100, 2 * connection.options.transfer.max_concurrency)


def _certificate(connection: GCSConnection) -> ssl.SSLContext | None:
    """A context with google-auth's client certificate, if there is one."""
    typed: Any = mtls
    return typed.get_default_ssl_context() if connection.has_certificate else None


class _Adapter(StoppingAdapter):
    """An adapter that presents a client certificate, if there is one."""

    def __init__(self, context: ssl.SSLContext | None, **options: Any) -> None:
        self._context = context
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """As the base class, with the certificate."""
        if self._context is not None:
            options["ssl_context"] = self._context
        super().init_poolmanager(*args, **options)
