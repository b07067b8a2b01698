"""Whether other code listens to a boto3 client. If so, every request has to go through boto3.

Stubs such as `moto.mock_aws` answer in place of the store, and tracers record requests. Both hook into botocore, so neither
would see a request of the direct client. Three kinds of hooks are checked before each request:

- *event handlers* of the client. To examine them is slow, but botocore replaces the lookup cache of its event emitter
  whenever a handler is registered or removed: as long as the cache is the same object, the last result holds.
- *methods of the client object* that were replaced.
- *classes and methods of botocore* that were replaced. The originals are remembered when they are seen first; a member that
  is not botocore's own counts as replaced.

Before there is a boto3 client, the handlers that botocore would register on it are checked in place of its own; so are
initializers of sessions, and the functions that make a client, because they may register handlers. A module that is not
imported has no part that is replaced, so it is not checked, unless a tool is loaded that replaces parts of modules when they
are imported.

If botocore's internals are not where they are expected, that counts as a listener, too.
"""

from __future__ import annotations

import importlib
import sys
from functools import cache, partial
from operator import attrgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

import botocore

from gllm_storage.s3.http.model import MODELS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mypy_boto3_s3.client import S3Client

_OPERATIONS = tuple(model.name for model in MODELS.values())
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
_METHODS = frozenset({*MODELS, "_make_api_call", "_make_request"})
_OWN_PACKAGES = ("botocore", "boto3", "gllm_storage")
"""Packages whose event handlers do not count as listeners, except those of `_STUBS`."""
_STUBS = ("botocore.stub",)
_CLIENT = "botocore.client"
_PATCHERS = ("moto", "wrapt", "ddtrace", "elasticapm", "newrelic")
"""Packages that replace parts of botocore, some when it is imported."""
_Part = tuple[str, str, str]
_REPLACED_BY_STUBS: tuple[_Part, ...] = (
    (_CLIENT, "BaseClient", "_make_api_call"),
    (_CLIENT, "BaseClient", "_make_request"),
    ("botocore.endpoint", "Endpoint", "make_request"),
    ("botocore.endpoint", "Endpoint", "_send"),
    ("botocore.httpsession", "URLLib3Session", "send"),
    ("botocore.awsrequest", "AWSHTTPConnection", ""),
    ("botocore.awsrequest", "AWSHTTPSConnection", ""),
)
_MAKERS: tuple[_Part, ...] = (
    (_CLIENT, "BaseClient", "__init__"),
    (_CLIENT, "ClientCreator", "create_client"),
    ("botocore.session", "Session", "create_client"),
    ("boto3.session", "Session", "client"),
)
"""Functions that make a client. Sentry replaces one, and registers its handlers there."""
_MODULES = tuple(dict.fromkeys(module for module, _, _ in (*_REPLACED_BY_STUBS, *_MAKERS)))


class _Member:
    """A class or a method of botocore.

    Args:
        module: The name of its module.
        name: The name of the class.
        method: The name of the method; empty for the class itself.
    """

    def __init__(self, module: str, name: str, method: str) -> None:
        self._module = importlib.import_module(module)
        self._name = name
        self._method = method
        self._original: object = None

    def is_replaced(self) -> bool:
        """Whether it is not botocore's own."""
        found = getattr(self._module, self._name, None)
        if self._method:
            found = getattr(found, self._method, None)
        if found is None or found is not self._original:
            if not (self._original is None and self._is_own(found)):
                return True
            self._original = found
        return False

    def _is_own(self, found: object) -> bool:
        if not self._method:
            return isinstance(found, type) and found.__module__ == self._module.__name__
        # A mock copies the name and the module of a function, but not its globals. (Some methods are decorated in
        # botocore.context, so any module of botocore is good.)
        return type(found) is FunctionType and str(found.__globals__.get("__name__")).startswith(("botocore.", "boto3."))


