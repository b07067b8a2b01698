"""The floor: a program that does each job in plain Python and nothing else. The environment names it."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any, ClassVar

from benchmarks.layout import FLOOR_PROGRAM
from benchmarks.peers.base import Peer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.layout import Endpoint
    from benchmarks.peers.base import Transfer

_THREADS = 2


def _load() -> Any:
    path = os.environ.get(FLOOR_PROGRAM, "")
    if not os.path.isfile(path):
        raise ImportError("its program is not there; --floor names it")
    spec = importlib.util.spec_from_file_location("floor", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python program")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_FLOOR = _load()


class Floor(Peer):
    """Two threads. It reads its files from the folder that the server serves, under names of its own."""

    how = {
        "upload": f"parts of 8 MiB in {_THREADS} threads",
        "download": f"ranges of 8 MiB in {_THREADS} threads",
        "upload_many": f"one request after another in {_THREADS} threads",
        "download_many": f"one request after another in {_THREADS} threads",
        "serial": "one connection",
    }
    tries: ClassVar[bool] = False
    synced: ClassVar[bool] = False
    method: ClassVar[str] = "down"

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.served = str(endpoint.served)
        self.serial = self._serial

    def upload(self, path: str, key: str) -> None:  # noqa: ARG002 - its keys are its own
        self._show("big.bin", path)
        self._floor("").up()

    def download(self, key: str, path: str) -> None:
        self._show("big.bin", os.path.join(self.served, key))
        # The floor deletes its file. With a second name, the content stays to be compared, and no run pays for the deletion.
        out = f"{path}-floor"
        os.makedirs(out, exist_ok=True)
        target = os.path.join(out, "big.bin")
        with open(path, "xb"):
            os.link(path, target)
        self._download(self._floor(out))

    def _download(self, floor: Any) -> None:
        floor.down()

    def upload_many(self, transfers: Sequence[Transfer]) -> None:
        self._show("small", os.path.dirname(transfers[0][0]))
        self._floor("").put()

    def download_many(self, transfers: Sequence[Transfer]) -> None:
        path, key = transfers[0]
        self._show("small", os.path.join(self.served, os.path.dirname(key)))
        self._floor(os.path.dirname(path)).get()

    def _serial(self, path: str) -> None:
        """200 times: 1 KiB up, HEAD, 16 KiB down."""
        self._show("small", os.path.dirname(path))
        self._floor("").serial()

    def _floor(self, out: str) -> Any:
        return _FLOOR.Floor(self.endpoint.url, self.served, self.endpoint.ca, _THREADS, out or None, self.synced)

    def _show(self, name: str, target: str) -> None:
        link = os.path.join(self.served, name)
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(target, link)


class FloorBio(Floor):
    """Downloads through `ssl.MemoryBIO`."""

    how = {"download": f"ranges of 8 MiB in {_THREADS} threads, `ssl.MemoryBIO`"}

    def _download(self, floor: Any) -> None:
        floor.down(bio=True)


class FloorSynced(Floor):
    """Downloads that last through a power cut."""

    how = {
        "download": f"ranges of 8 MiB in {_THREADS} threads, `--sync`",
        "download_many": f"one request after another in {_THREADS} threads, `--sync`",
    }
    synced: ClassVar[bool] = True
