"""From the documented ``Dict[str, str]`` to typed, strict, frozen settings.

A provider declares its settings as a frozen dataclass whose fields are made by `setting`; `parse_config` fills it.
Everything that is wrong with a config is reported at once: ``endpont_url`` must not send a private model to the wrong
cloud, and nobody should have to find three mistakes in three runs.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from decimal import Decimal
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from gllm_storage.paths import without_password

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

    S = TypeVar("S", bound=DataclassInstance)

_HIDDEN = "'***'"
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
"""Bytes of content that all transfers of a process hold in memory at a time, unless the config says otherwise."""


@dataclass(frozen=True)
class TransferSettings:
    """How objects are moved.

    Attributes:
        multipart_threshold: Files of more bytes than this are uploaded in parts.
        part_size: Bytes in a part, and in a ranged read; more where an object would have over 10,000 parts.
        max_concurrency: How many parts of one object are under way at a time.
        max_attempts: How often a part is tried in all.
        memory_limit: Bytes of content that all transfers of the process hold in memory at a time (`concurrency.budget`).
    """

    multipart_threshold: int = 16 * MIB
    part_size: int = 8 * MIB
    max_concurrency: int = 10
    max_attempts: int = 5
    memory_limit: int = DEFAULT_MEMORY_LIMIT


@dataclass(frozen=True)
class _Rule:
    """How one key is read; kept in the dataclass field's metadata."""

    parse: Callable[[str], Any]
    secret: bool


def setting(parse: Callable[[str], Any], *, default: Any = MISSING, secret: bool = False) -> Any:
    """Declare a config key. Without a default it is required.

    Args:
        parse: Turns the string into a value, or raises `ValueError` that says what it takes.
        default: The value when the key is left out.
        secret: Whether the value must never be shown.
    """
    return field(default=default, repr=not secret, metadata={"rule": _Rule(parse, secret)})


def text(value: str) -> str:
    """A string that is not blank."""
    if not value.strip():
        raise ValueError("must not be empty; leave the key out instead")
    return value


def any_text(value: str) -> str:
    """Any string, also an empty one."""
    return value


def flag(value: str) -> bool:
    """A boolean: true, yes, on, 1, or their opposites."""
    lowered = value.strip().lower()
    if lowered in {"true", "yes", "on", "1"}:
        return True
    if lowered in {"false", "no", "off", "0"}:
        return False
    raise ValueError("must be 'true' or 'false'")


def count(value: str) -> int:
    """A whole number of at least 1."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*", value) or int(value) < 1:
        raise ValueError("must be a whole number of at least 1")
    return int(value)


def size(value: str) -> int:
    """A number of bytes of at least 1: ``"8388608"``, ``"8MiB"`` (2**20 bytes each), ``"5GB"`` (10**9 bytes each)."""
    match = _NUMBER.fullmatch(value)
    unit = _UNITS.get(match[2].upper()) if match else None
    number = int(Decimal(match[1]) * unit) if match and unit else 0
    if not 1 <= number <= _MOST:
        raise ValueError("must be a size such as '8388608', '8MiB' or '5GB'")
    return number


def duration(value: str) -> float:
    """A length of time in seconds, above 0: ``"30"``, ``"30s"``, ``"500ms"``, ``"2m"``."""
    match = _NUMBER.fullmatch(value)
    unit = _SECONDS.get(match[2].lower()) if match else None
    seconds = float(match[1]) * unit if match and unit else 0.0
    if not 0 < seconds <= _MOST:
        raise ValueError("must be a length of time such as '30s', '500ms' or '2m'")
    return seconds


def endpoint(value: str) -> str:
    """The URL of a server, without credentials."""
    parts = urlsplit(text(value))
    if parts.username is not None:
        raise ValueError("must hold no credentials; they have keys of their own")
    usable = parts.scheme in {"http", "https"} and parts.hostname and not (parts.query or parts.fragment)
    if not usable or re.search(r"\s", value) or not _has_good_port(parts):
        raise ValueError("must be a URL such as 'https://minio.example.com:9000'")
    return value


def _has_good_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


def existing_file(value: str) -> str:
    """The path of a local file that is there."""
    if not os.path.isfile(text(value)):
        raise ValueError("is no file here")
    return value


def choice(*allowed: str) -> Callable[[str], str]:
    """One of some words, in any case."""

    def parse(value: str) -> str:
        if value.strip().lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(map(repr, allowed))}")
        return value.strip().lower()

    return parse


def parse_config(settings_class: type[S], provider: str, config: Mapping[str, str]) -> S:
    """Read a config into settings.

    Args:
        settings_class: A frozen dataclass whose fields were made by `setting`.
        provider: The provider's name, for messages.
        config: The caller's config.

    Returns:
        The settings.

    Raises:
        ValueError: If keys are missing or unknown or values do not parse: one error that names all of them.
    """
    rules: dict[str, dataclasses.Field[Any]] = {each.name: each for each in dataclasses.fields(settings_class)}
    problems = [_unknown_key(key, list(rules)) for key in config if key not in rules]
    missing = [name for name, each in rules.items() if each.default is MISSING and name not in config]
    problems += [f"missing key {name!r}" for name in missing]
    values: dict[str, Any] = {}
    for name in rules.keys() & config.keys():
        rule: _Rule = rules[name].metadata["rule"]
        try:
            values[name] = rule.parse(_require_string(config[name]))
        except ValueError as error:
            shown = _HIDDEN if rule.secret else repr(without_password(str(config[name])))
            problems.append(f"{name}={shown} {error}")
    if problems:
        known = ", ".join(sorted(rules))
        raise ValueError(f"{provider} config: {'; '.join(sorted(problems))}. Known keys: {known}")
    return settings_class(**values)


def keys_of(settings_class: type[DataclassInstance]) -> tuple[str, ...]:
    """The config keys of a settings class, sorted."""
    return tuple(sorted(each.name for each in dataclasses.fields(settings_class)))


def require_mapping(config: object, provider: str) -> None:
    """Check that a config is a dictionary.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(config, Mapping):
        raise ValueError(f"{provider}: the config must be a dict of strings, not {type(config).__name__}")  # noqa: TRY004 - as above


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
            f"{extra!r} needs the module {missing[0]!r}, which is not installed: pip install 'gllm-storage[{extra}]'",
            name=missing[0],
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def _unknown_key(key: object, known: list[str]) -> str:
    nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return f"unknown key {key!r}{hint}"


def _require_string(value: object) -> str:
    # None too: {"endpoint_url": os.environ.get("TYPO")} must not mean "the default cloud".
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {type(value).__name__}")  # noqa: TRY004 - a config error is a ValueError
    return value


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
    """The options that fsspec's own configuration (environment, files in ``~/.config/fsspec``) has for a filesystem.

    fsspec puts them below the options of every filesystem. The verbs do without a filesystem, so they ask here:
    https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration

    Args:
        *protocols: The protocols of the filesystem; a later one overrides an earlier one, as in fsspec.

    Returns:
        The options; empty, without importing fsspec, if nothing can be configured.
    """
    if "fsspec.config" not in sys.modules and not _may_be_configured(protocols):
        return {}
    from fsspec.config import conf  # noqa: PLC0415 - fsspec takes 50 ms to import

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
