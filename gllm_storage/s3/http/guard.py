"""Whether somebody listens to a boto3 client: then every request has to go through it.

Stubs such as `moto.mock_aws` answer in place of the store, and tracers want to see what is sent; both hook into botocore's
events or replace its methods. What is unknown counts as a listener.
"""

from __future__ import annotations

from functools import partial
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import botocore.awsrequest
import botocore.client
import botocore.endpoint
import botocore.httpsession

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_OPERATIONS = ("HeadObject", "GetObject", "PutObject", "UploadPart", "DeleteObject")
_EVENTS = (
    "provide-client-params",
    "before-parameter-build",
    "before-endpoint-resolution",
    "before-call",
    "request-created",
    "choose-signer",
    "before-sign",
    "before-send",
    "response-received",
    "needs-retry",
    "after-call",
    "after-call-error",
)
_METHODS = frozenset(
    {"head_object", "get_object", "put_object", "upload_part", "delete_object", "_make_api_call", "_make_request"}
)
_OURS = ("botocore", "boto3", "gllm_storage")
_STUBS = ("botocore.stub",)
_REPLACED_BY_STUBS: tuple[tuple[ModuleType, str, str], ...] = (
    (botocore.client, "BaseClient", "_make_api_call"),
    (botocore.client, "BaseClient", "_make_request"),
    (botocore.endpoint, "Endpoint", "make_request"),
    (botocore.endpoint, "Endpoint", "_send"),
    (botocore.httpsession, "URLLib3Session", "send"),
    (botocore.awsrequest, "AWSHTTPConnection", ""),
    (botocore.awsrequest, "AWSHTTPSConnection", ""),
)


def _original(module: ModuleType, name: str, method: str) -> tuple[Any, str, object]:
    """A class or a method where it stands, if botocore itself put it there: a stub may have been there before us.

    Returns:
        Where it stands, its name there, and what it is; or what nothing is.
    """
    owner = getattr(module, name, None)
    if not isinstance(owner, type) or owner.__module__ != module.__name__:
        return module, name, object()
    if not method:
        return module, name, owner
    function = getattr(owner, method, None)
    # A mock may have its name and its module, but not its globals. Some methods are decorated by botocore.context.
    own = type(function) is FunctionType and str(function.__globals__.get("__name__")).startswith("botocore.")
    return owner, method, function if own else object()


_ORIGINALS = tuple(_original(*each) for each in _REPLACED_BY_STUBS)


class Listeners:
    """Those who listen to one boto3 client.

    Args:
        client: The client.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._seen: tuple[object, list[Any]] = (None, [])

    def any(self) -> bool:
        """Whether there is one now."""
        for place, name, original in _ORIGINALS:
            if getattr(place, name, None) is not original:
                return True
        if not _METHODS.isdisjoint(vars(self._client)):
            return True
        foreign = self._find()
        return foreign is None or any(getattr(each, "enabled", True) for each in foreign)

    def _find(self) -> list[Any] | None:
        """Handlers that are not boto3's own; None if that cannot be told."""
        emitter = getattr(self._client.meta.events, "_emitter", None)
        # botocore makes a new one whenever a handler comes or goes: looking at that alone costs nothing.
        cache = getattr(emitter, "_lookup_cache", None)
        handlers = getattr(emitter, "_handlers", None)
        if cache is None or handlers is None:
            return None
        seen, foreign = self._seen
        if cache is not seen:
            names = [f"{event}.s3.{operation}" for event in _EVENTS for operation in _OPERATIONS]
            found = [handler for name in names for handler in handlers.prefix_search(name)]
            foreign = [each for each in found if not _is_ours(each)]
            self._seen = (cache, foreign)
        return foreign


def _is_ours(handler: Any) -> bool:
    while isinstance(handler, partial):
        handler = handler.func
    owner = getattr(handler, "__self__", None)
    module = getattr(handler, "__module__", None) or type(owner if owner is not None else handler).__module__
    return str(module).partition(".")[0] in _OURS and module not in _STUBS
