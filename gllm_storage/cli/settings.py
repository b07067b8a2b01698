"""Settings: from options and environment variables to the config of each client."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gllm_storage.cli.output import hide
from gllm_storage.paths import split_url
from gllm_storage.registry import CloudStorageRegistry, storage_client_from_url
from gllm_storage.settings import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from gllm_storage.fsspec_client import FsspecStorageClient

SOURCE, TARGET = "source", "target"
IN_THE_URL = {"bucket_name", "container_name", "prefix", "root", "url"}
"""Keys that name the place of an object. Only the URL sets them, so that no setting can send an object elsewhere."""
_ENVIRONMENT = "GLLM_STORAGE_"
_SERVER = "endpoint_url"
_LIKE_A_SECRET = re.compile(r"pass|secret|key|token|sas|cred|conn|auth", re.IGNORECASE)


@dataclass(frozen=True)
class Setting:
    """One setting from the command line.

    Attributes:
        option: The option that gave it, for messages.
        key: The config key.
        value: The value.
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
    """A bucket that a command uses.

    Attributes:
        root: URL of the bucket.
        side: `SOURCE` or `TARGET`; empty for commands other than ``cp``.
    """

    root: str
    side: str = ""


def parse_setting(option: str, text: str, side: str = "") -> Setting:
    """Parse ``KEY=VALUE`` or ``PROVIDER.KEY=VALUE``.

    Args:
        option: The option that gave the text.
        text: The text.
        side: `SOURCE` or `TARGET`; both if empty.

    Raises:
        ValueError: If the text has another form, or the URL sets the key. The message leaves the value out: it may be a
            secret.

    Examples:
        >>> parse_setting("--config", "s3.region_name=eu-central-1")
        Setting(option='--config', key='region_name', value='eu-central-1', scope='s3', side='')
    """
    name, separator, value = text.partition("=")
    scope, _, key = name.strip().rpartition(".")
    if not separator or not key:
        raise ValueError(f"{option} takes KEY=VALUE or PROVIDER.KEY=VALUE, such as region_name=eu-central-1")
    if key in IN_THE_URL:
        raise ValueError(f"{option}: the URL sets {key!r}; leave it out")
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
        settings: The settings from the command line.
        environ: The environment variables; those of this process if None.
        defaults: The command's own settings, for the clients that know them; all other settings come before them.

    Raises:
        ValueError: If a URL or setting is wrong, or if no client of the command knows a setting.
        ImportError: If a provider's extra is not installed.
    """
    classes = {store: _client_class(store.root) for store in stores}
    _require_known_settings(settings, classes)
    _require_one_server(settings, classes)
    environ = os.environ if environ is None else environ
    _require_known_variables(environ, classes.values())
    _require_one_server_of_variable(settings, classes, environ)
    return {store: _make(store, classes, settings, environ, defaults or {}) for store in classes}


def _client_class(url: str) -> type[FsspecStorageClient]:
    """The client class for the scheme of a URL; the generic one for fsspec's other protocols."""
    from gllm_storage.fsspec_client import FsspecStorageClient

    try:
        found: Any = CloudStorageRegistry.client_class(split_url(url)[0])
    except ValueError:
        found = FsspecStorageClient
    if not issubclass(found, FsspecStorageClient):
        raise ValueError(
            f"provider {split_url(url)[0]!r} is not supported by the command line: its client lacks listings and streams"
        )
    known: type[FsspecStorageClient] = found
    return known


def _make(
    store: Store,
    classes: Mapping[Store, type[FsspecStorageClient]],
    settings: Sequence[Setting],
    environ: Mapping[str, str],
    defaults: Mapping[str, str],
) -> FsspecStorageClient:
    client_class = classes[store]
    config = {key: value for key, value in defaults.items() if key in client_class.config_keys()}
    variables = _variables(client_class, store.root, environ)
    config |= {key: environ[name] for key, name in variables.items()}
    own = [each for each in settings if _is_for(each, store, client_class) and _knows(client_class, each, classes)]
    # The narrower setting wins, in any order of options: a side before a provider, a provider before all providers.
    for each in sorted(own, key=lambda each: (bool(each.side), bool(each.scope))):
        config[each.key] = each.value
        variables.pop(each.key, None)
    for key in config:
        if _is_secret(client_class, key):
            hide(config[key])
    with _naming_variables(variables):
        client: Any = storage_client_from_url(store.root, config)
    made: FsspecStorageClient = client
    return made


