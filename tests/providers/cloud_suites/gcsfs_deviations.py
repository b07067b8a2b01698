"""The tests of gcsfs with another outcome for this library's class, and the reasons. docs/gcsfs.md documents them, too."""

from __future__ import annotations

LEFT_OUT: dict[str, str] = {
    "test_credentials.py::test_credentials_from_raw_token": "it asks Google itself, over the internet",
}
"""Tests that are not run."""

_FRESH = "listings are not kept, so the test finds no cache"
_STREAM = "it looks into the buffer, the cache or the fields of gcsfs's file; ours has none of them"
_MOVE = "it replaces `_call`, by which our requests do not go; a move is a copy and a deletion"
_PATH = "a path without a bucket or a key is a ValueError, not an OSError"
_LOGIN = "it replaces parts of gcsfs's login; ours tries the same sources in the same order"

DEVIATIONS: dict[str, str] = {
    "test_core.py::test_dircache_filled": _FRESH,
    "test_core.py::test_find_dircache_trailing_slash": _FRESH,
    "test_core.py::test_url": "an open file has no `url`; the filesystem has",
    "test_core.py::test_bad_open": _PATH,
    "test_core.py::test_errors": _PATH,
    "test_core.py::test_dir_marker_info_eq_ls": "`ls` of an empty folder is empty; gcsfs lists the folder's own marker",
    "test_core.py::test_mv_file_calls_move_to": _MOVE,
    "test_core.py::test_mv_file_fallback": _MOVE,
    "test_core.py::test_mv_file_idempotency_retries": _MOVE,
    "test_core.py::test_mv_file_raises_error_for_specific_generation": "the ValueError has other words",
    "test_core.py::test_read_small": _STREAM,
    "test_core.py::test_readline_from_cache": _STREAM,
    "test_core.py::test_write_blocks": _STREAM,
    "test_core.py::test_seekable": "a file that is open for writing can seek: its content is sent at the close",
    "test_core.py::test_sign": "it needs a private key; gcsfs's own class fails as well",
    "test_core.py::test_user_project_fallback_google_default": _LOGIN,
    "test_core.py::test_raise_on_project_mismatch": _LOGIN,
    "test_core_versioned.py::test_write_captures_generation": "a written file has `stored.version`, and no `generation`",
    "test_core_versioned.py::test_write_captures_generation_multipart": "as `test_write_captures_generation`",
}
"""Tests that are expected to fail: a function with all its parameters, or one parametrized test."""
