"""`diff`: the files in which two versions differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gllm_storage.errors import ObjectNotFoundError
from gllm_storage.versions.comparison import Change, diff
from gllm_storage.versions.publisher import publish
from tests.versions.support import MODEL, new_client, write_folder

if TYPE_CHECKING:
    from pathlib import Path


def test_changes(tmp_path: Path) -> None:
    """Added, removed and changed files are found, also at the ends, and equal files are left out."""
    client = new_client()
    old = {"a": b"1", "b": b"2", "same/x": b"3", "same/y": b"", "z": b"4", "\uff21": b"5"}
    new = {"b": b"22", "b-": b"", "same/x": b"3", "same/y": b"", "z": b"5", "\U0001f600": b"6"}
    for name, files in (("v1", old), ("v2", new)):
        publish(client, write_folder(tmp_path / name, files), MODEL, version=name)
    there = [
        Change("a", "removed", 1, None),
        Change("b", "changed", 1, 2),
        Change("b-", "added", None, 0),
        Change("z", "changed", 1, 1),
        Change("\uff21", "removed", 1, None),
        Change("\U0001f600", "added", None, 1),
    ]
    kinds = {"added": "removed", "removed": "added", "changed": "changed"}
    assert list(diff(client, MODEL, "v1", "v2")) == there
    back = [Change(each.path, kinds[each.kind], each.new_size, each.old_size) for each in there]
    assert list(diff(client, MODEL, "v2", "v1")) == back
    assert list(diff(client, MODEL, "v1", "v1")) == []
    with pytest.raises(ObjectNotFoundError, match="'v9'"):
        diff(client, MODEL, "v1", "v9")
