"""Settings: the documented ``Dict[str, str]`` is parsed into a typed, frozen dataclass.

A value may also have the natural type of its key: a bool for a flag, an int for a number or a size, a `timedelta` for a
duration, a `Path` for a file. It becomes a string first, so that equal configs stay equal and give equal pickles.

A provider declares a frozen dataclass with fields made by `setting`; `parse_config` fills it. Unknown keys are errors: a
misspelt ``endpont_url`` would otherwise send a private model to the wrong cloud. One error reports all mistakes of a
config, so that three mistakes do not take three runs to find::

    @dataclass(frozen=True)
    class TapeSettings:
        bucket_name: str = setting(text)
        part_size: int = setting(size, default=8 * MIB)
        api_key: str | None = setting(text, default=None, secret=True)

    parse_config(TapeSettings, "tape", {"bucket_name": "models", "part_size": "16MiB"})
"""

from __future__ import annotations

import base64
import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, SupportsInt, TypeGuard, TypeVar
from urllib.parse import SplitResult, urlsplit

from gllm_storage.errors import InsecureTLSWarning, redacted, require_printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import DataclassInstance

    S = TypeVar("S", bound=DataclassInstance)

_HIDDEN = "'***'"
_KEY_BYTES = 32
_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_NUMBER = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]*)\s*")
_MOST = 2**63 - 1
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


MIB = 2**20
DEFAULT_MEMORY_LIMIT = 128 * MIB
"""The default of `TransferSettings.memory_limit`, in bytes."""


DISK_OPTIONS = ("fsync", "sync_source")
"""The settings of transfers that concern the disk of this machine; every provider and filesystem has them."""


