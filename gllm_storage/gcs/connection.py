"""`GCSConnection`: the server, the credentials and the session of a client or a filesystem.

The verbs need neither gcsfs nor aiohttp, but they must reach the same server with the same credentials as gcsfs would with
the same options. So this module follows gcsfs's rules: its options, its environment variables, and the order in which it
tries the sources of credentials (gcsfs's `credentials.py`).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pickle
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import google.auth
import requests
from google.auth.credentials import Credentials, Signing
from google.auth.exceptions import GoogleAuthError, RefreshError
from google.auth.transport import mtls

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.errors import require_printable
from gllm_storage.gcs.errors import CredentialsError
from gllm_storage.gcs.sender import Sender
from gllm_storage.gcs.store import GCSStore
from gllm_storage.http.adapter import keep_headers
from gllm_storage.settings import (
    DISK_OPTIONS,
    MIB,
    TransferSettings,
    count,
    disk_options,
    duration,
    flag,
    limit_options,
    read_option,
    size,
    warn_if_insecure,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PART_SIZE = 16 * MIB
"""Default size in bytes of a chunk of a resumable upload, and of a ranged read."""
OPTIONS = frozenset(
    {
        "storage_class",
        "kms_key_name",
        "multipart_threshold",
        "part_size",
        "max_concurrency",
        "max_attempts",
        "publish_on_error",
        "min_throughput",
        "total_timeout",
        "connect_timeout",
        "read_timeout",
        "ca_bundle",
        "verify_tls",
        "sse_customer_key",
        *DISK_OPTIONS,
    }
)
"""The options of `connection_of` that gcsfs does not have."""

_TOKEN_CACHE = ".gcs_tokens"
_KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OSError)
"""Exceptions of google-auth for a key file that is not one, beside its own."""
_USER_FIELDS = ("refresh_token", "client_secret", "client_id")
_TOKEN_INFO = "https://oauth2.googleapis.com/tokeninfo"
_TOKEN_INFO_SECONDS = 10
_SHORTEST_LIFE = 300
"""Seconds for which an access token must be valid."""
_BAD_REQUEST = 400
_MTLS_HOST = "storage.mtls.googleapis.com"


class ProjectMismatchError(ValueError):
    """The default credentials are of another project than the options name."""


@dataclass(frozen=True)
class Account:
    """Credentials, and the project that belongs to them.

    Attributes:
        credentials: The credentials; None for anonymous requests.
        project: The project of the options, or the default project of the credentials.
    """

    credentials: Credentials | None = field(repr=False)
    project: str | None


@dataclass(frozen=True)
class ConnectionOptions:
    """The options of a connection; see `connection_of`."""

    transfer: TransferSettings
    token: Any = field(default=None, repr=False)
    project: str | None = None
    access: str = "full_control"
    requester_pays: str | bool = False
    endpoint_url: str | None = None
    ca_bundle: str | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    storage_class: str | None = None
    kms_key_name: str | None = None
    verify_tls: bool = True
    sse_customer_key: str | None = field(default=None, repr=False)

    def customer_key_headers(self, *, of_source: bool = False) -> dict[str, str]:
        """The headers of a request about an object that the customer key encrypts.

        https://cloud.google.com/storage/docs/encryption/customer-supplied-keys

        Args:
            of_source: Whether the key is of the source object of a copy.
        """
        if self.sse_customer_key is None:
            return {}
        key, start = self.sse_customer_key, "x-goog-copy-source-encryption" if of_source else "x-goog-encryption"
        digest = base64.b64encode(hashlib.sha256(base64.b64decode(key)).digest()).decode()
        return {f"{start}-algorithm": "AES256", f"{start}-key": key, f"{start}-key-sha256": digest}


def connection_of(options: Mapping[str, Any]) -> GCSConnection:
    """Make the connection that some options describe. Sends no request.

    Args:
        options: gcsfs's options, of which these count: ``endpoint_url``, ``token``, ``project``, ``access`` and
            ``requester_pays``; and the options of `GCSFileSystem`. Options without meaning for a connection are ignored.

    Examples:
        >>> connection = connection_of({"token": "anon", "endpoint_url": "http://localhost:4443"})
        >>> connection.store("models").url("v3/model.bin")
        'gs://models/v3/model.bin'
    """
    project = options.get("project")
    verify_tls = read_option(options, "verify_tls", flag, True)
    warn_if_insecure("gcs", verify_tls=verify_tls)
    return GCSConnection(
        ConnectionOptions(
            transfer=TransferSettings(
                multipart_threshold=read_option(options, "multipart_threshold", size, TransferSettings.multipart_threshold),
                part_size=read_option(options, "part_size", size, PART_SIZE),
                max_concurrency=read_option(options, "max_concurrency", count, TransferSettings.max_concurrency),
                max_attempts=read_option(options, "max_attempts", count, TransferSettings.max_attempts),
                publish_on_error=read_option(options, "publish_on_error", flag, TransferSettings.publish_on_error),
                **disk_options(options),
                **limit_options(options),
            ),
            token=options.get("token"),
            project=os.environ.get("GCSFS_DEFAULT_PROJECT", "") if project is None else project,
            access=options.get("access", "full_control"),
            requester_pays=options.get("requester_pays", False),
            endpoint_url=options.get("endpoint_url"),
            ca_bundle=options.get("ca_bundle"),
            connect_timeout=read_option(options, "connect_timeout", duration, 10.0),
            read_timeout=read_option(options, "read_timeout", duration, 60.0),
            storage_class=options.get("storage_class"),
            kms_key_name=options.get("kms_key_name"),
            verify_tls=verify_tls,
            sse_customer_key=options.get("sse_customer_key"),
        )
    )


class GCSConnection:
    """A server, credentials, and a session of each process. The stores of all buckets share them.

    Args:
        options: The options.
    """

    def __init__(self, options: ConnectionOptions) -> None:
        self.options = options
        self.has_certificate = _has_certificate()
        """Whether google-auth is configured to present a client certificate."""
        self._stores: dict[str, GCSStore] = {}
        self._account: PerProcess[Account] = PerProcess(self._log_in)
        self._sender: PerProcess[Sender] = PerProcess(lambda: Sender(self))

    def store(self, bucket: str) -> GCSStore:
        """The store of a bucket; the same one each time. Sends no request."""
        return self._stores.get(bucket) or self._stores.setdefault(bucket, GCSStore(self, bucket))

    @property
    def endpoint_url(self) -> str:
        """URL of the server, without a path and without a ``/`` at its end."""
        return (self.options.endpoint_url or _default_endpoint(with_certificate=self.has_certificate)).rstrip("/")

    @property
    def is_google(self) -> bool:
        """Whether the server is Google's."""
        return f"torage.{_universe()}" in self.endpoint_url or _MTLS_HOST in self.endpoint_url.lower()

    @property
    def account(self) -> Account:
        """The credentials. May send requests, on the first use in each process.

        Raises:
            CredentialsError: If there are no credentials where the options request some.
        """
        return self._account.get()

    @property
    def sender(self) -> Sender:
        """The connections of this process, for use by threads; the same errors as `account`."""
        return self._sender.get()

    @property
    def signs(self) -> bool:
        """Whether the credentials have a key that signs URLs: those of a service account; the same errors as `account`."""
        return isinstance(self.account.credentials, Signing)

    def signed_url(self, bucket: str, key: str, seconds: int, method: str) -> str:
        """A URL with a signature of version 4.

        Args:
            bucket: The bucket.
            key: The key of the object.
            seconds: How long the URL is valid.
            method: ``"GET"`` or ``"PUT"``.
        """
        from google.cloud import storage  # gcsfs needs it; it takes half a second to import

        client = storage.Client(
            project=self.account.project or "-",
            credentials=self.account.credentials,
            client_options={"api_endpoint": self.endpoint_url},
        )
        url: str = (
            client.bucket(bucket)
            .blob(key)
            .generate_signed_url(version="v4", expiration=seconds, method=method, query_parameters=self.parameters or None)
        )
        return url

    @property
    def verify(self) -> bool | str | None:
        """The argument `verify` of requests: False accepts any TLS certificate, None means the default."""
        return self.options.ca_bundle if self.options.verify_tls else False

    def close(self) -> None:
        """Close the idle connections of this process; the next request opens new ones."""
        sender = self._sender.peek()
        if sender is not None:
            sender.close()

    @property
    def parameters(self) -> dict[str, str]:
        """Query parameters of every request: the project that pays."""
        payer = self.options.requester_pays
        project = payer if isinstance(payer, str) else self.account.project if payer else None
        return {"userProject": project} if project else {}

    def _log_in(self) -> Account:
        try:
            return _account_of(self.options.token, self)
        except CredentialsError:
            raise
        except (GoogleAuthError, *_MALFORMED) as error:
            make: Any = CredentialsError  # google-auth publishes no types for its base class
            raise make(f"{type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------- server


def _default_endpoint(*, with_certificate: bool) -> str:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if emulator not in {"", "default"}:
        return emulator if emulator.startswith(("http://", "https://")) else f"http://{emulator}"
    is_mtls = with_certificate and os.environ.get("GOOGLE_API_USE_MTLS_ENDPOINT", "auto").lower() != "never"
    return f"https://{_MTLS_HOST}" if is_mtls and _universe() == "googleapis.com" else f"https://storage.{_universe()}"


def _universe() -> str:
    return os.environ.get("GOOGLE_CLOUD_UNIVERSE_DOMAIN", "googleapis.com")


def _has_certificate() -> bool:
    """Whether google-auth is configured to present a client certificate."""
    if not hasattr(mtls, "get_default_ssl_context"):  # an older release of google-auth
        return False
    typed: Any = mtls
    return bool(typed.should_use_client_cert() and typed.has_default_client_cert_source())


# ---------------------------------------------------------------------- credentials


def _account_of(token: Any, connection: GCSConnection) -> Account:
    """The account that the option `token` names.

    Raises:
        Exception: `GoogleAuthError`, `ValueError`, `KeyError`, `TypeError` or `OSError`, if there are no such credentials.
    """
    if token is None:
        return _first_account(connection)
    if token == "browser":
        raise ValueError("token='browser' is not supported; log in by: gcloud auth application-default login")
    if isinstance(token, str) and token in _METHODS:
        return _METHODS[token](connection)
    return Account(_credentials_of(token, _scopes(connection)), connection.options.project)


def _first_account(connection: GCSConnection) -> Account:
    """The account of the first source that has one; anonymous if none has.

    Raises:
        CredentialsError: If ``GOOGLE_APPLICATION_CREDENTIALS`` names a file without credentials. gcsfs goes on without them,
            so that a mistyped path means anonymous requests.
    """
    named = os.environ.get(_KEY_FILE)
    for name in ("google_default", "cache", "cloud"):
        if name == "cloud" and os.environ.get("NO_GCE_CHECK") == "true":
            continue
        try:
            return _METHODS[name](connection)
        except (GoogleAuthError, *_MALFORMED) as error:
            if named and name == "google_default" and not isinstance(error, ProjectMismatchError):
                make: Any = CredentialsError
                raise make(f"{_KEY_FILE}={named!r} does not name a file with credentials: {error}") from error
    return _anonymous(connection)


def _google_default(connection: GCSConnection) -> Account:
    """Google's own search: ``GOOGLE_APPLICATION_CREDENTIALS``, gcloud's files, then the account of the machine."""
    with requests.Session() as session:
        session.auth = keep_headers
        find: Any = google.auth.default
        credentials, project = find(scopes=_scopes(connection), request=_request(session))
    given = connection.options.project
    if given and given != project:
        raise ProjectMismatchError(f"the project is {given!r}, but the default credentials are of project {project!r}")
    return Account(credentials, project)


def _cached(connection: GCSConnection) -> Account:
    """The tokens that gcsfs's ``token="browser"`` has saved.

    As in gcsfs, the requests are anonymous if tokens are saved, but none for this project.
    """
    try:
        with open(os.path.join(os.path.expanduser("~"), _TOKEN_CACHE), "rb") as file:
            tokens = pickle.load(file)  # noqa: S301 - the user's own file, in gcsfs's format
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"no cached tokens in ~/{_TOKEN_CACHE}") from error
    if not tokens:
        raise ValueError(f"no cached tokens in ~/{_TOKEN_CACHE}")
    options = connection.options
    return Account(tokens.get((options.project, options.access)), options.project)


