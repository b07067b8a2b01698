"""`DirectClient`: a boto3 client for S3 whose frequent requests go directly to a socket.

It has the methods of a boto3 client, takes the same arguments, returns the same results and raises the same exceptions.
Requests that it cannot send exactly as boto3 would go through boto3. The decision is about

- *one request*: other code listens to the boto3 client (guard.py), or an argument needs more than a header (operations.py).
- *one bucket*: its requests have a form that only boto3 builds, as for directory buckets (template.py). If the bucket is in
  another region of Amazon, boto3 follows the redirect, and the next request makes a new template.
- *the endpoint*: it needs a proxy, a client certificate or signed payloads; or its answers are not HTTP as S3 speaks it, or
  it refuses our signatures. The last two count only if boto3 succeeds with the same request. Otherwise the endpoint is
  broken or the secret is wrong, and the direct client stays in use.

The boto3 client takes half a second to make. It is made when the first request needs it, if the endpoint is plain
(s3/access.py): address, credentials and certificates are known then without it.
"""

from __future__ import annotations

import logging
import re
import ssl
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from botocore import exceptions as boto
from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import Stop, check_stop, running_stop
from gllm_storage.concurrency.workers import run_all
from gllm_storage.errors import ErrorDetails, note_attempts
from gllm_storage.http.connecting import Server
from gllm_storage.http.pool import Answer, Exchange, Pool, runs_in_place
from gllm_storage.http.wire import CannotConnectError, ClosedEarlyError, MalformedAnswerError, UnusableAnswerError
from gllm_storage.s3.body import begin_sending
from gllm_storage.s3.errors import UNPARSABLE, UnreadableAnswerError, is_transient
from gllm_storage.s3.http.error_document import read_error
from gllm_storage.s3.http.guard import Listeners
from gllm_storage.s3.http.operations import Operation, Request, operations, path_of
from gllm_storage.s3.http.signing import EMPTY, UNSIGNED, BodySigning, Signer, digest_of
from gllm_storage.s3.http.template import NotDirectError, Template, template_of
from gllm_storage.store.diagnosis import passes
from gllm_storage.store.retry import s3_requests

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mypy_boto3_s3.client import S3Client

    from gllm_storage.store.reader import Memory

_logger = logging.getLogger(__name__)

_OK = range(200, 300)
_REDIRECTS = frozenset({301, 302, 307, 308})
_WRONG_REGION_CODES = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_DIGEST_MISMATCH = "XAmzContentSHA256Mismatch"
_SIGNING_CODES = frozenset({"SignatureDoesNotMatch", _DIGEST_MISMATCH})
_STATUS_OF_LATE_ERROR = 500
"""The status that boto3 gives to an error document in an answer with status 200."""
_LATE_ERROR = re.compile(rb"<Error[\s>]")
_ERROR_BEGINS_WITHIN = 200
_MAX_BODY = 2**20
"""Bytes that are read of the answer to a write, which has none or few."""
_MAX_LISTING = 2**26
"""Bytes that are read of a page of a listing: its 1000 keys may take 3 KiB each, and some stores send longer pages."""
_CHANGES = frozenset({"PUT", "POST", "DELETE"})
"""Methods that change the store."""
_PAIR_SECONDS = 2.0
"""How long the second answer to a pair of requests is awaited: a proxy may lose the second request."""


@dataclass
class _Place:
    """How to send requests to one bucket."""

    template: Template
    pool: Pool
    signer: Signer | None
    bodies: BodySigning


