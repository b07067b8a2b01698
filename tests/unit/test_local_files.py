"""Local files: sources that must not change, and targets that appear completely or not at all."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage.errors import ConflictCheckUnsupportedError, ErrorDetails, StorageError
from gllm_storage.files import target as local_files
from gllm_storage.files.durability import folders_synced_once
from gllm_storage.files.source import CHUNK, content_of, open_source
from gllm_storage.files.target import Draft, Folders, atomic_target, copy, is_temporary
from tests.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gllm_storage.files.durability import FolderSyncs

DETAILS = ErrorDetails("s3", "s3://models/a.bin", "transfer")
RESERVED = 2**18 + 1
"""Bytes of a file for which room on the disk is reserved: it is not written at once."""


def publish(path: Path, content: bytes = b"new", *, exclusive: bool = False) -> None:
    """Write a file through an atomic target."""
    with atomic_target(str(path), DETAILS, exclusive=exclusive) as target:
        target.allocate(len(content))
        target.write_at(0, content)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of all files below a folder by relative path, and None for each folder."""
    found = sorted(folder.rglob("*"))
    return {str(each.relative_to(folder)): each.read_bytes() if each.is_file() else None for each in found}


@contextmanager
def refused(path: Path, *parts: str) -> Iterator[None]:
    """Expect a `StorageError` that names the local path and the object."""
    with pytest.raises(StorageError) as caught:
        yield
    for part in (str(path), DETAILS.url, *parts):
        assert part in str(caught.value)


def test_new_file(tmp_path: Path) -> None:
    """A new file appears with its content."""
    publish(tmp_path / "a")
    assert tree(tmp_path) == {"a": b"new"}


def test_mode_of_new_file(tmp_path: Path) -> None:
    """A new file has the permissions that the umask allows."""
    before = os.umask(0o027)
    try:
        publish(tmp_path / "a")
        publish(tmp_path / "b", exclusive=True)
    finally:
        os.umask(before)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"} == {0o640}


@pytest.mark.parametrize("named", [False, True], ids=["unnamed", "named"])
def test_unfinished_target(named: bool, tmp_path: Path) -> None:
    """The destination keeps its old content until the block ends; an unfinished file has no name, if that is possible."""
    (tmp_path / "a").write_bytes(b"old")
    with atomic_target(str(tmp_path / "a"), DETAILS, named=named) as target:
        target.write_at(0, b"new content")
        assert (tmp_path / "a").read_bytes() == b"old"
        if named:
            assert is_temporary(os.path.basename(target.temporary))
            assert os.path.dirname(target.temporary) == str(tmp_path), "os.replace needs the same file system"
        else:
            assert os.listdir(tmp_path) == ["a"]
        assert Path(target.temporary).read_bytes() == b"new content"
        assert target.read_at(4, 7) == b"content"
    assert tree(tmp_path) == {"a": b"new content"}


def test_renamed_over(tmp_path: Path) -> None:
    """Other code may rename another file to a named target; that file gets the permissions, and the name."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o604)
    with atomic_target(str(tmp_path / "a"), DETAILS, named=True) as target:
        (tmp_path / "other").write_bytes(b"new")
        os.replace(tmp_path / "other", target.temporary)
    assert tree(tmp_path) == {"a": b"new"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604


def test_open_old_file(tmp_path: Path) -> None:
    """A reader of the old file keeps the old content."""
    (tmp_path / "a").write_bytes(b"old")
    with (tmp_path / "a").open("rb") as reader:
        publish(tmp_path / "a")
        assert reader.read() == b"old"


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()], ids=repr)
@pytest.mark.parametrize("exclusive", [False, True], ids=["plain", "exclusive"])
def test_failed_write(failure: BaseException, exclusive: bool, tmp_path: Path) -> None:
    """A failed write leaves the folder unchanged."""
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


def _no_unnamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable files without a name, as on NFS."""
    monkeypatch.setattr(local_files, "_open_unnamed", lambda *_, **__: -1)


