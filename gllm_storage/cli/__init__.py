"""The command line, ``gllm-storage``. It needs the extra: ``pip install 'gllm-storage[cli]'``."""

from __future__ import annotations

import sys

from gllm_storage.extras import require_extra


def main() -> None:
    """Run the command line of this process, and exit with its code."""
    try:
        require_extra("cli", "click", "rich")
    except ImportError as error:
        sys.stderr.write(f"gllm-storage: {error}\n")
        sys.exit(11)
    from gllm_storage.cli.app import run  # noqa: PLC0415 - it imports click

    sys.exit(run(sys.argv[1:]))