class ConfigError(ValueError):
    """A config has keys that are missing, unknown or wrong, or that contradict each other.

    Args:
        message: The message.
        keys: The keys at fault. The command line adds the environment variables that set them.
    """

    def __init__(self, message: str, keys: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.keys = frozenset(keys)
        """The keys at fault."""


@dataclass(frozen=True)
class TransferSettings:
    """The settings of uploads and downloads that all providers share.

    Attributes:
        multipart_threshold: The largest upload, in bytes, that is sent by one request.
        part_size: Bytes of a part of an upload, and of a range of a download; larger if an object would have more than
            10,000 parts. The ranges of a large download are up to four times as large.
        max_concurrency: The most parts of one object in progress at a time.
        max_attempts: The most attempts at one request, the first included.
        memory_limit: The most bytes of content in memory, for all transfers of the process together
            (`concurrency.budget`).
        publish_on_error: Whether `close` of a written file publishes also at the end of a ``with`` block that failed
            (`filesystem.writing.Unwinding`).
        fsync: Whether a downloaded file, and a file in a local folder, is on the disk when the call returns. Without it, a
            power cut some seconds later can leave zeros, or nothing, under the name of the old file.
        sync_source: Whether the dirty pages of a local file are written to the disk before its upload begins. Only then does
            a write by mmap during the upload show in the modification time, and is refused.
        min_throughput: The fewest bytes per second of an answer, averaged over each read timeout; 0 for no limit.
        total_timeout: The most seconds of one verb; None for no limit.
    """

    multipart_threshold: int = 16 * MIB
    part_size: int = 8 * MIB
    max_concurrency: int = 16
    max_attempts: int = 5
    memory_limit: int = DEFAULT_MEMORY_LIMIT
    publish_on_error: bool = False
    fsync: bool = True
    sync_source: bool = False
    min_throughput: int = 1024
    total_timeout: float | None = None


@dataclass(frozen=True)
class _Rule:
    """The parser of one key, kept in the metadata of the dataclass field."""

    parse: Callable[[str], Any]
    secret: bool
    natural: type | None


def setting(
    parse: Callable[[str], Any], *, default: Any = MISSING, secret: bool = False, natural: type | None = None
) -> Any:
    """Declare a config key, as a field of a settings dataclass.

    Args:
        parse: Parses the string. It raises `ValueError` with a text that follows ``key='value'`` in the message, such as
            ``"must be 'true' or 'false'"``.
        default: The value if the key is left out. Without a default the key is required.
        secret: Whether messages and reprs show ``'***'`` in place of the value.
        natural: The type that a value may have beside `str`: `bool`, `int`, `timedelta` or `os.PathLike`. Default: the type
            of a parser of this module (`flag`, `count`, `size`, `duration`, `existing_file`), and none for other parsers.
    """
    rule = _Rule(parse, secret, natural or _NATURAL.get(parse))
    return field(default=default, repr=not secret, metadata={"rule": rule})


def text(value: str) -> str:
    """Parse a string that is not blank.

    Raises:
        ValueError: If the string is empty or consists of spaces.
    """
    if not value.strip():
        raise ValueError("must not be empty; leave the key out instead")
    return value


def any_text(value: str) -> str:
    """Parse any string, an empty one included."""
    return value


def flag(value: str) -> bool:
    """Parse a boolean: ``true``, ``yes``, ``on``, ``1``, or ``false``, ``no``, ``off``, ``0``, in any case.

    Raises:
        ValueError: If the string is another word.
    """
    lowered = value.strip().lower()
    if lowered in {"true", "yes", "on", "1"}:
        return True
    if lowered in {"false", "no", "off", "0"}:
        return False
    raise ValueError("must be 'true' or 'false'")


def count(value: str) -> int:
    """Parse an integer of at least 1.

    Raises:
        ValueError: If the string is not such a number, or has more than nine digits.
    """
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", value) or int(value) < 1:
        raise ValueError("must be an integer of at least 1")
    return int(value)


def size(value: str) -> int:
    """Parse a number of bytes of at least 1: ``"8388608"``, ``"8MiB"`` (2**20 bytes each), ``"5GB"`` (10**9 bytes each).

    Raises:
        ValueError: If the string is not such a size, or the size is 2**63 or more.
    """
    match = _NUMBER.fullmatch(value)
    unit = _UNITS.get(match[2].upper()) if match else None
    number = _times(match[1], unit) if match and unit else 0
    if not 1 <= number <= _MOST:
        raise ValueError("must be a size such as '8388608', '8MiB' or '5GB'")
    return number


def _times(number: str, unit: int) -> int:
    """A decimal number, perhaps with a fraction, times a unit, rounded down."""
    if number.isdecimal():
        return int(number) * unit
    from decimal import Decimal  # it takes 2 ms to import, and most sizes are whole numbers

    return int(Decimal(number) * unit)


def size_or_zero(value: str) -> int:
    """Parse a number of bytes as `size`, or ``"0"``.

    Raises:
        ValueError: If the string is neither.
    """
    return 0 if value.strip() == "0" else size(value)


def duration(value: str) -> float:
    """Parse a duration above 0, in seconds by default: ``"30"``, ``"30s"``, ``"500ms"``, ``"2m"``, ``"1h"``.

    Returns:
        Seconds.

    Raises:
        ValueError: If the string is not such a duration.
    """
    match = _NUMBER.fullmatch(value)
    unit = _SECONDS.get(match[2].lower()) if match else None
    seconds = float(match[1]) * unit if match and unit else 0.0
    if not 0 < seconds <= _MOST:
        raise ValueError("must be a duration such as '30s', '500ms' or '2m'")
    return seconds


def endpoint(value: str) -> str:
    """Parse the URL of a server.

    Raises:
        ValueError: If the string is not an http or https URL with a host; or if it has credentials, a query or a fragment.
    """
    parts = urlsplit(text(value))
    if parts.username is not None:
        raise ValueError("must not contain credentials, which have config keys of their own")
    usable = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
    if not usable or re.search(r"\s", value) or not _has_good_port(parts):
        raise ValueError("must be a URL such as 'https://minio.example.com:9000'")
    return value


def require_server(provider: str, endpoint_url: str | None, bucket: str, hosts: Iterable[str]) -> None:
    """Check that an endpoint is the URL of a server, and not that of a bucket on it, as web consoles show it.

    Requests would name the bucket twice. Host names that merely begin with the name of the bucket are common, so the host
    counts only for services whose names are known.

    Args:
        provider: Name of the provider, for the message.
        endpoint_url: The endpoint.
        bucket: Name of the bucket or container.
        hosts: The ends of the host names that the servers of known services have, such as ``".amazonaws.com"``.

    Raises:
        ConfigError: If the endpoint is a bucket's; the message contains the right one.
    """
    parts = urlsplit(endpoint_url or "")
    host, path = parts.netloc, parts.path.rstrip("/")
    server = host.removeprefix(f"{bucket}.")
    if server == host or not any(server.partition(":")[0].endswith(each) for each in hosts):
        server = host
    folder, _, last = path.rpartition("/")
    right = f"{parts.scheme}://{server}{folder if last == bucket else path}"
    if right != f"{parts.scheme}://{host}{path}":
        shown = redacted(repr(endpoint_url))
        raise ConfigError(
            f"{provider} config: endpoint_url={shown} is the URL of the bucket {bucket!r}, not of its server; "
            f"set endpoint_url={redacted(repr(right))}",
            ("endpoint_url",),
        )


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def existing_file(value: str) -> str:
    """Parse the path of an existing local file.

    Raises:
        ValueError: If the string is empty, or the file does not exist.
    """
    if not os.path.isfile(text(value)):
        raise ValueError("is not a file on this machine")
    return value


def customer_key(value: str) -> str:
    """Parse a key that encrypts objects: 32 bytes in base64.

    Raises:
        ValueError: If the string is something else.
    """
    try:
        length = len(base64.b64decode(value, validate=True))
    except ValueError:
        length = 0
    if length != _KEY_BYTES:
        raise ValueError("must be 32 bytes in base64, such as the output of: openssl rand -base64 32")
    return value


def require_one_trust(provider: str, ca_bundle: str | None, *, verify_tls: bool) -> None:
    """Check that a config does not name certificates to trust, and say that none is verified.

    Raises:
        ConfigError: If it does.
    """
    if ca_bundle and not verify_tls:
        raise ConfigError(
            f"{provider} config: verify_tls='false' contradicts ca_bundle; leave one out", ("verify_tls", "ca_bundle")
        )


def warn_if_insecure(provider: str, *, verify_tls: bool) -> None:
    """Issue a warning if TLS certificates are not verified; Python shows it once."""
    if not verify_tls:
        warnings.warn(
            f"{provider}: verify_tls is false, so TLS certificates are not verified: anyone on the network path can read "
            "and change the data, and use the credentials",
            InsecureTLSWarning,
            stacklevel=3,
        )


_NATURAL: dict[Callable[[str], Any], type] = {
    flag: bool,
    count: int,
    size_or_zero: int,
    size: int,
    duration: timedelta,
    existing_file: os.PathLike,
}


def choice(*allowed: str) -> Callable[[str], str]:
    """Make a parser that accepts some words, in upper or lower case.

    Args:
        *allowed: The words, in lower case.

    Returns:
        The parser. It returns the word in lower case, and raises `ValueError` for any other.
    """

    def parse(value: str) -> str:
        if value.strip().lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(map(repr, allowed))}")
        return value.strip().lower()

    return parse


