"""Old names of `tests.promises.faulty`, until tests/providers imports from there."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.promises import faulty as clouds
from tests.promises.faulty import CEPH, CREATES, MINISTACK, NAME, SMALL, Upload, content_of, no_waits
from tests.promises.faulty import UploadCase as _UploadCase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Servers

SLOW_DOWN = CEPH.answer(503)
DENIED = CEPH.denied


class Faulty(clouds.Faulty):
    """An S3 server behind a proxy."""


class UploadCase(_UploadCase):
    """A case that names its server."""

    @property
    def server(self) -> str:
        """Name of the server."""
        return self.cloud.server


def _old(case: _UploadCase) -> UploadCase:
    return UploadCase(case.cloud, case.large, case.create)


SMALL_CREATES = [_old(case) for case in CREATES if case.cloud in {CEPH, MINISTACK} and not case.large]
SMALL_OVERWRITE = UploadCase(CEPH, large=False, create=False)
LARGE_CREATE = UploadCase(MINISTACK, large=True, create=True)


@contextmanager
def behind_proxy(name: str, servers: Servers) -> Iterator[Faulty]:
    """As `tests.promises.faulty.behind_proxy`."""
    with clouds.behind_proxy(name, servers) as faulty:
        yield Faulty(**{field.name: getattr(faulty, field.name) for field in dataclasses.fields(faulty)})


__all__ = [
    "DENIED",
    "LARGE_CREATE",
    "NAME",
    "SLOW_DOWN",
    "SMALL",
    "SMALL_CREATES",
    "SMALL_OVERWRITE",
    "Faulty",
    "Upload",
    "UploadCase",
    "behind_proxy",
    "content_of",
    "no_waits",
]
