"""Publishers of one version, each in a process of its own. The processes do not import pytest."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client, versions
from gllm_storage.errors import ObjectExistsError
from gllm_storage.versions.local_tree import LocalFile
from tests.scripts.racers import wait

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gllm_storage.errors import ErrorDetails
    from gllm_storage.versions.local_tree import HashedSource


@dataclass(frozen=True)
class Outcome:
    """The result of one publisher.

    Attributes:
        digest: The digest of the published version; None if the version exists with other files.
        opened: The sizes of the files that were opened to send them.
    """

    digest: str | None
    opened: list[int]


def publish(provider: str, config: Mapping[str, str], folder: str, model: str) -> Outcome:
    """Publish a folder as v1, at the same moment as the other processes."""
    client: Any = get_storage_client(provider, dict(config))
    opened: list[int] = []
    original = LocalFile.opened

    @contextlib.contextmanager
    def counted(self: LocalFile, details: ErrorDetails) -> Iterator[HashedSource]:
        opened.append(self.entry.size)
        with original(self, details) as source:
            yield source

    LocalFile.opened = counted  # type: ignore[method-assign]  # this process publishes once
    wait()
    try:
        return Outcome(versions.publish(client, folder, model, version="v1").digest, opened)
    except ObjectExistsError:
        return Outcome(None, opened)
