"""Where ``check`` works: names of its own in the store, and files of its own here, all of them removed at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import NonAtomicWriteWarning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.cli.places import Folder

_MIB = 2**20


@dataclass
class Bench:
    """Objects in the store, and the files that they are made from.

    Attributes:
        folder: Below which the objects are.
        local: A temporary folder.
        large_size: Bytes of a large object.
        writers: How many writers race.
        rounds: How often they race.
        used: The names that were used.
        warnings: Warnings of writes that were not atomic.
    """

    folder: Folder
    local: str
    large_size: int
    writers: int
    rounds: int
    used: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    _start: str = field(default_factory=lambda: f".gllm-check-{secrets.token_hex(8)}-")

    @property
    def client(self) -> Any:
        """The client."""
        return self.folder.client

    def path(self, name: str) -> str:
        """The remote path of an object of ours. All lie side by side, so that no folder is made that would stay."""
        self.used.add(name)
        return f"/{self.folder.prefix}{self._start}{name}"

    def file(self, name: str, content: bytes) -> str:
        """A local file."""
        path = os.path.join(self.local, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def put(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        """Store an object."""
        self.client.upload_file(self.file("source", content), self.path(name), check_conflict=exclusive)

    def get(self, name: str) -> bytes:
        """Read an object."""
        with open(self.client.download_file(self.path(name), os.path.join(self.local, "target")), "rb") as file:
            return file.read()

    def remove_all(self) -> list[str]:
        """Delete what is in the store, and look whether it is gone.

        Returns:
            URLs of what could not be deleted, or is listed still. A store may keep what it says it deleted: after one in
            30 races, ``rclone serve s3`` 1.75 goes on listing the object, or denies that there is one and leaves it on disk.
        """
        paths = {self.path(name) for name in self.used} | self._listed()
        left = {path for path in paths if not self._is_removed(path)}
        return [self.client.url(path) for path in sorted(left | self._listed())]

    def _listed(self) -> set[str]:
        """Remote paths of ours that the store lists; none where we may not list: the names are known all the same."""
        start = len(self.folder.url)
        with contextlib.suppress(Exception):
            found = self.client.list_files(f"/{self.folder.prefix}{self._start}")
            return {f"/{self.folder.prefix}{info.url[start:]}" for info in found}
        return set()

    def _is_removed(self, path: str) -> bool:
        try:
            self.client.delete_file(path)
        except FileNotFoundError:
            return True
        except Exception:  # noqa: BLE001 - whatever it is, the object may be there, and the report says so
            return self._is_known_absent(path)
        return True

    def _is_known_absent(self, path: str) -> bool:
        try:
            return not self.client.file_exists(path)
        except Exception:  # noqa: BLE001 - as above
            return False


@contextlib.contextmanager
def prepared(folder: Folder, *, large_size: int, writers: int, rounds: int) -> Iterator[Bench]:
    """A bench, with its local files; whoever uses it removes its objects by `Bench.remove_all`."""
    with tempfile.TemporaryDirectory(prefix="gllm-storage-") as local, warnings.catch_warnings():
        bench = Bench(folder, local, large_size, writers, rounds)
        shown = warnings.showwarning

        def collect(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, NonAtomicWriteWarning):
                bench.warnings.append(str(message))
            else:
                shown(message, category, *rest, **named)

        warnings.simplefilter("always", NonAtomicWriteWarning)
        warnings.showwarning = collect
        yield bench


def content(seed: int, size: int) -> bytes:
    """Content that is told from all other content by any 32 bytes of it."""
    block = b"".join(f"{seed:07d}{line:08d}\n".encode() for line in range(min(size, _MIB) // 16 + 1))
    return (block * (size // len(block) + 1))[:size]


@contextlib.contextmanager
def leaving_no_folder(root: str) -> Iterator[None]:
    """Take back the folders that storing in a local folder makes.

    Args:
        root: The folder.
    """
    missing = []
    while root and not os.path.isdir(root) and root != os.path.dirname(root):
        missing.append(root)
        root = os.path.dirname(root)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for each in missing:
                os.rmdir(each)