class _Members:
    """Classes and methods that are checked together.

    Args:
        parts: Their places. The modules are imported.
    """

    def __init__(self, parts: Iterable[_Part]) -> None:
        self._members = [_Member(*each) for each in parts]
        names: dict[str, list[str]] = {}
        for module, name, method in parts:
            names.setdefault(module, []).append(f"{name}.{method}" if method else name)
        self._getters = [(importlib.import_module(module), attrgetter(*paths)) for module, paths in names.items()]

    def current(self) -> list[object] | None:
        """The classes and methods, as they are now; None if one is missing."""
        try:
            return [getter(module) for module, getter in self._getters]
        except AttributeError:
            return None

    def are_replaced(self) -> bool:
        """Whether one is not botocore's own."""
        return any(member.is_replaced() for member in self._members)


@cache
def _members_of_client() -> _Members:
    """The parts through which an existing client sends requests."""
    return _Members(_REPLACED_BY_STUBS)


@cache
def _members_of(modules: tuple[str, ...]) -> _Members:
    """The parts of some modules through which a client is made and sends requests."""
    return _Members([part for part in (*_REPLACED_BY_STUBS, *_MAKERS) if part[0] in modules])


def _members_before_client() -> _Members:
    """The parts of the modules that are imported."""
    if any(map(sys.modules.__contains__, _PATCHERS)):
        _members_of_client()  # the import lets the tools replace parts
    return _members_of(tuple(filter(sys.modules.__contains__, _MODULES)))


class Listeners:
    """The listeners of one boto3 client.

    Args:
        client: The client; None if it does not exist yet.

    Attributes:
        client: The client, to set when it exists.
    """

    def __init__(self, client: S3Client | None = None) -> None:
        self.client = client
        self._seen: tuple[object, list[Any]] = (None, [])
        self._examined: list[object] | None = None

    def any(self) -> bool:
        """Whether there is at least one at this moment."""
        client = self.client
        if client is None and getattr(botocore, "_INITIALIZERS", True):
            return True
        members = _members_before_client() if client is None else _members_of_client()
        current = members.current()
        if current is None or current != self._examined:
            if members.are_replaced():
                return True
            self._examined = current
        if client is None:
            foreign: list[Any] | None = _foreign_handlers()
        elif _METHODS.isdisjoint(vars(client)):
            foreign = self._find(client)
        else:
            return True
        if not foreign:
            return foreign is None
        # moto's handler stays registered outside of `mock_aws`, but is not enabled then.
        return any(getattr(each, "enabled", True) for each in foreign)

    def _find(self, client: S3Client) -> list[Any] | None:
        """The event handlers of other packages; None if this release of botocore keeps them elsewhere."""
        emitter = getattr(client.meta.events, "_emitter", None)
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


_examined: tuple[list[Any], list[Any]] = ([], [])
"""The handlers that botocore registers on each new client, when they were last examined, and those of other packages."""


def _foreign_handlers() -> list[Any]:
    """The handlers of other packages among those that botocore registers on each new client."""
    global _examined  # noqa: PLW0603 - one immutable value of the process
    # While another thread imports the module, it has no list to which a package could have added a handler.
    handlers: list[Any] | None = getattr(sys.modules.get("botocore.handlers"), "BUILTIN_HANDLERS", None)
    if handlers is None:
        return []
    known, foreign = _examined
    if handlers != known:  # compares identities first, and takes a microsecond
        foreign = [each[1] for each in handlers if not _is_known(each[1])]
        _examined = (list(handlers), foreign)
    return foreign


def _is_known(handler: Any) -> bool:
    """Whether a handler is one of boto3, botocore or this library."""
    while isinstance(handler, partial):
        handler = handler.func
    owner = getattr(handler, "__self__", None)
    module = getattr(handler, "__module__", None) or type(owner if owner is not None else handler).__module__
    return str(module).partition(".")[0] in _OWN_PACKAGES and module not in _STUBS
