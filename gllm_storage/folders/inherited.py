"""`Inherited`: a fact about folders that depends on the folder above, such as whether a filter takes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST = 1024
"""Folders that are remembered: those of one path, and the ones before it."""

T = TypeVar("T")


class Inherited(Generic[T]):
    """Finds a fact about folders, and remembers it.

    It is a loop, not a recursion: a path may have more folders than Python has frames.

    Args:
        decide: Gives the fact about a folder, from its path and the fact about the folder above.
        top: The fact about the folder whose path is empty.
    """

    def __init__(self, decide: Callable[[str, T], T], top: T) -> None:
        self._decide = decide
        self._top = top
        self._known: dict[str, T] = {}

    def of(self, folder: str) -> T:
        """The fact about a folder.

        Args:
            folder: Its path, without a slash at its end.
        """
        unknown, above = list[str](), folder
        while above and above not in self._known:
            unknown.append(above)
            above = above.rpartition("/")[0]
        found = self._known[above] if above else self._top
        if len(self._known) + len(unknown) > _MOST:
            self._known.clear()
        for each in reversed(unknown):
            found = self._known[each] = self._decide(each, found)
        return found