@pytest.fixture(params=["unnamed", "named"])
def naming(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two kinds of unfinished files."""
    if request.param == "named":
        _no_unnamed(monkeypatch)


@pytest.mark.usefixtures("naming")
def test_missing_folders(tmp_path: Path) -> None:
    """A write makes the missing folders of its destination."""
    publish(tmp_path / "x/y/z/a")
    assert (tmp_path / "x/y/z/a").read_bytes() == b"new"


@pytest.mark.usefixtures("naming")
def test_folders_after_failure(tmp_path: Path) -> None:
    """A failed write removes the folders that it made, and no other folder."""
    (tmp_path / "x").mkdir()

    def fail() -> None:
        with atomic_target(str(tmp_path / "x/y/z/a"), DETAILS):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tree(tmp_path) == {"x": None}


@pytest.mark.usefixtures("naming")
def test_used_folder_after_failure(tmp_path: Path) -> None:
    """A failed write keeps a folder in which another process has put a file."""

    def fail() -> None:
        with atomic_target(str(tmp_path / "x/y/a"), DETAILS):
            (tmp_path / "x").mkdir(exist_ok=True)
            (tmp_path / "x/theirs").write_bytes(b"theirs")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tree(tmp_path) == {"x": None, "x/theirs": b"theirs"}


def test_symlink_target(tmp_path: Path) -> None:
    """A symbolic link stays, and the file behind it gets the new content."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("data/real")
    publish(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "data/real").read_bytes() == b"new"


def test_dangling_target(tmp_path: Path) -> None:
    """A write to a dangling symbolic link makes the file behind it."""
    (tmp_path / "link").symlink_to("missing/real")
    publish(tmp_path / "link")
    assert (tmp_path / "missing/real").read_bytes() == b"new"


def test_mode_of_replaced_file(tmp_path: Path) -> None:
    """A replaced file keeps its permissions."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(0o604)
    publish(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o604
    assert (tmp_path / "a").read_bytes() == b"new"


@pytest.mark.usefixtures("naming")
@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1644, 0o6711])
def test_setuid_target(mode: int, tmp_path: Path) -> None:
    """A replaced file does not pass its setuid, setgid and sticky bits on: the new content is another program."""
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "a").chmod(mode)
    publish(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode & 0o777


STRANGER, OWNER = 65533, 65534


@pytest.mark.parametrize(
    ("owners", "mode", "followed"),
    [
        pytest.param((STRANGER, 0), 0o1777, False, id="stranger"),
        pytest.param((STRANGER, OWNER), 0o1777, False, id="stranger in a user's folder"),
        pytest.param((0, OWNER), 0o1777, True, id="own"),
        pytest.param((OWNER, OWNER), 0o1777, True, id="of the folder's owner"),
        pytest.param((STRANGER, 0), 0o755, True, id="not writable"),
        pytest.param((STRANGER, 0), 0o777, True, id="not sticky"),
    ],
)
@pytest.mark.parametrize("chain", [False, True], ids=["direct", "second link"])
@pytest.mark.usefixtures("as_root")
def test_planted_link(chain: bool, owners: tuple[int, int], mode: int, followed: bool, tmp_path: Path) -> None:
    """A link in a folder such as /tmp is followed only if this user or the folder's owner made it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "victim").write_bytes(b"old")
    (shared / "link").symlink_to("../victim")
    os.lchown(shared / "link", owners[0], -1)
    os.chown(shared, owners[1], -1)
    shared.chmod(mode)
    path = shared / "link"
    if chain:
        path = tmp_path / "first"
        path.symlink_to("shared/link")
    if followed:
        publish(path)
    else:
        with refused(path, "another user"):
            publish(path)
    assert (tmp_path / "victim").read_bytes() == (b"new" if followed else b"old")
    assert sorted(os.listdir(shared)) == ["link"]


def test_directory_target(tmp_path: Path) -> None:
    """A directory is refused as a destination."""
    (tmp_path / "a").mkdir()
    with refused(tmp_path / "a", "directory"):
        publish(tmp_path / "a")
    assert tree(tmp_path) == {"a": None}


def test_many_targets(tmp_path: Path) -> None:
    """Files of one call share the look-up of their folders; links, folders and missing folders are treated as ever."""
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to("real")
    (tmp_path / "real/link").symlink_to("../behind")
    (tmp_path / "real/folder").mkdir()
    folders = Folders()
    for name in ("way/a", "way/a", "way/link", "real/b", "new/c", "new/d"):
        draft = Draft(str(tmp_path / name), DETAILS, durable=False, folders=folders)
        draft.fill(name.encode())
        draft.settle()
        draft.publish()
        assert (tmp_path / name).read_bytes() == name.encode()
    assert (tmp_path / "real/link").is_symlink()
    assert (tmp_path / "behind").read_bytes() == b"way/link"
    with refused(tmp_path / "way/folder", "directory"):
        Draft(str(tmp_path / "way/folder"), DETAILS, folders=folders)
    (tmp_path / "gone").mkdir()
    for name in ("gone/e", "gone/f"):
        draft = Draft(str(tmp_path / name), DETAILS, durable=False, folders=folders)
        draft.fill(b"x")
        shutil.rmtree(tmp_path / "gone", ignore_errors=True)
        draft.publish()
        assert (tmp_path / name).read_bytes() == b"x"


@pytest.mark.parametrize("has_paths", [True, False], ids=["kernel", "realpath"])
def test_linked_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_paths: bool) -> None:
    """A folder is found behind links and dots; a missing one, a file and a closed ``/proc`` are left to the usual way."""
    monkeypatch.setattr(local_files, "_OPENS_PATHS", has_paths)
    (tmp_path / "a b/c").mkdir(parents=True)
    (tmp_path / "one").symlink_to("a b")
    (tmp_path / "two").symlink_to(tmp_path / "one/c")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "file").touch()
    real = os.path.realpath(tmp_path)
    for name in ("two/x", "one/c/x", "one/../a b/c/x", "a b//c/x"):
        assert Folders().destination(f"{tmp_path}/{name}") == f"{real}/a b/c/x"
    for name in ("dangling/x", "missing/x", "file/x"):
        assert Folders().destination(f"{tmp_path}/{name}") is None


