"""`PlainAccess`: address, credentials and certificates of an endpoint, found without boto3's client.

boto3's client takes most of the first verb of a process: it reads the models of all services and of S3. Most endpoints are
plain: a URL or a region of Amazon, and keys that are given, or stand in the environment or in a profile. `plain_access`
knows exactly these. Everything that it does not know, be it an option, a variable ``AWS_…`` or a key of a configuration
file, leaves the endpoint to boto3, and so does everything that is wrong: boto3 reports it.

Keys are looked up in the order of botocore: the options; the environment, unless the options name a profile; the profile. If
there are none, botocore's session looks for roles, tokens, processes and machines, still without a client.
tests/unit/s3/test_access.py compares the results with boto3's.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import botocore
from botocore.exceptions import BotoCoreError

from gllm_storage.s3.http.signing import Scope
from gllm_storage.s3.http.template import NotDirectError, Template

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from gllm_storage.s3.connection import Endpoint

_logger = logging.getLogger(__name__)

_OPTIONS = frozenset(
    {"aws_access_key_id", "aws_secret_access_key", "aws_session_token", "endpoint_url", "region_name", "use_ssl", "verify"}
)
"""Arguments of ``Session.client``."""
_CONFIG = frozenset(
    {
        "connect_timeout",
        "max_pool_connections",
        "read_timeout",
        "request_checksum_calculation",
        "response_checksum_validation",
        "retries",
        "s3",
        "tcp_keepalive",
    }
)
"""Arguments of ``Config``."""
_NOT_FROM_ENVIRONMENT = {
    "ignore_configured_endpoint_urls": True,
    "use_dualstack_endpoint": False,
    "use_fips_endpoint": False,
}
"""Arguments of ``Config`` with which boto3 reads no address from the environment."""
_STYLES = frozenset({"auto", "path", "virtual"})

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_TOKENS = ("AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
_PROFILES = ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")
_FILES = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
_MODELS = "~/.aws/models"
"""A folder of models that replace botocore's own."""
_READ = frozenset({*_KEYS, *_TOKENS, *_PROFILES, *_FILES, "AWS_DEFAULT_REGION", "AWS_CA_BUNDLE"})
"""Variables that this module reads."""
_IRRELEVANT = frozenset(
    {
        "AWS_DEFAULT_OUTPUT",
        "AWS_EXECUTION_ENV",
        "AWS_PAGER",
        "AWS_REGION",
        "AWS_SDK_LOAD_CONFIG",
        "AWS_EC2_METADATA_DISABLED",
    }
)
"""Variables that boto3 ignores, or that change nothing about a request but the name of its client."""
_OF_CHAIN = frozenset(
    {
        "AWS_ACCOUNT_ID",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CREDENTIAL_EXPIRATION",
        "AWS_CREDENTIAL_FILE",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE",
        "AWS_EC2_METADATA_V1_DISABLED",
        "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
        "AWS_METADATA_SERVICE_TIMEOUT",
        "AWS_ROLE_ARN",
        "AWS_ROLE_SESSION_NAME",
        "AWS_STS_REGIONAL_ENDPOINTS",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
    }
)
"""Variables of credentials that botocore's session looks for."""
_PROFILE_KEYS = frozenset(
    {
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_security_token",
        "ca_bundle",
        "output",
        "region",
    }
)
"""Keys of a profile that this module reads, or that change nothing."""
_PROFILE_KEYS_OF_CHAIN = frozenset(
    {
        "aws_account_id",
        "credential_process",
        "credential_source",
        "duration_seconds",
        "external_id",
        "mfa_serial",
        "role_arn",
        "role_session_name",
        "source_profile",
        "sso_account_id",
        "sso_region",
        "sso_registration_scopes",
        "sso_role_name",
        "sso_session",
        "sso_start_url",
        "web_identity_token_file",
    }
)
"""Keys of a profile about credentials that botocore's session looks for."""

_LABEL = r"[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?"
_SERVER = re.compile(rf"https?://(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:]+\])(?::[1-9][0-9]{{0,4}})?/?")
_AMAZON_REGION = re.compile(r"(?:us|eu|ap|sa|ca|me|af|il|mx)-[a-z]+-[0-9]+")
"""Regions of the partition ``aws``."""
_REGION = re.compile(r"(?!aws-|s3-|fips-)[a-z0-9](?:[a-z0-9\-]{0,60}[a-z0-9])?(?<!-fips)")
_DEFAULT_REGION = "us-east-1"
_NAME_IN_HOST = re.compile(r"[a-z0-9][a-z0-9\-]{1,61}[a-z0-9]")
_NAME_IN_PATH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{1,61}[A-Za-z0-9]")
_SPECIAL_NAME = re.compile(r".*(?:--|\.\.|-s3alias$)")
"""Names that may be an access point or a directory bucket, and names that botocore refuses."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Keys(NamedTuple):
    """Keys that do not expire, with the method of botocore's credentials that signing needs."""

    access_key: str
    secret_key: str
    token: str | None = None

    def get_frozen_credentials(self) -> Self:
        """These keys."""
        return self