def _machine(connection: GCSConnection) -> Account:
    """The account of this machine in Google's cloud."""
    from google.auth import compute_engine  # noqa: PLC0415 - for this source only

    if not connection.is_google:
        raise ValueError(f"the account of the machine is not sent to {connection.endpoint_url}, which is not Google's")
    make: Any = compute_engine.Credentials
    credentials = make()
    with requests.Session() as session:
        session.auth = keep_headers
        try:
            credentials.refresh(_request(session))
        except RefreshError as error:
            raise ValueError(f"the metadata server has no account: {error}") from error
    return Account(credentials, connection.options.project)


def _anonymous(connection: GCSConnection) -> Account:
    return Account(None, connection.options.project)


_METHODS: dict[str, Callable[[GCSConnection], Account]] = {
    "google_default": _google_default,
    "cache": _cached,
    "cloud": _machine,
    "anon": _anonymous,
}


def _credentials_of(token: Any, scopes: list[str]) -> Credentials:
    """Credentials of a key file, of its content, of an access token, or google-auth's own object."""
    if isinstance(token, str):
        require_printable("token", token)
        token = _of_file(token, scopes) if os.path.exists(token) else _of_access_token(token)
    if isinstance(token, dict):
        token = _of_mapping(token, scopes)
    if not isinstance(token, Credentials):
        raise ValueError(f"a token is a text, a dict or google-auth's Credentials, not {type(token).__name__}")
    return token


