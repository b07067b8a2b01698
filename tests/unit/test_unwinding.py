"""A file that is closed at the end of a failed block publishes nothing; a file that saves a state after a failure does."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import gzip
import io
import json
import lzma
import pickle
import signal
import sys
import tarfile
import threading
import zipfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pytest
from fsspec.core import OpenFile

from gllm_storage import MemoryStorageClient
from gllm_storage.filesystem.writing import AtomicTextWriter, AtomicWriter
from tests.unit.test_writing import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterator
    from types import TracebackType


class Filesystem:
    """As much of a filesystem as `OpenFile` needs."""

    def __init__(self, store: Store, *, publish_on_error: bool = False) -> None:
        self._store = store
        self._publish_on_error = publish_on_error

    def open(self, path: str = "fake://a", mode: str = "wb") -> Any:
        return AtomicWriter(self._store.file(), path, mode, publish_on_error=self._publish_on_error)


class Files:
    """Files of one store, opened in the ways that other libraries open them."""

    def __init__(self) -> None:
        self.store = Store()
        self.fs = Filesystem(self.store)

    def open(self) -> Any:
        """Open a file by the filesystem."""
        return self.fs.open()

    def block(self, mode: str = "wb", compression: str | None = None) -> Any:
        """The context manager that `fsspec.open` returns."""
        return OpenFile(self.fs, "fake://a", mode, compression)

    @property
    def published(self) -> list[bytes]:
        return self.store.published


@pytest.fixture
def files() -> Files:
    return Files()


class Failure(Exception):  # noqa: N818 - it fails in the tests
    """The failure of a block."""


def fail() -> None:
    """Raise the failure."""
    raise Failure


class Unpicklable:
    """An object whose pickling fails halfway."""

    def __reduce__(self) -> Any:
        fail()


class Trainer:
    """A context manager that saves when its block fails, as trainers do."""

    def __init__(self, save: Callable[[], None]) -> None:
        self._save = save

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._save()


# ---------------------------------------------------------------------- blocks that fail


def fsspec_open(files: Files) -> None:
    with files.block() as file:
        file.write(b"half")
        fail()


def fsspec_open_text(files: Files) -> None:
    with files.block("w") as file:
        file.write("half")
        fail()


def fsspec_open_gzip(files: Files) -> None:
    with files.block("wb", "gzip") as file:
        file.write(b"half")
        fail()


def fsspec_open_gzip_text(files: Files) -> None:
    with files.block("wt", "gzip") as file:
        file.write("half")
        fail()


def opened_text(files: Files) -> None:
    with files.block("w").open() as file:
        file.write("half")
        fail()


def text_wrapper(files: Files) -> None:
    with io.TextIOWrapper(files.open()) as file:
        file.write("half")
        fail()


def buffered_writer(files: Files) -> None:
    with io.BufferedWriter(files.open()) as file:
        file.write(b"half")
        fail()


def gzip_around(files: Files) -> None:
    with files.block() as below, gzip.GzipFile(fileobj=below, mode="wb") as file:
        file.write(b"half")
        fail()


def lzma_around(files: Files) -> None:
    with files.block() as below, lzma.open(below, "wt") as file:
        file.write("half")
        fail()


def zip_around(files: Files) -> None:
    with files.block() as below, zipfile.ZipFile(below, "w") as archive:
        archive.writestr("a", "half")
        fail()


def tar_around(files: Files) -> None:
    with files.block() as below, tarfile.open(fileobj=below, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a"))
        fail()


def pickled(files: Files) -> None:
    with files.block() as file:
        pickle.dump([b"half" * 50_000, Unpicklable()], file)


def as_json(files: Files) -> None:
    def describe(_: object) -> str:
        raise Failure

    with files.block("w") as file:
        json.dump(["half", object()], file, default=describe)


def saved_by_numpy(files: Files) -> None:
    with files.block() as file:
        np.save(file, np.array([1, Unpicklable()], dtype=object))


def closing(files: Files) -> None:
    with contextlib.closing(files.open()) as file:
        file.write(b"half")
        fail()


def exit_stack(files: Files) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.block()).write(b"half")
        fail()


def exit_stack_text(files: Files) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(io.TextIOWrapper(files.open())).write("half")
        fail()


def exit_stack_callback(files: Files) -> None:
    with contextlib.ExitStack() as stack:
        file = files.open()
        stack.callback(file.close)
        file.write(b"half")
        fail()


def context_manager(files: Files) -> None:
    @contextlib.contextmanager
    def opened() -> Iterator[Any]:
        file = files.open()
        try:
            yield file
        finally:
            file.close()

    with opened() as file:
        file.write(b"half")
        fail()


def suppressed(files: Files) -> None:
    with contextlib.suppress(Failure), files.block() as file:
        file.write(b"half")
        fail()


def nested_functions(files: Files) -> None:
    with files.block() as file, Trainer(lambda: None):
        file.write(b"half")
        fail()


def raised_again(files: Files) -> None:
    try:
        fail()
    except Failure:
        with files.block() as file:
            file.write(b"half")
            raise


def other_failure(files: Files) -> None:
    try:
        fail()
    except Failure:
        with files.block("w") as file:
            file.write("half")
            raise ZeroDivisionError from None


def interrupted(files: Files) -> None:
    with files.block() as file:
        file.write(b"half")
        signal.raise_signal(signal.SIGINT)


def program_that_exits(files: Files) -> None:
    with files.block() as file:
        file.write(b"half")
        sys.exit(1)


def abandoned_generator(files: Files) -> None:
    def rows() -> Iterator[int]:
        with files.block() as file:
            for number in range(10):
                file.write(b"half")
                yield number

    for _ in rows():
        break


def in_a_task(files: Files) -> None:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        file = files.open()
        try:
            yield file
        finally:
            await asyncio.sleep(0)
            file.close()

    async def run() -> None:
        async with opened() as file:
            file.write(b"half")
            fail()

    asyncio.run(run())


def cancelled_task(files: Files) -> None:
    async def write() -> None:
        with files.block() as file:
            file.write(b"half")
            await asyncio.sleep(60)

    async def run() -> None:
        task = asyncio.create_task(write())
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(run())


FAILING = [
    fsspec_open, fsspec_open_text, fsspec_open_gzip, fsspec_open_gzip_text, opened_text, text_wrapper, buffered_writer,
    gzip_around, lzma_around, zip_around, tar_around, pickled, as_json, saved_by_numpy, closing, exit_stack,
    exit_stack_text, exit_stack_callback, context_manager, suppressed, nested_functions, raised_again, other_failure,
    interrupted, program_that_exits, abandoned_generator, in_a_task, cancelled_task,
]  # fmt: skip


@pytest.mark.parametrize("program", FAILING, ids=lambda each: str(each.__name__))
def test_failed_block(program: Callable[[Files], None], files: Files, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is published at the end of a block that failed, and a warning names the URL."""
    ends = (Failure, ZeroDivisionError, KeyboardInterrupt, SystemExit, asyncio.CancelledError)
    with contextlib.suppress(*ends):
        program(files)
    gc.collect()
    assert files.published == []
    assert files.store.discarded == 1
    said = [each for each in caplog.records if each.name == "gllm_storage.filesystem.writing"]
    assert [each.levelname for each in said] == ["WARNING"]
    assert said[0].getMessage().startswith("fake://a was ")


