"""Processes that publish, delete, point, collect and read versions of one model at random, until they are killed."""

from __future__ import annotations

import datetime as dt
import random
import secrets
import shutil
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gllm_storage import get_storage_client, versions
from gllm_storage.errors import ObjectExistsError, ObjectNotFoundError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = "models/soak"
NAMES = ("v0", "v1", "v2")
ALIAS = "latest"
_EXPECTED = (ObjectExistsError, ObjectNotFoundError, StorageUnavailableError)
"""A conflict, a version that is not there, and a publisher whose slot was taken again and again."""


def soak(provider: str, config: Mapping[str, str], folder: str, seed: int) -> None:
    """Do one thing after the other, for ever. A broken rule is written to a file of the folder.

    Args:
        provider: The provider of the client.
        config: Its config.
        folder: A local folder with the directories to publish in ``contents``.
        seed: Makes the choices of this process.
    """
    chance = random.Random(seed)
    actor = _Actor(get_storage_client(provider, dict(config)), Path(folder), chance)
    actions = [actor.publish] * 5 + [actor.delete] * 2 + [actor.collect, actor.point, actor.verify, actor.fetch, actor.fetch]
    while True:
        action = chance.choice(actions)
        try:
            action(chance.choice(NAMES))
        except _EXPECTED:
            pass
        except Exception:  # noqa: BLE001 - the test shows it
            actor.complain(f"{action.__name__}: {traceback.format_exc()}")
        with (Path(folder) / f"done-{seed}").open("a", encoding="utf-8") as done:
            done.write(f"{action.__name__}\n")


class _Actor:
    def __init__(self, client: Any, folder: Path, chance: random.Random) -> None:
        self._client = client
        self._folder = folder
        self._chance = chance

    def publish(self, name: str) -> None:
        content = self._chance.choice(sorted((self._folder / "contents").iterdir()))
        versions.publish(self._client, content, MODEL, version=name)

    def delete(self, name: str) -> None:
        versions.delete_version(self._client, MODEL, name)

    def collect(self, _: str) -> None:
        versions.collect_garbage(self._client, MODEL, grace=dt.timedelta())

    def point(self, name: str) -> None:
        versions.set_alias(self._client, MODEL, ALIAS, name)

    def verify(self, name: str) -> None:
        versions.verify(self._client, MODEL, name)

    def fetch(self, name: str) -> None:
        local = self._folder / f"fetched-{secrets.token_hex(8)}"
        versions.fetch(self._client, MODEL, name, local)
        if _bytes_of(local) not in [_bytes_of(each) for each in (self._folder / "contents").iterdir()]:
            self.complain(f"fetch gave other files than any publisher had: {sorted(_bytes_of(local))}")
        shutil.rmtree(local)

    def complain(self, text: str) -> None:
        """Write a broken rule to a file."""
        (self._folder / f"wrong-{secrets.token_hex(8)}").write_text(text, encoding="utf-8")


def _bytes_of(folder: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in folder.iterdir()}