def parse_config(settings_class: type[S], provider: str, config: Mapping[str, Any]) -> S:
    """Parse a config into settings.

    Args:
        settings_class: A frozen dataclass with fields made by `setting`.
        provider: Name of the provider, for messages.
        config: The config of the caller: strings, or values of the natural type of their key.

    Returns:
        The settings.

    Raises:
        ConfigError: If keys are missing or unknown, or values cannot be parsed. One error names all of them.
    """
    rules: dict[str, dataclasses.Field[Any]] = {each.name: each for each in dataclasses.fields(settings_class)}
    unknown = {key: _unknown_key(key, list(rules)) for key in config if key not in rules}
    missing = [name for name, each in rules.items() if each.default is MISSING and name not in config]
    problems = unknown | {name: f"missing key {name!r}" for name in missing}
    values: dict[str, Any] = {}
    for name in rules.keys() & config.keys():
        rule: _Rule = rules[name].metadata["rule"]
        try:
            values[name] = _parsed(rule, config[name])
        except ValueError as error:
            # Both parts: the rule of the key may quote the value.
            shown = _HIDDEN if rule.secret else repr(config[name])
            problems[name] = redacted(f"{name}={shown} {error}")
    if problems:
        # The list of keys helps with an unknown key only; after a wrong value it would bury the rule of the key.
        known = f". Known keys: {', '.join(sorted(rules))}" if unknown or missing else ""
        raise ConfigError(f"{provider} config: {'; '.join(sorted(problems.values()))}{known}", problems)
    return settings_class(**values)


