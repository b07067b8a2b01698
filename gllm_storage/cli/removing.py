"""``rm``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from gllm_storage.cli.failures import Failures
from gllm_storage.cli.options import clients
from gllm_storage.cli.output import say
from gllm_storage.cli.places import Stored, address
from gllm_storage.cli.settings import Store

if TYPE_CHECKING:
    from collections.abc import Sequence


def remove(urls: Sequence[str], *, force: bool, verbose: bool) -> None:
    """Delete objects.

    Raises:
        SeveralErrors: If any could not be deleted; each was shown.
        ValueError: If a URL is impossible.
    """
    addresses = [address(each) for each in urls]
    made = clients(Store(each.root) for each in addresses)
    failures = Failures()
    for each in addresses:
        stored = Stored(made[Store(each.root)], each.key)
        missing_is_fine = contextlib.suppress(FileNotFoundError) if force else contextlib.nullcontext()
        with failures.tolerated(), missing_is_fine:
            stored.client.delete_file(stored.remote_path)
            if verbose:
                say(stored.url)
    failures.finish()
