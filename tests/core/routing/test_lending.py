"""Who is lent a connection, who waits, what is opened and closed: the books of a pool, without a pool."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from pgroute.core.routing.lending import Close, Connect, Lending, PoolFull, Rest, Stop


class Lease:
    def __init__(self, expires_at: float = math.inf) -> None:
        self.expires_at = expires_at
        self.uses = 0


class Caller:
    """Somebody in the queue."""

    def __init__(self, since: float = 0.0) -> None:
        self.item: tuple[Any, Any] | None = None
        self.since = since
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


Item = tuple[Lease, str]


def lending(
    min_size: int = 1,
    max_size: int = 4,
    max_waiting: int = 0,
    max_idle: float = 60.0,
    max_uses: int | None = None,
) -> Lending[Lease, str]:
    return Lending(
        min_size=min_size,
        max_size=max_size,
        max_waiting=max_waiting,
        max_idle=max_idle,
        max_uses=max_uses,
        now=0.0,
    )


def opened(books: Lending[Lease, str], now: float = 0.0, expires_at: float = math.inf) -> Item:
    """Have a connection opened, as it asks for one."""
    assert books.step(now) == Connect()
    item = (Lease(expires_at), "connection")
    books.joined(item)
    return item


def filled(count: int, **sizes: Any) -> tuple[Lending[Lease, str], list[Item]]:
    """Return books with so many idle connections."""
    books = lending(min_size=count, **sizes)
    return books, [opened(books) for _ in range(count)]


def test_a_full_pool_is_a_timeout_of_its_own() -> None:
    assert issubclass(PoolFull, PoolTimeout)


def test_a_new_pool_begins_with_one_connection_and_goes_on_to_min_size() -> None:
    books = lending(min_size=3)
    assert books.step(0.0) == Connect()
    assert books.step(0.0) == Rest(60.0)
    assert (books.size, books.in_use) == (1, 0)
    books.joined((Lease(), ""))
    assert books.step(0.0) == Connect()
    books.joined((Lease(), ""))
    assert books.step(0.0) == Connect()
    books.joined((Lease(), ""))
    assert books.step(0.0) == Rest(60.0)
    assert (books.size, books.in_use) == (3, 0)


def test_nothing_is_opened_unasked_with_min_size_0() -> None:
    books = lending(min_size=0)
    assert books.step(0.0) == Rest(60.0)
    books.queue(Caller())
    assert books.step(0.0) == Connect()


@pytest.mark.parametrize("min_size", [0, 1])
def test_one_more_connection_is_opened_if_it_is_wanted(min_size: int) -> None:
    """To find out whether it can be: whether anybody waits or not, and no further one after it."""
    books = lending(min_size=min_size)
    for size in (1, 2):
        books.wanted = True
        opened(books)
        assert books.step(0.0) == Rest(60.0)
        assert books.size == size


def test_a_connection_that_was_wanted_and_fails_is_not_tried_again_unasked() -> None:
    books = lending(min_size=0)
    books.wanted = True
    assert books.step(0.0) == Connect()
    books.failed(0.0)
    assert books.step(5.0) == Rest(55.0)


def test_a_full_pool_opens_none_that_is_wanted() -> None:
    books, _ = filled(2, max_size=2)
    books.wanted = True
    assert books.step(0.0) == Rest(60.0)


def test_an_idle_connection_is_lent_the_longest_idle_first() -> None:
    books, items = filled(2)
    assert books.take() is items[0]
    assert books.in_use == 1
    assert books.take() is items[1]
    assert books.take() is None
    books.offer(items[1])
    assert books.take() is items[1]


def test_who_waits_is_served_first_come_first_served() -> None:
    books, (item,) = filled(1, max_size=1)
    assert books.take() is item
    first, second = Caller(), Caller()
    books.queue(first)
    books.queue(second)
    assert books.step(0.0) == Rest(60.0)
    books.offer(item)
    assert (first.item, second.item) == (item, None)
    assert first.woken == 1
    books.leave(first)
    books.offer(item)
    assert second.item is item


def test_who_comes_from_another_queue_has_not_lost_its_turn() -> None:
    pool = lending(max_size=1)
    pool.step(0.0)
    pool.joined(item := (Lease(), "a"))
    assert pool.take() == item
    first, late, second, same = Caller(1.0), Caller(3.0), Caller(2.0), Caller(2.0)
    for caller in (first, late, second, same):
        pool.queue(caller)
    pool.offer(item)
    pool.queue(oldest := Caller(0.5))  # ahead of one who was served, and has not gone yet
    served = []
    for caller in (oldest, second, same, late):
        pool.offer(item)
        served.append(caller.item)
    assert first.item == item
    assert served == [item] * 4
    assert not pool.idle


def test_one_served_who_has_not_gone_yet_is_not_served_again() -> None:
    books, (one, two) = filled(2)
    assert books.take() is one
    assert books.take() is two
    first, second = Caller(), Caller()
    books.queue(first)
    books.queue(second)
    books.offer(one)
    books.offer(two)
    assert (first.item, second.item) == (one, two)
    books.leave(first)
    books.leave(second)
    books.leave(second)
    assert not books.waiting
    assert not books.idle


def test_an_offer_tells_whether_it_was_made() -> None:
    books, (one, two) = filled(2)
    assert books.offered(one)
    assert books.take() is one
    assert books.take() is two
    assert not books.offered(one)
    caller = Caller()
    books.queue(caller)
    caller.item = one  # interrupted before it was woken
    assert books.offered(one)
    assert caller.woken
    assert not books.waiting


def test_who_waits_has_connections_opened_up_to_max_size() -> None:
    books, (item,) = filled(1, max_size=2)
    books.take()
    callers = [Caller(), Caller()]
    for caller in callers:
        books.queue(caller)
    new = opened(books)
    assert callers[0].item is new
    assert books.step(0.0) == Rest(60.0)
    books.remove(item[0])
    assert books.step(0.0) == Connect()


def test_a_full_queue_refuses() -> None:
    books = lending(max_waiting=1)
    books.queue(Caller())
    with pytest.raises(TooManyRequests, match="1 callers are waiting"):
        books.queue(Caller())


def test_failed_attempts_pause_longer_each_time_until_one_succeeds() -> None:
    books = lending()
    now, pauses = 0.0, []
    for _ in range(5):
        assert books.step(now) == Connect()
        books.failed(now)
        step = books.step(now)
        assert isinstance(step, Rest)
        assert step.seconds is not None
        pauses.append(step.seconds)
        now += step.seconds
    assert pauses == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0])
    item = opened(books, now)
    books.take()
    books.remove(item[0])
    assert books.step(now) == Connect()
    books.failed(now)
    again = books.step(now)
    assert isinstance(again, Rest)
    assert again.seconds == pytest.approx(0.2)


def test_what_is_too_old_is_closed_when_it_is_idle_and_replaced() -> None:
    books = lending()
    item = opened(books, expires_at=10.0)
    assert books.step(9.0) == Rest(1.0)
    assert books.step(10.0) == Close([item])
    assert books.step(10.0) == Connect()


def test_one_connection_above_min_size_goes_in_each_period_in_which_it_was_not_needed() -> None:
    books, items = filled(1, max_size=3, max_idle=10.0)
    for _ in range(2):
        books.queue(caller := Caller())
        books.take()
        items.append(opened(books))
        books.leave(caller)
    assert books.in_use == 3
    for item in items:
        books.offer(item)
    assert books.step(9.0) == Rest(1.0)
    assert books.step(10.0) == Rest(10.0)  # all were needed in the period before
    assert books.step(20.0) == Close([items[0]])
    assert books.step(20.0) == Rest(10.0)
    assert books.step(30.0) == Close([items[1]])
    assert books.step(40.0) == Rest(10.0)  # min_size is kept


def test_the_shortest_lifetimes_have_an_idle_connection_replaced_ten_times_a_second() -> None:
    books = lending()
    item = opened(books, expires_at=0.0)
    assert books.step(0.0) == Close([item])
    item = opened(books, expires_at=0.0)
    assert books.step(0.0) == Rest(0.1)
    assert books.step(0.1) == Close([item])
    item = opened(books, now=0.1, expires_at=0.1)
    assert not books.keeps(item[0], 0.1), "one that comes back from its user is replaced at once"


def test_the_shortest_periods_have_idle_connections_counted_ten_times_a_second() -> None:
    books, _ = filled(1, max_idle=1e-300)
    assert books.step(0.0) == Rest(0.1)
    assert books.step(0.1) == Rest(0.1)


def test_what_was_needed_once_in_a_period_stays() -> None:
    books, (one,) = filled(1, max_size=2, max_idle=10.0)
    books.take()
    books.queue(caller := Caller())
    two = opened(books)
    books.leave(caller)
    books.offer(one)
    books.offer(two)
    assert books.step(10.0) == Rest(10.0)
    books.take()
    books.take()
    books.offer(one)
    books.offer(two)
    assert books.step(20.0) == Rest(10.0)
    assert books.step(30.0) == Close([one])


def test_closing_wakes_everybody_and_lets_nobody_in() -> None:
    books, (item,) = filled(1)
    books.take()
    books.queue(caller := Caller())
    assert books.close() == []
    assert caller.woken
    with pytest.raises(PoolClosed):
        books.take()
    assert not books.needs_connection
    assert books.step(0.0) == Stop()
    books.remove(item[0])
    books.remove(item[0])
    assert books.in_use == 0


def test_closing_hands_out_what_is_idle_once() -> None:
    books, items = filled(2)
    assert books.close() == items
    assert books.close() == []
    assert books.size == 0


def test_an_interrupted_close_is_completed_by_the_next_step() -> None:
    books, (item,) = filled(1)
    books.closed = True
    assert books.step(0.0) == Close([item])
    assert books.step(0.0) == Stop()


def test_an_interrupted_hand_over_is_completed_by_the_next_step() -> None:
    books, (item,) = filled(1)
    caller, served = Caller(), Caller()
    books.queue(served)
    books.queue(caller)
    served.item = (Lease(), "")
    assert books.step(0.0) == Rest(60.0)
    assert served.woken
    assert caller.item is item


def returned(books: Lending[Lease, str], item: Item, now: float = 0.0) -> bool:
    """Give a connection back, as its pool does; return whether it is kept."""
    item[0].uses += 1
    if books.keeps(item[0], now):
        books.offer(item)
        return True
    books.remove(item[0])
    return False


def drained_steps(books: Lending[Lease, str], now: float = 0.0) -> list[Item]:
    """Open and close until there is nothing left to do; return what was closed."""
    closed: list[Item] = []
    for _ in range(20):
        match books.step(now):
            case Connect():
                books.joined((Lease(), "new"))
            case Close(items):
                closed += items
            case _:
                return closed
    raise AssertionError("it never rests")


# Other sizes.


def test_a_larger_pool_serves_who_waits_already() -> None:
    books, (item,) = filled(1, max_size=1)
    assert books.take() is item
    callers = [Caller(), Caller(), Caller()]
    for caller in callers:
        books.queue(caller)
    assert books.step(0.0) == Rest(60.0)
    books.resize(1, 3)
    new = [opened(books), opened(books)]
    assert [caller.item for caller in callers] == [*new, None]
    assert books.step(0.0) == Rest(60.0)


def test_a_larger_min_size_is_opened() -> None:
    books, _ = filled(1)
    books.resize(3, 4)
    assert drained_steps(books) == []
    assert len(books.idle) == 3


def test_a_smaller_pool_closes_what_is_idle_at_once_and_what_is_in_use_when_it_comes_back() -> None:
    books, items = filled(4, max_size=4)
    for _ in range(3):
        books.take()
    books.resize(1, 2)
    assert books.take() is None
    assert books.step(0.0) == Close([items[3]])
    assert books.step(0.0) == Rest(60.0)
    assert [returned(books, item) for item in items[:3]] == [False, True, True]
    assert books.size == 2


def test_who_waits_at_a_pool_that_gets_smaller_is_served_by_those_that_stay() -> None:
    books, items = filled(3, max_size=3)
    for _ in items:
        books.take()
    books.queue(caller := Caller())
    books.resize(1, 1)
    assert [returned(books, item) for item in items] == [False, False, True]
    assert caller.item is items[2]


def test_a_connection_that_is_opened_while_the_pool_gets_smaller_is_not_added() -> None:
    books, _ = filled(1, max_size=2)
    books.take()
    books.queue(Caller())
    assert books.step(0.0) == Connect()
    books.resize(1, 1)
    assert not books.joined((Lease(), "late"))
    assert books.size == 1


# Replacement.


def test_expiry_closes_what_is_idle_at_once_and_opens_as_many() -> None:
    books, items = filled(3)
    books.resize(1, 4)  # min_size is not why they are replaced
    assert books.take() is items[0]
    books.expire()
    assert books.take() is None
    assert books.step(0.0) == Close(items[1:])
    assert drained_steps(books) == []
    assert len(books.idle) == 2
    assert not returned(books, items[0])
    assert drained_steps(books) == []
    assert len(books.idle) == 3
    assert not {item[0] for item in items} & set(books.leases)


def test_who_waits_gets_the_first_replacement() -> None:
    books, (item,) = filled(1, max_size=1)
    books.take()
    books.queue(caller := Caller())
    books.expire()
    assert caller.item is None
    assert not returned(books, item)
    assert caller.item is None
    assert opened(books) is caller.item


def test_a_login_from_before_the_expiry_is_not_added_and_another_follows() -> None:
    books, _ = filled(1)
    books.take()
    books.queue(caller := Caller())
    assert books.step(0.0) == Connect()
    books.expire()
    assert not books.joined((Lease(), "of before"))
    assert caller.item is None
    assert opened(books) is caller.item


def test_a_failed_login_after_the_expiry_says_nothing_about_the_next() -> None:
    books, (item,) = filled(1)
    books.take()
    books.queue(caller := Caller())
    assert books.step(0.0) == Connect()
    books.expire()
    books.failed(0.0)
    assert books.step(0.2) == Connect()
    books.joined(new := (Lease(), "new"))
    assert caller.item is new
    assert not returned(books, item)


def test_expiry_opens_no_more_than_max_size() -> None:
    books, items = filled(2, max_size=2)
    books.expire()
    books.expire()
    assert drained_steps(books) == items
    assert len(books.idle) == 2


def test_a_connection_is_replaced_after_max_uses() -> None:
    books = lending(max_size=1, max_uses=2)
    item = opened(books)
    books.take()
    assert returned(books, item)
    books.take()
    assert not returned(books, item)
    assert opened(books) is not item
    assert books.step(0.0) == Rest(60.0)


def test_filling_opens_so_many_and_no_more_than_max_size() -> None:
    books = lending(min_size=0, max_size=3)
    books.fill(2)
    assert drained_steps(books) == []
    assert len(books.idle) == 2
    books.fill(9)
    assert drained_steps(books) == []
    assert len(books.idle) == 3
    books.remove(books.idle.popleft()[0])
    assert books.step(0.0) == Rest(60.0)


def test_filling_ends_when_a_connection_cannot_be_opened() -> None:
    books = lending(min_size=0)
    books.fill(2)
    assert books.step(0.0) == Connect()
    books.failed(0.0)
    assert books.step(1.0) == Rest(59.0)


def test_closing_hands_out_what_was_to_be_replaced() -> None:
    books, items = filled(2)
    books.expire()
    assert books.close() == items
    assert books.step(0.0) == Stop()


class Books(RuleBasedStateMachine):
    """Any history of a pool: nobody is forgotten, nothing is in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.books = lending(min_size=1, max_size=3, max_waiting=3, max_idle=5.0, max_uses=4)
        self.most = 3
        self.expired: set[Lease] = set()
        self.lent: list[Item] = []
        self.callers: list[Caller] = []
        self.connecting = 0
        self.rested = False

    def teardown(self) -> None:
        self.settle()

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.3, 1.0, 6.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: not self.books.closed)
    @rule()
    def someone_asks(self) -> None:
        item = self.books.take()
        if item is not None:
            self.lend(item)
            return
        caller = Caller()
        try:
            self.books.queue(caller)
        except TooManyRequests:
            assert len(self.books.waiting) == 3
        else:
            self.callers.append(caller)

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), good=st.booleans())
    def someone_returns(self, data: st.DataObject, good: bool) -> None:
        item = self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1)))
        if good:
            self.give_back(item)
        else:
            self.books.remove(item[0])

    def lend(self, item: Item) -> None:
        assert item not in self.lent
        assert item[0] not in self.expired
        assert item[0].uses < 4
        item[0].uses += 1
        self.lent.append(item)

    def give_back(self, item: Item) -> None:
        if self.books.keeps(item[0], self.now):
            assert item[0] not in self.expired
            self.books.offer(item)
        else:
            self.books.remove(item[0])

    @rule(sizes=st.sampled_from([(0, 1), (1, 1), (1, 2), (2, 3), (0, 5), (5, 5)]))
    def it_is_resized(self, sizes: tuple[int, int]) -> None:
        self.most = max(sizes[1], self.books.size)  # nothing is opened above it any more
        self.books.resize(*sizes)

    @rule()
    def all_expire(self) -> None:
        # One that was handed to a caller who has not gone on yet was lent before.
        self.expired |= set(self.books.leases) - {c.item[0] for c in self.callers if c.item is not None}
        self.books.expire()

    @rule(size=st.integers(0, 6))
    def it_is_filled(self, size: int) -> None:
        self.books.fill(size)

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def someone_goes_on(self, data: st.DataObject) -> None:
        """Whether served, told or out of patience."""
        caller = self.callers.pop(data.draw(st.integers(0, len(self.callers) - 1)))
        self.books.leave(caller)
        if caller.item is not None:
            self.lend(caller.item)

    @precondition(lambda self: self.connecting)
    @rule(lifetime=st.sampled_from([2.0, 100.0]), good=st.booleans())
    def connecting_ends(self, lifetime: float, good: bool) -> None:
        self.connecting -= 1
        if good:
            self.books.joined((Lease(self.now + lifetime), "connection"))
        else:
            self.books.failed(self.now)

    @rule()
    def worker_looks(self) -> None:
        step = self.books.step(self.now)
        match step:
            case Connect():
                self.connecting += 1
            case Close(items):
                assert items
                for item in items:
                    assert item[0] not in self.books.leases
            case Rest(seconds):
                assert seconds is None or seconds >= 0.0
                waiting = [c for c in self.callers if c.item is None]
                if waiting and not self.books.closed:
                    assert not self.books.idle
                    full = len(self.books.leases) >= self.books.max_size
                    assert full or self.connecting or (seconds is not None and seconds <= 1.0)
            case Stop():
                assert self.books.closed
                assert not self.books.idle

    @rule()
    def it_is_closed(self) -> None:
        self.books.close()

    @invariant()
    def nothing_is_in_two_places(self) -> None:
        served = [c.item for c in self.callers if c.item is not None]
        places = [*self.books.idle, *self.lent, *served]
        assert len({id(item) for item in places}) == len(places)
        if not self.books.closed:
            assert {item[0] for item in places} == set(self.books.leases)
        assert self.books.in_use == len(self.lent) + len(served)

    @invariant()
    def there_are_never_too_many(self) -> None:
        self.most = max(self.books.max_size, min(self.most, self.books.size))
        assert self.books.size <= self.most
        assert self.connecting <= 1

    @invariant()
    def who_is_served_or_told_is_awake(self) -> None:
        for caller in self.callers:
            assert caller.woken or (caller.item is None and not self.books.closed)
            assert caller.woken or caller in self.books.waiting

    def settle(self) -> None:
        """Whatever happened, everybody in the queue is served or told once connecting succeeds and all come back."""
        for _ in range(50):
            self.now += 1.0
            if self.connecting:
                self.connecting_succeeds()
            self.worker_looks()
            while self.lent:
                self.give_back(self.lent.pop())
            for caller in [c for c in self.callers if c.woken]:
                self.callers.remove(caller)
                self.books.leave(caller)
                if caller.item is not None:
                    self.lend(caller.item)
        assert not self.callers
        assert self.books.closed or self.books.size <= self.books.max_size

    def connecting_succeeds(self) -> None:
        self.connecting -= 1
        self.books.joined((Lease(), "connection"))


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase
