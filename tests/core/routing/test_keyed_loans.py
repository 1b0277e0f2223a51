"""Connections that are kept by a key, without a pool."""

from __future__ import annotations

from pgroute.core.routing.keyed_loans import KeyedLoans


class Caller:
    def __init__(self) -> None:
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1


class Connection:
    """Compared by identity, as psycopg's are."""


def test_the_first_caller_takes_one_and_the_others_are_woken_to_find_it() -> None:
    loans: KeyedLoans[Connection] = KeyedLoans()
    first, second, third = Caller(), Caller(), Caller()
    assert loans.kept("a") is None
    assert loans.begin("a", first)
    assert not loans.begin("a", second)
    assert not loans.begin("a", third)
    loans.leave("a", third)
    conn = Connection()
    loans.end("a", conn)
    assert (first.woken, second.woken, third.woken) == (0, 1, 0)
    assert loans.kept("a") is conn


def test_after_a_failure_the_next_caller_takes_one() -> None:
    loans: KeyedLoans[Connection] = KeyedLoans()
    assert loans.begin("a", Caller())
    waiter = Caller()
    assert not loans.begin("a", waiter)
    loans.end("a", None)
    assert waiter.woken
    assert loans.kept("a") is None
    assert loans.begin("a", waiter)


def test_keys_are_told_apart() -> None:
    loans: KeyedLoans[Connection] = KeyedLoans()
    for key in (("writer", 1), ("reader", 1), ("writer", 2)):
        assert loans.begin(key, Caller())
        loans.end(key, Connection())
    assert len({id(loans.kept(key)) for key in (("writer", 1), ("reader", 1), ("writer", 2))}) == 3


def test_a_connection_that_is_given_back_frees_its_key() -> None:
    loans: KeyedLoans[Connection] = KeyedLoans()
    conn, other = Connection(), Connection()
    loans.begin("a", Caller())
    loans.end("a", conn)
    loans.drop(other)
    assert loans.kept("a") is conn
    loans.drop(conn)
    loans.drop(conn)
    assert loans.kept("a") is None
    assert loans.begin("a", Caller())


def test_leaving_late_changes_nothing() -> None:
    loans: KeyedLoans[Connection] = KeyedLoans()
    loans.leave("a", Caller())
    loans.begin("a", Caller())
    loans.end("a", Connection())
    loans.leave("a", Caller())
    assert loans.kept("a") is not None
