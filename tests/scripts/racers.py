"""Racing writers, in threads of several processes. The processes do not import pytest."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gllm_storage import get_storage_client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BARRIER_SECONDS = 120
WON = "won"
REFUSED = "refused"


class Barrier(Protocol):
    """A barrier of threading or of multiprocessing."""

    def wait(self, timeout: float) -> int:
        """Wait for all other writers."""


@dataclass(frozen=True)
class Entry:
    """The task of all writers of a race.

    Attributes:
        provider: The provider of the client.
        config: The config of the client.
        way: The call that creates exclusively: ``"upload_file"``, ``"put_file"`` or ``"open"``.
        rounds: The number of rounds. Each round has its own key.
    """

    provider: str
    config: Mapping[str, str]
    way: str
    rounds: int


_barrier: Barrier


def use_barrier(barrier: Barrier) -> None:
    """Set the barrier of this process. Its writers share the barrier with the writers of other processes."""
    global _barrier  # noqa: PLW0603 - a process can inherit a barrier, but not receive one later
    _barrier = barrier


def wait() -> None:
    """Wait for all other writers."""
    _barrier.wait(BARRIER_SECONDS)


def race(entry: Entry, sources: Sequence[str]) -> list[list[str]]:
    """Race with one thread for each source. The threads share one client.

    Returns:
        The outcome of each source in each round.
    """
    client = get_storage_client(entry.provider, dict(entry.config))
    with ThreadPoolExecutor(len(sources)) as threads:
        return list(threads.map(lambda source: _run(client, entry, source), sources))


def _run(client: Any, entry: Entry, source: str) -> list[str]:
    outcomes = []
    for number in range(entry.rounds):
        wait()
        try:
            _create(client, entry.way, source, name_of(number))
        except FileExistsError:
            outcomes.append(REFUSED)
        except Exception as error:  # noqa: BLE001 - the test compares it with the allowed outcomes
            outcomes.append(f"{type(error).__name__}: {error}")
        else:
            outcomes.append(WON)
    return outcomes


def name_of(number: int) -> str:
    """The remote path of a round."""
    return f"round-{number:03}"


def _create(client: Any, way: str, source: str, name: str) -> None:
    if way == "upload_file":
        client.upload_file(source, name, check_conflict=True)
    elif way == "put_file":
        client.filesystem.put_file(source, client.url(name), mode="create")
    else:
        with open(source, "rb") as content, client.open(name, "xb") as target:
            shutil.copyfileobj(content, target)