def test_folders_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel tells no paths, such as without ``/proc``, a file gets into its folder nevertheless."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    read = os.readlink

    def closed(path: str) -> str:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return read(path)

    monkeypatch.setattr("gllm_storage.files.target.os.readlink", closed)
    publish(tmp_path / "link/a")
    assert (tmp_path / "real/a").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("durable", [True, False], ids=["durable", "fast"])
def test_late_targets(tmp_path: Path, durable: bool) -> None:
    """Files of one call look late for their destinations: permissions are kept, links and folders are refused."""
    for name in ("old", "behind"):
        (tmp_path / name).write_bytes(b"previous")
    (tmp_path / "old").chmod(0o640)
    (tmp_path / "link").symlink_to("behind")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "folder").mkdir()
    folders = Folders()

    def write(name: str) -> None:
        draft = Draft(str(tmp_path / name), DETAILS, durable=durable, folders=folders, late=True)
        try:
            draft.fill(name.encode())
            draft.settle()
            draft.publish()
        finally:
            draft.discard()

    for name in ("new", "old"):
        write(name)
        assert (tmp_path / name).read_bytes() == name.encode()
    assert (tmp_path / "old").stat().st_mode & 0o777 == 0o640
    for name, kind in (("link", "a link"), ("dangling", "a link"), ("folder", "directory")):
        with refused(tmp_path / name, kind):
            write(name)
    assert (tmp_path / "behind").read_bytes() == b"previous"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["behind", "dangling", "folder", "link", "new", "old"]


def test_content_of(tmp_path: Path) -> None:
    """The content of a small file is read at once; other files are left to `open_source`."""
    file = tmp_path / "file"
    file.write_bytes(b"12345")
    assert content_of(str(file), 5) == b"12345"
    assert content_of(str(file), 4) is None
    assert content_of("/proc/self/stat", 100) is None  # it has content beyond its size, which is 0
    assert content_of(str(tmp_path), 2**20) is None
    assert content_of(str(tmp_path / "missing"), 5) is None
    assert content_of("\0", 5) is None


def test_pipe_target(tmp_path: Path) -> None:
    """A named pipe is refused as a destination."""
    os.mkfifo(tmp_path / "a")
    with refused(tmp_path / "a", "regular"):
        publish(tmp_path / "a")
    assert stat.S_ISFIFO((tmp_path / "a").stat().st_mode)
    assert os.listdir(tmp_path) == ["a"]


