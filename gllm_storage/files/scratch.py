"""Errors of the temporary files in which long lists are kept."""

from __future__ import annotations

import os

from gllm_storage.errors import ErrorDetails, StorageError


def scratch_error(error: Exception) -> StorageError:
    """The error for a list in a temporary file, such as one on a full disk.

    Args:
        error: The `OSError`, or the error of SQLite.
    """
    import tempfile  # it takes 4 ms to import, and most verbs need none

    try:
        folder = tempfile.gettempdir()
    except OSError:  # none can be written to
        folder = os.environ.get("TMPDIR") or os.sep
    reason = getattr(error, "strerror", None) or error
    found = StorageError(
        f"a list of files cannot be kept in {folder!r}, the folder for temporary files (TMPDIR): {reason}",
        ErrorDetails("file", folder, "transfer"),
    )
    found.__cause__ = error
    return found
