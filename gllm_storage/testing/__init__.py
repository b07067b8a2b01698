"""Tests for providers. Importing this package needs no pytest, and no package that the library itself does not need.

- `StoreSuite`: a class of tests; a subclass of it with a description of a store runs every promise as a test.
- `faults`: `FaultProxy`, an HTTP proxy that breaks chosen requests and answers, and the faults.
- `no_waits`: a context without the waits between the attempts of the library.
- `checks`: the checks that `StoreSuite` and ``gllm-storage check`` share: races, pinned reads, checksums.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from gllm_storage.store.retry import no_waits
from gllm_storage.testing.faults import FaultProxy

if TYPE_CHECKING:
    from gllm_storage.testing.suite import StoreSuite

__all__ = ["FaultProxy", "StoreSuite", "no_waits"]


def __getattr__(name: str) -> Any:
    """Import `StoreSuite` on first use, so that pytest, if it runs, can make its assertions show their values."""
    if name != "StoreSuite":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    pytest = sys.modules.get("pytest")
    if pytest is not None and "gllm_storage.testing.suite" not in sys.modules:
        pytest.register_assert_rewrite("gllm_storage.testing.suite")
    from gllm_storage.testing.suite import StoreSuite  # noqa: PLC0415 - see the docstring

    return StoreSuite
