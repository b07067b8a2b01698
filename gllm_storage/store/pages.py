"""`PageCheck`: whether the pages of a listing go on, or come again.

A listing that comes again never ends, and a listing that stops early makes ``rm -r`` and ``cp -r`` leave objects behind
without a word. So every listing is complete, or an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

_MOST_EMPTY = 10_000
"""Empty pages in a row. GCS and Azure may answer several while they skip deleted objects."""


class RepeatedPageError(Exception):
    """A page, or the token of the next page, was there before: the listing would never end."""


class PageCheck:
    """Checks the pages of one listing, in order."""

    def __init__(self) -> None:
        self._tokens: set[str] = set()
        self._first_names: set[str] = set()
        self._before: frozenset[str] = frozenset()
        self._empty = 0

    def repeated(self, names: Sequence[str], *, more: bool) -> Container[str]:
        """Find the names that the page before had already: some servers begin a page with the last entry of the one before.

        Args:
            names: All keys and prefixes of the page.
            more: Whether the page says that another one follows.

        Returns:
            The names to leave out.

        Raises:
            RepeatedPageError: If the page has only such names, or begins as an earlier page did; or if there are 10,000
                empty pages in a row.
        """
        before, self._before = self._before, frozenset(names)
        if not names:
            self._empty += 1
            if self._empty > _MOST_EMPTY:
                raise RepeatedPageError(f"its listing has {_MOST_EMPTY} empty pages in a row")
            return frozenset()
        self._empty = 0
        new = next((each for each in names if each not in before), None)
        if new is None and not more and len(names) == 1:
            return before
        if new is None or new in self._first_names:
            raise RepeatedPageError(f"its listing repeats a page, which begins with {names[0][:80]!r}")
        self._first_names.add(new)
        return before

    def require_new(self, token: object) -> None:
        """Check the token of the next page.

        Raises:
            RepeatedPageError: If an earlier page had the same token, or the token is not a text.
        """
        if not isinstance(token, str):
            raise RepeatedPageError(f"the token of its next page is {str(token)[:80]!r}, which is not a text")
        if token in self._tokens:
            raise RepeatedPageError(f"its listing repeats the token of a page, {token[:80]!r}")
        self._tokens.add(token)
