"""The plan of ``cp``: from its arguments to pairs of one source and one target, which are files or folders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from gllm_storage.cli.places import Address, Folder, LocalPath, Stored, Stream, nothing_there, require_utf8
from gllm_storage.cli.settings import SOURCE, TARGET, Store
from gllm_storage.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gllm_storage.cli.places import Argument
    from gllm_storage.fsspec_client import FsspecStorageClient

Place = Stream | LocalPath | Stored


@dataclass(frozen=True)
class Copy:
    """One file to copy.

    Attributes:
        source: The source file.
        target: The target file.
        name: The name to show.
    """

    source: Place
    target: Place
    name: str


@dataclass(frozen=True)
class Tree:
    """A folder to copy.

    Attributes:
        source: The source folder.
        target: The target folder.
    """

    source: LocalPath | Folder
    target: LocalPath | Folder


@dataclass(frozen=True)
class Refusal:
    """A source argument that cannot be copied; the others still are.

    Attributes:
        error: The reason.
    """

    error: Exception


Piece = Copy | Tree | Refusal


@dataclass(frozen=True)
class Target:
    """The target argument.

    Attributes:
        root: The stream, the local path, the object, or the folder in a store.
        into: Whether copies go into it under their own names; otherwise it is the name of the only copy.
    """

    root: Place | Folder
    into: bool

    def file(self, name: str) -> Place:
        """The target of a source file.

        Args:
            name: The file's own name.

        Raises:
            ValueError: If there is none.
        """
        return self.below(name) if self.into else self.itself()

    def itself(self) -> Place:
        """The target as a file.

        Raises:
            ValueError: If it is a folder.
        """
        if isinstance(self.root, Folder):
            raise ValueError(f"{self.root.url} is a folder; name a file in it")
        return self.root

    def below(self, name: str) -> Place:
        """A file directly below the target.

        Args:
            name: Its name.

        Raises:
            ValueError: If the name leads out of a local target, or cannot be part of a key.
        """
        folder = self.folder(name="")
        if isinstance(folder, LocalPath):
            return LocalPath(os.path.join(folder.path, *_safe_segments(name)))
        require_utf8(name)
        return Stored(folder.client, f"{folder.prefix}{name}")

    def folder(self, name: str) -> LocalPath | Folder:
        """The target of a source folder.

        Args:
            name: The folder's own name; empty for the content of the folder.

        Raises:
            ValueError: As in `below`.
        """
        name = name if self.into else ""
        root = self.root
        if isinstance(root, Stream):
            raise ValueError("a folder cannot go to standard output; name a folder as target")
        if isinstance(root, LocalPath):
            return LocalPath(os.path.join(root.path, *_safe_segments(name))) if name else root
        require_utf8(name)
        prefix = root.prefix if isinstance(root, Folder) else f"{root.key}/"
        return Folder(root.client, f"{prefix}{name}/" if name else prefix)


def stores_of(sources: Sequence[Argument], target: Argument) -> list[Store]:
    """The buckets of sources and target."""
    found = [Store(each.root, SOURCE) for each in sources if isinstance(each, Address)]
    return [*found, Store(target.root, TARGET)] if isinstance(target, Address) else found


def plan(
    sources: Sequence[Argument], target: Argument, clients: Mapping[Store, FsspecStorageClient], *, recursive: bool
) -> Iterator[Piece]:
    """Find the files and folders to copy, while they are copied.

    Args:
        sources: The source arguments.
        target: The target argument.
        clients: The clients of the buckets that `stores_of` returns.
        recursive: Whether folders are copied.

    Raises:
        ValueError: If there are several sources, and the target is not a folder.
    """
    place = _target(target, clients)
    if len(sources) > 1 and not place.into:
        raise ValueError("several sources need a target folder: an existing local one, or one that ends with '/'")
    named_once = dict.fromkeys(sources)
    return chain.from_iterable(_or_refusal(_copies(each, place, clients, recursive=recursive)) for each in named_once)


def _or_refusal(copies: Iterator[Piece]) -> Iterator[Piece]:
    """The copies of one source; an error ends only this source, not the others."""
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
    return Target(Stored(client, target.key, target.exact), into=False)


def _copies(
    source: Argument, target: Target, clients: Mapping[Store, FsspecStorageClient], *, recursive: bool
) -> Iterator[Piece]:
    if isinstance(source, Stream):
        if target.into:
            raise ValueError("standard input has no name; name a file as target, not a folder")
        yield Copy(source, target.itself(), "standard input")
    elif isinstance(source, LocalPath):
        yield from _of_local(source, target, recursive=recursive)
    else:
        yield from _of_store(source, clients[Store(source.root, SOURCE)], target, recursive=recursive)


def _of_local(source: LocalPath, target: Target, *, recursive: bool) -> Iterator[Piece]:
    name = os.path.basename(source.path)
    is_folder = not name or os.path.isdir(source.path)
    if not is_folder:
        yield Copy(source, target.file(name), name)
        return
    if not recursive:
        raise ValueError(f"{source.path} is a folder; give --recursive")
    if not os.path.isdir(source.path):
        raise nothing_there(source.path)
    _refuse_target_inside(target, source)
    yield Tree(source, target.folder("" if name in {".", ".."} else name))


def _of_store(source: Address, client: FsspecStorageClient, target: Target, *, recursive: bool) -> Iterator[Piece]:
    if source.is_folder and not recursive:
        raise ValueError(f"{Folder(client, source.key).url} is a folder; give --recursive")
    name = source.key.rpartition("/")[2]
    if source.exact:
        if recursive:
            raise ValueError("--exact names one object; leave out --recursive")
        if target.into and not name:
            raise ValueError(f"{source.url} ends with '/'; name the target file")
    if recursive:
        folder = Folder(client, f"{source.key}/" if name else source.key)
        _refuse_target_inside(target, folder)
        if client.store.is_prefix(folder.prefix):
            yield Tree(folder, target.folder(name))
            return
        if source.is_folder:
            raise nothing_there(folder.url)
    yield Copy(Stored(client, source.key, source.exact), target.file(name), name)


def _refuse_target_inside(target: Target, source: LocalPath | Folder) -> None:
    root = target.root
    if isinstance(source, LocalPath) and isinstance(root, LocalPath):
        inside = f"{os.path.realpath(root.path)}/".startswith(f"{os.path.realpath(source.path).rstrip('/')}/")
    elif isinstance(source, Folder) and isinstance(root, (Stored, Folder)) and root.client == source.client:
        key = root.prefix if isinstance(root, Folder) else f"{root.key}/"
        inside = key.startswith(source.prefix)
    else:
        inside = False
    if inside:
        raise ValueError("the target is the source folder, or lies in it; name another target")


def _safe_segments(name: str) -> list[str]:
    segments = name.split("/")
    if any(each in {"", ".", ".."} or "\0" in each for each in segments):
        raise ValueError(f"{name!r} was not copied: it leads out of the target folder, or cannot be a local file name")
    return segments
