"""The files of earlier versions that a new version has, too: they are copied within the store instead of sent."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING

from gllm_storage.errors import OURS
from gllm_storage.versions.entries import Manifest
from gllm_storage.versions.log import logged_entries, newest_in, version_log
from gllm_storage.versions.stored_file import holds
from gllm_storage.versions.stored_tree import stored_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gllm_storage.versions.layout import Model
    from gllm_storage.versions.publisher import SourceTree
    from gllm_storage.versions.stored_file import Content
    from gllm_storage.versions.tree import TreeFile

_VERSIONS = 3
"""How many of the latest versions are read."""
SMALLEST = 2**16
"""A smaller file is sent: one request, as a copy."""
_MOST_FILES = 200_000
"""The most files that are remembered, about 50 MiB."""


class Earlier:
    """Where the files of earlier versions are, by their SHA-256.

    Args:
        model: The model.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._keys: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def add(self, place: str, files: Iterable[TreeFile]) -> None:
        """Add the files of a version."""
        for file in files:
            if len(self._keys) >= _MOST_FILES:
                return
            if file.size >= SMALLEST:
                self._keys.setdefault(file.sha256, self._model.data(place) + file.path)

    def copy(self, content: Content, key: str) -> bool:
        """Copy a content, if an earlier version has it. Returns False if the copy is not there with that content.

        A damaged source would make a damaged copy, which keeps the file itself out of the directory. So the source is
        compared first, by a checksum that the store has of it, and that version of it is copied. A source that fails is not
        used again.
        """
        store, source = self._model.store, self._keys.get(content.sha256)
        if source is None or source == key:
            return False
        try:
            found = store.info(source, "copy")
            if found.size == content.size and content.agrees(found.checksum):
                # A copy that replaces the file of an equal publisher is harmless only if it does so atomically. If it need
                # not be exclusive, it is a server-side copy on more stores.
                exclusive = not store.replaces_at_once
                store.copy_version(source, key, store.transfer(source, "copy"), exclusive=exclusive, version=found)
                if holds(store, key, content):
                    return True
        except OURS:
            pass
        self._keys.pop(content.sha256, None)
        return False


@contextlib.contextmanager
def earlier_files(model: Model, tree: SourceTree) -> Iterator[Earlier]:
    """The large files of the latest versions.

    An error of an earlier version does not keep a new one from being published: its files are sent.

    Raises:
        StorageError: If the versions cannot be listed.
    """
    earlier = Earlier(model)
    if tree.size >= SMALLEST:
        for version in itertools.islice(_latest_versions(model), _VERSIONS):
            with contextlib.suppress(*OURS):
                _, entry = version_log(model, version, "publish").newest()
                if isinstance(entry, Manifest) and entry.digest != tree.digest:
                    with stored_tree(model, entry, "publish") as files:
                        earlier.add(entry.place, files)
    yield earlier


def _latest_versions(model: Model) -> list[str]:
    """The names of versions, that with the youngest entry first, by the clock of the store."""
    times = {each.version: each.time for each in newest_in(logged_entries(model)) if each.time is not None}
    return sorted(times, key=lambda each: times[each], reverse=True)
