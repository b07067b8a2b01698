"""The options that all commands on stores share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.completion import complete_setting
from gllm_storage.cli.settings import SOURCE, TARGET, Setting, Store, make_clients, parse_setting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from gllm_storage.fsspec_client import FsspecStorageClient

_META = "gllm_storage.settings"

# Option, config key, metavar, help.
_NAMED = (
    ("--endpoint-url", "endpoint_url", "URL", "URL of an S3-compatible or other store."),
    ("--region", "region_name", "NAME", "Region."),
    ("--profile", "profile_name", "NAME", "Profile of the AWS configuration."),
    ("--ca-bundle", "ca_bundle", "FILE", "CA certificates to trust."),
)


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for settings; `clients` uses them."""
    options = [
        _config("--config", "-c", help="A setting of the store; may be repeated. PROVIDER.KEY=VALUE for one provider.")
    ]
    options += [
        click.option(name, metavar=metavar, expose_value=False, callback=_named(name, key), help=text)
        for name, key, metavar, text in _NAMED
    ]
    options.append(
        click.option(
            "--anonymous",
            is_flag=True,
            expose_value=False,
            callback=_named("--anonymous", "anonymous"),
            help="Requests without credentials.",
        )
    )
    return _with(command, [*options, debug_option])


def side_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for settings of the source or target alone."""
    return _with(
        command,
        [
            _config("--source-config", side=SOURCE, help="As --config, for the source alone."),
            _config("--target-config", side=TARGET, help="As --config, for the target alone."),
        ],
    )


def debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Let a command's usage show ``--debug``; `app.run` looks for it, because errors come before options are read, too."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show how it came to an error.")(command)


def clients(stores: Iterable[Store], defaults: Mapping[str, str] | None = None) -> dict[Store, FsspecStorageClient]:
    """The clients of the running command, with its settings; `defaults` are the command's own."""
    return make_clients(stores, _collected(click.get_current_context()), defaults=defaults)


def _config(*names: str, side: str = "", help: str) -> Callable[..., Any]:  # noqa: A002 - click's name for it
    def collect(context: click.Context, _: click.Parameter, values: tuple[str, ...]) -> None:
        _collected(context).extend(parse_setting(names[0], value, side) for value in values)

    return click.option(
        *names,
        multiple=True,
        metavar="KEY=VALUE",
        expose_value=False,
        callback=collect,
        shell_complete=complete_setting,
        help=help,
    )


def _named(option: str, key: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def collect(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            _collected(context).append(Setting(option, key, "true" if value is True else value))

    return collect


def _collected(context: click.Context) -> list[Setting]:
    found: list[Setting] = context.meta.setdefault(_META, [])
    return found


def _with(command: Callable[..., Any], options: list[Callable[..., Any]]) -> Callable[..., Any]:
    for option in reversed(options):
        command = option(command)
    return command
