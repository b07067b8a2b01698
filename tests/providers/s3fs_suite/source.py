"""Downloads the tests of s3fs, gcsfs and adlfs: they are in source distributions, and not part of this repository."""

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
    """A source distribution cannot be downloaded."""


def fetch_suite(cache: Path = CACHE, package: str = "s3fs", version: str | None = None) -> Path:
    """Download the tests of a package, unchanged.

    Args:
        cache: Folder that keeps the tests for later runs.
        package: The package.
        version: Its version; the installed one if None.

    Returns:
        The folder of the package ``s3fs.tests``.

    Raises:
        SuiteUnavailableError: If pip cannot download the source distribution.
    """
    version = version or importlib.metadata.version(package)
    kept = cache / f"{package}-suite-{version}"
    if not kept.exists():
        cache.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=f"{package}-suite-") as scratch:
            _unpack(_download(package, version, Path(scratch)), Path(scratch) / "new")
            try:
                os.rename(Path(scratch) / "new", kept)
            except OSError:  # another test process has already created the folder
                if not kept.exists():
                    raise
    return kept / f"{package}-{version}" / package / "tests"


def _download(package: str, version: str, into: Path) -> Path:
    # pip builds the metadata of the download, and downloads the package's build system for that.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", package, "--retries", "1", "--timeout", "20", "--dest", str(into), f"{package}=={version}"]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        raise SuiteUnavailableError(f"{_why(package, version)}: {error.stderr.strip()[-1000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise SuiteUnavailableError(f"{_why(package, version)}: no answer for {_SECONDS} s") from error
    (found,) = into.glob(f"{package}-*.tar.gz")
    return found


def _why(package: str, version: str) -> str:
    return f"{package}'s tests are in its source distribution, and pip cannot download that of {package} {version}"


def _unpack(archive: Path, into: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
