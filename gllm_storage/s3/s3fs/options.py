"""Options of s3fs: their names, the settings of a session object, and the cache of instances."""

from __future__ import annotations

import difflib
import inspect
import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from aiobotocore.credentials import AioCredentials
from aiobotocore.session import AioSession
from s3fs.core import S3FileSystem

from gllm_storage.settings import TransferSettings, count, flag, read_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_OF_FSSPEC = ("batch_size", "listings_expiry_time", "max_paths", "skip_instance_cache", "use_listings_cache")
_FLAGS = {"anon", "use_ssl", "requester_pays", "version_aware", "use_listings_cache", "asynchronous"}


class SharedInstances(type(S3FileSystem)):  # type: ignore[misc]  # fsspec gives its metaclass no public name
    """Lets `current` of s3fs's class return our instances as well, since both classes share one cache of instances."""

    def __setattr__(cls, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_latest" and cls._cache is S3FileSystem._cache:  # fsspec's own, for its metaclass
            S3FileSystem._latest = value


def known_options() -> set[str]:
    """The options of `s3fs.S3FileSystem`: its arguments, those of fsspec, and those of aiobotocore's session."""
    return {*_OF_FSSPEC, *_arguments(S3FileSystem), *_arguments(AioSession)}


def require_known(options: Iterable[str], ours: type) -> None:
    """Check the names of options; s3fs fails at the first request only, on an argument of its session.

    Args:
        options: The names of the given options.
        ours: Our class, which has options of its own.

    Raises:
        TypeError: If an option is unknown.
    """
    known = {*known_options(), *_arguments(ours)}
    for name in options:
        if name not in known:
            alike = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {alike[0]!r}?" if alike else ""
            raise TypeError(f"S3FileSystem has no option {name!r}{hint} It takes {', '.join(sorted(known))}")


def natural_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the types that s3fs expects.

    fsspec's own configuration holds strings, and s3fs takes ``anon="false"`` for true. botocore takes seconds for a timeout,
    and a string for the file of ``verify``.

    Args:
        options: The options of the caller: flags may be strings, timeouts `timedelta` objects, and files paths.

    Raises:
        ValueError: If a flag is neither a bool nor a string such as ``"true"``.
    """
    given = dict(options)
    for name in _FLAGS & given.keys():
        given[name] = read_option(given, name, flag, given[name])
    if isinstance(given.get("max_concurrency"), str):
        given["max_concurrency"] = read_option(given, "max_concurrency", count, TransferSettings.max_concurrency)
    if given.get("config_kwargs"):
        given["config_kwargs"] = {name: _seconds(value) for name, value in given["config_kwargs"].items()}
    of_client = given.get("client_kwargs") or {}
    if isinstance(of_client.get("verify"), os.PathLike):
        given["client_kwargs"] = {**of_client, "verify": os.fspath(of_client["verify"])}
    return given


def _seconds(value: Any) -> Any:
    return value.total_seconds() if isinstance(value, timedelta) else value


def client_options_of(session: AioSession | None) -> tuple[str | None, dict[str, Any]]:
    """The profile and the client options of an aiobotocore session that the caller passed."""
    if session is None:
        return None, {}
    chosen = session.instance_variables()
    options = {"region_name": chosen["region"]} if chosen.get("region") else {}
    credentials = session._credentials  # set by set_credentials; the public method needs a loop
    if type(credentials) is AioCredentials:
        options |= {
            "aws_access_key_id": credentials.access_key,
            "aws_secret_access_key": credentials.secret_key,
            "aws_session_token": credentials.token,
        }
    return chosen.get("profile"), {name: value for name, value in options.items() if value is not None}


def _arguments(of: type) -> list[str]:
    parameters = inspect.signature(of.__init__).parameters.values()  # type: ignore[misc]  # read, not called
    return [
        each.name for each in parameters if each.name != "self" and each.kind not in {each.VAR_KEYWORD, each.VAR_POSITIONAL}
    ]