def test_device_target(tmp_path: Path) -> None:
    """A device is refused as a destination."""
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
def test_stream_target(path: str, tmp_path: Path) -> None:
    """A path to a standard stream is refused, and the redirected file keeps its content."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    with (tmp_path / "out").open("wb") as out:
        child = [sys.executable, "-c", DOWNLOAD_TO, path]
        done = subprocess.run(child, stdout=out, stderr=subprocess.PIPE, text=True, check=True, timeout=60, cwd=tmp_path)
    assert f"{path!r} is not a regular file" in done.stderr
    assert tree(tmp_path)["out"] == b"earlier output\n"


def test_memory_target() -> None:
    """A file system in memory is accepted as a destination."""
    with TemporaryDirectory(dir="/dev/shm") as folder:
        publish(Path(folder) / "a")
        assert tree(Path(folder)) == {"a": b"new"}


@pytest.mark.parametrize("exclusive", [False, True], ids=["plain", "exclusive"])
def test_target_below_a_file(exclusive: bool, tmp_path: Path) -> None:
    """A destination below a file is refused."""
    (tmp_path / "file").write_bytes(b"x")
    with refused(tmp_path / "file/a"):
        publish(tmp_path / "file/a", exclusive=exclusive)
    with refused(tmp_path / "file/a/b"):
        publish(tmp_path / "file/a/b", exclusive=exclusive)
    assert tree(tmp_path) == {"file": b"x"}


@pytest.mark.parametrize("exclusive", [False, True], ids=["plain", "exclusive"])
def test_long_name(exclusive: bool, tmp_path: Path) -> None:
    """A name above 255 bytes is refused."""
    with refused(tmp_path / ("a" * 256), os.strerror(errno.ENAMETOOLONG)):
        publish(tmp_path / ("a" * 256), exclusive=exclusive)
    assert tree(tmp_path) == {}


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk raises a StorageError with the system's message."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gllm_storage.files.target.os.pwrite", full)
    with refused(tmp_path / "x/a", os.strerror(errno.ENOSPC)), atomic_target(str(tmp_path / "x/a"), DETAILS) as target:
        target.write_at(0, b"x")
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS], ids=errno.errorcode.get)
def test_no_allocation(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that cannot allocate space is accepted."""

    def cannot(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gllm_storage.files.target.os.posix_fallocate", cannot)
    publish(tmp_path / "a", b"x" * RESERVED)
    assert tree(tmp_path) == {"a": b"x" * RESERVED}


@pytest.mark.parametrize("size", [3, RESERVED], ids=["small", "reserved"])
def test_second_allocation(size: int, tmp_path: Path) -> None:
    """A second allocation discards the content."""
    with atomic_target(str(tmp_path / "a"), DETAILS) as target:
        target.allocate(size + 7)
        target.write_at(0, b"x" * (size + 7))
        target.allocate(size)
        assert not any(target.read_at(0, size + 7))
        target.write_at(0, b"a" * size)
    assert tree(tmp_path) == {"a": b"a" * size}


@pytest.mark.parametrize("size", [3, RESERVED], ids=["small", "reserved"])
def test_no_cut(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty file is not cut to 0 bytes: ext4 takes it for a replaced one, and writes it to the disk when it is closed."""
    cuts: list[int] = []
    real = os.ftruncate

    def cut(fd: int, length: int) -> None:
        cuts.append(length)
        real(fd, length)

    monkeypatch.setattr("gllm_storage.files.target.os.ftruncate", cut)
    publish(tmp_path / "a", b"x" * size)
    assert cuts == []
    assert tree(tmp_path) == {"a": b"x" * size}


def test_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write is continued."""
    real = os.pwrite
    monkeypatch.setattr("gllm_storage.files.target.os.pwrite", lambda fd, data, at: real(fd, data[:3], at))
    publish(tmp_path / "a", b"0123456789")
    assert tree(tmp_path) == {"a": b"0123456789"}


# --- Exclusive create, by each method that a file system may offer --------------------------------------------------


def _unnamed(_: pytest.MonkeyPatch) -> None:
    """Leave everything enabled."""


def _no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable hard links, as on FAT, and on some FUSE and SMB mounts."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("gllm_storage.files.target.os.link", refuse)


def _no_exclusive_create(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable hard links and renameat2, as on some network file systems."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("gllm_storage.files.target.os.link", refuse)
    monkeypatch.setattr(local_files, "_renameat2", lambda *_: errno.ENOSYS)


@pytest.fixture(params=[_unnamed, _no_unnamed, _no_hard_links], ids=["unnamed", "link", "renameat2"])
def create_method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods that give a file an unused name."""
    request.param(monkeypatch)


@pytest.mark.usefixtures("create_method")
def test_exclusive_file(tmp_path: Path) -> None:
    """An exclusive write makes a new file and its folders."""
    publish(tmp_path / "x/a", exclusive=True)
    assert tree(tmp_path) == {"x": None, "x/a": b"new"}


@pytest.mark.usefixtures("create_method")
@pytest.mark.parametrize("there", ["file", "empty file", "folder", "pipe", "link", "dangling link"])
def test_exclusive_conflict(there: str, tmp_path: Path) -> None:
    """An exclusive write never replaces a file, a folder, a pipe or a link."""
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


@pytest.mark.usefixtures("create_method")
def test_sixteen_writers(tmp_path: Path) -> None:
    """Exactly one of sixteen exclusive writers wins."""
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


@pytest.mark.usefixtures("naming")
def test_lost_answer_of_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard link that was made although it reported a conflict counts as success."""
    real = os.link

    def made_but_refused(source: str, destination: str, **options: Any) -> None:
        real(source, destination, **options)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), destination)

    monkeypatch.setattr("gllm_storage.files.target.os.link", made_but_refused)
    publish(tmp_path / "a", exclusive=True)
    assert tree(tmp_path) == {"a": b"new"}


@pytest.mark.usefixtures("naming")
def test_failed_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hard link that fails for another reason raises a StorageError."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gllm_storage.files.target.os.link", full)
    with refused(tmp_path / "x/a", os.strerror(errno.ENOSPC)):
        publish(tmp_path / "x/a", exclusive=True)
    assert tree(tmp_path) == {}


