"""`S3Connection`: an endpoint, its boto3 client in each process, and its stores; `connection_of` makes it from options."""

from __future__ import annotations

import dataclasses
import functools
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from botocore.exceptions import ConnectionClosedError

from gllm_storage.concurrency.exiting import is_green
from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import ErrorDetails, note_attempts, require_printable
from gllm_storage.http.pool import may_run_in_place
from gllm_storage.s3.access import plain_access
from gllm_storage.s3.body import BotoBody, ChecksumHeaders, FileSection, ViewSection, begin_sending
from gllm_storage.s3.errors import (
    TRANSIENT_CODES,
    TRANSIENT_EXCEPTIONS,
    UnreadableAnswerError,
    translated,
)
from gllm_storage.s3.http.model import MODELS
from gllm_storage.s3.http.template import catch_if_asked
from gllm_storage.s3.listing import time_of
from gllm_storage.s3.requests import add_digest
from gllm_storage.s3.settings import BODY_SIGNING, ENGINES, S3TransferSettings, check_transfer_settings
from gllm_storage.s3.store import S3Store
from gllm_storage.settings import (
    count,
    disk_options,
    flag,
    limit_options,
    read_option,
    size,
    warn_if_insecure,
)
from gllm_storage.store.diagnosis import passes, suspect_tls
from gllm_storage.store.retry import TRANSIENT_STATUSES, s3_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.s3.access import PlainAccess
    from gllm_storage.s3.http.client import Access
    from gllm_storage.s3.small import Pipeline

_logger = logging.getLogger(__name__)

_SUCCESS = range(200, 300)

_CLIENT_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    "tcp_keepalive": True,
    # We compute and verify checksums ourselves (store/checksums.py). botocore's default over https is a trailing checksum,
    # which Ceph 16 and rclone refuse and some servers store as data; and its check of a range against a checksum of the
    # complete object, which rclone sends, fails a good download.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}
_ANSWER_RATE = 16 * 2**20
"""Bytes per second that a server needs at least from the end of a body to its answer."""
_FIRST_STEP = 64 * 2**20
_STEP = 2
_INPUTS = {model.name: model.inputs for model in MODELS.values()}
_KNOWN = frozenset(
    {name for inputs in _INPUTS.values() for name in inputs}
    | {f"CopySourceSSECustomer{name}" for name in ("Algorithm", "Key", "KeyMD5")}
)
"""The parameters that our copy of the model knows. Another one may be newer than this copy: botocore knows it."""
_AMAZON = (".amazonaws.com", ".amazonaws.com.cn", ".amazonaws.eu", ".api.aws", ".api.amazonwebservices.com.cn")


