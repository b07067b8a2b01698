"""Settings: from options and the environment to the config of each client."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gllm_storage.cli.output import hide
from gllm_storage.paths import split_url
from gllm_storage.registry import CloudStorageRegistry, storage_client_from_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gllm_storage.fsspec_client import FsspecStorageClient

ENVIRONMENT = "GLLM_STORAGE_"
SOURCE, TARGET = "source", "target"
_IN_THE_URL = {"bucket_name", "container_name", "prefix", "root", "url"}
"""Keys that say where to store. The URL says it all, so that none of these can send an object elsewhere."""
_SERVER = "endpoint_url"
_LIKE_A_SECRET = re.compile(r"pass|secret|key|token|sas|cred|conn|auth", re.IGNORECASE)


@dataclass(frozen=True)
class Setting:
    """One setting of the command line.

    Attributes:
        option: The option that gave it, for messages.
        key: The config key.
        value: Its value.
        scope: The provider or URL scheme that it is for; all if empty.
        side: `SOURCE` or `TARGET`; both if empty.
    """

    option: str
    key: str
    value: str
    scope: str = ""
    side: str = ""


@dataclass(frozen=True)
class Store:
    """A bucket that a command uses, on one of its sides.

    Attributes:
        root: URL of the bucket.
        side: `SOURCE` or `TARGET`; empty where a command has no sides.
    """

    root: str
    side: str = ""


def parse_setting(option: str, text: str, side: str = "") -> Setting:
    """Read ``KEY=VALUE`` or ``PROVIDER.KEY=VALUE``.

    Raises:
        ValueError: If it is neither, or if the key belongs into the URL. The value is not shown: it may be a secret.
    """
    name, separator, value = text.partition("=")
    scope, _, key = name.strip().rpartition(".")
    if not separator or not key:
        raise ValueError(f"{option} takes KEY=VALUE or PROVIDER.KEY=VALUE, such as region_name=eu-central-1")
    if key in _IN_THE_URL:
        raise ValueError(f"{option}: {key!r} is said by the URL; leave it out")
    return Setting(option, key, value, scope.lower(), side)


def make_clients(
    stores: Iterable[Store],
    settings: Sequence[Setting],
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> dict[Store, FsspecStorageClient]:
    """Make the clients of a command, one for each bucket.

    Args:
        stores: The buckets.
        settings: What the command line says.
        environ: The environment; this process's if None.
        defaults: Settings of the command itself, for the clients that know them.

    Raises:
        ValueError: If a URL or setting is wrong, or if no client of the command takes a setting.
        ImportError: If a provider's extra is not installed.
    """
    wanted = {store: client_class(store.root) for store in stores}
    _require_takers(settings, wanted)
    _require_one_server(settings, wanted)
    environ = os.environ if environ is None else environ
    _require_one_server_of_variable(settings, wanted, environ)
    return {store: _make(store, wanted, settings, environ, defaults or {}) for store in wanted}


def client_class(url: str) -> type[FsspecStorageClient]:
    """The client class of a URL; the one for all of fsspec's protocols if it is nobody else's."""
    from gllm_storage.fsspec_client import FsspecStorageClient  # noqa: PLC0415 - for commands without a store

    try:
        found: Any = CloudStorageRegistry.client_class(split_url(url)[0])
    except ValueError:
        found = FsspecStorageClient
    if not issubclass(found, FsspecStorageClient):
        raise ValueError(  # noqa: TRY004 - it is the URL that is wrong
            f"provider {split_url(url)[0]!r} has the four verbs only; this command line needs more"
        )
    known: type[FsspecStorageClient] = found
    return known


def _make(
    store: Store,
    wanted: Mapping[Store, type[FsspecStorageClient]],
    settings: Sequence[Setting],
    environ: Mapping[str, str],
    defaults: Mapping[str, str],
) -> FsspecStorageClient:
    found = wanted[store]
    config = {key: value for key, value in defaults.items() if key in found.config_keys()}
    variables = _variables(found, store.root, environ)
    config |= {key: environ[name] for key, name in variables.items()}
    mine = [each for each in settings if _is_for(each, store, found) and _is_taken(each, found, wanted)]
    # The more special wins, whatever the order: a provider's over all providers', a side's over both.
    for each in sorted(mine, key=lambda each: (bool(each.side), bool(each.scope))):
        config[each.key] = each.value
        variables.pop(each.key, None)
    for key in config:
        if _is_secret(found, key):
            hide(config[key])
    with _naming(variables):
        client: Any = storage_client_from_url(store.root, config)
    made: FsspecStorageClient = client
    return made


@contextlib.contextmanager
def _naming(variables: Mapping[str, str]) -> Iterator[None]:
    """Let an error about settings say which of them came from the environment: who sees it typed none of them."""
    try:
        yield
    except ValueError as error:
        wrong, _, _ = str(error).partition("Known keys:")
        named = set(re.findall(r"\w+", wrong))
        guilty = [f"{key} by {variable}" for key, variable in variables.items() if key in named]
        if not guilty:
            raise
        raise ValueError(f"{error}. The environment sets {', '.join(guilty)}") from error


def _variables(found: type[FsspecStorageClient], url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Keys and their variables.

    ``GLLM_STORAGE_<KEY>`` for the keys that the provider knows, and ``GLLM_STORAGE_<PROVIDER>_<KEY>``.
    """
    said = _IN_THE_URL | found.config_from_url(url).keys()
    own = f"{ENVIRONMENT}{found.provider.upper()}_"
    keys = set(found.config_keys()) or {name.removeprefix(own).lower() for name in environ if name.startswith(own)}
    variables = {}
    for key in sorted(keys - said):
        names = [f"{own}{key.upper()}"] + ([f"{ENVIRONMENT}{key.upper()}"] if found.config_keys() else [])
        variable = next((name for name in names if environ.get(name)), None)
        if variable is not None:
            variables[key] = variable
    return variables


