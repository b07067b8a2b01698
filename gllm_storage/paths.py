"""Remote paths, keys and URLs, and the conversions between them.

- A *remote path* is the argument of a client's method: relative to the client's prefix, absolute, or a URL.
- A *key* is the name of an object within its bucket (or container, or root folder).
- A *URL* is the name of an object for all programs: scheme, bucket and key.

Keys that some store or some fsspec URL would change are refused for all stores, so that a key of one store is valid in all.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gllm_storage.errors import redacted

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_KEY_BYTES = 1024
"""S3's limit for the length of a key in UTF-8; GCS and Azure have the same limit:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""

_ACCESS_POINT = re.compile(
    r"arn:aws[a-z\-]*:s3[a-z\-]*:[a-z0-9\-]*:[0-9]{12}:(?:outpost[:/][a-zA-Z0-9\-]+[:/])?accesspoint[:/][a-zA-Z0-9.\-]+(?=/|$)"
)
_HIDDEN = "***@"
"""In place of the user name and the password of a URL."""
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>.*)", re.DOTALL)


def require_local(name: str, path: str) -> str:
    """Check that a path of this machine is not something else that the caller may mean.

    Args:
        name: The argument, for the message.
        path: The path.

    Returns:
        The path.

    Raises:
        ValueError: If it is a URL, or begins with ``~/``. A download would make a folder ``s3:`` or ``~`` in the working
            directory, and ``rm -r ~`` deletes the home folder.

    Examples:
        >>> require_local("local_path", "~/model.bin")
        Traceback (most recent call last):
            ...
        ValueError: local_path '~/model.bin' begins with '~', which is not expanded; give the complete path, or './~/m...
    """
    if _URL.match(path):
        raise ValueError(f"{name} {redacted(repr(path))} is a URL; a path of this machine is needed, such as './out'")
    if path == "~" or path.startswith("~/"):
        raise ValueError(
            f"{name} {path!r} begins with '~', which is not expanded; give the complete path, or {f'./{path}'!r}"
        )
    return path


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into its scheme and the rest.

    Args:
        url: Such as ``"s3://bucket/prefix"``.

    Returns:
        The scheme in lower case, and the text behind ``://``.

    Raises:
        ValueError: If the text is not a URL with a scheme.
    """
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise ValueError(
            f"{redacted(repr(url))} is not a storage URL: it needs a scheme, as in 's3://bucket/prefix' or 'file:///data/models'"
        )
    return match["scheme"].lower(), match["rest"]


def split_bucket(path: str) -> tuple[str, str]:
    """Split the text behind ``scheme://`` into bucket and key.

    On S3 a bucket may also be the ARN of an access point, which contains slashes:
    https://docs.aws.amazon.com/AmazonS3/latest/userguide/access-points-naming.html

    Examples:
        >>> split_bucket("models/v3/model.bin")
        ('models', 'v3/model.bin')
        >>> split_bucket("arn:aws:s3:eu-west-1:123456789012:accesspoint/models/v3/model.bin")
        ('arn:aws:s3:eu-west-1:123456789012:accesspoint/models', 'v3/model.bin')
    """
    arn = _ACCESS_POINT.match(path)
    if arn is None:
        bucket, _, key = path.partition("/")
        return bucket, key
    return arn[0], path[arn.end() + 1 :]


def is_access_point(bucket: str) -> bool:
    """Whether a bucket is the ARN of an access point."""
    return _ACCESS_POINT.fullmatch(bucket) is not None


class ExactKey(str):
    """A key that names an object exactly, whatever its characters: an escape for keys that other programs made.

    Remote paths refuse keys with an empty, ``.`` or ``..`` segment, and keys that end with ``/``, because some stores or
    URLs change them. The verbs of S3, GCS, Azure and of stores whose names are not files accept such a key as an
    `ExactKey`. It begins at the root of the bucket; the prefix of the client does not count.

    Examples:
        >>> client.delete_file(ExactKey("team//model.bin"))  # doctest: +SKIP
        True
    """

    __slots__ = ()


def without_user(url: str) -> str:
    """A URL for messages, without user name and password, and without values that grant access."""
    return re.sub(r"(?<=://)[^/@]*@", _HIDDEN, redacted(url))


def hides_user(url: str) -> bool:
    """Whether a URL is one of `without_user`, which had a user."""
    return f"://{_HIDDEN}" in url


def hidden_user(url: str) -> ValueError:
    """The error for a URL that must be opened, and hides its user."""
    return ValueError(
        f"{redacted(repr(url))} hides the user of the URL, as messages and plans do; use the client of that folder, or a "
        "URL without a user, and give the user as an option of the store"
    )


NOT_TO_OPEN = "fsspec removes when it opens a file; use cat_file or pipe_file for a key with that end"
"""The problem of a slash at the end of a path that is opened."""


def require_no_slash(path: str, problem: str = "names a folder; name an object") -> None:
    """Refuse a path that ends with ``/``: fsspec would drop the slash, and use the object of another name.

    Raises:
        ValueError: If the path ends with ``/``.
    """
    if path.endswith("/"):
        raise ValueError(f"{path!r} ends with '/', which {problem}")


_PLAIN = re.compile(r"(?:[A-Za-z0-9_=-][A-Za-z0-9._=-]*/)*[A-Za-z0-9_=-][A-Za-z0-9._=-]*")
"""Most keys. No rule refuses them unless they are too long: one search costs less than the rules one by one."""
_CHANGED = frozenset({"", ".", ".."})
"""Segments of a key that some stores change."""


def is_plain(path: str, most: int) -> bool:
    """Whether a path is of letters, digits and a few other characters, and no segment is empty or begins with a dot.

    Args:
        path: The path, with ``/``.
        most: Its highest length.
    """
    return len(path) <= most and _PLAIN.fullmatch(path) is not None


def validate_key(key: str) -> str:
    """Check a key.

    Returns:
        The key, unchanged.

    Raises:
        ValueError: If the key is empty or longer than 1024 bytes in UTF-8; has an empty, ``.`` or ``..`` segment; ends with
            ``/``; or contains ``::``, ``://``, ``?versionId=``, a control character, U+FFFE, U+FFFF or a lone surrogate.
    """
    if is_plain(key, MAX_KEY_BYTES):
        return key
    problem = _problem(key)
    if problem:
        raise ValueError(f"remote path {redacted(repr(key))} {problem}")
    return key


def _problem(key: str) -> str | None:  # noqa: PLR0911 - a list of rules reads best as a list
    if not key:
        return "is empty; name an object, as in 'v3/model.safetensors'"
    if key.endswith("/"):
        return "ends with '/', which names a folder; name an object"
    if not _CHANGED.isdisjoint(key.split("/")):
        return "has an empty, '.' or '..' segment, which some stores change"
    for forbidden in ("::", "://", "?versionId="):
        if forbidden in key:
            return f"contains {forbidden!r}, which has a special meaning in fsspec URLs"
    if key.isascii() and key.isprintable():  # most keys
        return None if len(key) <= MAX_KEY_BYTES else _too_long(len(key))
    if any(unicodedata.category(character) == "Cc" for character in key):
        return "contains a control character"
    if "\ufffe" in key or "\uffff" in key:
        return "contains a character that XML cannot represent, so that listings would fail"
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return "contains a lone surrogate, which UTF-8 cannot represent"
    return None if length <= MAX_KEY_BYTES else _too_long(length)


def _too_long(length: int) -> str:
    return f"is {length} bytes long in UTF-8; the limit is {MAX_KEY_BYTES}"


_PLACE = r"[0-9a-f]{64}-(?:0|[1-9][0-9]*)"
VERSION_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""The form of the names of published versions and aliases, as a regular expression."""
_OF_MODEL = (
    rf"(?:^|/)(?=(?:data|marks)/{_PLACE}/|trees/{_PLACE}\.jsonl\Z|tombs/{_PLACE}\Z"
    rf"|(?:versions|aliases)/{VERSION_NAME}/[0-9]{{8}}\.json\Z|names/{VERSION_NAME}\.json\Z)"
)


