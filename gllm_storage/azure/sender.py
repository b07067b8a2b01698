"""`Sender`: sends a request for a blob to Azure once, with the credentials.

Put Blob, Put Block, Put Block List, Get Blob, Get Blob Properties and Delete Blob go over direct connections
(`gllm_storage.http.sender`). On a small request, the Azure SDK spends 1.2 ms of CPU in its pipeline and in requests; this
module spends 0.2 ms. All other requests, and the tokens of Entra ID, are the SDK's.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import html
import re
from functools import partial
from http.client import responses
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import ProtocolError

from gllm_storage.azure.account import key_of
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.http.adapter import READS, SUCCESS, TLS, Pools
from gllm_storage.http.dates import date_now
from gllm_storage.http.sender import DirectSender, send_by_requests, send_directly

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gllm_storage.azure.connection import AzureConnection
    from gllm_storage.http.sender import Reply
    from gllm_storage.store.http import SourceBody

VERSION = "2023-11-03"
"""The version of Azure's API: https://learn.microsoft.com/rest/api/storageservices/versioning-for-the-azure-storage-services"""
_EXPECTED = {"GET": {200, 206}, "HEAD": {200}, "PUT": {201}, "DELETE": {202}}
"""The statuses of success. A web server or a login page may answer with others."""
_SIGNED = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
"""Headers that Shared Key signs by their values, in this order."""
_OF_URLS = "!$%&'()*+,/:;=?@[]~"
"""Characters of a SAS token that are sent as they are: it is encoded already."""
_SCOPE = "https://storage.azure.com/.default"
_UNAUTHORIZED = 401
_ERRORS: dict[int, type[HttpResponseError]] = {
    401: ClientAuthenticationError,
    404: ResourceNotFoundError,
    409: ResourceExistsError,
}
_CODE = re.compile(r'<Code>([^<]+)</Code>|"code"\s*:\s*"([^"]+)"')
_MESSAGE = re.compile(r'<Message>([^<]+)</Message>|"message"\s*:\s*"([^"]+)"')
_RESOURCE = re.compile(r"""resource_id\s*=\s*["']?([^"', ]+)""")
_TENANT = re.compile(r"""authorization_uri\s*=\s*["']?https?://[^/]+/([^/"', ]+)""")


class Sender(DirectSender):
    """The connections of one process to one account, which its threads share.

    Args:
        connection: The account and the options.

    Raises:
        StorageError: If the connection string or the credentials cannot be read.
    """

    def __init__(self, connection: AzureConnection) -> None:
        pools = Pools(
            connection.connect_timeout,
            connection.read_timeout,
            connection.settings.min_throughput,
            connection.pool_size,
        )
        super().__init__(pools, TLS(connection.verify))
        self._connection = connection
        self._token: _Token | None = None
        self._sas_credential: Any = None
        plain = connection.account.plain()
        if plain is not None:
            url, self._key, self._sas = plain
        else:
            service = connection.service
            url, _, self._sas = service.url.partition("?")
            self._key = None
            self._take(service.credential)
        scheme, _, rest = url.rstrip("/").partition("://")
        host, slash, path = rest.partition("/")
        self.url = url
        """The URL of the account."""
        self._server, self._path = f"{scheme}://{host}", slash + path

    def _take(self, credential: Any) -> None:
        """Take the credential of the SDK's client."""
        if hasattr(credential, "get_token"):
            self._token = _Token(credential)
        elif hasattr(credential, "account_key"):
            self._key = (credential.account_name, key_of(credential.account_key))
        elif hasattr(credential, "signature"):  # it may be replaced by a later one
            self._sas_credential = credential

    def send(
        self,
        method: str,
        container: str,
        key: str,
        headers: Mapping[str, str],
        *,
        query: Iterable[tuple[str, str]] = (),
        body: bytes | SourceBody = b"",
        stream: bool = False,
    ) -> Reply:
        """Send a request for a blob.

        Args:
            method: HTTP method.
            container: Name of the container.
            key: Name of the blob.
            headers: Headers, with names in lower case.
            query: Parameters, with names in lower case.
            body: The content of the request.
            stream: Whether the content of a successful answer is read by the caller.

        Raises:
            azure.core.exceptions.AzureError: If the answer is not a success, or there is none.
            MalformedHTTPError: If the answer is not HTTP.
            TransferStopped: If this thread's transfer was cancelled.
        """
        check_stop()
        path = f"{self._path}/{quote(container)}/{quote(key, safe='~/')}"
        # A host's name and the encoding of answers are not signed.
        sent = {"accept-encoding": "identity", "x-ms-version": VERSION, "x-ms-date": date_now()}
        sent |= {name: value.strip() for name, value in headers.items()}  # as servers read and sign them
        parameters = list(query)
        reply = self._send(method, path, parameters, sent, body, stream=stream)
        if (
            reply.status_code == _UNAUTHORIZED
            and self._token is not None
            and self._token.renewed(reply, sent["authorization"])
        ):
            reply.close()
            reply = self._send(method, path, parameters, sent, body, stream=stream)
        if reply.status_code in _EXPECTED[method]:
            return reply
        with contextlib.closing(reply):
            raise _refusal(reply)

    def _send(
        self,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: dict[str, str],
        body: bytes | SourceBody,
        *,
        stream: bool,
    ) -> Reply:
        if self._token is not None:
            headers["authorization"] = self._token.header(f"{self._server}{path}")
        elif self._key is not None:
            length = "" if method in READS or not body else str(len(body))
            signed = {**headers, "content-length": length}
            headers["authorization"] = signature(self._key, method, path, query, signed)
        sas = self._sas if self._sas_credential is None else self._sas_credential.signature.lstrip("?")
        sas = quote(sas, safe=_OF_URLS)
        text = "&".join([*(f"{name}={quote(value, safe='')}" for name, value in query), *([sas] if sas else [])])
        target = f"{path}?{text}" if text else path
        found = self.pool(self._server)
        try:
            if found is not None:
                host, pool = found
                return send_directly(pool, method, target, {"host": host, **headers}, body, stream=stream)
            connection = self._connection
            return send_by_requests(
                connection.session,
                method,
                self._server + target,
                headers,
                body,
                stream=stream,
                timeout=(connection.connect_timeout, connection.read_timeout),
                verify=connection.verify,
            )
        except requests.RequestException as error:
            raise _no_answer(error) from error


