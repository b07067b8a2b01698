"""The places that arguments name: a standard stream, a local path, an object or a folder in a store."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.cli.output import hide, scrubbed
from gllm_storage.errors import ObjectNotFoundError, StorageError
from gllm_storage.paths import ExactKey, require_local, split_bucket, split_url, validate_key
from gllm_storage.registry import CloudStorageRegistry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.fsspec_client import FsspecStorageClient
    from gllm_storage.info import ObjectInfo

_ALMOST_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(?!//)")
_WITHOUT_COLON = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)//(?!/)")
_MARKED = ("/", "./", "../")
"""The beginnings of arguments that can only be local paths."""

_STREAMS = {"/dev/stdin", "/dev/stdout", "/dev/stderr"}
_OPEN_FILES = ("/dev/fd/", "/proc/")


@dataclass(frozen=True)
class Stream:
    """Standard input or output, ``-``."""


@dataclass(frozen=True)
class LocalPath:
    """A local file or folder."""

    path: str


@dataclass(frozen=True)
class Address:
    """The two parts of a URL.

    Attributes:
        root: URL of the bucket (container, host, file system).
        key: The rest, without the ``/`` between; it ends with ``/`` if the argument does, and is empty for a bucket.
        exact: Whether the key names one object exactly, whatever its characters (``--exact``).
    """

    root: str
    key: str
    exact: bool = False

    @property
    def scheme(self) -> str:
        """The scheme."""
        return split_url(self.root)[0]

    @property
    def url(self) -> str:
        """The complete URL."""
        slash = "" if self.root.endswith("/") else "/"
        return f"{self.root}{slash}{self.key}" if self.key else self.root

    @property
    def is_folder(self) -> bool:
        """Whether the URL can only name a folder."""
        return not self.key or (self.key.endswith("/") and not self.exact)


@dataclass(frozen=True)
class Stored:
    """An object, which may not exist yet.

    Attributes:
        client: The client of its bucket.
        key: Its key.
        exact: As in `Address`.
    """

    client: FsspecStorageClient
    key: str
    exact: bool = False

    @property
    def remote_path(self) -> str:
        """The path for the client's verbs."""
        return ExactKey(self.key) if self.exact else f"/{self.key}"

    @property
    def url(self) -> str:
        """The URL."""
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
        """The URL, which ends with ``/``."""
        return self.client.url(f"/{self.prefix}x")[:-1]

    def files(self) -> Iterator[tuple[str, ObjectInfo]]:
        """All objects at any depth in key order, each with its name relative to the folder."""
        start = self.url
        for info in self.client.list_files(f"/{self.prefix}"):
            yield info.url.removeprefix(start), info


Argument = Stream | LocalPath | Address


def parse_source(text: str, *, exact: bool = False) -> Argument:
    """Parse a source of ``cp``; ``/dev/stdin`` is standard input.

    Args:
        text: The argument.
        exact: As in `Address`.

    Raises:
        ValueError: As in `parse`, or if the path names another stream.
    """
    return _as_stream(parse(text, exact=exact), "/dev/stdin", "standard input")


def parse_target(text: str, *, exact: bool = False) -> Argument:
    """Parse the target of ``cp``; ``/dev/stdout`` is standard output.

    Args:
        text: The argument.
        exact: As in `Address`.

    Raises:
        ValueError: As in `parse`, or if the path names another stream.
    """
    return _as_stream(parse(text, exact=exact), "/dev/stdout", "standard output")


def _as_stream(argument: Argument, name: str, meaning: str) -> Argument:
    if not isinstance(argument, LocalPath):
        return argument
    path = f"/{os.path.abspath(argument.path).lstrip('/')}"
    if path == name:
        return Stream()
    if path in _STREAMS or path.startswith(_OPEN_FILES):
        raise ValueError(f"cannot copy {argument.path!r}: it is not a regular file; '-' is {meaning}")
    return argument


def parse(text: str, *, exact: bool = False) -> Argument:
    """Parse an argument of ``cp``.

    Args:
        text: The argument.
        exact: As in `Address`.

    Raises:
        ValueError: If it is an impossible URL, or a URL with a typing error.

    Examples:
        >>> parse("s3://bucket/v3/model.bin")
        Address(root='s3://bucket', key='v3/model.bin', exact=False)
    """
    if text == "-":
        return Stream()
    if not text:
        raise ValueError("the path is empty")
    if "://" in text:
        return _parse_url(text, exact=exact)
    almost = _ALMOST_URL.match(text) or _WITHOUT_COLON.match(text)
    if almost and (text[almost.end() :].startswith("/") or almost[1].lower() in _known_schemes()):
        raise ValueError(
            f"{text!r} is not a URL: the scheme needs a colon and two slashes, as in '{almost[1]}://…'; "
            "write a local path as './…'"
        )
    return LocalPath(require_local("the path", text))


