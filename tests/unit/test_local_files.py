"""Local files on both ends: sources that must not change, targets that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, StorageError
from gllm_storage.files import target as local_files
from gllm_storage.files.source import CHUNK, open_source
from gllm_storage.files.target import atomic_target, copy, is_temporary
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DETAILS = ErrorDetails("s3", "s3://models/a.bin", "transfer")


def publish(path: Path, content: bytes = b"new", *, exclusive: bool = False) -> None:
    """Write a file through an atomic target."""
    with atomic_target(str(path), DETAILS, exclusive=exclusive) as target:
        target.allocate(len(content))
        target.write_at(0, content)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is below a folder; None for a folder."""
    found = sorted(folder.rglob("*"))
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in found}


@contextmanager
def refused(path: Path, *parts: str) -> Iterator[None]:
    """Expects a `StorageError` that names the local path and the object."""
    with pytest.raises(StorageError) as caught:
        yield
    for part in (str(path), DETAILS.url, *parts):
        assert part in str(caught.value)


def test_a_new_file_appears_with_its_content(tmp_path: Path) -> None:
    publish(tmp_path / "a")
    assert tree(tmp_path) == {"a": b"new"}


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        publish(tmp_path / "a")
        publish(tmp_path / "b", exclusive=True)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o640}


def test_until_the_block_ends_the_destination_is_what_it_was(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with atomic_target(str(tmp_path / "a"), DETAILS) as target:
        target.write_at(0, b"new content")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert is_temporary(os.path.basename(target.temporary))
        assert os.path.dirname(target.temporary) == str(tmp_path), "os.replace needs the same file system"
        assert target.read_at(4, 7) == b"content"
    assert tree(tmp_path) == {"a": b"new content"}


def test_who_has_the_old_file_open_goes_on_with_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as reader:
        publish(tmp_path / "a")
        assert reader.read() == b"old"


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("exclusive", [False, True])
def test_a_failure_leaves_everything_as_it_was(failure: BaseException, exclusive: bool, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"stays")
    if not exclusive:
        (tmp_path / "a").write_bytes(b"old")
    before = tree(tmp_path)

    def fail_halfway() -> None:
        with atomic_target(str(tmp_path / "a"), DETAILS, exclusive=exclusive) as target:
            target.write_at(0, b"half")
            raise failure

    with pytest.raises(type(failure)) as caught:
        fail_halfway()
    assert caught.value is failure
    assert tree(tmp_path) == before


def test_folders_are_made(tmp_path: Path) -> None:
    publish(tmp_path / "x/y/z/a")
    assert (tmp_path / "x/y/z/a").read_bytes() == b"new"


def test_folders_that_were_made_are_taken_back_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()

    def fail() -> None:
        with atomic_target(str(tmp_path / "x/y/z/a"), DETAILS):
            assert (tmp_path / "x/y/z").is_dir()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tree(tmp_path) == {"x": None}


def test_a_folder_in_which_somebody_put_something_stays(tmp_path: Path) -> None:

    def fail() -> None:
        with atomic_target(str(tmp_path / "x/y/a"), DETAILS):
            (tmp_path / "x/theirs").write_bytes(b"theirs")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tree(tmp_path) == {"x": None, "x/theirs": b"theirs"}


def test_a_symbolic_link_goes_on_pointing_at_the_new_content(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("data/real")
    publish(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "data/real").read_bytes() == b"new"


def test_a_dangling_symbolic_link_gets_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("missing/real")
    publish(tmp_path / "link")
    assert (tmp_path / "missing/real").read_bytes() == b"new"


def test_the_permissions_of_a_replaced_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o604)
    publish(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604
    assert (tmp_path / "a").read_bytes() == b"new"


def test_a_directory_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with refused(tmp_path / "a", "directory"):
        publish(tmp_path / "a")
    assert tree(tmp_path) == {"a": None}


def test_a_named_pipe_is_no_destination(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a")
    with refused(tmp_path / "a", "regular"):
        publish(tmp_path / "a")
    assert stat.S_ISFIFO((tmp_path / "a").stat().st_mode)
    assert os.listdir(tmp_path) == ["a"]


def test_a_device_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to(os.devnull)
    with refused(tmp_path / "null", "regular"):
        publish(tmp_path / "null")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


DOWNLOAD_TO = """
import sys
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.target import atomic_target
print("earlier output", flush=True)
try:
    with atomic_target(sys.argv[1], ErrorDetails("s3", "s3://models/a.bin", "download")):
        pass
except StorageError as error:
    sys.stderr.write(str(error))
"""


@pytest.mark.parametrize(
    "path", ["/dev/stdout", "/dev/../dev//stdout", "//dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link", "/dev/new-file"]
)
def test_what_leads_to_a_stream_is_no_destination_and_a_redirected_file_stays(path: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/stdout")
    with (tmp_path / "out").open("wb") as out:
        child = [sys.executable, "-c", DOWNLOAD_TO, path]
        done = subprocess.run(child, stdout=out, stderr=subprocess.PIPE, text=True, check=True, timeout=60, cwd=tmp_path)
    assert f"{path!r} is not a regular file" in done.stderr
    assert tree(tmp_path)["out"] == b"earlier output\n"


def test_a_file_system_in_memory_is_a_destination() -> None:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        publish(Path(folder) / "a")
        assert tree(Path(folder)) == {"a": b"new"}


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_destination_below_a_file_is_refused(exclusive: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with refused(tmp_path / "file/a"):
        publish(tmp_path / "file/a", exclusive=exclusive)
    with refused(tmp_path / "file/a/b"):
        publish(tmp_path / "file/a/b", exclusive=exclusive)
    assert tree(tmp_path) == {"file": b"x"}


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_name_that_is_too_long_is_refused(exclusive: bool, tmp_path: Path) -> None:
    with refused(tmp_path / ("a" * 256), os.strerror(errno.ENAMETOOLONG)):
        publish(tmp_path / ("a" * 256), exclusive=exclusive)
    assert tree(tmp_path) == {}


def test_a_full_disk_is_a_storage_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gllm_storage.files.target.os.pwrite", full)
    with refused(tmp_path / "x/a", os.strerror(errno.ENOSPC)), atomic_target(str(tmp_path / "x/a"), DETAILS) as target:
        target.write_at(0, b"x")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_a_file_system_that_cannot_allocate_is_used_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gllm_storage.files.target.os.posix_fallocate", cannot)
    publish(tmp_path / "a", b"x" * 10)
    assert tree(tmp_path) == {"a": b"x" * 10}


def test_allocating_again_forgets_what_was_there(tmp_path: Path) -> None:
    with atomic_target(str(tmp_path / "a"), DETAILS) as target:
        target.allocate(10)
        target.write_at(0, b"0123456789")
        target.allocate(3)
        assert target.read_at(0, 10) == b"\0\0\0"
        target.write_at(0, b"abc")
    assert tree(tmp_path) == {"a": b"abc"}


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr("gllm_storage.files.target.os.pwrite", lambda fd, data, at: real(fd, data[:3], at))
    publish(tmp_path / "a", b"0123456789")
    assert tree(tmp_path) == {"a": b"0123456789"}


# --- Exclusive, by each way that a file system may offer ------------------------------------------------------------


def _hard_links(_: pytest.MonkeyPatch) -> None:
    """The file system has them."""


def _no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on FAT, and on some FUSE and SMB mounts."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("gllm_storage.files.target.os.link", refuse)


def _neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("gllm_storage.files.target.os.link", refuse)
    monkeypatch.setattr(local_files, "_renameat2", lambda *_: errno.ENOSYS)


@pytest.fixture(params=[_hard_links, _no_hard_links], ids=["link", "renameat2"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways to give a file a name that is not taken."""
    request.param(monkeypatch)


@pytest.mark.usefixtures("way")
def test_an_exclusive_file_appears_where_nothing_is(tmp_path: Path) -> None:
    publish(tmp_path / "x/a", exclusive=True)
    assert tree(tmp_path) == {"x": None, "x/a": b"new"}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("there", ["file", "empty file", "folder", "pipe", "link", "dangling link"])
def test_an_exclusive_file_replaces_nothing(there: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    makers: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_bytes(b"old"),
        "empty file": path.touch,
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(__file__),
        "dangling link": lambda: path.symlink_to("missing"),
    }
    makers[there]()
    before = path.lstat()
    with pytest.raises(FileExistsError):
        publish(path, exclusive=True)
    assert os.listdir(tmp_path) == ["a"]
    assert os.path.samestat(path.lstat(), before)
    assert path.lstat().st_size == before.st_size


@pytest.mark.usefixtures("way")
def test_sixteen_threads_have_one_winner(tmp_path: Path) -> None:
    for race in range(5):
        barrier = threading.Barrier(16)

        def create(number: int, race: int = race, barrier: threading.Barrier = barrier) -> int | None:
            with atomic_target(str(tmp_path / f"{race}"), DETAILS, exclusive=True) as target:
                target.write_at(0, b"%02d" % number)
                barrier.wait(PATIENCE)
            return number

        def attempt(number: int) -> int | None:
            try:
                return create(number)
            except FileExistsError:
                return None

        with ThreadPoolExecutor(16) as pool:
            winners = [each for each in pool.map(attempt, range(16)) if each is not None]
        assert len(winners) == 1
        assert (tmp_path / f"{race}").read_bytes() == b"%02d" % winners[0]
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3", "4"]


def test_a_link_whose_answer_was_lost_is_no_false_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def made_but_refused(source: str, destination: str) -> None:
        real(source, destination)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)

    monkeypatch.setattr("gllm_storage.files.target.os.link", made_but_refused)
    publish(tmp_path / "a", exclusive=True)
    assert tree(tmp_path) == {"a": b"new"}


def test_a_link_that_fails_for_another_reason_is_a_storage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gllm_storage.files.target.os.link", full)
    with refused(tmp_path / "x/a", os.strerror(errno.ENOSPC)):
        publish(tmp_path / "x/a", exclusive=True)
    assert tree(tmp_path) == {}


def test_an_exclusive_file_is_refused_where_the_file_system_has_neither_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _neither(monkeypatch)
    with pytest.raises(ConflictCheckUnsupportedError, match="neither hard links nor renameat2"):
        publish(tmp_path / "x/a", exclusive=True)
    assert tree(tmp_path) == {}


def test_a_disk_that_reports_its_error_at_the_close_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS does when a quota is full."""
    (tmp_path / "a").write_bytes(b"old")
    real = os.close

    def fail(fd: int) -> None:
        real(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with refused(tmp_path / "a", os.strerror(errno.EDQUOT)), atomic_target(str(tmp_path / "a"), DETAILS) as target:
        target.write_at(0, b"new")
        monkeypatch.setattr("gllm_storage.files.target.os.close", fail)
    assert tree(tmp_path) == {"a": b"old"}


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = os.fsync

    def spy(fd: int) -> None:
        seen.append([name for name in os.listdir(tmp_path) if not name.startswith(".")])
        real(fd)

    monkeypatch.setattr("gllm_storage.files.target.os.fsync", spy)
    with atomic_target(str(tmp_path / "a"), DETAILS, durable=True) as target:
        target.write_at(0, b"new")
    assert seen == [[]]
    assert tree(tmp_path) == {"a": b"new"}


def test_a_folder_that_another_download_takes_back_is_made_again(tmp_path: Path) -> None:
    """Three that fail and one that succeeds, all into a folder that none of them finds."""

    def attempt(number: int, folder: Path) -> None:
        with suppress(ZeroDivisionError), atomic_target(str(folder / f"{number}"), DETAILS) as target:
            target.write_at(0, b"new")
            if number:
                raise ZeroDivisionError

    for race in range(100):
        folder = tmp_path / f"{race}"
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(attempt, range(4), [folder] * 4))
        assert tree(folder) == {"0": b"new"}


# --- Sources --------------------------------------------------------------------------------------------------------


@pytest.fixture
def source_file(tmp_path: Path) -> Path:
    """A file of 3000 bytes, written some time ago: the clock of a file system may be coarse."""
    path = tmp_path / "source"
    path.write_bytes(bytes(range(250)) * 12)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def test_a_source_is_read_at_any_offset(source_file: Path) -> None:
    content = source_file.read_bytes()
    with open_source(str(source_file), DETAILS) as source:
        assert source.size == 3000
        assert source.read_at(0, 3000) == content
        assert source.read_at(2990, 10) == content[-10:]
        assert source.read_at(3000, 0) == b""
        source.require_unchanged()
        source.require_unchanged()


@pytest.mark.parametrize("name", ["missing", "source/below", "no/folder", ""])
def test_a_missing_source_is_a_plain_file_not_found_error(name: str, source_file: Path) -> None:
    path = str(source_file.parent / name) if name else ""
    with pytest.raises(FileNotFoundError) as caught, open_source(path, DETAILS):
        pass
    assert type(caught.value) is FileNotFoundError
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, path)
    assert repr(path) in str(caught.value)


def test_a_dangling_link_is_a_missing_source(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("missing")
    with pytest.raises(FileNotFoundError, match="link"), open_source(str(tmp_path / "link"), DETAILS):
        pass


def test_a_directory_is_no_source(tmp_path: Path) -> None:
    with refused(tmp_path, "directory"), open_source(str(tmp_path), DETAILS):
        pass


def test_a_named_pipe_is_no_source_and_nobody_waits_for_its_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with refused(tmp_path / "pipe", "regular"), open_source(str(tmp_path / "pipe"), DETAILS):
        pass


def test_a_device_is_no_source() -> None:
    with pytest.raises(StorageError, match="/dev/zero"), open_source("/dev/zero", DETAILS):
        pass


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_a_path_that_no_file_can_have_is_a_storage_error(path: str) -> None:
    with pytest.raises(StorageError, match="cannot upload"), open_source(path, DETAILS):
        pass


UNREADABLE = """
import os, sys
from gllm_storage.errors import ErrorDetails, StorageError
from gllm_storage.files.source import open_source
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)  # root may read everything
try:
    with open_source(sys.argv[1], ErrorDetails("s3", "s3://models/a.bin", "upload")):
        print("opened")
except StorageError as error:
    print(error, "|", type(error.__cause__).__name__)
"""


def test_a_source_that_may_not_be_read_is_a_storage_error(source_file: Path) -> None:
    source_file.chmod(0)
    child = [sys.executable, "-c", UNREADABLE, str(source_file)]
    said = subprocess.run(child, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"{str(source_file)!r}: Permission denied |" in said
    assert said.count(str(source_file)) == 1
    assert said.endswith("| PermissionError\n")


def test_a_source_that_shrinks_is_noticed(source_file: Path) -> None:
    with open_source(str(source_file), DETAILS) as source:
        os.truncate(source_file, 100)
        with refused(source_file, "changed while it was read"):
            source.read_at(50, 100)
        with refused(source_file, "changed while it was read"):
            source.require_unchanged()


def test_a_source_that_grows_is_noticed(source_file: Path) -> None:
    with open_source(str(source_file), DETAILS) as source:
        with source_file.open("ab") as more:
            more.write(b"more")
        assert len(source.read_at(0, 3000)) == 3000
        with refused(source_file, "changed while it was read"):
            source.require_unchanged()


def test_a_source_that_is_written_to_is_noticed(source_file: Path) -> None:
    with open_source(str(source_file), DETAILS) as source:
        with source_file.open("r+b") as writer:
            writer.write(b"other")
        with refused(source_file, "changed while it was read"):
            source.require_unchanged()


def test_a_source_that_is_replaced_is_read_to_its_end(source_file: Path) -> None:
    content = source_file.read_bytes()
    with open_source(str(source_file), DETAILS) as source:
        other = source_file.with_name("other")
        other.write_bytes(b"x")
        os.replace(other, source_file)
        assert source.read_at(0, 3000) == content
        source.require_unchanged()


def test_a_failing_disk_is_a_storage_error_with_its_cause(source_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_source(str(source_file), DETAILS) as source:
        monkeypatch.setattr("gllm_storage.files.source.os.pread", fail)
        with refused(source_file, os.strerror(errno.EIO)):
            source.read_at(0, 10)


def open_files() -> list[str]:
    """Paths of what this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # another thread has closed it
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def test_a_source_leaves_no_descriptor_open(source_file: Path) -> None:
    with open_source(str(source_file), DETAILS):
        assert str(source_file) in open_files()
    with refused(source_file.parent), open_source(str(source_file.parent), DETAILS):
        pass
    assert not [each for each in open_files() if each.startswith(str(source_file.parent))]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_copy_is_whole_and_says_how_far_it_is(size: int, tmp_path: Path) -> None:
    content = os.urandom(size)
    (tmp_path / "from").write_bytes(content)
    steps: list[int] = []
    with open_source(str(tmp_path / "from"), DETAILS) as source, atomic_target(str(tmp_path / "to"), DETAILS) as target:
        copy(source, target, steps.append)
    assert (tmp_path / "to").read_bytes() == content
    assert sum(steps) == size


@pytest.mark.parametrize("name", ["model.bin", ".gllm-x.tmp", f".gllm-{'0' * 31}.tmp", f".gllm-{'0' * 32}.tmp2", ".gllm"])
def test_only_our_own_temporary_files_count_as_such(name: str) -> None:
    assert not is_temporary(name)
    assert is_temporary(f".gllm-{'0a' * 16}.tmp")
