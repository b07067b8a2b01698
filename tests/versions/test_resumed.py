"""A download that goes on within a file: never onto wrong bytes."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import ErrorDetails, IntegrityError
from gllm_storage.files.partial import PartialFile
from gllm_storage.store.reader import ObjectChangedError, RangesIgnoredError
from gllm_storage.versions.downloading import _sha256_behind
from gllm_storage.versions.fetching import fetch
from gllm_storage.versions.layout import model_of
from gllm_storage.versions.publisher import publish
from tests.scripts.fetchers import MODEL, PART, client_of
from tests.versions.support import store_bytes, write_folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gllm_storage import LocalStorageClient
    from gllm_storage.versions.catalog import Version

LARGE = random.Random(14).randbytes(6 * PART + 1000)
DETAILS = ErrorDetails("test", "test://a", "fetch")


class KilledError(BaseException):
    """Ends a fetch in the middle, as a kill does: nothing is cleaned up."""


@pytest.fixture
def client(tmp_path: Path) -> LocalStorageClient:
    return client_of(str(tmp_path / "store"))


@pytest.fixture
def version(client: LocalStorageClient, tmp_path: Path) -> Version:
    return publish(client, write_folder(tmp_path / "out", {"large": LARGE}), MODEL, version="v1")


@contextmanager
def partial(path: Path, content: bytes = LARGE, step: int = PART) -> Iterator[PartialFile]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        sha256 = hashlib.sha256(content).hexdigest()
        yield PartialFile(fd, str(path), DETAILS, size=len(content), sha256=sha256, step=step)
    finally:
        os.close(fd)


def left_behind(tmp_path: Path, version: Version) -> Path:
    folder = tmp_path / f".local.{version.digest[7:23]}.gllm-fetch"
    folder.mkdir(exist_ok=True)
    return folder / "large"


def count_bytes(monkeypatch: pytest.MonkeyPatch, kill_after: int | None = None) -> list[int]:
    """The sizes of the pieces that are written from now on."""
    written: list[int] = []
    write_at = PartialFile.write_at

    def write(self: PartialFile, offset: int, data: bytes | memoryview) -> None:
        if kill_after is not None and sum(written) >= kill_after:
            raise KilledError
        write_at(self, offset, data)
        written.append(len(data))

    monkeypatch.setattr(PartialFile, "write_at", write)
    return written


def fetched(client: LocalStorageClient, tmp_path: Path) -> bytes:
    fetch(client, MODEL, "v1", tmp_path / "local")
    return (tmp_path / "local" / "large").read_bytes()


def test_record(tmp_path: Path) -> None:
    """Bytes that have arrived count after a kill: in any order, from the beginning of each part without a gap."""
    path = tmp_path / "file"
    with partial(path) as file:
        assert file.missing(2 * PART) == [(0, 2 * PART), (2 * PART, 2 * PART), (4 * PART, 2 * PART), (6 * PART, 1000)]
        for start, end in [(PART, PART + 100), (3 * PART - 50, 3 * PART), (2 * PART, 3 * PART - 60), (0, PART - 1)]:
            file.write_at(start, LARGE[start:end])
        file.write_at(4 * PART - 7, b"x")  # behind a gap
        file.write_at(5 * PART, LARGE[5 * PART :])  # two parts
    with partial(path, step=99) as file:
        assert file.received == PART - 1 + 100 + PART - 60 + PART + 1000
        assert file.missing(10 * PART) == [
            (PART - 1, 1),
            (PART + 100, PART - 100),
            (3 * PART - 60, 60 + 2 * PART),
        ]
        assert (file.arrived_until(0), file.arrived_until(2 * PART), file.arrived_until(5 * PART)) == (
            PART - 1,
            3 * PART - 60,
            len(LARGE),
        )
        for start, length in file.missing(PART):
            file.write_at(start, LARGE[start : start + length])
        assert file.missing(PART) == []
        file.finish(durable=True)
    assert path.read_bytes() == LARGE


@pytest.mark.parametrize("kind", ["other content", "cut", "no record", "complete", "too many"])
def test_foreign_record(tmp_path: Path, kind: str) -> None:
    """A file with the record of another content, or a damaged one, counts as empty."""
    path, content = tmp_path / "file", LARGE
    with partial(path) as file:
        file.write_at(0, LARGE)
        if kind == "complete":
            file.finish(durable=False)
    if kind == "other content":
        content = LARGE[:-1] + b"x"
    elif kind == "cut":
        os.truncate(path, len(LARGE) + 10)
    elif kind == "no record":
        path.write_bytes(b"x" * (len(LARGE) + 1000))
    elif kind == "too many":
        path.write_bytes(path.read_bytes()[:-4] + b"\xff" * 4)
    with partial(path, content) as file:
        assert file.received == 0


def test_goes_on(client: LocalStorageClient, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second fetch requests only what is missing."""
    assert version.size == len(LARGE)
    with monkeypatch.context() as patch:
        first = count_bytes(patch, kill_after=3 * PART)
        with pytest.raises(KilledError):
            fetched(client, tmp_path)
    again = count_bytes(monkeypatch)
    assert fetched(client, tmp_path) == LARGE
    assert sum(first) >= 3 * PART
    assert sum(first) + sum(again) == len(LARGE)


