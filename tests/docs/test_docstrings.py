"""The examples in docstrings: each is run, in the order of the file."""

from __future__ import annotations

import doctest
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("module", ["gllm_storage.fsspec_client", "gllm_storage.store.retry"])
def test_examples(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples of a module work, with a file `model.safetensors` in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    names = vars(import_module(module))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    found = doctest.DocTestFinder(exclude_empty=True).find(import_module(module), globs=names)
    shared = dict(names)  # an example may use the names that an earlier one has defined
    for each in sorted(found, key=lambda each: each.lineno or 0):
        each.globs = shared
        runner.run(each, clear_globs=False)
    assert runner.tries > 0
    assert runner.failures == 0
