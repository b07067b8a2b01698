"""Selection of the tests that start a server process. tests/install-servers installs most servers."""

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
    "seaweedfs",
    "juicefs",
    "azurite",
    "gcs-fake",
    "fake-gcs-server",
}
"""The rig's stores that run as a separate process; moto runs in the test process."""


def needs_server(item: pytest.Function) -> bool:
    """Whether a test starts a server process.

    If a parameter of the test names a store, the parameter decides. Otherwise the code of the test and its fixtures decides:
    it names the server, or uses the fixture `servers`.
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
    """All strings in a parameter of a test."""
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
    """The string literals in the code of a function."""
    code = inspect.getsource(inspect.unwrap(function))
    constants = {"MINISTACK": "ministack", "CEPH": "ceph", "RCLONE": "rclone", "AZURE": "azurite", "GCS": "gcs-fake"}
    names = {name for name in TRAITS if f'"{name}"' in code}
    return frozenset(names | {name for constant, name in constants.items() if re.search(rf"\b{constant}\b", code)})