@dataclass(frozen=True)
class Endpoint:
    """How to reach an endpoint. Secrets are not shown.

    Attributes:
        client_options: Arguments of boto3's ``Session.client("s3", …)``, without the config.
        config_options: Arguments of botocore's ``Config``; they override our defaults.
        max_attempts: How often a request is sent at most.
        profile_name: Name of a profile of the AWS configuration files.
        anonymous: Whether requests are unsigned.
        pool_size: The number of connections that are kept open.
        engine: ``"auto"`` sends the frequent requests over the direct HTTP client, if nothing prevents it; ``"boto3"`` sends
            all requests through boto3.
        sign_bodies: When the direct client signs bodies; see `BodySigning`.
        min_throughput: The fewest bytes per second of an answer, averaged over each read timeout; 0 for no limit.
    """

    client_options: Mapping[str, Any] = field(repr=False)
    config_options: Mapping[str, Any] = field(repr=False)
    max_attempts: int = S3TransferSettings.max_attempts
    profile_name: str | None = None
    anonymous: bool = False
    pool_size: int = 10
    engine: str = "auto"
    sign_bodies: str = "auto"
    min_throughput: int = S3TransferSettings.min_throughput

    @property
    def identity(self) -> tuple[object, ...]:
        """The given credentials, as far as they name a user; connections without any have those of the process."""
        return self.client_options.get("aws_access_key_id"), self.profile_name, self.anonymous

    def make_client(self) -> S3Client:
        """A new client: boto3's, or the direct client, which has the same methods.

        Raises:
            botocore.exceptions.BotoCoreError: If the profile is unknown or the configuration is broken.
        """
        # The direct client waits by the kernel's calls, which greenlets must not do, and eventlet has no select.poll.
        if self.engine == "boto3" or is_green():
            return self.make_boto_client()
        try:
            access = plain_access(self)
            return self._direct_plain(access) if access is not None else self._direct(self._boto_session())
        except (ImportError, AttributeError, KeyError, TypeError) as error:
            _logger.warning("the direct engine does not know this release of botocore (%r); boto3 sends all requests", error)
            return self.make_boto_client()

    def make_boto_client(self, shared: Any = None) -> S3Client:
        """A new boto3 client.

        Args:
            shared: The session of botocore that it uses, with its credentials; None for a new one.

        Raises:
            botocore.exceptions.BotoCoreError: If the profile is unknown or the configuration is broken.
        """
        return self._boto_client(self._boto_session(shared))

    def _boto_session(self, shared: Any = None) -> Any:
        """A session of boto3.

        Args:
            shared: The session of botocore that it uses, with its credentials; None for a new one.

        Raises:
            botocore.exceptions.BotoCoreError: If the profile is unknown, or there are no credentials that can be sent.
        """
        # boto3 takes about 0.2 s to import: only when a request needs it.
        import boto3

        # A session of its own: boto3's default session is shared, and making clients from it is not thread-safe.
        session = boto3.session.Session(botocore_session=shared, profile_name=self.profile_name)
        parsers = session._session.get_component("response_parser_factory")  # noqa: SLF001 - boto3 has no way to set it
        parsers.set_parser_defaults(timestamp_parser=time_of)
        # With given keys, boto3 does not search for credentials, which may send requests to the metadata service of EC2.
        if not (self.anonymous or self._has_keys):
            _require_printable(session.get_credentials())
        return session

    @property
    def _has_keys(self) -> bool:
        return bool(self.client_options.get("aws_access_key_id") and self.client_options.get("aws_secret_access_key"))

    def _boto_client(self, session: Any) -> S3Client:
        """A new boto3 client of a session of boto3."""
        from botocore import UNSIGNED
        from botocore.config import Config  # as boto3

        options = {**_CLIENT_DEFAULTS, "max_pool_connections": self.pool_size, **self.config_options}
        options.setdefault("retries", {"mode": "standard", "total_max_attempts": self.max_attempts})
        if self.anonymous:
            options["signature_version"] = UNSIGNED
        client: S3Client = session.client("s3", config=Config(**options), **self.client_options)
        events = client.meta.events
        events.register("before-send.s3", check_stop)
        events.register("before-send.s3", _begin_sending)
        events.register("before-send.s3", catch_if_asked)
        # botocore would send a request again by itself, without a report, and sleep where no cancellation reaches it.
        events.unregister("needs-retry.s3", unique_id="retry-config-s3")
        retry: Any = _Retries(self.max_attempts).needs_retry
        events.register_first("needs-retry.s3", retry)
        send_digests(client)
        adapt: Any = _adapt_body
        events.register("after-call.s3.GetObject", adapt)
        self._guard(client)
        if not is_amazon(client):
            stay: Any = _stay_at_endpoint
            events.register("before-call.s3", stay)
        return client

    def make_presigner(self) -> S3Client:
        """A new boto3 client whose presigned URLs have a signature of version 4.

        boto3's default is version 2, which Amazon's newer regions and objects with KMS keys refuse.
        """
        options = {**self.config_options, "signature_version": "s3v4"}
        return dataclasses.replace(self, config_options=options, engine="boto3").make_client()

    def _guard(self, client: S3Client) -> None:
        from gllm_storage.s3.answers import guard  # it imports botocore's parsers

        config: Any = client.meta.config
        try:
            guard(client, self.min_throughput, config.read_timeout)
        except AttributeError as error:
            _logger.warning("this release of botocore is unknown (%r): the limits of answers do not apply", error)

    def patient(self, extra: float) -> Endpoint:
        """The same endpoint for clients that send each request once, and wait `extra` seconds longer for an answer."""
        read_timeout = {**_CLIENT_DEFAULTS, **self.config_options}["read_timeout"]
        config = {**self.config_options, "read_timeout": None if read_timeout is None else read_timeout + extra}
        return dataclasses.replace(self, max_attempts=1, config_options=config)

    def _direct_plain(self, access: PlainAccess) -> S3Client:
        """The direct client of a plain endpoint. It makes its boto3 client when it needs it, with the same settings."""
        pinned = access.pinned(self)
        return self._direct_client(access, lambda: pinned.make_boto_client(access.session))

    def _direct(self, session: Any) -> S3Client:
        """The direct client over a boto3 client."""
        from botocore.credentials import Credentials  # with boto3

        from gllm_storage.s3.http.client import BotoAccess  # the import may fail

        client = self._boto_client(session)
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        key, secret, token = (self.client_options.get(name) for name in names)
        credentials: Any = None
        if key and secret:
            credentials = Credentials(key, secret, token)
        elif not self.anonymous:
            credentials = session.get_credentials()
        return self._direct_client(BotoAccess(client, credentials, is_amazon(client)), lambda: client)

    def _direct_client(self, access: Access, make_boto: Callable[[], S3Client]) -> S3Client:
        from gllm_storage.s3.http.client import DirectClient  # the import may fail

        made: Any = DirectClient(
            access,
            make_boto,
            max_attempts=self.max_attempts,
            pool_size=self.pool_size,
            sign_bodies=self.sign_bodies,
            min_throughput=self.min_throughput,
        )
        return cast("S3Client", made)


