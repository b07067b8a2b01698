"""Downloads s3fs's tests, which are in its source distribution only; they are not part of this repository."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

CACHE = Path(__file__).parents[3] / ".venv-servers"
"""The folder for third-party code; git ignores it."""
_SECONDS = 240


class SuiteUnavailableError(Exception):
    """s3fs's source distribution cannot be downloaded."""


def fetch_suite(cache: Path = CACHE) -> Path:
    """Download the tests of the installed version of s3fs, unchanged.

    Args:
        cache: Folder that keeps the tests for later runs.

    Returns:
        The folder of the package ``s3fs.tests``.

    Raises:
        SuiteUnavailableError: If pip cannot download the source distribution.
    """
    version = importlib.metadata.version("s3fs")
    kept = cache / f"s3fs-suite-{version}"
    if not kept.exists():
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="s3fs-suite-") as scratch:
            _unpack(_download(version, Path(scratch)), Path(scratch) / "new")
            try:
                os.rename(Path(scratch) / "new", kept)
            except OSError:  # another test process has already created the folder
                if not kept.exists():
                    raise
    return kept / f"s3fs-{version}" / "s3fs" / "tests"


def _download(version: str, into: Path) -> Path:
    # pip builds the metadata of the download, and downloads s3fs's build system for that.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "s3fs", "--retries", "1", "--timeout", "20", "--dest", str(into), f"s3fs=={version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        raise SuiteUnavailableError(f"{_why(version)}: {error.stderr.strip()[-1000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise SuiteUnavailableError(f"{_why(version)}: no answer for {_SECONDS} s") from error
    (found,) = into.glob("s3fs-*.tar.gz")
    return found


def _why(version: str) -> str:
    return f"s3fs's tests are in its source distribution, and pip cannot download that of s3fs {version}"


def _unpack(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
