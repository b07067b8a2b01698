"""Making boto3 clients: one for each filesystem and process, from the options that s3fs knows."""

from __future__ import annotations

import logging
import random
import re
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from gllm_storage.concurrency.fork import PerProcess
from gllm_storage.concurrency.stop import check_stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mypy_boto3_s3.client import S3Client

_logger = logging.getLogger(__name__)

_AMAZON = re.compile(r"(.*\.)?(amazonaws\.com(\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.com\.cn)")

ENGINES = ("auto", "boto3")
BODY_SIGNING = ("auto", "always", "never")

_CLIENT_DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10,
    "read_timeout": 60,
    # "standard" waits up to 1, 2, 4, 8 s with full jitter; "legacy", botocore's default, does not know throttling codes.
    "retries": {"mode": "standard", "total_max_attempts": 5},
    "tcp_keepalive": True,
    # We compute and check checksums ourselves (checksums.py). botocore's default over https is a trailing checksum, which
    # Ceph 16 and rclone refuse and some servers store as data; and its check of a range against a checksum of the whole,
    # which rclone sends, fails a good download.
    "request_checksum_calculation": "when_required",
    "response_checksum_validation": "when_required",
}


def require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Check an option of the filesystem.

    Raises:
        ValueError: If the value is none of those that are allowed.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def pool_size(max_concurrency: int) -> int:
    """How many connections are kept for transfers that have so many requests under way, of which there may be some."""
    return max(10, 2 * max_concurrency)


@dataclass(frozen=True)
class Connection:
    """How to reach a store. Secrets are not shown.

    Attributes:
        client_options: Arguments of boto3's ``Session.client("s3", …)``, without the config.
        config_options: Arguments of botocore's ``Config``; ours are put below them.
        profile_name: Name of a profile of the AWS configuration files.
        anonymous: Whether requests go out unsigned.
        pool_size: How many connections are kept open.
        engine: ``"auto"`` sends the hot requests straight to a socket, where nothing speaks against it (`DirectClient`);
            ``"boto3"`` sends all through boto3.
        sign_bodies: When the direct engine makes bodies a part of the signature; see `BodySigning`.
    """

    client_options: Mapping[str, Any] = field(repr=False)
    config_options: Mapping[str, Any] = field(repr=False)
    profile_name: str | None = None
    anonymous: bool = False
    pool_size: int = 10
    engine: str = "auto"
    sign_bodies: str = "auto"

    def make_client(self) -> S3Client:
        """A new client: boto3's, or one that is used like it.

        Raises:
            botocore.exceptions.BotoCoreError: If the profile is unknown or the configuration is broken.
        """
        # Imported here: boto3 takes about 0.2 s to load, and importing gllm_storage should not.
        import boto3  # noqa: PLC0415
        from botocore import UNSIGNED  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415

        options = {**_CLIENT_DEFAULTS, "max_pool_connections": self.pool_size, **self.config_options}
        if self.anonymous:
            options["signature_version"] = UNSIGNED
        # A session of its own: boto3's default session is shared, and making clients from it is not thread-safe.
        session = boto3.session.Session(profile_name=self.profile_name)
        client = session.client("s3", config=Config(**options), **self.client_options)
        client.meta.events.register("before-send.s3", check_stop)
        most = options["retries"].get("total_max_attempts", 1)
        retry: Any = partial(_retry_429, most)
        client.meta.events.register("needs-retry.s3", retry)
        if not is_amazon(client):
            client.meta.events.register("before-call.s3", _stay_at_endpoint)
        return client if self.engine == "boto3" else self._direct_or(client, session, most)

    def _direct_or(self, client: S3Client, session: Any, max_attempts: int) -> S3Client:
        """The direct engine on top of a client; or the client, where botocore has moved what the engine needs of it."""
        try:
            return self._direct(client, session, max_attempts)
        except (ImportError, AttributeError, KeyError, TypeError) as error:
            _logger.warning("the direct engine does not know this release of botocore (%r); boto3 sends all requests", error)
            return client

    def _direct(self, client: S3Client, session: Any, max_attempts: int) -> S3Client:
        from botocore.credentials import Credentials  # noqa: PLC0415 - as above

        from gllm_storage.s3.http.client import DirectClient  # noqa: PLC0415 - as above
        from gllm_storage.s3.http.template import catch_if_asked  # noqa: PLC0415 - as above

        client.meta.events.register("before-send.s3", catch_if_asked)
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        key, secret, token = (self.client_options.get(name) for name in names)
        credentials: Any = None
        if key and secret:
            credentials = Credentials(key, secret, token)
        elif not self.anonymous:
            credentials = session.get_credentials()
        direct: Any = DirectClient(
            client,
            credentials,
            max_attempts=max_attempts,
            is_amazon=is_amazon(client),
            pool_size=self.pool_size,
            sign_bodies=self.sign_bodies,
        )
        return cast("S3Client", direct)


class Connections:
    """The boto3 client of a filesystem, made once in each process on first use.

    Args:
        connection: How to reach the store.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._client: PerProcess[S3Client] = PerProcess(connection.make_client)

    @property
    def client(self) -> S3Client:
        """The client of this process. boto3 clients may be shared by threads."""
        return self._client.get()


def _retry_429(most: int, attempts: int, response: Any, **_: Any) -> float | None:
    """Let botocore wait and try again after 429, which is how some stores say SlowDown; its standard mode does not.

    Args:
        most: How often a request is sent in all.
        attempts: How often it was.
        response: The HTTP answer and what was read from it, if there was one.

    Returns:
        Seconds to wait, or None not to try again.
    """
    if response is None or response[0].status_code != HTTPStatus.TOO_MANY_REQUESTS or attempts >= most:
        return None
    return random.uniform(0, min(3.0, 0.1 * 2**attempts))  # noqa: S311 - jitter, not a secret


def _stay_at_endpoint(context: dict[str, Any], **_: Any) -> None:
    """Tell botocore that a request was sent on to the right region already.

    Regions are Amazon's. From any other server a 301, 302 or 400 starts a search for the bucket's region, which for a web
    server that redirects everything ends in a RecursionError after hundreds of requests.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


def is_amazon(client: S3Client) -> bool:
    """Whether requests go to Amazon itself, judged by the endpoint that botocore resolved.

    Our own config does not tell: ``AWS_ENDPOINT_URL`` and profiles set an endpoint, too.
    """
    return _AMAZON.fullmatch(urlsplit(client.meta.endpoint_url).hostname or "") is not None
