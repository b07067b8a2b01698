"""The names and the keys of a model's published versions.

A model is a prefix, such as ``models/llama-ft``. Below it, and nowhere else::

    data/<digest>-0/…                           the files of one version, under their own relative names
    trees/<digest>-0.jsonl                      the list of these files
    marks/<digest>-0/<version>/<slot>-<random>  a publisher works there, and means to commit that slot
    tombs/<digest>-0                            no publisher begins to work there any more
    versions/<version>/<slot>.json              the log of a version
    aliases/<alias>/<slot>.json                 the log of an alias
    names/<name in lower case>.json             whether the name is a version or an alias, and its exact spelling

Slots count down from 99999999 in keys, so that the newest entry of a log is the first key of an ordered listing.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import operator
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from gllm_storage.errors import ConflictCheckUnsupportedError, Remedy, redacted
from gllm_storage.paths import VERSION_NAME, validate_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gllm_storage.client import CloudStorageClient
    from gllm_storage.errors import ErrorDetails
    from gllm_storage.store.port import ObjectStore

LAST_SLOT = 99_999_999
"""The most entries of one log."""
FOLDERS = ("data", "trees", "marks", "tombs", "versions", "aliases", "names")
"""The folders of a model."""

_NAME = re.compile(VERSION_NAME)
_LONGEST_NAME = 128
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_PLACE = re.compile(r"[0-9a-f]{64}-(?:0|[1-9][0-9]*)")
_SLOT = re.compile(r"[0-9]{8}")
_MOST_FOREIGN = 1000
"""The most keys at the beginning of a folder ``versions`` that are listed to find one of a log."""
_LONGEST_PLACE = f"{'0' * 64}-999"
_LOG_KEY = re.compile(r"versions/[^/]+/[0-9]{8}\.json")


@dataclass(frozen=True, order=True)
class Mark:
    """A publisher's announcement: it works in a directory, and means to commit one slot of the log of a version."""

    version: str
    slot: int


@dataclass(frozen=True)
class Model:
    """A model's prefix in a store.

    Attributes:
        store: The store.
        prefix: The key prefix of the model, without a slash at its end.
    """

    store: ObjectStore
    prefix: str

    def key(self, *segments: str) -> str:
        """The key of an object of the model."""
        return "/".join((self.prefix, *segments))

    def data(self, place: str) -> str:
        """The key prefix of the files of a directory; it ends with a slash."""
        return f"{self.prefix}/data/{place}/"

    def tree(self, place: str) -> str:
        """The key of the list of the files of a directory."""
        return self.key("trees", f"{place}.jsonl")

    def tomb(self, place: str) -> str:
        """The key of the tombstone of a directory."""
        return self.key("tombs", place)

    def marks(self, place: str) -> str:
        """The key prefix of the marks of a directory; it ends with a slash."""
        return f"{self.prefix}/marks/{place}/"

    def below(self, key: str) -> str:
        """A key without the prefix of the model."""
        return key.removeprefix(f"{self.prefix}/")


def model_of(client: CloudStorageClient, model: str) -> Model:
    """The model at a path of a client.

    Args:
        client: The client.
        model: The path of the model: relative to the client's prefix, or absolute, or a URL of the client's store.

    Raises:
        ValueError: If the path is not valid.
        TypeError: If the client has no `ObjectStore`, as one of another package may not.
    """
    from gllm_storage.fsspec_client import FsspecStorageClient  # noqa: PLC0415 - only for this check

    if not isinstance(client, FsspecStorageClient):
        raise TypeError(f"{type(client).__name__} has no object store: published versions need a client of this library")
    if isinstance(model, str) and (not model or model.endswith("/")):
        problem = "ends with '/', which names a folder" if model else "is empty"
        raise ValueError(f"remote path {redacted(repr(model))} {problem}; name a model, as in 'models/llama-ft'")
    url = client.url(model)
    return Model(client.store, url.removeprefix(client.store.url("")))


def require_atomic(model: Model, operation: str) -> None:
    """Check that small objects of a model are created exclusively by the store itself.

    On S3 this may write an object beside the given key, and delete it. So the key is directly below the prefix: in a folder
    of the model, that object would look like an entry of a log, or like a file of a version.

    Raises:
        ConflictCheckUnsupportedError: If they are not.
        StorageError: If a request fails.
    """
    with exclusive_creates(model.store.details(model.prefix, operation)):
        model.store.require_atomic(model.key("probe"), operation)


@contextlib.contextmanager
def exclusive_creates(details: ErrorDetails) -> Iterator[None]:
    """Give the error of a store that does not create exclusively: no argument of these functions could do without.

    Args:
        details: The model or its object, and the operation.

    Raises:
        ConflictCheckUnsupportedError: If the block raises it.
    """
    try:
        yield
    except ConflictCheckUnsupportedError as error:
        raise ConflictCheckUnsupportedError(
            f"{details.url}: the store cannot create objects exclusively, which published versions need; nothing was "
            "published or changed",
            details,
            Remedy.OTHER_STORE,
        ) from error