@contextlib.contextmanager
def _naming_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Add to an error about settings the environment variables that set them: the user may not know of them."""
    try:
        yield
    except ConfigError as error:
        causes = [f"{key} by {variable}" for key, variable in variables.items() if key in error.keys]
        if not causes:
            raise
        raise ValueError(f"{error}. The environment sets {', '.join(causes)}") from error


def _variables(client_class: type[FsspecStorageClient], url: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The config keys that environment variables set, and the names of the variables.

    ``GLLM_STORAGE_<PROVIDER>_<KEY>`` comes before ``GLLM_STORAGE_<KEY>``, which counts only for keys that the provider
    knows.
    """
    in_the_url = IN_THE_URL | client_class.config_from_url(url).keys()
    own = f"{_ENVIRONMENT}{client_class.provider.upper()}_"
    known = set(client_class.config_keys())
    keys = known or {name.removeprefix(own).lower() for name in environ if name.startswith(own)}
    variables = {}
    for key in sorted(keys - in_the_url):
        names = [f"{own}{key.upper()}"] + ([f"{_ENVIRONMENT}{key.upper()}"] if known else [])
        variable = next((name for name in names if environ.get(name)), None)
        if variable is not None:
            variables[key] = variable
    return variables


def _require_known_variables(environ: Mapping[str, str], classes: Iterable[type[FsspecStorageClient]]) -> None:
    """Refuse a variable that is probably misspelt: ``GLLM_STORAGE_ENDPONT_URL`` would send the request to Amazon.

    A variable of a provider that the command does not use is fine, and so is one that resembles no key: it may belong to
    another program.

    Raises:
        ValueError: If no provider knows the key of a variable, and one knows a similar key.
    """
    names = {name for name in environ if name.startswith(_ENVIRONMENT)} - _known_variables(classes)
    if not names:
        return
    from gllm_storage.fsspec_client import FsspecStorageClient

    known = _known_variables(_all_client_classes())
    for name in sorted(names - known):
        if name.startswith(f"{_ENVIRONMENT}{FsspecStorageClient.provider.upper()}_"):
            continue  # a storage option of any filesystem
        # Without the common beginning, which would make every name similar.
        keys = [each.removeprefix(_ENVIRONMENT) for each in known]
        import difflib

        nearest = difflib.get_close_matches(name.removeprefix(_ENVIRONMENT), keys, n=1, cutoff=0.6)
        if nearest:
            meant = f"{_ENVIRONMENT}{_meant(name.removeprefix(_ENVIRONMENT)) or nearest[0]}"
            raise ValueError(f"no provider knows the environment variable {name}; did you mean {meant}?")


def _meant(name: str) -> str | None:
    """The variable that an unknown one stands for, both without their common beginning; None if there is none like it."""
    from gllm_storage.synonyms import nearest_key  # only an error needs it

    found, classes = name.lower(), list(_all_client_classes())
    for each in classes:
        scope = f"{each.provider}_"
        if found.startswith(scope):
            key = nearest_key(found.removeprefix(scope), each.config_keys())
            return key and f"{scope}{key}".upper()
    key = nearest_key(found, dict.fromkeys(key for each in classes for key in each.config_keys()))
    return key and key.upper()


def _known_variables(classes: Iterable[type[FsspecStorageClient]]) -> set[str]:
    """The variables that set the keys of some providers, with and without the name of the provider."""
    known = set()
    for each in classes:
        for key in each.config_keys():
            known |= {f"{_ENVIRONMENT}{key.upper()}", f"{_ENVIRONMENT}{each.provider.upper()}_{key.upper()}"}
    return known


def _all_client_classes() -> Iterator[type[FsspecStorageClient]]:
    """The client classes of all providers that can be loaded and have config keys."""
    for name in CloudStorageRegistry.list_available_providers():
        with contextlib.suppress(ImportError, ValueError):  # a missing extra, or a plug-in that cannot be loaded
            found: Any = CloudStorageRegistry.client_class(name)
            if hasattr(found, "config_keys"):
                yield found