# ---------------------------------------------------------------------- saves after a failure


def save(files: Files) -> None:
    with files.block() as file:
        file.write(b"state")


def save_text(files: Files) -> None:
    with files.block("w").open() as file:
        file.write("state")


def in_except(files: Files) -> None:
    try:
        fail()
    except Failure:
        save(files)


def in_except_unblocked(files: Files) -> None:
    try:
        fail()
    except Failure:
        file = files.open()
        file.write(b"state")
        file.close()


def opened_before(files: Files) -> None:
    file = files.open()
    try:
        fail()
    except Failure:
        file.write(b"state")
        file.close()


def in_finally(files: Files) -> None:
    with contextlib.suppress(Failure):
        try:
            fail()
        finally:
            save(files)


def in_exit(files: Files) -> None:
    with contextlib.suppress(Failure), Trainer(lambda: save(files)):
        fail()


def in_exit_text(files: Files) -> None:
    with contextlib.suppress(Failure), Trainer(lambda: save_text(files)):
        fail()


def in_exit_unblocked(files: Files) -> None:
    def unblocked() -> None:
        file = files.open()
        file.write(b"state")
        file.close()

    with contextlib.suppress(Failure), Trainer(unblocked):
        fail()


def in_stack_callback(files: Files) -> None:
    with contextlib.suppress(Failure), contextlib.ExitStack() as stack:
        stack.callback(save, files)
        fail()