def test_no_exclusive_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links and without renameat2 refuses exclusive writes, before any content is written."""
    _no_exclusive_create(monkeypatch)
    with (
        pytest.raises(ConflictCheckUnsupportedError, match="neither hard links nor renameat2"),
        atomic_target(str(tmp_path / "x/a"), DETAILS, exclusive=True),
    ):
        pytest.fail("the block must not begin")
    assert tree(tmp_path) == {}


def test_links_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that links an empty file, and later refuses, is an error that leaves nothing."""

    def fail() -> None:
        with atomic_target(str(tmp_path / "x/a"), DETAILS, exclusive=True) as target:
            target.write_at(0, b"new")
            _no_exclusive_create(monkeypatch)

    with pytest.raises(ConflictCheckUnsupportedError, match="neither hard links nor renameat2"):
        fail()
    assert tree(tmp_path) == {}


@pytest.mark.usefixtures("naming")
def test_error_at_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at the close, as NFS reports a full quota, leaves the old file."""
    (tmp_path / "a").write_bytes(b"old")
    real = os.close

    def fail(fd: int) -> None:
        real(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with refused(tmp_path / "a", os.strerror(errno.EDQUOT)), atomic_target(str(tmp_path / "a"), DETAILS) as target:
        target.write_at(0, b"new")
        monkeypatch.setattr("gllm_storage.files.target.os.close", fail)
    monkeypatch.undo()  # before `tmp_path` deletes its files
    assert tree(tmp_path) == {"a": b"old"}


@pytest.fixture
def synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The synchronized folders by relative path, and files as ``content``; and whether the target had its name by then."""
    found: list[tuple[str, bool]] = []

    def watch(name: str) -> None:
        real = getattr(os, name)

        def spy(fd: int) -> None:
            path = os.readlink(f"/proc/self/fd/{fd}")
            shown = os.path.relpath(path, tmp_path) if stat.S_ISDIR(os.fstat(fd).st_mode) else "content"
            found.append((shown, any(each.name == "a" for each in tmp_path.rglob("a"))))
            real(fd)

        monkeypatch.setattr(os, name, spy)

    watch("fsync")
    watch("fdatasync")
    return found


@pytest.mark.usefixtures("naming")
def test_durable_file(tmp_path: Path, synced: list[tuple[str, bool]]) -> None:
    """The content is on the disk before the file gets its name, and then the name, and the names of new folders."""
    publish(tmp_path / "x/y/a")
    assert synced[0] == ("content", False)
    assert sorted(synced[1:]) == [(".", True), ("x", True), ("x/y", True)]
    synced.clear()
    publish(tmp_path / "x/y/a")
    assert [each for each, _ in synced] == ["content", "x/y"]


