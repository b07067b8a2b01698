"""The kind of the filesystem that a folder is on."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from gllm_storage.local import mounts
from gllm_storage.local.mounts import caches_names, kind_of, own_name

if TYPE_CHECKING:
    from pathlib import Path

_MOUNTS = r"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:50 / /data rw,relatime shared:1 master:2 - nfs4 host:/data rw,addr=10.0.0.1
29 28 0:51 / /data/local rw - xfs /dev/vdb rw
30 27 0:52 / /with\040space rw - fuse.sshfs host: rw
31 27 0:53 / /twice rw - ext4 /dev/vdc rw
32 27 0:54 / /twice rw - cifs //host/x rw
33 27 0:55 / /merged rw - fuse.fuse-overlayfs fuse-overlayfs rw
"""


@pytest.mark.parametrize("folder", ["/", "/proc", "/dev/shm", "/tmp/nowhere"])  # noqa: S108 - not written to
def test_as_stat_says(folder: str) -> None:
    """The kinds are those of coreutils' stat, which calls ext4 ext2/ext3."""
    existing = folder if folder != "/tmp/nowhere" else "/tmp"  # noqa: S108 - not written to
    done = subprocess.run(["/usr/bin/stat", "-f", "-c", "%T", existing], capture_output=True, text=True, check=True)
    stated = done.stdout.strip()
    assert kind_of(folder) in {
        stated,
        "ext4" if stated.startswith("ext") else stated,
        "overlay" if stated == "overlayfs" else "",
    }


@pytest.mark.parametrize(
    ("folder", "kind", "caches"),
    [
        ("/home/x", "ext4", False),
        ("/data", "nfs4", True),
        ("/data/models", "nfs4", True),
        ("/data/local/models", "xfs", False),
        ("/database", "ext4", False),
        ("/with space/x", "fuse.sshfs", True),
        ("/twice/x", "cifs", True),
        ("/merged", "fuse.fuse-overlayfs", False),
    ],
)
def test_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str, caches: bool) -> None:
    """The innermost mount counts, and of several at one place the last one."""
    listed = tmp_path / "mountinfo"
    listed.write_text(_MOUNTS)
    monkeypatch.setattr(mounts, "_MOUNTS", str(listed))
    assert (kind_of(folder), caches_names(folder)) == (kind, caches)


def test_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine has a name of its own on a disk that machines share, also for a folder that does not exist yet."""
    assert own_name(str(tmp_path)) == ""
    monkeypatch.setattr(mounts, "caches_names", lambda _: True)
    names = [own_name(str(tmp_path)), own_name(f"{tmp_path}/not/there")]
    for kernel in ("one\n", "two\n"):
        (tmp_path / "boot_id").write_text(kernel)
        monkeypatch.setattr(mounts, "_BOOT_ID", str(tmp_path / "boot_id"))
        names.append(own_name(str(tmp_path)))
    monkeypatch.setattr(mounts, "_BOOT_ID", str(tmp_path / "hidden"))
    names.append(own_name(str(tmp_path)))
    assert names[0] == names[1]
    assert len(set(names)) == 4
    assert all(each.startswith(".") and each[1:].isalnum() for each in names)


def test_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without a list of its mounts, such as macOS."""
    monkeypatch.setattr(mounts, "_MOUNTS", str(tmp_path / "none"))
    assert (kind_of("/"), caches_names("/")) == ("", False)