def in_context_manager(files: Files) -> None:
    @contextlib.contextmanager
    def trainer() -> Iterator[None]:
        try:
            yield
        except Failure:
            save_text(files)
            raise

    with contextlib.suppress(Failure), trainer():
        fail()


def on_interrupt(files: Files) -> None:
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        save(files)


def after_a_second_failure(files: Files) -> None:
    def save_unblocked() -> None:
        file: Any = None
        try:
            fail()
        except Failure:
            file = files.open()
        file.write(b"state")
        file.close()

    with contextlib.suppress(Failure), Trainer(save_unblocked):
        fail()


def retried_in_except(files: Files) -> None:
    try:
        fail()
    except Failure:
        try:
            with files.block() as file:
                file.write(b"half")
                fail()
        except Failure:
            save(files)


SAVING = [
    in_except, in_except_unblocked, opened_before, in_finally, in_exit, in_exit_text, in_exit_unblocked, in_stack_callback,
    in_context_manager, on_interrupt, after_a_second_failure, retried_in_except,
]  # fmt: skip


@pytest.mark.parametrize("program", SAVING, ids=lambda each: str(each.__name__))
def test_emergency_save(program: Callable[[Files], None], files: Files) -> None:
    """A state that is saved while an exception is handled is published."""
    program(files)
    assert files.published == [b"state"]


# ---------------------------------------------------------------------- other saves


def handled_inside(files: Files) -> None:
    with files.block() as file:
        try:
            fail()
        except Failure:
            file.write(b"state")


def suppressed_inside(files: Files) -> None:
    with files.block("w") as file:
        file.write("state")
        with contextlib.suppress(Failure):
            fail()


def other_file_failed(files: Files) -> None:
    with files.block() as file:
        file.write(b"state")
        with contextlib.suppress(Failure), files.block("w") as other:
            other.write("half")
            fail()


def returned_inside(files: Files) -> None:
    with files.block() as file:
        file.write(b"state")
        return


def loop_left(files: Files) -> None:
    for _ in range(3):
        with files.block("w") as file:
            file.write("state")
            break


def retried(files: Files) -> None:
    for attempt in range(2):
        with contextlib.suppress(Failure), files.block() as file:
            file.write(b"state")
            if not attempt:
                fail()


def in_thread(files: Files) -> None:
    def work() -> None:
        try:
            fail()
        except Failure:
            save(files)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def closed_in_block(files: Files) -> None:
    with contextlib.suppress(Failure), files.block() as file:
        file.write(b"state")
        file.close()
        fail()


def sent_to_generator(files: Files) -> None:
    def sink() -> Generator[None, bytes | None]:
        with files.block() as file:
            while (data := (yield)) is not None:
                file.write(data)

    generator: Any = sink()
    next(generator)
    generator.send(b"state")
    with contextlib.suppress(StopIteration):
        generator.send(None)


