"""The objects and local files that ``check`` makes, under names of its own, and their removal."""

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


@dataclass
class Bench:
    """The objects of a run of ``check``, and their local sources.

    Attributes:
        folder: The folder of the objects.
        local: A temporary local folder.
        large_size: The size of a large object in bytes.
        writers: The number of writers in a race.
        rounds: The number of races of each kind.
        used: The names that were used.
        warnings: The warnings of writes that were not atomic.
        values: The values of finished races, by the name of the check.
    """

    folder: Folder
    local: str
    large_size: int
    writers: int
    rounds: int
    used: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    _start: str = field(default_factory=lambda: f".gllm-check-{secrets.token_hex(8)}-")

    @property
    def client(self) -> Any:
        """The client."""
        return self.folder.client

    def path(self, name: str) -> str:
        """The remote path of an object. All objects lie in one folder: a further folder would stay in a local store."""
        self.used.add(name)
        return f"/{self.folder.prefix}{self._start}{name}"

    def file(self, name: str, content: bytes) -> str:
        """Write a local file, and return its path."""
        path = os.path.join(self.local, name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def put(self, name: str, content: bytes, *, exclusive: bool = False) -> None:
        """Upload an object."""
        self.client.upload_file(self.file("source", content), self.path(name), check_conflict=exclusive)

    def get(self, name: str) -> bytes:
        """Download an object."""
        with open(self.client.download_file(self.path(name), os.path.join(self.local, "target")), "rb") as file:
            return file.read()

    def remove_all(self) -> list[str]:
        """Delete all objects, and verify that they are gone.

        Returns:
            URLs of the objects that could not be deleted, or are still listed. A store may keep an object that it reports as
            deleted: after one in 30 races, ``rclone serve s3`` 1.75 still lists the object, or reports that it is missing
            and leaves it on disk.
        """
        paths = {self.path(name) for name in self.used} | self._listed()
        left = {path for path in paths if not self._is_removed(path)}
        return [self.client.url(path) for path in sorted(left | self._listed())]

    def _listed(self) -> set[str]:
        """Remote paths of the objects that the store lists; empty without permission to list."""
        start = len(self.folder.url)
        with contextlib.suppress(Exception):  # the removal goes on with the names that the checks have used
            found = self.client.list_files(f"/{self.folder.prefix}{self._start}")
            return {f"/{self.folder.prefix}{info.url[start:]}" for info in found}
        return set()

    def _is_removed(self, path: str) -> bool:
        try:
            self.client.delete_file(path)
        except FileNotFoundError:
            return True
        except Exception:  # noqa: BLE001 - after any error the object may exist, and the report says so
            return self._is_absent(path)
        return True

    def _is_absent(self, path: str) -> bool:
        try:
            return not self.client.file_exists(path)
        except Exception:  # noqa: BLE001 - the report names it as an object that may be left
            return False


@contextlib.contextmanager
def prepared(folder: Folder, *, large_size: int, writers: int, rounds: int) -> Iterator[Bench]:
    """A bench with a temporary local folder. The caller removes the objects with `Bench.remove_all`."""
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


@contextlib.contextmanager
def removing_folders(root: str) -> Iterator[None]:
    """Remove at the end the local folders that did not exist before.

    Args:
        root: The folder of the objects; empty for a store that is not local.
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
