# Generated from tests/aio/test_once_waits.py by .ci/unasync.py: edit that file, not this one.
"""Waits for another transaction with the same key: how long they take, and which lock_timeout holds after them."""

from __future__ import annotations

import time
from typing import Any, Literal

import psycopg
import pytest

from pgroute import Router, CommitUnknown, PoolOptions
from pgroute._psycopg.statements import query_steps
from pgroute.testing import LocalCluster, Node
from tests.sync.conftest import Proxied
from tests.sync.counting import (
    Increment,
    Lingering,
    call_once,
    counted,
    set_up,
    shown,
    shows,
    start_after,
    waiting,
)
from tests.sync.replicas import dsn_of
from tests.support import Background, call, eventually, within
from tests.wiretap import Wiretap

pytestmark = [pytest.mark.cluster, pytest.mark.long]


CANCEL_REQUEST = (80877102).to_bytes(4, "big")
"""Its code (PostgreSQL docs, 54.7)."""


class Own(psycopg.Connection[Any]):
    """A class with a transaction() of its own."""

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        return super().transaction(*args, **kwargs)


def bounded(node: Node) -> set[tuple[Any, ...]]:
    """Return the waits for a key that the server itself ends; pid."""
    sql = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'transactionid' AND strpos(query, 'lock_timeout') > 0"
    return set(node.execute(sql))


# A long wait is begun again, with a limit that the server keeps.


@pytest.mark.parametrize("end", ["committed", "rolled back"])
def test_after_a_moment_the_server_itself_bounds_a_wait(pair: Proxied, end: str) -> None:
    node = pair.cluster.nodes[0]
    with Router(pair.dsn) as router, Background() as background:
        before, after = start_after(node, router, background)
        [(pid, _)] = waiting(node, "transactionid")
        eventually(lambda: bounded(node) == {(pid,)})
        before.error = None if end == "committed" else ValueError("no")
        before.over.set()
        assert after.result() == (1 if end == "committed" else [1, "0"])
    assert counted(node) == (1, 1)


def test_a_long_wait_for_a_row_is_bounded_too(pair: Proxied) -> None:
    node = pair.cluster.nodes[0]
    with Router(pair.dsn) as router, Background() as background:
        assert call_once(router, shows) == [1, "0"]
        with psycopg.connect(node.conninfo) as other:
            other.execute("SELECT FROM pgroute.once FOR UPDATE")
            after = background.start(call_once, router, shows)
            eventually(lambda: bounded(node))
            other.execute("DELETE FROM pgroute.once")
            other.commit()
        assert after.result() == [2, "0"]
    assert counted(node) == (2, 1)


@pytest.mark.parametrize("action", ["reset", "blackhole"])
def test_a_wait_whose_cancel_request_is_lost_is_given_up_and_begun_again(
    pair: Proxied, action: Literal["reset", "blackhole"]
) -> None:
    node, before, increment = pair.cluster.nodes[0], Lingering(), Increment()
    with (
        Router(pair.cluster.dsn) as direct,
        Router(pair.dsn) as router,
        Background() as background,
    ):
        trigger = pair.proxies[0].when(CANCEL_REQUEST, action=action, after_forwarding=False)
        first = background.start(call_once, direct, before)
        eventually(lambda: before.runs)
        after = background.start(call_once, router, increment)
        [(pid, _)] = eventually(lambda: waiting(node, "transactionid"))
        call(trigger.wait)
        assert (pid,) not in eventually(lambda: bounded(node))
        before.over.set()
        assert [first.result(), after.result()] == [1, 1]
    assert increment.runs == 0
    assert counted(node) == (1, 1)