def _require_printable(credentials: Any) -> None:
    """Check the access key and the token of the environment or a file, which become headers.

    Credentials that botocore refreshes are not read here: that may send a request.

    Raises:
        botocore.exceptions.CredentialRetrievalError: If one has a control character.
    """
    from botocore.credentials import Credentials  # with boto3
    from botocore.exceptions import CredentialRetrievalError

    if type(credentials) is not Credentials:
        return
    names = {"access_key": "the access key", "secret_key": "the secret key", "token": "the session token"}
    try:
        for attribute, name in names.items():
            require_printable(name, getattr(credentials, attribute))
    except ValueError as error:
        raise CredentialRetrievalError(provider=credentials.method, error_msg=str(error)) from None


class S3Connection:
    """An endpoint, and the settings of the transfers to it. The verbs and the filesystem of a client share one.

    Args:
        endpoint: How to reach it.
        parameters: Parameters of all requests that take them, such as ``RequestPayer`` or ``StorageClass``.
        settings: Part sizes, concurrency and preconditions.
    """

    def __init__(self, endpoint: Endpoint, parameters: Mapping[str, Any], settings: S3TransferSettings) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.checksum_headers = ChecksumHeaders(settings.max_attempts)
        self._parameters = dict(parameters)
        self._client: PerProcess[S3Client] = PerProcess(endpoint.make_client)
        self._presigner: PerProcess[S3Client] = PerProcess(endpoint.make_presigner)
        self._patient_clients: PerProcess[dict[float, S3Client]] = PerProcess(dict)
        self._stores: dict[str, S3Store] = {}

    @property
    def client(self) -> S3Client:
        """The client of this process. Threads share it.

        Raises:
            StorageError: If it cannot be made, as from a broken profile.
        """
        client = self._client.peek()
        if client is not None:
            return client
        with translated(ErrorDetails("s3", "s3://", "connection")):
            try:
                return self._client.get()
            except ValueError as error:  # botocore's answer to an endpoint that the environment or a profile sets
                raise UnreadableAnswerError(str(error)) from error

    def patient_client(self, size: int) -> S3Client:
        """A client for one large PutObject: it sends each request once, and waits longer for the answer.

        A server answers when it has stored the complete body, and a proxy before it may begin to pass the body on only when
        it has all of it.

        Args:
            size: Bytes in the body. The time grows with them, in steps, because each needs a client of its own.

        Raises:
            StorageError: If it cannot be made.
        """
        extra = _FIRST_STEP / _ANSWER_RATE
        while extra * _ANSWER_RATE < size:
            extra *= _STEP
        clients = self._patient_clients.get()
        client = clients.get(extra)
        if client is None:
            with translated(ErrorDetails("s3", "s3://", "connection")):
                client = clients.setdefault(extra, self.endpoint.patient(extra).make_client())
        return client

    @property
    def presigner(self) -> S3Client:
        """A boto3 client that makes presigned URLs."""
        return self._presigner.get()

    def close(self) -> None:
        """Close the idle connections of this process; the next request opens new ones."""
        client = self._client.peek()
        if client is not None:
            client.close()
        for each in (self._patient_clients.peek() or {}).values():
            each.close()

    @property
    def endpoint_url(self) -> str:
        """URL of the endpoint."""
        return endpoint_url_of(self.client)

    @functools.cached_property
    def is_amazon(self) -> bool:
        """Whether requests go to Amazon itself."""
        return is_amazon(self.client)

    def shares_buckets_with(self, other: S3Connection) -> bool:
        """Whether a bucket of one connection has the same name for the other: regions of Amazon share theirs.

        On other services the credentials may decide which bucket has a name: Ceph's tenants have buckets of their own.
        """
        if self.is_amazon and other.is_amazon:
            return True
        return self.endpoint_url == other.endpoint_url and self.endpoint.identity == other.endpoint.identity

    def has_key_of(self, other: S3Connection) -> bool:
        """Whether both have one customer key, or none, so that a copy on the server reads and writes with the same key."""
        return self._parameters.get("SSECustomerKey") == other._parameters.get("SSECustomerKey")

    def has_parameters_of(self, other: S3Connection) -> bool:
        """Whether objects get the same properties by both, such as the storage class and the encryption."""
        return self._parameters == other._parameters

    @property
    def pipeline(self) -> Pipeline | None:
        """Sends requests, and reads their answers later; None if all requests go through boto3."""
        client: Any = self.client
        pipeline: Pipeline | None = getattr(client, "pipeline", None)
        return pipeline

    @property
    def writes_in_place(self) -> bool:
        """Whether small writes run in the thread of the caller, by `run_in_place`: their requests are direct ones.

        This differs from call to call: the program may install handlers of signals.
        """
        return self.pipeline is not None and not is_green() and may_run_in_place()

    def store(self, bucket: str) -> S3Store:
        """The store of a bucket."""
        store = self._stores.get(bucket)
        return store or self._stores.setdefault(bucket, S3Store(self, bucket))

    def parameters(self, operation: str) -> dict[str, Any]:
        """The parameters of all requests that an operation takes.

        Args:
            operation: Such as ``"PutObject"``.
        """
        if not self._parameters:
            return {}
        members = self.members(operation)
        return {name: value for name, value in self._parameters.items() if name in members}

    def members(self, operation: str) -> Mapping[str, Any]:
        """The parameters that botocore's model has for an operation."""
        if operation in _INPUTS and self._parameters.keys() <= _KNOWN:
            return _INPUTS[operation]
        shape: Any = self.client.meta.service_model.operation_model(operation).input_shape
        found: Mapping[str, Any] = shape.members if shape else {}
        return found


