"""The command line, ``gllm-storage``. It needs the extra: ``pip install '.[cli]'``."""

from __future__ import annotations

import gc
import os
import sys

from gllm_storage.settings import require_extra

_MISSING_PACKAGE, _INTERRUPTED = 11, 130  # `exits.Exit` imports click, which may be missing
_ENDED_WELL = (0, 1)


def main() -> None:
    """Run the command line with the arguments of this process, and exit with its code."""
    try:
        _replace_closed_streams()
        code = _run()
    except KeyboardInterrupt:  # during an import, or a second Ctrl-C: nothing to clean up
        _tell("interrupted")
        code = _INTERRUPTED
    if code in _ENDED_WELL:
        # Python looks for cycles among all objects when it ends, which takes 15 ms. After a failure, a traceback may hold a
        # temporary file in a cycle.
        gc.freeze()
    sys.exit(code)


def _run() -> int:
    try:
        require_extra("cli", "click", "rich")
    except ImportError as error:
        _tell(str(error))
        return _MISSING_PACKAGE
    from gllm_storage.cli.app import run  # it imports click

    return run(sys.argv[1:])


def _tell(message: str) -> None:
    try:
        sys.stderr.write(f"gllm-storage: {message}\n")
        sys.stderr.flush()
    except OSError:  # as in `output.to_stderr`, which imports click
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _replace_closed_streams() -> None:
    """Open ``/dev/null`` in place of standard streams that the parent process closed (``>&-``).

    Otherwise the next file that is opened gets the free descriptor, and receives the output.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if _is_open(fd):
            continue
        # Opened for writing only, so that reading "-" from a closed standard input fails instead of storing an empty object.
        if os.open(os.devnull, os.O_WRONLY) == fd:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115 - open until the process ends


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
