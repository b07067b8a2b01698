"""SIGTERM and SIGHUP end a command as Ctrl-C does: transfers are cancelled and cleaned up first."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import FrameType

_FIRST = 128
"""Shells report a process that a signal ended by this number plus the signal's."""
_MESSAGES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}
_CONSEQUENCE = "gllm_storage.consequence"
"""The key of click's context for the text of `announce`."""


class Ended(KeyboardInterrupt):
    """A signal asks the process to end. A `KeyboardInterrupt`, so that all clean-up for Ctrl-C runs for it, too.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


def set_up() -> None:
    """Handle the signals; a signal that the parent process ignores (as under nohup) stays ignored."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _end)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code for the signal of an interrupt."""
    return _FIRST + _signal_of(interrupt)


def message(interrupt: KeyboardInterrupt) -> str:
    """The event, in words."""
    return _MESSAGES[_signal_of(interrupt)]


def announce(consequence: str) -> None:
    """Set the text that follows "interrupted" if a signal ends the running command.

    A request that was sent may still take effect, so the text must not promise that it is undone.

    Args:
        consequence: The state that the command may leave, as in ``"the current object may be deleted"``.
    """
    click.get_current_context().meta[_CONSEQUENCE] = f"; {consequence}"


def announced(context: click.Context) -> str:
    """The text of `announce`, with a separator before it; empty if there is none."""
    found: str = context.meta.get(_CONSEQUENCE, "")
    return found


def _signal_of(interrupt: KeyboardInterrupt) -> signal.Signals:
    return signal.Signals(interrupt.signum) if isinstance(interrupt, Ended) else signal.SIGINT


def _end(signum: int, _: FrameType | None) -> None:
    raise Ended(signum)
