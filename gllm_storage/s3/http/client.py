"""`DirectClient`: a boto3 client for S3 whose hot requests go straight to a socket."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from botocore import exceptions as boto
from botocore.exceptions import ClientError

from gllm_storage.concurrency.stop import check_stop
from gllm_storage.errors import ErrorDetails, note_attempts
from gllm_storage.s3.errors import is_transient
from gllm_storage.s3.http.endpoint import refusal_of, tls_context_of
from gllm_storage.s3.http.guard import Listeners
from gllm_storage.s3.http.operations import Operation, Request, operations_of
from gllm_storage.s3.http.pool import Answer, Exchange, Pool
from gllm_storage.s3.http.signing import EMPTY, UNSIGNED, BodySigning, Signer, digest_of
from gllm_storage.s3.http.template import NotDirectError, Template, template_of
from gllm_storage.s3.http.wire import CannotConnectError, ClosedEarlyError, MalformedAnswerError, Server
from gllm_storage.store.retry import s3_requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mypy_boto3_s3.client import S3Client

_logger = logging.getLogger(__name__)

_OK = range(200, 300)
_REDIRECTS = frozenset({301, 302, 307, 308})
_WRONG_REGION_CODES = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_OTHER_BODY = "XAmzContentSHA256Mismatch"
_SIGNING_CODES = frozenset({"SignatureDoesNotMatch", _OTHER_BODY})
_FAILED_LATE = 500
_ERROR_BEGINS = 200
_CHANGES = frozenset({"PUT", "DELETE"})


@dataclass
class _Place:
    """A bucket, and how to reach it."""

    template: Template
    pool: Pool
    signer: Signer | None
    bodies: BodySigning


class DirectClient:
    """Has the methods of a boto3 client, takes the same arguments, returns the same and raises the same.

    What it cannot do as well as boto3 goes to boto3: other operations, arguments that need more than a header, buckets with
    sessions, proxies, and everything while somebody listens.

    Args:
        client: The boto3 client.
        credentials: botocore's, of the same client; None for anonymous requests.
        max_attempts: How often a request is sent in all.
        is_amazon: Whether it talks to Amazon itself, which sends requests on to other regions.
        pool_size: How many connections are kept open.
        sign_bodies: When bodies are part of a request's signature; see `BodySigning`.
    """

    def __init__(
        self,
        client: S3Client,
        credentials: Any,
        *,
        max_attempts: int,
        is_amazon: bool,
        pool_size: int,
        sign_bodies: str = "auto",
    ) -> None:
        self.boto = client
        self.meta = client.meta
        self.exceptions = client.exceptions
        self._credentials = credentials
        self._policy = s3_requests(max_attempts)
        self._is_amazon = is_amazon
        self._pool_size = pool_size
        self._operations = operations_of(client)
        self._listeners = Listeners(client)
        self._places: dict[str, _Place | None] = {}
        self._told: dict[str, object] = {}
        self._pools: dict[tuple[str, str, int], Pool] = {}
        self._bodies: dict[tuple[str, str, int], BodySigning] = {}
        self._sign_bodies = sign_bodies
        self._refusal: str | None = refusal_of(client)

    def __getattr__(self, name: str) -> Any:
        if name == "boto":  # not made yet, as in a copy
            raise AttributeError(name)
        return getattr(self.boto, name)

    @property
    def refusal(self) -> str | None:
        """Why all requests go through boto3, if they do and not only because somebody listens."""
        return self._refusal

    @property
    def pipeline(self) -> DirectClient | None:
        """This client, if it sends requests itself; None if all requests go through boto3."""
        return self if self._refusal is None else None

    def head_object(self, **parameters: Any) -> dict[str, Any]:
        """HeadObject; as boto3's."""
        return self._call("head_object", parameters)

    def get_object(self, **parameters: Any) -> dict[str, Any]:
        """GetObject; as boto3's."""
        return self._call("get_object", parameters)

    def put_object(self, **parameters: Any) -> dict[str, Any]:
        """PutObject; as boto3's."""
        return self._call("put_object", parameters)

    def upload_part(self, **parameters: Any) -> dict[str, Any]:
        """UploadPart; as boto3's."""
        return self._call("upload_part", parameters)

    def delete_object(self, **parameters: Any) -> dict[str, Any]:
        """DeleteObject; as boto3's."""
        return self._call("delete_object", parameters)

    def begin(self, method: str, parameters: dict[str, Any]) -> Started | None:
        """Send a request once, whose answer is read later: many may be under way in one thread.

        Args:
            method: One of the five above.
            parameters: Its arguments.

        Returns:
            None where it has to go through boto3.

        Raises:
            Exception: What kept it from being sent; the method itself tries again.
        """
        prepared = self._prepared(method, parameters)
        if prepared is None:
            return None
        place, operation, request = prepared
        changes = request.method in _CHANGES
        exchange = place.pool.begin(_head(place, request), request.body, changes=changes)
        # Without the request: many may be under way, and their bodies need not stay in memory.
        return Started(self, place, operation, request.headers, exchange)

    def _prepared(self, method: str, parameters: dict[str, Any]) -> tuple[_Place, Operation, Request] | None:
        bucket = parameters.get("Bucket")
        if self._refusal is not None or not isinstance(bucket, str) or self._listeners.any():
            return None
        place = self._place(bucket)
        operation = self._operations[method]
        request = None if place is None else operation.request(place.template.path, parameters)
        return None if place is None or request is None else (place, operation, request)

    def _call(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        through_boto = partial(getattr(self.boto, method), **parameters)
        prepared = self._prepared(method, parameters)
        if prepared is None:
            return dict(through_boto())
        place, operation, request = prepared
        try:
            return self._exchange(place, operation, request)
        except NotDirectError as why:
            self._places.pop(parameters["Bucket"], None)  # boto3 may learn of another region now
            _rewind(request.body)
            answer = dict(through_boto())
            # It answers boto3, so that it is we whom it does not understand.
            if not self._is_amazon:
                self._refusal = str(why)
                self._tell(place.template.endpoint_url, str(why))
            return answer

    def _tell(self, where: str, why: str) -> None:
        """Log once why boto3 goes on, whatever the number of threads that find out."""
        mine = object()
        if self._told.setdefault(where, mine) is mine:
            _logger.warning("%s: the direct engine cannot talk to it (%s); going on with boto3", where, why)

    def _place(self, bucket: str) -> _Place | None:
        try:
            return self._places[bucket]
        except KeyError:
            pass
        try:
            place = self._places[bucket] = self._new_place(bucket)
        except NotDirectError as why:
            self._places[bucket] = None
            self._tell(f"bucket {bucket!r}", str(why))
            return None
        return place

    def _new_place(self, bucket: str) -> _Place:
        template = template_of(self.boto, bucket)
        if template.scope is not None and self._credentials is None:
            raise NotDirectError("its credentials are not known")
        signer = None if template.scope is None else Signer(template.scope, self._credentials)
        server = (template.scheme, template.host, template.port)
        bodies = self._bodies.setdefault(server, BodySigning(self._sign_bodies, encrypted=template.scheme == "https"))
        return _Place(template, self._pool(template), signer, bodies)

    def _pool(self, template: Template) -> Pool:
        key = (template.scheme, template.host, template.port)
        pool = self._pools.get(key)
        if pool is not None:
            return pool
        config: Any = self.meta.config
        tls = tls_context_of(self.boto) if template.scheme == "https" else None
        server = Server(*key, config.connect_timeout, config.read_timeout, tls)
        return self._pools.setdefault(key, Pool(server, self._pool_size))

    def _exchange(self, place: _Place, operation: Operation, request: Request) -> dict[str, Any]:
        details = ErrorDetails("s3", f"{place.template.endpoint_url}{request.path}", operation.name)
        unused = False
        attempt = 0
        while True:
            attempt += 1
            failure: Exception
            try:
                outcome = self.outcome(place, operation, request.headers, self._send(place, request, fresh=unused))
            except MalformedAnswerError as error:
                raise NotDirectError(f"its answer is not HTTP: {error}") from error
            except (OSError, ClosedEarlyError) as error:
                if attempt == self._policy.limit or isinstance(error, ssl.SSLCertVerificationError):
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
            if unused:  # the server had closed an idle connection, and may never have seen the request
                self._policy.report(details, attempt, failure, wait=0.0)
            else:
                self._policy.again(details, attempt, failure)
            _rewind(request.body)

    def _send(self, place: _Place, request: Request, *, fresh: bool) -> Answer:
        changes, bodiless = request.method in _CHANGES, request.method == "HEAD"
        return place.pool.request(_head(place, request), request.body, changes=changes, bodiless=bodiless, fresh=fresh)

    def outcome(
        self, place: _Place, operation: Operation, sent: Mapping[str, str], answer: Answer
    ) -> dict[str, Any] | ClientError:
        """What boto3 returns for an answer to a request with some headers, or raises.

        Raises:
            NotDirectError: If boto3 should try.
            OSError: If the answer breaks off.
        """
        if answer.status not in _OK:
            return self._failure(place, operation, answer, answer.status, _error_body(answer))
        found: dict[str, Any] = {}
        try:
            found = operation.answer(answer.status, answer.headers)
            if operation.name == "GetObject":
                found["Body"] = Body(answer, self.meta.endpoint_url)
                return found
            body = answer.read()
        except (ValueError, MalformedAnswerError) as error:
            raise NotDirectError(f"its answer cannot be read: {error}") from error
        finally:
            if "Body" not in found:
                answer.close()
        if b"<Error>" in body[:_ERROR_BEGINS]:
            return self._failure(place, operation, answer, _FAILED_LATE, body)
        place.bodies.learn(sent, answer.headers)
        return found

    def _failure(self, place: _Place, operation: Operation, answer: Answer, status: int, body: bytes) -> ClientError:
        parsed: Any = operation.error(status, answer.headers, body)
        failure = ClientError(parsed, operation.name)
        code = str(parsed["Error"].get("Code", ""))
        elsewhere = answer.status in _REDIRECTS or code in _WRONG_REGION_CODES or "x-amz-bucket-region" in answer.headers
        if self._is_amazon and elsewhere and not _is_right_region(place, answer):
            raise NotDirectError("the bucket is in another region") from failure
        flipped = code == _OTHER_BODY and place.bodies.needed  # it was signed, and is another one there
        if code in _SIGNING_CODES and not flipped:
            raise NotDirectError(f"it refuses how requests are signed ({code})") from failure
        return failure


@dataclass(frozen=True)
class Started:
    """A request that was sent, and whose answer was not read yet."""

    _client: DirectClient
    _place: _Place
    _operation: Operation
    _sent: Mapping[str, str]
    _exchange: Exchange

    def finish(self) -> dict[str, Any]:
        """What the method returns.

        Raises:
            Exception: What the method raises, or that it should be called: it tries again where this does not.
        """
        answer = self._exchange.answer(bodiless=self._operation.method == "HEAD")
        outcome = self._client.outcome(self._place, self._operation, self._sent, answer)
        if isinstance(outcome, ClientError):
            raise outcome
        return outcome


class Body:
    """The body of an object, as botocore's ``StreamingBody``.

    Args:
        answer: The answer.
        endpoint_url: Whose it is, for messages.
    """

    def __init__(self, answer: Answer, endpoint_url: str) -> None:
        self._answer = answer
        self._endpoint_url = endpoint_url

    def iter_chunks(self, chunk_size: int = 2**18, buffer: memoryview | None = None) -> Iterator[memoryview]:
        """Pieces of the body.

        Args:
            chunk_size: The most bytes in one.
            buffer: Where they are put, as `Answer.pieces`; each in a buffer of its own if None.

        Yields:
            What comes.

        Raises:
            botocore.exceptions.HTTPClientError: If it breaks off.
        """
        try:
            yield from self._answer.pieces(chunk_size, buffer)
        except (OSError, MalformedAnswerError) as error:
            check_stop()
            raise _unreachable(error, self._endpoint_url) from error

    def read(self) -> bytes:
        """All of it.

        Raises:
            botocore.exceptions.HTTPClientError: If it breaks off.
        """
        return b"".join(self.iter_chunks())

    def close(self) -> None:
        """Have done with it."""
        self._answer.close()


def _error_body(answer: Answer) -> bytes:
    try:
        return answer.read()
    except (OSError, MalformedAnswerError):
        return b""  # the status says enough
    finally:
        answer.close()


def _head(place: _Place, request: Request) -> bytes:
    """Request line and headers, signed."""
    headers = {"host": place.template.host_header, **request.headers}
    if request.method in _CHANGES:
        headers["content-length"] = str(request.body_length)
    if place.signer is not None:
        headers["x-amz-content-sha256"] = _digest(place, request)
        headers = place.signer.sign(request.method, request.path, request.query, headers)
    target = f"{request.path}?{request.query}" if request.query else request.path
    lines = "\r\n".join([f"{name}: {value}" for name, value in headers.items()])
    unsigned = f"accept-encoding: identity\r\nuser-agent: {place.template.user_agent}"
    return f"{request.method} {target} HTTP/1.1\r\n{lines}\r\n{unsigned}\r\n\r\n".encode("ascii")


def _digest(place: _Place, request: Request) -> str:
    if not request.body_length:
        return EMPTY
    return digest_of(request.body) if place.bodies.needed else UNSIGNED


def _is_right_region(place: _Place, answer: Answer) -> bool:
    """Whether an answer that names the bucket's region names the one that was asked."""
    region = answer.headers.get("x-amz-bucket-region")
    scope = place.template.scope
    return answer.status not in _REDIRECTS and region is not None and scope is not None and scope.region == region


def _rewind(body: Any) -> None:
    if hasattr(body, "seek"):
        body.seek(0)


def _unreachable(error: Exception, endpoint_url: str, attempts: int | None = None) -> Exception:
    """boto3's exception for a request without an answer."""
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