def test_not_durable(tmp_path: Path, synced: list[tuple[str, bool]]) -> None:
    """A target that need not be durable does not wait for the disk."""
    with atomic_target(str(tmp_path / "a"), DETAILS, durable=False) as target:
        target.write_at(0, b"new")
    assert not synced


def test_folder_once(tmp_path: Path, synced: list[tuple[str, bool]]) -> None:
    """Many files in a folder, of several threads, synchronize it once, also if one of them fails."""

    def write(number: int, folders: FolderSyncs) -> None:
        with folders.joined():
            publish(tmp_path / f"x/{number}/a")
            publish(tmp_path / f"x/{number}/b")

    def write_many() -> None:
        with folders_synced_once() as folders, ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(3), [folders] * 3))
            assert {each for each, _ in synced} == {"content"}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_many()
    assert sorted(each for each, _ in synced if each != "content") == [".", "x", "x/0", "x/1", "x/2"]
    synced.clear()
    publish(tmp_path / "a")
    assert [each for each, _ in synced] == ["content", "."]


@pytest.mark.parametrize(("number", "raises"), [(errno.EACCES, False), (errno.EINVAL, False), (errno.EIO, True)])
def test_folder_not_synced(number: int, raises: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be synchronized is not an error, unless the disk fails."""

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("gllm_storage.files.durability.os.fsync", fail)
    if raises:
        with refused(tmp_path, os.strerror(number)):
            publish(tmp_path / "a")
    else:
        publish(tmp_path / "a")
    assert tree(tmp_path) == {"a": b"new"}


def test_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content that cannot be written to the disk does not replace the old file."""
    (tmp_path / "a").write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("gllm_storage.files.target.os.fdatasync", fail)
    with refused(tmp_path / "a", os.strerror(errno.EIO)):
        publish(tmp_path / "a")
    assert tree(tmp_path) == {"a": b"old"}


def test_folder_of_failed_writes(tmp_path: Path) -> None:
    """A write succeeds although three failing writes remove the folder that all four make."""

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
    """A file of 3000 bytes with an old modification time, because the clock of a file system may be coarse."""
    path = tmp_path / "source"
    path.write_bytes(bytes(range(250)) * 12)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    return path


def test_source_offsets(source_file: Path) -> None:
    """A source is read at any offset."""
    content = source_file.read_bytes()
    with open_source(str(source_file), DETAILS) as source:
        assert source.size == 3000
        assert source.read_at(0, 3000) == content
        assert source.read_at(2990, 10) == content[-10:]
        assert source.read_at(3000, 0) == b""
        source.require_unchanged()
        source.require_unchanged()


@pytest.mark.parametrize("name", ["missing", "source/below", "no/folder", ""])
def test_missing_source(name: str, source_file: Path) -> None:
    """A missing source raises a plain FileNotFoundError with its path."""
    path = str(source_file.parent / name) if name else ""
    with pytest.raises(FileNotFoundError) as caught, open_source(path, DETAILS):
        pass
    assert type(caught.value) is FileNotFoundError
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, path)
    assert repr(path) in str(caught.value)


def test_dangling_source(tmp_path: Path) -> None:
    """A dangling symbolic link is a missing source."""
    (tmp_path / "link").symlink_to("missing")
    with pytest.raises(FileNotFoundError, match="link"), open_source(str(tmp_path / "link"), DETAILS):
        pass


def test_directory_source(tmp_path: Path) -> None:
    """A directory is refused as a source."""
    with refused(tmp_path, "directory"), open_source(str(tmp_path), DETAILS):
        pass


def test_pipe_source(tmp_path: Path) -> None:
    """A named pipe is refused as a source, without waiting for its writer."""
    os.mkfifo(tmp_path / "pipe")
    with refused(tmp_path / "pipe", "regular"), open_source(str(tmp_path / "pipe"), DETAILS):
        pass


def test_device_source() -> None:
    """A device is refused as a source."""
    with pytest.raises(StorageError, match="/dev/zero"), open_source("/dev/zero", DETAILS):
        pass


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_impossible_path(path: str) -> None:
    """A path that a file cannot have raises a StorageError."""
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