def connection_of(options: Mapping[str, Any]) -> S3Connection:
    """The connection that s3fs's options, and ours, stand for.

    Args:
        options: s3fs's ``anon``, ``key`` or ``username``, ``secret`` or ``password``, ``token``, ``profile``,
            ``endpoint_url``, ``use_ssl``, ``requester_pays``, ``client_kwargs``, ``config_kwargs``,
            ``s3_additional_kwargs`` and ``max_concurrency``; and ours: ``multipart_threshold``, ``part_size``,
            ``memory_limit``, ``conditional_writes``, ``exclusive_put_limit``, ``publish_on_error``, ``fsync``,
            ``sync_source``, ``min_throughput``, ``total_timeout``, ``engine`` and ``sign_bodies``.

    Raises:
        ValueError: If a value is impossible.
    """
    require_one_of("engine", options.get("engine", "auto"), ENGINES)
    require_one_of("sign_bodies", options.get("sign_bodies", "auto"), BODY_SIGNING)
    config = dict(options.get("config_kwargs") or {})
    concurrency = read_option(options, "max_concurrency", count, S3TransferSettings.max_concurrency)
    settings = S3TransferSettings(
        multipart_threshold=read_option(options, "multipart_threshold", size, S3TransferSettings.multipart_threshold),
        part_size=read_option(options, "part_size", size, S3TransferSettings.part_size),
        max_concurrency=concurrency,
        max_attempts=_attempts(config.get("retries") or {}),
        publish_on_error=read_option(options, "publish_on_error", flag, S3TransferSettings.publish_on_error),
        memory_limit=read_option(options, "memory_limit", size, S3TransferSettings.memory_limit),
        conditional_writes=options.get("conditional_writes") or S3TransferSettings.conditional_writes,
        exclusive_put_limit=read_option(options, "exclusive_put_limit", size, S3TransferSettings.exclusive_put_limit),
        **disk_options(options),
        **limit_options(options),
    )
    payer = {"RequestPayer": "requester"} if options.get("requester_pays") else {}
    warn_if_insecure("s3", verify_tls=(options.get("client_kwargs") or {}).get("verify") is not False)
    return S3Connection(
        Endpoint(
            client_options=_client_options(options),
            config_options=config,
            max_attempts=settings.max_attempts,
            profile_name=options.get("profile"),
            anonymous=bool(options.get("anon")),
            pool_size=max(10, 2 * concurrency),  # several transfers may have as many requests in progress each
            engine=options.get("engine", "auto"),
            sign_bodies=options.get("sign_bodies", "auto"),
            min_throughput=settings.min_throughput,
        ),
        {**(options.get("s3_additional_kwargs") or {}), **payer},
        check_transfer_settings(settings),
    )


