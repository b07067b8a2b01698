"""Optional dependencies."""

from __future__ import annotations

from importlib.util import find_spec


def require_extra(extra: str, *modules: str) -> None:
    """Check that what an extra installs is there, without importing it.

    Args:
        extra: Name of the extra.
        *modules: What it installs, among other things.

    Raises:
        ImportError: If a module is missing; it says how to install the extra.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        raise ImportError(
            f"{extra!r} needs the module {missing[0]!r}, which is not installed: pip install 'gllm-storage[{extra}]'",
            name=missing[0],
        )


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False
