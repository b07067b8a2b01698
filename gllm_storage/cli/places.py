"""What an argument names: a standard stream, a local path, or something in a store."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.cli.output import hide, scrubbed
from gllm_storage.paths import split_url, validate_key
from gllm_storage.registry import CloudStorageRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.info import ObjectInfo

_ALMOST_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(?!//)")

_STREAMS = {"/dev/stdin", "/dev/stdout", "/dev/stderr"}
_OPEN_FILES = ("/dev/fd/", "/proc/")


@dataclass(frozen=True)
class Stream:
    """Standard input or output, ``-``."""


@dataclass(frozen=True)
class LocalPath:
    """A file or folder here."""

    path: str


@dataclass(frozen=True)
class Address:
    """A URL, taken apart.

    Attributes:
        root: URL of the whole bucket (container, host, file system).
        key: What follows, without the ``/`` between; ends with ``/`` if a folder was meant; empty for the whole bucket.
    """

    root: str
    key: str

    @property
    def scheme(self) -> str:
        """Its scheme."""
        return split_url(self.root)[0]

    @property
    def url(self) -> str:
        """All of it."""
        slash = "" if self.root.endswith("/") else "/"
        return f"{self.root}{slash}{self.key}" if self.key else self.root

    @property
    def is_folder(self) -> bool:
        """Whether it can only name a folder."""
        return not self.key or self.key.endswith("/")


@dataclass(frozen=True)
class Stored:
    """An object, or where one is to be.

    Attributes:
        client: The client of its bucket.
        key: Its key.
    """

    client: FsspecStorageClient
    key: str

    @property
    def remote_path(self) -> str:
        """What the client's verbs take."""
        return f"/{self.key}"

    @property
    def url(self) -> str:
        """Its URL."""
        return self.client.url(self.remote_path)


@dataclass(frozen=True)
class Folder:
    """All objects below a prefix.

    Attributes:
        client: The client of the bucket.
        prefix: The prefix: empty, or ending with ``/``.
    """

    client: FsspecStorageClient
    prefix: str

    @property
    def url(self) -> str:
        """Its URL, with a ``/`` at its end."""
        return self.client.url(f"/{self.prefix}x")[:-1]

    def files(self) -> Iterator[tuple[str, ObjectInfo]]:
        """All objects at any depth, each with its name from here on, in key order."""
        start = self.url
        for info in self.client.list_files(f"/{self.prefix}"):
            yield info.url.removeprefix(start), info


Argument = Stream | LocalPath | Address


def parse_source(text: str) -> Argument:
    """Read a source of ``cp``; ``/dev/stdin`` is standard input.

    Raises:
        ValueError: As in `parse`, or if it is another stream.
    """
    return _as_stream(parse(text), "/dev/stdin", "standard input")


def parse_target(text: str) -> Argument:
    """Read the target of ``cp``; ``/dev/stdout`` is standard output.

    Raises:
        ValueError: As in `parse`, or if it is another stream.
    """
    return _as_stream(parse(text), "/dev/stdout", "standard output")


def _as_stream(argument: Argument, name: str, meaning: str) -> Argument:
    if not isinstance(argument, LocalPath):
        return argument
    path = f"/{os.path.abspath(argument.path).lstrip('/')}"
    if path == name:
        return Stream()
    if path in _STREAMS or path.startswith(_OPEN_FILES):
        raise ValueError(f"{argument.path!r} is no file that can be copied; '-' is {meaning}")
    return argument


def parse(text: str) -> Argument:
    """Read an argument of ``cp``.

    Raises:
        ValueError: If it is an impossible URL, or nearly one.
    """
    if text == "-":
        return Stream()
    if not text:
        raise ValueError("an empty path names nothing")
    if "://" in text:
        return _parse_url(text)
    almost = _ALMOST_URL.match(text)
    if almost and (text[almost.end() :].startswith("/") or almost[1].lower() in _our_schemes()):
        raise ValueError(
            f"{text!r} is no URL: two slashes follow the scheme, as in '{almost[1]}://…'; a local path is './…'"
        )
    return LocalPath(text)


def address(text: str) -> Address:
    """Read an argument that names something in a store; a local path is a ``file://`` URL.

    Raises:
        ValueError: If it is an impossible URL, or a stream.
    """
    argument = parse(text)
    if isinstance(argument, Stream):
        raise ValueError("'-' is not possible here; give a URL")  # noqa: TRY004 - a wrong value of the right type
    return address_of_local(argument) if isinstance(argument, LocalPath) else argument


def address_of_local(local: LocalPath) -> Address:
    """A local path as a URL.

    Raises:
        ValueError: If it cannot be one.
    """
    key = os.path.abspath(local.path).lstrip("/")
    require_utf8(f"/{key}")
    means_folder = local.path.endswith("/") and key
    return _checked("file:///", f"{key}/" if means_folder else key)


def require_utf8(path: str) -> None:
    """Refuse a local name that can neither be in a URL nor name an object.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the local name {path!r} is not UTF-8, as names in URLs and stores are; rename it, or name the target: "
            "cp FILE s3://bucket/NAME"
        ) from None


def require_object(where: Address) -> None:
    """Refuse a URL that can only name a folder, where an object is wanted.

    Raises:
        ValueError: If it does.
    """
    if where.is_folder:
        what = "a folder" if where.key else "a whole bucket"
        raise ValueError(f"{scrubbed(where.url)} names {what}; name an object in it")


def _our_schemes() -> set[str]:
    names = CloudStorageRegistry.list_available_providers()
    return {*names, *(alias for name in names for alias in CloudStorageRegistry.aliases(name))}


def _parse_url(text: str) -> Address | LocalPath:
    scheme, rest = split_url(text)
    if scheme in {"file", "local"}:
        if not rest.startswith("/"):
            raise ValueError(f"{text!r} names no absolute path; write 'file:///data/models', with three slashes")
        return LocalPath(rest)
    place, _, key = rest.partition("/")
    user, at, _ = place.rpartition("@")
    hide(user.partition(":")[2] if at else "")
    return _checked(f"{scheme}://{place}" if place else f"{scheme}:///", key)


def _checked(root: str, key: str) -> Address:
    if key:
        try:
            validate_key(key.removesuffix("/"))
        except ValueError as error:
            raise ValueError(f"{scrubbed(root)}: {error}") from error
    return Address(root, key)