def _parsed(rule: _Rule, value: object) -> Any:
    given = _as_string(value, rule.natural)
    if rule.secret:
        require_printable("it", given)
    return rule.parse(given)


def as_strings(settings_class: type[DataclassInstance], config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with strings in place of values of natural types.

    Args:
        settings_class: A dataclass with fields made by `setting`.
        config: The config of the caller.

    Returns:
        The config. A value of another type stays as it is: `parse_config` reports it.

    Examples:
        >>> from gllm_storage.s3.settings import S3Settings
        >>> as_strings(S3Settings, {"max_concurrency": 4, "anonymous": True, "read_timeout": timedelta(minutes=2)})
        {'max_concurrency': '4', 'anonymous': 'true', 'read_timeout': '120s'}
    """
    rules = {each.name: each.metadata["rule"] for each in dataclasses.fields(settings_class)}
    strings = {key: _as_text(value, rules[key].natural) for key, value in config.items() if key in rules}
    return {key: value if strings.get(key) is None else strings[key] for key, value in config.items()}


def read_option(options: Mapping[str, Any], name: str, parse: Callable[[str], Any], default: Any) -> Any:
    """Read an option of a filesystem, which may be a string or have the natural type of the parser.

    fsspec's own configuration (environment variables and files) holds strings. A duration may also be a number of seconds,
    as the timeouts of s3fs, gcsfs and adlfs are.

    Args:
        options: The options.
        name: Name of the option.
        parse: A parser of this module.
        default: The value if the option is missing or None.

    Raises:
        ValueError: If the value cannot be parsed, or has another type.

    Examples:
        >>> read_option({"part_size": "8MiB"}, "part_size", size, None), read_option({}, "part_size", size, None)
        (8388608, None)
    """
    value = options.get(name)
    if value is None:
        return default
    seconds = parse is duration and isinstance(value, (int, float)) and not isinstance(value, bool)
    try:
        return parse(_without_exponent(value) if seconds else _as_string(value, _NATURAL.get(parse)))
    except ValueError as error:
        raise ValueError(f"{name}={value!r} {error}") from None


def _without_exponent(number: float) -> str:
    from decimal import Decimal  # it takes 2 ms to import, and most times are texts

    return f"{Decimal(str(number)):f}"


def keys_of(settings_class: type[DataclassInstance]) -> tuple[str, ...]:
    """The config keys of a settings class, sorted."""
    return tuple(sorted(each.name for each in dataclasses.fields(settings_class)))


def require_mapping(config: object, provider: str) -> None:
    """Check that a config is a dictionary.

    Raises:
        ValueError: If it is another object.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{provider}: the config must be a dict of strings, not {type(config).__name__}")


def require_extra(extra: str, *modules: str) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Args:
        extra: Name of the extra.
        *modules: Modules that it installs.

    Raises:
        ImportError: If a module is missing; the message names the command that installs the extra.
    """
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise ImportError(
            f"{extra!r} needs the module {missing[0]!r}, which is not installed: run pip install '.[{extra}]' in the folder "
            "of the gllm_storage repository",
            name=missing[0],
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _unknown_key(key: object, known: list[str]) -> str:
    from gllm_storage.synonyms import nearest_key  # noqa: PLC0415 - only an error needs it

    nearest = nearest_key(key, known)
    hint = f" (did you mean {nearest!r}?)" if nearest else ""
    return f"unknown key {key!r}{hint}"


def _as_string(value: object, natural: type | None) -> str:
    text = _as_text(value, natural)
    if text is None:
        # None is refused as well: {"endpoint_url": os.environ.get("TYPO")} must not mean "the default cloud".
        also = f"; it may be {_NAMES[natural]} as well" if natural else ""
        raise ValueError(f"must be a string, not {type(value).__name__}{also}")
    return text


_NAMES = {bool: "a bool", int: "an int", timedelta: "a timedelta", os.PathLike: "a path"}


def _as_text(value: object, natural: type | None) -> str | None:
    """The string for a value; None if the value is neither a string nor of the natural type."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):  # first, because a bool is an int: True is not a count
        return str(value).lower() if natural is bool else None
    if natural is int and _is_integer(value):
        return str(int(value))
    if natural is timedelta and isinstance(value, timedelta):
        from decimal import Decimal  # it takes 2 ms to import, and most times are texts

        return f"{(Decimal(value // timedelta(microseconds=1)) / 10**6).normalize():f}s"
    path = os.fspath(value) if natural is os.PathLike and isinstance(value, os.PathLike) else None
    return path if isinstance(path, str) else None


def _is_integer(value: object) -> TypeGuard[SupportsInt]:
    """Whether a value is an integer, of Python or, as an example, of numpy."""
    if isinstance(value, int):
        return True
    from numbers import Integral  # noqa: PLC0415 - it takes 1 ms to import, and most integers are of Python

    return isinstance(value, Integral)


def disk_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``fsync`` and ``sync_source`` among the options of a filesystem.

    Args:
        options: The options. Booleans may be strings, as in fsspec's configuration files.

    Returns:
        The given ones of the two, for `TransferSettings`.

    Raises:
        ValueError: If a value is not a boolean.
    """
    found = {name: options[name] for name in DISK_OPTIONS if options.get(name) is not None}
    for name, value in found.items():
        try:
            found[name] = value if isinstance(value, bool) else flag(str(value))
        except ValueError as error:
            raise ValueError(f"{name}={value!r} {error}") from None
    return found


def disk_options_of(settings: Any) -> dict[str, Any]:
    """``fsync`` and ``sync_source`` of a client's settings, if they differ from their defaults."""
    values = {name: getattr(settings, name) for name in DISK_OPTIONS}
    return {name: value for name, value in values.items() if value != getattr(TransferSettings, name)}


def limit_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The values of ``min_throughput`` and ``total_timeout`` among the options of a filesystem, for `TransferSettings`.

    Raises:
        ValueError: If a value cannot be parsed.
    """
    parsers: dict[str, Callable[[str], Any]] = {"min_throughput": size_or_zero, "total_timeout": duration}
    return {name: read_option(options, name, parse, getattr(TransferSettings, name)) for name, parse in parsers.items()}


def limit_options_of(settings: Any) -> dict[str, Any]:
    """``min_throughput`` and ``total_timeout`` of a client's settings, if they differ from their defaults."""
    values = {name: getattr(settings, name) for name in ("min_throughput", "total_timeout")}
    return {name: value for name, value in values.items() if value != getattr(TransferSettings, name)}


def describe(settings: DataclassInstance) -> str:
    """Settings that differ from their defaults, as ``key='value'`` pairs; secrets are shown as ``'***'``."""
    shown = []
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        if value == each.default:
            continue
        rule: _Rule = each.metadata["rule"]
        shown.append(f"{each.name}={_HIDDEN if rule.secret else repr(value)}")
    return ", ".join(shown)


def fsspec_configuration(*protocols: str) -> dict[str, Any]:
    """The options of a filesystem in fsspec's own configuration: environment variables and files in ``~/.config/fsspec``.

    fsspec uses them as defaults when it makes a filesystem. A client that makes no filesystem gets the same defaults here:
    https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration

    Args:
        *protocols: The protocols of the filesystem; a later one overrides an earlier one, as in fsspec.

    Returns:
        The options. If there are neither such variables nor such files, the result is empty, and fsspec is not imported.
    """
    if "fsspec.config" not in sys.modules and not _may_be_configured(protocols):
        return {}
    from fsspec.config import conf

    found: dict[str, Any] = {}
    for protocol in protocols:
        found.update(conf.get(protocol, {}))
    return found


def _may_be_configured(protocols: tuple[str, ...]) -> bool:
    names = tuple(f"FSSPEC_{each.upper()}" for each in protocols)
    if any(each.upper().startswith(names) for each in os.environ):
        return True
    folder = os.environ.get("FSSPEC_CONFIG_DIR", os.path.join(os.path.expanduser("~"), ".config/fsspec"))
    return os.path.isdir(folder)
