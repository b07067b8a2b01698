"""Which tests start a server in a process of its own, most of which tests/install-servers brings."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from typing import TYPE_CHECKING

from tests.rig import TRAITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

_PROCESSES = {
    "ministack",
    "ministack-tls",
    "ceph",
    "ceph-tls",
    "rclone",
    "rclone-tls",
    "reject",
    "azurite",
    "gcs-fake",
    "fake-gcs-server",
}
"""The stores of the rig that are a process; moto runs in the process of the tests."""


def needs_server(item: pytest.Function) -> bool:
    """Whether a test starts a server in a process of its own.

    Its parameters say so, if one of them names a store. Otherwise the code of the test and of its fixtures does: they name
    the server, or use the fixture `servers`.
    """
    given = item.callspec.params.values() if hasattr(item, "callspec") else ()
    named = {name for value in given for name in _texts(value)} & TRAITS.keys()
    if named:
        return not _PROCESSES.isdisjoint(named)
    fixtures = [each for defs in item._fixtureinfo.name2fixturedefs.values() for each in defs if each.params is None]
    code = [item.function, *(each.func for each in fixtures if each.func.__module__ != "tests.conftest")]
    named = {name for each in code for name in _literals(each)}
    return "servers" in item.fixturenames or not _PROCESSES.isdisjoint(named)


def _texts(value: object) -> Iterator[str]:
    """All texts in the parameter of a test."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _texts(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for each in dataclasses.fields(value):
            yield from _texts(getattr(value, each.name))


@functools.cache
def _literals(function: Callable[..., object]) -> frozenset[str]:
    """The names of servers that a function mentions."""
    code = inspect.getsource(inspect.unwrap(function))
    constants = {"MINISTACK": "ministack", "CEPH": "ceph", "RCLONE": "rclone", "AZURE": "azurite", "GCS": "gcs-fake"}
    names = {name for name in TRAITS if f'"{name}"' in code}
    return frozenset(names | {name for constant, name in constants.items() if re.search(rf"\b{constant}\b", code)})