def _no_answer(error: requests.RequestException) -> Exception:
    """The exception of the SDK for a request without an answer; the same as that of its own transport."""
    broken = isinstance(error, requests.ConnectionError) and bool(error.args) and isinstance(error.args[0], ProtocolError)
    if isinstance(error, requests.ConnectionError) and not broken:
        return ServiceRequestError(error, error=error)
    return ServiceResponseError(error, error=error)


def _refusal(reply: Reply) -> HttpResponseError:
    """The exception of the SDK for an answer that is not a success; the content names the code and the reason."""
    text = ""
    if reply.status_code not in SUCCESS:
        with contextlib.suppress(requests.RequestException):  # the body of the answer broke, and the status says enough
            text = reply.content.decode(errors="replace")
    headers = CaseInsensitiveDict(reply.headers)
    code, message = _CODE.search(text), _MESSAGE.search(text)
    status = reply.status_code
    said = html.unescape((message[1] or message[2]) if message else "") or reply.reason or responses.get(status, "refused")
    response: Any = SimpleNamespace(status_code=status, reason=reply.reason, headers=headers)
    error = _ERRORS.get(status, HttpResponseError)(message=said, response=response)
    found: Any = error
    found.error_code = (code[1] or code[2]) if code else headers.get("x-ms-error-code")
    return error


def signature(
    key: tuple[str, bytes], method: str, path: str, query: list[tuple[str, str]], headers: Mapping[str, str]
) -> str:
    """The header ``Authorization`` by an account key.

    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key

    Args:
        key: The name of the account, and its key.
        method: HTTP method.
        path: The path as it is sent.
        query: Parameters, decoded, with names in lower case.
        headers: Headers, with names in lower case, except those of metadata.
    """
    of_azure = [(name.lower(), value) for name, value in headers.items() if name.startswith("x-ms-")]
    of_azure.sort(key=lambda header: _place(header[0]))
    lines = [
        method,
        *(headers.get(name, "") for name in _SIGNED),
        *(f"{name}:{value}" for name, value in of_azure),
        f"/{key[0]}{path}",
        *(f"{name}:{value}" for name, value in sorted(query)),
    ]
    digest = hmac.digest(key[1], "\n".join(lines).encode(), hashlib.sha256)
    return f"SharedKey {key[0]}:{base64.b64encode(digest).decode()}"


def _place(name: str) -> str:
    """The sort key of a header: Azure ignores hyphens, and sorts underscores before digits and letters, as the SDK does."""
    return name.replace("-", "").replace("_", "/")


class _Token:
    """The access tokens of a token credential, which azure-core's policy caches and renews.

    Args:
        credential: A synchronous credential.
    """

    def __init__(self, credential: Any) -> None:
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy  # needed by few accounts

        make: Any = BearerTokenCredentialPolicy
        self._new_policy = partial(make, credential, _SCOPE)
        self._policy = self._new_policy()

    def header(self, url: str) -> str:
        """The header ``Authorization`` for a request to a URL.

        Raises:
            azure.core.exceptions.AzureError: If there is no token, or the URL is not of https.
        """
        request = _request_to(url)
        self._policy.on_request(request)
        return str(request.http_request.headers["Authorization"])

    def renewed(self, reply: Reply, refused: str) -> bool:
        """Request another token after a 401, for the tenant and the resource that the answer names, if it names them.

        https://learn.microsoft.com/rest/api/storageservices/authorize-with-azure-active-directory#bearer-challenge

        Args:
            reply: The answer.
            refused: The refused header ``Authorization``.

        Returns:
            Whether there is another token: a credential may return the refused one again.

        Raises:
            azure.core.exceptions.AzureError: If there is no token.
        """
        if self.header("https://") != refused:
            return True  # another thread has renewed it
        challenge = reply.headers.get("www-authenticate", "")
        resource, tenant = _RESOURCE.search(challenge), _TENANT.search(challenge)
        if not (resource and tenant):
            self._policy = self._new_policy()  # which has no token yet
            return self.header("https://") != refused
        request = _request_to("https://")
        self._policy.authorize_request(request, f"{resource[1]}/.default", tenant_id=tenant[1])
        return True


def _request_to(url: str) -> Any:
    from azure.core.pipeline import PipelineContext, PipelineRequest  # needed by few accounts
    from azure.core.pipeline.transport import HttpRequest  # needed by few accounts

    return PipelineRequest(HttpRequest("GET", url), PipelineContext(None))