class Access(Protocol):
    """How to reach an endpoint: `BotoAccess`, or `gllm_storage.s3.access.PlainAccess` without a boto3 client."""

    @property
    def client(self) -> S3Client | None:
        """The boto3 client, if it exists."""

    @property
    def endpoint_url(self) -> str:
        """URL of the endpoint."""

    @property
    def is_amazon(self) -> bool:
        """Whether the endpoint is Amazon's, which redirects requests to the region of the bucket."""

    @property
    def credentials(self) -> Any:
        """Credentials with the method ``get_frozen_credentials``; None for anonymous requests."""

    @property
    def connect_timeout(self) -> float | None:
        """See `Server`."""

    @property
    def read_timeout(self) -> float | None:
        """See `Server`."""

    @property
    def refusal(self) -> str | None:
        """Why all requests have to go through boto3; None if nothing prevents direct ones."""

    def template(self, bucket: str) -> Template | None:
        """Host, path and signing scope of the requests to a bucket; None if only boto3 knows them."""

    def tls_context(self) -> ssl.SSLContext:
        """A TLS context that trusts the certificates that boto3 trusts."""


@dataclass(frozen=True)
class BotoAccess:
    """How a boto3 client reaches its endpoint.

    Attributes:
        client: The boto3 client.
        credentials: Its botocore credentials; None for anonymous requests.
        is_amazon: Whether the endpoint is Amazon's.
    """

    client: S3Client
    credentials: Any
    is_amazon: bool

    @property
    def endpoint_url(self) -> str:
        """URL of the endpoint."""
        return self.client.meta.endpoint_url

    @property
    def connect_timeout(self) -> float | None:
        """See `Server`."""
        config: Any = self.client.meta.config
        found: float | None = config.connect_timeout
        return found

    @property
    def read_timeout(self) -> float | None:
        """See `Server`."""
        config: Any = self.client.meta.config
        found: float | None = config.read_timeout
        return found

    @property
    def refusal(self) -> str | None:
        """See `refusal_of`."""
        return refusal_of(self.client)

    def template(self, bucket: str) -> Template:
        """See `template_of`."""
        return template_of(self.client, bucket)

    def tls_context(self) -> ssl.SSLContext:
        """See `tls_context_of`."""
        return tls_context_of(self.client)