@pytest.mark.parametrize("kind", ["zeros", "other bytes", "all there"])
def test_wrong_bytes(
    client: LocalStorageClient, version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Bytes on the disk that are wrong, as after a power cut, are found in the end, and all of them are fetched again."""
    with partial(left_behind(tmp_path, version)) as file:
        wrong = bytes(2 * PART) if kind == "zeros" else b"x" * (len(LARGE) if kind == "all there" else 2 * PART)
        file.write_at(0, wrong)
    written = count_bytes(monkeypatch)
    assert fetched(client, tmp_path) == LARGE
    assert sum(written) == 2 * len(LARGE) - len(wrong)


def test_complete_before_the_kill(client: LocalStorageClient, version: Version, tmp_path: Path) -> None:
    """A file that was complete, and not verified yet, needs no request for its content."""
    with partial(left_behind(tmp_path, version)) as file:
        file.write_at(0, LARGE)
    model = model_of(client, MODEL)
    client.store.delete(f"{model.data(version.digest[7:] + '-0')}large")
    assert fetched(client, tmp_path) == LARGE


def test_damaged_object(client: LocalStorageClient, version: Version, tmp_path: Path) -> None:
    """An object with other content is an error, also after some right bytes; the next fetch does not go on with them."""
    key = f"{model_of(client, MODEL).data(version.digest[7:] + '-0')}large"
    store_bytes(client.store, key, LARGE[: 3 * PART] + b"x" * (len(LARGE) - 3 * PART))
    with partial(left_behind(tmp_path, version)) as file:
        file.write_at(0, LARGE[:PART])
    with pytest.raises(IntegrityError, match="SHA-256"):
        fetched(client, tmp_path)
    assert not left_behind(tmp_path, version).exists()
    store_bytes(client.store, key, LARGE[:-5])
    with pytest.raises(IntegrityError, match=f"{len(LARGE) - 5} bytes instead of {len(LARGE)}"):
        fetched(client, tmp_path)
    store_bytes(client.store, key, LARGE)
    assert fetched(client, tmp_path) == LARGE


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("error", [ObjectChangedError, RangesIgnoredError])
def test_ranges_fail(
    client: LocalStorageClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """An object that is replaced meanwhile is read anew; a server that ignores ranges sends the complete object."""
    open_reader = client.store.open_reader
    failures = [error] * (1 if error is ObjectChangedError else 10)

    def opened(key: str, *args: Any) -> Any:
        reader: Any = open_reader(key, *args)
        read = reader.read

        def failing(found: Any, start: int, length: int, buffer: Any = None) -> Any:
            if length != len(LARGE) and start >= PART and failures:
                raise failures.pop()
            return read(found, start, length, buffer)

        reader.read = failing
        return reader

    monkeypatch.setattr(client.store, "open_reader", opened)
    assert fetched(client, tmp_path) == LARGE


def test_digest_while_it_arrives(tmp_path: Path) -> None:
    """The SHA-256 is right although the file was cleared while it was computed."""
    ended = threading.Event()
    found: list[str] = []
    with partial(tmp_path / "file") as file:
        thread = threading.Thread(target=lambda: found.append(_sha256_behind(file, ended)))
        file.write_at(0, b"x" * 3 * PART)
        thread.start()
        file.clear()
        for start in (2 * PART, 0, PART):
            file.write_at(start, LARGE[start : start + PART])
        file.write_at(3 * PART, LARGE[3 * PART :])
        ended.set()
        thread.join(10)
    assert found == [hashlib.sha256(LARGE).hexdigest()]
