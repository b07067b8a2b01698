"""Workers that cannot import this library."""

from __future__ import annotations

import sys


def hide() -> None:
    """Let every import of the library fail, as where it is not installed."""
    sys.modules["gllm_storage"] = None  # type: ignore[assignment]  # so that it cannot be imported
