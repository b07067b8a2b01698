"""The memory budget that all transfers of a process share."""

from __future__ import annotations

import threading

import pytest

from gllm_storage.concurrency.budget import MemoryBudget, memory_budget
from gllm_storage.concurrency.stop import Stop, TransferStopped
from tests.waiting import PATIENCE


def test_acquire_when_full() -> None:
    """`acquire` waits until another thread releases enough bytes."""
    budget = MemoryBudget()
    budget.acquire(60, 100, Stop())
    acquired = threading.Event()

    def acquire() -> None:
        budget.acquire(60, 100, Stop())
        acquired.set()

    thread = threading.Thread(target=acquire, daemon=True)
    thread.start()
    assert not acquired.wait(0.3)
    budget.release(60)
    assert acquired.wait(PATIENCE)
    assert budget.taken == 60


def test_acquire_above_the_limit() -> None:
    """An empty budget grants one request above the limit."""
    budget = MemoryBudget()
    budget.acquire(500, 100, Stop())
    assert budget.taken == 500


def test_acquire_after_stop() -> None:
    """`acquire` raises TransferStopped instead of waiting when the transfer is stopped."""
    budget = MemoryBudget()
    budget.acquire(100, 100, Stop())
    stop = Stop()
    stop.set()
    with pytest.raises(TransferStopped):
        budget.acquire(1, 100, stop)
    assert budget.taken == 100


def test_reserve() -> None:
    """Held memory leaves the reserve free for a part in flight."""
    budget = MemoryBudget()
    assert budget.try_hold(60, 100, reserve=40)
    assert not budget.try_hold(1, 100, reserve=40)
    budget.acquire(40, 100, Stop())
    assert budget.taken == 100
    budget.release(40)
    budget.let_go(60)
    assert budget.taken == 0


def test_acquire_beside_held_memory() -> None:
    """`acquire` does not wait for held memory."""
    budget = MemoryBudget()
    assert budget.try_hold(60, 100, reserve=40)
    budget.acquire(80, 100, Stop())
    assert budget.taken == 140


def test_hold_when_full() -> None:
    """`try_hold` returns False when parts in flight use the complete budget."""
    budget = MemoryBudget()
    budget.acquire(100, 100, Stop())
    assert not budget.try_hold(1, 100, reserve=40)


def test_shared_budget() -> None:
    """All clients of a process share one budget."""
    assert memory_budget() is memory_budget()
