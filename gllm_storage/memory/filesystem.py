"""`MemoryFileSystem`: fsspec's, with exclusive creates that hold among threads, and errors in our words."""

from __future__ import annotations

import contextlib
import io
from typing import IO, TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.implementations.memory import MemoryFile
from fsspec.implementations.memory import MemoryFileSystem as _MemoryFileSystem

from gllm_storage.errors import ErrorDetails, ObjectNotFoundError
from gllm_storage.files.source import CHUNK, open_source
from gllm_storage.files.target import atomic_target
from gllm_storage.filesystem.opening import AtomicOpening, FilesAndFolders
from gllm_storage.filesystem.writing import AtomicWriter
from gllm_storage.info import ObjectInfo, aware, directly_in
from gllm_storage.store.create import exists_error

if TYPE_CHECKING:
    from collections.abc import Iterator


class MemoryFileSystem(AtomicOpening, FilesAndFolders, _MemoryFileSystem):  # type: ignore[misc]  # fsspec publishes no types
    """fsspec's memory filesystem: it shares its one store, so that ``memory://`` URLs open everywhere in the process.

    Every write puts a new object into the store, so that readers of the old one go on with the old one.
    """

    def store_file(self, lpath: str, rpath: str, *, exclusive: bool, callback: Callback | None = None) -> None:
        """As `put_file`, for one file: a folder is refused."""
        path = self._strip_protocol(rpath)
        details, told = _details(path, "upload"), callback or DEFAULT_CALLBACK
        with open_source(lpath, details) as source:
            told.set_size(source.size)
            with self._stored(path, details, exclusive=exclusive) as content:
                for offset in range(0, source.size, CHUNK):
                    content.write(source.read_at(offset, min(CHUNK, source.size - offset)))
                    told.relative_update(min(CHUNK, source.size - offset))
                source.require_unchanged()

    def fetch_file(self, rpath: str, lpath: str, *, callback: Callback | None = None) -> None:
        """As `get_file`, for one file: a folder is no object."""
        path = self._strip_protocol(rpath)
        details, told = _details(path, "download"), callback or DEFAULT_CALLBACK
        with atomic_target(lpath, details) as target:
            content = self._look(path, details).getvalue()
            told.set_size(len(content))
            target.allocate(len(content))
            target.write_at(0, content)
            told.relative_update(len(content))

    def object_info(self, path: str) -> ObjectInfo:
        """What is known of an object.

        Raises:
            ObjectNotFoundError: If there is no such object.
        """
        path = self._strip_protocol(path)
        return _info(path, self._look(path, _details(path, "info")))

    def object_exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self._strip_protocol(path) in self.store

    def iter_objects(self, path: str) -> Iterator[ObjectInfo]:
        """All objects whose path begins with `path`, in key order."""
        wanted = "/" + path.lstrip("/")
        for name in sorted(self.store):
            content = self.store.get(name)
            if content is not None and name.startswith(wanted):
                yield _info(name, content)

    def iter_folder(self, path: str) -> Iterator[ObjectInfo | str]:
        """What is directly behind ``bucket/…``: objects, and URLs of folders."""
        return directly_in(self.iter_objects(path), f"memory://{path.lstrip('/')}")

    def rm_file(self, path: str) -> None:
        """Delete an object.

        Raises:
            ObjectNotFoundError: If there is no such object.
        """
        path = self._strip_protocol(path)
        if self.store.pop(path, None) is None:
            raise _not_found(_details(path, "delete"))

    def _rm(self, path: str) -> None:
        self.rm_file(path)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        path = self._strip_protocol(path)
        if mode == "rb":
            # fsspec gives out the stored object itself, whose position all its readers would share.
            return io.BytesIO(self._look(path, _details(path, "open")).getvalue())
        if mode not in {"wb", "xb"} or kwargs.get("data") is not None:
            return super()._open(path, mode, **kwargs)
        details = _details(path, "open")
        stored = self._stored(path, details, exclusive=mode == "xb")
        return AtomicWriter(stored, details.url, autocommit=kwargs.get("autocommit", True))

    @contextlib.contextmanager
    def _stored(self, path: str, details: ErrorDetails, *, exclusive: bool) -> Iterator[IO[bytes]]:
        if exclusive and path in self.store:
            raise exists_error(details)  # only for speed: setdefault decides
        content = MemoryFile(self, path)
        yield content
        content.seek(0)
        if not exclusive:
            self.store[path] = content
        # dict.setdefault with a string key is atomic in CPython: of many threads, one finds its own object there.
        elif self.store.setdefault(path, content) is not content:
            raise exists_error(details)

    def _look(self, path: str, details: ErrorDetails) -> MemoryFile:
        content = self.store.get(path)
        if content is None:
            raise _not_found(details)
        return content


def _not_found(details: ErrorDetails) -> ObjectNotFoundError:
    return ObjectNotFoundError(f"{details.url} does not exist (memory {details.operation})", details)


def _info(path: str, content: MemoryFile) -> ObjectInfo:
    return ObjectInfo(
        url=f"memory://{path.lstrip('/')}",
        size=content.size,
        # A new object is stored by each write, and its time of creation is fine enough to tell it from the last one.
        etag=f"{content.created.timestamp():.6f}-{id(content):x}",
        last_modified=aware(content.modified),
        metadata={},
    )


def _details(path: str, operation: str) -> ErrorDetails:
    return ErrorDetails("memory", f"memory://{path.lstrip('/')}", operation)