def possible_models(key: str) -> Iterator[str]:
    """The prefixes of models to which a key may belong, by its form: see `gllm_storage.versions.layout`."""
    return (key[: found.end()] for found in re.finditer(_OF_MODEL, key))  # compiled at the first use


@dataclass(frozen=True)
class Location:
    """The location of a client's objects: scheme, bucket and prefix.

    Attributes:
        scheme: Scheme of the URLs that the client returns.
        base: The text between ``scheme://`` and every key: ``"bucket/"``, ``"/folder/"``, or nothing. It ends with a slash.
        prefix: The prefix of relative remote paths, without a slash at either end; may be empty.
        aliases: Further schemes of the store that the client accepts in URLs.
        other_bases: Further texts that the client accepts in place of `base` in URLs.
        forbidden: Characters that this store does not keep unchanged, and that the client refuses.
        exact: Whether the store keeps every key as it is, so that an `ExactKey` can name any object.
        resolves_dots: Whether the store or its SDK resolves ``.`` and ``..`` segments, as Azure's does: the request would be
            about another object.
    """

    scheme: str
    base: str
    prefix: str = ""
    aliases: tuple[str, ...] = ()
    other_bases: tuple[str, ...] = ()
    forbidden: str = ""
    exact: bool = False
    resolves_dots: bool = False

    def key(self, remote_path: str) -> str:
        """The key of a remote path.

        Args:
            remote_path: A relative path (appended to the prefix), a path that begins with ``/`` (from the bucket's root),
                a URL of this bucket, or an `ExactKey`.

        Raises:
            ValueError: If the path is not a string, is a URL of another location, contains a forbidden character, or does
                not make a valid key.
        """
        if not isinstance(remote_path, str):
            raise not_a_string("a remote path", remote_path)
        if isinstance(remote_path, ExactKey):
            return self._exact_key(remote_path)
        for each in self.forbidden:
            if each in remote_path:
                raise ValueError(
                    f"remote path {redacted(repr(remote_path))} contains {each!r}, which this store does not keep unchanged"
                )
        if "://" in remote_path:
            return validate_key(self._key_of_url(remote_path))
        if remote_path.startswith("/"):
            return validate_key(remote_path[1:])
        # First without the prefix, with which "" would become a valid key.
        validate_key(remote_path)
        return validate_key(f"{self.prefix}/{remote_path}") if self.prefix else remote_path

    def _exact_key(self, key: ExactKey) -> str:
        if not self.exact:
            raise ValueError(f"{self.scheme}://{self.base} does not keep every key as it is: an ExactKey is not accepted")
        if not 1 <= len(key.encode(errors="surrogatepass")) <= MAX_KEY_BYTES:
            raise ValueError(f"an exact key has 1 to {MAX_KEY_BYTES} bytes in UTF-8")
        if self.resolves_dots and {".", ".."} & set(key.split("/")):
            raise ValueError(f"{str(key)!r} has a '.' or '..' segment, which this store resolves: it cannot have such a key")
        return str(key)

    def path(self, key: str) -> str:
        """The path of a key for the fsspec filesystem."""
        return self.base + key

    def url(self, key: str) -> str:
        """The URL of a key."""
        return f"{self.scheme}://{self.base}{key}"

    def listing_prefix(self, prefix: str) -> str:
        """The key prefix for an argument of `list_files`.

        Args:
            prefix: As in `key`, but it may be empty, and may end with ``/``.

        Raises:
            ValueError: If it is not a string, is a URL of another location, or a key cannot begin with it.
        """
        if not isinstance(prefix, str):
            raise not_a_string("a prefix", prefix)
        if "://" in prefix:
            below = self._key_of_url(prefix)
        elif prefix.startswith("/"):
            below = prefix[1:]
        elif prefix:
            below = self._below_prefix(prefix)
        else:
            below = f"{self.prefix}/" if self.prefix else ""
        if below:
            validate_key(below.removesuffix("/"))
        return below

    def _below_prefix(self, relative: str) -> str:
        return f"{self.prefix}/{relative}" if self.prefix else relative

    def _key_of_url(self, url: str) -> str:
        scheme, rest = split_url(url)
        base = next((each for each in (self.base, *self.other_bases) if rest.startswith(each)), None)
        if scheme not in {self.scheme, *self.aliases} or base is None:
            here = f"{self.scheme}://{self.base}"
            raise ValueError(
                f"{redacted(repr(url))} is not in {here!r}, the location of this client; make a client for that URL"
            )
        return rest.removeprefix(base)


def not_a_string(what: str, value: object) -> ValueError:
    """The error for a remote path of another type; a ``ValueError``, as for other paths that name no object.

    A path object is refused: it takes the second slash out of ``s3://``, and mostly belongs to the local argument.

    Args:
        what: The role of the value.
        value: The value.
    """
    hint = "; for a remote path, pass str(path)" if isinstance(value, os.PathLike) else ""
    return ValueError(f"{what} is a string, not {type(value).__name__}: {value!r}{hint}")


def clean_prefix(prefix: str) -> str:
    """Check a prefix, and remove the slashes at its ends.

    Raises:
        ValueError: If a key cannot begin with the prefix.
    """
    stripped = prefix.strip("/")
    if not stripped:
        return ""
    try:
        return validate_key(stripped)
    except ValueError as error:
        raise ValueError(f"cannot be a prefix: {error}") from error