def require_outside(model: Model) -> None:
    """Check that a model does not lie inside the folders of another one, where garbage collection deletes.

    Raises:
        ValueError: If it does.
        StorageError: If a request fails. There is none for a path without a segment such as ``data``.
    """
    segments = model.prefix.split("/")
    for depth, segment in enumerate(segments):
        if segment not in FOLDERS:
            continue
        outer = "/".join(segments[:depth])
        base = f"{outer}/" if outer else ""
        keys = islice(model.store.list_keys(f"{base}versions/"), _MOST_FOREIGN)
        if any(_LOG_KEY.fullmatch(key.removeprefix(base)) for key in keys):
            raise ValueError(f"{model.prefix!r} lies inside the model {outer!r}: publish to another path")


def require_name(name: str) -> str:
    """Check the name of a version or of an alias.

    Returns:
        The name.

    Raises:
        ValueError: If it is not one segment of letters, digits, ``.``, ``_`` and ``-`` that begins with a letter or digit,
            or is longer than 128 characters.
    """
    if not isinstance(name, str):
        raise ValueError(f"{name!r} cannot be the name of a version or an alias: give a text")
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{name!r} cannot be the name of a version or an alias: it must have 1 to {_LONGEST_NAME} letters, digits, '.', "
            "'_' and '-', and begin with a letter or a digit"
        )
    return name


def require_period(argument: str, period: object) -> None:
    """Check a length of time.

    Raises:
        ValueError: If it is not a `datetime.timedelta`, or negative.
    """
    if not isinstance(period, dt.timedelta):
        raise ValueError(f"{argument}={period!r} is not a datetime.timedelta, such as timedelta(days=30)")
    if period < dt.timedelta():
        raise ValueError(f"{argument} must not be negative: {period}")


def time_before(now: dt.datetime, period: dt.timedelta) -> dt.datetime:
    """The time that was a period ago; the earliest one that Python has, if it would be before the year 1."""
    try:
        return now - period
    except OverflowError:
        return dt.datetime.min.replace(tzinfo=dt.UTC)


def require_count(argument: str, count: Any) -> None:
    """Check a number of things, or of bytes.

    Raises:
        ValueError: If it is not an `int`, or negative.
    """
    try:
        number = operator.index(count)
    except TypeError:
        raise ValueError(f"{argument}={count!r} is not an int") from None
    if number < 0:
        raise ValueError(f"{argument} must not be negative: {number}")


def is_name(name: str) -> bool:
    """Whether a text is a valid name of a version or an alias."""
    return _NAME.fullmatch(name) is not None and len(name) <= _LONGEST_NAME


def hex_of(digest: str) -> str:
    """The hexadecimal digits of a digest.

    Raises:
        ValueError: If the text is not ``sha256:`` and 64 lower-case hexadecimal digits.
    """
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise ValueError(f"{digest!r} is not a digest: 'sha256:' and 64 lower-case hexadecimal digits")
    return match[1]


def is_digest(text: str) -> bool:
    """Whether a text has the form of a digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def place_of(digest: str, number: int) -> str:
    """The name of the directory of a content.

    Args:
        digest: The digest of the content.
        number: 0, or higher if earlier directories of this content were collected or hold something else.
    """
    return f"{hex_of(digest)}-{number}"


def require_short(model: Model, path: str) -> str:
    """Check that the key of a file of a version is not too long, in any directory of the model.

    Returns:
        The path.

    Raises:
        ValueError: If it is longer than 1024 bytes in UTF-8.
    """
    validate_key(model.data(_LONGEST_PLACE) + path)
    return path


def mark_prefix(model: Model, place: str, version: str, slot: int) -> str:
    """The key of a mark without its random part, which has 32 characters."""
    return f"{model.marks(place)}{version}/{slot_name(slot)}-"


def require_short_name(model: Model, version: str) -> None:
    """Check that the keys of a version without files are not too long; raises as `require_short`."""
    validate_key(mark_prefix(model, _LONGEST_PLACE, version, LAST_SLOT) + "0" * 32)


def is_place(name: str) -> bool:
    """Whether a name is one of a directory, as `place_of` makes them."""
    return _PLACE.fullmatch(name) is not None


def slot_name(slot: int) -> str:
    """The text of a slot in keys.

    Args:
        slot: The number of an entry of a log, from 1.

    Raises:
        ValueError: If the slot is out of range.

    Examples:
        >>> slot_name(1), slot_name(2)
        ('99999998', '99999997')
    """
    if not 1 <= slot <= LAST_SLOT:
        raise ValueError(f"slot {slot} is not between 1 and {LAST_SLOT}")
    return f"{LAST_SLOT - slot:08d}"


def slot_of(text: str) -> int | None:
    """The number of a slot from its text in keys; None if the text is not one."""
    if not _SLOT.fullmatch(text) or text == str(LAST_SLOT):
        return None
    return LAST_SLOT - int(text)


def mark_of(name: str) -> Mark | None:
    """The mark that a key below `Model.marks` stands for; None if the key has another form.

    Examples:
        >>> mark_of("v3/99999998-5f0c")
        Mark(version='v3', slot=1)
    """
    version, _, last = name.partition("/")
    slot = slot_of(last.partition("-")[0])
    return Mark(version, slot) if slot is not None and is_name(version) else None


def require_path(path: str) -> str:
    """Check the relative path of a file of a version.

    Returns:
        The path.

    Raises:
        ValueError: If the path is absolute, leaves its directory, has a backslash, which some systems take for a separator,
            or cannot be a key (`validate_key`).
    """
    if "\\" in path:
        raise ValueError(f"{path!r} contains a backslash, which some systems take for a separator")
    return validate_key(path)
