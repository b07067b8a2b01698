"""The arguments and options that commands share, and the clients that follow from them."""

from __future__ import annotations

import functools
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from gllm_storage.cli.completion import complete_setting, complete_url
from gllm_storage.cli.places import Stored, parse_source, parse_target
from gllm_storage.cli.settings import SOURCE, TARGET, Setting, Store, make_clients, parse_setting
from gllm_storage.concurrency.bandwidth import Bandwidth
from gllm_storage.concurrency.stop import Stop, running_stop, stopped_by
from gllm_storage.info import ObjectProperties
from gllm_storage.settings import duration

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gllm_storage.cli.places import Address, Argument
    from gllm_storage.fsspec_client import FsspecStorageClient

_META = "gllm_storage.settings"
"""The key of click's context for the settings that the options gave."""

_RATE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:(B)|([KMGTPE])(?:iB?)?)?", re.IGNORECASE | re.ASCII)
"""A bandwidth as rclone writes it: a number of KiB, or one with a suffix, of which each is 1024 times the one before."""

# Option, config key, metavar, help.
_NAMED = (
    ("--endpoint-url", "endpoint_url", "URL", "URL of an S3-compatible or other store."),
    ("--region", "region_name", "NAME", "Region."),
    ("--profile", "profile_name", "NAME", "Profile of the AWS configuration."),
    ("--ca-bundle", "ca_bundle", "FILE", "CA certificates to trust."),
)

url_argument = click.argument("url", metavar="URL", shell_complete=complete_url)
urls_argument = click.argument("urls", metavar="URL...", nargs=-1, required=True, shell_complete=complete_url)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
exact_option = click.option(
    "--exact", is_flag=True, help="Take the key in a URL exactly as it is, as in s3://bucket/a//b or s3://bucket/a/."
)
# `app.run` searches the arguments for --debug itself: errors also come before click has parsed the options.
debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for settings of stores; `clients` uses their values."""
    options = [
        _config("--config", "-c", help="A setting of the store; repeatable. PROVIDER.KEY=VALUE sets it for one provider.")
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
            help="Send requests without credentials.",
        )
    )
    options.append(
        click.option(
            "--no-verify-tls",
            is_flag=True,
            expose_value=False,
            callback=_named("--no-verify-tls", "verify_tls", "false"),
            help="Accept any TLS certificate, with a warning.",
        )
    )
    return add_options(command, [*options, debug_option])


def property_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the properties of stored objects; the command gets them as the argument `properties`."""

    @functools.wraps(command)
    def with_properties(**given: Any) -> Any:
        named = {each.name: given.pop(each.name) for each in fields(ObjectProperties)}
        texts = {name: value for name, value in named.items() if value}
        return command(**given, properties=ObjectProperties(**texts))

    options = [
        click.option("--content-type", metavar="TYPE", help="Media type of the copies; by default guessed from the name."),
        click.option("--content-encoding", metavar="CODING", help="Coding of the content, such as gzip."),
        click.option("--content-disposition", metavar="TEXT", help="How a browser shows the copies."),
        click.option("--content-language", metavar="LANGUAGE", help="Language of the content."),
        click.option("--cache-control", metavar="TEXT", help="How long caches keep the copies, such as no-store."),
        _pairs("--metadata", "metadata", "User metadata of the copies; repeatable."),
        _pairs("--tag", "tags", "A tag of the copies, on S3 and Azure; repeatable."),
        click.option("--storage-class", metavar="NAME", help="Storage class; on Azure the access tier."),
        click.option("--acl", metavar="NAME", help="Predefined ACL, such as public-read, on S3 and GCS."),
        click.option("--encryption", metavar="NAME", help="Server-side encryption on S3: AES256, aws:kms, aws:kms:dsse."),
        click.option("--kms-key", metavar="KEY", help="KMS key; on Azure the encryption scope."),
    ]
    return add_options(with_properties, options)