def _is_for(setting: Setting, store: Store, found: type[FsspecStorageClient]) -> bool:
    return setting.side in {"", store.side} and _is_in_scope(setting.scope, store, found)


def _is_in_scope(scope: str, store: Store, found: type[FsspecStorageClient]) -> bool:
    if scope in {"", found.provider, store.root.partition(":")[0]}:
        return True
    try:
        return CloudStorageRegistry.client_class(scope) is found
    except ValueError:
        return False


def _is_taken(setting: Setting, found: type[FsspecStorageClient], wanted: Mapping[Store, type[FsspecStorageClient]]) -> bool:
    """Whether a provider takes a key; one that takes any (``fsspec``): what is said to it alone, or what no other knows."""
    if found.config_keys():
        return setting.key in found.config_keys()
    return bool(setting.scope or setting.side) or not any(setting.key in each.config_keys() for each in wanted.values())


def _require_takers(settings: Sequence[Setting], wanted: Mapping[Store, type[FsspecStorageClient]]) -> None:
    for each in settings:
        for store, found in wanted.items():
            if _is_for(each, store, found) and _is_taken(each, found, wanted):
                break
        else:
            raise ValueError(_no_taker(each, wanted))


def _require_one_server(settings: Sequence[Setting], wanted: Mapping[Store, type[FsspecStorageClient]]) -> None:
    """One server speaks one protocol: the other provider's requests, signed with its secrets, would go there, too."""
    for each in settings:
        classes = [found for store, found in wanted.items() if _is_for(each, store, found)]
        names = sorted({found.provider for found in classes if each.key in found.config_keys()})
        if each.key == _SERVER and len(names) > 1:
            raise ValueError(
                f"{each.option} would send the requests of {' and '.join(names)} to one server; say for which it is, as in "
                f"-c {names[0]}.{_SERVER}=URL"
            )


def _require_one_server_of_variable(
    settings: Sequence[Setting], wanted: Mapping[Store, type[FsspecStorageClient]], environ: Mapping[str, str]
) -> None:
    """The same for the variable of all providers."""
    common = f"{ENVIRONMENT}{_SERVER.upper()}"
    sent_there = {
        found.provider
        for store, found in wanted.items()
        if _variables(found, store.root, environ).get(_SERVER) == common
        and not any(each.key == _SERVER and _is_for(each, store, found) for each in settings)
    }
    if len(sent_there) > 1:
        names = sorted(sent_there)
        raise ValueError(
            f"{common} would send the requests of {' and '.join(names)} to one server; say for which it is, as in "
            f"{ENVIRONMENT}{names[0].upper()}_{_SERVER.upper()}"
        )


def _no_taker(setting: Setting, wanted: Mapping[Store, type[FsspecStorageClient]]) -> str:
    name = f"{setting.scope}.{setting.key}" if setting.scope else setting.key
    classes = [found for store, found in wanted.items() if _is_for(setting, store, found)]
    if not classes:
        here = f" as the {setting.side}" if setting.side else ""
        what = f"of {setting.scope!r} " if setting.scope else ""
        return f"{setting.option} {name}: this command has no store {what}{here}".rstrip() + "; check the URL and the option"
    known = sorted({key for found in classes for key in found.config_keys()} - _IN_THE_URL)
    nearest = difflib.get_close_matches(setting.key, known, n=1, cutoff=0.6)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    providers = ", ".join(sorted({found.provider for found in classes}))
    return f"{setting.option} {name}: {providers} has no such key{hint}. Known keys: {', '.join(known) or 'none'}"


def _is_secret(found: type[FsspecStorageClient], key: str) -> bool:
    if found.settings_class is None:
        return _LIKE_A_SECRET.search(key) is not None
    rules = {each.name: each.metadata["rule"] for each in dataclasses.fields(found.settings_class)}
    return key in rules and rules[key].secret
