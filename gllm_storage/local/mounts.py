"""The kind of the filesystem that a folder is on, from the mounts of this machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re

_CACHE_NAMES = re.compile(r"nfs\d?|cifs|smb\d?|smbfs|afs|9p|virtiofs|fuse\.(?!fuse-overlayfs|lxcfs).*|fuse")
"""Filesystems whose clients keep names and attributes for some seconds, or may do so. FUSE: sshfs, gcsfuse, s3fs, rclone and
others, whose cache depends on the options of the mount."""
_MOUNTS = "/proc/self/mountinfo"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def caches_names(folder: str) -> bool:
    """Whether a folder is on a filesystem where a listing may miss the newest files of another machine.

    Args:
        folder: The folder. If it does not exist, the nearest one above it counts.

    Returns:
        False on a system that does not list its mounts, such as macOS.
    """
    return _CACHE_NAMES.fullmatch(kind_of(folder)) is not None


def own_name(folder: str) -> str:
    """A name for the files in a folder that only processes of this machine may write; it begins with a dot.

    On a filesystem that machines share, `flock` may exclude only the processes that use the same mount of the same kernel:
    on NFS with the option ``local_lock``, of a directory on NFS, and on most FUSE mounts. These processes have one name.

    Args:
        folder: The folder. If it does not exist, the nearest one above it counts.

    Returns:
        The name; empty where `caches_names` is False, because there `flock` excludes all processes.
    """
    if not caches_names(folder):
        return ""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            kernel = file.read().strip()
    except OSError:  # hidden, as in some sandboxes
        kernel = platform.node()
    existing = os.path.realpath(folder)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    return "." + hashlib.sha256(f"{kernel} {os.stat(existing).st_dev}".encode()).hexdigest()[:16]


def kind_of(folder: str) -> str:
    """The kind of the filesystem, such as ``"ext4"`` or ``"nfs4"``; empty if it is not known."""
    path = os.path.realpath(folder)
    best, kind = "", ""
    for point, found in _mounts():
        # Of several mounts at one place the last one is visible.
        if len(point) >= len(best) and os.path.commonpath([path, point]) == point:
            best, kind = point, found
    return kind


def _mounts() -> list[tuple[str, str]]:
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as lines:
            return [_mount_in(each) for each in lines]
    except FileNotFoundError:
        return []


def _mount_in(line: str) -> tuple[str, str]:
    """The place and the kind of a mount; see proc(5)."""
    fields, _, last = line.partition(" - ")
    place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields.split()[4])
    return place, last.split()[0]
