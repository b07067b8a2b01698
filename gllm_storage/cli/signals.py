"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is under way is taken back first."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from types import FrameType

_FIRST = 128
_MESSAGES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "the terminal was closed"}
_LEFT = "gllm_storage.left"


class Ended(KeyboardInterrupt):
    """A signal asks us to end. A `KeyboardInterrupt`, because everything that cleans up after one is to do so here.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


def set_up() -> None:
    """Answer the signals; one that our parent makes us ignore (as nohup does) stays ignored."""
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _end)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells call a process that died of that signal."""
    return _FIRST + _signal_of(interrupt)


def message(interrupt: KeyboardInterrupt) -> str:
    """What happened."""
    return _MESSAGES[_signal_of(interrupt)]


def announce(left: str) -> None:
    """Say what to tell of the work of the running command, if a signal ends it.

    A request that was sent may be carried out all the same, so that nobody can promise that it is taken back.
    """
    click.get_current_context().meta[_LEFT] = f"; {left}"


def what_is_left(context: click.Context) -> str:
    """What the command of a context announced."""
    left: str = context.meta.get(_LEFT, "")
    return left


def _signal_of(interrupt: KeyboardInterrupt) -> signal.Signals:
    return signal.Signals(interrupt.signum) if isinstance(interrupt, Ended) else signal.SIGINT


def _end(signum: int, _: FrameType | None) -> None:
    raise Ended(signum)