@dataclass(frozen=True)
class PlainAccess:
    """How to reach an endpoint.

    Attributes:
        endpoint_url: URL of the server; at Amazon that of the region.
        is_amazon: Whether it is Amazon.
        credentials: `Keys`, or credentials of botocore; None for anonymous requests.
        region: The region of signatures.
        style: ``"auto"``, ``"path"`` or ``"virtual"``.
        verify: The file with the certificates to trust; True for the default, False for any certificate.
        connect_timeout: See `Server`.
        read_timeout: See `Server`.
        session: The session of botocore that found the credentials, for the client to share it; None if there is none.
    """

    endpoint_url: str
    is_amazon: bool
    credentials: Any = field(repr=False)
    region: str
    style: str
    verify: str | bool
    connect_timeout: float | None
    read_timeout: float | None
    session: Any = None

    def pinned(self, endpoint: Endpoint) -> Endpoint:
        """The endpoint, with options that keep what was found, although the environment may change before boto3 reads it."""
        found: dict[str, Any] = {"region_name": self.region, "verify": self.verify}
        if isinstance(self.credentials, Keys):
            names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
            keys = zip(names, self.credentials, strict=True)
            found.update((name, value) for name, value in keys if value is not None)
        return replace(
            endpoint,
            client_options={**endpoint.client_options, **found},
            config_options={**endpoint.config_options, **_NOT_FROM_ENVIRONMENT},
        )

    @property
    def client(self) -> None:
        """None: there is no boto3 client."""

    @property
    def refusal(self) -> str | None:
        """None: an endpoint that has to go through boto3 is not plain."""
        return None

    def template(self, bucket: str) -> Template | None:
        """Host, path and signing scope of the requests to a bucket; None if only boto3 knows them."""
        by_path = self.style == "path" or not self.is_amazon
        if not (_NAME_IN_PATH if by_path else _NAME_IN_HOST).fullmatch(bucket) or _SPECIAL_NAME.match(bucket):
            return None
        url = urlsplit(self.endpoint_url)
        port = url.port or _DEFAULT_PORTS[url.scheme]
        name = url.netloc.partition("]")[0] + "]" if "]" in url.netloc else str(url.hostname)
        shown = name if port == _DEFAULT_PORTS[url.scheme] else f"{name}:{port}"
        return Template(
            scheme=url.scheme,
            host=str(url.hostname) if by_path else f"{bucket}.{url.hostname}",
            port=port,
            host_header=shown if by_path else f"{bucket}.{shown}",
            path=f"/{bucket}/" if by_path else "/",
            user_agent=_user_agent(),
            scope=None if self.credentials is None else Scope(self.region, "s3"),
        )

    def tls_context(self) -> ssl.SSLContext:
        """A TLS context that trusts the certificates that boto3 would trust.

        Raises:
            NotDirectError: If they cannot be read. boto3 then reports the cause.
        """
        try:
            return tls_context(default_bundle() if self.verify is True else self.verify)
        except OSError as error:
            raise NotDirectError(f"the certificates to trust are unknown: {error!r}") from error


class _NotPlainError(Exception):
    """Only boto3 understands the settings. The text is the reason."""


def plain_access(endpoint: Endpoint) -> PlainAccess | None:
    """How to reach an endpoint, if that is plain; None if boto3 has to find it out.

    Credentials that botocore refreshes may send requests here, as they do when boto3 makes a client.
    """
    try:
        return _access(endpoint)
    except _NotPlainError as reason:
        _logger.debug("boto3 makes the client: %s", reason)
        return None