def test_unreadable_source(source_file: Path) -> None:
    """A source without read permission raises a StorageError that names it once."""
    source_file.chmod(0)
    child = [sys.executable, "-c", UNREADABLE, str(source_file)]
    said = subprocess.run(child, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f"{str(source_file)!r}: Permission denied |" in said
    assert said.count(str(source_file)) == 1
    assert said.endswith("| PermissionError\n")


@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/status", "/proc/cpuinfo"])
def test_sizeless_source(path: str) -> None:
    """A file whose size is 0 although it has content is read to its end."""
    assert os.stat(path).st_size == 0
    with open_source(path, DETAILS) as source:
        assert source.size > 0
        content = source.read_at(0, source.size)
        source.require_unchanged()
        assert not source.is_at_path()
    if path != "/proc/self/status":
        assert content.split(b"\n")[0] == Path(path).read_bytes().split(b"\n")[0]


def test_oversized_source() -> None:
    """A file that ends before its size, as in /sys, is refused."""
    path = "/sys/kernel/uevent_seqnum"
    assert os.stat(path).st_size > 100
    with open_source(path, DETAILS) as source, pytest.raises(StorageError, match="ends at byte"):
        source.read_at(0, source.size)


def test_mapped_source(source_file: Path) -> None:
    """With `sync`, a write by mmap to a page that was dirty before shows."""
    with source_file.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = 1
        with open_source(str(source_file), DETAILS, sync=True) as source:
            source.require_unchanged()
            time.sleep(0.02)  # the clock of modification times has steps of up to 10 ms
            mapped[1] = 2
            with refused(source_file, "changed while it was read"):
                source.require_unchanged()


def test_shrinking_source(source_file: Path) -> None:
    """A source that shrinks raises an error."""
    with open_source(str(source_file), DETAILS) as source:
        os.truncate(source_file, 100)
        with refused(source_file, "changed while it was read"):
            source.read_at(50, 100)
        with refused(source_file, "changed while it was read"):
            source.require_unchanged()


def test_growing_source(source_file: Path) -> None:
    """A source that grows raises an error."""
    with open_source(str(source_file), DETAILS) as source:
        with source_file.open("ab") as more:
            more.write(b"more")
        assert len(source.read_at(0, 3000)) == 3000
        with refused(source_file, "changed while it was read"):
            source.require_unchanged()


def test_overwritten_source(source_file: Path) -> None:
    """A source that is changed in place raises an error."""
    with open_source(str(source_file), DETAILS) as source:
        with source_file.open("r+b") as writer:
            writer.write(b"other")
        with refused(source_file, "changed while it was read"):
            source.require_unchanged()


def test_replaced_source(source_file: Path) -> None:
    """A source that is replaced is read to its end."""
    content = source_file.read_bytes()
    with open_source(str(source_file), DETAILS) as source:
        other = source_file.with_name("other")
        other.write_bytes(b"x")
        os.replace(other, source_file)
        assert source.read_at(0, 3000) == content
        source.require_unchanged()


def test_failing_disk(source_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk raises a StorageError with the system's message."""

    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with open_source(str(source_file), DETAILS) as source:
        monkeypatch.setattr("gllm_storage.files.source.os.pread", fail)
        with refused(source_file, os.strerror(errno.EIO)):
            source.read_at(0, 10)


def open_files() -> list[str]:
    """Return the paths of all files that this process has open."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # another thread has closed it
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return found


def test_open_descriptors(source_file: Path) -> None:
    """A source leaves no file descriptor open."""
    with open_source(str(source_file), DETAILS):
        assert str(source_file) in open_files()
    with refused(source_file.parent), open_source(str(source_file.parent), DETAILS):
        pass
    assert not [each for each in open_files() if each.startswith(str(source_file.parent))]


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_copy(size: int, tmp_path: Path) -> None:
    """A copy is complete and reports its progress."""
    content = os.urandom(size)
    (tmp_path / "from").write_bytes(content)
    steps: list[int] = []
    with open_source(str(tmp_path / "from"), DETAILS) as source, atomic_target(str(tmp_path / "to"), DETAILS) as target:
        copy(source, target, steps.append)
    assert (tmp_path / "to").read_bytes() == content
    assert sum(steps) == size


@pytest.mark.parametrize("name", ["model.bin", ".gllm-x.tmp", f".gllm-{'0' * 31}.tmp", f".gllm-{'0' * 32}.tmp2", ".gllm"])
def test_temporary_names(name: str) -> None:
    """Only the names of this library's temporary files count as temporary."""
    assert not is_temporary(name)
    assert is_temporary(f".gllm-{'0a' * 16}.tmp")