def bwlimit_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that limits the bandwidth of all transfers of the command together."""

    @functools.wraps(command)
    def limited(*, bwlimit: float | None, **given: Any) -> Any:
        if bwlimit is None:
            return command(**given)
        if given["paths"][-1:] == ("-",):
            raise click.UsageError("--bwlimit is for transfers to files, not to standard output")
        with stopped_by(Stop(running_stop(), Bandwidth(bwlimit))):
            return command(**given)

    text = "The most bytes per second, up and down together: 10M is 10 MiB, 512 is 512 KiB; off or 0 for no limit."
    return add_options(limited, [click.option("--bwlimit", metavar="RATE", callback=_parse_rate, help=text)])


def period(option: str, text: str) -> dt.timedelta:
    """The time of an option, such as ``12h`` or ``30d``; ``0`` is none.

    Raises:
        ValueError: If the text is not a time.
    """
    import datetime as dt  # most commands need none

    number = text.removesuffix("d")
    try:
        if number != text and number.isascii() and number.isdigit():
            return dt.timedelta(days=int(number))
        return dt.timedelta(seconds=0 if text == "0" else duration(text))
    except OverflowError:
        raise ValueError(f"{option} {text!r} is longer than {dt.timedelta.max.days} days") from None
    except ValueError as error:
        raise ValueError(f"{option} {text!r} is not a time such as 12h or 30d: {error}") from None


def _parse_rate(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None or value.lower() == "off":
        return None
    found = _RATE.fullmatch(value)
    if found is None:
        raise click.BadParameter(
            f"{value!r} is not a rate such as 10M, 1.5M, 512k or off; timetables and UP:DOWN are not supported",
            context,
            parameter,
        )
    number, are_bytes, suffix = found.groups()
    exponent = 0 if are_bytes else "KMGTPE".index((suffix or "K").upper()) + 1
    return float(number) * 1024.0**exponent or None


def _pairs(option: str, name: str, text: str) -> Callable[..., Any]:
    def parse(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        pairs = [value.partition("=") for value in values]
        wrong = next((value for value, (key, equals, _) in zip(values, pairs, strict=True) if not (key and equals)), None)
        if wrong is not None:
            raise click.BadParameter(f"{wrong!r} is not NAME=VALUE", context, parameter)
        return {key: value for key, _, value in pairs}

    return click.option(option, name, multiple=True, metavar="NAME=VALUE", callback=parse, help=text)


def side_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for settings of the source or the target only."""
    return add_options(
        command,
        [
            _config("--source-config", side=SOURCE, help="As --config, for the source only."),
            _config("--target-config", side=TARGET, help="As --config, for the target only."),
        ],
    )


def transfer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the arguments and options that ``cp`` and ``mv`` share; `sources_and_target` parses the arguments."""
    return add_options(
        command,
        [
            click.argument("paths", metavar="SOURCE... TARGET", nargs=-1, required=True, shell_complete=complete_url),
            click.option(
                "-n", "--no-clobber", is_flag=True, help="Fail if the target exists, atomically: never overwrite an object."
            ),
            click.option("-r", "--recursive", is_flag=True, help="Also folders; SOURCE/ names the content of the folder."),
            click.option("-v", "--verbose", is_flag=True, help="Print the URL or path of each target."),
            click.option("-q", "--quiet", is_flag=True, help="Show no progress bar on a terminal."),
        ],
    )


def sources_and_target(paths: Sequence[str], *, exact: bool) -> tuple[list[Argument], Argument]:
    """Parse the arguments of ``cp`` and ``mv``.

    Args:
        paths: The sources, and the target at the end.
        exact: As in `Address`.

    Raises:
        click.UsageError: If there is only one path.
        ValueError: If a path is not valid.
    """
    if len(paths) == 1:
        raise click.UsageError("Missing argument 'TARGET'")
    return [parse_source(each, exact=exact) for each in paths[:-1]], parse_target(paths[-1], exact=exact)


def clients(stores: Iterable[Store], defaults: Mapping[str, str] | None = None) -> dict[Store, FsspecStorageClient]:
    """The clients of the running command, with the settings that its options gave.

    Args:
        stores: The buckets.
        defaults: The command's own settings, for the clients that know them; options come before them.

    Raises:
        ValueError: If a URL or a setting is wrong.
        ImportError: If a provider's extra is not installed.
    """
    return make_clients(stores, _collected(click.get_current_context()), defaults=defaults)


def stored_at(addresses: Sequence[Address]) -> list[Stored]:
    """The objects at these URLs, with their clients.

    Raises:
        ValueError: If a URL or a setting is wrong.
        ImportError: If a provider's extra is not installed.
    """
    made = clients(Store(each.root) for each in addresses)
    return [Stored(made[Store(each.root)], each.key, each.exact) for each in addresses]


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


def _named(option: str, key: str, flag: str = "true") -> Callable[[click.Context, click.Parameter, Any], None]:
    def collect(context: click.Context, _: click.Parameter, value: Any) -> None:
        if value:
            _collected(context).append(Setting(option, key, flag if value is True else value))

    return collect


def _collected(context: click.Context) -> list[Setting]:
    found: list[Setting] = context.meta.setdefault(_META, [])
    return found


def add_options(command: Callable[..., Any], options: Iterable[Callable[..., Any]]) -> Callable[..., Any]:
    """Add click's options to a command, in this order."""
    for option in reversed(list(options)):
        command = option(command)
    return command
