"""The one budget of memory of a process."""

from __future__ import annotations

import threading

import pytest

from gllm_storage.concurrency.budget import MemoryBudget, memory_budget
from gllm_storage.concurrency.stop import Stop, TransferStopped
from tests.waiting import PATIENCE


def test_bytes_in_flight_wait_until_there_is_room() -> None:
    budget = MemoryBudget()
    budget.acquire(60, 100, Stop())
    taken = threading.Event()

    def take() -> None:
        budget.acquire(60, 100, Stop())
        taken.set()

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert not taken.wait(0.3)
    budget.release(60)
    assert taken.wait(PATIENCE)
    assert budget.taken == 60


def test_a_single_piece_that_is_larger_than_the_limit_fits() -> None:
    budget = MemoryBudget()
    budget.acquire(500, 100, Stop())
    assert budget.taken == 500


def test_waiting_ends_when_the_transfer_is_given_up() -> None:
    budget = MemoryBudget()
    budget.acquire(100, 100, Stop())
    stop = Stop()
    stop.set()
    with pytest.raises(TransferStopped):
        budget.acquire(1, 100, stop)
    assert budget.taken == 100


def test_what_is_held_leaves_room_for_a_part_in_flight() -> None:
    budget = MemoryBudget()
    assert budget.try_hold(60, 100, reserve=40)
    assert not budget.try_hold(1, 100, reserve=40)
    budget.acquire(40, 100, Stop())
    assert budget.taken == 100
    budget.release(40)
    budget.let_go(60)
    assert budget.taken == 0


def test_what_is_held_never_makes_what_is_in_flight_wait_for_ever() -> None:
    budget = MemoryBudget()
    assert budget.try_hold(60, 100, reserve=40)
    budget.acquire(80, 100, Stop())
    assert budget.taken == 140


def test_nothing_is_held_while_all_is_in_flight() -> None:
    budget = MemoryBudget()
    budget.acquire(100, 100, Stop())
    assert not budget.try_hold(1, 100, reserve=40)


def test_all_clients_of_a_process_share_one_budget() -> None:
    assert memory_budget() is memory_budget()
