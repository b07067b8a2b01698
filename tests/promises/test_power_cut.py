"""A power cut after a call returned leaves its files complete, on ext4 and XFS.

The disk is an image file that is mounted. The system call FS_IOC_SHUTDOWN, by which the kernel's own tests (xfstests)
simulate a power cut, ends all writes to it at once. The next mount replays the journal, and shows the files as the cut left
them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gllm_storage import FsspecStorageClient, LocalStorageClient, MemoryStorageClient
from tests.rig import new_prefix, server_rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Servers

pytestmark = [pytest.mark.slow, pytest.mark.hostile, pytest.mark.usefixtures("as_root")]

_SHUTDOWN = 0x8004587D
"""FS_IOC_SHUTDOWN of <linux/fs.h>: _IOR('X', 125, __u32)."""
_NO_LOG_FLUSH = struct.pack("I", 2)
OLD, NEW = b"old" * 1000, os.urandom(9 * 2**20)
MANY = 150
"""Small files of a bulk download: more than get their names together."""


class Disk:
    """A mounted disk whose power can be cut.

    Args:
        kind: ``"ext4"`` or ``"xfs"``.
        folder: A folder for the image and the mount.
    """

    def __init__(self, kind: str, folder: Path) -> None:
        self._image = folder / "image"
        self.folder = folder / "disk"
        self.folder.mkdir()
        with self._image.open("xb") as file:
            file.truncate(320 * 2**20)  # the smallest that mkfs.xfs takes is 300 MiB
        self._run(f"mkfs.{kind}", "-q", self._image)
        self._mount()

    def _mount(self) -> None:
        self._run("mount", "-o", "loop", self._image, self.folder)

    def end(self) -> None:
        """Unmount the disk."""
        self._run("umount", self.folder)

    def write(self, name: str, content: bytes) -> None:
        """Write a file as a neighbour does, who waits for the disk; the journal then has all earlier names."""
        path = self.folder / name
        path.write_bytes(content)
        for each in (path, path.parent):
            fd = os.open(each, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)

    def cut_power(self) -> None:
        """Lose all that is not on the disk, and mount the disk again."""
        fd = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(fd, _SHUTDOWN, _NO_LOG_FLUSH)
        os.close(fd)
        self.end()
        self._mount()

    @staticmethod
    def _run(*command: str | Path) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """A disk of 320 MiB. Like a server that is not installed, a missing mkfs is a failure under CI=true only."""
    if shutil.which(f"mkfs.{request.param}") is None and os.environ.get("CI") != "true":
        pytest.skip(f"mkfs.{request.param} is not installed; tests/install-servers installs it")
    disk = Disk(request.param, tmp_path)
    try:
        yield disk
    finally:
        disk.end()


def memory(**config: Any) -> MemoryStorageClient:
    """A client whose object ``a`` is the new content."""
    client = MemoryStorageClient({"bucket_name": new_prefix().strip("/"), **config})
    with client.open("a", "wb") as file:
        file.write(NEW)
    return client


def local(folder: Path, **config: Any) -> LocalStorageClient:
    return LocalStorageClient({"root": str(folder), **config})


def source(disk: Disk) -> Path:
    """A file with the new content, on another disk."""
    path = disk.folder.parent / "source"
    path.write_bytes(NEW)
    return path


def _download(_: Disk, path: Path) -> None:
    memory().download_file("a", path)


def _get_file(_: Disk, path: Path) -> None:
    client = memory()
    client.filesystem.get_file(client.url("a"), str(path))


def _get(_: Disk, path: Path) -> None:
    client = memory()
    client.filesystem.get([client.url("a")], [str(path)])


def _download_local(disk: Disk, path: Path) -> None:
    local(source(disk).parent).download_file("source", path)


def _download_foreign(disk: Disk, path: Path) -> None:
    FsspecStorageClient({"url": f"file://{source(disk).parent}"}).download_file("source", path)


def _copy_exclusively(disk: Disk, path: Path) -> None:
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gllm_storage.cli", "cp", "-n", f"file://{source(disk)}", str(path)]
    subprocess.run(command, check=True, timeout=60)


def _upload(disk: Disk, path: Path) -> None:
    local(disk.folder).upload_file(source(disk), str(path.relative_to(disk.folder)))


def _create(disk: Disk, path: Path) -> None:
    path.unlink(missing_ok=True)
    local(disk.folder).upload_file(source(disk), str(path.relative_to(disk.folder)), check_conflict=True)


def _put(disk: Disk, path: Path) -> None:
    local(disk.folder).filesystem.put([str(source(disk))], [str(path)])


def _write(disk: Disk, path: Path) -> None:
    with local(disk.folder).open(str(path.relative_to(disk.folder)), "wb") as file:
        file.write(NEW)


def _copy(disk: Disk, path: Path) -> None:
    command = [sys.executable, "-m", "gllm_storage.cli", "cp", str(source(disk)), str(path)]
    subprocess.run(command, check=True, timeout=60)


def _copy_folder(disk: Disk, path: Path) -> None:
    folder = disk.folder.parent / "folder"
    folder.mkdir(exist_ok=True)
    (folder / path.name).write_bytes(NEW)
    command = [sys.executable, "-m", "gllm_storage.cli", "cp", "-r", f"file://{folder}/", f"{path.parent}/"]
    subprocess.run(command, check=True, timeout=60)


CALLS: list[Callable[[Disk, Path], None]] = [
    _download, _get_file, _get, _download_local, _download_foreign, _copy_exclusively, _upload, _create, _put, _write,
    _copy, _copy_folder,
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=lambda each: each.__name__.strip("_"))
def test_power_cut(call: Callable[[Disk, Path], None], disk: Disk) -> None:
    """The power is cut when the call returns: the file is complete, both in place of an old one and in new folders."""
    for path in (disk.folder / "a", disk.folder / "x/y/a"):
        if path.parent == disk.folder:
            disk.write("a", OLD)
        call(disk, path)
        disk.cut_power()
        assert path.read_bytes() == NEW
    assert not list(disk.folder.rglob(".*"))


def test_power_cut_without_fsync(disk: Disk) -> None:
    """With fsync off, the same cut loses a download, and a local upload: these tests can fail."""
    for call in (
        lambda: memory(fsync="false").download_file("a", disk.folder / "a"),
        lambda: local(disk.folder, fsync="false").upload_file(source(disk), "a"),
    ):
        for _ in range(3):  # a busy kernel may have written all pages back by itself
            disk.write("a", OLD)
            call()
            disk.write("b", b"x")
            disk.cut_power()
            found = (disk.folder / "a").read_bytes()
            if found != NEW:
                break
        assert found == bytes(len(NEW))  # the name is on the disk, and not the content


def test_power_cut_after_many(disk: Disk, servers: Servers) -> None:
    """A bulk download of small objects from S3 is on the disk when it returns."""
    client = server_rig("ministack", servers.s3("ministack")).client()
    contents = {client.url(f"{number:03}"): os.urandom(1000 + number) for number in range(MANY)}
    client.filesystem.pipe(contents)
    paths = [disk.folder / f"{number % 3}" / f"{number:03}" for number in range(MANY)]
    client.filesystem.get(list(contents), [str(each) for each in paths])
    disk.cut_power()
    assert [each.read_bytes() for each in paths] == list(contents.values())
