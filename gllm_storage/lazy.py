"""Dataclasses and regular expressions that are compiled when they are used, not when their module is imported.

A process that makes a few requests spends most of its time on its imports. `dataclasses` writes the source of six methods
for each class and compiles it, which takes 0.5 ms; `re.compile` takes 0.1 to 1 ms. The first request of a process imports 40
such classes and 30 expressions, and uses a few of them. So its modules take `dataclass` and `pattern` from here.

The builder of the API reference knows `dataclasses.dataclass` alone, by the last import of that name. A module with classes
of the reference has a second import for it.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["dataclass", "pattern"]

_PARAMS = "__dataclass_params__"


def _dataclass(cls: Any = None, /, *, frozen: bool = False, eq: bool = True) -> Any:
    """As `dataclasses.dataclass`, but each method is made when it is first used."""
    if cls is None:
        return lambda decorated: _dataclass(decorated, frozen=frozen, eq=eq)
    cls.__doc__ = cls.__doc__ or cls.__name__  # otherwise `dataclasses` makes one of the signature, which takes longest
    has_frozen_base = any(getattr(each, _PARAMS).frozen for each in cls.__mro__ if hasattr(each, _PARAMS))
    dataclasses.dataclass(init=False, repr=False, eq=False, frozen=frozen and has_frozen_base)(cls)
    params = getattr(cls, _PARAMS)  # which subclasses inspect
    params.init, params.repr, params.eq, params.frozen = True, True, eq, frozen
    methods: dict[str, Any] = {
        "__init__": _Method(cls, "__init__", init=True, frozen=frozen),
        "__repr__": _Method(cls, "__repr__", repr=True),
    }
    if eq:
        methods["__eq__"] = _Method(cls, "__eq__", eq=True)
        methods["__hash__"] = _Method(cls, "__hash__", unsafe_hash=True) if frozen else None
    for name, method in methods.items():
        if name not in vars(cls):
            setattr(cls, name, method)
    if frozen:
        cls.__setattr__, cls.__delattr__ = _refusals(cls, {each.name for each in dataclasses.fields(cls)})
    return cls


class _Method:
    """A method of a dataclass, which is made and takes this place when it is first used.

    Args:
        owner: The dataclass.
        name: The name of the method.
        **options: The options for which `dataclasses.dataclass` makes this method.
    """

    def __init__(self, owner: Any, name: str, **options: bool) -> None:
        self._owner = owner
        self._name = name
        self._options = options

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        method = self._make()
        setattr(self._owner, self._name, method)
        return method.__get__(instance, owner)

    def _make(self) -> Any:
        """Make the method for another class with the same fields: `dataclasses` makes methods of new classes only."""
        owner = self._owner
        known = owner.__dataclass_fields__
        namespace = {
            **known,
            "__annotations__": {name: each.type for name, each in known.items()},
            "__doc__": owner.__doc__,
            "__module__": owner.__module__,
            "__qualname__": owner.__qualname__,
        }
        if hasattr(owner, "__post_init__"):
            namespace["__post_init__"] = owner.__post_init__
        options = {"init": False, "repr": False, "eq": False, **self._options}
        return vars(dataclasses.dataclass(**options)(type(owner.__name__, (), namespace)))[self._name]


def _refusals(cls: Any, names: Collection[str]) -> tuple[Callable[..., None], Callable[..., None]]:
    """The methods ``__setattr__`` and ``__delattr__`` of a frozen dataclass."""

    def __setattr__(self: Any, name: str, value: Any) -> None:  # noqa: N807 - the name that tracebacks show
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        super(cls, self).__setattr__(name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807 - as above
        if type(self) is cls or name in names:
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        super(cls, self).__delattr__(name)

    return __setattr__, __delattr__


class _Pattern:
    """As the result of `re.compile`, but the expression is compiled when it is first used."""

    def __init__(self, expression: str | bytes, flags: int = 0) -> None:
        self._arguments = expression, flags

    def __getattr__(self, name: str) -> Any:
        expression, flags = self._arguments
        found = vars(self)[name] = getattr(re.compile(expression, flags), name)  # the next use does not come here
        return found


if TYPE_CHECKING:  # type checkers know the functions that these stand for
    from dataclasses import dataclass
    from re import compile as pattern
else:
    dataclass, pattern = _dataclass, _Pattern
