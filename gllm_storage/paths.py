"""Remote paths, keys and URLs: the one place that knows how they become each other.

A *remote path* is what callers give to a verb. A *key* names an object within its bucket (or container, or root folder).
A *URL* names it for everybody. The rules refuse what some store or some fsspec URL could not carry faithfully, so that a
key which works here works everywhere.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

MAX_KEY_BYTES = 1024
"""S3's limit for a key in UTF-8 (GCS and Azure allow as much):
https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<rest>.*)", re.DOTALL)


def split_url(url: str) -> tuple[str, str]:
    """Split a URL into its scheme, in lower case, and the rest.

    Args:
        url: Such as ``"s3://bucket/prefix"``.

    Raises:
        ValueError: If it is no URL.
    """
    match = _URL.fullmatch(url) if isinstance(url, str) else None
    if match is None:
        raise ValueError(
            f"{url!r} is not a storage URL: it needs a scheme, as in 's3://bucket/prefix' or 'file:///data/models'"
        )
    return match["scheme"].lower(), match["rest"]


def without_password(url: str) -> str:
    """A URL as it may be shown: what stands before an ``@`` in its host part is hidden."""
    return re.sub(r"(?<=://)[^/@]*@", "***@", url)


def validate_key(key: str) -> str:
    """Check a key.

    Returns:
        The key, unchanged.

    Raises:
        ValueError: If the key is empty or over 1024 bytes, has an empty, ``.`` or ``..`` segment or a trailing ``/``, or
            holds ``::``, ``://``, ``?versionId=``, control characters, U+FFFE, U+FFFF or lone surrogates.
    """
    problem = _problem(key)
    if problem:
        raise ValueError(f"remote path {key!r} {problem}")
    return key


def _problem(key: str) -> str | None:  # noqa: PLR0911 - a list of rules reads best as a list
    if not key:
        return "is empty; name an object, as in 'v3/model.safetensors'"
    if key.endswith("/"):
        return "ends with '/', which names a folder; name an object"
    if any(segment in {"", ".", ".."} for segment in key.split("/")):
        return "has an empty, '.' or '..' segment, which not every store keeps as it is"
    for forbidden in ("::", "://", "?versionId="):
        if forbidden in key:
            return f"holds {forbidden!r}, which has a meaning of its own in fsspec URLs"
    if any(unicodedata.category(character) == "Cc" for character in key):
        return "holds a control character"
    if "\ufffe" in key or "\uffff" in key:
        return "holds a character that XML cannot carry, so that listings would fail"
    try:
        length = len(key.encode())
    except UnicodeEncodeError:
        return "holds a lone surrogate, which UTF-8 cannot carry"
    if length > MAX_KEY_BYTES:
        return f"is {length} bytes long in UTF-8; at most {MAX_KEY_BYTES} are possible"
    return None


@dataclass(frozen=True)
class Location:
    """Where a client keeps its objects.

    Attributes:
        scheme: Scheme of the URLs that it returns.
        base: What stands before every key in a path, up to and with its last slash: ``"bucket/"``, ``"/folder/"``, or
            nothing.
        prefix: Put before relative remote paths; no slash at either end; may be empty.
        aliases: Other schemes that name the same store in URLs given to it.
        other_bases: What may stand in such URLs instead of `base`.
        forbidden: Characters that this store does not keep as they are.
    """

    scheme: str
    base: str
    prefix: str = ""
    aliases: tuple[str, ...] = ()
    other_bases: tuple[str, ...] = ()
    forbidden: str = ""

    def key(self, remote_path: str) -> str:
        """The key that a remote path names.

        Args:
            remote_path: A relative path (appended to the prefix), a path that begins with ``/`` (taken from the
                bucket's root), or a full URL of this bucket.

        Raises:
            ValueError: If the path is impossible, or a URL of something else.
        """
        if not isinstance(remote_path, str):
            raise ValueError(f"a remote path is a string, not {type(remote_path).__name__}: {remote_path!r}")  # noqa: TRY004 - documented: a bad path is a ValueError
        for each in self.forbidden:
            if each in remote_path:
                raise ValueError(f"remote path {remote_path!r} holds {each!r}, which this store does not keep as it is")
        if "://" in remote_path:
            return validate_key(self._key_of_url(remote_path))
        if remote_path.startswith("/"):
            return validate_key(remote_path[1:])
        # Checked by itself first: "" and "a/" must not hide behind the prefix.
        validate_key(remote_path)
        return validate_key(self._below_prefix(remote_path))

    def path(self, key: str) -> str:
        """The path that the fsspec filesystem takes for a key."""
        return self.base + key

    def url(self, key: str) -> str:
        """The URL of a key."""
        return f"{self.scheme}://{self.base}{key}"

    def listing_prefix(self, prefix: str) -> str:
        """The key prefix that `list_files` means: as in `key`, but it may be empty, and may end with ``/``.

        Raises:
            ValueError: If it is a URL of something else, or no key can begin with it.
        """
        if not isinstance(prefix, str):
            raise ValueError(f"a prefix is a string, not {type(prefix).__name__}: {prefix!r}")  # noqa: TRY004 - documented: a bad path is a ValueError
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
            mine = f"{self.scheme}://{self.base}"
            raise ValueError(f"{url!r} is not in {mine!r}, where this client stores; make a client for that URL")
        return rest.removeprefix(base)


def clean_prefix(prefix: str) -> str:
    """Check a prefix and take the slashes off its ends.

    Raises:
        ValueError: If no key could begin with it.
    """
    stripped = prefix.strip("/")
    if not stripped:
        return ""
    try:
        return validate_key(stripped)
    except ValueError as error:
        raise ValueError(f"cannot be a prefix: {error}") from error