class DirectClient:
    """A client with the methods of a boto3 client. Threads share it.

    Args:
        access: How to reach the endpoint.
        make_boto: Makes the boto3 client when it is needed.
        max_attempts: How often a request is sent at most.
        pool_size: The most idle connections that stay open to each server.
        sign_bodies: When bodies are signed; see `BodySigning`.
        min_throughput: The fewest bytes per second of an answer, averaged over each read timeout; 0 for no limit.
    """

    def __init__(
        self,
        access: Access,
        make_boto: Callable[[], S3Client],
        *,
        max_attempts: int,
        pool_size: int,
        sign_bodies: str = "auto",
        min_throughput: float = 0.0,
    ) -> None:
        self.endpoint_url = access.endpoint_url
        self.is_amazon = access.is_amazon
        self._access = access
        self._credentials = access.credentials
        self._make_boto = make_boto
        self._boto = access.client
        self._making = threading.Lock()
        self._policy = s3_requests(max_attempts)
        self._pool_size = pool_size
        self._operations = operations()
        self._listeners = Listeners(access.client)
        self._places: dict[str, _Place | None] = {}
        self._warned: dict[str, object] = {}
        self._pools: dict[tuple[str, str, int], Pool] = {}
        self._bodies: dict[tuple[str, str, int], BodySigning] = {}
        self._sign_bodies = sign_bodies
        self._min_throughput = min_throughput
        self._refusal: str | None = access.refusal

    def __getattr__(self, name: str) -> Any:
        if name in {"boto", "_boto", "_making"}:  # copy.copy asks before __init__ has run
            raise AttributeError(name)
        return getattr(self.boto, name)

    @property
    def boto(self) -> S3Client:
        """The boto3 client, which is made on first use."""
        if self._boto is None:
            with self._making:
                self._boto = self._boto or self._made_boto()
        return self._boto

    def _made_boto(self) -> S3Client:
        made = self._make_boto()
        self._listeners.client = made
        self._access = BotoAccess(made, self._credentials, self.is_amazon)
        self._refusal = self._refusal or self._access.refusal
        return made

    @property
    def refusal(self) -> str | None:
        """Why all requests to this endpoint go through boto3; None if they do not. Listeners do not count."""
        return self._refusal

    @property
    def pipeline(self) -> DirectClient | None:
        """This client; None if all requests to this endpoint go through boto3."""
        return self if self._refusal is None else None

    def close(self) -> None:
        """Close the idle connections of this process; the next request opens new ones."""
        for pool in list(self._pools.values()):
            pool.close()
        if self._boto is not None:
            self._boto.close()

    def head_object(self, **parameters: Any) -> dict[str, Any]:
        """HeadObject, as by boto3."""
        return self._call("head_object", parameters)

    def get_object(self, **parameters: Any) -> dict[str, Any]:
        """GetObject, as by boto3."""
        return self._call("get_object", parameters)

    def put_object(self, **parameters: Any) -> dict[str, Any]:
        """PutObject, as by boto3."""
        return self._call("put_object", parameters)

    def upload_part(self, **parameters: Any) -> dict[str, Any]:
        """UploadPart, as by boto3."""
        return self._call("upload_part", parameters)

    def create_multipart_upload(self, **parameters: Any) -> dict[str, Any]:
        """CreateMultipartUpload, as by boto3."""
        return self._call("create_multipart_upload", parameters)

    def complete_multipart_upload(self, **parameters: Any) -> dict[str, Any]:
        """CompleteMultipartUpload, as by boto3."""
        return self._call("complete_multipart_upload", parameters)

    def abort_multipart_upload(self, **parameters: Any) -> dict[str, Any]:
        """AbortMultipartUpload, as by boto3."""
        return self._call("abort_multipart_upload", parameters)

    def delete_object(self, **parameters: Any) -> dict[str, Any]:
        """DeleteObject, as by boto3."""
        return self._call("delete_object", parameters)

    def head_bucket(self, **parameters: Any) -> dict[str, Any]:
        """HeadBucket, as by boto3."""
        return self._call("head_bucket", parameters)

    def list_objects_v2(self, **parameters: Any) -> dict[str, Any]:
        """ListObjectsV2, as by boto3."""
        return self._call("list_objects_v2", parameters)

    def begin(self, method: str, parameters: dict[str, Any]) -> Started | None:
        """Send a request, and read its answer later. One thread can have many requests in progress in this way.

        The request is sent once. The caller repeats a failed one by the method, which retries.

        Args:
            method: The name of one of the methods above.
            parameters: The arguments of the method.

        Returns:
            The request in progress; None if it has to go through boto3.

        Raises:
            OSError: If the server cannot be reached or the connection breaks; `attempts_of` the exception is 1.
            Exception: If the request cannot be built or signed. Nothing was attempted.
        """
        prepared = self._prepared(method, parameters)
        return None if prepared is None else self.start(*prepared)

    def start(self, place: _Place, operation: Operation, request: Request, second: _Second | None = None) -> Started:
        """Send a request as `begin`, and perhaps a second one behind it."""
        head = _head(place, request)
        if second is not None:
            head += second.head
        try:
            changes, answers = request.method in _CHANGES, 1 if second is None else 2
            exchange = place.pool.begin(head, request.body, changes=changes, answers=answers)
        except OSError as error:
            note_attempts(error, 1)
            raise
        # It does not hold the request: with many in progress, all their bodies would stay in memory.
        return Started(self, place, operation, request.headers, exchange, second)

    def prepare(self, method: str, parameters: Mapping[str, Any]) -> Prepared | None:
        """Prepare requests that differ by their keys, and send them later, many at a time.

        Args:
            method: The name of one of the methods above.
            parameters: The arguments of the method that all requests have, with the bucket and without the key.

        Returns:
            The common part; None if these requests have to go through boto3.
        """
        prepared = self._prepared(method, {**parameters, "Key": "k"})
        if prepared is None:
            return None
        place, operation, request = prepared
        return Prepared(self, place, operation, str(parameters["Bucket"]), request.query, request.headers)

    def may_send(self, bucket: str, place: _Place) -> bool:
        """Whether a prepared request to a bucket may still be sent directly."""
        return self._refusal is None and self._places.get(bucket) is place and not self._listeners.any()

    def _prepared(self, method: str, parameters: dict[str, Any]) -> tuple[_Place, Operation, Request] | None:
        bucket = parameters.get("Bucket")
        if self._refusal is not None or not isinstance(bucket, str) or self._listeners.any():
            return None
        place = self._place(bucket)
        operation = self._operations[method]
        request = None if place is None else operation.request(place.template.path, parameters)
        return None if place is None or request is None else (place, operation, request)

    def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        prepared = self._prepared(method, parameters)
        if prepared is None:
            return self._by_boto(method, parameters)
        place, operation, request = prepared
        try:
            return self._exchange(place, operation, request)
        except NotDirectError as reason:
            self._places.pop(parameters["Bucket"], None)  # boto3 may learn the right region now: copy its next request
            _rewind(request.body)
            answer = self._by_boto(method, parameters)
            # boto3 succeeded, so the fault is ours. Amazon's endpoints are sound; there it was the region.
            if not self.is_amazon:
                self._refusal = str(reason)
                self._warn_once(place.template.endpoint_url, str(reason))
            return answer

    def _by_boto(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        send: Callable[[], Mapping[str, Any]] = partial(getattr(self.boto, method), **parameters)
        if runs_in_place():  # boto3 does not wait for the answer after Ctrl-C
            (answer,) = run_all([send], 1, Stop(running_stop()))
            return dict(answer)
        return dict(send())

    def _warn_once(self, subject: str, reason: str) -> None:
        """Log once per subject that boto3 sends the requests, even if many threads find that out at a time."""
        mine = object()
        if self._warned.setdefault(subject, mine) is mine:
            _logger.warning("%s: the direct engine cannot be used (%s); boto3 sends the requests", subject, reason)

    def _place(self, bucket: str) -> _Place | None:
        try:
            return self._places[bucket]
        except KeyError:
            pass
        try:
            place = self._places[bucket] = self._new_place(bucket)
        except NotDirectError as reason:
            self._places[bucket] = None
            self._warn_once(f"bucket {bucket!r}", str(reason))
            return None
        return place

    def _new_place(self, bucket: str) -> _Place:
        template = self._access.template(bucket) or template_of(self.boto, bucket)
        if template.scope is not None and self._credentials is None:
            raise NotDirectError("the credentials of its requests are unknown")
        signer = None if template.scope is None else Signer(template.scope, self._credentials)
        server = (template.scheme, template.host, template.port)
        bodies = self._bodies.setdefault(server, BodySigning(self._sign_bodies, encrypted=template.scheme == "https"))
        return _Place(template, self._pool(template), signer, bodies)

    def _pool(self, template: Template) -> Pool:
        key = (template.scheme, template.host, template.port)
        pool = self._pools.get(key)
        if pool is not None:
            return pool
        access = self._access
        tls = access.tls_context() if template.scheme == "https" else None
        server = Server(*key, access.connect_timeout, access.read_timeout, tls, self._min_throughput)
        return self._pools.setdefault(key, Pool(server, self._pool_size))

    def _exchange(self, place: _Place, operation: Operation, request: Request) -> dict[str, Any]:
        unused = False
        attempt = 0
        while True:
            attempt += 1
            failure: Exception
            try:
                outcome = self._attempt(place, operation, request, fresh=unused)
            except NotDirectError as reason:
                # boto3 sends the request again
                self._policy.report(_details(place, operation, request), attempt, reason, wait=0.0)
                raise
            except (OSError, ClosedEarlyError) as error:
                if attempt == self._policy.limit or not passes(error):
                    raise _unreachable(error, place.template.endpoint_url, attempt) from error
                unused = isinstance(error, ClosedEarlyError) and error.unused
                failure = error
            else:
                if not isinstance(outcome, ClientError):
                    return outcome
                if attempt == self._policy.limit or not is_transient(outcome):
                    outcome.response["ResponseMetadata"]["RetryAttempts"] = attempt - 1
                    raise outcome
                unused = False
                failure = outcome
            details = _details(place, operation, request)
            if unused:  # the server had closed an idle connection and is not busy: try a new connection at once
                self._policy.report(details, attempt, failure, wait=0.0)
            else:
                self._policy.again(details, attempt, failure)
            _rewind(request.body)

    def _attempt(
        self, place: _Place, operation: Operation, request: Request, *, fresh: bool
    ) -> dict[str, Any] | ClientError:
        """Send a request once; as `outcome`."""
        changes, bodiless = request.method in _CHANGES, request.method == "HEAD"
        head = _head(place, request)
        try:
            if not isinstance(request.body, bytes):
                begin_sending(request.body)
            answer = place.pool.request(head, request.body, changes=changes, bodiless=bodiless, fresh=fresh)
            return self.outcome(place, operation, request.headers, answer)
        except UnusableAnswerError as error:
            raise UnreadableAnswerError(f"its answer is not HTTP as S3 speaks it: {error}") from error
        except MalformedAnswerError as error:
            raise NotDirectError(f"an answer is not HTTP as S3 speaks it: {error}") from error

    def outcome(
        self, place: _Place, operation: Operation, sent: Mapping[str, str], answer: Answer
    ) -> dict[str, Any] | ClientError:
        """Turn an answer into the result or the exception of boto3.

        Args:
            place: The bucket.
            operation: The operation.
            sent: The headers of the request.
            answer: The answer.

        Returns:
            The result; or the exception, which the caller raises or retries.

        Raises:
            UnreadableAnswerError: If a header has an impossible value.
            NotDirectError: If the body is not HTTP, or the answer shows that only boto3 can send the request.
            OSError: If the connection breaks in the body.
        """
        found: dict[str, Any] = {}
        try:
            body = self._read(place, operation, sent, answer)
            if isinstance(body, ClientError):
                return body
            found = operation.answer(answer.status, answer.headers, body)
            if operation.name == "GetObject":
                found["Body"] = Body(answer, self.endpoint_url)
        except UnusableAnswerError as error:
            raise UnreadableAnswerError(str(error)) from error
        except UNPARSABLE as error:
            # boto3 reads headers by the same rules: it could not read this answer either.
            raise UnreadableAnswerError(
                f"its answer cannot be parsed: {type(error).__name__}: {str(error)[:200]}"
            ) from error
        except MalformedAnswerError as error:
            raise NotDirectError(f"an answer cannot be read: {error}") from error
        except ImportError as error:
            raise NotDirectError(f"this release of botocore is unknown: {error!r}") from error
        finally:
            if "Body" not in found:
                answer.close()
        return found

    def failure(self, place: _Place, operation: Operation, sent: Mapping[str, str], answer: Answer) -> ClientError | None:
        """The exception of boto3 for an answer that is an error; arguments as in `outcome`.

        The body of the answer is read, except that of a successful GetObject.

        Raises:
            NotDirectError: If the answer shows that only boto3 can send the request.
            MalformedAnswerError: If the body is not HTTP.
            OSError: If the connection breaks in the body.
        """
        found = self._read(place, operation, sent, answer)
        return found if isinstance(found, ClientError) else None

    def _read(self, place: _Place, operation: Operation, sent: Mapping[str, str], answer: Answer) -> bytes | ClientError:
        """The body of an answer, except that of an object, or the exception of boto3; as `failure`."""
        if answer.status not in _OK:
            return self._failure(place, operation, answer, answer.status, answer.beginning_of_error())
        if operation.name == "GetObject":
            return b""
        if operation.name == "CompleteMultipartUpload":
            answer.be_patient()
        most = _MAX_LISTING if operation.name == "ListObjectsV2" else _MAX_BODY
        body = answer.beginning(most).lstrip() if answer.length != 0 else b""
        if body and _LATE_ERROR.search(body, 0, _ERROR_BEGINS_WITHIN):
            return self._failure(place, operation, answer, _STATUS_OF_LATE_ERROR, body)
        if place.bodies.needed:
            place.bodies.learn(sent, answer.headers)
        return body

    def _failure(self, place: _Place, operation: Operation, answer: Answer, status: int, body: bytes) -> ClientError:
        try:
            parsed: Any = read_error(status, answer.headers, body)
        except ImportError as error:
            raise NotDirectError(f"this release of botocore is unknown: {error!r}") from error
        failure = ClientError(parsed, operation.name)
        code = str(parsed["Error"].get("Code", ""))
        elsewhere = answer.status in _REDIRECTS or code in _WRONG_REGION_CODES or "x-amz-bucket-region" in answer.headers
        if self.is_amazon and elsewhere and not _is_right_region(place, answer):
            raise NotDirectError("the bucket is in another region") from failure
        # A signed body that does not match its digest was changed on the way, and is sent again.
        corrupted = code == _DIGEST_MISMATCH and place.bodies.needed
        if code in _SIGNING_CODES and not corrupted:
            raise NotDirectError(f"the endpoint refuses our signatures ({code})") from failure
        return failure


@dataclass(frozen=True)
class Prepared:
    """The common part of many requests of one operation in one bucket."""

    _client: DirectClient
    _place: _Place
    _operation: Operation
    _bucket: str
    _query: str
    _headers: Mapping[str, str]

    def begin(self, key: str, headers: Mapping[str, str], body: bytes = b"") -> Started | None:
        """Send a request, and read its answer later; as `DirectClient.begin`.

        Args:
            key: The key.
            headers: Further headers, with names in lower case; their values are printable ASCII.
            body: The body.

        Returns:
            The request in progress; None if it has to go through boto3.
        """
        place = self._place
        if not key or not self._client.may_send(self._bucket, place):
            return None
        path = path_of(place.template.path, key)
        request = Request(self._operation.method, path, self._query, {**self._headers, **headers}, body, len(body))
        return self._client.start(place, self._operation, request)

    def begin_pair(self, key: str, second: Prepared) -> Started | None:
        """Send a request without a body, and another one directly behind it; read their answers later.

        Only a server that is known to answer both gets more than one pair at a time.

        Args:
            key: The key.
            second: The other request.

        Returns:
            The requests in progress, with `Started.second` if there are two; None if they have to go through boto3.
        """
        place, pool = self._place, self._place.pool
        if pool.takes_pairs is False:
            return self.begin(key, {})
        if not key or not self._client.may_send(self._bucket, place):
            return None
        is_trial = pool.takes_pairs is None
        if is_trial:
            pool.takes_pairs = False
        try:
            other = _Second(_head(place, second.request(key)), second.operation, is_trial=is_trial)
            return self._client.start(place, self._operation, self.request(key), other)
        except BaseException:
            if is_trial:
                pool.takes_pairs = None
            raise

    @property
    def operation(self) -> Operation:
        """The operation."""
        return self._operation

    def request(self, key: str) -> Request:
        """The request for a key, without a body."""
        path = path_of(self._place.template.path, key)
        return Request(self._operation.method, path, self._query, {**self._headers}, b"", 0)


@dataclass(frozen=True)
class _Second:
    """A request without a body that follows another one at once.

    Attributes:
        head: Request line and headers.
        operation: The operation.
        is_trial: Whether the server has not answered such a pair yet.
    """

    head: bytes
    operation: Operation
    is_trial: bool


@dataclass(slots=True)
class Started:
    """A request that was sent; its answer was not read yet."""

    _client: DirectClient
    _place: _Place
    _operation: Operation
    _sent: Mapping[str, str]
    _exchange: Exchange
    _second: _Second | None = None

    def finish(self) -> dict[str, Any]:
        """Read the answer.

        Returns:
            The result of the method.

        Raises:
            botocore.exceptions.ClientError: If the answer is an error.
            Exception: If no answer arrives, or if boto3 should send the request. The method itself handles both.
        """
        outcome = self._client.outcome(self._place, self._operation, self._sent, self._head())
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome

    def answer(self) -> Answer:
        """Read the answer without its translation into the result of boto3.

        Returns:
            The answer, which is not an error. Its body was read, except that of a GetObject.

        Raises:
            Exception: As `finish`.
        """
        try:
            answer = self._head()
            self._require_success(self._operation, self._sent, answer)
        except BaseException:
            self.close()
            raise
        return answer

    def second(self) -> Answer | None:
        """Read the answer to the second request, after the body of the first answer.

        Returns:
            The answer, which is not an error; None if there is only one request.

        Raises:
            Exception: As `finish`, also if the answer does not begin soon. The first answer cannot be trusted then: if a
                proxy has lost one answer or has confused the two, the content may be that of the other one.
        """
        second, self._second = self._second, None
        if second is None:
            return None
        exchange, pool = self._exchange, self._place.pool
        # After one was lost, those of the other pairs have had their time.
        patience = 0.0 if pool.takes_pairs is False and not second.is_trial else _PAIR_SECONDS
        try:
            answer = exchange.answer(bodiless=second.operation.method == "HEAD", within=patience)
            self._require_success(second.operation, {}, answer)
        except BaseException as error:
            exchange.end(keep=False)
            if isinstance(error, Exception) and not isinstance(error, ClientError):
                pool.takes_pairs = False
            elif second.is_trial:
                pool.takes_pairs = None
            raise
        if second.is_trial:
            pool.takes_pairs = True
        return answer

    def close(self) -> None:
        """Close the connection, if there is a second answer that was not read."""
        second, self._second = self._second, None
        if second is None:
            return
        self._exchange.end(keep=False)
        if second.is_trial:  # which decided nothing
            self._place.pool.takes_pairs = None

    def _require_success(self, operation: Operation, sent: Mapping[str, str], answer: Answer) -> None:
        failure = self._client.failure(self._place, operation, sent, answer)
        if failure is not None:
            raise failure

    def _head(self) -> Answer:
        return self._exchange.answer(bodiless=self._operation.method == "HEAD")


class Body:
    """The body of an object, as botocore's ``StreamingBody``.

    Args:
        answer: The answer.
        endpoint_url: URL of the endpoint, for messages.
    """

    def __init__(self, answer: Answer, endpoint_url: str) -> None:
        self._answer = answer
        self._endpoint_url = endpoint_url

    def iter_chunks(self, chunk_size: int = 2**18, buffer: Memory | None = None) -> Iterator[memoryview]:
        """Read the body piece by piece.

        Args:
            chunk_size: The most bytes in a piece. Default 256 KiB.
            buffer: Memory for the pieces, as in `Answer.pieces`.

        Yields:
            The pieces, in order.

        Raises:
            botocore.exceptions.HTTPClientError: If the connection breaks before the end of the body.
            TransferStopped: If this thread's transfer was cancelled.
        """
        try:
            yield from self._answer.pieces(chunk_size, buffer)
        except (OSError, MalformedAnswerError) as error:
            check_stop()
            raise _unreachable(error, self._endpoint_url) from error

    def read(self) -> bytes:
        """Read the complete body; as `iter_chunks`."""
        return b"".join(self.iter_chunks())

    def close(self) -> None:
        """Close the connection, unless the complete body was read."""
        self._answer.close()


def _details(place: _Place, operation: Operation, request: Request) -> ErrorDetails:
    return ErrorDetails("s3", f"{place.template.endpoint_url}{request.path}", operation.name)


def _head(place: _Place, request: Request) -> bytes:
    """Request line and headers, signed."""
    headers = {"host": place.template.host_header, **request.headers}
    if request.method in _CHANGES:
        headers["content-length"] = str(request.body_length)
    if place.signer is None:
        lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    else:
        headers["x-amz-content-sha256"] = _digest(place, request)
        lines = place.signer.lines(request.method, request.path, request.query, headers)
    # The query of CreateMultipartUpload is a name without a value, which the signature lists as empty.
    query = request.query if "&" in request.query else request.query.removesuffix("=")
    target = f"{request.path}?{query}" if query else request.path
    unsigned = f"accept-encoding: identity\r\nuser-agent: {place.template.user_agent}"
    return f"{request.method} {target} HTTP/1.1\r\n{lines}\r\n{unsigned}\r\n\r\n".encode("ascii")


def _digest(place: _Place, request: Request) -> str:
    if not request.body_length:
        return EMPTY
    # Documents are signed as boto3 signs them. They are small.
    return digest_of(request.body) if place.bodies.needed or request.method == "POST" else UNSIGNED


def _is_right_region(place: _Place, answer: Answer) -> bool:
    """Whether the answer names the region of the bucket, and the request went to that region."""
    region = answer.headers.get("x-amz-bucket-region")
    scope = place.template.scope
    return answer.status not in _REDIRECTS and region is not None and scope is not None and scope.region == region


def _rewind(body: Any) -> None:
    if hasattr(body, "seek"):
        body.seek(0)


def _unreachable(error: Exception, endpoint_url: str, attempts: int | None = None) -> Exception:
    """The exception of boto3 for a request without a complete answer.

    Args:
        error: The failure of the connection.
        endpoint_url: URL of the endpoint, for the message.
        attempts: How often the request was sent, to note on the exception.
    """
    failure = _of_boto3(error, endpoint_url)
    if attempts is not None:
        note_attempts(failure, attempts)
    return failure


def _of_boto3(error: Exception, endpoint_url: str) -> Exception:
    if isinstance(error, ssl.SSLError):
        return boto.SSLError(endpoint_url=endpoint_url, error=error)
    if isinstance(error, CannotConnectError):
        timed_out = isinstance(error.__cause__, TimeoutError)
        kind = boto.ConnectTimeoutError if timed_out else boto.EndpointConnectionError
        return kind(endpoint_url=endpoint_url, error=error.__cause__)
    if isinstance(error, (TimeoutError, BlockingIOError)):
        return boto.ReadTimeoutError(endpoint_url=endpoint_url, error=error)
    if isinstance(error, (ClosedEarlyError, ConnectionError)):
        return boto.ConnectionClosedError(endpoint_url=endpoint_url, error=error)
    return boto.HTTPClientError(error=error)


def refusal_of(client: S3Client) -> str | None:
    """Why no request of a boto3 client can be sent directly, judged by its settings; None if nothing prevents it."""
    try:
        return _refusal_of(client)
    except (AttributeError, KeyError, TypeError) as error:
        return f"this release of botocore is unknown: {error!r}"


def _refusal_of(client: S3Client) -> str | None:
    from botocore import httpsession  # with the boto3 client

    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if type(session) is not httpsession.URLLib3Session:
        return "the HTTP session of the boto3 client is not botocore's own"
    settings = vars(session)
    config: Any = client.meta.config
    if settings["_proxy_config"].proxy_url_for(client.meta.endpoint_url):
        return "requests go through a proxy"
    if settings["_cert_file"] is not None:
        return "requests need a client certificate"
    if (config.s3 or {}).get("payload_signing_enabled"):
        return "payload_signing_enabled is set"
    return None


def tls_context_of(client: S3Client) -> ssl.SSLContext:
    """A TLS context that trusts the certificates that a boto3 client trusts.

    Raises:
        NotDirectError: If these certificates cannot be found or read. boto3 then sends the requests, or reports the cause.
    """
    try:
        return _tls_context_of(client)
    except (AttributeError, KeyError, TypeError, OSError) as error:
        raise NotDirectError(f"the certificates to trust are unknown: {error!r}") from error


def _tls_context_of(client: S3Client) -> ssl.SSLContext:
    from botocore import httpsession  # with the boto3 client

    settings = vars(client._endpoint.http_session)  # type: ignore[attr-defined]  # noqa: SLF001 - botocore has no other way
    context: ssl.SSLContext = httpsession.create_urllib3_context()
    verify = settings["_verify"]
    if verify:
        context.load_verify_locations(httpsession.get_cert_path(verify))
        context.verify_mode = ssl.CERT_REQUIRED
        context.check_hostname = True
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
