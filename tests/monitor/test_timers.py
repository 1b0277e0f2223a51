"""The timers' thread: there is one while a router needs it, and it is never late."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from pgroute._acompat import Watchdog
from pgroute.runtime.timers import Timers, timers
from tests.support import eventually


def running() -> int:
    return sum(thread.name == "pgroute-timers" for thread in threading.enumerate())


def test_there_is_one_thread_from_the_first_owner_to_the_last() -> None:
    first, second = object(), object()
    timers.acquire(first)
    timers.acquire(second)
    timers.acquire(second)
    assert running() == 1
    timers.release(second)
    timers.release(second)
    assert running() == 1
    timers.release(first)
    assert running() == 0
    timers.release(first)


def test_timers_fire_in_the_order_of_their_times() -> None:
    def hold() -> None:
        held.set()
        assert gate.wait(10)

    mine, held, gate = Timers(), threading.Event(), threading.Event()
    fired: list[int] = []
    mine.acquire(mine)
    mine.set(0.0, hold)
    assert held.wait(10)
    for number in (1, 3, 2):
        mine.set(-60.0 * number, partial(fired.append, number))
    gate.set()  # only now does the thread find any of them
    eventually(lambda: len(fired) == 3)
    assert fired == [3, 2, 1]
    mine.release(mine)


def test_a_timer_that_fails_does_not_end_the_others() -> None:
    mine, fired = Timers(), threading.Event()
    mine.acquire(mine)
    mine.set(0.0, lambda: 1 / 0)
    mine.set(0.001, fired.set)
    assert fired.wait(10)
    mine.release(mine)


def test_an_error_in_the_thread_itself_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        monkeypatch.undo()
        failed.set()
        raise MemoryError("for a moment")

    mine, failed, fired = Timers(), threading.Event(), threading.Event()
    mine.acquire(mine)
    monkeypatch.setattr("heapq.heappush", fail)
    mine.set(0.0, lambda: None)  # is lost
    assert failed.wait(10)
    mine.set(0.0, fired.set)
    assert fired.wait(10)
    mine.release(mine)


def test_after_the_block_the_function_has_returned_or_is_never_called() -> None:
    timers.acquire(timers)
    begun, returned = threading.Event(), threading.Event()

    def cut() -> None:
        begun.set()
        assert leaving.wait(10)
        time.sleep(0.01)
        returned.set()

    leaving = threading.Event()
    with Watchdog(0.0, cut):
        assert begun.wait(10)
        leaving.set()
    assert returned.is_set(), "the block was left while the connection was being cut"
    timers.release(timers)


def test_blocks_that_are_left_at_the_last_moment_are_not_cut_later() -> None:
    timers.acquire(timers)
    late: list[int] = []
    for number in range(300):
        over = threading.Event()

        def cut(over: threading.Event = over, number: int = number) -> None:
            if over.is_set():
                late.append(number)

        with Watchdog(0.0005, cut):
            time.sleep(0.0005)
        over.set()
    timers.release(timers)
    assert late == []


def test_cancelled_timers_do_not_pile_up() -> None:
    mine = Timers()
    mine.acquire(mine)
    kept = mine.set(60.0, lambda: None)
    for _ in range(10_000):
        mine.set(30.0, lambda: None).cancel()
    eventually(lambda: mine.pending <= 2000)
    assert not kept.cancelled
    mine.release(mine)


def test_a_block_without_a_router_is_not_bounded() -> None:
    called = threading.Event()
    with Watchdog(0.0, called.set):
        assert not called.wait(0.02)
    assert running() == 0