def _client_options(options: Mapping[str, Any]) -> dict[str, Any]:
    for name in ("key", "username", "secret", "password", "token"):
        require_printable(name, options.get(name))
    named = not options.get("anon")
    of_client = {
        "aws_access_key_id": (options.get("key") or options.get("username")) if named else None,
        "aws_secret_access_key": (options.get("secret") or options.get("password")) if named else None,
        "aws_session_token": options.get("token") if named else None,
        "endpoint_url": options.get("endpoint_url"),
    }
    given = {name: value for name, value in of_client.items() if value is not None}
    return {"use_ssl": options.get("use_ssl", True), **(options.get("client_kwargs") or {}), **given}


def _attempts(retries: Mapping[str, Any]) -> int:
    """The attempts that a caller's ``retries`` of botocore's config stand for."""
    if "total_max_attempts" in retries:
        return int(retries["total_max_attempts"])
    if "max_attempts" in retries:
        return int(retries["max_attempts"]) + 1
    return S3TransferSettings.max_attempts


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check an option.

    Raises:
        ValueError: If the value is not allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


class _Retries:
    """Repeats boto3's requests by our policy: a handler of botocore's event ``needs-retry``.

    botocore sends a request again if the handler returns a number of seconds, and sleeps that long where no cancellation
    reaches it. So the handler waits itself, and returns 0.
    """

    def __init__(self, limit: int) -> None:
        self._policy = s3_requests(limit)
        self._has_answered = False

    def needs_retry(
        self,
        attempts: int,
        request_dict: Mapping[str, Any],
        operation: Any,
        response: Any = None,
        caught_exception: Exception | None = None,
        **_: Any,
    ) -> float | None:
        url = str(request_dict.get("url", "")).partition("?")[0]
        self._has_answered |= response is not None
        unsent = _is_unsent(request_dict.get("body"), response)
        cause = ConnectionClosedError(endpoint_url=url) if unsent else self._transient(response, caught_exception)
        if cause is None or attempts >= self._policy.limit:
            failure = cause if unsent else caught_exception
            if isinstance(failure, Exception):
                note_attempts(failure, attempts)
                if isinstance(failure, ConnectionClosedError) and url.startswith("http:") and not self._has_answered:
                    suspect_tls(failure)
            if unsent and isinstance(failure, Exception):
                raise failure
            return None
        self._policy.again(ErrorDetails("s3", url, operation.name), attempts, cause)
        return 0.0

    def _transient(self, response: Any, caught_exception: Exception | None) -> BaseException | str | None:
        if caught_exception is not None:
            transient = isinstance(caught_exception, TRANSIENT_EXCEPTIONS) and passes(caught_exception)
            return caught_exception if transient else None
        if response is None:
            return None
        answer, parsed = response
        code = parsed.get("Error", {}).get("Code", "")
        if answer.status_code in TRANSIENT_STATUSES or code in TRANSIENT_CODES:
            return f"HTTP {answer.status_code} {code}".strip()
        return None


