"""`Claims`: the files that one command has written, none of which another of its sources may replace."""

from __future__ import annotations

_PROBLEM = "this command has written that target already, from another source"


class Claims:
    """The targets of the sources of one command.

    Two sources may have files of one name: ``mv a/x b/x t/``. The second one would replace the first one, which a move has
    deleted at its source.

    Args:
        sources: Number of sources. A single one has no target twice.
    """

    def __init__(self, sources: int) -> None:
        self._are_several = sources > 1
        self._taken: set[int] = set()
        """Hashes of 64 bits: of a million files, two have the same one in 1 of 36 million cases, and one is refused then."""

    def add(self, target: str) -> None:
        """Note a file that was written.

        Args:
            target: Its path or URL.
        """
        if self._are_several:
            self._taken.add(hash(target))

    def problem(self, target: str) -> str | None:
        """Why a file must not be written; None if it may.

        Args:
            target: As in `add`.
        """
        return _PROBLEM if hash(target) in self._taken else None

    def require_free(self, target: str) -> None:
        """Check that a file may be written.

        Raises:
            ValueError: If it may not.
        """
        if (problem := self.problem(target)) is not None:
            raise ValueError(f"{target} was not replaced: {problem}")
