"""The commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import shell_complete

from gllm_storage.cli import exits, signals
from gllm_storage.cli.completion import SHELLS, VARIABLE, complete_url, print_script
from gllm_storage.cli.exits import Exit
from gllm_storage.cli.failures import DEBUG
from gllm_storage.cli.options import debug_option, side_options, store_options
from gllm_storage.cli.output import PROGRAM, StreamError, complain, set_up, show_traceback, stream_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPILOG = f"""
A store is named by a URL, such as s3://bucket/key, gs://bucket/key, az://container/key, file:///folder/file, or any other
that fsspec knows. Settings come from options, or from the environment: GLLM_STORAGE_<KEY>, or GLLM_STORAGE_<PROVIDER>_<KEY>
for one provider alone. Secrets belong there: other users of this machine can see the options of a command.

{exits.epilog()}
"""


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gllm-storage", prog_name=PROGRAM)
@debug_option
def cli() -> None:
    """Copy, list and inspect objects in S3, Google Cloud Storage, Azure Blob Storage and local folders."""


_urls = click.argument("urls", metavar="URL...", nargs=-1, required=True, shell_complete=complete_url)
_url = click.argument("url", metavar="URL", shell_complete=complete_url)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@cli.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=complete_url)
@click.argument("target", metavar="TARGET", shell_complete=complete_url)
@click.option("-n", "--no-clobber", is_flag=True, help="Fail if the target exists: atomically, never overwriting anything.")
@click.option("-r", "--recursive", is_flag=True, help="Copy folders; SOURCE/ means what is in it.")
@click.option("-v", "--verbose", is_flag=True, help="Print the URL or path of each copy.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar on a terminal.")
@side_options
@store_options
def cp(**options: Any) -> None:
    """Copy files: up, down, or from store to store; "-" is standard input or output.

    A copy is whole, or the target is as it was. A TARGET that ends with "/", or is a folder here, gets the copies into it.
    """
    from gllm_storage.cli.copying import copy_all  # noqa: PLC0415 - fsspec takes 50 ms to import

    copy_all(**options)


@cli.command()
@_url
@click.option("-r", "--recursive", is_flag=True, help="All objects at any depth.")
@click.option("-l", "--long", "long_format", is_flag=True, help="Size and time, too.")
@_json
@store_options
def ls(**options: Any) -> None:
    """List what is in a bucket or folder; folders end with "/"."""
    from gllm_storage.cli.listing import list_folder  # noqa: PLC0415 - as above

    list_folder(**options)


@cli.command()
@_urls
@_json
@store_options
def stat(**options: Any) -> None:
    """Show what the store knows of objects."""
    from gllm_storage.cli.listing import describe  # noqa: PLC0415 - as above

    describe(**options)


@cli.command()
@_urls
@store_options
def cat(**options: Any) -> None:
    """Write objects to standard output.

    Each is read in one version, and compared with its checksum, where one is kept, when its last byte was written.
    """
    from gllm_storage.cli.copying import concatenate  # noqa: PLC0415 - as above

    concatenate(**options)


@cli.command()
@_urls
@click.option("-r", "--recursive", is_flag=True, help="All objects below URL, too, at any depth.")
@click.option("-f", "--force", is_flag=True, help="A missing object is no error.")
@click.option("-v", "--verbose", is_flag=True, help="Print the URLs of what was deleted.")
@store_options
def rm(**options: Any) -> None:
    """Delete objects.

    With --recursive all that is below URL: "s3://b/x" means "x/..." and "x", and never "xy".
    """
    from gllm_storage.cli.removing import remove  # noqa: PLC0415 - as above

    remove(**options)


@cli.command()
@_url
@store_options
def exists(url: str) -> None:
    """Exit with 0 if the object exists, with 1 if it does not."""
    from gllm_storage.cli.listing import is_there  # noqa: PLC0415 - as above

    if not is_there(url):
        raise click.exceptions.Exit(Exit.NO)


@cli.command()
@_json
@debug_option
def providers(as_json: bool) -> None:
    """List the providers, and whether what they need is installed."""
    from gllm_storage.cli.providers import show_providers  # noqa: PLC0415 - as above

    show_providers(as_json=as_json)


@cli.command()
@_url
@_json
@click.option("--writers", default=8, show_default=True, type=click.IntRange(2, 64), help="Writers in a race.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="Races of small objects.")
@click.option("--large-size", default="12MiB", show_default=True, metavar="SIZE", help="Of the large object.")
@store_options
def check(**options: Any) -> None:
    """What does this store do? It writes a few objects below URL, and removes them again."""
    from gllm_storage.cli.check import check_store  # noqa: PLC0415 - as above

    code = check_store(**options)
    if code:
        raise click.exceptions.Exit(code)


@cli.command()
@click.argument("shell", type=click.Choice(SHELLS))
@debug_option
def completion(shell: str) -> None:
    """Print the completion script of a shell, as in: eval "$(gllm-storage completion bash)"."""
    print_script(cli, shell)


def run(arguments: Sequence[str]) -> int:
    """Run the command line.

    Args:
        arguments: What follows the program's name.

    Returns:
        What to exit with.
    """
    instruction = os.environ.get(VARIABLE)
    if instruction:
        return shell_complete(cli, {}, PROGRAM, VARIABLE, instruction)
    debug = "--debug" in arguments
    try:
        set_up()
        signals.set_up()
        return _run(list(arguments), debug=debug)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - whatever it is, the user gets one line
        return _ended(error, debug=debug)


def _ended(error: Exception | KeyboardInterrupt, *, debug: bool) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message(), err=True)
        return Exit.USAGE
    if isinstance(error, BrokenPipeError):
        _forget_stdout()
        return Exit.BROKEN_PIPE
    # Python 3.11 makes a RuntimeError of a Ctrl-C that comes while a class is being made, as imports do.
    interrupt = error.__cause__ if isinstance(error.__cause__, KeyboardInterrupt) else error
    if isinstance(interrupt, KeyboardInterrupt):
        return _interrupted(interrupt, "", debug=debug)
    return _failed(interrupt, debug=debug)


def _run(arguments: list[str], *, debug: bool) -> int:
    # Not click's own main: it says "Aborted!" to Ctrl-C, and exits with 1 for each of a broken pipe and Ctrl-C.
    try:
        with stream_errors():  # --help and --version are printed here
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
        return _interrupted(interrupt, signals.what_is_left(made), debug=debug)
    return Exit.OK


def _flush() -> None:
    with stream_errors():
        sys.stdout.flush()


def _interrupted(interrupt: KeyboardInterrupt, left: str, *, debug: bool) -> int:
    if debug:
        show_traceback(interrupt)
    complain(f"{signals.message(interrupt)}{left}")
    return signals.exit_code(interrupt)


def _failed(error: Exception, *, debug: bool) -> int:
    if isinstance(error, StreamError):
        _forget_stdout()
    if debug:
        show_traceback(error)
    if not isinstance(error, exits.SeveralErrors):
        complain(exits.message_of(error))
    return exits.code_of(error)


def _forget_stdout() -> None:
    """Let nobody write the rest of the output when the process ends: Python would complain that it cannot."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)
