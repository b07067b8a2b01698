"""What ``cp`` is to copy: from its arguments to pairs of one source and one target each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from gllm_storage.cli.output import complain
from gllm_storage.cli.places import Address, Folder, LocalPath, Stored, Stream, require_utf8
from gllm_storage.cli.settings import SOURCE, TARGET, Store
from gllm_storage.errors import StorageError
from gllm_storage.files.target import is_temporary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gllm_storage.cli.places import Argument
    from gllm_storage.fsspec_client import FsspecStorageClient

Place = Stream | LocalPath | Stored


@dataclass(frozen=True)
class Copy:
    """One file to copy.

    Attributes:
        source: From where.
        target: To where.
        name: Its name, for people.
    """

    source: Place
    target: Place
    name: str


@dataclass(frozen=True)
class Refusal:
    """A file, folder or whole source that cannot be copied, while all others are.

    Attributes:
        error: Why.
    """

    error: Exception


@dataclass(frozen=True)
class Target:
    """Where everything goes.

    Attributes:
        root: The stream, the local path, or the object's place as it was given; a folder's ends with ``/``.
        into: Whether it is a folder that gets what is copied, or the new name of the one thing that is copied.
    """

    root: Place | Folder
    into: bool

    def file(self, name: str) -> Place:
        """The place of a file of that name."""
        return self.below(name) if self.into else self.itself()

    def itself(self) -> Place:
        """The place that was named."""
        if isinstance(self.root, Folder):
            raise ValueError(f"{self.root.url} is a folder; name the file in it")  # noqa: TRY004 - wrong usage
        return self.root

    def below(self, name: str) -> Place:
        """A place below, whose name may hold ``/``.

        Raises:
            ValueError: If the name leads out of a local target, or cannot be that of an object.
        """
        if isinstance(self.root, Stream):
            raise ValueError("a folder cannot go to standard output; name a folder")  # noqa: TRY004 - wrong usage
        if isinstance(self.root, LocalPath):
            return LocalPath(os.path.join(self.root.path, *_safe_segments(name)))
        require_utf8(name)
        if isinstance(self.root, Folder):
            return Stored(self.root.client, f"{self.root.prefix}{name}")
        return Stored(self.root.client, f"{self.root.key}/{name}")


def stores_of(sources: Sequence[Argument], target: Argument) -> list[Store]:
    """The buckets that a copy uses."""
    found = [Store(each.root, SOURCE) for each in sources if isinstance(each, Address)]
    return [*found, Store(target.root, TARGET)] if isinstance(target, Address) else found


def plan(
    sources: Sequence[Argument], target: Argument, clients: Mapping[Store, FsspecStorageClient], *, recursive: bool
) -> Iterator[Copy | Refusal]:
    """What to copy, found while it is copied: a prefix may hold millions of objects.

    Raises:
        ValueError: If the arguments do not fit each other.
    """
    place = _target(target, clients)
    if len(sources) > 1 and not place.into:
        raise ValueError("several sources need a folder as target: an existing one here, or one that ends with '/'")
    return chain.from_iterable(_to_its_end(_copies(each, place, clients, recursive=recursive)) for each in sources)


def _to_its_end(copies: Iterator[Copy | Refusal]) -> Iterator[Copy | Refusal]:
    """What is to be copied of one source; one that is missing or cannot be listed to its end does not keep the others."""
    try:
        yield from copies
    except BrokenPipeError:
        raise
    except (ValueError, OSError, StorageError) as error:
        yield Refusal(error)


def _target(target: Argument, clients: Mapping[Store, FsspecStorageClient]) -> Target:
    if isinstance(target, Stream):
        return Target(target, into=False)
    if isinstance(target, LocalPath):
        return Target(target, into=target.path.endswith("/") or os.path.isdir(target.path))
    client = clients[Store(target.root, TARGET)]
    if target.is_folder:
        return Target(Folder(client, target.key), into=True)
    return Target(Stored(client, target.key), into=False)


def _copies(
    source: Argument, target: Target, clients: Mapping[Store, FsspecStorageClient], *, recursive: bool
) -> Iterator[Copy | Refusal]:
    if isinstance(source, Stream):
        if target.into:
            raise ValueError("standard input has no name: name the target, not a folder")
        yield Copy(source, target.itself(), "standard input")
    elif isinstance(source, LocalPath):
        yield from _of_local(source, target, recursive=recursive)
    else:
        yield from _of_store(source, clients[Store(source.root, SOURCE)], target, recursive=recursive)


def _of_local(source: LocalPath, target: Target, *, recursive: bool) -> Iterator[Copy | Refusal]:
    name = os.path.basename(source.path)
    means_folder = not name or os.path.isdir(source.path)
    if not means_folder:
        yield Copy(source, target.file(name), name)
        return
    if not recursive:
        raise ValueError(f"{source.path} is a folder; give --recursive")
    if not os.path.isdir(source.path):
        raise FileNotFoundError(2, "nothing is there", source.path)
    _require_outside(target, source)
    start = f"{name}/" if target.into and name not in {"", ".", ".."} else ""
    for found in _files_below(source.path, ()):
        if isinstance(found, Refusal):
            yield found
        else:
            yield _copy_below(LocalPath(found), target, start, os.path.relpath(found, source.path))


def _of_store(source: Address, client: FsspecStorageClient, target: Target, *, recursive: bool) -> Iterator[Copy | Refusal]:
    if source.is_folder and not recursive:
        raise ValueError(f"{Folder(client, source.key).url} is a folder; give --recursive")
    name = source.key.rpartition("/")[2]
    if recursive:
        folder = Folder(client, f"{source.key}/" if name else source.key)
        _require_outside(target, folder)
        any_file = False
        for below, info in folder.files():
            any_file = True
            if below.endswith("/") or not below:  # what consoles leave to show a folder; no file can have that name
                _require_marker(info.url, info.size)
                continue
            start = f"{name}/" if target.into and name else ""
            yield _copy_below(Stored(client, f"{folder.prefix}{below}"), target, start, below)
        if any_file:
            return
        if source.is_folder:
            raise FileNotFoundError(2, "nothing is there", folder.url)
    yield Copy(Stored(client, source.key), target.file(name), name)


def _copy_below(source: Place, target: Target, start: str, below: str) -> Copy | Refusal:
    try:
        return Copy(source, target.below(f"{start}{below}"), below)
    except ValueError as error:
        return Refusal(error)


def _require_marker(url: str, size: int) -> None:
    if size:
        complain(f"warning: {url} has the name of a folder, but {size} bytes; it was left out")


def _require_outside(target: Target, source: LocalPath | Folder) -> None:
    root = target.root
    if isinstance(source, LocalPath) and isinstance(root, LocalPath):
        inside = f"{os.path.realpath(root.path)}/".startswith(f"{os.path.realpath(source.path).rstrip('/')}/")
    elif isinstance(source, Folder) and isinstance(root, (Stored, Folder)) and root.client == source.client:
        key = root.prefix if isinstance(root, Folder) else f"{root.key}/"
        inside = key.startswith(source.prefix)
    else:
        inside = False
    if inside:
        raise ValueError("the target is in the folder that is to be copied, or is that folder; copy it elsewhere")


def _safe_segments(name: str) -> list[str]:
    segments = name.split("/")
    if any(each in {"", ".", ".."} or "\0" in each for each in segments):
        raise ValueError(f"{name!r} leads out of the target folder, or cannot be a file here; it was not copied")
    return segments


def _files_below(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str | Refusal]:
    """All files, in order; links are followed, as they are the contents of model caches, but not around in circles."""
    try:
        yield from _entries(folder, parents)
    except OSError as error:  # the other folders can be read all the same
        yield Refusal(error)


def _entries(folder: str, parents: tuple[tuple[int, int], ...]) -> Iterator[str | Refusal]:
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in parents:
        complain(f"warning: {folder} is a link to a folder around it; it was left out")
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir():
            yield from _files_below(entry.path, (*parents, here))
        elif not is_temporary(entry.name):
            yield entry.path
