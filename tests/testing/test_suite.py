"""The kit itself: it needs no pytest to be imported, and a store that breaks a promise does not pass."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = sys.modules["_pytest"] = None  # an import of it raises ImportError
from gllm_storage.testing import FaultProxy, StoreSuite, checks, faults, no_waits
with no_waits():
    assert StoreSuite().open_uploads() == []
    assert FaultProxy("http://127.0.0.1:1").requests == []
print("imported")
"""

BROKEN = '''
import dataclasses
import fsspec, pytest
from gllm_storage.concurrency.budget import memory_budget
from gllm_storage.errors import ObjectExistsError
from gllm_storage.memory.store import MemoryStore
from gllm_storage.testing import StoreSuite


class Memory(StoreSuite):
    faults = processes = checksums = False
    pickles = True
    objects = 30
    store_class = MemoryStore

    @pytest.fixture(autouse=True)
    def _bucket(self, request):
        self.fs = fsspec.filesystem("memory")
        self.bucket = f"/{request.node.nodeid.replace('/', '-')}"
        yield
        memory_budget().let_go(memory_budget().taken)

    def make_store(self):
        return self.store_class(self.fs, self.bucket[1:])

    def put(self, key, content):
        self.fs.pipe_file(f"{self.bucket}/{key}", content)

    def get(self, key):
        return self.fs.cat_file(f"{self.bucket}/{key}")

    def remove(self, key):
        self.fs.rm_file(f"{self.bucket}/{key}")

    def keys(self):
        return [path.removeprefix(f"{self.bucket}/") for path in self.fs.find(self.bucket)]


class Overwriting(MemoryStore):
    """It takes an exclusive request, and overwrites."""
    def upload(self, request):
        return super().upload(dataclasses.replace(request, exclusive=False))

class Checking(MemoryStore):
    """It checks first, and writes afterwards."""
    def upload(self, request):
        if request.exclusive:
            self.require_create(request.key, "upload")
            import time
            time.sleep(0.01)
        return super().upload(dataclasses.replace(request, exclusive=False))

class Undeclared(MemoryStore):
    """It declares no exclusive create, and does not refuse one."""
    creates_exclusively = False

class Partial(MemoryStore):
    """It leaves what it has when the source fails."""
    def upload(self, request):
        try:
            return super().upload(request)
        except BaseException:
            self._filesystem.pipe_file(self._name(request.key), b"half")
            raise

class Cut(MemoryStore):
    """Its listing ends after a page."""
    def list(self, prefix=""):
        return iter(list(super().list(prefix))[:20])

class Unordered(MemoryStore):
    """Its listing is in no order."""
    def list(self, prefix=""):
        return iter(sorted(super().list(prefix), key=lambda info: info.url[::-1]))

class Stale(MemoryStore):
    """It answers from a cache."""
    def info(self, key, operation="info"):
        cache = self.__dict__.setdefault("cache", {})
        if key not in cache:
            cache[key] = super().info(key, operation)
        return cache[key]

class Mixing(MemoryStore):
    """Its reader reads whatever is there."""
    def open_reader(self, key, operation="read"):
        reader = super().open_reader(key, operation)
        store, details = self, self.details(key, operation)
        class Reader(type(reader)):
            def read(self, version, start, length, buffer=None):
                yield store.content(key, details).getvalue()[start:start + length]
        reader.__class__ = Reader
        return reader

class Leaking(MemoryStore):
    """It keeps memory of the budget."""
    def upload(self, request):
        memory_budget().try_hold(1, 2**40, 0)
        return super().upload(request)

class Foreign(MemoryStore):
    """It raises errors of its own."""
    def delete(self, key):
        try:
            super().delete(key)
        except FileNotFoundError:
            raise KeyError(key) from None

class Renaming(MemoryStore):
    """It changes keys."""
    def _name(self, key):
        return super()._name(key).replace("+", " ")

class Deaf(MemoryStore):
    """It ignores the stop."""
    def upload(self, request):
        from gllm_storage.concurrency.stop import Stop
        return super().upload(dataclasses.replace(request, transfer=dataclasses.replace(request.transfer, stop=Stop())))


for kind in (Overwriting, Checking, Undeclared, Partial, Cut, Unordered, Stale, Mixing, Leaking, Foreign, Renaming, Deaf):
    globals()[f"Test{kind.__name__}"] = type(f"Test{kind.__name__}", (Memory,), {"store_class": kind})
TestRight = type("TestRight", (Memory,), {})
'''
BREAKS = {
    "Overwriting": "test_create[small]",
    "Checking": "test_create_race[threads]",
    "Undeclared": "test_create[empty]",
    "Partial": "test_source_fails[small-exists=False]",
    "Cut": "test_list_many",
    "Unordered": "test_list",
    "Stale": "test_info",
    "Mixing": "test_reader_pinned",
    "Leaking": "test_upload[small-exists=False]",
    "Foreign": "test_delete",
    "Renaming": "test_names[a+b]",
    "Deaf": "test_stopped_before[exists=False]",
}
"""For each broken store a test that fails on it."""

INCOMPLETE = """
from gllm_storage.testing import StoreSuite

class TestIncomplete(StoreSuite):
    def make_store(self): ...
    def put(self, key, content): ...
    def get(self, key): ...
    def remove(self, key): ...
    def keys(self): ...
"""


def run_pytest(folder: Path, code: str, *options: str) -> str:
    """Run the tests of a file in a process of its own; returns the output."""
    (folder / "test_it.py").write_text(code)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        *(options or ["test_it.py"]),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.stdout + done.stderr


def test_import_without_pytest() -> None:
    """The package can be imported where pytest is not installed."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTEST], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.slow
def test_broken_stores(tmp_path: Path) -> None:
    """For each promise there is a test that fails on a store that breaks the promise."""
    right = [f"test_it.py::TestRight::{test}" for test in BREAKS.values()]
    wrong = [f"test_it.py::Test{name}::{test}" for name, test in BREAKS.items()]
    output = run_pytest(tmp_path, BROKEN, "--tb=line", "-rfE", *right, *wrong)
    assert sorted(re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)) == sorted(wrong), output[-5000:]
    assert f"{len(wrong)} failed, {len(right)} passed" in output


def test_incomplete_description(tmp_path: Path) -> None:
    """A description without an endpoint fails at collection, and says how to declare that there is none."""
    output = run_pytest(tmp_path, INCOMPLETE)
    assert "TestIncomplete is a StoreSuite: implement endpoint_url, make_store_at; or set `faults = False`" in output
    assert "1 error" in output
    assert "passed" not in output


def test_without_faults(tmp_path: Path) -> None:
    """``faults = False`` leaves out the tests with faults, and no other tests."""
    declared = INCOMPLETE.replace("    def make_store", "    faults = False\n    def make_store")
    output = run_pytest(tmp_path, declared, "--collect-only", "test_it.py")
    assert "test_fault" not in output
    assert "TestIncomplete::test_create[empty]" in output
