"""The number of modules that `check_conflict` passes stays small."""

from __future__ import annotations

import subprocess
import sys


def test_conflict_path() -> None:
    """`check_conflict` passes at most 6 modules to `IfNoneMatch` on S3, and 8 to the header."""
    done = subprocess.run([sys.executable, "-m", "tests.scripts.conflict_path"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" modules, ") == 2