def _access(endpoint: Endpoint) -> PlainAccess:
    options, config = endpoint.client_options, endpoint.config_options
    if not (options.keys() <= _OPTIONS and options.get("use_ssl", True) is True and _is_plain(config)):
        raise _NotPlainError("unusual options")
    if getattr(botocore, "_INITIALIZERS", True):
        raise _NotPlainError("other code changes each new session of botocore")
    if os.path.isdir(os.path.expanduser(_MODELS)):
        raise _NotPlainError(f"{_MODELS} replaces botocore's models")
    style = (config.get("s3") or {}).get("addressing_style", "auto")
    variables, given = _variables(), options.get("endpoint_url")
    profile = _Profile.read(endpoint.profile_name, variables)
    region = options.get("region_name")
    if region is None:
        region = variables.get("AWS_DEFAULT_REGION") or profile.values.get("region")
    server = _server(given, region, style)
    if _goes_through_proxy(server):
        raise _NotPlainError("requests go through a proxy")
    credentials, session = (None, None) if endpoint.anonymous else _credentials(endpoint, profile, variables)
    return PlainAccess(
        endpoint_url=server,
        is_amazon=given is None,
        credentials=credentials,
        region=region or _DEFAULT_REGION,
        style=style,
        verify=_trusted(options.get("verify"), profile, variables),
        connect_timeout=config.get("connect_timeout", 10),
        read_timeout=config.get("read_timeout", 60),
        session=session,
    )


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether all options of the config are known, and none changes a request."""
    retries, of_s3 = config.get("retries") or {}, config.get("s3") or {}
    numbers = [value for name, value in retries.items() if name != "mode"]
    return (
        config.keys() <= _CONFIG
        and of_s3.keys() <= {"addressing_style"}
        and of_s3.get("addressing_style", "auto") in _STYLES
        and config.get("request_checksum_calculation", "when_required") == "when_required"
        and config.get("response_checksum_validation", "when_required") == "when_required"
        and config.get("tcp_keepalive", True) is True
        and retries.keys() <= {"mode", "total_max_attempts", "max_attempts"}
        and retries.get("mode", "standard") == "standard"
        and all(type(number) is int and number > 0 for number in numbers)
        and all(_is_seconds(config.get(name, 1)) for name in ("connect_timeout", "read_timeout"))
    )


def _is_seconds(value: Any) -> bool:
    return type(value) in {int, float} and value > 0


def _server(given: str | None, region: str | None, style: str) -> str:
    """The URL of the server."""
    if given is None and region in {None, _DEFAULT_REGION}:
        return "https://s3.amazonaws.com"
    if given is None:
        if not _AMAZON_REGION.fullmatch(str(region)):
            raise _NotPlainError(f"region {region!r}")
        return f"https://s3.{region}.amazonaws.com"
    known = _SERVER.fullmatch(given) and (region is None or _REGION.fullmatch(region))
    if not known or "amazon" in given or style == "virtual" or not _is_url(given):
        raise _NotPlainError("an unusual endpoint")
    return given


def _is_url(text: str) -> bool:
    """Whether a port is at most 65535, and an address of IPv6 is well-formed."""
    try:
        return urlsplit(text).port != 0
    except ValueError:
        return False


def _variables() -> Mapping[str, str]:
    """The variables of the environment that tell about requests."""
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_") and name not in _IRRELEVANT}
    unknown = found.keys() - _READ - _OF_CHAIN
    if unknown or not all(found.values()):
        raise _NotPlainError(f"variables of the environment: {', '.join(sorted(unknown)) or 'empty ones'}")
    return found


def _trusted(given: str | bool | None, profile: _Profile, variables: Mapping[str, str]) -> str | bool:
    """The file with the certificates to trust; True for the default, False for any certificate."""
    configured = variables.get("AWS_CA_BUNDLE") or profile.values.get("ca_bundle")
    found = next(each for each in (given, configured, os.environ.get("REQUESTS_CA_BUNDLE"), True) if each is not None)
    if isinstance(found, bool) or (isinstance(found, str) and found.strip()):
        return found
    raise _NotPlainError(f"the file with the certificates to trust: {found!r}")


class _Profile(NamedTuple):
    """A profile of the configuration files: all values, and those of each file."""

    values: Mapping[str, Any]
    of_credentials: Mapping[str, Any]
    of_config: Mapping[str, Any]

    @classmethod
    def read(cls, given: str | None, variables: Mapping[str, str]) -> Self:
        """Read a profile.

        Args:
            given: Its name; None for that in the environment, or the default.
            variables: The variables of the environment.
        """
        config, credentials = [
            os.path.expanduser(os.path.expandvars(variables.get(name, path))) for name, path in _FILES.items()
        ]
        named = given or next(filter(None, map(variables.get, _PROFILES)), None)
        if not (named or os.path.isfile(config) or os.path.isfile(credentials)):
            return cls({}, {}, {})
        from botocore.configloader import load_config, raw_config_parse  # 5 ms, and there may be no files

        try:
            all_of_config = load_config(config)["profiles"] if os.path.isfile(config) else {}
            all_of_credentials = raw_config_parse(credentials) if os.path.isfile(credentials) else {}
        except (BotoCoreError, OSError, ValueError) as error:
            raise _NotPlainError(str(error)) from error
        name = named or "default"
        if named and name not in all_of_config and name not in all_of_credentials:
            raise _NotPlainError(f"there is no profile {name!r}")
        of_config, of_credentials = all_of_config.get(name, {}), all_of_credentials.get(name, {})
        values = {**of_config, **of_credentials}
        unknown = values.keys() - _PROFILE_KEYS - _PROFILE_KEYS_OF_CHAIN
        if unknown or not all(isinstance(value, str) and value for value in values.values()):
            raise _NotPlainError(f"keys of the profile {name!r}: {', '.join(sorted(unknown)) or 'empty ones'}")
        return cls(values, of_credentials, of_config)


def _credentials(endpoint: Endpoint, profile: _Profile, variables: Mapping[str, str]) -> tuple[Any, Any]:
    """The credentials, and the session of botocore that found them, or None."""
    options = endpoint.client_options
    given = [options.get(name) for name in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")]
    if any(each is not None for each in given):
        return _plain(*given), None
    if endpoint.profile_name is None and _KEYS[0] in variables and "AWS_CREDENTIAL_EXPIRATION" not in variables:
        return _plain(variables[_KEYS[0]], variables.get(_KEYS[1]), _first(variables, _TOKENS)), None
    if variables.keys() <= _READ and profile.values.keys() <= _PROFILE_KEYS:
        for section in (profile.of_credentials, profile.of_config):
            if "aws_access_key_id" in section:
                token = _first(section, ("aws_security_token", "aws_session_token"))
                return _plain(section["aws_access_key_id"], section.get("aws_secret_access_key"), token), None
    session = _session(endpoint.profile_name)
    credentials = session.get_credentials()
    if credentials is None:
        raise _NotPlainError("there are no credentials")
    from botocore.credentials import Credentials  # with the session

    if type(credentials) is Credentials:  # others are refreshed: to read them may send a request
        _plain(credentials.access_key, credentials.secret_key, credentials.token)
    return credentials, session


def _first(values: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next(filter(None, map(values.get, names)), None)


def _plain(key: str | None, secret: str | None, token: str | None) -> Keys:
    """Keys that can stand in a header."""
    if not (key and secret and all(each.isascii() and each.isprintable() for each in (key, secret, token or ""))):
        raise _NotPlainError("a key is missing, or has unusual characters")
    return Keys(key, secret, token)


def _session(profile: str | None) -> Any:
    """A session of botocore, as boto3 makes it."""
    import botocore.session  # it takes 80 ms to import, and most credentials are keys

    session = botocore.session.get_session()
    if profile is not None:
        session.set_config_variable("profile", profile)
    return session


def _goes_through_proxy(server: str) -> bool:
    """Whether botocore would send the requests through a proxy."""
    names = [name.lower() for name, value in os.environ.items() if value]
    # Windows and macOS have system settings, too.
    if sys.platform == "linux" and not {"http_proxy", "https_proxy"} & set(names):
        return False
    from urllib.request import getproxies, proxy_bypass  # it takes 10 ms to import

    url = urlsplit(server)
    try:
        bypassed = bool(proxy_bypass(url.netloc))
    except (TypeError, OSError):
        bypassed = False
    return not bypassed and bool(getproxies().get(url.scheme))


def default_bundle() -> str:
    """The file with the certificates that botocore trusts by default.

    certifi's function imports importlib.resources, which takes 8 ms. It is called if other code may have replaced it.
    """
    if not {"certifi", "wrapt"} & sys.modules.keys():
        package = find_spec("certifi")
        if package is not None and package.origin:
            bundle = os.path.join(os.path.dirname(package.origin), "cacert.pem")
            if os.path.isfile(bundle):
                return bundle
    from botocore.httpsession import where

    found: str = where()
    return found


def tls_context(verify: str | bool) -> ssl.SSLContext:
    """A TLS context with the settings of botocore.

    Args:
        verify: The file with the certificates to trust; False for any certificate.

    Raises:
        OSError: If the file cannot be read.
    """
    import ssl  # noqa: PLC0415 - endpoints over http need no certificates

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    context.post_handshake_auth = True
    if os.environ.get("SSLKEYLOGFILE"):
        context.keylog_filename = os.environ["SSLKEYLOGFILE"]
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(str(verify))
    return context


def _user_agent() -> str:
    return f"gllm-storage botocore/{botocore.__version__} python/{'.'.join(map(str, sys.version_info[:3]))}"