def _begin_sending(request: Any, **_: Any) -> None:
    begin_sending(request.body)


def _is_unsent(body: Any, response: Any) -> bool:
    """Whether a success was answered before the complete body was sent.

    urllib3 ignores that the server closed the connection while a body was sent, and reads the answer. The store then has a
    part of the body only, whatever it says. Stubs that answer in place of a server need not read a body.
    """
    if response is None or not isinstance(body, (FileSection, ViewSection)):
        return False
    import urllib3

    answer, _ = response
    is_real = isinstance(getattr(answer, "raw", None), urllib3.HTTPResponse)
    return is_real and answer.status_code in _SUCCESS and body.tell() < len(body)


def _adapt_body(parsed: dict[str, Any], **_: Any) -> None:
    """Give the body of boto3's GetObject the interface of the direct client's."""
    if "Body" in parsed:
        parsed["Body"] = BotoBody(parsed["Body"])


def _stay_at_endpoint(context: dict[str, Any], **_: Any) -> None:
    """Tell botocore that a request was redirected to the right region already.

    Regions are Amazon's. From any other server a 301, 302 or 400 starts a search for the bucket's region, which for a web
    server that redirects everything ends in a RecursionError after hundreds of requests.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def send_digests(client: S3Client) -> None:
    """Let a client, boto3's or s3fs's, send a digest with each request that needs one; may be called again."""
    digest: Any = partial(add_digest, amazon=is_amazon(client))
    client.meta.events.register("before-call.s3", digest, unique_id="gllm-digest")


def is_amazon(client: S3Client) -> bool:
    """Whether requests go to Amazon itself, judged by the endpoint that botocore resolved.

    Our own config does not tell: ``AWS_ENDPOINT_URL`` and profiles set an endpoint as well.
    """
    return _is_amazons(endpoint_url_of(client))


@functools.lru_cache
def _is_amazons(url: str) -> bool:
    return f".{urlsplit(url).hostname or ''}".endswith(_AMAZON)


def endpoint_url_of(client: S3Client) -> str:
    """URL of the endpoint of a client. It does not make the boto3 client of the direct client."""
    known: str | None = vars(client).get("endpoint_url")
    return client.meta.endpoint_url if known is None else known