def _is_for(setting: Setting, store: Store, client_class: type[FsspecStorageClient]) -> bool:
    return setting.side in {"", store.side} and _is_in_scope(setting.scope, store, client_class)


def _is_in_scope(scope: str, store: Store, client_class: type[FsspecStorageClient]) -> bool:
    if scope in {"", client_class.provider, store.root.partition(":")[0]}:
        return True
    try:
        return CloudStorageRegistry.client_class(scope) is client_class
    except ValueError:
        return False


def _knows(
    client_class: type[FsspecStorageClient], setting: Setting, classes: Mapping[Store, type[FsspecStorageClient]]
) -> bool:
    """Whether a client takes a setting.

    A client that takes any key (``fsspec``) gets the settings for its provider or side, and the keys that no other client
    of the command knows.
    """
    if client_class.config_keys():
        return setting.key in client_class.config_keys()
    return bool(setting.scope or setting.side) or not any(setting.key in each.config_keys() for each in classes.values())


def _require_known_settings(settings: Sequence[Setting], classes: Mapping[Store, type[FsspecStorageClient]]) -> None:
    for each in settings:
        for store, client_class in classes.items():
            if _is_for(each, store, client_class) and _knows(client_class, each, classes):
                break
        else:
            raise ValueError(_unknown(each, classes))


def _require_one_server(settings: Sequence[Setting], classes: Mapping[Store, type[FsspecStorageClient]]) -> None:
    """Refuse one endpoint for two providers: it would get requests of both, signed with the secrets of both."""
    for each in settings:
        found = [client_class for store, client_class in classes.items() if _is_for(each, store, client_class)]
        names = sorted({client_class.provider for client_class in found if each.key in client_class.config_keys()})
        if each.key == _SERVER and len(names) > 1:
            raise ValueError(
                f"{each.option} would send the requests for {' and '.join(names)} to one server; set it for one provider, "
                f"as in -c {names[0]}.{_SERVER}=URL"
            )


def _require_one_server_of_variable(
    settings: Sequence[Setting], classes: Mapping[Store, type[FsspecStorageClient]], environ: Mapping[str, str]
) -> None:
    """As `_require_one_server`, for the environment variable that counts for all providers."""
    common = f"{_ENVIRONMENT}{_SERVER.upper()}"
    names = sorted(
        {
            client_class.provider
            for store, client_class in classes.items()
            if _variables(client_class, store.root, environ).get(_SERVER) == common
            and not any(each.key == _SERVER and _is_for(each, store, client_class) for each in settings)
        }
    )
    if len(names) > 1:
        raise ValueError(
            f"{common} would send the requests for {' and '.join(names)} to one server; set it for one provider, as in "
            f"{_ENVIRONMENT}{names[0].upper()}_{_SERVER.upper()}"
        )


def _unknown(setting: Setting, classes: Mapping[Store, type[FsspecStorageClient]]) -> str:
    name = f"{setting.scope}.{setting.key}" if setting.scope else setting.key
    found = [client_class for store, client_class in classes.items() if _is_for(setting, store, client_class)]
    if not found:
        provider = f" of {setting.scope!r}" if setting.scope else ""
        side = f" as {setting.side}" if setting.side else ""
        return f"{setting.option} {name}: this command has no store{provider}{side}; check the URL and the option"
    known = sorted({key for client_class in found for key in client_class.config_keys()} - IN_THE_URL)
    from gllm_storage.synonyms import nearest_key  # only an error needs it

    nearest = nearest_key(setting.key, known)
    hint = f" (did you mean {nearest!r}?)" if nearest else ""
    providers = ", ".join(sorted({client_class.provider for client_class in found}))
    return f"{setting.option} {name}: {providers} does not know this key{hint}. Known keys: {', '.join(known) or 'none'}"


def _is_secret(client_class: type[FsspecStorageClient], key: str) -> bool:
    if client_class.settings_class is None:
        return _LIKE_A_SECRET.search(key) is not None
    rules = {each.name: each.metadata["rule"] for each in dataclasses.fields(client_class.settings_class)}
    return key in rules and rules[key].secret
