"""What people and pipes get to see: text that cannot confuse a terminal, and no secrets."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import traceback
import unicodedata
import warnings
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gllm_storage.info import ObjectInfo

PROGRAM = "gllm-storage"
_UNIT = 1024
_SHORTEST_SECRET = 6  # shorter ones are the "test" and "1234" of emulators, and parts of ordinary words
_PASSWORD = re.compile(r"(?<=://)([^/@:\s]*):[^/\s]*@")
_BARE_PASSWORD = re.compile(r"(?<![^\s'\"(=])([^/@:\s'\"]+):[^/\s'\"]+@")  # of errors that name the host part alone
_secrets: set[str] = set()


class StreamError(OSError):
    """A standard stream cannot be read or written; `filename` says which."""


@contextlib.contextmanager
def stream_errors(name: str = "standard output") -> Iterator[None]:
    """Let errors within the block say that they are about a standard stream, whose name no `OSError` knows."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StreamError(error.errno, error.strerror, name) from error


def hide(secret: str) -> None:
    """Remember a value that must never be shown."""
    if len(secret) >= _SHORTEST_SECRET:
        _secrets.add(secret)


def scrubbed(text: str) -> str:
    """A text without the secrets that the command was given."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _BARE_PASSWORD.sub(r"\1:***@", _PASSWORD.sub(r"\1:***@", text))


def printable(text: str) -> str:
    """A text in one line, whose control characters (a key may hold any) are shown, not obeyed."""
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    odd = unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}
    return character.encode("unicode_escape", "surrogatepass").decode() if odd else character


def say(text: str) -> None:
    """Print a line on standard output."""
    with stream_errors():
        click.echo(printable(text))


def complain(text: str) -> None:
    """Print one line on standard error."""
    line = " ".join(text.split("\n"))
    click.echo(printable(scrubbed(f"{PROGRAM}: {line}")), err=True)


def show_traceback(error: BaseException) -> None:
    """Print how it came to an error, for ``--debug``."""
    click.echo(scrubbed("".join(traceback.format_exception(error))), err=True, nl=False)


def say_json(value: Any) -> None:
    """Print a JSON document."""
    with stream_errors():
        click.echo(json.dumps(value, indent=2, ensure_ascii=not _is_unicode()))


def say_json_array(values: Iterable[Any]) -> None:
    """Print a JSON array, element by element: a bucket may hold more than fits into memory."""
    separator = "["
    for value in values:
        with stream_errors():
            click.echo(f"{separator}\n  {json.dumps(value)}", nl=False)
        separator = ","
    with stream_errors():
        click.echo("[]" if separator == "[" else "\n]")


def as_json(info: ObjectInfo) -> dict[str, Any]:
    """An object's facts for machines."""
    found = {each.name: getattr(info, each.name) for each in fields(info)}
    found["last_modified"] = info.last_modified and info.last_modified.isoformat()
    found["metadata"] = None if info.metadata is None else dict(info.metadata)
    return found


def human_size(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < _UNIT:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= _UNIT
    return f"{size:.1f} TiB"


def human_time(moment: datetime | None) -> str:
    """A time for people, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment else "-"


def set_up() -> None:
    """Send the library's warnings to standard error in our form; let no odd name break standard output."""
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


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