def _of_file(path: str, scopes: list[str]) -> Credentials:
    try:
        with open(path, encoding="utf-8") as file:
            return _of_mapping(json.load(file), scopes)
    except ValueError as error:
        raise ValueError(f"the key file {path!r} has no credentials: {error}") from error


def _of_mapping(info: Any, scopes: list[str]) -> Credentials:
    """Credentials of a service account; or of a user, as gcloud saves them."""
    from google.oauth2 import service_account  # imports `cryptography`, which takes 0.1 s

    if not isinstance(info, dict):
        raise ValueError("it is not a JSON object")
    make: Any = service_account.Credentials.from_service_account_info
    try:
        of_service: Credentials = make(info, scopes=scopes)
    except (GoogleAuthError, ValueError, KeyError, TypeError) as error:
        missing = [name for name in _USER_FIELDS if not info.get(name)]
        if missing:
            raise ValueError(
                f"neither those of a service account ({error}) nor those of a user (missing {', '.join(missing)})"
            ) from error
        from google.oauth2.credentials import Credentials as UserCredentials  # for this source only

        make = UserCredentials
        of_user: Credentials = make(
            None,
            refresh_token=info["refresh_token"],
            client_secret=info["client_secret"],
            client_id=info["client_id"],
            token_uri="https://oauth2.googleapis.com/token",
        )
        return of_user
    return of_service


