"""Dataclasses and regular expressions that are compiled when they are used."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from gllm_storage import lazy


def make(decorator: Any) -> Any:
    """Return dataclasses of all kinds that the library has."""

    class Kinds:
        @decorator(frozen=True)
        class Frozen:
            name: str
            tags: dict[str, str] = dataclasses.field(default_factory=dict, compare=False)
            secret: str = dataclasses.field(default="", repr=False)
            shared: ClassVar[int] = 7

        @decorator(frozen=True)
        class Derived(Frozen):
            size: int = dataclasses.field(default=0, kw_only=True)

            def __post_init__(self) -> None:
                object.__setattr__(self, "size", self.size + 1)

        @decorator
        class Mutable:
            items: list[int] = dataclasses.field(default_factory=list)
            count: int = dataclasses.field(default=3, init=False)

        @decorator(frozen=True)
        class OwnMethods:
            name: str

            def __hash__(self) -> int:
                return 1

            def __eq__(self, other: object) -> bool:
                return True

            def __repr__(self) -> str:
                return "own"

        @decorator(frozen=True, eq=False)
        class Identity:
            name: str

    return Kinds


OURS, THEIRS = make(lazy.dataclass), make(dataclasses.dataclass)


def subclass(kinds: Any) -> Any:
    """Return a plain subclass of a frozen class."""
    return type("Plain", (kinds.Frozen,), {})


def outcome(call: Any) -> Any:
    """Return the result of a call, or the type and text of its exception."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - they are compared
        return type(error), str(error)


@pytest.mark.parametrize(
    "call",
    [
        lambda kinds: kinds.Frozen("a", secret="s"),
        lambda kinds: kinds.Frozen("a", {"b": "c"}, "s", 4),
        lambda kinds: kinds.Frozen(),
        lambda kinds: kinds.Frozen("a") == kinds.Frozen("a", {"b": "c"}),
        lambda kinds: kinds.Frozen("a") == kinds.Frozen("b"),
        lambda kinds: kinds.Frozen("a") == 3,
        lambda kinds: hash(kinds.Frozen("a")) == hash(kinds.Frozen("a", {"b": "c"})),
        lambda kinds: hash(kinds.Frozen("a")) == hash(("a", "")),
        lambda kinds: setattr(kinds.Frozen("a"), "name", "b"),
        lambda kinds: setattr(kinds.Frozen("a"), "other", "b"),
        lambda kinds: delattr(kinds.Frozen("a"), "name"),
        lambda kinds: setattr(subclass(kinds)("a"), "name", "b"),
        lambda kinds: setattr(subclass(kinds)("a"), "other", "b"),
        lambda kinds: subclass(kinds)("a"),
        lambda kinds: kinds.Derived("a", size=3),
        lambda kinds: kinds.Derived("a", {}, "", 3),
        lambda kinds: kinds.Derived("a") == kinds.Frozen("a"),
        lambda kinds: setattr(kinds.Derived("a"), "size", 3),
        lambda kinds: kinds.Mutable(),
        lambda kinds: kinds.Mutable([1]) == kinds.Mutable([1]),
        lambda kinds: hash(kinds.Mutable()),
        lambda kinds: kinds.Mutable(count=3),
        lambda kinds: (kinds.OwnMethods("a"), hash(kinds.OwnMethods("a")), kinds.OwnMethods("a") == 3),
        lambda kinds: kinds.Identity("a") == kinds.Identity("a"),
        lambda kinds: kinds.Identity.__hash__ is object.__hash__,
        lambda kinds: dataclasses.replace(kinds.Derived("a"), name="b"),
        lambda kinds: dataclasses.asdict(kinds.Frozen("a", {"b": "c"})),
        lambda kinds: [str(each) for each in dataclasses.fields(kinds.Derived)],
        lambda kinds: copy.deepcopy(kinds.Frozen("a", {"b": "c"})).tags,
        lambda kinds: [str(inspect.signature(each)) for each in (kinds.Frozen, kinds.Derived, kinds.Mutable)],
        lambda kinds: kinds.Derived.__init__.__qualname__,
        lambda kinds: kinds.Derived.__match_args__,
        lambda kinds: kinds.Frozen.shared,
        lambda kinds: dataclasses.dataclass(frozen=True)(subclass(kinds))("a"),
        lambda kinds: dataclasses.dataclass(frozen=False)(subclass(kinds)),
        lambda kinds: str(vars(kinds.Frozen)["__dataclass_params__"]),
    ],
)
def test_as_dataclass(call: Any) -> None:
    """Each use of a dataclass has the same result as with `dataclasses.dataclass`, at the first and at the second use."""
    expected = outcome(lambda: repr(call(THEIRS)))
    assert outcome(lambda: repr(call(OURS))) == expected
    assert outcome(lambda: repr(call(OURS))) == expected


@lazy.dataclass(frozen=True)
class Pickled:
    """At the top of the module, where pickle finds it."""

    name: str


def test_pickled() -> None:
    """An instance is pickled, also in a process that has not made one yet."""
    code = f"import pickle; print(pickle.loads({pickle.dumps(Pickled('a'))!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "Pickled(name='a')\n"


def test_uncompiled() -> None:
    """The definition of a class compiles nothing."""
    names = {"__init__", "__repr__", "__eq__", "__hash__"}
    kind = make(lazy.dataclass).Frozen
    assert not any(inspect.isfunction(vars(kind)[name]) for name in names)
    assert kind("a") == kind("a")
    assert {name for name in names if inspect.isfunction(vars(kind)[name])} == {"__init__", "__eq__"}


def test_pattern() -> None:
    """A pattern has the methods and attributes of a compiled expression."""
    pattern = lazy.pattern("(?P<first>a)b", re.IGNORECASE)
    assert pattern.sub(r"\1", "ABc") == "Ac"
    assert pattern.sub(r"\1", "ABc") == "Ac"
    match = pattern.fullmatch("ab")
    assert match is not None
    assert (match["first"], pattern.pattern, pattern.flags & re.IGNORECASE) == ("a", "(?P<first>a)b", re.IGNORECASE)
    assert lazy.pattern(rb"\d").findall(b"1a2") == [b"1", b"2"]
