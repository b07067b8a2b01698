"""The group of commands, and the conversion of every exception to an exit code and one line."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

import click

from gllm_storage.cli import exits, signals
from gllm_storage.cli.completion import VARIABLE
from gllm_storage.cli.exits import Exit
from gllm_storage.cli.failures import DEBUG
from gllm_storage.cli.options import debug_option
from gllm_storage.cli.output import PROGRAM, StreamError, complain, drop, set_up, show_traceback, stream_errors, to_stderr

if TYPE_CHECKING:
    from collections.abc import Sequence

_COMMANDS = (
    "alias",
    "cache",
    "cat",
    "check",
    "completion",
    "copy-version",
    "cp",
    "delete-version",
    "diff",
    "du",
    "exists",
    "fetch",
    "gc",
    "ls",
    "mv",
    "presign",
    "providers",
    "publish",
    "resolve",
    "retain",
    "rm",
    "stat",
    "sync",
    "verify",
    "versions",
)
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EPILOG = f"""
A URL names an object or a folder in a store: s3://bucket/key, gs://bucket/key, az://container/key, file:///folder/file, or
another URL that fsspec supports. Settings come from options, or from the environment: GLLM_STORAGE_<KEY>, or
GLLM_STORAGE_<PROVIDER>_<KEY> for one provider. Pass secrets in the environment: other users of this machine can read the
options of a running command.

{exits.epilog()}
"""


class _Commands(click.Group):
    """A group that imports the module of a command when it needs the command, so that each command starts fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        found: click.Command = getattr(importlib.import_module(f"gllm_storage.cli.commands.{name}"), name)
        return found

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            meant = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            if not meant:
                raise
            raise click.UsageError(f"{error.message.rstrip('.')} (did you mean {meant[0]!r}?)", ctx) from error


@click.group(cls=_Commands, epilog=_EPILOG, context_settings=_CONTEXT)
@click.version_option(package_name="gllm-storage", prog_name=PROGRAM)
@debug_option
def cli() -> None:
    """Copy, move, list and inspect objects in S3, Google Cloud Storage, Azure Blob Storage and local folders.

    Publish directories as versions of a model, and fetch them.
    """


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after the program's name.

    Returns:
        The exit code.

    Examples:
        >>> run(["exists", "memory://bucket/model.bin"])
        <Exit.NO: 1>
    """
    instruction = os.environ.get(VARIABLE)
    if instruction:
        from click.shell_completion import shell_complete  # only a shell that completes needs it

        return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)
    debug = "--debug" in arguments
    try:
        set_up()
        signals.set_up()
        return _run(list(arguments), debug=debug)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every exception becomes one line
        return _ended(error, debug=debug)


def _run(arguments: list[str], *, debug: bool) -> int:
    # click's own main prints "Aborted!" after Ctrl-C, and exits with 1 both for a broken pipe and for Ctrl-C.
    try:
        with stream_errors():  # --help and --version print here
            made = cli.make_context(PROGRAM, arguments)
        return _invoke(made, debug=debug)
    except click.exceptions.Exit as end:
        _flush()
        return end.exit_code


def _invoke(made: click.Context, *, debug: bool) -> int:
    try:
        with made as context:
            context.meta[DEBUG] = debug
            cli.invoke(context)
        _flush()
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt, signals.announced(made), debug=debug)
    return Exit.OK


def _flush() -> None:
    with stream_errors():
        sys.stdout.flush()


def _ended(error: Exception | KeyboardInterrupt, *, debug: bool) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        to_stderr(f"{error.format_message()}\n")
        return Exit.USAGE
    if isinstance(error, BrokenPipeError):
        drop(sys.stdout)
        return Exit.BROKEN_PIPE
    # Python 3.11 raises RuntimeError from a Ctrl-C that arrives while a class is created, as happens during imports.
    interrupt = error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else error
    if isinstance(interrupt, KeyboardInterrupt):
        return _interrupted(interrupt, "", debug=debug)
    return _failed(interrupt, debug=debug)


def _interrupted(interrupt: KeyboardInterrupt, consequence: str, *, debug: bool) -> int:
    if debug:
        show_traceback(interrupt)
    complain(f"{signals.message(interrupt)}{consequence}")
    return signals.exit_code(interrupt)


def _failed(error: Exception, *, debug: bool) -> int:
    if isinstance(error, StreamError):  # Python flushes the stream at exit, and would print a second error
        drop(sys.stdout)
    if debug:
        show_traceback(error)
    if not isinstance(error, exits.SeveralErrors):
        complain(exits.message_of(error))
    return exits.code_of(error)
