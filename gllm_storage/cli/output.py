"""Output for terminals and pipes, without control characters in names and without secrets."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import traceback
import unicodedata
import warnings
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TextIO

import click

from gllm_storage.errors import redacted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gllm_storage.info import ObjectInfo

PROGRAM = "gllm-storage"
_UNIT = 1024
# Shorter values are the "test" and "1234" of emulators, and parts of ordinary words.
_SHORTEST_SECRET = 6
# In errors that name only the host part of a URL.
_BARE_PASSWORD = re.compile(r"(?<![^\s'\"(=])([^/@:\s'\"]+):[^/\s'\"]+@")
_secrets: set[str] = set()


class StreamError(OSError):
    """A standard stream cannot be read or written; `filename` names the stream."""


@contextlib.contextmanager
def stream_errors(name: str = "standard output") -> Iterator[None]:
    """Name the standard stream in errors within the block: the `OSError` of a descriptor has no file name.

    Raises:
        StreamError: For each `OSError` but `BrokenPipeError`.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StreamError(error.errno, error.strerror, name) from error


def hide(secret: str) -> None:
    """Replace a value by ``***`` in all errors from now on."""
    if len(secret) >= _SHORTEST_SECRET:
        _secrets.add(secret)


def scrubbed(text: str) -> str:
    """A text without the secrets that the command got, and without passwords in URLs."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _BARE_PASSWORD.sub(r"\1:***@", redacted(text))


def printable(text: str) -> str:
    """A text in one line, with control characters escaped: a key may hold any, and a terminal would obey them."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    control = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
    return character.encode("unicode_escape", "surrogatepass").decode() if control else character


def say(text: str) -> None:
    """Print a line on standard output."""
    with stream_errors():
        click.echo(printable(text))


def complain(text: str) -> None:
    """Print a text as one line on standard error."""
    line = " ".join(text.split("\n"))
    to_stderr(f"{printable(scrubbed(f'{PROGRAM}: {line}'))}\n")


def show_traceback(error: BaseException) -> None:
    """Print the traceback of an error, for ``--debug``."""
    to_stderr(scrubbed("".join(traceback.format_exception(error))))


def to_stderr(text: str) -> None:
    """Print a text on standard error. If that fails, it is dropped: the exit code must not depend on where messages go."""
    try:
        click.echo(text, err=True, nl=False)
        sys.stderr.flush()
    except OSError:  # a full disk, a closed pipe: Python would try again at its end, and exit with another code
        drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Send the buffered output of a standard stream, and all further output, to ``/dev/null``."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def say_json(value: Any) -> None:
    """Print a JSON document."""
    import json  # only this output needs it

    with stream_errors():
        click.echo(json.dumps(value, indent=2, ensure_ascii=not _is_utf8()))


def say_json_array(values: Iterable[Any]) -> None:
    """Print a JSON array, element by element: the objects of a bucket may not fit into memory."""
    import json  # only this output needs it

    separator = "["
    for value in values:
        with stream_errors():
            click.echo(f"{separator}\n  {json.dumps(value)}", nl=False)
        separator = ","
    with stream_errors():
        click.echo("[]" if separator == "[" else "\n]")


def info_as_json(info: ObjectInfo) -> dict[str, Any]:
    """The facts about an object as JSON values."""
    found = {each.name: getattr(info, each.name) for each in fields(info)}
    found["last_modified"] = info.last_modified and info.last_modified.isoformat()
    found["metadata"] = None if info.metadata is None else dict(info.metadata)
    return found


def human_size(size: float) -> str:
    """A number of bytes with a unit, as in ``"3.0 MiB"``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _UNIT:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _UNIT
    return f"{size:.1f} TiB"


def human_time(moment: datetime | None) -> str:
    """A time in UTC, as in ``"2025-01-31T12:00:00Z"``; ``"-"`` if it is unknown."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else "-"


def shows_progress() -> bool:
    """Whether standard error is a terminal that can redraw a line."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def set_up() -> None:
    """Print the library's warnings as lines on standard error, and escape characters that a stream cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(errors="backslashreplace")
    logging.getLogger().addHandler(logging.NullHandler())
    logging.getLogger("gllm_storage").addHandler(_Complaining(logging.WARNING))
    warnings.showwarning = _show_warning


class _Complaining(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complain(f"warning: {record.getMessage()}")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain(f"warning: {message}")


def _is_utf8() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