def address(text: str, *, exact: bool = False) -> Address:
    """Parse the URL of an object or folder; a local path becomes a ``file://`` URL.

    Args:
        text: The argument.
        exact: As in `Address`.

    Raises:
        ValueError: If it is an impossible URL, or a stream.
    """
    argument = parse(text, exact=exact)
    if isinstance(argument, Stream):
        raise ValueError("'-' is not allowed here; give a URL")
    return address_of_local(argument) if isinstance(argument, LocalPath) else argument


def address_to_delete(text: str, *, exact: bool = False) -> Address:
    """Parse the URL of an object or folder to delete; a local path must be marked as one.

    Args:
        text: The argument.
        exact: As in `Address`.

    Raises:
        ValueError: As in `address`; or if it is a relative path such as ``models/v1``, or ends with ``.`` or ``..``.
    """
    where = address(text, exact=exact)
    if "://" not in text and text.rstrip("/").rpartition("/")[2] in {".", ".."}:
        raise ValueError(f"{text!r} is the current folder or a parent; name the folder to delete by its own name")
    if "://" not in text and not text.startswith(_MARKED):
        raise ValueError(
            f"{text!r} may be a local path, or a URL without its scheme, so nothing was deleted; "
            f"write './{text}' to delete the local file or folder, or the complete URL, as in 's3://{text}'"
        )
    return where


def address_of_local(local: LocalPath) -> Address:
    """The ``file://`` URL of a local path.

    Raises:
        ValueError: If its name is not UTF-8.
    """
    key = os.path.abspath(local.path).lstrip("/")
    require_utf8(f"/{key}")
    means_folder = local.path.endswith("/") and key
    return _checked("file:///", f"{key}/" if means_folder else key)


def require_utf8(path: str) -> None:
    """Refuse a local name that neither a URL nor a key can hold.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the local name {path!r} is not UTF-8, and URLs and keys must be; rename the file, or name the target: "
            "cp FILE s3://bucket/NAME"
        ) from None


def require_object(where: Address) -> None:
    """Refuse a URL that can only name a folder, in place of an object.

    Raises:
        ValueError: If it ends with ``/``, or has no key.
    """
    if where.is_folder:
        kind = "folder" if where.key else "bucket"
        raise ValueError(f"{scrubbed(where.url)} is a {kind}; name an object in it")


@contextlib.contextmanager
def no_folder(place: Argument | Stored | Folder, advice: str) -> Iterator[None]:
    """Say of an object that does not exist that a folder has its name: one listing, after the failure.

    Args:
        place: The object that the block reads or deletes. Nothing is said of other places.
        advice: What to do with a folder.

    Raises:
        ObjectNotFoundError: If there is a folder in place of the object.
    """
    try:
        yield
    except ObjectNotFoundError as error:
        if not isinstance(place, Stored) or place.exact or error.url != place.url or not _is_folder(place):
            raise
        raise ObjectNotFoundError(f"{place.url} is a folder; {advice}", error.details) from error


def _is_folder(place: Stored) -> bool:
    try:
        return place.client.store.is_prefix(f"{place.key}/")
    except StorageError:  # the credentials may not list
        return False


def nothing_there(url: str) -> FileNotFoundError:
    """The error for a folder without objects."""
    return FileNotFoundError(errno.ENOENT, "No such object or folder", url)


def _known_schemes() -> set[str]:
    names = CloudStorageRegistry.list_available_providers()
    return {*names, *(alias for name in names for alias in CloudStorageRegistry.aliases(name))}


def _parse_url(text: str, *, exact: bool) -> Address | LocalPath:
    scheme, rest = split_url(text)
    if scheme in {"file", "local"}:
        if not rest.startswith("/"):
            raise ValueError(f"{text!r} has no absolute path; write three slashes, as in 'file:///data/models'")
        return LocalPath(rest)
    place, key = split_bucket(rest)
    user, at, _ = place.rpartition("@")
    hide(user.partition(":")[2] if at else "")
    root = f"{scheme}://{place}" if place else f"{scheme}:///"
    return Address(root, key, exact=True) if exact and key else _checked(root, key)


def _checked(root: str, key: str) -> Address:
    if key:
        try:
            validate_key(key.removesuffix("/"))
        except ValueError as error:
            raise ValueError(f"{scrubbed(root)}: {error}") from error
    return Address(root, key)