def _of_access_token(token: str) -> Credentials:
    """Credentials of an access token. Google is asked when it expires, unless ``FETCH_RAW_TOKEN_EXPIRY`` is false."""
    from google.oauth2.credentials import Credentials as UserCredentials  # for this source only

    expiry = None
    if os.environ.get("FETCH_RAW_TOKEN_EXPIRY", "true").lower() not in {"false", "0", "off", "no"}:
        answer = requests.get(_TOKEN_INFO, params={"access_token": token}, timeout=_TOKEN_INFO_SECONDS, auth=keep_headers)
        if answer.status_code == _BAD_REQUEST:
            raise ValueError("the access token is not valid, or has expired")
        answer.raise_for_status()
        expiry = datetime.fromtimestamp(float(answer.json()["exp"]), tz=UTC)
        left = (expiry - datetime.now(UTC)).total_seconds()
        if left <= _SHORTEST_LIFE:
            raise ValueError(f"the access token expires in {max(0.0, left):.0f} s; at least {_SHORTEST_LIFE} s are needed")
        expiry = expiry.replace(tzinfo=None)  # google-auth's times are naive, in UTC
    make: Any = UserCredentials
    credentials: Credentials = make(token, expiry=expiry)
    return credentials


def _scopes(connection: GCSConnection) -> list[str]:
    return [f"https://www.googleapis.com/auth/devstorage.{connection.options.access}"]


def _request(session: requests.Session) -> Any:
    from google.auth.transport.requests import Request  # imports `cryptography`, which takes 0.1 s

    make: Any = Request
    return make(session)
