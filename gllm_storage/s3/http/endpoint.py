"""What a boto3 client knows of its endpoint: whether it can be talked to directly, and whom it trusts."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from botocore import httpsession

from gllm_storage.s3.http.template import NotDirectError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def refusal_of(client: S3Client) -> str | None:
    """Why the endpoint of a client cannot be talked to directly, as far as its settings tell."""
    try:
        return _refusal_of(client)
    except (AttributeError, KeyError, TypeError) as error:
        return f"this version of botocore is not known: {error!r}"


def _refusal_of(client: S3Client) -> str | None:
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    if type(session) is not httpsession.URLLib3Session:
        return "boto3's HTTP session is not botocore's own"
    settings = vars(session)
    config: Any = client.meta.config
    if settings["_proxy_config"].proxy_url_for(client.meta.endpoint_url):
        return "it is reached through a proxy"
    if settings["_cert_file"] is not None:
        return "it wants a client certificate"
    if (config.s3 or {}).get("payload_signing_enabled"):
        return "the bodies of requests are to be signed"
    return None


def tls_context_of(client: S3Client) -> ssl.SSLContext:
    """A context that trusts what the boto3 client trusts.

    Raises:
        NotDirectError: If that cannot be told, or cannot be read; boto3 says why.
    """
    try:
        return _tls_context_of(client)
    except (AttributeError, KeyError, TypeError, OSError) as error:
        raise NotDirectError(f"whom to trust cannot be told: {error!r}") from error


def _tls_context_of(client: S3Client) -> ssl.SSLContext:
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
