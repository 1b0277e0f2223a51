"""The thread that ends what takes too long: one, there while somebody wants it, and never late."""

from __future__ import annotations

import threading
import time
from functools import partial

from pgroute._acompat import Watchdog
from pgroute.runtime.timers import Timers, timers
from tests.support import eventually


def running() -> int:
    return sum(thread.name == "pgroute-timers" for thread in threading.enumerate())


def test_there_is_one_thread_from_the_first_holder_to_the_last() -> None:
    first, second = object(), object()
    timers.hold(first)
    timers.hold(second)
    timers.hold(second)
    assert running() == 1
    timers.let_go(second)
    timers.let_go(second)
    assert running() == 1
    timers.let_go(first)
    assert running() == 0
    timers.let_go(first)


def test_alarms_ring_in_the_order_of_their_times() -> None:
    mine = Timers()
    rung: list[int] = []
    mine.hold(mine)
    for number in (3, 1, 2):
        mine.set(number / 100, partial(rung.append, number))
    eventually(lambda: len(rung) == 3)
    assert rung == [1, 2, 3]
    mine.let_go(mine)


def test_an_alarm_that_fails_does_not_end_the_others() -> None:
    mine, rung = Timers(), threading.Event()
    mine.hold(mine)
    mine.set(0.0, lambda: 1 / 0)
    mine.set(0.001, rung.set)
    assert rung.wait(10)
    mine.let_go(mine)


def test_after_the_block_a_bite_is_over_or_never_begins() -> None:
    timers.hold(timers)
    begun, biting = threading.Event(), threading.Event()

    def bite() -> None:
        begun.set()
        assert leaving.wait(10)
        time.sleep(0.01)
        biting.set()

    leaving = threading.Event()
    with Watchdog(0.0, bite):
        assert begun.wait(10)
        leaving.set()
    assert biting.is_set(), "the block was left while the connection was being cut"
    timers.let_go(timers)


def test_blocks_that_are_left_at_the_last_moment_are_not_bitten_later() -> None:
    timers.hold(timers)
    late: list[int] = []
    for number in range(300):
        over = threading.Event()

        def bite(over: threading.Event = over, number: int = number) -> None:
            if over.is_set():
                late.append(number)

        with Watchdog(0.0005, bite):
            time.sleep(0.0005)
        over.set()
    timers.let_go(timers)
    assert late == []


def test_cancelled_alarms_do_not_pile_up() -> None:
    mine = Timers()
    mine.hold(mine)
    kept = mine.set(60.0, lambda: None)
    for _ in range(10_000):
        mine.set(30.0, lambda: None).cancel()
    eventually(lambda: mine.pending <= 2000)
    assert not kept.cancelled
    mine.let_go(mine)


def test_a_block_without_a_router_is_not_bounded() -> None:
    bitten = threading.Event()
    with Watchdog(0.0, bitten.set):
        assert not bitten.wait(0.02)
    assert running() == 0
