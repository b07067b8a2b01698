"""The provider of docs/extending.md keeps the promises that its description declares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.page import blocks_of

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def test_suite_of_page(tmp_path: Path) -> None:
    """The store and the suite of the page, copied into a file, pass."""
    blocks = list(blocks_of((ROOT / "docs/extending.md").read_text(encoding="utf-8")))
    code = [each.code for each in blocks if re.search(r"^class (Shelf|TestShelf)", each.code, re.MULTILINE)]
    assert len(code) == 3, "the store, the client and the suite"
    (tmp_path / "test_shelf.py").write_text("\n".join(code), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider", "test_shelf.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) > 50, "pytest has collected the suite"
    assert "skipped" not in done.stdout