@pytest.mark.parametrize("why", ["a class has begun it", "a cancel request has no time limit"])
def test_what_cannot_be_begun_again_is_bounded_at_once(
    pair: Proxied, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    node = pair.cluster.nodes[0]
    kind: Any = Own if why.startswith("a class") else psycopg.Connection
    if kind is not Own:
        monkeypatch.setattr("pgroute._sync.transaction.once._CANCELS", False)
    trigger = pair.proxies[0].when(CANCEL_REQUEST, action="reset")
    writer = PoolOptions(settings={"lock_timeout": "50ms"})
    with (
        Router(pair.dsn, connection_class=kind, writer=writer) as router,
        Background() as background,
    ):
        before, after = start_after(node, router, background)
        eventually(lambda: bounded(node))
        before.error = ValueError("no")
        before.over.set()
        assert after.result() == [1, "50ms"]
    assert trigger.hits == 0
    assert counted(node) == (1, 1)


def taken_and_given_up(pgconn: Any, statement: bytes, seconds: float) -> Any:
    """Stand in for `brief_steps`: all answers have come, and their end is not waited for."""
    yield from query_steps(pgconn, statement)
    return None


def test_a_wait_that_ends_as_it_is_given_up_is_begun_again(
    pair: Proxied, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgroute._sync.transaction.under_way.brief_steps", taken_and_given_up)
    increment = Increment()
    with Router(pair.dsn) as router:
        assert [call_once(router, increment) for _ in range(2)] == [1, 1]
    assert increment.runs == 1
    assert counted(pair.cluster.nodes[0]) == (1, 1)


# A lock_timeout of the application's own.


def test_a_lock_timeout_of_its_own_holds_in_the_body_and_not_for_the_key(cluster: LocalCluster) -> None:
    set_up(cluster)
    node = cluster.nodes[0]
    writer = PoolOptions(settings={"lock_timeout": "50ms"})
    longer = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'transactionid'"
        " AND clock_timestamp() - query_start > interval '150 ms'"
    )
    with Router(cluster.dsn, writer=writer) as router, Background() as background:
        before, after = start_after(node, router, background)
        eventually(lambda: node.execute(longer) == [(1,)])
        before.error = ValueError("no")
        before.over.set()
        assert after.result() == [1, "50ms"]
        assert call_once(router, shows) == [1, "50ms"]
        with router.writer() as conn:
            assert shown(conn) == "50ms"
    assert counted(node) == (1, 1)


def test_a_lock_timeout_that_changes_between_sessions_holds_in_each_body(pair: Proxied) -> None:
    found = []
    with Router(pair.dsn, writer=PoolOptions(max_size=1)) as router:
        for number, value in enumerate(("70ms", "1min", "0", "0")):
            with router.writer() as conn:
                conn.execute(f"SET lock_timeout = '{value}'")
            found.append(router.run(shown, once=f"key {number}"))
            with router.writer() as conn:
                assert shown(conn) == value
    assert found == ["70ms", "1min", "0", "0"]


def test_a_lock_timeout_of_its_own_costs_no_round_trip(pair: Proxied) -> None:
    node, found = pair.cluster.nodes[0], []
    for settings in ({}, {"lock_timeout": "7s"}):
        options = PoolOptions(max_size=1, settings=settings)
        with Wiretap(node) as tap:
            with Router(
                dsn_of((tap,)), writer=options, kwargs={"prepare_threshold": None}, probe=None
            ) as router:
                trips = []
                for number in range(3):
                    tap.take()
                    assert router.run(shown, once=f"{settings} {number}") == settings.get(
                        "lock_timeout", "0"
                    )
                    trips.append(tap.round_trips())
                found.append(trips)
    assert found[0] == found[1]
    assert found[0][1:] == [3, 3]


def test_one_deadline_bounds_all_that_is_waited_for(pair: Proxied) -> None:
    node = pair.cluster.nodes[0]
    conninfo = node.conninfo
    with Router(pair.dsn) as router, Background() as background:
        assert call_once(router, Increment()) == 1
        with psycopg.connect(conninfo) as table, psycopg.connect(conninfo) as row:
            row.execute("SELECT FROM pgroute.once FOR UPDATE")
            table.execute("LOCK TABLE pgroute.once IN SHARE ROW EXCLUSIVE MODE")
            begun = time.monotonic()
            later = background.start(call_once, router, Increment(), 1.0)
            eventually(lambda: waiting(node, "relation"))
            eventually(lambda: time.monotonic() - begun > 0.7)
            table.rollback()
            with pytest.raises(CommitUnknown):
                later.result()
            assert 0.9 < time.monotonic() - begun < within(1.5)
    assert counted(node) == (1, 1)
