"""Whether other code listens to a boto3 client. If so, every request has to go through boto3.

Stubs such as `moto.mock_aws` answer in place of the store, and tracers record requests. Both hook into botocore, so neither
would see a request of the direct client. Three kinds of hooks are checked before each request:

- *event handlers* of the client. To examine them is slow, but botocore replaces the lookup cache of its event emitter
  whenever a handler is registered or removed: as long as the cache is the same object, the last result holds.
- *methods of the client object* that were replaced.
- *classes and methods of botocore* that were replaced. The originals are remembered when this module is imported; a member
  that is not botocore's own by then counts as replaced.

If botocore's internals are not where they are expected, that counts as a listener, too.
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
_OWN_PACKAGES = ("botocore", "boto3", "gllm_storage")
"""Packages whose event handlers do not count as listeners, except those of `_STUBS`."""
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
    """A class or a method of botocore, to compare with later.

    Args:
        module: The module of botocore.
        name: The name of the class.
        method: The name of the method; empty for the class itself.

    Returns:
        The module or class that holds it, its name there, and its value. The value is a new object, which compares unequal
        to everything, if a stub has replaced the original before this import.
    """
    owner = getattr(module, name, None)
    if not isinstance(owner, type) or owner.__module__ != module.__name__:
        return module, name, object()
    if not method:
        return module, name, owner
    function = getattr(owner, method, None)
    # A mock copies the name and the module of a function, but not its globals. (Some methods are decorated in
    # botocore.context, so any module of botocore is good.)
    own = type(function) is FunctionType and str(function.__globals__.get("__name__")).startswith("botocore.")
    return owner, method, function if own else object()


_ORIGINALS = tuple(_original(*each) for each in _REPLACED_BY_STUBS)


class Listeners:
    """The listeners of one boto3 client.

    Args:
        client: The client.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client
        self._seen: tuple[object, list[Any]] = (None, [])

    def any(self) -> bool:
        """Whether there is at least one at this moment."""
        for place, name, original in _ORIGINALS:
            if getattr(place, name, None) is not original:
                return True
        if not _METHODS.isdisjoint(vars(self._client)):
            return True
        foreign = self._find()
        # moto's handler stays registered outside of `mock_aws`, but is not enabled then.
        return foreign is None or any(getattr(each, "enabled", True) for each in foreign)

    def _find(self) -> list[Any] | None:
        """The event handlers of other packages; None if this release of botocore keeps them elsewhere."""
        emitter = getattr(self._client.meta.events, "_emitter", None)
        cache = getattr(emitter, "_lookup_cache", None)
        handlers = getattr(emitter, "_handlers", None)
        if cache is None or handlers is None:
            return None
        seen, foreign = self._seen
        if cache is not seen:
            names = [f"{event}.s3.{operation}" for event in _EVENTS for operation in _OPERATIONS]
            found = [handler for name in names for handler in handlers.prefix_search(name)]
            foreign = [each for each in found if not _is_known(each)]
            self._seen = (cache, foreign)
        return foreign


def _is_known(handler: Any) -> bool:
    """Whether a handler is one of boto3, botocore or this library."""
    while isinstance(handler, partial):
        handler = handler.func
    owner = getattr(handler, "__self__", None)
    module = getattr(handler, "__module__", None) or type(owner if owner is not None else handler).__module__
    return str(module).partition(".")[0] in _OWN_PACKAGES and module not in _STUBS
