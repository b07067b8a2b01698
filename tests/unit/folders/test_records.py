"""`Records`: lists that spill to disk."""

from __future__ import annotations

import tempfile

import pytest

from gllm_storage.errors import StorageError
from gllm_storage.folders import records
from gllm_storage.folders.entries import Entry
from gllm_storage.folders.plan import Step
from gllm_storage.folders.records import Records


def step(number: int) -> Step:
    """A step with all facts, or with those that every store has."""
    facts = (number, f"state-{number}", "version") if number % 2 else (None, None, None)
    return Step("transfer", Entry(f"ümläut\ud800/{number:03}", number, *facts), "new")


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 35])
def test_spilled(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values come back in their order and unchanged, those from the disk as those from memory, in each of two iterations."""
    monkeypatch.setattr(records, "_IN_MEMORY", 10)
    monkeypatch.setattr(records, "_BLOCK", 3)
    found = Records(Step.fields, Step.of_fields)
    for number in range(count):
        found.add(step(number))
    assert len(found) == count
    one, other = iter(found), iter(found)
    assert list(zip(one, other, strict=True)) == [(step(number), step(number)) for number in range(count)]


@pytest.mark.hostile
def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk for temporary files is an error of the library, with the name of the folder."""
    monkeypatch.setattr(records, "_IN_MEMORY", 1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: open("/dev/full", "w+b"))  # noqa: SIM115 - `Records` closes it
    found = Records(Step.fields, Step.of_fields)
    for number in range(999):
        found.add(step(number))
    with pytest.raises(StorageError, match=r"cannot be kept in '.*', the folder for temporary files .* No space left"):
        found.add(step(999))