def exit_stack_moved(files: Files) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.block()).write(b"state")
        kept = stack.pop_all()
    try:
        fail()
    except Failure:
        kept.close()


def in_async_block(files: Files) -> None:
    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            stack.enter_context(files.block()).write(b"state")
            await asyncio.sleep(0)

    asyncio.run(run())


COMMITTING = [
    handled_inside, suppressed_inside, other_file_failed, returned_inside, loop_left, retried, in_thread, closed_in_block,
    sent_to_generator, exit_stack_moved, in_async_block,
]  # fmt: skip


@pytest.mark.parametrize("program", COMMITTING, ids=lambda each: str(each.__name__))
def test_commit(program: Callable[[Files], None], files: Files) -> None:
    """A block that ends without an exception publishes, whatever failed inside it or before it."""
    program(files)
    assert files.published == [b"state"]


# ---------------------------------------------------------------------- limits, the setting, dropped files, pickles


def test_finally(files: Files) -> None:
    """A file that is closed in ``finally`` is published: its `close` looks like one of an emergency save."""
    with contextlib.suppress(Failure):
        file = files.open()
        try:
            file.write(b"half")
            fail()
        finally:
            file.close()
    assert files.published == [b"half"]


def test_log_of_trainer(files: Files) -> None:
    """A log that was opened before the failure, and that ``__exit__`` closes, is not published."""
    log = files.open()
    with contextlib.suppress(Failure), Trainer(log.close):
        fail()
    assert files.published == []


@pytest.mark.parametrize("program", [fsspec_open, fsspec_open_text, text_wrapper], ids=lambda each: str(each.__name__))
def test_setting(program: Callable[[Files], None], files: Files) -> None:
    """`publish_on_error` publishes at the end of a failed block."""
    files.fs = Filesystem(files.store, publish_on_error=True)
    with contextlib.suppress(Failure):
        program(files)
    assert files.published == [b"half"]


def test_setting_of_client() -> None:
    """The client's config has the setting; files with compression follow it, too."""
    for setting, expected in (("false", False), ("true", True)):
        client = MemoryStorageClient({"bucket_name": "unwinding", "publish_on_error": setting})
        for compression in (None, "gzip"):
            name = f"{setting}-{compression}"
            with contextlib.suppress(Failure), contextlib.closing(client.open(name, "wb", compression=compression)) as file:
                file.write(b"half")
                fail()
            assert client.file_exists(name) is expected
            if expected:
                client.delete_file(name)


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_dropped(mode: str, files: Files, recwarn: pytest.WarningsRecorder) -> None:
    """A file that is dropped unclosed is not published, below a text wrapper of another library as well."""
    file = files.block(mode).open()
    file.write(b"half" if mode == "wb" else "half")
    del file
    gc.collect()
    assert files.published == []
    assert files.store.discarded == 1
    assert not recwarn.list


def test_dropped_in_except(files: Files) -> None:
    """A file that is dropped in an ``except`` block is not published."""
    try:
        fail()
    except Failure:
        files.open().write(b"half")
    gc.collect()
    assert files.published == []
    assert files.store.discarded == 1


def test_exceptions_are_released(files: Files) -> None:
    """A closed file does not keep the exception that was handled when it was opened."""
    before = sys.getrefcount(failure := Failure())
    try:
        raise failure
    except Failure:
        with files.open() as file:
            pass
    failure.__traceback__ = None
    assert sys.getrefcount(failure) == before
    assert file.closed


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy], ids=lambda each: str(each.__name__))
@pytest.mark.parametrize("is_text", [False, True])
def test_pickle(copied: Callable[[Any], Any], is_text: bool, files: Files) -> None:
    """A file that is open for writing cannot be pickled or copied; the message says why, and the file goes on."""
    binary = files.open()
    file: Any = AtomicTextWriter(binary) if is_text else binary
    with file, pytest.raises(TypeError, match="fake://a is open for writing, and cannot be pickled or copied"):
        copied(file)
    assert files.published == [b""]
